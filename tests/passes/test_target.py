"""What a program is compiled for decides schedules and never bits."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from gradc.codegen.llvm.isa import host
from gradc.ir.target.costs import Costs, VerbCost
from gradc.ir.target.target import Limits, Target
from gradc.ir.tensor.algebra import VERBS
from gradc.passes.pipeline import run_pipeline, text_of
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import Bytes, Subject, run, subject

THREADS = 2
HOST = host().target(THREADS)
# Kernels of next to nothing and numbers that divide nothing; kernels without limits.
LEAST = Limits(**{f.name: 1 for f in fields(Limits)})
MOST = Limits(**{f.name: 10**6 for f in fields(Limits)})
TARGETS = (
    replace(
        HOST, name="small", limits=replace(LEAST, ops=5, buffers=7), chunks=7, row_bytes=100,
        nodes=1000, accumulators=1, columns=7, block=1, table_bytes=64,
        costs=Costs(parallel_us=0.0, keep=0.0),
    ),
    replace(
        HOST, name="large", limits=MOST, chunks=4096, row_bytes=1 << 20, accumulators=999,
        columns=4096, block=3, table_bytes=1 << 40,
        costs=Costs(dict.fromkeys(VERBS, VerbCost(50.0)), parallel_us=1e9, keep=1e9),
    ),
)  # fmt: skip
SUBJECTS = (
    "examples/digits/cnn.grad cnn gradient",
    "benchmarks/models/rows.grad rows gradient",
    *(f"program {n}" for n in (7,)),
)


def results(one: Subject, target: Target) -> tuple[list[Bytes], str]:
    """The bytes of every result of ``one`` compiled for ``target``; and its loops."""
    asked = pipeline_options(
        one.derive, Options(threads=THREADS), gradient=one.gradient, target=target, verify=0
    )
    done = run_pipeline(one.function, asked)
    native = compile_plan(done.plan, threads=THREADS, cache=False)
    found, faults = run(native, one.arrays, one.calls, THREADS)
    assert not faults
    return found, text_of(done.after("to-loops"))


@pytest.mark.parametrize("name", SUBJECTS)
def test_bits_do_not_depend_on_the_target(name: str) -> None:
    one = subject(name)
    expected, usual = results(one, HOST)
    others = []
    for target in TARGETS:
        found, loops = results(one, target)
        assert all(map(np.array_equal, expected, found)), target.name
        others.append(loops)
    assert any(loops != usual for loops in others), "no target changes anything"
