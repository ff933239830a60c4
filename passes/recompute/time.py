"""Recomputation over time with the fewest steps: a ``scan`` unrolled into units along a binomial
schedule.

    chain(units first..end, slots) -> checkpoint { chain(first..middle, slots) }; chain(middle..end,
    slots - 1)

From-stage and to-stage: tensor, before ``differentiate``. The state at the start of each checkpoint
is kept, at most ``slots`` at once, the first one included. With the places of ``binomial.split``
the reverse sweep runs exactly ``binomial.forward_steps`` units again, the least there is; every
unit is in the program once, so its derivative has as many copies of the loop as units are run. That
is why it is for few units; each unit is a rolled loop.

Truncated loops stay as they are: their borders are those of ``rematerialise_scan``.

Invariants: values do not change, not even in the last bit; the same trips run in the same order. If
a unit is a multiple of ``hoist_sums.GROUP`` the bits of weight gradients are kept as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Function, Value
from gradc.passes.recompute.binomial import split
from gradc.passes.rewrite import Scan, copy_block, emit_scan, renamed, rows, with_ops


def unroll_scans(function: Function, unit: int, slots: int) -> Function:
    """``function`` with its outermost scans in units of ``unit`` trips of which ``slots`` states
    are kept.

    The same object if none is longer. Raises ValueError without a unit or a slot.
    """
    if unit < 1 or slots < 1:
        raise ValueError("a schedule needs units of at least one trip and at least one slot")
    b = Builder()
    mapping: dict[Value, Value] = {}
    is_changed = False
    for op in function.block.body:
        operands = renamed(op.operands, mapping)
        if operands != op.operands:
            op = replace(op, operands=operands)
        scan = Scan.of(op) if is_loop(op) else None
        if scan is None or not can_unroll(scan, unit):
            b.ops.append(op)
            continue
        with b.at(op.span, op.scope, op.replica):
            mapping.update(zip(op.results, _Units(scan, unit).emit(b, slots), strict=True))
        is_changed = True
    if not is_changed:
        return function
    return with_ops(function, b.ops, renamed(function.block.outputs, mapping))


def can_unroll(scan: Scan, unit: int) -> bool:
    """Whether ``scan`` has more than one unit and none of its borders cuts cotangents."""
    return isinstance(scan.trips, int) and scan.trips > unit and not scan.is_truncated


@dataclass(slots=True)
class _Chain:
    """What some units hand on: the carries after them, and what each of them yields, in order of
    execution.
    """

    carries: list[Value]
    steps: list[list[Value]]


class _Units:
    """One scan, in units."""

    def __init__(self, scan: Scan, unit: int) -> None:
        assert isinstance(scan.trips, int), "only loops with bound trips get here"
        self._scan = scan
        self._trips = scan.trips
        self._unit = unit

    def emit(self, b: Builder, slots: int) -> list[Value]:
        """Emits all units; returns what the scan returned."""
        carries, stacked, constants = self._scan.split(self._scan.op.operands)
        count = -(-self._trips // self._unit)
        chain = self._chain(b, (0, count), slots, carries, (stacked, constants))
        order = chain.steps[::-1] if self._scan.is_reverse else chain.steps
        joined = [b.one("concat", *pieces, axis=0) for pieces in zip(*order, strict=True)]
        return [*chain.carries, *joined]

    def _chain(
        self,
        b: Builder,
        place: tuple[int, int],
        slots: int,
        carries: Sequence[Value],
        read: tuple[Sequence[Value], Sequence[Value]],
    ) -> _Chain:
        """Emits the units of ``place``; ``read`` are the stacked operands and the constants, as
        ``b`` knows them.
        """
        first, end = place
        chain = _Chain(list(carries), [])
        while end - first > 1:
            middle = first + split(end - first, slots - 1)
            part = self._kept(b, (first, middle), slots, chain.carries, read)
            chain = _Chain(part.carries, [*chain.steps, *part.steps])
            first, slots = middle, slots - 1
        last = self._one(b, first, chain.carries, read)
        return _Chain(last.carries, [*chain.steps, *last.steps])

    def _kept(
        self,
        b: Builder,
        place: tuple[int, int],
        slots: int,
        carries: Sequence[Value],
        read: tuple[Sequence[Value], Sequence[Value]],
    ) -> _Chain:
        """Emits a checkpoint around the units of ``place``: the state they start from is kept."""
        inner = Builder()
        own = [[inner.parameter(v.type, v.hint) for v in group] for group in (carries, *read)]
        with inner.at(b.span, b.scope, b.replica):
            chain = self._chain(inner, place, slots, own[0], (own[1], own[2]))
            outputs = [*chain.carries, *(v for step in chain.steps for v in step)]
            region = inner.block(outputs)
        operands = [*carries, *read[0], *read[1]]
        results = list(b.apply("checkpoint", operands, {}, (region,)))
        count, width = len(carries), len(self._scan.step_outputs)
        steps = [
            results[count + n * width : count + (n + 1) * width] for n in range(len(chain.steps))
        ]
        return _Chain(results[:count], steps)

    def _one(
        self,
        b: Builder,
        number: int,
        carries: Sequence[Value],
        read: tuple[Sequence[Value], Sequence[Value]],
    ) -> _Chain:
        """Emits unit ``number``, counted in order of execution; the last one may be shorter."""
        low = number * self._unit
        count = min(self._unit, self._trips - low)
        start = self._trips - low - count if self._scan.is_reverse else low
        parts = [rows(b, x, start, count) for x in read[0]]
        attributes = {**self._scan.op.attributes, "trips": count, "truncate": 0}
        region = copy_block(self._scan.body)
        results = emit_scan(b, [*carries, *parts, *read[1]], region, attributes)
        carried = self._scan.carried
        return _Chain(list(results[:carried]), [list(results[carried:])])
