"""Products that are consumed row by row are computed a few rows at a time: attention without its
score matrix.

From-stage and to-stage: tensor, before ``differentiate``. Looks for a contraction whose large
result S goes through row-wise ops (scaling, masks, softmax) into the left side of another
contraction, as in softmax(Q K^T) V. If nothing else reads what lies between, the rows are cut into
tiles:

    scan over tiles: checkpoint { S_tile = Q_tile K^T; ...; O_tile = P_tile V }

so that only one tile of S exists at a time, in the forward sweep and, because of the checkpoint, in
the reverse sweep, where it is computed again (Dao et al. 2022, with whole rows instead of running
maxima). Every row is computed by the same operations as before.

Where conditions on positions leave columns without weight (causal masks, windows, blocks, padding
of a known length), strips of rows read only the columns between the first and the last that may
matter: what is left out has score -infinity, weight 0, and adds exactly nothing (``ranges``).

Where a Target wants more rows at once than one trip of a loop over heads has, several heads, or
all, go together; how their rows are cut does not change.

Applies where S takes at least ``LEAST`` bytes; smaller ones live in the cache anyway. Invariants:
values are the same but for the order of sums: gradients of what all tiles share are summed tile by
tile; a column that is left out is not read, so that 0 times what is not finite there is nothing,
and not NaN. Non-goals: tiling along the contracted axis; programs whose row-wise part draws random
numbers (their place in the matrix keys the draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.registry import Contraction, Reduction, lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.passes.recompute.cutting import tiling_of
from gradc.passes.recompute.strips import Tiling, written
from gradc.passes.rewrite import with_control, with_ops
from gradc.passes.simplify.dce import dce

# How S is cut fixes the order in which gradients of what all tiles share are summed, so these are
# sizes for everyone and not the target's.
LEAST = 8 << 20
TILE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes from which on S is cut, and of a tile; rows that heads are to have together."""

    least: int
    tile: int
    together: int = 0


def tile(function: Function, target: Target = GENERIC) -> Function:
    """``function`` with large row-wise products cut into tiles; the same object if there is
    none.
    """
    # Dead readers of what lies between would hide that nothing needs it.
    live = dce(function)
    block = _block(live.block, _Sizes(LEAST, TILE, target.rows_together))
    if block is live.block:
        return function
    return with_ops(live, block.body, block.outputs)


def _block(block: Block, sizes: _Sizes) -> Block:
    ops = [with_control(op, lambda inner: _block(inner, sizes)) for op in block.body]
    tiled = _Search(ops, block.outputs, sizes).run()
    if all(a is b for a, b in zip(tiled, block.body, strict=False)):
        return block
    return Block(block.parameters, (*tiled, block.terminator))


# --- finding


class _Search:
    """One walk over the ops of a block: every contraction that can be the last of a tiling is,
    earlier ones first.

    What is known of a value is known when its op is passed, after all rewriting before it, so the
    walk is linear.
    """

    def __init__(self, ops: Sequence[Op], outputs: Sequence[Value], sizes: _Sizes) -> None:
        self.ops = ops
        self.sizes = sizes
        self.outputs = dict.fromkeys(outputs)
        self.made = {v: op for op in ops for v in op.results}
        self.readers: dict[Value, dict[Op, None]] = {}
        for op in ops:
            self._read(op)
        self.position = {op: (i, 0) for i, op in enumerate(ops)}
        # Values that come from a contraction through row-wise ops (masks and constants do not) ...
        self.depends: dict[Value, bool] = {}
        # ... of them, those with a small contraction on the way.
        self.is_small: dict[Value, bool] = {}
        # Values that are made from nothing, or from something smaller: cheaper made inside a tile
        # than handed in.
        self.spread: set[Value] = set()

    def run(self) -> list[Op]:
        """The ops with tilings in place of what they cut."""
        made_of: dict[Op, list[Op]] = {}
        gone: dict[Op, None] = {}
        for op in self.ops:
            found = self._ending(op)
            if found is not None:
                made_of[op] = self._replace(found)
                gone.update((o, None) for o in found.ops)
            for new in made_of.get(op, (op,)):
                self._pass(new)
        if not made_of:
            return list(self.ops)
        kept: list[Op] = []
        for op in self.ops:
            kept += made_of.get(op, () if op in gone else (op,))
        return kept

    def _read(self, op: Op) -> None:
        for value in op.operands:
            self.readers.setdefault(value, {})[op] = None

    def _replace(self, tiling: Tiling) -> list[Op]:
        """The ops of the loop that replaces what ``tiling`` cuts."""
        first, _ = self.position[tiling.ops[-1]]
        for op in tiling.ops:
            for value in op.operands:
                self.readers[value].pop(op, None)
        ops = _nested(tiling, self.sizes) if tiling.is_outer else written(tiling)
        for number, op in enumerate(ops):
            self.position[op] = (first, number)
            self.made.update(dict.fromkeys(op.results, op))
            self._read(op)
        return ops

    def _pass(self, op: Op) -> None:
        """Notes what is known of the results of ``op``."""
        depends = small = False
        if isinstance(lookup(op.name).loop, Contraction):
            depends, small = True, op.result.type.nbytes < self.sizes.least
        elif _is_rowwise(op):
            depends = any(self.depends.get(v, False) for v in op.operands)
            small = any(self.is_small.get(v, False) for v in op.operands)
        self.depends.update(dict.fromkeys(op.results, depends))
        self.is_small.update(dict.fromkeys(op.results, small))
        if _is_spread(op, self.spread):
            self.spread.update(op.results)

    def _ending(self, last: Op) -> Tiling | None:
        """The tiling that ``last`` ends, if it does."""
        if not isinstance(lookup(last.name).loop, Contraction):
            return None
        between = self._between(last)
        if between is None or not self._is_closed(between, last):
            return None
        between.sort(key=lambda op: self.position[op])
        sizes = self.sizes
        return tiling_of(tuple(between), self.made, self.spread, sizes.tile, sizes.together)

    def _between(self, last: Op) -> list[Op] | None:
        """The ops from a large contraction to the first operand of ``last``; None if there are
        others on the way.
        """
        if self.is_small.get(last.operands[0], False):
            return None
        found: dict[Op, None] = {}
        firsts: dict[Op, None] = {}
        stack = [last.operands[0]]
        while stack:
            op = self.made.get(stack.pop())
            if op is None or op in found or op in firsts:
                continue
            if isinstance(lookup(op.name).loop, Contraction):
                firsts[op] = None
            elif _is_rowwise(op):
                found[op] = None
                stack.extend(v for v in op.operands if self.depends.get(v, False))
            else:
                return None
        # Without a reduction over the row there is nothing quadratic about it (a feed-forward
        # layer).
        if len(firsts) != 1 or not any(isinstance(lookup(op.name).loop, Reduction) for op in found):
            return None
        return [*firsts, *found, last]

    def _is_closed(self, ops: Sequence[Op], last: Op) -> bool:
        """Whether nothing else reads what ``ops`` make (the last one aside)."""
        inside = set(ops)
        for op in ops:
            if op is last:
                continue
            if any(reader not in inside for reader in self.readers.get(op.result, ())):
                return False
            if op.result in self.outputs:
                return False
        return True


def _nested(tiling: Tiling, sizes: _Sizes) -> list[Op]:
    """A loop whose trips are cut along another axis, or computed again whole if they cannot be."""
    ops, inner = written(tiling), _Sizes(1, sizes.tile * tiling.times)
    cut = [replace(op, regions=tuple(_block(r, inner) for r in op.regions)) for op in ops]
    if all(a.regions == b.regions for a, b in zip(ops, cut, strict=True)):
        return written(replace(tiling, is_outer=False))
    return cut


def _is_rowwise(op: Op) -> bool:
    """Whether positions along other axes may be cut apart: elementwise, folded, or only moved."""
    definition = lookup(op.name)
    moves = definition.traits.moves in (Moves.REPEATS, Moves.PERMUTES)
    return definition.is_elementwise or isinstance(definition.loop, Reduction) or moves


def _is_spread(op: Op, spread: set[Value]) -> bool:
    """Whether ``op`` makes a source, repeats something smaller, or computes with such values."""
    definition = lookup(op.name)
    if definition.traits.moves is Moves.REPEATS:
        (x,) = op.operands
        return x in spread or x.type.nbytes < op.result.type.nbytes
    is_plain = definition.is_elementwise or definition.traits.moves is Moves.PERMUTES
    return definition.is_source or (is_plain and all(x in spread for x in op.operands))
