"""Small tools that passes share: copying ops under a renaming, free values, a structured view of
``scan``.

Invariants: nothing here changes an op in place; a copy of a region has values of its own, so no
value is ever defined twice in one function. Recursion follows the nesting of regions only, never
the length of blocks.

Non-goals: deciding anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.control import region_result_types
from gradc.ir.ops.registry import Control, lookup
from gradc.ir.ops.structural import slice_axis
from gradc.ir.tensor.core import Attr, Block, Function, Op, Value, walk
from gradc.ir.tensor.dims import Dim, DimExpr

_T = TypeVar("_T")


def copy_ops(
    ops: Iterable[Op], mapping: MutableMapping[Value, Value], replica: int | None = None
) -> list[Op]:
    """Copies of ``ops`` whose operands are renamed by ``mapping``, which gains the new results.

    ``replica`` stamps the copies (and what is inside their regions), so that CSE keeps them apart.
    """
    copies: list[Op] = []
    for op in ops:
        results = tuple(Value(v.type, v.hint) for v in op.results)
        copies.append(
            Op(
                op.name,
                tuple([mapping.get(v, v) for v in op.operands]),
                results,
                op.attributes,
                tuple(copy_block(r, replica) for r in op.regions),
                op.span,
                op.scope,
                op.replica if replica is None else replica,
            )
        )
        mapping.update(zip(op.results, results, strict=True))
    return copies


def copy_block(block: Block, replica: int | None = None) -> Block:
    """A copy of a closed block with values of its own."""
    parameters = tuple(Value(v.type, v.hint) for v in block.parameters)
    mapping = dict(zip(block.parameters, parameters, strict=True))
    return Block(parameters, tuple(copy_ops(block.ops, mapping, replica)))


def free_values(ops: Iterable[Op], outputs: Iterable[Value] = ()) -> list[Value]:
    """Values read by ``ops`` or ``outputs`` that no op of ``ops`` defines, in order of first
    use.
    """
    defined: set[Value] = set()
    found: dict[Value, None] = {}
    for op in ops:
        for value in op.operands:
            if value not in defined:
                found[value] = None
        defined.update(op.results)
    for value in outputs:
        if value not in defined:
            found[value] = None
    return list(found)


def with_ops(function: Function, ops: Sequence[Op], outputs: Sequence[Value]) -> Function:
    """``function`` with another body; parameters and slots stay."""
    end = replace(function.block.terminator, operands=tuple(outputs))
    return replace(function, block=Block(function.block.parameters, (*ops, end)))


def each_once(change: Callable[[Block], Block]) -> Callable[[Block], Block]:
    """``change`` for one walk over a program: a region that many ops share is changed once."""
    known: dict[Block, Block] = {}

    def changed(block: Block) -> Block:
        found = known.get(block)
        if found is None:
            found = known[block] = change(block)
        return found

    return changed


def with_regions(op: Op, change: Callable[[Block], Block]) -> Op:
    """``op`` with every region changed; the same object if none is."""
    if not op.regions:
        return op
    regions = tuple(change(region) for region in op.regions)
    if all(a is b for a, b in zip(regions, op.regions, strict=True)):
        return op
    return replace(op, regions=regions)


def with_control(op: Op, change: Callable[[Block], Block]) -> Op:
    """``op`` with its regions changed where it runs them as they stand (loops, checkpoints); not
    where a region says what something else computes, or is called by its signature.
    """
    form = lookup(op.name).loop
    if not isinstance(form, Control) or form.keeps_signature:
        return op
    return with_regions(op, change)


def next_replica(block: Block) -> int:
    """A replica number that no op of ``block`` has yet."""
    return 1 + max((op.replica for op in walk(block)), default=0)


def renamed(values: Iterable[Value], mapping: Mapping[Value, Value]) -> tuple[Value, ...]:
    """``values`` under ``mapping``."""
    return tuple([mapping.get(v, v) for v in values])


@dataclass(frozen=True, slots=True)
class Scan:
    """A ``scan`` op taken apart. ``carried`` and ``stacked`` count; the rest of the operands are
    constants.
    """

    op: Op
    carried: int
    stacked: int
    trips: Dim
    is_reverse: bool
    truncate: int

    @classmethod
    def of(cls, op: Op) -> Scan:
        """Reads the attributes of ``op``."""
        a = op.attributes
        carried, stacked, truncate = a["carried"], a["stacked"], a["truncate"]
        assert isinstance(carried, int) and isinstance(stacked, int) and isinstance(truncate, int)
        return cls(op, carried, stacked, dim(a["trips"]), bool(a["reverse"]), truncate)

    @property
    def body(self) -> Block:
        return self.op.regions[0]

    def split(self, values: Sequence[_T]) -> tuple[Sequence[_T], ...]:
        """Operands or body parameters as (carries, stacked arrays or slices, constants)."""
        c, s = self.carried, self.carried + self.stacked
        return values[:c], values[c:s], values[s:]

    @property
    def is_truncated(self) -> bool:
        """Whether ``truncate`` cuts anything."""
        return self.truncate > 0 and not (
            isinstance(self.trips, int) and self.trips <= self.truncate
        )

    @property
    def step_outputs(self) -> tuple[Value, ...]:
        """What the body yields besides the next carries."""
        return self.body.outputs[self.carried :]

    def attributes(self, *, carried: int, stacked: int) -> dict[str, Attr]:
        """The attributes with other counts."""
        return {**self.op.attributes, "carried": carried, "stacked": stacked}


def dim(attribute: Attr) -> Dim:
    """An attribute that must be a dimension. Raises TypeError."""
    if isinstance(attribute, (int, DimExpr)) and not isinstance(attribute, bool):
        return attribute
    raise TypeError(f"{attribute!r} is not a dimension")


def stacked_value(value: Value, trips: Dim) -> Value:
    """The value that holds ``value`` of every trip, one after another."""
    return Value(value.type.with_shape((trips, *value.type.shape)), value.hint)


def emit_scan(
    b: Builder, operands: Sequence[Value], body: Block, attributes: dict[str, Attr]
) -> tuple[Value, ...]:
    """Emits a scan over ``body`` and returns its results."""
    types = region_result_types("scan", operands, (body,), attributes)
    results = tuple(Value(t, v.hint) for t, v in zip(types, body.outputs, strict=True))
    b.append("scan", operands, results, attributes, (body,))
    return results


def rows(b: Builder, x: Value, start: int, count: int) -> Value:
    """Rows ``start`` to ``start + count`` of ``x``; ``x`` itself if these are all."""
    is_all = start == 0 and count == x.type.shape[0]
    return x if is_all else slice_axis(b, x, 0, start, start + count)
