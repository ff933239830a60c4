"""Groups of elementwise ops, views and reductions as row kernels. From a block to loop IR.

The main kernel walks chunks of rows (in parallel where it pays), the rows of a chunk, and in each
row the stages: one loop over the columns per level of row reductions, in which everything that is
known by then is computed, folded or stored. What later stages take from a stage is kept in a row of
its own if it is costly, else recomputed. A chunk is a leaf of the sums over the rows or a node of
leaves. Tails are summed per chunk and finished in a small second kernel (or at once, where no
threads share the work): a sum over the chunks, which are leaves or nodes of one tree.

All of that is decided first (``row_schedule.py``), then written (``row_writer.py``,
``row_tails.py``); this is where the two meet, and where the space is chosen.
"""

from __future__ import annotations

from contextlib import ExitStack

from gradc.ir.loop.kernel import Affine, For, Index, Let, Load, Store, Var
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block
from gradc.passes.lower.cost import flops, size_of
from gradc.passes.lower.element import folds_along_memory
from gradc.passes.lower.joins import joined_results, walked_shape
from gradc.passes.lower.piece import Draft, Lowered, block_spans, statements
from gradc.passes.lower.row_schedule import schedule_rows
from gradc.passes.lower.row_tails import bound_tails, write_tails
from gradc.passes.lower.row_writer import RowWriter, store_element
from gradc.passes.lower.space import Space, group_space, is_reduction, last_axes, layout

# Rows of elementwise groups are made at least this long by merging axes.
_SHORT_ROW = 8


def lower_rows(block: Block, name: str, target: Target, space: Space | None = None) -> Lowered:
    """Lowers a group, in ``space`` if given. Raises LoweringError if its values do not fit it."""
    space = space or group_space(block) or elementwise_space(block)
    schedule = schedule_rows(block, layout(block, space), target)
    writer = RowWriter(block, schedule)
    folded, spans = writer.write(), block_spans(block)
    if schedule.is_split:
        draft = Draft(block)
        main = writer.draft.finish(name, flops(block), spans)
        write_tails(draft, block, schedule, bound_tails(draft, schedule))
        return Lowered((main, draft.finish(f"{name}_combine", 0, spans)), schedule.temps)
    writer.forget()
    write_tails(writer.draft, block, schedule, {**writer.buffers, **folded})
    return Lowered((writer.draft.finish(name, flops(block), spans),), schedule.temps)


def elementwise_space(block: Block) -> Space:
    """The space of a group without row and tail reductions: as many columns as memory allows to be
    walked as one loop."""
    shape = walked_shape(block)
    for op in block.body:
        # The fold gets the vector loop where it runs along memory.
        if is_reduction(op) and folds_along_memory(op):
            return Space(shape, ())
    merged = _mergeable(block, shape)
    # Rows shorter than a vector cost more than finding each element's place by division.
    while merged < len(shape) and size_of(shape[len(shape) - merged :]) < _SHORT_ROW:
        merged += 1
    return Space(shape, last_axes(len(shape), merged))


def _mergeable(block: Block, shape: tuple[int, ...]) -> int:
    """How many trailing axes every access of ``block`` treats as one."""
    if len(shape) <= 1:
        return len(shape)
    draft = Draft(block)
    with ExitStack() as stack:
        loops = [stack.enter_context(draft.builder.loop(n, "serial")) for n in shape]
        index = [loop.at for loop in loops]
        joined = joined_results(block, shape)
        for number, value in enumerate(block.outputs):
            store_element(draft, draft.result(number), value, joined.get(value), index)
    affine: list[Affine] = []
    for statement in statements(draft.builder.body()):
        if isinstance(statement, (Load, Store)):
            affine.append(statement.offset)
        elif isinstance(statement, Index):
            affine.append(statement.value)
        elif isinstance(statement, For) and statement.limit is not None:
            affine.append(statement.limit)
        elif isinstance(statement, Let):
            # An index used as a number outside an address.
            affine += [Affine.of(x) for x in statement.operands if isinstance(x, Var)]
    merged = 1
    for axis in range(len(shape) - 2, -1, -1):
        outer, inner = loops[axis].index, loops[axis + 1].index
        factor = shape[axis + 1]
        if any(a.coefficient(outer) != a.coefficient(inner) * factor for a in affine):
            break
        merged += 1
    return merged
