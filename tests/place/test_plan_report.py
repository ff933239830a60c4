"""The memory report of a Plan: its figures agree with the Plan and with each other; text and
picture are well formed."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function, Span
from gradc.passes.inspect.picture import byte_ticks, to_svg
from gradc.passes.inspect.report import MemoryReport, memory_report, to_text
from gradc.passes.place.place import arena_lower_bound
from tests.support.loops_models import gradient, lstm, mlp, planned, row_model, transformer


def _report(function: Function) -> tuple[Plan, MemoryReport]:
    plan = planned(function)
    return plan, memory_report(plan)


@pytest.mark.parametrize(
    "function",
    [
        gradient(mlp(16, [12, 20, 9, 5])),
        gradient(transformer(2, 2, 8, 16, 2, 20)),
        gradient(lstm(5, 3, 4, 6)),
    ],
    ids=["mlp", "transformer", "lstm"],
)
def test_figures_agree(function: Function) -> None:
    plan, report = _report(function)
    assert report.peak_bytes == plan.peak_bytes
    assert (
        report.arena_bytes
        == plan.arena_bytes
        == max(-(-(held.offset + held.nbytes) // 64) * 64 for held in report.blocks)
    )
    assert sum(n for _, n in report.port_bytes) + report.arena_bytes == report.peak_bytes
    assert report.lower_bound == arena_lower_bound(plan) == report.live[report.moment]
    at_peak = sum(-(-held.nbytes // 64) * 64 for held in report.at_peak)
    assert at_peak == report.lower_bound
    assert report.apart_bytes > report.arena_bytes
    assert 0 <= report.gap < 0.1 and 0.2 < report.saved < 1
    sizes = [held.nbytes for held in report.at_peak]
    assert sizes == sorted(sizes, reverse=True)


def test_text_names_the_peak() -> None:
    plan, report = _report(gradient(transformer(1, 2, 8, 16, 2, 20)))
    text = to_text(report, most=3)
    assert f"peak {plan.peak_bytes} bytes" in text
    assert f"most alive at launch {report.moment}" in text
    assert f"in {len(report.at_peak) - 3} more" in text
    assert report.at_peak[0].type in text


def test_lines_are_those_of_the_users_file() -> None:
    plan, report = _report(gradient(mlp(8, [4, 6, 3])))
    inner = Span(
        "std.grad", 7, 1, 7, 9, Span("std.grad", 3, 1, 3, 2, Span("mine.grad", 12, 5, 12, 9))
    )
    held = report.at_peak[0]
    marked = MemoryReport(
        **{f: getattr(report, f) for f in report.__slots__ if f != "at_peak"},
        at_peak=(type(held)(held.name, held.type, 64, 0, 0, 1, inner, ""),),
    )
    assert "mine.grad:12" in to_text(marked)
    assert plan.name in to_text(marked)


def test_picture_is_well_formed_and_complete() -> None:
    _, report = _report(gradient(transformer(1, 2, 8, 16, 2, 20)))
    root = ElementTree.fromstring(to_svg(report))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == len(report.blocks) + 1
    assert to_svg(report) == to_svg(report)


def test_plans_without_an_arena() -> None:
    b = memory_report(planned(row_model(4, 8)))
    assert "launches" in to_text(b)
    ElementTree.fromstring(to_svg(b))


def test_axes_have_few_round_marks() -> None:
    """At most eight, evenly apart by a power of two; all within the arena."""
    for most in (0, 1, 7, 640, 4096, 137_000, 21_942_788, 2**40 - 1):
        marks = byte_ticks(most)
        assert marks[0] == 0 and len(marks) <= 8
        assert most < 4 or len(marks) >= 4
        assert most - marks[-1] < max(1, marks[1] if len(marks) > 1 else 1)
        for before, after in pairwise(marks):
            assert (after - before).bit_count() == 1 and after - before == marks[1]
