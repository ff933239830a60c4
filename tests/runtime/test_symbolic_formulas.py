"""Formulas found in the adjoint: those of the textbooks come out, and every one has the value it
claims.
"""

from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.codegen.symbolic.formulas.notation import to_latex, to_mathml, to_text
from gradc.runtime.reports.formulas import Formulas

WORKED = Path(__file__).resolve().parent.parent.parent / "examples" / "worked"


def formulas(number: int) -> Formulas:
    return gradc.load(WORKED / f"w{number:02d}.grad").formulas()


def lines(found: Formulas) -> list[str]:
    return [str(formula) for formula in found.gradients]


def of_text(text: str, **dims: int) -> Formulas:
    return gradc.loads(text, dims=dims).formulas()


def test_w9_two_sigmoid_layers() -> None:
    found = formulas(9)
    assert found.scale == "M"
    assert {f.of: to_text(f.scaled) for f in found.gradients if f.scaled is not None} == {
        "z2": "dz2 = a2 - y",
        "w2": "dw2 = dz2 a1^T / M",
        "b2": "db2 = mean(dz2)",
        "z1": "dz1 = w2^T dz2 * a1 * (1 - a1)",
        "w1": "dw1 = dz1 x^T / M",
        "b1": "db1 = mean(dz1, axis=1)",
    }
    assert str(found.of("z2")) == "dz2 = (a2 - y) / M"


def test_scales_by_roots_and_regrouped_names_are_told() -> None:
    found = of_text(
        """dim B, D = 6, N = 2
        model m(x: float[B, N, D // N]) -> float {
            param w: float[N, D // N] ~ normal(1)
            param u: float[D, D] ~ normal(1)
            a = tanh(x * w / sqrt(D // N))
            c = 0.9189385332 * (reshape(a, [B, D]) @ u)
            return sum(c^2)
        }"""
    )
    assert not found.missing
    assert "sqrt(3)" in str(found.of("w"))
    assert "reshape(a)^T" in str(found.of("u"))
    assert any("0.9189385332" in to_text(d) for d in found.definitions)


def test_w10_dense_relu_mse() -> None:
    assert lines(formulas(10)) == [
        "dv1 = 2 (a - y) * [v1 > 0] / (B O)",
        "dw = x^T dv1",
        "db = sum(dv1, axis=0)",
    ]


def test_w11_batch_normalisation_as_three_paths() -> None:
    found = formulas(11).of("z")
    assert str(found) == (
        "dz = (dzhat - mean(dzhat * zhat) * zhat - mean(dzhat)) / sqrt(spread + 1e-5)"
    )
    assert {way.label: to_text(way.equation).partition(" = ")[2] for way in found.ways} == {
        "direct": "dzhat / sqrt(spread + 1e-5)",
        "through the mean centre": "-mean(dzhat) / sqrt(spread + 1e-5)",
        "through the variance spread": "-mean(dzhat * zhat) * zhat / sqrt(spread + 1e-5)",
    }


DENSE = """
dim B, D, C
model m(x: float[B, D], y: {kind}) -> float {{
    use fc = dense(D, C)
    logits = fc(x)
    return mean({loss})
}}
"""


@pytest.mark.parametrize(
    ("kind", "loss", "formula", "assumption"),
    [
        ("int[B]", "cross_entropy(logits, y)", "(softmax(logits) - onehot(y)) / B", "in range"),
        ("float[B, C]", "cross_entropy(logits, y)", "(softmax(logits) - y) / B", "y sum to 1"),
        (
            "float[B, C]",
            "binary_cross_entropy_logits(logits, y)",
            "(sigmoid(logits) - y) / (B C)",
            "",
        ),
        ("float[B, C]", "(logits - y)^2", "2 (logits - y) / (B C)", ""),
    ],
)
def test_losses_on_a_dense_layer(kind: str, loss: str, formula: str, assumption: str) -> None:
    found = of_text(DENSE.format(kind=kind, loss=loss))
    assert str(found.of("logits")) == f"dlogits = {formula}"
    assert str(found.of("fc.w")) == "dfc.w = x^T dlogits"
    assert str(found.of("fc.b")) == "dfc.b = sum(dlogits, axis=0)"
    assert any(assumption in text for text in found.assumptions) == bool(assumption)
    both = gradc.loads(DENSE.format(kind=kind, loss=loss)).formulas(["x", "fc.w"])
    assert str(both.of("x")) == "dx = dlogits fc.w^T"
    # A cotangent that is used once is written where it is used.
    alone = gradc.loads(DENSE.format(kind=kind, loss=loss)).formulas(["x"])
    assert "dlogits" not in str(alone.of("x"))


def test_what_is_assumed_is_said() -> None:
    text = (
        "dim B, C\nmodel m(z: float[B, C], y: float[B, C]) -> float {\n"
        "    s = 3 * z\n    return -sum(y * (1 + log_softmax(s)))\n}"
    )
    found = gradc.loads(text).formulas(["z"])
    assert str(found.of("z")) == "dz = 3 (softmax(s) - y)"
    assert found.assumptions == ("the targets y sum to 1 over the classes",)


def test_formulas_have_the_values_of_the_gradient() -> None:
    """W9's and W11's formulas, computed with NumPy as they are printed, against the compiled
    gradient.
    """
    rng = np.random.default_rng(5)
    net = gradc.load(WORKED / "w11.grad", precision="f64")
    z, g = rng.normal(size=7), rng.normal(size=7)
    _, grads = net.value_and_grad(wrt="inputs")({}, z=z, g=g)
    spread = np.mean((z - np.mean(z)) ** 2)
    zhat = (z - np.mean(z)) / np.sqrt(spread + 1e-5)
    found = (g - np.mean(g * zhat) * zhat - np.mean(g)) / np.sqrt(spread + 1e-5)
    assert grads["z"] == pytest.approx(found, rel=1e-10, abs=1e-12)


def test_notations() -> None:
    equation = formulas(9).of("z1").equation
    assert to_latex(equation) == (
        r"\mathrm{d}z_{1} = {w_{2}}^{\top}\, \mathrm{d}z_{2} \odot a_{1} \odot \left(1 - "
        r"a_{1}\right)"
    )
    markup = to_mathml(equation)
    assert markup.startswith("<math") and markup.endswith("</math>")
    assert markup.count("<mo>⊙</mo>") == 2
    assert "<msub><mi>w</mi><mn>2</mn></msub>" in markup


def test_loops_and_pools_still_give_a_line_each() -> None:
    found = gradc.load(WORKED / "w19.grad", entry="recurrent").formulas()
    assert str(found.of("h")) == "dh = 2 (h - y)"
    assert {"wh", "wx", "b"} <= {formula.of for formula in found.gradients}


def test_same_formulas_every_time() -> None:
    assert lines(formulas(9)) == lines(formulas(9))
