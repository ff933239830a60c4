"""What the rules for SciPy's functions are tried on: one row per rule (``name`` or ``name of a
variant``), by SciPy's own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import integrate, linalg, signal, special, stats
from scipy.spatial import distance

RNG = np.random.default_rng(11)
A = RNG.standard_normal((3, 4))
B = RNG.standard_normal((3, 4))
SQ = RNG.standard_normal((4, 4))
WELL = SQ + 4 * np.eye(4)
SYMMETRIC = SQ + SQ.T
POSITIVE = SQ @ SQ.T + np.eye(4)
RIGHT = RNG.standard_normal((4, 3))
ROW = RNG.standard_normal(4)
LINE = RNG.standard_normal(9)
TIMES = np.cumsum(RNG.random(8) + 0.1)
SHARES = np.array([0.2, 0.5, 0.3])
IMAGE = RNG.standard_normal((5, 6))

Case = tuple[Callable[..., Any], tuple[Any, ...]]


def shares(x: Any) -> Any:
    """Positive numbers that sum to one."""
    return np.exp(x) / np.sum(np.exp(x))


def moving(y: Any, t: Any, k: Any) -> Any:
    """The rates of a damped pendulum, as a list."""
    return [y[1], -k * np.sin(y[0]) - 0.1 * y[1]]


SPECIAL: dict[str, Case] = {
    "special.logsumexp": (lambda x: special.logsumexp(x, axis=1, keepdims=True), (A,)),
    "special.logsumexp of everything": (special.logsumexp, (A,)),
    "special.logsumexp with weights": (
        lambda x, b: special.logsumexp(x, b=np.abs(b), axis=(0, 1)),
        (A, B),
    ),
    "special.logsumexp with signs": (
        lambda x, b: np.sum(special.logsumexp(x, 0, b=b, return_sign=True)[0]),
        (A, B),
    ),
    "special.softmax": (lambda x: special.softmax(x, axis=0), (A,)),
    "special.log_softmax": (lambda x: special.log_softmax(x * 300, axis=-1), (A,)),
    "special.polygamma": (lambda x: special.polygamma(2, np.abs(x) + 0.1), (A,)),
    "special.polygamma of order 0": (lambda x: special.polygamma(0, np.abs(x) + 0.1), (A,)),
    "special.multigammaln": (lambda x: special.multigammaln(np.abs(x) + 1.5, 3), (A,)),
    "special.factorial": (lambda x: special.factorial(np.abs(x)), (A,)),
}

LINALG: dict[str, Case] = {
    "linalg.cholesky": (lambda x: linalg.cholesky(x @ x.T + np.eye(4)), (SQ,)),
    "linalg.cholesky lower": (lambda x: linalg.cholesky(x @ x.T + np.eye(4), lower=True), (SQ,)),
    "linalg.cho_factor": (
        lambda x, b: linalg.cho_solve(linalg.cho_factor(x @ x.T + np.eye(4)), b),
        (SQ, RIGHT),
    ),
    "linalg.cho_solve": (
        lambda x, b: linalg.cho_solve((np.tril(x), True), b),
        (WELL, ROW),
    ),
    "linalg.solve_triangular": (linalg.solve_triangular, (WELL, RIGHT)),
    "linalg.solve_triangular lower": (
        lambda x, b: linalg.solve_triangular(x, b, lower=True, unit_diagonal=True),
        (SQ, ROW),
    ),
    "linalg.solve_triangular turned": (
        lambda x, b: linalg.solve_triangular(x, b, trans="T", lower=True),
        (WELL, ROW),
    ),
    "linalg.solve": (linalg.solve, (WELL, RIGHT)),
    "linalg.solve of a positive matrix": (
        lambda x, b: linalg.solve(x, b, assume_a="pos"),
        (POSITIVE, ROW),
    ),
    "linalg.solve of a lower triangle": (
        lambda x, b: linalg.solve(np.tril(x), b, assume_a="lower triangular", transposed=True),
        (WELL, ROW),
    ),
    "linalg.inv": (linalg.inv, (WELL,)),
    "linalg.det": (linalg.det, (WELL,)),
    "linalg.pinv": (linalg.pinv, (A,)),
    "linalg.lstsq": (lambda a, b: linalg.lstsq(a, b)[0], (RIGHT, ROW)),
    "linalg.eigh": (lambda x: linalg.eigh(x + x.T, eigvals_only=True), (SQ,)),
    "linalg.eigh vectors": (
        lambda x: np.abs(linalg.eigh(x + x.T, subset_by_index=[1, 2])[1]),
        (SQ,),
    ),
    "linalg.eigvalsh": (lambda x: linalg.eigvalsh(x, lower=False), (SYMMETRIC,)),
    "linalg.svd": (lambda x: linalg.svd(x, full_matrices=False)[1], (A,)),
    "linalg.svdvals": (linalg.svdvals, (A,)),
    "linalg.qr": (lambda x: np.abs(linalg.qr(x, mode="economic")[1]), (RIGHT,)),
    "linalg.qr of r": (lambda x: np.abs(linalg.qr(x, mode="r")[0]), (RIGHT,)),
    "linalg.norm": (lambda x: linalg.norm(x, "nuc"), (A,)),
    "linalg.block_diag": (lambda x, y: linalg.block_diag(x, 2.0, y), (A, SQ)),
    "linalg.toeplitz": (linalg.toeplitz, (ROW, LINE)),
    "linalg.toeplitz of one": (linalg.toeplitz, (ROW,)),
    "linalg.hankel": (linalg.hankel, (ROW, LINE)),
    "linalg.hankel of one": (linalg.hankel, (ROW,)),
    "linalg.circulant": (linalg.circulant, (ROW,)),
    "linalg.solve_banded": (
        lambda ab, b: linalg.solve_banded((2, 1), ab, b),
        (RNG.random((4, 6)) + np.array([[0.0], [4.0], [0.0], [0.0]]), RNG.random((6, 2))),
    ),
    "linalg.solveh_banded": (
        lambda ab, b: linalg.solveh_banded(ab, b),
        (RNG.random((2, 5)) + np.array([[0.0], [4.0]]), RNG.random(5)),
    ),
    "linalg.solveh_banded lower": (
        lambda ab, b: linalg.solveh_banded(ab, b, lower=True),
        (RNG.random((2, 5)) + np.array([[4.0], [0.0]]), RNG.random(5)),
    ),
    "linalg.solve_toeplitz": (lambda c, b: linalg.solve_toeplitz(c + 9, b), (ROW[:1] * 0, ROW[:1])),
    "linalg.solve_toeplitz of two": (
        lambda c, b: linalg.solve_toeplitz((c + np.array([9.0, 0, 0, 0]), c + 1), b),
        (ROW, ROW),
    ),
    "linalg.solve_circulant": (
        lambda c, b: linalg.solve_circulant(c + np.array([9.0, 0, 0, 0]), b),
        (ROW, ROW),
    ),
    "linalg.solve_sylvester": (linalg.solve_sylvester, (WELL, SQ[:3, :3] + 5 * np.eye(3), RIGHT)),
    "linalg.solve_lyapunov": (linalg.solve_continuous_lyapunov, (WELL, SYMMETRIC)),
    "linalg.solve_continuous_lyapunov": (linalg.solve_continuous_lyapunov, (WELL, SQ)),
    "linalg.solve_discrete_lyapunov": (linalg.solve_discrete_lyapunov, (0.2 * SQ, SQ)),
    "linalg.expm": (linalg.expm, (SQ,)),
    "linalg.expm of large": (lambda x: 1e-9 * linalg.expm(9 * x), (SQ,)),
    "linalg.sqrtm": (linalg.sqrtm, (POSITIVE + 0.3 * np.triu(SQ),)),
}

REST: dict[str, Case] = {
    "signal.convolve": (signal.convolve, (LINE, ROW)),
    "signal.convolve same": (lambda x, y: signal.convolve(x, y, "same"), (ROW, LINE)),
    "signal.convolve valid": (lambda x, y: signal.convolve(x, y, "valid"), (IMAGE, IMAGE[1:4, :3])),
    "signal.convolve of many": (
        lambda x, y: signal.convolve(np.sin(np.arange(300) * x), np.cos(np.arange(290) * y)),
        (0.3, 0.2),
    ),
    "signal.correlate": (signal.correlate, (LINE, ROW)),
    "signal.correlate same": (lambda x, y: signal.correlate(x, y, mode="same"), (IMAGE, A)),
    "signal.correlate valid": (lambda x, y: signal.correlate(x, y, mode="valid"), (ROW, LINE)),
    "signal.fftconvolve": (lambda x, y: signal.fftconvolve(x, y, mode="same"), (IMAGE, A)),
    "signal.oaconvolve": (signal.oaconvolve, (IMAGE, A)),
    "signal.convolve2d": (lambda x, y: signal.convolve2d(x, y, mode="same"), (IMAGE, A)),
    "signal.correlate2d": (lambda x, y: signal.correlate2d(x, y, mode="valid"), (IMAGE, A)),
    "integrate.odeint": (
        lambda y, t, k: integrate.odeint(moving, y, t, args=(k,), rtol=1e-12, atol=1e-12),
        (np.array([1.0, 0.2]), np.array([0.0, 0.1, 0.25]), 1.3),
    ),
    "integrate.odeint of a closure": (
        lambda k: integrate.odeint(
            lambda t, y: -k * y, [1.0], [0.0, 0.3], rtol=1e-12, atol=1e-12, tfirst=True
        ),
        (1.3,),
    ),
    "integrate.fixed_quad": (
        lambda a, k: integrate.fixed_quad(lambda x: np.exp(-k * x), a, 2.0, n=7)[0],
        (0.2, 1.3),
    ),
    "integrate.trapezoid": (integrate.trapezoid, (LINE[:8], TIMES)),
    "integrate.trapezoid along an axis": (
        lambda y: integrate.trapezoid(y, dx=0.3, axis=0),
        (IMAGE,),
    ),
    "integrate.cumulative_trapezoid": (
        lambda y, x: integrate.cumulative_trapezoid(y, x, initial=0),
        (LINE[:8], TIMES),
    ),
    "integrate.simpson": (lambda y, x: integrate.simpson(y, x=x), (LINE[:8], TIMES)),
    "integrate.simpson of odd": (lambda y: integrate.simpson(y, dx=0.1, axis=0), (IMAGE,)),
    "integrate.simpson of two": (lambda y: integrate.simpson(y), (A[:, :2],)),
}

VECTORS: dict[str, Case] = {
    "stats.multivariate_normal.logpdf": (
        lambda x, m, c: stats.multivariate_normal.logpdf(x, m, c @ c.T + np.eye(4)),
        (A, ROW, SQ),
    ),
    "stats.multivariate_normal.logpdf of variances": (
        lambda x, v: stats.multivariate_normal.logpdf(x, np.zeros(4), np.exp(v)),
        (ROW, ROW),
    ),
    "stats.multivariate_normal.logpdf of numbers": (
        lambda x, m: stats.multivariate_normal.logpdf(x, m, 2.0),
        (LINE, 0.3),
    ),
    "stats.multivariate_normal.pdf": (
        lambda x, c: stats.multivariate_normal.pdf(x, [0, 0, 0, 0], c @ c.T + np.eye(4)),
        (ROW, SQ),
    ),
    "stats.multivariate_normal.entropy": (
        lambda c: stats.multivariate_normal.entropy([0, 0, 0, 0], c @ c.T + np.eye(4)),
        (SQ,),
    ),
    "stats.multivariate_normal.__call__": (
        lambda x, c: stats.multivariate_normal(x, c @ c.T + np.eye(4)).logpdf(A),
        (ROW, SQ),
    ),
    "stats.multivariate_normal.logpdf of a singular one": (
        lambda x, c: stats.multivariate_normal.logpdf(
            np.outer([1, 2, 3, 4], x).T,
            cov=np.outer([1, 2, 3, 4], [1, 2, 3, 4]) * c**2,
            allow_singular=True,
        ),
        (ROW[:1], 1.3),
    ),
    "stats.dirichlet.logpdf": (
        lambda x, a: stats.dirichlet.logpdf(shares(x), np.exp(a)),
        (SHARES, SHARES),
    ),
    "stats.dirichlet.logpdf without the last": (
        lambda x, a: stats.dirichlet.logpdf(shares(x)[:2], np.exp(a)),
        (SHARES, SHARES),
    ),
    "stats.dirichlet.pdf": (
        lambda a: stats.dirichlet.pdf(np.stack([SHARES, SHARES[::-1]], 1), a),
        (np.array([1.5, 2.0, 0.7]),),
    ),
    "stats.dirichlet.mean": (stats.dirichlet.mean, (SHARES * 4,)),
    "stats.dirichlet.__call__": (
        lambda a: stats.dirichlet(a).logpdf(SHARES),
        (np.array([1.5, 2.0, 0.7]),),
    ),
}

NORMAL = stats.multivariate_normal(np.ones(4), POSITIVE)
PROPORTIONS = stats.dirichlet([1.5, 2.0, 0.7])

MORE: dict[str, Case] = {
    "stats._multivariate.multivariate_normal_frozen.logpdf": (NORMAL.logpdf, (A,)),
    "stats._multivariate.multivariate_normal_frozen.pdf": (NORMAL.pdf, (ROW,)),
    "stats._multivariate.dirichlet_frozen.logpdf": (
        lambda x: PROPORTIONS.logpdf(shares(x)),
        (SHARES,),
    ),
    "stats._multivariate.dirichlet_frozen.pdf": (lambda x: PROPORTIONS.pdf(shares(x)), (SHARES,)),
    "spatial.distance.cdist": (lambda x, y: distance.cdist(x, y, "cityblock"), (A, SQ)),
    "spatial.distance.cdist euclidean": (distance.cdist, (A, SQ)),
    "spatial.distance.pdist": (lambda x: distance.pdist(x, "sqeuclidean"), (A,)),
    "special.logsumexp of a list": (lambda x: special.logsumexp([x[0], x[1] ** 2, 0.5]), (ROW,)),
}

CASES: dict[str, Case] = {**MORE, **SPECIAL, **LINALG, **REST, **VECTORS}
