"""Carries that are only added to: their sums are taken after the loop, many trips at a time.

The running sum of a weight gradient, ``acc + x_t^T d_t``, reads and writes the whole accumulator
every trip. If ``acc`` is used for nothing else, the loop hands out ``x_t`` and ``d_t`` instead, and
products over ``GROUP`` trips each are added up. Sums over axes (bias gradients) move along if what
they sum is handed out anyway. Views of a term are applied to its sum.

Groups have a fixed size and lie at fixed places: counted from the end of the stack that the loop
reaches last. So a loop that runs in chunks (``rematerialise_scan``, whose chunks are multiples of
``GROUP``) adds up the same groups in the same order, and its gradient has the same bits.

Non-goals: terms that are neither products nor sums; they stay in the loop, and so does their carry.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gradc.ir.ops.attributes import get_ints, get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_product, is_sum, lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Attr, Block, Op, Value
from gradc.passes.rewrite import Scan, emit_scan, rows, stacked_value

# Trips per product.
GROUP = 16


@dataclass
class Summand:
    """One summand of an accumulator: a product or sum of the body, the views applied to it, and its
    sign.
    """

    op: Op
    views: list[Op] = field(default_factory=list)
    verb: str = "add"


def hoist_sums(b: Builder, op: Op) -> tuple[Op, dict[Value, Value]]:
    """Emits the scan without the sums, then the sums; returns it and what its old results
    became.
    """
    scan = Scan.of(op)
    if not isinstance(scan.trips, int) or not scan.trips:
        b.ops.append(op)
        return op, {}
    loop = LoopBody(scan)
    terms = {i: found for i in range(scan.carried) if (found := loop.terms(i))}
    products = {i: found for i, found in terms.items() if any(_is_product(t) for t in found)}
    for found in products.values():
        for term in found:
            if _is_product(term):
                for operand in term.op.operands:
                    loop.hand_out(operand)
    # A plain sum moves only if its operand is handed out for a product.
    kept = {
        i: found
        for i, found in terms.items()
        if all(_is_product(t) or loop.is_out(t.op.operands[0]) for t in found)
    }
    if not kept:
        b.ops.append(op)
        return op, {}
    return _without(b, scan, loop, kept)


def _is_product(term: Summand) -> bool:
    return is_product(term.op)


class LoopBody:
    """What is known of the body of a scan, and what it hands out."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        body = scan.body
        self.defining = {v: op for op in body.body for v in op.results}
        self.uses: dict[Value, int] = {}
        for value in (*(v for op in body.body for v in op.operands), *body.outputs):
            self.uses[value] = self.uses.get(value, 0) + 1
        self.constants = set(scan.split(body.parameters)[2])
        first, last = scan.carried, scan.carried + scan.stacked
        slices = zip(body.parameters[first:last], scan.op.operands[first:last], strict=True)
        steps = zip(scan.step_outputs, scan.op.results[scan.carried :], strict=True)
        self.outer: dict[Value, Value] = {**dict(steps), **dict(slices)}
        self.extra: list[Value] = []

    def terms(self, number: int) -> list[Summand] | None:
        """The summands of carry ``number``, first added first, if it is only added to and all can
        move.
        """
        body = self.scan.body
        carry, total = body.parameters[number], body.outputs[number]
        if self.uses.get(carry) != 1:
            return None
        found: list[Summand] = []
        while total is not carry:
            op = self.defining.get(total)
            if op is None or op.name not in ("add", "sub") or self.uses[total] != 1:
                return None
            total, added = op.operands
            if added is carry and op.name == "add":
                total, added = added, total
            term = self._term(added, op.name)
            if term is None:
                return None
            found.append(term)
        return found[::-1]

    def _term(self, value: Value, verb: str) -> Summand | None:
        views: list[Op] = []
        op = self.defining.get(value)
        while op is not None and lookup(op.name).traits.moves is Moves.PERMUTES:
            views.insert(0, op)
            op = self.defining.get(op.operands[0])
        if op is None or not (is_product(op) or is_sum(op)) or not self.can_move(op):
            return None
        return Summand(op, views, verb)

    def can_move(self, op: Op) -> bool:
        """Not with a constant as operand, and not what a recomputation of each trip leads to.

        The operands of a recomputed product would have to be kept for all trips, which is what was
        to be avoided.
        """
        is_same_sweep = op.replica == self.scan.op.replica
        return is_same_sweep and not any(v in self.constants for v in op.operands)

    def is_out(self, value: Value) -> bool:
        """Whether the stack of ``value`` is there outside the loop."""
        return value in self.outer

    def hand_out(self, value: Value) -> None:
        """Makes the body yield ``value``, unless its stack is there."""
        if value not in self.outer:
            self.extra.append(value)
            self.outer[value] = stacked_value(value, self.scan.trips)


def _without(
    b: Builder, scan: Scan, loop: LoopBody, terms: dict[int, list[Summand]]
) -> tuple[Op, dict[Value, Value]]:
    """Emits the scan without the carries of ``terms``, and their sums after it."""
    op, body = scan.op, scan.body
    stay = [i for i in range(scan.carried) if i not in terms]
    rest = range(scan.carried, len(body.parameters))
    outputs = (*(body.outputs[i] for i in stay), *scan.step_outputs, *loop.extra)
    gone = {body.parameters[i] for i in terms}
    ops: list[Op] = []
    for inner in body.body:
        if any(v in gone for v in inner.operands):
            gone.update(inner.results)
        else:
            ops.append(inner)
    end = replace(body.terminator, operands=outputs)
    region = Block(tuple(body.parameters[i] for i in (*stay, *rest)), (*ops, end))
    results = (
        *(op.results[i] for i in stay), *op.results[scan.carried :],
        *(loop.outer[v] for v in loop.extra),
    )  # fmt: skip
    operands = tuple(op.operands[i] for i in (*stay, *rest))
    attributes = scan.attributes(carried=len(stay), stacked=scan.stacked)
    shorter = replace(
        op, operands=operands, results=results, regions=(region,), attributes=attributes
    )
    b.ops.append(shorter)
    totals = _Sums(b, scan, loop, terms).taken()
    return shorter, {op.results[i]: total for i, total in totals.items()}


class _Sums:
    """The sums after the loop: first the trips that make no whole group, then group after group."""

    def __init__(
        self, b: Builder, scan: Scan, loop: LoopBody, terms: dict[int, list[Summand]]
    ) -> None:
        self._b = b
        self._scan = scan
        self._terms = terms
        read = [v for found in terms.values() for term in found for v in term.op.operands]
        self._read = list(dict.fromkeys(read))
        self._stacks = {v: loop.outer[v] for v in self._read}

    def taken(self) -> dict[int, Value]:
        """The final value of each carry, by its number."""
        b, scan = self._b, self._scan
        trips = scan.trips
        assert isinstance(trips, int), "only loops with bound trips get here"
        totals = {i: scan.op.operands[i] for i in self._terms}
        groups, rest = divmod(trips, GROUP)
        # The loop starts at the end of the stack if it runs backward, and the rest is where it
        # starts.
        start = trips - rest if scan.is_reverse else 0
        if rest:
            stacks = {v: rows(b, x, start, rest) for v, x in self._stacks.items()}
            totals = {i: self._added(b, totals[i], i, stacks) for i in totals}
        start = 0 if scan.is_reverse else rest
        if groups == 1:
            stacks = {v: rows(b, x, start, GROUP) for v, x in self._stacks.items()}
            return {i: self._added(b, totals[i], i, stacks) for i in totals}
        return self._looped(totals, groups, start) if groups else totals

    def _looped(self, totals: dict[int, Value], groups: int, start: int) -> dict[int, Value]:
        b = self._b
        inner = Builder()
        inner.span, inner.scope, inner.replica = b.span, b.scope, b.replica
        carries = {i: inner.parameter(v.type, v.hint) for i, v in totals.items()}
        sources: list[Value] = []
        stacks: dict[Value, Value] = {}
        for value, stack in self._stacks.items():
            shape = stack.type.shape[1:]
            whole = rows(b, stack, start, groups * GROUP)
            sources.append(b.one("reshape", whole, shape=(groups, GROUP, *shape)))
            stacks[value] = inner.parameter(value.type.with_shape((GROUP, *shape)), value.hint)
        region = inner.block([self._added(inner, carries[i], i, stacks) for i in totals])
        attributes: dict[str, Attr] = {
            "trips": groups,
            "carried": len(totals),
            "stacked": len(sources),
            "reverse": self._scan.is_reverse,
            "truncate": 0,
        }
        results = emit_scan(b, [*totals.values(), *sources], region, attributes)
        return dict(zip(totals, results, strict=True))

    def _added(self, b: Builder, total: Value, number: int, stacks: dict[Value, Value]) -> Value:
        for term in self._terms[number]:
            total = b.one(term.verb, total, _sum(b, stacks, term), hint=total.hint)
        return total


def _sum(b: Builder, stacks: dict[Value, Value], term: Summand) -> Value:
    """The sum of ``term`` over the trips in ``stacks``."""
    op = term.op
    with b.at(op.span, op.scope, op.replica):
        if is_product(op):
            left, right = (stacks[v] for v in op.operands)
            batch = tuple((i + 1, j + 1) for i, j in get_pairs(op.attributes, "batch"))
            inner = tuple((i + 1, j + 1) for i, j in get_pairs(op.attributes, "contract"))
            value = b.one("contract", left, right, batch=batch, contract=((0, 0), *inner))
        else:
            axes = (0, *(axis + 1 for axis in get_ints(op.attributes, "axes")))
            value = b.one("sum", stacks[op.operands[0]], axes=axes)
        for view in term.views:
            attributes: dict[str, Any] = dict(view.attributes)
            value = b.one(view.name, value, **attributes)
    return value
