"""Several steps in one call: the bits of as many calls, whatever the step does."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.api import loads

PLAIN = """
dim B = 4
model m(x: float[B, 3], y: int[B]) -> float {
    use fc1 = dense(3, 5)
    use fc2 = dense(5, 2)
    logits = fc2(tanh(fc1(x)))
    output logits
    return mean(cross_entropy(logits, y))
}
"""
STATEFUL = """
dim B = 4
model m(x: float[B, 3], y: int[B]) -> float {
    use fc1 = dense(3, 5)
    use norm = batchnorm(5)
    use fc2 = dense(5, 2)
    return mean(cross_entropy(fc2(dropout(norm(fc1(x)), 0.3)), y))
}
"""
SGD: dict[str, Any] = {"optimizer": "sgd(lr=0.1)"}
ADAMW: dict[str, Any] = {
    "optimizer": "adamw(lr=1e-2)",
    "clip_norm": 0.5,
    "schedule": "cosine(peak=1e-2, total=20)",
}


def queue(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 4, 3)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 2, (count, 4)).astype(np.int32)}


@pytest.mark.parametrize(
    ("text", "recipe", "target"),
    [(PLAIN, SGD, "cpu"), (STATEFUL, ADAMW, "cpu"), (PLAIN, ADAMW, "reference")],
)
def test_many_steps_have_the_bits_of_single_ones(
    text: str, recipe: dict[str, Any], target: str
) -> None:
    count = 7
    net = loads(text)
    step = net.train_step(target=target, **recipe)
    batches = queue(count)
    one, many = (step.init(net.init(0)) for _ in range(2))
    losses, outputs = [], []
    for n in range(count):
        loss, one = step(one, x=batches["x"][n], y=batches["y"][n])
        losses.append(loss)
        outputs.append({name: a.copy() for name, a in one.metrics.items()})
    found, state = step.many(count, many, **batches)
    assert state is many
    np.testing.assert_array_equal(found, np.array(losses))
    assert state.step == count
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(state.arrays[name], array)
    for name, stack in state.metrics.items():
        np.testing.assert_array_equal(stack, [metrics[name] for metrics in outputs])
    assert set(state.metrics) == set(one.metrics)


@pytest.mark.parametrize(
    ("count", "change", "code"),
    [
        (0, {}, "GC0801"),
        (True, {}, "GC0801"),
        (3, {}, "GC0555"),
        (2, {"x": np.zeros((2, 4, 9), np.float32)}, "GC0542"),
        (2, {"y": np.zeros((), np.int32)}, "GC0555"),
    ],
)
def test_a_queue_that_does_not_fit_is_refused(count: int, change: Any, code: str) -> None:
    net = loads(PLAIN)
    step = net.train_step("sgd(lr=0.1)")
    state = step.init(net.init(0))
    before = {name: array.copy() for name, array in state.arrays.items()}
    with pytest.raises(DiagnosticError) as caught:
        step.many(count, state, **{**queue(2), **change})
    assert caught.value.diagnostics[0].code == code
    for name, array in before.items():
        np.testing.assert_array_equal(state.arrays[name], array)


def test_a_batch_that_shares_memory_with_the_state_is_read_as_it_was() -> None:
    net = loads("model m(x: float[2]) -> float { param w: float[2] ~ ones\n return sum(w * x) }")
    step = net.train_step("sgd(lr=1)")
    state = step.init(net.init(0))
    losses, _ = step.many(2, state, x=np.broadcast_to(state.arrays["w"], (2, 2)))
    np.testing.assert_array_equal(losses, [2.0, 0.0])
