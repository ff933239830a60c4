"""Pooling over windows of many places: the loop computes what the written form does, and compiles
in a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops import windows
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import jvp, vjp

SHAPE = (2, 2, 7, 9)
WINDOWS = [
    ((3, 4), (1, 1), ((0, 0), (0, 0))),
    ((3, 2), (2, 1), ((1, 2), (0, 1))),
    ((1, 5), (1, 3), ((0, 0), (2, 0))),
    ((4, 1), (2, 2), ((3, 1), (0, 0))),
]


def pooled(kind: str, window: Sequence[Any], dtype: DType) -> Function:
    b = Builder()
    x = b.parameter(TensorType(SHAPE, dtype), "x")
    size, stride, padding = window
    y = b.one(kind, x, size=size, stride=stride, padding=padding)
    # Through something curved, so that second derivatives are not all zero.
    loss = b.one("sum", b.one("mul", y, b.one("mul", y, y)), axes=(0, 1, 2, 3))
    return b.function("m", [loss], [Slot("x", Role.INPUT)], [Slot("loss", Role.LOSS)])


def derivatives(function: Function, x: Any, v: Any) -> list[Any]:
    """Reverse, forward, forward over reverse."""
    arrays, one = NumpyArrays(), np.ones((), x.dtype)
    reverse = vjp(function, ["x"])
    found = [run(arrays, reverse, [x, one])[-1]]
    found.append(run(arrays, jvp(function, ["x"]), [x, v])[-1])
    found.append(run(arrays, jvp(reverse, ["x"]), [x, one, v])[-1])
    return found


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("window", WINDOWS)
def test_the_loop_over_places_is_the_written_form(
    kind: str, window: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In f64, ties included: both add in the order of places, so they agree to the last bits."""
    rng = np.random.default_rng(6)
    function = pooled(kind, window, DType.F64)
    x = rng.integers(-3, 4, SHAPE).astype(float) * rng.choice([1.0, 1.5], SHAPE)
    v = rng.normal(size=SHAPE)
    written = derivatives(function, x, v)
    monkeypatch.setattr(windows, "_ROLLED", 0)
    rolled = derivatives(function, x, v)
    for a, b in zip(written, rolled, strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(b, a, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
@pytest.mark.parametrize(("shape", "size"), [((1, 2, 1, 300), (1, 130)), ((2, 1, 12, 14), (9, 9))])
def test_wide_windows_equal_torch(kind: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    text = (
        f"model m(x: float[{', '.join(map(str, shape))}]) -> float {{ return sum(sin({kind}(x, "
        f"{size}, stride = 1))) }}"
    )
    x = np.random.default_rng(7).normal(size=shape)
    loss, found = gradc.loads(text, precision="f64").value_and_grad(wrt="inputs")({}, x=x)
    theirs = torch.tensor(x, requires_grad=True)
    pool = getattr(torch.nn.functional, f"{kind}2d")
    expected = torch.sin(pool(theirs, size, stride=1)).sum()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
    np.testing.assert_allclose(found["x"], theirs.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
def test_programs_with_wide_windows_stay_small(kind: str) -> None:
    """Ops do not grow with the window, and a thousand places compile in about a second (22 s when
    written out).
    """
    counts = []
    for width in (100, 1025):
        text = (
            f"model m(x: float[1, 1, 1, 2048]) -> float {{ return sum({kind}(x, (1, {width}), "
            f"stride = 1)) }}"
        )
        compiled = gradc.loads(text).value_and_grad(wrt="inputs")
        counts.append(len(compiled.function().block.ops))
    assert counts[0] == counts[1]
    before = time.process_time()
    compiled({}, x=np.zeros((1, 1, 1, 2048), np.float32))
    assert time.process_time() - before < 6.0


@pytest.mark.parametrize("size", [(2, 2), (3, 1), (2, 3)])
def test_windows_side_by_side_share_their_cotangents(size: tuple[int, int]) -> None:
    """With many ties and a rest that no window holds, against NumPy; and nothing is stored for it
    but a number for each window: no mask.
    """
    shape = (3, 4, 13, 29)
    rows, columns = 13 // size[0], 29 // size[1]
    net = gradc.loads(f"""
    model m(x: float[3, 4, 13, 29], c: float[3, 4, {rows}, {columns}]) -> float {{
        return sum(max_pool(relu(x * 2), {size}) * c)
    }}
    """)
    rng = np.random.default_rng(8)
    x = rng.integers(-2, 3, shape).astype(np.float32)
    c = rng.normal(size=(3, 4, rows, columns)).astype(np.float32)
    _, found = net.value_and_grad(wrt=["x"])({}, x=x, c=c)
    inside = (..., slice(rows * size[0]), slice(columns * size[1]))
    z = np.maximum(x, 0).astype(np.float64)
    tiles = z[inside].reshape(3, 4, rows, size[0], columns, size[1])
    wins = tiles == tiles.max((3, 5), keepdims=True)
    share = wins * (c / wins.sum((3, 5)))[:, :, :, None, :, None]
    wanted = np.zeros(shape)
    wanted[inside] = 2 * share.reshape(wanted[inside].shape)
    np.testing.assert_allclose(found["x"], wanted * (z > 0), rtol=1e-6)
    kernels = net.plan(wrt=["x"]).plan.kernels
    assert all(b.dtype is not DType.BOOL for kernel in kernels for b in kernel.buffers)
