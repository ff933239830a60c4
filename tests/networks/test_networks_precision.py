"""Half precision in whole networks: the f32 loss within 2 %, and overflows traced into loops,
layers and blocks.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import load, loads
from gradc.runtime.model.state import StoppedStep

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"


def digits() -> tuple[Any, Any]:
    data = np.load(EXAMPLES / "digits" / "digits_train.npz", allow_pickle=False)
    return data["x"], data["y"]


def rows(length: int) -> Any:
    """Text at hand: sources of gradc, as numbers below 96."""
    text = "".join(p.read_text() for p in sorted((ROOT / "ir" / "tensor").glob("*.py"))[:3])
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32)
    codes = np.clip(codes - 32, 0, 95)[: 4000 // length * length + 1]
    return codes[:-1].reshape(-1, length), codes[1:].reshape(-1, length)


def late_loss(path: Path, precision: str, dims: dict[str, int], batches: list[Any]) -> float:
    """The mean loss over the second half of the batches, trained as the READMEs do.

    By then a dynamic scale has come down to where it stays; each overflow before that costs one
    step.
    """
    net = load(path, dims=dims, precision=precision)
    scale = "dynamic" if precision == "f16" else None
    step = net.train_step("adamw(lr=3e-3)", clip_norm=1.0, loss_scale=scale)
    state = step.init(net.init(0))
    losses = []
    for batch in batches:
        loss, state = step(state, **batch)
        losses.append(float(loss))
    return float(np.mean(losses[len(losses) // 2 :]))


def digit_batches() -> list[Any]:
    x, y = digits()
    return [{"x": x[i : i + 64], "y": y[i : i + 64]} for i in range(0, 1408, 64)] * 2


def text_batches() -> list[Any]:
    tokens, targets = rows(24)
    return [
        {"tokens": tokens[i : i + 8], "targets": targets[i : i + 8]} for i in range(0, 160, 8)
    ] * 2


NETWORKS = {
    "digits/cnn.grad": ({"C1": 8, "C2": 16, "H": 32}, digit_batches),
    "text/gpt.grad": ({"D": 32, "N": 2, "L": 2, "T": 24}, text_batches),
}


@pytest.mark.parametrize("network", list(NETWORKS))
def test_16_bit_training_reaches_the_f32_loss(network: str) -> None:
    """Within 2 %, bf16 plain and f16 with a dynamic scale; the f32 run has learnt something by
    then.
    """
    dims, make = NETWORKS[network]
    batches = make()
    losses = {
        precision: late_loss(EXAMPLES / network, precision, dims, batches)
        for precision in ("f32", "bf16", "f16")
    }
    start = late_loss(EXAMPLES / network, "f32", dims, batches[:1])
    assert losses["f32"] < 0.9 * start
    for precision in ("bf16", "f16"):
        assert abs(losses[precision] - losses["f32"]) < 0.02 * losses["f32"]


# The value doubles from step to step and passes 65504, the largest f16, in step 6; `keep` reads it
# late.
LOOP = """
dim T, B
model m(x: float[T, B]) -> float {
    param w: float[B] ~ ones
    h = w * 1500
    scan row in x carry h = h {
        z = h + row
        h = z + z
    }
    return mean(h * 1e-4)
}
"""
LAYERED = """
dim B, D = 4
layer hot(D, factor) {
    param w: float[D] ~ ones
    apply(x: float[B, D]) -> float[B, D] {
        z = x * w
        return z * factor * 2
    }
}
layer block(D, factor) {
    use inner = hot(D, factor)
    apply(x: float[B, D]) -> float[B, D] {
        checkpoint { y = tanh(inner(x)) }
        return y + inner(x) * 0
    }
}
model m(x: float[B, D]) -> float {
    use first = block(D, 2)
    use second = block(D, 60000)
    return mean(second(first(x)))
}
"""
BACKWARD = """
dim T, B
model m(x: float[T, B]) -> float {
    param w: float[B] ~ ones
    h = w * 1e-3
    scan row in x carry h = h {
        h = sin(h * 30) + row
    }
    return mean(h)
}
"""
MASKED = """
dim B, D
model m(x: float[B, D], n: int[B, D]) -> float {
    param w: float[D] ~ ones
    s = where(n > 0, x * w, -inf)
    p = softmax(s, axis = -1)
    q = where(n > 0, log(x * w), 0)
    return sum(p * q)
}
"""


def culprit(text: str, precision: str, scale: Any = None, **inputs: Any) -> Any:
    dims = loads(text).bind({name: a.shape for name, a in inputs.items()})
    net = loads(text, dims=dims, precision=precision)
    step = net.train_step("sgd(lr=0.1)", loss_scale=scale)
    state = step.init(net.init(0))
    return step.culprit(state, **inputs), step, state


def test_an_overflow_inside_a_loop_is_traced_to_its_line_and_step() -> None:
    x = np.zeros((9, 4), np.float16)
    found, step, state = culprit(LOOP, "f16", "dynamic", x=x)
    assert found is not None and found.span.line == 8
    assert "in step 6 of 9 of the loop" in found.message and "`add` gives" in found.message
    _, state = step(state, x=x)
    assert state.metrics["overflow"]
    assert culprit(LOOP, "f32", x=x.astype(np.float32))[0] is None


def test_an_overflow_of_the_gradient_inside_a_loop_is_traced() -> None:
    """Each step back multiplies by up to 30; values stay small all the while."""
    x = np.zeros((6, 4), np.float16)
    found, step, state = culprit(BACKWARD, "f16", 2.0**10, x=x)
    assert found is not None and found.span.line == 7
    assert "of the gradient" in found.message and "of the loop" in found.message
    with pytest.raises(StoppedStep) as stopped:
        step(state, x=x)
    assert np.isfinite(stopped.value.loss)


def test_an_overflow_inside_layers_and_checkpoints_names_the_instance() -> None:
    x = np.full((3, 4), 1.5, np.float16)
    found, _, _ = culprit(LAYERED, "f16", x=x)
    assert found is not None and "`second.inner`" in found.message
    assert found.span.line == 7


def test_infinities_on_purpose_and_masked_accidents_are_not_blamed() -> None:
    """The masked scores are -inf and the untaken logarithms NaN: the gradient is finite, so nobody
    is at fault.
    """
    x = np.array([[0.5, -1.0, 2.0], [1.0, 3.0, -2.0]], np.float32)
    n = (x > 0).astype(np.int32)
    assert culprit(MASKED, "f32", x=x, n=n)[0] is None
    n[1, 2] = 1
    found, _, _ = culprit(MASKED, "f32", x=x, n=n)
    assert found is not None and found.span.line == 7 and "`log` gives" in found.message
    blind = np.zeros_like(n)
    found, _, _ = culprit(MASKED, "f32", x=x, n=blind)
    assert found is not None and found.span.line == 6 and "NaN" in found.message


def test_an_input_that_is_not_finite_is_told() -> None:
    x = np.ones((6, 4), np.float32)
    x[2, 1] = np.nan
    found, _, _ = culprit(BACKWARD, "f32", x=x)
    assert found is not None and "`x` is not finite to begin with: 1 of 24" in found.message


SMALL = """
dim T, B
model m(x: float[T, B]) -> float {
    param w: float[B] ~ ones
    h = w * 2
    scan row in x carry h = h {
        z = h * 0.01
        h = z + row
    }
    return mean(h)
}
"""


def test_an_underflow_is_traced_to_its_line() -> None:
    """Each step back divides the gradient by 100: after the fourth it is below f16's numbers,
    inside the loop.
    """
    net = loads(SMALL, dims={"T": 6, "B": 4}, precision="f16")
    found = net.diagnose(net.init(0), x=np.ones((6, 4)))
    (finding,) = [f for f in found.findings if f.kind == "underflow"]
    assert finding.span is not None and finding.span.line == 7
    assert "it begins with `mul`" in finding.message
    seeded = loads(
        SMALL.replace("mean(h)", "mean(h) * 1e-9"), dims={"T": 6, "B": 4}, precision="f16"
    )
    found = seeded.diagnose(seeded.init(0), x=np.ones((6, 4)))
    (finding,) = [f for f in found.findings if f.kind == "underflow"]
    assert finding.span is not None and finding.span.line == 10
