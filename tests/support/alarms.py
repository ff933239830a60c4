"""Right compilations of random programs, verified: nothing may be refuted. ``python -m
tests.support.alarms FIRST LAST [--state FILE]``.

Programs of all kinds (regions, images, f32 and f64), compiled plainly, with a part recomputed, and
with loops in chunks.
"""

from __future__ import annotations

import sys

from gradc.ir.tensor.core import DType, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.point import seed_of
from gradc.passes.prove.prove import Subject, prove
from gradc.passes.prove.report import Verdict
from gradc.passes.recompute.rematerialise import Policy
from tests.support.counted import alarm_count
from tests.support.generate import Program, random_program


def program_of(seed: int) -> Program:
    """Program number ``seed``; every fifth is of f32."""
    dtype = DType.F64 if seed % 5 else DType.F32
    return random_program(
        seed, regions=seed % 2 == 0, images=seed % 3 == 0, empty=False, dtype=dtype
    )


def policies(program: Program) -> tuple[Policy, ...]:
    """Nothing recomputed; the middle half; loops in chunks of two trips."""
    names = program.differentiable
    options = Options(lambda f: value_and_grad(f, names), verify=0, stop_after="tile")
    last = run_pipeline(program.function, options).after("tile")
    assert isinstance(last, Function)
    count = len(last.block.body)
    return Policy(), Policy(stretches=((count // 4, count - count // 4),)), Policy(chunk=2)


def verified(program: Program, policy: Policy, points: int = 2) -> list[Verdict]:
    """All verdicts on one compilation."""
    names = program.differentiable
    options = Options(lambda f: value_and_grad(f, names), verify=0, policy=policy)
    made = run_pipeline(program.function, options)
    subject = Subject(names, made, made, {}, {})
    return prove(subject, seed_of(program.function), points).verdicts


def at_turn(seed: int) -> list[Verdict]:
    """All verdicts on program number ``seed``, by the policy whose turn it is."""
    program = program_of(seed)
    return verified(program, policies(program)[seed % 3])


if __name__ == "__main__":
    sys.exit(alarm_count(__doc__, at_turn))
