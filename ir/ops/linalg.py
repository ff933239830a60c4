"""Linear algebra as programs of the tensor IR: factorisations and solutions, batched over leading
axes.

Each is a ``custom`` op: its value is a rolled loop over columns or rotations (``scan``), its
pullback the closed formula in products and other functions of this file, so nothing is kept of the
loop and derivatives of any order exist. No pullback mentions its own function: what would (the
solution of a system) goes through the inverse, whose pullback reads its own result. All sums have
the order that shapes fix. The loops of all but ``qr`` have a kernel that computes the same
(``ir/ops/factor.py``, ``ir/ops/spectral.py``).

Sources of the pullbacks: M. Giles, Collected matrix derivative results for forward and reverse mode
algorithmic differentiation (2008), for inverse, solution, determinant and eigenvalues; I. Murray,
Differentiation of the Cholesky decomposition (2016); J. Townsend, Differentiating the singular
value decomposition (2016); S. Walter and L. Lehmann, Algorithmic differentiation of linear algebra
functions (2010), for QR.

Conventions: matrices that must be symmetric are read in their lower triangle, as LAPACK does. The
cotangent of ``cholesky`` is symmetric, as JAX and autograd have it; that of ``eigh`` is 0 above the
diagonal, as autograd has it: there JAX symmetrises its operand, which NumPy does not. For a matrix
that was computed, and so is symmetric for every parameter, both say the same. Eigenvectors and
right singular vectors have their greatest element positive. A matrix without the factorisation
asked for (not positive, singular) gives NaN or infinities, never an error.

Non-goals: blocked algorithms for large matrices; complex eigenvalues.
"""

from __future__ import annotations

import math

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.matrices import Matrices, custom, loop, moved_first, native
from gradc.ir.tensor.core import DType, Value

# --- systems


def _eliminate(m: Matrices, a: Value, right: Value) -> tuple[Value, Value, Value]:
    """Gauss and Jordan with the greatest pivot of each column: the solution, the pivots, and their
    rows.
    """
    n = a.type.static_shape[-1]
    whole = m.join(-1, a, right)
    free = m.full(1.0, a, a.type.static_shape[:-1])

    def body(
        k: Matrices, carries: list[Value], j: Value, _: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        table, open_rows = carries
        column = k.element(table, j, -1)
        size = k.op(
            "sub",
            k.op("mul", k.op("abs", column), open_rows),
            k.op("sub", k.full(1.0, column), open_rows),
        )
        chosen = k.b.one("argmax", size, axis=size.type.rank - 1)
        here = k.b.one("eq", k.count(column, -1), k.spread(chosen, -1, n))
        hot = k.b.one("cast", here, dtype=column.type.dtype)
        width = table.type.static_shape[-1]
        row = k.total(k.where(k.spread(here, -1, width), table, 0.0), -2)
        pivot = k.element(row, j, -1)
        line = k.op("div", row, k.spread(pivot, -1, width))
        rest = k.op("sub", table, k.outer(column, line))
        table = k.where(k.spread(here, -1, width), k.spread(line, -2, n), rest)
        return [table, k.op("sub", open_rows, hot)], [pivot, chosen, hot]

    (table, _), (pivots, chosen, hots) = loop(m.b, n, [whole, free], [], body)
    solution = m.part(table, -1, n, whole.type.static_shape[-1])
    order = m.turned(moved_first(m, hots))  # [..., j, i]: row i holds the unknown j
    return m.dot(order, solution), moved_first(m, pivots), moved_first(m, chosen)


def _solved(m: Matrices, xs: list[Value]) -> list[Value]:
    if 0 in xs[1].type.static_shape:
        return [xs[1]]
    return native(m, "solve", xs, lambda k, inside: [_eliminate(k, *inside)[0]])


def inverse(b: Builder, a: Value) -> Value:
    """The inverses of square matrices."""

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return _solved(m, [xs[0], m.eye(xs[0], xs[0].type.static_shape[-1])])

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        y = m.turned(ys[0])
        return [m.op("neg", m.dot(m.dot(y, cts[0]), y))]

    return custom(b, [a], primal, pullback)[0]


def solve(b: Builder, a: Value, right: Value) -> Value:
    """x with ``a x = right``; both have the same leading axes."""

    def pullback(m: Matrices, xs: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        ct = m.dot(m.turned(inverse(m.b, xs[0])), cts[0])
        return [m.op("neg", m.dot(ct, m.turned(ys[0]))), ct]

    return custom(b, [a, right], _solved, pullback)[0]


def determinant(b: Builder, a: Value) -> tuple[Value, Value]:
    """Signs and logarithms of the magnitudes of determinants."""
    if 0 in a.type.static_shape:
        m, batch = Matrices(b), a.type.static_shape[:-2]
        return m.full(1.0, a, batch), m.full(0.0, a, batch)

    def program(m: Matrices, xs: list[Value]) -> list[Value]:
        x = xs[0]
        n = x.type.static_shape[-1]
        _, pivots, chosen = _eliminate(m, x, m.part(x, -1, 0, 0))
        later = m.spread(chosen, -2, n)
        earlier = m.spread(chosen, -1, n)
        swapped = m.b.one("gt", earlier, later)
        before = m.b.one("lt", m.count(earlier, -2), m.count(earlier, -1))
        both = m.b.one("logical_and", swapped, before)
        count = m.total(m.total(m.b.one("cast", both, dtype=x.type.dtype), -1), -1)
        half = m.op("mul", count, 0.5)
        odd = m.b.one("ne", half, m.b.one("floor", half))
        axes = (pivots.type.rank - 1,)
        sign = m.b.one("prod", m.b.one("sign", pivots), axes=axes)
        size = m.b.one("sum", m.b.one("log", m.b.one("abs", pivots)), axes=axes)
        return [m.where(odd, m.op("neg", sign), sign), size]

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return native(m, "determinant", xs, program)

    def pullback(m: Matrices, xs: list[Value], _: list[Value], cts: list[Value]) -> list[Value]:
        n = xs[0].type.static_shape[-1]
        ct = m.spread(m.spread(cts[1], -1, n), -1, n)
        return [m.b.one("gate", ct, m.turned(inverse(m.b, xs[0])))]

    sign, size = custom(b, [a], primal, pullback)
    return sign, size


def triangular_solve(b: Builder, a: Value, right: Value, lower: bool = True) -> Value:
    """x with ``a x = right`` where only one triangle of ``a`` is read."""

    def pullback(m: Matrices, xs: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        ct = m.dot(m.turned(triangular_inverse(m.b, xs[0], lower)), cts[0])
        outer = m.op("neg", m.dot(ct, m.turned(ys[0])))
        return [m.triangle(outer, "ge" if lower else "le"), ct]

    return custom(b, [a, right], lambda m, xs: _substituted(m, xs, lower), pullback)[0]


def triangular_inverse(b: Builder, a: Value, lower: bool = True) -> Value:
    """The inverses of matrices of which only one triangle is read."""

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return _substituted(m, [xs[0], m.eye(xs[0], xs[0].type.static_shape[-1])], lower)

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        y = m.turned(ys[0])
        return [m.triangle(m.op("neg", m.dot(m.dot(y, cts[0]), y)), "ge" if lower else "le")]

    return custom(b, [a], primal, pullback)[0]


def _substituted(m: Matrices, xs: list[Value], lower: bool) -> list[Value]:
    n = xs[0].type.static_shape[-1]

    def program(m: Matrices, xs: list[Value]) -> list[Value]:
        def body(
            k: Matrices, carries: list[Value], j: Value, constants: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            (rest,), (table,) = carries, constants
            column = k.element(table, j, -1)
            line = k.element(rest, j, -2)
            line = k.op(
                "div", line, k.spread(k.element(column, j, -1), -1, line.type.static_shape[-1])
            )
            return [k.op("sub", rest, k.outer(column, line))], [line]

        _, (rows,) = loop(m.b, n, [xs[1]], [xs[0]], body, reverse=not lower)
        rank = rows.type.rank
        return [m.b.one("transpose", rows, perm=(*range(1, rank - 1), 0, rank - 1))]

    return native(m, "triangular_solve", xs, program, lower=lower)


# --- factorisations


def cholesky(b: Builder, a: Value) -> Value:
    """The lower factors of positive matrices; NaN where a matrix is not positive."""
    n = a.type.static_shape[-1]
    if 0 in a.type.static_shape:
        return a

    def program(m: Matrices, xs: list[Value]) -> list[Value]:
        def body(
            k: Matrices, carries: list[Value], j: Value, _: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            (rest,) = carries
            column = k.element(rest, j, -1)
            root = k.b.one("sqrt", k.element(column, j, -1))
            line = k.op("div", column, k.spread(root, -1, n))
            places = k.count(line, -1)
            start = k.b.one("broadcast", j, shape=line.type.static_shape, dims=())
            line = k.where(k.b.one("ge", places, start), line, 0.0)
            return [k.op("sub", rest, k.outer(line, line))], [line]

        _, (columns,) = loop(m.b, n, [m.symmetric(xs[0])], [], body)
        return [moved_first(m, columns)]

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return native(m, "cholesky", xs, program)

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        # L^-T phi(L^T ct) L^-1, made symmetric; phi is the lower triangle with half the diagonal.
        low = m.triangle(m.dot(m.turned(ys[0]), cts[0]), "ge")
        phi = m.op("sub", low, m.op("mul", m.triangle(low, "le"), 0.5))
        y = triangular_inverse(m.b, ys[0])
        return [m.halved(m.dot(m.dot(m.turned(y), phi), y))]

    return custom(b, [a], primal, pullback)[0]


def qr(b: Builder, a: Value) -> tuple[Value, Value]:
    """Q with orthonormal columns and R, upper, by Householder's reflections; as many columns as
    rows at most.
    """
    rows, n = a.type.static_shape[-2:]
    if rows < n:
        m = Matrices(b)
        q, left = qr(b, m.part(a, -1, 0, rows))
        return q, m.join(-1, left, m.dot(m.turned(q), m.part(a, -1, rows, n)))

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        def body(
            k: Matrices, carries: list[Value], j: Value, _: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            q, r = carries
            column = k.element(r, j, -1)
            start = k.b.one("broadcast", j, shape=column.type.static_shape, dims=())
            below = k.b.one("ge", k.count(column, -1), start)
            x = k.where(below, column, 0.0)
            head = k.element(column, j, -1)
            norm = k.b.one("sqrt", k.total(k.op("mul", x, x), -1))
            signed = k.where(k.op("lt", head, 0.0), k.op("neg", norm), norm)
            at = k.b.one("eq", k.count(column, -1), start)
            v = k.where(at, k.spread(k.op("add", head, signed), -1, rows), x)
            square = k.total(k.op("mul", v, v), -1)
            # A column with nothing below stays as it is, sign and all, as in LAPACK.
            tail = k.where(at, k.full(0.0, x), x)
            flat = k.op("eq", k.total(k.op("mul", tail, tail), -1), 0.0)
            twice = k.op("div", k.full(2.0, square), k.where(flat, k.full(1.0, square), square))
            factor = k.spread(k.where(flat, k.full(0.0, square), twice), -1, rows)
            w = k.op("mul", v, factor)
            along = k.total(k.op("mul", k.spread(v, -1, n), r), -2)
            r = k.op("sub", r, k.outer(w, along))
            across = k.total(k.op("mul", q, k.spread(v, -2, rows)), -1)
            return [k.op("sub", q, k.outer(across, w)), r], []

        (q, r), _ = loop(m.b, n, [m.eye(xs[0], rows), xs[0]], [], body)
        return [m.part(q, -1, 0, n), m.triangle(m.part(r, -2, 0, n), "le")]

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        (q, r), (q_ct, r_ct) = ys, cts
        inner = m.op("sub", m.dot(r, m.turned(r_ct)), m.dot(m.turned(q_ct), q))
        low = m.triangle(inner, "gt")
        mirrored = m.op("add", m.triangle(inner, "ge"), m.turned(low))
        whole = m.op("add", q_ct, m.dot(q, mirrored))
        return [m.dot(whole, m.turned(inverse(m.b, r)))]

    q, r = custom(b, [a], primal, pullback)
    return q, r


# --- rotations


def _sweeps(n: int) -> int:
    return 5 + math.ceil(math.log2(max(n, 2)))


def _turn(n: int) -> list[int]:
    """One step of a round robin of n (even) players, of whom i and i + n/2 meet: the first keeps
    its place.
    """
    half = n // 2
    ring = [*range(1, half), *range(n - 1, half - 1, -1)]
    before = dict(zip(ring, [ring[-1], *ring[:-1]], strict=True))
    return [before.get(i, i) for i in range(n)]


def _angles(k: Matrices, difference: Value, double: Value) -> tuple[Value, Value]:
    """Cosine and sine of the smaller rotation that makes ``double / 2`` vanish; none where it is 0
    already.
    """
    still = k.op("eq", double, 0.0)
    tau = k.op("div", difference, k.where(still, k.full(1.0, double), double))
    size = k.op("abs", tau)
    root = k.b.one("sqrt", k.op("add", k.op("mul", size, size), 1.0))
    tangent = k.op("div", k.full(1.0, tau), k.op("add", size, root))
    tangent = k.where(k.op("lt", tau, 0.0), k.op("neg", tangent), tangent)
    tangent = k.where(still, k.full(0.0, tau), tangent)
    cosine = k.b.one("rsqrt", k.op("add", k.op("mul", tangent, tangent), 1.0))
    return cosine, k.op("mul", tangent, cosine)


def _rotate(k: Matrices, x: Value, cosine: Value, sine: Value, axis: int) -> Value:
    """Pairs (i, i + n/2) of rows (-2) or columns (-1) rotated."""
    n = x.type.static_shape[axis]
    other = x.type.static_shape[-1 if axis == -2 else -2]
    c, s = (k.spread(v, -1 if axis == -2 else -2, other) for v in (cosine, sine))
    top, low = k.part(x, axis, 0, n // 2), k.part(x, axis, n // 2, n)
    first = k.op("sub", k.op("mul", c, top), k.op("mul", s, low))
    second = k.op("add", k.op("mul", s, top), k.op("mul", c, low))
    return k.join(axis, first, second)


def _passed(k: Matrices, x: Value, axis: int) -> Value:
    """Everyone to the next place of the round robin."""
    runs: list[list[int]] = []
    for place in _turn(x.type.static_shape[axis]):
        if runs and place == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    parts = [k.part(x, axis, start, limit) for start, limit in runs]
    return k.join(axis, *parts) if len(parts) > 1 else parts[0]


def _padded(m: Matrices, x: Value, rows: bool) -> Value:
    """One more column, and row if asked for, where their number is odd."""
    rank, n = x.type.rank, x.type.static_shape[-1]
    if n % 2 == 0:
        return x
    high = tuple(1 if i == rank - 1 or (rows and i == rank - 2) else 0 for i in range(rank))
    return m.b.one("pad", x, low=(0,) * rank, high=high, interior=(0,) * rank)


def _ranked(m: Matrices, keys: Value, *, descending: bool) -> Value:
    """The place of each key in order, ties by number."""
    n = keys.type.static_shape[-1]
    mine, other = m.spread(keys, -1, n), m.spread(keys, -2, n)
    before = m.b.one("gt" if descending else "lt", other, mine)
    tied = m.b.one("eq", other, mine)
    earlier = m.b.one("lt", m.count(mine, -1), m.count(mine, -2))
    first = m.b.one("logical_or", before, m.b.one("logical_and", tied, earlier))
    return m.total(m.b.one("cast", first, dtype=DType.I32), -1)


def _ordered(m: Matrices, ranks: Value, *xs: Value) -> list[Value]:
    """Columns of each of ``xs`` at the places that ``ranks`` say."""
    n = ranks.type.static_shape[-1]
    wide = m.spread(ranks, -1, n)
    hot = m.b.one("eq", wide, m.count(wide, -1))
    found = []
    for x in xs:
        lone = x.type.rank == ranks.type.rank
        matrix = m.spread(x, -2, 1) if lone else x
        # A product with zeros would spread NaN: chosen by select, then summed.
        rows = matrix.type.static_shape[-2]
        chosen = m.where(m.spread(hot, -3, rows), m.spread(matrix, -1, n), 0.0)
        line = m.total(chosen, -2)
        found.append(m.b.one("reshape", line, shape=x.type.static_shape))
    return found


def eigh(b: Builder, a: Value) -> tuple[Value, Value]:
    """Eigenvalues, rising, and eigenvectors of symmetric matrices, by Jacobi's rotations."""
    n = a.type.static_shape[-1]
    if 0 in a.type.static_shape:
        return Matrices(b).full(0.0, a, a.type.static_shape[:-1]), a

    def program(m: Matrices, xs: list[Value]) -> list[Value]:
        table = _padded(m, m.symmetric(xs[0]), True)
        size = table.type.static_shape[-1]

        def body(
            k: Matrices, carries: list[Value], _: Value, __: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            x, v = carries
            half = size // 2
            top, low = k.part(x, -2, 0, half), k.part(x, -2, half, size)
            p, q = k.diagonal(k.part(top, -1, 0, half)), k.diagonal(k.part(low, -1, half, size))
            cross = k.diagonal(k.part(top, -1, half, size))
            c, s = _angles(k, k.op("sub", q, p), k.op("mul", cross, 2.0))
            x = _rotate(k, _rotate(k, x, c, s, -2), c, s, -1)
            x = _passed(k, _passed(k, x, -2), -1)
            return [x, _passed(k, _rotate(k, v, c, s, -1), -1)], []

        trips = _sweeps(size) * (size - 1)
        (x, v), _ = loop(m.b, trips, [table, m.eye(table, size)], [], body)
        values = m.part(m.diagonal(x), -1, 0, n)
        vectors = m.part(m.part(v, -1, 0, n), -2, 0, n)
        ranks = _ranked(m, values, descending=False)
        values, vectors = _ordered(m, ranks, values, vectors)
        return [values, m.scale_columns(vectors, _signs(m, m.turned(vectors)))]

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return native(m, "eigh", xs, program)

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        (values, v), (w_ct, v_ct) = ys, cts
        gaps = m.op("sub", m.spread(values, -2, n), m.spread(values, -1, n))
        inner = m.dot(m.turned(v), v_ct)
        inner = _over(m, inner, gaps)
        inner = m.op("add", inner, m.scale_columns(m.eye(inner, n), w_ct))
        found = m.dot(m.dot(v, inner), m.turned(v))
        # What lies above the diagonal is not read.
        return [m.op("add", m.triangle(found, "ge"), m.triangle(m.turned(found), "gt"))]

    values, vectors = custom(b, [a], primal, pullback)
    return values, vectors


def _signs(m: Matrices, rows: Value) -> Value:
    """1 or -1 for each row, by which its greatest element, the first of equals, becomes
    positive."""
    size = m.op("abs", rows)
    if 0 in rows.type.static_shape:
        return m.full(1.0, rows, rows.type.static_shape[:-1])
    place = m.spread(
        m.b.one("argmax", size, axis=rows.type.rank - 1), -1, rows.type.static_shape[-1]
    )
    chosen = m.total(m.where(m.b.one("eq", m.count(rows, -1), place), rows, 0.0), -1)
    return m.where(m.op("lt", chosen, 0.0), m.full(-1.0, chosen), 1.0)


def _over(m: Matrices, x: Value, gaps: Value) -> Value:
    """x / gaps, and 0 where the gap is: equal values have no direction of their own."""
    closed = m.op("eq", gaps, 0.0)
    return m.where(closed, m.full(0.0, x), m.op("div", x, m.where(closed, m.full(1.0, gaps), gaps)))


def svd(b: Builder, a: Value) -> tuple[Value, Value, Value]:
    """U, singular values (falling) and V^T, as many as the lesser side, by one-sided Jacobi
    rotations.
    """
    rows, n = a.type.static_shape[-2:]
    m = Matrices(b)
    if 0 in a.type.static_shape:
        batch, least = a.type.static_shape[:-2], min(rows, n)
        sides = ((*batch, rows, least), (*batch, least), (*batch, least, n))
        u, s, vt = (m.full(0.0, a, shape) for shape in sides)
        return u, s, vt
    if rows < n:
        u, s, vt = svd(b, m.turned(a))
        return m.turned(vt), s, m.turned(u)

    def program(m: Matrices, xs: list[Value]) -> list[Value]:
        table = _padded(m, xs[0], False)
        size = table.type.static_shape[-1]

        def body(
            k: Matrices, carries: list[Value], _: Value, __: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            x, v = carries
            top, low = k.part(x, -1, 0, size // 2), k.part(x, -1, size // 2, size)
            p, q = (k.total(k.op("mul", z, z), -2) for z in (top, low))
            cross = k.total(k.op("mul", top, low), -2)
            c, s = _angles(k, k.op("sub", q, p), k.op("mul", cross, 2.0))
            return [_passed(k, _rotate(k, z, c, s, -1), -1) for z in (x, v)], []

        trips = _sweeps(size) * (size - 1)
        (x, v), _ = loop(m.b, trips, [table, m.eye(table, size)], [], body)
        x, v = m.part(x, -1, 0, n), m.part(m.part(v, -1, 0, n), -2, 0, n)
        s = m.b.one("sqrt", m.total(m.op("mul", x, x), -2))
        u = _over(m, x, m.spread(s, -2, rows))
        ranks = _ranked(m, s, descending=True)
        u, s, v = _ordered(m, ranks, u, s, v)
        signs = _signs(m, m.turned(v))
        return [m.scale_columns(u, signs), s, m.scale_rows(m.turned(v), signs)]

    def primal(m: Matrices, xs: list[Value]) -> list[Value]:
        return native(m, "svd", xs, program)

    def pullback(m: Matrices, _: list[Value], ys: list[Value], cts: list[Value]) -> list[Value]:
        (u, s, vt), (u_ct, s_ct, vt_ct) = ys, cts
        v_ct = m.turned(vt_ct)
        wide, tall = m.spread(s, -2, n), m.spread(s, -1, n)
        gaps = m.op("mul", m.op("sub", wide, tall), m.op("add", wide, tall))
        left, right = m.dot(m.turned(u), u_ct), m.dot(vt, v_ct)
        j, k = (_over(m, m.op("sub", x, m.turned(x)), gaps) for x in (left, right))
        inner = m.op("add", m.scale_columns(j, s), m.scale_rows(k, s))
        inner = m.op("add", inner, m.scale_columns(m.eye(inner, n), s_ct))
        found = m.dot(m.dot(u, inner), vt)
        if rows > n:
            # What of the cotangent of U lies outside its columns.
            outside = m.op("sub", u_ct, m.dot(u, left))
            found = m.op("add", found, m.dot(_over(m, outside, m.spread(s, -2, rows)), vt))
        return [found]

    u, s, vt = custom(b, [a], primal, pullback)
    return u, s, vt
