"""Calls as users write them, in machine code: keywords in any order and spelling, seeds, room for
results; what does not fit is explained in Python, and no reference is lost.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.api import loads
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.model.direct import Direct
from gradc.runtime.model.model import Model
from gradc.runtime.model.step import TrainStep

MODEL = """
dim N
model m(xs: float[N], ys: float[N], zs: float[N]) -> float {
    param w: float[N] ~ ones
    param v: float[N] ~ ones
    output p = w * xs - v * zs
    return sum(p * p * ys)
}
"""
RANDOM = np.random.default_rng(3)
PARAMS = {name: RANDOM.standard_normal(5).astype(np.float32) for name in "wv"}
INPUTS = {name: RANDOM.standard_normal(5).astype(np.float32) for name in ("xs", "ys", "zs")}


def expected(params: dict[str, Any] = PARAMS, x: Any = None) -> tuple[float, dict[str, Any]]:
    """In f64."""
    x = INPUTS["xs"] if x is None else x
    w, v, y, z = (
        np.asarray(a, np.float64) for a in (params["w"], params["v"], *list(INPUTS.values())[1:])
    )
    p = w * x - v * z
    return float(np.sum(p * p * y)), {"w": 2 * p * y * x, "v": -2 * p * y * z}


def check(found: tuple[Any, dict[str, Any]], wanted: tuple[float, dict[str, Any]]) -> None:
    assert list(found[1]) == ["w", "v"]
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for name, array in wanted[1].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def net() -> Model:
    return loads(MODEL, dims={"N": 5})


@pytest.fixture
def no_python(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbids calls in Python from now on."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("called in Python")

    def forbid() -> None:
        monkeypatch.setattr(Compiled, "_called", refuse)
        monkeypatch.setattr(TrainStep, "_called", refuse)

    return forbid


@pytest.mark.parametrize("order", ["xs ys zs", "zs ys xs", "ys zs xs"])
def test_keywords_in_any_order_and_spelling(
    net: Model, order: str, no_python: Callable[[], None]
) -> None:
    f = net.value_and_grad()
    f(PARAMS, **INPUTS)
    room = {name: np.empty_like(array) for name, array in PARAMS.items()}
    f(PARAMS, **INPUTS, out=room)
    no_python()
    check(f(PARAMS, **{name: INPUTS[name] for name in order.split()}), expected())
    # Names that are equal and not the same object.
    made = {name.encode().decode(): INPUTS[name] for name in order.split()}
    check(f(PARAMS, **made), expected())
    for at in range(4):
        items: list[tuple[str, Any]] = [(name, INPUTS[name]) for name in order.split()]
        items.insert(at, ("out", room))
        room["w"][:] = room["v"][:] = np.nan
        found = f(PARAMS, **dict(items))
        assert found[1] is room
        check(found, expected())


def test_what_does_not_fit_is_explained(net: Model) -> None:
    f = net.value_and_grad()
    for _ in range(2):
        check(f(PARAMS, **INPUTS), expected())
        x, y, z = INPUTS.values()
        with pytest.raises(DiagnosticError, match="`zs`"):
            f(PARAMS, xs=x, ys=y)
        with pytest.raises(DiagnosticError, match="`q`"):
            f(PARAMS, xs=x, ys=y, q=z)
        with pytest.raises(DiagnosticError, match="`q`"):
            f(PARAMS, xs=x, ys=y, zs=z, q=z)
        with pytest.raises(TypeError, match="a call is"):
            cast(Any, f)(PARAMS, x, ys=y, zs=z)
        with pytest.raises(TypeError):
            cast(Any, f)()
        check(f(PARAMS, xs=x.tolist(), ys=y, zs=z), expected())


def test_seeds_go_the_direct_way(net: Model, no_python: Callable[[], None]) -> None:
    f, seed = net.vjp(), RANDOM.standard_normal(5).astype(np.float32)
    seeds = {"loss": np.array(0.7, np.float32), "p": seed}
    slow = f(PARAMS, seeds, **INPUTS)
    with pytest.raises(TypeError, match="seeds"):
        f(PARAMS, **INPUTS)
    room = {name: np.empty_like(array) for name, array in PARAMS.items()}
    f(PARAMS, seeds, **INPUTS, out=room)
    no_python()
    fast = f(PARAMS, seeds, **INPUTS)
    results, into = f(PARAMS, seeds, **INPUTS, out=room)
    assert into is room
    for found, cts in (fast, (results, into)):
        assert list(found) == list(slow[0]) == ["loss", "p"]
        assert found["loss"] == slow[0]["loss"]
        assert np.array_equal(found["p"], slow[0]["p"])
        assert all(np.array_equal(cts[name], slow[1][name]) for name in PARAMS)
    # What a call gave does not change with the next one.
    other = {**PARAMS, "w": PARAMS["w"] + 1}
    before = float(results["loss"]), results["p"].copy()
    later, _ = f(other, seeds, **INPUTS, out=room)
    assert later["loss"] != before[0] and float(results["loss"]) == before[0]
    assert np.array_equal(results["p"], before[1])


def test_training_steps_go_the_direct_way(net: Model, no_python: Callable[[], None]) -> None:
    step = net.train_step("sgd(lr=0.1)")
    state = step.init(PARAMS)
    step(state, **INPUTS)
    no_python()
    wanted = expected({name: state.arrays[name].astype(np.float64) for name in PARAMS})
    before = {name: state.arrays[name].copy() for name in PARAMS}
    loss, same = step(state, zs=INPUTS["zs"], ys=INPUTS["ys"], xs=INPUTS["xs"])
    assert same is state
    slopes = {name: (before[name] - state.arrays[name]) / np.float32(0.1) for name in PARAMS}
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    for name, slope in wanted[1].items():
        np.testing.assert_allclose(slopes[name], slope, rtol=1e-4, atol=1e-4)


def test_no_reference_is_lost_or_left(net: Model) -> None:
    f, g = net.value_and_grad(), net.vjp()
    seeds = {"loss": np.array(1, np.float32), "p": np.ones(5, np.float32)}
    room = {name: np.empty_like(array) for name, array in PARAMS.items()}
    wrong = INPUTS["xs"].astype(np.float64)
    f(PARAMS, **INPUTS), g(PARAMS, seeds, **INPUTS, out=room)
    watched = (*PARAMS.values(), *INPUTS.values(), *seeds.values(), *room.values(), wrong)
    kinds = (PARAMS, seeds, room, np.dtype(np.float32), None, f, g)

    def counts() -> list[int]:
        return [sys.getrefcount(item) for item in (*watched, *kinds)]

    before = counts()
    for _ in range(300):
        f(PARAMS, **INPUTS)
        f(PARAMS, **INPUTS, out=room)
        g(PARAMS, seeds, **INPUTS)
        g(PARAMS, seeds, **INPUTS, out=room)
        f(PARAMS, **{**INPUTS, "xs": wrong})
        with pytest.raises(TypeError):
            g(PARAMS, **INPUTS)
    assert all(abs(a - b) < 100 for a, b in zip(before, counts(), strict=True))


def test_what_is_called_otherwise_is_called_so() -> None:
    """Subclasses are called as ``functools.partial`` calls, unless they say how."""

    class Counts(Direct):
        def _called(self, *args: Any, **inputs: Any) -> Any:
            return args, inputs

    class Other(Counts):
        def __call__(self, *args: Any, **inputs: Any) -> Any:
            return "other", super().__call__(*args, **inputs)

    assert Counts()(1, b=2) == ((1,), {"b": 2})
    assert Other()(1, b=2) == ("other", ((1,), {"b": 2}))
    flag = 1 << 11
    assert functools.partial.__flags__ & flag
    if sys.implementation.name == "cpython":
        assert Counts.__flags__ & flag and Compiled.__flags__ & flag
        assert not Other.__flags__ & flag
