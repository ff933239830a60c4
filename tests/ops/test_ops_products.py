"""Sums of products as data, and the cuts of nests: what ops state and what schedules may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.products import Position
from gradc.ir.ops.registry import SumOfProducts, lookup
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.text import print_plan
from gradc.ir.target.target import GENERIC
from gradc.ir.tensor.core import DType, TensorType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from tests.support.op_cases import ARRAYS, CASES, Array, Case, close

PRODUCTS = [case for case in CASES if isinstance(case.definition.loop, SumOfProducts)]


def _place(position: Position, at: Sequence[int]) -> int | None:
    """Where it is; None where the term is absent."""
    total = position.constant + sum(factor * at[axis] for axis, factor in position.terms)
    if position.extent is None:
        return total
    is_there = total % position.divisor == 0 and 0 <= total // position.divisor < position.extent
    return total // position.divisor if is_there else None


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_what_a_sum_of_products_states_is_its_op(case: Case) -> None:
    op = case.emit(Builder())
    form = lookup(op.name).loop
    assert isinstance(form, SumOfProducts)
    spec, operands = form.of(op), case.operands(31)
    found = np.zeros(op.result.type.static_shape)
    for outer in np.ndindex(*spec.outer):
        to = tuple(_place(position, outer) for position in spec.result)
        for inner in np.ndindex(*spec.inner):
            at = [
                tuple(_place(position, (*outer, *inner)) for position in side)
                for side in (spec.left, spec.right)
            ]
            if None not in (*at[0], *at[1]):
                found[to] += operands[0][at[0]] * operands[1][at[1]]
    (expected,) = case.definition.evaluate(ARRAYS, op, operands)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    # Neighbours along the shared axis read the same of the left operand.
    assert all(axis != spec.shared for position in spec.left for axis, _ in position.terms)


WIDE = {"stride": (2, 1), "padding": ((3, 3), (2, 1)), "dilation": (1, 1), "groups": 2}
SMALL = {"stride": (1, 1), "padding": ((1, 1), (1, 0)), "dilation": (1, 2), "groups": 1}
EVEN = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
JUMP = {"stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
F, I = DType.F32, DType.I32
# name, operands, attributes: filters above and below the length of a chain, wide rows, many ids
CUT: list[tuple[str, list[tuple[tuple[int, ...], DType]], dict[str, Any]]] = [
    ("conv2d", [((2, 4, 9, 8), F), ((6, 2, 7, 5), F)], WIDE),
    ("conv2d_input", [((2, 1, 6, 40), F), ((1, 4, 3, 3), F)], {**EVEN, "size": (6, 40)}),
    ("conv2d_input", [((1, 1, 3, 20), F), ((1, 3, 2, 2), F)], {**JUMP, "size": (6, 40)}),
    ("conv2d_filter", [((2, 4, 9, 8), F), ((2, 4, 5, 7), F)], {**WIDE, "size": (7, 5)}),
    ("conv2d", [((1, 1, 6, 9), F), ((4, 1, 3, 3), F)], SMALL),
    ("scatter_add", [((150,), I), ((150, 70), F)], {"axis": 0, "size": 5}),
    # An id is outside; rows of prefixes; few of them, and sums in a wider type.
    ("scatter_add", [((150,), I), ((2, 150, 3), F)], {"axis": 1, "size": 4}),
    ("scatter_add", [((30,), I), ((30, 9), F)], {"axis": 0, "size": 11}),
    ("scatter_add", [((150,), I), ((150, 9), DType.F16)], {"axis": 0, "size": 4}),
    ("cumsum", [((2, 5, 70), F)], {"axis": 1, "reverse": True}),
    ("fft", [((2, 3, 12, 20), F)], {"axis": 2}),
]
TARGETS = (
    replace(GENERIC, block=1, accumulators=1, columns=1, row_bytes=8, caches=(9,), table_bytes=1),
    replace(GENERIC, block=3, accumulators=7, columns=33, row_bytes=200, table_bytes=100),
    replace(GENERIC, block=8, accumulators=999, columns=4096, row_bytes=1 << 20),
)


@pytest.mark.parametrize("name, operands, attributes", CUT)
def test_cuts_do_not_change_a_bit(
    name: str, operands: list[tuple[tuple[int, ...], DType]], attributes: dict[str, Any]
) -> None:
    b = Builder()
    types = [TensorType(shape, dtype) for shape, dtype in operands]
    results = b.apply(name, [b.parameter(t) for t in types], attributes)
    function, rng = close(b, results), np.random.default_rng(5)
    given: list[Array] = [
        rng.integers(0, 5, t.static_shape).astype(np.int32)
        if t.dtype is I
        else rng.standard_normal(t.static_shape).astype(
            np.float16 if t.dtype is DType.F16 else np.float32
        )
        for t in types
    ]
    plans = [place(to_loops(function, target=target)) for target in (GENERIC, *TARGETS)]
    found = [execute_plan(plan, given, poison=True)[0] for plan in plans]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    assert len({print_plan(plan) for plan in plans}) > 1, "no target changes anything"
