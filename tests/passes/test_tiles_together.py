"""Heads that go together where a target wants more rows at once: the same bits, fewer trips, and
the usual tiles where a budget or a gradient that heads share asks for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import GENERIC
from gradc.passes.budget import BudgetError, run_within, smallest_peak
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.recompute import cutting
from gradc.passes.recompute import tile as tiling
from tests.support.memory_subjects import Subject, of_model

ATTENTION = """
model m() -> float {
    param q: float[8, 16, 2] ~ normal(1.0)
    param k: float[8, 16, 2] ~ normal(1.0)
    param v: float[8, 16, 2] ~ normal(1.0)
    param bias: float[16, 16] ~ normal(1.0)
    s = einsum("nqd,nkd->nqk", q, k) * 0.5 SHARED
    kept = iota(16)[:, None] >= iota(16)[None, :]
    return mean((softmax(where(kept, s, -inf), axis = -1) @ v)^3)
}
"""
SHARED = {"own": "", "shared": "+ bias"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of four rows of two heads."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 2 * 4 * 16 * 4)
    for name, rows in (("LEAST_ROWS", 4), ("ROWS", 4), ("STRIP_ROWS", 4)):
        monkeypatch.setattr(cutting, name, rows)


def subject(kind: str) -> Subject:
    return of_model("m gradient", gradc.loads(ATTENTION.replace("SHARED", SHARED[kind])))


def options(one: Subject, together: int) -> Options:
    on = replace(GENERIC, rows_together=together)
    return Options(one.derive, gradient=one.gradient, target=on)


def results(one: Subject, plan: Plan) -> list[bytes]:
    given: dict[str, Any] = {p.name: one.arrays[p.name] for p in plan.ports if p.direction != "out"}
    return [np.asarray(a).tobytes() for a in execute_plan(plan, given, poison=True)]


def trips(plan: Plan) -> set[int]:
    """The trips of all loops around launches."""
    return {trip for _, around in plan.walk() for trip in around}


@pytest.mark.usefixtures("small")
def test_heads_that_go_together_change_no_bit() -> None:
    """Two heads a trip, then at least nine rows of four, then all eight heads."""
    one = subject("own")
    usual = run_pipeline(one.function, options(one, 0)).plan
    expected = results(one, usual)
    assert trips(usual) == {4}
    for together, loops in ((1, {4}), (9, {2}), (32, set())):
        wide = run_pipeline(one.function, options(one, together)).plan
        assert trips(wide) == loops
        assert results(one, wide) == expected


@pytest.mark.usefixtures("small")
def test_what_heads_share_is_summed_trip_by_trip() -> None:
    one = subject("shared")
    plans = [run_pipeline(one.function, options(one, n)).plan for n in (0, 32)]
    assert trips(plans[0]) == trips(plans[1]) == {4}
    assert results(one, plans[0]) == results(one, plans[1])


@pytest.mark.usefixtures("small")
def test_a_budget_gets_the_usual_tiles() -> None:
    """Where all heads together do not fit."""
    one = subject("own")
    asked = options(one, 32)
    least = smallest_peak(one.function, asked)
    assert least == smallest_peak(one.function, options(one, 0))
    assert least < run_pipeline(one.function, asked).plan.peak_bytes
    found = run_within(one.function, asked, least).plan
    assert found.peak_bytes <= least and trips(found) == {4}
    with pytest.raises(BudgetError):
        run_within(one.function, asked, least // 2)
