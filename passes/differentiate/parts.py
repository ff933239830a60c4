"""Cotangents of slices: put together once, instead of padding each with zeros and adding them all
up.

The cotangent of ``x`` where ``a, b = split(x)`` is ``concat(a_ct, b_ct)``. Parts of one axis that
do not overlap make one concatenation, gaps filled with zeros; parts that overlap go to further
layers, which are added; a lone part is padded. Order of layers and parts is that of the reverse
sweep, so the result is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.ir.ops.attributes import get_dims, get_ints
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Op, Value
from gradc.ir.tensor.dims import Dim


@dataclass(frozen=True, slots=True)
class Part:
    """The cotangent ``ct`` of ``value[..., low:high, ...]`` along ``axis``."""

    axis: int
    low: int
    high: int
    ct: Value


def part_of(op: Op, ct: Value) -> Part | None:
    """The part that ``slice`` op reads, if it is a plain stretch of one axis with bound
    dimensions.
    """
    shape = op.operands[0].type.shape
    start, limit = get_dims(op.attributes, "start"), get_dims(op.attributes, "limit")
    if any(stride != 1 for stride in get_ints(op.attributes, "stride")):
        return None
    cut = [
        a for a, (s, e, n) in enumerate(zip(start, limit, shape, strict=True)) if s != 0 or e != n
    ]
    if len(cut) != 1:
        return None
    low, high = start[cut[0]], limit[cut[0]]
    if not (isinstance(low, int) and isinstance(high, int)) or low == high:
        return None
    return Part(cut[0], low, high, ct)


def joined(b: Builder, value: Value, parts: list[Part]) -> Value:
    """The cotangent of ``value`` that its ``parts`` make."""
    layers: list[list[Part]] = []
    for part in parts:
        for layer in layers:
            if all(_are_apart(part, other) for other in layer):
                layer.append(part)
                break
        else:
            layers.append([part])
    total: Value | None = None
    for layer in layers:
        ct = _layer(b, value, layer)
        total = ct if total is None else b.one("add", total, ct)
    assert total is not None, "a cotangent has at least one part"
    return total


def _are_apart(a: Part, b: Part) -> bool:
    return a.axis == b.axis and (a.high <= b.low or b.high <= a.low)


def _layer(b: Builder, value: Value, parts: list[Part]) -> Value:
    axis = parts[0].axis
    shape = value.type.shape
    if len(parts) == 1:
        part, size = parts[0], shape[axis]
        low = tuple(part.low if a == axis else 0 for a in range(len(shape)))
        high = tuple(size - part.high if a == axis else 0 for a in range(len(shape)))
        return b.one("pad", part.ct, low=low, high=high, interior=(0,) * len(shape))
    pieces: list[Value] = []
    reached: Dim = 0
    for part in sorted(parts, key=lambda part: part.low):
        _fill(b, value, axis, part.low - reached, pieces)
        pieces.append(part.ct)
        reached = part.high
    _fill(b, value, axis, shape[axis] - reached, pieces)
    return b.one("concat", *pieces, axis=axis)


def _fill(b: Builder, value: Value, axis: int, width: Dim, pieces: list[Value]) -> None:
    if width != 0:
        shape = (*value.type.shape[:axis], width, *value.type.shape[axis + 1 :])
        pieces.append(b.constant(0.0, value.type.dtype, shape))
