"""Elements of views in the index algebra, and how their sizes become symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradc.ir.ops.attributes import get_dims, get_int, get_ints
from gradc.ir.ops.index.element import Elements, Shapes
from gradc.ir.ops.index.sums import (
    ONE,
    Entry,
    Linear,
    LinearIndex,
    constant,
    equation,
    factor,
    number_of,
    plus,
    times,
)
from gradc.ir.tensor.core import Op, TensorType
from gradc.ir.tensor.dims import Dim, product, symbol
from gradc.ir.tensor.dims import product as size_of


def groups(
    before: Sequence[Dim], after: Sequence[Dim]
) -> list[tuple[tuple[Dim, ...], tuple[Dim, ...]]]:
    """``before`` and ``after`` cut into pieces of equal products, as small as can be seen to be
    equal.
    """
    found = []
    left, right = list(before), list(after)
    while left or right:
        ends = [(a, b) for a in range(len(left) + 1) for b in range(len(right) + 1) if a + b]
        ends.sort(key=lambda end: (end[0] + end[1], end[0]))
        a, b = next(
            e for e in ends if product(tuple(left[: e[0]])) == product(tuple(right[: e[1]]))
        )
        found.append((tuple(left[:a]), tuple(right[:b])))
        left, right = left[a:], right[b:]
    return found


def broadcast(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    dims = get_ints(op.attributes, "dims")
    return r.read(x, [{} if n == 1 else index[d] for n, d in zip(x.type.shape, dims, strict=True)])


def reshape(r: Elements, op: Op, index: LinearIndex) -> Entry:
    """Groups of axes with the same product, each at the same position."""
    x = op.operands[0]
    found: list[tuple[LinearIndex, Entry]] = [([], ONE)]
    at = 0
    for before, after in groups(x.type.shape, op.result.type.shape):
        given = index[at : at + len(after)]
        at += len(after)
        options = _positions(r, before, after, given)
        found = [([*i, *j], times(e, f)) for i, e in found for j, f in options]
    return [one for place, ranges in found for one in times(ranges, r.read(x, place))]


def _flat(shape: Sequence[Dim], index: LinearIndex) -> Linear | None:
    """The row-major position of ``index``, if it is linear."""
    total: Linear = {}
    for n, i in enumerate(index):
        stride = product(tuple(shape[n + 1 :]))
        at = number_of(i)
        if isinstance(stride, int):
            total = plus(total, i, stride)
        elif at is not None and at.denominator == 1:
            total = plus(total, constant(stride * int(at)))
        else:
            return None
    return total


def _positions(
    r: Elements, before: tuple[Dim, ...], after: tuple[Dim, ...], index: LinearIndex
) -> list[tuple[LinearIndex, Entry]]:
    """The places of a group's operand that lie where ``index`` does."""
    if len(before) == len(after) == 1:
        return [(index, ONE)]
    position = _flat(after, index)
    if position is not None and len(before) < 2:
        if before:
            return [([position], ONE)]
        return [([], ONE)]
    at = None if position is None else number_of(position)
    if at is not None and all(isinstance(n, int) for n in before):
        return [([constant(int(i)) for i in _unflat(int(at), before)], ONE)]
    found = []
    for inner, ranges in r.binder.choices(before):
        same = _flat(before, inner)
        if same is not None and position is not None:
            condition = equation(plus(same, position, -1))
        else:
            sides = sorted([(str(before), inner, before), (str(after), index, after)], key=repr)
            (a, i, n), (b, j, m) = sides
            condition = factor(f"same position in {a} and {b}", [*i, *j], [*n, *m])
        found.append((inner, times(ranges, condition)))
    return found


def _unflat(at: int, shape: Sequence[Dim]) -> list[int]:
    found = []
    for n in reversed(shape):
        assert isinstance(n, int)
        at, rest = divmod(at, n)
        found.append(rest)
    return found[::-1]


def transpose(r: Elements, op: Op, index: LinearIndex) -> Entry:
    perm = get_ints(op.attributes, "perm")
    found: LinearIndex = [{} for _ in perm]
    for place, axis in enumerate(perm):
        found[axis] = index[place]
    return r.read(op.operands[0], found)


def slice(r: Elements, op: Op, index: LinearIndex) -> Entry:
    start, stride = get_dims(op.attributes, "start"), get_ints(op.attributes, "stride")
    rows = zip(start, stride, index, strict=True)
    return r.read(op.operands[0], [plus(constant(s), i, step) for s, step, i in rows])


def pad(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    low, gap = get_dims(op.attributes, "low"), get_ints(op.attributes, "interior")

    def term(inner: LinearIndex) -> Entry:
        found = ONE
        for before, between, j, i in zip(low, gap, inner, index, strict=True):
            found = times(found, equation(plus(plus(constant(before), j, between + 1), i, -1)))
        return times(found, r.read(x, inner)) if found else []

    return r.sum_over(x.type.shape, term)


def concat(r: Elements, op: Op, index: LinearIndex) -> Entry:
    axis = get_int(op.attributes, "axis")
    before: Dim = 0
    found: Entry = []
    for x in op.operands:
        for (j,), ranges in r.binder.choices([x.type.shape[axis]]):
            met = equation(plus(plus(constant(before), j), index[axis], -1))
            if met:
                piece = r.read(x, [*index[:axis], j, *index[axis + 1 :]])
                found += times(times(ranges, met), piece)
        before = before + x.type.shape[axis]
    return found


def reverse(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")
    found = [
        plus(constant(n - 1), i, -1) if a in axes else i
        for a, (n, i) in enumerate(zip(x.type.shape, index, strict=True))
    ]
    return r.read(x, found)


def fit_broadcast(
    operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]
) -> None:
    sizes = list(get_dims(attributes, "shape"))
    wanted: list[Dim] = [1 if n == 1 else symbol(f"m{a}") for a, n in enumerate(sizes)]
    for n, d in zip(shapes[0], get_ints(attributes, "dims"), strict=True):
        if n != 1:
            wanted[d] = n
    attributes["shape"] = tuple(wanted)


def fit_reshape(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    """One axis against several: these have symbols, and it their product. Else sizes are kept."""
    before: list[Dim] = []
    after: list[Dim] = []
    for k, (a, b) in enumerate(groups(operands[0].shape, get_dims(attributes, "shape"))):
        fresh: list[Dim] = []
        for i, n in enumerate(a if len(a) > len(b) else b):
            fresh.append(1 if n == 1 else symbol(f"n{k}_{i}"))
        if min(len(a), len(b)) == 1:
            whole: list[Dim] = [size_of(tuple(fresh))]
            before += fresh if len(a) >= len(b) else whole
            after += fresh if len(b) >= len(a) else whole
        else:
            before += a
            after += b
    shapes[0][:] = before
    attributes["shape"] = tuple(after)


def fit_slice(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    """A slice to the end goes to the end; one with steps has room for them."""
    sizes = operands[0].static_shape
    limit = list(get_dims(attributes, "limit"))
    for axis, n in enumerate(sizes):
        if limit[axis] == n:
            limit[axis] = shapes[0][axis]
    attributes["limit"] = tuple(limit)


def fit_concat(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    axis = get_int(attributes, "axis")
    for shape in shapes[1:]:
        shape[:] = [n if a == axis else shapes[0][a] for a, n in enumerate(shape)]
