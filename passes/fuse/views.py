"""Views in fusion: which values are never stored, and how their elements lie in the values that
are.

A value made by a view, an iota or a constant is virtual: it is recomputed inside whatever uses it.
So is the result of a few cheap elementwise ops on values that are in memory anyway (parameters of
the block, operands of contractions). Its bases are the stored values it is made from. A virtual
value that is a strided view of one base can be read by matrix products directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.loop.kernel import dense_strides
from gradc.ir.ops.registry import ByIndex, Pointwise, lookup
from gradc.ir.target.costs import VerbCount
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Op, Value
from gradc.passes.lower.cost import verbs
from gradc.passes.lower.gemm import chain_reads, chain_steps, chain_view
from gradc.passes.lower.space import Space

# Chains of views longer than this are stored in between: every link is a level of recursion when it
# becomes loops.
MAX_CHAIN = 24


@dataclass(frozen=True, slots=True)
class View:
    """``value`` as a strided view of ``base``."""

    base: Value
    offset: int
    strides: tuple[int, ...]


class Views:
    """The virtual values of one block, for ``target``.

    ``stored`` lists values that are to be stored although they could be virtual, ``in_memory``
    values of which it is
    known that they will be stored for other reasons.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        target: Target,
        stored: frozenset[Value] = frozenset(),
        in_memory: frozenset[Value] = frozenset(),
    ) -> None:
        self._costs = target.costs
        self._verbs: dict[Op, VerbCount] = {}
        limits = target.limits
        self.makers: dict[Value, Op] = {value: op for op in ops for value in op.results}
        self._bases: dict[Value, tuple[Value, ...]] = {}
        self._chains: dict[Value, tuple[Op, ...]] = {}
        self._views: dict[Value, View | None] = {}
        self._reads: dict[Value, tuple[tuple[Value, View | None], ...]] = {}
        self._read_by: dict[Op, tuple[Value, ...]] = {}
        self._virtual: dict[Value, bool] = {}
        # Length of the chain of a virtual value; and, for values from outside the block, the verbs
        # in it.
        depth: dict[Value, int] = {}
        outside: dict[Value, int] = {}
        # Elements of stored values that are read for one element of a virtual one.
        paths: dict[Value, int] = {}
        for op in ops:
            is_moved = is_view(op)
            # What has to be stored anyway is computed once, where its operands are.
            is_computed = isinstance(lookup(op.name).loop, Pointwise)
            if not is_moved and (not is_computed or any(v in in_memory for v in op.results)):
                continue
            known = [
                outside.get(x, None if x in self.makers and x not in in_memory else 0)
                for x in op.operands
            ]
            is_outside = None not in known
            if is_outside:
                count = sum([n or 0 for n in known]) + self._cheap_verbs(op, limits.verbs)
                is_outside = count <= limits.verbs
            if not is_moved and not is_outside:
                continue
            ways = sum([paths.get(x, 1) for x in op.operands])
            length = 1 + max([depth.get(x, 0) for x in op.operands], default=0)
            if length > MAX_CHAIN or (ways > limits.reads and ways > len(op.operands) > 1):
                continue
            for value in op.results:
                if value in stored:
                    continue
                self._virtual[value] = True
                depth[value] = length
                paths[value] = max(ways, 1)
                if is_outside:
                    outside[value] = count

    def verbs(self, op: Op) -> VerbCount:
        """What one element of ``op`` takes."""
        found = self._verbs.get(op)
        if found is None:
            found = self._verbs[op] = verbs(op, self._costs)
        return found

    def _cheap_verbs(self, op: Op, most: int) -> int:
        """Verbs of an elementwise op that is cheap enough to be computed in every user; more than
        ``most`` otherwise."""
        count = self.verbs(op)
        if count.slow or count.transcendental:
            return most + 1
        return 1 if op.results and op.results[0].type.size == 1 else count.plain

    def is_virtual(self, value: Value) -> bool:
        """Whether ``value`` is recomputed where it is used."""
        return self._virtual.get(value, False)

    def bases(self, value: Value) -> tuple[Value, ...]:
        """The stored values that ``value`` is made from; itself if it is stored."""
        if not self.is_virtual(value):
            return (value,)
        found = self._bases.get(value)
        if found is None:
            found = self._bases[value] = self.read_by(self.makers[value])
        return found

    def read_by(self, op: Op) -> tuple[Value, ...]:
        """The stored values that the operands of ``op`` are made from, each once."""
        found = self._read_by.get(op)
        if found is None:
            bases: dict[Value, None] = {}
            for operand in op.operands:
                bases.update(dict.fromkeys(self.bases(operand)))
            found = self._read_by[op] = tuple(bases)
        return found

    def chain(self, value: Value) -> tuple[Op, ...]:
        """The ops that make ``value`` from its bases, in order."""
        if not self.is_virtual(value):
            return ()
        found = self._chains.get(value)
        if found is None:
            op = self.makers[value]
            ops: dict[Op, None] = {}
            for operand in op.operands:
                ops.update(dict.fromkeys(self.chain(operand)))
            ops[op] = None
            found = self._chains[value] = tuple(ops)
        return found

    def reads(self, value: Value) -> tuple[tuple[Value, View | None], ...]:
        """Every way in which an element of ``value`` reads a base: a strided view, or None for any
        other address."""
        found = self._reads.get(value)
        if found is None:
            if self.is_virtual(value):
                bases = self.bases(value)
                types = tuple(b.type for b in bases)
                found = tuple(
                    (bases[n], None if s is None else View(bases[n], s.offset, s.strides))
                    for n, s in chain_reads(types, chain_steps(bases, self.chain(value)))
                )
            else:
                found = ((value, self.view(value)),)
            self._reads[value] = found
        return found

    def view(self, value: Value) -> View | None:
        """``value`` as a strided view of its only base, if it is one."""
        if value not in self._views:
            self._views[value] = self._view(value)
        return self._views[value]

    def _view(self, value: Value) -> View | None:
        if not self.is_virtual(value):
            return View(value, 0, dense_strides(value.type.static_shape))
        bases = self.bases(value)
        if len(bases) != 1:
            return None
        strided = chain_view((bases[0].type,), chain_steps(bases, self.chain(value)))
        return None if strided is None else View(bases[0], strided.offset, strided.strides)


def is_view(op: Op) -> bool:
    """Whether ``op`` moves or makes elements without computing them from others."""
    definition = lookup(op.name)
    return (definition.is_view or not op.operands) and isinstance(definition.loop, ByIndex)


def passes_index(view: View, shape: Sequence[int]) -> bool:
    """Whether the element of a value of ``shape`` at an index is the base's element at the same
    flat index."""
    if view.offset or _size(shape) != _size(view.base.type.static_shape):
        return False
    pairs = zip(shape, view.strides, dense_strides(shape), strict=True)
    return all(extent == 1 or stride == wanted for extent, stride, wanted in pairs)


def passes_row(view: View, space: Space) -> bool:
    """Whether an element of a full value in ``space`` is its row's element of the base."""
    if view.offset:
        return False
    rows = space.rows_shape
    strides = dict(zip(space.row_axes, dense_strides(rows), strict=True))
    wanted = [strides.get(axis, 0) for axis in range(len(space.shape))]
    pairs = zip(space.shape, view.strides, wanted, strict=True)
    return all(extent == 1 or stride == expected for extent, stride, expected in pairs)


def _size(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
