"""The order of elements: compiled lines of every length and type beside NumPy, and derivatives
through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc

# Around the runs that are put in order by counting, and around merges of them.
LENGTHS = (0, 1, 16, 17, 33, 100)


def _line(size: int, dtype: type[np.generic]) -> Any:
    """Many equals, and where there are such numbers infinities, zeros of both signs and NaN."""
    rng = np.random.default_rng(size)
    line = rng.integers(-9, 9, size).astype(dtype)
    if np.issubdtype(dtype, np.floating) and size > 3:
        special = np.array([np.nan, np.inf, -np.inf, -0.0, np.nan], dtype)
        line[rng.permutation(size)[: len(special)]] = special[:size]
    return line


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int32])
def test_stable_with_nan_last(dtype: type[np.generic]) -> None:
    order = gradc.jit(lambda x: np.argsort(x, kind="stable"))
    for size in LENGTHS:
        line = _line(size, dtype)
        np.testing.assert_array_equal(order(line), np.argsort(line, kind="stable"))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_along_every_axis(axis: int | None) -> None:
    x = np.random.default_rng(0).normal(size=(19, 3, 20))
    found = gradc.jit(lambda x: (np.sort(x, axis=axis), np.argsort(x, axis=axis)))(x)
    np.testing.assert_array_equal(found[0], np.sort(x, axis=axis))
    np.testing.assert_array_equal(found[1], np.argsort(x, axis=axis, kind="stable"))


def test_long_lines_take_no_pairs() -> None:
    """All pairs of these would be 4e10."""
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=200_000), rng.normal(size=200_000)
    value, slope = gradc.value_and_grad(lambda x: np.sum(np.sort(x) * weights))(x)
    assert value == pytest.approx(np.sum(np.sort(x) * weights), rel=1e-12)
    np.testing.assert_array_equal(slope[np.argsort(x)], weights)


def _spread(x: Any) -> Any:
    low, high = np.percentile(x, [10, 75], axis=0)
    return np.sum((high - low) ** 2 * np.median(x, axis=0)) + np.sum(np.sort(x, axis=1)[:, 1] ** 3)


def test_derivatives_go_to_the_elements_taken() -> None:
    rng = np.random.default_rng(2)
    x, dot = (rng.normal(size=(9, 5)) for _ in range(2))
    slope = gradc.grad(_spread)(x)
    _, forward = gradc.jvp(_spread, (x,), (dot,))
    assert forward == pytest.approx(np.sum(slope * dot), rel=1e-12)
    near = (_spread(x + 1e-6 * dot) - _spread(x - 1e-6 * dot)) / 2e-6
    assert forward == pytest.approx(near, rel=1e-6)
    second = gradc.hvp(_spread)(x, dot)
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def theirs(x: Any) -> Any:
        jnp = jax.numpy
        low, high = jnp.percentile(x, jnp.array([10.0, 75.0]), axis=0)
        middle = jnp.median(x, axis=0)
        return jnp.sum((high - low) ** 2 * middle) + jnp.sum(jnp.sort(x, axis=1)[:, 1] ** 3)

    np.testing.assert_allclose(slope, jax.jit(jax.grad(theirs))(x), rtol=1e-10, atol=1e-12)
    expected = jax.jit(lambda x, t: jax.jvp(jax.grad(theirs), (x,), (t,))[1])(x, dot)
    np.testing.assert_allclose(second, expected, rtol=1e-10, atol=1e-12)
