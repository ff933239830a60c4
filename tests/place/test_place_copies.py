"""Copies that vanish: carries in one buffer, values computed where they are wanted, sums in
ports.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan, Repeat
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.fuse.fuse import fuse
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.carry import single_carries
from gradc.passes.place.copy import forward_copies
from gradc.passes.place.share import is_copy
from gradc.passes.rewrite import emit_scan
from tests.support.loops_models import gradient, launches, lstm, planned

F64 = DType.F64
SHAPE = TensorType((4, 4), F64)


def _scan(kind: str, trips: int = 5, reverse: bool = False) -> Function:
    """A loop that adds slices to a carry, in several ways of reading the old carry."""
    b, r = Builder(), Builder()
    start, xs = b.parameter(SHAPE, "start"), b.parameter(SHAPE.with_shape((trips, 4, 4)), "xs")
    carry, x = r.parameter(SHAPE), r.parameter(SHAPE)
    outputs: list[Value] = []
    if kind == "sum":
        outputs = [r.one("add", carry, x)]
    elif kind == "product":
        outputs = [r.one("contract", carry, x, batch=(), contract=((1, 0),))]
    elif kind == "turned":
        outputs = [r.one("add", r.one("transpose", carry, perm=(1, 0)), x)]
    elif kind == "late":
        new = r.one("add", carry, x)
        outputs = [new, r.one("contract", carry, new, batch=(), contract=((1, 0),))]
    elif kind == "kept":
        outputs = [r.one("add", carry, x), carry]
    counts = {"carried": 1, "stacked": 1, "reverse": reverse, "truncate": 0}
    results = emit_scan(b, [start, xs], r.block(outputs), {"trips": trips, **counts})
    slots = [Slot(f"o{n}", Role.OUTPUT) for n in range(len(results))]
    given = [Slot("start", Role.INPUT), Slot("xs", Role.INPUT)]
    return b.function(kind, results, given, slots)


def _copies(plan: Plan) -> int:
    return sum(is_copy(plan.kernels[step.kernel]) for step in launches(plan))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("trips", [1, 2, 5])
@pytest.mark.parametrize("kind", ["sum", "product", "turned", "late", "kept"])
def test_loops_mean_the_same(kind: str, trips: int, reverse: bool) -> None:
    function = _scan(kind, trips, reverse)
    source = np.random.default_rng(trips)
    given = [source.standard_normal(v.type.static_shape) for v in function.block.parameters]
    plan = planned(function)
    assert [str(f) for f in check_plan(plan)] == []
    found = execute_plan(plan, given, poison=True)
    for ours, theirs in zip(found, run(NumpyArrays(), function, given), strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-12)


def test_a_running_sum_has_one_buffer_and_lives_in_its_port() -> None:
    plan = planned(_scan("sum"))
    assert plan.arena_bytes == 0
    # The initial value is an input, which must stay: it is copied once, before the loop.
    assert _copies(plan) == 1 and len(plan.steps) == 2


@pytest.mark.parametrize("kind", ["product", "turned", "late"])
def test_a_carry_that_is_read_after_or_out_of_order_keeps_two(kind: str) -> None:
    plan = to_loops(fuse(_scan(kind)))
    assert single_carries(plan) is plan


def test_kept_carries_need_no_copies_in_the_loop() -> None:
    plan = planned(gradient(lstm(12, 3, 4, 5)))
    for step in plan.steps:
        if isinstance(step, Repeat):
            assert not any(
                is_copy(plan.kernels[s.kernel]) for s in step.body if not isinstance(s, Repeat)
            )


def test_a_constant_is_filled_in_where_it_starts() -> None:
    """Initial zeros are written into the carry, not made elsewhere and copied."""
    b, r = Builder(), Builder()
    xs = b.parameter(SHAPE.with_shape((3, 4, 4)), "xs")
    zero = b.constant(0.0, F64, (4, 4))
    carry, x = r.parameter(SHAPE), r.parameter(SHAPE)
    body = r.block([r.one("add", carry, x)])
    counts = {"carried": 1, "stacked": 1, "reverse": False, "truncate": 0}
    results = emit_scan(b, [zero, xs], body, {"trips": 3, **counts})
    slots = [Slot("total", Role.OUTPUT)]
    function = b.function("f", results, [Slot("xs", Role.INPUT)], slots)
    plan = planned(function)
    assert _copies(plan) == 0 and plan.arena_bytes == 0 and len(plan.steps) == 2
    values = np.random.default_rng(0).standard_normal((3, 4, 4))
    np.testing.assert_allclose(execute_plan(plan, [values], poison=True)[0], values.sum(0), 1e-12)


def test_a_value_with_other_readers_is_still_copied() -> None:
    """Two results that are one value: one of the ports gets a copy."""
    b = Builder()
    x = b.parameter(SHAPE, "x")
    y = b.one("exp", x)
    slots = [Slot("a", Role.OUTPUT), Slot("b", Role.OUTPUT)]
    plan = planned(b.function("f", [y, y], [Slot("x", Role.INPUT)], slots))
    assert _copies(plan) == 1
    values = np.random.default_rng(1).standard_normal((4, 4))
    for found in execute_plan(plan, [values], poison=True):
        np.testing.assert_allclose(found, np.exp(values), 1e-12)


def test_forwarding_leaves_plans_without_copies_alone() -> None:
    b = Builder()
    x = b.parameter(SHAPE, "x")
    function = b.function("f", [b.one("exp", x)], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    plan = to_loops(function)
    assert forward_copies(plan) == plan
