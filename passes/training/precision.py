"""Low-precision programs: the scalar tail of the loss in f32.

From-stage and to-stage: tensor, before ``differentiate``. In a bf16 or f16 program the last steps,
from per-sample values to the one number that is minimised, are sums and a few operations on
scalars. They cost nothing in f32 and lose digits, or range, in 16 bits: a cotangent seeded with a
loss scale of 2^16 does not fit f16 (largest number 65504), while the cotangents of single samples
do. So scalars that lead to the loss, and the reductions that make them, are computed in f32; the
loss is f32.

Invariants: other values keep their types. Non-goals: choosing types per op.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Reduction, has_own_numbers, lookup, number_of
from gradc.ir.tensor.core import DType, Function, Op, Role, TensorType, Value

LOW = (DType.BF16, DType.F16)


def promote_loss(function: Function) -> Function:
    """``function`` with an f32 loss; the same object if its loss is not in low precision."""
    found = [i for i, slot in enumerate(function.results) if slot.role is Role.LOSS]
    outputs = function.block.outputs
    if not found or outputs[found[0]].type.dtype not in LOW:
        return function
    loss = outputs[found[0]]
    tail = _tail(function, loss)
    b = Builder()
    b.parameters = list(function.block.parameters)
    wide: dict[Value, Value] = {}
    for op in function.block.body:
        if op not in tail:
            b.ops.append(op)
            continue
        with b.at(op.span, op.scope, op.replica):
            wide[op.result] = _widened(b, op, wide)
            # The narrow value stays for whatever else reads it; dead code elimination removes it
            # otherwise.
            b.ops.append(op)
    with b.at(function.results[found[0]].span):
        promoted = wide.get(loss) or b.one("cast", loss, dtype=DType.F32)
    end = [promoted if v is loss else v for v in outputs]
    return replace(function, block=b.block(end, "return"))


def _tail(function: Function, loss: Value) -> set[Op]:
    """The ops that make low-precision scalars the loss depends on through other such scalars."""
    wanted = {loss}
    tail: set[Op] = set()
    for op in reversed(function.block.body):
        if len(op.results) != 1 or op.result not in wanted or not _is_promotable(op):
            continue
        tail.add(op)
        wanted.update(v for v in op.operands if v.type.rank == 0 and v.type.dtype in LOW)
    return tail


def _is_promotable(op: Op) -> bool:
    if op.result.type.rank != 0 or op.result.type.dtype not in LOW:
        return False
    definition = lookup(op.name)
    is_plain = definition.is_elementwise or isinstance(definition.loop, Reduction)
    return is_plain or definition.is_source or has_own_numbers(op)


def _widened(b: Builder, op: Op, wide: dict[Value, Value]) -> Value:
    """``op`` in f32: operands that have a wide form take it, others are cast."""
    if number_of(op) is not None:
        return b.one("constant", **{**op.attributes, "dtype": DType.F32}, hint="")
    operands = [wide.get(v) or _cast(b, v) for v in op.operands]
    attributes = dict(op.attributes)
    if op.name == "cast":
        # A mean over 16 bits is taken in f32 and rounded at the end; here that rounding falls away.
        if operands[0].type.dtype is DType.F32:
            return operands[0]
        attributes["dtype"] = DType.F32
    return b.one(op.name, *operands, hint="", **attributes)


def _cast(b: Builder, value: Value) -> Value:
    if value.type.dtype not in LOW:
        return value
    return b.one("cast", value, dtype=DType.F32)


def master_type(type_: TensorType) -> TensorType:
    """The type in which a parameter of ``type_`` is trained: f32 for 16-bit types."""
    return type_.with_dtype(DType.F32) if type_.dtype in LOW else type_
