"""Recorded loops become loops again: the same values and gradients, whatever a trip reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
import gradc.runtime.tracing.tables
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Function, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.hoist import repeats
from gradc.passes.hoist.repeats import with_loops
from gradc.runtime.tracing.record import record_arrays

RNG = np.random.default_rng(3)
X = RNG.standard_normal((40, 3))
W = RNG.standard_normal((3, 3)) / 2


def chain(x: Any, w: Any) -> Any:
    for _ in range(40):
        w = np.tanh(w @ w + 0.1 * w)
    return np.sum(w * x[0])


def rows(x: Any, w: Any) -> Any:
    total, state = 0.0, np.zeros(3)
    for row in x:
        state = np.tanh(w @ state + row)
        total = total + np.sum(state**2)
    return total


def columns(x: Any, w: Any) -> Any:
    state = x.T[0]
    for n in range(39):
        state = np.sin(state) * x.T[n % 1] + w[0, 0] * np.sum(x[n])
    return np.sum(state)


def backwards(x: Any, w: Any) -> Any:
    state = w[0]
    for n in reversed(range(40)):
        state = np.cos(w @ state) + x[n] * state
    return np.sum(state)


def numbered(x: Any, w: Any) -> Any:
    state = w[0]
    for n in range(40):
        state = state + 0.01 * np.sin(n * 0.1 + w @ state) * (1 + n)
    return np.sum(state * x[0])


def two_back(x: Any, w: Any) -> Any:
    before, now = x[0], x[1]
    for _ in range(40):
        before, now = now, 2 * np.tanh(now) - before + 0.01 * (w @ now)
    return np.sum(now * before)


def all_kept(x: Any, w: Any) -> Any:
    states = [x[0]]
    for _ in range(40):
        states.append(np.tanh(w @ states[-1] + 0.3 * states[-1]))
    return np.sum(np.stack(states[::2]) ** 2) + np.sum(states[7] * states[-1])


def listed(x: Any, w: Any) -> Any:
    parts = [np.exp(0.1 * x[n] * (-1) ** n) for n in range(40)]
    state = w[0]
    for part in parts:
        state = np.tanh(w @ state) * part + state**2 * 0.1
    return np.sum(state)


def two_loops(x: Any, w: Any) -> Any:
    state = w[0]
    for _ in range(40):
        state = np.tanh(w @ state + 0.1 * state + 0.2)
    state = state * x[3]
    for n in range(40):
        state = np.sin(state) - x[n] * np.cos(w @ state)
    return np.sum(state)


def nested(x: Any, w: Any) -> Any:
    state = w[0]
    for n in range(9):
        for _ in range(35):
            state = np.tanh(w @ state + 0.1 * state + 0.2)
        state = state * x[n]
    return np.sum(state)


def unlike_in_the_middle(x: Any, w: Any) -> Any:
    state = w[0]
    for n in range(80):
        state = np.tanh(w @ state + 0.1 * state)
        if n == 37:
            state = state * x[0]
    return np.sum(state)


def swapped(x: Any, w: Any) -> Any:
    a, b = x[0], x[1]
    for _ in range(40):
        a, b = np.tanh(w @ b + a), a
    return np.sum(a - b)


def factors(x: Any, w: Any) -> Any:
    state = w[0]
    for n in range(12):
        state = np.linalg.solve(w @ w.T + 4 * np.eye(3), state + x[n]) ** 2 + np.sum(
            np.sort(state) * x[n + 1]
        )
    return np.sum(state)


LOOPS = [chain, rows, columns, backwards, numbered, two_back, all_kept, listed, two_loops]
LOOPS += [nested, unlike_in_the_middle, swapped, factors]


def evaluated(function: Function, captured: Any) -> list[Any]:
    made = value_and_grad(function, [0, 1])
    return list(run(NumpyArrays(), made, [X, W, *captured.values()]))


def loops_of(function: Function) -> list[tuple[Any, int]]:
    return [
        (op.attributes["trips"], len(op.regions[0].ops))
        for op in walk(function.block)
        if op.name == "scan"
    ]


@pytest.mark.parametrize("function", LOOPS, ids=lambda f: f.__name__)
def test_loops_mean_the_same(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "LEAST_OPS", 60)
    recorded = record_arrays(function, {"x": X, "w": W}, is_loss=True)
    made = with_loops(recorded.function)
    verify_function(made)
    assert loops_of(made), "nothing was found"
    assert len(list(walk(made.block))) <= 0.6 * len(recorded.function.block.ops)
    for found, expected in zip(
        evaluated(made, recorded.captured),
        evaluated(recorded.function, recorded.captured),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_loops_within_loops_are_found() -> None:
    recorded = record_arrays(nested, {"x": X, "w": W}, is_loss=True)
    trips = [t for t, _ in loops_of(with_loops(recorded.function))]
    assert len(trips) == 2, trips


def test_few_ops_stay_as_they_are() -> None:
    def short(x: Any, w: Any) -> Any:
        for _ in range(20):
            w = np.tanh(w + x[0])
        return np.sum(w)

    recorded = record_arrays(short, {"x": X, "w": W}, is_loss=True)
    assert with_loops(recorded.function) is recorded.function


def test_the_work_is_linear() -> None:
    """Keys of ops are made once per walk."""
    counts = []
    for steps in (200, 800):

        def long(x: Any, w: Any, steps: int = steps) -> Any:
            state = w[0]
            for _ in range(steps):
                state = np.tanh(w @ state + 0.1 * state)
            return np.sum(state)

        recorded = record_arrays(long, {"x": X, "w": W}, is_loss=True)
        seen: list[Any] = []
        own = repeats._key

        def counted(op: Any, own: Any = own, seen: list[Any] = seen) -> Any:
            seen.append(op)
            return own(op)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(repeats, "_key", counted)
            with_loops(recorded.function)
        counts.append(len(seen))
    assert counts[1] <= 4.2 * counts[0]


def test_users_get_them() -> None:
    grad = gradc.value_and_grad(rows, argnums=(0, 1))
    value, slopes = grad(X, W)
    assert value == pytest.approx(rows(X, W), rel=1e-12)
    step = 1e-6 * W
    ends = (rows(X, W + step) - rows(X, W - step)) / 2e-6
    assert np.sum(slopes[1] * W) == pytest.approx(ends, rel=1e-6)
