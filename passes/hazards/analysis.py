"""The interval analysis behind ``hazards``: the interval rules of ops, refined by conditions and
by relations between values.

What an op's result can be stands at the op (``interval``, ``ir/ops/interval.py``). Here stand the
conditions of ``select`` and ``gate``, and what intervals alone cannot see: that two values are one
number, that a value is the greatest of others or counts them (``relations``).

Every op is visited once in order; below a ``select`` or ``gate`` the guarded side is evaluated
again, up to a few ops deep, under what the condition says. Work is linear in the number of ops.

Non-goals: which faults matter (``hazards``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.attributes import get_int
from gradc.ir.ops.interval import (
    ANY,
    INF,
    OPPOSITE,
    SWAPPED,
    Bounds,
    Condition,
    Interval,
    hull,
    narrowed,
    point,
    within,
)
from gradc.ir.ops.registry import has_own_numbers, is_loop, is_product, is_sum, lookup, number_of
from gradc.ir.ops.traits import ALL, Moves
from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.hazards.places import At, after, backwards, itself, meet, root_of, through
from gradc.passes.hazards.relations import related

_DEPTH = 16
# Loops of so few trips are followed trip by trip.
_MOST_TRIPS = 64
_ARRAYS = NumpyArrays()
# Finite numbers beyond what their type holds.
SIZE = "size"
LARGEST = {
    DType.F64: 1.7976e308,
    DType.F32: 3.4028e38,
    DType.BF16: 3.3895e38,
    DType.F16: 65504.0,
}
# Rounding, and what is masked with an infinity on the way.
_MARGIN = 4.0
_INTEGERS = (-(2.0**63), 2.0**64)
_MOST_CONDITIONS = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """An op whose result may be infinite or NaN although its operands are finite, and how."""

    op: Op
    kind: str


@dataclass(frozen=True, slots=True)
class Env:
    """Conditions that hold (or do not) where a value is looked at, and how many ops deep they are
    still used.
    """

    conditions: tuple[Condition, ...] = ()
    left: int = 0

    def at_operand(self, way: At) -> Env:
        """The same one op further back; ``way`` leads from the operand's axes to the result's."""
        if self.left <= 1:
            return EVERYWHERE
        moved = (c._replace(at=after(way, c.at or ())) for c in self.conditions)
        return Env(tuple(moved), self.left - 1)

    def under(self, *conditions: Condition) -> Env:
        """With more conditions; the oldest are forgotten."""
        return Env((*self.conditions, *conditions)[-_MOST_CONDITIONS:], _DEPTH)


EVERYWHERE = Env()


class Analysis:
    """Intervals of the values of one function. ``sees_size`` if what grows beyond its type is a
    fault too; then parameters are bounded.
    """

    def __init__(self, sees_size: bool = False) -> None:
        self.sees_size = sees_size
        self.faults: list[Fault] = []
        self._numbers: dict[tuple[Op, str], int] = {}
        self._makers: dict[Value, Op] = {}
        self._given: dict[Value, Interval] = {}
        self._known: dict[tuple[Value, Env], Interval] = {}
        self._arrays: dict[Value, NDArray[Any] | None] = {}
        self._ways: dict[tuple[Op, int], At] = {}
        self._roots: dict[Value, tuple[Value, At]] = {}

    def run(self, block: Block, operands: Sequence[Interval] = ()) -> None:
        """Visits ``block``, whose parameters may be anything finite unless ``operands`` says
        more.
        """
        for number, parameter in enumerate(block.parameters):
            self._given[parameter] = operands[number] if operands else ANY
        for op in block.body:
            self._makers.update(dict.fromkeys(op.results, op))
            for value in op.results:
                self.of(value)

    def of(self, value: Value, env: Env = EVERYWHERE) -> Interval:
        """The interval of ``value`` where ``env`` holds."""
        key = (value, env)
        found = self._known.get(key)
        if found is None:
            found = self._found(value, env)
            for condition in env.conditions:
                found = self._refined(found, value, condition)
            self._known[key] = found
        return found

    def _found(self, value: Value, env: Env) -> Interval:
        op = self._makers.get(value)
        if op is None:
            return self._given.get(value, ANY)
        if op.regions:
            return self._region(op, value)
        if op.name == "select":
            for c in env.conditions:
                if self.is_same(op.operands[0], c.value, c.at):
                    return self.of(op.operands[1 if c.holds else 2], self.before(op, 1, env))
        at, rule = _At(self, op, env), lookup(op.name).interval
        if rule is None:
            operands = [at.of(number) for number in range(len(op.operands))]
            found = ANY.with_faults(*(o.faults for o in operands))
        else:
            found = related(self, op, rule(at, op), env)
        return self._held(op, value, found) if self.sees_size else found

    def _held(self, op: Op, value: Value, found: Interval) -> Interval:
        """``found``, with a fault where it is more than the type holds and nothing else explains
        it.
        """
        if not value.type.dtype.is_float:
            return within(found, *_INTEGERS)
        if math.isnan(number_of(op) or 0.0):
            return point(0.0)  # what the program calls not a number has not grown to be one
        most = LARGEST[value.type.dtype] / _MARGIN
        is_low = found.low < -most and not (found.low == -INF and is_meant(found))
        is_high = found.high > most and not (found.high == INF and is_meant(found))
        if found.faults or not (is_low or is_high):
            return found
        return found.with_faults(self.fault(op, SIZE))

    def known_array(self, value: Value) -> NDArray[Any] | None:
        """The numbers of ``value`` where no parameter has a part in them; else None."""
        if value not in self._arrays:
            op = self._makers.get(value)
            found = None
            if op is not None and not op.regions and len(op.results) == 1:
                operands = [self.known_array(v) for v in op.operands]
                if all(x is not None for x in operands):
                    found = np.asarray(lookup(op.name).evaluate(_ARRAYS, op, operands)[0])
            self._arrays[value] = found
        return self._arrays[value]

    def before(self, op: Op, number: int, env: Env) -> Env:
        """What of ``env``, which holds at the result of ``op``, holds at an operand."""
        if not env.conditions:
            return EVERYWHERE
        way = self._ways.get((op, number))
        if way is None:
            way = self._ways[op, number] = through(op, number)
        return env.at_operand(way)

    def maker(self, value: Value) -> Op | None:
        """The op that makes ``value``."""
        return self._makers.get(value)

    def fault(self, op: Op, kind: str) -> frozenset[int]:
        """A fault of ``op``, as a set of its number."""
        key = (op, kind)
        if key not in self._numbers:
            self._numbers[key] = len(self.faults)
            self.faults.append(Fault(op, kind))
        return frozenset([self._numbers[key]])

    def _region(self, op: Op, value: Value) -> Interval:
        """Region ops: the region once, with loop carries that may be anything finite."""
        place = op.results.index(value)
        if place:
            first = self._known.get((op.results[0], EVERYWHERE))
            if first is None:
                self.of(op.results[0])
        region = op.regions[0]
        if region.body and region.body[0].results[0] in self._makers:
            return self._region_result(op, place)
        operands = [self.of(v).clean() for v in op.operands]
        if is_loop(op):
            operands = self._carried(op, [replace(o, peak=frozenset()) for o in operands])
        self.run(region, operands)
        return self._region_result(op, place)

    def _carried(self, op: Op, operands: Sequence[Interval]) -> list[Interval]:
        """What a loop's region is given: a carry is as it started, or what one trip makes of any
        finite number; of a few trips, what they make of the start.
        """
        carried, trips = get_int(op.attributes, "carried"), get_int(op.attributes, "trips")
        rest = operands[carried:]

        def later(carries: Sequence[Interval]) -> list[Interval]:
            once = Analysis()
            once.run(op.regions[0], [*carries, *rest])
            made = (once.of(v).clean() for v in op.regions[0].outputs[:carried])
            found = (hull(*pair) for pair in zip(operands, made, strict=False))
            return [replace(c, peak=frozenset()) for c in found]

        found = later([ANY] * carried)
        if self.sees_size and trips <= _MOST_TRIPS:
            few = [replace(c, peak=frozenset()) for c in operands[:carried]]
            for _ in range(trips):
                few = [hull(*pair) for pair in zip(few, later(few), strict=True)]
            found = [within(c, f.low, f.high) for c, f in zip(found, few, strict=True)]
        return [*found, *rest]

    def _region_result(self, op: Op, place: int) -> Interval:
        incoming = frozenset[int]().union(*(self.of(v).faults for v in op.operands))
        outputs = op.regions[0].outputs
        found = self.of(outputs[place]) if place < len(outputs) else ANY
        if is_loop(op):
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            inner = frozenset[int]().union(*(self.of(v).faults for v in outputs))
            if place < carried:
                # After no trip at all a carry is as it started.
                found = hull(found, self.of(op.operands[place]))
            found = replace(found, peak=frozenset()).with_faults(inner)
        return found.with_faults(incoming)

    # --- conditions

    def _refined(self, interval: Interval, value: Value, known: Condition) -> Interval:
        """``interval`` of ``value`` where ``known`` holds."""
        condition, holds, at = known
        op = self._makers.get(condition)
        if op is None:
            return interval
        if has_own_numbers(op):
            way = backwards(through(op, 0), condition.type.rank)
            inner = Condition(op.operands[0], holds, after(at or (), way))
            return self._refined(interval, value, inner)
        if op.name == "logical_not":
            return self._refined(interval, value, Condition(op.operands[0], not holds, at))
        if (op.name == "logical_and" and holds) or (op.name == "logical_or" and not holds):
            for part in op.operands:
                interval = self._refined(interval, value, Condition(part, holds, at))
            return interval
        if op.name not in OPPOSITE:
            return interval
        relation = op.name if holds else OPPOSITE[op.name]
        left, right = op.operands
        if self.is_same(value, left, at):
            return self._compared(interval, relation, right)
        if self.is_same(value, right, at):
            return self._compared(interval, SWAPPED[relation], left)
        maker, bound = self._makers.get(left), self.of(right)
        # ``relu(x) > 0`` also says something of x.
        if maker is None or not lookup(maker.name).traits.rectifies:
            return interval
        if not self.is_same(value, maker.operands[0], at):
            return interval
        if relation == "gt" and bound.is_point and bound.low >= 0:
            return narrowed(interval, "gt", bound.low)
        return interval

    def is_same(self, value: Value, other: Value, at: At | None = None) -> bool:
        """Whether both are one number, through repetitions and equal constants: at every place, or
        where ``at`` leads from the axes of ``value`` to those of ``other``.
        """
        if at is None:
            if value is other:
                return True
            is_alike = value.type.shape == other.type.shape
            at = itself(value) if is_alike else (None,) * value.type.rank
        (root, left), (same, right) = self.root(value), self.root(other)
        return root is same and meet(root, left, right, at)

    def root(self, value: Value) -> tuple[Value, At]:
        """What ``value`` repeats or regroups, and the way from its axes to those of ``value``."""
        if value not in self._roots:
            self._roots[value] = root_of(value, self._makers)
        return self._roots[value]

    def _compared(self, interval: Interval, relation: str, bound: Value) -> Interval:
        known = self.of(bound)
        if relation in ("gt", "ge") and known.low > -INF:
            exact = "ge" if relation == "ge" and not known.low_open else "gt"
            return narrowed(interval, exact, known.low)
        if relation in ("lt", "le") and known.high < INF:
            exact = "le" if relation == "le" and not known.high_open else "lt"
            return narrowed(interval, exact, known.high)
        if relation in ("ne", "eq") and known.is_point:
            if relation == "ne":
                return self._without(interval, known.low)
            return replace(point(known.low), faults=interval.faults)
        return interval

    def _without(self, interval: Interval, number: float) -> Interval:
        """``interval`` without one number; inside it, only a missing 0 is remembered."""
        if interval.low < number < interval.high and number == 0:
            return replace(interval, is_nonzero=True)
        return narrowed(interval, "ne", number)

    def guards(self, ct: Value, at: At | None = None, depth: int = 12) -> tuple[Condition, ...]:
        """Conditions that hold wherever ``ct`` is not exactly zero; ``at`` leads from the axes of
        the value that asks to those of ``ct``.
        """
        op = self._makers.get(ct)
        if op is None or depth == 0:
            return ()
        at = itself(ct) if at is None else at
        if op.name == "select":
            condition, a, b = op.operands
            if self._is_zero(b):
                return (Condition(condition, True, at), *self.guards(a, at, depth - 1))
            if self._is_zero(a):
                return (Condition(condition, False, at), *self.guards(b, at, depth - 1))
            return ()
        definition = lookup(op.name)
        linear = definition.traits.linear
        if has_own_numbers(op) and definition.traits.moves is not Moves.SELECTS:
            parts = [0]
        elif is_sum(op) or is_product(op):
            # Some term is not zero, nor are its factors: somewhere along the axes summed over.
            parts = list(range(len(op.operands)))
        elif not definition.is_elementwise:
            parts = []
        else:
            # Zero where an operand is that it is linear in, alone or as the only one.
            only = [0] if len(op.operands) == 1 else []
            parts = only if linear == ALL else [g[0] for g in linear if len(g) == 1]
        found: list[Condition] = []
        for n in parts:
            way = after(at, backwards(through(op, n), ct.type.rank))
            found += self.guards(op.operands[n], way, depth - 1)
        return tuple(found)

    def _is_zero(self, value: Value) -> bool:
        op = self._makers.get(value)
        return op is not None and number_of(op) == 0


def is_meant(found: Interval) -> bool:
    """Whether an infinite end is one that the program writes down."""
    is_low = found.low == -INF and not found.low_open
    return not found.faults and (is_low or (found.high == INF and not found.high_open))


@dataclass(frozen=True, slots=True)
class _At(Bounds):
    """What an interval rule may ask, at one op where ``env`` holds."""

    analysis: Analysis
    op: Op
    env: Env

    def of(self, number: int, *conditions: Condition) -> Interval:
        """What operand ``number`` can be, where ``conditions`` hold as well."""
        env = self.analysis.before(self.op, number, self.env)
        if conditions:
            operand = self.op.operands[number]
            more = (c if c.at is not None else c._replace(at=itself(operand)) for c in conditions)
            env = env.under(*more)
        return self.analysis.of(self.op.operands[number], env)

    def nonzero(self, number: int) -> tuple[Condition, ...]:
        """Conditions that hold wherever operand ``number`` is not exactly zero."""
        return self.analysis.guards(self.op.operands[number])

    def fault(self, kind: str) -> frozenset[int]:
        """A fault of the op."""
        return self.analysis.fault(self.op, kind)
