"""Convolutions over one and three spatial axes, their transposes and pooling of sequences, as
layers and as functions, against torch.
"""

from typing import Any

import pytest

from tests.support.networks_torch import Case, check_gradients, torch

F = torch.nn.functional
HEAD = "dim B\nmodel m(x: float[B, {x}], goal: float[B, {goal}]) -> float {{\n{body}\n"
TAIL = "    output out\n    return mean((out - goal)^2)\n}"


def bias(p: Any, name: str, y: Any) -> Any:
    return y + p[f"{name}.b"] if f"{name}.b" in p else y


def causal(p: Any, x: Any) -> Any:
    wide = F.pad(x["x"], (4, 0))
    h = torch.tanh(bias(p, "a", F.conv1d(wide, p["a.w"], dilation=2)))
    h = bias(p, "b", F.conv1d(F.pad(h, (1, 2)), p["b.w"], groups=2))
    return F.max_pool1d(h, 3, 2, 1)


def pooled(p: Any, x: Any) -> Any:
    h = torch.tanh(bias(p, "a", F.conv_transpose1d(x["x"], p["a.w"], None, 3, 2, 1, 2)))
    return F.avg_pool1d(h, 2) + h.flatten(1).mean(1)[:, None, None]


def volumes(p: Any, x: Any) -> Any:
    h = torch.tanh(bias(p, "a", F.conv3d(x["x"], p["a.w"], None, (1, 2, 1), 1)))
    h = F.conv_transpose3d(h, p["b.w"], None, 2, (0, 1, 1), (1, 0, 1), 1, (2, 1, 1))
    return bias(p, "b", h)


def images(p: Any, x: Any) -> Any:
    h = torch.tanh(bias(p, "a", F.conv_transpose2d(x["x"], p["a.w"], None, 2, 1, 0, 2)))
    return F.conv_transpose2d(h, p["w"], None, (1, 3), (2, 0), (0, 2))


CASES = (
    Case(
        "sequences",
        HEAD.format(
            x="3, 11",
            goal="6, 6",
            body="""    use a = conv1d(3, 4, 3, padding = "causal", dilation = 2)
    use b = conv1d(4, 6, 4, padding = "same", groups = 2, bias = false)
    out = max_pool(b(tanh(a(x))), 3, stride = 2, padding = 1)""",
        )
        + TAIL,
        causal,
        {"x": (2, 3, 11)},
        (2, 6, 6),
    ),
    Case(
        "transposes of sequences",
        HEAD.format(
            x="4, 5",
            goal="6, 7",
            body="""    use a = conv_transpose1d(4, 6, 5, stride = 3, padding = 2,
        output_padding = 1, groups = 2)
    h = tanh(a(x))
    out = avg_pool(h, 2) + mean(h, axis = [1, 2])[:, None, None]""",
        )
        + TAIL,
        pooled,
        {"x": (3, 4, 5)},
        (3, 6, 7),
    ),
    Case(
        "volumes",
        HEAD.format(
            x="2, 3, 5, 4",
            goal="3, 8, 4, 7",
            body="""    use a = conv3d(2, 4, 3, padding = 1, stride = (1, 2, 1))
    use b = conv_transpose3d(4, 3, 2, stride = 2, padding = (0, 1, 1), output_padding = (1, 0, 1),
        dilation = (2, 1, 1))
    out = b(tanh(a(x)))""",
        )
        + TAIL,
        volumes,
        {"x": (2, 2, 3, 5, 4)},
        (2, 3, 8, 4, 7),
    ),
    Case(
        "transposes of images",
        HEAD.format(
            x="4, 3, 5",
            goal="2, 4, 32",
            body="""    use a = conv_transpose(4, 6, 4, stride = 2, padding = 1, groups = 2)
    param w: float[6, 2, 3, 3] ~ normal(0.3)
    out = conv_transpose2d(tanh(a(x)), w, stride = (1, 3), padding = (2, 0),
        output_padding = [0, 2])""",
        )
        + TAIL,
        images,
        {"x": (2, 4, 3, 5)},
        (2, 2, 4, 32),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_number_of_axes_and_both_directions(case: Case) -> None:
    check_gradients(case)
