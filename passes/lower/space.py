"""The iteration space of a group of elementwise ops, views and reductions, and the place of every
value in it.

A space is rows x columns: a shape cut once. Values of the group are

* full: one element per row and column (shape of the space);
* row: one per row; such are the results of reductions over all columns, which split the work into
  stages;
* tail: results of reductions over the rows (of full values, per column or whole, or of row values).
  They are summed in leaves and nodes of rows (``ir.loop.order``) and finished afterwards, so
  nothing in the main loops can use them;
* post: computed from tails.

What kind a reduction is depends on its shape and axes alone, so its order of summation does not
depend on what it is fused with. Everything else in a group is computed where it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gradc.ir.loop.order import LEAF
from gradc.ir.ops.reduction import reduced_axes
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.lower.cost import size_of
from gradc.passes.lower.element import folds_along_memory

# Reductions of at least this many elements are summed in parts that threads can share.
CHUNKED_ELEMENTS = 32_768
# Where there are few rows their leaves are shorter, so that there are as many as this.
_LEAVES = 16
# A large sum over one axis adds up the sums of pieces of this length.
FLAT_PIECE = 4096


class ReductionKind(Enum):
    """How a reduction relates to the space."""

    ROW = "row"  # over all columns of a full value
    COLUMN_TAIL = "column tail"  # over all rows of a full value
    FULL_TAIL = "full tail"  # over everything of a full value
    ROW_TAIL = "row tail"  # over everything of a row value
    MIXED = "mixed"  # anything else: folded where it stands


@dataclass(frozen=True, slots=True)
class Space:
    """``shape`` with some axes as columns, the others as rows. Columns are the last axes, or
    several runs of axes of which one is the last (as in sums over all but the channels of an
    image)."""

    shape: tuple[int, ...]
    column_axes: tuple[int, ...]

    @property
    def row_axes(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a not in self.column_axes)

    @property
    def is_trailing(self) -> bool:
        """Whether the columns are the last axes."""
        rank = len(self.shape)
        return self.column_axes == tuple(range(rank - len(self.column_axes), rank))

    @property
    def rows_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.row_axes)

    @property
    def columns_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.column_axes)

    @property
    def rows(self) -> int:
        return size_of(self.rows_shape)

    @property
    def columns(self) -> int:
        return size_of(self.columns_shape)


def last_axes(rank: int, count: int) -> tuple[int, ...]:
    """The last ``count`` of ``rank`` axes."""
    return tuple(range(rank - count, rank))


def is_reduction(op: Op) -> bool:
    """Whether ``op`` folds over axes."""
    return isinstance(lookup(op.name).loop, Reduction)


def natural_space(op: Op) -> Space | None:
    """The space in which a reduction is a row or a tail reduction; None for a mixed one."""
    shape = op.operands[0].type.static_shape
    axes = reduced_axes(op)
    rank = len(shape)
    if not axes:
        return None
    if axes == tuple(range(rank)):
        return Space(shape, last_axes(rank, 1))
    if axes == last_axes(rank, len(axes)) or folds_along_memory(op):
        return Space(shape, axes)
    if axes == tuple(range(len(axes))):
        return Space(shape, last_axes(rank, rank - len(axes)))
    return None


def kind_in(op: Op, space: Space) -> ReductionKind:
    """What reduction ``op`` is in ``space``."""
    shape = op.operands[0].type.static_shape
    axes = reduced_axes(op)
    rank = len(shape)
    if shape == space.shape and axes:
        if axes == tuple(range(rank)):
            if rank == 1 and size_of(shape) < CHUNKED_ELEMENTS:
                return ReductionKind.ROW
            single = space.column_axes == (rank - 1,)
            return ReductionKind.FULL_TAIL if single else ReductionKind.MIXED
        if axes == space.column_axes:
            return ReductionKind.ROW
        if axes == space.row_axes and space.is_trailing:
            return ReductionKind.COLUMN_TAIL
        return ReductionKind.MIXED
    is_whole = bool(axes) and axes == tuple(range(rank))
    if shape == space.rows_shape and is_whole and size_of(shape) < CHUNKED_ELEMENTS:
        return ReductionKind.ROW_TAIL
    return ReductionKind.MIXED


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the values of a group stand: reductions by kind, levels (number of stages before), post
    values."""

    space: Space
    kinds: Mapping[Value, ReductionKind]
    levels: Mapping[Value, int]
    post: Mapping[Value, bool]

    @property
    def tails(self) -> tuple[Value, ...]:
        """The tail reductions in order."""
        return tuple(
            v for v, k in self.kinds.items() if k not in (ReductionKind.ROW, ReductionKind.MIXED)
        )

    def of_kind(self, kind: ReductionKind) -> tuple[Value, ...]:
        """The reductions of one kind in order."""
        return tuple(v for v, k in self.kinds.items() if k is kind)


def layout(block: Block, space: Space) -> Layout:
    """The place of every value of ``block`` in ``space``."""
    kinds: dict[Value, ReductionKind] = {}
    levels: dict[Value, int] = dict.fromkeys(block.parameters, 0)
    post: dict[Value, bool] = dict.fromkeys(block.parameters, False)
    for op in block.body:
        level = max((levels[x] for x in op.operands), default=0)
        is_post = any(post[x] for x in op.operands)
        for value in op.results:
            if is_reduction(op):
                kind = ReductionKind.MIXED if is_post else kind_in(op, space)
                kinds[value] = kind
                is_post = is_post or kind in (
                    ReductionKind.COLUMN_TAIL,
                    ReductionKind.FULL_TAIL,
                    ReductionKind.ROW_TAIL,
                )
                level += kind is ReductionKind.ROW
            levels[value] = level
            post[value] = is_post
    return Layout(space, kinds, levels, post)


def group_space(block: Block) -> Space | None:
    """The space that a group is computed in: that of its reductions, of row ones first; None if it
    has none."""
    first: Space | None = None
    for op in block.body:
        if not is_reduction(op):
            continue
        space = natural_space(op)
        if space is None:
            continue
        if kind_in(op, space) is ReductionKind.ROW:
            return space
        if first is None or size_of(space.shape) > size_of(first.shape):
            first = space
    return first


def is_row_shape(shape: Sequence[int], space: Space) -> bool:
    """Whether a value of ``shape`` has one element per row, up to axes of one element."""
    wide = [extent for extent in shape if extent != 1]
    return wide == [extent for extent in space.rows_shape if extent != 1]


def leaf_rows(space: Space) -> int:
    """How many rows a leaf of the sums over the rows of ``space`` has: a function of its shape
    alone.
    """
    if space.rows * space.columns < CHUNKED_ELEMENTS:
        return LEAF
    return max(1, min(LEAF, -(-space.rows // _LEAVES)))


def chunk_rows(space: Space, is_parallel: bool, nodes: int) -> int:
    """How many rows are summed by one iteration: a leaf, or a node of leaves where those are many.

    The bits are the same for both.
    """
    leaf = leaf_rows(space)
    node = leaf * LEAF
    many = space.rows >= nodes * node
    return node if leaf == LEAF and (many or not is_parallel) else leaf


def cone(block: Block, roots: Sequence[Value], stop: Mapping[Value, object]) -> list[Op]:
    """The ops that compute ``roots``, not looking beyond values in ``stop``, in program order."""
    wanted = dict.fromkeys(roots)
    found: list[Op] = []
    for op in reversed(block.body):
        if any(v in wanted and v not in stop for v in op.results):
            found.append(op)
            wanted.update(dict.fromkeys(op.operands))
    return found[::-1]
