"""What a forward sweep at given parameters shows: units that never fire, units at their bounds,
attention that looks at one place only, or everywhere alike.

The program runs in the reference interpreter in its own precision.

Non-goals: what it means (``causes``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.frontend.model.suspect import own_line
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run, run_block
from gradc.ir.ops.interval import ANY, Condition, Interval
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Function, Op, Span
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.doctor.attention import attentions, entropies
from gradc.runtime.native.arrays import Array

# How far from the middle of its range, in halves of it, a value counts as at its bound.
_BOUND = 0.99
_FEW = 4


@dataclass(frozen=True)
class Seen:
    """One op of the forward sweep: the share of its units (or values) that is lost."""

    op: Op
    kind: str  # dead, saturated, attention
    share: float
    entropy: float | None = None  # of an attention, as a share of the most that it can be

    @property
    def span(self) -> Span | None:
        return own_line(self.op.span)


@dataclass
class _Sum:
    op: Op
    kind: str
    alive: Array | None = None
    total: float = 0.0
    count: int = 0
    entropies: list[Array] = field(default_factory=list)

    @property
    def entropy(self) -> float | None:
        found = np.concatenate(self.entropies) if self.entropies else np.zeros(0)
        return float(found.mean()) if found.size else None


class _Watch(NumpyArrays):
    """Sees every nonlinearity and every softmax, those inside loops too."""

    def __init__(self, function: Function) -> None:
        super().__init__(None)
        self.found: dict[tuple[Span | None, str, str], _Sum] = {}
        self.softmax = {id(a.op): a.axes for a in attentions(function)}

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        return run_block(self, block, operands, self.observe)

    def observe(self, op: Op, results: Sequence[Any]) -> None:
        array = np.asarray(results[0])
        if array.ndim < 2 or not array.size:
            return
        if lookup(op.name).traits.rectifies:
            units = np.moveaxis(array, 1 if array.ndim == 4 else -1, -1)
            alive: Array = np.asarray((units > 0).reshape(-1, units.shape[-1]).any(axis=0))
            seen = self._sum(op, "dead")
            known = seen.alive
            if known is not None and known.shape == alive.shape:
                alive = np.logical_or(known, alive)
            seen.alive = alive
            seen.total, seen.count = float((~alive).sum()), alive.size
        elif lookup(op.name).traits.slope == "saturates":
            low, high = _ends(op)
            centred = (2 * array - low - high) / (high - low)
            self._add(op, "saturated", np.abs(centred) > _BOUND)
        elif self.softmax.get(id(op)):
            axes = self.softmax[id(op)]
            if np.prod([array.shape[axis] for axis in axes]) >= _FEW:
                self._add(op, "attention", array.max(axis=axes) > _BOUND)
                self._sum(op, "attention").entropies.append(entropies(array, axes))

    def _add(self, op: Op, kind: str, lost: Array) -> None:
        seen = self._sum(op, kind)
        seen.total += float(lost.sum())
        seen.count += lost.size

    def _sum(self, op: Op, kind: str) -> _Sum:
        return self.found.setdefault((op.span, op.scope, kind), _Sum(op, kind))


class _Free:
    """Operands that may be anything, for an interval rule."""

    def of(self, _number: int, *_conditions: Condition) -> Interval:
        return ANY

    def nonzero(self, _number: int) -> tuple[Condition, ...]:
        return ()

    def fault(self, _kind: str) -> frozenset[int]:
        return frozenset()


def _ends(op: Op) -> tuple[float, float]:
    """Between what the results of an op that saturates lie."""
    rule = lookup(op.name).interval
    assert rule is not None, f"`{op.name}` saturates, so its results have bounds"
    found = rule(_Free(), op)
    return found.low, found.high


def seen_forward(function: Function, operands: Mapping[str, Any]) -> list[Seen]:
    """Every nonlinearity and attention of ``function`` at ``operands``, in order."""
    function = flatten(function)
    watch = _Watch(function)
    given = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        dtype = value.type.dtype
        array = watch.cast(np.asarray(operands[slot.name]), dtype)
        given.append(watch.settle(array, dtype))
    with np.errstate(all="ignore"):
        run(watch, function, given, watch.observe)
    return [
        Seen(s.op, s.kind, s.total / s.count, s.entropy) for s in watch.found.values() if s.count
    ]


@dataclass
class Shares:
    """The worst place of each kind, and the attention of the largest entropy."""

    worst: dict[str, Seen] = field(default_factory=dict)
    evenest: Seen | None = None

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Shares:
        found: dict[str, Seen] = {}
        for one in seen:
            if one.kind not in found or one.share > found[one.kind].share:
                found[one.kind] = one
        told = [one for one in seen if one.entropy is not None]
        return cls(found, max(told, key=lambda one: one.entropy or 0.0, default=None))

    def share(self, kind: str) -> float:
        return self.worst[kind].share if kind in self.worst else 0.0
