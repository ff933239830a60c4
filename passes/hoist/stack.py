"""A block for many positions at once: what ``vmap`` is where every op can be applied to a stack.

From-stage and to-stage: tensor. Some parameters are stacked along a new first axis; every op that
depends on them is applied to the stack, as its traits say (``stacked``, ``batched``; elementwise
ops as they are), and the others stay. Regions that run once are stacked inside; a ``scan`` keeps
its trips, and its carries are stacked if anything stacked reaches them.

Every element's arithmetic stays what it is for one position; only contractions may add in another
order, by their shape. Non-goals: ops whose traits say neither; then there is no stack, and the
caller makes a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, Op, TensorType, Value
from gradc.passes.rewrite import Scan


class _Cannot(Exception):
    """An op that cannot be applied to a stack."""


def stacked_block(
    b: Builder, block: Block, operands: Sequence[Value], is_stacked: Sequence[bool], count: int
) -> list[Value] | None:
    """Emits ``block`` for ``count`` positions; all outputs are stacked. None if it cannot be."""
    own = Builder()
    own.span, own.scope, own.replica = b.span, b.scope, b.replica
    try:
        found = _Stack(own, count).block(block, operands, is_stacked)
        results = [_wide(own, v, count, is_wide) for v, is_wide in found]
    except _Cannot:
        return None
    b.ops += own.ops
    return results


def _wide(b: Builder, value: Value, count: int, is_stacked: bool) -> Value:
    if is_stacked:
        return value
    shape = (count, *value.type.shape)
    return b.one("broadcast", value, shape=shape, dims=tuple(range(1, len(shape))))


def _at(value: Value, count: int, is_stacked: bool) -> TensorType:
    return value.type.with_shape((count, *value.type.shape)) if is_stacked else value.type


class _Stack:
    """Ops of one block being emitted."""

    def __init__(self, b: Builder, count: int) -> None:
        self.b, self.count = b, count

    def block(
        self, block: Block, operands: Sequence[Value], is_stacked: Sequence[bool]
    ) -> list[tuple[Value, bool]]:
        """The outputs, each with whether it is stacked."""
        made = dict(zip(block.parameters, zip(operands, is_stacked, strict=True), strict=True))
        for op in block.body:
            with self.b.at(op.span, op.scope, op.replica):
                results = self._op(op, [made[v] for v in op.operands])
            made.update(zip(op.results, results, strict=True))
        return [made[v] for v in block.outputs]

    def _op(self, op: Op, given: Sequence[tuple[Value, bool]]) -> list[tuple[Value, bool]]:
        values, flags = [v for v, _ in given], [flag for _, flag in given]
        if not any(flags):
            results = self.b.apply(op.name, values, op.attributes, op.regions)
            return [(v, False) for v in results]
        if is_loop(op):
            return self._scan(op, values, flags)
        if op.regions:
            wide = [_wide(self.b, v, self.count, flag) for v, flag in given]
            regions = tuple(self._region(region) for region in op.regions)
            return [(v, True) for v in self.b.apply(op.name, wide, op.attributes, regions)]
        definition = lookup(op.name)
        if definition.traits.batched is not None:
            batched = definition.traits.batched(self.b, op, values, flags, self.count)
            return [(batched, True)]
        stacked = definition.traits.stacked
        if stacked is None and not definition.is_elementwise:
            raise _Cannot(op.name)
        attributes = op.attributes if stacked is None else stacked(op.attributes, self.count)
        wide = [_wide(self.b, v, self.count, flag) for v, flag in given]
        return [(v, True) for v in self.b.apply(op.name, wide, attributes)]

    def _region(self, block: Block) -> Block:
        """A region all of whose parameters and outputs are stacked."""
        inner = Builder()
        parameters = [inner.parameter(_at(v, self.count, True), v.hint) for v in block.parameters]
        found = _Stack(inner, self.count).block(block, parameters, [True] * len(parameters))
        return inner.block([_wide(inner, v, self.count, flag) for v, flag in found])

    # --- loops

    def _scan(self, op: Op, values: list[Value], flags: list[bool]) -> list[tuple[Value, bool]]:
        scan = Scan.of(op)
        carried, middle = scan.carried, scan.carried + scan.stacked
        given, flags = flags, self._fixed_point(scan, flags)
        wide = [
            _wide(self.b, v, self.count, has) if is_needed else v
            for v, has, is_needed in zip(values, given, flags, strict=True)
        ]
        for n in range(carried, middle):
            if flags[n]:
                wide[n] = _exchanged(self.b, wide[n])
        body, outputs = self._body(scan, flags)
        results = list(self.b.apply("scan", wide, op.attributes, (body,)))
        for n in range(carried, len(results)):
            if outputs[n]:
                results[n] = _exchanged(self.b, results[n])
        return list(zip(results, outputs, strict=True))

    def _body(self, scan: Scan, flags: Sequence[bool]) -> tuple[Block, list[bool]]:
        inner, block = Builder(), scan.body
        parameters = [
            inner.parameter(_at(v, self.count, flag), v.hint)
            for v, flag in zip(block.parameters, flags, strict=True)
        ]
        found = _Stack(inner, self.count).block(block, parameters, flags)
        kept = [flag or (n < scan.carried and flags[n]) for n, (_, flag) in enumerate(found)]
        outputs = [
            _wide(inner, v, self.count, flag) if keep else v
            for (v, flag), keep in zip(found, kept, strict=True)
        ]
        return inner.block(outputs), kept

    def _fixed_point(self, scan: Scan, flags: list[bool]) -> list[bool]:
        """Which operands are stacked, carries being so if anything stacked reaches them."""
        while True:
            _, outputs = self._body(scan, flags)
            following = [*outputs[: scan.carried], *flags[scan.carried :]]
            if following == flags:
                return flags
            flags = following


def _exchanged(b: Builder, value: Value) -> Value:
    """The first two axes, exchanged."""
    perm = (1, 0, *range(2, value.type.rank))
    return b.one("transpose", value, perm=perm)
