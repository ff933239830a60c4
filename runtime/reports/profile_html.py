"""A profile as one page: totals, what is lost to what, both pictures, every launch.

The page needs nothing else: inline SVG, light and dark, printable, no script.

Non-goals: finding the figures (``profile``), drawing (``profile_pictures``).
"""

from __future__ import annotations

from html import escape

from gradc.passes.inspect.report import shown
from gradc.runtime.native.limits import described
from gradc.runtime.render.page import page, table
from gradc.runtime.reports.profile_figures import Figures, ProfiledLaunch, rate, seconds
from gradc.runtime.reports.profile_pictures import flames_svg, roofline_svg

_CAUSES = {
    "arithmetic": "launches that flops limit, while they run",
    "bandwidth": "launches that memory limits, while they run",
    "launch": "starting threads and waiting for them, and going from launch to launch",
    "imbalance": "threads that were done while the busiest was not",
    "one thread": "launches that were not cut for all threads",
}
_COLUMNS = (
    *("launch", "layer", "lines", "time", "of limit", "bound by", "GF/s", "GB/s"),
    *("flops", "bytes", "threads", "most lost to"),
)


def profile_page(found: Figures) -> str:
    """The page as HTML text."""
    body = [
        f"<h1>{escape(found.name)}: where the time goes</h1>",
        f'<p class="soft">{escape(found.what)}; {escape(described(found.machine))}</p>',
        *_facts(found),
        *(f'<p class="soft">Note: {escape(note)}.</p>' for note in found.notes),
        "<h2>What is lost</h2>",
        _lost(found),
        "<h2>Against the machine's limits</h2>",
        f'<div class="graph">{roofline_svg(found)}</div>',
        "<h2>By layer</h2>",
        f'<div class="graph">{flames_svg(found)}</div>',
        _layers(found),
        "<h2>By launch</h2>",
        table(_COLUMNS, [_row(launch) for launch in found.sorted], (3, 4, 6, 7, 8, 9, 10)),
    ]
    return page(f"Profile of {found.name}", "\n".join(body))


def _facts(found: Figures) -> list[str]:
    facts = (
        (seconds(found.step), "a call, not timed inside"),
        (seconds(found.seconds), f"in {len(found.launches)} launches, by the clock"),
        (seconds(found.between), "between launches"),
        (seconds(found.limit), "is what the machine allows"),
        (f"{found.share:.0%}", "of the limit reached"),
        (f"{found.flops:.4g}", "flops"),
        (shown(found.nbytes), "moved, at least"),
        (str(found.threads), "threads"),
    )
    boxes = (f'<div class="fact"><b>{escape(a)}</b><span>{b}</span></div>' for a, b in facts)
    return ['<div class="facts">', *boxes, "</div>"]


def _lost(found: Figures) -> str:
    rows = [
        (escape(cause), seconds(lost), f"{lost / found.seconds:.1%}", _CAUSES[cause])
        for cause, lost in found.lost.items()
        if found.seconds
    ]
    return table(("to", "time", "of the call", "what that is"), rows, (1, 2))


def _layers(found: Figures) -> str:
    rows = [
        (escape(layer or "(the model)"), seconds(took), f"{took / found.seconds:.1%}")
        for layer, took in found.layers.items()
        if found.seconds
    ]
    return table(("layer", "time", "of the call"), rows, (1, 2))


def _row(launch: ProfiledLaunch) -> tuple[str, ...]:
    worst = max(launch.lost, key=lambda cause: launch.lost[cause])
    runs = f" ×{launch.runs}" if launch.runs != 1 else ""
    return (
        f"<code>{escape(launch.kernel)}</code>{runs}",
        escape(launch.layer),
        "<br>".join(escape(line) for line in launch.lines or (launch.line,)),
        seconds(launch.seconds),
        f"{launch.share:.0%}",
        launch.bound,
        rate(launch.flops, launch.seconds),
        rate(launch.nbytes, launch.seconds),
        f"{launch.flops:.4g}",
        shown(launch.nbytes),
        str(launch.threads),
        f"{worst} {seconds(launch.lost[worst])}" if launch.lost[worst] > 0 else "",
    )
