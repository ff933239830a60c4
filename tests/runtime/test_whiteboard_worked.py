"""The whiteboard of the worked examples W1 to W8: every figure a textbook gives, and the formulas
beside them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gradc
from gradc.codegen.symbolic.formulas.notation import to_text
from gradc.runtime.cli import main
from gradc.runtime.reports.whiteboard import Whiteboard

WORKED = Path(__file__).resolve().parent.parent.parent / "examples" / "worked"
Floats = NDArray[np.float64]


def f64(value: Any) -> Floats:
    return np.asarray(value, dtype=np.float64)


def board(
    number: int,
    inputs: Mapping[str, Any],
    params: Mapping[str, Floats] | None = None,
    tangent: Mapping[str, Floats] | None = None,
) -> Whiteboard:
    net = gradc.load(WORKED / f"w{number:02d}.grad")
    return net.explain(params or {}, None, tangent, **inputs)


W7_PARAMS = {
    "w1": f64([[0.1, 0.2], [0.3, 0.4]]),
    "b1": f64([0.01, 0.02]),
    "w2": f64([[0.5, 0.6]]),
    "b2": f64([0.03]),
}
W8_PARAMS = {
    "w1": f64([[0.1, 0.2], [0.3, 0.4]]),
    "b1": f64([0.1, 0.1]),
    "w2": f64([[0.5, 0.6], [0.7, 0.8]]),
    "b2": f64([0.1, 0.1]),
}


def forward_formulas(found: Whiteboard) -> list[str]:
    return [to_text(row.equation) for row in found.forward]


def backward_formulas(found: Whiteboard) -> list[str]:
    return [to_text(row.equation) for row in found.backward]


def test_w1_is_written_step_by_step() -> None:
    found = board(1, {"x": f64(2)})
    assert forward_formulas(found) == ["v1 = x^2", "v2 = v1 + 1", "L = 3 v2"]
    assert [float(row.value) for row in found.forward] == [4, 5, 15]
    assert [to_text(n) for row in found.forward for n in row.local] == [
        "dv1/dx = 2 x",
        "dv2/dv1 = 1",
        "dL/dv2 = 3",
    ]
    assert float(found.gradients["x"]) == 12
    assert [row.source for row in found.forward] == ["x^2", "x^2 + 1", "3 * (x^2 + 1)"]


@pytest.mark.parametrize(
    ("number", "inputs", "loss", "gradient"),
    [
        (2, {"a": 2, "b": 3}, 25, {"a": 10, "b": 10}),
        (3, {"w": 2, "x": 3, "b": 1, "y": 8}, 1, {"w": -6, "b": -2}),
        (4, {"x": -2, "y": 5, "z": -4}, -12, {"x": -4, "y": -4, "z": 3}),
        (6, {"x": 3}, 9, {"x": 6}),
    ],
)
def test_scalars(
    number: int, inputs: dict[str, float], loss: float, gradient: dict[str, float]
) -> None:
    found = board(number, {name: f64(value) for name, value in inputs.items()})
    assert float(found.row("L").value) == loss
    for name, expected in gradient.items():
        assert float(found.gradients[name]) == expected


def test_w5_forward_mode() -> None:
    found = board(5, {"x1": f64(2), "x2": f64(3)}, tangent={"x1": f64(1)})
    last = found.tangents[-1]
    assert last.name == "L"
    assert float(last.value) == pytest.approx(6.909, abs=5e-4)
    assert float(last.tangent) == pytest.approx(2.584, abs=5e-4)
    assert float(last.tangent) == pytest.approx(3 + np.cos(2), rel=1e-14)


def test_w6_fan_out_is_one_formula() -> None:
    assert backward_formulas(board(6, {"x": f64(3)}))[-1] == "dx = 2 x"


def test_w7() -> None:
    found = board(7, {"x": f64([1, 2]), "y": f64([1])}, W7_PARAMS)
    assert found.row("z1").value == pytest.approx(f64([0.51, 1.12]))
    assert found.row("z2").value == pytest.approx(f64([0.957]))
    assert float(found.row("L").value) == pytest.approx(0.001849)
    assert found.gradients["w2"] == pytest.approx(f64([[-0.04386, -0.09632]]))
    assert found.gradients["b2"] == pytest.approx(f64([-0.086]))
    assert found.gradients["w1"] == pytest.approx(f64([[-0.043, -0.086], [-0.0516, -0.1032]]))
    assert found.gradients["b1"] == pytest.approx(f64([-0.043, -0.0516]))
    assert "z1 = w1 x + b1" in forward_formulas(found)
    assert {
        "dz2 = dv2",
        "dw2 = dz2 v1^T",
        "dz1 = dv1 * [z1 > 0]",
        "dw1 = dz1 x^T",
        "db1 = dz1",
    } <= set(backward_formulas(found))


def test_w8_softmax_cross_entropy_is_one_row() -> None:
    found = board(8, {"x": f64([1, 2]), "y": np.array(0)}, W8_PARAMS)
    assert found.row("z2").value == pytest.approx(f64([1.12, 1.48]))
    assert found.row("p").value == pytest.approx(f64([0.411, 0.589]), abs=5e-4)
    assert float(found.row("L").value) == pytest.approx(0.889, abs=5e-4)
    assert found.cotangent("z2").value == pytest.approx(f64([-0.589, 0.589]), abs=5e-4)
    assert found.cotangent("h1").value == pytest.approx(f64([0.118, 0.118]), abs=5e-4)
    assert found.gradients["w2"] == pytest.approx(f64([[-0.353, -0.707], [0.353, 0.707]]), abs=5e-4)
    assert found.gradients["w1"] == pytest.approx(f64([[0.118, 0.236], [0.118, 0.236]]), abs=5e-4)
    assert [row.name for row in found.forward] == ["v1", "h1", "z2", "p", "L"]
    assert to_text(found.cotangent("z2").equation) == "dz2 = p - onehot(y)"
    assert to_text(found.row("p").equation) == "p = softmax(z2)"
    assert "the ids y lie in range" in found.assumptions


def test_values_agree_with_the_compiled_gradient() -> None:
    rng = np.random.default_rng(3)
    net = gradc.load(WORKED / "w09.grad", precision="f64")
    inputs = {"x": rng.normal(size=(3, 5)), "y": (rng.random((1, 5)) < 0.5).astype(np.float64)}
    params = net.init(4, {"D": 3, "M": 5})
    loss, grads = net.value_and_grad()(params, **inputs)
    found = net.explain(params, **inputs)
    assert float(found.row("L").value) == pytest.approx(float(loss), rel=1e-12)
    for name, grad in grads.items():
        assert found.gradients[name] == pytest.approx(grad, rel=1e-10, abs=1e-14)


def test_the_command_prints_text_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "in.npz"
    np.savez(data, x=np.float32(2))
    arguments = ["explain", str(WORKED / "w01.grad"), "--data", str(data)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "dx  = 2 dv1 * x  = 12" in printed
    assert "x^2 + 1" in printed
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["backward"][-1]["value"] == 12
    assert document["forward"][0]["latex"] == "v_{1} = {x}^{2}"


def test_the_command_still_explains_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GC0104"]) == 0
    assert "GC0104" in capsys.readouterr().out
