"""Products of strips: which launches become one, what stays stored, and that no bit changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen.cuda.printer.plans import scratch_of, target
from gradc.ir.loop.kernel import For, Gemm
from gradc.ir.loop.verify import check_kernel
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.target.target import Processors, Target
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Options, run_pipeline
from tests.support.memory_subjects import Subject, of_model

FEW = target("sm_90", Processors(4, 228 << 10, 65536, 2048))

ATTENTION = """
model m() -> float {
    param q: float[2, 32, 8] ~ normal(1.0)
    param k: float[2, 40, 8] ~ normal(1.0)
    param v: float[2, 40, 8] ~ normal(1.0)
    return mean(scaled_attention(q, k, v, iota(32)[:, None] >= iota(40)[None, :])^2)
}
"""
# The matrix between the products is the right factor of the second, turned.
TURNED = """
model m() -> float {
    param a: float[96, 8] ~ normal(1.0)
    param b: float[8, 24] ~ normal(1.0)
    param c: float[8, 24] ~ normal(1.0)
    return sum((c @ transpose(tanh(a @ b)))^3)
}
"""
# What is between them is read by a launch that stands there too, and by one after it.
BETWEEN = """
model m() -> float {
    param a: float[96, 8] ~ normal(1.0)
    param b: float[8, 24] ~ normal(1.0)
    param c: float[24, 8] ~ normal(1.0)
    h = tanh(a @ b)
    g = sum(h, axis = 0)
    return sum((h @ c)^3) + sum(h @ g) + sum(cumsum(g))
}
"""


def subject(text: str, precision: str = "f32") -> Subject:
    return of_model("m gradient", gradc.loads(text, precision=precision))


def planned(one: Subject, on: Target = FEW) -> Plan:
    options = Options(one.derive, gradient=one.gradient, target=on, scratch=scratch_of(on))
    return run_pipeline(one.function, options).plan


def strips_of(plan: Plan) -> list[For]:
    """The grid loops with products in them, by launch."""
    kernels = [plan.kernels[launch.kernel] for launch in plan.launches]
    loops = [s for kernel in kernels for s in kernel.body if isinstance(s, For)]
    return [loop for loop in loops if any(isinstance(s, Gemm) for s in loop.body)]


def results(plan: Plan, one: Subject) -> list[Any]:
    """What a Plan writes, the loss first."""
    given = {port.name: one.arrays[port.name] for port in plan.ports if port.direction != "out"}
    return execute_plan(plan, given, poison=True)


@pytest.mark.parametrize(("text", "count"), [(ATTENTION, 2), (TURNED, 1), (BETWEEN, 1)])
def test_strips_are_one_launch_with_the_same_bits(text: str, count: int) -> None:
    one = subject(text)
    plan, plain = planned(one), planned(one, replace(FEW, strip_bytes=0))
    assert len(strips_of(plan)) >= count and not strips_of(plain)
    assert len(plan.launches) < len(plain.launches) and plan.arena_bytes <= plain.arena_bytes
    for mine, theirs in zip(results(plan, one), results(plain, one), strict=True):
        assert mine.tobytes() == theirs.tobytes() and np.isfinite(mine).all()
    assert not any(check_kernel(kernel) for kernel in plan.kernels)
    assert [str(finding) for finding in check_plan(plan, scratch_of(FEW))] == []
    assert print_plan(parse_plan(print_plan(plan))) == print_plan(plan)


def test_scores_that_nothing_else_reads_are_not_in_memory() -> None:
    """Forward alone: neither scores nor weights; with gradients, weights and their gradients."""
    net = gradc.loads(ATTENTION)
    one = subject(ATTENTION)
    forward = run_pipeline(net.lower().function, Options(target=FEW)).plan
    assert [len(loop.body) for loop in strips_of(forward)] == [3 + 2]
    assert forward.arena_bytes < 2 * 32 * 40 * 4
    both = planned(one)
    matrices = [t for t in both.tensors if t.space == "arena" and t.size == 2 * 32 * 40]
    assert len(matrices) == 2


@pytest.mark.parametrize(
    ("text", "precision", "on"),
    [
        (ATTENTION, "f64", FEW),
        (ATTENTION, "bf16", FEW),
        (ATTENTION, "f32", target("sm_90")),
        (ATTENTION, "f32", replace(FEW, strip_bytes=16 * 40 * 4)),
        (ATTENTION.replace("32", "31"), "f32", FEW),
        (TURNED.replace("96, 8]", "96, 300]").replace("b: float[8", "b: float[300"), "f32", FEW),
    ],
    ids=["f64", "tensor cores", "few strips", "no room", "ragged", "wide factors"],
)
def test_what_is_no_strip_stays(text: str, precision: str, on: Target) -> None:
    assert not strips_of(planned(subject(text, precision), on))


def test_values_are_those_of_numpy() -> None:
    one = subject(ATTENTION)
    plan = planned(one)
    q, k, v = (np.asarray(one.arrays[n], np.float64) for n in "qkv")
    scores = np.einsum("nqd,nkd->nqk", q, k) / np.sqrt(8)
    scores[:, ~(np.arange(32)[:, None] >= np.arange(40)[None, :])] = -np.inf
    e = np.exp(scores - scores.max(-1, keepdims=True))
    expected = ((e / e.sum(-1, keepdims=True) @ v) ** 2).mean()
    assert float(results(plan, one)[0]) == pytest.approx(expected, rel=1e-5)
