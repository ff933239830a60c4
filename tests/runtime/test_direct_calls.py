"""Calls of compiled functions and steps that run in machine code from the first argument to the
answer: the same answers, nothing kept, and everything else said in Python as before.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import threading
import weakref
from typing import Any, cast

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.model.state import StoppedStep

TEXT = """
dim N
model m(x: float[N]) -> float {
    param w: float[4] ~ ones
    output y = sum(w) * x
    return sum(w * w) * sum(x)
}
"""


def functions_run(call: Any) -> list[str]:
    """Names of Python's functions that ``call`` runs."""
    found: list[str] = []

    def seen(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code is not call.__code__:
            found.append(frame.f_code.co_name)

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


@pytest.fixture(scope="module")
def net() -> gradc.Model:
    return gradc.loads(TEXT, precision="f64")


def numbers(net: gradc.Model, n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(n)
    return {"w": rng.normal(size=4)}, rng.normal(size=n)


def test_a_call_like_the_last_runs_no_function_of_python(net: gradc.Model) -> None:
    f, step = net.value_and_grad(), net.train_step("sgd(lr=.1)")
    params, x = numbers(net, 5)
    state = step.init(params)
    for _ in range(2):
        loss, grads = f(params, x=x)
        _, same = step(state, x=x)
        assert same is state
        np.testing.assert_allclose(loss, (params["w"] ** 2).sum() * x.sum())
        np.testing.assert_allclose(grads["w"], 2 * params["w"] * x.sum())
        assert type(loss) is np.float64
        np.testing.assert_array_equal(state.metrics["y"].shape, (5,))
    assert functions_run(lambda: f(params, x=x)) == []
    assert functions_run(lambda: step(state, x=x)) == []
    assert functions_run(lambda: f(params, x=x[:3])) != []


def test_other_shapes_and_other_finishes_in_turn(net: gradc.Model) -> None:
    both, forward = net.value_and_grad(aux=True), net.forward()
    f = net.value_and_grad()
    bound = functools.partial(f, numbers(net, 3)[0])
    for n in (3, 7, 3, 7, 7):
        params, x = numbers(net, n)
        loss, grads = f(params, x=x)
        (loss2, outputs), grads2 = both(params, x=x)
        assert loss == loss2 and np.array_equal(grads["w"], grads2["w"])
        np.testing.assert_allclose(outputs["y"], params["w"].sum() * x)
        np.testing.assert_array_equal(forward(params, x=x)["y"], outputs["y"])
        np.testing.assert_allclose(bound(x=x)[0], (bound.args[0]["w"] ** 2).sum() * x.sum())


def test_what_does_not_fit_is_said_as_on_the_first_call(net: gradc.Model) -> None:
    params, x = numbers(net, 5)
    good, fresh = net.value_and_grad(), net.value_and_grad()
    expected = good(params, x=x)[0]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((params,), {}),
        ((params, {}), {"x": x}),
        ((), {"x": x}),
        (({"v": x},), {"x": x}),
        (({"w": x},), {"x": x}),
        ((3,), {"x": x}),
        ((params,), {"x": x, "z": x}),
        ((params,), {"x": "no"}),
        ((params,), {"x": x.astype(np.complex128)}),
    ]
    for args, inputs in calls:
        told = []
        for f in (good, fresh):
            with pytest.raises((DiagnosticError, TypeError)) as caught:
                f(*args, **inputs)
            told.append(str(caught.value))
        assert told[0] == told[1]
        assert good(params, x=x)[0] == expected
    assert good(params, x=list(x))[0] == expected  # converted


def test_a_step_that_is_refused_says_so_and_the_next_goes_on(net: gradc.Model) -> None:
    step = net.train_step("sgd(lr=.1)")
    params, x = numbers(net, 5)
    state = step.init(params)
    step(state, x=x)
    before = state.arrays["w"].copy()
    with pytest.raises(StoppedStep):
        step(state, x=np.full(5, np.inf))
    assert np.array_equal(state.arrays["w"], before) and state.step == 1
    step(state, x=x)
    assert state.step == 2
    with pytest.raises(TypeError, match="state"):
        step(cast("Any", params), x=x)


def test_nothing_is_held_by_a_call_and_nothing_of_what_is_dropped() -> None:
    net = gradc.loads(TEXT, precision="f64")
    f, step = net.value_and_grad(), net.train_step("sgd(lr=.1)")
    params, x = numbers(net, 5)
    state = step.init(params)
    empty: dict[str, Any] = {}
    held = (params, x, params["w"], state, state.arrays, f, step)

    def around(f: Any, step: Any) -> None:
        for _ in range(50):
            f(params, x=x)
            step(state, x=x)
            with pytest.raises(DiagnosticError):
                f(empty, x=x)

    around(f, step)
    before = [sys.getrefcount(item) for item in held]
    around(f, step)
    assert [sys.getrefcount(item) for item in held] == before
    gone: list[weakref.ref[Any]] = [weakref.ref(f), weakref.ref(step)]
    gc.collect()
    gc.disable()
    try:
        del f, step, held
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


def test_a_function_reads_as_one(net: gradc.Model) -> None:
    f, step = net.value_and_grad(), net.train_step("sgd(lr=.1)")
    assert str(inspect.signature(f)).startswith("(params")
    assert str(inspect.signature(step)).startswith("(state")

    held: Any = type("Holder", (), {"call": f})()
    params, x = numbers(net, 5)
    assert held.call is f and held.call(params, x=x)[0] == f(params, x=x)[0]


def test_threads_that_call_with_other_shapes(net: gradc.Model) -> None:
    f = net.value_and_grad()
    expected = {n: f(numbers(net, n)[0], x=numbers(net, n)[1])[0] for n in (3, 7, 2000)}
    wrong: list[int] = []

    def work(n: int) -> None:
        params, x = numbers(net, n)
        for _ in range(300):
            if f(params, x=x)[0] != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in (*expected, *expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
