"""Work against memory as a picture: one point per way to compile, joined by steps.

Non-goals: the arena over time (``passes.plan_report``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from gradc.passes.plan_report import shown
from gradc.runtime.memory import Choice

_WIDTH, _HEIGHT = 640.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 48.0, 64.0, 56.0
_TICKS = 5
_STYLE = (
    ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24}"
    ".axis,.grid{stroke:#8c959f;fill:none}.grid{stroke-width:.4}.line{stroke:#0969da;fill:none;stroke-width:1.6}"
    "circle{fill:#0969da}.m{text-anchor:middle}.e{text-anchor:end}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}"
    ".line{stroke:#58a6ff}circle{fill:#58a6ff}}"
)


def choices_svg(choices: Sequence[Choice], title: str) -> str:
    """SVG text: peak bytes to the right, work relative to recomputing nothing upwards."""
    peak = max(c.peak_bytes for c in choices)
    most = max(max(c.work for c in choices), 1.1)

    def x(nbytes: float) -> float:
        return _LEFT + nbytes / peak * (_WIDTH - _LEFT - _RIGHT)

    def y(work: float) -> float:
        return _HEIGHT - _BOTTOM - (work - 1) / (most - 1) * (_HEIGHT - _TOP - _BOTTOM)

    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
            f'width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" role="img">'
        ),
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        f'<text x="{_LEFT:.0f}" y="22">{escape(title)}</text>',
    ]
    for n in range(_TICKS + 1):
        nbytes, work = peak * n / _TICKS, 1 + (most - 1) * n / _TICKS
        lines.append(f'<path class="grid" d="M{x(nbytes):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        lines.append(f'<path class="grid" d="M{_LEFT} {y(work):.1f}H{_WIDTH - _RIGHT}"/>')
        lines.append(
            f'<text class="m" x="{x(nbytes):.1f}" y="{_HEIGHT - _BOTTOM + 16:.0f}">'
            f"{shown(round(nbytes))}</text>"
        )
        lines.append(
            f'<text class="e" x="{_LEFT - 6:.0f}" y="{y(work) + 4:.1f}">{work:.2f}x</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    lines.append(f'<text class="m" x="{middle:.0f}" y="{_HEIGHT - 14:.0f}">peak memory</text>')
    lines.append(f'<text x="{_LEFT:.0f}" y="{_TOP - 12:.0f}">work, recomputing nothing = 1</text>')
    ordered = sorted(choices, key=lambda c: c.peak_bytes)
    path = f"M{x(ordered[0].peak_bytes):.1f} {y(ordered[0].work):.1f}"
    for before, after in pairwise(ordered):
        # Between two points the better one that fits is the left one: a step.
        path += f"L{x(after.peak_bytes):.1f} {y(before.work):.1f}L{x(after.peak_bytes):.1f} {y(after.work):.1f}"
    lines.append(f'<path class="line" d="{path}"/>')
    for choice in ordered:
        about = f"{choice.policy}: {shown(choice.peak_bytes)}, {choice.work:.3f}x"
        lines.append(
            f'<circle cx="{x(choice.peak_bytes):.1f}" cy="{y(choice.work):.1f}" r="3.5">'
            f"<title>{escape(about)}</title></circle>"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"
