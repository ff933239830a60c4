"""Intervals with open and closed ends: what values an array's elements can take.

An end may be attained (closed) or only approached (open): ``exp`` reaches 0 because it underflows,
``x`` where ``x > 0`` does not. An infinite end that is attained is a value that is not finite;
``faults`` says which ops made it so. Inputs and parameters are finite numbers.

Facts between elements that intervals cannot hold: ``peak`` names axes along which the greatest
element is exactly the upper end (``z - max(z)`` has 0 there, its exponential 1).

An op's rule, ``interval(bounds, op)``, says what its result can be from what its operands can be;
``Bounds`` is what it may ask. Relations between values (``z - max(z)``) are the analysis's own.

Non-goals: rounding, and overflow of anything but exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol, TypeAlias

from gradc.ir.tensor.core import DType, Op, Value

INF = math.inf
# Exponents from here on overflow.
LARGEST_EXPONENT: Final = {
    DType.F64: 709.78,
    DType.F32: 88.72,
    DType.BF16: 88.5,
    DType.F16: 11.08,
}
# What holds where a comparison does not, and what it says with its sides exchanged.
OPPOSITE: Final = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt", "eq": "ne", "ne": "eq"}
SWAPPED: Final = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}


class Condition(NamedTuple):
    """A boolean value, whether it holds, and where: for each axis of the value that is looked at
    the axis of the condition that has the same index. Without ``at`` they have the same axes.
    """

    value: Value
    holds: bool
    at: tuple[int | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends, whether they are left out, the ops (numbered) whose infinities or NaN it may hold, and
    ``peak`` axes.

    ``is_nonzero`` leaves out 0 where it lies between the ends.
    """

    low: float
    high: float
    low_open: bool = True
    high_open: bool = True
    faults: frozenset[int] = frozenset()
    peak: frozenset[int] = frozenset()
    is_nonzero: bool = False

    @property
    def has_zero(self) -> bool:
        """Whether 0 may be attained."""
        above = self.low < 0 or (self.low == 0 and not self.low_open)
        below = self.high > 0 or (self.high == 0 and not self.high_open)
        return above and below and not self.is_nonzero

    @property
    def spans_zero(self) -> bool:
        """Whether a divisor from here may be 0 or come from both sides of it."""
        return self.has_zero or (self.low < 0 < self.high and not self.is_nonzero)

    @property
    def has_negative(self) -> bool:
        return self.low < 0

    @property
    def is_point(self) -> bool:
        return self.low == self.high

    def with_faults(self, *more: frozenset[int]) -> Interval:
        """The same values, faults added."""
        return replace(self, faults=self.faults.union(*more))

    def clean(self) -> Interval:
        """The same values, all finite."""
        return replace(self, faults=frozenset())


ANY = Interval(-INF, INF)


def point(value: float) -> Interval:
    """One number; an infinity or NaN that the program writes down is meant, and no fault."""
    if math.isnan(value):
        return ANY
    return Interval(value, value, False, False)


def hull(a: Interval, b: Interval) -> Interval:
    """What lies in either."""
    low, low_open = min((a.low, a.low_open), (b.low, b.low_open))
    high, high_closed = max((a.high, not a.high_open), (b.high, not b.high_open))
    return Interval(low, high, low_open, not high_closed, a.faults | b.faults, a.peak & b.peak)


def negated(a: Interval) -> Interval:
    """-a"""
    ends = Interval(-a.high, -a.low, a.high_open, a.low_open, a.faults)
    return replace(ends, is_nonzero=a.is_nonzero)


def added(a: Interval, b: Interval) -> Interval:
    """a + b; ends of opposite infinities give everything."""
    low, high = a.low + b.low, a.high + b.high
    low = -INF if math.isnan(low) else low
    high = INF if math.isnan(high) else high
    faults = a.faults | b.faults
    return Interval(low, high, a.low_open or b.low_open, a.high_open or b.high_open, faults)


def multiplied(a: Interval, b: Interval) -> Interval:
    """a * b, 0 times an end that is not attained being 0."""
    corners = [
        (_times(x, y), (x_open and x != 0) or (y_open and y != 0) or (x_open and y_open))
        for x, x_open in ((a.low, a.low_open), (a.high, a.high_open))
        for y, y_open in ((b.low, b.low_open), (b.high, b.high_open))
    ]
    low = min(value for value, _ in corners)
    high = max(value for value, _ in corners)
    low_open = all(is_open for value, is_open in corners if value == low)
    high_open = all(is_open for value, is_open in corners if value == high)
    if a.has_zero or b.has_zero:
        low_open = low_open and low != 0
        high_open = high_open and high != 0
    return Interval(low, high, low_open, high_open, a.faults | b.faults)


def _times(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def total(a: Interval, count: float) -> Interval:
    """The sum of ``count`` numbers from ``a``."""
    if count == 0:
        return point(0.0)
    ends = multiplied(a, point(count))
    return Interval(ends.low, ends.high, a.low_open, a.high_open, a.faults)


def squared(a: Interval) -> Interval:
    """a * a of one and the same number."""
    least, greatest = sorted((abs(a.low), abs(a.high)))
    if a.low < 0 < a.high or a.has_zero:
        return Interval(0.0, greatest * greatest, a.is_nonzero, _open_at(a, greatest), a.faults)
    ends = least * least, greatest * greatest
    return Interval(*ends, _open_at(a, least), _open_at(a, greatest), a.faults)


def absolute(a: Interval) -> Interval:
    """|a|"""
    greatest = max(abs(a.low), abs(a.high))
    if a.has_zero or a.low < 0 < a.high:
        return Interval(0.0, greatest, a.is_nonzero, _open_at(a, greatest), a.faults)
    least = min(abs(a.low), abs(a.high))
    return Interval(least, greatest, _open_at(a, least), _open_at(a, greatest), a.faults)


def _open_at(a: Interval, magnitude: float) -> bool:
    """Whether no end of that magnitude is attained."""
    ends = ((a.low, a.low_open), (a.high, a.high_open))
    return all(is_open for value, is_open in ends if abs(value) == magnitude)


def reciprocal(a: Interval) -> Interval:
    """1 / a for an interval without an attained zero (else everything); 1 / infinity is 0 and no
    fault.
    """
    if a.spans_zero:
        return ANY
    if a.low < 0 < a.high:
        return replace(ANY, is_nonzero=True)
    high_faults = a.clean()
    if a.low >= 0:
        low = 0.0 if a.high == INF else 1 / a.high
        high = INF if a.low == 0 else 1 / a.low
        low_open = a.high_open if a.high != INF else not a.faults
        return replace(high_faults, low=low, high=high, low_open=low_open, high_open=a.low_open)
    return negated(reciprocal(negated(a)))


def mapped(a: Interval, low: float, high: float, low_open: bool, high_open: bool) -> Interval:
    """The image under an increasing function, given at the ends."""
    return Interval(low, high, low_open, high_open, a.faults)


def narrowed(a: Interval, relation: str, bound: float) -> Interval:
    """``a`` where it stands in ``relation`` (gt, ge, lt, le, ne) to a number."""
    low, high, low_open, high_open = a.low, a.high, a.low_open, a.high_open
    if relation in ("gt", "ge") and bound >= low:
        low, low_open = bound, relation == "gt"
    elif relation in ("lt", "le") and bound <= high:
        high, high_open = bound, relation == "lt"
    elif relation == "ne" and bound == low:
        low_open = True
    elif relation == "ne" and bound == high:
        high_open = True
    if low > high:
        return a
    return Interval(low, high, low_open, high_open, a.faults)


def within(a: Interval, low: float, high: float) -> Interval:
    """``a``, of which is known that it lies between two numbers, which it may attain."""
    found = a
    if low > a.low:
        found = replace(found, low=low, low_open=False)
    if high < a.high:
        found = replace(found, high=high, high_open=False)
    return found


# --- rules of ops


class Bounds(Protocol):
    """What an interval rule may ask of the analysis, at one op."""

    def of(self, number: int, *conditions: Condition) -> Interval:
        """What operand ``number`` can be, where ``conditions`` hold as well."""
        ...

    def nonzero(self, number: int) -> tuple[Condition, ...]:
        """Conditions that hold wherever operand ``number`` is not exactly zero."""
        ...

    def fault(self, kind: str) -> frozenset[int]:
        """A fault of the op: it makes infinities or NaN of finite numbers."""
        ...


IntervalRule: TypeAlias = Callable[[Bounds, Op], Interval]


def handed_on(bounds: Bounds, _op: Op) -> Interval:
    """Elements of the first operand; which of them lie along an axis is forgotten."""
    return replace(bounds.of(0), peak=frozenset())


def handed_on_or_zero(bounds: Bounds, op: Op) -> Interval:
    """Elements of the first operand, means of them, and zeros."""
    return hull(handed_on(bounds, op), point(0.0))


def unrelated(_bounds: Bounds, _op: Op) -> Interval:
    """Any finite number, whatever the operands are: no fault of theirs goes on."""
    return ANY


def bounded(low: float, high: float, keeps_faults: bool = False) -> IntervalRule:
    """A function whose values lie between two bounds, both attained by rounding."""

    def rule(bounds: Bounds, _op: Op) -> Interval:
        faults = bounds.of(0).faults if keeps_faults else frozenset[int]()
        return Interval(low, high, False, False, faults)

    return rule


def sums_of(number: int, most: Callable[[Op], float]) -> IntervalRule:
    """Sums of at most ``most`` elements of operand ``number``, or of none."""

    def rule(bounds: Bounds, op: Op) -> Interval:
        x = bounds.of(number)
        return hull(total(x, most(op)), hull(point(0.0), x))

    return rule


def products_of(most: Callable[[Op], float]) -> IntervalRule:
    """Sums of at most ``most`` products of an element of each of two operands, or of none."""

    def rule(bounds: Bounds, op: Op) -> Interval:
        terms = multiplied(bounds.of(0), bounds.of(1))
        return hull(total(terms, most(op)), hull(point(0.0), terms))

    return rule


def above(least: float) -> IntervalRule:
    """A function of one operand that falls to ``least`` below 0 at the most, and above 0 lies
    between 0 and its argument.
    """

    def rule(bounds: Bounds, _op: Op) -> Interval:
        x = bounds.of(0)
        low, is_open = 0.0 if x.low >= 0 else least, x.high_open and x.high > 0
        return Interval(low, max(x.high, 0.0), False, is_open, x.faults)

    return rule
