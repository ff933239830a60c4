"""Relations between values that intervals alone cannot see, and what they say of a result.

- z - max(z) is 0 where z is greatest, so the sum of its exponentials is at least 1;
- how many elements attain a maximum is at least 1;
- a polynomial of degree 2 in one value (1 - c^2, t - t*t) has the range of its parabola;
- r = sqrt(x^2 + ...) is at least |x|, also when it is rounded: x / r lies between -1 and 1, and
  neither r - x nor r + x is negative.

Non-goals: relations between elements at different places.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from gradc.ir.ops.attributes import get_ints, get_number
from gradc.ir.ops.interval import INF, Interval, within
from gradc.ir.ops.registry import has_own_numbers, is_sum, lookup, number_of
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import DType, Op, Value

if TYPE_CHECKING:
    from gradc.passes.hazards.analysis import Analysis, Env

_DEPTH = 64
# How many ops deep polynomials and sums of squares are read.
_TERMS = 6
# What rounding may add to a vertex at which terms cancel, as a share of their size.
_ROUNDING = 1e-5


def keeps_order(op: Op) -> bool:
    """Whether ``op`` leaves its operand's numbers in their order, repeated or regrouped at most."""
    definition = lookup(op.name)
    is_repeated = definition.traits.moves is Moves.REPEATS
    return is_repeated or definition.is_barrier or op.name == "reshape"


def related(a: Analysis, op: Op, found: Interval, env: Env) -> Interval:
    """``found``, what the rule of ``op`` says, narrowed by what its operands have to do with each
    other.
    """
    if is_sum(op) or op.name == "add":
        if found.low <= 1 and counts_winners(a, op.result):
            return replace(found, low=1.0, low_open=False)
        if is_sum(op):
            return found
    if op.name == "div":
        above, below = op.operands
        return within(found, -1.0, 1.0) if _is_at_least(a, below, above, env) else found
    if op.name == "sub":
        found = _below_top(a, op, found)
    if op.name == "sub" or op.name == "add":
        left, right = op.operands
        pairs = [(left, right)] if op.name == "sub" else [(left, right), (right, left)]
        if any(_is_at_least(a, root, x, env) for root, x in pairs):
            found = within(found, 0.0, INF)
    if op.name == "sub" or op.name == "add" or op.name == "mul":
        return _on_parabola(a, op, found, env)
    return found


# --- the greatest, and how many are


def maximum_of(a: Analysis, value: Value) -> Op | None:
    """The op whose extremum ``value`` is, through views and the guard of ``logsumexp``."""
    op = a.maker(value)
    while op is not None and (has_own_numbers(op) or op.name == "select"):
        op = a.maker(op.operands[1 if op.name == "select" else 0])
    return op if op is not None and lookup(op.name).traits.picks else None


def _below_top(a: Analysis, op: Op, found: Interval) -> Interval:
    """z - max(z): not positive, and 0 somewhere along the axes of the maximum."""
    left, right = op.operands
    top = maximum_of(a, right)
    if top is None or top.name != "reduce_max" or not a.is_same(top.operands[0], left):
        return found
    peak = frozenset(get_ints(top.attributes, "axes"))
    return Interval(found.low, 0.0, found.low_open, False, found.faults, peak)


def counts_winners(a: Analysis, value: Value, depth: int = _DEPTH) -> bool:
    """Whether ``value`` counts the places where an extremum is attained: there is at least one."""
    op = a.maker(value)
    if op is None or depth == 0:
        return False
    if op.name == "add":
        return all(counts_winners(a, v, depth - 1) for v in op.operands)
    is_counted = is_sum(op) or has_own_numbers(op)
    if is_counted and op.operands[0].type.dtype is not DType.BOOL:
        return counts_winners(a, op.operands[0], depth - 1)
    compared = a.maker(op.operands[0]) if op.name == "cast" else None
    if compared is None or compared.name != "eq":
        return False
    return any(maximum_of(a, v) is not None for v in compared.operands)


# --- parabolas


class _Parabola(NamedTuple):
    """constant + slope * root + bend * root^2; without a root, a number."""

    root: Value | None
    constant: float
    slope: float = 0.0
    bend: float = 0.0

    def at(self, x: float) -> float:
        if math.isinf(x):
            end = self.bend if self.bend else math.copysign(1.0, x) * self.slope
            return math.copysign(INF, end) if end else self.constant
        return self.constant + x * (self.slope + x * self.bend)


def _on_parabola(a: Analysis, op: Op, found: Interval, env: Env) -> Interval:
    """The range of a polynomial of degree 2, at the ends of its value's interval and its vertex."""
    curve = _read(a, op.result, _TERMS)
    if curve.root is None or curve.root is op.result or not curve.bend:
        return found
    x = a.of(curve.root, env)
    values = [(curve.at(x.low), x.low_open), (curve.at(x.high), x.high_open)]
    vertex = -curve.slope / (2 * curve.bend)
    if x.low < vertex < x.high:
        terms = abs(curve.constant) + abs(curve.slope * vertex) + abs(curve.bend * vertex**2)
        beyond = _ROUNDING * terms if curve.slope else 0.0
        values.append((curve.at(vertex) - math.copysign(beyond, curve.bend), False))
    low, low_open = min(values)
    high, high_closed = max((value, not is_open) for value, is_open in values)
    narrow = found
    if low > found.low:
        narrow = replace(narrow, low=low, low_open=low_open)
    if high < found.high:
        narrow = replace(narrow, high=high, high_open=not high_closed)
    return narrow


def _read(a: Analysis, value: Value, depth: int) -> _Parabola:
    """``value`` as a polynomial of degree 2, of itself if nothing better is seen."""
    op = a.maker(value)
    while op is not None and keeps_order(op):
        value = op.operands[0]
        op = a.maker(value)
    own = _Parabola(value, 0.0, 1.0)
    if op is None or not depth or not value.type.dtype.is_float:
        return own
    if number_of(op) is not None:
        return _Parabola(None, float(get_number(op.attributes, "value")))
    if op.name == "neg":
        root, *numbers = _read(a, op.operands[0], depth - 1)
        return _Parabola(root, *(-n for n in numbers))
    if not (op.name == "add" or op.name == "sub" or op.name == "mul"):
        return own
    left, right = (_read(a, v, depth - 1) for v in op.operands)
    root = left.root or right.root
    if left.root and right.root and not a.is_same(left.root, right.root):
        return own
    if op.name == "mul":
        return _product(root, left, right) or own
    sign = -1.0 if op.name == "sub" else 1.0
    pairs = zip(left[1:], right[1:], strict=True)
    return _Parabola(root, *(x + sign * y for x, y in pairs))


def _product(root: Value | None, left: _Parabola, right: _Parabola) -> _Parabola | None:
    """The product, if its degree is at most 2."""
    if left.bend * right.bend or left.bend * right.slope or left.slope * right.bend:
        return None
    return _Parabola(
        root,
        left.constant * right.constant,
        left.constant * right.slope + left.slope * right.constant,
        left.constant * right.bend + left.slope * right.slope + left.bend * right.constant,
    )


# --- roots of sums of squares


def _is_at_least(a: Analysis, root: Value, x: Value, env: Env) -> bool:
    """Whether ``root`` is the root of a sum of squares, that of ``x`` among them.

    Squares, sums and roots are rounded in the same direction everywhere, so it holds for numbers of
    the machine too (but for squares that underflow).
    """
    op = a.maker(root)
    while op is not None and keeps_order(op):
        op = a.maker(op.operands[0])
    if op is None or op.name != "sqrt":
        return False
    waiting, has_square = [op.operands[0]], False
    for _ in range(2 * _TERMS):
        if not waiting:
            return has_square
        term = waiting.pop()
        made = a.maker(term)
        if made is not None and made.name == "add":
            waiting += made.operands
        elif made is not None and made.name == "mul" and made.operands[0] is made.operands[1]:
            has_square = has_square or a.is_same(made.operands[0], x)
        elif a.of(term, env).low < 0:
            return False
    return False
