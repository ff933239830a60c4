"""On a device, where there is one: the bits of the CPU, from the compiler to the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradc.frontend.program import load
from gradc.runtime.bench.compare import random_inputs
from tests.support.memory_subjects import EXAMPLES, ROOT, small


def same(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.gpu
def test_examples_on_the_device() -> None:
    """Loss and gradients of every example with a scalar loss."""
    for path in EXAMPLES:
        for entry in load(path).models:
            net = small(path, entry)
            if net.outputs[net.result].rank:
                continue
            wrt = "params" if net.params else "inputs"
            params, inputs = net.init(0), random_inputs(net, {}, 0)
            loss, grads = net.value_and_grad(wrt=wrt, threads=1)(params, **inputs)
            other, others = net.value_and_grad(wrt=wrt, target="cuda")(params, **inputs)
            assert same(loss, other), (path, entry)
            assert all(same(grads[name], others[name]) for name in grads), (path, entry)


@pytest.mark.gpu
def test_a_hundred_steps_on_the_device() -> None:
    net = small(ROOT / "examples" / "digits" / "mlp.grad", "mlp")
    inputs, states = random_inputs(net, {}, 0), {}
    for target in ("cpu", "cuda"):
        step = net.train_step("adamw(lr=1e-3)", target=target)
        state = step.init(net.init(0))
        for _ in range(100):
            step(state, **inputs)
        states[target] = {name: np.asarray(a).tobytes() for name, a in state.arrays.items()}
    assert states["cpu"] == states["cuda"]
