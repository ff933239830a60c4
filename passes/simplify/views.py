"""Exact moves of views: what only rearranges elements is merged, moved into its user, or dropped.

Every rule names the op that it rewrites and the identity that it applies (``_rule``). A rule gets
the rewriter (for looking through operands and emitting) and the op, and returns the value to use
instead, or None. All are exact: the same elements are read, and sums keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol, TypeAlias

from gradc.ir.ops.attributes import get_dims, get_int, get_ints, get_pairs
from gradc.ir.ops.contraction import free_axes
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.tensor.core import DType, Op, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.simplify.narrow import (
    slice_of_broadcast,
    slice_of_contract,
    slice_of_pointwise,
    slice_of_reshape,
    slice_of_transpose,
)


class Rewriter(Protocol):
    """What view rules use of the simplifier."""

    def emit(self, name: str, *operands: Value, hint: str = "", **attributes: Any) -> Value: ...
    def made_by(self, value: Value, name: str) -> Op | None: ...
    def maker(self, value: Value) -> Op | None: ...
    def sliced(
        self, value: Value, start: Sequence[Dim], limit: Sequence[Dim], stride: Sequence[int]
    ) -> Value: ...
    def splat(self, value: Value) -> float | int | bool | None: ...


ViewRule: TypeAlias = Callable[[Rewriter, Op], Value | None]
_RULES: dict[str, list[tuple[str, ViewRule]]] = {}


def _rule(op: str, identity: str) -> Callable[[ViewRule], ViewRule]:
    """Adds a rule to those that rewrite ``op``; they are tried in the order of this file."""

    def added(rule: ViewRule) -> ViewRule:
        _RULES.setdefault(op, []).append((identity, rule))
        return rule

    return added


# --- reshape, transpose, broadcast, cast ----------------------------------------------------------


@_rule("reshape", "reshape to the same shape")
@_rule("broadcast", "broadcast to the same shape")
@_rule("cast", "cast to the same type")
@_rule("slice", "slice of everything")
@_rule("pad", "pad by nothing")
def _same_type(_r: Rewriter, op: Op) -> Value | None:
    return op.operands[0] if op.operands[0].type == op.result.type else None


@_rule("reshape", "reshape of reshape")
def _reshape_of_reshape(r: Rewriter, op: Op) -> Value | None:
    inner = r.made_by(op.operands[0], "reshape")
    if inner is None:
        return None
    return r.emit("reshape", inner.operands[0], shape=op.result.type.shape)


@_rule("transpose", "transpose by the identity")
def _identity_transpose(_r: Rewriter, op: Op) -> Value | None:
    perm = get_ints(op.attributes, "perm")
    return op.operands[0] if perm == tuple(range(len(perm))) else None


@_rule("transpose", "transpose of transpose")
def _transpose_of_transpose(r: Rewriter, op: Op) -> Value | None:
    inner = r.made_by(op.operands[0], "transpose")
    if inner is None:
        return None
    first, second = get_ints(inner.attributes, "perm"), get_ints(op.attributes, "perm")
    return r.emit("transpose", inner.operands[0], perm=tuple(first[axis] for axis in second))


@_rule("transpose", "transpose of axes of size 1")
def _transpose_of_ones(r: Rewriter, op: Op) -> Value | None:
    """A transpose that moves only axes of size 1 is a reshape."""
    shape = op.operands[0].type.shape
    moved = [axis for axis in get_ints(op.attributes, "perm") if shape[axis] != 1]
    if moved != sorted(moved):
        return None
    return r.emit("reshape", op.operands[0], shape=op.result.type.shape)


@_rule("transpose", "transpose of contract")
def _transpose_of_contract(r: Rewriter, op: Op) -> Value | None:
    """(a b)^T = b^T a^T: where the free axes change sides, the operands do."""
    inner = r.made_by(op.operands[0], "contract")
    if inner is None:
        return None
    a, b = inner.operands
    batch = len(get_pairs(inner.attributes, "batch"))
    left = len(free_axes(inner.attributes, 0, a.type.rank))
    rank = op.result.type.rank
    swapped = (*range(batch), *range(batch + left, rank), *range(batch, batch + left))
    if get_ints(op.attributes, "perm") != swapped:
        return None
    flipped: dict[str, Any] = {
        name: tuple((j, i) for i, j in get_pairs(inner.attributes, name))
        for name in ("batch", "contract")
    }
    return r.emit("contract", b, a, **flipped)


@_rule("broadcast", "broadcast of broadcast")
def _broadcast_of_broadcast(r: Rewriter, op: Op) -> Value | None:
    inner = r.made_by(op.operands[0], "broadcast")
    if inner is None:
        return None
    first, second = get_ints(inner.attributes, "dims"), get_ints(op.attributes, "dims")
    dims = tuple(second[axis] for axis in first)
    return r.emit("broadcast", inner.operands[0], shape=op.result.type.shape, dims=dims)


@_rule("broadcast", "broadcast of reshape")
def _broadcast_of_reshape(r: Rewriter, op: Op) -> Value | None:
    """A reshape that only adds axes of size 1 before a broadcast is part of the broadcast."""
    inner = r.made_by(op.operands[0], "reshape")
    if inner is None:
        return None
    dims = get_ints(op.attributes, "dims")
    placed = _placed(inner.operands[0].type.shape, inner.result.type.shape)
    if placed is None:
        return None
    moved = tuple(dims[axis] for axis in placed)
    return r.emit("broadcast", inner.operands[0], shape=op.result.type.shape, dims=moved)


def _placed(shape: Sequence[Dim], wider: Sequence[Dim]) -> list[int] | None:
    """Where the axes of ``shape`` lie in ``wider``, if the rest of that has size 1."""
    places: list[int] = []
    for axis, size in enumerate(wider):
        if len(places) < len(shape) and shape[len(places)] == size:
            places.append(axis)
        elif size != 1:
            return None
    return places if len(places) == len(shape) else None


@_rule("cast", "cast there and back")
def _cast_there_and_back(r: Rewriter, op: Op) -> Value | None:
    """Widening and narrowing again changes nothing."""
    inner = r.made_by(op.operands[0], "cast")
    if inner is None or inner.operands[0].type != op.result.type:
        return None
    narrow, wide = op.result.type.dtype, inner.result.type.dtype
    return inner.operands[0] if (narrow, wide) in _EMBEDDED else None


_EMBEDDED = {
    (DType.F32, DType.F64),
    (DType.BF16, DType.F32),
    (DType.F16, DType.F32),
    (DType.BF16, DType.F64),
    (DType.F16, DType.F64),
    (DType.I32, DType.I64),
    (DType.I32, DType.F64),
}


# --- slice, pad, concat, reverse ------------------------------------------------------------------


@_rule("slice", "slice of slice")
def _slice_of_slice(r: Rewriter, op: Op) -> Value | None:
    inner = r.made_by(op.operands[0], "slice")
    if inner is None:
        return None
    outer_stride, inner_stride = (
        get_ints(op.attributes, "stride"),
        get_ints(inner.attributes, "stride"),
    )
    start: list[Dim] = []
    limit: list[Dim] = []
    rows = zip(
        get_dims(inner.attributes, "start"),
        inner_stride,
        get_dims(op.attributes, "start"),
        get_dims(op.attributes, "limit"),
        strict=True,
    )
    for base, step, low, high in rows:
        start.append(base + low * step)
        # The last element read is high - 1 in the inner slice; nothing beyond it may be asked for.
        limit.append(base + (high - 1) * step + 1 if high != low else base + low * step)
    stride = tuple(a * b for a, b in zip(outer_stride, inner_stride, strict=True))
    return r.emit("slice", inner.operands[0], start=tuple(start), limit=tuple(limit), stride=stride)


@_rule("slice", "slice of concat")
def _slice_of_concat(r: Rewriter, op: Op) -> Value | None:
    """A slice that lies in one part of a concatenation is a slice of that part."""
    inner = r.made_by(op.operands[0], "concat")
    if inner is None:
        return None
    axis = get_int(inner.attributes, "axis")
    start, limit = get_dims(op.attributes, "start"), get_dims(op.attributes, "limit")
    low, high = start[axis], limit[axis]
    base: Dim = 0
    for part in inner.operands:
        end = base + part.type.shape[axis]
        if not (isinstance(base, int) and isinstance(end, int)):
            return None
        if isinstance(low, int) and isinstance(high, int) and base <= low <= high <= end:
            return r.emit(
                "slice",
                part,
                start=(*start[:axis], low - base, *start[axis + 1 :]),
                limit=(*limit[:axis], high - base, *limit[axis + 1 :]),
                stride=get_ints(op.attributes, "stride"),
            )
        base = end
    return None


@_rule("slice", "slice of pad")
def _slice_of_pad(r: Rewriter, op: Op) -> Value | None:
    """A slice that takes out exactly what was padded is what was padded."""
    inner = r.made_by(op.operands[0], "pad")
    if inner is None or op.result.type != inner.operands[0].type:
        return None
    low, interior = get_dims(inner.attributes, "low"), get_dims(inner.attributes, "interior")
    stride = get_ints(op.attributes, "stride")
    is_exact = get_dims(op.attributes, "start") == low and all(
        s == gap + 1 or size == 1
        for s, gap, size in zip(stride, interior, op.result.type.shape, strict=True)
    )
    return inner.operands[0] if is_exact else None


@_rule("concat", "concat of one")
def _concat_of_one(_r: Rewriter, op: Op) -> Value | None:
    return op.operands[0] if len(op.operands) == 1 else None


@_rule("concat", "concat of slices")
def _concat_of_slices(r: Rewriter, op: Op) -> Value | None:
    """Neighbouring slices put together again are the whole."""
    axis = get_int(op.attributes, "axis")
    whole: Value | None = None
    expected: Dim = 0
    for part in op.operands:
        inner = r.made_by(part, "slice")
        if inner is None or (whole is not None and inner.operands[0] is not whole):
            return None
        whole = inner.operands[0]
        start, limit = get_dims(inner.attributes, "start"), get_dims(inner.attributes, "limit")
        if start[axis] != expected or get_ints(inner.attributes, "stride")[axis] != 1:
            return None
        rest = [i for i in range(len(start)) if i != axis]
        if any(part.type.shape[i] != whole.type.shape[i] for i in rest):
            return None
        expected = limit[axis]
    return whole if whole is not None and whole.type == op.result.type else None


@_rule("reverse", "reverse of axes of size 1")
def _reverse_of_ones(_r: Rewriter, op: Op) -> Value | None:
    shape = op.operands[0].type.shape
    return op.operands[0] if all(shape[a] == 1 for a in get_ints(op.attributes, "axes")) else None


@_rule("reverse", "reverse of reverse")
def _reverse_of_reverse(r: Rewriter, op: Op) -> Value | None:
    inner = r.made_by(op.operands[0], "reverse")
    if inner is None:
        return None
    axes = set(get_ints(op.attributes, "axes")) ^ set(get_ints(inner.attributes, "axes"))
    return r.emit("reverse", inner.operands[0], axes=tuple(sorted(axes)))


# --- reductions and products ----------------------------------------------------------------------


def _reduce_ones(r: Rewriter, op: Op) -> Value | None:
    """Reducing axes of size 1 is a reshape."""
    shape = op.operands[0].type.shape
    if any(shape[axis] != 1 for axis in get_ints(op.attributes, "axes")):
        return None
    return r.emit("reshape", op.operands[0], shape=op.result.type.shape)


def _reduce_of_transpose(r: Rewriter, op: Op) -> Value | None:
    """Reducing first and transposing less afterwards, where the order of the reduced axes stays."""
    inner = r.made_by(op.operands[0], "transpose")
    if inner is None:
        return None
    perm = get_ints(inner.attributes, "perm")
    axes = tuple(perm[axis] for axis in sorted(get_ints(op.attributes, "axes")))
    if list(axes) != sorted(axes):
        return None
    rest = [axis for axis in perm if axis not in axes]
    reduced = r.emit(op.name, inner.operands[0], axes=axes)
    order = sorted(rest)
    return r.emit("transpose", reduced, perm=tuple(order.index(axis) for axis in rest))


@_rule("contract", "contract of transpose")
def _contract_of_transpose(r: Rewriter, op: Op) -> Value | None:
    """A transposed operand is read in its own order; free axes must stay in order."""
    for side, operand in enumerate(op.operands):
        inner = r.made_by(operand, "transpose")
        if inner is None:
            continue
        perm = get_ints(inner.attributes, "perm")
        free = [perm[axis] for axis in free_axes(op.attributes, side, operand.type.rank)]
        if free != sorted(free):
            continue
        operands = list(op.operands)
        operands[side] = inner.operands[0]
        attributes: dict[str, Any] = {
            name: tuple(_moved(pair, side, perm) for pair in get_pairs(op.attributes, name))
            for name in ("batch", "contract")
        }
        return r.emit("contract", *operands, hint=op.result.hint, **attributes)
    return None


def _moved(pair: tuple[int, int], side: int, perm: Sequence[int]) -> tuple[int, int]:
    return (perm[pair[0]], pair[1]) if side == 0 else (pair[0], perm[pair[1]])


@_rule("select", "select by a constant")
def _select_by_constant(r: Rewriter, op: Op) -> Value | None:
    condition = r.splat(op.operands[0])
    if condition is None:
        return None
    return op.operands[1] if condition else op.operands[2]


@_rule("logical_and", "and with a constant")
def _and_with_constant(r: Rewriter, op: Op) -> Value | None:
    return _with_constant(r, op, absorbing=False)


@_rule("logical_or", "or with a constant")
def _or_with_constant(r: Rewriter, op: Op) -> Value | None:
    return _with_constant(r, op, absorbing=True)


def _with_constant(r: Rewriter, op: Op, absorbing: bool) -> Value | None:
    """The other operand, or the constant where it decides."""
    for mine, other in (op.operands, reversed(op.operands)):
        splat = r.splat(mine)
        if splat is not None:
            return mine if splat == absorbing else other
    return None


_rule("slice", "narrow slice of reshape")(slice_of_reshape)
_rule("slice", "narrow slice of transpose")(slice_of_transpose)
_rule("slice", "narrow slice of broadcast")(slice_of_broadcast)
_rule("slice", "narrow slice of contract")(slice_of_contract)
_rule("slice", "narrow slice of an elementwise op")(slice_of_pointwise)


@cache
@cache
def view_rules(name: str) -> tuple[tuple[str, ViewRule], ...]:
    """The rules that rewrite op ``name``, each with the identity that it applies."""
    if isinstance(lookup(name).loop, Reduction):
        return (
            (f"{name} of axes of size 1", _reduce_ones),
            (f"{name} of transpose", _reduce_of_transpose),
        )
    return tuple(_RULES.get(name, ()))
