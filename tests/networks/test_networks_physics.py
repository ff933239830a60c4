"""A physics-informed example: its nested derivatives against torch's, and what its README says it
reaches.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.networks_torch import EXACT, assert_close, leaves, torch

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "examples" / "physics" / "sine.py"


@pytest.fixture(scope="module")
def example() -> Any:
    """The script as a module; it lies in no package."""
    spec = importlib.util.spec_from_file_location("sine", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_loss(p: Any, points: Any) -> Any:
    x = torch.tensor(points, requires_grad=True)
    z = x[:, None] / np.pi - 1
    h = torch.tanh(torch.tanh(z @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
    u = x + x**2 * (h @ p["w3"])[:, 0]
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return ((curvature + u) ** 2).mean()


def test_a_gradient_through_second_derivatives_equals_torch(example: Any) -> None:
    params = example.init(7, seed=3)
    points = np.random.default_rng(0).uniform(0, 2 * np.pi, 11)
    theirs = leaves(params)
    expected = torch_loss(theirs, points)
    expected.backward()
    value, grads = example.loss(params, points)
    assert_close(value, expected.item(), EXACT)
    for name, leaf in theirs.items():
        assert_close(grads[name], leaf.grad.numpy(), EXACT, name)


def test_the_readme_figure_at_a_thousand_steps(example: Any) -> None:
    x = np.linspace(0, example.END, 32)
    start = example.init(24)
    params, value = example.fit(start, x, 1000)
    grid = np.linspace(0, example.END, 301)
    errors = [np.abs(example.solution(p, grid) - np.sin(grid)).max() for p in (start, params)]
    assert value < 3e-3
    assert errors[0] > 1 and errors[1] < 0.03
    assert example.solution(params, np.zeros(1))[0] == 0
