"""What a run looks at while it trains: how far updates move the weights, and whether numbers stay
finite.

A copy of the weights at one step in ``WATCH_EVERY`` and one pass over both move a few bytes per
weight; a step moves each weight a dozen times, so this is below a hundredth of the bytes of the
steps between.

Non-goals: why something is wrong (``runtime.doctor``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, error
from gradc.runtime.model.state import TrainState
from gradc.runtime.native.arrays import Array

WATCH_EVERY = 50
_PIECE = 1 << 15


class Watch(Protocol):
    """Who follows a run by its records (``runtime.doctor.watching``)."""

    def fields(
        self,
        number: int,
        state: TrainState,
        before: Mapping[str, Array],
        moved: Mapping[str, Moved],
    ) -> dict[str, Any]:
        """What the record of step ``number`` says besides; at recorded steps there are the weights
        ``before`` it, and how far each has moved.
        """

    def after(self, record: Mapping[str, Any]) -> list[Diagnostic]:
        """What the record of a step tells."""

    def epoch(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[Diagnostic]]:
        """What the record of an epoch says besides, and what it tells."""

    def again(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the records of a run that goes on."""


def is_recorded(step: int) -> bool:
    """Whether the updates of ``step`` (from 1) are recorded: the first, and one in fifty."""
    return step == 1 or step % WATCH_EVERY == 0


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
    if not before:
        return {}
    with np.errstate(over="ignore", invalid="ignore"):
        found = {name: _moved(old, after[name]) for name, old in before.items()}
    moved = whole({name: one.moved for name, one in found.items()})
    sizes = whole({name: one.size for name, one in found.items()})
    return {name: Moved(moved[name], sizes[name]) for name in found}


def _moved(old: Array, new: Array) -> Moved:
    """By pieces that stay in the cache, added up in double precision."""
    moved = size = 0.0
    flat, now = old.reshape(-1), new.reshape(-1)
    for at in range(0, flat.size, _PIECE):
        piece = flat[at : at + _PIECE]
        moved += square(now[at : at + _PIECE] - piece)
        size += square(piece)
    return Moved(moved, size)


def square(flat: Array) -> float:
    """The sum of squares of a vector."""
    found = float(np.einsum("i,i->", flat, flat))
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
