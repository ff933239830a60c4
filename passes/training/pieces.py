"""The equal parts of a value at a place (``ir.axes.Place``), and the whole from them, as ops.

Part r of a value cut inside blocks, such as [4 * H] along H, is part r of each block, one after
another.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.ops.axes import Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.structural import slice_axis
from gradc.ir.tensor.core import DType, TensorType, Value


def part_type(type_: TensorType, place: Place, parts: int) -> TensorType:
    """The type of one part."""
    shape = type_.static_shape
    axis = place.axis
    return type_.with_shape((*shape[:axis], shape[axis] // parts, *shape[axis + 1 :]))


def part(b: Builder, whole: Value, place: Place, parts: int, number: int) -> Value:
    """One part of ``whole``."""
    if place.outer == 1:
        size = whole.type.static_shape[place.axis] // parts
        return slice_axis(b, whole, place.axis, number * size, (number + 1) * size)
    found = slice_axis(b, _split(b, whole, place, parts), place.axis + 1, number, number + 1)
    return b.one("reshape", found, shape=part_type(whole.type, place, parts).static_shape)


def numbered(b: Builder, whole: Value, place: Place, parts: int, number: Value) -> Value:
    """The part of ``whole`` whose number is a value, u32[1]."""
    at = b.one("cast", b.one("reshape", number, shape=()), dtype=DType.I32)
    found = b.one("take", _split(b, whole, place, parts), at, axis=place.axis + 1)
    return b.one("reshape", found, shape=part_type(whole.type, place, parts).static_shape)


def in_rows(b: Builder, whole: Value, place: Place, parts: int) -> Value:
    """[parts, ...]: every part of ``whole``."""
    split = _split(b, whole, place, parts)
    at = place.axis + 1
    perm = (at, *(axis for axis in range(split.type.rank) if axis != at))
    found = b.one("transpose", split, perm=perm)
    shape = part_type(whole.type, place, parts).static_shape
    return b.one("reshape", found, shape=(parts, *shape))


def from_rows(b: Builder, parts: Value, place: Place) -> Value:
    """The whole of which ``parts`` has every part, as ``in_rows`` gives them."""
    count, *shape = parts.type.static_shape
    axis = place.axis
    inner = shape[axis] // place.outer
    split = (count, *shape[:axis], place.outer, inner, *shape[axis + 1 :])
    found = b.one("reshape", parts, shape=split)
    perm = (*range(1, axis + 2), 0, *range(axis + 2, len(split)))
    found = b.one("transpose", found, perm=perm)
    return b.one("reshape", found, shape=(*shape[:axis], count * shape[axis], *shape[axis + 1 :]))


def joined(b: Builder, parts: Sequence[Value], place: Place) -> Value:
    """The whole of ``parts``, in order."""
    if place.outer == 1:
        return b.one("concat", *parts, axis=place.axis)
    each = [b.one("reshape", part, shape=(1, *part.type.static_shape)) for part in parts]
    return from_rows(b, b.one("concat", *each, axis=0), place)


def _split(b: Builder, whole: Value, place: Place, parts: int) -> Value:
    """[..., outer, parts, n, ...] of [..., outer * parts * n, ...]."""
    shape, axis = whole.type.static_shape, place.axis
    size = shape[axis] // (place.outer * parts)
    split = (*shape[:axis], place.outer, parts, size, *shape[axis + 1 :])
    return b.one("reshape", whole, shape=split)
