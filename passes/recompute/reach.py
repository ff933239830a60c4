"""Products are told what of them counts: terms that a mask has made 0, elements that it hides.

    S = contract(Q, K);  P = select(i >= j, exp(S - m), 0);  O = contract(P, V)

    S = contract(Q, K) {results = i >= j};  O = contract(P, V) {terms = i >= j}

From-stage and to-stage: tensor, after ``turn``, when all axes lie as products will read them. Of
every value the block is asked where positions alone decide what it is (``_Facts``): an integer that
is linear in positions, a condition that holds only where linear inequalities do, a number that it
is wherever one of them does not hold. A term whose factor is 0 there is left out; an element of a
product that every reader replaces there is not computed. Rows of a tile in a loop are counted from
the first element of what says their positions, which the product reads.

Invariants: for finite numbers no element that is read changes, terms left out being exactly 0; what
is not finite where a mask is has no effect, as in ``tile``. Non-goals: leaving out
elementwise work; conditions that no linear inequality follows from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from gradc.ir.ops.attributes import get_dims, get_int, get_ints, get_pairs
from gradc.ir.ops.contraction import free_axes
from gradc.ir.ops.needs import Axis, Need, with_needs
from gradc.ir.ops.registry import Pointwise, is_loop, is_product, lookup, number_of
from gradc.ir.ops.traits import Moves
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, DType, Function, Op, Value
from gradc.passes.lower.runs import run_of
from gradc.passes.recompute.ranges import UNKNOWN, Range, RangeAlgebra
from gradc.passes.rewrite import Scan, each_once, with_control, with_ops

# Products of fewer multiplications are over before anything of them is left out.
LEAST_WORK = 1 << 15


def reach(function: Function, target: Target) -> Function:
    """``function`` with products told what of them counts; the same object if all of all does. Only
    for targets whose products leave out the rest.
    """
    if not target.leaves_out:
        return function
    block = _told(function.block, {}, {})
    return function if block is function.block else with_ops(function, block.body, block.outputs)


@dataclass(frozen=True, slots=True)
class _Line:
    """``constant + sum(factor * index along axis)``, and once the first element of ``origin``."""

    constant: int = 0
    factors: tuple[tuple[int, int], ...] = ()
    origin: Value | None = None
    data: int = 0

    def plus(self, other: _Line, times: int = 1) -> _Line | None:
        """The sum with so many times ``other``; None if two origins would be left."""
        total = dict(self.factors)
        for axis, factor in other.factors:
            total[axis] = total.get(axis, 0) + times * factor
        factors = tuple(sorted((axis, n) for axis, n in total.items() if n))
        origin, data = self.origin or other.origin, self.data + times * other.data
        if other.origin not in (None, origin):
            return None
        return _Line(
            self.constant + times * other.constant, factors, origin if data else None, data
        )

    def moved(self, places: Mapping[int, int | None]) -> _Line:
        """Along other axes; an axis without a place has one position."""
        kept = [(places.get(axis), n) for axis, n in self.factors]
        factors = tuple(sorted((axis, n) for axis, n in kept if axis is not None))
        return replace(self, factors=factors)


@dataclass(frozen=True, slots=True)
class _Fact:
    """What is known of a value: ``line`` if it is one; ``needs``: where one is below 0, a condition
    is false and a number is ``number``. Without needs it is ``number`` everywhere.
    """

    line: _Line | None = None
    needs: frozenset[_Line] = frozenset()
    number: float | None = None


_NOTHING = _Fact()


# First elements that positions of a loop's trips may count from.
_Starts = Mapping[Value, range]


def _told(block: Block, given: Mapping[Value, _Fact], starts: _Starts) -> Block:
    facts = _Facts(block, given, starts)
    inner = each_once(_inner)
    ops = []
    for op in block.body:
        new = _loop(op, facts) if is_loop(op) else with_control(op, inner)
        ops.append(_product(new, facts))
    if all(a is b for a, b in zip(ops, block.body, strict=True)):
        return block
    return Block(block.parameters, (*ops, block.terminator))


def _inner(block: Block) -> Block:
    return _told(block, {}, {})


def _loop(op: Op, facts: _Facts) -> Op:
    """A scan whose body knows the positions that it is given: whole, or a slice a trip, which count
    from the first.
    """
    scan = Scan.of(op)
    given: dict[Value, _Fact] = {}
    starts: dict[Value, range] = {}
    _, stacked, whole = scan.split(op.operands)
    _, slices, constants = scan.split(scan.body.parameters)
    for value, parameter in zip(whole, constants, strict=True):
        given[parameter] = _inside(facts.of(value), parameter)
    for value, parameter in zip(stacked, slices, strict=True):
        line = facts.of(value).line
        if line is not None and line.origin is None:
            factors = tuple((axis - 1, n) for axis, n in line.factors if axis)
            given[parameter] = _Fact(_Line(0, factors, parameter, 1))
            step, trips = dict(line.factors).get(0, 0), value.type.static_shape[0]
            if step > 0:
                starts[parameter] = range(line.constant, line.constant + step * trips, step)
    body = _told(scan.body, given, starts)
    return op if body is scan.body else replace(op, regions=(body,))


def _inside(fact: _Fact, parameter: Value) -> _Fact:
    """What is known of a value where it is called ``parameter``: other names mean nothing there."""
    line = fact.line
    if line is not None and line.origin is not None:
        line = _Line(0, line.factors, parameter, 1)
    if any(need.origin is not None for need in fact.needs):
        return _Fact(line)
    return _Fact(line, fact.needs, fact.number)


class _Facts:
    """What positions decide in one block; ``given`` is known of its parameters, and that some
    begin with one of ``starts``.
    """

    def __init__(self, block: Block, given: Mapping[Value, _Fact], starts: _Starts) -> None:
        self.block = block
        self.starts = starts
        self.known = dict(given)
        self.hidden: dict[Value, frozenset[_Line]] = {}

    @cached_property
    def made(self) -> dict[Value, Op]:
        """What makes a value."""
        return {v: op for op in self.block.body for v in op.results}

    @cached_property
    def readers(self) -> dict[Value, list[Op]]:
        """Who reads a value, the terminator among them."""
        found: dict[Value, list[Op]] = {}
        for op in self.block.ops:
            for value in dict.fromkeys(op.operands):
                found.setdefault(value, []).append(op)
        return found

    def of(self, value: Value) -> _Fact:
        """What is known of ``value``."""
        stack = [value]
        while stack:
            top = stack[-1]
            op = self.made.get(top)
            if top in self.known or op is None or not _is_followed(op):
                self.known.setdefault(top, _NOTHING)
                stack.pop()
                continue
            missing = [x for x in op.operands if x not in self.known]
            if missing:
                stack += missing
                continue
            self.known[top] = self._fact(op, [self.known[x] for x in op.operands])
            stack.pop()
        return self.known[value]

    def _fact(self, op: Op, operands: Sequence[_Fact]) -> _Fact:
        number = number_of(op)
        if number is not None:
            is_whole = isinstance(number, int) and not isinstance(number, bool)
            return _Fact(_Line(int(number)) if is_whole else None, frozenset(), float(number))
        if _is_positions(op):
            factors = ((get_int(op.attributes, "axis"), 1),)
            return _Fact(_Line(0, factors)) if op.result.type.dtype is DType.I32 else _NOTHING
        if isinstance(lookup(op.name).loop, Pointwise):
            return self._computed(op, operands)
        (operand,) = operands
        return _viewed(op, operand)

    def _computed(self, op: Op, operands: Sequence[_Fact]) -> _Fact:
        """An elementwise op, by its scalar meaning: over lines and conditions, then over numbers.

        A number stands where needs of operands do not hold. What is not known is taken to be
        finite, which a number of a row that a condition leaves empty may not be: then nothing is
        known.
        """
        form = lookup(op.name).loop
        assert isinstance(form, Pointwise)
        if not op.result.type.dtype.is_float:
            found = form.meaning(_Lines(), *operands, **op.attributes)
            return found if isinstance(found, _Fact) else _NOTHING
        marked = [x for x in operands if x.needs]
        if not marked:
            return _NOTHING
        if _is_choice(op):
            return _selected(*operands)
        needs = marked[0].needs
        if any(x.needs != needs or x.number is None for x in marked):
            return _NOTHING
        given = [UNKNOWN if x.number is None else _point(x.number) for x in operands]
        with np.errstate(all="ignore"):
            made = form.meaning(RangeAlgebra(), *given, **op.attributes)
        if not isinstance(made, Range) or not bool(np.all(made.is_always(float(made.low.flat[0])))):
            return _NOTHING
        is_sure = all(x.number is not None for x in operands)
        if not is_sure and self._empties(needs, op):
            return _NOTHING
        return _Fact(None, needs, float(made.low.flat[0]))

    def _empties(self, needs: frozenset[_Line], op: Op) -> bool:
        """Whether ``needs`` may leave nothing of some row along axes where operands of ``op`` are
        repeated.
        """
        axes = sorted({axis for line in needs for axis, _ in line.factors})
        repeats = self._repeats(op)
        along = [axis for axis in axes if axis in repeats]
        if not along:
            return False
        origins = {line.origin for line in needs if line.origin is not None}
        starts = [self.starts.get(origin) for origin in origins] or [range(1)]
        if len(along) > 1 or len(axes) > 2 or len(starts) > 1 or starts[0] is None:
            return True
        shape, (column,) = op.result.type.static_shape, along
        start = np.asarray(starts[0])[:, None]
        lines = []
        for line in needs:
            rest, step = line.constant + line.data * start, 0
            for axis, factor in line.factors:
                if axis == column:
                    step = factor
                else:
                    rest = rest + factor * np.arange(shape[axis])
            lines.append((rest, step))
        low, end = run_of(lines, shape[column])
        return bool(np.any(low >= end))

    def _repeats(self, op: Op) -> frozenset[int]:
        """The axes along which operands of ``op`` are repeated, so one number a row."""
        found: set[int] = set()
        for maker in (self.made.get(x) for x in op.operands):
            if maker is not None and _moves(maker) is Moves.REPEATS and number_of(maker) is None:
                own = {axis for run in _axes(maker) or () for axis in run}
                found |= {axis for axis in range(maker.result.type.rank) if axis not in own}
        return frozenset(found)

    def unread(self, value: Value) -> frozenset[_Line]:
        """Nobody looks at an element of ``value`` where one of these is below 0."""
        stack = [value]
        while stack:
            top = stack[-1]
            after = [r.results[0] for r in self.readers.get(top, ()) if _is_followed(r)]
            missing = [x for x in after if x not in self.hidden]
            if missing and top not in self.hidden:
                stack += missing
                continue
            self.hidden.setdefault(top, self._unread(top))
            stack.pop()
        return self.hidden[value]

    def _unread(self, value: Value) -> frozenset[_Line]:
        found: frozenset[_Line] | None = None
        for reader in self.readers.get(value, ()):
            here: frozenset[_Line] = frozenset()
            if _is_followed(reader):
                here = _back(reader, self.hidden[reader.results[0]])
                if _is_choice(reader) and reader.operands.count(value) == 1:
                    condition, chosen, _ = reader.operands
                    here |= self.of(condition).needs if chosen is value else frozenset()
            found = here if found is None else found & here
        return found or frozenset()


def _is_followed(op: Op) -> bool:
    """Whether an element of the result is one of each operand, at a place that axes say."""
    if len(op.results) != 1 or not all(isinstance(n, int) for n in op.result.type.shape):
        return False
    is_number = number_of(op) is not None or _is_positions(op)
    return is_number or isinstance(lookup(op.name).loop, Pointwise) or _is_view(op)


def _moves(op: Op) -> Moves | None:
    return lookup(op.name).traits.moves


def _is_view(op: Op) -> bool:
    """Whether elements of the one operand are moved, and axes say how."""
    return _moves(op) in (Moves.PERMUTES, Moves.REPEATS, Moves.SELECTS)


def _is_positions(op: Op) -> bool:
    return op.name == "iota"


def _is_choice(op: Op) -> bool:
    return op.name == "select"


def _point(number: float) -> Range:
    return RangeAlgebra().const(number)


def _selected(condition: _Fact, chosen: _Fact, other: _Fact) -> _Fact:
    """A number where the condition does not hold."""
    if other.number is None or other.needs:
        return _NOTHING
    same = chosen.needs if chosen.number == other.number else frozenset()
    needs = condition.needs | same
    return _Fact(None, needs, other.number) if needs else _NOTHING


class _Lines:
    """The scalar verbs over lines and conditions. A verb without a method here gives nothing."""

    def const(self, value: float | bool, _dtype: DType | None = None) -> _Fact:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return _Fact(_Line(int(value)) if is_whole else None, frozenset(), float(value))

    def add(self, a: _Fact, b: _Fact, times: int = 1) -> _Fact:
        if a.line is None or b.line is None:
            return _NOTHING
        return _Fact(a.line.plus(b.line, times))

    def sub(self, a: _Fact, b: _Fact) -> _Fact:
        return self.add(a, b, -1)

    def ge(self, a: _Fact, b: _Fact, less: int = 0) -> _Fact:
        line = self.sub(a, b).line
        if line is None:
            return _NOTHING
        return _Fact(None, frozenset({replace(line, constant=line.constant - less)}))

    def gt(self, a: _Fact, b: _Fact) -> _Fact:
        return self.ge(a, b, 1)

    def le(self, a: _Fact, b: _Fact) -> _Fact:
        return self.ge(b, a)

    def lt(self, a: _Fact, b: _Fact) -> _Fact:
        return self.gt(b, a)

    def logical_and(self, a: _Fact, b: _Fact) -> _Fact:
        return _Fact(None, a.needs | b.needs)

    def __getattr__(self, verb: str) -> object:
        if verb.startswith("__"):
            raise AttributeError(verb)
        return lambda *_operands, **_attributes: _NOTHING


def _viewed(op: Op, operand: _Fact) -> _Fact:
    """What is known of a view."""
    line = None if operand.line is None else _line_of(op, operand.line)
    needs = [_line_of(op, need) for need in operand.needs]
    kept = frozenset(need for need in needs if need is not None)
    # A number without needs holds everywhere: it may not lose them on the way.
    number = operand.number if kept or not operand.needs else None
    return _Fact(line, kept, number)


def _line_of(op: Op, line: _Line) -> _Line | None:
    """``line`` along the axes of a view of what has it."""
    attributes = op.attributes
    if _moves(op) is Moves.SELECTS:
        starts, strides = get_dims(attributes, "start"), get_ints(attributes, "stride")
        places = [(axis, int(str(starts[axis])), n) for axis, n in line.factors]
        first = line.constant + sum(start * n for _, start, n in places)
        return replace(
            line,
            constant=first,
            factors=tuple((axis, n * strides[axis]) for axis, _, n in places),
        )
    axes = _axes(op)
    return None if axes is None else _along(line, axes, op.result.type.static_shape)


def _along(line: _Line, axes: Sequence[Sequence[int]], after: tuple[int, ...]) -> _Line:
    """``line`` where each axis has become the given axes of ``after``."""
    factors: dict[int, int] = {}
    for axis, n in line.factors:
        step = n
        for place in reversed(axes[axis]):
            if after[place] > 1:
                factors[place] = step
            step *= after[place]
    return replace(line, factors=tuple(sorted(factors.items())))


def _axes(op: Op) -> list[list[int]] | None:
    """The axes of the result that each axis of the operand becomes, the outermost first; None if
    some are joined.
    """
    before, after = op.operands[0].type.static_shape, op.result.type.static_shape
    rule = lookup(op.name).axes
    found: list[list[tuple[int, int]]] = [[] for _ in before]
    for link in rule.links(op) if rule is not None else ():
        own, place = link.operands[0], link.result
        if own is not None and place is not None:
            if link.size != after[place.axis]:
                return None
            found[own.axis].append((own.outer, place.axis))
    runs = [[axis for _, axis in sorted(run)] for run in found]
    sizes = [prod(after[axis] for axis in run) for run in runs]
    return runs if sizes == list(before) else None


def _back(op: Op, needs: frozenset[_Line]) -> frozenset[_Line]:
    """Needs of the result of ``op`` as needs of its operands."""
    if not _is_view(op):
        return needs
    if _moves(op) is Moves.SELECTS:
        return frozenset()
    after, axes = op.result.type.static_shape, _axes(op)
    if axes is None:
        return frozenset()
    places: dict[int, int] = {run[0]: n for n, run in enumerate(axes) if len(run) == 1}
    for n, run in enumerate(axes):
        wide = [p for p in run if after[p] > 1]
        if len(wide) == 1:
            places[wide[0]] = n
    sure = [x for x in needs if all(axis in places for axis, _ in x.factors)]
    return frozenset(x.moved(dict(places)) for x in sure)


def _product(op: Op, facts: _Facts) -> Op:
    """``op`` told what of it counts, if it is a product and not all does."""
    if not is_product(op) or not op.result.type.dtype.is_float or len(op.operands) != 2:
        return op
    work = lookup(op.name).traits.work
    if work is None or work(op) < LEAST_WORK:
        return op
    places: list[tuple[_Line, dict[int, Axis]]] = []
    for side, value in enumerate(op.operands):
        fact = facts.of(value)
        if fact.number == 0:
            own = {axis: _own(op, (side, axis)) for axis in range(value.type.rank)}
            places += [(line, own) for line in sorted(fact.needs, key=repr)]
    summed = {(0, pair[0]) for pair in get_pairs(op.attributes, "contract")}
    kept = [(x, own) for x, own in places if any(own[a] in summed for a, _ in x.factors)]
    unread = sorted(facts.unread(op.result), key=repr)
    result = dict(enumerate(_result_axes(op)))
    asked = {"terms": kept, "results": [(line, result) for line in unread]}
    origins = [x.origin for found in asked.values() for x, _ in found if x.origin is not None]
    origin = origins[0] if origins else None
    attributes = dict(op.attributes)
    is_read = False
    for name, found in asked.items():
        needs = [_need(x, own) for x, own in found if x.origin in (None, origin)]
        needs = [need for need in needs if need.data or not _always(need, op)]
        if needs:
            attributes = with_needs(attributes, name, needs)
            is_read |= any(need.data for need in needs)
    if attributes == dict(op.attributes):
        return op
    operands = (*op.operands, origin) if is_read and origin is not None else op.operands
    return replace(op, operands=operands, attributes=attributes)


def _own(op: Op, axis: Axis) -> Axis:
    """The axis, or the one of the left operand that it is paired with."""
    pairs = (*get_pairs(op.attributes, "batch"), *get_pairs(op.attributes, "contract"))
    return next(((0, i) for i, j in pairs if axis == (1, j)), axis)


def _result_axes(op: Op) -> list[Axis]:
    """Where each axis of the result comes from."""
    found: list[Axis] = [(0, i) for i, _ in get_pairs(op.attributes, "batch")]
    for side, value in enumerate(op.operands):
        found += [(side, axis) for axis in free_axes(op.attributes, side, value.type.rank)]
    return found


def _need(line: _Line, places: Mapping[int, Axis]) -> Need:
    return Need(line.constant, line.data, tuple((places[axis], n) for axis, n in line.factors))


def _always(need: Need, op: Op) -> bool:
    """Whether a need holds at all positions."""
    least = need.constant
    for (side, axis), factor in need.factors:
        least += min(0, factor * (op.operands[side].type.static_shape[axis] - 1))
    return least >= 0
