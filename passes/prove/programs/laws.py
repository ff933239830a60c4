"""What to say of two programs that one prime field tells apart: real points, and where these agree,
more laws.

Oracles know few laws of exp and log, and guards there come in patterns that no real number makes;
so a difference of residues is a reason to look, and nothing else. Non-goals: programs that one
field finds equal (``prove_free``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.loop.execute import ExecutionError
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType, Function
from gradc.passes.prove.domains.cells import cells_equal, real_operands
from gradc.passes.prove.domains.point import Runnable, results_of
from gradc.passes.prove.domains.tower import LEAST_POINTS, tower_equal
from gradc.passes.prove.programs.kernels import Kernels, PlanProgram
from gradc.passes.prove.programs.shapes import work
from gradc.passes.prove.report import Status, key
from gradc.passes.prove.rules.refute import Outcome, decide_equal

# Programs of at most so many field operations are evaluated over slower domains as well.
MOST_FREE = 400_000
# Real points that larger programs are tried at, and small ones.
_FEW_POINTS, _POINTS = 2, 8
# Sizes of operands at which numbers must stay finite.
_SCALES = (1.0, 30.0, 1000.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Law:
    """Two programs agree where more laws hold: how that was seen."""

    method: str
    detail: str


def is_small(function: Function) -> bool:
    """Whether evaluating ``function`` over a slow domain is cheap enough."""
    return work(function) <= MOST_FREE


def agreement_by_law(
    before: Function, after: Function | Runnable, seed: int, names: Sequence[str]
) -> Law | None:
    """How results that differ over one field agree where more laws hold, if they do and the
    programs are small.

    ``names`` are results by role and name. First a tower of fields, which knows that exp turns sums
    into products; then cells, which know guards that real numbers produce together.
    """
    if not is_small(before):
        return None
    if not tower_equal(before, after, seed, LEAST_POINTS, names):
        detail = f"{LEAST_POINTS} points, exp homomorphic"
        return Law("tower of prime fields: both the same", detail)
    found = cells_equal(before, after, seed, names=names)
    if found.tried and not set(found.differing) & set(names):
        detail = f"{found.tried} cells of real points"
        return Law("prime field: both the same, guards forced", detail)
    return None


def overflowing(
    before: Function, after: Function | Runnable, seed: int, names: Sequence[str]
) -> list[str]:
    """Those of ``names`` that are finite numbers in f64 before, at operands of some size, and not
    after.

    The same function of the reals may be useless to a machine: a softmax that takes off the least
    element, say.
    """
    domain, found = NumpyArrays(DType.F64), dict[str, None]()
    for number, scale in enumerate(_SCALES):
        drawn = real_operands(before, seed, number)
        values = [x * scale if np.asarray(x).dtype.kind == "f" else x for x in drawn]
        with domain.quiet():
            sides = [results_of(program, domain, values) for program in (before, after)]
        for slot, x, y in zip(before.results, *sides, strict=True):
            is_lost = y is None or bool((np.isfinite(x) & ~np.isfinite(y)).any())
            if key(slot) in names and is_lost:
                found[key(slot)] = None
    return list(found)


def settle_plan(function: Function, plan: Plan, found: Kernels, seed: int) -> Law | Outcome:
    """What is known of kernels that differ from their program over one field, or that did not run
    there.
    """
    program = PlanProgram(function, plan)
    names = found.differing or tuple(key(slot) for slot in function.results)
    places = [(n, n) for n, slot in enumerate(function.results) if key(slot) in names]
    points = _POINTS if is_small(function) else _FEW_POINTS
    outcome = decide_equal(function, program, places, points)
    if outcome.status is Status.REFUTED:
        return outcome
    if found.fault:
        # Where they did not run at all, agreement elsewhere is no confirmation.
        return replace(outcome, status=Status.UNDECIDED)
    try:
        lost = overflowing(function, program, seed, names)
        if not lost:
            law = agreement_by_law(function, program, seed, names)
            return law or replace(outcome, has_laws=is_small(function))
        detail = f"{', '.join(lost)} overflow for large operands, where the program does not"
    except ExecutionError as fault:
        detail = str(fault)
    return replace(outcome, status=Status.UNDECIDED, detail=f"{detail}; {outcome.detail}")
