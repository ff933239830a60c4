"""Faults seeded in kernel texts and launches are found; ``tests/support/cuda_faults`` seeds 500."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.simulate.memory import SimulationError
from tests.cuda.test_products import outcome, plan_of
from tests.support.cuda_faults import run
from tests.support.cuda_programs import ISA


def test_seeded_faults_are_found() -> None:
    counts, silent = run(24, 3, ("examples/worked/w11.grad normalised gradient",))
    assert not silent
    found = {check for (_, check), n in counts.items() if n}
    assert {"bits", "bounds", "race"} <= found
    assert len({kind for kind, _ in counts}) >= 8


def test_every_barrier_and_wait_of_a_product_is_needed() -> None:
    plan = plan_of(17, 19, 49, True, True)
    program = print_plan(plan, ISA)
    (text,) = program.texts
    parts = text.source.split("barrier()")
    assert len(parts) == 4
    awaited = text.source.split("wait_copies(2)")
    assert len(awaited) == 3
    for n in range(1, len(parts) + 2):
        source = "barrier()".join(parts[:n]) + "pass" + "barrier()".join(parts[n:])
        if n >= len(parts):
            first = n - len(parts) + 1
            source = "wait_copies(2)".join(awaited[:first]) + "pass"
            source += "wait_copies(2)".join(awaited[first:])
        faulty = replace(program, texts=(replace(text, source=source),))
        with pytest.raises(SimulationError, match="race"):
            outcome(plan, faulty)
