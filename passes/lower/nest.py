"""Ops that write their own nest, and contractions that no matrix product can read. From a block to
loop IR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradc.ir.loop.builder import IndexAlgebra
from gradc.ir.loop.kernel import Affine, Kernel, Scalar, row_major_offset
from gradc.ir.loop.nest import NestContext
from gradc.ir.ops.products import Products
from gradc.ir.ops.registry import Nest, SumOfProducts, has_epilogue, own_nest
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, Op
from gradc.passes.lower.cost import flops, size_of
from gradc.passes.lower.element import Elements, LoweringError
from gradc.passes.lower.gemm import contraction_axes, contraction_of, store_results
from gradc.passes.lower.patches import lower_patches
from gradc.passes.lower.piece import Draft, Lowered, Piece, block_spans
from gradc.passes.lower.planes import write_plane_chains, write_plane_sums
from gradc.passes.lower.products import Writer, write_chains, write_rows
from gradc.passes.lower.schedule import Cuts, schedule_products


def nest_of(block: Block) -> Op | None:
    """The op of ``block`` with a nest of its own, if there is one."""
    found = [op for op in block.body if own_nest(op) is not None]
    return found[0] if found else None


def lower_nest(block: Block, name: str, target: Target) -> Lowered:
    """Lowers a block that ends in one op with a nest of its own; what precedes it is read element
    by element."""
    op = nest_of(block)
    form = own_nest(op) if op is not None else None
    if op is None or form is None:
        raise LoweringError("not a group around one nest")
    if isinstance(form, SumOfProducts) and form.of(op).order == "product":
        return lower_patches(block, op, name, form.of(op), target)
    if op.results != block.outputs and not has_epilogue(op):
        raise LoweringError("not a group around one nest")
    draft = Draft(block)
    begun = dict(form.begins(op)) if isinstance(form, Nest) else {}
    results = [
        draft.result(n, "update" if n in begun else "write") for n in range(len(block.outputs))
    ]
    context = NestContext(
        draft.builder,
        op,
        lambda n, at: draft.elements.at(op.operands[n], at),
        results,
        Cuts(target),
    )
    if isinstance(form, SumOfProducts):
        _write_products(draft, context, op, form.of(op), target)
    else:
        form.build(context, op)
    piece = draft.finish(name, flops(block), block_spans(block))
    sources = {n: block.parameters.index(op.operands[m]) for n, m in begun.items()}
    return Lowered((piece, *_ends(piece)), begins=tuple(sources.items()))


def _write_products(
    draft: Draft, context: NestContext, op: Op, spec: Products, target: Target
) -> None:
    dtype = op.result.type.dtype
    schedule = schedule_products(spec, dtype.accumulator.itemsize, target)

    def finish(index: Sequence[Affine], value: Scalar) -> None:
        """Stores what follows the op at an element of its result."""
        draft.elements.bind_scalar(op.result, list(index), value)
        store_results(draft, draft.block, draft.elements, index)

    is_alone = op.results == draft.block.outputs
    writer = Writer(context, spec, schedule, dtype, context.write if is_alone else finish)
    if spec.order == "planes":
        write_plane_sums(writer)
    elif spec.order == "rows":
        write_rows(writer)
    elif schedule.copies:
        write_plane_chains(writer)
    else:
        write_chains(writer)


def _ends(piece: Piece) -> Iterator[Piece]:
    """A kernel for every exchange that ``piece`` begins, in which it ends."""
    kernel = piece.kernel
    for begun in kernel.flights:
        buffer = replace(begun.buffer, access="update")
        end = replace(begun, buffer=buffer, ends=True)
        ref = piece.refs[kernel.bound.index(begun.buffer)]
        name = f"{kernel.name}_await"
        yield Piece(Kernel(name, (buffer,), (end,), spans=kernel.spans), (ref,))


def lower_contraction_loops(block: Block, name: str) -> Lowered:
    """Lowers a contraction as plain loops: rows in parallel, columns as vectors, sums in order."""
    op = contraction_of(block)
    if op is None:
        raise LoweringError("not a group around one contraction")
    draft = Draft(block)
    builder, shape = draft.builder, op.result.type.static_shape
    columns = shape[-1] if shape else 1
    rows = size_of(shape) // columns if columns else 0
    with builder.loop(rows, "grid") as row, builder.loop(columns, "vector") as column:
        head = builder.unflatten(row.at, shape[:-1])
        index = head + ([column.at] if shape else [])
        value = _sum(draft.elements, op, index)
        draft.elements.bind_scalar(op.result, index, value)
        for number, output in enumerate(block.outputs):
            offset = row_major_offset(index, output.type.static_shape)
            builder.store(draft.result(number), offset, draft.elements.at(output, index))
    return Lowered((draft.finish(name, flops(block), block_spans(block)),))


def _sum(elements: Elements, op: Op, index: list[Affine]) -> Scalar:
    builder = elements.builder
    axes = contraction_axes(op)
    dtype = op.result.type.dtype
    algebra = IndexAlgebra(builder, dtype.accumulator)
    shape = op.operands[0].type.static_shape
    extents = [shape[a] for a, _ in axes.contract]
    left: dict[int, Affine] = {}
    right: dict[int, Affine] = {}
    rest = iter(index)
    for a, b in axes.batch:
        left[a] = right[b] = next(rest)
    left.update((a, next(rest)) for a in axes.left)
    right.update((b, next(rest)) for b in axes.right)
    with builder.loop(size_of(tuple(extents)), "serial") as loop:
        for (a, b), at in zip(axes.contract, builder.unflatten(loop.at, extents), strict=True):
            left[a] = right[b] = at
        x = elements.at(op.operands[0], [left[a] for a in range(len(left))])
        y = elements.at(op.operands[1], [right[b] for b in range(len(right))])
        product = algebra.mul(algebra.cast(x, algebra.dtype), algebra.cast(y, algebra.dtype))
        total = loop.fold("add", product)
    return algebra.cast(total, dtype)
