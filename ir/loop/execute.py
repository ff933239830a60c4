"""The reference executor of loop IR over NumPy buffers: the meaning of ``ir/loop/kernel.py`` to the
last bit of a fold.

``grid``, ``block`` and ``vector`` loops become array axes, ``serial`` loops run one iteration after
the other. Every address is checked. The leaves of a ``Gemm`` are taken in float64 and rounded once,
so they are not bitwise those of a backend; everything else is, but for the last bits of
transcendentals and fused multiply-adds.

Non-goals: speed beyond what tests need.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.loop.kernel import (
    Affine,
    Bound,
    Buffer,
    Const,
    Exchange,
    Factor,
    Fold,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    LoopKind,
    Patch,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.order import COLUMNS_AT_ONCE, K_LEAF, K_NODE, ROWS_AT_ONCE, node_spans
from gradc.ir.loop.verbs import (
    Array,
    apply_verb,
    combine,
    computed_dtype,
    from_memory,
    stored_dtype,
    to_memory,
)
from gradc.ir.tensor.core import DType


class ExecutionError(Exception):
    """A kernel does what no kernel may: an address outside its buffer, a variable without a
    value."""


class Scalars:
    """What a kernel computes with: machine numbers here; proofs put another domain in its place."""

    def computed(self, dtype: DType) -> np.dtype[Any]:
        """The NumPy type that holds values of ``dtype``."""
        return computed_dtype(dtype)

    def stored(self, dtype: DType) -> np.dtype[Any]:
        """The NumPy type that holds them in memory."""
        return stored_dtype(dtype)

    def load(self, stored: Array, dtype: DType) -> Array:
        """Values of elements in memory."""
        return from_memory(stored, dtype)

    def store(self, values: Array, dtype: DType) -> Array:
        """Elements in memory of values."""
        return to_memory(values, dtype)

    def literal(self, value: Any, dtype: DType) -> Array:
        """A constant of the kernel."""
        return np.asarray(value, self.computed(dtype))

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        """A verb of the algebra, rounded to ``dtype``."""
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        """One step of a fold."""
        return combine(kind, a, b)

    def neutral(self, kind: str, dtype: DType) -> Array:
        """The identity of a fold."""
        return np.asarray(neutral(kind, dtype), self.computed(dtype))

    def exchange(self, statement: Exchange, parts: Array) -> None:
        """Exchanges ``parts``, of [ranks, n] elements in memory, with the other ranks, in place."""
        if statement.ranks != 1:
            raise ExecutionError(f"{statement.kind} needs {statement.ranks} ranks; there is one")

    def product(self, left: Array, right: Array, dtype: DType) -> Array:
        """Batched matrix products."""
        with np.errstate(all="ignore"):
            found: Array = np.matmul(left.astype(np.float64), right.astype(np.float64))
        return found.astype(self.computed(dtype))


MACHINE = Scalars()


def execute_kernel(kernel: Kernel, buffers: Sequence[Array], scalars: Scalars = MACHINE) -> None:
    """Runs ``kernel`` on flat arrays that match its bound buffers in order (bf16 as uint16).

    Raises:
        ExecutionError: an address lies outside its buffer, or the arrays do not match.
    """
    named = kernel.bound
    if len(named) != len(buffers):
        raise ExecutionError(f"{kernel.name} takes {len(named)} buffers, got {len(buffers)}")
    for buffer, array in zip(named, buffers, strict=True):
        if array.dtype != scalars.stored(buffer.dtype) or array.shape != (buffer.size,):
            raise ExecutionError(f"{kernel.name}: {buffer.name} does not fit {array.shape}")
    with np.errstate(all="ignore"):
        _Run(kernel, dict(zip(named, buffers, strict=True)), scalars).block(kernel.body)


class _Run:
    """One launch: values of variables, the open axes, which of their points are active."""

    def __init__(self, kernel: Kernel, buffers: Mapping[Buffer, Array], scalars: Scalars) -> None:
        self.kernel = kernel
        self.scalars = scalars
        self.buffers = dict(buffers)
        self.values: dict[Var, Array] = {}
        self.axes: tuple[int, ...] = ()
        self.active: Array = np.ones((), bool)
        self._fresh(())

    def _fresh(self, outer: tuple[int, ...], kind: LoopKind = "grid") -> None:
        """Private memory for each point of ``outer``, full of NaN or of a large number; that of
        blocks outlives their block loops.
        """
        for buffer in self.kernel.private:
            if kind == "block" and buffer.memory == "block":
                continue
            poison = self.scalars.literal(np.nan if buffer.dtype.is_float else 1, buffer.dtype)
            filled = np.full((*outer, buffer.size), poison)
            self.buffers[buffer] = self.scalars.store(filled, buffer.dtype)

    # ---- values

    def _spread(self, x: Array) -> Array:
        """``x`` with one dimension per open axis."""
        more = len(self.axes) - x.ndim
        return x.reshape(x.shape + (1,) * more) if more else x

    def value(self, x: Scalar) -> Array:
        if isinstance(x, Const):
            return self._spread(self.scalars.literal(x.value, x.dtype))
        if x not in self.values:
            raise ExecutionError(f"{self.kernel.name}: {x.name} has no value")
        return self._spread(self.values[x])

    def address(self, affine: Affine) -> Array:
        total = self._spread(np.asarray(affine.constant, np.int64))
        for var, coefficient in affine.terms:
            total = total + self.value(var) * coefficient
        return total

    def _mask(self, guard: Var | None) -> Array:
        mask = self._spread(self.active)
        return mask if guard is None else mask & self.value(guard)

    def _located(self, buffer: Buffer, offset: Affine, mask: Array) -> tuple[Array, Array]:
        """Flat positions in the buffer's array, checked where ``mask`` holds, 0 elsewhere."""
        at = self.address(offset)
        outside = mask & ((at < 0) | (at >= buffer.size))
        if outside.any():
            first = int(np.broadcast_to(at, outside.shape)[outside][0])
            raise ExecutionError(f"{self.kernel.name}: {buffer.name}[{first}] of {buffer.size}")
        at = np.where(mask, at, 0)
        owners = self.buffers[buffer].shape[:-1]
        if buffer.is_private and owners:
            own = np.arange(math.prod(owners)) * buffer.size
            at = at + own.reshape(*owners, *(1,) * (at.ndim - len(owners)))
        return at, mask

    # ---- statements

    def block(self, body: Sequence[Stmt]) -> None:
        for statement in body:
            if isinstance(statement, Let):
                operands = [self.value(x) for x in statement.operands]
                self.values[statement.var] = self.scalars.verb(
                    statement.verb, operands, statement.var.dtype
                )
            elif isinstance(statement, Index):
                self.values[statement.var] = self.address(statement.value)
            elif isinstance(statement, Load):
                self._load(statement)
            elif isinstance(statement, Store):
                self._store(statement)
            elif isinstance(statement, For):
                self._loop(statement)
            elif isinstance(statement, Gemm):
                self._gemm(statement)
            else:
                parts = self.buffers[statement.buffer].reshape(statement.ranks, -1)
                self.scalars.exchange(statement, parts)

    def _load(self, load: Load) -> None:
        buffer = load.buffer
        at, mask = self._located(buffer, load.offset, self._mask(load.guard))
        flat = self.buffers[buffer].reshape(-1)
        dtype = buffer.dtype
        if flat.size == 0:
            found = np.zeros(at.shape, self.scalars.computed(dtype))
        else:
            found = self.scalars.load(flat[at], dtype)
        zero = np.zeros((), self.scalars.computed(dtype))
        self.values[load.var] = np.where(mask, found, zero)

    def _store(self, store: Store) -> None:
        buffer = store.buffer
        shape = self.axes
        at, mask = self._located(buffer, store.offset, self._mask(store.guard))
        mask = _filled(mask, shape)
        value, where = _filled(self.value(store.value), shape)[mask], _filled(at, shape)[mask]
        flat = self.buffers[buffer].reshape(-1)
        if store.combine:
            value = self.scalars.combine(
                store.combine, self.scalars.load(flat[where], buffer.dtype), value
            )
        flat[where] = self.scalars.store(value, buffer.dtype)

    # ---- loops

    def _loop(self, loop: For) -> None:
        if loop.kind == "serial" or loop.extent == 0:
            self._serial(loop)
            return
        outer_axes, outer_active = self.axes, self.active
        limit = self._limit(loop)
        self.axes = (*outer_axes, loop.extent)
        positions = np.arange(loop.extent, dtype=np.int64)
        self.values[loop.index] = positions.reshape((1,) * len(outer_axes) + (-1,))
        self.active = self._spread(outer_active)
        if limit is not None:
            self.active = self.active & (self.values[loop.index] < self._spread(limit))
        if loop.is_parallel:
            self._fresh(self.axes, loop.kind)
        self.block(loop.body)
        folded = [
            _fold_lanes(self.scalars, f, self.value(f.value), self._spread(self.active), self.axes)
            for f in loop.folds
        ]
        self.axes, self.active = outer_axes, outer_active
        for fold, result in zip(loop.folds, folded, strict=True):
            self.values[fold.result] = result

    def _limit(self, loop: For) -> Array | None:
        return None if loop.limit is None else self.address(loop.limit)

    def _serial(self, loop: For) -> None:
        outer_active = self.active
        limit = self._limit(loop)
        totals = [_Total(self.scalars, fold, loop.extent, len(self.axes)) for fold in loop.folds]
        for trip in range(loop.extent):
            if limit is not None:
                self.active = self._spread(outer_active) & (trip < limit)
                if not self.active.any():
                    break
            self.values[loop.index] = np.full((1,) * len(self.axes), trip, np.int64)
            self.block(loop.body)
            active = self._spread(self.active)
            for total in totals:
                total.add(trip, self.value(total.fold.value), active)
        self.active = outer_active
        for total in totals:
            self.values[total.fold.result] = total.result()

    # ---- matrix products

    def _gemm(self, gemm: Gemm) -> None:
        left = self._matrix(gemm.left, gemm.batch, gemm.m, gemm.k)
        right = self._matrix(gemm.right, gemm.batch, gemm.k, gemm.n)
        around = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left = np.broadcast_to(left, (*around, *left.shape[-2:]))
        right = np.broadcast_to(right, (*around, *right.shape[-2:]))
        product = self._product(gemm, left, right)
        outer_axes, outer_active = self.axes, self.active
        self.axes = (*outer_axes, *gemm.batch, gemm.m, gemm.n)
        rank = len(self.axes)
        for position, var in enumerate((*gemm.batch_index, gemm.i, gemm.j)):
            shape = [1] * rank
            shape[len(outer_axes) + position] = -1
            extent = self.axes[len(outer_axes) + position]
            self.values[var] = np.arange(extent, dtype=np.int64).reshape(shape)
        self.active = self._spread(outer_active)
        more = rank - product.ndim
        self.values[gemm.acc] = product.reshape((1,) * more + product.shape)
        self.block(gemm.epilogue)
        self.axes, self.active = outer_axes, outer_active

    def _product(self, gemm: Gemm, left: Array, right: Array) -> Array:
        """The sums of all elements, of the terms that count."""
        within, dtype = gemm.within, gemm.acc.dtype
        if within is None or 0 in (gemm.m, gemm.n):
            return self._sum_of_products(left, right, dtype)
        nothing = self.scalars.literal(0, dtype)
        found = []
        for j in range(0, gemm.n, COLUMNS_AT_ONCE):
            columns = right[..., j : j + COLUMNS_AT_ONCE]
            some = []
            for i in range(0, gemm.m, ROWS_AT_ONCE):
                rows = left[..., i : i + ROWS_AT_ONCE, :]
                last = i + ROWS_AT_ONCE - 1, j + COLUMNS_AT_ONCE - 1
                kept = self._kept(gemm, within.terms, (i, last[0]), (j, last[1]))
                anywhere: Array = np.any(kept, axis=tuple(range(kept.ndim - 1)))
                some.append(
                    self._sum_of_products(
                        np.where(kept, rows, nothing),
                        np.where(anywhere[:, None], columns, nothing),
                        dtype,
                    )
                )
            found.append(np.concatenate(some, axis=-2))
        whole = np.concatenate(found, axis=-1)
        at: tuple[Any, Any] = np.arange(gemm.m)[:, None], np.arange(gemm.n)
        is_seen = self._kept(gemm, within.results, (at[0], at[0]), (at[1], at[1]))
        return np.where(is_seen, whole, nothing)

    def _kept(
        self, gemm: Gemm, bounds: Sequence[Bound], i: tuple[Any, Any], j: tuple[Any, Any]
    ) -> Array:
        """[batch..., rows, columns or steps]: where ``bounds`` hold for some row between the ends
        ``i`` and some column between the ends ``j``.
        """
        assert gemm.within is not None, "bounds belong to what counts"
        ends: dict[Var, tuple[Any, Any]] = {gemm.i: i, gemm.j: j}
        rank = len(gemm.batch) + 2
        for axis, (var, extent) in enumerate(zip(gemm.batch_index, gemm.batch, strict=True)):
            index = np.arange(extent).reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))
            ends[var] = index, index
        ends[gemm.within.step] = (np.arange(gemm.k),) * 2
        origin = 0
        if gemm.within.origin is not None:
            buffer, place = gemm.within.origin
            origin = int(self.buffers[buffer].reshape(-1)[place])
        kept = np.ones((1,) * rank, bool)
        for bound in bounds:
            most = bound.value.constant + bound.data * origin
            for var, factor in bound.value.terms:
                most = most + factor * ends[var][factor > 0]
            kept = kept & (most >= 0)
        return kept

    def _sum_of_products(self, left: Array, right: Array, dtype: DType) -> Array:
        """Leaves of ``K_LEAF`` steps of k, then nodes of ``K_NODE`` children until one is left."""
        found = [
            self.scalars.product(left[..., k : k + K_LEAF], right[..., k : k + K_LEAF, :], dtype)
            for k in range(0, max(left.shape[-1], 1), K_LEAF)
        ]
        while len(found) > 1:
            groups = [found[n : n + K_NODE] for n in range(0, len(found), K_NODE)]
            add = functools.partial(self.scalars.combine, "add")
            found = [functools.reduce(add, group) for group in groups]
        return found[0]

    def _matrix(self, factor: Factor, batch: Sequence[int], rows: int, columns: int) -> Array:
        shape = (*batch, rows, columns)
        at = np.full(shape, factor.offset, np.int64)
        inside: Array = np.ones((), bool)
        if factor.patch is not None:
            places, inside = _patch(factor.patch)
            at += places
        strides = (*factor.batch_strides, factor.row, factor.column)
        for axis, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
            steps = np.arange(extent, dtype=np.int64) * stride
            at += steps.reshape((1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1))
        if factor.at.terms:
            moved = self.address(factor.at)
            at = moved.reshape((*moved.shape, *(1,) * len(shape))) + at
        if at.size and (at.min() < 0 or at.max() >= factor.buffer.size):
            raise ExecutionError(f"{self.kernel.name}: a factor reads outside {factor.buffer.name}")
        dtype = factor.buffer.dtype
        owners = self.buffers[factor.buffer].shape[:-1]
        if owners:  # every iteration has its own
            own = np.arange(math.prod(owners)) * factor.buffer.size
            at = at + own.reshape(*owners, *(1,) * len(shape))
        found = self.scalars.load(self.buffers[factor.buffer].reshape(-1)[at], dtype)
        return found if inside.all() else np.where(inside, found, self.scalars.literal(0, dtype))


def _patch(patch: Patch) -> tuple[Array, Array]:
    """Where the elements of a patch lie (0 where they lie nowhere), and which lie somewhere."""
    rows = np.indices((patch.channels, *patch.taps)).reshape(1 + len(patch.taps), -1, 1)
    columns = np.indices((patch.images, *patch.places)).reshape(1 + len(patch.places), 1, -1)
    at = rows[0] * patch.channel_stride + columns[0] * patch.image_stride
    inside = np.ones(at.shape, bool)
    within = np.zeros(at.shape, np.int64)
    for axis, size in enumerate(patch.size):
        place = columns[1 + axis] * patch.stride[axis] + rows[1 + axis] * patch.step[axis]
        place = place - patch.before[axis]
        inside &= (place >= 0) & (place < size)
        within = within * size + place
    at = np.where(inside, at + within, 0)
    return (at.T, inside.T) if patch.is_turned else (at, inside)


def _identity(scalars: Scalars, fold: Fold) -> Array:
    return scalars.neutral(fold.combine, fold.result.dtype)


def neutral(kind: str, dtype: DType) -> Any:
    """The identity of a fold in machine numbers."""
    if kind == "add":
        return 0
    if kind == "mul":
        return 1
    if dtype is DType.BOOL:
        return kind == "min"
    if dtype.is_float:
        return -np.inf if kind == "max" else np.inf
    limits = np.iinfo(computed_dtype(dtype))
    return limits.min if kind == "max" else limits.max


@dataclass
class _Level:
    """The sum so far of one level of a fold, and in which lanes there is any."""

    value: Array
    started: Array


class _Total:
    """A fold of a serial loop. The levels of a sum are its open leaf, its open nodes, and the
    whole.
    """

    def __init__(self, scalars: Scalars, fold: Fold, extent: int, rank: int) -> None:
        self.fold = fold
        self._scalars = scalars
        self._spans = node_spans(extent)[::-1] if fold.is_tree else ()
        self._empty = np.full((1,) * rank, _identity(scalars, fold))
        self._levels = [self._nothing() for _ in range(len(self._spans) + 1)]

    def _nothing(self) -> _Level:
        return _Level(self._empty, np.zeros(self._empty.shape, bool))

    def add(self, trip: int, value: Array, active: Array) -> None:
        """One step; lanes that are not active keep what they had."""
        self._into(0, value, active)
        for level, span in enumerate(self._spans):
            if (trip + 1) % span == 0:
                self._close(level)

    def result(self) -> Array:
        """The whole, what is open closed."""
        for level in range(len(self._spans)):
            self._close(level)
        return self._levels[-1].value

    def _close(self, level: int) -> None:
        done = self._levels[level]
        self._into(level + 1, done.value, done.started)
        self._levels[level] = self._nothing()

    def _into(self, level: int, value: Array, active: Array) -> None:
        have = self._levels[level]
        combined = self._scalars.combine(self.fold.combine, have.value, value)
        total = np.where(active, np.where(have.started, combined, value), have.value)
        dtype = self._scalars.computed(self.fold.result.dtype)
        self._levels[level] = _Level(total.astype(dtype, copy=False), have.started | active)


def _fold_lanes(
    scalars: Scalars, fold: Fold, value: Array, active: Array, axes: tuple[int, ...]
) -> Array:
    """A vector fold over the last axis in the order that ``ir/loop/order.py`` fixes."""
    neutral = _identity(scalars, fold)
    head = np.broadcast_shapes(value.shape[:-1], active.shape[:-1])
    full = np.broadcast_to(np.where(active, value, neutral), (*head, axes[-1]))
    order = fold.lane_order
    rows = _rows(full, order.accumulators, neutral)
    while order.children and rows.shape[-2] > order.children:
        leaves = _rows(np.moveaxis(rows, -2, -1), order.children, neutral)
        rows = np.moveaxis(_chain(scalars, fold, leaves, neutral), -1, -2)
    totals = _chain(scalars, fold, np.moveaxis(rows, -1, -2), neutral)
    left = np.arange(order.accumulators)
    for step in order.steps:
        left = left[left & step == 0]
        joined = scalars.combine(fold.combine, totals[..., left], totals[..., left | step])
        totals = totals.copy()
        totals[..., left] = joined
    return totals[..., 0].astype(scalars.computed(fold.result.dtype), copy=False)


def _filled(x: Array, shape: tuple[int, ...]) -> Array:
    return x if x.shape == shape else np.broadcast_to(x, shape)


def _rows(x: Array, width: int, neutral: Array) -> Array:
    """The last axis cut into rows of ``width``, the last filled up."""
    count = -(-x.shape[-1] // width)
    padded = np.full((*x.shape[:-1], count * width), neutral)
    padded[..., : x.shape[-1]] = x
    return padded.reshape(*x.shape[:-1], count, width)


def _chain(scalars: Scalars, fold: Fold, x: Array, neutral: Array) -> Array:
    """The last axis folded from the left onto the identity."""
    total = np.full(x.shape[:-1], neutral)
    for n in range(x.shape[-1]):
        total = scalars.combine(fold.combine, total, x[..., n])
    return total
