"""Convolutions by tiles: forward and both gradients, strides, dilation, padding, groups, odd sizes,
volumes and the way back from them.
The bits are the CPU's, and the texts are the loop IR over a prime field.
"""

from __future__ import annotations

import pytest

import gradc
from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.printer.tiles import TILES, Tile, tile_of
from gradc.ir.loop.kernel import Gemm
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.compiled import pure
from tests.support.cuda_programs import TARGET, differing, plan_of, unproved
from tests.support.memory_subjects import Subject

MODEL = """
model net(x: float[2, {channels}, {height}, {width}]) -> float {{
    param w: float[{filters}, {each}, 3, 3] ~ normal(0.3)
    param bias: float[{filters}, 1, 1] ~ normal(0.3)
    y = relu(conv2d(x, w, {options}) + bias)
    return mean(y * y)
}}
"""
# Down to half of each axis, and up again: eight products, a parity of places each.
VOLUMES = """
model net(x: float[1, 2, 3, 4, 5]) -> float {
    use down = conv3d(2, 8, 3, stride = 2, padding = 1)
    use up = conv_transpose3d(8, 5, 2, stride = 2)
    return mean(up(relu(down(x)))^2)
}
"""
# Channels, height, width, filters, groups, options; the last has k over two leaves.
CASES = (
    (8, 9, 8, 8, 2, "stride = 2, padding = 1, groups = 2"),
    (29, 5, 4, 7, 1, "padding = 2, dilation = 2"),
)


def net(
    channels: int,
    height: int,
    width: int,
    filters: int,
    groups: int,
    more: str,
    precision: str = "f32",
) -> Subject:
    """Loss and gradients of parameters and images."""
    text = MODEL.format(
        channels=channels, height=height, width=width, filters=filters,
        each=channels // groups, options=more,
    )  # fmt: skip
    model = gradc.loads(text, precision=precision)
    arrays = {**model.init(0), **random_inputs(model, {}, 3)}
    derive = pure(model.gradient_of(["x", "w", "bias"]))
    return Subject("net", model.lower().function, derive, arrays)


@pytest.mark.parametrize("case", CASES)
def test_convolutions_by_tiles_have_the_bits_of_the_cpu(
    case: tuple[int, int, int, int, int, str],
) -> None:
    one = net(*case)
    plan = plan_of(one)
    program = print_plan(plan, TARGET)
    texts = [t.source for t in program.texts if "right_at" in t.source or "left_at" in t.source]
    assert texts and not differing(one, program, plan)
    assert not unproved(plan, program)


def test_volumes_have_the_bits_of_the_cpu_and_are_proved() -> None:
    model = gradc.loads(VOLUMES)
    arrays = {**model.init(0), **random_inputs(model, {}, 3)}
    derive = pure(model.gradient_of(["x", *model.params]))
    one = Subject("net", model.lower().function, derive, arrays)
    plan = plan_of(one)
    program = print_plan(plan, TARGET)
    assert sum("left_z" in text.source for text in program.texts) == 9
    assert not differing(one, program, plan)
    assert not unproved(plan, program)


def test_large_tiles_take_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread then has an element in each of several steps of k, in one row or column."""

    def large(gemm: Gemm, processors: int) -> Tile | None:
        return None if tile_of(gemm, processors) is None else TILES[1]

    monkeypatch.setattr("gradc.codegen.cuda.printer.kernels.tile_of", large)
    one = net(*CASES[0])
    plan = plan_of(one)
    program = print_plan(plan, TARGET)
    assert sum("by tiles of 128 x 64" in text.source for text in program.texts) >= 3
    assert not differing(one, program, plan)
