"""What follows a product over windows rides on it: fewer launches, PyTorch's values, the same bits
for every number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc

# Rows of whole vectors, of parts, of less than one; images of which two lie in a vector.
SHAPES = ((5, 14, 1, 2), (7, 11, 2, 1), (4, 8, 2, 4))

SOURCE = """
model m(x: float[3, 8, {h}, {w}], y: float[3, 8, {h}, {w}]) -> float {{
    param k: float[8, {inner}, 3, 3] ~ he_normal
    param k2: float[16, 8, 3, 3] ~ he_normal
    param k3: float[16, 8, 1, 1] ~ he_normal
    param bias: float[8, 1, 1] ~ normal(1.0)
    param scale: float[16, 1, 1] ~ normal(1.0)
    h = relu(conv2d(x, k, padding = 1, groups = {groups}) + bias + y)
    z = conv2d(h, k2, stride = {stride}, padding = 1) * scale
    return mean(relu(z + conv2d(h, k3, stride = {stride})) * z)
}}
"""


def _torch(values: dict[str, Any], groups: int, stride: int) -> tuple[float, dict[str, Any]]:
    torch: Any = pytest.importorskip("torch")
    conv = torch.nn.functional.conv2d
    t = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()}
    for name in values:
        t[name].requires_grad_(name not in ("x", "y"))
    h = torch.relu(conv(t["x"], t["k"], padding=1, groups=groups) + t["bias"] + t["y"])
    z = conv(h, t["k2"], stride=stride, padding=1) * t["scale"]
    loss = (torch.relu(z + conv(h, t["k3"], stride=stride)) * z).mean()
    loss.backward()
    return loss.item(), {n: t[n].grad.numpy() for n in values if n not in ("x", "y")}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_follows_a_convolution_rides_on_it(shape: tuple[int, int, int, int]) -> None:
    h, w, stride, groups = shape
    source = SOURCE.format(h=h, w=w, stride=stride, groups=groups, inner=8 // groups)
    net, rng = gradc.loads(source), np.random.default_rng(sum(shape))
    params: dict[str, Any] = {
        name: rng.standard_normal(v.shape).astype(np.float32) for name, v in net.init(0).items()
    }
    inputs = {n: rng.standard_normal((3, 8, h, w)).astype(np.float32) for n in "xy"}
    results = [net.value_and_grad(threads=n)(params, **inputs) for n in (1, 2)]
    loss, grads = results[0]
    expected, slopes = _torch({**params, **inputs}, groups, stride)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    for name, found in grads.items():
        size = np.abs(slopes[name]).max()
        np.testing.assert_allclose(found, slopes[name], rtol=0, atol=1e-4 * size)
        np.testing.assert_array_equal(found, results[1][1][name])


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_weights_of_16_bits_are_packed_strip_by_strip(precision: str) -> None:
    """Sixteen rows of weights are several strips, packed together for more images than a block
    holds.
    """
    source = """
    model m(x: float[24, 8, 8, 8]) -> float {
        param w: float[16, 8, 3, 3] ~ he_normal
        h = conv2d(x, w, padding = 1)
        output h
        return mean(h * h)
    }
    """
    x = np.random.default_rng(3).standard_normal((24, 8, 8, 8)).astype(np.float32)
    found = {}
    for kind in (precision, "f64"):
        net = gradc.loads(source, precision=kind)
        found[kind] = np.asarray(net.forward(threads=1)(net.init(0), x=x)["h"], np.float64)
    close = 4 * {"bf16": 2.0**-8, "f16": 2.0**-11}[precision] * np.sqrt(72)
    np.testing.assert_allclose(found[precision], found["f64"], rtol=0, atol=close)


def test_a_convolution_with_its_activation_is_one_launch() -> None:
    plan = gradc.loads(SOURCE.format(h=16, w=16, stride=1, groups=1, inner=8)).plan().plan
    names = [kernel.name for kernel in plan.kernels]
    others = [name for name in names if "conv2d" not in name]
    # Besides the loss: sums of a scale's and of a bias's gradient.
    assert len(others) == 3, names
