"""A scatter of time against memory as SVG: one front as a line, other systems as marks; for light
and dark pages.

Labels are put beside their points where nothing is in the way, the first ones first; those that
find no room stay out of the picture and in the point's tooltip.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 720.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 24.0, 72.0, 56.0
# Colours of series, light and dark; chosen to stay apart for the colour-blind.
COLOURS = (("#0969da", "#58a6ff"), ("#bc4c00", "#f0883e"), ("#8250df", "#bc8cff"))
LETTER = 5.5
Box = tuple[float, float, float, float]
Spot = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One point: where, what is said beside it (may be empty), and in full when pointed at."""

    x: float
    y: float
    label: str
    about: str


@dataclass(frozen=True)
class Series:
    """Points of one system; ``is_front`` joins them by a line."""

    name: str
    marks: Sequence[Mark]
    is_front: bool = False


def style() -> str:
    """The style sheet: one class per series."""
    light = "".join(f".s{n}{{fill:{a};stroke:{a}}}" for n, (a, _) in enumerate(COLOURS))
    dark = "".join(f".s{n}{{fill:{b};stroke:{b}}}" for n, (_, b) in enumerate(COLOURS))
    return (
        ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24}"
        ".title{font-size:15px;font-weight:bold}.grid{stroke:#8c959f;stroke-width:.4}"
        ".line{fill:none;stroke-width:1.6}.m{text-anchor:middle}.e{text-anchor:end}"
        f".small{{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px}}{light}"
        f"@media(prefers-color-scheme:dark){{.page{{fill:#0d1117}}text{{fill:#e6edf3}}"
        f"{dark}.small{{stroke:#0d1117}}}}.line{{fill:none}}"
    )


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at least ``most``, four to eight of them."""
    unit = 10 ** math.floor(math.log10(most))
    step = next(unit * f for f in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if most / (unit * f) <= 7)
    return [n * step for n in range(math.ceil(most / step) + 1)]


def scatter(title: str, x_axis: str, y_axis: str, series: Sequence[Series]) -> str:
    """SVG text. Both axes start at 0."""
    marks = [mark for one in series for mark in one.marks]
    x_ticks, y_ticks = (
        ticks(max(values)) for values in ([m.x for m in marks], [m.y for m in marks])
    )

    def place(mark: Mark) -> Spot:
        x = LEFT + mark.x / x_ticks[-1] * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - mark.y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)
        return x, y

    box = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    size = f'width="{WIDTH:.0f}" height="{HEIGHT:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {size} role="img">',
        f"<title>{escape(title)}</title><style>{style()}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for value in x_ticks:
        x, _ = place(Mark(value, 0, "", ""))
        lines.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        foot = HEIGHT - BOTTOM + 18
        lines.append(f'<text class="m" x="{x:.1f}" y="{foot:.0f}">{value:g}</text>')
    for value in y_ticks:
        _, y = place(Mark(0, value, "", ""))
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text class="e" x="{LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text class="m" x="{middle:.0f}" y="{HEIGHT - 14:.0f}">{escape(x_axis)}</text>')
    lines.append(f'<text x="16" y="{TOP - 12:.0f}">{escape(y_axis)}</text>')
    taken = [_around(*place(mark)) for mark in marks]
    for one in series:
        taken += _along([place(mark) for mark in one.marks]) if one.is_front else []
    texts: list[str] = []
    x = 16 + 7.2 * len(y_axis) + 16
    for n, one in enumerate(series):
        lines += _drawn(n, one, place)
        texts += _labels(one, place, taken)
        lines.append(f'<circle class="s{n}" cx="{x:.0f}" cy="{TOP - 16:.0f}" r="4"/>')
        lines.append(f'<text x="{x + 10:.0f}" y="{TOP - 12:.0f}">{escape(one.name)}</text>')
        x += 7.2 * len(one.name) + 34
    return "\n".join([*lines, *texts, "</svg>"]) + "\n"


def _drawn(n: int, one: Series, place: Callable[[Mark], Spot]) -> list[str]:
    at = [place(mark) for mark in one.marks]
    lines = []
    if one.is_front and at:
        path = f"M{at[0][0]:.1f} {at[0][1]:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for x, y in at[1:])
        lines.append(f'<path class="s{n} line" d="{path}"/>')
    for mark, (x, y) in zip(one.marks, at, strict=True):
        about = f"<title>{escape(mark.about)}</title>"
        lines.append(f'<circle class="s{n}" cx="{x:.1f}" cy="{y:.1f}" r="4">{about}</circle>')
    return lines


def _around(x: float, y: float) -> Box:
    return x - 6, y - 6, x + 6, y + 6


def _labels(one: Series, place: Callable[[Mark], Spot], taken: list[Box]) -> list[str]:
    """Texts beside points; boxes they fill are added to ``taken``."""
    at = [place(mark) for mark in one.marks]
    lines = []
    for mark, (x, y) in zip(one.marks, at, strict=True):
        if not mark.label:
            continue
        wide = LETTER * len(mark.label)
        choices = [
            (x + 9, y + 4), (x - 9 - wide, y + 4), (x - wide / 2, y - 10), (x - wide / 2, y + 19),
            (x + 6, y - 8), (x + 6, y + 16), (x + 4, y - 20), (x + 4, y + 30), (x - 4, y + 46),
        ]  # fmt: skip
        for left, base in choices:
            box = (left, base - 10, left + wide, base + 3)
            inside = left > LEFT + 2 and left + wide < WIDTH - 2 and base - 10 > TOP - 8
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                text = f'<text class="small" x="{left:.1f}" y="{base:.1f}">'
                lines.append(f"{text}{escape(mark.label)}</text>")
                break
    return lines


def _along(at: Sequence[Spot]) -> list[Box]:
    """Small boxes along a line."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(at):
        count = max(1, round(math.hypot(x1 - x0, y1 - y0) / 6))
        for k in range(count + 1):
            x, y = x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count
            boxes.append((x - 1, y - 1, x + 1, y + 1))
    return boxes


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
