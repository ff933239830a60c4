"""Elements on demand: the scalar of any value of a region at any index, as loop IR.

A group of ops becomes loops by asking for the elements of its results; each op answers with its own
meaning or element map and asks for the elements of its operands. Nothing is materialised unless it
was given a place before (``bind_buffer``, ``bind_scalar``). A reduction without a place is folded
where it stands.

Invariant: an element is computed at most once per loop and index. Non-goal: deciding what gets a
place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.kernel import Affine, Buffer, Const, LoopKind, Scalar, row_major_offset
from gradc.ir.ops.reduction import reduced_axes
from gradc.ir.ops.registry import ByIndex, Pointwise, Reduction, lookup
from gradc.ir.tensor.core import Block, DType, Op, Value

# Folds over fewer elements than this are taken in order, so that vectors are free to run across
# them.
_SHORT_RUN = 16
Indices: TypeAlias = Sequence[Affine]
# Reads a value where it was kept; None where it was not kept at that index and must be computed.
ElementAt: TypeAlias = Callable[[Indices], Scalar | None]


class LoweringError(Exception):
    """An op has no loop form that fits its place; a defect of the compiler, not of the program."""


class Elements:
    """Computes elements of the values of ``block`` with ``builder``."""

    def __init__(self, builder: LoopBuilder, block: Block) -> None:
        self.builder = builder
        self.makers: dict[Value, Op] = {op.results[0]: op for op in block.body}
        self._buffers: dict[Value, Buffer] = {}
        self._scalars: dict[Value, tuple[object, Scalar]] = {}
        self._places: dict[Value, ElementAt] = {}

    def bind_buffer(self, value: Value, buffer: Buffer) -> None:
        """``value`` lies densely in ``buffer``."""
        self._buffers[value] = buffer

    def bind_scalar(self, value: Value, index: Indices, scalar: Scalar) -> None:
        """``value`` at ``index`` is ``scalar``; it will be asked for at no other index."""
        self._scalars[value] = (self.builder.index_key(index), scalar)

    def bind_place(self, value: Value, read: ElementAt) -> None:
        """``read(index)`` gives ``value`` at ``index`` from now on."""
        self._places[value] = read

    def unbind(self, value: Value) -> None:
        """``value`` is computed where it is needed from now on."""
        self._scalars.pop(value, None)
        self._places.pop(value, None)

    def is_bound(self, value: Value) -> bool:
        """Whether ``value`` is read rather than computed."""
        return value in self._buffers or value in self._scalars or value in self._places

    def at(self, value: Value, index: Indices) -> Scalar:
        """The element of ``value`` at ``index``. Raises LoweringError where it cannot be had."""
        key = self.builder.index_key(index)
        stack = [value]
        # Long elementwise chains are walked with a stack of our own; recursion is as deep as views
        # nest.
        while stack:
            top = stack[-1]
            if self._known(top, key) is not None:
                stack.pop()
                continue
            op = self._maker(top)
            pointwise = op is not None and isinstance(lookup(op.name).loop, Pointwise)
            missing = (
                [x for x in op.operands if self._known(x, key) is None] if op and pointwise else []
            )
            if missing and not self.is_bound(top):
                stack.extend(reversed(missing))
                continue
            self.builder.memo[self._memo_key(top, key)] = self._compute(top, index, key)
            stack.pop()
        found = self._known(value, key)
        assert found is not None
        return found

    def _memo_key(self, value: Value, key: tuple[object, ...]) -> tuple[object, ...]:
        return ("element", value, key, self.builder.guard)

    def _known(self, value: Value, key: tuple[object, ...]) -> Scalar | None:
        return self.builder.memo.get(self._memo_key(value, key))

    def _maker(self, value: Value) -> Op | None:
        return None if self.is_bound(value) else self.makers.get(value)

    def _compute(self, value: Value, index: Indices, key: tuple[object, ...]) -> Scalar:
        if value in self._scalars:
            expected, scalar = self._scalars[value]
            if expected != key:
                raise LoweringError(f"{value.type} is wanted at an index it was not computed for")
            return scalar
        if value in self._places:
            found = self._places[value](index)
            if found is not None:
                return found
        if value in self._buffers:
            offset = row_major_offset(index, value.type.static_shape)
            return self.builder.load(self._buffers[value], offset)
        op = self.makers.get(value)
        if op is None:
            raise LoweringError(f"{value.type} {value.hint} has no place and no maker")
        return self._apply(op, index)

    def _apply(self, op: Op, index: Indices) -> Scalar:
        algebra = IndexAlgebra(self.builder, op.result.type.dtype)
        form = lookup(op.name).loop
        if isinstance(form, Pointwise):
            return self._pointwise(op, form, [self.at(x, index) for x in op.operands])
        if isinstance(form, ByIndex):
            return form.element(algebra, op, index, lambda n, at: self.at(op.operands[n], at))
        if isinstance(form, Reduction):
            return self._fold(op, form, index)
        raise LoweringError(f"`{op.name}` cannot be computed element by element")

    def _pointwise(self, op: Op, form: Pointwise, operands: Sequence[Scalar]) -> Scalar:
        """The meaning of an elementwise op; for bf16 and f16 in f32, rounded once at the end."""
        dtype = op.result.type.dtype
        wide = IndexAlgebra(self.builder, dtype.accumulator)
        values = [wide.cast(x, x.dtype.accumulator) for x in operands]
        result: Scalar = form.meaning(wide, *values, **op.attributes)
        return wide.cast(result, dtype)

    def _fold(self, op: Op, form: Reduction, index: Indices) -> Scalar:
        """The reduction at ``index`` by loops of its own: the innermost a vector loop where that is
        possible."""
        shape = op.operands[0].type.static_shape
        axes = reduced_axes(op)
        vector = folds_along_memory(op) and self.builder.vector_is_free
        groups = adjacent_groups(axes)
        at: list[Affine | None] = [None] * len(shape)
        kept = iter(index)
        for axis in range(len(shape)):
            if axis not in axes:
                at[axis] = next(kept)
        value = self._fold_groups(op, form, groups, at, vector)
        return IndexAlgebra(self.builder, op.result.type.dtype).cast(value, op.result.type.dtype)

    def _fold_groups(
        self,
        op: Op,
        form: Reduction,
        groups: Sequence[Sequence[int]],
        at: list[Affine | None],
        vector: bool,
    ) -> Scalar:
        if not groups:
            position = [a if a is not None else Affine() for a in at]
            return self.fold_input(op, position)
        shape = op.operands[0].type.static_shape
        extents = [shape[axis] for axis in groups[0]]
        total = 1
        for extent in extents:
            total *= extent
        kind: LoopKind = "vector" if vector and len(groups) == 1 else "serial"
        with self.builder.loop(total, kind) as loop:
            inner = list(at)
            for axis, part in zip(groups[0], self.builder.unflatten(loop.at, extents), strict=True):
                inner[axis] = part
            value = self._fold_groups(op, form, groups[1:], inner, vector)
            result = loop.fold(form.combine, value)
        return result

    def fold_input(self, op: Op, index: Indices) -> Scalar:
        """The operand element of a reduction in the type it is accumulated in."""
        value = self.at(op.operands[0], index)
        algebra = IndexAlgebra(self.builder, value.dtype)
        return algebra.cast(value, value.dtype.accumulator)


def folds_along_memory(op: Op) -> bool:
    """Whether a reduction ends in a run of memory long enough to be folded as a vector: a matter of
    its shape alone."""
    shape = op.operands[0].type.static_shape
    groups = adjacent_groups(reduced_axes(op))
    if not groups or groups[-1][-1] != len(shape) - 1:
        return False
    run = 1
    for axis in groups[-1]:
        run *= shape[axis]
    return run >= _SHORT_RUN


def adjacent_groups(axes: Sequence[int]) -> list[list[int]]:
    """``axes`` cut into runs of adjacent ones."""
    groups: list[list[int]] = []
    for axis in axes:
        if groups and groups[-1][-1] == axis - 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def identity(combine: str, dtype: DType) -> Const:
    """The neutral element of ``combine``."""
    if combine == "add":
        value: float | int = 0
    elif combine == "mul":
        value = 1
    elif dtype.is_float:
        value = float("-inf") if combine == "max" else float("inf")
    else:
        value = _integer_limit(combine, dtype)
    if dtype is DType.BOOL:
        return Const(bool(value), dtype)
    return Const(float(value) if dtype.is_float else int(value), dtype)


def _integer_limit(combine: str, dtype: DType) -> int:
    if dtype is DType.BOOL:
        return 0 if combine == "max" else 1
    bits = 8 * dtype.itemsize
    if dtype is DType.U32:
        return 0 if combine == "max" else (1 << bits) - 1
    return -(1 << (bits - 1)) if combine == "max" else (1 << (bits - 1)) - 1
