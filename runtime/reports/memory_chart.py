"""Work against memory as a picture: one point per way to compile, joined by steps.

Both axes have round marks. Points say their peak where there is room beside them, and their policy
when pointed at.
Non-goals: the arena over time (``passes.plan_picture``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import floor, log10

from gradc.passes.inspect.picture import byte_ticks
from gradc.passes.inspect.report import shown
from gradc.runtime.reports.memory import Choice

_WIDTH, _HEIGHT = 720.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 40.0, 76.0, 56.0
_FOOT = _HEIGHT - _BOTTOM
_MOST_TICKS = 6
# The least height of the axis of work, and what a label's letter and line take.
_LEAST = 0.1
_LETTER, _LINE = 6.2, 14.0
_STYLE = (
    ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24}"
    ".title{font-size:15px;font-weight:bold}.grid{stroke:#8c959f;fill:none;stroke-width:.4}"
    ".line{stroke:#0969da;fill:none;stroke-width:1.6}circle{fill:#0969da}"
    ".m{text-anchor:middle}.e{text-anchor:end}"
    ".name{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}"
    ".name{stroke:#0d1117}.line{stroke:#58a6ff}circle{fill:#58a6ff}}"
)


def choices_svg(choices: Sequence[Choice], title: str) -> str:
    """SVG text: peak bytes to the right, work relative to recomputing nothing upwards."""
    ordered = sorted(choices, key=lambda c: c.peak_bytes)
    peak = ordered[-1].peak_bytes
    marks = work_ticks(max(c.work for c in choices))
    most = marks[-1]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2

    def x(nbytes: float) -> float:
        return _LEFT + nbytes / max(1, peak) * (_WIDTH - _LEFT - _RIGHT)

    def y(work: float) -> float:
        return _FOOT - (work - 1) / (most - 1) * (_FOOT - _TOP)

    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
            f'width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" role="img">'
        ),
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text x="16" y="{_TOP - 20:.0f}">work, recomputing nothing = 1</text>',
        f'<text class="m" x="{middle:.0f}" y="{_HEIGHT - 14:.0f}">peak memory of a call</text>',
    ]
    for nbytes in byte_ticks(peak):
        lines.append(f'<path class="grid" d="M{x(nbytes):.1f} {_TOP}V{_FOOT}"/>')
        at = f'x="{x(nbytes):.1f}" y="{_FOOT + 18:.0f}"'
        lines.append(f'<text class="m" {at}>{shown(nbytes)}</text>')
    for work in marks:
        lines.append(f'<path class="grid" d="M{_LEFT} {y(work):.1f}H{_WIDTH - _RIGHT}"/>')
        lines.append(f'<text class="e" x="{_LEFT - 8}" y="{y(work) + 4:.1f}">{work:.2f}</text>')
    spots = [(x(c.peak_bytes), y(c.work)) for c in ordered]
    path = f"M{spots[0][0]:.1f} {spots[0][1]:.1f}"
    for (_, before), (to, after) in pairwise(spots):
        # Between two points the better one that fits is the left one: a step.
        path += f"L{to:.1f} {before:.1f}L{to:.1f} {after:.1f}"
    lines.append(f'<path class="line" d="{path}"/>')
    for choice, (left, high) in zip(ordered, spots, strict=True):
        about = f"{choice.policy}: {shown(choice.peak_bytes)}, {choice.work:.3f}x"
        lines.append(
            f'<circle cx="{left:.1f}" cy="{high:.1f}" '
            f'r="3.5"><title>{escape(about)}</title></circle>'
        )
    return "\n".join([*lines, *_names(ordered, spots), "</svg>"]) + "\n"


def work_ticks(most: float) -> list[float]:
    """Round marks from 1 to at least ``most``, at most eight."""
    span = max(most - 1, _LEAST)
    unit = 10.0 ** floor(log10(span))
    step = next(unit * f for f in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (unit * f) <= _MOST_TICKS)
    count = 1
    while count * step < span * (1 - 1e-9):
        count += 1
    return [1 + n * step for n in range(count + 1)]


def _names(choices: Sequence[Choice], spots: Sequence[tuple[float, float]]) -> list[str]:
    """The peak of each point above its right, unless that is in the way of another name."""
    lines: list[str] = []
    taken: list[tuple[float, float, float]] = []
    # Ends first: they are what one looks for.
    order = [len(spots) - 1, 0, *range(1, len(spots) - 1)]
    for n in dict.fromkeys(order):
        (left, high), text = spots[n], shown(choices[n].peak_bytes)
        wide = _LETTER * len(text)
        start = min(left + 6, _WIDTH - 4 - wide)
        # At the right edge the name reaches back over the step that comes down at the point.
        foot = spots[n - 1][1] - 7 if n and start < left else high - 7
        is_free = all(
            start + wide < a or b < start or abs(foot - at) >= _LINE for a, b, at in taken
        )
        if is_free:
            taken.append((start, start + wide, foot))
            lines.append(f'<text class="name" x="{start:.1f}" y="{foot:.1f}">{text}</text>')
    return lines
