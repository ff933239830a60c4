"""Faults seeded in kernel texts and launches are found; ``tests/support/cuda_faults`` seeds 500."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.simulate.shadow import SimulationError
from tests.cuda.test_products import outcome, plan_of
from tests.support.cuda_faults import (
    FOLD_ORDER,
    WIDE,
    Fault,
    _adds_to_zero,
    _is_equal,
    case,
    run,
    text_faults,
    verdict,
)
from tests.support.cuda_programs import TARGET


def test_seeded_faults_are_found() -> None:
    counts, _ = run(24, 3, ("examples/worked/w11.grad normalised gradient",))
    found = {check for (_, check), n in counts.items() if n}
    assert "silent" not in found
    assert {"bits", "bounds", "race"} <= found
    assert len({kind for kind, _ in counts}) >= 8


def test_sums_over_lanes_in_another_order_have_other_bits() -> None:
    one = case(WIDE)
    turned = [f for f in text_faults(one.program, random.Random(0)) if f.kind == FOLD_ORDER]
    assert len(turned) > 8
    assert {verdict(one, fault) for fault in turned[:3]} == {"bits"}


def test_what_is_equal_over_the_reals_is_told_apart_by_bits() -> None:
    """Of two classes both lanes hold squares of the same number: equal over a field, and one of
    many draws has bits that differ."""
    one = case("examples/worked/w08.grad classifier step")
    text = next(t for t in one.program.texts if "log_f32(" in t.source and "store(r3" in t.source)
    old = re.findall(r"(\w+) = \1 \+ shuffle_xor\(\1, 1\)", text.source)[-1]
    line = f"{old} = {old} + shuffle_xor({old}, "
    source = text.source.replace(f"{line}1)", f"{line}16)")
    texts = [replace(t, source=source) if t is text else t for t in one.program.texts]
    fault = Fault("shuffle distance", text.name, replace(one.program, texts=tuple(texts)))
    assert _is_equal(one, fault) and verdict(one, fault) == "bits"


def test_a_product_of_one_step_may_be_rounded_twice() -> None:
    """Of a batch of one sample weights' gradients are x y + 0, rounded once in any case; of more
    steps it is a fault."""
    one = case("examples/worked/w08.grad classifier step")
    faults = [f for f in text_faults(one.program, random.Random(0)) if f.kind == "rounded twice"]
    judged = {f.where.partition(":")[0]: _adds_to_zero(one, f) for f in faults}
    assert judged.pop("k4_gemm") and not all(judged.values())


def test_every_barrier_and_wait_of_a_product_is_needed() -> None:
    plan = plan_of(17, 19, 49, True, True)
    program = print_plan(plan, TARGET)
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
