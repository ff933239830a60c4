"""Line plots as self-contained SVG: logarithmic or linear y axis, several series, light and dark.

Non-goals: anything a plotting library is for; reports need a handful of honest curves without
dependencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 20.0, 34.0, 46.0
_KEYS = 190.0  # of the right margin, where there are curves to tell apart
_COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#57606a")
_STYLE = (
    ".page{fill:#fff}text{font:12px "
    "Helvetica,Arial,sans-serif;fill:#1b1f24}.s{font-size:11px;fill:#57606a}"
    ".g{stroke:#d0d7de;stroke-width:1}.a{stroke:#57606a;stroke-width:1}polyline{fill:none;"
    "stroke-width:2}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.s{fill:#9198a1}"
    ".g{stroke:#30363d}}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; points whose y is not finite (or not positive, on a logarithmic axis) are left
    out.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. ``marks`` are remarks drawn at places on the x axis."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    is_log: bool = False
    marks: Sequence[tuple[float, str]] = ()


def spans_decades(values: Iterable[float]) -> bool:
    """Whether a logarithmic axis suits ``values``: none is negative, and those above 0 differ by
    more than 30 times.
    """
    told = [value for value in values if math.isfinite(value)]
    above = [value for value in told if value > 0]
    return bool(above) and min(told) >= 0 and max(above) > 30 * min(above)


def plot_svg(panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    height = _HEIGHT * max(1, len(panels))
    parts = [
        _opening(_WIDTH, height),
        f"<style>{_STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {number * _HEIGHT:.0f})">')
        parts += _Frame(panel).draw()
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _opening(width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">'
    )


class _Frame:
    """The scales of one panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.end = _WIDTH - (_KEYS if len(panel.series) > 1 else _RIGHT)  # of the x axis
        points = [(x, y) for s in panel.series for x, y in zip(s.xs, s.ys, strict=True)]
        kept = [(x, self._level(y)) for x, y in points if self._is_shown(y)]
        xs = [x for x, _ in kept] or [0.0, 1.0]
        ys = [y for _, y in kept] or [0.0, 1.0]
        self.x_range = _widened(min(xs), max(xs), 0.5)
        self.y_range = self._y_range(ys)

    def _y_range(self, ys: Sequence[float]) -> tuple[float, float]:
        if self.panel.is_log:
            return _widened(math.floor(min(ys)), math.ceil(max(ys)), 1.0)
        return _widened(min(0.0, *ys), 1.05 * max(ys), 1.0)

    def _is_shown(self, y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not self.panel.is_log)

    def _level(self, y: float) -> float:
        return math.log10(y) if self.panel.is_log else y

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.end - _LEFT)

    def y(self, level: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (level - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def draw(self) -> list[str]:
        """The panel's elements."""
        parts = [f'<text x="{_LEFT}" y="20">{escape(self.panel.title)}</text>', *self._grid()]
        for number, series in enumerate(self.panel.series):
            color = _COLORS[number % len(_COLORS)]
            parts += self._curve(series, color)
            if len(self.panel.series) > 1:
                parts.append(self._key(series.name, number, color))
        for place, text in self.panel.marks:
            parts.append(self._mark(place, text))
        return parts

    def _grid(self) -> list[str]:
        parts = []
        for level in _ticks(*self.y_range, whole=self.panel.is_log):
            y = self.y(level)
            shown = f"1e{level:.0f}" if self.panel.is_log else f"{level:g}"
            parts.append(
                f'<line class="g" x1="{_LEFT}" x2="{self.end}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="s" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>'
            )
        for value in _ticks(*self.x_range, whole=True):
            parts.append(
                f'<text class="s" x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16:.1f}" '
                f'text-anchor="middle">{value:g}</text>'
            )
        middle = (_LEFT + self.end) / 2
        parts.append(
            f'<text class="s" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{escape(self.panel.x_label)}</text>"
        )
        parts.append(
            f'<text class="s" transform="translate(16 {_HEIGHT / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.panel.y_label)}</text>'
        )
        return parts

    def _curve(self, series: Series, color: str) -> list[str]:
        places = [
            (self.x(x), self.y(self._level(y)))
            for x, y in zip(series.xs, series.ys, strict=True)
            if self._is_shown(y)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [f'<polyline points="{line}" stroke="{color}"/>']
        if len(places) <= 60:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places
            ]
        return parts

    def _key(self, name: str, number: int, color: str) -> str:
        x, y = self.end + 14, _TOP + 6 + 15 * number
        return (
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{color}"/>'
            f'<text class="s" x="{x + 15}" y="{y}">{escape(name[:28])}</text>'
        )

    def _mark(self, place: float, text: str) -> str:
        x = self.x(place)
        return (
            f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
            'stroke-dasharray="3 3"/>'
            f'<text class="s" x="{x + 4:.1f}" y="{_TOP + 10}">{escape(text)}</text>'
        )


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - least / 2, high + least / 2)


def _ticks(low: float, high: float, whole: bool, most: int = 7) -> list[float]:
    """Round values between ``low`` and ``high``."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= rough), 10 * power)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]
