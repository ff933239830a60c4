"""Straight-line programs that repeat themselves become loops.

From-stage and to-stage: tensor. A Python loop is recorded as its trips one after another. Where the
same ops stand many times over, each reading what the trip before it left, one ``scan`` takes their
place: what all trips read from outside is a constant of the loop, what differs from trip to trip
(a row of an array, a number) is stacked, what one trip leaves to later ones is carried. The work is
linear in the program: periods are guessed from how far apart rare ops stand, and each guess is one
walk.

The values are the same: each trip computes what it computed. Sums of cotangents over trips are
added in the order of the loop's sweep. Non-goals: trips that differ in shape; loops of few trips or
few ops, which stay as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import number_of
from gradc.ir.ops.structural import row_of
from gradc.ir.tensor.core import Attr, Block, Function, Op, Value
from gradc.passes.rewrite import copy_ops, emit_scan, renamed, with_ops
from gradc.passes.simplify.cse import attributes_key
from gradc.passes.simplify.dce import dce

#: Fewer trips, or fewer ops in all of them, stay as they are.
LEAST_TRIPS, LEAST_OPS = 8, 250
#: How many trips back a value may be read.
MOST_LAG = 3
#: Loops made of one block, and periods tried for each: bounds of the work.
MOST_LOOPS, _GUESSES = 16, 12
_STRIDES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)


def with_loops(function: Function) -> Function:
    """``function`` with what it repeats as loops; the same object if it repeats nothing."""
    if len(function.block.ops) < LEAST_OPS:
        return function
    cleaned = dce(function)
    ops, outputs = _rolled(list(cleaned.block.body), list(cleaned.block.outputs))
    return function if ops is None else with_ops(cleaned, ops, outputs)


def _rolled(ops: list[Op], outputs: list[Value]) -> tuple[list[Op] | None, list[Value]]:
    """The ops with loops, and what the outputs are then; None if nothing repeats."""
    found = None
    start = 0
    for _ in range(MOST_LOOPS):
        run = _longest(ops, start) if len(ops) - start >= LEAST_OPS else None
        if run is None:
            break
        made = _Loop(ops, outputs, run).made()
        if made is None:
            start = run.stop  # what repeats there cannot be a loop
            continue
        ops, outputs, start = made
        found = ops
    return found, outputs


# --- finding what repeats


@dataclass(frozen=True, slots=True)
class _Run:
    """``trips`` times the ops of one period, from ``start`` on."""

    start: int
    period: int
    trips: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.trips


def _key(op: Op) -> Hashable:
    """What two ops share that may be the same op of two trips. Where a slice begins, and which
    number a constant is, may differ.
    """
    attributes: dict[str, Attr] = dict(op.attributes)
    if number_of(op) is not None:
        del attributes["value"]
    if op.name == "slice":
        del attributes["start"], attributes["limit"]
    inner = fingerprint(op.regions, PLACES) if op.regions else ""
    types = tuple(str(v.type) for v in (*op.operands, *op.results))
    return op.name, attributes_key(attributes), types, inner, op.scope, op.replica


def _longest(ops: Sequence[Op], start: int) -> _Run | None:
    """The run that covers most ops, of the shortest period; None if none is long enough."""
    numbers: dict[Hashable, int] = {}
    line = [numbers.setdefault(_key(op), len(numbers)) for op in ops[start:]]
    best: tuple[int, int, int] | None = None  # covered, minus the period, start
    for period in _periods(line):
        for low, high in _matches(line, period):
            covered = (high - low) // period * period
            if covered >= max(LEAST_OPS, LEAST_TRIPS * period):
                found = (covered, -period, low)
                is_better = best is None or found[0] > 1.1 * best[0]
                best = found if is_better else best
    if best is None:
        return None
    covered, period, low = best[0], -best[1], best[2]
    return _phased(ops, start + low, period, covered // period)


def _periods(line: Sequence[int]) -> list[int]:
    """Guesses, shortest first. An op that stands m times in a period is one period before the m-th
    of its like, always.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(line):
        places[number].append(place)
    votes: Counter[int] = Counter()
    for found in places.values():
        if len(found) < LEAST_TRIPS:
            continue
        for m in _STRIDES:
            gaps = Counter(b - a for a, b in zip(found, found[m:], strict=False))
            for gap, times in gaps.most_common(1):
                votes[gap] += times if times >= 0.6 * (len(found) - m) else 0
    return sorted(gap for gap, _ in votes.most_common(_GUESSES))


def _matches(line: Sequence[int], period: int) -> Iterator[tuple[int, int]]:
    """The stretches in which every op stands again one period later, with that period."""
    low = None
    for place in range(len(line) - period + 1):
        is_match = place < len(line) - period and line[place] == line[place + period]
        if is_match and low is None:
            low = place
        elif not is_match and low is not None:
            yield low, place + period
            low = None


def _phased(ops: Sequence[Op], start: int, period: int, trips: int) -> _Run:
    """The run cut where least is alive between two trips."""
    made: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for n in range(start, start + min(3, trips) * period):
        made.update((v, n) for v in ops[n].results)
        last.update((v, n) for v in ops[n].operands)
    middle = start + period
    changes = [0] * (period + 1)
    for v, born in made.items():
        low, high = max(born + 1, middle), min(last.get(v, born) + 1, middle + period)
        if low < high:
            changes[low - middle] += v.type.nbytes + 8
            changes[high - middle] -= v.type.nbytes + 8
    alive = list(accumulate(changes[:-1]))
    shift = alive.index(min(alive))
    return _Run(start + shift, period, trips - (shift > 0))


# --- making the loop


class _Irregular(Exception):
    """Trips that do not read the same things."""


@dataclass(slots=True)
class _Plan:
    """What the loop hands on: the parameter of the body behind each operand of the first trip."""

    carries: dict[Any, Value] = field(default_factory=dict)
    starts: list[Value] = field(default_factory=list)
    nexts: list[Any] = field(default_factory=list)
    stacks: dict[Any, tuple[Value, list[Any]]] = field(default_factory=dict)
    constants: dict[Value, Value] = field(default_factory=dict)


class _Loop:
    """One run of ``ops`` that is to be a loop."""

    def __init__(self, ops: list[Op], outputs: list[Value], run: _Run) -> None:
        self.ops, self.outputs, self.run = ops, outputs, run
        self.place: dict[Value, tuple[int, int]] = {}
        for n, op in enumerate(ops):
            for r, v in enumerate(op.results):
                self.place[v] = n, r
        self.plan = _Plan()
        self.slots: list[list[Value | None]] = []
        self.rows: dict[int, Value] = {}
        self.before = Builder()

    def made(self) -> tuple[list[Op], list[Value], int] | None:
        """The program with the loop, its outputs, and where to look on; None if it cannot be."""
        run = self.run
        try:
            self._read()
        except _Irregular:
            return None
        body_ops, mapping = self._body(self.ops[run.start : run.start + run.period])
        kept = self._used_after()
        results = [mapping[self._result(key)] for key in kept]
        nexts = [
            mapping[self._result(key)] if type(key) is tuple else key for key in self.plan.nexts
        ]
        inner, ends = _rolled(body_ops, [*nexts, *results])
        plan = self.plan
        stacked = [self._stacked(items, key[0]) for key, (_, items) in plan.stacks.items()]
        parameters = (
            *plan.carries.values(),
            *(value for value, _ in plan.stacks.values()),
            *plan.constants.values(),
        )
        end = Op("yield", tuple(ends), ())
        block = Block(parameters, (*(body_ops if inner is None else inner), end))
        attributes: dict[str, Attr] = {
            "trips": run.trips,
            "carried": len(plan.carries),
            "stacked": len(stacked),
            "reverse": False,
            "truncate": 0,
        }
        b = self.before
        found = emit_scan(b, [*plan.starts, *stacked, *plan.constants], block, attributes)
        return self._replaced(kept, found)

    def _result(self, key: tuple[int, int]) -> Value:
        n, r = key
        return self.ops[self.run.start + n].results[r]

    # --- what the trips read

    def _read(self) -> None:
        """The parameters of the body behind every operand of a trip."""
        run = self.run
        for n in range(run.period):
            trips = [self.ops[run.start + t * run.period + n] for t in range(run.trips)]
            if self._differs(trips):
                self.rows[n] = self._stack(("ops", n), list(trips), trips[0].result)
                self.slots.append([])
            else:
                reads = range(len(trips[0].operands))
                self.slots.append([self._operand([op.operands[o] for op in trips]) for o in reads])

    def _differs(self, trips: Sequence[Op]) -> bool:
        """Whether a constant or a slice of what is outside differs from trip to trip."""
        name = trips[0].name
        if name == "constant":
            keys: list[Any] = [attributes_key(op.attributes) for op in trips]
        elif name == "slice":
            keys = [(op.attributes["start"], op.attributes["limit"]) for op in trips]
        else:
            return False
        if all(key == keys[0] for key in keys):
            return False
        if any(
            self.place.get(v, (-1, 0))[0] >= self.run.start for op in trips for v in op.operands
        ):
            raise _Irregular
        return True

    def _operand(self, values: Sequence[Value]) -> Value | None:
        """The parameter that stands for what the trips read; None if each itself computes it."""
        run = self.run
        places = [self.place.get(v, (-1, 0)) for v in values]
        bases = [run.start + t * run.period for t in range(run.trips)]
        near = {(p - base, r) for (p, r), base in zip(places, bases, strict=True)}
        if len(near) == 1 and next(iter(near))[0] >= 0:
            return None
        if all(p < run.start for p, _ in places):
            if all(v is values[0] for v in values):
                known = self.plan.constants
                return known.setdefault(values[0], Value(values[0].type, values[0].hint))
            return self._stack(("values", *map(id, values)), list(values), values[0])
        for lag in range(1, min(MOST_LAG, run.trips - 1) + 1):
            back = {(places[t][0] - bases[t - lag], places[t][1]) for t in range(lag, run.trips)}
            is_first = all(p < run.start for p, _ in places[:lag])
            if len(back) == 1 and is_first and 0 <= next(iter(back))[0] < run.period:
                return self._carry(next(iter(back)), values[:lag])
        raise _Irregular

    def _carry(self, key: tuple[int, int], starts: Sequence[Value]) -> Value:
        """What was computed ``len(starts)`` trips ago: handed on from carry to carry."""
        carries = self.plan.carries
        previous: Any = key
        for lag in range(1, len(starts) + 1):
            # At the first trip it is the value of `lag` trips before, at the next that of one less.
            begin = starts[len(starts) - lag]
            name = (key, lag, tuple(map(id, starts[len(starts) - lag :])))
            if name not in carries:
                carries[name] = Value(begin.type, begin.hint)
                self.plan.starts.append(begin)
                self.plan.nexts.append(previous)
            previous = carries[name]
        return carries[name]

    def _stack(self, key: Any, items: list[Any], like: Value) -> Value:
        stacks = self.plan.stacks
        if key not in stacks:
            stacks[key] = Value(like.type, like.hint), items
        return stacks[key][0]

    # --- what the loop is made of

    def _body(self, first: Sequence[Op]) -> tuple[list[Op], dict[Value, Value]]:
        """The ops of the first trip on the parameters of the body, and what became of its
        values.
        """
        made: list[Op] = []
        mapping: dict[Value, Value] = {}
        for n, op in enumerate(first):
            if n in self.rows:
                mapping[op.result] = self.rows[n]
                continue
            pairs = zip(op.operands, self.slots[n], strict=True)
            # One value may be read as several things: by its place, not by its name.
            operands = tuple([mapping[v] if slot is None else slot for v, slot in pairs])
            (copy,) = copy_ops([replace(op, operands=operands)], mapping)
            made.append(copy)
        return made, mapping

    def _stacked(self, items: list[Any], kind: str) -> Value:
        """One array of what the trips read, a row for each."""
        b = self.before
        if kind == "ops":
            rows = _rows_of(b, items)
            if rows is not None:
                return rows
            made = copy_ops(items, {})
            b.ops += made
            items = [op.result for op in made]
        wide = [b.one("reshape", v, shape=(1, *v.type.shape)) for v in items]
        return b.one("concat", *wide, axis=0)

    def _used_after(self) -> list[tuple[int, int]]:
        """The results of the period that are read behind the run, and are no carries of the last
        trip.
        """
        run = self.run
        carried = {key[0] for key in self.plan.carries if key[1] == 1}
        found: dict[tuple[int, int], None] = {}
        reads = [v for op in self.ops[run.stop :] for v in op.operands]
        for v in (*reads, *self.outputs):
            at, r = self.place.get(v, (-1, 0))
            if run.start <= at < run.stop:
                trip, n = divmod(at - run.start, run.period)
                if trip < run.trips - 1 or (n, r) not in carried:
                    found[n, r] = None
        return list(found)

    def _replaced(
        self, kept: Sequence[tuple[int, int]], found: Sequence[Value]
    ) -> tuple[list[Op], list[Value], int]:
        """Everything behind the run on what the loop leaves."""
        run, b = self.run, self.before
        carried = len(self.plan.carries)
        rows = dict(zip(kept, found[carried:], strict=True))
        last = {key[0]: v for key, v in zip(self.plan.carries, found, strict=False) if key[1] == 1}
        mapping: dict[Value, Value] = {}

        def of(v: Value) -> Value:
            at, r = self.place.get(v, (-1, 0))
            if not run.start <= at < run.stop:
                return v
            if v not in mapping:
                trip, n = divmod(at - run.start, run.period)
                if trip == run.trips - 1 and (n, r) in last:
                    mapping[v] = last[n, r]
                else:
                    mapping[v] = row_of(b, rows[n, r], trip)
            return mapping[v]

        behind = self.ops[run.stop :]
        for op in behind:
            for v in op.operands:
                of(v)
        outputs = [of(v) for v in self.outputs]
        ops = [*self.ops[: run.start], *b.ops]
        start = len(ops)
        for op in behind:
            moved = renamed(op.operands, mapping)
            is_same = all(x is y for x, y in zip(moved, op.operands, strict=True))
            ops.append(op if is_same else replace(op, operands=moved))
        return ops, outputs, start


def _rows_of(b: Builder, items: Sequence[Op]) -> Value | None:
    """Slices of one array, of extent 1 and evenly spaced along one axis, as one slice; None for
    others.
    """
    first = items[0]
    if first.name != "slice" or any(op.operands[0] is not first.operands[0] for op in items):
        return None
    starts: list[Any] = [op.attributes["start"] for op in items]
    axes = [n for n in range(len(starts[0])) if len({s[n] for s in starts}) > 1]
    if len(axes) != 1 or first.result.type.shape[axes[0]] != 1:
        return None
    (axis,) = axes
    along = [s[axis] for s in starts]
    steps = {b - a for a, b in pairwise(along)}
    if len(steps) != 1 or min(steps) < 1:
        return None
    limit: Any = first.attributes["limit"]
    stride: Any = first.attributes["stride"]
    low, high, step = list(starts[0]), list(limit), list(stride)
    low[axis], high[axis], step[axis] = along[0], along[-1] + 1, steps.pop()
    whole = b.one(
        "slice", first.operands[0], start=tuple(low), limit=tuple(high), stride=tuple(step)
    )
    rank = len(low)
    order = (axis, *(n for n in range(rank) if n != axis))
    turned = whole if axis == 0 else b.one("transpose", whole, perm=order)
    return b.one("reshape", turned, shape=(len(items), *first.result.type.static_shape))
