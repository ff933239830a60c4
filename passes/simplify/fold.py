"""Constant folding on splats: one number stands for the whole tensor, so folding never makes a
large constant.

Elementwise ops are evaluated by their own meaning in their own element type (f32 in f32, integers
wrapping), so the result is what the reference interpreter would compute. Views of splats are
splats. Sums are folded only where no rounding can occur. Nothing is folded that would be computed
differently by another order of addition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.registry import Pointwise, has_own_numbers, is_sum, lookup
from gradc.ir.tensor.core import DType, Op, TensorType, Value
from gradc.ir.tensor.dims import product

# Integers up to here are exact in the type, and so is every partial sum of them.
_EXACT_SUMS = {DType.F64: 2**53, DType.F32: 2**24, DType.I64: 2**63 - 1, DType.I32: 2**31 - 1}


def folded(op: Op, splats: Sequence[float | int | bool]) -> float | int | bool | None:
    """The splat that ``op`` gives on constant operands, or None if it gives none that is
    certain.
    """
    definition = lookup(op.name)
    if definition.is_view and has_own_numbers(op):
        return splats[0]
    if op.name == "concat":
        same = {(type(s), str(s)) for s in splats}
        return splats[0] if len(same) == 1 else None
    if op.name == "pad":
        return splats[0] if str(splats[0]) in ("0", "0.0") else None
    if is_sum(op):
        return _folded_sum(op, splats[0])
    if not isinstance(definition.loop, Pointwise):
        return None
    return _evaluated(op, splats)


def _folded_sum(op: Op, splat: float | bool) -> float | int | None:
    operand, result = op.operands[0].type, op.result.type
    count, kept = product(operand.shape), product(result.shape)
    if not isinstance(count, int) or not isinstance(kept, int) or not kept:
        return None
    limit = _EXACT_SUMS.get(operand.dtype, 0)
    if splat != int(splat) if abs(splat) < limit else True:
        return None
    total = splat * (count // kept)
    return total if abs(total) <= limit else None


def _evaluated(op: Op, splats: Sequence[float | int | bool]) -> float | int | bool | None:
    """The op's meaning on scalars. An op that needs its shape (none does today) would not fold."""
    scalars = [
        np.asarray(s, dtype=NumpyArrays.dtype(v.type.dtype))
        for s, v in zip(splats, op.operands, strict=True)
    ]
    operands = tuple(Value(TensorType((), v.type.dtype)) for v in op.operands)
    result = Value(TensorType((), op.result.type.dtype))
    scalar_op = Op(op.name, operands, (result,), op.attributes)
    arrays = NumpyArrays()
    with arrays.quiet():
        (found,) = lookup(op.name).evaluate(arrays, scalar_op, scalars)
        # bf16 and f16 are computed in f32: round as a store would.
        item = arrays.settle(found, op.result.type.dtype).item()
    assert isinstance(item, (bool, int, float))
    return item
