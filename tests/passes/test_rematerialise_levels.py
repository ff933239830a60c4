"""Recomputation in levels: stretches in stretches, chunks in chunks, binomial schedules carried
out; what planning costs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function, Op, Role, Slot, TensorType
from gradc.passes import budget as budgets
from gradc.passes.budget import BudgetError, pareto, run_within
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Options, Run, run_pipeline
from gradc.passes.recompute.binomial import forward_steps
from gradc.passes.recompute.choose import MOST, Estimate, candidates, chunk_sizes, work
from gradc.passes.recompute.rematerialise import Policy, rematerialise
from gradc.passes.recompute.scan import chunk_scans
from gradc.passes.recompute.time import unroll_scans
from gradc.passes.rewrite import emit_scan
from tests.passes.test_ad_modes import rnn
from tests.passes.test_rematerialise import (
    deep,
    gradient,
    recurrent,
    residual_mlp,
    rnn_batch,
    trained,
)
from tests.support.ad_programs import draw, program

ARRAYS = NumpyArrays()
NAMES = ("p0", "p1", "p2")


def laminar(source: random.Random, low: int, high: int, depth: int) -> list[tuple[int, int]]:
    """Random ranges in ``low`` to ``high``, apart or inside one another."""
    borders = sorted(source.sample(range(low, high + 1), min(4, high - low + 1)))
    found = []
    for start, end in zip(borders[::2], borders[1::2], strict=False):
        found.append((start, end))
        if depth > 1 and end - start > 1:
            found += laminar(source, start, end, depth - 1)
    return found


# --- stretches in stretches


@pytest.mark.parametrize("seed", range(30, 60))
def test_any_levels_of_stretches_keep_values_and_gradients(seed: int) -> None:
    """Random stretches three deep in random programs: bitwise the same values and gradients, the
    same tangents.
    """
    f = program(seed)
    ranges = laminar(random.Random(seed), 0, len(f.block.body), 3)
    g = rematerialise(f, Policy(0, tuple(dict.fromkeys(ranges))))
    verify_function(g)
    arguments = draw(f, seed)
    for derive in (lambda h: h, lambda h: value_and_grad(h, NAMES)):
        for a, c in zip(*(run(ARRAYS, derive(h), arguments) for h in (f, g)), strict=True):
            np.testing.assert_array_equal(a, c)
    tangents = [np.random.default_rng(seed).normal(size=a.shape) for a in arguments]
    both = [run(ARRAYS, jvp(h, NAMES), [*arguments, *tangents]) for h in (f, g)]
    for a, c in zip(*both, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-13)


def test_stretches_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.5 and 3\.\.8 cross"):
        rematerialise(program(1), Policy(0, ((0, 5), (3, 8))))


def test_two_levels_are_recomputed_twice() -> None:
    """Ops of the inner stretch run three times in all, those around it twice; the checker finds no
    fault.
    """
    f = residual_mlp(6)
    options = Options(derivative=gradient(trained(f)), policy=Policy(0, ((0, 20), (0, 10))))
    outcome = run_pipeline(f, options)
    optimised = outcome.after("dce")
    assert isinstance(optimised, Function)
    products: dict[int, set[int]] = {}
    for op in optimised.block.body:
        if op.name == "add" and op.span is not None:
            products.setdefault(op.span.line, set()).add(op.replica)
    assert len({op.replica for op in optimised.block.body if op.replica}) == 2
    assert len(products[1]) == 3 and len(products[3]) == 2 and len(products[6]) == 1
    assert check_plan(outcome.plan) == ()


def test_levels_make_smaller_budgets_feasible() -> None:
    """A chain of 64: what one level cannot keep, two and three can; bits and checker agree."""
    f, options, front = deep(64)
    one = min(p.peak_bytes for p in front if "levels" not in str(p.policy))
    smallest = front[-1]
    assert "levels" in str(smallest.policy)
    arena_of_one = one - (smallest.peak_bytes - smallest.arena_bytes)
    assert smallest.arena_bytes < 0.8 * arena_of_one
    found = run_within(f, options, smallest.peak_bytes)
    assert found.plan.peak_bytes <= smallest.peak_bytes
    assert check_plan(found.plan) == ()
    arguments = [(a * 0.1).astype(np.float32) for a in draw(f, 5)]
    plain = execute_plan(run_pipeline(f, options).plan, arguments)
    for a, c in zip(plain, execute_plan(found.plan, arguments), strict=True):
        np.testing.assert_array_equal(a, c)


def test_depth_costs_the_cube_root() -> None:
    """From 64 to 512 layers two levels grow by about 2 (the cube root of 8), at two more forward
    sweeps at most.
    """
    held = []
    for layers in (64, 512):
        f = residual_mlp(layers)
        plain = Estimate(f, gradient(trained(f)))
        sweeps = [
            (plain.keeps(s), plain.repeats(s) / plain.works[-1])
            for s in (*plain.choices(), *plain.nested())
        ]
        once = min(keeps for keeps, repeats in sweeps if repeats <= 1)
        twice = min(keeps for keeps, repeats in sweeps if repeats <= 2)
        assert twice < once
        held.append((once, twice))
    (short_once, short_twice), (long_once, long_twice) = held
    assert long_once / short_once < 8**0.5 * 1.35
    assert long_twice / short_twice < 8 ** (1 / 3) * 1.35


# --- loops


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("truncate", [0, 2, 3, 6])
@pytest.mark.parametrize(
    ("trips", "sizes"), [(13, (6, 2)), (24, (12, 6, 2)), (25, (7, 3)), (12, (6, 3))]
)
def test_chunks_in_chunks(
    trips: int, sizes: tuple[int, ...], truncate: int, is_reverse: bool
) -> None:
    f = rnn(trips, truncate, is_reverse)
    g = chunk_scans(f, sizes[0], sizes[1:])
    verify_function(g)
    assert truncate or _depth(g.block.body) == 1 + len(sizes)
    _same_derivatives(f, g, trips)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize(
    ("trips", "unit", "slots"), [(9, 1, 2), (13, 3, 2), (10, 2, 1), (17, 2, 4), (6, 4, 9)]
)
def test_schedules(trips: int, unit: int, slots: int, is_reverse: bool) -> None:
    f = rnn(trips, 0, is_reverse)
    g = unroll_scans(f, unit, slots)
    assert g is not f
    verify_function(g)
    _same_derivatives(f, g, trips)


def test_truncated_and_short_loops_are_not_unrolled() -> None:
    truncated, short = rnn(12, 4, False), rnn(5, 0, False)
    assert unroll_scans(truncated, 2, 3) is truncated
    assert unroll_scans(short, 5, 3) is short
    with pytest.raises(ValueError, match="at least one slot"):
        unroll_scans(short, 1, 0)


def _depth(ops: Sequence[Op]) -> int:
    """How deep scans are nested."""
    found = 0
    for op in ops:
        inside = max((_depth(region.body) for region in op.regions), default=0)
        found = max(found, inside + (op.name == "scan"))
    return found


def _same_derivatives(f: Function, g: Function, seed: int) -> None:
    names = ("p0", "p1", "p2", "p3")
    arguments = draw(f, seed)
    for a, c in zip(run(ARRAYS, f, arguments), run(ARRAYS, g, arguments), strict=True):
        np.testing.assert_array_equal(a, c)
    for derive, more in ((value_and_grad, []), (jvp, arguments)):
        plain, other = (run(ARRAYS, derive(h, names), [*arguments, *more]) for h in (f, g))
        for a, c in zip(plain, other, strict=True):
            np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("trips", [69])
@pytest.mark.parametrize("is_reverse", [False, True])
def test_levels_of_loops_keep_the_bits_of_weight_gradients(trips: int, is_reverse: bool) -> None:
    """Every chunk in chunk and some schedules: compiled gradients are bitwise those of the plain
    Plan.
    """
    f = recurrent(trips, is_reverse)
    names = trained(f)
    arguments = [a.astype(np.float32) for a in draw(f, trips)]
    plain = execute_plan(_plan(f, names, Policy()).plan, arguments)
    policies = [Policy(n, (), (m,)) for n in chunk_sizes(trips) for m in chunk_sizes(n)]
    policies += [Policy(16, slots=slots) for slots in (1, 3, 8)]
    assert len(policies) >= 5
    for policy in policies:
        outcome = _plan(f, names, policy)
        assert check_plan(outcome.plan) == ()
        for a, c in zip(plain, execute_plan(outcome.plan, arguments), strict=True):
            np.testing.assert_array_equal(a, c)


def _plan(f: Function, names: tuple[str, ...], policy: Policy) -> Run:
    return run_pipeline(f, Options(derivative=gradient(names), verify=1, policy=policy))


def chain(trips: int) -> Function:
    """h <- tanh(h * w), from the start state only."""
    b = Builder()
    h, w = (b.parameter(TensorType((4,), DType.F32)) for _ in range(2))
    inner = Builder()
    own, weights = inner.parameter(h.type), inner.parameter(w.type)
    region = inner.block([inner.one("tanh", inner.one("mul", own, weights))])
    attributes: dict[str, Any] = {
        "trips": trips, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip
    (last,) = emit_scan(b, [h, w], region, attributes)
    loss = b.one("sum", b.one("mul", last, last), axes=(0,))
    slots = [Slot("h", Role.PARAM), Slot("w", Role.PARAM)]
    return b.function("chain", [loss], slots, [Slot("loss", Role.LOSS)])


def executed(ops: Sequence[Op], name: str) -> int:
    """How often an op of this name is run."""
    total = 0
    for op in ops:
        trips = op.attributes.get("trips", 1) if op.name == "scan" else 1
        assert isinstance(trips, int)
        total += (op.name == name) + trips * sum(executed(r.body, name) for r in op.regions)
    return total


@pytest.mark.parametrize("slots", range(1, 6))
def test_schedules_run_the_fewest_steps(slots: int) -> None:
    """As many forward steps as the optimum: those run again, and each once with what its reversal
    reads.
    """
    for steps in (2, 3, 5, 8, 12, 18):
        outcome = _plan(chain(steps), ("h", "w"), Policy(1, slots=slots))
        optimised = outcome.after("dce")
        assert isinstance(optimised, Function)
        assert executed(optimised.block.body, "tanh") == forward_steps(steps, slots) + steps
        if steps % 6 == 0:
            assert check_plan(outcome.plan) == ()


def test_schedules_trade_states_for_steps() -> None:
    """Fewer slots: a smaller arena, more steps."""
    f = rnn_batch(12 * 16)
    arenas = [_plan(f, ("h", "w"), Policy(16, slots=n)).plan.arena_bytes for n in (1, 4, 11)]
    assert arenas == sorted(arenas)
    assert arenas[0] < arenas[1] < arenas[2]


# --- what planning costs, and how good it is


def remembered(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Makes budgets remember runs of the pipeline, so that tests are fast; returns the list of
    those asked for.
    """
    known: dict[object, Run] = {}
    asked: list[Run] = []

    def counted(function: Function, options: Options | None = None) -> Run:
        assert options is not None
        key = (function.name, options.policy, options.stop_after)
        if key not in known:
            known[key] = run_pipeline(function, options)
        asked.append(known[key])
        return known[key]

    monkeypatch.setattr(budgets, "run_pipeline", counted)
    return asked


def test_the_pipeline_runs_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain one, and one or two whose estimates come near the budget or are the least; the
    first steps run once.
    """
    f = residual_mlp(28, width=8, batch=16)
    options = Options(derivative=gradient(trained(f)), verify=0)
    asked = remembered(monkeypatch)
    points = pareto(f, options)
    count = len(candidates(f, gradient(trained(f))))
    assert 8 < count <= MOST + 1 and len(asked) == count + 1
    for point in points:
        asked.clear()
        assert run_within(f, options, point.peak_bytes).plan.peak_bytes <= point.peak_bytes
        whole = [m for m in asked if m.records[-1].step == "scratch"]
        assert len(asked) - len(whole) == 1
        assert len(whole) <= 3
        assert point is not points[0] or len(whole) == 1
    asked.clear()
    with pytest.raises(BudgetError):
        run_within(f, options, points[-1].peak_bytes // 2)
    assert len(asked) - 1 == 3


@pytest.mark.parametrize("kind", ["chain", "loop"])
def test_peaks_never_grow_as_budgets_fall(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty budgets, many between the peaks of neighbouring policies."""
    f = residual_mlp(16, width=8, batch=16) if kind == "chain" else recurrent(80, False)
    options = Options(derivative=gradient(trained(f)), verify=0)
    remembered(monkeypatch)
    points = pareto(f, options)
    low, high = points[-1].peak_bytes, points[0].peak_bytes
    peaks = [run_within(f, options, int(b)).plan.peak_bytes for b in np.linspace(high, low, 30)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] == low and peaks[0] == high and len(set(peaks)) >= 3


def test_the_bound_on_work_is_below_every_choice() -> None:
    """Against all subsets of a small program: no choice of kept values that fits repeats less than
    the bound says.
    """
    f = residual_mlp(4, width=8, batch=16)
    estimate = Estimate(f, gradient(trained(f)))
    kept = [
        (n, works) for n, works in zip(estimate.kept, map(work, estimate.ops), strict=True) if n
    ]
    assert 4 <= len(kept) <= 12
    for room in range(0, estimate.total[-1] + 512, 512):
        least = min(
            sum(w for i, (_, w) in enumerate(kept) if not subset >> i & 1)
            for subset in range(1 << len(kept))
            if sum(n for i, (n, _) in enumerate(kept) if subset >> i & 1) <= room
        )
        bound = estimate.least_repeated(room)
        assert bound <= least
        assert bound >= least - max(w for _, w in kept)
    points = pareto(f, Options(derivative=gradient(trained(f)), verify=0))
    assert len(points) > 2
    for point in points:
        assert point.gap.least <= point.work == point.gap.work
        assert ("the bound takes" in str(point.gap)) == (point.gap.share > 0.05)
