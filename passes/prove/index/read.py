"""Elements of programs as sums of products: what each op computes, in indices.

The table ``_ELEMENTS`` states, per op, the element of its result at an index in elements of its
operands. It is used for forward programs and for what rules emit alike. Tests hold the table
against the registry's evaluation, element by element.

Ops that are not polynomials of their operands (comparisons, quotients, functions) are opaque
factors, whose names spell out what they are functions of, down to the leaves: equal names are equal
functions, so nothing need be known of them. Booleans are 0 or 1. Off kinks and over the reals:
``gate`` is a product, a cast between floats does nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

from gradc.ir.ops.attributes import get_dims, get_int, get_ints, get_pair, get_pairs
from gradc.ir.ops.convolution_types import geometry
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType, Op, Value
from gradc.ir.tensor.dims import Dim, floordiv, product
from gradc.passes.prove.index.sums import (
    ONE,
    Binder,
    Entry,
    Factor,
    Linear,
    LinearIndex,
    Unfit,
    constant,
    equation,
    factor,
    normal_form,
    number,
    number_of,
    plus,
    scaled,
    times,
)


class Reader:
    """Reads elements of values through the ops that make them, down to ``leaves``, which have
    names.
    """

    def __init__(self, ops: Sequence[Op], leaves: dict[Value, str], binder: Binder) -> None:
        self.makers = {v: op for op in ops for v in op.results}
        self.leaves = leaves
        self.binder = binder
        self.names: dict[Value, str] = {}

    def read(self, value: Value, index: LinearIndex) -> Entry:
        """``value[index]``. Raises Unfit."""
        if value in self.leaves:
            name = self.leaves[value]
            return factor(name, index, value.type.shape, (name,))
        op = self.makers.get(value)
        if op is None:
            raise Unfit("a value from nowhere")
        rule = _ELEMENTS.get(op.name)
        if rule is not None:
            return rule(self, op, index)
        if lookup(op.name).is_elementwise:
            return self.opaque(op, index)
        raise Unfit(op.name)

    def sum_over(self, extents: Sequence[Dim], term: Callable[[LinearIndex], Entry]) -> Entry:
        """The sum of ``term`` over indices below ``extents``."""
        return [
            one
            for index, ranges in self.binder.choices(extents)
            for one in times(ranges, term(index))
        ]

    def opaque(self, op: Op, index: LinearIndex) -> Entry:
        """A function of elements of the operands."""
        found = [self.argument(x, index) for x in op.operands]
        if lookup(op.name).commutative:
            found.sort(key=lambda f: (f.name, repr(f.index)))
        names = [f.name for f in found]
        places = [i for f in found for i in f.index]
        shape = [n for f in found for n in f.shape]
        given = ",".join(f"{k}={v}" for k, v in sorted(op.attributes.items()))
        leaves = [leaf for f in found for leaf in f.leaves]
        return factor(f"{op.name}[{given}]({'; '.join(names)})", places, shape, leaves)

    def argument(self, x: Value, index: LinearIndex) -> Factor:
        """``x[index]`` as a function of some places, its name spelling out which."""
        entry = self.read(x, index)
        leaves = tuple(leaf for one in entry for f in one.factors for leaf in f.leaves)
        if len(entry) == 1 and not entry[0].equations and not entry[0].ranges:
            (one,) = entry
            names = "*".join([str(one.coefficient), *(f.name for f in one.factors)])
            places = tuple(e for f in one.factors for e in f.index)
            shape = tuple(n for f in one.factors for n in f.shape)
            return Factor(names, places, shape, leaves)
        if x not in self.names:
            anywhere: LinearIndex = [
                {} if n == 1 else {("slot", "of", a): Fraction(1)}
                for a, n in enumerate(x.type.shape)
            ]
            self.names[x] = digest(normal_form(self.read(x, anywhere)))
        return Factor(self.names[x], tuple(index), x.type.shape, leaves)


def digest(form: object) -> str:
    """A short name for a normal form."""
    return hashlib.blake2b(repr(form).encode(), digest_size=16).hexdigest()


Element: TypeAlias = Callable[[Reader, Op, LinearIndex], Entry]

# --- movement


def _broadcast(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    dims = get_ints(op.attributes, "dims")
    return r.read(x, [{} if n == 1 else index[d] for n, d in zip(x.type.shape, dims, strict=True)])


def _reshape(r: Reader, op: Op, index: LinearIndex) -> Entry:
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
    r: Reader, before: tuple[Dim, ...], after: tuple[Dim, ...], index: LinearIndex
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


def _transpose(r: Reader, op: Op, index: LinearIndex) -> Entry:
    perm = get_ints(op.attributes, "perm")
    found: LinearIndex = [{} for _ in perm]
    for place, axis in enumerate(perm):
        found[axis] = index[place]
    return r.read(op.operands[0], found)


def _slice(r: Reader, op: Op, index: LinearIndex) -> Entry:
    start, stride = get_dims(op.attributes, "start"), get_ints(op.attributes, "stride")
    rows = zip(start, stride, index, strict=True)
    return r.read(op.operands[0], [plus(constant(s), i, step) for s, step, i in rows])


def _pad(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    low, gap = get_dims(op.attributes, "low"), get_ints(op.attributes, "interior")

    def term(inner: LinearIndex) -> Entry:
        found = ONE
        for before, between, j, i in zip(low, gap, inner, index, strict=True):
            found = times(found, equation(plus(plus(constant(before), j, between + 1), i, -1)))
        return times(found, r.read(x, inner)) if found else []

    return r.sum_over(x.type.shape, term)


def _concat(r: Reader, op: Op, index: LinearIndex) -> Entry:
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


def _reverse(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")
    found = [
        plus(constant(n - 1), i, -1) if a in axes else i
        for a, (n, i) in enumerate(zip(x.type.shape, index, strict=True))
    ]
    return r.read(x, found)


# --- arithmetic


def _constant(_r: Reader, op: Op, _index: LinearIndex) -> Entry:
    value = op.attributes["value"]
    assert isinstance(value, (bool, int, float))
    if not math.isfinite(value):
        return factor(f"number {value}", [], [])
    near = Fraction(value).limit_denominator(1 << 16)
    # A literal is the fraction it was rounded from, as everywhere in proofs.
    return number(near if float(near) == value else Fraction(value))


def _add(r: Reader, op: Op, index: LinearIndex) -> Entry:
    return [one for x in op.operands for one in r.read(x, index)]


def _sub(r: Reader, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    return [*r.read(a, index), *scaled(r.read(b, index), -1)]


def _neg(r: Reader, op: Op, index: LinearIndex) -> Entry:
    return scaled(r.read(op.operands[0], index), -1)


def _mul(r: Reader, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    return times(r.read(a, index), r.read(b, index))


def _div(r: Reader, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    below = r.argument(b, index)
    return times(r.read(a, index), _inverse(below))


def _inverse(below: Factor) -> Entry:
    return factor(f"1/({below.name})", below.index, below.shape, below.leaves)


def _select(r: Reader, op: Op, index: LinearIndex) -> Entry:
    condition, a, b = op.operands
    holds, otherwise = r.read(condition, index), r.read(b, index)
    found = times(holds, r.read(a, index))
    return [*found, *otherwise, *scaled(times(holds, otherwise), -1)]


def _cast(r: Reader, op: Op, index: LinearIndex) -> Entry:
    before, after = op.operands[0].type.dtype, op.result.type.dtype
    if before is not DType.BOOL and before.is_float != after.is_float:
        return r.opaque(op, index)
    return r.read(op.operands[0], index)


def _not(r: Reader, op: Op, index: LinearIndex) -> Entry:
    return [*ONE, *scaled(r.read(op.operands[0], index), -1)]


# --- sums


def _sum(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")

    def term(inner: LinearIndex) -> Entry:
        some, rest = iter(inner), iter(index)
        return r.read(x, [next(some) if a in axes else next(rest) for a in range(x.type.rank)])

    return r.sum_over([n for a, n in enumerate(x.type.shape) if a in axes], term)


def _prod(r: Reader, op: Op, index: LinearIndex) -> Entry:
    """The product of all factors, whose number must be known."""
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")
    extents = [n for a, n in enumerate(x.type.shape) if a in axes]
    found = ONE
    for inner, ranges in r.binder.choices(extents):
        if ranges != ONE:
            raise Unfit("a product over a symbolic size")
        some, rest = iter(inner), iter(index)
        at = [next(some) if a in axes else next(rest) for a in range(x.type.rank)]
        found = times(found, r.read(x, at))
    return found


def _cumsum(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x, axis = op.operands[0], get_int(op.attributes, "axis")
    n = x.type.shape[axis]

    def term(inner: LinearIndex) -> Entry:
        (j,) = inner
        pair = [index[axis], j] if op.attributes["reverse"] else [j, index[axis]]
        element = r.read(x, [*index[:axis], j, *index[axis + 1 :]])
        return times(factor("not above", pair, [n, n]), element)

    return r.sum_over([n], term)


def _contract(r: Reader, op: Op, index: LinearIndex) -> Entry:
    batch, inner = (get_pairs(op.attributes, name) for name in ("batch", "contract"))
    a, b = op.operands

    def term(bound: LinearIndex) -> Entry:
        places: list[dict[int, Linear]] = [{}, {}]
        rest = iter(index)
        for pair in batch:
            places[0][pair[0]] = places[1][pair[1]] = next(rest)
        for pair, i in zip(inner, bound, strict=True):
            places[0][pair[0]] = places[1][pair[1]] = i
        found = ONE
        for x, known in zip((a, b), places, strict=True):
            for axis in range(x.type.rank):
                if axis not in known:
                    known[axis] = next(rest)
            found = times(found, r.read(x, [known[axis] for axis in range(x.type.rank)]))
        return found

    return r.sum_over([a.type.shape[i] for i, _ in inner], term)


def _take(r: Reader, op: Op, index: LinearIndex) -> Entry:
    table, ids = op.operands
    axis = get_int(op.attributes, "axis")
    end = axis + ids.type.rank
    n = table.type.shape[axis]

    def term(inner: LinearIndex) -> Entry:
        (row,) = inner
        met = factor("ids", [row, *index[axis:end]], [n, *ids.type.shape])
        return times(met, r.read(table, [*index[:axis], row, *index[end:]]))

    return r.sum_over([n], term)


def _scatter_add(r: Reader, op: Op, index: LinearIndex) -> Entry:
    ids, updates = op.operands
    axis = get_int(op.attributes, "axis")

    def term(places: LinearIndex) -> Entry:
        met = factor("ids", [index[axis], *places], [op.result.type.shape[axis], *ids.type.shape])
        return times(met, r.read(updates, [*index[:axis], *places, *index[axis + 1 :]]))

    return r.sum_over(ids.type.shape, term)


# --- windows


def _met(op: Op, axis: int, out: Linear, tap: Linear) -> Linear:
    """The position in the image that a tap of the filter meets."""
    g = geometry(op.name, op.attributes)
    found = plus(plus({}, out, g.stride[axis]), tap, g.dilation[axis])
    return plus(found, constant(g.padding[axis][0]), -1)


def _grouped(r: Reader, op: Op, outputs: Dim, o: Linear, term: Callable[[int], Entry]) -> Entry:
    """``term`` of each group g, where output channel ``o`` is in it: o = g * outputs / groups +
    rest.
    """
    groups_ = geometry(op.name, op.attributes).groups
    if groups_ == 1:
        return term(0)
    each = floordiv(outputs, groups_)
    found: Entry = []
    for g in range(groups_):
        for (rest,), ranges in r.binder.choices([each]):
            met = equation(plus(plus(rest, constant(each * g)), o, -1))
            if met:
                found += times(times(ranges, met), term(g))
    return found


def _conv2d(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x, w = op.operands
    n, o, *out = index
    channels = w.type.shape[1]

    def term(bound: LinearIndex) -> Entry:
        c, *taps = bound
        at = [_met(op, a, out[a], taps[a]) for a in (0, 1)]
        weight = r.read(w, [o, *bound])
        return _grouped(
            r, op, w.type.shape[0], o,
            lambda g: times(weight, r.read(x, [n, plus(c, constant(channels * g)), *at])),
        )  # fmt: skip

    return r.sum_over(w.type.shape[1:], term)


def _conv2d_input(r: Reader, op: Op, index: LinearIndex) -> Entry:
    ct, w = op.operands
    n, channel, *image = index
    outputs, channels, *size = w.type.shape

    def term(bound: LinearIndex) -> Entry:
        o, c, p, q, *out = bound
        found = r.read(w, [o, c, p, q])
        for a, tap in ((0, p), (1, q)):
            found = times(found, equation(plus(_met(op, a, out[a], tap), image[a], -1)))
        found = times(found, r.read(ct, [n, o, *out])) if found else []

        def part(g: int) -> Entry:
            return times(found, equation(plus(plus(c, constant(channels * g)), channel, -1)))

        return _grouped(r, op, outputs, o, part)

    return r.sum_over([outputs, channels, *size, *ct.type.shape[2:]], term)


def _conv2d_filter(r: Reader, op: Op, index: LinearIndex) -> Entry:
    x, ct = op.operands
    o, c, *taps = index
    outputs, channels = op.result.type.shape[:2]

    def term(bound: LinearIndex) -> Entry:
        n, *out = bound
        at = [_met(op, a, out[a], taps[a]) for a in (0, 1)]
        weight = r.read(ct, [n, o, *out])
        return _grouped(
            r, op, outputs, o,
            lambda g: times(weight, r.read(x, [n, plus(c, constant(channels * g)), *at])),
        )  # fmt: skip

    return r.sum_over([x.type.shape[0], *ct.type.shape[2:]], term)


def _avg_pool(r: Reader, op: Op, index: LinearIndex) -> Entry:
    """The mean over places of a window, zeros outside the image."""
    x = op.operands[0]
    size, stride = get_pair(op.attributes, "size"), get_pair(op.attributes, "stride")
    padding = get_pairs(op.attributes, "padding")

    def term(bound: LinearIndex) -> Entry:
        p, q, *inner = bound
        found = number(Fraction(1, size[0] * size[1]))
        for a, tap in ((0, p), (1, q)):
            at = plus(plus({}, index[2 + a], stride[a]), tap)
            met = plus(plus(at, constant(padding[a][0]), -1), inner[a], -1)
            found = times(found, equation(met))
        return times(found, r.read(x, [*index[:2], *inner])) if found else []

    return r.sum_over([*size, *x.type.shape[2:]], term)


_ELEMENTS: dict[str, Element] = {
    "broadcast": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "reverse": _reverse,
    "constant": _constant,
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "gate": _mul,
    "div": _div,
    "select": _select,
    "cast": _cast,
    "logical_not": _not,
    "logical_and": _mul,
    "sum": _sum,
    "prod": _prod,
    "cumsum": _cumsum,
    "contract": _contract,
    "take": _take,
    "scatter_add": _scatter_add,
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_filter": _conv2d_filter,
    "avg_pool": _avg_pool,
}
