"""A profile as pictures: the roofline, and the time by layer as flames that hang down.

Roofline: flops per byte to the right, flops per second upwards, both in powers; the roofs are what
the machine was measured to do. A launch is a circle whose area is its time. Flames: width is time,
the rows below a layer are its parts and at last its launches, in the order in which they run first.
Layers keep one colour in both. All blocks say their figures when pointed at.

Non-goals: finding the figures (``profile``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from gradc.runtime.reports.profile_figures import Figures, ProfiledLaunch, rate, seconds

_WIDTH = 960.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 24.0, 76.0, 52.0
_ROOF_HEIGHT = 460.0
_FOOT = _ROOF_HEIGHT - _BOTTOM
_INSIDE = _WIDTH - _LEFT - _RIGHT
_LARGEST = 26.0  # radius of a launch that takes all the time
_LEAST_RADIUS = 2.5
_LETTER, _ROW = 6.1, 22.0
_SIDE = 16.0
_NONE = "hsl(210, 12%, 72%)"
# Launches whose layer is written beside them, the longest first.
_NAMED = 6
_STYLE = (
    ".page{fill:#fff}text{font:12px Helvetica,Arial,sans-serif;fill:#1b1f24}"
    ".title{font-size:15px;font-weight:bold}.m{text-anchor:middle}.e{text-anchor:end}"
    ".s{font-size:11px;fill:#57606a}.grid{stroke:#8c959f;stroke-width:.4;fill:none}"
    ".roof{stroke:#1b1f24;stroke-width:1.6;fill:none}"
    ".low{stroke:#57606a;stroke-width:1;stroke-dasharray:5 3;fill:none}"
    ".dot{stroke:#fff;stroke-width:.8;fill-opacity:.82}"
    ".tag{font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    ".block{stroke:#fff;stroke-width:.6}.name{font-size:11px;fill:#1b1f24}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}text{fill:#e6edf3}.s{fill:#9198a1}"
    ".roof{stroke:#e6edf3}.low{stroke:#9198a1}.dot,.block,.tag{stroke:#0d1117}.name{fill:#0d1117}}"
)


def both_svg(found: Figures) -> str:
    """The roofline, and the flames below it."""
    flames, height = _flames(found)
    below = f'<g transform="translate(0 {_ROOF_HEIGHT:.0f})">'
    return _svg(_ROOF_HEIGHT + height, [*_roofline(found), below, *flames, "</g>"])


def roofline_svg(found: Figures) -> str:
    """The roofline alone."""
    return _svg(_ROOF_HEIGHT, _roofline(found))


def flames_svg(found: Figures) -> str:
    """The time by layer alone."""
    flames, height = _flames(found)
    return _svg(height, flames)


def _svg(height: float, parts: Sequence[str]) -> str:
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" '
        f'width="{_WIDTH:.0f}" height="{height:.0f}" role="img">'
    )
    page = '<rect class="page" width="100%" height="100%"/>'
    return "\n".join([opening, f"<style>{_STYLE}</style>", page, *parts, "</svg>"]) + "\n"


def about(launch: ProfiledLaunch) -> str:
    """A launch in a line of text."""
    where = ", ".join(part for part in (launch.layer, launch.line) if part)
    figures = (
        f"{seconds(launch.seconds)}, {launch.share:.0%} of the limit, "
        f"{rate(launch.flops, launch.seconds)} GF/s, {rate(launch.nbytes, launch.seconds)} GB/s"
    )
    return f"{launch.kernel} ({where}): {figures}" if where else f"{launch.kernel}: {figures}"


# --- the roofline


class _Axes:
    """Where powers of ten lie."""

    def __init__(self, found: Figures, drawn: Sequence[ProfiledLaunch]) -> None:
        machine = found.machine
        top = max(machine.flops.values())
        ridge = top / machine.memory
        xs = [launch.intensity for launch in drawn] + [ridge, machine.peak("f32") / _fastest(found)]
        ys = [launch.flops / launch.seconds for launch in drawn] + [top]
        self.x_range = (
            float(math.floor(math.log10(min(xs)))),
            float(math.ceil(math.log10(max(xs)) + 0.2)),
        )
        self.y_range = (float(math.floor(math.log10(min(ys)))), math.log10(top) + 0.25)

    def x(self, intensity: float) -> float:
        low, high = self.x_range
        return _LEFT + (math.log10(intensity) - low) / (high - low) * _INSIDE

    def y(self, speed: float) -> float:
        low, high = self.y_range
        return _FOOT - (math.log10(speed) - low) / (high - low) * (_FOOT - _TOP)


def _fastest(found: Figures) -> float:
    return max(speed for _, speed in found.machine.bandwidth)


def _roofline(found: Figures) -> list[str]:
    drawn = [launch for launch in found.launches if launch.flops and launch.seconds > 0]
    axes = _Axes(found, drawn)
    title = f"{found.name}: {found.what}, {seconds(found.seconds)}, {found.share:.0%} of the limit"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<text class="title" x="{_SIDE}" y="26">{escape(title)}</text>',
        f'<text class="s" x="{_SIDE}" y="44">{escape(_machine(found))}</text>',
        f'<text class="s m" x="{middle:.0f}" y="{_ROOF_HEIGHT - 12:.0f}">flops per byte</text>',
        *_grid(axes),
        *_roofs(found, axes),
    ]
    parts += _dots(found, axes, sorted(drawn, key=lambda launch: -launch.seconds))
    left = [launch for launch in found.launches if not launch.flops]
    if left:
        total = sum(launch.seconds for launch in left)
        count = f"{len(left)} launch{'es' * (len(left) > 1)} without arithmetic"
        note = f"{count}, {seconds(total)}, not drawn"
        at = f'x="{_WIDTH - _RIGHT - 6:.0f}" y="{_FOOT - 8:.0f}"'
        parts.append(f'<text class="s e" {at}>{note}</text>')
    return parts


def _dots(found: Figures, axes: _Axes, drawn: Sequence[ProfiledLaunch]) -> list[str]:
    """The launches, the longest first, and the layers of some where they are not in the way."""
    colours = _colours(found)
    dots, names = [], []
    taken: list[tuple[float, float]] = []
    for number, launch in enumerate(drawn):
        part = launch.seconds / found.seconds if found.seconds else 0.0
        radius = max(_LEAST_RADIUS, _LARGEST * math.sqrt(part))
        x, y = axes.x(launch.intensity), axes.y(launch.flops / launch.seconds)
        dots.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
            f'fill="{colours[launch.layer]}"><title>{escape(about(launch))}</title></circle>'
        )
        name = launch.layer or launch.line
        start = x + radius + 4
        if start + len(name) * _LETTER > _WIDTH - _RIGHT:
            start = x - radius - 4 - len(name) * _LETTER
        if number < _NAMED and all(abs(x - a) > 120 or abs(y - b) > 13 for a, b in taken):
            taken.append((x, y))
            names.append(f'<text class="tag" x="{start:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')
    return dots + names


def _machine(found: Figures) -> str:
    threads = f"{found.threads} thread{'s' * (found.threads > 1)}"
    peaks = ", ".join(f"{n} {speed / 1e9:.3g} GF/s" for n, speed in found.machine.flops.items())
    return f"{found.machine.processor}, {threads}, measured {found.machine.date}: {peaks}"


def _grid(axes: _Axes) -> list[str]:
    parts = []
    low, high = axes.x_range
    for power in range(int(low), math.floor(high) + 1):
        x = axes.x(10.0**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_FOOT}"/>')
        parts.append(f'<text class="s m" x="{x:.1f}" y="{_FOOT + 17:.0f}">{10.0**power:g}</text>')
    low, high = axes.y_range
    for power in range(int(low), math.floor(high) + 1):
        y = axes.y(10.0**power)
        shown = f"{10.0**power / 1e9:g}"
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="s e" x="{_LEFT - 8}" y="{y + 4:.1f}">{shown}</text>')
    parts.append(
        f'<text class="s" x="{_LEFT - 8}" y="{_TOP - 8:.0f}" text-anchor="end">GF/s</text>'
    )
    return parts


def _roofs(found: Figures, axes: _Axes) -> list[str]:
    """The measured limits: memory and the fastest cache, and each precision that is used."""
    machine = found.machine
    used = {launch.precision for launch in found.launches} or {"f32"}
    top = max(machine.peak(precision) for precision in used)
    parts = []
    slopes = ((machine.memory, "roof", "memory"), (_fastest(found), "low", "first cache"))
    left, right = (10.0**power for power in axes.x_range)
    floor = 10.0 ** axes.y_range[0]
    for speed, kind, name in slopes:
        start = max(left, floor / speed)
        ridge = min(right, top / speed)
        if ridge <= start:
            continue
        x, y = axes.x(start), axes.y(start * speed)
        parts.append(
            f'<path class="{kind}" d="M{x:.1f} {y:.1f}L{axes.x(ridge):.1f} '
            f'{axes.y(ridge * speed):.1f}"/>'
        )
        angle = math.degrees(math.atan2(axes.y(ridge * speed) - y, axes.x(ridge) - x))
        at = f"translate({x + 40 * math.cos(math.radians(angle)):.1f} " + (
            f"{y + 40 * math.sin(math.radians(angle)) - 5:.1f}) rotate({angle:.1f})"
        )
        parts.append(f'<text class="s" transform="{at}">{name} {speed / 1e9:.3g} GB/s</text>')
    for precision in sorted(used):
        peak = machine.peak(precision)
        kind = "roof" if peak == top else "low"
        start = min(right, peak / _fastest(found))
        parts.append(
            f'<path class="{kind}" '
            f'd="M{axes.x(start):.1f} {axes.y(peak):.1f}H{axes.x(right):.1f}"/>'
        )
        at = f'x="{_WIDTH - _RIGHT - 6:.0f}" y="{axes.y(peak) - 6:.1f}"'
        parts.append(f'<text class="s e" {at}>{precision} {peak / 1e9:.3g} GF/s</text>')
    return parts


# --- the flames


@dataclass(slots=True)
class _Flame:
    """A layer or a launch: its time, and what it is made of."""

    name: str
    layer: str
    seconds: float = 0.0
    title: str = ""
    parts: dict[str, _Flame] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return 1 + max((part.depth for part in self.parts.values()), default=0)


def _tree(found: Figures) -> _Flame:
    root = _Flame(found.name, "", found.seconds)
    for launch in found.launches:
        at, path = root, ""
        for name in launch.layer.split(".") if launch.layer else ():
            path = f"{path}.{name}" if path else name
            at = at.parts.setdefault(name, _Flame(name, path))
            at.seconds += launch.seconds
        leaf = f"#{launch.number}"
        at.parts[leaf] = _Flame(launch.kernel, launch.layer, launch.seconds, about(launch))
    if found.between > 0:
        name = "between launches"
        root.parts[name] = _Flame(name, name, found.between)
    return root


def _flames(found: Figures) -> tuple[list[str], float]:
    root = _tree(found)
    title = f"{found.name}: time by layer, {seconds(found.seconds)}"
    parts = [f'<text class="title" x="{_SIDE}" y="26">{escape(title)}</text>']
    inside = _WIDTH - 2 * _SIDE
    scale = inside / found.seconds if found.seconds else 0.0
    parts += _Hanging(found, scale).draw(root, _SIDE, 42.0)
    return parts, 42.0 + root.depth * _ROW + _SIDE


class _Hanging:
    """Draws flames at one scale."""

    def __init__(self, found: Figures, scale: float) -> None:
        self.whole = found.seconds
        self.scale = scale
        self.colours = _colours(found)

    def draw(self, flame: _Flame, left: float, top: float) -> list[str]:
        """The block of ``flame`` and those below it."""
        width = flame.seconds * self.scale
        if width < 0.3:
            return []
        share = f"{flame.seconds / self.whole:.1%}"
        title = flame.title or f"{flame.layer or flame.name}: {seconds(flame.seconds)}"
        parts = [
            (
                f'<rect class="block" x="{left:.2f}" y="{top:.1f}" width="{width:.2f}" '
                f'height="{_ROW}" fill="{self.colours.get(flame.layer, _NONE)}">'
                f"<title>{escape(f'{title} ({share})')}</title></rect>"
            )
        ]
        if len(flame.name) * _LETTER <= width - 8:
            at = f'x="{left + 4:.1f}" y="{top + _ROW - 7:.1f}"'
            parts.append(f'<text class="name" {at}>{escape(flame.name)}</text>')
        for part in flame.parts.values():
            parts += self.draw(part, left, top + _ROW)
            left += part.seconds * self.scale
        return parts


def _colours(found: Figures) -> dict[str, str]:
    """A colour per layer, neighbours far apart; grey for what is in none."""
    names: dict[str, None] = {}
    for launch in found.launches:
        parts = launch.layer.split(".") if launch.layer else []
        names.update(dict.fromkeys(".".join(parts[: n + 1]) for n in range(len(parts))))
    hues = {name: f"hsl({n * 137.5 % 360:.0f}, 55%, 66%)" for n, name in enumerate(names)}
    return {"": _NONE, **hues}
