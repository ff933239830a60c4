"""Factors that every trip of a loop multiplies by are laid out once, before it: bits stay, and a
limit that has no room for them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen.llvm.gemm.blocking import blocking
from gradc.codegen.llvm.isa import select
from gradc.ir.loop.kernel import Gemm
from gradc.ir.plan.plan import Launch, Plan, Repeat
from gradc.ir.target.target import GENERIC, Processors
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.panels import lay_out
from gradc.passes.pipeline import Options, run_pipeline
from gradc.runtime.native.compile import Options as Asked
from gradc.runtime.native.compile import pipeline_options
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import Subject, of_model, run

RECURRENT = """
dim T = 60, B = 9, I = 3, H = 131

model by_layer(xs: float[T, B, I]) -> float {
    use net = LAYER(I, H)
    return sum(net(xs)^2)
}

model by_rows(xs: float[T, B, H], w: float[H, H]) -> float {
    scan x in xs carry h = zeros([B, H]) {
        h = tanh(x + h @ w)
    }
    return sum(h^2)
}

model by_columns(xs: float[T, H, B], w: float[H, H]) -> float {
    scan x in xs carry h = zeros([H, B]) {
        h = tanh(x + w @ h)
    }
    return sum(h^2)
}

model of_heads(xs: float[T, 2, B, H], w: float[2, H, H]) -> float {
    scan x in xs carry h = zeros([2, B, H]) {
        h = tanh(x + h @ w)
    }
    return sum(h^2)
}

model changing(xs: float[T, B, H], w: float[H, H]) -> float {
    scan x in xs carry h = zeros([B, H]), v = w {
        h = tanh(x + h @ v)
        v = 0.9 * v
    }
    return sum(h^2)
}
"""


def recurrent(name: str, **sizes: int) -> Subject:
    is_layer = name in ("lstm", "gru", "rnn")
    text = RECURRENT.replace("LAYER", name if is_layer else "rnn")
    entry = "by_layer" if is_layer else name
    dims = {n: v for n, v in sizes.items() if n in "TBIH"}
    return of_model(name, gradc.loads(text, entry=entry, dims=dims))


def options(one: Subject, **more: Any) -> Options:
    return pipeline_options(one.derive, Asked(threads=2), **more)


def planned(one: Subject, skip: tuple[str, ...] = (), **more: Any) -> Plan:
    plan = run_pipeline(one.function, options(one, skip=skip, **more)).plan
    assert [str(finding) for finding in check_plan(plan)] == []
    return plan


def loops(one: Subject, step: str = "lay-out", **more: Any) -> Plan:
    """The Plan after a step, without places."""
    found = run_pipeline(one.function, options(one, stop_after=step, **more)).result
    assert isinstance(found, Plan)
    return found


def in_loops(plan: Plan) -> Iterator[tuple[Launch, Gemm]]:
    """The products that repeat, and their launches."""
    for launch, trips in plan.walk():
        for statement in plan.kernels[launch.kernel].body:
            if trips and isinstance(statement, Gemm):
                yield launch, statement


def laid_out(plan: Plan) -> list[str]:
    """The launches that lay factors out, of which none may stand in a Repeat."""
    names = [plan.kernels[s.kernel].name for s in plan.steps if isinstance(s, Launch)]
    everywhere = [plan.kernels[s.kernel].name for s in plan.launches]
    found = [name for name in names if name.endswith("_lay_out")]
    assert len(found) == sum(name.endswith("_lay_out") for name in everywhere)
    return found


@pytest.mark.parametrize("name", ("rnn", "gru", "changing"))
def test_both_sweeps_lay_out_what_stays(name: str) -> None:
    assert len(laid_out(loops(recurrent(name)))) == (0 if name == "changing" else 2)


@pytest.mark.parametrize("name", ("lstm", "by_rows", "by_columns", "of_heads"))
def test_bits_are_those_without_panels(name: str) -> None:
    """Odd widths, so that the last panel is narrower; one and two threads."""
    one = recurrent(name)
    plan = planned(one)
    assert len(laid_out(plan)) == (1 if name == "by_columns" else 2)
    expected, _ = run(compile_plan(planned(one, ("lay-out",)), threads=1), one.arrays, 1, 1)
    native = compile_plan(plan, threads=2)
    for threads in (1, 2):
        found, faults = run(native, one.arrays, 1, threads)
        assert not faults and all(map(np.array_equal, expected, found))


def test_no_product_of_a_step_reads_weights_where_they_lie() -> None:
    plan = loops(recurrent("lstm", T=32, B=32, H=64))
    arguments = {n for n, tensor in enumerate(plan.tensors) if tensor.space == "argument"}
    products = list(in_loops(plan))
    steps = [(launch, gemm) for launch, gemm in products if gemm.m == 32]
    assert len(steps) == 2
    for launch, gemm in steps:
        position = plan.kernels[launch.kernel].bound.index(gemm.right.buffer)
        assert launch.arguments[position].tensor not in arguments
        assert (gemm.right.row, gemm.right.column) == (gemm.n, 1)


@pytest.mark.parametrize("rows", (8, 16, 20, 32, 64))
def test_tiles_of_panels_leave_no_thin_strip(rows: int) -> None:
    """Where strips are few a thin last one is dear: it waits for its own sums. Panels are read from
    whole lines, so strips need not be high.
    """
    isa = select("avx2")
    plan = loops(recurrent("rnn", T=90, B=rows, H=128), target=isa.target(1))
    wide = [gemm for _, gemm in in_loops(plan) if gemm.n == 16 and gemm.m == rows]
    assert len(wide) == 2
    for gemm in wide:
        cut = blocking(gemm, isa)
        assert cut.vectors == 2 and cut.rows >= 4 and rows % cut.rows in (0, 4, 5)


def test_a_limit_without_room_for_panels_is_kept() -> None:
    one = recurrent("lstm", T=64, B=32, I=64, H=128)
    plain, whole = planned(one, ("lay-out",)), planned(one)
    assert plain.peak_bytes < whole.peak_bytes
    assert laid_out(planned(one, limit=whole.peak_bytes))
    tight = planned(one, limit=whole.peak_bytes - 1)
    assert not laid_out(tight) and tight.peak_bytes == plain.peak_bytes


def test_loops_that_hold_little_but_weights_read_them_where_they_lie() -> None:
    """Parts of a batch, one after another, are there to save memory."""
    one = recurrent("lstm", T=6, B=2)
    assert not laid_out(loops(one))
    assert laid_out(lay_out(loops(one, "to-loops"), GENERIC))


def test_what_inner_loops_share_leaves_the_outer_one() -> None:
    """Weights stay through both loops; a factor that the outer one changes stays in it."""
    text = """
    model nested(xs: float[6, 7, 4, 140], ws: float[6, 140, 140], w: float[140, 140]) -> float {
        scan some in xs, v in ws carry h = zeros([4, 140]) {
            scan x in some carry h = h {
                h = tanh(x + h @ w + h @ v)
            }
        }
        return sum(h^2)
    }
    """
    one = of_model("nested", gradc.loads(text))
    plan = lay_out(loops(replace(one, derive=lambda f: f), "to-loops"), GENERIC)
    outer = [s for s in plan.steps if isinstance(s, Repeat)]
    names = [plan.kernels[s.kernel].name for s in plan.steps if isinstance(s, Launch)]
    inside = [plan.kernels[s.kernel].name for r in outer for s in r.body if isinstance(s, Launch)]
    assert sum(name.endswith("_lay_out") for name in names) == 1
    assert sum(name.endswith("_lay_out") for name in inside) == 1


def test_programs_without_use_for_panels_are_left_alone() -> None:
    short = loops(recurrent("lstm", T=3), "to-loops")
    assert lay_out(short, GENERIC) is short, "three trips do not pay for a copy"
    longer = loops(recurrent("lstm"), "to-loops")
    assert lay_out(longer, replace(GENERIC, processors=Processors(132))) is longer
    assert lay_out(longer, GENERIC) is not longer
