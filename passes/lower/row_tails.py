"""What follows the main loops of a row kernel: tails are finished and post values computed, in the
same kernel or in a second one. From a block to loop IR.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from gradc.ir.loop.builder import IndexAlgebra
from gradc.ir.loop.kernel import Affine, Buffer, Scalar, row_major_offset
from gradc.ir.tensor.core import Block, DType, Value
from gradc.passes.lower.cost import size_of
from gradc.passes.lower.element import ElementAt, Indices
from gradc.passes.lower.piece import Draft
from gradc.passes.lower.row_schedule import RowSchedule
from gradc.passes.lower.row_writer import combine_of
from gradc.passes.lower.space import ReductionKind


def bound_tails(draft: Draft, schedule: RowSchedule) -> dict[Value, Buffer]:
    """The partial results of the main kernel, as a second one reads them."""
    return {
        value: draft.temp(number, schedule.temps[number], "read")
        for value, number in schedule.partial.items()
    }


def write_tails(
    draft: Draft, block: Block, schedule: RowSchedule, sources: Mapping[Value, Buffer | Scalar]
) -> None:
    """Binds the tails from ``sources`` (partial results in a buffer, or the folded value itself),
    from the first chunk to the last, and stores what follows from them.
    """
    for value in schedule.place.tails:
        _bind(draft, schedule, value, sources[value])
    groups: dict[tuple[int, ...], list[tuple[int, Value]]] = {}
    for number, value in enumerate(block.outputs):
        if schedule.place.post[value]:
            groups.setdefault(value.type.static_shape, []).append((number, value))
    for shape, outputs in groups.items():
        with ExitStack() as stack:
            at = Affine()
            if size_of(shape) != 1:
                at = stack.enter_context(draft.builder.loop(size_of(shape), "vector")).at
            index = draft.builder.unflatten(at, shape)
            for number, value in outputs:
                draft.builder.store(draft.result(number), at, draft.elements.at(value, index))


def _bind(draft: Draft, schedule: RowSchedule, value: Value, source: Buffer | Scalar) -> None:
    elements, shape = draft.elements, value.type.static_shape
    algebra = IndexAlgebra(draft.builder, value.type.dtype)
    if not isinstance(source, Buffer):
        elements.bind_scalar(value, [], algebra.cast(source, value.type.dtype))
    elif schedule.place.kinds[value] is ReductionKind.ROW_TAIL:
        total = _sum_rows(draft, schedule, source, combine_of(elements.makers[value]))
        elements.bind_scalar(value, [], algebra.cast(total, value.type.dtype))
    elif shape == ():
        total_of = _over_chunks(draft, schedule, value, source)([])
        assert total_of is not None, "a tail has a total"
        elements.bind_scalar(value, [], total_of)
    else:
        elements.bind_place(value, _over_chunks(draft, schedule, value, source))


def _over_chunks(draft: Draft, schedule: RowSchedule, value: Value, buffer: Buffer) -> ElementAt:
    """Elements of a tail: its partial results, chunk by chunk."""
    builder, shape, dtype = draft.builder, value.type.static_shape, value.type.dtype
    algebra, combine = IndexAlgebra(builder, dtype), combine_of(draft.elements.makers[value])

    def read(index: Indices) -> Scalar:
        at = row_major_offset(index, shape)
        if schedule.chunks == 1:
            return algebra.cast(builder.load(buffer, at), dtype)
        with builder.loop(schedule.chunks, "serial") as chunk:
            element: Scalar = builder.load(buffer, chunk.at * size_of(shape) + at)
            if schedule.is_flat and combine == "add" and buffer.dtype is DType.F32:
                # The last few additions are those whose roundings are left in the result.
                element = algebra.cast(element, DType.F64)
            total = chunk.fold(combine, element)
        return algebra.cast(total, dtype)

    return read


def _sum_rows(draft: Draft, schedule: RowSchedule, buffer: Buffer, combine: str) -> Scalar:
    """The row values in ``buffer`` folded as a reduction of their own would fold them."""
    shape = schedule.place.space.rows_shape
    last = shape[-1]
    outer = size_of(shape[:-1])

    def fold(first: Affine) -> Scalar:
        if last == 1 and outer > 1:
            return draft.builder.load(buffer, first)
        with draft.builder.loop(last, "vector") as loop:
            total = loop.fold(combine, draft.builder.load(buffer, first + loop.at))
        return total

    if len(shape) == 1 or outer == 1:
        return fold(Affine())
    with draft.builder.loop(outer, "serial") as row:
        total = row.fold(combine, fold(row.at * last))
    return total
