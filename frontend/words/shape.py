"""Words that move, make and join arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import (
    broadcast_shapes,
    origin,
    retype,
    stretch,
    tensor,
    types_differ,
)
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Item,
    Poison,
    as_dim,
    describe,
    is_number,
    show_type,
)
from gradc.frontend.elaborate.words import Arguments, array, axis, dtype, integer, shape, word
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.walk import walk
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import Dim, floordiv, product

# What `split` may cut an axis into; each part is an operation.
MAX_PARTS: Final = 10_000


@word("reshape x shape")
def _reshape(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value, sizes = array(ctx, given["x"]), shape(ctx, given["shape"])
    if value is None or sizes is None:
        return POISON
    return reshape(ctx, call, value, sizes, given["x"].node)


def reshape(
    ctx: Context, node: tree.Node, value: Value, sizes: tuple[Dim, ...], at: tree.Node
) -> Value | Poison:
    """``value`` in another shape; one size may be -1 and is then what is left over."""
    unknown = [i for i, d in enumerate(sizes) if d == -1]
    if any(isinstance(d, int) and d < 0 for i, d in enumerate(sizes) if i not in unknown[:1]):
        message = "a shape has sizes of at least 0, and at most one -1 for what is left over"
        return ctx.error("GC0307", message, node)
    if unknown:
        rest = product(tuple(d for i, d in enumerate(sizes) if i != unknown[0]))
        total = value.type.size
        left: Dim = 0 if rest == 0 else floordiv(total, rest)
        sizes = tuple(left if i == unknown[0] else d for i, d in enumerate(sizes))
    if value.type.shape == sizes:
        return value
    old, new = value.type.size, product(sizes)
    if old == new:
        return ctx.op(node, "reshape", value, shape=sizes)
    if ctx.same(old, new):
        return retype(ctx, value, sizes, node)
    wanted = ", ".join(str(d) for d in sizes)
    help = ""
    if any(isinstance(part, tree.Link) and part.operator == "//" for part in walk(node)):
        help = "does a division of dimensions here leave a rest?"
    return ctx.error(
        "GC0307",
        f"`{show_type(value)}` does not fit into the shape [{wanted}]",
        node,
        label=f"{old} elements against {new}",
        labels=[origin(ctx, at, value)],
        help=help,
    )


@word("transpose x axes", axes="all")
def _transpose(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = array(ctx, given["x"])
    if value is None:
        return POISON
    rank = value.type.rank
    wanted = given["axes"].item
    if wanted == "all":
        return ctx.op(call, "transpose", value, perm=tuple(reversed(range(rank))))
    items = wanted if isinstance(wanted, tuple) else (wanted,)
    perm: list[int] = []
    for item in items:
        one = axis(ctx, Argument(item, given["axes"].node), rank, f"`{show_type(value)}`")
        if one is None:
            return POISON
        perm.append(one)
    if sorted(perm) != list(range(rank)):
        shown = f"`{show_type(value)}`"
        message = f"`transpose` takes each axis of {shown} once, and gets {list(perm)}"
        return ctx.error("GC0306", message, given["axes"].node)
    return ctx.op(call, "transpose", value, perm=tuple(perm))


@word("split x parts axis", axis=-1)
def _split(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = array(ctx, given["x"])
    if value is None:
        return POISON
    along = axis(ctx, given["axis"], value.type.rank, f"`{show_type(value)}`")
    if along is None:
        return POISON
    sizes = _parts(ctx, given["parts"], value.type.shape[along], call)
    if sizes is None:
        return POISON
    pieces: list[Item] = []
    start: Dim = 0
    for size in sizes:
        low = tuple(start if i == along else 0 for i in range(value.type.rank))
        start = start + size
        high = tuple(start if i == along else d for i, d in enumerate(value.type.shape))
        pieces.append(
            ctx.op(call, "slice", value, start=low, limit=high, stride=(1,) * value.type.rank)
        )
    return POISON if any(isinstance(p, Poison) for p in pieces) else tuple(pieces)


def _parts(ctx: Context, argument: Argument, size: Dim, call: tree.Call) -> list[Dim] | None:
    """The sizes of the pieces: a number of equal ones, or a list of sizes."""
    if isinstance(argument.item, tuple):
        sizes = shape(ctx, argument)
        if sizes is None:
            return None
        total: Dim = 0
        for one in sizes:
            total = total + one
        if not ctx.same(total, size):
            message = f"the parts add up to {total}, and the axis has {size}"
            ctx.error("GC0307", message, argument.node)
            return None
        return list(sizes)
    count = integer(ctx, argument, "the number of parts", 1)
    if count is None:
        return None
    if count > MAX_PARTS:
        message = f"`split` makes at most {MAX_PARTS} parts, not {count}"
        ctx.error("GC0405", message, argument.node)
        return None
    known = ctx.sampled(size)
    if known is not None and known % count and ctx.defaulted(size) is not None:
        message = f"an axis of {size} does not split into {count} equal parts"
        ctx.error("GC0307", message, call)
        return None
    return [floordiv(size, count)] * count


def _arrays(ctx: Context, argument: Argument, what: str) -> list[Value] | None:
    """A list of arrays of one element type."""
    items = argument.item
    if not isinstance(items, tuple):
        message = f"`{what}` takes a list of arrays, not {describe(items)}"
        ctx.error("GC0308", message, argument.node, help=f"write `{what}([a, b])`")
        return None
    if not items:
        ctx.error("GC0308", f"`{what}` of an empty list", argument.node)
        return None
    nodes: tuple[tree.Node, ...] = (argument.node,) * len(items)
    if isinstance(argument.node, (tree.ListExpr, tree.TupleExpr)):
        nodes = argument.node.items
    like = next((i.type.dtype for i in items if isinstance(i, Value)), ctx.frame.floating)
    values: list[Value] = []
    for item, node in zip(items, nodes, strict=True):
        value = tensor(ctx, item, node, like if is_number(item) else None)
        if isinstance(value, Poison):
            return None
        if value.type.dtype is not like:
            pair = (values[0] if values else value, value)
            types_differ(ctx, pair, (nodes[0], node), f"`{what}`", argument.node)
            return None
        values.append(value)
    return values


@word("concat arrays axis", axis=0)
def _concat(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    values = _arrays(ctx, given["arrays"], "concat")
    if values is None:
        return POISON
    first = values[0]
    along = axis(ctx, given["axis"], first.type.rank, f"`{show_type(first)}`")
    if along is None:
        return POISON
    for position, value in enumerate(values):
        own = value.type.shape
        fits = len(own) == first.type.rank and all(
            i == along or ctx.same(d, e)
            for i, (d, e) in enumerate(zip(own, first.type.shape, strict=True))
        )
        if not fits:
            return _unlike(ctx, call, given["arrays"], values, position, "concat")
        wanted = tuple(own[along] if i == along else d for i, d in enumerate(first.type.shape))
        if wanted != own:
            values[position] = retype(ctx, value, wanted, call)
    return ctx.op(call, "concat", *values, axis=along)


def _unlike(
    ctx: Context,
    call: tree.Call,
    argument: Argument,
    values: Sequence[Value],
    position: int,
    what: str,
) -> Poison:
    nodes: Sequence[tree.Node] = ()
    if isinstance(argument.node, (tree.ListExpr, tree.TupleExpr)):
        nodes = argument.node.items
    a, b = values[0], values[position]
    labels = [origin(ctx, nodes[i], values[i]) for i in (0, position)] if nodes else []
    message = f"shapes do not fit: `{what}` of `{show_type(a)}` and `{show_type(b)}`"
    return ctx.error("GC0301", message, call, labels=labels)


@word("stack arrays axis", axis=0)
def _stack(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    values = _arrays(ctx, given["arrays"], "stack")
    if values is None:
        return POISON
    first = values[0].type
    along = axis(ctx, given["axis"], first.rank + 1, "the stacked array")
    if along is None:
        return POISON
    taller: tuple[Dim, ...] = (*first.shape[:along], 1, *first.shape[along:])
    rows: list[Value] = []
    for position, value in enumerate(values):
        if not ctx.same_shape(value.type.shape, first.shape):
            return _unlike(ctx, call, given["arrays"], values, position, "stack")
        rows.append(retype(ctx, value, taller, call))
    return ctx.op(call, "concat", *rows, axis=along)


@word("pad x widths value", value=0)
def _pad(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = array(ctx, given["x"])
    if value is None:
        return POISON
    widths = _widths(ctx, given["widths"], value)
    if widths is None:
        return POISON
    low, high = (tuple(pair[side] for pair in widths) for side in (0, 1))
    rank = value.type.rank
    padded = ctx.op(call, "pad", value, low=low, high=high, interior=(0,) * rank)
    filler = given["value"].item
    if filler == 0 or isinstance(padded, Poison):
        return padded
    # Other values than zero: where the padding of an array of ones is zero.
    one = ctx.constant(call, True, DType.BOOL, value.type.shape)
    mask = ctx.op(call, "pad", one, low=low, high=high, interior=(0,) * rank)
    fill = tensor(ctx, filler, given["value"].node, value.type.dtype)
    if isinstance(mask, Poison) or isinstance(fill, Poison):
        return POISON
    if fill.type.rank or fill.type.dtype is not value.type.dtype:
        message = f"`pad` fills with one number, not {describe(fill)}"
        return ctx.error("GC0308", message, given["value"].node)
    spread = stretch(ctx, fill, padded.type.shape, call)
    return spread if isinstance(spread, Poison) else ctx.op(call, "select", mask, padded, spread)


def _widths(ctx: Context, argument: Argument, value: Value) -> list[tuple[Dim, Dim]] | None:
    """``w`` for every side of every axis, or one ``w`` or ``(low, high)`` per axis."""
    items = argument.item if isinstance(argument.item, tuple) else None
    rank = value.type.rank
    entries = items if items is not None else (argument.item,) * rank
    widths: list[tuple[Dim, Dim]] = []
    for entry in entries:
        pair = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, entry)
        low, high = as_dim(pair[0]), as_dim(pair[1])
        if low is None or high is None:
            break
        widths.append((low, high))
    is_good = len(widths) == len(entries) == rank
    if is_good and all(not isinstance(d, int) or d >= 0 for pair in widths for d in pair):
        return widths
    message = f"`pad` of `{show_type(value)}` takes a width of at least 0 for each of {rank} axes"
    ctx.error("GC0307", message, argument.node, help="as in `pad(x, [(0, 0), (1, 1)])`")
    return None


@word("broadcast x shape")
def _broadcast(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value, sizes = array(ctx, given["x"]), shape(ctx, given["shape"])
    if value is None or sizes is None:
        return POISON
    common = broadcast_shapes(ctx, value.type.shape, sizes)
    if common is None or not ctx.same_shape(common, sizes):
        wanted = ", ".join(str(d) for d in sizes)
        message = f"`{show_type(value)}` does not stretch to the shape [{wanted}]"
        labels = [origin(ctx, given["x"].node, value)]
        return ctx.error("GC0301", message, call, labels=labels)
    return stretch(ctx, value, sizes, call)


@word("squeeze x axis")
def _squeeze(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = array(ctx, given["x"])
    if value is None:
        return POISON
    along = axis(ctx, given["axis"], value.type.rank, f"`{show_type(value)}`")
    if along is None:
        return POISON
    size = value.type.shape[along]
    if size != 1:
        message = f"`squeeze` removes an axis of size 1, and axis {along} has size {size}"
        return ctx.error("GC0307", message, call)
    kept = tuple(d for i, d in enumerate(value.type.shape) if i != along)
    return ctx.op(call, "reshape", value, shape=kept)


# --- new arrays


def _filled(ctx: Context, call: tree.Call, given: Arguments, value: float) -> Item:
    sizes = shape(ctx, given["shape"])
    kind = _kind(ctx, given["type"])
    if sizes is None or kind is None or not _are_sizes(ctx, given["shape"], sizes):
        return POISON
    return ctx.constant(call, value if kind.is_float else int(value), kind, sizes)


def _kind(ctx: Context, argument: Argument) -> DType | None:
    return dtype(ctx, argument, "type") if argument.is_given else ctx.frame.floating


def _are_sizes(ctx: Context, argument: Argument, sizes: Sequence[Dim]) -> bool:
    for size in sizes:
        if isinstance(size, int) and size < 0:
            message = f"a dimension cannot be negative, and this is {size}"
            ctx.error("GC0405", message, argument.node)
            return False
    return True


@word("zeros shape type", type=False)
def _zeros(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _filled(ctx, call, given, 0)


@word("ones shape type", type=False)
def _ones(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _filled(ctx, call, given, 1)


@word("full shape value type", type=False)
def _full(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    sizes = shape(ctx, given["shape"])
    if sizes is None or not _are_sizes(ctx, given["shape"], sizes):
        return POISON
    target: DType | None = None
    if given["type"].is_given:
        target = dtype(ctx, given["type"], "type")
        if target is None:
            return POISON
    elif is_number(given["value"].item):
        target = ctx.frame.floating
    value = tensor(ctx, given["value"].item, given["value"].node, target)
    if isinstance(value, Poison):
        return POISON
    if value.type.rank or (target is not None and value.type.dtype is not target):
        message = f"`full` takes one number, not {describe(value)}"
        return ctx.error("GC0308", message, given["value"].node)
    return stretch(ctx, value, sizes, call)


@word("iota n type", type=DType.I32)
def _iota(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    size = as_dim(given["n"].item)
    kind = dtype(ctx, given["type"], "iota")
    if kind is None:
        return POISON
    if size is None or not _are_sizes(ctx, given["n"], (size,)):
        if size is None:
            message = f"`iota` takes a dimension, not {describe(given['n'].item)}"
            ctx.error("GC0402", message, given["n"].node)
        return POISON
    return ctx.op(call, "iota", axis=0, dtype=kind, shape=(size,))


def _grid(ctx: Context, node: tree.Node, sizes: tuple[Dim, ...], along: int) -> Value | Poison:
    return ctx.op(node, "iota", axis=along, dtype=DType.I32, shape=sizes)


@word("causal_mask n")
def _causal_mask(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    size = as_dim(given["n"].item)
    if size is None:
        message = f"`causal_mask` takes a dimension, not {describe(given['n'].item)}"
        return ctx.error("GC0402", message, given["n"].node)
    rows, columns = (_grid(ctx, call, (size, size), i) for i in (0, 1))
    if isinstance(rows, Poison) or isinstance(columns, Poison):
        return POISON
    return ctx.op(call, "ge", rows, columns)


@word("one_hot ids classes type", type=False)
def _one_hot(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    ids = array(ctx, given["ids"], DType.I32)
    classes = as_dim(given["classes"].item)
    kind = _kind(ctx, given["type"])
    if ids is None or kind is None:
        return POISON
    if classes is None:
        message = f"`one_hot` takes a number of classes, not {describe(given['classes'].item)}"
        return ctx.error("GC0402", message, given["classes"].node)
    if ids.type.dtype not in (DType.I32, DType.I64):
        message = f"`one_hot` takes integers, and this holds `{ids.type.dtype}`"
        return ctx.error("GC0303", message, given["ids"].node)
    rank = ids.type.rank
    sizes = (*ids.type.shape, classes)
    wide = ctx.op(call, "broadcast", ids, shape=sizes, dims=tuple(range(rank)))
    number = ctx.op(call, "iota", axis=rank, dtype=ids.type.dtype, shape=sizes)
    if isinstance(wide, Poison) or isinstance(number, Poison):
        return POISON
    mask = ctx.op(call, "eq", wide, number)
    if kind is DType.BOOL or isinstance(mask, Poison):
        return mask
    return ctx.op(call, "cast", mask, dtype=kind)
