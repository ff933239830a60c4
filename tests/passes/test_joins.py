"""What joins values of a group is stored by the kernel that makes them, part by part: no step of a
loop copies its results, and bits are those without fusion.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import gradc
from gradc.ir.loop.kernel import Gemm, Load
from gradc.ir.plan.plan import Plan, Repeat, Step
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.piece import statements
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.native.compile import Options as Asked
from gradc.runtime.native.compile import pipeline_options
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import Subject, of_model, run

RECURRENT = """
dim T = 5, B = 3, I = 3, H = 17

model recurrent(xs: float[T, B, I]) -> float {
    use net = LAYER(I, H)
    return sum(net(xs)^2)
}
"""
JOINS = """
model rows(x: float[4, 9], y: float[4, 9]) -> float[12, 9] {
    return concat([x * y, exp(x), x - y], axis = 0)
}
model columns(x: float[3, 17], y: float[3, 17]) -> float[3, 34] {
    a, b = exp(x), x * y
    output other = concat([b, a, a], axis = 1)
    return concat([a, b], axis = 1)
}
model read_again(x: float[3, 17], y: float[3, 17]) -> float[3, 34] {
    a = concat([exp(x), x * y], axis = 1)
    output twice = 2 * a
    return a
}
model narrow(x: float[30, 2], y: float[30, 2]) -> float[30, 4] {
    return concat([exp(x), x * y], axis = 1)
}
model unequal(x: float[3, 17], y: float[3, 5]) -> float[3, 22] {
    return concat([exp(x), 2 * y], axis = 1)
}
model with_sums(x: float[3, 17], y: float[3, 17]) -> float[3, 34] {
    a, b = exp(x), x * y
    output rows = sum(a, axis = 1)
    output columns = sum(b, axis = 0)
    return concat([a, b], axis = 1)
}
model beside_a_slice(x: float[3, 34]) -> float[3, 17] {
    output read = x[:, 17:34]
    return exp(x[:, 17:34])
}
model of_other_parts(x: float[6, 8], y: float[6, 8], z: float[4, 8]) -> float[12, 8] {
    output other = concat([x[0:4], z, y[2:6]], axis = 0)
    return concat([x, y], axis = 0)
}
model for_a_product(x: float[3, 17], y: float[3, 17], v: float[34, 5]) -> float[3, 5] {
    return concat([tanh(x), x * y], axis = 1) @ v
}
"""
# Kernels of each, and those that only move what another has made.
KERNELS = {
    "rows": (1, 0), "columns": (1, 0), "read_again": (2, 0), "narrow": (2, 1), "unequal": (3, 1),
    "with_sums": (1, 0), "beside_a_slice": (1, 0), "of_other_parts": (1, 1),
    "for_a_product": (2, 0),
}  # fmt: skip


def plans(one: Subject) -> tuple[Plan, Plan]:
    """With fusion and without."""
    found = []
    for skip in ((), ("fuse",)):
        options = pipeline_options(one.derive, Asked(threads=2), skip=skip)
        plan = run_pipeline(one.function, options).plan
        assert [str(finding) for finding in check_plan(plan)] == []
        found.append(plan)
    return found[0], found[1]


def same_bits(one: Subject) -> Plan:
    """The plan with fusion, after its results on one and two threads were compared."""
    fused, plain = plans(one)
    expected, _ = run(compile_plan(plain, threads=1), one.arrays, 1, 1)
    native = compile_plan(fused, threads=2)
    for threads in (1, 2):
        found, faults = run(native, one.arrays, 1, threads)
        assert not faults and all(map(np.array_equal, expected, found))
    return fused


def copies(plan: Plan) -> list[str]:
    """Kernels that read and compute nothing."""
    return [
        kernel.name
        for kernel in plan.kernels
        if kernel.flops == 0
        and not kernel.name.endswith(("_combine", "_lay_out"))
        and any(isinstance(s, Load) for s in statements(kernel.body))
    ]


def in_loops(steps: tuple[Step, ...]) -> Iterator[list[int]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield [s.launch.kernel for s in step.body if s.launch is not None]


@pytest.mark.parametrize(
    ("layer", "precision", "dims"),
    (("lstm", "f32", {}), ("gru", "f64", {"B": 1})),
)
def test_steps_that_store_in_place_have_the_same_bits(
    layer: str, precision: str, dims: dict[str, int]
) -> None:
    """Odd units, one of a batch, other types."""
    text = RECURRENT.replace("LAYER", layer)
    same_bits(of_model(layer, gradc.loads(text, dims=dims, precision=precision)))


@pytest.mark.parametrize("layer", ("lstm", "gru", "rnn"))
def test_a_step_is_a_product_and_a_kernel_of_gates(layer: str) -> None:
    """In both sweeps; the one gate of the plain network rides on its product."""
    one = of_model(layer, gradc.loads(RECURRENT.replace("LAYER", layer)))
    options = pipeline_options(one.derive, Asked(threads=2), stop_after="lay-out")
    plan = run_pipeline(one.function, options).result
    assert isinstance(plan, Plan)
    there, back = list(in_loops(plan.steps))[:2]
    for kernels, count in ((there, 1 if layer == "rnn" else 2), (back, 2)):
        products = [any(isinstance(s, Gemm) for s in plan.kernels[n].body) for n in kernels]
        assert len(kernels) == count and sum(products) == 1


@pytest.mark.parametrize("name", KERNELS)
def test_joined_results_are_stored_with_what_they_join(name: str) -> None:
    one = of_model(name, gradc.loads(JOINS, entry=name))
    one = Subject(name, one.function, lambda f: f, one.arrays)
    plan = same_bits(one)
    moved = copies(plan)
    assert (len(plan.kernels), len(moved)) == KERNELS[name], [k.name for k in plan.kernels]
