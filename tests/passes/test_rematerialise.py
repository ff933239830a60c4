"""Recomputation and budgets: the same bits under every policy, less memory for bounded work,
budgets kept or refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function, Role, Slot, Span, TensorType, Value, walk
from gradc.passes.budget import BudgetError, Point, pareto, run_within
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.recompute.choose import candidates, chunk_sizes, work
from gradc.passes.recompute.rematerialise import NOTHING, Policy, rematerialise
from gradc.passes.recompute.scan import chunk_scans
from gradc.passes.rewrite import emit_scan
from tests.passes.test_ad_modes import rnn
from tests.support.ad_programs import draw, program

ARRAYS = NumpyArrays()
NAMES = ("p0", "p1", "p2")


def gradient(names: tuple[str, ...]) -> Callable[[Function], Function]:
    return lambda f: value_and_grad(f, names)


def residual_mlp(layers: int, width: int = 32, batch: int = 64) -> Function:
    """h <- h + gelu(h w_l + b_l), one matrix and bias per layer."""
    b = Builder()
    x = b.parameter(TensorType((batch, width), DType.F32), "x")
    slots = [Slot("x", Role.INPUT)]
    h = x
    for n in range(layers):
        w = b.parameter(TensorType((width, width), DType.F32), f"w{n}")
        bias = b.parameter(TensorType((width,), DType.F32), f"b{n}")
        slots += [Slot(f"w{n}", Role.PARAM), Slot(f"b{n}", Role.PARAM)]
        with b.at(Span("mlp.grad", n + 1, 1, n + 1, 20)):
            product = b.one("contract", h, w, batch=(), contract=((1, 0),))
            wide = b.one("broadcast", bias, shape=(batch, width), dims=(1,))
            h = b.one("add", h, b.one("gelu", b.one("add", product, wide)))
    loss = b.one("sum", b.one("mul", h, h), axes=(0, 1))
    return b.function("mlp", [loss], slots, [Slot("loss", Role.LOSS)])


def trained(f: Function) -> tuple[str, ...]:
    return tuple(s.name for s in f.parameters if s.role is Role.PARAM)


# --- the transformation ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_any_stretches_keep_values_and_gradients(seed: int) -> None:
    """Random stretches of random programs: results bitwise equal, gradients too, first and forward
    mode.
    """
    f = program(seed)
    source = random.Random(seed)
    count = len(f.block.body)
    borders = sorted(source.sample(range(count + 1), min(6, count)))
    pairs = tuple(zip(borders[::2], borders[1::2], strict=False))
    g = rematerialise(f, Policy(0, pairs))
    verify_function(g)
    arguments = draw(f, seed)
    for a, c in zip(run(ARRAYS, f, arguments), run(ARRAYS, g, arguments), strict=True):
        np.testing.assert_array_equal(a, c)
    ours, theirs = (run(ARRAYS, value_and_grad(h, NAMES), arguments) for h in (g, f))
    for a, c in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, c)
    v = [np.ones_like(a) for a in arguments]
    for a, c in zip(
        run(ARRAYS, jvp(g, NAMES), [*arguments, *v]),
        run(ARRAYS, jvp(f, NAMES), [*arguments, *v]),
        strict=True,
    ):
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize("truncate", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("trips", [5, 8, 12, 13])
def test_chunked_loops(trips: int, truncate: int, is_reverse: bool) -> None:
    """Every chunk size, time both ways, truncation exact: values bitwise, derivatives equal."""
    f = rnn(trips, truncate, is_reverse)
    names = ("p0", "p1", "p2", "p3")
    arguments = draw(f, trips)
    changed = 0
    for size in range(1, trips + 1):
        g = chunk_scans(f, size)
        if g is f:
            continue
        changed += 1
        verify_function(g)
        for a, c in zip(run(ARRAYS, f, arguments), run(ARRAYS, g, arguments), strict=True):
            np.testing.assert_array_equal(a, c)
        for derive, more in ((value_and_grad, []), (jvp, arguments)):
            plain, chunked = (run(ARRAYS, derive(h, names), [*arguments, *more]) for h in (f, g))
            for a, c in zip(plain, chunked, strict=True):
                np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-14)
    assert changed == trips - 1 or truncate


def test_what_is_recomputed_stays_recomputed() -> None:
    """After the whole pipeline the copies are still there, and the forward sweep's values do not
    cross.
    """
    f = residual_mlp(6)
    policy = Policy(0, ((0, 12), (12, 24)))
    options = Options(derivative=gradient(trained(f)), policy=policy)
    outcome = run_pipeline(f, options)
    optimised = outcome.after("dce")
    assert isinstance(optimised, Function)
    copies = [op for op in walk(optimised.block) if op.replica and op.name == "contract"]
    assert len({op.replica for op in copies}) == 2
    assert any(launch.replica for launch in outcome.plan.steps if hasattr(launch, "replica"))


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_gradients_are_bitwise_the_same_under_every_policy(seed: int) -> None:
    """Compiled to Plans and executed: loss and gradients of every candidate."""
    f = residual_mlp(7, width=8, batch=4) if seed == 0 else program(seed + 40, size=10)
    names = trained(f)
    options = Options(derivative=gradient(names), verify=1)
    arguments = draw(f, seed)
    if seed == 0:
        arguments = [a.astype(np.float32) for a in arguments]
    plain = execute_plan(run_pipeline(f, options).plan, arguments)
    for candidate in candidates(f, gradient(names)):
        with_policy = Options(derivative=gradient(names), verify=1, policy=candidate.policy)
        found = execute_plan(run_pipeline(f, with_policy).plan, arguments)
        for a, c in zip(plain, found, strict=True):
            np.testing.assert_array_equal(a, c)


@cache
def deep(layers: int) -> tuple[Function, Options, list[Point]]:
    """A chain, how its gradient is compiled, and its front; made once for all tests."""
    f = residual_mlp(layers, width=8)
    options = Options(derivative=gradient(trained(f)), verify=0)
    return f, options, pareto(f, options)


def test_chains_need_about_the_square_root_at_one_more_forward() -> None:
    """64 residual layers: at least four times less arena at one more forward sweep, eight times at
    two. Of 16 and of 64: twice as much where four times as many layers are, at one more.
    """
    f, _, front = deep(64)
    plain = front[0]
    assert plain.policy == NOTHING
    forward = sum(work(op) for op in f.block.body)
    once, twice = (
        [p.arena_bytes for p in front if p.work - plain.work <= n * forward] for n in (1, 2)
    )
    assert plain.arena_bytes >= 4 * min(once)
    assert plain.arena_bytes >= 8 * min(twice)
    assert [p.peak_bytes for p in front] == sorted((p.peak_bytes for p in front), reverse=True)
    assert len(front) >= 4
    f, _, short = deep(16)
    forward = sum(work(op) for op in f.block.body)
    short_once = min(p.arena_bytes for p in short if p.work - short[0].work <= forward)
    assert plain.arena_bytes / short[0].arena_bytes > 3.6
    assert min(once) / short_once < 2 * 1.25


def test_long_loops_need_about_the_square_root() -> None:
    f = rnn_batch(256)
    options = Options(derivative=gradient(("h", "w")), verify=0)
    front = pareto(f, options)
    assert front[0].arena_bytes >= 4 * front[-1].arena_bytes
    assert chunk_sizes(256)[-1] == 16


@pytest.mark.parametrize("trips", [33, 48, 70])
@pytest.mark.parametrize("is_reverse", [False, True])
def test_chunks_of_loops_keep_the_bits_of_weight_gradients(trips: int, is_reverse: bool) -> None:
    """A recurrent network with inputs: weight gradients are sums over fixed groups of trips,
    whatever the chunks.
    """
    f = recurrent(trips, is_reverse)
    names = trained(f)
    arguments = [a.astype(np.float32) for a in draw(f, trips)]
    options = Options(derivative=gradient(names), verify=1)
    plain = execute_plan(run_pipeline(f, options).plan, arguments)
    expected = run(ARRAYS, value_and_grad(f, names), arguments)
    for a, c in zip(plain, expected, strict=True):
        np.testing.assert_allclose(a, c, rtol=2e-4, atol=1e-5)
    for size in chunk_sizes(trips):
        chunked = Options(derivative=gradient(names), verify=1, policy=Policy(size))
        found = execute_plan(run_pipeline(f, chunked).plan, arguments)
        for a, c in zip(plain, found, strict=True):
            np.testing.assert_array_equal(a, c)


def recurrent(trips: int, is_reverse: bool) -> Function:
    """h <- tanh(x_t wx + h wh + b), every h in the loss; the inputs are differentiated too."""
    b = Builder()
    shapes = {"xs": (trips, 3, 4), "h": (3, 5), "wx": (4, 5), "wh": (5, 5), "b": (5,)}
    xs, h, wx, wh, bias = (b.parameter(TensorType(s, DType.F32), n) for n, s in shapes.items())
    inner = Builder()
    carry, x, own_wx, own_wh, own_b = (
        inner.parameter(t)
        for t in (h.type, TensorType((3, 4), DType.F32), wx.type, wh.type, bias.type)
    )
    total = inner.one(
        "add",
        inner.one("contract", x, own_wx, batch=(), contract=((1, 0),)),
        inner.one("contract", carry, own_wh, batch=(), contract=((1, 0),)),
    )
    wide = inner.one("broadcast", own_b, shape=(3, 5), dims=(1,))
    following = inner.one("tanh", inner.one("add", total, wide))
    region = inner.block([following, following])
    attributes: dict[str, Any] = {
        "trips": trips, "carried": 1, "stacked": 1, "reverse": is_reverse, "truncate": 0,
    }  # fmt: skip
    _, hs = emit_scan(b, [h, xs, wx, wh, bias], region, attributes)
    loss = b.one("sum", b.one("mul", hs, b.one("sin", hs)), axes=(0, 1, 2))
    slots = [Slot(n, Role.PARAM) for n in shapes]
    return b.function("rnn", [loss], slots, [Slot("loss", Role.LOSS)])


def rnn_batch(trips: int) -> Function:
    """h <- tanh(h w), 8 x 16, from the start state only."""
    b = Builder()
    h, w = (b.parameter(TensorType(s, DType.F32)) for s in ((8, 16), (16, 16)))
    inner = Builder()
    own, weights = inner.parameter(h.type), inner.parameter(w.type)
    product = inner.one("contract", own, weights, batch=(), contract=((1, 0),))
    region = inner.block([inner.one("tanh", product)])
    attributes: dict[str, Any] = {
        "trips": trips, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip
    (last,) = emit_scan(b, [h, w], region, attributes)
    loss = b.one("sum", b.one("mul", last, last), axes=(0, 1))
    slots = [Slot("h", Role.PARAM), Slot("w", Role.PARAM)]
    return b.function("rnn", [loss], slots, [Slot("loss", Role.LOSS)])


def test_budgets_are_kept_and_monotone_or_refused() -> None:
    """From ample to impossible: the peak never exceeds the budget nor grows as it falls; then a
    refusal says why.
    """
    f = residual_mlp(12)
    options = Options(derivative=gradient(trained(f)), verify=0)
    ample = run_within(f, options, None).plan.peak_bytes
    smallest = pareto(f, options)[-1].peak_bytes
    peaks = []
    for budget in np.linspace(ample, smallest, 4).astype(int):
        peak = run_within(f, options, int(budget)).plan.peak_bytes
        assert peak <= budget
        peaks.append(peak)
    assert peaks == sorted(peaks, reverse=True)
    with pytest.raises(BudgetError) as refused:
        run_within(f, options, smallest - 1)
    assert refused.value.smallest == smallest
    (diagnostic,) = refused.value.diagnostics
    assert diagnostic.code == "GC0602" and str(smallest) in diagnostic.help
    assert diagnostic.span is not None and diagnostic.span.file == "mlp.grad"
    assert run_within(f, options, smallest).plan.peak_bytes == smallest
    with pytest.raises(BudgetError):
        run_within(f, options, 1)


def test_state_is_updated_once() -> None:
    """A new state computed inside a recomputed stretch is the one of the plain program."""
    b = Builder()
    x = b.parameter(TensorType((6, 3), DType.F64))
    mean = b.parameter(TensorType((3,), DType.F64))
    batch = b.one("mul", b.one("sum", x, axes=(0,)), b.constant(1 / 6, DType.F64, (3,)))
    centred = b.one("sub", x, b.one("broadcast", batch, shape=(6, 3), dims=(1,)))
    new = b.one("add", mean, b.one("mul", batch, b.constant(0.1, DType.F64, (3,))))
    loss = _total(b, b.one("mul", b.one("exp", centred), b.one("tanh", x)))
    slots = [Slot("x", Role.PARAM), Slot("mean", Role.STATE)]
    f = b.function("bn", [loss, new], slots, [Slot("loss", Role.LOSS), Slot("mean", Role.STATE)])
    source = np.random.default_rng(3)
    arguments = [source.normal(size=(6, 3)), source.normal(size=3)]
    results = []
    for policy in (NOTHING, Policy(0, ((0, 7),))):
        options = Options(derivative=gradient(("x",)), policy=policy)
        results.append(execute_plan(run_pipeline(f, options).plan, arguments))
    for a, c in zip(*results, strict=True):
        np.testing.assert_array_equal(a, c)


def _total(b: Builder, x: Value) -> Value:
    return b.one("sum", x, axes=tuple(range(x.type.rank)))
