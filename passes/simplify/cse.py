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
from collections.abc import Hashable
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
        # Shapes and the like: most attributes by far.
        if set(map(type, attribute)) == _ONLY_INTEGERS:
            return ("i", attribute)
        return ("t", tuple([attribute_key(item) for item in attribute]))
    if isinstance(attribute, (int, str, DType, DimExpr)):
        return (type(attribute).__name__, attribute)
    raise TypeError(f"{attribute!r} is not an attribute")


def attributes_key(attributes: Attrs) -> Hashable:
    """The key of all attributes of an op, whatever their order."""
    return tuple([(name, attribute_key(attributes[name])) for name in sorted(attributes)])


_ONLY_INTEGERS = {int}


class _Merger:
    """Merges equal ops block by block. ``_interned`` numbers the structures of regions; what was
    found for a region is remembered, or every op would be looked at once for every level around it.
    """

    def __init__(self) -> None:
        self._interned: dict[Hashable, int] = {}
        self._structures: dict[Block, int] = {}
        self._regions: dict[Block, Block] = {}
        self._attributes: dict[int, Hashable] = {}

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
            first = known.setdefault(self._key(op, numbers), op)
            if first is not op:
                mapping.update(zip(op.results, first.results, strict=True))
                is_changed = True
                continue
            for value in op.results:
                numbers[value] = len(numbers)
            kept.append(op)
        if not is_changed and all(a is b for a, b in zip(kept, block.body, strict=True)):
            return block
        end = replace(block.terminator, operands=renamed(block.outputs, mapping))
        return Block(block.parameters, (*kept, end))

    def _region(self, block: Block) -> Block:
        """``block`` merged, once for all ops that share it."""
        found = self._regions.get(block)
        if found is None:
            found = self._regions[block] = self.block(block)
        return found

    def _rewritten(self, op: Op, mapping: dict[Value, Value]) -> Op:
        # Values and blocks compare by identity.
        operands = renamed(op.operands, mapping)
        regions = tuple([self._region(region) for region in op.regions]) if op.regions else ()
        if operands == op.operands and regions == op.regions:
            return op
        return op.on(operands, regions)

    def _key(self, op: Op, numbers: dict[Value, int]) -> Hashable:
        operands = [numbers[v] for v in op.operands]
        if _is_commutative(op):
            operands.sort()
        regions = tuple([self._structure(region) for region in op.regions]) if op.regions else ()
        return (op.name, tuple(operands), self._attributes_key(op), regions, op.replica)

    def _attributes_key(self, op: Op) -> Hashable:
        """By identity: the attributes of all ops of the program outlive the merger, rewritten ops
        and copies share theirs.
        """
        if not op.attributes:
            return ()
        known = self._attributes.get(id(op.attributes))
        if known is None:
            known = self._attributes[id(op.attributes)] = attributes_key(op.attributes)
        return known

    def _structure(self, block: Block) -> int:
        """One number per structure: equal numbers, equal closed blocks."""
        known = self._structures.get(block)
        if known is None:
            known = self._structures[block] = self._structure_of(block)
        return known

    def _structure_of(self, block: Block) -> int:
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
