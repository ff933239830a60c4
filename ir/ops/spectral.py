"""Kernels for eigenvalues of symmetric matrices and for singular values.

They stand for regions of ``ir/ops/linalg.py`` (``ir/ops/native.py``) and compute in f64 whatever
the element type is. Vectors are kept as rows, so that rotations run along them.

Sources: Golub and Van Loan, Matrix Computations, 4th edition: 8.3 (Householder's tridiagonal form,
implicit QL steps; the form of the steps is that of EISPACK's tql2, Bowdler, Martin, Reinsch and
Wilkinson 1968) and 8.6.3 (one-sided Jacobi rotations, Hestenes 1958).

The sign of a vector is chosen so that its greatest element, the first of equals, is positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Buffer, Scalar
from gradc.ir.ops.factor import Table, matrices
from gradc.ir.ops.native import kernel
from gradc.ir.tensor.core import DType, Op

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra, OpenLoop
    from gradc.ir.loop.nest import NestContext

_STEPS = 40  # QL steps for one eigenvalue; two are usual
_SWEEPS = 40  # sweeps of rotations; some eight are usual
_EPS = 2.0**-52
# Squares of numbers between these are numbers.
_LEAST, _MOST = 1e-100, 1e100
# Sums of squares below this have lost digits; what they belong to is nothing beside _LEAST.
_NOTHING = 1e-280
_WIDE, _WHOLE = DType.F64, DType.I64


class _Line:
    """A vector in scratch."""

    def __init__(self, nest: NestContext, size: int, dtype: DType = _WIDE) -> None:
        self.nest = nest
        self.buffer: Buffer = nest.scratch(size + 2, dtype)

    def get(self, at: Affine) -> Scalar:
        return self.nest.load(self.buffer, at)

    def put(self, at: Affine, value: Scalar) -> None:
        self.nest.store(self.buffer, at, value)


def _only_if(nest: NestContext, condition: Scalar) -> AbstractContextManager[OpenLoop]:
    k = nest.algebra(_WHOLE)
    return nest.loop(1, "serial", k.affine(k.select(condition, k.const(1), k.const(0))))


def _scale(
    nest: NestContext, read: Callable[[Affine, Affine], Scalar], shape: Sequence[int]
) -> _Line:
    """What the matrix must be divided by so that its squares are numbers: mostly 1."""
    k = nest.algebra(_WIDE)
    most = _Line(nest, 1)
    most.put(Affine(), k.const(0))
    with nest.loop(shape[0], "serial") as i:
        with nest.loop(shape[1], "vector") as j:
            best = j.fold("max", k.abs(read(i.at, j.at)))
        most.put(Affine(), k.max(most.get(Affine()), best))
    size = most.get(Affine())
    is_usual = k.logical_and(k.gt(size, k.const(_LEAST)), k.lt(size, k.const(_MOST)))
    is_usual = k.logical_or(is_usual, k.eq(size, k.const(0)))
    most.put(Affine(), k.select(is_usual, k.const(1), size))
    return most


def _rotate(table: Table, first: Affine, second: Affine, cosine: Scalar, sine: Scalar) -> None:
    """Rows x and y become c x - s y and s x + c y."""
    k = table.k
    with table.nest.loop(table.columns, "vector") as j:
        x, y = table.get(first, j.at), table.get(second, j.at)
        table.put(first, j.at, k.sub(k.mul(cosine, x), k.mul(sine, y)))
        table.put(second, j.at, k.add(k.mul(sine, x), k.mul(cosine, y)))


def _ranks(nest: NestContext, keys: _Line, size: int, descending: bool) -> _Line:
    """The place of each key in order, equals by number and NaN last."""
    k, whole = nest.algebra(_WIDE), nest.algebra(_WHOLE)
    ranks = _Line(nest, size, _WHOLE)

    def before(a: Scalar, b: Scalar) -> Scalar:
        is_first = k.gt(a, b) if descending else k.lt(a, b)
        return k.logical_or(is_first, k.logical_and(k.ne(b, b), k.eq(a, a)))

    with nest.loop(size, "serial") as i:
        mine = keys.get(i.at)
        with nest.loop(size, "serial") as j:
            other = keys.get(j.at)
            is_tied = k.logical_not(k.logical_or(before(other, mine), before(mine, other)))
            is_earlier = k.lt(whole.number(j.at), whole.number(i.at))
            wins = k.logical_or(before(other, mine), k.logical_and(is_tied, is_earlier))
            rank = j.fold("add", whole.select(wins, whole.const(1), whole.const(0)))
        ranks.put(i.at, rank)
    return ranks


def _sign(table: Table, row: Affine) -> Scalar:
    """1 or -1, by which the greatest element of a row becomes positive."""
    nest, k, whole = table.nest, table.k, table.nest.algebra(_WHOLE)
    size = table.columns
    with nest.loop(size, "serial") as j:
        most = j.fold("max", k.abs(table.get(row, j.at)))
    with nest.loop(size, "serial") as j:
        is_most = k.eq(k.abs(table.get(row, j.at)), most)
        found = whole.select(is_most, whole.number(j.at), whole.const(size - 1))
        first = j.fold("min", found)
    return k.select(k.lt(table.get(row, whole.affine(first)), k.const(0)), k.const(-1), k.const(1))


# --- eigenvalues of symmetric matrices


def _eigh_flops(op: Op) -> int:
    """As it usually is: the form, its vectors, and two steps for each value."""
    return 9 * matrices(op) * op.operands[0].type.static_shape[-1] ** 3


def _svd_flops(op: Op) -> int:
    """As it usually is: eight sweeps."""
    rows, n = op.operands[0].type.static_shape[-2:]
    return 8 * matrices(op) * n * n * (4 * rows + 3 * n)


@kernel("eigh", _eigh_flops)
def _eigh(nest: NestContext, op: Op) -> None:
    shape = op.operands[0].type.static_shape
    n, dtype = shape[-1], op.operands[0].type.dtype
    with nest.parallel(shape[:-2]) as outer:
        k = nest.algebra(_WIDE)

        def lower(i: Affine, j: Affine) -> Scalar:
            return k.cast(nest.read(0, [*outer, i, j]), _WIDE)

        table, vectors = Table(nest, n, n, _WIDE), Table(nest, n, n, _WIDE)
        scale = _scale(nest, lambda i, j: _below(nest, lower, i, j), (n, n))
        with nest.loop(n, "serial") as i, nest.loop(n, "vector", i.at + 1) as j:
            value = k.div(lower(i.at, j.at), scale.get(Affine()))
            table.put(i.at, j.at, value)
            table.put(j.at, i.at, value)
        diagonal, beside = _tridiagonal(nest, table, vectors)
        _iterate(nest, diagonal, beside, vectors)
        ranks = _ranks(nest, diagonal, n, descending=False)
        whole = nest.algebra(_WHOLE)
        with nest.loop(n, "serial") as i:
            at = whole.affine(ranks.get(i.at))
            value = k.mul(diagonal.get(i.at), scale.get(Affine()))
            nest.write([*outer, at], k.cast(value, dtype))
            sign = _sign(vectors, i.at)
            with nest.loop(n, "vector") as j:
                element = k.mul(vectors.get(i.at, j.at), sign)
                nest.write([*outer, j.at, at], k.cast(element, dtype), result=1)


def _below(
    nest: NestContext, read: Callable[[Affine, Affine], Scalar], i: Affine, j: Affine
) -> Scalar:
    """What counts of the lower triangle."""
    k, whole = nest.algebra(_WIDE), nest.algebra(_WHOLE)
    return k.select(k.le(whole.number(j), whole.number(i)), read(i, j), k.const(0))


def _tridiagonal(nest: NestContext, a: Table, q: Table) -> tuple[_Line, _Line]:
    """Diagonal and what stands beside it of Q^T A Q; ``q`` becomes Q^T.

    Reflection i clears row i behind its next element; its vector v stays there, scaled so that
    H = 1 - v v^T.
    """
    n, k = a.rows, a.k
    diagonal, beside, w = _Line(nest, n), _Line(nest, n), _Line(nest, n)
    with nest.loop(n, "serial") as i:
        diagonal.put(i.at, a.get(i.at, i.at))
        start, left = i.at + 1, i.at * -1 + (n - 1)
        with nest.loop(n, "vector", left + -1) as j:
            x = a.get(i.at, start + 1 + j.at)
            tail = j.fold("add", k.mul(x, x))
        # The last row has nothing beside it: what is stored there is never read.
        with nest.loop(1, "serial", left) as _:
            head = a.get(i.at, start)
            square = k.add(k.mul(head, head), tail)
            norm = k.sqrt(square)
            end = k.select(k.lt(head, k.const(0)), norm, k.neg(norm))
            is_flat = k.le(tail, k.const(_NOTHING))
            end = k.select(is_flat, head, end)
            beside.put(i.at, k.select(k.le(square, k.const(_NOTHING)), k.const(0), end))
            # v = (x - end e) / sqrt(norm (norm + |head|)), and nothing where x is its head already.
            half = k.mul(norm, k.add(norm, k.abs(head)))
            root = k.sqrt(k.select(is_flat, k.const(1), half))
            with nest.loop(n, "vector", left) as j:
                x = a.get(i.at, start + j.at)
                a.put(i.at, start + j.at, k.select(is_flat, k.const(0), k.div(x, root)))
            turned = k.div(k.sub(head, end), root)
            a.put(i.at, start, k.select(is_flat, k.const(0), turned))
            _reflect_both(nest, a, i.at, w)
    _accumulate(nest, a, q, w)
    return diagonal, beside


def _reflect_both(nest: NestContext, a: Table, row: Affine, w: _Line) -> None:
    """A becomes H A H in the rows and columns behind ``row``, where v stands: with p = A v and
    w = p - (v^T p / 2) v, that is A - v w^T - w v^T.
    """
    n, k = a.rows, a.k
    start, left = row + 1, row * -1 + (n - 1)
    with nest.loop(n, "vector", left) as j:
        with nest.loop(n, "serial", left) as i:
            product = k.mul(a.get(row, start + i.at), a.get(start + i.at, start + j.at))
            total = i.fold("add", product)
        w.put(j.at, total)
    with nest.loop(n, "vector", left) as j:
        inner = j.fold("add", k.mul(w.get(j.at), a.get(row, start + j.at)))
    half = k.mul(inner, k.const(-0.5))
    with nest.loop(n, "vector", left) as j:
        w.put(j.at, k.fma(half, a.get(row, start + j.at), w.get(j.at)))
    with nest.loop(n, "serial", left) as i:
        mine, other = k.neg(a.get(row, start + i.at)), k.neg(w.get(i.at))
        with nest.loop(n, "vector", left) as j:
            value = k.fma(mine, w.get(j.at), a.get(start + i.at, start + j.at))
            value = k.fma(other, a.get(row, start + j.at), value)
            a.put(start + i.at, start + j.at, value)


def _accumulate(nest: NestContext, a: Table, q: Table, w: _Line) -> None:
    """``q`` becomes the product of all reflections, transposed: the last first, in the rows and
    columns that each moves.
    """
    n, k = a.rows, a.k
    whole = nest.algebra(_WHOLE)
    product = Table(nest, n, n, _WIDE)
    with nest.loop(n, "serial") as i, nest.loop(n, "vector") as j:
        is_same = whole.eq(whole.number(i.at), whole.number(j.at))
        product.put(i.at, j.at, k.select(is_same, k.const(1), k.const(0)))
    with nest.loop(n, "serial") as turn:
        row, start, left = turn.at * -1 + (n - 1), turn.at * -1 + n, turn.at
        with nest.loop(n, "vector", left) as j:
            with nest.loop(n, "serial", left) as i:
                term = k.mul(a.get(row, start + i.at), product.get(start + i.at, start + j.at))
                total = i.fold("add", term)
            w.put(j.at, total)
        with nest.loop(n, "serial", left) as i:
            share = k.neg(a.get(row, start + i.at))
            with nest.loop(n, "vector", left) as j:
                before = product.get(start + i.at, start + j.at)
                product.put(start + i.at, start + j.at, k.fma(share, w.get(j.at), before))
    with nest.loop(n, "serial") as i, nest.loop(n, "vector") as j:
        q.put(i.at, j.at, product.get(j.at, i.at))


class _Ql:
    """Implicit QL steps on a tridiagonal matrix, until what stands beside its diagonal is
    nothing."""

    def __init__(self, nest: NestContext, diagonal: _Line, beside: _Line, vectors: Table) -> None:
        self.nest, self.d, self.e, self.z = nest, diagonal, beside, vectors
        self.k, self.whole = nest.algebra(_WIDE), nest.algebra(_WHOLE)
        self.state = _Line(nest, 4)  # sine, cosine, the shift so far, and g

    def run(self) -> None:
        nest, n, whole = self.nest, self.z.rows, self.whole
        done = _Line(nest, 1, _WHOLE)
        with nest.loop(n, "serial") as first:
            done.put(Affine(), whole.const(0))
            with nest.loop(_STEPS, "serial"):
                is_open = whole.eq(done.get(Affine()), whole.const(0))
                with _only_if(nest, is_open):
                    last = self._last(first.at)
                    is_found = whole.eq(last, whole.number(first.at))
                    done.put(Affine(), whole.select(is_found, whole.const(1), whole.const(0)))
                    with _only_if(nest, whole.logical_not(is_found)):
                        self._step(first.at, last)

    def _last(self, first: Affine) -> Scalar:
        """The end of the block that begins at ``first``: beside it stands nothing that counts."""
        nest, k, whole, n = self.nest, self.k, self.whole, self.z.rows
        with nest.loop(n, "serial", first * -1 + (n - 1)) as i:
            at = first + i.at
            size = k.add(k.abs(self.d.get(at)), k.abs(self.d.get(at + 1)))
            counts = k.gt(k.abs(self.e.get(at)), k.mul(size, k.const(_EPS)))
            found = i.fold("min", whole.select(counts, whole.const(n - 1), whole.number(at)))
        return whole.min(found, whole.const(n - 1))

    def _step(self, first: Affine, last: Scalar) -> None:
        k, whole, d, e = self.k, self.whole, self.d, self.e
        zero, one = k.const(0), k.const(1)
        end = whole.affine(last)
        # Wilkinson's shift: the eigenvalue of the leading block of two that is nearer.
        ahead = k.div(k.sub(d.get(first + 1), d.get(first)), k.mul(k.const(2), e.get(first)))
        root = k.sqrt(k.add(k.mul(ahead, ahead), one))
        root = k.select(k.lt(ahead, zero), k.neg(root), root)
        start = k.add(k.sub(d.get(end), d.get(first)), k.div(e.get(first), k.add(ahead, root)))
        for place, value in enumerate((one, one, zero, start)):
            self.state.put(Affine(place), value)
        with self.nest.loop(self.z.rows, "serial", end + first * -1) as back:
            self._rotation(end + back.at * -1 + -1)
        shift, g = self.state.get(Affine(2)), self.state.get(Affine(3))
        d.put(first, k.sub(d.get(first), shift))
        e.put(first, g)
        e.put(end, zero)

    def _rotation(self, i: Affine) -> None:
        """Of rows i and i + 1, by which the element that the rotation before made vanishes."""
        k, d, e = self.k, self.d, self.e
        sine, cosine, shift, g = (self.state.get(Affine(n)) for n in range(4))
        f, b = k.mul(sine, e.get(i)), k.mul(cosine, e.get(i))
        square = k.add(k.mul(f, f), k.mul(g, g))
        # Nothing to turn: the rotation by nothing.
        is_none = k.le(square, k.const(_NOTHING))
        r = k.select(is_none, k.const(0), k.sqrt(square))
        e.put(i + 1, r)
        over = k.select(is_none, k.const(1), r)
        sine = k.select(is_none, k.const(0), k.div(f, over))
        cosine = k.select(is_none, k.const(1), k.div(g, over))
        g = k.sub(d.get(i + 1), shift)
        r = k.add(k.mul(k.sub(d.get(i), g), sine), k.mul(k.mul(k.const(2), cosine), b))
        shift = k.mul(sine, r)
        d.put(i + 1, k.add(g, shift))
        for place, value in enumerate((sine, cosine, shift, k.sub(k.mul(cosine, r), b))):
            self.state.put(Affine(place), value)
        _rotate(self.z, i, i + 1, cosine, sine)


def _iterate(nest: NestContext, diagonal: _Line, beside: _Line, vectors: Table) -> None:
    _Ql(nest, diagonal, beside, vectors).run()


# --- singular values


@kernel("svd", _svd_flops)
def _svd(nest: NestContext, op: Op) -> None:
    """Of tall matrices: rows of A^T are rotated by pairs until they are orthogonal, and rows
    of V^T with them."""
    shape = op.operands[0].type.static_shape
    (rows, n), dtype = shape[-2:], op.operands[0].type.dtype
    with nest.parallel(shape[:-2]) as outer:
        k, whole = nest.algebra(_WIDE), nest.algebra(_WHOLE)

        def element(i: Affine, j: Affine) -> Scalar:
            return k.cast(nest.read(0, [*outer, i, j]), _WIDE)

        table, right = Table(nest, n, rows, _WIDE), Table(nest, n, n, _WIDE)
        scale = _scale(nest, element, (rows, n))
        with nest.loop(n, "serial") as i, nest.loop(rows, "vector") as j:
            table.put(i.at, j.at, k.div(element(j.at, i.at), scale.get(Affine())))
        with nest.loop(n, "serial") as i, nest.loop(n, "vector") as j:
            is_same = whole.eq(whole.number(i.at), whole.number(j.at))
            right.put(i.at, j.at, k.select(is_same, k.const(1), k.const(0)))
        lengths = _orthogonal(nest, table, right)
        with nest.loop(n, "serial") as i:
            lengths.put(i.at, k.sqrt(lengths.get(i.at)))
        ranks = _ranks(nest, lengths, n, descending=True)
        with nest.loop(n, "serial") as i:
            at, length = whole.affine(ranks.get(i.at)), lengths.get(i.at)
            nest.write([*outer, at], k.cast(k.mul(length, scale.get(Affine())), dtype), result=1)
            sign = _sign(right, i.at)
            is_none = k.eq(length, k.const(0))
            over = k.div(sign, k.select(is_none, k.const(1), length))
            over = k.select(is_none, k.const(0), over)
            with nest.loop(rows, "vector") as j:
                nest.write([*outer, j.at, at], k.cast(k.mul(table.get(i.at, j.at), over), dtype))
            with nest.loop(n, "vector") as j:
                value = k.cast(k.mul(right.get(i.at, j.at), sign), dtype)
                nest.write([*outer, at, j.at], value, result=2)


def _squares(table: Table, lengths: _Line) -> None:
    nest, k = table.nest, table.k
    with nest.loop(table.rows, "serial") as i:
        with nest.loop(table.columns, "vector") as j:
            x = table.get(i.at, j.at)
            total = j.fold("add", k.mul(x, x))
        lengths.put(i.at, total)


def _orthogonal(nest: NestContext, table: Table, right: Table) -> _Line:
    """Sweeps over all pairs of rows until a sweep finds nothing to turn; gives their squared
    lengths."""
    n, whole = table.rows, nest.algebra(_WHOLE)
    lengths = _Line(nest, n)
    turned = _Line(nest, 1, _WHOLE)
    turned.put(Affine(), whole.const(1))
    with (
        nest.loop(_SWEEPS, "serial"),
        _only_if(nest, whole.ne(turned.get(Affine()), whole.const(0))),
    ):
        turned.put(Affine(), whole.const(0))
        _squares(table, lengths)
        with (
            nest.loop(n, "serial") as first,
            nest.loop(n, "serial", first.at * -1 + (n - 1)) as after,
        ):
            _turn(table, right, lengths, turned, first.at, first.at + 1 + after.at)
    _squares(table, lengths)
    return lengths


def _turn(
    table: Table, right: Table, lengths: _Line, turned: _Line, first: Affine, second: Affine
) -> None:
    """Makes two rows orthogonal, if they are not; ``turned`` says so."""
    nest, k = table.nest, table.k
    with nest.loop(table.columns, "vector") as j:
        cross = j.fold("add", k.mul(table.get(first, j.at), table.get(second, j.at)))
    p, q = lengths.get(first), lengths.get(second)
    least = k.mul(k.sqrt(k.mul(p, q)), k.const(_EPS * math.sqrt(table.columns)))
    with _only_if(nest, k.gt(k.abs(cross), least)):
        turned.put(Affine(), nest.algebra(_WHOLE).const(1))
        cosine, sine, tangent = _angle(k, k.sub(q, p), k.mul(cross, k.const(2)))
        lengths.put(first, k.sub(p, k.mul(tangent, cross)))
        lengths.put(second, k.add(q, k.mul(tangent, cross)))
        for rotated in (table, right):
            _rotate(rotated, first, second, cosine, sine)


def _angle(k: IndexAlgebra, difference: Scalar, double: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Cosine, sine and tangent of the smaller rotation that makes ``double / 2`` vanish."""
    tau = k.div(difference, double)
    root = k.sqrt(k.add(k.mul(tau, tau), k.const(1)))
    tangent = k.div(k.const(1), k.add(k.abs(tau), root))
    tangent = k.select(k.lt(tau, k.const(0)), k.neg(tangent), tangent)
    cosine = k.div(k.const(1), k.sqrt(k.add(k.mul(tangent, tangent), k.const(1))))
    return cosine, k.mul(tangent, cosine), tangent
