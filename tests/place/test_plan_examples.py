"""Every example with one model: its gradient's Plan passes the checker, and packing loses next to
nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import gradc
from gradc.ir.plan.plan import Plan
from gradc.passes.inspect.check import check_plan
from gradc.passes.inspect.report import memory_report
from gradc.runtime.native.compile import plan_of
from tests.conftest import ROOT

# What commands would ask for: sizes of dimensions that have no default, tried in turn.
DIMS: tuple[dict[str, int], ...] = ({}, {"B": 4}, {"B": 4, "T": 8})
FILES = sorted((ROOT / "examples").rglob("*.grad"))


def plan_for(path: Path) -> Plan | None:
    """The Plan of loss and gradients; None if the file has several models or other dimensions."""
    for dims in DIMS:
        try:
            function = gradc.load(str(path), dims=dims).value_and_grad(threads=1)
            return plan_of(function.function(), None, function.options)
        except gradc.DiagnosticError:
            continue
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_examples_have_sound_plans(path: Path) -> None:
    plan = plan_for(path)
    if plan is None:
        assert path.parent.name == "worked", "the larger examples all compile"
        return
    assert [str(finding) for finding in check_plan(plan)] == []
    assert memory_report(plan).gap <= 0.05
