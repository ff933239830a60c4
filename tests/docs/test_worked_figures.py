"""The worked figures of textbooks (examples/worked), through the public interface, in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

import gradc
from gradc.runtime.reports.whiteboard_text import to_json, to_lines

WORKED = Path(__file__).resolve().parent.parent.parent / "examples" / "worked"

Floats = NDArray[np.float64]


def model(number: int, entry: str | None = None, **dims: int) -> "gradc.Model":
    return gradc.load(WORKED / f"w{number:02d}.grad", entry=entry, dims=dims, precision="f64")


def f64(value: ArrayLike) -> Floats:
    return np.asarray(value, dtype=np.float64)


def gradient_of_inputs(number: int, **inputs: float) -> tuple[float, dict[str, float]]:
    """Value and gradient of a model of scalars."""
    arrays = {name: f64(value) for name, value in inputs.items()}
    value, grads = model(number).value_and_grad(wrt="inputs")({}, **arrays)
    assert all(grad.shape == () for grad in grads.values())
    return float(value), {name: float(grad) for name, grad in grads.items()}


@pytest.mark.parametrize(
    ("number", "inputs", "value", "gradient"),
    [
        (1, {"x": 2.0}, 15.0, {"x": 12.0}),
        (2, {"a": 2.0, "b": 3.0}, 25.0, {"a": 10.0, "b": 10.0}),
        (3, {"w": 2.0, "x": 3.0, "b": 1.0, "y": 8.0}, 1.0, {"w": -6.0, "b": -2.0}),
        (4, {"x": -2.0, "y": 5.0, "z": -4.0}, -12.0, {"x": -4.0, "y": -4.0, "z": 3.0}),
        (6, {"x": 1.75}, 1.75**2, {"x": 3.5}),
    ],
)
def test_w1_to_w6(
    number: int, inputs: dict[str, float], value: float, gradient: dict[str, float]
) -> None:
    found, grads = gradient_of_inputs(number, **inputs)
    assert found == pytest.approx(value, rel=1e-14)
    for name, expected in gradient.items():
        assert grads[name] == pytest.approx(expected, rel=1e-14), name


def test_w5_forward_mode() -> None:
    f = model(5).jvp(wrt="inputs")
    seed = {"x1": f64(1), "x2": f64(0)}
    values, tangents = f({}, seed, x1=f64(2), x2=f64(3))
    assert float(values["loss"]) == pytest.approx(6 + np.sin(2), rel=1e-14)
    assert float(values["loss"]) == pytest.approx(6.909, abs=5e-4)
    assert float(tangents["loss"]) == pytest.approx(3 + np.cos(2), rel=1e-14)
    assert float(tangents["loss"]) == pytest.approx(2.584, abs=5e-4)


def test_w7_two_layers_squared_error() -> None:
    params = {
        "w1": f64([[0.1, 0.2], [0.3, 0.4]]),
        "b1": f64([0.01, 0.02]),
        "w2": f64([[0.5, 0.6]]),
        "b2": f64([0.03]),
    }
    inputs = {"x": f64([1, 2]), "y": f64([1])}
    net = model(7)
    outputs = net.forward()(params, **inputs)
    np.testing.assert_allclose(outputs["z1"], [0.51, 1.12], rtol=1e-14)
    np.testing.assert_allclose(outputs["z2"], [0.957], rtol=1e-14)
    loss, grads = net.value_and_grad()(params, **inputs)
    assert float(loss) == pytest.approx(0.001849, rel=1e-12)
    np.testing.assert_allclose(grads["w2"], [[-0.04386, -0.09632]], rtol=1e-12)
    np.testing.assert_allclose(grads["b2"], [-0.086], rtol=1e-12)
    np.testing.assert_allclose(grads["w1"], [[-0.043, -0.086], [-0.0516, -0.1032]], rtol=1e-12)
    np.testing.assert_allclose(grads["b1"], [-0.043, -0.0516], rtol=1e-12)


def test_w8_two_layers_cross_entropy() -> None:
    params = {
        "w1": f64([[0.1, 0.2], [0.3, 0.4]]),
        "b1": f64([0.1, 0.1]),
        "w2": f64([[0.5, 0.6], [0.7, 0.8]]),
        "b2": f64([0.1, 0.1]),
    }
    inputs = {"x": f64([1, 2]), "y": np.int32(0)}
    net = model(8)
    outputs = net.forward()(params, **inputs)
    np.testing.assert_allclose(outputs["z2"], [1.12, 1.48], rtol=1e-14)
    np.testing.assert_allclose(outputs["p"], [0.411, 0.589], atol=5e-4)
    loss, grads = net.value_and_grad()(params, **inputs)
    assert float(loss) == pytest.approx(0.889, abs=5e-4)
    np.testing.assert_allclose(grads["b2"], [-0.589, 0.589], atol=5e-4)  # dz2
    np.testing.assert_allclose(grads["w2"], [[-0.353, -0.707], [0.353, 0.707]], atol=6e-4)
    np.testing.assert_allclose(grads["b1"], [0.118, 0.118], atol=5e-4)  # dh1
    np.testing.assert_allclose(grads["w1"], [[0.118, 0.236], [0.118, 0.236]], atol=5e-4)


def test_w9_two_sigmoids() -> None:
    rng = np.random.default_rng(9)
    d, h, m = 3, 4, 7
    x, y = rng.normal(size=(d, m)), rng.integers(0, 2, (1, m)).astype(np.float64)
    params = {
        "w1": rng.normal(size=(h, d)),
        "b1": rng.normal(size=(h, 1)),
        "w2": rng.normal(size=(1, h)),
        "b2": rng.normal(size=(1, 1)),
    }
    a1 = 1 / (1 + np.exp(-(params["w1"] @ x + params["b1"])))
    dz2 = 1 / (1 + np.exp(-(params["w2"] @ a1 + params["b2"]))) - y
    dz1 = params["w2"].T @ dz2 * a1 * (1 - a1)
    _, grads = model(9).value_and_grad()(params, x=x, y=y)
    np.testing.assert_allclose(grads["w2"], dz2 @ a1.T / m, rtol=1e-10)
    np.testing.assert_allclose(grads["w1"], dz1 @ x.T / m, rtol=1e-10)
    np.testing.assert_allclose(grads["b1"], dz1.sum(1, keepdims=True) / m, rtol=1e-10, atol=1e-16)


def test_w10_dense_relu_mse() -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), 0.1 * rng.normal(size=(4, 2))
    params = {"w": w, "b": np.zeros(2)}
    z = x @ w
    da = 2 * (np.maximum(z, 0) - y) / y.size
    dz = da * (z > 0)
    f = model(10).value_and_grad(wrt=["w", "b", "x"])
    loss, grads = f(params, x=x, y=y)
    np.testing.assert_allclose(grads["w"], x.T @ dz, rtol=1e-12)
    np.testing.assert_allclose(grads["b"], dz.sum(0), rtol=1e-12)
    np.testing.assert_allclose(grads["x"], dz @ w.T, rtol=1e-12)
    eps = 1e-5
    for place in np.ndindex(w.shape):
        moved = w.copy()
        moved[place] += eps
        slope = (float(f({"w": moved, "b": params["b"]}, x=x, y=y)[0]) - float(loss)) / eps
        assert grads["w"][place] == pytest.approx(slope, abs=1e-3)


def test_w11_batch_normalisation() -> None:
    rng = np.random.default_rng(11)
    z, g = rng.normal(3.0, 2.0, 9), rng.normal(size=9)
    spread = np.sqrt(z.var() + 1e-5)
    zhat = (z - z.mean()) / spread
    expected = (g - g.mean() - zhat * (g * zhat).mean()) / spread
    _, grads = model(11).value_and_grad(wrt=["z"])({}, z=z, g=g)
    np.testing.assert_allclose(grads["z"], expected, rtol=1e-11)


def trained(number: int, optimizer: str, start: float, gradients: list[float]) -> list[float]:
    """The weight after each step on the loss g w, whose gradient is g."""
    step = model(number).train_step(optimizer)
    state = step.init({"w": f64(start)})
    weights = []
    for gradient in gradients:
        _, state = step(state, g=f64(gradient))
        weights.append(float(state.params["w"]))
    return weights


def test_w12_sgd_and_momentum() -> None:
    assert trained(12, "sgd(lr=0.1)", 2.0, [0.4]) == pytest.approx([1.96], rel=1e-14)
    weights = trained(12, "momentum(lr=0.1, momentum=0.9)", 1.0, [0.5, -0.3])
    assert weights == pytest.approx([0.95, 0.935], rel=1e-14)


def test_w13_adam() -> None:
    weights = trained(13, "adam(lr=0.01)", 1.0, [0.4, -0.2])
    assert weights == pytest.approx([0.99, 0.9873], abs=5e-5)
    m, v = 0.016 / (1 - 0.9**2), 0.00019984 / (1 - 0.999**2)
    first = 1 - 0.01 * 0.4 / (0.4 + 1e-8)
    assert weights[1] == pytest.approx(first - 0.01 * m / (np.sqrt(v) + 1e-8), rel=1e-12)


@pytest.mark.parametrize(("t", "rate"), [(50, 1.5e-4), (100, 3e-4), (550, 1.65e-4), (1000, 3e-5)])
def test_w14_warm_up_and_cosine(t: int, rate: float) -> None:
    assert float(model(14).forward()({}, t=f64(t))["loss"]) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("x", "slope"), [(5.0, 0.0066), (10.0, 0.000045)])
def test_w15_one_sigmoid(x: float, slope: float) -> None:
    net = model(15, "one_sigmoid")
    _, grads = net.value_and_grad(wrt="inputs")({}, x=f64(x))
    assert float(grads["x"]) == pytest.approx(slope, rel=0.02)


def test_w15_ten_saturated_layers() -> None:
    _, grads = model(15, "saturated").value_and_grad(wrt="inputs")({}, x=f64(0.991))
    assert float(grads["x"]) == pytest.approx(3e-21, rel=0.15)


def test_w16_a_hundred_stretching_layers() -> None:
    net = model(16, "stretched")
    rng = np.random.default_rng(16)
    _, grads = net.value_and_grad(wrt="inputs")(net.init(seed=0), x=rng.normal(size=(4, 8)))
    # Orthogonal weights keep every row's length: 1.5^100 times that of the mean's own gradient.
    expected = 1.5**100 * np.sqrt(8) / 32
    np.testing.assert_allclose(np.linalg.norm(grads["x"], axis=1), expected, rtol=1e-9)


def test_w17_zero_weights_stay_symmetric() -> None:
    net = model(17)
    rng = np.random.default_rng(17)
    _, grads = net.value_and_grad()(
        net.init(seed=0), x=rng.normal(size=(8, 4)), y=rng.normal(size=(8, 1))
    )
    np.testing.assert_array_equal(grads["last.w"], grads["last.w"][:1].repeat(3, 0))
    assert grads["last.w"].any()
    np.testing.assert_array_equal(grads["hidden.w"], np.zeros((4, 3)))


@pytest.mark.parametrize(("scale", "change"), [(None, 0.0), (2.0**16, -(2.0**-26))])
def test_w18_f16_underflow(scale: float | None, change: float) -> None:
    """Unscaled the gradient 2^-26 is flushed; scaled and unscaled it arrives exactly."""
    net = gradc.load(WORKED / "w18.grad", precision="f16")
    step = net.train_step("sgd(lr=1.0)", loss_scale=scale)
    _, state = step(step.init({"w": np.float32(0)}), x=np.float16(2.0**-13))
    assert float(state.params["w"]) == change


def recurrent_by_hand(
    params: dict[str, Floats], xs: Floats, y: Floats, window: int
) -> dict[str, Floats]:
    """The gradient as the unrolled product of diag(1 - h^2) wh, stopped after `window` steps
    back.
    """
    h = [np.zeros(y.shape)]
    for x in xs:
        h.append(np.tanh(params["wh"] @ h[-1] + params["wx"] @ x + params["b"]))
    found = {name: np.zeros_like(value) for name, value in params.items()}
    ct = 2 * (h[-1] - y)
    for t in range(len(xs), max(0, len(xs) - window), -1):
        dz = (1 - h[t] ** 2) * ct
        found["wh"] += np.outer(dz, h[t - 1])
        found["wx"] += np.outer(dz, xs[t - 1])
        found["b"] += dz
        ct = params["wh"].T @ dz
    return found


@pytest.mark.parametrize(("entry", "window"), [("recurrent", 6), ("windowed", 2)])
def test_w19_recurrent(entry: str, window: int) -> None:
    rng = np.random.default_rng(19)
    params = {
        "wh": rng.normal(size=(4, 4)),
        "wx": rng.normal(size=(4, 3)),
        "b": rng.normal(size=4),
    }
    xs, y = rng.normal(size=(6, 3)), rng.normal(size=4)
    _, grads = model(19, entry).value_and_grad()(params, xs=xs, y=y)
    for name, expected in recurrent_by_hand(params, xs, y, window).items():
        np.testing.assert_allclose(grads[name], expected, rtol=1e-11, atol=1e-13, err_msg=name)


def test_w20_many_inputs_one_result() -> None:
    x = np.random.default_rng(20).normal(size=1_000_000)
    value, grads = model(20, "many_to_one").value_and_grad(wrt="inputs")({}, x=x)
    np.testing.assert_allclose(grads["x"], 2 * x, rtol=1e-15)
    assert float(value) == pytest.approx(float(x @ x), rel=1e-12)


def test_w20_one_input_a_thousand_results() -> None:
    net = model(20, "one_to_many")
    jacobian = net.jacobian(wrt=["x"], of="loss")({}, x=f64(0.3))["x"]
    steps = np.arange(1000)
    np.testing.assert_allclose(jacobian, steps * np.cos(0.3 * steps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("entry", "mode", "forward", "reverse"),
    [("many_to_one", "reverse", 1_000_000, 1), ("one_to_many", "forward", 1, 1000)],
)
def test_w20_counts_the_passes(entry: str, mode: str, forward: int, reverse: int) -> None:
    jacobian = model(20, entry).jacobian(wrt=["x"], of="loss")
    plan = jacobian.passes()
    assert (plan.mode, plan.passes) == (mode, 1)
    assert (plan.forward_passes, plan.reverse_passes) == (forward, reverse)
    assert f"; 1 {mode} pass (" in repr(jacobian)


def test_w20_the_whiteboard_counts_the_passes() -> None:
    """A gradient takes one reverse pass; an array has a Jacobian, and the refusal says what that
    takes.
    """
    board = model(20, "many_to_one").explain({}, x=np.ones(1_000_000))
    assert "took 1 reverse pass (forward mode: 1000000)" in to_lines(board)
    assert to_json(board)["passes"] == {"mode": "reverse", "forward": 1_000_000, "reverse": 1}
    with pytest.raises(gradc.DiagnosticError) as refused:
        model(20, "one_to_many").explain({}, x=f64(0.3))
    (found,) = refused.value.diagnostics
    assert found.code == "GC0521"
    assert "1 forward pass (reverse mode: 1000)" in str(refused.value)


def test_w20_functions_count_their_passes() -> None:
    many: Any = gradc.jacobian(lambda v: np.sin(v * np.arange(1000.0)))
    assert "mode" not in repr(many)
    plan = many.passes(0.3)
    assert (plan.mode, plan.forward_passes, plan.reverse_passes) == ("forward", 1, 1000)
    assert repr(many).endswith(": 1 forward pass (reverse mode: 1000)>")
    forced: Any = gradc.jacrev(lambda v: np.sin(v * np.arange(1000.0)))
    assert str(forced.passes(0.3)) == "1000 reverse passes (forward mode: 1)"
    tree: Any = gradc.jacobian(lambda v: {"a": np.sum(v), "b": v[:2]})
    plans = tree.passes(np.ones(3))
    assert [plans[n].passes for n in "ab"] == [1, 2]
    slope: Any = gradc.grad(lambda v: v * v)
    with pytest.raises(TypeError, match="no Jacobian"):
        slope.passes(1.0)


def test_w21_the_gradient_of_a_bias_has_its_shape() -> None:
    net = model(21)
    rng = np.random.default_rng(21)
    _, grads = net.value_and_grad()(
        net.init(seed=0), x=rng.normal(size=(5, 3)), y=rng.normal(size=(5, 4))
    )
    assert grads["b1"].shape == (4,)
    assert grads["b1"].all()
