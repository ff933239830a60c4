"""Running sums through loops: which chains are widened, that they are right, and that budgets do
not change a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gradc
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import DType, Function, walk
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.rewrite import Scan

Array = NDArray[Any]

CAPTURED = """
model f(xs: float[T, 3], w: float[3]) -> float {
    ys = scan x in xs carry c = xs[0] * 0.0 {
        c = tanh(0.5 * c) + x * w
        yield x * w
    }
    return sum(ys)
}
"""
RECURRENT = """
model f(xs: float[T, 2, 5], ys: float[T, 2, 4]) -> float {
    use rnn = lstm(5, 4)
    return mse(rnn(xs), ys)
}
"""


def _carries(text: str, wrt: Any = "params", precision: str = "f32", **dims: int) -> set[DType]:
    """The float types that loops carry when the derivative is ready for fusion."""
    model = gradc.loads(text, dims=dims, precision=precision)
    function = model.lower(dims).function
    gradient = model.gradient_of(wrt)(function)
    ready = run_pipeline(gradient, Options(stop_after="running-sums")).records[-1].artifact
    assert isinstance(ready, Function)
    scans = [op for op in walk(ready.block) if op.name == "scan"]
    carried = [value for op in scans for value in op.operands[: Scan.of(op).carried]]
    return {value.type.dtype for value in carried if value.type.dtype.is_float}


def test_only_long_or_narrow_chains_are_widened() -> None:
    assert _carries(CAPTURED, ["w"], T=16) == {DType.F32}
    assert DType.F64 in _carries(CAPTURED, ["w"], T=17)
    assert _carries(CAPTURED, ["w"], "bf16", T=3) >= {DType.F32}
    # Weight gradients are products over 16 trips each: 5 additions, and 40.
    assert DType.F64 not in _carries(RECURRENT, T=80)
    assert DType.F64 in _carries(RECURRENT, T=640)


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_gradients_of_captured_values_do_not_stagnate(precision: str) -> None:
    """4096 trips of equal terms, which stop at 32 where they are added up in bf16."""
    trips = 4096
    xs = np.full((trips, 3), 0.125, np.float32)
    xs[:, 1] = 0.3
    xs[:, 2] = np.random.default_rng(0).random(trips, np.float32)
    model = gradc.loads(CAPTURED, dims={"T": trips}, precision=precision)
    w = np.asarray([1.0, 0.5, 0.25], np.float32)
    found = model.value_and_grad(wrt=["w"])({}, xs=xs, w=w)[1]["w"]
    used = xs
    if precision != "f32":
        narrow = np.float16 if precision == "f16" else None
        used = round_to_bf16(xs) if narrow is None else xs.astype(narrow).astype(np.float32)
    exact = used.astype(np.float64).sum(0)
    bound = {"f32": 1e-7, "bf16": 2.0**-8, "f16": 2.0**-10}[precision]
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, bound)


def test_budgets_do_not_change_long_sums() -> None:
    """A recurrent network over 400 steps, whole and in chunks: the same bits."""
    model = gradc.loads(RECURRENT, dims={"T": 400})
    params = model.init(0)
    source = np.random.default_rng(1)
    inputs = {
        "xs": source.standard_normal((400, 2, 5), np.float32),
        "ys": source.standard_normal((400, 2, 4), np.float32),
    }
    free = model.value_and_grad()
    budget = model.plan().peak_bytes * 7 // 10
    kept = model.value_and_grad(budget=budget)
    one, two = free(params, **inputs)[1], kept(params, **inputs)[1]
    for name, gradient in one.items():
        np.testing.assert_array_equal(gradient, two[name], err_msg=name)
