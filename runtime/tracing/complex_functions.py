"""NumPy's functions of complex arrays: which have the rule that real ones have, and the others'
rules.

Importing this module adds to ``trace.WITH_COMPLEX``, ``FUNCTIONS`` and ``UFUNCS``. What is not
listed is refused: most functions that compare, round or square mean something else, or nothing.

Non-goals: eigenvalues of matrices that are not real and symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import Value
from gradc.runtime.tracing.complexes import as_pair, conjugate, whole, whole_power
from gradc.runtime.tracing.functions import axes_of
from gradc.runtime.tracing.pairs import Pair, pair
from gradc.runtime.tracing.reductions import is_unset, mean_of, restore
from gradc.runtime.tracing.shapes import Rule, traced
from gradc.runtime.tracing.trace import FUNCTIONS, PROTOCOLS, WITH_COMPLEX, Trace, Traced, refuse

# These move, join, add or multiply elements, and nothing else.
SAME = (
    *("where", "transpose", "swapaxes", "reshape", "ravel", "concatenate", "stack", "expand_dims"),
    *("broadcast_to", "dot", "astype", "getitem", "sum", "prod", "mean", "cumsum", "cumprod"),
    *("einsum", "outer", "inner", "tensordot", "squeeze", "flip", "split", "permute_dims"),
    *("matrix_transpose", "linalg.matrix_transpose", "moveaxis", "rollaxis", "rot90", "fliplr"),
    *("flipud", "roll", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_arrays", "meshgrid"),
    *("resize", "vstack", "hstack", "dstack", "column_stack", "append", "block", "insert"),
    *("array_split", "vsplit", "hsplit", "dsplit", "unstack", "delete", "compress", "extract"),
    *("repeat", "tile", "diag", "diagflat", "diagonal", "linalg.diagonal", "trace"),
    *("linalg.trace", "tril", "triu", "pad", "take", "take_along_axis", "choose", "select"),
    *("diff", "ediff1d", "gradient", "trapezoid", "cumulative_sum", "cumulative_prod", "cross"),
    *("linalg.cross", "kron", "linalg.outer", "linalg.matmul", "linalg.tensordot"),
    *("linalg.multi_dot", "convolve", "polyval", "polyadd", "polysub", "polymul", "polyder"),
    *("polyint", "vander", "average", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("shape", "ndim", "size", "copy", "any", "all", "count_nonzero", "isclose", "allclose"),
    *("array_equal", "fftshift", "ifftshift", "fft.fftshift", "fft.ifftshift", "piecewise"),
    *("round", "around", "linalg.matrix_power"),
)
WITH_COMPLEX.update({name: None for name in SAME})


def _named(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        WITH_COMPLEX.update(dict.fromkeys(names, rule))
        return rule

    return add


# --- parts


@_named("real")
def _real(t: Trace, val: Any) -> Any:
    return t.wrap(as_pair(t.lift(val)).re)


@_named("imag")
def _imag(t: Trace, val: Any) -> Any:
    return t.wrap(whole(t, t.lift(val))[1])


def _set_part(t: Trace, array: Any, name: str, item: Any) -> Value:
    """``array.real = item`` or ``array.imag = item``."""
    old = t.lift(array)
    if not isinstance(old, Pair) and name == "imag":
        raise refuse("GC0560", "a real array has no imaginary part to set", "array.astype(complex)")
    re, im = whole(t, old)
    new = t.broadcast(t.cast(t.lift(item, re.type.dtype), re.type.dtype), re.type.static_shape)
    if not isinstance(old, Pair):
        return new
    return pair(new, im) if name == "real" else pair(re, new)


PROTOCOLS["set part"] = _set_part


@_named("angle")
def _angle(t: Trace, z: Any, deg: bool = False) -> Any:
    re, im = whole(t, t.lift(z))
    found = t.wrap(t.special("arctan2", im, re))
    return found * (180 / np.pi) if deg else found


@_named("ufunc.conjugate")
def _conjugate(t: Trace, x: Any) -> Value:
    return conjugate(t, as_pair(t.lift(x)))


@_named("isreal", "iscomplex")
def _is_real(t: Trace, x: Any) -> Any:
    im = whole(t, t.lift(x))[1]
    return t.wrap(t.emit("eq", im, t.constant(0.0, im.type.dtype, im.type.shape)))


def _iscomplex(t: Trace, x: Any) -> Any:
    return np.logical_not(_is_real(t, x))


WITH_COMPLEX["iscomplex"] = _iscomplex
WITH_COMPLEX["isrealobj"] = lambda t, x: False
WITH_COMPLEX["iscomplexobj"] = lambda t, x: True


@_named("real_if_close")
def _real_if_close(t: Trace, a: Any, tol: float = 100) -> Any:
    message = "numpy.real_if_close decides by values whether its result is complex"
    raise refuse("GC0560", message, "take numpy.real(x)")


# --- powers


@_named("ufunc.power", "ufunc.float_power")
def _power(t: Trace, a: Any, b: Any) -> Value:
    """Whole exponents that are known multiply, as in NumPy; others go through the logarithm."""
    x, y = t.promote([a, b])
    exponent = _whole_number(b)
    if exponent is not None and abs(exponent) <= 100:
        return whole_power(t, x, exponent)
    return t.emit("pow", x, y)


def _whole_number(b: Any) -> int | None:
    if type(b) is Traced or not isinstance(b, (int, float, complex, np.generic)):
        return None
    number = complex(b)
    if number.imag or not number.real.is_integer():
        return None
    return int(number.real)


# --- sums of squares


@_named("var")
def _variance(t: Trace, a: Any, axis: Any = None, **options: Any) -> Any:
    known = {k: v for k, v in options.items() if not is_unset(v)}
    keep, ddof = known.pop("keepdims", False), known.pop("ddof", 0)
    if known:
        raise refuse("GC0560", f"numpy.var of complex numbers with {', '.join(known)}=")
    value = t.lift(a)
    axes = axes_of(value, axis)
    centre = restore(t, mean_of(t, value, axes), value, axes, True)
    gap = as_pair(t.emit("sub", value, t.broadcast(centre, value.type.static_shape)))
    squares = _squares(t, gap)
    return t.wrap(restore(t, mean_of(t, squares, axes, None, float(ddof)), squares, axes, keep))


def _squares(t: Trace, z: Pair) -> Value:
    re, im = whole(t, z)
    return t.emit("add", t.emit("mul", re, re), t.emit("mul", im, im))


@_named("std")
def _deviation(t: Trace, a: Any, axis: Any = None, **options: Any) -> Any:
    return t.wrap(t.special("root_of_squares", _variance(t, a, axis, **options).value))


@_named("linalg.norm")
def _norm(t: Trace, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    value = traced(t, x)
    rank = value.ndim if axis is None else len(axis) if isinstance(axis, tuple) else 1
    if rank == 2 and ord in (2, -2, "nuc"):
        if value.ndim != 2 or keepdims:
            raise refuse("GC0560", f"linalg.norm of order {ord} takes one complex matrix")
        return np.linalg.norm(_real_matrix(t, value), ord) / (2 if ord == "nuc" else 1)
    return np.linalg.norm(np.abs(value), ord, axis, keepdims)


@_named("linalg.vector_norm")
def _vector_norm(t: Trace, x: Any, /, **options: Any) -> Any:
    return np.linalg.vector_norm(np.abs(traced(t, x)), **options)


# --- products that conjugate


@_named("vdot")
def _vdot(t: Trace, a: Any, b: Any) -> Any:
    return np.dot(np.conj(np.ravel(traced(t, a))), np.ravel(traced(t, b)))


@_named("linalg.vecdot")
def _vecdot(t: Trace, x1: Any, x2: Any, *, axis: int = -1) -> Any:
    return np.sum(np.conj(traced(t, x1)) * traced(t, x2), axis=axis)


WITH_COMPLEX["ufunc.vecdot"] = lambda t, a, b: t.lift(_vecdot(t, a, b))
WITH_COMPLEX["ufunc.vecmat"] = lambda t, a, b: t.lift(
    np.matmul(np.conj(traced(t, a))[..., None, :], traced(t, b))[..., 0, :]
)


@_named("correlate")
def _correlate(t: Trace, a: Any, v: Any, mode: Any = "valid") -> Any:
    rule: Any = FUNCTIONS["correlate"]
    x, y = traced(t, a), traced(t, v)
    if y.shape[0] > x.shape[0]:
        return np.conj(rule(t, np.conj(x), y, mode))
    return rule(t, x, np.conj(y), mode)


# --- linear systems: the real matrix [[A, -B], [B, A]] acts on stacked parts as A + iB does


def _real_matrix(t: Trace, a: Any) -> Any:
    re, im = (t.wrap(part) for part in whole(t, t.lift(a)))
    rows = [np.concatenate(row, axis=-1) for row in ([re, -im], [im, re])]
    return np.concatenate(rows, axis=-2)


def _as_complex(t: Trace, re: Any, im: Any) -> Any:
    return t.wrap(pair(t.lift(re), t.lift(im)))


@_named("linalg.solve")
def _solve(t: Trace, a: Any, b: Any) -> Any:
    x, y = traced(t, a), traced(t, b)
    x, y = (v.astype(np.result_type(x.dtype, y.dtype)) for v in (x, y))
    is_vector = y.ndim == 1
    right = y[:, None] if is_vector else y
    parts = np.concatenate([t.wrap(part) for part in whole(t, right.value)], axis=-2)
    found = np.linalg.solve(_real_matrix(t, x), parts)
    n = x.shape[-1]
    made = _as_complex(t, found[..., :n, :], found[..., n:, :])
    return made[..., 0] if is_vector else made


@_named("linalg.inv")
def _inv(t: Trace, a: Any) -> Any:
    found = np.linalg.inv(_real_matrix(t, a))
    n = traced(t, a).shape[-1]
    return _as_complex(t, found[..., :n, :n], found[..., n:, :n])


# Of a Hermitian matrix the real one has every eigenvalue twice, and every vector of a pair of
# them gives the slope of the complex one's; likewise singular values.


@_named("linalg.eigvalsh")
def _eigvalsh(t: Trace, a: Any, UPLO: str = "L") -> Any:
    x = traced(t, a)
    lower = np.tril(x, -1) if UPLO.upper() == "L" else np.swapaxes(np.triu(x, 1), -1, -2).conj()
    diagonal = np.real(np.where(np.eye(x.shape[-1], dtype=bool), x, 0))
    whole_ = lower + np.swapaxes(lower, -1, -2).conj() + diagonal
    return np.linalg.eigvalsh(_real_matrix(t, whole_))[..., ::2]


@_named("linalg.svdvals")
def _svdvals(t: Trace, x: Any, /) -> Any:
    return np.linalg.svd(_real_matrix(t, x), compute_uv=False)[..., ::2]


@_named("linalg.svd")
def _svd(
    t: Trace, a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False
) -> Any:
    if hermitian:
        message = "numpy.linalg.svd of complex matrices with hermitian=True cannot be traced"
        raise refuse("GC0560", message, "leave hermitian out")
    if compute_uv:
        help = "numpy.linalg.svdvals has the singular values alone"
        raise refuse("GC0560", "singular vectors of complex matrices cannot be traced", help)
    return _svdvals(t, a)
