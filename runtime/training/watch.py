"""What a run looks at while it trains: how far updates move the weights, and whether numbers stay
finite.

A copy of the weights at one step in ``WATCH_EVERY`` (in ``LATER_EVERY`` from ``LATER`` on) and one
pass over both move a few bytes per weight; a step moves each weight a dozen times, so this is below
a hundredth of the bytes of the steps between. Of the steps between nothing is kept but their
records, which are looked at together.

Non-goals: why something is wrong (``runtime.doctor``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, error
from gradc.runtime.model.state import TrainState
from gradc.runtime.native.arrays import Array

WATCH_EVERY, LATER_EVERY, LATER = 50, 250, 1000
# Steps whose records are looked at together, if no epoch ends before.
CHUNK = 500
# Numbers whose squares are added up at once: they stay in the cache, and BLAS adds so few of them
# in one thread, so that the order is one.
_PIECE = 1 << 13


class Watch(Protocol):
    """Who follows a run by its records (``runtime.doctor.watching``)."""

    def fields(
        self,
        number: int,
        state: TrainState,
        before: Mapping[str, Array],
        moved: Mapping[str, Moved],
    ) -> dict[str, Any]:
        """What the record of step ``number``, one of those that are recorded, says besides: there
        are the weights ``before`` it, and how far each has moved. Of ranks that hold parts of
        parameters all call.
        """

    def read(self, records: Sequence[Mapping[str, Any]]) -> list[Diagnostic]:
        """What the records of further steps tell."""

    def epoch(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[Diagnostic]]:
        """What the record of an epoch says besides, and what it tells."""

    def again(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the records of a run that goes on."""


def next_recorded(step: int) -> int:
    """The first step from ``step`` (from 1) on whose updates are recorded: the first, one in fifty,
    and one in 250 from the thousandth on.
    """
    every = WATCH_EVERY if step <= LATER else LATER_EVERY
    return 1 if step <= 1 else -(-step // every) * every


@dataclass(frozen=True, slots=True)
class Moved:
    """How far an update moved an array, and the array's size before it: squares of L2 norms."""

    moved: float
    size: float

    @property
    def share(self) -> float:
        """The update's size as a share of the array's own."""
        if self.size:
            return math.sqrt(self.moved / self.size)
        return 0.0 if self.moved == 0 else math.inf


def moves(
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    whole: Callable[[Mapping[str, float]], dict[str, float]],
) -> dict[str, Moved]:
    """For each parameter its last update; ``whole`` makes sums of squares of this rank's parts
    those of whole parameters.
    """
    moved, sizes = {}, {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, old in before.items():
            moved[name], sizes[name] = _moved(old.reshape(-1), after[name].reshape(-1))
    moved, sizes = whole(moved), whole(sizes)
    return {name: Moved(one, sizes[name]) for name, one in moved.items()}


def _moved(old: Array, new: Array) -> tuple[float, float]:
    """Squares of the L2 norms of what has changed and of what was."""
    if old.size <= _PIECE:
        return square(new - old), square(old)
    moved = size = 0.0
    for at in range(0, old.size, _PIECE):
        piece = old[at : at + _PIECE]
        moved += square(new[at : at + _PIECE] - piece)
        size += square(piece)
    return moved, size


def square(flat: Array) -> float:
    """The sum of squares of a vector of at most ``_PIECE`` numbers; longer ones by pieces."""
    if flat.size > _PIECE:
        return sum(square(flat[at : at + _PIECE]) for at in range(0, flat.size, _PIECE))
    found = float(np.dot(flat, flat))
    if found == 0 and flat.any():
        return float(np.square(flat, dtype=np.float64).sum())
    return found


def are_finite(arrays: Mapping[str, Array]) -> bool:
    """Whether every floating array holds numbers only."""
    return all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def broken_update(number: int) -> Diagnostic:
    """The finding for a step whose gradients are finite and whose new weights are not."""
    message = (
        f"the update of step {number} gives numbers that are not finite, though its gradients are"
    )
    help = "let the optimiser add a small number to what it divides by, as in `/ (sqrt(v) + 1e-8)`"
    return error("GC0809", message, None, help=help)
