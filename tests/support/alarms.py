"""Right compilations of random programs, verified: nothing may be refuted. ``python -m
tests.support.alarms FIRST LAST``.

Programs of all kinds (regions, images, f32 and f64), compiled plainly, with a part recomputed, and
with loops in chunks.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from gradc.ir.tensor.core import DType, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.point import seed_of
from gradc.passes.prove.prove import Subject, prove
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.recompute.rematerialise import Policy
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


def main() -> int:
    """Prints counts, and every verdict that is an alarm; status 1 if there is one."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    alarms = 0
    for seed in range(first, last):
        program = program_of(seed)
        policy = policies(program)[seed % 3]
        for verdict in verified(program, policy):
            counts[f"{verdict.kind} {verdict.status.value}"] += 1
            if verdict.status in (Status.REFUTED, Status.UNDECIDED):
                alarms += 1
                print(seed, policy, verdict, verdict.detail, flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"{last - first} programs, {alarms} alarms, {time.perf_counter() - start:.0f} s")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
