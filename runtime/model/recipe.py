"""``Recipe``: how a training step trains, as the user wrote it.

Non-goals: what optimiser and schedule mean (``frontend.model.training``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from gradc.frontend.model.training import OptimizerIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train, as the user wrote it; everything that the step's code depends on."""

    optimizer: str
    schedule: str | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    decay_on: str = "matrices"
    accumulate: int = 1
    loss_scale: float | str | None = None
    shared_statistics: bool = False
    guard: bool = True

    def __post_init__(self) -> None:
        for name in ("clip_norm", "clip_value"):
            limit = getattr(self, name)
            if limit is not None and not (_is_number(limit) and limit > 0):
                message = f"{name} must be a positive number, not {limit!r}"
                raise DiagnosticError([error("GC0801", message, None)])
        if type(self.accumulate) is not int or self.accumulate < 1:
            message = f"accumulate must be a whole number of at least 1, not {self.accumulate!r}"
            raise DiagnosticError([error("GC0801", message, None)])
        self._check_scale()
        if type(self.guard) is not bool:
            message = f"guard is True or False, not {self.guard!r}"
            raise DiagnosticError([error("GC0801", message, None)])
        if self.decay_on not in ("matrices", "all"):
            message = f"decay_on is `matrices` or `all`, not {self.decay_on!r}"
            raise DiagnosticError([error("GC0801", message, None)])

    def _check_scale(self) -> None:
        scale = self.loss_scale
        if scale is None or scale == "dynamic":
            return
        if not (_is_number(scale) and 0 < scale < float("inf")):
            message = f"loss_scale is `dynamic` or a positive number, not {scale!r}"
            raise DiagnosticError([error("GC0801", message, None)])


@functools.lru_cache(maxsize=64)
def decaying(optimizer: OptimizerIR, decay_on: str, rank: int) -> OptimizerIR:
    """``optimizer`` for a parameter of ``rank`` axes: without decay where that falls on matrices
    only. The same object for all parameters, so that it elaborates its update once a type.
    """
    is_spared = decay_on == "matrices" and rank < 2 and "decay" in optimizer.arguments
    if not is_spared:
        return optimizer
    return replace(optimizer, arguments={**optimizer.arguments, "decay": 0})


def _is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a real number; what is true or false is not."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def cut_of(recipe: Recipe, rows: int) -> int:
    """In how many parts a smaller batch is cut: no fewer than the others, but for ranks that share
    statistics, of which each has one at most.
    """
    parts: int = recipe.accumulate
    if recipe.shared_statistics:
        return max(n for n in range(1, parts + 1) if rows % n == 0)
    finer: int = next(n for n in (*range(parts, rows + 1), rows) if rows % n == 0)
    return finer
