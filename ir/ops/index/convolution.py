"""Elements of convolutions in the index algebra, and how their sizes become symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradc.ir.ops.convolution_types import Geometry, geometry
from gradc.ir.ops.index.element import Elements, Shapes
from gradc.ir.ops.index.sums import (
    Entry,
    Linear,
    LinearIndex,
    constant,
    equation,
    plus,
    times,
)
from gradc.ir.tensor.core import Op, TensorType
from gradc.ir.tensor.dims import Dim, floordiv, symbol


def _met(op: Op, axis: int, out: Linear, tap: Linear) -> Linear:
    """The position in the image that a tap of the filter meets."""
    g = geometry(op.name, op.attributes)
    found = plus(plus({}, out, g.stride[axis]), tap, g.dilation[axis])
    return plus(found, constant(g.padding[axis][0]), -1)


def _grouped(r: Elements, op: Op, outputs: Dim, o: Linear, term: Callable[[int], Entry]) -> Entry:
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


def convolution(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x, w = op.operands
    n, o, *out = index
    channels = w.type.shape[1]

    def term(bound: LinearIndex) -> Entry:
        c, *taps = bound
        at = [_met(op, a, out[a], taps[a]) for a in range(len(out))]
        weight = r.read(w, [o, *bound])
        return _grouped(
            r, op, w.type.shape[0], o,
            lambda g: times(weight, r.read(x, [n, plus(c, constant(channels * g)), *at])),
        )  # fmt: skip

    return r.sum_over(w.type.shape[1:], term)


def of_input(r: Elements, op: Op, index: LinearIndex) -> Entry:
    ct, w = op.operands
    n, channel, *image = index
    outputs, channels, *size = w.type.shape

    def term(bound: LinearIndex) -> Entry:
        o, c, *rest = bound
        taps, out = rest[: len(size)], rest[len(size) :]
        found = r.read(w, [o, c, *taps])
        for a, tap in enumerate(taps):
            found = times(found, equation(plus(_met(op, a, out[a], tap), image[a], -1)))
        found = times(found, r.read(ct, [n, o, *out])) if found else []

        def part(g: int) -> Entry:
            return times(found, equation(plus(plus(c, constant(channels * g)), channel, -1)))

        return _grouped(r, op, outputs, o, part)

    return r.sum_over([outputs, channels, *size, *ct.type.shape[2:]], term)


def of_filter(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x, ct = op.operands
    o, c, *taps = index
    outputs, channels = op.result.type.shape[:2]

    def term(bound: LinearIndex) -> Entry:
        n, *out = bound
        at = [_met(op, a, out[a], taps[a]) for a in range(len(out))]
        weight = r.read(ct, [n, o, *out])
        return _grouped(
            r, op, outputs, o,
            lambda g: times(weight, r.read(x, [n, plus(c, constant(channels * g)), *at])),
        )  # fmt: skip

    return r.sum_over([x.type.shape[0], *ct.type.shape[2:]], term)


def _symbols(names: str, g: Geometry) -> tuple[Dim, ...]:
    """A size for each spatial axis, the last of ``names`` for the last."""
    return tuple(symbol(name) for name in names[-len(g.stride) :])


def fit_convolution(
    operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]
) -> None:
    count = geometry("convolution", attributes).groups
    shapes[1][0] = count * symbol("o") if count > 1 else shapes[1][0]
    shapes[0][1] = count * shapes[1][1]


def fit_input(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    g = geometry("convolution", attributes)
    size = _symbols("dhw", g)
    attributes["size"] = size
    shapes[1][0] = g.groups * symbol("o") if g.groups > 1 else shapes[1][0]
    shapes[0][1] = shapes[1][0]
    for axis in g.axes:
        shapes[0][2 + axis] = g.output(axis, size[axis], shapes[1][2 + axis])


def fit_filter(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    g = geometry("convolution", attributes)
    size = _symbols("rpq", g)
    attributes["size"] = size
    shapes[1][0] = shapes[0][0]
    if g.groups > 1:
        shapes[0][1], shapes[1][1] = g.groups * symbol("c"), g.groups * symbol("o")
    for axis in g.axes:
        shapes[1][2 + axis] = g.output(axis, shapes[0][2 + axis], size[axis])
