"""Loop-invariant work leaves the loop: what a ``scan`` computes without its carries, and what it
only adds up.

From-stage and to-stage: tensor. Inner loops first, so work can leave several loops. Four moves:
- ops on constants alone are computed once, before the loop;
- a ``contract`` of slices with a constant (``x @ wx``) becomes one product over all trips, before
  the loop, together with the elementwise ops and views its operand comes from;
- a carry that is only added to (a weight gradient) becomes sums over many trips, after the loop
  (``hoist_sums``);
- a product with a constant that is only handed out becomes one product over all trips, after it
  (``hoist_yields``).

All but the third leave every element's arithmetic as it is. The third adds in another order than
the loop did; it applies to sums that differentiation made, and the order it gives them is the same
whatever is recomputed.

A scan with the attribute ``saves_memory`` exists so that its trips need not be in memory together
(accumulation over parts of a batch); it is left as it is.

Non-goals: ops that depend on carries; making loops out of anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import has_own_numbers, is_loop, is_product, lookup
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.passes.hoist.sums import hoist_sums
from gradc.passes.hoist.yields import hoist_yields, stacked_product
from gradc.passes.rewrite import Scan, renamed, with_ops
from gradc.passes.simplify.dce import dce

# How a value of the body depends on the trip.
InvariantKind: TypeAlias = Literal["fixed", "sliced", "carried"]


def hoist(function: Function) -> Function:
    """``function`` with invariant work moved out of its loops; the same object if there is none."""
    block = _block(function.block)
    if block is function.block:
        return function
    return dce(with_ops(function, block.body, block.outputs))


def _block(block: Block) -> Block:
    if not any(op.regions for op in block.ops):
        return block
    b = Builder()
    mapping: dict[Value, Value] = {}
    is_changed = False
    for op in block.body:
        regions = tuple(_block(region) for region in op.regions)
        operands = renamed(op.operands, mapping)
        if operands != op.operands or any(
            a is not b for a, b in zip(regions, op.regions, strict=True)
        ):
            op = op.on(operands, regions)
            is_changed = True
        if is_loop(op) and not op.attributes.get("saves_memory"):
            before = op
            with b.at(op.span, op.scope, op.replica):
                op = _hoist_invariants(b, op)
                op, summed = hoist_sums(b, op)
                op, handed = hoist_yields(b, op)
            mapping.update({**summed, **handed})
            is_changed = is_changed or op is not before
        else:
            b.ops.append(op)
    if not is_changed:
        return block
    end = replace(block.terminator, operands=renamed(block.outputs, mapping))
    return Block(block.parameters, (*b.ops, end))


def _hoist_invariants(b: Builder, op: Op) -> Op:
    """Emits what does not need the loop into ``b``; returns the scan to run (not emitted)."""
    scan = Scan.of(op)
    kinds = _kinds(scan)
    lifter = _Lifter(b, scan, kinds)
    constants: list[Value] = []
    slices: list[Value] = []
    kept: list[Op] = []
    for inner in scan.body.body:
        kind = kinds[inner.results[0]] if inner.results else "carried"
        is_worthy = _is_invariant(inner, kind) or _is_product_of_slices(inner, kinds)
        # What is recomputed per trip was asked to take no memory outside the loop.
        is_worthy = is_worthy and inner.replica == op.replica
        if is_worthy and lifter.lift(inner.result) is not None:
            (constants if kind == "fixed" else slices).append(inner.result)
        else:
            kept.append(inner)
    if not constants and not slices:
        return op
    parameters = scan.split(scan.body.parameters)
    operands = scan.split(op.operands)
    region = Block(
        (*parameters[0], *parameters[1], *slices, *parameters[2], *constants),
        (*kept, scan.body.terminator),
    )
    sources = (
        *operands[0], *operands[1], *(lifter.outer[v] for v in slices),
        *operands[2], *(lifter.outer[v] for v in constants),
    )  # fmt: skip
    attributes = scan.attributes(carried=scan.carried, stacked=scan.stacked + len(slices))
    return replace(op, operands=sources, regions=(region,), attributes=attributes)


def _kinds(scan: Scan) -> dict[Value, InvariantKind]:
    kinds: dict[Value, InvariantKind] = {}
    groups: tuple[InvariantKind, ...] = ("carried", "sliced", "fixed")
    for kind, parameters in zip(groups, scan.split(scan.body.parameters), strict=True):
        kinds.update((p, kind) for p in parameters)
    for op in scan.body.body:
        found = {kinds[v] for v in op.operands}
        kind = next((k for k in groups if k in found), "fixed")
        kinds.update((v, kind) for v in op.results)
    return kinds


def _is_invariant(op: Op, kind: InvariantKind) -> bool:
    # Sources and what only moves or represents numbers otherwise are too cheap to be worth an
    # operand of their own; they move only if what reads them does.
    is_cheap = lookup(op.name).is_source or has_own_numbers(op)
    return kind == "fixed" and not is_cheap and not op.regions and len(op.results) == 1


def _is_product_of_slices(op: Op, kinds: dict[Value, InvariantKind]) -> bool:
    if not is_product(op) or get_pairs(op.attributes, "batch"):
        return False
    return sorted(kinds[v] for v in op.operands) == ["fixed", "sliced"]


class _Lifter:
    """Computes values of the body for all trips at once, outside; ``outer`` holds what it found."""

    def __init__(self, b: Builder, scan: Scan, kinds: dict[Value, InvariantKind]) -> None:
        self._b = b
        self._trips = scan.trips
        self._kinds = kinds
        self._defining = {v: op for op in scan.body.body for v in op.results}
        carried = scan.carried
        pairs = zip(scan.body.parameters[carried:], scan.op.operands[carried:], strict=True)
        self.outer: dict[Value, Value] = dict(pairs)

    def lift(self, value: Value) -> Value | None:
        """The outer value for ``value``: stacked if it is sliced. None if that cannot be
        made.
        """
        chain = self._chain(value)
        if chain is None:
            return None
        for op in chain:
            with self._b.at(op.span, op.scope, op.replica):
                self.outer[op.result] = self._lifted(op)
        return self.outer[value]

    def _chain(self, value: Value) -> list[Op] | None:
        """The ops that compute ``value`` and are not outside yet, in order."""
        found: dict[Op, None] = {}
        stack = [value]
        while stack:
            item = stack.pop()
            if item in self.outer:
                continue
            op = self._defining.get(item)
            if op is None or not self._can_lift(op):
                return None
            found.pop(op, None)
            found[op] = None
            stack += op.operands
        return list(reversed(found))

    def _can_lift(self, op: Op) -> bool:
        if op.regions or len(op.results) != 1 or self._kinds[op.result] == "carried":
            return False
        if self._kinds[op.result] == "fixed":
            return True
        multiplies_slices = _is_product_of_slices(op, self._kinds)
        definition = lookup(op.name)
        can_be_stacked = definition.traits.stacked is not None and len(op.operands) == 1
        return definition.is_elementwise or can_be_stacked or multiplies_slices

    def _lifted(self, op: Op) -> Value:
        b, hint = self._b, op.result.hint
        operands = [self.outer[v] for v in op.operands]
        if self._kinds[op.result] == "fixed":
            return b.one(op.name, *operands, hint=hint, **op.attributes)
        is_stacked = [self._kinds[v] == "sliced" for v in op.operands]
        if is_product(op):
            left, right = operands
            return stacked_product(b, op, (left, right), is_stacked[0])
        stacked = lookup(op.name).traits.stacked
        if stacked is not None:
            attributes = stacked(op.attributes, self._trips)
            return b.one(op.name, *operands, hint=hint, **attributes)
        wide = [
            v if is_wide else self._spread(v)
            for v, is_wide in zip(operands, is_stacked, strict=True)
        ]
        return b.one(op.name, *wide, hint=hint, **op.attributes)

    def _spread(self, value: Value) -> Value:
        shape = (self._trips, *value.type.shape)
        return self._b.one("broadcast", value, shape=shape, dims=tuple(range(1, len(shape))))
