"""What the traced functions are tried on: one row per entry of the tables (``name`` or ``name of a
variant``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RNG = np.random.default_rng(7)
A = RNG.standard_normal((3, 4))
B = RNG.standard_normal((3, 4))
POS = RNG.random((3, 4)) + 0.5
SQ = RNG.standard_normal((4, 4))
ROW = RNG.standard_normal(4)
CUBE = RNG.standard_normal((2, 3, 4))
HOLES = np.where(RNG.random((3, 4)) < 0.3, np.nan, A)
IDS = np.array([2, 0, 2, 1])
MASK = np.array([True, False, True, True])
POINTS = np.sort(RNG.standard_normal(6))

Case = tuple[Callable[..., Any], tuple[Any, ...]]


def parts(z: Any) -> Any:
    """Both parts of a complex array, as real results."""
    return np.stack([np.real(z), np.imag(z)])


def times(x: Any, condition: Any) -> Any:
    """``x`` where the condition holds, so that a truth has something to differentiate."""
    return np.where(condition, x, 2 * x)


ELEMENTWISE: dict[str, Case] = {
    "arcsin": (lambda x: np.arcsin(x / 4), (A,)),
    "arccos": (lambda x: np.arccos(x / 4), (A,)),
    "arctan": (np.arctan, (A,)),
    "arctan2": (np.arctan2, (A, B)),
    "arcsinh": (np.arcsinh, (A,)),
    "arccosh": (np.arccosh, (POS + 1,)),
    "arctanh": (lambda x: np.arctanh(x / 4), (A,)),
    "hypot": (np.hypot, (A, B)),
    "cbrt": (np.cbrt, (A,)),
    "remainder": (np.remainder, (A * 5, B)),
    "remainder by %": (lambda x: x % 0.7, (A,)),
    "fmod": (np.fmod, (A * 5, B)),
    "floor_divide": (lambda x, y: x * (x // y), (A * 5, B)),
    "divmod": (lambda x, y: divmod(x, y)[1] * divmod(x, y)[0], (A * 5, B)),
    "modf": (lambda x: np.modf(x)[0] * np.modf(x)[1], (A * 5,)),
    "trunc": (lambda x: np.trunc(x) * x, (A * 5,)),
    "ceil": (lambda x: np.ceil(x) * x, (A * 5,)),
    "fmax": (np.fmax, (A, B)),
    "fmax of nan": (lambda x: np.fmax(HOLES, x), (B,)),
    "fmin": (np.fmin, (A, B)),
    "isnan": (lambda x: times(x, np.isnan(x)), (A,)),
    "isinf": (lambda x: times(x, np.isinf(1 / np.rint(x))), (A,)),
    "isfinite": (lambda x: times(x, np.isfinite(x)), (A,)),
    "signbit": (lambda x: times(x, np.signbit(x)), (A,)),
    "copysign": (np.copysign, (A, B)),
    "heaviside": (lambda x: np.heaviside(x, 0.5) * x, (A,)),
    "degrees": (np.degrees, (A,)),
    "rad2deg": (np.rad2deg, (A,)),
    "radians": (np.radians, (A,)),
    "deg2rad": (np.deg2rad, (A,)),
    "logaddexp2": (np.logaddexp2, (A, B)),
    "logical_xor": (lambda x, y: times(x, np.logical_xor(x > 0, y > 0)), (A, B)),
    "bitwise_and": (lambda x, y: times(x, (x > 0) & (y > 0)), (A, B)),
    "bitwise_or": (lambda x, y: times(x, (x > 0) | (y > 0)), (A, B)),
    "bitwise_xor": (lambda x, y: times(x, (x > 0) ^ (y > 0)), (A, B)),
    "bitwise_and of integers": (lambda x: x * (np.rint(x * 9).astype(int) & 5), (A,)),
    "left_shift": (lambda x: x * (np.rint(x * 9).astype(int) << 2), (A,)),
    "right_shift": (lambda x: x * (np.rint(x * 9).astype(int) >> 1), (A,)),
    "invert": (lambda x: times(x, ~(x > 0)), (A,)),
    "invert of integers": (lambda x: x * ~np.rint(x * 9).astype(int), (A,)),
    "conjugate": (np.conjugate, (A,)),
    "vecdot": (np.vecdot, (A, B)),
    "matvec": (np.matvec, (CUBE, ROW)),
    "vecmat": (np.vecmat, (ROW, SQ)),
    "sinc": (np.sinc, (np.where(POS > 1, A, 0.0),)),
    "i0": (np.i0, (A * 5,)),
    "round": (lambda x: np.round(x, 1) * x, (A,)),
    "around": (lambda x: np.around(x) * x, (A,)),
    "fix": (lambda x: np.fix(x) * x, (A * 4,)),
    "nan_to_num": (lambda x: np.nan_to_num(x, nan=2.0), (HOLES,)),
    "isneginf": (lambda x: times(x, np.isneginf(x)), (A,)),
    "isposinf": (lambda x: times(x, np.isposinf(x)), (A,)),
    "isclose": (lambda x: times(x, np.isclose(x, x + 1e-9)), (A,)),
    "allclose": (lambda x: times(x, np.allclose(x, x + 1e-9)), (A,)),
    "array_equal": (lambda x, y: times(x, np.array_equal(x, y)), (A, B)),
    "unwrap": (lambda x: np.unwrap(x * 9), (A,)),
    "real": (np.real, (A,)),
    "imag": (lambda x: np.imag(x) + x, (A,)),
    "angle": (lambda x: np.angle(x) + x, (A,)),
    "real_if_close": (np.real_if_close, (A,)),
    "isreal": (lambda x: times(x, np.isreal(x)), (A,)),
    "iscomplex": (lambda x: times(x, np.iscomplex(x)), (A,)),
    "isrealobj": (lambda x: x * np.isrealobj(x), (A,)),
    "iscomplexobj": (lambda x: x * (1 + np.iscomplexobj(x)), (A,)),
}

SHAPES: dict[str, Case] = {
    "permute_dims": (lambda x: np.permute_dims(x, (2, 0, 1)), (CUBE,)),
    "matrix_transpose": (np.matrix_transpose, (CUBE,)),
    "linalg.matrix_transpose": (np.linalg.matrix_transpose, (CUBE,)),
    "moveaxis": (lambda x: np.moveaxis(x, (0, 1), (-1, 0)), (CUBE,)),
    "rollaxis": (lambda x: np.rollaxis(x, 2), (CUBE,)),
    "rollaxis to": (lambda x: np.rollaxis(x, 0, 3), (CUBE,)),
    "rot90": (lambda x: np.rot90(x, 3), (A,)),
    "fliplr": (np.fliplr, (A,)),
    "flipud": (np.flipud, (A,)),
    "roll": (lambda x: np.roll(x, (1, -2), (0, 1)), (A,)),
    "roll all": (lambda x: np.roll(x, 5), (A,)),
    "atleast_1d": (lambda x: np.atleast_1d(x[0, 0]), (A,)),
    "atleast_2d": (np.atleast_2d, (ROW,)),
    "atleast_3d": (np.atleast_3d, (A,)),
    "broadcast_arrays": (lambda x, y: np.broadcast_arrays(x, y)[1], (A, ROW)),
    "meshgrid": (lambda x, y: np.multiply(*np.meshgrid(x, y)), (ROW, POINTS)),
    "meshgrid ij": (lambda x, y: np.meshgrid(x, y, indexing="ij")[0], (ROW, POINTS)),
    "resize": (lambda x: np.resize(x, (5, 3)), (A,)),
    "vstack": (lambda x, y: np.vstack([x, y]), (A, ROW)),
    "hstack": (lambda x, y: np.hstack([x, y]), (A, B)),
    "hstack of rows": (lambda x: np.hstack([x, x]), (ROW,)),
    "dstack": (lambda x, y: np.dstack([x, y]), (A, B)),
    "column_stack": (lambda x, y: np.column_stack([x, y]), (A[:, 0], B)),
    "append": (lambda x: np.append(x, x[:1], axis=0), (A,)),
    "append all": (lambda x: np.append(x, 3.0), (A,)),
    "block": (lambda x, y: np.block([[x, y], [np.ones((1, 8))]]), (A, B)),
    "insert": (lambda x: np.insert(x, 1, x[0, 0], axis=1), (A,)),
    "insert many": (lambda x: np.insert(x, [1, 3], [5.0, 6.0]), (ROW,)),
    "array_split": (lambda x: np.array_split(x, 3, axis=1)[0], (A,)),
    "vsplit": (lambda x: np.vsplit(x, [1])[1], (A,)),
    "hsplit": (lambda x: np.hsplit(x, 2)[1], (A,)),
    "dsplit": (lambda x: np.dsplit(x, 2)[1], (CUBE,)),
    "unstack": (lambda x: np.unstack(x, axis=1)[2], (A,)),
    "delete": (lambda x: np.delete(x, [1], axis=1), (A,)),
    "compress": (lambda x: np.compress(MASK, x, axis=1), (A,)),
    "extract": (lambda x: np.extract(MASK, x), (ROW,)),
    "repeat": (lambda x: np.repeat(x, 3, axis=1), (A,)),
    "repeat counted": (lambda x: np.repeat(x, [1, 0, 2], axis=0), (A,)),
    "repeat all": (lambda x: np.repeat(x, 2), (A,)),
    "tile": (lambda x: np.tile(x, (2, 1, 3)), (A,)),
    "diag": (np.diag, (A,)),
    "diag made": (lambda x: np.diag(x, 1), (ROW,)),
    "diagflat": (np.diagflat, (A,)),
    "diagonal": (lambda x: np.diagonal(x, 1, 1, 2), (CUBE,)),
    "linalg.diagonal": (lambda x: np.linalg.diagonal(x, offset=-1), (CUBE,)),
    "trace": (lambda x: np.trace(x, 1), (CUBE,)),
    "linalg.trace": (np.linalg.trace, (CUBE,)),
    "tril": (lambda x: np.tril(x, -1), (CUBE,)),
    "triu": (lambda x: np.triu(x, 1), (SQ,)),
    "pad": (lambda x: np.pad(x, ((1, 2), (0, 1))), (A,)),
    "pad with a number": (lambda x: np.pad(x, 1, constant_values=3.0), (A,)),
    "pad with a border": (lambda x: np.pad(x, 2, mode="reflect"), (A,)),
    "pad at the edge": (lambda x: np.pad(x, (1, 2), "edge"), (A,)),
    "take": (lambda x: np.take(x, [0, -1], axis=1), (A,)),
    "take clipped": (lambda x: np.take(x, [0, 9], axis=1, mode="clip"), (A,)),
    "take one": (lambda x: np.take(x, -1, axis=0), (A,)),
    "take_along_axis": (lambda x: np.take_along_axis(x, IDS[None, :], axis=0), (A,)),
    "choose": (lambda x, y: np.choose(IDS, [x, y, x * y]), (ROW, ROW + 1)),
    "select": (lambda x: np.select([x > 1, x > 0], [x, x * x], 3.0), (A,)),
    "piecewise": (lambda x: np.piecewise(x, [x > 0], [lambda v: v * v, -1.0]), (A,)),
}

COMPOSED: dict[str, Case] = {
    "diff": (lambda x: np.diff(x, 2, axis=0), (A,)),
    "diff with ends": (lambda x: np.diff(x, prepend=0.0, append=x[:, :1]), (A,)),
    "ediff1d": (lambda x: np.ediff1d(x, to_end=[3.0]), (A,)),
    "gradient": (lambda x: np.gradient(x, 0.5, axis=1), (A,)),
    "gradient of all": (lambda x: np.gradient(x)[0], (A,)),
    "gradient uneven": (lambda x: np.gradient(x, POINTS, edge_order=2), (POINTS**2,)),
    "trapezoid": (lambda x: np.trapezoid(x, dx=0.3, axis=0), (A,)),
    "trapezoid between": (np.trapezoid, (A, np.sort(ROW))),
    "cumprod": (lambda x: np.cumprod(x, axis=1), (A,)),
    "cumprod with zeros": (np.cumprod, (np.array([2.0, 0.0, 3.0, 0.0, 1.5]),)),
    "cumsum": (lambda x: np.cumsum(x, axis=0), (A,)),
    "cumulative_sum": (lambda x: np.cumulative_sum(x, axis=1, include_initial=True), (A,)),
    "cumulative_prod": (lambda x: np.cumulative_prod(x, axis=1), (A,)),
    "cross": (np.cross, (A[:, :3], B[:, :3])),
    "cross of two": (np.cross, (A[:, :2], B[:, :3])),
    "linalg.cross": (np.linalg.cross, (A[:, :3], B[:, :3])),
    "kron": (np.kron, (A, SQ[:2])),
    "linalg.outer": (np.linalg.outer, (ROW, ROW + 1)),
    "linalg.matmul": (np.linalg.matmul, (A, SQ)),
    "linalg.tensordot": (lambda x, y: np.linalg.tensordot(x, y, axes=1), (A, SQ)),
    "linalg.vecdot": (np.linalg.vecdot, (A, B)),
    "linalg.multi_dot": (lambda x, y: np.linalg.multi_dot([x, y, y]), (A, SQ)),
    "convolve": (np.convolve, (ROW, POINTS)),
    "convolve same": (lambda x, y: np.convolve(x, y, "same"), (POINTS, ROW[:3])),
    "convolve valid": (lambda x, y: np.convolve(x, y, "valid"), (ROW, POINTS)),
    "correlate": (lambda x, y: np.correlate(x, y, "full"), (POINTS, ROW)),
    "correlate same": (lambda x, y: np.correlate(x, y, "same"), (POINTS, ROW[:3])),
    "average": (lambda x, w: np.average(x, axis=0, weights=w), (A, POS[:, 0])),
    "average plain": (lambda x: np.average(x, axis=1, keepdims=True), (A,)),
    "ptp": (lambda x: np.ptp(x, axis=1), (A,)),
    "cov": (np.cov, (A,)),
    "cov of columns": (lambda x: np.cov(x, rowvar=False, aweights=[0.2, 0.3, 0.4]), (A,)),
    "corrcoef": (np.corrcoef, (A,)),
    "nansum": (lambda x: np.nansum(x, axis=1), (HOLES,)),
    "nanprod": (lambda x: np.nanprod(x, axis=1), (HOLES,)),
    "nancumsum": (lambda x: np.nancumsum(x, axis=1), (HOLES,)),
    "nancumprod": (lambda x: np.nancumprod(x, axis=1), (HOLES,)),
    "nanmax": (lambda x: np.nanmax(x, axis=0), (HOLES,)),
    "nanmin": (np.nanmin, (HOLES,)),
    "nanmean": (lambda x: np.nanmean(x, axis=1), (HOLES,)),
    "nanvar": (lambda x: np.nanvar(x, axis=1), (HOLES,)),
    "nanstd": (lambda x: np.nanstd(x, ddof=1), (HOLES,)),
    "any": (lambda x: times(x, np.any(x > 1, axis=1, keepdims=True)), (A,)),
    "all": (lambda x: times(x, np.all(x > -1, axis=0)), (A,)),
    "count_nonzero": (lambda x: x * np.count_nonzero(np.rint(x), axis=0), (A,)),
    "argmax": (lambda x: x * np.argmax(x, axis=1, keepdims=True), (A,)),
    "argmin": (lambda x: x * np.argmin(x, axis=1)[:, None], (A,)),
    "nanargmax": (lambda x: np.nan_to_num(x) * np.nanargmax(x), (HOLES,)),
    "nanargmin": (lambda x: np.nan_to_num(x) * np.nanargmin(x), (HOLES,)),
    "searchsorted": (lambda x: x * np.searchsorted(POINTS, x), (A,)),
    "digitize": (lambda x: x * np.digitize(x, POINTS), (A,)),
    "bincount": (lambda w: np.bincount(IDS, weights=w, minlength=5), (ROW,)),
    "polyval": (np.polyval, (ROW, A)),
    "polyadd": (np.polyadd, (ROW, POINTS)),
    "polysub": (np.polysub, (ROW, POINTS)),
    "polymul": (np.polymul, (ROW, POINTS)),
    "polyder": (lambda p: np.polyder(p, 2), (ROW,)),
    "polyint": (lambda p: np.polyint(p, 2, [1.0, 2.0]), (ROW,)),
    "vander": (lambda x: np.vander(x, 5, increasing=True), (ROW,)),
    "interp": (lambda x, f: np.interp(x, POINTS, f), (A, POINTS**3)),
    "linspace": (lambda a, b: np.linspace(a, b, 5), (ROW, ROW + 2)),
    "logspace": (lambda a, b: np.logspace(a, b, 5), (ROW / 4, ROW / 3)),
    "geomspace": (lambda a, b: np.geomspace(a, b, 5), (POS[0], POS[1] + 1)),
    "apply_along_axis": (lambda x: np.apply_along_axis(np.cumsum, 0, x), (A,)),
    "apply_over_axes": (lambda x: np.apply_over_axes(np.sum, x, (0, 2)), (CUBE,)),
    "zeros_like": (lambda x: np.zeros_like(x) + x, (A,)),
    "empty_like": (lambda x: np.empty_like(x) * 0 + x, (A,)),
    "ones_like": (lambda x: np.ones_like(x) * x, (A,)),
    "full_like": (lambda x: np.full_like(x, 2.5) * x, (A,)),
    "fft.fft": (lambda x: parts(np.fft.fft(x, axis=0)), (A,)),
    "fft.fft of more points": (lambda x: parts(np.fft.fft(x, 7, norm="ortho")), (A,)),
    "fft.ifft": (lambda x, y: parts(np.fft.ifft(x + 1j * y, 3)), (A, B)),
    "fft.ifft forward": (lambda x: parts(np.fft.ifft(x, norm="forward")), (A,)),
    "fft.rfft": (lambda x: parts(np.fft.rfft(x, axis=0)), (A,)),
    "fft.rfft even": (lambda x: parts(np.fft.rfft(x, norm="forward")), (A,)),
    "fft.irfft": (lambda x, y: np.fft.irfft(x + 1j * y), (A, B)),
    "fft.irfft odd": (lambda x, y: np.fft.irfft(x + 1j * y, 9, axis=0), (A, B)),
    "fft.irfft of one": (lambda x: np.fft.irfft(x, 1), (A,)),
    "fft.hfft": (lambda x, y: np.fft.hfft(x + 1j * y, norm="ortho"), (A, B)),
    "fft.ihfft": (lambda x: parts(np.fft.ihfft(x)), (A,)),
    "fft.fft2": (lambda x: parts(np.fft.fft2(x, s=(2, 5))), (A,)),
    "fft.ifft2": (lambda x: parts(np.fft.ifft2(x, axes=(0, 2))), (CUBE,)),
    "fft.fftn": (lambda x: parts(np.fft.fftn(x, axes=(2, 0))), (CUBE,)),
    "fft.ifftn": (lambda x: parts(np.fft.ifftn(x)), (CUBE,)),
    "fft.rfft2": (lambda x: parts(np.fft.rfft2(x)), (CUBE,)),
    "fft.rfftn": (lambda x: parts(np.fft.rfftn(x, norm="ortho")), (CUBE,)),
    "fft.irfft2": (lambda x: np.fft.irfft2(x * (1 + 2j)), (CUBE,)),
    "fft.irfftn": (lambda x: np.fft.irfftn(x * (1 + 2j), s=(3, 5), axes=(1, 2)), (CUBE,)),
    "fft.fftshift": (np.fft.fftshift, (A[:, :3],)),
    "fft.ifftshift": (lambda x: np.fft.ifftshift(x, axes=1), (A[:, :3],)),
    "ndim": (lambda x: x * np.ndim(x), (A,)),
    "shape": (lambda x: x * np.shape(x)[1], (A,)),
    "size": (lambda x: x * np.size(x, 1), (A,)),
    "copy": (np.copy, (A,)),
    "einsum of a diagonal": (lambda x: np.einsum("ii->i", x), (SQ,)),
    "einsum of a trace": (lambda x: np.einsum("ii", x), (SQ,)),
    "einsum with an ellipsis": (lambda x, y: np.einsum("...ij,...j->...i", x, y), (CUBE, ROW)),
    "einsum that stretches": (lambda x, y: np.einsum("i...,i...->...", x, y), (A, B[:, :1])),
    "einsum by numbers": (lambda x, y: np.einsum(x, [0, 1], y, [1, 2], [0, 2]), (A, SQ)),
}

WELL = SQ + 3 * np.eye(4)
SPREAD = np.diag([1.0, 2.5, 4.0, 7.0]) + 0.3 * SQ
MANY = RNG.standard_normal((2, 3, 3)) + 2 * np.eye(3)
TALL = RNG.standard_normal((2, 5, 3))


def even(x: Any) -> Any:
    """The symmetric part, and away from singular."""
    return x + np.swapaxes(x, -1, -2) + 6 * np.eye(x.shape[-1])


def _values_and_vectors(x: Any) -> Any:
    """What of the eigenvectors does not depend on their signs."""
    values, vectors = np.linalg.eigh(even(x))
    return np.matmul(vectors * np.sin(values)[..., None, :], np.swapaxes(vectors**3, -1, -2))


def _singular(x: Any) -> Any:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return np.matmul(u * np.sqrt(s)[..., None, :], vt)


LINALG: dict[str, Case] = {
    "linalg.solve": (np.linalg.solve, (WELL, A.T)),
    "linalg.solve a vector": (np.linalg.solve, (MANY, ROW[:3])),
    "linalg.inv": (np.linalg.inv, (MANY,)),
    "linalg.slogdet": (lambda x: np.linalg.slogdet(x)[1] * np.linalg.slogdet(x)[0], (MANY,)),
    "linalg.det": (np.linalg.det, (MANY,)),
    "linalg.cholesky": (lambda x: np.linalg.cholesky(even(x)), (MANY,)),
    "linalg.cholesky upper": (lambda x: np.linalg.cholesky(even(x), upper=True), (SQ,)),
    "linalg.eigh": (_values_and_vectors, (MANY,)),
    "linalg.eigvalsh": (lambda x: np.linalg.eigvalsh(even(x)), (SPREAD,)),
    "linalg.qr": (lambda x: np.linalg.qr(x)[0] * 2, (TALL,)),
    "linalg.qr of wide": (lambda x: np.linalg.qr(x)[1], (np.swapaxes(TALL, 1, 2),)),
    "linalg.qr r": (lambda x: np.linalg.qr(x, "r"), (SQ,)),
    "linalg.svd": (_singular, (TALL,)),
    "linalg.svd of wide": (_singular, (A,)),
    "linalg.svd values": (lambda x: np.linalg.svd(x, compute_uv=False), (A,)),
    "linalg.svdvals": (np.linalg.svdvals, (MANY,)),
    "linalg.pinv": (np.linalg.pinv, (A,)),
    "linalg.lstsq": (lambda x, y: np.linalg.lstsq(x, y)[0], (TALL[0], POINTS[:5])),
    "linalg.matrix_rank": (lambda x: x * np.linalg.matrix_rank(x), (A,)),
    "linalg.cond": (np.linalg.cond, (WELL,)),
    "linalg.matrix_power": (lambda x: np.linalg.matrix_power(x, 3), (SQ,)),
    "linalg.matrix_power negative": (lambda x: np.linalg.matrix_power(x, -2), (WELL,)),
    "linalg.tensorsolve": (np.linalg.tensorsolve, (WELL.reshape(2, 2, 4), SQ[:2, :2])),
    "linalg.tensorinv": (np.linalg.tensorinv, (WELL.reshape(2, 2, 2, 2),)),
    "linalg.norm": (np.linalg.norm, (A,)),
    "linalg.norm of rows": (lambda x: np.linalg.norm(x, axis=1, keepdims=True), (A,)),
    "linalg.norm of three": (lambda x: np.linalg.norm(x, 3, axis=0), (A,)),
    "linalg.norm inf": (lambda x: np.linalg.norm(x, np.inf), (A,)),
    "linalg.norm one": (lambda x: np.linalg.norm(x, 1), (A,)),
    "linalg.norm two": (lambda x: np.linalg.norm(x, 2), (A,)),
    "linalg.norm nuclear": (lambda x: np.linalg.norm(x, "nuc", axis=(0, 2)), (CUBE,)),
    "linalg.vector_norm": (lambda x: np.linalg.vector_norm(x, axis=-1, ord=1), (A,)),
    "linalg.matrix_norm": (np.linalg.matrix_norm, (CUBE,)),
}

TIED = np.array([2.0, 1.0, 3.0, 0.5, 2.5])

ORDER: dict[str, Case] = {
    "sort": (lambda x: np.sort(x, axis=0), (A,)),
    "sort all": (lambda x: np.sort(x, axis=None), (CUBE,)),
    "argsort": (lambda x: x * np.argsort(x, axis=1), (A,)),
    "partition": (lambda x: np.partition(x, 2)[2], (TIED,)),
    "argpartition": (lambda x: x[2] * np.argpartition(x, 2)[2], (TIED,)),
    "quantile": (lambda x: np.quantile(x, [0.1, 0.6], axis=1, keepdims=True), (A,)),
    "percentile": (lambda x: np.percentile(x, 35.0, axis=(0, 2)), (CUBE,)),
    "median": (lambda x: np.median(x, axis=0), (A,)),
    "median of even": (np.median, (A,)),
}


def written(write: Callable[[Any, Any], object]) -> Callable[[Any, Any], Any]:
    """What ``write`` leaves in an array that the function made of its first argument."""

    def found(x: Any, y: Any) -> Any:
        made = x * x
        write(made, y)
        return made * x

    return found


GRIDS: dict[str, Case] = {
    "linspace from a number": (lambda x: np.linspace(0.5, x, 4, endpoint=False) * A.T, (A[:, 0],)),
    "linspace to a number": (lambda x: np.linspace(x, 2.0, 3), (A,)),
    "logspace along an axis": (
        lambda x, y: np.logspace(x, y, 3, axis=1) * A[:, :3],
        (A[:, 0], B[:, 0]),
    ),
    "logspace of bases": (lambda x, base: np.logspace(x, 2.0, 3, base=base), (A[0], POS[0])),
    "geomspace along an axis": (
        lambda x: np.geomspace(x, 3.0, 3, axis=-1) * A[:, :3],
        (POS[:, 0],),
    ),
    "geomspace below zero": (lambda x: np.geomspace(-x, -9.0, 5), (POS[:, 0],)),
}

OPTIONS: dict[str, Case] = {
    "linalg.svd hermitian": (lambda x: np.linalg.svd(x, hermitian=True)[1], (SQ,)),
    "linalg.pinv hermitian": (lambda x: np.linalg.pinv(x, hermitian=True), (SQ,)),
    "nanargmax keeps": (lambda x: x * np.nanargmax(x, axis=1, keepdims=True), (A,)),
    "nanargmin keeps": (lambda x: x * np.nanargmin(x, axis=0, keepdims=True), (A,)),
    "searchsorted by a sorter": (
        lambda x, y: x * np.searchsorted(y[0], x, sorter=np.argsort(B[0])),
        (A[0], B),
    ),
    "corrcoef of columns": (lambda x: np.corrcoef(x, rowvar=False, dtype=np.float64), (A,)),
}

WRITES: dict[str, Case] = {
    "copyto": (written(np.copyto), (A, ROW)),
    "copyto where": (written(lambda made, y: np.copyto(made, y, where=MASK)), (A, B)),
    "fill_diagonal": (written(lambda made, y: np.fill_diagonal(made, y[:3])), (A, ROW)),
    "put": (written(lambda made, y: np.put(made, [7, 1, 10], y[:3])), (A, ROW)),
    "put twice": (written(lambda made, y: np.put(made, [7, 1, 7], y[:3])), (A, ROW)),
    "sliding_window_view": (
        lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 3)).sum(axis=(1, 2)) * x[0, 0],
        (A,),
    ),
}

CASES: dict[str, Case] = {
    **ELEMENTWISE,
    **SHAPES,
    **COMPOSED,
    **LINALG,
    **ORDER,
    **WRITES,
    **GRIDS,
    **OPTIONS,
}
