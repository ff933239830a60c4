"""Streams of random draws as data, so that layers that differ in nothing else share their kernels.

Every draw has a stream number of its own. Written into the kernel it would make one kernel per
layer; here the numbers go into one small array, made once at the start, and every draw reads its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradc.ir.tensor.core import Attr, Block, DType, Op, TensorType, Value

DRAW = "random_bits"


def shared_streams(ops: Sequence[Op]) -> tuple[list[Op], list[Op]]:
    """Ops that make the stream numbers, and ``ops`` reading them; nothing for a single stream."""
    streams = dict.fromkeys(
        stream
        for op in ops
        if op.name == DRAW and isinstance(stream := op.attributes.get("stream"), int)
    )
    if len(streams) < 2:
        return [], list(ops)
    array = Value(TensorType((len(streams),), DType.U32), "streams")
    first: list[Op] = [_array(tuple(streams), array)]
    scalars: dict[int, Value] = {}
    for number, stream in enumerate(streams):
        part, scalar = Value(TensorType((1,), DType.U32)), Value(TensorType((), DType.U32))
        bounds: dict[str, Attr] = {"start": (number,), "limit": (number + 1,), "stride": (1,)}
        first.append(Op("slice", (array,), (part,), bounds))
        first.append(Op("reshape", (part,), (scalar,), {"shape": ()}))
        scalars[stream] = scalar
    return first, [_reading(op, scalars) for op in ops]


def _array(streams: tuple[int, ...], result: Value) -> Op:
    """All stream numbers in one array, as one kernel."""
    constants = []
    for stream in streams:
        attributes: dict[str, Attr] = {"value": stream, "dtype": DType.U32, "shape": (1,)}
        value = Value(TensorType((1,), DType.U32))
        constants.append(Op("constant", (), (value,), attributes))
    inner = Value(result.type, result.hint)
    parts = tuple(op.result for op in constants)
    joined = Op("concat", parts, (inner,), {"axis": 0})
    region = Block((), (*constants, joined, Op("yield", (inner,), ())))
    return Op("fusion", (), (result,), {"kind": "map"}, (region,))


def _reading(op: Op, scalars: dict[int, Value]) -> Op:
    stream = op.attributes.get("stream")
    if op.name != DRAW or not isinstance(stream, int):
        return op
    attributes = {name: a for name, a in op.attributes.items() if name != "stream"}
    return replace(op, operands=(*op.operands, scalars[stream]), attributes=attributes)
