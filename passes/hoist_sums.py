"""Carries that are only added to: the sum over trips is taken once, after the loop.

The running sum of a weight gradient, ``acc + x_t^T d_t``, reads and writes the whole accumulator every trip. If ``acc``
is used for nothing else, the loop hands out ``x_t`` and ``d_t`` instead and one ``contract`` over the trips as well takes
the sum. Sums over axes (bias gradients) move along if what they sum is handed out anyway. Views of a term are
applied after the sum.

Non-goals: terms that are neither products nor sums; they stay in the loop, and so does their carry.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradc.ir.attributes import get_ints, get_pairs
from gradc.ir.builder import Builder
from gradc.ir.core import Block, Op, Value
from gradc.passes.rewrite import Scan, stacked_value

_VIEWS = ("reshape", "transpose")


@dataclass
class _Term:
    """One summand of an accumulator: a product or sum of the body, and the views applied to it."""

    op: Op
    views: list[Op] = field(default_factory=list)


def hoist_sums(b: Builder, op: Op, zeros: Collection[Value]) -> tuple[Op, dict[Value, Value]]:
    """Emits the scan without the sums, then the sums; returns it and what its old results became.

    ``zeros`` are values known to be zero, from which an accumulator starts as a rule.
    """
    scan = Scan.of(op)
    loop = _Loop(scan)
    terms = {i: found for i in range(scan.carried) if (found := loop.terms(i))}
    for found in terms.values():
        for term in found:
            if term.op.name == "contract":
                for operand in term.op.operands:
                    loop.hand_out(operand)
    # A plain sum moves only if its operand is handed out for a product.
    kept = {
        i: found
        for i, found in terms.items()
        if all(t.op.name == "contract" or loop.is_out(t.op.operands[0]) for t in found)
    }
    if not kept:
        b.ops.append(op)
        return op, {}
    return _without(b, scan, loop, kept, zeros)


class _Loop:
    """What is known of the body, and what it hands out."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        body = scan.body
        self._defining = {v: op for op in body.body for v in op.results}
        self._uses: dict[Value, int] = {}
        for value in (*(v for op in body.body for v in op.operands), *body.outputs):
            self._uses[value] = self._uses.get(value, 0) + 1
        self._constants = set(scan.split(body.parameters)[2])
        first, last = scan.carried, scan.carried + scan.stacked
        slices = zip(body.parameters[first:last], scan.op.operands[first:last], strict=True)
        steps = zip(scan.step_outputs, scan.op.results[scan.carried :], strict=True)
        self.outer: dict[Value, Value] = {**dict(steps), **dict(slices)}
        self.extra: list[Value] = []

    def terms(self, number: int) -> list[_Term] | None:
        """The summands of carry ``number`` if it is only added to and all of them can move."""
        body = self.scan.body
        carry, output = body.parameters[number], body.outputs[number]
        total = self._defining.get(output)
        if total is None or total.name != "add" or self._uses[output] != 1:
            return None
        if self._uses.get(carry) != 1 or carry not in total.operands:
            return None
        (other,) = (v for v in total.operands if v is not carry)
        found: list[_Term] = []
        stack: list[tuple[Value, list[Op]]] = [(other, [])]
        while stack:
            value, views = stack.pop()
            op = self._defining.get(value)
            if op is None:
                return None
            if op.name == "add" and not views:
                stack += [(v, []) for v in reversed(op.operands)]
            elif op.name in _VIEWS:
                stack.append((op.operands[0], [op, *views]))
            elif op.name in ("contract", "sum") and self._can_move(op):
                found.append(_Term(op, views))
            else:
                return None
        return found

    def _can_move(self, op: Op) -> bool:
        """Not with a constant as operand, and not what a recomputation of each trip leads to.

        The operands of a recomputed product would have to be kept for all trips, which is what was to be avoided.
        """
        is_same_sweep = op.replica == self.scan.op.replica
        return is_same_sweep and not any(v in self._constants for v in op.operands)

    def is_out(self, value: Value) -> bool:
        """Whether the stack of ``value`` is there outside the loop."""
        return value in self.outer

    def hand_out(self, value: Value) -> None:
        """Makes the body yield ``value``, unless its stack is there."""
        if value not in self.outer:
            self.extra.append(value)
            self.outer[value] = stacked_value(value, self.scan.trips)


def _without(
    b: Builder, scan: Scan, loop: _Loop, terms: dict[int, list[_Term]], zeros: Collection[Value]
) -> tuple[Op, dict[Value, Value]]:
    """Emits the scan without the carries of ``terms``, and their sums after it."""
    op, body = scan.op, scan.body
    stay = [i for i in range(scan.carried) if i not in terms]
    rest = range(scan.carried, len(body.parameters))
    outputs = (*(body.outputs[i] for i in stay), *scan.step_outputs, *loop.extra)
    sums = {body.outputs[i] for i in terms}
    ops = [inner for inner in body.body if not any(v in sums for v in inner.results)]
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
    found: dict[Value, Value] = {}
    for number, summands in terms.items():
        initial = op.operands[number]
        parts = [] if initial in zeros else [initial]
        parts += [_sum(b, loop, term) for term in summands]
        found[op.results[number]] = _total(b, parts, op.results[number].hint)
    return shorter, found


def _total(b: Builder, parts: Sequence[Value], hint: str) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = b.one("add", total, part, hint=hint)
    return total


def _sum(b: Builder, loop: _Loop, term: _Term) -> Value:
    """The sum of ``term`` over all trips."""
    op = term.op
    with b.at(op.span, op.scope, op.replica):
        if op.name == "contract":
            left, right = (loop.outer[v] for v in op.operands)
            batch = tuple((i + 1, j + 1) for i, j in get_pairs(op.attributes, "batch"))
            inner = tuple((i + 1, j + 1) for i, j in get_pairs(op.attributes, "contract"))
            value = b.one("contract", left, right, batch=batch, contract=((0, 0), *inner))
        else:
            axes = (0, *(axis + 1 for axis in get_ints(op.attributes, "axes")))
            value = b.one("sum", loop.outer[op.operands[0]], axes=axes)
        for view in term.views:
            attributes: dict[str, Any] = dict(view.attributes)
            value = b.one(view.name, value, **attributes)
    return value
