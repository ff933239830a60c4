"""Threads run the steps of a recurrent network abreast where rows know nothing of each other, and
only there; whoever runs first, and through how many steps, no bit changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

import gradc
from gradc.codegen.llvm import abreast, driver
from gradc.codegen.llvm.gemm import gemm
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.host.load import Arenas
from gradc.codegen.llvm.isa import host
from gradc.ir.plan.plan import Plan
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.compiled import pure
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array
from gradc.runtime.native.compile import Options, plan_of
from tests.support.native_plans import ready

PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
RANGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

CELL = """
dim T, B, I, H
model m(xs: float[T, B, I], ys: float[B, H]) -> float {{
    use cell = {cell}(I, H)
    return mse({result}, ys)
}}
"""
TWO = """
dim T, B, I, H
model m(xs: float[T, B, I], ys: float[T, B, H]) -> float {
    use first = lstm(I, H)
    use second = gru(H, H)
    use back = rnn(I, H)
    return mse(second(first(xs)) + back(xs[::-1])[::-1], ys)
}
"""
# What of the state row r of a step reads besides row r.
MEETING = {
    "the mean of all rows": "h - mean(h, axis = 0)",
    "rows in the other direction": "h[::-1]",
    "the row above": "concat([h[1:], h[:1]], axis = 0)",
    "the first row": "h + h[0]",
}
MEETS = """
dim T, B, I, H
model m(xs: float[T, B, I], ys: float[B, H], wx: float[I, H], wh: float[H, H]) -> float {{
    scan x in xs carry h = zeros([B, H]) {{
        g = {state}
        h = tanh(x @ wx + g @ wh)
    }}
    return mse(h, ys)
}}
"""
DIMS = {"T": 9, "B": 16, "I": 24, "H": 40}
ODD = {"T": 40, "B": 13, "I": 11, "H": 53}


def plan_for(text: str, dims: dict[str, int], threads: int) -> tuple[Plan, list[Array]]:
    """The gradient of a program, and arrays for its ports."""
    net = gradc.loads(text, dims=dims)
    model = net.lower(net.dims)
    given = {**net.init(0, net.dims), **random_inputs(net, {}, 1)}
    plan = plan_of(model.function, pure(net.gradient_of()), Options(threads=threads))
    plan = ready(plan, threads)
    arrays = [
        np.ascontiguousarray(given[p.name], NUMPY_DTYPE[p.dtype])
        if p.direction == "in"
        else np.full(p.shape, np.nan, NUMPY_DTYPE[p.dtype])
        for p in plan.ports
    ]
    return plan, arrays


def repeats_abreast(plan: Plan) -> int:
    times = [driver.microseconds(kernel, host().costs) for kernel in plan.kernels]
    return len(abreast.shared(plan, host(), times, lambda n: driver._place(plan, n)))


def results(plan: Plan, arrays: list[Array], order: Callable[[int], list[int]]) -> list[bytes]:
    """What code of ``plan`` stores if its ranges are run one after the other in ``order``."""

    def parallel(function: int, args: int, total: int, parts: int) -> None:
        count = min(2 * parts, total)
        for number in order(count):
            edges = (total * number // count, total * (number + 1) // count)
            RANGE(function)(args, *edges, number % parts)

    call = PARALLEL(parallel)
    address = ctypes.cast(call, ctypes.c_void_p).value or 0
    code = jit.compile_object(driver.generate(plan, host()).text, host())
    library = jit.Library(code, [plan.name], {"gradc_parallel": address})
    made = [a.copy() for a in arrays]
    pointers = (ctypes.c_void_p * len(made))(*(a.ctypes.data for a in made))
    arenas = Arenas(plan.arena_bytes)
    ENTRY(library[plan.name])(pointers, arenas.take(), plan.threads)
    outs = zip(plan.ports, made, strict=True)
    return [array.tobytes() for port, array in outs if port.direction == "out"]


def reference(text: str, dims: dict[str, int]) -> list[bytes]:
    """What one thread gets."""
    plan, arrays = plan_for(text, dims, threads=1)
    assert not repeats_abreast(plan)
    return results(plan, arrays, in_order)


def in_order(count: int) -> list[int]:
    return list(range(count))


def backwards(count: int) -> list[int]:
    return list(range(count))[::-1]


@pytest.mark.parametrize(("cell", "dims"), [("rnn", DIMS), ("gru", ODD), ("lstm", ODD)])
def test_steps_run_abreast_in_any_order(cell: str, dims: dict[str, int]) -> None:
    text = CELL.format(cell=cell, result="cell(xs)[-1]")
    plan, arrays = plan_for(text, dims, threads=2)
    assert repeats_abreast(plan) == 2
    assert results(plan, arrays, backwards) == reference(text, dims)


def test_layers_and_directions_run_abreast() -> None:
    dims = {**DIMS, "B": 24}
    plan, arrays = plan_for(TWO, dims, threads=3)
    assert repeats_abreast(plan) == 6
    assert results(plan, arrays, backwards) == reference(TWO, dims)


@pytest.mark.parametrize("state", MEETING.values(), ids=MEETING.keys())
def test_steps_whose_rows_meet_wait_for_each_other(state: str) -> None:
    plan, _ = plan_for(MEETS.format(state=state), DIMS, threads=2)
    assert plan.depth and not repeats_abreast(plan)


def test_a_block_that_is_packed_for_few_rows_is_packed_by_one_thread() -> None:
    text = """
    dim B, I, O
    model m(x: float[B, I], y: float[B, O]) -> float {
        use fc = dense(I, O)
        return mse(fc(x), y)
    }
    """
    dims = {"B": 300, "I": 40, "O": 520}
    plan, arrays = plan_for(text, dims, threads=2)
    products = [p for kernel in plan.kernels for p in gemm.products(kernel) if p.m == dims["I"]]
    (gradient,) = products
    strips = gemm.units_together(gradient, 2, host())
    assert strips == gemm.units(gradient, host()) // gemm.column_blocks(gradient, host()) > 1
    assert gemm.units_together(gradient, 1, host()) == 1
    assert results(plan, arrays, backwards) == results(*plan_for(text, dims, threads=1), in_order)


def test_one_sample_has_no_rows_to_share() -> None:
    text = CELL.format(cell="lstm", result="cell(xs)[-1]")
    plan, _ = plan_for(text, {**DIMS, "B": 1}, threads=2)
    assert not repeats_abreast(plan)
