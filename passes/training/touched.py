"""Updates that visit only the rows which a batch touches.

A parameter of which a program reads some rows (an embedding) has a gradient that is zero in all
others. Where a zero gradient provably leaves parameter and slots as they are, bit for bit, a step
sums and updates only the rows that its ids name (``ir.ops.touched``): the results are those of the
dense program, and no gradient of the parameter's size exists.

The proof is the simplifier's: the update with 0 in place of its gradient must become its operands
by rules that hold for every float. ``p - lr * 0`` does for a constant rate; a moment that decays,
weight decay, and a rate that is only known when the step runs (it may be infinite) do not.

Non-goals: sparse gradients as results; norms, which add up all elements in an order of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_ops
from gradc.ir.ops.touched import scattered, touched_sums, touched_update
from gradc.ir.tensor.core import Block, Op, Role, Slot, Value
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.simplify import simplify
from gradc.passes.training.outline import Outline

# Rows are visited where there are so many times as many of them as ids.
_FEWER = 2


@dataclass(frozen=True, slots=True)
class Touched:
    """A gradient that is zero but in the rows which ``scatter`` names."""

    scatter: Op

    def sums(self, b: Builder) -> Value:
        """Everything in the gradient that may not be zero: the rows of all ids."""
        return touched_sums(b, self.scatter)

    def apply(
        self, b: Builder, outline: Outline, own: Sequence[Value], shared: Sequence[Value]
    ) -> Sequence[Value]:
        """``outline.apply``, without the gradient, which is the second of ``own``."""
        finite, _, *tables = own

        def change(
            inner: Builder, sums: Value, olds: Sequence[Value], scalars: Sequence[Value]
        ) -> Sequence[Value]:
            given = (scalars[0], sums, *olds, *scalars[1:])
            region = outline.region
            mapping = dict(zip(region.parameters, given, strict=True))
            inline_ops(inner, region.body, mapping)
            return [mapping[value] for value in region.outputs]

        return touched_update(b, self.scatter, tables, (finite, *shared), change)


def touched(maker: Op | None) -> Touched | str | None:
    """The gradient that ``maker`` makes as the few rows that are not zero, or why it is computed
    whole; None if it is none of rows.
    """
    if maker is None or not scattered(maker):
        return None
    ids, table = maker.operands[0].type.shape, maker.result.type.shape
    if not all(isinstance(n, int) and n for n in (*ids, *table)):
        return "there are no ids"
    count = math.prod(n for n in ids if isinstance(n, int))
    if count * _FEWER > maker.result.type.static_shape[0]:
        return f"{count} ids may be most of its rows"
    return Touched(maker)


def keeps_zeros(outline: Outline) -> bool:
    """Whether a gradient of 0 leaves parameter and slots of ``outline`` as they are, whatever they
    and its scalars hold, in steps that are finite and in others.
    """
    return all(_keeps_zeros(outline.region, is_finite) for is_finite in (True, False))


def _keeps_zeros(region: Block, is_finite: bool) -> bool:
    b = Builder()
    finite, gradient, *rest = region.parameters
    given = [b.parameter(v.type, v.hint) for v in rest]
    guard = b.constant(is_finite, finite.type.dtype)
    zero = b.constant(0.0, gradient.type.dtype, gradient.type.shape)
    mapping = dict(zip(region.parameters, (guard, zero, *given), strict=True))
    inline_ops(b, region.body, mapping)
    outputs = [mapping[value] for value in region.outputs]
    slots = [Slot(f"x{n}", Role.HYPER) for n in range(len(rest))]
    results = [Slot(f"y{n}", Role.OUTPUT) for n in range(len(outputs))]
    found, before = b.function("zero", outputs, slots, results), None
    while found is not before:
        # Equal constants become one value first, so that rules see them as equal.
        before, found = found, simplify(cse(found))
    return tuple(found.block.outputs) == found.block.parameters[: len(outputs)]
