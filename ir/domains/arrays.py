"""Array domains: what the reference interpreter computes with.

``Arrays`` is the array algebra in which ops are evaluated: the structural verbs (reshape, slice,
contract, take, ...) and, through ``at(dtype)``, the scalar verbs of ``ir/tensor/algebra.py``
applied elementwise. A domain decides what a floating number is; integers and booleans are NumPy
arrays in every domain.

* ``NumpyArrays`` computes in machine numbers, in the program's element types or all in one (f64 as
  the yardstick of f32 programs). bf16 and f16 are float32 arrays rounded after every op.
* ``ObjectArrays`` holds Python objects and computes with any scalar algebra: SymPy expressions,
  fractions, balls.
* ``DualArrays`` (``ir/domains/dual.py``) holds a primal and a tangent over any other domain:
  forward mode that shares nothing with the derivative rules of the registry, and so can check them.

Non-goals: speed beyond what tests need.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from itertools import product as index_product
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.interpret import run_block
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import Block, DType
from gradc.ir.tensor.numpy_verbs import NUMPY_VERBS

Array: TypeAlias = NDArray[Any]
Pairs: TypeAlias = Sequence[tuple[int, int]]


class BoundAlgebra:
    """The scalar verbs over the arrays of a domain, with literals of one element type."""

    def __init__(self, arrays: Arrays, dtype: DType) -> None:
        self._arrays = arrays
        self._dtype = dtype

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        """A literal; it stretches to any shape."""
        return self._arrays.full(value, (), dtype or self._dtype)

    def cast(self, x: Any, dtype: DType) -> Any:
        return self._arrays.cast(x, dtype)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return partial(self._arrays.verb, verb)


class Arrays(ABC):
    """The array algebra. Arrays are values: no method changes its operands."""

    # In a domain that reaches the other ranks: the rows [ranks, ...] that come of an exchange, for
    # its kind (``ir.loop.kernel.ExchangeKind``), the number of ranks, and what this rank gives.
    exchange: Callable[[str, int, Any], Any] | None = None

    def at(self, dtype: DType) -> BoundAlgebra:
        """The scalar algebra whose literals have ``dtype``."""
        return BoundAlgebra(self, dtype)

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a region."""
        return run_block(self, block, operands)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Around a run: NumPy does not warn of what IEEE defines."""
        with np.errstate(all="ignore"):
            yield

    @abstractmethod
    def verb(self, name: str, *operands: Any) -> Any:
        """A scalar verb, elementwise; operands stretch as in NumPy."""

    @abstractmethod
    def settle(self, x: Any, dtype: DType) -> Any:
        """``x`` as it is stored in ``dtype``: rounded where the domain computes with more
        digits.
        """

    @abstractmethod
    def cast(self, x: Any, dtype: DType) -> Any:
        """The same numbers in another element type, as ``ir/tensor/algebra.py`` says."""

    @abstractmethod
    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        """A splat."""

    @abstractmethod
    def zeros_like(self, x: Any) -> Any:
        """Zeros of the shape and kind of ``x``."""

    @abstractmethod
    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        """The index along ``axis``."""

    @abstractmethod
    def integers(self, values: Sequence[int]) -> Any:
        """A vector of i64."""

    @abstractmethod
    def broadcast(self, x: Any, shape: Sequence[int], dims: Sequence[int]) -> Any: ...

    @abstractmethod
    def reshape(self, x: Any, shape: Sequence[int]) -> Any: ...

    @abstractmethod
    def transpose(self, x: Any, perm: Sequence[int]) -> Any: ...

    @abstractmethod
    def slice(
        self, x: Any, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Any: ...

    @abstractmethod
    def pad(
        self, x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int]
    ) -> Any: ...

    @abstractmethod
    def concat(self, xs: Sequence[Any], axis: int) -> Any: ...

    @abstractmethod
    def reverse(self, x: Any, axes: Sequence[int]) -> Any: ...

    @abstractmethod
    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        """The elements along ``axes`` combined by ``verb``: add, mul, max or min."""

    @abstractmethod
    def argmax(self, x: Any, axis: int) -> Any: ...

    @abstractmethod
    def argsort(self, x: Any, axis: int) -> Any:
        """The places (i32) in rising order along ``axis``; equals keep theirs, NaN comes last."""

    @abstractmethod
    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any: ...

    @abstractmethod
    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any: ...

    @abstractmethod
    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Any: ...

    @abstractmethod
    def scatter_add(self, ids: Any, updates: Any, axis: int, size: int) -> Any: ...

    def fourier(self, x: Any, axis: int, dtype: DType) -> Any:
        """The discrete Fourier transform of real parts ``x[0]`` and imaginary parts ``x[1]`` along
        ``axis``, as its definition has it.
        """
        n, rank = x.shape[axis], len(x.shape)
        turns = [j * k % n for j in range(n) for k in range(n)]
        positions = self.reshape(self.cast(self.integers(turns), dtype), (n, n))
        step = self.full(2 * math.pi / max(n, 1), (), dtype)
        angles = self.verb("mul", positions, step)
        cosine, sine = self.verb("cos", angles), self.verb("sin", angles)
        last = (*range(axis - 1), *range(axis, rank - 1), axis - 1)
        back = tuple(last.index(i) for i in range(rank - 1))

        def turned(part: int, table: Any) -> Any:
            found = self.contract(self.row(x, part), table, (), ((axis - 1, 0),), dtype)
            return self.transpose(found, back)

        re = self.verb("add", turned(0, cosine), turned(1, sine))
        im = self.verb("sub", turned(1, cosine), turned(0, sine))
        return self.stack([re, im], x.shape, dtype)

    @abstractmethod
    def row(self, x: Any, position: int) -> Any:
        """``x[position]``."""

    @abstractmethod
    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Any:
        """The rows as one array of ``shape``, which says what no rows are."""


# --- NumPy ----------------------------------------------------------------------------------------

_STORAGE: dict[DType, type[np.generic]] = {
    DType.F64: np.float64,
    DType.F32: np.float32,
    DType.BF16: np.float32,
    DType.F16: np.float32,
    DType.I64: np.int64,
    DType.I32: np.int32,
    DType.U32: np.uint32,
    DType.BOOL: np.bool_,
}


def _float_to_integer(x: Array, target: type[np.generic]) -> Array:
    limits = np.iinfo(np.dtype(target))
    # float(max) may round up; max + 1 is a power of two and exact.
    above, below = x >= float(limits.max + 1), x < float(limits.min)
    inside = np.where(above | below | np.isnan(x), 0, x)
    found = np.trunc(inside).astype(target)
    return np.where(above, limits.max, np.where(below, limits.min, found)).astype(target)


def _sum_dtype(x: Array) -> np.dtype[Any]:
    """What sums are taken in: NumPy's own order is a chain along all axes but the last."""
    return np.dtype(np.float64) if x.dtype == np.float32 else x.dtype


class NumpyArrays(Arrays):
    """Machine numbers. With ``floats``, every floating type is computed and kept in that one (f64
    or f32).
    """

    def __init__(self, floats: DType | None = None) -> None:
        self._floats = floats

    @staticmethod
    def dtype(dtype: DType) -> np.dtype[Any]:
        """The NumPy type in which elements of ``dtype`` are held."""
        return np.dtype(_STORAGE[dtype])

    def storage(self, dtype: DType) -> np.dtype[Any]:
        """The NumPy type in which this domain holds elements of ``dtype``."""
        if dtype.is_float and self._floats is not None:
            dtype = self._floats
        return self.dtype(dtype)

    def verb(self, name: str, *operands: Any) -> Any:
        return NUMPY_VERBS[name](*operands)

    def settle(self, x: Any, dtype: DType) -> Any:
        array = np.asarray(x)
        if self._floats is None and dtype is DType.F16:
            return array.astype(np.float16).astype(np.float32)
        if self._floats is None and dtype is DType.BF16:
            return round_to_bf16(array)
        return array

    def cast(self, x: Any, dtype: DType) -> Any:
        array, target = np.asarray(x), self.storage(dtype)
        if dtype is DType.BOOL:
            return array != 0
        if array.dtype.kind == "f" and not dtype.is_float:
            return _float_to_integer(array, _STORAGE[dtype])
        return array.astype(target)

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        return np.full(tuple(shape), value, self.storage(dtype))

    def zeros_like(self, x: Any) -> Any:
        return np.zeros(x.shape, x.dtype)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        line = np.arange(shape[axis]).astype(self.storage(dtype))
        column = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.broadcast_to(column, tuple(shape))

    def integers(self, values: Sequence[int]) -> Any:
        return np.asarray(values, np.int64)

    def broadcast(self, x: Any, shape: Sequence[int], dims: Sequence[int]) -> Any:
        x = np.asarray(x)
        sizes = dict(zip(dims, x.shape, strict=True))
        spaced = x.reshape([sizes.get(axis, 1) for axis in range(len(shape))])
        return np.broadcast_to(spaced, tuple(shape))

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return np.reshape(x, tuple(shape))

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        return np.transpose(x, tuple(perm))

    def slice(
        self, x: Any, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Any:
        return x[tuple(slice(*ends) for ends in zip(start, limit, stride, strict=True))]

    def pad(self, x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int]) -> Any:
        rows = list(zip(x.shape, low, high, interior, strict=True))
        shape = [a + n + max(n - 1, 0) * gap + z for n, a, z, gap in rows]
        found = self._zeros(shape, x)
        places = tuple(
            slice(a, a + max(n - 1, 0) * (g + 1) + min(n, 1), g + 1) for n, a, _, g in rows
        )
        found[places] = x
        return found

    def _zeros(self, shape: Sequence[int], like: Array) -> Array:
        return np.zeros(tuple(shape), like.dtype)

    def concat(self, xs: Sequence[Any], axis: int) -> Any:
        return np.concatenate(xs, axis)

    def reverse(self, x: Any, axes: Sequence[int]) -> Any:
        return np.flip(x, tuple(axes)) if axes else x

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        over = tuple(axes)
        if verb == "add":
            return np.sum(x, over, dtype=_sum_dtype(x)).astype(x.dtype)
        if verb == "mul":
            return np.prod(x, over, dtype=x.dtype)
        if x.dtype.kind == "f":
            ends: tuple[Any, Any] = (-math.inf, math.inf)
        else:
            ends = (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
        if verb == "max":
            return np.max(x, over, initial=ends[0])
        return np.min(x, over, initial=ends[1])

    def argmax(self, x: Any, axis: int) -> Any:
        return np.argmax(x, axis).astype(np.int32)

    def argsort(self, x: Any, axis: int) -> Any:
        return np.argsort(x, axis, kind="stable").astype(np.int32)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        ordered = np.flip(x, axis) if reverse else x
        found = np.cumsum(ordered, axis, dtype=_sum_dtype(x)).astype(x.dtype)
        return np.flip(found, axis) if reverse else found

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any:
        left, right, shape = matrix_form(a, b, batch, contract)
        return self._matmul(left, right).reshape(shape)

    def _matmul(self, a: Array, b: Array) -> Array:
        found: Array = np.matmul(a, b)
        return found

    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Any:
        size = table.shape[axis]
        inside = (ids >= 0) & (ids < size)
        shape = (*table.shape[:axis], *ids.shape, *table.shape[axis + 1 :])
        if size == 0:
            found = self._zeros(shape, table)
        else:
            found = np.take(table, np.where(inside, ids, 0), axis)
        if inside.all():
            return found
        aligned = inside.reshape((1,) * axis + ids.shape + (1,) * (table.ndim - axis - 1))
        return np.where(aligned, found, self.like(fill, table))

    def like(self, value: float, x: Array) -> Any:
        """A literal of the element type of ``x``."""
        return np.asarray(value, x.dtype)

    def scatter_add(self, ids: Any, updates: Any, axis: int, size: int) -> Any:
        end, dtype = axis + ids.ndim, updates.dtype
        updates = updates.astype(_sum_dtype(updates))
        found = self._zeros((*updates.shape[:axis], size, *updates.shape[end:]), updates)
        head: tuple[Any, ...] = (slice(None),) * axis
        for place in index_product(*(range(n) for n in ids.shape)):
            row = int(ids[place])
            if 0 <= row < size:
                found[(*head, row)] = self.verb(
                    "add", found[(*head, row)], updates[(*head, *place)]
                )
        return found.astype(dtype)

    def fourier(self, x: Any, axis: int, dtype: DType) -> Any:
        if type(self).verb is not NumpyArrays.verb:
            return super().fourier(x, axis, dtype)  # other numbers than the machine's
        if x.size == 0:
            return x
        found = np.fft.fft(x[0] + 1j * x[1].astype(np.float64), axis=axis - 1)
        return np.stack([found.real, found.imag]).astype(x.dtype)

    def row(self, x: Any, position: int) -> Any:
        return x[position]

    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Any:
        return np.stack(rows) if rows else np.zeros(tuple(shape), self.storage(dtype))


def matrix_form(
    a: Array, b: Array, batch: Pairs, contract: Pairs
) -> tuple[Array, Array, tuple[int, ...]]:
    """``a`` as (batch, rows, inner), ``b`` as (batch, inner, columns), and the shape of their
    product.
    """
    used_a, used_b = ([pair[side] for pair in (*batch, *contract)] for side in (0, 1))
    free_a = [axis for axis in range(a.ndim) if axis not in used_a]
    free_b = [axis for axis in range(b.ndim) if axis not in used_b]
    head = tuple(a.shape[i] for i, _ in batch)
    rows, columns = (tuple(x.shape[i] for i in free) for x, free in ((a, free_a), (b, free_b)))
    inner = math.prod(a.shape[i] for i, _ in contract)
    left = a.transpose([*(i for i, _ in batch), *free_a, *(i for i, _ in contract)])
    right = b.transpose([*(j for _, j in batch), *(j for _, j in contract), *free_b])
    count = math.prod(head)
    return (
        left.reshape(count, math.prod(rows), inner),
        right.reshape(count, inner, math.prod(columns)),
        (*head, *rows, *columns),
    )


# --- Python objects -------------------------------------------------------------------------------


class ObjectArrays(NumpyArrays):
    """Arrays of Python objects over a scalar algebra ``scalars`` (an ``Algebra`` of one object
    type).

    Floating arrays have NumPy's ``object`` element type. Comparisons that ``scalars`` answers with
    Python's ``bool`` become boolean arrays; any other answer (a symbolic condition) stays an
    object. ``scalars`` also has ``truncate(x, dtype)`` for casts to integers, which may refuse.
    """

    def __init__(self, scalars: Any) -> None:
        super().__init__()
        self.scalars = scalars

    def verb(self, name: str, *operands: Any) -> Any:
        operands = tuple(self._lifted(x) for x in operands)
        if all(x.dtype != object for x in operands):
            return super().verb(name, *operands)
        if name == "select" and operands[0].dtype != object:
            return np.where(*operands)
        function = np.frompyfunc(getattr(self.scalars, name), len(operands), 1)
        found = np.asarray(function(*operands), dtype=object)
        is_decided = found.size > 0 and all(isinstance(x, (bool, np.bool_)) for x in found.flat)
        return found.astype(np.bool_) if is_decided else found

    def _lifted(self, x: Any) -> Array:
        """``x`` as an array; an element taken out of an object array is a bare object (perhaps a
        Python int).
        """
        return np.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else self.objects([x], ())

    def settle(self, x: Any, dtype: DType) -> Any:
        return self._lifted(x)

    def cast(self, x: Any, dtype: DType) -> Any:
        array = self._lifted(x)
        if array.dtype == object and dtype.is_float:
            return array
        if array.dtype == object:
            if dtype is DType.BOOL:
                return self.verb("ne", array, self.full(0.0, (), DType.F64))
            flat = [self.scalars.truncate(x, dtype) for x in array.reshape(-1)]
            return np.asarray(flat, self.storage(dtype)).reshape(array.shape)
        if dtype.is_float:
            # A truth value would stay one.
            numbers = (float(n) if isinstance(n, bool) else n for n in array.reshape(-1).tolist())
            return self.objects([self.scalars.const(n) for n in numbers], array.shape)
        return super().cast(array, dtype)

    @staticmethod
    def objects(flat: Sequence[Any], shape: Sequence[int]) -> Array:
        """An object array of ``shape`` from its elements in row-major order."""
        found = np.empty(len(flat), dtype=object)
        found[:] = list(flat)
        return found.reshape(tuple(shape))

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        if not dtype.is_float:
            return super().full(value, shape, dtype)
        return np.full(tuple(shape), self.scalars.const(value), dtype=object)

    def zeros_like(self, x: Any) -> Any:
        return self._zeros(x.shape, x)

    def _zeros(self, shape: Sequence[int], like: Array) -> Array:
        if like.dtype != object:
            return super()._zeros(shape, like)
        return np.full(tuple(shape), self.scalars.const(0), dtype=object)

    def like(self, value: float, x: Array) -> Any:
        return self.scalars.const(value) if x.dtype == object else super().like(value, x)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        if not dtype.is_float:
            return super().iota(axis, shape, dtype)
        return self.cast(super().iota(axis, shape, DType.I64), dtype)

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if x.dtype != object:
            return super().reduce(verb, x, axes, dtype)
        if not axes:
            return x
        rows = list(flatten_axes(x, axes))
        if rows:
            return reduce(partial(self.verb, verb), rows)
        kept = [n for axis, n in enumerate(x.shape) if axis not in axes]
        return self.full(EMPTY[verb], kept, dtype)

    def argmax(self, x: Any, axis: int) -> Any:
        rows = np.moveaxis(x, axis, 0)
        best, where = rows[0], np.zeros(rows[0].shape, np.int32)
        for position in range(1, len(rows)):
            wins = self.verb("gt", rows[position], best)
            best = self.verb("select", wins, rows[position], best)
            where = np.where(wins.astype(np.bool_), np.int32(position), where)
        return where

    def argsort(self, x: Any, axis: int) -> Any:
        if x.dtype != object:
            return super().argsort(x, axis)
        line = np.moveaxis(x, axis, -1)
        mine, other = line[..., :, None], line[..., None, :]
        is_less, is_tied = (self.verb(v, other, mine).astype(np.bool_) for v in ("lt", "eq"))
        is_earlier = np.tri(line.shape[-1], k=-1, dtype=np.bool_)
        ranks = np.sum(is_less | (is_tied & is_earlier), -1)
        return np.moveaxis(np.argsort(ranks, -1), -1, axis).astype(np.int32)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        rows = list(np.moveaxis(x, axis, 0))
        for position in range(1, len(rows)):
            here, before = (-position - 1, -position) if reverse else (position, position - 1)
            rows[here] = self.verb("add", rows[here], rows[before])
        return np.moveaxis(np.stack(rows), 0, axis) if rows else x

    def _matmul(self, a: Array, b: Array) -> Array:
        if a.dtype != object and b.dtype != object:
            return super()._matmul(a, b)
        total = self._zeros((a.shape[0], a.shape[1], b.shape[2]), a)
        for i in range(a.shape[2]):
            total = self.verb("fma", a[:, :, i, None], b[:, None, i, :], total)
        return total

    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Any:
        return np.stack(rows) if rows else self.full(0, shape, dtype)


# What nothing is, combined by each verb.
EMPTY: Final = {"add": 0.0, "mul": 1.0, "max": -math.inf, "min": math.inf}


def flatten_axes(x: Array, axes: Sequence[int]) -> Iterator[Array]:
    """The slices of ``x`` at every multi-index along ``axes``, in row-major order of sorted
    axes.
    """
    over = sorted(axes)
    moved = np.moveaxis(x, over, range(len(over)))
    for place in index_product(*(range(n) for n in moved.shape[: len(over)])):
        yield moved[place]
