"""From one op or fusion to kernels: which lowering fits, and one lowering for all isomorphic
groups.

Two groups are isomorphic if they apply the same ops in the same way to operands of the same types;
names, lines and scopes do not matter. They share their kernels, so repeated blocks are compiled
once.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Attr, Block, Op, TensorType, Value
from gradc.passes.lower.gemm import contraction_of, gemm_operands, lower_gemm
from gradc.passes.lower.nest import lower_contraction_loops, lower_nest, nest_of
from gradc.passes.lower.piece import Lowered
from gradc.passes.lower.rows import lower_rows
from gradc.passes.lower.space import Space


def as_block(op: Op) -> Block:
    """``op`` alone as a closed block over its distinct operands (see ``group_operands``)."""
    if op.name == "fusion":
        return op.regions[0]
    parameters = {x: Value(x.type, x.hint) for x in op.operands}
    results = tuple(Value(x.type, x.hint) for x in op.results)
    inner = Op(
        op.name,
        tuple(parameters[x] for x in op.operands),
        results,
        op.attributes,
        op.regions,
        op.span,
        op.scope,
    )
    return Block(tuple(parameters.values()), (inner, Op("yield", results, ())))


def group_operands(op: Op) -> tuple[Value, ...]:
    """The operands that match the parameters of ``as_block(op)``."""
    return op.operands if op.name == "fusion" else tuple(dict.fromkeys(op.operands))


def block_key(block: Block) -> tuple[object, ...]:
    """Equal for isomorphic blocks."""
    numbers: dict[Value, int] = {}
    for value in block.parameters:
        numbers[value] = len(numbers)
    key: list[object] = [tuple([v.type for v in block.parameters])]
    for op in block.ops:
        for value in op.results:
            numbers[value] = len(numbers)
        attributes = tuple(sorted((name, repr(a)) for name, a in op.attributes.items()))
        types = tuple([v.type for v in op.results])
        operands = tuple(numbers[x] for x in op.operands)
        regions = tuple(block_key(region) for region in op.regions)
        key.append((op.name, operands, attributes, types, regions))
    return tuple(key)


def label(block: Block) -> str:
    """A short name for people: the most telling op of the group."""
    names = [op.name for op in block.body]
    if contraction_of(block) is not None:
        return "gemm" if len(names) == 1 else "gemm_fused"
    nest = nest_of(block)
    if nest is not None:
        return nest.name if nest.results == block.outputs else f"{nest.name}_fused"
    if len(names) == 1:
        return names[0]
    return "rows" if any(isinstance(lookup(n).loop, Reduction) for n in names) else "map"


class Groups:
    """Groups lowered for one target, by their key."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._known: dict[tuple[object, ...], Lowered] = {}
        self._same: dict[tuple[Space | None, Block], Lowered] = {}
        self._copies: dict[TensorType, Lowered] = {}

    def lower(self, block: Block, space: Space | None = None) -> Lowered:
        """The kernels of ``block``; the same objects for isomorphic blocks."""
        known = self._same.get((space, block))
        if known is None:
            known = self._same[space, block] = self._lower(block, space)
        return known

    def copy(self, value: Value) -> Lowered:
        """The kernel that copies values like ``value``."""
        known = self._copies.get(value.type)
        if known is None:
            known = self._copies[value.type] = self.lower(copy_block(value))
        return known

    def _lower(self, block: Block, space: Space | None) -> Lowered:
        key = (space, block_key(block))
        found = self._known.get(key)
        if found is None:
            name = f"k{len(self._known)}_{label(block)}"
            found = lower_block(block, name, self._target, space)
            self._known[key] = found
        return found


def group_space(op: Op) -> Space | None:
    """The space that fusion chose for a group, if it chose one."""
    shape, columns = op.attributes.get("space"), op.attributes.get("columns")
    if op.name != "fusion" or not isinstance(shape, tuple) or not isinstance(columns, tuple):
        return None
    return Space(_integers(shape), _integers(columns))


def _integers(values: tuple[Attr, ...]) -> tuple[int, ...]:
    return tuple(value for value in values if isinstance(value, int))


def lower_block(block: Block, name: str, target: Target, space: Space | None = None) -> Lowered:
    """Lowers one group, in ``space`` where that was chosen. Raises LoweringError if no loop form
    fits."""
    contraction = contraction_of(block)
    if contraction is not None:
        fits = contraction.result.type.dtype.is_float and gemm_operands(block, contraction)
        return lower_gemm(block, name) if fits else lower_contraction_loops(block, name)
    if nest_of(block) is not None:
        return lower_nest(block, name, target)
    return lower_rows(block, name, target, space)


def copy_block(source: Value) -> Block:
    """The group that copies a value."""
    parameter = Value(source.type, source.hint)
    result = Value(source.type, source.hint)
    shape: Sequence[int] = source.type.static_shape
    op = Op("reshape", (parameter,), (result,), {"shape": tuple(shape)})
    return Block((parameter,), (op, Op("yield", (result,), ())))
