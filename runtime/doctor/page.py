"""A checkup as one page: the verdict, the findings with what was tried, the losses.

The page needs nothing else: inline SVG, light and dark, printable, no script.

Non-goals: finding causes (``checkup``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gradc.runtime.doctor.checkup import Checkup
from gradc.runtime.render.page import page, table
from gradc.runtime.render.plot import Panel, Series, plot_svg, spans_decades
from gradc.runtime.reports.diagnose import Finding

# Points of a curve; a picture has no room for more.
_POINTS = 400


def checkup_page(name: str, found: Checkup, run: Sequence[tuple[int, float]], samples: int) -> str:
    """The page as HTML text; ``run`` holds steps and losses of the run itself, if there was one."""
    body = [
        f"<h1>{escape(name)}: how the training goes</h1>",
        _verdict(found),
        _facts(found, samples),
        *(_finding(number, f) for number, f in enumerate(found.findings, 1)),
        "<h2>Loss</h2>",
        f'<div class="graph">{_curves(found, run)}</div>',
    ]
    if found.trials:
        body += ["<h2>What was tried</h2>", _trials(found)]
    return page(f"Checkup of {name}", "\n".join(body))


def _verdict(found: Checkup) -> str:
    if not found.findings:
        return '<div class="verdict good">Nothing wrong found</div>'
    first = found.findings[0]
    more = len(found.findings) - 1
    rest = f"<p>and {more} more below</p>" if more else ""
    return f'<div class="verdict bad">{escape(first.kind)}: {escape(first.message)}{rest}</div>'


def _facts(found: Checkup, samples: int) -> str:
    facts = [(str(len(found.losses)), "steps trained as they are"), (str(samples), "samples")]
    if found.losses:
        facts += [(_number(found.losses[0]), "loss at first"), (_number(found.losses[-1]), "last")]
    if found.dealt is not None:
        facts.append((_number(found.dealt), "with targets dealt at random"))
    facts.append((str(len(found.trials)), "changes tried"))
    cells = "".join(f'<div class="fact"><b>{b}</b><span>{escape(s)}</span></div>' for b, s in facts)
    return f'<div class="facts">{cells}</div>'


def _finding(number: int, finding: Finding) -> str:
    parts = [f"<h2>{number}. {escape(finding.kind)}</h2>", f"<p>{escape(finding.message)}</p>"]
    if finding.span is not None:
        parts.append(f'<p class="soft"><code>{escape(str(finding.span.outermost))}</code></p>')
    if finding.remedy:
        parts.append(f'<p><span class="tag info">try</span> {escape(finding.remedy)}</p>')
    if finding.effect:
        parts.append(f'<p><span class="tag good">tried</span> {escape(finding.effect[7:])}</p>')
    return "\n".join(parts)


def _curves(found: Checkup, run: Sequence[tuple[int, float]]) -> str:
    series = [Series("trained here", range(1, len(found.losses) + 1), found.losses)]
    if run:
        every = max(1, len(run) // _POINTS)
        kept = [pair for pair in run[::every] if math.isfinite(pair[1])]
        series.append(Series("the run", [s for s, _ in kept], [v for _, v in kept]))
    is_log = spans_decades(v for s in series for v in s.ys)
    return plot_svg([Panel("loss by step", "step", "loss", series, is_log=is_log)])


def _trials(found: Checkup) -> str:
    rows = [
        (
            escape(t.kind),
            escape(t.remedy),
            _number(t.before),
            _number(t.after),
            '<span class="tag good">lower</span>' if t.helps else "no",
        )
        for t in found.trials
    ]
    return table(("for", "change", "loss without", "loss with", "helps"), rows, (2, 3))


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
