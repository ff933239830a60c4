"""Fusion: known programs become the known number of kernels, and every program keeps its
meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.kernel import For, Gemm
from gradc.ir.loop.verify import violations_of
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.fuse.fuse import fuse
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from tests.support.generate import random_program
from tests.support.loops_models import (
    F32,
    Array,
    arguments,
    channel_model,
    compare,
    gradient,
    launches,
    lstm,
    mlp,
    planned,
    row_model,
    tidy,
    transformer,
)

ARRAYS = NumpyArrays()


@pytest.mark.parametrize("seed", range(10))
def test_random_programs_keep_their_meaning(seed: int) -> None:
    """interpreter(f) == interpreter(fuse(f)) == executor(plan of either); checker and verifiers
    find nothing. ``python -m tests.support.alarms`` compiles any number of such programs."""
    program = random_program(
        seed,
        steps=8 + seed % 17,
        dtype=DType.F32 if seed % 4 == 3 else DType.F64,
        regions=seed % 2 == 0,
        images=seed % 5 == 1,
    )
    tolerance = 1e-3 if seed % 4 == 3 else 1e-9
    derived = tidy(value_and_grad(program.function, program.differentiable))
    for function in (program.function, derived):
        with np.errstate(all="ignore"):
            expected = run(ARRAYS, function, program.inputs)
            fused = fuse(function)
            verify_function(fused, static=True)
            again = run(ARRAYS, fused, program.inputs)
        for ours, theirs in zip(again, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        results = []
        for form in (function, fused):
            plan = place(to_loops(form))
            assert [str(v) for v in violations_of(plan.kernels)] == []
            assert [str(finding) for finding in check_plan(plan)] == []
            found = execute_plan(plan, program.inputs, poison=True)
            for ours, theirs in zip(found, expected, strict=True):
                scale = max(1.0, float(np.abs(np.asarray(theirs, np.float64)).max(initial=0.0)))
                np.testing.assert_allclose(ours / scale, theirs / scale, tolerance, tolerance / 10)
            results.append(found)
        # Sums have the same order, fused or not.
        for apart, together in zip(*results, strict=True):
            np.testing.assert_array_equal(apart, together)


def test_normalisation_forward_and_backward_is_one_pass() -> None:
    """Everything rides in one row kernel; large ones add the kernel that finishes the partial
    sums."""
    small = planned(gradient(row_model(300, 48), inputs=True))
    assert len(small.steps) == 1
    compare(gradient(row_model(300, 48), inputs=True), small, 0, 2e-5)
    function = gradient(row_model(1024, 96), inputs=True)
    large = planned(function)
    assert len(large.steps) == 2
    # Only partial sums are stored in between.
    assert large.arena_bytes <= 16 * (2 * 96 + 1) * 4 + 3 * 64
    compare(function, large, 1, 2e-5)


def test_large_row_kernels_are_parallel_over_chunks() -> None:
    plan = planned(gradient(row_model(8192, 512)))
    main = plan.kernels[launches(plan)[0].kernel]
    assert [type(s) for s in main.body] == [For]
    assert isinstance(main.body[0], For)
    assert (main.body[0].kind, main.body[0].extent) == ("grid", 8192 // 256)
    # One read of x, nothing of its size written.
    assert main.bytes < 8192 * 512 * 4 * 1.1


def test_statistics_of_channels_are_one_kernel() -> None:
    """Batch statistics and all their derivatives in one walk over each channel; the loss apart."""
    function = gradient(channel_model(6, 5, 9, 16), inputs=True)
    plan = planned(function)
    assert len(plan.steps) == 2
    compare(function, plan, 6, 2e-5)
    given = arguments(function, 6)
    apart = execute_plan(place(to_loops(function)), given)
    for ours, theirs in zip(execute_plan(plan, given), apart, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_mlp_launches() -> None:
    """Per layer: one product forward; the product of the cotangent with its mask; two gradients."""
    function = gradient(mlp(32, [64, 128, 64, 10]))
    plan = planned(function)
    products = [s for s in launches(plan) if isinstance(plan.kernels[s.kernel].body[0], Gemm)]
    assert len(products) == 3 + 2 + 3
    # Cross-entropy forward and backward with the gradient of the last bias; two other bias
    # gradients.
    assert len(plan.steps) == len(products) + 3
    compare(function, plan, 2, 1e-5)


def test_transformer_kernels_do_not_grow_with_depth() -> None:
    counts = {}
    for layers in (3, 5):
        function = gradient(transformer(layers, 2, 16, 32, 4, 48))
        plan = planned(function)
        counts[layers] = (len(plan.kernels), len(plan.steps))
        assert [str(f) for f in check_plan(plan)] == []
    assert counts[3][0] == counts[5][0]
    assert counts[5][1] > counts[3][1] + 50


def test_transformer_gradients() -> None:
    function = gradient(transformer(2, 2, 16, 32, 4, 48))
    compare(function, planned(function), 3, 2e-5)


def test_lstm_stays_rolled() -> None:
    function = gradient(lstm(7, 4, 5, 6))
    plan = planned(function)
    lengths = [len(launches(planned(gradient(lstm(time, 4, 5, 6))))) for time in (48, 96)]
    assert lengths[0] == lengths[1]
    compare(function, plan, 4, 1e-5)


def test_fused_groups_do_not_hold_what_must_be_stored() -> None:
    """Contractions inside fusions read parameters of the group through views only."""
    fused = fuse(gradient(transformer(1, 2, 8, 16, 2, 20)))
    for op in walk(fused.block):
        if op.name != "fusion":
            continue
        makers = {v: inner for inner in op.regions[0].body for v in inner.results}
        for inner in op.regions[0].body:
            if inner.name == "contract":
                names = {makers[x].name for x in inner.operands if x in makers}
                assert names <= {"transpose", "reshape", "slice", "broadcast"}


def _function(outputs: int) -> Function:
    """Values of one reduction used several times over."""
    b = Builder()
    x = b.parameter(TensorType((3, 4, 5), DType.F64), "x")
    total = b.one("sum", x, axes=(1,))
    wide = b.one("broadcast", total, shape=(3, 4, 5), dims=(0, 2))
    values = [b.one("exp", b.one("sub", x, wide)), b.one("transpose", wide, perm=(2, 0, 1))]
    slots = [Slot(f"o{n}", Role.OUTPUT) for n in range(outputs)]
    return b.function("f", values[:outputs], [Slot("x", Role.INPUT)], slots)


@pytest.mark.parametrize("outputs", [1, 2])
def test_reductions_over_middle_axes(outputs: int) -> None:
    function = _function(outputs)
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    found = execute_plan(planned(function), [x], poison=True)
    total = x.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[0], np.exp(x - total), 1e-12)
    if outputs == 2:
        wide = np.broadcast_to(total, x.shape).transpose(2, 0, 1)
        np.testing.assert_allclose(found[1], wide, 1e-12)


@pytest.mark.parametrize(
    "shape", [(5, 1, 2, 2, 2), (5, 3, 2, 2, 2), (1, 1, 2, 2, 3), (4, 1, 1, 2, 1)]
)
def test_free_axes_around_batch_and_contracted_ones(shape: tuple[int, ...]) -> None:
    """Axes of one element must not hide that the others do not lie in proportion."""
    b = Builder()
    x = b.parameter(TensorType(shape, DType.F64), "x")
    y = b.parameter(TensorType((shape[2], shape[3], 4), DType.F64), "y")
    z = b.one("contract", b.one("neg", x), y, batch=((2, 0),), contract=((3, 1),))
    slots = [Slot("x", Role.INPUT), Slot("y", Role.INPUT)]
    function = b.function("f", [z], slots, [Slot("z", Role.OUTPUT)])
    source = np.random.default_rng(8)
    values = [source.standard_normal(v.type.static_shape) for v in function.block.parameters]
    wanted = np.einsum("abcde,cdf->cabef", -values[0], values[1])
    for plan in (planned(function), place(to_loops(function))):
        np.testing.assert_allclose(execute_plan(plan, values, poison=True)[0], wanted, 1e-12)


def _drawing(layers: int) -> Function:
    """Layers that draw, each from a stream of its own."""
    b = Builder()
    key, h = (
        b.parameter(TensorType((2,), DType.U32), "key"),
        b.parameter(TensorType((8, 6), F32), "x"),
    )
    w = b.parameter(TensorType((6, 6), F32), "w")
    half = b.constant(1 << 31, DType.U32, (8, 6))
    for number in range(layers):
        h = b.one("tanh", b.one("contract", h, w, batch=(), contract=((1, 0),)))
        bits = b.one("random_bits", key, stream=1000 * number + 7, shape=(8, 6))
        zero = b.constant(0.0, F32, (8, 6))
        h = b.one("select", b.one("lt", bits, half), h, zero)
    slots = [Slot("key", Role.INPUT), Slot("x", Role.INPUT), Slot("w", Role.PARAM)]
    return b.function("draws", [h], slots, [Slot("y", Role.OUTPUT)])


def test_layers_that_draw_share_their_kernels() -> None:
    """Stream numbers are data: the same draws, and one kernel for all layers."""
    counts = []
    for layers in (2, 5):
        function = _drawing(layers)
        plan = planned(function)
        counts.append(len(plan.kernels))
        source = np.random.default_rng(layers)
        x, w = (source.standard_normal(shape).astype(np.float32) for shape in ((8, 6), (6, 6)))
        given = [np.array([3, 4], np.uint32), x, w]
        expected = np.asarray(run(ARRAYS, function, given)[0])
        found = execute_plan(plan, given, poison=True)[0]
        np.testing.assert_array_equal(found == 0, expected == 0)
        np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
        assert 0 < (found == 0).sum() < found.size
    assert counts[0] == counts[1]


def test_sums_of_chunks_have_a_fixed_order() -> None:
    """The bits of a large sum do not depend on what it is fused with."""

    def total(with_more: bool) -> Array:
        b = Builder()
        x = b.parameter(TensorType((700, 100), DType.F32), "x")
        outputs = [b.one("sum", x, axes=(0,))]
        if with_more:
            rows = b.one("sum", x, axes=(1,))
            wide = b.one("broadcast", rows, shape=(700, 100), dims=(0,))
            outputs.append(b.one("sum", b.one("mul", wide, x), axes=(0,)))
        slots = [Slot(f"o{n}", Role.OUTPUT) for n in range(len(outputs))]
        function = b.function("f", outputs, [Slot("x", Role.INPUT)], slots)
        values = np.random.default_rng(5).standard_normal((700, 100)).astype(np.float32)
        found: Array = execute_plan(planned(function), [values])[0]
        return found

    np.testing.assert_array_equal(total(False), total(True))


@pytest.mark.parametrize("function", [row_model(40, 24), mlp(8, [4, 6, 3]), lstm(3, 2, 3, 4)])
def test_plan_text_round_trip(function: Function) -> None:
    plan = planned(gradient(function))
    text = print_plan(plan)
    assert print_plan(parse_plan(text)) == text


_PLAN_DIGEST = """
import hashlib
from gradc.ir.plan.text import print_plan
from tests.support.loops_models import gradient, lstm, planned, transformer
functions = (gradient(transformer(1, 2, 16, 32, 4, 48)), gradient(lstm(9, 4, 5, 6)))
text = "".join(print_plan(planned(f)) for f in functions)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_plans_do_not_depend_on_the_process(root: Path) -> None:
    """The same plan in processes whose strings hash differently."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PLAN_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and digests != {""}
