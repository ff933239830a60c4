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
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.attributes import get_ints, get_number
from gradc.ir.ops.interval import INF, Condition, Interval, within
from gradc.ir.ops.registry import has_own_numbers, is_sum, lookup, number_of
from gradc.ir.tensor.core import DType, Op, Value
from gradc.passes.hazards.places import At, after, itself, keeps_order, meet, through

if TYPE_CHECKING:
    from gradc.passes.hazards.analysis import Analysis, Env

_DEPTH = 64
# How many ops deep polynomials and sums of squares are read.
_TERMS = 6
# What rounding may add to a vertex at which terms cancel, as a share of their size.
_ROUNDING = 1e-5


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
        found = _below_top(a, op, found, env)
    if op.name == "sub" or op.name == "add":
        left, right = op.operands
        pairs = [(left, right)] if op.name == "sub" else [(left, right), (right, left)]
        if any(_is_at_least(a, root, x, env) for root, x in pairs):
            found = within(found, 0.0, INF)
    if op.name == "sub" or op.name == "add" or op.name == "mul":
        return _on_parabola(a, op, found, env)
    return found


# --- the greatest, and how many are


def maximum_of(a: Analysis, value: Value) -> tuple[Op | None, At]:
    """The op whose extremum ``value`` is, through views and the guard of ``logsumexp``; and the way
    from its axes to those of ``value``.
    """
    op, at = a.maker(value), itself(value)
    while op is not None and (has_own_numbers(op) or op.name == "select"):
        number = 1 if op.name == "select" else 0
        at = after(through(op, number), at)
        op = a.maker(op.operands[number])
    return (op if op is not None and lookup(op.name).traits.picks else None), at


def _below_top(a: Analysis, op: Op, found: Interval, env: Env) -> Interval:
    """z - max(z): not positive, and 0 somewhere along the axes of the maximum, unless all of z
    there is masked.
    """
    left, right = op.operands
    top, at = maximum_of(a, right)
    if top is None or top.name != "reduce_max" or not a.is_same(top.operands[0], left):
        return found
    axes, shape = get_ints(top.attributes, "axes"), left.type.static_shape
    beside = after(through(top, 0), at)
    if any(n != 1 and k not in axes and beside[k] != k for k, n in enumerate(shape)):
        return found
    faults, z = found.faults, a.of(left, env)
    if z.low == -INF and not z.low_open and not z.faults and not _has_entry(a, left, axes, env):
        faults |= a.fault(op, "empty")
    return Interval(found.low, 0.0, found.low_open, False, faults, frozenset(axes))


def _has_entry(a: Analysis, z: Value, axes: Sequence[int], env: Env) -> bool:
    """Whether somewhere along ``axes`` ``z`` is not masked with -inf: where the condition holds
    that lets it pass, or where its mask is known.
    """
    op = a.maker(z)
    while op is not None and op.name == "cast":
        op = a.maker(op.operands[0])
    if op is None or op.name != "select":
        return False
    condition, *sides = op.operands
    masked = [_is_masked(a.of(v, env)) for v in sides]
    if masked not in ([False, True], [True, False]):
        return False
    passes = masked[1]
    if any(c.holds is passes and _is_in_row(a, condition, c, axes) for c in env.conditions):
        return True
    return bool(np.all(_surely(a, condition, passes).any(axis=tuple(axes))))


def _is_in_row(a: Analysis, mask: Value, known: Condition, axes: Sequence[int]) -> bool:
    """Whether ``known``, which holds somewhere, is ``mask`` in the same row along ``axes``."""
    (root, left), (same, right) = a.root(mask), a.root(known.value)
    if root is not same or known.at is None:
        return False
    # Along a row any place will do: that of the root that both have.
    where = dict(zip(left, right, strict=True))
    at = (where.get(k) if i is None and k in axes else i for k, i in enumerate(known.at))
    return meet(root, left, right, tuple(at))


def _surely(a: Analysis, condition: Value, holds: bool) -> NDArray[np.bool_]:
    """Where ``condition`` holds (or does not) whatever the parameters are."""
    op, known = a.maker(condition), a.known_array(condition)
    if known is not None:
        return np.asarray(known == holds)
    if op is not None and op.name == "logical_not":
        return _surely(a, op.operands[0], not holds)
    if op is not None and (op.name == "logical_or" or op.name == "logical_and"):
        left, right = (_surely(a, v, holds) for v in op.operands)
        is_either = (op.name == "logical_or") == holds
        return left | right if is_either else left & right
    if op is not None and keeps_order(op):
        inner = _surely(a, op.operands[0], holds)
        return np.asarray(lookup(op.name).evaluate(NumpyArrays(), op, [inner])[0], np.bool_)
    return np.zeros(condition.type.static_shape, np.bool_)


def _is_masked(x: Interval) -> bool:
    return x.low == -INF and not x.low_open


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
    return any(maximum_of(a, v)[0] is not None for v in compared.operands)


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
    while op is not None and keeps_order(op) and op.operands[0].type == value.type:
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
    bare, way = a.root(root)
    op, env = a.maker(bare), env.at_operand(way)
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
            has_square = has_square or a.is_same(made.operands[0], x, way)
        elif a.of(term, env).low < 0:
            return False
    return False
