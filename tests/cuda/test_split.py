"""Kernels of few blocks, cut into steps of many: sums over the parts of a channel, long sums in one
thread, maps over rows of rows. The CPU's bits, and the loop IR over a prime field.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import gradc
from gradc.codegen.cuda.printer.plans import print_plan, scratch_of
from gradc.passes.pipeline import Options, run_pipeline
from tests.support.cuda_parallel import LEAST, compiled, parts, share
from tests.support.cuda_programs import TARGET, differing, unproved
from tests.support.memory_subjects import of_model

NORM = """
    param x: float[3, 5, 6, 100] ~ normal(1.0)
    param g: float[5, 1, 1] ~ normal(1.0)
    mu = mean(x, axis=[0, 2, 3], keepdims=true)
    s = mean((x - mu)^2, axis=[0, 2, 3], keepdims=true)
    h = relu((x - mu) / sqrt(s + 1e-5) * g)^3
"""
KEPT = """
    param x: float[3, 3, 15, 100] ~ normal(1.0)
    h = exp(x - mean(x, axis=[0, 2, 3], keepdims=true))
"""
RAGGED = """
    param x: float[2398] ~ normal(1.0)
    param w: float[1199, 3] ~ normal(1.0)
    h = (reshape(exp(x), [2, 1199]) @ w)^2
"""
LONG = """
    param x: float[2100, 16] ~ normal(1.0)
    param g: float[16] ~ normal(1.0)
    h = exp(x * g)
"""
POOL = """
    param x: float[2, 3, 6, 10] ~ normal(1.0)
    h = max_pool(x, 2)^2
"""


@pytest.mark.parametrize(
    ("body", "chunks", "says"),
    [
        # A channel's sums are taken image by image; its own few numbers in steps between.
        (NORM, 4096, ["15 rows", "5 elements, an element a thread"]),
        (KEPT, 4096, ["9 rows"]),
        # Three pieces of a row, the last of which four does not divide.
        (RAGGED, 3, ["3 iterations, each a block of 256"]),
        # 132 leaves of rows: leaves of those, then their sum.
        (LONG, 4096, ["144 elements, an element a thread"]),
        # 18 rows in five iterations, the last of which has two.
        (POOL, 5, ["elements, an element a thread"]),
    ],
    ids=["stages", "more than a thread keeps", "pieces", "leaves", "rows of rows"],
)
def test_kernels_in_steps_have_the_bits_of_the_cpu(body: str, chunks: int, says: list[str]) -> None:
    one = of_model("m gradient", gradc.loads(f"model m() -> float {{ {body} return mean(h) }}"))
    cut = replace(TARGET, chunks=chunks)
    options = Options(
        one.derive, gradient=one.gradient, verify=0, target=cut, scratch=scratch_of(cut)
    )
    plan = run_pipeline(one.function, options).plan
    program = print_plan(plan, TARGET)
    sources = "".join(text.source for text in program.texts)
    titles = [t.source.split(chr(34) * 3)[-2] for t in program.texts]
    assert all(each in sources for each in says), titles
    assert not differing(one, program, plan)
    assert not unproved(plan, program)


@pytest.mark.parametrize(("name", "with_products"), [("rows", True), ("lenet", False)])
def test_launches_fill_a_processor(name: str, with_products: bool) -> None:
    """At least 90 % of the work is in launches of 132 blocks or more."""
    found = parts(*compiled(name, TARGET), TARGET.processors.count)
    assert share(found, with_products) >= LEAST
