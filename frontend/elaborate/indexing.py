"""Indexing and slicing: ``x[:, 0]``, ``x[..., 1:]``, ``x[:, None]``, ``table[ids]``, and parts of
lists.

An index in brackets becomes at most a slice, a reversal, one ``take`` per array of ids, and a
reshape. Positions count from the end if negative, where they are known at compile time; ids
computed at run time do not, and one that is out of range gives NaN.

Invariants: one array of ids per bracket, so that its place in the result is never in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import (
    POISON,
    Instances,
    Item,
    Poison,
    as_dim,
    describe,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import Dim


@dataclass
class _Cut:
    """What a bracket asks for, one entry per axis of the operand; ``shape`` is the result before
    ``take``.
    """

    start: list[Dim] = field(default_factory=list)
    limit: list[Dim] = field(default_factory=list)
    stride: list[int] = field(default_factory=list)
    reverse: list[int] = field(default_factory=list)
    # For each axis of the result: the operand's axis, or None for a new one; single positions are
    # left out.
    axes: list[int | None] = field(default_factory=list)
    ids: Value | None = None
    ids_axis: int = 0


def index(ctx: Context, node: tree.Index) -> Item:
    """``base[items]``."""
    base = ctx.evaluate(node.base)
    if isinstance(base, Poison):
        return POISON
    if isinstance(base, (Instances, tuple)):
        return _part(ctx, base.items if isinstance(base, Instances) else base, base, node)
    if not isinstance(base, Value):
        return ctx.error("GC0311", f"{describe(base)} cannot be indexed", node.base)
    items = _expanded(ctx, node, base.type.rank)
    if items is None:
        return POISON
    cut = _read(ctx, node, base, items)
    return POISON if cut is None else _apply(ctx, node, base, cut)


def _part(ctx: Context, parts: Sequence[Item], base: Item, node: tree.Index) -> Item:
    position = node.items[0]
    item = ctx.evaluate(position) if isinstance(position, tree.Expr) else None
    if isinstance(item, Poison):
        return POISON
    dim = None if item is None else as_dim(item)
    known = None if dim is None else ctx.sampled(dim)
    if known is None or len(node.items) != 1:
        return ctx.error("GC0311", "a list is indexed by one known integer", node)
    if not -len(parts) <= known < len(parts):
        message = f"position {known} is out of range: {describe(base)} has {len(parts)} parts"
        return ctx.error("GC0311", message, node)
    return parts[known]


def _expanded(ctx: Context, node: tree.Index, rank: int) -> list[tree.IndexItem] | None:
    """The items with ``...`` (or the missing rest) written out as full slices."""
    used = sum(not isinstance(i, (tree.Ellipsis, tree.NewAxis)) for i in node.items)
    if used > rank:
        what = "a scalar cannot be indexed" if rank == 0 else f"{used} indices for {rank} axes"
        ctx.error("GC0311", what, node)
        return None
    full = tree.Slice(node.span, None, None, None)
    result: list[tree.IndexItem] = []
    has_rest = False
    for item in node.items:
        if isinstance(item, tree.Ellipsis):
            result += [full] * (rank - used)
            has_rest = True
        else:
            result.append(item)
    return result if has_rest else [*result, *[full] * (rank - used)]


def _read(
    ctx: Context, node: tree.Index, base: Value, items: Sequence[tree.IndexItem]
) -> _Cut | None:
    cut = _Cut()
    axis = 0
    for item in items:
        if isinstance(item, tree.NewAxis):
            cut.axes.append(None)
            continue
        size = base.type.shape[axis]
        assert not isinstance(item, tree.Ellipsis)
        is_good = (
            _read_slice(ctx, item, size, axis, cut)
            if isinstance(item, tree.Slice)
            else _read_position(ctx, item, size, axis, cut, base)
        )
        if not is_good:
            return None
        axis += 1
    return cut


def _read_position(
    ctx: Context, node: tree.Expr, size: Dim, axis: int, cut: _Cut, base: Value
) -> bool:
    item = ctx.evaluate(node)
    if isinstance(item, Poison):
        return False
    if isinstance(item, Value):
        return _read_ids(ctx, node, item, size, axis, cut)
    position = as_dim(item)
    if position is None:
        message = f"an index is an integer, a slice or an array of integers, not {describe(item)}"
        rows = "rows by number are `stack([x[0], x[1]])`, or `x[ids]` with an `int` input"
        ctx.error("GC0311", message, node, help=rows if isinstance(item, tuple) else "")
        return False
    known = known_size(ctx, size)
    place = known_size(ctx, position)
    if known is not None and place is not None and not -known <= place < known:
        message = f"index {position} is out of range for axis {axis} of `{show_type(base)}`"
        ctx.error("GC0311", message, node)
        return False
    if place is not None and place < 0:
        position = size + position
    cut.start.append(position)
    cut.limit.append(position + 1)
    cut.stride.append(1)
    return True


def _read_ids(ctx: Context, node: tree.Expr, ids: Value, size: Dim, axis: int, cut: _Cut) -> bool:
    if ids.type.dtype not in (DType.I32, DType.I64):
        help = "choose elements by a condition with `where(mask, x, 0)`"
        if ids.type.dtype is not DType.BOOL:
            help = "convert the index: `cast(i, int)`"
        message = f"an index array holds integers, and this is `{show_type(ids)}`"
        ctx.error("GC0311", message, node, help=help)
        return False
    if cut.ids is not None:
        help = "index one axis after the other, or look up a flattened array"
        ctx.error("GC0311", "only one array of indices can stand in a bracket", node, help=help)
        return False
    cut.ids, cut.ids_axis = ids, len(cut.axes)
    cut.axes.append(axis)
    _whole(size, cut)
    return True


def _whole(size: Dim, cut: _Cut) -> None:
    cut.start.append(0)
    cut.limit.append(size)
    cut.stride.append(1)


def known_size(ctx: Context, dim: Dim) -> int | None:
    """``dim`` as an integer if it is one, or if every symbol in it has a default."""
    if isinstance(dim, int):
        return dim
    return ctx.defaulted(dim)


def _read_slice(ctx: Context, node: tree.Slice, size: Dim, axis: int, cut: _Cut) -> bool:
    cut.axes.append(axis)
    step = _bound(ctx, node.step, 1)
    if step is None:
        return False
    if not isinstance(step, int) or step == 0:
        assert node.step is not None
        ctx.error("GC0311", "the step of a slice is a known integer other than 0", node.step)
        return False
    if step < 0:
        if node.start is not None or node.stop is not None or step != -1:
            help = "reverse with `x[::-1]` first, then take a slice"
            ctx.error(
                "GC0311", "a slice that runs backwards covers the whole axis", node, help=help
            )
            return False
        cut.reverse.append(axis)
        _whole(size, cut)
        return True
    start, stop = _bound(ctx, node.start, 0), _bound(ctx, node.stop, size)
    if start is None or stop is None:
        return False
    start, stop = _clamped(ctx, start, size), _clamped(ctx, stop, size)
    low, high = known_size(ctx, start), known_size(ctx, stop)
    if low is not None and high is not None and low > high:
        stop = start
    cut.start.append(start)
    cut.limit.append(stop)
    cut.stride.append(step)
    return True


def _bound(ctx: Context, node: tree.Expr | None, default: Dim) -> Dim | None:
    """One part of a slice, or None after reporting."""
    if node is None:
        return default
    item = ctx.evaluate(node)
    dim = as_dim(item)
    if dim is None and not isinstance(item, Poison):
        message = f"slices take dimensions and integers, not {describe(item)}"
        ctx.error("GC0311", message, node)
    return dim


def _clamped(ctx: Context, position: Dim, size: Dim) -> Dim:
    """A slice bound as Python reads it: from the end if negative, within the axis where that is
    known.
    """
    known, length = known_size(ctx, position), known_size(ctx, size)
    if known is not None and known < 0:
        position = size + position
        if length is not None and known + length < 0:
            return 0
    elif known is not None and length is not None and known > length:
        return size
    return position


def _apply(ctx: Context, node: tree.Index, base: Value, cut: _Cut) -> Item:
    shape = base.type.shape
    value: Value | Poison = base
    if cut.reverse:
        value = ctx.op(node, "reverse", base, axes=tuple(cut.reverse))
    is_whole = all(
        start == 0 and limit == size and stride == 1
        for start, limit, stride, size in zip(cut.start, cut.limit, cut.stride, shape, strict=True)
    )
    if not is_whole and isinstance(value, Value):
        value = ctx.op(
            node,
            "slice",
            value,
            start=tuple(cut.start),
            limit=tuple(cut.limit),
            stride=tuple(cut.stride),
        )
    if isinstance(value, Poison):
        return POISON
    taken = tuple(1 if axis is None else value.type.shape[axis] for axis in cut.axes)
    if taken != value.type.shape:
        value = ctx.op(node, "reshape", value, shape=taken)
    if cut.ids is None or isinstance(value, Poison):
        return value
    return ctx.op(node, "take", value, cut.ids, axis=cut.ids_axis)
