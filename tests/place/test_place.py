"""Placement: packing, lifetimes, sharing in place, order, ports written directly."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradc.ir.ops.builder import Builder
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan, Repeat
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.fuse.fuse import fuse
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.alias import shareable
from gradc.passes.place.lifetime import Lifetime, lifetimes
from gradc.passes.place.pack import aligned, lower_bound, pack
from gradc.passes.place.place import arena_lower_bound, assign, place
from gradc.passes.place.schedule import Uses, dependences, schedule
from tests.support.loops_models import gradient, lstm, mlp, planned, row_model, transformer

BLOCKS = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=40
)


@given(BLOCKS)
def test_packed_blocks_alive_together_do_not_overlap(blocks: list[tuple[int, int, int]]) -> None:
    sizes = {n: size for n, (size, _, _) in enumerate(blocks)}
    times = {n: Lifetime(first, first + length) for n, (_, first, length) in enumerate(blocks)}
    offsets, total = pack(sizes, times)
    for a, size in sizes.items():
        assert offsets[a] % 64 == 0 and offsets[a] + size <= total
        for b in range(a):
            apart = offsets[a] + size <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
            assert apart or not times[a].overlaps(times[b])
    assert lower_bound(sizes, times) <= total <= sum(map(aligned, sizes.values()))


def test_lower_bound_is_the_most_alive() -> None:
    sizes = {0: 64, 1: 128, 2: 64}
    times = {0: Lifetime(0, 1), 1: Lifetime(1, 2), 2: Lifetime(2, 3)}
    assert lower_bound(sizes, times) == 192
    assert pack(sizes, times)[1] == 192


def _models() -> list[tuple[str, Function]]:
    return [
        ("mlp", gradient(mlp(64, [64, 128, 64, 10]))),
        ("transformer", gradient(transformer(3, 2, 16, 32, 4, 48))),
        ("lstm", gradient(lstm(20, 4, 6, 8))),
    ]


@pytest.mark.parametrize(("name", "function"), _models(), ids=["mlp", "transformer", "lstm"])
def test_sharing_saves_memory(name: str, function: Function) -> None:
    """At least 30 % below one buffer per value (histories of the LSTM all live to the end), near
    the bound."""
    unplaced = to_loops(fuse(function))
    touched = lifetimes(unplaced)
    apart = sum(aligned(unplaced.tensors[n].nbytes) for n in touched)
    plan = place(unplaced)
    assert plan.arena_bytes <= apart * (0.7 if name != "lstm" else 0.8)
    assert plan.arena_bytes <= 1.05 * arena_lower_bound(plan)


def test_unfused_programs_are_placed_below_one_buffer_per_value() -> None:
    function = gradient(transformer(2, 2, 16, 32, 4, 48))
    unplaced = to_loops(function)
    apart = sum(aligned(unplaced.tensors[n].nbytes) for n in lifetimes(unplaced))
    plan = place(unplaced)
    assert plan.arena_bytes < 0.5 * apart
    assert [str(f) for f in check_plan(plan)] == []


def _chain(length: int) -> Function:
    b = Builder()
    x = b.parameter(TensorType((50,), DType.F64), "x")
    value = x
    for _ in range(length):
        value = b.one("tanh", value)
    return b.function("chain", [value], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])


def test_a_chain_is_computed_in_place() -> None:
    plan = place(to_loops(_chain(10)))
    assert plan.arena_bytes == aligned(50 * 8)
    x = np.linspace(-1, 1, 50)
    wanted = x
    for _ in range(10):
        wanted = np.tanh(wanted)
    np.testing.assert_allclose(execute_plan(plan, [x], poison=True)[0], wanted, 1e-13)


def _step(rows: int) -> Function:
    """w' = w - 0.1 * (x^T x w), the old w being read by other ops as well."""
    b = Builder()
    w = b.parameter(TensorType((8, 8), DType.F64), "w")
    x = b.parameter(TensorType((rows, 8), DType.F64), "x")
    h = b.one("contract", x, w, batch=(), contract=((1, 0),))
    g = b.one("contract", x, h, batch=(), contract=((0, 0),))
    step = b.one("mul", g, b.constant(0.1, DType.F64, (8, 8)))
    new = b.one("sub", w, step)
    norm = b.one("sum", b.one("mul", w, w), axes=(0, 1))
    slots = [Slot("w", Role.PARAM), Slot("x", Role.INPUT)]
    return b.function(
        "step", [norm, new], slots, [Slot("norm", Role.OUTPUT), Slot("w", Role.PARAM)]
    )


def test_new_parameters_are_written_over_the_old_ones() -> None:
    plan = planned(_step(5))
    assert [port.direction for port in plan.ports] == ["inout", "in", "out"]
    assert not any(
        "reshape" in plan.kernels[s.kernel].name for s in plan.steps if not isinstance(s, Repeat)
    )
    assert len(plan.kernels) == len(plan.steps), "kernels of copies that are gone are gone as well"
    assert [str(f) for f in check_plan(plan)] == []
    source = np.random.default_rng(1)
    w, x = source.standard_normal((8, 8)), source.standard_normal((5, 8))
    new, norm = execute_plan(plan, [w, x], poison=True)
    np.testing.assert_allclose(new, w - 0.1 * (x.T @ (x @ w)), 1e-12)
    np.testing.assert_allclose(norm, (w * w).sum(), 1e-12)


def test_a_product_never_overwrites_its_factors() -> None:
    """w' = x @ w reads all of w for every element of w': the copy has to stay."""
    b = Builder()
    w = b.parameter(TensorType((6, 6), DType.F64), "w")
    x = b.parameter(TensorType((6, 6), DType.F64), "x")
    new = b.one("contract", x, w, batch=(), contract=((1, 0),))
    slots = [Slot("w", Role.PARAM), Slot("x", Role.INPUT)]
    plan = planned(b.function("f", [new], slots, [Slot("w", Role.PARAM)]))
    assert len(plan.steps) == 2
    source = np.random.default_rng(2)
    values = [source.standard_normal((6, 6)) for _ in range(2)]
    np.testing.assert_allclose(execute_plan(plan, values)[0], values[1] @ values[0], 1e-12)


def test_views_read_backwards_are_not_shared() -> None:
    """A reversed copy reads elements that earlier iterations would have overwritten."""
    b = Builder()
    x = b.parameter(TensorType((40,), DType.F64), "x")
    y = b.one("exp", x)
    z = b.one("add", b.one("reverse", y, axes=(0,)), y)
    function = b.function("f", [z], [Slot("x", Role.INPUT)], [Slot("z", Role.OUTPUT)])
    plan = to_loops(function)
    for kernel in plan.kernels:
        if len([b for b in kernel.buffers if b.access == "read"]) == 1:
            assert shareable(kernel) in (frozenset(), frozenset({(0, 1)}))
    reversed_copy = next(k for k in plan.kernels if "reverse" in k.name)
    assert shareable(reversed_copy) == frozenset()
    x_value = np.random.default_rng(3).standard_normal(40)
    wanted = np.exp(x_value)
    np.testing.assert_allclose(
        execute_plan(place(plan), [x_value])[0], wanted + wanted[::-1], 1e-13
    )


@pytest.mark.parametrize("seed", range(20))
def test_schedules_respect_dependences(seed: int) -> None:
    pick = random.Random(seed)
    uses = []
    for number in range(30):
        reads = tuple(sorted({pick.randrange(20) for _ in range(pick.randint(0, 3))}))
        uses.append(Uses(reads, (20 + number,) if number % 3 else (pick.randrange(20),)))
    before = dependences(uses)
    order = schedule(uses, before, lambda tensor: 64 * (1 + tensor % 5))
    assert sorted(order) == list(range(30))
    place_of = {n: k for k, n in enumerate(order)}
    assert all(place_of[n] < place_of[k] for k in range(30) for n in before[k])


def test_scheduling_lowers_the_peak_of_independent_branches() -> None:
    """Written breadth first, branches need all their temporaries at once; in order of need, only
    one."""
    b = Builder()
    x = b.parameter(TensorType((64, 64), DType.F64), "x")
    products = []
    for number in range(6):
        shift = b.one("add", x, b.constant(float(number), DType.F64, (64, 64)))
        products.append(b.one("contract", shift, x, batch=(), contract=((1, 0),)))
    second = [b.one("contract", p, x, batch=(), contract=((1, 0),)) for p in products]
    sums = [b.one("sum", p, axes=(0, 1)) for p in second]
    slots = [Slot(f"s{n}", Role.OUTPUT) for n in range(6)]
    function = b.function("f", sums, [Slot("x", Role.INPUT)], slots)
    unplaced = to_loops(fuse(function))
    assert place(unplaced).arena_bytes < 0.5 * assign(unplaced).arena_bytes


def test_lifetimes_of_loops() -> None:
    """What a loop reads from outside lives through it; its temporaries live within one trip."""
    plan = to_loops(fuse(gradient(lstm(9, 2, 3, 4))))
    times = lifetimes(plan)
    loops = [n for n, step in enumerate(plan.steps) if isinstance(step, Repeat)]
    assert len(loops) == 2
    carried = [n for n, t in enumerate(plan.tensors) if ".carry" in t.name]
    assert carried
    for number in carried:
        assert times[number].last - times[number].first >= 3


@pytest.mark.parametrize("layers", [8, 64])
def test_planning_time_is_linear(layers: int) -> None:
    """A thousand ops are placed in far less than a second; the arena of a deep net grows with its
    activations only."""
    function = gradient(mlp(16, [16] * layers + [4]))
    plan: Plan = planned(function)
    activations = layers * aligned(16 * 16 * 4)
    assert plan.arena_bytes <= 2.2 * activations + 4096


def test_row_model_needs_no_arena_to_speak_of() -> None:
    assert planned(gradient(row_model(64, 32))).arena_bytes <= 3 * 64 + 2 * 128
