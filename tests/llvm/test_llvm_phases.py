"""Transposed convolutions with strides (gradients in images are the same sums): what the remainders
of a place give is stored side by side. To the bit what phases by themselves give, and what NumPy
sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.passes.lower import patches

# spatial size of the image, taps, stride, padding, groups: even and odd widths, one tap, more
# phases than taps, three axes
CASES: list[tuple[tuple[int, ...], tuple[int, ...], int, int, int]] = [
    ((8, 16), (1, 1), 2, 0, 1),
    ((10, 24), (5, 3), 4, 2, 2),
    ((7, 13), (3, 3), 2, 1, 1),
    ((4, 5, 12), (1, 2, 3), 3, 0, 1),
]


def _net(case: Any) -> tuple[gradc.Model, dict[str, Any]]:
    """An image, what follows it, and data for it."""
    size, taps, stride, padding, groups = case
    rests = {(n + 2 * padding - t) % stride for n, t in zip(size, taps, strict=True)}
    out = [(n + 2 * padding - t) // stride + 1 for n, t in zip(size, taps, strict=True)]
    shapes = {"c": (3, 24, *out), "w": (24, 16 // groups, *taps), "r": (3, 16, *size)}
    inputs = ", ".join(f"{n}: float[{', '.join(map(str, s))}]" for n, s in shapes.items())
    given = f"stride = {stride}, padding = {padding}, groups = {groups}"
    net = gradc.loads(f"""
    model m({inputs}) -> float {{
        h = conv_transpose{len(size)}d(c, w, {given}, output_padding = {rests.pop()})
        h = relu(h + r)
        output h
        return sum(h)
    }}
    """)
    rng = np.random.default_rng(4)
    return net, {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def _by_hand(case: Any, data: dict[str, Any]) -> Any:
    """In f64: every tap of every place added where it goes."""
    size, taps, stride, padding, groups = case
    c, w = (data[name].astype(np.float64) for name in "cw")
    whole = np.zeros((3, 16, *(n + 2 * padding for n in size)))
    ins, outs = 16 // groups, 24 // groups
    for tap in np.ndindex(*taps):
        axes = zip(tap, c.shape[2:], strict=True)
        places = [slice(t, t + stride * n, stride) for t, n in axes]
        for g in range(groups):
            some = slice(g * outs, (g + 1) * outs)
            moved = np.einsum("no...,oc->nc...", c[:, some], w[(some, slice(None), *tap)])
            whole[(slice(None), slice(g * ins, (g + 1) * ins), *places)] += moved
    inside: Any = (..., *(slice(padding, padding + n) for n in size))
    return np.maximum(whole[inside] + data["r"], 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_remainders_side_by_side(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = _net(case)
    together = net.forward(threads=2)({}, **data)["h"]
    np.testing.assert_allclose(together, _by_hand(case, data), rtol=1e-5, atol=1e-5)
    names = [kernel.name for kernel in net.plan(wrt=["r"]).plan.kernels]
    is_even, has_few = case[0][-1] % case[2] == 0, case[1][-1] > 1
    assert any(name.endswith("_phases") for name in names) == (is_even and has_few), names
    monkeypatch.setattr(patches, "_SIDE_BY_SIDE", 1)
    apart = _net(case)[0].forward(threads=1)({}, **data)["h"]
    np.testing.assert_array_equal(together, apart)
