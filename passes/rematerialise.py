"""Recomputation chosen by the compiler: stretches of the forward sweep become checkpoints.

From-stage and to-stage: tensor, before ``differentiate``. A stretch of the program is wrapped in a ``checkpoint``: what is
inside is computed again when the reverse sweep gets there, under a replica number of its own, and only what enters the
stretch is kept. Scans are cut into chunks first (``rematerialise_scan``). A ``Policy`` says which; ``candidates`` lists
those worth trying, from none to the most frugal, by an estimate; what they cost in bytes is known when they are
placed (``budget``).

The estimate: of a plain derivative, each op of the program keeps the bytes that the reverse sweep reads of it. Cuts lie
where little is alive. For a cap on the bytes one stretch may keep, dynamic programming finds the cuts that keep least;
caps from the whole to the largest single op give chains their sqrt(N).

Invariants: values do not change, not even in the last bit. Non-goals: budgets, placing, cheap ops recomputed in fusions.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from gradc.ir.attributes import get_pairs
from gradc.ir.builder import Builder
from gradc.ir.core import Function, Op, Value
from gradc.passes.hoist_sums import GROUP
from gradc.passes.rematerialise_scan import chunk_scans, longest_scan
from gradc.passes.residuals import saved_values
from gradc.passes.rewrite import copy_ops, free_values, renamed, with_ops

FREE = ("constant", "iota", "broadcast", "reshape", "transpose", "slice", "reverse")
# Cuts are looked for at this many places of a program, evenly by bytes.
_PLACES = 160
# Shares of the stretches that are wrapped, those that keep most per op first.
_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """What to recompute: loops in chunks of ``chunk`` trips (0: none), and stretches of the program's ops.

    ``stretches`` are half-open ranges of positions in the block after chunking, in order, without overlap.
    """

    chunk: int = 0
    stretches: tuple[tuple[int, int], ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether nothing is recomputed."""
        return not self.chunk and not self.stretches

    def __str__(self) -> str:
        parts = []
        if self.chunk:
            parts.append(f"loops in chunks of {self.chunk} trips")
        if self.stretches:
            parts.append(f"{len(self.stretches)} stretches")
        return ", ".join(parts) or "nothing recomputed"


NOTHING = Policy()


def rematerialise(function: Function, policy: Policy) -> Function:
    """``function`` with what ``policy`` names as checkpoints; the same object if that is nothing."""
    if policy.chunk:
        function = chunk_scans(function, policy.chunk)
    if not policy.stretches:
        return function
    body, outputs = function.block.body, function.block.outputs
    b = Builder()
    mapping: dict[Value, Value] = {}
    reached = 0
    for start, end in policy.stretches:
        b.ops += _moved(body[reached:start], mapping)
        later = (*body[end:], function.block.terminator)
        _wrap(b, body[start:end], later, mapping)
        reached = end
    b.ops += _moved(body[reached:], mapping)
    return with_ops(function, b.ops, renamed(outputs, mapping))


def _moved(ops: Sequence[Op], mapping: dict[Value, Value]) -> list[Op]:
    """``ops`` reading the results of checkpoints where their operands were wrapped."""
    moved = []
    for op in ops:
        operands = renamed(op.operands, mapping)
        moved.append(op if operands == op.operands else replace(op, operands=operands))
    return moved


def _wrap(b: Builder, ops: Sequence[Op], later: Sequence[Op], mapping: dict[Value, Value]) -> None:
    """Emits ``ops`` as one checkpoint whose results are what ``later`` reads."""
    made = {v for op in ops for v in op.results}
    results = list(dict.fromkeys(v for op in later for v in op.operands if v in made))
    if not results:
        return
    entering = free_values(ops)
    inner = Builder()
    inside = {v: inner.parameter(v.type, v.hint) for v in entering}
    inner.ops += copy_ops(ops, inside)
    last = ops[-1]
    with b.at(last.span, last.scope, last.replica), inner.at(last.span, last.scope):
        region = inner.block([inside[v] for v in results])
        found = b.apply("checkpoint", renamed(entering, mapping), {}, (region,))
    mapping.update(zip(results, found, strict=True))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with its estimated cost: bytes kept, and multiplications done again."""

    policy: Policy
    keeps: int
    repeats: int


def candidates(function: Function, derivative: Callable[[Function], Function]) -> list[Candidate]:
    """Policies worth trying, those that repeat least first; none is worse than an earlier one in both ways."""
    plain = Estimate(function, derivative)
    found = [Candidate(Policy(), plain.total[-1], 0)]
    for chunk in (0, *chunk_sizes(longest_scan(function))):
        estimate = Estimate(chunk_scans(function, chunk), derivative) if chunk else plain
        base = sum(_repeated(op, chunk) for op in function.block.body) if chunk else 0
        found.append(Candidate(Policy(chunk), estimate.total[-1], base))
        for stretches in estimate.choices():
            again = sum(estimate.works[end] - estimate.works[start] for start, end in stretches)
            policy = Policy(chunk, stretches)
            found.append(Candidate(policy, estimate.keeps(stretches), base + again))
    found.sort(key=lambda c: (c.repeats, c.keeps))
    front: list[Candidate] = []
    for candidate in found:
        if not front or candidate.keeps < front[-1].keeps:
            front.append(candidate)
    return front


def _repeated(op: Op, chunk: int) -> int:
    """The work of ``op`` that is done again if its loop is in chunks; the last chunk is not."""
    trips = op.attributes.get("trips", 0)
    if op.name != "scan" or not isinstance(trips, int) or trips <= chunk:
        return 0
    return work(op) // trips * ((trips - 1) // chunk * chunk)


def work(op: Op) -> int:
    """Multiplications of ``op``, roughly: products by their size, other computing by elements, views nothing."""
    if op.regions:
        trips = op.attributes.get("trips", 1)
        inner = sum(work(o) for region in op.regions[:1] for o in region.body)
        return inner * (trips if isinstance(trips, int) else 1)
    if op.name in FREE:
        return 0
    size = sum(math.prod(v.type.static_shape) for v in op.results)
    if op.name == "contract":
        shape = op.operands[0].type.static_shape
        return size * math.prod(shape[i] for i, _ in get_pairs(op.attributes, "contract"))
    if op.name == "conv2d":
        return size * math.prod(op.operands[1].type.static_shape[1:])
    return 4 * max(size, *(math.prod(v.type.static_shape) for v in op.operands), 0)


def chunk_sizes(trips: int) -> list[int]:
    """Sizes to try, from half the trips down to about their square root: whole groups of ``hoist_sums``."""
    sizes: dict[int, None] = {}
    for parts in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        size = -(-trips // parts // GROUP) * GROUP
        if size < trips and size * size * 2 > trips:
            sizes[size] = None
    return list(sizes)


class Estimate:
    """What each op of a program keeps for the reverse sweep, and what is alive between ops."""

    def __init__(self, function: Function, derivative: Callable[[Function], Function]) -> None:
        self.function = function
        self.ops = function.block.body
        saved = saved_values(derivative(function))
        defined = {v: n for n, op in enumerate(self.ops) for v in op.results}
        self.kept = [0] * len(self.ops)
        for op, value in saved:
            # A scan of the derivative hands out what the reverse sweep reads as further results.
            if op.results[0] in defined:
                self.kept[defined[op.results[0]]] += value.type.nbytes
        # Sums of `kept` before each position.
        self.total = [0, *accumulate(self.kept)]
        self.works = [0, *accumulate(work(op) for op in self.ops)]
        self.alive = self._alive(defined)

    def _alive(self, defined: dict[Value, int]) -> list[int]:
        """Bytes alive at each border: made before it, read after it. Splats are made where they are read."""
        change = [0] * (len(self.ops) + 2)
        last: dict[Value, int] = {}
        for number, op in enumerate((*self.ops, self.function.block.terminator)):
            for value in op.operands:
                last[value] = number
        for value, made in defined.items():
            if value in last and self.ops[made].name not in FREE:
                change[made + 1] += value.type.nbytes
                change[last[value] + 1] -= value.type.nbytes
        return list(accumulate(change))

    def keeps(self, stretches: Sequence[tuple[int, int]]) -> int:
        """Bytes kept for the reverse sweep, and those of the largest stretch while it is reversed."""
        inside = [self.total[end] - self.total[start] for start, end in stretches]
        entering = sum(self.alive[start] for start, _ in stretches)
        return self.total[-1] - sum(inside) + entering + max(inside, default=0)

    def choices(self) -> list[tuple[tuple[int, int], ...]]:
        """Lists of stretches, from a few large savings to everything in small stretches."""
        whole, largest = self.total[-1], max(self.kept, default=0)
        if not whole:
            return []
        places = self._places()
        found: list[tuple[tuple[int, int], ...]] = []
        cap = whole // 2
        while cap >= largest and cap > 0:
            cuts = self._cuts(places, cap)
            # The last stretch is not wrapped: the reverse sweep begins with it.
            stretches = list(zip([0, *cuts], cuts, strict=False))
            for share in _SHARES if stretches else ():
                found.append(self._best(stretches, share))
            cap = cap * 2 // 3
        return list(dict.fromkeys(found))

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

    def _cuts(self, places: Sequence[int], cap: int) -> list[int]:
        """Cuts with at most ``cap`` kept bytes between neighbours, and least alive at the cuts in all.

        Where neighbouring places are further apart than the cap, the cut is made all the same.
        """
        points = [0, *places, len(self.ops)]
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
