"""Layers of the standard library against torch: value, gradients, ten steps of training, single
precision.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.networks_torch import Arrays, Case, check_gradients, check_training, torch

F = torch.nn.functional


def attention_twin(n: int, is_causal: bool) -> Callable[[Any, Any], Any]:
    """Self-attention with ``n`` heads, by torch's own scaled dot product."""

    def twin(p: Arrays, x: Arrays) -> Any:
        h = x["x"]
        b, t, d = h.shape
        q, k, v = (h @ p["a.qkv.w"] + p["a.qkv.b"]).chunk(3, -1)
        heads = [z.reshape(b, t, n, d // n).transpose(1, 2) for z in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=is_causal)
        return mixed.transpose(1, 2).reshape(b, t, d) @ p["a.proj.w"] + p["a.proj.b"]

    return twin


def conv_twin(p: Arrays, x: Arrays) -> Any:
    z = F.conv2d(x["x"], p["c.w"], stride=2, padding=1, groups=2)
    return z + p["c.b"]


def rmsnorm_twin(p: Arrays, x: Arrays) -> Any:
    h = x["x"]
    return h * torch.rsqrt((h * h).mean(-1, keepdim=True) + 1e-6) * p["n.gain"]


def model(use: str, inputs: str, goal: str, out: str = "", dims: str = "B, T") -> str:
    """A model around one layer."""
    name = use.split()[0]
    return (
        f"dim {dims}\nmodel m({inputs}, goal: float[{goal}]) -> float {{\n"
        f"    use {use}\n    out = {out or f'{name}(x)'}\n    output out\n"
        "    return mean((out - goal)^2)\n}\n"
    )


CASES = [
    Case(
        "dense",
        model("d = dense(5, 7)", "x: float[B, T, 5]", "B, T, 7"),
        lambda p, x: x["x"] @ p["d.w"] + p["d.b"],
        {"x": (3, 4, 5)},
        (3, 4, 7),
    ),
    Case(
        "embedding, ids repeated",
        model("e = embedding(6, 5)", "ids: int[B, T]", "B, T, 5", "e(ids)"),
        lambda p, x: F.embedding(x["ids"].long(), p["e.w"]),
        {},
        (4, 9, 5),
        {"ids": (4, (4, 9))},
    ),
    Case(
        "conv",
        model(
            "c = conv(4, 6, 3, stride = 2, padding = 1, groups = 2)",
            "x: float[B, 4, 7, 9]",
            "B, 6, 4, 5",
            dims="B",
        ),
        conv_twin,
        {"x": (3, 4, 7, 9)},
        (3, 6, 4, 5),
    ),
    Case(
        "layernorm",
        model("n = layernorm(11)", "x: float[B, T, 11]", "B, T, 11"),
        lambda p, x: F.layer_norm(x["x"], (11,), p["n.gain"], p["n.bias"], 1e-5),
        {"x": (3, 5, 11)},
        (3, 5, 11),
    ),
    Case(
        "rmsnorm",
        model("n = rmsnorm(11)", "x: float[B, T, 11]", "B, T, 11"),
        rmsnorm_twin,
        {"x": (3, 5, 11)},
        (3, 5, 11),
    ),
    Case(
        "attention, causal",
        model("a = attention(15, 3)", "x: float[B, T, 15]", "B, T, 15"),
        attention_twin(3, True),
        {"x": (2, 7, 15)},
        (2, 7, 15),
    ),
    Case(
        "attention, both ways",
        model("a = attention(15, 5, causal = false)", "x: float[B, T, 15]", "B, T, 15"),
        attention_twin(5, False),
        {"x": (2, 9, 15)},
        (2, 9, 15),
    ),
    Case(
        "attention, one position",
        model("a = attention(6, 2)", "x: float[B, T, 6]", "B, T, 6"),
        attention_twin(2, True),
        {"x": (3, 1, 6)},
        (3, 1, 6),
    ),
]


# All in f64, and in turn in what is narrower.
NARROW = ("bf16", "f16", "f32")
PAIRS = [(case, "f64") for case in CASES]
PAIRS += [(case, NARROW[n % 3]) for n, case in enumerate(CASES)]


@pytest.mark.parametrize(("case", "precision"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_value_and_gradients(case: Case, precision: str) -> None:
    check_gradients(case, precision)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_ten_steps_of_training(case: Case) -> None:
    check_training(case)
