"""Loops and branches on values, and maps over an axis: against plain Python, and their slopes
against differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc

RNG = np.random.default_rng(11)
X = RNG.normal(size=4)
W = RNG.normal(size=(3, 4))


def running(x: Any) -> Any:
    """A recurrence that captures its own argument, with a number as its start."""
    last, all_ = gradc.scan(lambda c, row: (np.tanh(c + row @ x), c * row), 0.5, W)
    return last + np.sum(all_ * W)


def backwards(x: Any) -> Any:
    start = {"h": x, "n": 0}

    def step(c: Any, row: Any) -> Any:
        return {"h": np.sin(c["h"]) * row, "n": c["n"] + 1}, None

    last, none = gradc.scan(step, start, W, reverse=True)
    assert none is None
    return np.sum(last["h"]) * last["n"]


CASES: dict[str, Callable[[Any], Any]] = {
    "scan": running,
    "scan in reverse, trees": backwards,
    "fori_loop": lambda x: np.sum(gradc.fori_loop(1, 4, lambda i, c: np.sin(c) * x / i, x)),
    "while_loop": lambda x: gradc.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] * 1.7, c[1] * x), (0.3, x), max_steps=9
    )[1].sum(),
    "cond true": lambda x: gradc.cond(x[0] < 9, lambda y: np.sum(y * y), lambda y: y[0], x),
    "cond untaken": lambda x: gradc.cond(
        x[0] > 9, lambda y: np.sum(np.sqrt(y * 0)), lambda y: y[0] ** 2, x
    ),
    "cond of trees": lambda x: gradc.cond(x[0] < 9, lambda: {"a": x[1] * x}, lambda: {"a": x})[
        "a"
    ].sum(),
    "vmap": lambda x: np.sum(gradc.vmap(lambda row: np.tanh(row @ x) * row)(W) * W),
    "vmap of some": lambda x: np.sum(
        gradc.vmap(lambda a, b: np.outer(a, b), in_axes=(1, None), out_axes=1)(W, x)[0] * W[:1]
    ),
    "vmap of grad": lambda x: np.sum(
        gradc.vmap(gradc.grad(lambda row: np.sum(np.sin(row * x))))(W) * W
    ),
    "grad through vmap": lambda x: np.sum(
        gradc.grad(lambda v: np.sum(gradc.vmap(lambda r: np.sin(r @ v))(W)))(x) * X
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_control_flow_is_pythons_and_has_its_slope(name: str) -> None:
    function = CASES[name]
    value, slope = gradc.value_and_grad(function)(X)
    assert float(value) == pytest.approx(float(function(X)), rel=1e-12)
    along = RNG.normal(size=4)
    difference = (float(function(X + 1e-6 * along)) - float(function(X - 1e-6 * along))) / 2e-6
    assert float(slope @ along) == pytest.approx(difference, rel=1e-6, abs=1e-8)
    dot = gradc.jvp(function, (X,), (along,))[1]
    assert float(dot) == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_stop_gradient_stops() -> None:
    found = gradc.grad(lambda x: np.sum(gradc.stop_gradient(x) * x))(X)
    np.testing.assert_allclose(found, X)


def test_a_loop_that_does_not_end_is_not_a_number() -> None:
    def f(x: Any) -> Any:
        return gradc.while_loop(lambda c: c > 0, lambda c: c * 1.5, x, max_steps=3)

    assert np.isnan(gradc.jit(f)(1.0)) and np.isnan(f(1.0))


def int_of(x: Any) -> Any:
    return np.argmax(x)


WRONG: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (lambda x: gradc.while_loop(lambda c: c[0] < 3, lambda c: c * 2, x), "GC0561.*max_steps"),
    (lambda x: gradc.scan(lambda c, r: (c, r), x, (W, X)), "GC0558.*one length"),
    (lambda x: gradc.scan(lambda c, r: c, x, W), "GC0565.*carry"),
    (lambda x: gradc.scan(lambda c, r: (np.sum(c), r), x, W), "GC0558.*carry"),
    (lambda x: gradc.cond(x > 0, lambda: x, lambda: x), "GC0558.*one truth"),
    (lambda x: gradc.cond(x[0] > 0, lambda: x, lambda: (x, x)), "GC0565.*structures"),
    (lambda x: gradc.fori_loop(0, int_of(x), lambda i, c: c, x), "GC0561.*known"),
    (lambda x: x if x[0] > 0 else -x, "GC0561.*gradc.cond"),
)


@pytest.mark.parametrize(("function", "message"), WRONG)
def test_wrong_loops_are_said(function: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        gradc.jit(function)(X)


def test_what_a_body_writes_is_its_own() -> None:
    """Recorded or not, the caller's arrays stay what they are."""

    def body(carry: Any, x: Any) -> Any:
        carry[0] += x[0]
        x[0] = 0.0
        return carry, carry.sum() + x.sum()

    start, xs = np.zeros(2), np.arange(6.0).reshape(3, 2)
    expected = np.array([6.0, 0.0]), np.array([0 + 1.0, 2 + 3.0, 6 + 5.0])
    plain = gradc.scan(body, start, xs)
    traced = gradc.jit(lambda c, x: gradc.scan(body, c, x))(start, xs)
    for found in (plain, traced):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(start, np.zeros(2))
    np.testing.assert_array_equal(xs, np.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sides_of_cond_do_not_see_what_the_other_writes(sign: float) -> None:
    def writes(x: Any) -> Any:
        x[0] = 5.0
        return x.sum()

    def f(x: Any) -> Any:
        return gradc.cond(x[0] > 0, writes, lambda x: x.sum() * 2, x) + x[0]

    x = sign * np.ones(3)
    assert float(gradc.jit(f)(x)) == float(f(x.copy())) == (8.0 if sign > 0 else -7.0)
