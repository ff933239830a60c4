"""The truncation ledger: what ``truncate k`` leaves out of each gradient.

The gradient of a truncated loop is exact up to its borders; what would have come through them is
dropped. The ledger sets it beside the gradient of the same program without truncation: for each
parameter the L2 norms of the whole gradient, of what is kept, and of their difference, which is the
dropped terms. ``net.truncation`` also gives the planned peaks of both programs: what truncation
saves is measured, not assumed.

Non-goals: choosing a window (``gradc diagnose`` tries longer ones where too much is dropped).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.tensor.core import Function, Span
from gradc.passes.differentiate.truncate import loops
from gradc.runtime.native.arrays import Array


@dataclass(frozen=True, slots=True)
class Window:
    """One truncated loop: its line, how far back its derivative goes, and how many steps it has."""

    span: Span | None
    size: int
    trips: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """L2 norms for one parameter: of the whole gradient, of the kept one, of the terms left out."""

    name: str
    whole: float
    kept: float
    dropped: float

    @property
    def share(self) -> float:
        """The dropped terms against the whole gradient; 0 where nothing is dropped."""
        if self.dropped == 0:
            return 0.0
        return self.dropped / self.whole if self.whole else float("inf")


@dataclass(frozen=True, slots=True)
class Truncation:
    """Every truncated loop of a model, and what that drops from each gradient.

    ``peaks`` are the peak bytes of the whole and of the kept gradient's Plan, where they were asked
    for.
    """

    windows: tuple[Window, ...]
    parameters: tuple[Dropped, ...]
    peaks: tuple[int, int] | None = None

    @property
    def saved_bytes(self) -> int:
        """How much lower the planned peak is; 0 where it was not asked for."""
        return 0 if self.peaks is None else self.peaks[0] - self.peaks[1]

    @property
    def share(self) -> float:
        """The largest share that is dropped from any gradient."""
        return max((row.share for row in self.parameters), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The ledger for a program to read."""
        whole, kept = self.peaks or (None, None)
        return {
            "peak_bytes": {"whole": whole, "kept": kept},
            "loops": [
                {"line": _line(w.span), "window": w.size, "steps": w.trips} for w in self.windows
            ],
            "parameters": [
                {"name": r.name, "whole": r.whole, "kept": r.kept, "dropped": r.dropped}
                for r in self.parameters
            ],
        }

    def report(self) -> str:
        """The ledger as a table of text."""
        lines = [f"{_line(w.span)}: truncate {w.size} of {w.trips} steps" for w in self.windows]
        lines += ["", f"{'parameter':24} {'whole':>11} {'kept':>11} {'dropped':>11} {'share':>7}"]
        lines += [
            f"{r.name:24} {r.whole:11.4g} {r.kept:11.4g} {r.dropped:11.4g} {r.share:7.1%}"
            for r in self.parameters
        ]
        if self.peaks is not None:
            whole, kept = self.peaks
            lines += ["", f"peak: {whole} bytes whole, {kept} kept: {self.saved_bytes} saved"]
        return "\n".join(lines)


def windows(function: Function) -> tuple[Window, ...]:
    """The truncated loops whose borders cut anything."""
    found = []
    for op in loops(function):
        size, trips = op.attributes["truncate"], op.attributes["trips"]
        assert isinstance(size, int) and isinstance(trips, int), "dimensions are bound"
        if size < trips:
            found.append(Window(op.span, size, trips))
    return tuple(found)


def dropped_terms(kept: Mapping[str, Array], whole: Mapping[str, Array]) -> tuple[Dropped, ...]:
    """Norms of two sets of gradients and of their difference, by name."""
    rows = []
    for name, complete in whole.items():
        full, some = complete.astype(np.float64), kept[name].astype(np.float64)
        norms = (float(np.linalg.norm(a.ravel())) for a in (full, some, full - some))
        rows.append(Dropped(name, *norms))
    return tuple(rows)


def _line(span: Span | None) -> str:
    return "" if span is None else f"{span.outermost.file}:{span.outermost.line}"
