"""Loop forms of all ops: every sample and every derivative program, lowered to kernels, verified,
run by the reference executor.

The executor runs the Plan over a poisoned arena, so reading what was never written shows as NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.interpret import run
from gradc.ir.loop.verify import violations_of
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function, TensorType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from tests.ops.test_ops_derivatives import vjp_function
from tests.support.op_cases import ARRAYS, CASES, SMOOTH, Array, Case, close, draw


def compare(function: Function, operands: Sequence[Array]) -> None:
    """The lowered function gives what the interpreter gives."""
    verify_function(function, static=True)
    expected = run(ARRAYS, function, operands)
    plan = place(to_loops(function))
    assert [str(v) for v in violations_of(plan.kernels)] == []
    found = execute_plan(plan, operands, poison=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lowered_op(case: Case) -> None:
    compare(case.function(), case.operands(21))


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_lowered_vjp(case: Case) -> None:
    function, present = vjp_function(case)
    if any(present):
        shape = case.function().block.outputs[0].type.static_shape
        ct = np.random.default_rng(22).standard_normal(shape)
        compare(function, [*case.operands(22), ct])


F, I = DType.F64, DType.I32
CONV = {"stride": (1, 1), "padding": ((1, 1), (0, 0)), "dilation": (1, 1), "groups": 1}
POOL = {"size": (2, 2), "stride": (2, 1), "padding": ((0, 0), (0, 0))}
# name, operand shapes and types, attributes: no elements somewhere
EMPTY: list[tuple[str, list[tuple[tuple[int, ...], DType]], dict[str, Any]]] = [
    ("conv2d", [((0, 2, 4, 4), F), ((3, 2, 3, 3), F)], CONV),
    ("conv2d", [((2, 0, 4, 4), F), ((3, 0, 3, 3), F)], CONV),
    ("conv2d", [((2, 2, 4, 4), F), ((0, 2, 3, 3), F)], CONV),
    ("conv2d_input", [((0, 3, 4, 2), F), ((3, 2, 3, 3), F)], {**CONV, "size": (4, 4)}),
    ("conv2d_filter", [((0, 2, 4, 4), F), ((0, 3, 4, 2), F)], {**CONV, "size": (3, 3)}),
    ("max_pool", [((0, 1, 4, 4), F)], POOL),
    ("avg_pool", [((2, 0, 4, 4), F)], POOL),
    ("take", [((0, 3), F), ((4,), I)], {"axis": 0}),
    ("take", [((5, 0), F), ((4,), I)], {"axis": 0}),
    ("scatter_add", [((0,), I), ((0, 3), F)], {"axis": 0, "size": 4}),
    ("scatter_add", [((2,), I), ((2, 0), F)], {"axis": 0, "size": 4}),
    ("scatter_add", [((2,), I), ((2, 3), F)], {"axis": 0, "size": 0}),
    ("cumsum", [((3, 0), F)], {"axis": 0, "reverse": False}),
    ("argmax", [((0, 3), F)], {"axis": 1}),
    ("sum", [((3, 0), F)], {"axes": (1,)}),
    ("reduce_max", [((3, 0), F)], {"axes": (1,)}),
    ("prod", [((0, 3), F)], {"axes": (0,)}),
    ("contract", [((3, 0), F), ((0, 2), F)], {"batch": (), "contract": ((1, 0),)}),
    ("contract", [((0, 3, 2), F), ((0, 2, 4), F)], {"batch": ((0, 0),), "contract": ((2, 1),)}),
    ("concat", [((0, 2), F), ((0, 2), F)], {"axis": 0}),
    ("pad", [((0, 2), F)], {"low": (1, 0), "high": (2, 0), "interior": (3, 1)}),
]


@pytest.mark.parametrize("name, operands, attributes", EMPTY)
def test_lowered_without_elements(
    name: str, operands: list[tuple[tuple[int, ...], DType]], attributes: dict[str, Any]
) -> None:
    b = Builder()
    types = [TensorType(shape, dtype) for shape, dtype in operands]
    b.apply(name, [b.parameter(t) for t in types], attributes)
    rng = np.random.default_rng(3)
    compare(close(b, b.ops[-1].results), [draw(rng, t, 0.0, 4.0) for t in types])
