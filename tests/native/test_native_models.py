"""Whole models in machine code: the same bits for any threads, vector width and LLVM pass level;
close without FMA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gradc
from gradc.codegen.llvm.host.load import NativeFunction
from gradc.codegen.llvm.isa import available
from gradc.ir.loop.text import print_kernel
from gradc.ir.plan.plan import Plan
from gradc.runtime.native import load as native
from tests.support.native_plans import bare

MODELS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "models"
Arrays = dict[str, NDArray[Any]]


def prepared(name: str) -> tuple[Plan, Arrays, Arrays]:
    """The Plan of a model's gradient, parameters and inputs."""
    model = gradc.load(str(MODELS / f"{name}.grad"))
    rng = np.random.default_rng(0)
    inputs = {
        key: rng.standard_normal(kind.static_shape).astype(np.float32)
        if kind.dtype.is_float
        else rng.integers(0, 2, kind.static_shape).astype(np.int32)
        for key, kind in model.inputs.items()
    }
    function = model.value_and_grad(threads=1, use_cache=False)
    plan = function.entry(inputs).native.plan
    assert plan is not None
    return bare(plan), model.init(seed=0), inputs


def gradients(plan: Plan, params: Arrays, inputs: Arrays, **how: Any) -> Arrays:
    """Loss and cotangents from machine code made as ``how`` says."""
    function = native.compile_plan(plan, cache=False, **how)
    found = function.named_call(params, inputs, {})
    assert found is not None and found[0] is not None
    return {"": found[0], **found[2]}


@pytest.mark.parametrize("name", ["lstm", "lenet"])
def test_bits_do_not_depend_on_how_the_code_was_made(name: str) -> None:
    plan, params, inputs = prepared(name)
    expected = gradients(plan, params, inputs, threads=1)
    ways: list[dict[str, Any]] = [{"threads": 3}, {"threads": 2, "level": 2}]
    ways += [{"threads": 2, "isa": isa} for isa in available() if isa in ("avx2", "avx512")]
    for how in ways:
        found = gradients(plan, params, inputs, **how)
        for key, value in expected.items():
            assert np.array_equal(found[key], value), (how, key)


def test_the_simplest_instruction_set_agrees() -> None:
    if "sse2" not in available():
        pytest.skip("not an x86-64 machine")
    plan, params, inputs = prepared("mlp_small")
    expected = gradients(plan, params, inputs, threads=1)
    found = gradients(plan, params, inputs, threads=1, isa="sse2")
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_peak_memory_is_what_the_plan_says() -> None:
    plan, params, inputs = prepared("lstm")
    function = native.compile_plan(plan, threads=1, cache=False)
    assert function.named_call(params, inputs, {}) is not None
    assert function.plan is not None and function.plan.threads == 1
    assert function.measured_bytes == function.plan.peak_bytes
    assert isinstance(function, NativeFunction) and function.arenas == 1


def test_gradients_of_large_tables_are_added_by_rows_on_many_threads() -> None:
    """Tables that several iterations of a grid own, with rows that get many updates, at their ends
    too.
    """
    text = """
    dim N = 700, V = 9001
    model m(ids: int[N], c: float[N, 64]) -> float {
        param table: float[V, 64] ~ zeros
        return sum(table[ids] * c)
    }
    """
    rng, net = np.random.default_rng(7), gradc.loads(text)
    ids = rng.choice(np.array([0, 1, 4499, 4500, 4501, 8999, 9000]), 700).astype(np.int32)
    ids[:300] = rng.integers(0, 9001, 300)
    inputs = {"ids": ids, "c": rng.standard_normal((700, 64)).astype(np.float32)}
    params = net.init(seed=0)
    expected = np.zeros((9001, 64))
    np.add.at(expected, ids, inputs["c"].astype(np.float64))
    found = []
    for threads in (1, 5):
        call = net.value_and_grad(threads=threads, use_cache=False)
        for _ in range(2):
            found.append(call(params, **inputs)[1]["table"].copy())
            np.testing.assert_allclose(found[-1], expected, rtol=1e-5, atol=1e-4)
            assert np.array_equal(found[-1], found[0])
    plan = call.entry(inputs).native.plan
    assert plan is not None and any("grid %v1: i64 < 2" in print_kernel(k) for k in plan.kernels)
