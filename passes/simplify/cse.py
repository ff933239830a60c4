"""Common subexpression elimination: equal ops are computed once.

From-stage and to-stage: tensor. Two ops are equal if name, operands, attributes, regions and
replica number are; span and scope do not count, and the first op's are kept. Operands of
commutative ops are compared in a fixed order. The replica number keeps a recomputed op recomputed.
Keys are built bottom-up and interned, so the work is linear in the size of the program.

Invariants: floats are compared by bits (0.0 and -0.0 differ, NaN equals itself), so merging is
exact. All ops are pure; ``random_bits`` is a function of its key and stream.

Non-goals: algebra (``simplify``).
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from dataclasses import replace

from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Attr, Attrs, Block, DType, Function, Op, Value
from gradc.ir.tensor.dims import DimExpr
from gradc.passes.rewrite import renamed, with_ops


def cse(function: Function) -> Function:
    """``function`` with equal ops merged; the same object if there are none."""
    merged = _Merger().block(function.block)
    if merged is function.block:
        return function
    return with_ops(function, merged.body, merged.outputs)


def attribute_key(attribute: Attr) -> Hashable:
    """A key under which equal attributes, and only those, are equal: 1, 1.0, True differ, 0.0 and
    -0.0 too.
    """
    if isinstance(attribute, bool):
        return ("b", attribute)
    if isinstance(attribute, float):
        return ("f", struct.pack("<d", attribute))
    if isinstance(attribute, tuple):
        return ("t", tuple(attribute_key(item) for item in attribute))
    if isinstance(attribute, (int, str, DType, DimExpr)):
        return (type(attribute).__name__, attribute)
    raise TypeError(f"{attribute!r} is not an attribute")


def attributes_key(attributes: Attrs) -> Hashable:
    """The key of all attributes of an op, whatever their order."""
    return tuple((name, attribute_key(attributes[name])) for name in sorted(attributes))


class _Merger:
    """Merges equal ops block by block. ``_interned`` numbers the structures of regions."""

    def __init__(self) -> None:
        self._interned: dict[Hashable, int] = {}

    def block(self, block: Block) -> Block:
        """``block`` with equal ops merged; the same object if there are none."""
        mapping: dict[Value, Value] = {}
        known: dict[Hashable, Op] = {}
        numbers: dict[Value, int] = {}
        kept: list[Op] = []
        is_changed = False
        for value in block.parameters:
            numbers[value] = len(numbers)
        for op in block.body:
            op = self._rewritten(op, mapping)
            key = self._key(op, numbers)
            first = known.get(key)
            if first is not None:
                mapping.update(zip(op.results, first.results, strict=True))
                is_changed = True
                continue
            known[key] = op
            for value in op.results:
                numbers[value] = len(numbers)
            kept.append(op)
        if not is_changed and all(a is b for a, b in zip(kept, block.body, strict=True)):
            return block
        end = replace(block.terminator, operands=renamed(block.outputs, mapping))
        return Block(block.parameters, (*kept, end))

    def _rewritten(self, op: Op, mapping: dict[Value, Value]) -> Op:
        operands = renamed(op.operands, mapping)
        regions = tuple(self.block(region) for region in op.regions)
        is_same = all(a is b for a, b in zip(operands, op.operands, strict=True)) and all(
            a is b for a, b in zip(regions, op.regions, strict=True)
        )
        return op if is_same else replace(op, operands=operands, regions=regions)

    def _key(self, op: Op, numbers: dict[Value, int]) -> Hashable:
        operands: Sequence[int] = [numbers[v] for v in op.operands]
        if _is_commutative(op):
            operands = sorted(operands)
        regions = tuple(self._structure(region) for region in op.regions)
        return (op.name, tuple(operands), attributes_key(op.attributes), regions, op.replica)

    def _structure(self, block: Block) -> int:
        """One number per structure: equal numbers, equal closed blocks."""
        numbers = {value: i for i, value in enumerate(block.parameters)}
        parts: list[Hashable] = [tuple(v.type for v in block.parameters)]
        for op in block.body:
            parts.append(self._key(op, numbers))
            for value in op.results:
                numbers[value] = len(numbers)
        parts.append(tuple(numbers[v] for v in block.outputs))
        key = tuple(parts)
        return self._interned.setdefault(key, len(self._interned))


def _is_commutative(op: Op) -> bool:
    return lookup(op.name).commutative
