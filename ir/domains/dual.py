"""Dual numbers over any array domain: forward mode by evaluation, independent of the registry's
derivative rules.

An array is a primal and a tangent; a tangent that is identically zero is None. Every scalar verb
has its derivative in the table below, written apart from the partials of ``ir/ops``: two tables
made independently and compared in tests. Kinks follow the language: ties of max and min share,
relu'(0) = 0, the untaken side of a select contributes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import Arrays, NumpyArrays, Pairs, flatten_axes
from gradc.ir.tensor.core import DType


@dataclass(frozen=True, slots=True)
class Dual:
    """``primal + e * tangent`` with e**2 = 0."""

    primal: Any
    tangent: Any | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both parts."""
        shape: tuple[int, ...] = self.primal.shape
        return shape

    @property
    def ndim(self) -> int:
        return len(self.shape)


# slope(verb, y, operands) -> d y / d operand; `v` applies a verb of the base domain, `c` makes a
# literal.
Slope: TypeAlias = Callable[[Any, Any, Any, Sequence[Any]], Any]

_SLOPES: dict[str, tuple[Slope | None, ...]] = {
    "add": (lambda v, c, y, x: c(1.0), lambda v, c, y, x: c(1.0)),
    "sub": (lambda v, c, y, x: c(1.0), lambda v, c, y, x: c(-1.0)),
    "mul": (lambda v, c, y, x: x[1], lambda v, c, y, x: x[0]),
    "div": (
        lambda v, c, y, x: v("div", c(1.0), x[1]),
        lambda v, c, y, x: v("neg", v("div", x[0], v("mul", x[1], x[1]))),
    ),
    "pow": (
        lambda v, c, y, x: v("mul", x[1], v("pow", x[0], v("sub", x[1], c(1.0)))),
        lambda v, c, y, x: v("mul", v("pow", x[0], x[1]), v("log", x[0])),
    ),
    "max": (lambda v, c, y, x: _share(v, c, y, *x), lambda v, c, y, x: _share(v, c, y, *x[::-1])),
    "min": (lambda v, c, y, x: _share(v, c, y, *x), lambda v, c, y, x: _share(v, c, y, *x[::-1])),
    "gate": (lambda v, c, y, x: x[1], lambda v, c, y, x: x[0]),
    "fma": (
        lambda v, c, y, x: x[1],
        lambda v, c, y, x: x[0],
        lambda v, c, y, x: c(1.0),
    ),
    "neg": (lambda v, c, y, x: c(-1.0),),
    "abs": (lambda v, c, y, x: v("sign", x[0]),),
    "sign": (None,),
    "floor": (None,),
    "round": (None,),
    "stop_gradient": (None,),
    "sqrt": (lambda v, c, y, x: v("div", c(1.0), v("mul", c(2.0), v("sqrt", x[0]))),),
    "rsqrt": (lambda v, c, y, x: v("div", c(-0.5), v("mul", x[0], v("sqrt", x[0]))),),
    "exp": (lambda v, c, y, x: v("exp", x[0]),),
    "expm1": (lambda v, c, y, x: v("exp", x[0]),),
    "log": (lambda v, c, y, x: v("div", c(1.0), x[0]),),
    "log1p": (lambda v, c, y, x: v("div", c(1.0), v("add", x[0], c(1.0))),),
    "sin": (lambda v, c, y, x: v("cos", x[0]),),
    "cos": (lambda v, c, y, x: v("neg", v("sin", x[0])),),
    "tan": (lambda v, c, y, x: v("div", c(1.0), v("mul", v("cos", x[0]), v("cos", x[0]))),),
    "tanh": (lambda v, c, y, x: v("sub", c(1.0), v("mul", y, y)),),
    "erf": (
        lambda v, c, y, x: v(
            "mul", c(2.0 / math.sqrt(math.pi)), v("exp", v("neg", v("mul", x[0], x[0])))
        ),
    ),
}


def _share(v: Any, c: Any, y: Any, mine: Any, other: Any) -> Any:
    """1 where ``mine`` alone is the extremum ``y``, 1/2 where both are, else 0."""
    tied = v("select", v("eq", mine, other), c(0.5), c(1.0))
    return v("select", v("eq", mine, y), tied, c(0.0))


class DualArrays(Arrays):
    """Dual numbers over the domain ``base``."""

    def __init__(self, base: NumpyArrays) -> None:
        self.base = base

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """As in the base domain."""
        with self.base.quiet():
            yield

    def verb(self, name: str, *operands: Dual) -> Dual:
        primals = [x.primal for x in operands]
        y = self.base.verb(name, *primals)
        if name == "select":
            return Dual(y, self._select(operands, y))
        slopes = _SLOPES.get(name, (None,) * len(operands))
        total = None
        for slope, x in zip(slopes, operands, strict=True):
            if slope is None or x.tangent is None:
                continue
            literal = self._literal(x.tangent)
            term = self.base.verb("gate", x.tangent, slope(self.base.verb, literal, y, primals))
            total = term if total is None else self.base.verb("add", total, term)
        return Dual(y, None if total is None else self._stretched(total, y))

    def _literal(self, like: Any) -> Callable[[float], Any]:
        return lambda value: self.base.like(value, like)

    def _stretched(self, tangent: Any, y: Any) -> Any:
        """``tangent`` in the shape of ``y``: a literal may have stretched."""
        if getattr(tangent, "shape", ()) == getattr(y, "shape", ()):
            return tangent
        return self.base.verb("add", tangent, self.base.zeros_like(y))

    def _select(self, operands: Sequence[Dual], y: Any) -> Any | None:
        condition, a, b = operands
        if a.tangent is None and b.tangent is None:
            return None
        zero = self.base.zeros_like(y)
        sides = [zero if x.tangent is None else x.tangent for x in (a, b)]
        return self.base.verb("select", condition.primal, *sides)

    def _both(self, method: str, x: Dual, *arguments: Any) -> Dual:
        """A linear map applied to both parts."""
        apply = getattr(self.base, method)
        tangent = None if x.tangent is None else apply(x.tangent, *arguments)
        return Dual(apply(x.primal, *arguments), tangent)

    def settle(self, x: Dual, dtype: DType) -> Dual:
        return self._both("settle", x, dtype)

    def cast(self, x: Dual, dtype: DType) -> Dual:
        if not dtype.is_float:
            return Dual(self.base.cast(x.primal, dtype))
        return self._both("cast", x, dtype)

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Dual:
        return Dual(self.base.full(value, shape, dtype))

    def zeros_like(self, x: Dual) -> Dual:
        return Dual(self.base.zeros_like(x.primal))

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Dual:
        return Dual(self.base.iota(axis, shape, dtype))

    def integers(self, values: Sequence[int]) -> Dual:
        return Dual(self.base.integers(values))

    def broadcast(self, x: Dual, shape: Sequence[int], dims: Sequence[int]) -> Dual:
        return self._both("broadcast", x, shape, dims)

    def reshape(self, x: Dual, shape: Sequence[int]) -> Dual:
        return self._both("reshape", x, shape)

    def transpose(self, x: Dual, perm: Sequence[int]) -> Dual:
        return self._both("transpose", x, perm)

    def slice(
        self, x: Dual, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Dual:
        return self._both("slice", x, start, limit, stride)

    def pad(
        self, x: Dual, low: Sequence[int], high: Sequence[int], interior: Sequence[int]
    ) -> Dual:
        return self._both("pad", x, low, high, interior)

    def reverse(self, x: Dual, axes: Sequence[int]) -> Dual:
        return self._both("reverse", x, axes)

    def cumsum(self, x: Dual, axis: int, reverse: bool) -> Dual:
        return self._both("cumsum", x, axis, reverse)

    def fourier(self, x: Dual, axis: int, dtype: DType) -> Dual:
        return self._both("fourier", x, axis, dtype)

    def row(self, x: Dual, position: int) -> Dual:
        return self._both("row", x, position)

    def argmax(self, x: Dual, axis: int) -> Dual:
        return Dual(self.base.argmax(x.primal, axis))

    def argsort(self, x: Dual, axis: int) -> Dual:
        return Dual(self.base.argsort(x.primal, axis))

    def _tangents(self, xs: Sequence[Dual]) -> list[Any] | None:
        """The tangents, zeros where there is none; None if there is none at all."""
        if all(x.tangent is None for x in xs):
            return None
        return [self.base.zeros_like(x.primal) if x.tangent is None else x.tangent for x in xs]

    def concat(self, xs: Sequence[Dual], axis: int) -> Dual:
        tangents = self._tangents(xs)
        joined = None if tangents is None else self.base.concat(tangents, axis)
        return Dual(self.base.concat([x.primal for x in xs], axis), joined)

    def stack(self, rows: Sequence[Dual], shape: Sequence[int], dtype: DType) -> Dual:
        tangents = self._tangents(rows)
        joined = None if tangents is None else self.base.stack(tangents, shape, dtype)
        return Dual(self.base.stack([row.primal for row in rows], shape, dtype), joined)

    def reduce(self, verb: str, x: Dual, axes: Sequence[int], dtype: DType) -> Dual:
        if verb == "add":
            return self._both_reduced(x, axes, dtype)
        y = self.base.reduce(verb, x.primal, axes, dtype)
        if x.tangent is None:
            return Dual(y)
        if verb == "mul":
            return Dual(y, self._product_tangent(x, axes, dtype))
        apply = self.base.verb
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        mask = apply("eq", x.primal, self.base.broadcast(y, x.shape, kept))
        ones = apply("select", mask, self._literal(x.tangent)(1.0), self._literal(x.tangent)(0.0))
        taken = apply("select", mask, x.tangent, self.base.zeros_like(x.tangent))
        sums = [self.base.reduce("add", part, axes, dtype) for part in (taken, ones)]
        return Dual(y, apply("div", *sums))

    def _both_reduced(self, x: Dual, axes: Sequence[int], dtype: DType) -> Dual:
        tangent = x.tangent
        if tangent is not None:
            tangent = self.base.reduce("add", tangent, axes, dtype)
        return Dual(self.base.reduce("add", x.primal, axes, dtype), tangent)

    def _product_tangent(self, x: Dual, axes: Sequence[int], dtype: DType) -> Any:
        """The sum over factors of that factor's tangent times all the others, one factor at a
        time.
        """
        verb = self.base.verb
        primals = list(flatten_axes(x.primal, axes))
        tangents = list(flatten_axes(np.asarray(x.tangent), axes))
        total = None
        for chosen in range(len(primals)):
            term = tangents[chosen]
            for other, factor in enumerate(primals):
                term = term if other == chosen else verb("mul", term, factor)
            total = term if total is None else verb("add", total, term)
        return total

    def contract(self, a: Dual, b: Dual, batch: Pairs, contract: Pairs, dtype: DType) -> Dual:
        def product(left: Any, right: Any) -> Any:
            return self.base.contract(left, right, batch, contract, dtype)

        tangent = None
        if a.tangent is not None:
            tangent = product(a.tangent, b.primal)
        if b.tangent is not None:
            other = product(a.primal, b.tangent)
            tangent = other if tangent is None else self.base.verb("add", tangent, other)
        return Dual(product(a.primal, b.primal), tangent)

    def take(self, table: Dual, ids: Dual, axis: int, fill: float) -> Dual:
        found = self.base.take(table.primal, ids.primal, axis, fill)
        if table.tangent is None:
            return Dual(found)
        return Dual(found, self.base.take(table.tangent, ids.primal, axis, 0))

    def scatter_add(self, ids: Dual, updates: Dual, axis: int, size: int) -> Dual:
        found = self.base.scatter_add(ids.primal, updates.primal, axis, size)
        if updates.tangent is None:
            return Dual(found)
        return Dual(found, self.base.scatter_add(ids.primal, updates.tangent, axis, size))
