"""Rules for scipy.linalg: most are functions of numpy.linalg with SciPy's arguments.

Systems with structure are solved as dense ones, whose pivots make them as exact as LAPACK's; a
matrix equation is one system of n m unknowns. ``sqrtm`` gives NaN where the real root does not
exist, of which SciPy gives complex numbers.

Non-goals: Schur's, Hessenberg's and LU's forms, generalised eigenvalues.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.ir.ops import linalg as programs
from gradc.runtime.tracing.control import fori_loop
from gradc.runtime.tracing.foreign import held, scipy
from gradc.runtime.tracing.linalg import system
from gradc.runtime.tracing.scipy_special import floats
from gradc.runtime.tracing.shapes import traced
from gradc.runtime.tracing.trace import Trace, refuse

# Unknowns of a matrix equation, of which the system has the square.
_MOST_UNKNOWNS = 4096


def _turned(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _square(t: Trace, a: Any, name: str) -> Any:
    x = floats(t, a)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise refuse("GC0558", f"{name} takes a square matrix, not {x.shape}")
    return x


@scipy("linalg.cholesky")
def _cholesky(t: Trace, a: Any, lower: Any = False) -> Any:
    return np.linalg.cholesky(_square(t, a, "linalg.cholesky"), upper=not lower)


@scipy("linalg.cho_factor")
def _cho_factor(t: Trace, a: Any, lower: Any = False) -> Any:
    # SciPy leaves numbers of no meaning in the other triangle; here they are zeros.
    return _cholesky(t, a, lower), lower


@scipy("linalg.cho_solve")
def _cho_solve(t: Trace, c_and_lower: Any, b: Any) -> Any:
    factor, lower = c_and_lower
    first = _solve_triangular(t, factor, b, 0 if lower else 1, lower)
    return _solve_triangular(t, factor, first, 1 if lower else 0, lower)


@scipy("linalg.solve_triangular")
def _solve_triangular(
    t: Trace, a: Any, b: Any, trans: Any = 0, lower: Any = False, unit_diagonal: Any = False
) -> Any:
    x = _square(t, a, "linalg.solve_triangular")
    if unit_diagonal:
        eye = np.eye(x.shape[-1], dtype=bool)
        x = np.where(eye, 1.0, x)
    is_turned = trans in (1, 2, "T", "C")
    if is_turned:
        x = _turned(x)
    is_lower = bool(lower) != is_turned
    return system(t, x, b, "solve_triangular", programs.triangular_solve, lower=is_lower)


@scipy("linalg.solve")
def _solve(
    t: Trace, a: Any, b: Any, lower: Any = False, assume_a: Any = None, transposed: Any = False
) -> Any:
    x = _square(t, a, "linalg.solve")
    kind = {"symmetric": "sym", "positive definite": "pos", "her": "sym", "hermitian": "sym"}.get(
        str(assume_a), assume_a
    )
    if kind in ("sym", "pos"):  # one triangle is read
        part = np.tril(x) if lower else np.triu(x)
        x = part + _turned(part) - part * np.eye(x.shape[-1])
    elif kind in ("lower triangular", "upper triangular"):
        x = np.tril(x) if kind == "lower triangular" else np.triu(x)
    elif kind not in (None, "gen", "general"):
        help = "leave it out: the system is solved as a general one"
        raise refuse("GC0560", f"scipy.linalg.solve with assume_a={assume_a!r}", help)
    return np.linalg.solve(_turned(x) if transposed else x, traced(t, b))


@scipy("linalg.inv")
def _inv(t: Trace, a: Any, assume_a: Any = None) -> Any:
    if assume_a not in (None, "gen", "general"):
        raise refuse("GC0560", f"scipy.linalg.inv with assume_a={assume_a!r}", "leave it out")
    return np.linalg.inv(_square(t, a, "linalg.inv"))


@scipy("linalg.det")
def _det(t: Trace, a: Any) -> Any:
    return np.linalg.det(_square(t, a, "linalg.det"))


@scipy("linalg.pinv")
def _pinv(t: Trace, a: Any, rtol: Any = None) -> Any:
    x = floats(t, a)
    bound = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rtol is None else rtol
    return np.linalg.pinv(x, rcond=bound)


@scipy("linalg.lstsq")
def _lstsq(t: Trace, a: Any, b: Any, cond: Any = None) -> Any:
    x = floats(t, a)
    bound = float(np.finfo(x.dtype).eps) if cond is None else cond
    return np.linalg.lstsq(x, traced(t, b), rcond=bound)


@scipy("linalg.eigh")
def _eigh(
    t: Trace, a: Any, lower: Any = True, eigvals_only: Any = False, subset_by_index: Any = None
) -> Any:
    x = _square(t, a, "linalg.eigh")
    values, vectors = np.linalg.eigh(x, UPLO="L" if lower else "U")
    if subset_by_index is not None:
        first, last = subset_by_index
        values, vectors = values[..., first : last + 1], vectors[..., first : last + 1]
    return values if eigvals_only else (values, vectors)


@scipy("linalg.eigvalsh")
def _eigvalsh(t: Trace, a: Any, lower: Any = True, subset_by_index: Any = None) -> Any:
    return _eigh(t, a, lower, True, subset_by_index)


@scipy("linalg.svd")
def _svd(t: Trace, a: Any, full_matrices: Any = True, compute_uv: Any = True) -> Any:
    x = floats(t, a)
    if not compute_uv:
        return np.linalg.svd(x, compute_uv=False)
    return tuple(np.linalg.svd(x, full_matrices=full_matrices))


@scipy("linalg.svdvals")
def _svdvals(t: Trace, a: Any) -> Any:
    return np.linalg.svd(floats(t, a), compute_uv=False)


@scipy("linalg.qr")
def _qr(t: Trace, a: Any, mode: Any = "full") -> Any:
    x = floats(t, a)
    if mode == "r":
        found: Any = np.linalg.qr(x, mode="r")
        missing = x.shape[-2] - found.shape[-2]
        rows = ((0, 0),) * (found.ndim - 2) + ((0, missing), (0, 0))
        return (np.pad(found, rows),)
    names: dict[Any, Any] = {"full": "complete", "economic": "reduced"}
    if mode not in names:
        raise refuse("GC0560", f"scipy.linalg.qr with mode={mode!r} cannot be traced")
    return tuple(np.linalg.qr(x, mode=names[mode]))


@scipy("linalg.norm")
def _norm(t: Trace, a: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    return np.linalg.norm(traced(t, a), ord=ord, axis=axis, keepdims=keepdims)


# --- matrices made of others


@scipy("linalg.block_diag")
def _block_diag(t: Trace, arrs: Any) -> Any:
    parts = [np.atleast_2d(traced(t, a)) for a in arrs]
    width = sum(p.shape[-1] for p in parts)
    rows, at = [], 0
    for p in parts:
        rows.append(np.pad(p, ((0, 0), (at, width - at - p.shape[-1]))))
        at += p.shape[-1]
    return np.concatenate(rows, axis=0)


@scipy("linalg.toeplitz")
def _toeplitz(t: Trace, c: Any, r: Any = None) -> Any:
    column = np.ravel(traced(t, c))
    row = column if r is None else np.ravel(traced(t, r))
    n, m = column.shape[0], row.shape[0]
    line = np.concatenate([column[::-1], row[1:]])
    return line[np.arange(n)[::-1, None] + np.arange(m)]


@scipy("linalg.hankel")
def _hankel(t: Trace, c: Any, r: Any = None) -> Any:
    column = np.ravel(traced(t, c))
    row = np.zeros_like(column) if r is None else np.ravel(traced(t, r))
    line = np.concatenate([column, row[1:]])
    return line[np.arange(column.shape[0])[:, None] + np.arange(row.shape[0])]


@scipy("linalg.circulant")
def _circulant(t: Trace, c: Any) -> Any:
    line = traced(t, c)
    n = line.shape[-1]
    return line[..., (np.arange(n)[:, None] - np.arange(n)) % n]


# --- systems with structure, and matrix equations


@scipy("linalg.solve_banded")
def _solve_banded(t: Trace, l_and_u: Any, ab: Any, b: Any) -> Any:
    lower, upper = map(int, l_and_u)
    bands = traced(t, ab)
    n = bands.shape[-1]
    if bands.shape[0] != lower + upper + 1:
        message = f"solve_banded: {bands.shape[0]} bands, and l + u + 1 is {lower + upper + 1}"
        raise refuse("GC0558", message)
    i, j = np.indices((n, n))
    place = upper + i - j
    is_band = (place >= 0) & (place <= lower + upper)
    dense = np.where(is_band, bands[np.where(is_band, place, 0), j], 0.0)
    return np.linalg.solve(dense, traced(t, b))


@scipy("linalg.solveh_banded")
def _solveh_banded(t: Trace, ab: Any, b: Any, lower: Any = False) -> Any:
    bands = traced(t, ab)
    n, most = bands.shape[-1], bands.shape[0] - 1
    i, j = np.indices((n, n))
    low, high = np.maximum(i, j), np.minimum(i, j)
    is_band = low - high <= most
    gap = np.where(is_band, low - high, 0)
    dense = bands[gap, high] if lower else bands[most - gap, low]
    return np.linalg.solve(np.where(is_band, dense, 0.0), traced(t, b))


@scipy("linalg.solve_toeplitz")
def _solve_toeplitz(t: Trace, c_or_cr: Any, b: Any) -> Any:
    parts = c_or_cr if isinstance(c_or_cr, tuple) else (c_or_cr, None)
    return np.linalg.solve(_toeplitz(t, *parts), traced(t, b))


@scipy("linalg.solve_circulant")
def _solve_circulant(t: Trace, c: Any, b: Any) -> Any:
    return np.linalg.solve(_circulant(t, c), traced(t, b))


@scipy("linalg.solve_sylvester")
def _solve_sylvester(t: Trace, a: Any, b: Any, q: Any) -> Any:
    x, y = _square(t, a, "linalg.solve_sylvester"), _square(t, b, "linalg.solve_sylvester")
    n, m = x.shape[-1], y.shape[-1]
    table = _joined(n, m, np.kron(x, np.eye(m)) + np.kron(np.eye(n), _turned(y)), "sylvester")
    return np.reshape(np.linalg.solve(table, np.reshape(traced(t, q), (-1,))), (n, m))


def _joined(n: int, m: int, table: Any, name: str) -> Any:
    if n * m > _MOST_UNKNOWNS:
        help = "it is solved as one system of all unknowns"
        raise refuse("GC0560", f"linalg.solve_{name} of more than {_MOST_UNKNOWNS} unknowns", help)
    return table


@scipy("linalg.solve_continuous_lyapunov", "linalg.solve_lyapunov")
def _lyapunov(t: Trace, a: Any, q: Any) -> Any:
    x = _square(t, a, "linalg.solve_continuous_lyapunov")
    return _solve_sylvester(t, x, _turned(x), q)


@scipy("linalg.solve_discrete_lyapunov")
def _discrete_lyapunov(t: Trace, a: Any, q: Any) -> Any:
    x = _square(t, a, "linalg.solve_discrete_lyapunov")
    n = x.shape[-1]
    table = _joined(n, n, np.eye(n * n) - np.kron(x, x), "discrete_lyapunov")
    return np.reshape(np.linalg.solve(table, np.reshape(traced(t, q), (-1,))), (n, n))


# --- functions of matrices

# Pade's coefficients of order 13, and the norm up to which they are exact to rounding (Higham, The
# scaling and squaring method for the matrix exponential revisited, 2005).
_PADE = (
    *(64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0),
    *(129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0),
    *(40840800.0, 960960.0, 16380.0, 182.0, 1.0),
)
_PADE_BOUND = 5.371920351148152
_MOST_SQUARINGS = 24


@scipy("linalg.expm")
def _expm(t: Trace, A: Any) -> Any:
    x = _square(t, A, "linalg.expm")
    size = np.max(np.sum(np.abs(x), axis=-2), axis=-1, keepdims=True)[..., None]
    steps = held(np.ceil(np.log2(np.maximum(size / _PADE_BOUND, 1.0))))
    x = x / np.exp2(steps)
    eye = np.eye(x.shape[-1])
    square = np.matmul(x, x)
    powers: list[Any] = [eye, square]
    while len(powers) < 7:
        powers.append(np.matmul(powers[-1], square))
    even = sum(c * p for c, p in zip(_PADE[0::2], powers, strict=True))
    odd = np.matmul(x, sum(c * p for c, p in zip(_PADE[1::2], powers, strict=True)))
    found = np.linalg.solve(even - odd, even + odd)
    found = fori_loop(
        0, _MOST_SQUARINGS, lambda i, y: np.where(steps > i, np.matmul(y, y), y), found
    )
    return np.where(steps <= _MOST_SQUARINGS, found, np.nan)


@scipy("linalg.sqrtm")
def _sqrtm(t: Trace, A: Any) -> Any:
    """Newton's iteration of Denman and Beavers, scaled by determinants; then one check."""
    x = _square(t, A, "linalg.sqrtm")
    n = x.shape[-1]

    def step(_: Any, pair: Any) -> Any:
        y, z = pair
        sizes = np.linalg.slogdet(y)[1] + np.linalg.slogdet(z)[1]
        scale = held(np.exp(-sizes / (2 * n)))[..., None, None]
        first, second = np.linalg.inv(z), np.linalg.inv(y)
        return 0.5 * (scale * y + first / scale), 0.5 * (scale * z + second / scale)

    root, _ = fori_loop(0, 20, step, (x, np.zeros_like(x) + np.eye(n)))
    gap = np.max(np.abs(np.matmul(root, root) - x))
    return np.where(gap <= 1e-9 * np.max(np.abs(x)), root, np.nan)
