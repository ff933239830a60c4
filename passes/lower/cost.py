"""What ops take, read off their meanings: verbs per element and flops. What a verb costs is the
target's to say (``ir.target.costs``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gradc.ir.ops.needs import NAMES, get_needs
from gradc.ir.ops.registry import Contraction, Pointwise, Reduction, lookup, own_nest
from gradc.ir.target.costs import Costs, VerbCount
from gradc.ir.tensor.core import Attr, Block, DType, Op
from gradc.passes.lower.runs import run_of

# Verbs that no float is computed by: flops do not count them.
_NO_FLOPS = frozenset(
    (
        *("cast", "copy", "select", "logical_and", "logical_or", "logical_not"),
        *("eq", "ne", "lt", "le", "gt", "ge"),
        *("bitand", "bitor", "bitxor", "shl", "shr", "mulhi"),
    )
)


class _Recorder:
    """An algebra that only counts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def const(self, value: float | bool, dtype: DType | None = None) -> int:
        return 0

    def cast(self, x: int, dtype: DType) -> int:
        self.names.append("cast")
        return 0

    def __getattr__(self, verb: str) -> Callable[..., int]:
        def record(*operands: int) -> int:
            self.names.append(verb)
            return 0

        return record


@lru_cache(maxsize=4096)
def _recorded(
    meaning: Callable[..., Any], arity: int, attributes: tuple[tuple[str, Attr], ...]
) -> tuple[str, ...]:
    recorder = _Recorder()
    meaning(recorder, *([0] * arity), **dict(attributes))
    return tuple(recorder.names)


def verb_names(op: Op) -> tuple[str, ...]:
    """The verbs of one element of an elementwise op; one for a reduction; none for views."""
    form = lookup(op.name).loop
    if isinstance(form, Pointwise):
        return _recorded(form.meaning, len(op.operands), tuple(op.attributes.items()))
    return (form.combine,) if isinstance(form, Reduction) else ()


def verbs(op: Op, costs: Costs) -> VerbCount:
    """What one element of ``op`` takes on a target."""
    return costs.count(verb_names(op))


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    total = 1
    for extent in shape:
        total *= extent
    return total


def elementwise_us(block: Block, elements: int, costs: Costs) -> float:
    """Time of one thread for ``elements`` of the whole of ``block``, were all its ops computed at
    every one.
    """
    cycles = costs.element + sum(verbs(op, costs).cycles for op in block.body)
    return costs.microseconds(elements / costs.lanes * cycles)


def flops(block: Block) -> int:
    """Floating point operations of ``block``: arithmetic on floats one per element (a function such
    as exp one, a fused multiply-add two, comparisons and choices none), sums one per term, products
    and convolutions two per term.
    """
    return sum(_flops(op) for op in block.body)


def _flops(op: Op) -> int:
    form, nest = lookup(op.name).loop, own_nest(op)
    if not op.results or not op.results[0].type.dtype.is_float:
        return 0
    if nest is not None:
        return nest.flops(op)
    if isinstance(form, Contraction):
        return 2 * _terms(op)
    if isinstance(form, Reduction):
        return size_of(op.operands[0].type.static_shape)
    each = sum(1 + (name == "fma") for name in verb_names(op) if name not in _NO_FLOPS)
    return each * size_of(op.result.type.static_shape) if each else 0


def _terms(op: Op) -> int:
    """Terms of the sums of a contraction, without those that a mask leaves out (``ir.ops.needs``;
    where a mask counts from a number known only in a run, all of them).
    """
    sizes = {
        (side, axis): size
        for side, value in enumerate(op.operands[:2])
        for axis, size in enumerate(value.type.static_shape)
    }
    work = lookup(op.name).traits.work
    assert work is not None, "a contraction says how much it is"
    whole = work(op)
    found = [need for name in NAMES for need in get_needs(op.attributes, name) if not need.data]
    axes = sorted({axis for need in found for axis, _ in need.factors}, key=sizes.__getitem__)
    if not axes or 0 in (whole, *(sizes[axis] for axis in axes)):
        return whole
    *outer, inner = axes
    shape = [sizes[axis] for axis in outer]
    grid = dict(zip(outer, np.indices(shape), strict=True))
    lines = []
    for need in found:
        parts = [factor * grid[axis] for axis, factor in need.factors if axis != inner]
        rest = sum(parts, np.full(shape, need.constant, np.int64))
        lines.append((rest, dict(need.factors).get(inner, 0)))
    low, end = run_of(lines, sizes[inner])
    counted = int(np.maximum(end - low, 0).sum())
    return counted * (whole // prod(sizes[axis] for axis in axes))
