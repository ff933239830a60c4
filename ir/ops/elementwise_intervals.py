"""What the results of elementwise ops can be: their interval rules (``ir/ops/interval.py``).

A rule states the range of a function, open where it is only approached, and the faults of the op:
division by 0, roots and logarithms outside their domain, exponentials that overflow.

Non-goals: relations between operands (``passes/hazards``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from gradc.ir.ops.interval import (
    ANY,
    INF,
    LARGEST_EXPONENT,
    Bounds,
    Condition,
    Interval,
    IntervalRule,
    absolute,
    added,
    hull,
    mapped,
    multiplied,
    narrowed,
    negated,
    point,
    reciprocal,
    squared,
)
from gradc.ir.tensor.core import DType, Op


def add(bounds: Bounds, _op: Op) -> Interval:
    return added(bounds.of(0), bounds.of(1))


def sub(bounds: Bounds, _op: Op) -> Interval:
    return added(bounds.of(0), negated(bounds.of(1)))


def mul(bounds: Bounds, op: Op) -> Interval:
    if op.operands[0] is op.operands[1]:
        return squared(bounds.of(0))
    return multiplied(bounds.of(0), bounds.of(1))


def gate(bounds: Bounds, _op: Op) -> Interval:
    """The partial counts only where the cotangent is not zero."""
    partial = bounds.of(1, *bounds.nonzero(0))
    return hull(multiplied(bounds.of(0), partial), point(0.0))


def select(bounds: Bounds, op: Op) -> Interval:
    condition = op.operands[0]
    taken, other = Condition(condition, True), Condition(condition, False)
    return hull(bounds.of(1, taken), bounds.of(2, other))


def div(bounds: Bounds, op: Op) -> Interval:
    above, below = bounds.of(0), bounds.of(1)
    if not op.result.type.dtype.is_float:
        return ANY
    if below.spans_zero:
        return ANY.with_faults(above.faults, below.faults, bounds.fault("division"))
    return multiplied(above, reciprocal(below))


def fma(bounds: Bounds, _op: Op) -> Interval:
    return added(multiplied(bounds.of(0), bounds.of(1)), bounds.of(2))


def neg(bounds: Bounds, _op: Op) -> Interval:
    return negated(bounds.of(0))


def magnitude(bounds: Bounds, _op: Op) -> Interval:
    """|x|"""
    return absolute(bounds.of(0))


def extreme(choose: Callable[[float, float], float]) -> IntervalRule:
    """The greater or the lesser of two operands."""

    def rule(bounds: Bounds, _op: Op) -> Interval:
        x, y = bounds.of(0), bounds.of(1)
        low, high = choose(x.low, y.low), choose(x.high, y.high)
        low_open = all(i.low_open for i in (x, y) if i.low == low)
        high_open = all(i.high_open for i in (x, y) if i.high == high)
        return Interval(low, high, low_open, high_open, x.faults | y.faults)

    return rule


def sqrt(bounds: Bounds, _op: Op) -> Interval:
    x = bounds.of(0)
    if x.has_negative:
        x = narrowed(x, "ge", 0.0).with_faults(bounds.fault("negative"))
    return mapped(x, math.sqrt(x.low), math.sqrt(x.high), x.low_open, x.high_open)


def rsqrt(bounds: Bounds, op: Op) -> Interval:
    root = sqrt(bounds, op)
    if root.has_zero:
        return ANY.with_faults(root.faults, bounds.fault("division"))
    return reciprocal(root).with_faults(root.faults)


def exponential(shift: float) -> IntervalRule:
    """e ** x + shift"""

    def rule(bounds: Bounds, op: Op) -> Interval:
        x = bounds.of(0)
        limit = LARGEST_EXPONENT.get(op.result.type.dtype, 88.0)
        faults = x.faults
        if x.high > limit:
            faults |= bounds.fault("overflow")
            high, high_open = INF, False
        else:
            high, high_open = math.exp(x.high), x.high_open
        low = math.exp(x.low) if x.low > -limit else 0.0
        low_open = x.low_open if x.low > -limit else False
        return Interval(low + shift, high + shift, low_open, high_open, faults, x.peak)

    return rule


def logarithm(shift: float) -> IntervalRule:
    """log(x + shift)"""

    def rule(bounds: Bounds, _op: Op) -> Interval:
        x = bounds.of(0)
        if shift:
            x = added(x, point(shift))
        if x.has_zero or x.has_negative:
            x = narrowed(x, "ge", 0.0).with_faults(bounds.fault("log"))
        low = math.log(x.low) if x.low > 0 else -INF
        high = INF if x.high == INF else math.log(x.high) if x.high > 0 else -INF
        return Interval(low, high, x.low_open, x.high_open, x.faults)

    return rule


def power(bounds: Bounds, _op: Op) -> Interval:
    base, exponent = bounds.of(0), bounds.of(1)
    faults = base.faults | exponent.faults
    is_whole = exponent.is_point and float(exponent.low).is_integer()
    if base.low < 0 and not is_whole:
        return ANY.with_faults(faults, bounds.fault("power"))
    if base.has_zero and exponent.low < 0:
        return ANY.with_faults(faults, bounds.fault("power"))
    if exponent.is_point and exponent.low > 0:
        is_even = is_whole and exponent.low % 2 == 0
        return replace(_raised(absolute(base) if is_even else base, exponent.low), faults=faults)
    return replace(Interval(0.0, INF, not base.has_zero, True), faults=faults)


def _raised(x: Interval, exponent: float) -> Interval:
    """x ** exponent where that grows with x."""
    low, high = (_power(end, exponent) for end in (x.low, x.high))
    return mapped(x, low, high, x.low_open, x.high_open)


def _power(x: float, exponent: float) -> float:
    try:
        return float(x**exponent)
    except OverflowError:
        return math.copysign(INF, x)


def whole(bounds: Bounds, _op: Op) -> Interval:
    """Rounded to an integer, in either direction."""
    x = bounds.of(0)
    low = math.floor(x.low) if math.isfinite(x.low) else x.low
    high = math.ceil(x.high) if math.isfinite(x.high) else x.high
    return Interval(low, high, not math.isfinite(low), not math.isfinite(high), x.faults)


def rectified(bounds: Bounds, _op: Op) -> Interval:
    """max(x, 0)"""
    x = bounds.of(0)
    if x.low > 0 or (x.low == 0 and x.low_open):
        return x
    return Interval(0.0, max(x.high, 0.0), False, x.high_open and x.high > 0, x.faults)


def cast(bounds: Bounds, op: Op) -> Interval:
    if op.operands[0].type.dtype is DType.BOOL:
        return Interval(0.0, 1.0, False, False)
    return bounds.of(0)


def unchanged(bounds: Bounds, _op: Op) -> Interval:
    return bounds.of(0)
