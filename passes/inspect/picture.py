"""A Plan's arena as a picture: one rectangle per block, at its offset and for its lifetime; the
bytes alive as a line.

Bytes upwards with round marks, launches to the right. Blocks of one layer share a colour, and those
with room for it say what they are; all do when pointed at. Light and dark pages. Non-goals: finding
the figures (``passes.plan_report``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, log2

from gradc.passes.inspect.report import Held, MemoryReport, shown, user_line

_WIDTH, _HEIGHT = 960.0, 560.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 20.0, 60.0, 48.0
_INSIDE, _UP = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_FOOT = _HEIGHT - _BOTTOM
# Room that a letter of a block's label takes, and the label's height.
_LETTER, _LINE = 5.6, 12.0
_MOST_TICKS = 6
_STYLE = (
    ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24}"
    ".title{font-size:15px;font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}"
    ".block{stroke:#fff;stroke-width:.4}.name{font-size:10px;fill:#1b1f24}"
    ".grid{stroke:#8c959f;stroke-width:.4}.alive{stroke:#1b1f24;stroke-width:1.2;fill:none}"
    ".peak{stroke:#1b1f24;stroke-width:.8;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.name{fill:#0d1117}"
    ".block{stroke:#0d1117}.alive,.peak{stroke:#e6edf3}}"
)


def byte_ticks(most: int) -> list[int]:
    """Round numbers of bytes from 0 up to ``most``: steps are powers of two, so that each reads
    well in its unit.
    """
    step = 2 ** max(0, ceil(log2(max(most, 1) / _MOST_TICKS)))
    return list(range(0, most + 1, step))


def to_svg(report: MemoryReport) -> str:
    """SVG text."""
    launches = max(len(report.live), 1)
    top = max(report.arena_bytes, 1)

    def x(launch: float) -> float:
        return _LEFT + launch / launches * _INSIDE

    def y(nbytes: float) -> float:
        return _FOOT - nbytes / top * _UP

    title = f"{report.name}: arena {shown(report.arena_bytes)} over {report.launches} launches"
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" '
            'role="img">'
        ),
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for nbytes in byte_ticks(report.arena_bytes):
        lines.append(f'<path class="grid" d="M{_LEFT} {y(nbytes):.1f}H{_WIDTH - _RIGHT}"/>')
        lines.append(
            f'<text class="e" x="{_LEFT - 8}" y="{y(nbytes) + 4:.1f}">{shown(nbytes)}</text>'
        )
    names = []
    for held in report.blocks:
        left, right = x(held.first), x(held.last + 1)
        low, high = y(held.offset), y(held.offset + held.nbytes)
        lines.append(
            f'<rect class="block" x="{left:.1f}" y="{high:.2f}" width="{right - left:.1f}"'
            f' height="{low - high:.2f}" fill="{_colour(held.scope or held.name)}">'
            f"<title>{escape(_title(held))}</title></rect>"
        )
        name = _fitting(held, right - left - 8) if low - high >= _LINE else ""
        if name:
            at = f'x="{left + 4:.1f}" y="{(low + high) / 2 + 3.5:.1f}"'
            names.append(f'<text class="name" {at}>{escape(name)}</text>')
    if report.live:
        path = "L".join(
            f"{x(n):.1f} {y(alive):.1f}L{x(n + 1):.1f} {y(alive):.1f}"
            for n, alive in enumerate(report.live)
        )
        lines.append(f'<path class="alive" d="M{path}"/>')
    return "\n".join([*lines, *names, *_axis(report, launches), "</svg>"])


def _axis(report: MemoryReport, launches: int) -> list[str]:
    """Launches along the foot, and where the peak is."""
    row = _FOOT + 18
    lines = [
        f'<text x="{_LEFT:.0f}" y="{row}">launch 0</text>',
        f'<text class="e" x="{_WIDTH - _RIGHT:.0f}" y="{row}">{launches - 1}</text>',
        f'<text class="m" x="{_LEFT + _INSIDE / 2:.0f}" y="{row + 16}">launches in order</text>',
    ]
    if report.moment >= 0:
        at = _LEFT + (report.moment + 0.5) / launches * _INSIDE
        place = f", {user_line(report.moment_span)}" if report.moment_span is not None else ""
        about = f"most alive at launch {report.moment}: {shown(report.lower_bound)}{place}"
        # Beside the line where there is room, on the side with more of it.
        side = ' class="e"' if at > _LEFT + _INSIDE / 2 else ""
        lines.append(f'<path class="peak" d="M{at:.1f} {_TOP - 14}V{_FOOT}"/>')
        beside = at - 6 if side else at + 6
        lines.append(f'<text{side} x="{beside:.1f}" y="{_TOP - 8}">{escape(about)}</text>')
    return lines


def _fitting(held: Held, room: float) -> str:
    """What a block says about itself in ``room``: layer and type, one of them, or nothing."""
    choices: Sequence[str] = (f"{held.scope}  {held.type}".strip(), held.scope, held.type)
    return next((text for text in choices if text and len(text) * _LETTER <= room), "")


def _title(held: Held) -> str:
    place = f", {user_line(held.span)}" if held.span is not None else ""
    scope = f" in {held.scope}" if held.scope else ""
    return f"{held.name} {held.type}{scope}{place}: {shown(held.nbytes)}"


def _colour(name: str) -> str:
    """A colour per layer, the same in every run."""
    total = 0
    for character in name:
        total = (total * 131 + ord(character)) % 360
    return f"hsl({total}, 55%, 66%)"
