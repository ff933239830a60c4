"""Kernels of linear algebra for single matrices: Cholesky factors, Gauss's elimination, triangular
systems.

They stand for regions of ``ir/ops/linalg.py`` (``ir/ops/native.py``). Matrices of a batch are
computed in parallel; within one, rows lie side by side in scratch and the inner loops run along
them. Sums over earlier rows are folds inside a vector loop, so each element has an accumulator in a
register and bits depend on sizes alone.

Sources: Golub and Van Loan, Matrix Computations, 4th edition: 3.1 (triangular systems), 3.4
(partial pivoting), 4.2 (Cholesky).

Non-goals: blocking for matrices that do not fit in the caches (some hundred rows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Buffer, Scalar, Var
from gradc.ir.ops.native import kernel
from gradc.ir.tensor.core import DType, Op

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext


class Table:
    """A matrix in scratch, row by row."""

    def __init__(self, nest: NestContext, rows: int, columns: int, dtype: DType) -> None:
        self.nest, self.rows, self.columns = nest, rows, columns
        # A row more: places that loops without trips name must exist.
        self.buffer: Buffer = nest.scratch((rows + 1) * columns + 2, dtype)
        self.k = nest.algebra(dtype)

    def at(self, row: Affine, column: Affine) -> Affine:
        return row * self.columns + column

    def get(self, row: Affine, column: Affine) -> Var:
        return self.nest.load(self.buffer, self.at(row, column))

    def put(self, row: Affine, column: Affine, value: Scalar) -> None:
        self.nest.store(self.buffer, self.at(row, column), value)

    def fill(self, op: Op, operand: int, outer: Sequence[Affine], first: int = 0) -> None:
        """Copies a matrix of an operand to the columns from ``first`` on."""
        rows, columns = op.operands[operand].type.static_shape[-2:]
        with self.nest.loop(rows, "serial") as i, self.nest.loop(columns, "vector") as j:
            value = self.nest.read(operand, [*outer, i.at, j.at])
            self.put(i.at, j.at + first, self.k.cast(value, self.k.dtype))


def matrices(op: Op) -> int:
    """How many matrices the first operand holds."""
    return math.prod(op.operands[0].type.static_shape[:-2])


def _cubes(op: Op) -> int:
    return matrices(op) * op.operands[0].type.static_shape[-1] ** 3


def _columns(op: Op) -> int:
    """Terms of one triangular system with all right sides."""
    n, width = op.result.type.static_shape[-2:]
    return matrices(op) * n * n * width


def working(op: Op) -> DType:
    return op.operands[0].type.dtype.accumulator


@kernel("cholesky", lambda op: _cubes(op) // 3)
def _cholesky(nest: NestContext, op: Op) -> None:
    """Row by row of the upper factor: what the rows above leave, over the root of its first
    element."""
    dtype = op.result.type.dtype
    shape = op.result.type.static_shape
    n = shape[-1]
    with nest.parallel(shape[:-2]) as outer:
        up = Table(nest, n, n, working(op))
        k = up.k
        with nest.loop(n, "serial") as i:
            left = i.at * -1 + n
            with nest.loop(n, "vector", left) as j:
                column = i.at + j.at
                with nest.loop(n, "serial", i.at) as above:
                    product = k.mul(up.get(above.at, i.at), up.get(above.at, column))
                    total = above.fold("add", product)
                value = k.cast(nest.read(0, [*outer, column, i.at]), k.dtype)
                up.put(i.at, column, k.sub(value, total))
            root = k.sqrt(up.get(i.at, i.at))
            with nest.loop(n, "vector", left) as j:
                up.put(i.at, i.at + j.at, k.div(up.get(i.at, i.at + j.at), root))
        with nest.loop(n, "serial") as i, nest.loop(n, "vector") as j:
            is_low = k.le(k.number(j.at, DType.I64), k.number(i.at, DType.I64))
            with k.guard(is_low):
                value = up.get(j.at, i.at)
            nest.write([*outer, i.at, j.at], k.cast(k.select(is_low, value, k.const(0)), dtype))


@kernel("triangular_solve", _columns)
def _triangular_solve(nest: NestContext, op: Op) -> None:
    """Row by row from the first, or if not ``lower`` from the last: what the rows before leave,
    over the diagonal."""
    dtype = op.result.type.dtype
    shape = op.result.type.static_shape
    n, width = shape[-2:]
    is_lower = bool(op.attributes["lower"])
    with nest.parallel(shape[:-2]) as outer:
        x = Table(nest, n, width, working(op))
        k = x.k

        def factor(row: Affine, column: Affine) -> Scalar:
            return k.cast(nest.read(0, [*outer, row, column]), k.dtype)

        with nest.loop(n, "serial") as i:
            row = i.at if is_lower else i.at * -1 + (n - 1)
            with nest.loop(width, "vector") as j:
                with nest.loop(n, "serial", i.at) as before:
                    other = before.at if is_lower else row + 1 + before.at
                    product = k.mul(factor(row, other), x.get(other, j.at))
                    total = before.fold("add", product)
                right = k.cast(nest.read(1, [*outer, row, j.at]), k.dtype)
                x.put(row, j.at, k.div(k.sub(right, total), factor(row, row)))
        with nest.loop(n, "serial") as i, nest.loop(width, "vector") as j:
            nest.write([*outer, i.at, j.at], k.cast(x.get(i.at, j.at), dtype))


def _eliminate(nest: NestContext, table: Table, n: int, sign: Buffer | None = None) -> None:
    """Makes the first ``n`` columns upper triangular, the greatest element left in a column being
    its pivot.

    A column with nothing left stays. ``sign`` is multiplied by that of the exchanges.
    """
    k, whole = table.k, nest.algebra(DType.I64)
    width = table.columns
    with nest.loop(n, "serial") as step:
        left = step.at * -1 + n
        with nest.loop(n, "serial", left) as i:
            best = i.fold("max", k.abs(table.get(step.at + i.at, step.at)))
        with nest.loop(n, "serial", left) as i:
            is_best = k.eq(k.abs(table.get(step.at + i.at, step.at)), best)
            row = whole.number(step.at + i.at)
            first = i.fold("min", whole.select(is_best, row, whole.const(n)))
        # None is where there is a NaN: then any row is as good.
        here = whole.number(step.at)
        chosen = whole.affine(whole.select(whole.lt(first, whole.const(n)), first, here))
        if sign is not None:
            is_other = whole.ne(whole.number(chosen), here)
            turned = k.select(is_other, k.const(-1), k.const(1))
            nest.store(sign, Affine(), k.mul(nest.load(sign, Affine()), turned))
        with nest.loop(width, "vector", step.at * -1 + width) as j:
            column = step.at + j.at
            mine, other = table.get(step.at, column), table.get(chosen, column)
            table.put(step.at, column, other)
            table.put(chosen, column, mine)
        pivot = table.get(step.at, step.at)
        with nest.loop(n, "serial", left + -1) as i:
            row_at = step.at + 1 + i.at
            lead = table.get(row_at, step.at)
            share = k.select(k.eq(pivot, k.const(0)), k.const(0), k.div(lead, pivot))
            less = k.neg(share)
            with nest.loop(width, "vector", step.at * -1 + (width - 1)) as j:
                column = step.at + 1 + j.at
                rest = k.fma(less, table.get(step.at, column), table.get(row_at, column))
                table.put(row_at, column, rest)


@kernel("solve", lambda op: 2 * _cubes(op) // 3 + 2 * _columns(op))
def _solve(nest: NestContext, op: Op) -> None:
    """Elimination with the right side as further columns, then from the last row up."""
    dtype = op.result.type.dtype
    shape = op.result.type.static_shape
    n, width = shape[-2:]
    with nest.parallel(shape[:-2]) as outer:
        table = Table(nest, n, n + width, working(op))
        k = table.k
        table.fill(op, 0, outer)
        table.fill(op, 1, outer, n)
        _eliminate(nest, table, n)
        with nest.loop(n, "serial") as i:
            row = i.at * -1 + (n - 1)
            with nest.loop(width, "vector") as j:
                column = j.at + n
                with nest.loop(n, "serial", i.at) as below:
                    other = row + 1 + below.at
                    product = k.mul(table.get(row, other), table.get(other, column))
                    total = below.fold("add", product)
                value = k.sub(table.get(row, column), total)
                table.put(row, column, k.div(value, table.get(row, row)))
        with nest.loop(n, "serial") as i, nest.loop(width, "vector") as j:
            nest.write([*outer, i.at, j.at], k.cast(table.get(i.at, j.at + n), dtype))


@kernel("determinant", lambda op: 2 * _cubes(op) // 3)
def _determinant(nest: NestContext, op: Op) -> None:
    """The product of the pivots, as sign and logarithm."""
    dtype = op.results[0].type.dtype
    n = op.operands[0].type.static_shape[-1]
    with nest.parallel(op.results[0].type.static_shape) as outer:
        table = Table(nest, n, n, working(op))
        k = table.k
        sign = nest.scratch(1, k.dtype)
        nest.store(sign, Affine(), k.const(1))
        table.fill(op, 0, outer)
        _eliminate(nest, table, n, sign)
        with nest.loop(n, "serial") as i:
            pivot = table.get(i.at, i.at)
            nest.store(sign, Affine(), k.mul(nest.load(sign, Affine()), k.sign(pivot)))
            total = i.fold("add", k.log(k.abs(pivot)))
        # No zero with a sign.
        plain = k.add(nest.load(sign, Affine()), k.const(0))
        nest.write(outer, k.cast(plain, dtype))
        nest.write(outer, k.cast(total, dtype), result=1)
