"""Networks in the language beside the same networks in torch: values, gradients and ten steps of
training.

A ``Case`` is a program whose model has an output ``out`` and ends with ``mean((out - goal)^2)``,
where ``goal`` is drawn at random: so the cotangent of ``out`` is random as well. Its twin is a
function of torch tensors by the same names. What gradc does here goes through the compiled path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gradc.ir.tensor.core import Role
from gradc.runtime.api import loads
from gradc.runtime.model.model import Model

# Where torch is missing, tests that import this module are skipped.
torch: Any = pytest.importorskip("torch")
# Small arrays only: torch's threads would wait for each other most of the time, and on a busy
# machine for long.
torch.set_num_threads(1)

Arrays = dict[str, Any]
Twin = Callable[[Any, Any], Any]

EXACT = 1e-10


@dataclass(frozen=True)
class Case:
    """A network in both languages. ``shapes`` are those of its floating inputs; ``ids`` are its
    integer inputs.
    """

    name: str
    text: str
    twin: Twin
    shapes: Mapping[str, tuple[int, ...]]
    goal: tuple[int, ...]
    ids: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    steps: int = 10
    single: float = 3e-5

    def inputs(self, seed: int = 0) -> Arrays:
        """Random arrays for one call, in float64."""
        rng = np.random.default_rng(seed)
        found: Arrays = {name: rng.normal(size=shape) for name, shape in self.shapes.items()}
        for name, (count, shape) in self.ids.items():
            found[name] = rng.integers(0, count, shape).astype(np.int32)
        return {**found, "goal": rng.normal(size=self.goal)}

    def params(self, net: Model) -> Arrays:
        """Every parameter drawn at random (biases and gains too), states as they start."""
        rng = np.random.default_rng(7)
        start = net.init(1)
        roles = {spec.name: spec.role for spec in net.signature.parameters}
        return {
            name: a + 0.1 * rng.normal(size=a.shape) if roles.get(name) is Role.PARAM else a
            for name, a in start.items()
        }


def leaves(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Torch tensors of the arrays; floating ones collect gradients."""
    return {
        name: torch.tensor(a, requires_grad=np.asarray(a).dtype.kind == "f")
        for name, a in arrays.items()
    }


def twin_loss(case: Case, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The result and the loss, by torch."""
    out = case.twin(params, inputs)
    assert tuple(out.shape) == case.goal
    return out, ((out - inputs["goal"]) ** 2).mean()


def assert_close(found: Any, expected: Any, bound: float, what: str = "") -> None:
    """Largest difference against the largest size: entries that cancel are judged by their
    neighbours.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, what
    size = max(float(np.abs(expected).max(initial=0.0)), 1e-3)
    worst = float(np.abs(found - expected).max(initial=0.0))
    assert worst <= bound * size, f"{what}: off by {worst:.3g}, size {size:.3g}"


# Largest relative error of one rounding, and the type in which arrays are handed over.
STORED: dict[str, tuple[float, Any, Any]] = {
    "f64": (2.0**-53, torch.float64, np.float64),
    "f32": (2.0**-24, torch.float32, np.float32),
    "bf16": (2.0**-9, torch.bfloat16, np.float32),
    "f16": (2.0**-11, torch.float16, np.float16),
}


def stored(arrays: Mapping[str, Any], precision: str) -> Arrays:
    """The arrays in float64, floating ones as the precision can hold them."""
    kind = STORED[precision][1]
    return {
        name: torch.tensor(a).to(kind).double().numpy() if a.dtype.kind == "f" else a
        for name, a in arrays.items()
    }


def bound_of(case: Case, precision: str) -> float:
    """What is allowed: 1e-10, what the case says of f32, and eight roundings in half precision."""
    if precision in ("f64", "f32"):
        return EXACT if precision == "f64" else case.single
    return 8 * STORED[precision][0]


def check_gradients(case: Case, precision: str = "f64") -> None:
    """Value and every gradient, of parameters and of floating inputs, against torch in float64."""
    net = loads(case.text, precision=precision)
    params = stored(case.params(loads(case.text, precision="f64")), precision)
    inputs = stored(case.inputs(), precision)
    theirs, given = leaves(params), leaves(inputs)
    out, loss = twin_loss(case, theirs, given)
    loss.backward()
    wanted = [*net.select("params"), *case.shapes]
    dtype = STORED[precision][2]
    start, cast = (
        {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in arrays.items()}
        for arrays in (params, inputs)
    )
    (found, outputs), grads = net.value_and_grad(wanted, threads=1, aux=True)(start, **cast)
    bound = bound_of(case, precision)
    assert_close(outputs["out"], out.detach().numpy(), bound, "out")
    assert_close(found, loss.item(), bound, "loss")
    for name in wanted:
        leaf = theirs[name] if name in theirs else given[name]
        assert grads[name].dtype == dtype
        expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert_close(grads[name], expected.numpy(), bound, f"gradient of {name}")


def check_training(case: Case) -> None:
    """Ten compiled steps with momentum on fresh data give the parameters that torch gives, to
    1e-10.

    Momentum and not Adam: where a gradient is zero but for rounding (the bias of attention's keys),
    Adam divides rounding by its own size. Optimisers have tests of their own.
    """
    net = loads(case.text, precision="f64")
    params = case.params(net)
    trained = net.select("params")
    theirs = leaves(params)
    optimiser = torch.optim.SGD([theirs[name] for name in trained], lr=0.1, momentum=0.9)
    step = net.train_step("momentum(lr=0.1, momentum=0.9)", threads=1)
    state = step.init(params)
    for seed in range(case.steps):
        inputs = case.inputs(seed)
        optimiser.zero_grad()
        _, loss = twin_loss(case, theirs, {k: torch.tensor(v) for k, v in inputs.items()})
        loss.backward()
        optimiser.step()
        found, state = step(state, **inputs)
        assert_close(found, loss.item(), EXACT, f"loss of step {seed}")
    for name in trained:
        assert_close(state.params[name], theirs[name].detach().numpy(), EXACT, name)
