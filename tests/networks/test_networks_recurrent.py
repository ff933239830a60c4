"""Recurrent layers against torch's, at one step, two and many: value, gradients, training; loops
stay loops.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.networks_torch import Arrays, Case, check_gradients, check_training, torch

I, H = 3, 5

TEXT = """
dim T, B, I = 3, H = 5
model m(x: float[T, B, I], goal: float[T, B, H]) -> float {
    use r = KIND(I, H)
    out = r(x)
    output out
    return mean((out - goal)^2)
}
"""
STACKED = """
dim T, B, I = 3, H = 5
model m(x: float[T, B, I], goal: float[T, B, H]) -> float {
    use first = lstm(I, H)
    use second = gru(H, H)
    out = second(first(x)[::-1])
    output out
    return mean((out - goal)^2)
}
"""


def run(kind: str, p: Arrays, prefix: str, xs: Any) -> Any:
    """torch's layer of this kind over [T, B, I], its weights taken from ours: transposed, gates in
    the same order.
    """
    width = p[f"{prefix}.wh"].shape[0]
    layer = getattr(torch.nn, kind.upper())(xs.shape[2], width).double()
    if kind == "gru":
        biases = (p[f"{prefix}.bx"], p[f"{prefix}.bh"])
    else:
        biases = (p[f"{prefix}.b"], torch.zeros_like(p[f"{prefix}.b"]))
    weights = {
        "weight_ih_l0": p[f"{prefix}.wx"].T,
        "weight_hh_l0": p[f"{prefix}.wh"].T,
        "bias_ih_l0": biases[0],
        "bias_hh_l0": biases[1],
    }
    return torch.func.functional_call(layer, weights, (xs,))[0]


def single(kind: str) -> Callable[[Any, Any], Any]:
    return lambda p, x: run(kind, p, "r", x["x"])


def stacked(p: Arrays, x: Arrays) -> Any:
    return run("gru", p, "second", run("lstm", p, "first", x["x"]).flip(0))


def case(kind: str, trips: int) -> Case:
    text = STACKED if kind == "stacked" else TEXT.replace("KIND", kind)
    twin = stacked if kind == "stacked" else single(kind)
    return Case(f"{kind} {trips}", text, twin, {"x": (trips, 2, I)}, (trips, 2, H))


@pytest.mark.parametrize("trips", [1, 2, 257])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_value_and_gradients(kind: str, trips: int) -> None:
    check_gradients(case(kind, trips))


@pytest.mark.parametrize("trips", [257])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_single_precision(kind: str, trips: int) -> None:
    check_gradients(case(kind, trips), "f32")


@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_half_precision(kind: str, precision: str) -> None:
    check_gradients(case(kind, 33), precision)


@pytest.mark.parametrize("trips", [1, 2, 40])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_ten_steps_of_training(kind: str, trips: int) -> None:
    check_training(case(kind, trips))


def test_layers_on_top_of_each_other_and_backwards_in_time() -> None:
    check_gradients(case("stacked", 13))
    check_training(case("stacked", 13))
