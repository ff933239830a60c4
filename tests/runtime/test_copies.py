"""Models, compiled functions and training steps are copied, pickled and sent to other processes."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.model.compiled import Compiled

TEXT = """
dim B, D = 4, H = 3
model net(x: float[B, D], y: float[B]) -> float {
    use first = dense(D, H)
    use last = dense(H, 1)
    p = squeeze(last(tanh(first(x))), axis = 1)
    output p
    return mean((p - y)^2)
}
"""
PART = "layer twice(N) { apply(x: float[N]) -> float[N] { return 2 * x } }\n"
WHOLE = """
import "part.grad"
dim N = 3
model net(x: float[N]) -> float {
    use t = twice(N)
    return sum(t(x)^2)
}
"""
COPIES: tuple[Callable[[Any], Any], ...] = (
    copy.copy,
    copy.deepcopy,
    lambda item: pickle.loads(pickle.dumps(item)),
)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {"x": rng.normal(size=(6, 4)), "y": rng.normal(size=6)}


def net() -> gradc.Model:
    return gradc.loads(TEXT, name="net.grad", dims={"H": 5}, precision="f64")


@pytest.mark.parametrize("way", COPIES, ids=("copy", "deepcopy", "pickle"))
def test_models_are_copied_with_their_dimensions_and_precision(way: Callable[[Any], Any]) -> None:
    model = net()
    again = way(model)
    assert again is not model
    assert (again.name, again.dims, again.precision) == ("net", {"H": 5}, "f64")
    assert (again.params, again.outputs) == (model.params, model.outputs)
    for name, array in model.init(3).items():
        np.testing.assert_array_equal(again.init(3)[name], array)


@pytest.mark.parametrize("way", COPIES, ids=("copy", "deepcopy", "pickle"))
@pytest.mark.parametrize(
    "made",
    (
        lambda m: m.value_and_grad(["first.w"], aux=True, threads=1),
        lambda m: m.value_and_grad("inputs", "1MiB"),
        lambda m: m.forward(["p"], use_cache=False),
        lambda m: m.jacobian("y", of="p"),
    ),
)
def test_compiled_functions_are_copied_with_their_options(
    made: Callable[[gradc.Model], Compiled], way: Callable[[Any], Any]
) -> None:
    model = net()
    params, function = model.init(3), made(model)
    expected = pickle.dumps(function(params, **batch()))
    again = way(function)
    assert again.options == function.options
    assert pickle.dumps(again(params, **batch())) == expected
    assert pickle.dumps(way(again)(params, **batch())) == expected


def test_training_goes_on_in_a_copy() -> None:
    model = net()
    step = model.train_step("adam(lr=0.01)", clip_norm=1.0, threads=1)
    state = step.init(model.init(3))
    step(state, **batch())
    again, same = pickle.loads(pickle.dumps((step, state)))
    for _ in range(3):
        assert step(state, **batch())[0] == again(same, **batch())[0]
    for name, array in state.params.items():
        np.testing.assert_array_equal(same.params[name], array)


def test_programs_of_several_files_travel_without_them(tmp_path: Path) -> None:
    (tmp_path / "part.grad").write_text(PART)
    whole = tmp_path / "whole.grad"
    whole.write_text(WHOLE)
    packed = pickle.dumps(gradc.load(whole, precision="f64").value_and_grad("inputs"))
    whole.unlink()
    (tmp_path / "part.grad").unlink()
    value, gradients = pickle.loads(packed)({}, x=np.array([1.0, 2, 3]))
    assert value == 56
    np.testing.assert_array_equal(gradients["x"], [8, 16, 24])


def test_pickles_hold_text_and_options_only() -> None:
    function = net().value_and_grad()
    function(net().init(3), **batch())
    packed = pickle.dumps(function)
    assert len(packed) < len(TEXT) + 600
    assert TEXT.encode() in packed


def in_another_process(function: Compiled, seed: int) -> float:
    loss, _ = function(function.model.init(seed), **batch())
    return float(loss)


def test_process_pools_take_compiled_functions() -> None:
    function = net().value_and_grad()
    expected = [in_another_process(function, seed) for seed in (1, 2)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(in_another_process, [(function, 1), (function, 2)]) == expected


class Regressor:
    """As scikit-learn has estimators: arguments under their own names, cloned by deep copies of
    them.
    """

    def __init__(self, model: gradc.Model, optimizer: str = "sgd(lr=0.1)", epochs: int = 3) -> None:
        self.model = model
        self.optimizer = optimizer
        self.epochs = epochs

    def get_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(Regressor).parameters}

    def fit(self, x: np.ndarray, y: np.ndarray) -> Regressor:
        self.step_ = self.model.train_step(self.optimizer)
        state = self.step_.init(self.model.init(0))
        for _ in range(self.epochs):
            self.step_(state, x=x, y=y)
        self.params_ = state.params
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.model.forward("p")(self.params_, x=x)["p"]
        return found


def cloned(estimator: Regressor) -> Regressor:
    return Regressor(**{name: copy.deepcopy(v) for name, v in estimator.get_params().items()})


def test_estimators_around_a_model_are_cloned_and_pickled() -> None:
    fitted = Regressor(net()).fit(**batch())
    expected = fitted.predict(batch()["x"])
    np.testing.assert_array_equal(cloned(fitted).fit(**batch()).predict(batch()["x"]), expected)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(batch()["x"]), expected)
