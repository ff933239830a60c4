"""The figures of a profile: what was measured of every launch and of the call, sums, and the text.

Non-goals: measuring (``profile``), pictures and pages (``profile_pictures``, ``profile_html``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradc.codegen.measured import BUSY, Limits
from gradc.passes.inspect.report import shown
from gradc.runtime.native.limits import described
from gradc.runtime.render.notebook import card

CAUSES = ("arithmetic", "bandwidth", "launch", "imbalance", "one thread")
# How many launches and layers a printed report names.
MOST = 20


@dataclass(frozen=True, slots=True)
class ProfiledLaunch:
    """One launch of a call; in a rolled loop all its runs together. Times in seconds.

    ``limit`` is what the machine allows, ``bound`` by which of its two limits; ``busy`` is what the
    ``threads`` worked together, ``busiest`` the one that worked longest. ``flops`` and ``nbytes``
    are of all runs.
    """

    number: int
    kernel: str
    runs: int
    seconds: float
    flops: int
    nbytes: int
    precision: str
    threads: int
    busy: float
    busiest: float
    limit: float
    bound: str
    lost: Mapping[str, float]
    layer: str
    line: str
    lines: tuple[str, ...]

    @property
    def share(self) -> float:
        """How much of the limit is reached; above 1 only where the machine was measured too low."""
        return self.limit / self.seconds if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """Flops per byte."""
        return self.flops / max(1, self.nbytes)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "number": self.number,
            "kernel": self.kernel,
            "runs": self.runs,
            "seconds": self.seconds,
            "flops": self.flops,
            "bytes": self.nbytes,
            "precision": self.precision,
            "threads": self.threads,
            "busy": self.busy,
            "busiest": self.busiest,
            "limit": self.limit,
            "bound": self.bound,
            "share": self.share,
            "lost": dict(self.lost),
            "layer": self.layer,
            "line": self.line,
            "lines": list(self.lines),
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """All launches of one call in order. Times in seconds: ``seconds`` of the launches and of what
    passes ``between`` them, ``call`` of a whole timed call, ``step`` of one that is not timed.
    ``spread`` is how many times ``seconds`` the median call took.
    """

    name: str
    what: str
    launches: tuple[ProfiledLaunch, ...]
    seconds: float
    between: float
    call: float
    step: float
    rounds: int
    spread: float
    threads: int
    machine: Limits

    def __repr__(self) -> str:
        return (
            f"<profile of {self.name}: {seconds(self.seconds)} in {len(self.launches)} launches, "
            f"{self.share:.0%} of the limit>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        about = f"{seconds(self.seconds)} in {len(self.launches)} launches"
        return card(f"profile of {self.name}", about, (), self.report())

    @property
    def accounted(self) -> float:
        """How much of a timed call its launches and the walk between them are; less where something
        disturbed most calls somewhere.
        """
        return self.seconds / self.call if self.call else 0.0

    @property
    def limit(self) -> float:
        """What the machine allows for all launches."""
        return sum(launch.limit for launch in self.launches)

    @property
    def share(self) -> float:
        """How much of the limit the whole call reaches."""
        return self.limit / self.seconds if self.seconds else 0.0

    @property
    def flops(self) -> int:
        """Of all launches."""
        return sum(launch.flops for launch in self.launches)

    @property
    def nbytes(self) -> int:
        """Moved by all launches, at least."""
        return sum(launch.nbytes for launch in self.launches)

    @property
    def lost(self) -> dict[str, float]:
        """Seconds beyond the limits by cause, the largest first."""
        total = {
            cause: sum(launch.lost.get(cause, 0.0) for launch in self.launches) for cause in CAUSES
        }
        total["launch"] += self.between
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    @property
    def sorted(self) -> tuple[ProfiledLaunch, ...]:
        """The launches, the longest first."""
        return tuple(sorted(self.launches, key=lambda launch: -launch.seconds))

    @property
    def layers(self) -> dict[str, float]:
        """Seconds by layer, the longest first; what is in no layer is the model's."""
        total: dict[str, float] = {}
        for launch in self.launches:
            total[launch.layer] = total.get(launch.layer, 0.0) + launch.seconds
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the figures less than exact."""
        found = []
        if self.spread > BUSY:
            found.append(
                f"the machine was busy: the median call took {self.spread:.2g} times what its "
                "launches take undisturbed"
            )
        if self.machine.is_disturbed:
            found.append(
                "the machine was busy when its limits were measured; `gradc doctor --measure` "
                "measures them again"
            )
        if any(launch.share > 1.1 for launch in self.launches):
            found.append(
                "a launch is faster than its limit: the limits were measured too low; "
                "`gradc doctor --measure` measures them again"
            )
        return tuple(found)

    def report(self, most: int = MOST) -> str:
        """The profile as text: totals, causes, then layers and launches, the longest first."""
        lines = [*self._head(), *self._by_layer(most), *self._by_launch(most)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _head(self) -> list[str]:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        inside = self.seconds - self.between
        lines = [
            f"{self.name}: {self.what}, {threads}: {seconds(self.step)} a call",
            f"  machine: {described(self.machine)}",
            (
                f"  {len(self.launches)} launches {seconds(inside)}, between them "
                f"{seconds(self.between)}, {self.accounted:.0%} of a call by the clock; "
                f"{self.flops:.4g} flops, {shown(self.nbytes)}"
            ),
            f"  limit {seconds(self.limit)}: {self.share:.0%} of it reached",
        ]
        for cause, lost in self.lost.items():
            if lost > 0:
                lines.append(f"    lost to {cause:<10} {seconds(lost):>9}  {_of(lost, self)}")
        return lines

    def _by_layer(self, most: int) -> list[str]:
        named = list(self.layers.items())
        if len(named) < 2:
            return []
        lines = ["  by layer:"]
        lines += [
            f"    {seconds(t):>9}  {_of(t, self):>4}  {layer or '(the model)'}"
            for layer, t in named[:most]
        ]
        left = [t for _, t in named[most:]]
        if left:
            lines.append(
                f"    {seconds(sum(left)):>9}  {_of(sum(left), self):>4}  {len(left)} more"
            )
        return lines

    def _by_launch(self, most: int) -> list[str]:
        head = ("time", "part", "of limit", "GF/s", "GB/s", "threads", "bound by", "most lost to")
        rows: list[tuple[str, ...]] = [(*head, "layer", "line", "kernel")]
        rows += [self._row(launch) for launch in self.sorted[:most]]
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        lines = ["  by launch:"]
        for row in rows:
            cells = [
                cell.rjust(width) if n < 6 else cell.ljust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(f"    {'  '.join(cells)}".rstrip())
        left = self.sorted[most:]
        if left:
            total = sum(launch.seconds for launch in left)
            lines.append(f"    {seconds(total)} in {len(left)} more")
        return lines

    def _row(self, launch: ProfiledLaunch) -> tuple[str, ...]:
        worst = max(launch.lost, key=lambda cause: launch.lost[cause])
        runs = f" x{launch.runs}" if launch.runs != 1 else ""
        return (
            seconds(launch.seconds),
            _of(launch.seconds, self),
            f"{launch.share:.0%}",
            rate(launch.flops, launch.seconds),
            rate(launch.nbytes, launch.seconds),
            str(launch.threads),
            launch.bound,
            worst if launch.lost[worst] > 0 else "-",
            launch.layer or "-",
            launch.line or "-",
            f"{launch.kernel}{runs}",
        )

    def to_json(self) -> dict[str, Any]:
        """The profile as plain data; times in seconds."""
        return {
            "name": self.name,
            "what": self.what,
            "threads": self.threads,
            "machine": self.machine.to_json(),
            "step": self.step,
            "seconds": self.seconds,
            "between": self.between,
            "call": self.call,
            "accounted": self.accounted,
            "rounds": self.rounds,
            "spread": self.spread,
            "flops": self.flops,
            "bytes": self.nbytes,
            "limit": self.limit,
            "share": self.share,
            "lost": self.lost,
            "layers": self.layers,
            "notes": list(self.notes),
            "launches": [launch.to_json() for launch in self.launches],
        }


def seconds(value: float) -> str:
    """A time for people."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def rate(amount: float, took: float) -> str:
    """Billions per second."""
    return f"{amount / took / 1e9:.3g}" if took else "-"


def _of(part: float, whole: Figures) -> str:
    return f"{part / whole.seconds:.0%}" if whole.seconds else "-"
