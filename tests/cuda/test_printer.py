"""Kernel texts of whole programs: in the simulator they have the CPU's very bits, and over a prime
field they are the loop IR they were printed from. ``tests/support/cuda_programs`` does it for all.
"""

from __future__ import annotations

import pytest

from gradc.codegen.cuda.printer.plans import print_plan
from tests.support.cuda_programs import TARGET, check, plan_of, unproved
from tests.support.memory_subjects import subject

# Products, row kernels, sums over rows, windows, scatters, loops over time, random draws, steps.
SUBJECTS = (
    "examples/worked/w08.grad classifier step",
    "examples/worked/w11.grad normalised gradient",
    "examples/worked/w19.grad recurrent gradient",
    "examples/digits/mlp.grad mlp step",
    "noisy noisy step",
)
PROGRAMS = (0, 3, 7, 12)  # generated, in f64: with regions, with images


@pytest.mark.parametrize("name", [*SUBJECTS, *(f"program {n}" for n in PROGRAMS)])
def test_texts_have_the_bits_of_the_cpu(name: str) -> None:
    texts, faults = check(name)
    assert texts and not faults


@pytest.mark.parametrize("name", ["examples/worked/w11.grad normalised gradient", "program 0"])
def test_texts_are_proved_over_a_prime_field(name: str) -> None:
    plan = plan_of(subject(name))
    assert not unproved(plan, print_plan(plan, TARGET))


@pytest.mark.parametrize("precision", ["f64", "bf16", "f16"])
def test_other_types_are_proved_too(precision: str) -> None:
    texts, faults = check("examples/worked/w11.grad normalised gradient", True, precision)
    assert texts and not faults
