"""What the values of a program can be over boxes of its index space: which pieces of a row a mask
empties.

A box is a range of positions along one axis (rows) and a range along another (columns). ``Ranges``
runs the scalar meanings of ops on intervals, for all boxes at once: a comparison of positions
(causal, a window, blocks, a length known when compiling) comes out as certain or not, ``select``
takes the side that is certain, and what follows says whether anything is left there. Any condition
works that follows from positions; nothing is known by name.

The numbers that are not known are taken to be finite. An interval's ends are numbers that may be
taken, or beyond; only what is exact (zero, infinities that the program writes down, comparisons of
positions) comes out as a point, since every floating result is widened by its rounding.

Non-goals: relations between values, integers that wrap (they count as unknown).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.loop.kernel import Affine, Scalar
from gradc.ir.loop.verbs import computed_dtype
from gradc.ir.ops.registry import ByIndex, Pointwise, lookup
from gradc.ir.tensor.core import DType, Op, Value

Ends: TypeAlias = NDArray[np.float64]
# Larger than any number of a program, and far from overflow.
MOST = 1e150
# One rounding, with room to spare.
_EPSILON = {DType.F64: 1e-14, DType.F32: 1e-6, DType.BF16: 2e-2, DType.F16: 4e-3}


@dataclass(frozen=True, slots=True)
class Part:
    """A value, and which of its axes are the rows and the columns of the boxes, if any are."""

    value: Value
    row: int | None = None
    column: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.type.static_shape

    def size(self, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of a piece of so many rows and columns."""
        shape = list(self.shape)
        if self.row is not None:
            shape[self.row] = rows
        if self.column is not None:
            shape[self.column] = columns
        return tuple(shape)


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest of a value in every box: [rows, columns], axes of one where it is
    the same.
    """

    low: Ends
    high: Ends

    def is_always(self, number: float) -> Any:
        """In which boxes the value is ``number`` throughout."""
        return (self.low == number) & (self.high == number)


def _range(low: Any, high: Any) -> Range:
    """The range between two ends; where one is no number, nothing is known."""
    low, high = np.atleast_2d(low).astype(np.float64), np.atleast_2d(high).astype(np.float64)
    lost = np.isnan(low) | np.isnan(high)
    return Range(np.where(lost, -np.inf, low), np.where(lost, np.inf, high))


UNKNOWN = _range(-MOST, MOST)
_TRUTH = _range(0.0, 1.0)


def _held(exact: Any, a: Any, b: Any) -> Any:
    """``exact`` where an operand is infinite; else no further out than MOST."""
    return np.where(np.isfinite(a) & np.isfinite(b), np.clip(exact, -MOST, MOST), exact)


class RangeAlgebra:
    """The scalar verbs over ranges. A verb without a method here gives anything."""

    def const(self, value: float | bool, _dtype: DType | None = None) -> Range:
        return _range(float(value), float(value))

    def number(self, x: Range, _dtype: DType) -> Range:
        """An index as a number."""
        return x

    def cast(self, x: Range, dtype: DType) -> Range:
        if dtype is DType.BOOL:
            return self.ne(x, self.const(0.0))
        return x if dtype.is_float else _range(np.trunc(x.low), np.trunc(x.high))

    def add(self, a: Range, b: Range) -> Range:
        return _range(_held(a.low + b.low, a.low, b.low), _held(a.high + b.high, a.high, b.high))

    def neg(self, x: Range) -> Range:
        return _range(-x.high, -x.low)

    def sub(self, a: Range, b: Range) -> Range:
        return self.add(a, self.neg(b))

    def mul(self, a: Range, b: Range) -> Range:
        corners = [_held(x * y, x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
        return _hull(corners)

    def div(self, a: Range, b: Range) -> Range:
        """0 / b is 0 for every number b but 0, where the whole row is NaN whatever is left out."""
        spans = (b.low <= 0) & (b.high >= 0)
        low, high = np.where(spans, 1.0, b.low), np.where(spans, 1.0, b.high)
        found = _hull([_held(x / y, x, y) for x in (a.low, a.high) for y in (low, high)])
        lost = spans & ~a.is_always(0.0)
        return _range(np.where(lost, -np.inf, found.low), np.where(lost, np.inf, found.high))

    def floordiv(self, a: Range, b: Range) -> Range:
        """Of positions by a positive number."""
        is_plain = np.all(b.low > 0)
        if not is_plain:
            return UNKNOWN
        return _hull([np.floor(x / y) for x in (a.low, a.high) for y in (b.low, b.high)])

    def mod(self, a: Range, b: Range) -> Range:
        """Within one period it goes up with ``a``; over several it is anything from 0 on."""
        if not np.all((b.low > 0) & (b.low == b.high)):
            return UNKNOWN
        first, last = np.floor(a.low / b.low), np.floor(a.high / b.low)
        is_one = first == last
        low = np.where(is_one, a.low - first * b.low, 0.0)
        return _range(low, np.where(is_one, a.high - first * b.low, b.high))

    def fma(self, a: Range, b: Range, c: Range) -> Range:
        return self.add(self.mul(a, b), c)

    def max(self, a: Range, b: Range) -> Range:
        return _range(np.maximum(a.low, b.low), np.maximum(a.high, b.high))

    def min(self, a: Range, b: Range) -> Range:
        return _range(np.minimum(a.low, b.low), np.minimum(a.high, b.high))

    def abs(self, x: Range) -> Range:
        spans = (x.low <= 0) & (x.high >= 0)
        ends = np.abs(x.low), np.abs(x.high)
        return _range(np.where(spans, 0.0, np.minimum(*ends)), np.maximum(*ends))

    def exp(self, x: Range) -> Range:
        """What is 0 in f64 is 0 in every type."""
        ends = (np.where(x > 300, MOST, np.exp(np.minimum(x, 300.0))) for x in (x.low, x.high))
        return _range(*ends)

    def eq(self, a: Range, b: Range) -> Range:
        same = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
        return _range(same, ~((a.high < b.low) | (b.high < a.low)))

    def ne(self, a: Range, b: Range) -> Range:
        return self.logical_not(self.eq(a, b))

    def lt(self, a: Range, b: Range) -> Range:
        return _range(a.high < b.low, a.low < b.high)

    def le(self, a: Range, b: Range) -> Range:
        return _range(a.high <= b.low, a.low <= b.high)

    def gt(self, a: Range, b: Range) -> Range:
        return self.lt(b, a)

    def ge(self, a: Range, b: Range) -> Range:
        return self.le(b, a)

    def logical_and(self, a: Range, b: Range) -> Range:
        return self.min(a, b)

    def logical_or(self, a: Range, b: Range) -> Range:
        return self.max(a, b)

    def logical_not(self, x: Range) -> Range:
        return _range(1.0 - x.high, 1.0 - x.low)

    def select(self, condition: Range, a: Range, b: Range) -> Range:
        yes, no = condition.low >= 1, condition.high <= 0
        low = np.where(yes, a.low, np.where(no, b.low, np.minimum(a.low, b.low)))
        high = np.where(yes, a.high, np.where(no, b.high, np.maximum(a.high, b.high)))
        return _range(low, high)

    def gate(self, ct: Range, partial: Range) -> Range:
        product = self.mul(ct, partial)
        zero = ct.is_always(0.0)
        return _range(np.where(zero, 0.0, product.low), np.where(zero, 0.0, product.high))

    def stop_gradient(self, x: Range) -> Range:
        return x

    def __getattr__(self, verb: str) -> Callable[..., Range]:
        if verb.startswith("__"):
            raise AttributeError(verb)
        return lambda *_operands, **_attributes: UNKNOWN


def _hull(corners: Sequence[Any]) -> Range:
    """What lies between the least and the greatest; nothing is known where one is no number."""
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = np.minimum(low, corner), np.maximum(high, corner)
    return _range(low, high)


def operand_parts(op: Op, part: Part) -> tuple[Part, ...] | None:
    """The parts of the operands of ``op`` that a part of its result is made from, by the links that
    the op states; None where it mixes positions, or draws them at random.
    """
    rule = lookup(op.name).axes
    if rule is None:
        return None
    places: list[list[int | None]] = []
    links = rule.links(op)
    for axis in (part.row, part.column):
        places.append([None] * len(op.operands))
        if axis is None:
            continue
        link = next((x for x in links if x.result is not None and x.result.axis == axis), None)
        if link is None or link.is_drawn or link.size != op.result.type.static_shape[axis]:
            return None
        for number, (place, x) in enumerate(zip(link.operands, op.operands, strict=True)):
            if place is not None:
                if x.type.static_shape[place.axis] != link.size:
                    return None
                places[-1][number] = place.axis
    return tuple(Part(x, *where) for x, *where in zip(op.operands, *places, strict=True))


class Ranges:
    """The ranges of parts over the boxes between ``rows`` and ``columns``: (starts, stops) along
    either axis. ``parts`` are what some parts are made from; of others the links of ops say it.
    """

    def __init__(
        self,
        makers: Mapping[Value, Op],
        rows: tuple[Ends, Ends],
        columns: tuple[Ends, Ends],
        parts: Mapping[Part, tuple[Part, ...]],
    ) -> None:
        self._makers = makers
        self._rows = Range(rows[0][:, None], rows[1][:, None] - 1)
        self._columns = Range(columns[0][None, :], columns[1][None, :] - 1)
        self._parts = dict(parts)
        self._found: dict[Part, Range] = {}

    def of(self, part: Part) -> Range:
        """What ``part`` can be."""
        stack = [part]
        with np.errstate(all="ignore"):
            while stack:
                top = stack[-1]
                if top not in self._found:
                    needed = self._needed(top)
                    missing = [x for x in needed or () if x not in self._found]
                    if missing:
                        stack += missing
                        continue
                    self._found[top] = self._compute(top, needed)
                stack.pop()
        return self._found[part]

    def _needed(self, part: Part) -> tuple[Part, ...] | None:
        """The parts that an elementwise op or a view reads; None if it is nothing of the kind."""
        op = self._makers.get(part.value)
        if op is None:
            return None
        if part not in self._parts:
            definition = lookup(op.name)
            is_plain = isinstance(definition.loop, Pointwise) or definition.traits.is_same_numbers
            found = operand_parts(op, part) if is_plain else () if definition.is_source else None
            if found is None:
                return None
            self._parts[part] = found
        return self._parts[part]

    def _compute(self, part: Part, needed: tuple[Part, ...] | None) -> Range:
        dtype = part.value.type.dtype
        anything = _TRUTH if dtype is DType.BOOL else UNKNOWN
        if needed is None:
            return anything
        op = self._makers[part.value]
        form = lookup(op.name).loop
        operands = [self._found[x] for x in needed]
        if isinstance(form, Pointwise):
            found = form.meaning(RangeAlgebra(), *operands, **op.attributes)
            return anything if found is UNKNOWN else _rounded(found, dtype)
        if isinstance(form, ByIndex) and not operands:
            return self._source(part, op, form)
        return operands[0] if lookup(op.name).traits.is_same_numbers else anything

    def _source(self, part: Part, op: Op, form: ByIndex) -> Range:
        """The elements of an op without operands, by their positions."""
        sizes = part.value.type.static_shape
        index: list[Any] = [_range(0.0, float(max(size - 1, 0))) for size in sizes]
        if part.row is not None:
            index[part.row] = self._rows
        if part.column is not None:
            index[part.column] = self._columns
        algebra: Any = RangeAlgebra()
        found: Any = form.element(algebra, op, index, _reads_nothing)
        return _rounded(found, part.value.type.dtype) if isinstance(found, Range) else UNKNOWN


def _reads_nothing(_number: int, _index: Sequence[Affine]) -> Scalar:
    raise AssertionError("a source has no operands")


def _rounded(x: Range, dtype: DType) -> Range:
    """``x`` with room for a rounding; integers beyond their type are anything."""
    if dtype is DType.BOOL:
        return x
    if dtype.is_float:
        room = _EPSILON[dtype]
        return _range(
            x.low - room * np.abs(_finite(x.low)), x.high + room * np.abs(_finite(x.high))
        )
    limits = np.iinfo(computed_dtype(dtype))
    fits = np.all((x.low >= limits.min) & (x.high <= limits.max))
    return x if fits else UNKNOWN


def _finite(x: Ends) -> Ends:
    return np.where(np.isfinite(x), x, 0.0)
