"""numpy.linalg: what is composed of the programs of ``ir/ops/linalg.py``.

Importing this module adds to ``trace.FUNCTIONS``. Shapes and results are NumPy's; a matrix that
NumPy refuses when it sees its numbers (singular, not positive) gives NaN or infinity here.
Eigenvectors and singular vectors have signs of their own: what does not depend on them is NumPy's.

Non-goals: eigenvalues of matrices that are not symmetric, which are complex; full bases of tall
matrices.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.ops import linalg as programs
from gradc.ir.tensor.core import Value
from gradc.runtime.tracing.functions import axes_of
from gradc.runtime.tracing.reductions import is_unset
from gradc.runtime.tracing.shapes import function, traced
from gradc.runtime.tracing.trace import Trace, refuse, user_span

SlogdetResult = namedtuple("SlogdetResult", ("sign", "logabsdet"))
EighResult = namedtuple("EighResult", ("eigenvalues", "eigenvectors"))
QRResult = namedtuple("QRResult", ("Q", "R"))
SVDResult = namedtuple("SVDResult", ("U", "S", "Vh"))


def _matrix(t: Trace, a: Any, name: str, square: bool = True) -> Value:
    value = t.as_float(t.lift(a))
    shape = value.type.static_shape
    if len(shape) < 2 or (square and shape[-1] != shape[-2]):
        wanted = "a square matrix" if square else "a matrix"
        raise refuse("GC0558", f"linalg.{name} takes {wanted}, not {value.type}")
    return value


def run(t: Trace, program: Callable[..., Any], *operands: Value, **options: Any) -> Any:
    """One of the programs, at the user's line."""
    with t.builder.at(user_span()):
        found = program(t.builder, *operands, **options)
    return tuple(map(t.wrap, found)) if isinstance(found, tuple) else t.wrap(found)


def _batched(t: Trace, a: Value, right: Value) -> tuple[Value, Value]:
    """Both with the same leading axes and type."""
    common = np.broadcast_shapes(a.type.static_shape[:-2], right.type.static_shape[:-2])
    left = t.broadcast(a, (*common, *a.type.static_shape[-2:]))
    return left, t.broadcast(right, (*common, *right.type.static_shape[-2:]))


def system(t: Trace, a: Any, b: Any, name: str, program: Callable[..., Any], **options: Any) -> Any:
    """A solution with NumPy's rule for vectors: ``b`` of one axis is one."""
    x, y = traced(t, a), traced(t, b)
    common = np.result_type(x.dtype, y.dtype, np.float32)
    common = common if common.kind == "f" else np.dtype(np.float64)
    left = _matrix(t, x.astype(common), name)
    right: Any = y.astype(common)
    is_vector = right.ndim == 1
    if is_vector:
        right = right[:, None]
    if right.ndim < 2 or right.shape[-2] != left.type.static_shape[-1]:
        raise refuse("GC0558", f"linalg.{name}: {left.type} and {y.shape} do not fit")
    found = run(t, program, *_batched(t, left, right.value), **options)
    return found[..., 0] if is_vector else found


@function("linalg.solve")
def _solve(t: Trace, a: Any, b: Any) -> Any:
    return system(t, a, b, "solve", programs.solve)


@function("linalg.inv")
def _inv(t: Trace, a: Any) -> Any:
    return run(t, programs.inverse, _matrix(t, a, "inv"))


@function("linalg.slogdet")
def _slogdet(t: Trace, a: Any) -> Any:
    return SlogdetResult(*run(t, programs.determinant, _matrix(t, a, "slogdet")))


@function("linalg.det")
def _det(t: Trace, a: Any) -> Any:
    sign, size = run(t, programs.determinant, _matrix(t, a, "det"))
    return sign * np.exp(size)


@function("linalg.cholesky")
def _cholesky(t: Trace, a: Any, /, *, upper: bool = False) -> Any:
    value = _matrix(t, a, "cholesky")
    if upper:
        value = t.lift(np.swapaxes(traced(t, a), -1, -2))
    found = run(t, programs.cholesky, value)
    return np.swapaxes(found, -1, -2) if upper else found


@function("linalg.eigh")
def _eigh(t: Trace, a: Any, UPLO: str = "L") -> Any:
    value = _matrix(t, a, "eigh")
    if UPLO.upper() == "U":
        value = t.lift(np.swapaxes(t.wrap(value), -1, -2))
    return EighResult(*run(t, programs.eigh, value))


@function("linalg.eigvalsh")
def _eigvalsh(t: Trace, a: Any, UPLO: str = "L") -> Any:
    return _eigh(t, a, UPLO)[0]


@function("linalg.qr")
def _qr(t: Trace, a: Any, mode: str = "reduced") -> Any:
    value = _matrix(t, a, "qr", False)
    rows, columns = value.type.static_shape[-2:]
    if mode == "complete" and rows <= columns:
        mode = "reduced"
    if mode not in ("reduced", "r"):
        help = "use mode='reduced': its columns span the same space"
        raise refuse("GC0560", f"numpy.linalg.qr with mode {mode!r} cannot be traced", help)
    found = run(t, programs.qr, value)
    return found[1] if mode == "r" else QRResult(*found)


def _mirrored(t: Trace, a: Any) -> Any:
    """What NumPy takes a matrix for that is said to be symmetric: it reads the lower triangle."""
    x = traced(t, a)
    return np.tril(x) + np.swapaxes(np.tril(x, -1), -1, -2)


@function("linalg.svd")
def _svd(
    t: Trace, a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    value = _matrix(t, _mirrored(t, a) if hermitian else a, "svd", False)
    rows, columns = value.type.static_shape[-2:]
    if full_matrices and compute_uv and rows != columns:
        help = (
            "write numpy.linalg.svd(a, full_matrices=False); the other columns have no derivative"
        )
        raise refuse("GC0560", "numpy.linalg.svd of a matrix that is not square needs that", help)
    found = run(t, programs.svd, value)
    return SVDResult(*found) if compute_uv else found[1]


@function("linalg.svdvals")
def _svdvals(t: Trace, x: Any, /) -> Any:
    return np.linalg.svd(traced(t, x), compute_uv=False)


@function("linalg.pinv")
def _pinv(t: Trace, a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    x = _mirrored(t, a) if hermitian else traced(t, a)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    tolerance: Any = rcond if not is_unset(rcond) else rtol
    if is_unset(tolerance):
        tolerance = 1e-15
    small = s <= np.max(s, axis=-1, keepdims=True) * tolerance
    inverse = np.where(small, 0.0, 1 / np.where(small, 1.0, s))
    return np.matmul(np.swapaxes(vt, -1, -2) * inverse[..., None, :], np.swapaxes(u, -1, -2))


@function("linalg.lstsq")
def _lstsq(t: Trace, a: Any, b: Any, rcond: Any = None) -> Any:
    x, y = traced(t, a), traced(t, b)
    eps = float(np.finfo(x.dtype).eps) * max(x.shape)
    tolerance = eps if rcond is None else rcond
    found = np.matmul(np.linalg.pinv(x, rcond=tolerance), y)
    rows, columns = x.shape
    gap = y - np.matmul(x, found)
    residual: Any = np.sum(gap * gap, axis=0)
    residual = np.atleast_1d(residual) if rows > columns else np.zeros(0)
    values = np.linalg.svd(x, compute_uv=False)
    return found, residual, np.sum(values > values[0] * tolerance), values


@function("linalg.matrix_rank")
def _matrix_rank(
    t: Trace, A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None
) -> Any:
    x = _mirrored(t, A) if hermitian else traced(t, A)
    values = np.linalg.svd(x, compute_uv=False)
    least = tol
    if is_unset(least):
        factor = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if is_unset(rtol) else rtol
        least = np.max(values, axis=-1, keepdims=True) * factor
    return np.sum(values > least, axis=-1)


@function("linalg.cond")
def _cond(t: Trace, x: Any, p: Any = None) -> Any:
    value = traced(t, x)
    if p is None or p in (2, -2):
        s = np.linalg.svd(value, compute_uv=False)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    of = np.linalg.norm(value, ord=p, axis=(-2, -1))
    return of * np.linalg.norm(np.linalg.inv(value), ord=p, axis=(-2, -1))


@function("linalg.matrix_power")
def _matrix_power(t: Trace, a: Any, n: int) -> Any:
    x = traced(t, a)
    _matrix(t, x, "matrix_power")
    if n < 0:
        x, n = np.linalg.inv(x), -n
    found: Any = None
    while n:
        if n % 2:
            found = x if found is None else np.matmul(found, x)
        x = np.matmul(x, x) if n > 1 else x
        n //= 2
    if found is None:
        return np.zeros_like(x) + np.eye(x.shape[-1])
    return found


@function("linalg.tensorsolve")
def _tensorsolve(t: Trace, a: Any, b: Any, axes: Any = None) -> Any:
    x, y = traced(t, a), traced(t, b)
    if axes is not None:
        order = [i for i in range(x.ndim) if i not in axes]
        x = np.transpose(x, order + list(axes))
    shape = x.shape[y.ndim :]
    flat = np.reshape(x, (math.prod(y.shape), -1))
    return np.reshape(np.linalg.solve(flat, np.ravel(y)), shape)


@function("linalg.tensorinv")
def _tensorinv(t: Trace, a: Any, ind: int = 2) -> Any:
    x = traced(t, a)
    head, tail = x.shape[:ind], x.shape[ind:]
    return np.reshape(np.linalg.inv(np.reshape(x, (math.prod(head), -1))), tail + head)


# --- norms


def _root(t: Trace, x: Any) -> Any:
    """The root of a sum of squares: slope 0 where it is 0."""
    return t.wrap(t.special("root_of_squares", x.value))


def _vector_norm(t: Trace, x: Any, order: Any, axes: Any, keep: bool) -> Any:
    if order is None or order == 2:
        return _root(t, np.sum(x * x, axis=axes, keepdims=keep))
    size = np.abs(x)
    if order == np.inf:
        return np.max(size, axis=axes, keepdims=keep)
    if order == -np.inf:
        return np.min(size, axis=axes, keepdims=keep)
    if order == 0:
        return np.sum(np.where(x != 0, 1.0, 0.0), axis=axes, keepdims=keep)
    if order == 1:
        return np.sum(size, axis=axes, keepdims=keep)
    total = np.sum(size**order, axis=axes, keepdims=keep)
    flat = total == 0
    return np.where(flat, 0.0, np.where(flat, 1.0, total) ** (1.0 / order))


def _matrix_norm(t: Trace, x: Any, order: Any, axes: tuple[int, int], keep: bool) -> Any:
    row, column = axes
    if order is None or order == "fro":
        return _root(t, np.sum(x * x, axis=axes, keepdims=keep))
    if order in (1, -1, np.inf, -np.inf):
        along, over = (row, column) if abs(order) == 1 else (column, row)
        sums = np.sum(np.abs(x), axis=along, keepdims=True)
        found = (np.max if order > 0 else np.min)(sums, axis=over, keepdims=True)
    elif order in (2, -2, "nuc"):
        values = np.linalg.svd(np.moveaxis(x, axes, (-2, -1)), compute_uv=False)
        picked = {2: values[..., 0], -2: values[..., -1], "nuc": np.sum(values, axis=-1)}[order]
        return np.expand_dims(picked, axes) if keep else picked
    else:
        raise refuse("GC0558", f"linalg.norm: no norm {order!r} of matrices")
    return found if keep else np.squeeze(found, axis=axes)


@function("linalg.norm")
def _norm(t: Trace, x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    value: Any = t.wrap(t.as_float(t.lift(x)))
    keep = bool(keepdims)
    if axis is None and (ord is None or value.ndim == 1):
        flat = np.ravel(value) if ord is None else value
        found = _vector_norm(t, flat, ord, None, False)
        return np.reshape(found, (1,) * value.ndim) if keep else found
    axes = axes_of(value.value, axis)
    if axis is not None and isinstance(axis, (tuple, list)) and len(axis) == 2:
        axes = (axis[0] % value.ndim, axis[1] % value.ndim)
    if len(axes) == 1:
        return _vector_norm(t, value, ord, axes[0], keep)
    if len(axes) != 2:
        raise refuse("GC0558", f"linalg.norm takes one axis or two, not {len(axes)}")
    return _matrix_norm(t, value, ord, (axes[0], axes[1]), keep)


@function("linalg.vector_norm")
def _vector_norm_of(
    t: Trace, x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2
) -> Any:
    value: Any = t.wrap(t.as_float(t.lift(x)))
    return _vector_norm(t, value, ord, axis, keepdims)


@function("linalg.matrix_norm")
def _matrix_norm_of(t: Trace, x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    value: Any = t.wrap(t.as_float(t.lift(x)))
    return _matrix_norm(t, value, ord, (value.ndim - 2, value.ndim - 1), keepdims)
