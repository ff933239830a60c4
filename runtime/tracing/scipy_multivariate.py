"""Rules for the distributions of vectors in scipy.stats: ``multivariate_normal``, ``dirichlet``.

A covariance that is not positive, and proportions that do not sum to one, are errors in SciPy,
which sees their numbers; here they give NaN.

Non-goals: distribution functions, draws and fits.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gradc.ir.ops import linalg as programs
from gradc.runtime.tracing.foreign import Words, scipy
from gradc.runtime.tracing.linalg import run
from gradc.runtime.tracing.scipy_special import floats
from gradc.runtime.tracing.trace import Trace, refuse

_LOG_2PI = math.log(2 * math.pi)
# SciPy's bound, relative to the greatest, for eigenvalues that count as zero.
_SMALL = 1e6 * float(np.finfo(np.float64).eps)


def _wide(t: Trace, a: Any) -> Any:
    return floats(t, a).astype(np.float64)


def _parameters(t: Trace, x: Any, mean: Any, cov: Any) -> tuple[Any, Any]:
    """Mean [n] and covariance [n, n] by SciPy's rules for what is left out."""
    if type(getattr(cov, "covariance", None)) is np.ndarray and not isinstance(cov, np.ndarray):
        raise refuse("GC0560", "a Covariance object cannot be traced", "give the matrix")
    if cov is None:
        cov = 1.0
    size = np.size(mean) if mean is not None else 1
    if np.ndim(cov) == 2 and mean is None:
        size = np.shape(cov)[0]
    centre = np.zeros(size) if mean is None else np.reshape(_wide(t, mean), (-1,))
    spread = _wide(t, cov)
    if spread.ndim == 0:
        spread = spread * np.eye(size)
    elif spread.ndim == 1:
        spread = spread[:, None] * np.eye(size)
    if spread.shape != (size, size):
        message = f"a mean of {size} and a covariance of shape {spread.shape} do not fit"
        raise refuse("GC0558", message)
    return centre, spread


def _points(t: Trace, x: Any, size: int) -> Any:
    """Rows of points, and whether they came without their last axis."""
    value = _wide(t, x)
    if value.ndim == 0:
        return np.reshape(value, (1, 1))
    if value.ndim == 1:
        return value[:, None] if size == 1 else value[None, :]
    return value


def _squeezed(found: Any) -> Any:
    """Without axes of 1, as SciPy gives it."""
    return np.reshape(found, tuple(n for n in found.shape if n != 1))


def _whitened(t: Trace, gap: Any, cov: Any) -> tuple[Any, Any]:
    """Squares of the lengths of ``gap`` in units of ``cov``, and the log of its determinant."""
    factor = run(t, programs.cholesky, cov.value)
    size = cov.shape[0]
    columns: Any = np.reshape(gap, (-1, size)).T
    solved = run(t, programs.triangular_solve, factor.value, columns.value)
    squares = np.reshape(np.sum(solved * solved, axis=0), gap.shape[:-1])
    return squares, 2 * np.sum(np.log(np.diagonal(factor)))


def _log_density(t: Trace, x: Any, mean: Any, cov: Any, allow_singular: Any) -> Any:
    centre, spread = _parameters(t, x, mean, cov)
    size = spread.shape[0]
    gap = _points(t, x, size) - centre
    if gap.shape[-1] != size:
        raise refuse("GC0558", f"points of shape {np.shape(x)} do not have {size} coordinates")
    if not allow_singular:
        squares, log_det = _whitened(t, gap, spread)
        return _squeezed(-0.5 * (size * _LOG_2PI + log_det + squares))
    values, vectors = np.linalg.eigh(spread)
    counts = values > _SMALL * np.max(np.abs(values))
    safe = np.where(counts, values, 1.0)
    log_det, rank = np.sum(np.log(safe)), np.sum(np.where(counts, 1.0, 0.0))
    along = np.matmul(gap, vectors)
    squares = np.sum(np.where(counts, along * along / safe, 0.0), axis=-1)
    off = np.sqrt(np.sum(np.where(counts, 0.0, along * along), axis=-1))
    found = -0.5 * (rank * _LOG_2PI + log_det + squares)
    found = np.where(off < _SMALL * np.max(np.abs(values)), found, -np.inf)
    return _squeezed(np.where(np.min(values) < -_SMALL * np.max(np.abs(values)), np.nan, found))


@scipy("stats.multivariate_normal.logpdf")
def _logpdf(t: Trace, x: Any, mean: Any = None, cov: Any = 1, allow_singular: Any = False) -> Any:
    return _log_density(t, x, mean, cov, allow_singular)


@scipy("stats.multivariate_normal.pdf")
def _pdf(t: Trace, x: Any, mean: Any = None, cov: Any = 1, allow_singular: Any = False) -> Any:
    return np.exp(_log_density(t, x, mean, cov, allow_singular))


@scipy("stats.multivariate_normal.entropy")
def _entropy(t: Trace, mean: Any = None, cov: Any = 1) -> Any:
    _, spread = _parameters(t, None, mean, cov)
    factor = run(t, programs.cholesky, spread.value)
    log_det = 2 * np.sum(np.log(np.diagonal(factor)))
    return 0.5 * (spread.shape[0] * (_LOG_2PI + 1) + log_det)


class _Frozen:
    """A distribution with traced parameters."""

    def __init__(self, name: str, methods: dict[str, Any]) -> None:
        self._name, self._methods = name, methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            return self._methods[name]
        if name.startswith("_"):
            raise AttributeError(name)
        help = f"traced of it: {', '.join(self._methods)}"
        raise refuse("GC0560", f"scipy.stats.{self._name}.{name} cannot be traced", help)


@scipy("stats.multivariate_normal.__call__")
def _frozen(t: Trace, mean: Any = None, cov: Any = 1, allow_singular: Any = False) -> Any:
    known = {"mean": mean, "cov": cov, "allow_singular": allow_singular}
    return _Frozen(
        "multivariate_normal",
        {
            "logpdf": functools.partial(_logpdf, t, **known),
            "pdf": functools.partial(_pdf, t, **known),
            "entropy": functools.partial(_entropy, t, mean, cov),
        },
    )


@scipy("stats._multivariate.multivariate_normal_frozen.logpdf")
def _frozen_logpdf(t: Trace, self: Any, x: Any) -> Any:
    return _log_density(t, x, self.mean, self.cov, self.allow_singular)


@scipy("stats._multivariate.multivariate_normal_frozen.pdf")
def _frozen_pdf(t: Trace, self: Any, x: Any) -> Any:
    return np.exp(_frozen_logpdf(t, self, x))


@scipy("stats._multivariate.dirichlet_frozen.logpdf")
def _frozen_dirichlet(t: Trace, self: Any, x: Any) -> Any:
    return _log_dirichlet(t, x, self.alpha)


@scipy("stats._multivariate.dirichlet_frozen.pdf")
def _frozen_dirichlet_pdf(t: Trace, self: Any, x: Any) -> Any:
    return np.exp(_log_dirichlet(t, x, self.alpha))


# --- proportions


def _log_dirichlet(t: Trace, x: Any, alpha: Any) -> Any:
    weights, value = _wide(t, alpha), _wide(t, x)
    if weights.ndim != 1:
        raise refuse("GC0558", f"dirichlet: alpha has one axis, not the shape {weights.shape}")
    size = weights.shape[0]
    if value.shape[:1] == (size - 1,):  # the last proportion is what the others leave
        value = np.concatenate([value, 1 - np.sum(value, axis=0, keepdims=True)], axis=0)
    if value.shape[:1] != (size,):
        raise refuse("GC0558", f"dirichlet: {value.shape[0]} proportions for {size} parameters")
    w = Words(t)
    column = np.reshape(weights, (size,) + (1,) * (value.ndim - 1))
    norm = np.sum(w.gammaln(weights)) - w.gammaln(np.sum(weights))
    found = np.sum(w.xlogy(column - 1, value), axis=0) - norm
    good = np.abs(np.sum(value, axis=0) - 1) <= 1e-9
    good = np.logical_and(good, np.all(value >= 0, axis=0))
    good = np.logical_and(good, np.all(weights > 0))
    return _squeezed(np.where(good, found, np.nan))


@scipy("stats.dirichlet.logpdf")
def _dirichlet_logpdf(t: Trace, x: Any, alpha: Any) -> Any:
    return _log_dirichlet(t, x, alpha)


@scipy("stats.dirichlet.pdf")
def _dirichlet_pdf(t: Trace, x: Any, alpha: Any) -> Any:
    return np.exp(_log_dirichlet(t, x, alpha))


@scipy("stats.dirichlet.mean")
def _dirichlet_mean(t: Trace, alpha: Any) -> Any:
    weights = _wide(t, alpha)
    return weights / np.sum(weights)


@scipy("stats.dirichlet.__call__")
def _dirichlet(t: Trace, alpha: Any) -> Any:
    return _Frozen(
        "dirichlet",
        {
            "logpdf": functools.partial(_dirichlet_logpdf, t, alpha=alpha),
            "pdf": functools.partial(_dirichlet_pdf, t, alpha=alpha),
            "mean": functools.partial(_dirichlet_mean, t, alpha),
        },
    )
