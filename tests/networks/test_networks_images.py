"""Convolution and pooling against torch over grids of stride, padding, dilation and groups, odd
sizes throughout.
"""

from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import loads
from tests.support.networks_torch import (
    EXACT,
    Case,
    assert_close,
    check_gradients,
    check_training,
    leaves,
    torch,
)

F = torch.nn.functional

# stride, padding, dilation, groups, kernel, image
GRID: list[tuple[Any, Any, Any, int, tuple[int, int], tuple[int, int]]] = [
    (1, 0, 1, 1, (1, 1), (3, 5)),
    (1, 0, 1, 1, (3, 3), (5, 7)),
    (1, 1, 1, 1, (3, 3), (5, 7)),
    (1, 2, 1, 1, (5, 5), (9, 7)),
    (1, 2, 1, 2, (3, 5), (7, 9)),
    (2, 0, 1, 1, (3, 3), (7, 9)),
    (2, 1, 1, 1, (3, 3), (8, 9)),
    (2, 1, 1, 4, (3, 3), (7, 8)),
    (3, 2, 1, 2, (4, 3), (11, 10)),
    (3, 0, 1, 1, (2, 2), (9, 11)),
    (1, 0, 2, 1, (3, 3), (7, 9)),
    (1, 2, 2, 1, (3, 3), (5, 7)),
    (1, 3, 3, 2, (3, 2), (9, 7)),
    (2, 1, 2, 1, (3, 3), (9, 11)),
    (2, 2, 2, 4, (3, 3), (9, 8)),
    (3, 3, 2, 2, (3, 3), (10, 11)),
    ((2, 1), (0, 2), (1, 2), 1, (3, 2), (9, 7)),
    ((1, 3), (2, 1), (3, 1), 4, (2, 3), (7, 11)),
    (1, 0, 1, 1, (5, 7), (5, 7)),
]
CONV = """
dim B
model m(x: float[B, 4, {h}, {w}], goal: float[B, {goal}]) -> float {{
    param w: float[8, {inner}, {kh}, {kw}] ~ normal(0.5)
    out = conv2d(x, w, stride = {stride}, padding = {padding},
        dilation = {dilation}, groups = {groups})
    output out
    return mean((out - goal)^2)
}}
"""


def conv_case(index: int) -> Case:
    stride, padding, dilation, groups, kernel, image = GRID[index]

    def twin(p: Any, x: Any) -> Any:
        return F.conv2d(x["x"], p["w"], None, stride, padding, dilation, groups)

    shape = (3, 4, *image)
    weight = torch.zeros(8, 4 // groups, *kernel)
    goal = tuple(twin({"w": weight}, {"x": torch.zeros(shape)}).shape)
    text = CONV.format(
        h=image[0], w=image[1], goal=", ".join(map(str, goal[1:])), inner=4 // groups, kh=kernel[0],
        kw=kernel[1], stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    return Case(f"conv {GRID[index]}", text, twin, {"x": shape}, goal)


@pytest.mark.parametrize("index", range(len(GRID)), ids=lambda i: str(GRID[i]))
def test_convolution_and_both_its_gradients(index: int) -> None:
    check_gradients(conv_case(index))


@pytest.mark.parametrize("index", [2, 8, 14])
def test_convolution_in_single_precision(index: int) -> None:
    check_gradients(conv_case(index), "f32")


@pytest.mark.parametrize("index", [8, 16])
def test_convolution_trains(index: int) -> None:
    check_training(conv_case(index))


SECOND = """
dim B
model m(x: float[B, 4, {h}, {w}], goal: float[B, {goal}]) -> float {{
    param w: float[8, {inner}, {kh}, {kw}] ~ normal(0.5)
    out = conv2d(tanh(x), w, stride = {stride}, padding = {padding},
        dilation = {dilation}, groups = {groups})
    return mean((sin(out) - goal)^2)
}}
"""


@pytest.mark.parametrize("index", [2, 8, 14, 17])
def test_convolution_to_second_order(index: int) -> None:
    """Hessian-vector products over the image and the kernel together, mixed terms included."""
    case = conv_case(index)
    stride, padding, dilation, groups, kernel, image = GRID[index]
    text = SECOND.format(
        h=image[0], w=image[1], goal=", ".join(map(str, case.goal[1:])), inner=4 // groups,
        kh=kernel[0], kw=kernel[1], stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    net = loads(text, precision="f64")
    params, inputs = case.params(net), case.inputs()
    rng = np.random.default_rng(3)
    vector = {"x": rng.normal(size=inputs["x"].shape), "w": rng.normal(size=params["w"].shape)}
    _, grads, products = net.hvp(["x", "w"])(params, vector, **inputs)

    def loss(x: Any, w: Any) -> Any:
        out = F.conv2d(torch.tanh(x), w, None, stride, padding, dilation, groups)
        return ((torch.sin(out) - torch.tensor(inputs["goal"])) ** 2).mean()

    given = leaves({"x": inputs["x"], "w": params["w"]})
    first = torch.autograd.grad(loss(**given), list(given.values()), create_graph=True)
    inner = sum((g * torch.tensor(vector[n])).sum() for n, g in zip(given, first, strict=True))
    second = torch.autograd.grad(inner, list(given.values()))
    for name, wanted, twice in zip(given, first, second, strict=True):
        assert_close(grads[name], wanted.detach().numpy(), EXACT, name)
        assert_close(products[name], twice.numpy(), EXACT, f"second order of {name}")


# word, size, stride, padding, image
POOLS: list[tuple[str, Any, Any, Any, tuple[int, int]]] = [
    ("max_pool", 2, 2, 0, (7, 9)),
    ("max_pool", 3, 3, 0, (9, 6)),
    ("max_pool", 3, 2, 1, (7, 9)),
    ("max_pool", 3, 1, 1, (5, 7)),
    ("max_pool", (2, 3), (1, 2), (1, 0), (5, 9)),
    ("max_pool", 5, 4, 2, (11, 9)),
    ("avg_pool", 2, 2, 0, (7, 9)),
    ("avg_pool", 3, 3, 0, (9, 6)),
    ("avg_pool", 3, 2, 1, (7, 9)),
    ("avg_pool", 3, 1, 1, (5, 7)),
    ("avg_pool", (2, 3), (1, 2), (1, 0), (5, 9)),
    ("avg_pool", 5, 4, 2, (11, 9)),
]
POOL = """
dim B
model m(x: float[B, 3, {h}, {w}], goal: float[B, {goal}]) -> float {{
    param g: float[3, 1, 1] ~ ones
    out = {call} * g
    output out
    return mean((out - goal)^2)
}}
"""


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling(pool: tuple[str, Any, Any, Any, tuple[int, int]]) -> None:
    word, size, stride, padding, image = pool
    theirs = F.max_pool2d if word == "max_pool" else F.avg_pool2d

    def twin(p: Any, x: Any) -> Any:
        return theirs(x["x"], size, stride, padding) * p["g"]

    goal = tuple(theirs(torch.zeros(2, 3, *image), size, stride, padding).shape)
    call = f"{word}(x, {size}, stride = {stride}, padding = {padding})"
    text = POOL.format(h=image[0], w=image[1], goal=", ".join(map(str, goal[1:])), call=call)
    check_gradients(Case(word, text, twin, {"x": (2, 3, *image)}, goal))


@pytest.mark.parametrize("word", ["global_avg_pool", "global_max_pool"])
def test_global_pooling(word: str) -> None:
    theirs = F.adaptive_avg_pool2d if "avg" in word else F.adaptive_max_pool2d
    text = (
        "dim B, C, H, W\nmodel m(x: float[B, C, H, W], goal: float[B, C]) -> float {\n"
        f"    out = {word}(x)\n    output out\n    return mean((out - goal)^2)\n}}\n"
    )
    shape = (3, 5, 7, 9)
    case = Case(word, text, lambda p, x: theirs(x["x"], 1).flatten(1), {"x": shape}, (3, 5))
    check_gradients(case)
