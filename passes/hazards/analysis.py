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

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.interval import (
    ANY,
    INF,
    OPPOSITE,
    SWAPPED,
    Bounds,
    Condition,
    Interval,
    narrowed,
    point,
)
from gradc.ir.ops.registry import has_own_numbers, is_loop, lookup, number_of
from gradc.ir.ops.traits import ALL, Moves
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.hazards.relations import keeps_order, related

_DEPTH = 10
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

    def deeper(self) -> Env:
        """The same one op further back."""
        return Env(self.conditions, self.left - 1) if self.left > 1 else EVERYWHERE

    def under(self, *conditions: Condition) -> Env:
        """With more conditions; the oldest are forgotten."""
        return Env((*self.conditions, *conditions)[-_MOST_CONDITIONS:], _DEPTH)


EVERYWHERE = Env()


class Analysis:
    """Intervals of the values of one function."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._numbers: dict[tuple[Op, str], int] = {}
        self._makers: dict[Value, Op] = {}
        self._given: dict[Value, Interval] = {}
        self._known: dict[tuple[Value, Env], Interval] = {}

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
            for condition, holds in env.conditions:
                found = self._refined(found, value, condition, holds)
            self._known[key] = found
        return found

    def _found(self, value: Value, env: Env) -> Interval:
        op = self._makers.get(value)
        if op is None:
            return self._given.get(value, ANY)
        if op.regions:
            return self._region(op, value)
        at, rule = _At(self, op, env.deeper()), lookup(op.name).interval
        if rule is None:
            operands = [at.of(number) for number in range(len(op.operands))]
            return ANY.with_faults(*(o.faults for o in operands))
        return related(self, op, rule(at, op), env.deeper())

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
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            operands = [
                ANY if n < carried else replace(o, peak=frozenset()) for n, o in enumerate(operands)
            ]
        self.run(region, operands)
        return self._region_result(op, place)

    def _region_result(self, op: Op, place: int) -> Interval:
        incoming = frozenset[int]().union(*(self.of(v).faults for v in op.operands))
        outputs = op.regions[0].outputs
        found = self.of(outputs[place]) if place < len(outputs) else ANY
        if is_loop(op):
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            inner = frozenset[int]().union(*(self.of(v).faults for v in outputs))
            found = (ANY if place < carried else replace(found, peak=frozenset())).with_faults(
                inner
            )
        return found.with_faults(incoming)

    # --- conditions

    def _refined(self, interval: Interval, value: Value, condition: Value, holds: bool) -> Interval:
        op = self._makers.get(condition)
        if op is None:
            return interval
        if has_own_numbers(op):
            return self._refined(interval, value, op.operands[0], holds)
        if op.name == "logical_not":
            return self._refined(interval, value, op.operands[0], not holds)
        if (op.name == "logical_and" and holds) or (op.name == "logical_or" and not holds):
            for part in op.operands:
                interval = self._refined(interval, value, part, holds)
            return interval
        if op.name not in OPPOSITE:
            return interval
        relation = op.name if holds else OPPOSITE[op.name]
        left, right = op.operands
        if self.is_same(value, left):
            return self._compared(interval, relation, right)
        if self.is_same(value, right):
            return self._compared(interval, SWAPPED[relation], left)
        return self._compared_through(interval, value, relation, left, right)

    def _compared_through(
        self, interval: Interval, value: Value, relation: str, left: Value, right: Value
    ) -> Interval:
        """``relu(x) > 0`` and ``abs(x) > 0`` also say something of x."""
        maker = self._makers.get(left)
        if maker is None or not self.is_same(value, maker.operands[0] if maker.operands else value):
            return interval
        bound = self.of(right)
        is_rectified = lookup(maker.name).traits.rectifies
        if is_rectified and relation == "gt" and bound.is_point and bound.low >= 0:
            return narrowed(interval, "gt", bound.low)
        return interval

    def is_same(self, value: Value, other: Value) -> bool:
        """Whether both are one number at every place, through broadcasts and equal constants."""
        return value is other or self._root(value) is self._root(other)

    def _root(self, value: Value) -> Value:
        op = self._makers.get(value)
        while op is not None and keeps_order(op):
            value = op.operands[0]
            op = self._makers.get(value)
        return value

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

    def guards(self, ct: Value, depth: int = 12) -> tuple[Condition, ...]:
        """Conditions that hold wherever ``ct`` is not exactly zero."""
        op = self._makers.get(ct)
        if op is None or depth == 0:
            return ()
        if op.name == "select":
            condition, a, b = op.operands
            if self._is_zero(b):
                return ((condition, True), *self.guards(a, depth - 1))
            if self._is_zero(a):
                return ((condition, False), *self.guards(b, depth - 1))
            return ()
        definition = lookup(op.name)
        linear = definition.traits.linear
        if has_own_numbers(op) and definition.traits.moves is not Moves.SELECTS:
            parts = [0]
        elif not definition.is_elementwise:
            parts = []
        else:
            # Zero where an operand is that it is linear in, alone or as the only one.
            only = [0] if len(op.operands) == 1 else []
            parts = only if linear == ALL else [g[0] for g in linear if len(g) == 1]
        return tuple(g for n in parts for g in self.guards(op.operands[n], depth - 1))

    def _is_zero(self, value: Value) -> bool:
        op = self._makers.get(value)
        return op is not None and number_of(op) == 0


@dataclass(frozen=True, slots=True)
class _At(Bounds):
    """What an interval rule may ask, at one op where ``env`` holds."""

    analysis: Analysis
    op: Op
    env: Env

    def of(self, number: int, *conditions: Condition) -> Interval:
        """What operand ``number`` can be, where ``conditions`` hold as well."""
        env = self.env.under(*conditions) if conditions else self.env
        return self.analysis.of(self.op.operands[number], env)

    def nonzero(self, number: int) -> tuple[Condition, ...]:
        """Conditions that hold wherever operand ``number`` is not exactly zero."""
        return self.analysis.guards(self.op.operands[number])

    def fault(self, kind: str) -> frozenset[int]:
        """A fault of the op."""
        return self.analysis.fault(self.op, kind)
