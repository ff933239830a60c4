"""Rules of ops between axes, proved for every shape: <g, J v> and <pullback(g), v> are the same
sum.

J comes from what the op computes, element by element (``prove_index_read``): a polynomial of
elements is differentiated by the product rule; an extremum by Danskin's: its derivative is that of
the elements that attain it, shared among ties. The forward rule is held against the same J. Both
sides are brought to the normal form of ``prove_index_sums``, with symbols for sizes, so a proof
holds for all of them. Attributes (strides, paddings, windows, axes) are those of the instance. A
product is written out at a few factors; its tree is proved for every number (``prove_index_prod``).

Every theorem is tried over a prime field at three small shapes as well, against the registry's own
evaluation, so that a fault of the algebra or of its table of elements would show.

Non-goals: functions of single elements (``prove_exact``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeAlias

from gradc.ir.ops.attributes import get_dim, get_dims, get_int, get_ints, get_pair, get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.convolution_types import geometry
from gradc.ir.ops.registry import TypeRuleError, lookup
from gradc.ir.tensor.core import DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim, substitute, symbol, symbols
from gradc.ir.tensor.dims import product as size_of
from gradc.passes.prove.index.prod import tree_is_proved
from gradc.passes.prove.index.read import Reader, groups
from gradc.passes.prove.index.sums import (
    Binder,
    Entry,
    Sum,
    Unfit,
    factor,
    normal_form,
    times,
)
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.rules import Instance, holds_in_field, instance, tangent_holds

INDEX_OPS = (
    "broadcast", "reshape", "transpose", "slice", "pad", "concat", "reverse", "sum", "contract",
    "cumsum", "take", "scatter_add", "conv2d", "conv2d_input", "conv2d_filter", "avg_pool",
    "max_pool", "reduce_max", "reduce_min", "prod",
)  # fmt: skip
# At how many shapes a theorem is tried, and how many choices of sizes are looked through for them.
REPLAYS = 3
_TRIES = 40
# A product is written out at this many factors along an axis; its tree is proved for every number.
_FACTORS = 5


@dataclass
class Theorem:
    """An op with symbols for sizes: operand types and attributes, and the sizes they stand for."""

    name: str
    types: list[TensorType]
    attributes: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)

    def at(self, sizes: dict[str, int]) -> Instance:
        """The op at numbers for symbols. Raises TypeRuleError or ValueError where they do not
        fit.
        """
        types = [
            t.with_shape(tuple(substitute(n, dict(sizes)) for n in t.shape)) for t in self.types
        ]
        return instance(self.name, types, _bound(self.attributes, sizes))


def _bound(item: Any, sizes: dict[str, int]) -> Any:
    if isinstance(item, dict):
        return {k: _bound(v, sizes) for k, v in item.items()}
    if isinstance(item, tuple):
        return tuple(_bound(v, sizes) for v in item)
    if isinstance(item, (str, bool, float)) or not symbols_of(item):
        return item
    return substitute(item, dict(sizes))


def symbols_of(item: Any) -> tuple[str, ...]:
    """The symbols in a size; none in anything else."""
    return () if isinstance(item, (int, DType)) else symbols(item)


# --- both sides


@dataclass(frozen=True)
class _Forward:
    """The op on parameters, and the same op once more, whose result is read and not named."""

    ops: Sequence[Op]
    operands: Sequence[Value]
    named: Op
    read: Value

    def leaves(self) -> dict[Value, str]:
        found = {v: f"x{n}" for n, v in enumerate(self.operands)}
        return {**found, self.named.result: "y"}


def _forward(theorem: Theorem) -> tuple[Builder, _Forward]:
    b = Builder()
    operands = [b.parameter(t) for t in theorem.types]
    b.apply(theorem.name, operands, theorem.attributes)
    named = b.ops[-1]
    read = b.apply(theorem.name, operands, theorem.attributes)[0]
    return b, _Forward(tuple(b.ops), operands, named, read)


def _paired(binder: Binder, value: Value, seed: str, term: Callable[[Any], Entry]) -> Entry:
    """<seed, term> over the shape of ``value``."""
    shape = value.type.shape
    found: Entry = []
    for index, ranges in binder.choices(shape):
        found += times(times(ranges, factor(seed, index, shape)), term(index))
    return found


def _derivative(forward: _Forward, place: int, binder: Binder) -> Entry:
    """<g, J v> with v at operand ``place`` alone."""
    law = _LAWS.get(forward.named.name)
    if law is not None:
        b = Builder()
        v = b.parameter(forward.operands[place].type)
        out = law(b, forward.named, v)
        leaves = {**forward.leaves(), v: f"v{place}"}
        reader = Reader(b.ops, leaves, binder)
        return _paired(binder, forward.named.result, "g", lambda i: reader.read(out, i))
    reader = Reader(forward.ops, forward.leaves(), binder)
    whole = _paired(binder, forward.named.result, "g", lambda i: reader.read(forward.read, i))
    return [one for term in whole for one in _product_rule(term, f"x{place}", f"v{place}")]


def _product_rule(term: Sum, operand: str, direction: str) -> Entry:
    """One term per factor that is an element of ``operand``. Raises Unfit if something else depends
    on it.
    """
    found = []
    for n, f in enumerate(term.factors):
        if f.name == operand:
            moved = replace(f, name=direction, leaves=(direction,))
            found.append(replace(term, factors=[*term.factors[:n], moved, *term.factors[n + 1 :]]))
        elif operand in f.leaves or "y" in f.leaves:
            raise Unfit(f"{f.name} is not a polynomial")
    return found


def _masked(b: Builder, pieces: Sequence[tuple[Value, Value]], y: Value) -> tuple[Value, Value]:
    """Over pieces (elements, their tangents): tangents of those that equal y, and how many do."""
    total: Value | None = None
    count: Value | None = None
    for x, v in pieces:
        mask = b.one("eq", x, y)
        one = b.one("cast", mask, dtype=v.type.dtype)
        part = b.one("select", mask, v, b.constant(0.0, v.type.dtype, v.type.shape))
        total = part if total is None else b.one("add", total, part)
        count = one if count is None else b.one("add", count, one)
    assert total is not None and count is not None
    return total, count


def _extremum_of_axes(b: Builder, op: Op, v: Value) -> Value:
    axes, shape = get_ints(op.attributes, "axes"), v.type.shape
    kept = tuple(a for a in range(len(shape)) if a not in axes)
    wide = b.one("broadcast", op.result, shape=shape, dims=kept)
    total, count = (b.one("sum", x, axes=axes) for x in _masked(b, [(op.operands[0], v)], wide))
    return b.one("div", total, count)


def _extremum_of_windows(b: Builder, op: Op, v: Value) -> Value:
    """Elements outside the image are minus infinity, and have no tangent."""
    size, stride = get_pair(op.attributes, "size"), get_pair(op.attributes, "stride")
    low, high = zip(*get_pairs(op.attributes, "padding"), strict=True)
    x, (n, c, *out) = op.operands[0], op.result.type.shape
    if any(low) or any(high):
        around: dict[str, Any] = {"low": (0, 0, *low), "high": (0, 0, *high), "interior": (0,) * 4}
        inside = b.one("pad", b.constant(True, DType.BOOL, x.type.shape), **around)
        least = b.constant(float("-inf"), x.type.dtype, inside.type.shape)
        x = b.one("select", inside, b.one("pad", x, **around), least)
        v = b.one("pad", v, **around)
    pieces = []
    for p, q in product(range(size[0]), range(size[1])):
        limit = (n, c, *(a + (m - 1) * s + 1 for a, m, s in zip((p, q), out, stride, strict=True)))
        given: dict[str, Any] = {"start": (0, 0, p, q), "limit": limit, "stride": (1, 1, *stride)}
        pieces.append((b.one("slice", x, **given), b.one("slice", v, **given)))
    return b.one("div", *_masked(b, pieces, op.result))


_LAWS: dict[str, Callable[[Builder, Op, Value], Value]] = {
    "reduce_max": _extremum_of_axes,
    "reduce_min": _extremum_of_axes,
    "max_pool": _extremum_of_windows,
}


# --- theorems


def pullback_is_proved(theorem: Theorem) -> bool:
    """Whether the reverse rule is right at all sizes: all operands wanted, and each alone. Raises
    Unfit.
    """
    b, forward = _forward(theorem)
    result = forward.named.result
    places = [n for n, v in enumerate(forward.operands) if v.type.dtype.is_float]
    binder = Binder()
    expected = {n: normal_form(_derivative(forward, n, binder)) for n in places}
    for wanted in dict.fromkeys((tuple(places), *((n,) for n in places))):
        sweep = Builder()
        g = sweep.parameter(result.type)
        needed = [n in wanted for n in range(len(forward.operands))]
        cts = lookup(theorem.name).vjp(sweep, forward.named, [g], needed)
        leaves = {**forward.leaves(), g: "g"}
        for n in wanted:
            reader = Reader((*b.ops, *sweep.ops), leaves, binder)
            ct = cts[n]
            found: Entry = []
            if ct is not None:
                if ct.type.shape != forward.operands[n].type.shape:
                    return False
                found = _paired(binder, ct, f"v{n}", _reads(reader, ct))
            if normal_form(found) != expected[n]:
                return False
    return True


def _reads(reader: Reader, value: Value) -> Callable[[Any], Entry]:
    return lambda index: reader.read(value, index)


def tangent_is_proved(theorem: Theorem) -> bool:
    """Whether the forward rule is right at all sizes: each operand's tangent alone, and all. Raises
    Unfit.
    """
    b, forward = _forward(theorem)
    result = forward.named.result
    places = [n for n, v in enumerate(forward.operands) if v.type.dtype.is_float]
    binder = Binder()
    expected = {n: _derivative(forward, n, binder) for n in places}
    for given in dict.fromkeys((tuple(places), *((n,) for n in places))):
        sweep = Builder()
        vs = {n: sweep.parameter(forward.operands[n].type) for n in given}
        tangents = [vs.get(n) for n in range(len(forward.operands))]
        (out,) = lookup(theorem.name).jvp(sweep, forward.named, tangents)
        leaves = {**forward.leaves(), **{v: f"v{n}" for n, v in vs.items()}}
        reader = Reader((*b.ops, *sweep.ops), leaves, binder)
        found: Entry = []
        if out is not None:
            if out.type.shape != result.type.shape:
                return False
            found = _paired(binder, result, "g", _reads(reader, out))
        if normal_form(found) != normal_form([one for n in given for one in expected[n]]):
            return False
    return True


def replayed(theorem: Theorem, forward: bool = False, tries: int = _TRIES) -> int:
    """At how many small shapes, up to three, the rule holds over the prime field; -1 if at one it
    does not.
    """
    holds = tangent_confirmed if forward else confirmed
    names = sorted(theorem.sizes)
    held = 0
    for number in range(tries):
        if held == REPLAYS or (held and not names):
            break
        sizes = {
            name: 2 + (number * (2 * n + 1) + n + number // 3) % (3 + number // 4)
            for n, name in enumerate(names)
        }
        try:
            case = theorem.at(sizes)
        except (TypeRuleError, ValueError):
            continue
        types = [v.type for v in (*case.parameters, *case.op.results)]
        if any(n < 1 for t in types for n in t.static_shape):
            continue
        if not holds(case):
            return -1
        held += 1
    return held


def confirmed(case: Instance) -> bool:
    """The reverse rule at a point of the field, for every order of the operands or else for one."""
    seed = 1 + len(str(case))
    return holds_in_field(case, seed, 1) or holds_in_field(case, seed, 1, is_opaque=False)


def tangent_confirmed(case: Instance) -> bool:
    """The forward rule at a point of the field."""
    seed = 2 + len(str(case))
    return tangent_holds(case, seed, 1) or tangent_holds(case, seed, 1, is_opaque=False)


# --- symbols for sizes

Shapes: TypeAlias = list[list[Dim]]


def generalised(case: Instance) -> Theorem:
    """Operand types with symbols for sizes (1 stays 1), and attributes to match."""
    attributes: dict[str, Any] = dict(case.op.attributes)
    shapes: Shapes = [
        [n if n < 2 else symbol(f"n{k}_{a}") for a, n in enumerate(v.type.static_shape)]
        for k, v in enumerate(case.parameters)
    ]
    if case.name in _FITTED:
        _FITTED[case.name](case, shapes, attributes)
    rows = zip(case.parameters, shapes, strict=True)
    theorem = Theorem(case.name, [v.type.with_shape(tuple(s)) for v, s in rows], attributes)
    used = {name for t in theorem.types for n in t.shape for name in symbols_of(n)}
    used |= {name for item in attributes.values() for name in _names_in(item)}
    theorem.sizes = dict.fromkeys(sorted(used), 0)
    return theorem


def _names_in(item: Any) -> list[str]:
    if isinstance(item, tuple):
        return [name for part in item for name in _names_in(part)]
    return [] if isinstance(item, (str, bool, float)) else list(symbols_of(item))


def _fit_broadcast(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    sizes = list(get_dims(attributes, "shape"))
    wanted: list[Dim] = [1 if n == 1 else symbol(f"m{a}") for a, n in enumerate(sizes)]
    for n, d in zip(shapes[0], get_ints(attributes, "dims"), strict=True):
        if n != 1:
            wanted[d] = n
    attributes["shape"] = tuple(wanted)


def _fit_reshape(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    """One axis against several: these have symbols, and it their product. Else sizes are kept."""
    before: list[Dim] = []
    after: list[Dim] = []
    for k, (a, b) in enumerate(
        groups(case.parameters[0].type.shape, get_dims(attributes, "shape"))
    ):
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


def _fit_slice(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    """A slice to the end goes to the end; one with steps has room for them."""
    sizes = case.parameters[0].type.static_shape
    limit = list(get_dims(attributes, "limit"))
    for axis, n in enumerate(sizes):
        if limit[axis] == n:
            limit[axis] = shapes[0][axis]
    attributes["limit"] = tuple(limit)


def _fit_concat(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    axis = get_int(attributes, "axis")
    for shape in shapes[1:]:
        shape[:] = [n if a == axis else shapes[0][a] for a, n in enumerate(shape)]


def _fit_contract(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    for i, j in (*get_pairs(attributes, "batch"), *get_pairs(attributes, "contract")):
        shapes[1][j] = shapes[0][i]


def _fit_scatter(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    axis = get_int(attributes, "axis")
    shapes[1][axis : axis + len(shapes[0])] = shapes[0]
    if get_dim(attributes, "size") != 1:
        attributes["size"] = symbol("m")


def _fit_conv2d(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    count = geometry(case.name, attributes).groups
    shapes[1][0] = count * symbol("o") if count > 1 else shapes[1][0]
    shapes[0][1] = count * shapes[1][1]


def _fit_input(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    g = geometry(case.name, attributes)
    size: tuple[Dim, ...] = (symbol("h"), symbol("w"))
    attributes["size"] = size
    shapes[1][0] = g.groups * symbol("o") if g.groups > 1 else shapes[1][0]
    shapes[0][1] = shapes[1][0]
    for axis in (0, 1):
        shapes[0][2 + axis] = g.output(axis, size[axis], shapes[1][2 + axis])


def _fit_filter(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    g = geometry(case.name, attributes)
    size: tuple[Dim, ...] = (symbol("p"), symbol("q"))
    attributes["size"] = size
    shapes[1][0] = shapes[0][0]
    if g.groups > 1:
        shapes[0][1], shapes[1][1] = g.groups * symbol("c"), g.groups * symbol("o")
    for axis in (0, 1):
        shapes[1][2 + axis] = g.output(axis, shapes[0][2 + axis], size[axis])


def _fit_prod(case: Instance, shapes: Shapes, attributes: dict[str, Any]) -> None:
    """A few factors: more of them are a matter of the tree alone."""
    for axis in get_ints(attributes, "axes"):
        shapes[0][axis] = min(_FACTORS, case.parameters[0].type.static_shape[axis])


_FITTED: dict[str, Callable[[Instance, Shapes, dict[str, Any]], None]] = {
    "broadcast": _fit_broadcast,
    "reshape": _fit_reshape,
    "slice": _fit_slice,
    "concat": _fit_concat,
    "contract": _fit_contract,
    "scatter_add": _fit_scatter,
    "conv2d": _fit_conv2d,
    "conv2d_input": _fit_input,
    "conv2d_filter": _fit_filter,
    "prod": _fit_prod,
}
_MISFITS = (Unfit, TypeRuleError, TypeError, ValueError, KeyError, StopIteration, AttributeError)
# What else a rule rests on.
_LEMMAS = {"prod": tree_is_proved}
_ASSUMED = {
    "take": ("ids lie within their tables",),
    "scatter_add": ("ids lie within their tables",),
    "max_pool": ("off kinks",),
    "reduce_max": ("off kinks",),
    "reduce_min": ("off kinks",),
}


def index_verdict(name: str, cases: Sequence[Instance], forward: bool = False) -> Verdict | None:
    """A proof for all shapes of every instance's rule (of its forward rule, if asked), or None."""
    if name not in INDEX_OPS:
        return None
    if name in _LEMMAS and not _LEMMAS[name]():
        return None
    method = tangent_is_proved if forward else pullback_is_proved
    shapes = 0
    for case in cases:
        try:
            theorem = generalised(case)
            if not method(theorem):
                return None
        except _MISFITS:
            return None
        held = replayed(theorem, forward)
        if held < 0:
            return None
        shapes += held
    detail = f"{len(cases)} sets of attributes, all sizes; tried at {shapes} shapes"
    return Verdict("rule", name, Status.PROVED_ALL, "index algebra", detail, _ASSUMED.get(name, ()))
