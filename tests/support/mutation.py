"""The mutation score: seeded faults of every kind, wherever programs are made, against the methods
of ``gradc verify``.

``python -m tests.support.mutation [N] [--seed S] [--json FILE] [--state FILE]`` makes up to N
faults of each kind in each place of each model: rules (one op each), adjoints, adjoints that
recompute, tiled attention, forward mode, training steps, passes, loop nests, plans. A mutant that
changes no number is equivalent and does not count; that is decided apart from the methods under
test: f64 at four real points, and where these agree balls at 50 digits. ``missed`` must be 0: a
fault that changes meaning and that is confirmed. Beside it, how many finite differences (or, where
no gradient is at hand, the true numbers) at rtol 1e-3 would catch.

Non-goals: which faults there are (``tests.support.mutants``, ``tests.place.test_plan_faults``),
models (``tests.support.mutation_models``).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gradc.ir.domains.dual import Dual
from gradc.ir.domains.interpret import run
from gradc.ir.loop.execute import ExecutionError
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function, Role
from gradc.ir.tensor.violation import VerificationError
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.dual import ProofDuals
from gradc.passes.prove.domains.point import Point, draw, seed_of
from gradc.passes.prove.programs.kernels import compare_plan
from gradc.passes.prove.programs.laws import Law, settle_plan
from gradc.passes.prove.programs.passes import differing, values_by_result
from gradc.passes.prove.programs.shapes import points_for
from gradc.passes.prove.report import Status
from gradc.passes.prove.rules.gradient import cotangents, test_gradient
from gradc.passes.prove.rules.refute import decide_equal
from tests.place.test_plan_faults import FAULTS as PLAN_FAULTS
from tests.support.counted import in_pieces
from tests.support.loops_models import tidy
from tests.support.mutants import KERNEL_FAULTS, OP_FAULTS, kernel_mutants, op_mutants
from tests.support.mutation_models import (
    Target,
    central_differences,
    forward,
    is_changed,
    numbers,
    reals,
    recomputed,
    single_ops,
    step_of,
    targets,
    tiled,
)

RTOL, ATOL = 1e-3, 1e-5
# Programs of more ops are not compared in balls: f64 at four points has to do.
MOST_OPS = 300
# Points of the field at which programs and Plans are compared, as many as `gradc verify` takes at
# the least.
POINTS = 3


@dataclass
class Score:
    """Counts of one kind of fault."""

    mutants: int = 0
    equivalent: int = 0
    caught: int = 0
    missed: list[str] = field(default_factory=list)
    by_differences: int = 0

    def add(self, other: Score) -> None:
        self.mutants += other.mutants
        self.equivalent += other.equivalent
        self.caught += other.caught
        self.missed += other.missed
        self.by_differences += other.by_differences

    def as_json(self) -> dict[str, Any]:
        return {
            "made": self.mutants,
            "equivalent": self.equivalent,
            "caught": self.caught,
            "missed": self.missed,
            "finite differences": self.by_differences,
        }

    @staticmethod
    def of_json(row: dict[str, Any]) -> Score:
        return Score(
            row["made"],
            row["equivalent"],
            row["caught"],
            row["missed"],
            row["finite differences"],
        )


Scores = Iterator[tuple[str, Score]]


def is_valid(function: Function) -> bool:
    try:
        verify_function(function)
    except VerificationError:
        return False
    return True


def is_equivalent(
    program: Function, mutant: Function, expected: list[list[Any]], found: list[list[Any]]
) -> bool:
    """Whether two programs compute the same numbers: f64 at all points, then balls."""
    if is_changed(expected, found):
        return False
    if len(program.block.body) > MOST_OPS:
        return True
    places = [(n, n) for n in range(len(program.results))]
    try:
        return decide_equal(program, mutant, places, 2).status is not Status.REFUTED
    except (AssertionError, KeyError, TypeError, AttributeError, NotImplementedError):
        return True


def program_scores(
    name: str,
    program: Function,
    is_proved: Callable[[Function], bool],
    accepts: Callable[[Function, list[Any], list[Any]], bool],
    limit: int | None,
    seed: int,
    kinds: Sequence[str] = tuple(OP_FAULTS),
) -> Scores:
    """Faults in ``program``, by kind, up to ``limit`` each; ``accepts(mutant, found, true)`` says
    what differences do.
    """
    points = reals(program)
    expected = numbers(program, points)
    for kind in kinds:
        score = Score()
        for mutant in op_mutants(program, OP_FAULTS[kind], seed, is_shuffled=True):
            if limit is not None and score.mutants >= limit:
                break
            if not is_valid(mutant):
                continue
            score.mutants += 1
            found = numbers(mutant, points)
            if is_equivalent(program, mutant, expected, found):
                score.equivalent += 1
                continue
            with np.errstate(all="ignore"):
                proved = is_proved(mutant)
            if proved:
                score.missed.append(f"{name} {kind} #{score.mutants}")
            else:
                score.caught += 1
            score.by_differences += not accepts(mutant, found[0], expected[0])
        yield kind, score


def _is_near(_function: Function, found: list[Any], true: list[Any]) -> bool:
    """Whether a comparison at rtol 1e-3 accepts all results."""
    return all(np.allclose(x, y, rtol=RTOL, atol=ATOL) for x, y in zip(found, true, strict=True))


def _by_differences(target: Target) -> Callable[[Function, list[Any], list[Any]], bool]:
    """Whether finite differences accept the gradients of a mutant."""
    slopes = central_differences(target.source, target.reals[0])

    def accepts(mutant: Function, found: list[Any], _true: list[Any]) -> bool:
        places = cotangents(mutant)
        return all(
            np.allclose(found[n], slopes[name], rtol=RTOL, atol=ATOL) for name, n in places.items()
        )

    return accepts


# --- places


def proved_gradient(target: Target, mutant: Function) -> bool:
    """What ``gradc verify`` would say of a wrong adjoint: all agrees. The first point mostly tells;
    it is asked first.
    """
    for points in (1, points_for(mutant)):
        tested = test_gradient(target.source, mutant, target.seed, points)
        if not (tested.primal_agrees and all(tested.agrees.values())):
            return False
    return True


def adjoint_scores(
    target: Target,
    limit: int | None = None,
    kinds: Sequence[str] = tuple(OP_FAULTS),
    seed: int = 1,
) -> Scores:
    """Faults in the gradient program."""
    yield from program_scores(
        target.name,
        target.gradient,
        lambda mutant: proved_gradient(target, mutant),
        _by_differences(target),
        limit,
        seed,
        kinds,
    )


def forward_scores(target: Target, limit: int | None = None, seed: int = 1) -> Scores:
    """Faults in the forward-mode program, against dual numbers of the model."""
    program = forward(target)
    count = len(target.source.parameters)
    order = [n for n, s in enumerate(target.source.parameters) if s.name in target.wrt]
    points = [draw(program, target.seed, n) for n in range(POINTS)]

    def true(at: Point) -> list[Any]:
        tangents = dict(zip(order, at.values[count:], strict=True))
        duals = [Dual(x, tangents.get(n)) for n, x in enumerate(at.values[:count])]
        known = run(ProofDuals(at.domain), target.source, duals)
        slopes = [np.zeros_like(r.primal) if r.tangent is None else r.tangent for r in known]
        return [*(r.primal for r in known), *slopes]

    expected = [true(at) for at in points]

    def is_proved(mutant: Function) -> bool:
        return all(
            np.array_equal(x, y)
            for at, results in zip(points, expected, strict=True)
            for x, y in zip(run(at.domain, mutant, at.values), results, strict=True)
        )

    assert is_proved(program), f"forward mode of {target.name} is not confirmed"
    yield from program_scores(target.name, program, is_proved, _is_near, limit, seed)


def kept_scores(
    name: str, before: Function, after: Function, accepts: Any, limit: int | None, seed: int
) -> Scores:
    """Faults in what passes made of ``before``."""
    points = [draw(before, seed_of(before), n) for n in range(POINTS)]
    residues = [values_by_result(before, at) for at in points]

    def is_proved(mutant: Function) -> bool:
        pairs = zip(residues, points, strict=True)
        return not any(differing(known, values_by_result(mutant, at)) for known, at in pairs)

    assert is_proved(after), f"{name} is not confirmed"
    yield from program_scores(name, after, is_proved, accepts, limit, seed)


def step_scores(target: Target, limit: int | None = None, seed: int = 1) -> Scores:
    """Faults in a training step after its passes."""
    step = step_of(target)
    yield from kept_scores(target.name, step, tidy(step), _is_near, limit, seed)


def pass_scores(target: Target, limit: int | None = None, seed: int = 1) -> Scores:
    """Faults in what the passes made, against the program before them."""
    made = run_pipeline(
        target.source,
        Options(lambda f: value_and_grad(f, target.wrt), verify=0, stop_after="fuse"),
    )
    accepts = _by_differences(target)
    before = made.after("differentiate")
    assert isinstance(before, Function)
    for step in ("simplify", "fuse"):
        program = made.after(step)
        assert isinstance(program, Function)
        yield from kept_scores(f"{target.name} {step}", before, program, accepts, limit, seed)


@dataclass(frozen=True)
class Machine:
    """A compiled gradient with what it computes in f32, over the field, and by finite
    differences.
    """

    name: str
    plan: Plan
    function: Function
    seed: int
    given: tuple[dict[str, Any], ...]
    expected: tuple[list[Any], ...]
    slopes: dict[str, Any]


def machine_of(target: Target) -> Machine:
    """``target`` compiled."""
    made = run_pipeline(target.source, Options(lambda f: value_and_grad(f, target.wrt), verify=0))
    last = made.after("fuse")
    assert isinstance(last, Function)
    names = [s.name for s in target.source.parameters]
    given = []
    for values in target.reals[:2]:
        arrays = [np.asarray(v) for v in values]
        rounded = [v.astype(np.float32) if v.dtype.kind == "f" else v for v in arrays]
        given.append(dict(zip(names, rounded, strict=True)))
    return Machine(
        target.name,
        made.plan,
        last,
        target.seed,
        tuple(given),
        tuple(execute_plan(made.plan, one) for one in given),
        central_differences(target.source, target.reals[0]),
    )


def kernel_scores(target: Target, limit: int | None = None, seed: int = 1) -> Scores:
    """Faults in the loop nests, against the tensor program."""
    machine = machine_of(target)
    kernels = machine.plan.kernels
    for kind, fault in KERNEL_FAULTS.items():
        score = Score()
        for number in random.Random(seed).sample(range(len(kernels)), len(kernels)):
            for mutant in kernel_mutants(kernels[number], fault, seed, is_shuffled=True):
                if limit is not None and score.mutants >= limit:
                    break
                changed = (*kernels[:number], mutant, *kernels[number + 1 :])
                name = f"{machine.name} {kind} {mutant.name} #{score.mutants}"
                _score_plan(score, machine, replace(machine.plan, kernels=changed), name, False)
        yield kind, score


def plan_scores(target: Target, limit: int | None = None, seed: int = 1) -> Scores:
    """Faults in steps, offsets and aliases, against the checker of plans and the tensor program."""
    machine = machine_of(target)
    for fault in PLAN_FAULTS:
        score = Score()
        pick = random.Random(f"{fault.__name__} {seed}")
        seen: list[Plan] = []
        for _ in range(4 * (limit or 10)):
            if score.mutants >= (limit or 10):
                break
            broken = fault(machine.plan, pick)
            if broken is None or broken == machine.plan or broken in seen:
                continue
            seen.append(broken)
            name = f"{machine.name} {fault.__name__} #{score.mutants}"
            _score_plan(score, machine, broken, name, True)
        yield f"plan {fault.__name__}", score


def _score_plan(score: Score, machine: Machine, plan: Plan, name: str, is_checked: bool) -> None:
    """One wrong Plan; ``is_checked`` if the checker of Plans is asked too. What cannot run at all
    is caught.
    """
    score.mutants += 1
    if is_checked and check_plan(plan):
        score.caught += 1
        score.by_differences += not _accepted(machine, _executed(plan, machine.given[0]))
        return
    found = [_executed(plan, given) for given in machine.given]
    if any(one is None for one in found):
        score.caught += 1
        score.by_differences += 1
        return
    pairs = [
        (x, y)
        for e, f in zip(machine.expected, found, strict=True)
        for x, y in zip(e, f or [], strict=True)
    ]
    if all(np.allclose(x, y, rtol=1e-7, atol=1e-9, equal_nan=True) for x, y in pairs):
        score.equivalent += 1
        return
    if _is_confirmed(machine, plan):
        score.missed.append(name)
    else:
        score.caught += 1
    score.by_differences += not _accepted(machine, found[0])


def _is_confirmed(machine: Machine, plan: Plan) -> bool:
    """Whether `gradc verify` would confirm the kernels of a Plan: over one field, or else by more
    laws or real points.
    """
    found = compare_plan(machine.function, plan, machine.seed, POINTS)
    if not found.differing and not found.fault:
        return True
    settled = settle_plan(machine.function, plan, found, machine.seed)
    return isinstance(settled, Law) or settled.status is Status.AGREES


def _executed(plan: Plan, given: dict[str, Any]) -> list[Any] | None:
    """What the Plan computes in its own types; None if it leaves its storage."""
    try:
        with np.errstate(all="ignore"):
            return list(execute_plan(plan, given))
    except (ExecutionError, ValueError, IndexError, TypeError, KeyError):
        return None


def _accepted(machine: Machine, found: list[Any] | None) -> bool:
    """Whether finite differences accept the gradients a Plan computes."""
    if found is None:
        return False
    ports = [p for p in machine.plan.ports if p.direction != "in"]
    grads = {p.name: x for p, x in zip(ports, found, strict=True) if p.role is Role.COTANGENT}
    rows = [(grads[n], s) for n, s in machine.slopes.items() if n in grads]
    return all(np.allclose(g, s, rtol=RTOL, atol=ATOL) for g, s in rows)


# --- everything

Table = dict[tuple[str, str], Score]


def jobs(limit: int | None, seed: int) -> list[tuple[str, Callable[[], Scores]]]:
    """Every place in every model."""
    found: list[tuple[str, Callable[[], Scores]]] = []
    for t in targets():
        found += [
            ("adjoint", partial(adjoint_scores, t, limit, seed=seed)),
            ("recompute", partial(adjoint_scores, recomputed(t), limit, seed=seed)),
            ("forward mode", partial(forward_scores, t, limit, seed)),
            ("training step", partial(step_scores, t, limit, seed)),
            ("pass", partial(pass_scores, t, limit, seed)),
            ("loop nest", partial(kernel_scores, t, limit, seed)),
            ("plan", partial(plan_scores, t, limit, seed)),
        ]
    found.append(("tiled attention", partial(adjoint_scores, tiled(), limit, seed=seed)))
    found += [("rule", partial(adjoint_scores, t, limit, seed=seed)) for t in single_ops()]
    return found


def everything(
    limit: int | None = None, seed: int = 1, is_shown: bool = False, state: Path | None = None
) -> Table:
    """Every fault of every kind, by place and kind; with ``state``, from where the last process
    stopped.
    """
    todo = jobs(limit, seed)
    made = 0

    def one(item: str) -> dict[str, Any]:
        nonlocal made
        number = int(item.split()[0])
        place, scores = todo[number]
        rows = [{"kind": kind, **score.as_json()} for kind, score in scores()]
        made += sum(row["made"] for row in rows)
        if is_shown:
            bar = "#" * (40 * (number + 1) // len(todo))
            print(f"\r[{bar:40}] {made} faults, {place:16}", end="", file=sys.stderr, flush=True)
        return {"place": place, "rows": rows}

    table: Table = {}
    items = [f"{n} of {limit} seed {seed}" for n in range(len(todo))]
    for found in in_pieces(items, one, state).values():
        for row in found["rows"]:
            table.setdefault((found["place"], row["kind"]), Score()).add(Score.of_json(row))
    if is_shown:
        print(file=sys.stderr)
    return table


def summed(table: Table, which: int) -> dict[str, Score]:
    """Scores by place (0) or by kind (1)."""
    found: dict[str, Score] = {}
    for key, score in table.items():
        found.setdefault(key[which], Score()).add(score)
    return found


def as_markdown(table: Table) -> str:
    """Two tables: by place and by kind."""
    parts = []
    for which, title in ((0, "place"), (1, "kind of fault")):
        head = f"| {title} | made | equivalent | caught | missed | finite differences caught |"
        lines = [head, "|---|---|---|---|---|---|"]
        rows = summed(table, which)
        total = Score()
        for score in rows.values():
            total.add(score)
        for name, s in (*rows.items(), ("all", total)):
            cells = (s.mutants, s.equivalent, s.caught, len(s.missed), s.by_differences)
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(map(str, cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Prints the tables; status 1 if anything was missed."""
    parser = argparse.ArgumentParser(prog="tests.support.mutation", description=__doc__)
    parser.add_argument("limit", nargs="?", type=int, help="faults of a kind in a place of a model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="counts as JSON")
    parser.add_argument("--state", type=Path, help="go on from this file, kept up to date")
    options = parser.parse_args()
    start = time.process_time()
    table = everything(options.limit, options.seed, is_shown=True, state=options.state)
    seconds = time.process_time() - start
    print(as_markdown(table))
    missed = [name for score in table.values() for name in score.missed]
    for name in missed:
        print("missed:", name)
    print(f"{seconds:.0f} CPU s, seed {options.seed}")
    if options.json:
        rows = [{"place": p, "kind": k, **s.as_json()} for (p, k), s in table.items()]
        data = {"seed": options.seed, "limit": options.limit, "seconds": seconds, "rows": rows}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=2)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
