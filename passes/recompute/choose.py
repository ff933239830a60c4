"""Which policies of recomputation are worth trying, by an estimate of the bytes they keep and the
work they repeat.

The estimate: of a plain derivative, each op of the program keeps the bytes that the reverse sweep
reads of it. Cuts lie where little is alive. For a cap on the bytes one stretch may keep, dynamic
programming finds the cuts that keep least; caps from the whole to the largest single op give chains
their sqrt(N), caps inside caps the cube root for two extra sweeps; stretches of equal bytes are
also nested along binomial schedules. Loops are cut into chunks, chunks of chunks, or unrolled along
a binomial schedule, and stretches chosen in what that leaves. ``least_repeated`` bounds from below
what any choice repeats that keeps no more bytes.

Only whole stretches are recomputed, so that a value is computed again where its neighbours are; the
bound takes every value on its own. Invariants: the list does not depend on a budget. Non-goals:
what a policy costs exactly (``budget``).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from gradc.ir.ops.registry import Contraction, is_loop, lookup
from gradc.ir.target.costs import CPU, Costs
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.passes.fuse.demand import values_in_memory
from gradc.passes.hoist.sums import GROUP
from gradc.passes.lower.cost import verbs
from gradc.passes.recompute.binomial import forward_steps, split
from gradc.passes.recompute.rematerialise import Policy, Stretch, forest, ranges
from gradc.passes.recompute.residuals import forward_values, saved_values
from gradc.passes.recompute.scan import chunk_scans, longest_scan
from gradc.passes.recompute.time import can_unroll
from gradc.passes.rewrite import Scan

# Policies that are handed on at most.
MOST = 15
# A policy is worth its work if memory falls to at most this share of what the one before needs; the
# last one to that.
_WORTH, _LAST_WORTH = 0.95, 0.99
# Cuts are looked for at this many places of a program, evenly by bytes.
_PLACES = 160
# Shares of the stretches that are wrapped, those that keep most per op first.
_SHARES = (0.25, 0.5, 0.75, 1.0)
# Into how many parts, by bytes, stretches inside stretches cut: outermost first.
_LEVELS = (
    (2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (6, 3), (6, 4), (8, 4), (8, 8), (12, 6),
    (2, 2, 2), (3, 3, 2), (3, 3, 3), (4, 4, 3), (4, 4, 4), (6, 6, 6), (3, 3, 3, 3), (4, 4, 4, 4),
)  # fmt: skip
# Stretches along a binomial schedule: into how many parts, and how many of their states are kept.
_PARTS = (8, 12, 16, 24, 32, 48, 64, 96)
_SLOTS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
# Chains of stretches repeat at most this many times the program's work.
_SWEEPS = 4
# A schedule is unrolled if its derivative has at most this many copies of the loop.
_COPIES = 96
# Rolled loops run faster and compile faster: a schedule must keep at most this share of what they
# keep.
_UNROLL = 0.9


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with its estimated cost: bytes kept, and multiplications done again."""

    policy: Policy
    keeps: int
    repeats: int


def candidates(
    function: Function,
    derivative: Callable[[Function], Function],
    estimate: Estimate | None = None,
) -> list[Candidate]:
    """Policies worth trying, those that repeat least first; none is worse than an earlier one in
    both ways.

    The first recomputes nothing; there are at most ``MOST`` others. ``estimate`` is that of
    ``function``, if it is there.
    """
    plain = estimate or Estimate(function, derivative)
    found = [Candidate(Policy(), plain.keeps(()), 0)]
    found += _with_stretches(plain, Policy(), 0, 0, is_nested=True)
    sizes = chunk_sizes(longest_scan(function))
    loops = [op for op in function.block.body if is_loop(op)]
    for chunk in sizes:
        estimate = Estimate(chunk_scans(function, chunk), derivative, plain.costs)
        for inner in ((), *((n,) for n in chunk_sizes(chunk)), *_halved(chunk)):
            policy = Policy(chunk, (), inner)
            held = max((_reversed(plain, op, (chunk, *inner)) for op in loops), default=0)
            again = sum(_repeated(op, (chunk, *inner)) for op in loops)
            found.append(Candidate(policy, estimate.total[-1] + held, again))
            found += _with_stretches(estimate, policy, held, again, is_nested=chunk == sizes[-1])
    front = _front(found)
    rolled = min(c.keeps for c in front)
    for candidate in _schedules(plain, loops) if sizes else ():
        if candidate.keeps < _UNROLL * rolled:
            front.append(candidate)
    return _thinned(_front(front), plain.fixed)


def _with_stretches(
    estimate: Estimate, base: Policy, held: int, again: int, *, is_nested: bool
) -> Iterator[Candidate]:
    """``base`` with stretches of what it makes of the program; itself it holds ``held`` bytes and
    repeats ``again``.
    """
    choices = estimate.choices()
    for stretches in (*choices, *(estimate.nested() if is_nested else ())):
        policy = Policy(base.chunk, stretches, base.inner)
        keeps = estimate.keeps(stretches) + held
        yield Candidate(policy, keeps, again + estimate.repeats(stretches))


def _chain(borders: Sequence[int], slots: int) -> list[Stretch]:
    """The parts between ``borders`` along a binomial schedule that keeps ``slots`` of their
    states.
    """
    found = []
    while len(borders) > 2:
        middle = split(len(borders) - 1, slots - 1)
        inner = _chain(borders[: middle + 1], slots)
        found.append(Stretch(borders[0], borders[middle], inner))
        borders, slots = borders[middle:], slots - 1
    return found


def _front(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in both ways, least work first."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.repeats, c.keeps)):
        if not front or candidate.keeps < front[-1].keeps:
            front.append(candidate)
    return front


def _thinned(front: list[Candidate], fixed: int) -> list[Candidate]:
    """At most ``MOST`` besides the first, those left out that save little over the one before.

    Savings are shares of all memory, ``fixed`` bytes of parameters and results included; the last
    stays if it saves anything to speak of.
    """
    ratio = _WORTH
    while True:
        chosen = front[:1]
        for candidate in front[1:]:
            if candidate.keeps + fixed <= ratio * (chosen[-1].keeps + fixed):
                chosen.append(candidate)
        if front[-1].keeps + fixed <= _LAST_WORTH * (chosen[-1].keeps + fixed):
            chosen.append(front[-1])
        if len(chosen) <= MOST + 1:
            return chosen
        ratio -= 0.01


# --- loops


def chunk_sizes(trips: int) -> list[int]:
    """Sizes to try, from half the trips down to about their square root: whole groups of
    ``hoist_sums``.
    """
    sizes: dict[int, None] = {}
    for parts in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        size = -(-trips // parts // GROUP) * GROUP
        if size < trips and size * size * 2 > trips:
            sizes[size] = None
    return list(sizes)


def _halved(chunk: int) -> list[tuple[int, ...]]:
    """Chunks of a quarter in chunks of a quarter, as deep as whole groups allow."""
    sizes: list[int] = []
    while chunk >= 4 * GROUP:
        chunk = chunk // (4 * GROUP) * GROUP
        sizes.append(chunk)
    return [tuple(sizes)] if len(sizes) > 1 else []


def _border(op: Op) -> int:
    """Bytes of the state between two trips of a scan."""
    return sum(v.type.nbytes for v in op.results[: Scan.of(op).carried])


def _trips(op: Op) -> int:
    trips = Scan.of(op).trips
    assert isinstance(trips, int), "dimensions are bound when policies are chosen"
    return trips


def _reversed(plain: Estimate, op: Op, sizes: tuple[int, ...]) -> int:
    """Bytes held while one chunk of the loop ``op`` is reversed: the states in it, and the trips of
    the innermost.
    """
    trips = _trips(op)
    if trips <= sizes[-1]:
        return 0
    states = sum(outer // inner for outer, inner in pairwise(sizes) if outer < trips)
    return states * _border(op) + sizes[-1] * plain.kept_by(op) // trips


def _repeated(op: Op, sizes: tuple[int, ...]) -> int:
    """The work of ``op`` that is done again if its loop is in chunks; the last chunk of each level
    is not.
    """

    def again(trips: int, sizes: tuple[int, ...]) -> int:
        if not sizes:
            return 0
        if trips <= sizes[0]:
            return again(trips, sizes[1:])
        chunks = (trips - 1) // sizes[0]
        rest = trips - chunks * sizes[0]
        return chunks * (sizes[0] + again(sizes[0], sizes[1:])) + again(rest, sizes[1:])

    trips = _trips(op)
    return work(op) // max(trips, 1) * again(trips, sizes)


def _schedules(plain: Estimate, loops: Sequence[Op]) -> list[Candidate]:
    """All loops along binomial schedules, in units of ``GROUP`` trips, from many slots to one."""
    long = [op for op in loops if can_unroll(Scan.of(op), GROUP)]
    counts = [-(-_trips(op) // GROUP) for op in long]
    found = []
    for slots in range(max(counts, default=1) - 1, 0, -1):
        repeats = [forward_steps(count, slots) for count in counts]
        if sum(repeats) + sum(counts) > _COPIES:
            break
        keeps, again, last = plain.total[-1], 0, 0
        for op, repeated in zip(long, repeats, strict=True):
            share = plain.kept_by(op) * GROUP // _trips(op)
            keeps += slots * _border(op) - plain.kept_by(op)
            last = max(last, share)
            again += repeated * (work(op) * GROUP // _trips(op))
        found.append(Candidate(Policy(GROUP, slots=slots), keeps + last, again))
    return found


# --- work


def work(op: Op) -> int:
    """Multiplications of ``op``, roughly: products by their size, other computing by elements,
    views nothing.
    """
    if op.regions:
        trips = op.attributes.get("trips", 1)
        inner = sum(work(o) for region in op.regions[:1] for o in region.body)
        return inner * (trips if isinstance(trips, int) else 1)
    definition = lookup(op.name)
    if definition.is_free:
        return 0
    if definition.traits.work is not None:
        return definition.traits.work(op)
    size = sum(math.prod(v.type.static_shape) for v in op.results)
    return 4 * max(size, *(math.prod(v.type.static_shape) for v in op.operands), 0)


def _stored(ops: Sequence[Op]) -> list[Value]:
    """Values in memory whatever is fused: what contractions and opaque ops read, and what
    contractions make.
    """
    found = dict.fromkeys(v for op in ops if _is_contraction(op) for v in op.results)
    return list({**found, **dict.fromkeys(values_in_memory(ops, ()))})


def _is_contraction(op: Op) -> bool:
    return isinstance(lookup(op.name).loop, Contraction)


def _changes(ops: Sequence[Op], values: Iterable[Value]) -> list[int]:
    """How many more bytes of ``values`` are alive at each op than at the one before it; elementwise
    ops work in place.
    """
    last = {v: number for number, op in enumerate(ops) for v in op.operands}
    counted = frozenset(values)
    change = [0] * (len(ops) + 1)
    for number, op in enumerate(ops):
        for value in op.results:
            if value in counted and value in last:
                end = last[value]
                is_in_place = lookup(ops[end].name).is_elementwise
                change[number] += value.type.nbytes
                change[end if is_in_place else end + 1] -= value.type.nbytes
    return change


def _inside(block: Block) -> int:
    """Bytes alive at most inside a region, as far as they are stored whatever is fused."""
    ops = block.body
    alive = most = 0
    for op, change in zip(ops, _changes(ops, _stored(ops)), strict=False):
        alive += change
        most = max(most, alive + max((_inside(region) for region in op.regions), default=0))
    return most


def _kept(joint: Function, costs: Costs) -> list[tuple[Op, Value]]:
    """The saved values that are stored: fusion computes cheap ones where they are read, if what
    they are made from is stored or small (``fuse_sink``), such as normalised values from means and
    scales."""
    saved = saved_values(joint)
    body = joint.block.body
    needed = values_in_memory(body, ())
    makers = {v: op for op in body for v in op.results}
    there = {v for _, v in saved}
    return [
        (op, v)
        for op, v in saved
        if v in needed
        or not (lookup(op.name).is_elementwise and not verbs(op, costs).transcendental)
        or not all(_is_there(x, v, makers, there) for x in op.operands)
    ]


def _is_there(operand: Value, value: Value, makers: Mapping[Value, Op], there: set[Value]) -> bool:
    """Whether ``operand`` of the op that makes ``value`` can be read without storing more for
    it.
    """
    while operand in makers and lookup(makers[operand].name).is_free and makers[operand].operands:
        operand = makers[operand].operands[0]
    if operand not in makers or lookup(makers[operand].name).is_free or operand in there:
        return True
    return 4 * operand.type.nbytes <= value.type.nbytes


class Estimate:
    """What each op of a program keeps for the reverse sweep, and what is alive between ops."""

    def __init__(
        self,
        function: Function,
        derivative: Callable[[Function], Function],
        costs: Costs = CPU,
    ) -> None:
        self.function = function
        self.costs = costs
        self.ops = function.block.body
        joint = derivative(function)
        saved = _kept(joint, costs)
        # Bytes that do not depend on what is recomputed: arguments and results.
        self.fixed = sum(v.type.nbytes for v in (*joint.block.parameters, *joint.block.outputs))
        self._defined = {v: n for n, op in enumerate(self.ops) for v in op.results}
        self.kept = [0] * len(self.ops)
        for op, value in saved:
            # A scan of the derivative hands out what the reverse sweep reads as further results.
            if op.results[0] in self._defined:
                self.kept[self._defined[op.results[0]]] += value.type.nbytes
        # Sums of `kept` before each position.
        self.total = [0, *accumulate(self.kept)]
        self.works = [0, *accumulate(work(op) for op in self.ops)]
        self.alive = self._alive()
        self.working = self._working(joint)
        self._points = [0, *self._places(), len(self.ops)]
        self._known: dict[tuple[int, int, int], list[int]] = {}

    def kept_by(self, op: Op) -> int:
        """Bytes that the reverse sweep reads of ``op``, one of the program's."""
        return self.kept[self._defined[op.results[0]]]

    def _alive(self) -> list[int]:
        """Bytes alive at each border: made before it, read after it. Splats are made where they are
        read.

        A view keeps what it is a view of alive.
        """
        change = [0] * (len(self.ops) + 2)
        last = dict.fromkeys(self.function.block.outputs, len(self.ops))
        for number in range(len(self.ops) - 1, -1, -1):
            op = self.ops[number]
            end = number
            if lookup(op.name).is_free:
                end = max(number, *(last.get(v, number) for v in op.results))
            for value in op.operands:
                last[value] = max(last.get(value, end), end)
        for value, made in self._defined.items():
            if value in last and not lookup(self.ops[made].name).is_free:
                change[made + 1] += value.type.nbytes
                change[last[value] + 1] -= value.type.nbytes
        return list(accumulate(change))

    def _working(self, joint: Function) -> list[int]:
        """Bytes that the reverse sweep itself has in memory while it reverses each op.

        The reverse sweep has reached the op whose values it has read last. Only what is stored
        whatever is fused counts, so this is rather too little than too much.
        """
        forward = forward_values(joint)
        body = joint.block.body
        outputs = frozenset(joint.block.outputs)
        stored = [v for v in _stored(body) if v not in forward and v not in outputs]
        change = _changes(body, stored)
        found = [0] * len(self.ops)
        reached, alive = len(self.ops) - 1, 0
        for number, op in enumerate(body):
            alive += change[number]
            if op.results[0] not in forward and found:
                read = [self._defined[v] for v in op.operands if v in self._defined]
                reached = min((reached, *read))
                inside = max((_inside(region) for region in op.regions), default=0)
                found[reached] = max(found[reached], alive + inside)
        return found

    def keeps(self, stretches: Sequence[tuple[int, int]]) -> int:
        """Bytes held at most: kept for the reverse sweep, in the stretch that is reversed, and by
        the sweep itself.
        """
        return self._held(0, len(self.ops), forest(stretches))

    def _held(self, start: int, end: int, stretches: Sequence[Stretch]) -> int:
        """Bytes held at most while the ops from ``start`` to ``end`` are reversed, what entered
        them left out.
        """
        # Last things first: what follows a stretch is forgotten, its start state too, before it is
        # computed again.
        reached, before, most = start, 0, 0
        for stretch in stretches:
            before += self.total[stretch.start] - self.total[reached]
            before += self.alive[stretch.start] if stretch.start != start else 0
            most = max(most, before + self._held(stretch.start, stretch.end, stretch.inner))
            reached = stretch.end
        return max(most, before + self._reversing(reached, end))

    def _reversing(self, start: int, end: int) -> int:
        """Bytes held at most while the ops from ``start`` to ``end`` are reversed, all of them
        kept.
        """
        held = (self.total[n + 1] + self.working[n] for n in range(start, end))
        return max(held, default=self.total[start]) - self.total[start]

    def repeats(self, stretches: Sequence[tuple[int, int]]) -> int:
        """The work done again: each op once for every stretch it lies in."""
        return sum(self.works[end] - self.works[start] for start, end in stretches)

    def least_repeated(self, nbytes: int) -> int:
        """The least work any recomputation repeats that keeps at most ``nbytes`` between the
        sweeps.

        A value that the reverse sweep reads and that is not in memory when that sweep begins is
        computed once more at least, by its op at least. Which are kept is a knapsack; its
        fractional relaxation keeps those that cost most per byte.
        """
        works = list(zip(self.kept, (work(op) for op in self.ops), strict=True))
        costly = sorted((pair for pair in works if pair[0]), key=lambda p: -p[1] / p[0])
        again = 0.0
        for kept, cost in costly:
            held = min(kept, max(nbytes, 0))
            nbytes -= held
            again += cost * (1 - held / kept)
        return math.floor(again)

    def choices(self) -> list[tuple[tuple[int, int], ...]]:
        """Lists of stretches, from a few large savings to everything in small stretches."""
        whole, largest = self.total[-1], max(self.kept, default=0)
        if not whole:
            return []
        found: list[tuple[tuple[int, int], ...]] = []
        cap = whole // 2
        while cap >= largest and cap > 0:
            cuts = self._cuts(0, len(self.ops), cap)
            # The last stretch is not wrapped: the reverse sweep begins with it.
            stretches = list(zip([0, *cuts], cuts, strict=False))
            for share in _SHARES if stretches else ():
                found.append(self._best(stretches, share))
            cap = cap * 2 // 3
        return list(dict.fromkeys(found))

    def nested(self) -> list[tuple[tuple[int, int], ...]]:
        """Lists of stretches inside stretches: as ``_LEVELS`` says, and along binomial
        schedules.
        """
        whole, largest = self.total[-1], max(self.kept, default=0)
        found = []
        for parts in _LEVELS:
            caps = [whole // n for n in accumulate(parts, lambda a, b: a * b)]
            if caps[-1] >= largest and caps[-1] > 0:
                found.append(ranges(self._levels(0, len(self.ops), caps)))
        for count in _PARTS:
            cap = whole // count
            if cap >= largest and cap > 0:
                borders = [0, *self._cuts(0, len(self.ops), cap), len(self.ops)]
                for slots in _SLOTS:
                    if slots < len(borders) - 2:
                        found.append(ranges(_chain(borders, slots)))
        most = _SWEEPS * self.works[-1]
        return [s for s in dict.fromkeys(found) if s and self.repeats(s) <= most]

    def _levels(self, low: int, high: int, caps: Sequence[int]) -> list[Stretch]:
        """Stretches from ``low`` to ``high``, none for the last part of any level, whose inner ones
        stay.
        """
        if not caps:
            return []
        borders = [low, *self._cuts(low, high, caps[0]), high]
        found = [
            Stretch(start, end, self._levels(start, end, caps[1:]))
            for start, end in pairwise(borders[:-1])
        ]
        return [*found, *self._levels(borders[-2], high, caps[1:])]

    def _best(
        self, stretches: Sequence[tuple[int, int]], share: float
    ) -> tuple[tuple[int, int], ...]:
        """The given share of ``stretches``, those that save most bytes per op first."""

        def gain(stretch: tuple[int, int]) -> float:
            start, end = stretch
            return (self.total[start] - self.total[end] + self.alive[start]) / max(end - start, 1)

        count = max(1, round(len(stretches) * share))
        return tuple(sorted(sorted(stretches, key=gain)[:count]))

    def _places(self) -> list[int]:
        """Positions for cuts: in every part of the program, where least is alive."""
        whole = self.total[-1]
        borders = [bisect.bisect_left(self.total, whole * n // _PLACES) for n in range(_PLACES + 1)]
        places: dict[int, None] = {}
        for low, high in pairwise(borders):
            if high > low:
                places[min(range(low, high), key=lambda p: (self.alive[p], p))] = None
        return [p for p in places if 0 < p < len(self.ops)]

    def _cuts(self, low: int, high: int, cap: int) -> list[int]:
        """Cuts between ``low`` and ``high`` with at most ``cap`` kept bytes between neighbours,
        least alive in all.

        Where neighbouring places are further apart than the cap, the cut is made all the same.
        """
        key = (low, high, cap)
        if key not in self._known:
            first = bisect.bisect_right(self._points, low)
            last = bisect.bisect_left(self._points, high)
            points = [low, *self._points[first:last], high]
            self._known[key] = self._fewest(points, cap)
        return self._known[key]

    def _fewest(self, points: Sequence[int], cap: int) -> list[int]:
        best: list[tuple[int, int]] = [(0, -1)]
        for here in range(1, len(points)):
            options = []
            for before in range(here - 1, -1, -1):
                between = self.total[points[here]] - self.total[points[before]]
                if between > cap and before < here - 1:
                    break
                options.append((best[before][0] + self.alive[points[here]], before))
            best.append(min(options))
        cuts: list[int] = []
        here = best[-1][1]
        while here > 0:
            cuts.append(points[here])
            here = best[here][1]
        return cuts[::-1]
