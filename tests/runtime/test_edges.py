"""Words at the edges of what they are defined for: slopes where a loss is most wrong, roots at
zero, stretched axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError


def slopes(text: str, precision: str = "f64", **inputs: Any) -> dict[str, np.ndarray]:
    """Gradients with respect to every floating input, in f64."""
    _, found = gradc.loads(text, precision=precision).value_and_grad(wrt="inputs")({}, **inputs)
    return {name: np.asarray(array, np.float64) for name, array in found.items()}


CROSS_ENTROPY = """
model m(p: float[N], y: float[N]) -> float { return sum(binary_cross_entropy(p, y)) }
"""


@pytest.mark.parametrize("precision", ["f64", "f32", "bf16"])
def test_binary_cross_entropy_learns_where_it_is_most_wrong(precision: str) -> None:
    """p = 0 for a hit, p = 1 for a miss: PyTorch's slopes, whose logarithms end at 1e-12 in the
    derivative.
    """
    torch = pytest.importorskip("torch")
    p = np.array([0.0, 1.0, 1e-30, 1e-13, 0.25, 0.5, 1e-4])
    y = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 1.0])
    ours = slopes(CROSS_ENTROPY, precision, p=p.astype(np.float32), y=y.astype(np.float32))["p"]
    theirs = torch.tensor(p, requires_grad=True)
    torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(y), reduction="sum").backward()
    tolerance = {"f64": 1e-6, "f32": 1e-6, "bf16": 1e-2}[precision]
    np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_binary_cross_entropy_in_f16_stays_finite() -> None:
    """Slopes of 1e12 do not exist in f16; behind a saturated sigmoid they would be NaN."""
    text = CROSS_ENTROPY.replace("(p, y))", "(sigmoid(p), y))")
    p = np.array([-40.0, 40.0, -9.0, 0.5], np.float32)
    y = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
    assert np.isfinite(slopes(text, "f16", p=p, y=y)["p"]).all()
    ends = np.array([0.0, 1.0, 0.0, 0.5], np.float32)
    found = slopes(CROSS_ENTROPY, "f16", p=ends, y=y)["p"]
    assert np.isfinite(found).all() and (np.abs(found[:3]) > 1e4).all()


def test_binary_cross_entropy_has_a_second_derivative() -> None:
    rng = np.random.default_rng(3)
    p, y, v = rng.uniform(0.05, 0.95, 6), rng.uniform(0, 1, 6), rng.normal(size=6)
    net = gradc.loads(CROSS_ENTROPY, precision="f64")
    _, _, product = net.hvp(wrt=["p"])({}, {"p": v}, p=p, y=y)
    np.testing.assert_allclose(product["p"], (y / p**2 + (1 - y) / (1 - p) ** 2) * v, rtol=1e-12)


@pytest.mark.parametrize(
    "body",
    ["std(x)", "norm(x)", "sum(std(reshape(x, [2, 2]), axis = 1))", "sum(root(x))"],
)
def test_deviations_and_lengths_at_zero_have_the_slope_zero(body: str) -> None:
    """Deviations, norms: at the tip of the cone the least subgradient, forward and reverse, and no
    NaN behind it.
    """
    text = f"model m(x: float[4]) -> float {{ return {body} }}"
    net = gradc.loads(text, precision="f64")
    zero, one = np.zeros(4), np.ones(4)
    assert (slopes(text, x=zero)["x"] == 0).all()
    _, dots = net.jvp(wrt="inputs")({}, {"x": one}, x=zero)
    assert dots["loss"] == 0
    _, _, product = net.hvp(wrt="inputs")({}, {"x": one}, x=zero)
    assert (product["x"] == 0).all()
    # Beside it nothing has changed.
    x = np.array([0.5, 1.5, 0.25, 3.0])
    step = 1e-6 * np.array([1.0, -2.0, 0.5, 1.5])
    forward = net.forward()
    difference = forward({}, x=x + step)["loss"] - forward({}, x=x - step)["loss"]
    assert slopes(text, x=x)["x"] @ step * 2 == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("...qd,...kd->...qk", [(2, 3, 4, 5), (2, 1, 6, 5)]),
        ("...qd,...kd->...qk", [(1, 3, 4, 5), (2, 1, 6, 5)]),
        ("...qd,...kd->...qk", [(4, 5), (2, 1, 6, 5)]),
        ("...i,...i->...", [(1, 3, 4), (2, 3, 4)]),
        ("...i,...i->i...", [(1, 3, 4), (2, 1, 4)]),
        ("i...,j...,...->ij...", [(2, 1, 3), (4, 5, 1), (5, 3)]),
        ("...i->i...", [(1, 1, 3)]),
    ],
)
def test_axes_of_size_one_stretch_under_dots(spec: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(4)
    arrays: dict[str, Any] = {
        name: rng.normal(size=s) for name, s in zip("abc", shapes, strict=False)
    }
    inputs = ", ".join(f"{n}: float[{', '.join(map(str, a.shape))}]" for n, a in arrays.items())
    text = f'model m({inputs}) -> float {{\n    s = einsum("{spec}", {", ".join(arrays)})\n'
    text += "    output s\n    return sum(sin(s))\n}"
    expected = np.einsum(spec, *arrays.values())
    net = gradc.loads(text, precision="f64")
    np.testing.assert_allclose(net.forward()({}, **arrays)["s"], expected, rtol=1e-12, atol=1e-12)
    found = slopes(text, **arrays)
    direction = {name: rng.normal(size=a.shape) for name, a in arrays.items()}
    ends = [
        np.sin(np.einsum(spec, *(a + h * direction[n] for n, a in arrays.items()))).sum()
        for h in (1e-6, -1e-6)
    ]
    dot = sum(float((found[n] * direction[n]).sum()) for n in arrays)
    assert dot == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_axes_under_dots_are_named_by_their_place() -> None:
    text = (
        "model m(a: float[3, 4, 5], b: float[2, 6, 5]) -> float { return "
        'sum(einsum("...d,...d->...", a, b)) }'
    )
    with pytest.raises(DiagnosticError) as refused:
        gradc.loads(text)
    (found,) = refused.value.diagnostics
    assert found.message.isascii() and "of `...`" in found.message


DEPTHWISE = """
dim D
layer separable(D, O) {
    use depth = conv(D, 2 * D, 3, padding = 1, groups = D)
    use point = conv(2 * D, O, 1)
    apply(x: float[B, D, H, W]) -> float[B, O, H, W] { return point(depth(x)) }
}
model m(x: float[B, D, H, W]) -> float {
    use s = separable(D, 4)
    return mean(s(x)^2)
}
"""


def test_groups_may_be_a_dimension() -> None:
    """A depthwise layer for any number of channels, against torch."""
    torch = pytest.importorskip("torch")
    net = gradc.loads(DEPTHWISE, precision="f64", dims={"D": 3})
    params = net.init(1)
    x = np.random.default_rng(2).normal(size=(2, 3, 5, 4))
    _, found = net.value_and_grad()(params, x=x)
    theirs = {name: torch.tensor(a, requires_grad=True) for name, a in params.items()}
    conv = torch.nn.functional.conv2d
    h = conv(torch.tensor(x), theirs["s.depth.w"], padding=1, groups=3) + theirs["s.depth.b"]
    h = conv(h, theirs["s.point.w"]) + theirs["s.point.b"]
    (h**2).mean().backward()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, theirs[name].grad.numpy(), rtol=1e-9, atol=1e-12)


def test_groups_that_do_not_fit_are_refused() -> None:
    text = "dim D\nmodel m(x: float[B, D, 5, 5]) -> float {\n"
    text += "    return sum(conv2d(x, ones([4, 2, 3, 3]), groups = D))\n}"
    with pytest.raises(DiagnosticError, match="GC0302"):
        gradc.loads(text)
