"""Recomputation chosen by the compiler: stretches of the forward sweep become checkpoints.

From-stage and to-stage: tensor, before ``differentiate``. A stretch of the program is wrapped in a
``checkpoint``: what is inside is computed again when the reverse sweep gets there, under a replica
number of its own, and only what enters the stretch is kept. Stretches may lie inside stretches:
then what is recomputed first keeps only what enters the inner ones. Scans are cut into chunks first
(``rematerialise_scan``), or unrolled along a binomial schedule (``rematerialise_time``). A
``Policy`` says which; ``rematerialise_choose`` lists those worth trying.

Invariants: values do not change, not even in the last bit. Non-goals: choosing, budgets, placing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Function, Op, Value
from gradc.passes.recompute.scan import chunk_scans
from gradc.passes.recompute.time import unroll_scans
from gradc.passes.rewrite import copy_ops, free_values, renamed, with_ops


@dataclass(frozen=True, slots=True)
class Policy:
    """What to recompute: loops in chunks of ``chunk`` trips (0: none), and stretches of the
    program's ops.

    ``inner`` are the sizes of chunks inside chunks, outermost first. With ``slots`` loops are
    unrolled instead, in units of ``chunk`` trips of which at most ``slots`` start states are kept.
    ``stretches`` are half-open ranges of positions in the block after that, in order; any two are
    apart, or one lies in the other.
    """

    chunk: int = 0
    stretches: tuple[tuple[int, int], ...] = ()
    inner: tuple[int, ...] = ()
    slots: int = 0

    @property
    def is_none(self) -> bool:
        """Whether nothing is recomputed."""
        return not self.chunk and not self.stretches

    def __str__(self) -> str:
        parts = []
        if self.slots:
            parts.append(f"loops in units of {self.chunk} trips, {self.slots} states kept")
        elif self.chunk:
            sizes = ", in those ".join(str(size) for size in (self.chunk, *self.inner))
            parts.append(f"loops in chunks of {sizes} trips")
        if self.stretches:
            levels = _depth(forest(self.stretches))
            deep = f" in {levels} levels" if levels > 1 else ""
            count = len(self.stretches)
            parts.append(f"{count} stretch{'es' if count > 1 else ''}{deep}")
        return ", ".join(parts) or "nothing recomputed"


NOTHING = Policy()


@dataclass(slots=True)
class Stretch:
    """A range of ops to recompute and the ranges inside it that are recomputed once more."""

    start: int
    end: int
    inner: list[Stretch] = field(default_factory=list)


def forest(stretches: Sequence[tuple[int, int]]) -> list[Stretch]:
    """The outermost of ``stretches``, each with what lies in it. Raises ValueError if two cross."""
    outermost: list[Stretch] = []
    around: list[Stretch] = []
    for start, end in sorted(stretches, key=lambda s: (s[0], -s[1])):
        stretch = Stretch(start, end)
        while around and around[-1].end <= start:
            around.pop()
        if around and around[-1].end < end:
            last = around[-1]
            raise ValueError(f"stretches {last.start}..{last.end} and {start}..{end} cross")
        (around[-1].inner if around else outermost).append(stretch)
        around.append(stretch)
    return outermost


def ranges(stretches: Sequence[Stretch]) -> tuple[tuple[int, int], ...]:
    """The ranges of ``stretches`` and of all inside them, in the order of ``Policy.stretches``."""
    found: list[tuple[int, int]] = []
    for stretch in stretches:
        found += [(stretch.start, stretch.end), *ranges(stretch.inner)]
    return tuple(found)


def _depth(stretches: Sequence[Stretch]) -> int:
    return max((1 + _depth(stretch.inner) for stretch in stretches), default=0)


def rematerialise(function: Function, policy: Policy) -> Function:
    """``function`` with what ``policy`` names as checkpoints; the same object if that is nothing.

    Raises ValueError if two stretches cross.
    """
    if policy.slots:
        function = unroll_scans(function, policy.chunk, policy.slots)
    elif policy.chunk:
        function = chunk_scans(function, policy.chunk, policy.inner)
    if not policy.stretches:
        return function
    body, outputs = function.block.body, function.block.outputs
    wrapper = _Wrapper(function)
    b = Builder()
    mapping: dict[Value, Value] = {}
    reached = 0
    for stretch in forest(policy.stretches):
        b.ops += _moved(body[reached : stretch.start], mapping)
        wrapper.wrap(b, stretch, mapping)
        reached = stretch.end
    b.ops += _moved(body[reached:], mapping)
    return with_ops(function, b.ops, renamed(outputs, mapping))


def _moved(ops: Sequence[Op], mapping: dict[Value, Value]) -> list[Op]:
    """``ops`` reading the results of checkpoints where their operands were wrapped."""
    moved = []
    for op in ops:
        operands = renamed(op.operands, mapping)
        moved.append(op if operands == op.operands else replace(op, operands=operands))
    return moved


class _Wrapper:
    """Makes checkpoints of ranges of one block."""

    def __init__(self, function: Function) -> None:
        self._body = function.block.body
        self._last_read: dict[Value, int] = {}
        for number, op in enumerate((*self._body, function.block.terminator)):
            for value in op.operands:
                self._last_read[value] = number

    def wrap(self, b: Builder, stretch: Stretch, mapping: dict[Value, Value]) -> None:
        """Emits the ops of ``stretch`` as one checkpoint whose results are what is read after
        it.
        """
        ops = self._body[stretch.start : stretch.end]
        made = [v for op in ops for v in op.results]
        results = [v for v in made if self._last_read.get(v, -1) >= stretch.end]
        if not results:
            return
        entering = free_values(ops)
        inner = Builder()
        inside = {v: inner.parameter(v.type, v.hint) for v in entering}
        last = ops[-1]
        with inner.at(last.span, last.scope):
            reached = stretch.start
            for part in stretch.inner:
                inner.ops += copy_ops(self._body[reached : part.start], inside)
                self.wrap(inner, part, inside)
                reached = part.end
            inner.ops += copy_ops(self._body[reached : stretch.end], inside)
            region = inner.block([inside[v] for v in results])
        with b.at(last.span, last.scope, last.replica):
            found = b.apply("checkpoint", renamed(entering, mapping), {}, (region,))
        mapping.update(zip(results, found, strict=True))
