"""Diagnosis of gradient flow: measured numbers are right, and each finding is found, named and
answered.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import load, loads
from gradc.runtime.cli import main
from gradc.runtime.reports.diagnose import Diagnosis, flow_svg

ROOT = Path(__file__).resolve().parent.parent.parent
WORKED = ROOT / "examples" / "worked"


def diagnosis_of(path: Path, entry: str | None, **inputs: Any) -> Diagnosis:
    net = load(path, entry=entry)
    dims = net.bind({name: np.shape(value) for name, value in inputs.items()})
    return net.diagnose(net.init(0, dims), **inputs)


def kinds(found: Diagnosis) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_w15_ten_saturated_layers_vanish() -> None:
    found = diagnosis_of(WORKED / "w15.grad", "saturated", x=np.array(1.0))
    (finding,) = [f for f in found.findings if f.kind == "vanishing"]
    assert finding.span is not None and finding.span.outermost.line in range(5, 17)
    gains = [a.norm / b.norm for a, b in zip(found.places, found.places[1:], strict=False)]
    expected = [1 / (2 + np.exp(4.7) + np.exp(-4.7))]  # sigmoid'(4.7)
    np.testing.assert_allclose(gains, expected * 9, rtol=0.02)
    # The ten factors of W15: nine gains between places and the first layer's own slope.
    assert 1e-21 < found.places[0].norm / found.places[-1].norm * gains[0] < 1e-20
    assert "sigmoid" in finding.remedy


def test_w16_five_sigmoid_layers_stay_under_the_bound() -> None:
    x = np.random.default_rng(0).normal(size=(4, 8))
    found = diagnosis_of(WORKED / "w16.grad", "squashed", x=x)
    first, last = found.places[0].norm, found.places[-1].norm
    assert first / last <= 0.25**4


def test_w16_a_hundred_stretching_layers_explode() -> None:
    x = np.random.default_rng(0).normal(size=(4, 8))
    found = diagnosis_of(WORKED / "w16.grad", "stretched", x=x)
    assert "exploding" in kinds(found)
    ratio = found.places[0].norm / found.places[-1].norm
    assert ratio == pytest.approx(1.5**99, rel=1e-6)  # orthogonal times 1.5, 99 layers apart


def test_w17_zero_weights_are_symmetric_and_the_remedy_was_tried() -> None:
    rng = np.random.default_rng(1)
    found = diagnosis_of(
        WORKED / "w17.grad", None, x=rng.normal(size=(8, 4)), y=rng.normal(size=(8, 1))
    )
    (finding,) = [f for f in found.findings if f.kind == "symmetry"]
    assert "hidden.w" in finding.message
    assert finding.effect.startswith("tried")
    assert finding.span is not None and finding.span.outermost.line == 13


def test_a_healthy_network_has_no_findings() -> None:
    data = np.load(ROOT / "examples/digits/digits_train.npz", allow_pickle=False)
    found = diagnosis_of(
        ROOT / "examples/digits/mlp.grad", None, x=data["x"][:256], y=data["y"][:256]
    )
    assert found.findings == ()


def test_norms_are_those_of_the_gradient() -> None:
    data = np.load(ROOT / "examples/digits/digits_train.npz", allow_pickle=False)
    net = load(ROOT / "examples/digits/mlp.grad", precision="f64")
    params = net.init(0)
    inputs = {"x": data["x"][:32], "y": data["y"][:32]}
    _, grads = net.value_and_grad()(params, **inputs)
    found = net.diagnose(params, **inputs)
    for parameter in found.parameters:
        assert parameter.grad_norm == pytest.approx(np.linalg.norm(grads[parameter.name]), rel=1e-9)
    # The cotangent of a dense layer's outcome sums to its bias gradient, so the norm of the first
    # bounds the second; and for a batch of one they are equal.
    one = {"x": data["x"][:1], "y": data["y"][:1]}
    _, grads = net.value_and_grad()(params, **one)
    places = {p.label: p.norm for p in net.diagnose(params, **one).places}
    assert places["fc1"] == pytest.approx(np.linalg.norm(grads["fc1.b"]), rel=1e-9)
    assert places["fc2"] == pytest.approx(np.linalg.norm(grads["fc2.b"]), rel=1e-9)


RECURRENT = """
dim T, B, D = 5
model m(x: float[T, B, D]) -> float {
    use r = rnn(D, 16)
    use head = dense(16, 1)
    return mean(head(r(x)[-1])^2)
}
"""


def test_gradients_through_time_are_measured_and_the_window_is_right() -> None:
    x = np.random.default_rng(0).normal(size=(60, 4, 5))
    net = loads(RECURRENT, precision="f64")
    params = net.init(0)
    found = net.diagnose(params, x=x)
    ((_, norms),) = found.times.items()
    assert len(norms) == 60
    # The cotangent of the carry into step t, by finite differences of the loss over the last steps.
    (finding,) = [f for f in found.findings if f.kind == "vanishing"]
    window = int(finding.remedy.split("truncate ")[1].split("`")[0])
    kept = sum(n * n for n in norms[-window:]) / sum(n * n for n in norms)
    dropped = sum(n * n for n in norms[-(window - 1) :]) / sum(n * n for n in norms)
    assert kept >= 0.999 > dropped


def test_time_norms_equal_the_unrolled_cotangents() -> None:
    """dL/dh_t of h_t = tanh(h W + u), by hand."""
    net = loads(
        "dim T, H = 3\nmodel m(u: float[T, H]) -> float {\n    param w: float[H, H] ~ orthogonal\n"
        "    hs = scan a in u carry h = zeros([H]) { h = tanh(h @ w + a)\n yield h }\n"
        "    return sum(h^2)\n}",
        precision="f64",
    )
    u = np.random.default_rng(2).normal(size=(6, 3))
    params = net.init(0)
    ((_, norms),) = net.diagnose(params, u=u).times.items()
    w, h, states = params["w"], np.zeros(3), []
    for row in u:
        h = np.tanh(h @ w + row)
        states.append(h)
    ct, expected = 2 * states[-1], []
    for state in reversed(states):
        ct = (ct * (1 - state**2)) @ w.T
        expected.append(np.linalg.norm(ct))
    np.testing.assert_allclose(norms, expected[::-1], rtol=1e-10)


def test_dead_units_are_found() -> None:
    net = loads(
        "dim B\nmodel m(x: float[B, 4]) -> float {\n    use f = dense(4, 10)\n"
        "    use g = dense(10, 1)\n    return mean(g(relu(f(x)))^2)\n}"
    )
    params = net.init(0)
    x = np.random.default_rng(0).normal(size=(100, 4))
    params["f.b"][:4] = -100.0  # what healthy networks have is not told
    assert "dead" not in kinds(net.diagnose(params, x=x))
    params["f.b"][:6] = -100.0
    found = net.diagnose(params, x=x)
    (finding,) = [f for f in found.findings if f.kind == "dead"]
    assert "60%" in finding.message
    assert finding.span is not None and finding.span.outermost.line == 5


def test_f16_underflow_is_measured_and_the_scale_tried() -> None:
    text = (
        "dim B\nmodel m(x: float[B, 8]) -> float {\n    use f = dense(8, 4)\n"
        "    return mean(f(x)^2) * 1e-8\n}"
    )
    x = np.random.default_rng(0).normal(size=(16, 8))
    net = loads(text)
    assert not net.diagnose(net.init(0), x=x).findings  # f32 holds them
    net = loads(text, precision="f16")
    found = net.diagnose(net.init(0), x=x)
    (finding,) = [f for f in found.findings if f.kind == "underflow"]
    scale = float(finding.remedy.split()[1].rstrip(","))
    assert scale >= 2**10
    assert "at most 0.0%" in finding.effect


def test_command_prints_tables_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(4, 8)))
    model = str(WORKED / "w16.grad")
    picture = tmp_path / "flow.svg"
    arguments = ["diagnose", model, "--entry", "stretched", "--data", str(data)]
    assert main([*arguments, "--svg", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "exploding" in said and "w16.grad:27" in said and "more" in said
    assert picture.read_text().count("<polyline") == 1
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["layers"]) == 100
    assert found["findings"][0]["kind"] == "exploding"


def test_a_picture_of_nothing_is_still_a_picture() -> None:
    assert "<svg" in flow_svg(Diagnosis(0.0, (), {}, (), ()), "empty")


CANCELLED = """
model net(x: float[8, 4], y: float[8, 4]) -> float {
    use fc = dense(4, 4)
    h = tanh(fc(x) * 0.5)
    shift = sum(h, axis = -1, keepdims = true)
    a = tanh(shift * 3)
    p = softmax(y + a, axis = -1)
    return mean((p - y)^2)
}
"""


def test_a_gradient_that_is_zero_by_mathematics_does_not_vanish() -> None:
    """A softmax does not see what is added to all its entries: what comes back is rounding, and no
    finding.
    """
    rng = np.random.default_rng(0)
    net = loads(CANCELLED)
    inputs: dict[str, Any] = {"x": rng.normal(size=(8, 4)), "y": rng.normal(size=(8, 4))}
    found = net.diagnose(net.init(0), **inputs)
    assert 0 < max(p.grad_norm for p in found.parameters) < 1e-12
    assert "vanishing" not in [f.kind for f in found.findings]


def test_equal_weights_are_not_called_zeros() -> None:
    text = """
    model net(x: float[5, 3], y: float[5, 2]) -> float {
        param w: float[3, 4] ~ constant(0.3)
        param v: float[4, 2] ~ constant(0.3)
        return mean((tanh(x @ w) @ v - y)^2)
    }
    """
    rng = np.random.default_rng(0)
    net = loads(text)
    inputs: dict[str, Any] = {"x": rng.normal(size=(5, 3)), "y": rng.normal(size=(5, 2))}
    found = net.diagnose(net.init(0), **inputs)
    remedies = [f.remedy for f in found.findings if f.kind == "symmetry"]
    assert remedies and all("instead of equal numbers" in r for r in remedies)


SMALL = """model f(x: float[8], y: float[8]) -> float {
    param w: float[8] ~ normal(1.0)
    return sum(tanh(w * x) * y) * 1e-9
}"""


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_a_gradient_that_its_precision_does_not_explain_is_named(precision: str) -> None:
    """In f16 a loss this small has gradients that are flushed to zero; f32 and bf16 hold them."""
    net = loads(SMALL, precision=precision)
    found = net.diagnose(net.init(0), x=np.linspace(0.1, 0.9, 8), y=np.ones(8))
    inexact = [f for f in found.findings if f.kind == "inexact"]
    assert len(inexact) == (precision == "f16")
    if inexact:
        assert inexact[0] is found.findings[0]
        assert "`w` is wrong by 1 of its largest entry; rounding in f16" in inexact[0].message
        assert inexact[0].span is not None and inexact[0].span.outermost.line == 2
        assert inexact[0].remedy == "compute in bf16: `--precision bf16`"
        assert inexact[0].effect == "in bf16 it is as exact as its rounding allows"


def test_a_kink_that_rounding_steps_over_is_no_fault() -> None:
    """A hundred slopes of a ReLU flip within half an ulp of the data."""
    net = loads("""model f(x: float[400], y: float[400]) -> float {
        param w: float[1] ~ ones
        return mean(relu(x - y * w))
    }""")
    x = np.random.default_rng(0).uniform(1.0, 2.0, 400).astype(np.float32)
    y = x + np.where(np.arange(400) % 4, 0.5, 1e-8 * np.arange(400) * x)
    assert "inexact" not in kinds(net.diagnose(net.init(0), x=x, y=y))


def test_numbers_that_are_not_finite_are_named_in_the_precision_that_runs() -> None:
    """A gradient of 0 / 0 with a finite loss; a logarithm of what is zero in f32 alone."""
    root = loads("""model f(x: float[3]) -> float {
        param w: float[3] ~ ones
        return sqrt(sum((w * x)^2))
    }""")
    found = root.diagnose(root.init(0), x=np.zeros(3))
    assert np.isfinite(found.loss) and kinds(found) == ["not-finite"]
    assert "of the gradient" in found.findings[0].message
    assert found.findings[0].span is not None and found.findings[0].span.outermost.line == 3
    text = """model f(x: float) -> float {
        param w: float ~ ones
        return log(exp(-w * x))
    }"""
    for precision, told in (("f64", False), ("f32", True)):
        net = loads(text, precision=precision)
        assert ("not-finite" in kinds(net.diagnose(net.init(0), x=np.array(200.0)))) is told


def test_a_gradient_that_is_zero_only_now_is_not_unreached() -> None:
    """A low-rank update starts at zero; a dead end stays, and is one finding."""
    text = """dim B
model f(x: float[B, 4]) -> float {
    param a: float[4, 2] ~ he_normal
    param b: float[2, 4] ~ zeros
    return mean((x @ a @ b - x)^2)
}"""
    net = loads(text)
    x = np.random.default_rng(0).normal(size=(8, 4))
    assert "unreached" not in kinds(net.diagnose(net.init(0), x=x))
    net = loads(text.replace("x @ a @ b", "round(x @ a @ b) + 0 * a[0, 0]"))
    (finding,) = [f for f in net.diagnose(net.init(0), x=x).findings if f.kind == "unreached"]
    assert "`a`, `b`" in finding.message
