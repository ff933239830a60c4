"""Statements that become ops with a region: ``scan`` and ``checkpoint``."""

from __future__ import annotations

from collections.abc import Sequence

from gradc.frontend.elaborate.context import Context, ScanScope
from gradc.frontend.elaborate.regions import Region
from gradc.frontend.elaborate.shapes import retype, tensor
from gradc.frontend.elaborate.values import (
    POISON,
    Binding,
    Item,
    Poison,
    as_dim,
    describe,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.walk import walk
from gradc.ir.diagnostics.diagnostic import Label
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import Dim


def checkpoint(ctx: Context, node: tree.Checkpoint) -> None:
    """Elaborates the body as a region; names it assigns that are used elsewhere become results."""
    frame = ctx.frame
    before = dict(frame.names)
    states = dict(ctx.state_values)
    region = Region(ctx.region)
    with ctx.inside(region):
        ctx.execute(node.body)
    names = [
        name
        for name, binding in frame.names.items()
        if before.get(name) is not binding and isinstance(binding.item, Value)
    ]
    # What only the block itself mentions stays inside, so that it need not be kept.
    elsewhere = _mentioned_outside(frame.body, node)
    kept = [name for name in names if name in before or name in elsewhere]
    written = [path for path, v in ctx.state_values.items() if states.get(path) is not v]
    values = [_value(frame.names[name].item) for name in kept]
    values += [ctx.state_values[path] for path in written]
    for name in names:
        if name not in kept:
            del frame.names[name]
    if not values:
        ctx.warn("GC0215", "this `checkpoint` assigns nothing that is used after it", node.span)
        return
    inner = list(dict.fromkeys(region.bring(value) for value in values))
    block = region.close(inner)
    types = [value.type for value in inner]
    made = ctx.append(node, "checkpoint", region.captures(), types, {}, (block,))
    outer = dict(zip(inner, made, strict=True))
    for name in kept:
        binding = frame.names[name]
        result = outer[region.bring(_value(binding.item))]
        frame.names[name] = Binding(result, binding.span)
        ctx.call_it(result, name, binding.span)
    for path in written:
        ctx.state_values[path] = outer[region.bring(ctx.state_values[path])]


def _value(item: Item) -> Value:
    assert isinstance(item, Value)
    return item


def _mentioned_outside(body: tree.Block, inside: tree.Checkpoint) -> set[str]:
    """The names that ``body`` mentions outside of one of its statements."""
    found: set[str] = set()
    pending: list[tree.Node] = list(body)
    while pending:
        node = pending.pop()
        if node is inside:
            continue
        if isinstance(node, (tree.If, tree.For, tree.Checkpoint)):
            if isinstance(node, tree.If):
                pending += [node.condition, *node.then, *node.otherwise]
            elif isinstance(node, tree.For):
                pending += [node.iterable, *node.body]
            else:
                pending += node.body
            continue
        found.update(part.text for part in walk(node) if isinstance(part, tree.Name))
    return found


def scan(ctx: Context, node: tree.Scan) -> None:
    """Elaborates a rolled loop."""
    trips, sources = _sources(ctx, node)
    carries = _carries(ctx, node)
    window = _window(ctx, node)
    if sources is None or carries is None or trips is None or window is None:
        _spoil(ctx, node)
        return
    outer, frame = ctx.region, ctx.frame
    region = Region(outer)
    before = dict(frame.names)
    scope = ScanScope(region, trips)
    ctx.scans.append(scope)
    for carry, initial in zip(node.carries, carries, strict=True):
        parameter = region.parameter(initial.type, carry.name.text)
        ctx.bind(carry.name.text, parameter, carry.name.span)
    for item, source in zip(node.inputs, sources, strict=True):
        slice_type = TensorType(source.type.shape[1:], source.type.dtype)
        parameter = region.parameter(slice_type, item.target.text)
        ctx.bind(item.target.text, parameter, item.target.span)
    frame.yielded = None
    with ctx.inside(region):
        ctx.execute(node.body)
        nexts = _next_carries(ctx, node, carries)
        stacked = _yields(ctx, node)
    ctx.scans.pop()
    last = {carry.name.text: frame.names[carry.name.text] for carry in node.carries}
    frame.names.clear()
    frame.names.update(before)
    if nexts is None or stacked is None:
        _spoil(ctx, node)
        return
    made = _emit(ctx, node, region, trips, window, carries, [*sources, *scope.keys], nexts, stacked)
    for carry, result in zip(node.carries, made[: len(carries)], strict=True):
        ctx.bind(carry.name.text, result, last[carry.name.text].span)
    for target, result in zip(node.targets, made[len(carries) :], strict=True):
        ctx.bind(target.text, result, target.span)


def _spoil(ctx: Context, node: tree.Scan) -> None:
    for target in node.targets:
        ctx.bind(target.text, POISON, target.span)
    for carry in node.carries:
        ctx.bind(carry.name.text, POISON, carry.name.span)


def _emit(
    ctx: Context,
    node: tree.Scan,
    region: Region,
    trips: Dim,
    window: int,
    carries: Sequence[Value],
    sources: Sequence[Value],
    nexts: Sequence[Value],
    stacked: Sequence[Value],
) -> tuple[Value, ...]:
    block = region.close([*nexts, *stacked])
    types = [value.type for value in carries]
    types += [value.type.with_shape((trips, *value.type.shape)) for value in stacked]
    operands = [*carries, *sources, *region.captures()]
    return ctx.append(
        node,
        "scan",
        operands,
        types,
        {
            "trips": trips,
            "carried": len(carries),
            "stacked": len(sources),
            "reverse": False,
            "truncate": window,
        },
        (block,),
    )


def _sources(ctx: Context, node: tree.Scan) -> tuple[Dim | None, list[Value] | None]:
    """The arrays that are walked and their common length."""
    trips: Dim | None = None
    first: tree.ScanInput | None = None
    sources: list[Value] = []
    is_good = True
    for item in node.inputs:
        value = ctx.evaluate(item.source)
        if not isinstance(value, Value) or value.type.rank == 0:
            if not isinstance(value, Poison):
                message = f"`scan` walks the first axis of an array, not of {describe(value)}"
                ctx.error("GC0310", message, item.source)
            is_good = False
            continue
        length = value.type.shape[0]
        if first is None:
            trips, first = length, item
        elif not ctx.same(length, trips if trips is not None else length):
            ctx.error(
                "GC0310",
                f"`scan` walks arrays of equal length, and these have {trips} and {length} slices",
                item,
                labels=[Label(ctx.span(first), f"{trips} slices")],
            )
            is_good = False
        if trips is not None and length != trips:
            value = retype(ctx, value, (trips, *value.type.shape[1:]), item)
        sources.append(value)
    return trips, sources if is_good else None


def _carries(ctx: Context, node: tree.Scan) -> list[Value] | None:
    carries: list[Value] = []
    for carry in node.carries:
        item = ctx.evaluate(carry.initial)
        dtype = ctx.frame.floating if isinstance(item, float) else None
        value = tensor(ctx, item, carry.initial, dtype)
        if isinstance(value, Value):
            carries.append(value)
    return carries if len(carries) == len(node.carries) else None


def _window(ctx: Context, node: tree.Scan) -> int | None:
    """How many steps back the reverse sweep goes; 0 for all."""
    if node.truncate is None:
        return 0
    item = ctx.evaluate(node.truncate)
    if isinstance(item, Poison):
        return None
    dim = as_dim(item)
    known = None if dim is None else ctx.sampled(dim)
    if known is None or known < 1:
        message = f"`truncate` takes a known number of steps, at least 1, not {describe(item)}"
        ctx.error("GC0401", message, node.truncate)
        return None
    return known


def _next_carries(ctx: Context, node: tree.Scan, carries: Sequence[Value]) -> list[Value] | None:
    """The carried names' values at the end of the body, which must have the types they began
    with.
    """
    nexts: list[Value] = []
    is_good = True
    for carry, initial in zip(node.carries, carries, strict=True):
        binding = ctx.frame.names[carry.name.text]
        item = binding.item
        if isinstance(item, (bool, int, float)):
            item = tensor(ctx, item, carry, initial.type.dtype)
        if isinstance(item, Value) and item.type.dtype is initial.type.dtype:
            if item.type == initial.type:
                nexts.append(item)
                continue
            if ctx.same_shape(item.type.shape, initial.type.shape):
                nexts.append(retype(ctx, item, initial.type.shape, carry))
                continue
        is_good = False
        if isinstance(item, Poison):
            continue
        found = f"`{show_type(item)}`" if isinstance(item, Value) else describe(item)
        name = carry.name.text
        help = ""
        if initial.type.dtype is DType.I32 and not initial.type.shape:
            help = f"a float starts as `{name} = 0.0`, an array as `{name} = zeros([...])`"
        ctx.error(
            "GC0309",
            f"`{name}` is carried as `{show_type(initial)}` and becomes {found}",
            binding.span or node.span,
            labels=[Label(ctx.span(carry), f"starts as `{show_type(initial)}`")],
            help=help,
        )
    return nexts if is_good else None


def _yields(ctx: Context, node: tree.Scan) -> list[Value] | None:
    """What the body yields, one for each target."""
    yielded, ctx.frame.yielded = ctx.frame.yielded, None
    items = yielded or ()
    if len(items) != len(node.targets):
        count, wanted = len(items), len(node.targets)
        values = f"{count} value{'s' if count != 1 else ''}"
        names = f"{wanted} name{'s' if wanted != 1 else ''}"
        message = f"this `scan` yields {values} and is assigned to {names}"
        ctx.error("GC0310", message, node.targets[0] if node.targets else node)
        return None
    values_: list[Value] = []
    for item in items:
        dtype = ctx.frame.floating if isinstance(item, float) else None
        value = tensor(ctx, item, node, dtype)
        if isinstance(value, Value):
            values_.append(value)
    return values_ if len(values_) == len(items) else None
