"""Row kernels by groups of sixteen threads: the CPU's bits with every check of the simulator, the
loop IR over a prime field, 16-byte accesses and no stack in machine code.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

import gradc
from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.program import Program, Text
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.toolchain import assemble, build, sass
from gradc.ir.plan.plan import Plan
from tests.support.cuda_programs import TARGET, differing, plan_of, unproved
from tests.support.golden_files import check_golden
from tests.support.memory_subjects import Subject, of_model

# Rows, columns, what is computed: sums over rows that are folded and per column, whole grids of
# rows, a last step that is not full, columns that sixteen threads do not fill or go round in
# leaves, 16-bit elements, rows that keep what others fold.
NORMS = "use ln = layernorm(D)\n h = tanh(x + gelu(ln(x)))^2"
CASES = {
    "norms": (300, 128, "f32", NORMS),
    "norms of few rows": (40, 96, "f32", NORMS),
    "unit": (37, 96, "f32", "h = (x / sqrt(sum(x^2, axis=-1, keepdims=true))) @ w"),
    "long": (19, 1100, "f32", "h = softmax(x, axis=-1)^2"),
    "largest": (34, 64, "bf16", "h = (x - max(x, axis=-1, keepdims=true)) * sum(x)"),
}


@cache
def made(name: str) -> tuple[Subject, Plan, Program]:
    rows, columns, precision, body = CASES[name]
    weight = "param w: float[D, 8] ~ normal(0.5)\n" if "w" in body.split() else ""
    text = f"dim R = {rows}, D = {columns}\nmodel m() -> float {{\n"
    text += f"param x: float[R, D] ~ normal(1.0)\n{weight}{body}\nreturn mean(h)\n}}"
    one = of_model(name, gradc.loads(text, precision=precision))
    plan = plan_of(one)
    return one, plan, print_plan(plan, TARGET)


def grouped(program: Program) -> list[Text]:
    """The texts in which groups take rows."""
    return [t for t in program.texts if "group = shr(t, 4)" in t.source]


@pytest.mark.parametrize("name", CASES)
def test_rows_by_groups_have_the_bits_of_the_cpu(name: str) -> None:
    one, plan, program = made(name)
    assert grouped(program) and all("load4(" in t.source for t in grouped(program))
    assert not differing(one, program, plan)


def test_rows_by_groups_are_proved_over_a_prime_field() -> None:
    _, plan, program = made("norms of few rows")
    assert not unproved(plan, program)


def test_every_barrier_of_a_row_kernel_is_needed() -> None:
    one, plan, program = made("norms of few rows")
    (text,) = grouped(program)
    parts = text.source.split("barrier()")
    assert len(parts) > 2
    for n in range(1, len(parts)):
        source = "barrier()".join(parts[:n]) + "pass" + "barrier()".join(parts[n:])
        texts = tuple(replace(t, source=source) if t is text else t for t in program.texts)
        with pytest.raises(SimulationError, match="race"):
            differing(one, replace(program, texts=texts), plan)


def test_a_row_kernel_as_people_read_it(pytestconfig: pytest.Config) -> None:
    _, _, program = made("unit")
    text = grouped(program)[0]
    source = text.source[text.source.index(f"def {text.name}(") :]
    check_golden("cuda/groups.txt", source, pytestconfig)


@pytest.mark.parametrize("name", build.CAPABILITIES)
def test_row_kernels_use_wide_accesses_and_no_stack(name: str) -> None:
    pytest.importorskip("numba_cuda")
    capability = build.CAPABILITIES[name]
    text = grouped(made("unit")[2])[0]
    found = sass.statistics(assemble.cubin([build.ptx(text, capability)], capability))[text.name]
    assert (found.stack, found.local, found.f64) == (0, 0, 0) and found.wide >= 3
    assert found.registers <= 64
