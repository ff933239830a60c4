"""Depthwise convolutions: forward and both gradients, from copies of bands and where they lie:
numbers of sums in float64, and the same bits whatever is copied and however many threads.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop import order
from gradc.ir.loop.order import plane_rows
from gradc.ir.ops.registry import has_epilogue
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import DType, Function, Role, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.lower import planes
from gradc.passes.pipeline import Options, run_pipeline
from gradc.runtime.api import load, loads
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan

TEXT = """
model m(x: float[{n}, {g}, {h}, {w}], c: float[{n}, {g}, {oh}, {ow}]) -> float {{
    param k: float[{g}, 1, {p}, {q}] ~ normal(1.0)
    param b: float[{g}, 1, 1] ~ normal(1.0)
    z = conv2d(x, k, stride = [{sh}, {sw}], padding = [{ph}, {pw}], dilation = [{dh}, {dw}],
               groups = {g})
    output o = clip(z + b, -1, 1)
    return sum(z * z * c) + sum(b * b)
}}
"""
ROOT = Path(__file__).resolve().parents[2]
Values = list[NDArray[Any]]
# images, channels; height, width; taps; strides; padding; dilation
CASES = {
    "plain": (2, 3, 7, 17, 3, 3, 1, 1, 1, 1, 1, 1),
    "strided": (2, 3, 9, 14, 3, 3, 2, 2, 1, 1, 1, 1),
    "uneven": (1, 2, 8, 33, 5, 2, 1, 3, 4, 1, 1, 2),
    "all border": (3, 1, 2, 1, 3, 3, 1, 1, 2, 2, 1, 1),
    "dilated": (1, 2, 12, 11, 3, 3, 3, 1, 2, 3, 2, 2),
    "a line": (2, 2, 1, 40, 1, 5, 1, 2, 0, 2, 1, 1),
    "in bands": (1, 2, 12, 23, 3, 3, 1, 2, 1, 1, 1, 1),
    "in bands, strided": (2, 1, 17, 19, 2, 3, 2, 1, 1, 0, 1, 1),
    "past the end": (1, 2, 6, 6, 2, 2, 3, 3, 0, 0, 1, 1),
}
FIELDS = ("n", "g", "h", "w", "p", "q", "sh", "sw", "ph", "pw", "dh", "dw")


def program(case: tuple[int, ...], precision: str = "f32") -> tuple[Function, Values]:
    """The loss with all gradients, and arrays for it."""
    d = dict(zip(FIELDS, case, strict=True))
    d["oh"] = (d["h"] + 2 * d["ph"] - (d["p"] - 1) * d["dh"] - 1) // d["sh"] + 1
    d["ow"] = (d["w"] + 2 * d["pw"] - (d["q"] - 1) * d["dw"] - 1) // d["sw"] + 1
    net = loads(TEXT.format(**d), precision=precision)
    function = net.lower(net.bind({})).function
    rng = np.random.default_rng(sum(case))
    values = [
        rng.normal(size=v.type.static_shape).astype(NUMPY_DTYPE[v.type.dtype])
        for v in function.block.parameters
    ]
    return function, values


def plan_for(function: Function, target: Target, wrt: tuple[str, ...] = ("x", "k", "b")) -> Plan:
    return run_pipeline(
        function, Options(derivative=lambda f: value_and_grad(f, wrt), target=target)
    ).plan


def results(plan: Plan, given: Values, threads: int) -> Values:
    code = compile_plan(plan, threads=threads, cache=False)
    rest = iter(given)
    arrays = [
        np.full(p.shape, np.nan, np.dtype(NUMPY_DTYPE[p.dtype]))
        if p.direction == "out"
        else np.ascontiguousarray(next(rest))
        for p in plan.ports
    ]
    code.call(arrays)
    return [a for a, p in zip(arrays, plan.ports, strict=True) if p.direction == "out"]


def wanted_of(case: tuple[int, ...], values: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Sums of products over taps in float64, absent terms left out."""
    _, _, h, w, p, q, sh, sw, ph, pw, dh, dw = case
    x, k, b, c = (values[name].astype(np.float64) for name in "xkbc")
    oh, ow = c.shape[2:]
    high = (oh - 1) * sh + (p - 1) * dh + 1, (ow - 1) * sw + (q - 1) * dw + 1
    around = (0, 0), (0, 0), (ph, max(0, high[0] - ph - h)), (pw, max(0, high[1] - pw - w))
    padded = np.pad(x, around)
    met = {(r, s): np.s_[:, :, r * dh :: sh, s * dw :: sw] for r, s in np.ndindex(p, q)}
    cut = np.s_[:, :, :oh, :ow]
    z = sum(padded[at][cut] * k[:, 0, r, s, None, None] for (r, s), at in met.items())
    ct, dx, dk = 2 * z * c, np.zeros(padded.shape), np.zeros(k.shape)
    for (r, s), at in met.items():
        dx[at][cut] += ct * k[:, 0, r, s, None, None]
        dk[:, 0, r, s] = (ct * padded[at][cut]).sum((0, 2, 3))
    dx = dx[:, :, ph : ph + h, pw : pw + w]
    return {"o": np.clip(z + b, -1, 1), "x": dx, "k": dk, "b": 2 * b}


@pytest.mark.parametrize("name", CASES)
def test_planes_are_sums_over_their_taps_with_the_same_bits_everywhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    if name.startswith("in bands"):
        monkeypatch.setattr(order, "PLANE", 36)
    function, values = program(case)
    copied = plan_for(function, GENERIC)
    found = results(copied, values, 1)
    inputs = {s.name: v for s, v in zip(function.parameters, values, strict=True)}
    wanted = wanted_of(case, inputs)
    ports = [p for p in copied.ports if p.direction == "out"]
    for port, array in zip(ports, found, strict=True):
        if port.name in wanted and port.role is not Role.LOSS:
            scale = np.abs(wanted[port.name]).max()
            np.testing.assert_allclose(array, wanted[port.name], rtol=0, atol=3e-6 * scale)
    where_it_lies = plan_for(function, replace(GENERIC, copies=False))
    for plan, threads in ((copied, 2), (where_it_lies, 1)):
        for a, b in zip(found, results(plan, values, threads), strict=True):
            np.testing.assert_array_equal(a, b)
    executed = execute_plan(copied, values, poison=True)
    for port, a, b in zip(ports, found, executed, strict=True):
        if port.role is Role.LOSS:  # its terms cancel
            continue
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * max(1, np.abs(b).max()))


def test_bits_do_not_depend_on_registers_nor_on_what_is_copied_in_f64() -> None:
    function, values = program(CASES["strided"], "f64")
    first, *others = (
        results(plan_for(function, target), values, 1)
        for target in (
            GENERIC,
            replace(GENERIC, copies=False),
            replace(GENERIC, registers=8, lane_bytes=16),
        )
    )
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("word", "sizes", "taps"), [("conv1d", "9", "3"), ("conv3d", "4, 5, 6", "2, 3, 1")]
)
def test_channels_alone_along_one_axis_and_three(word: str, sizes: str, taps: str) -> None:
    """Planes have two axes; others are summed as before there were any."""
    net = loads(
        f"""
model m(x: float[2, 3, {sizes}]) -> float {{
    param k: float[3, 1, {taps}] ~ normal(1.0)
    return sum({word}(x, k, groups = 3)^3)
}}
""",
        precision="f64",
    )
    function = net.lower(net.bind({})).function
    rng = np.random.default_rng(1)
    values = [rng.normal(size=v.type.static_shape) for v in function.block.parameters]
    found = results(plan_for(function, GENERIC, ("x", "k")), values, 1)
    expected = run(NumpyArrays(), value_and_grad(function, ("x", "k")), values)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_what_follows_a_depthwise_convolution_is_computed_with_it() -> None:
    function, _ = program(CASES["plain"])
    (conv,) = (op for op in walk(function.block) if op.name == "conv2d")
    assert has_epilogue(conv)
    plan = run_pipeline(function, Options()).plan
    kernels = [k for k in plan.kernels if "conv2d_fused" in k.name]
    assert len(kernels) == 1


def test_masks_of_a_clip_are_made_where_its_cotangent_is() -> None:
    """From what the sum before it was, which that kernel reads anyway: no mask is stored."""
    net = load(ROOT / "benchmarks" / "models" / "mobilenet.grad")
    function = net.lower(net.bind({})).function
    wrt = [slot.name for slot in function.parameters if slot.role is Role.PARAM]
    asked = Options(derivative=lambda f: value_and_grad(f, wrt))
    assert not [t for t in run_pipeline(function, asked).plan.tensors if t.dtype is DType.BOOL]


def test_bands_have_as_many_rows_each() -> None:
    for rows, columns in ((30, 300), (29, 410), (1, 1), (112, 112), (224, 224), (257, 3)):
        band = plane_rows(rows, columns)
        assert rows % band == 0
        assert band == 1 or band * columns <= 4096


def test_steps_of_a_copy_are_counted_from_the_lowest_tap() -> None:
    """Taps that run backwards (a transpose) begin at the far end."""
    along = planes._Along(5, 3, 1, -2, 3, 2, 4)
    assert (along.low, [along.tap(n) for n in range(3)]) == (-1, [4, 2, 0])
    assert along.reach(5) == 9
