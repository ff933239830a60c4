"""Contractions with what follows them, as matrix products with an epilogue. From a block to loop
IR.

Axes of the operands that lie in proportion in memory are taken together; free axes of the left
operand that do not, become batch axes of the product. Operands may be views (transposes, slices,
broadcasts, reshapes) of the group's parameters: they are folded into strides. Everything after the
contraction is its epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.kernel import (
    Affine,
    Bound,
    Factor,
    Gemm,
    Load,
    Stmt,
    Var,
    Within,
    row_major_offset,
)
from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.needs import NAMES, get_needs
from gradc.ir.ops.registry import Contraction, lookup
from gradc.ir.tensor.core import Attr, Block, DType, Op, TensorType, Value
from gradc.passes.lower.cost import flops, size_of
from gradc.passes.lower.element import Elements, LoweringError
from gradc.passes.lower.piece import Draft, Lowered, block_spans, statements


@dataclass(frozen=True, slots=True)
class Strided:
    """A view of a parameter of a block: element (i...) lies at ``offset + sum(i * strides)``."""

    parameter: int
    offset: int
    strides: tuple[int, ...]


def strided_reads(block: Block, value: Value) -> list[tuple[int, Strided | None]]:
    """Every load of an element of ``value``: the parameter it reads, and its strides if it has
    them."""
    draft, body, variables = _element(block, value)
    found: list[tuple[int, Strided | None]] = []
    for statement in statements(body):
        if isinstance(statement, Load):
            number = draft.operands.index(statement.buffer)
            found.append((number, _strided(number, statement, variables)))
    return found


ChainStep: TypeAlias = tuple[str, tuple[int, ...], tuple[tuple[str, Attr], ...], TensorType]


def chain_steps(parameters: Sequence[Value], ops: Sequence[Op]) -> tuple[ChainStep, ...]:
    """What ``ops``, each with one result, do to ``parameters``: equal for chains that do the
    same.
    """
    numbers = {value: number for number, value in enumerate(parameters)}
    steps = []
    for op in ops:
        operands = tuple([numbers[x] for x in op.operands])
        steps.append((op.name, operands, tuple(op.attributes.items()), op.result.type))
        numbers[op.result] = len(numbers)
    return tuple(steps)


def _chain(parameters: Sequence[TensorType], steps: Sequence[ChainStep]) -> tuple[Block, Value]:
    """A block that carries out ``steps``, and what the last of them makes."""
    values = [Value(type_) for type_ in parameters]
    ops = []
    for name, operands, attributes, type_ in steps:
        result = Value(type_)
        ops.append(Op(name, tuple(values[n] for n in operands), (result,), dict(attributes)))
        values.append(result)
    end = Op("yield", (values[-1],), ())
    return Block(tuple(values[: len(parameters)]), (*ops, end)), values[-1]


@lru_cache(maxsize=4096)
def chain_reads(
    parameters: tuple[TensorType, ...], steps: tuple[ChainStep, ...]
) -> tuple[tuple[int, Strided | None], ...]:
    """``strided_reads`` of what the last of ``steps`` makes. Layers repeat, so it is remembered."""
    return tuple(strided_reads(*_chain(parameters, steps)))


@lru_cache(maxsize=4096)
def chain_view(parameters: tuple[TensorType, ...], steps: tuple[ChainStep, ...]) -> Strided | None:
    """``strided_view`` of what the last of ``steps`` makes. Layers repeat, so it is remembered."""
    return strided_view(*_chain(parameters, steps))


def strided_view(block: Block, value: Value) -> Strided | None:
    """``value`` as a strided view of a parameter of ``block``, or None if it is not one."""
    draft, body, variables = _element(block, value)
    if len(body) != 1 or not isinstance(body[0], Load):
        return None
    return _strided(draft.operands.index(body[0].buffer), body[0], variables)


def _element(block: Block, value: Value) -> tuple[Draft, tuple[Stmt, ...], list[Var]]:
    """The statements that compute one element of ``value`` at free index variables."""
    draft = Draft(block)
    variables = [draft.builder.var(DType.I64, extent) for extent in value.type.static_shape]
    try:
        draft.elements.at(value, [Affine.of(v) for v in variables])
    except LoweringError:
        return draft, (), variables
    return draft, draft.builder.body(), variables


def _strided(number: int, load: Load, variables: Sequence[Var]) -> Strided | None:
    if load.guard is not None or any(var not in variables for var, _ in load.offset.terms):
        return None
    strides = tuple(load.offset.coefficient(var) for var in variables)
    return Strided(number, load.offset.constant, strides)


@dataclass(frozen=True, slots=True)
class Order:
    """The elements of ``base`` in another order: those of a dense array of ``shape`` with these
    strides in ``base``."""

    base: Value
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def stored_order(block: Block, value: Value) -> Order | None:
    """How ``value`` rearranges the computed (or given) value that it is a view of.

    None if it is no view, only a reshape, or does not have every element of the other exactly once.
    """
    makers = {result: op for op in block.body for result in op.results}
    dense = value
    while dense in makers and makers[dense].name == "reshape":
        dense = makers[dense].operands[0]
    chain: list[Op] = []
    base = dense
    while base in makers and lookup(makers[base].name).is_view:
        op = makers[base]
        if len(op.operands) != 1:
            return None
        chain.append(op)
        base = op.operands[0]
    if not chain:
        return None
    inner = Block((base,), (*reversed(chain), Op("yield", (dense,), ())))
    view = strided_view(inner, dense)
    if view is None or view.offset:
        return None
    shape = dense.type.static_shape
    expected = 1
    for axis in _by_stride(shape, view.strides):
        if view.strides[axis] != expected:
            return None
        expected *= shape[axis]
    is_whole = expected == size_of(base.type.static_shape)
    return Order(base, shape, view.strides) if is_whole else None


def _by_stride(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The axes of more than one element, the fastest first."""
    wide = [axis for axis, extent in enumerate(shape) if extent != 1]
    return sorted(wide, key=lambda axis: strides[axis])


def _stored_offset(builder: LoopBuilder, index: Sequence[Affine], order: Order) -> Affine:
    """Where the element of the base at ``index`` lies in its rearrangement."""
    slow_first = _by_stride(order.shape, order.strides)[::-1]
    flat = row_major_offset(index, order.base.type.static_shape)
    parts = builder.unflatten(flat, [order.shape[axis] for axis in slow_first])
    at = [Affine()] * len(order.shape)
    for axis, part in zip(slow_first, parts, strict=True):
        at[axis] = part
    return row_major_offset(at, order.shape)


def contraction_of(block: Block) -> Op | None:
    """The contraction in ``block``, if there is exactly one."""
    found = [op for op in block.body if isinstance(lookup(op.name).loop, Contraction)]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _Axes:
    """The axes of both operands by role, as (axis of left, axis of right) or one axis."""

    batch: tuple[tuple[int, int], ...]
    contract: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]


def contraction_axes(op: Op) -> _Axes:
    """The roles of the axes of a ``contract`` op."""
    batch, contract = (get_pairs(op.attributes, name) for name in ("batch", "contract"))
    used_left = {a for a, _ in (*batch, *contract)}
    used_right = {b for _, b in (*batch, *contract)}
    left = tuple(a for a in range(op.operands[0].type.rank) if a not in used_left)
    right = tuple(b for b in range(op.operands[1].type.rank) if b not in used_right)
    return _Axes(batch, contract, left, right)


def _merges(extents: Sequence[int], strides: Sequence[int]) -> int:
    """How many trailing axes are one axis in memory. An axis of one element lies anywhere."""
    expected: int | None = None
    count = 0
    for extent, stride in reversed(list(zip(extents, strides, strict=True))):
        if extent != 1:
            if expected is not None and stride != expected:
                break
            expected = stride * extent
        count += 1
    return count


def gemm_operands(block: Block, op: Op) -> tuple[Strided, Strided] | None:
    """The operands of contraction ``op`` as views that a matrix product can read, or None."""
    left, right = strided_view(block, op.operands[0]), strided_view(block, op.operands[1])
    if left is None or right is None:
        return None
    axes = contraction_axes(op)
    shape = op.operands[0].type.static_shape
    extents = [shape[a] for a, _ in axes.contract]
    ways = (
        [left.strides[a] for a, _ in axes.contract],
        [right.strides[b] for _, b in axes.contract],
    )
    if any(_merges(extents, strides) != len(extents) for strides in ways):
        return None
    extents = [op.operands[1].type.static_shape[b] for b in axes.right]
    if _merges(extents, [right.strides[b] for b in axes.right]) != len(extents):
        return None
    return left, right


def lower_gemm(block: Block, name: str) -> Lowered:
    """Lowers a group around one contraction. Raises LoweringError if its operands are not views of
    parameters."""
    op = contraction_of(block)
    views = gemm_operands(block, op) if op is not None else None
    if op is None or views is None:
        raise LoweringError("a contraction whose operands are not strided views")
    draft = Draft(block)
    statement = _product(draft, block, op, views)
    draft.builder.gemm(statement)
    return Lowered((draft.finish(name, flops(block), block_spans(block)),))


def _stride(extents: Sequence[int], strides: Sequence[int]) -> int:
    """The stride of merged axes: that of the last one with more than one element."""
    for extent, stride in reversed(list(zip(extents, strides, strict=True))):
        if extent != 1:
            return stride
    return strides[-1] if strides else 0


def _product(draft: Draft, block: Block, op: Op, views: tuple[Strided, Strided]) -> Gemm:
    left, right = views
    axes = contraction_axes(op)
    left_shape = op.operands[0].type.static_shape
    right_shape = op.operands[1].type.static_shape
    free = [left_shape[a] for a in axes.left]
    merged = _merges(free, [left.strides[a] for a in axes.left])
    outer, inner = axes.left[: len(free) - merged], axes.left[len(free) - merged :]
    batch = [left_shape[a] for a, _ in axes.batch] + [left_shape[a] for a in outer]
    left_batch = [left.strides[a] for a, _ in axes.batch] + [left.strides[a] for a in outer]
    right_batch = [right.strides[b] for _, b in axes.batch] + [0] * len(outer)
    depth = [left_shape[a] for a, _ in axes.contract]
    rows, columns = [left_shape[a] for a in inner], [right_shape[b] for b in axes.right]
    left_factor = Factor(
        draft.operands[left.parameter],
        tuple(left_batch),
        _stride(rows, [left.strides[a] for a in inner]),
        _stride(depth, [left.strides[a] for a, _ in axes.contract]),
        left.offset,
    )
    right_factor = Factor(
        draft.operands[right.parameter],
        tuple(right_batch),
        _stride(depth, [right.strides[b] for _, b in axes.contract]),
        _stride(columns, [right.strides[b] for b in axes.right]),
        right.offset,
    )
    # The epilogue is built by itself: its indices are free in it.
    tail = draft.aside()
    builder = tail.builder
    batch_index = tuple(builder.var(DType.I64, extent) for extent in batch)
    i, j, step = (builder.var(DType.I64, size_of(tuple(x))) for x in (rows, columns, depth))
    own = dict(zip((*(a for a, _ in axes.batch), *outer), batch_index, strict=True))
    own |= _alone(op, 0, inner, i) | _alone(op, 0, [a for a, _ in axes.contract], step)
    within = _within(draft, block, op, (own, _alone(op, 1, axes.right, j)), step)
    dtype = op.result.type.dtype
    acc = builder.var(dtype.accumulator)
    index = [Affine.of(v) for v in batch_index]
    index += builder.unflatten(Affine.of(i), rows) + builder.unflatten(Affine.of(j), columns)
    tail.bind_scalar(op.result, index, IndexAlgebra(builder, dtype).cast(acc, dtype))
    store_results(draft, block, tail, index)
    return Gemm(
        tuple(batch),
        batch_index,
        size_of(tuple(rows)),
        size_of(tuple(columns)),
        size_of(tuple(depth)),
        left_factor,
        right_factor,
        i,
        j,
        acc,
        builder.body(),
        within,
    )


def _alone(op: Op, side: int, axes: Sequence[int], var: Var) -> dict[int, Var]:
    """``var`` as the index of the only one of ``axes`` of an operand that has more than one
    position.
    """
    shape = op.operands[side].type.static_shape
    wide = [axis for axis in axes if shape[axis] > 1]
    return {wide[0]: var} if len(wide) == 1 else {}


def _within(
    draft: Draft, block: Block, op: Op, places: Sequence[Mapping[int, Var]], step: Var
) -> Within | None:
    """What of a product counts, by the indices that axes of its operands have (``places``); None if
    all does.
    """
    found: dict[str, list[Bound]] = {}
    for name in NAMES:
        found[name] = []
        for need in get_needs(op.attributes, name):
            known = [(places[side].get(axis), n) for (side, axis), n in need.factors]
            terms = tuple((var, n) for var, n in known if var is not None)
            follows = Affine(0, terms).coefficient(step)
            is_plain = len(terms) == len(known) and abs(follows) == (name == "terms")
            if is_plain:
                found[name].append(Bound(Affine(need.constant, terms), need.data))
    bounds = [bound for each in found.values() for bound in each]
    origin = None
    if any(bound.data for bound in bounds):
        view = strided_view(block, op.operands[2])
        if view is None:
            return None
        origin = draft.operands[view.parameter], view.offset
    if not bounds:
        return None
    return Within(step, tuple(found["terms"]), tuple(found["results"]), origin)


def store_results(draft: Draft, block: Block, tail: Elements, index: Sequence[Affine]) -> None:
    """Stores every output of ``block`` at ``index`` of the result of its product."""
    for number, value in enumerate(block.outputs):
        order = stored_order(block, value)
        if order is None:
            element = tail.at(value, index)
            offset = row_major_offset(index, value.type.static_shape)
        else:
            element = tail.at(order.base, index)
            offset = _stored_offset(tail.builder, index, order)
        tail.builder.store(draft.result(number), offset, element)
