"""Random draws of a part of the batch: keys that carry the number of the part.

A key u32[2] is (seed, step). In a function that runs on part i of a batch every key becomes u32[3]
= (seed, step, i), so that draws marked as parts of a whole (``random_bits`` with ``{whole, axis}``)
are the rows that the whole batch would have drawn. Keys of the trips of a loop, which are drawn
themselves, are the same for all parts and get i as well.

Non-goals: marking the draws (``accumulate_batch.as_part_of``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, TensorType, Value
from gradc.passes.rewrite import renamed

KEY = TensorType((2,), DType.U32)
NUMBERED = TensorType((3,), DType.U32)


def numbered(function: Function, name: str) -> Function:
    """``function`` with the key called ``name`` as u32[3], inside its regions too."""
    key = function.parameter(name)
    fresh = Value(NUMBERED, key.hint)
    parameters = tuple(fresh if v is key else v for v in function.block.parameters)
    block = _numbered(function.block, parameters, {key: fresh}, fresh)
    return replace(function, block=block)


def keys_of_parts(b: Builder, key: Value, numbers: Value) -> Value:
    """The keys u32[parts, 3] of the parts with ``numbers`` u32[parts, 1], of ``key`` u32[2]."""
    same = b.one("broadcast", key, shape=(numbers.type.static_shape[0], 2), dims=(1,))
    return b.one("concat", same, numbers, axis=1)


def _numbered(
    block: Block, parameters: Sequence[Value], keys: dict[Value, Value], key: Value
) -> Block:
    """``block`` over other parameters; ``keys`` are the values that become another, ``key`` is one
    of them.
    """
    b = Builder()
    b.parameters = list(parameters)
    for op in block.body:
        operands = renamed(op.operands, keys)
        if operands == op.operands:
            b.ops.append(op)
            continue
        regions = tuple(_region(op, region, operands) for region in op.regions)
        b.ops.append(replace(op, operands=operands, regions=regions))
        if _is_keys(op):
            keys[op.result] = _keys_of_trips(b, op, operands[0])
    return b.block(renamed(block.outputs, keys), block.terminator.name)


def _is_keys(op: Op) -> bool:
    """Whether ``op`` draws a key per trip of a loop: two words per row, and not a part of
    something.
    """
    shape = op.result.type.shape if len(op.results) == 1 else ()
    return lookup(op.name).traits.draws and "whole" not in op.attributes and shape[1:] == (2,)


def _keys_of_trips(b: Builder, op: Op, key: Value) -> Value:
    """The drawn keys with the part's number behind each."""
    trips = op.result.type.shape[0]
    with b.at(op.span, op.scope, op.replica):
        part = b.one("slice", key, start=(2,), limit=(3,), stride=(1,))
        column = b.one("broadcast", part, shape=(trips, 1), dims=(1,))
        return b.one("concat", op.result, column, axis=1)


def _region(op: Op, region: Block, operands: Sequence[Value]) -> Block:
    """A region whose parameters have the types of the new operands."""
    carried = op.attributes.get("carried", 0) if is_loop(op) else 0
    stacked = op.attributes.get("stacked", 0) if is_loop(op) else 0
    assert isinstance(carried, int) and isinstance(stacked, int)
    keys: dict[Value, Value] = {}
    parameters = list(region.parameters)
    for position, (old, new) in enumerate(zip(op.operands, operands, strict=True)):
        if old is new:
            continue
        is_slice = carried <= position < carried + stacked
        type_ = TensorType(new.type.shape[1:], new.type.dtype) if is_slice else new.type
        fresh = Value(type_, parameters[position].hint)
        keys[parameters[position]] = fresh
        parameters[position] = fresh
    if not keys:
        return region
    return _numbered(region, parameters, keys, next(iter(keys.values())))
