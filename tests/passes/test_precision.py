"""Mixed precision: f32 masters and losses, loss scaling, overflow named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.core import DType
from gradc.passes.differentiate.transforms import vjp
from gradc.passes.training.precision import promote_loss
from gradc.runtime.api import load, loads
from gradc.runtime.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "examples" / "digits"

# The gradient of p is scale * mean(x) / (something small): W18's value below f16's smallest number.
TINY = """
dim B
model m(x: float[B]) -> float {
    param p: float ~ ones
    return mean(x * p) * 1e-4
}
"""


def digits() -> tuple[Any, Any]:
    data = np.load(DIGITS / "digits_train.npz", allow_pickle=False)
    return data["x"], data["y"]


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_the_loss_of_a_16_bit_program_is_f32(precision: str) -> None:
    net = load(DIGITS / "mlp.grad", precision=precision)
    model = net.lower({"B": 8})
    assert model.loss.dtype is DType.F32
    assert dict(model.outputs)["logits"].dtype is model.precision
    x, y = digits()
    loss, grads = net.value_and_grad()(net.init(0), x=x[:8], y=y[:8])
    exact, _ = load(DIGITS / "mlp.grad").value_and_grad()(net.init(0), x=x[:8], y=y[:8])
    assert loss.dtype == np.float32
    assert abs(loss - exact) < 0.01 * exact
    assert set(grads) == set(net.params)


def test_a_program_without_low_precision_is_left_alone() -> None:
    function = load(DIGITS / "mlp.grad").program.lower("mlp", {"B": 8}).function
    assert promote_loss(function) is function


def test_w18_a_gradient_below_f16_is_flushed_without_scaling_and_kept_with_it() -> None:
    """2^-26 is below the smallest f16, 2^-24: rounding to nearest even makes it 0; times 2^16 it is
    exact.
    """
    net = loads(
        "model m(x: float[2]) -> float { param w: float[2] ~ ones\n return sum(w * x) }",
        precision="f16",
    )
    small = np.float16(2.0**-13)
    function = vjp(net.lower().function, ["w"], of=["loss"])
    assert function.parameters[-1].name == "loss"
    found = {}
    for scale in (
        2.0**-13,
        2.0**3,
    ):  # the seed is the loss's own factor 2^-13 times the loss scale 1 or 2^16
        pullback = net.vjp(["w"])
        seeds = {"loss": np.float32(scale)}
        _, cts = pullback(net.init(0), seeds, x=np.full(2, small))
        found[scale] = cts["w"]
    assert (found[2.0**-13] == 0).all()
    assert (found[2.0**3].astype(np.float64) / 2**16 == 2.0**-26).all()


@pytest.mark.parametrize("scale", [None, 1024.0, "dynamic"])
@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_16_bit_training_follows_f32(precision: str, scale: Any) -> None:
    x, y = digits()
    losses = {}
    for name, loss_scale in (("f32", None), (precision, scale)):
        net = load(DIGITS / "mlp.grad", precision=name)
        step = net.train_step("adamw(lr=2e-3)", loss_scale=loss_scale)
        state = step.init(net.init(0))
        assert all(a.dtype == np.float32 for a in state.params.values())
        total = 0.0
        for start in range(0, 1280, 64):
            rows = slice(start, start + 64)
            loss, state = step(state, x=x[rows], y=y[rows])
            total += float(loss)
        losses[name] = total
    assert abs(losses[precision] - losses["f32"]) < 0.02 * losses["f32"]


def test_a_static_scale_changes_nothing_in_f32() -> None:
    """A power of two multiplies and divides exactly."""
    x, y = digits()
    found = []
    for scale in (None, 2.0**10, "dynamic"):
        net = load(DIGITS / "mlp.grad")
        step = net.train_step("adam(lr=1e-3)", loss_scale=scale, clip_norm=1.0)
        state = step.init(net.init(0))
        for _ in range(3):
            _, state = step(state, x=x[:64], y=y[:64])
        found.append(state.params)
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(value, other[name], rtol=1e-6, atol=1e-9)


BIG = """
dim B, D = 64
model m(x: float[B, D], y: int[B]) -> float {
    use f = dense(D, 10)
    z = f(x)
    return mean(z) + mean(z * 600)
}
"""


def test_an_overflow_skips_the_step_halves_the_scale_and_is_traced_to_its_line() -> None:
    x, y = digits()
    net = loads(BIG, precision="f16")
    step = net.train_step("sgd(lr=1e-6)", loss_scale="dynamic")
    state = step.init(net.init(0))
    before = {name: value.copy() for name, value in state.arrays.items()}
    found = step.culprit(state, x=x[:8], y=y[:8])
    _, state = step(state, x=x[:8], y=y[:8])
    assert state.metrics["overflow"]
    assert state.arrays["loss_scale"] == before["loss_scale"] / 2
    assert state.step == 0
    for name in net.params:
        np.testing.assert_array_equal(state.arrays[name], before[name])
    assert found is not None and found.code == "GC0809"
    assert found.span is not None and found.span.line == 6
    while state.metrics["overflow"]:
        _, state = step(state, x=x[:8], y=y[:8])
    assert state.step == 1
    assert step.culprit(state, x=x[:8], y=y[:8]) is None


def test_training_that_diverges_names_the_line_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "bad.grad"
    model.write_text(
        "dim B, D = 64\nmodel m(x: float[B, D], y: int[B]) -> float {\n"
        "    use f = dense(D, 10)\n    s = sqrt(sum(f(x), axis = -1))\n    return mean(s)\n}\n"
    )
    run = tmp_path / "run"
    data = str(DIGITS / "digits_train.npz")
    status = main(["train", str(model), "--data", data, "--out", str(run), "--epochs", "1"])
    said = capsys.readouterr().err
    assert status == 1
    assert "GC0806" in said and "GC0809" in said and "bad.grad:4" in said
    assert [p.name for p in run.glob("step-*")] == ["step-000000000000.safetensors"]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), "static"])
def test_senseless_scales_are_refused(scale: Any) -> None:
    with pytest.raises(DiagnosticError, match="loss_scale"):
        loads(TINY).train_step("sgd(lr=1)", loss_scale=scale)
