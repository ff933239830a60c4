"""The mutation score: seeded faults in rules, adjoints, passes and kernels against the methods of ``gradc verify``.

``python -m tests.mutation`` runs all of them and prints a table. A mutant that changes no number at four real points in
f64 is equivalent and does not count. ``missed`` must be 0: a fault that changes meaning and that the prime field
confirms. Beside it, how many finite differences at rtol 1e-3 catch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from gradc.ir.builder import Builder
from gradc.ir.core import DType, Function, Role, Slot
from gradc.ir.domains import NumpyArrays
from gradc.ir.interpret import run
from gradc.ir.loops_execute import ExecutionError
from gradc.ir.plan import Plan
from gradc.ir.plan_execute import execute_plan
from gradc.ir.registry import all_ops
from gradc.ir.verify import VerificationError, verify_function
from gradc.passes.differentiate import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove_gradient import cotangents, test_gradient
from gradc.passes.prove_kernels import run_plan
from gradc.passes.prove_passes import differing, values_by_result
from gradc.passes.prove_point import Point, draw, index_limit, seed_of
from gradc.passes.prove_shapes import points_for
from tests.loops_models import channel_model, lstm, mlp, row_model, transformer
from tests.mutants import KERNEL_FAULTS, OP_FAULTS, kernel_mutants, op_mutants

F64 = NumpyArrays(DType.F64)
# Below this relative change in f64, two programs are the same up to rounding.
SAME = 1e-9
RTOL, ATOL = 1e-3, 1e-5


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


@dataclass(frozen=True)
class Target:
    """A model, its gradient, and what both are at real points and at one point of the field."""

    name: str
    source: Function
    gradient: Function
    seed: int

    @property
    def reals(self) -> list[list[Any]]:
        return _reals(self.source)

    def point(self, function: Function) -> Point:
        return draw(function, self.seed, 0)


def _reals(function: Function) -> list[list[Any]]:
    limit = index_limit(function)
    found = []
    for number in range(4):
        rng = np.random.default_rng([number, 5])
        values: list[Any] = []
        for value in function.block.parameters:
            shape, dtype = value.type.static_shape, value.type.dtype
            if dtype.is_float:
                values.append(
                    rng.uniform(0.2, 1.4, shape)
                    * (1 if number == 0 else rng.choice([-1, 1], shape))
                )
            else:
                values.append(rng.integers(0, limit, shape).astype(NumpyArrays.dtype(dtype)))
        found.append(values)
    return found


def numbers(function: Function, reals: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """What ``function`` computes at real points, in f64."""
    return [[np.asarray(x) for x in run(F64, function, values)] for values in reals]


def is_changed(before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> bool:
    """Whether some result differs by more than rounding."""
    for xs, ys in zip(before, after, strict=True):
        for x, y in zip(xs, ys, strict=True):
            if x.dtype.kind != "f":
                if not np.array_equal(x, y):
                    return True
                continue
            scale = max(1e-30, float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)))
            same = np.isclose(x, y, rtol=0, atol=SAME * scale, equal_nan=True)
            if not same.all():
                return True
    return False


def central_differences(
    source: Function, values: Sequence[Any], step: float = 1e-6
) -> dict[str, Any]:
    """The gradient by central differences in f64, every entry."""
    place = next(n for n, s in enumerate(source.results) if s.role is Role.LOSS)
    found = {}
    for number, slot in enumerate(source.parameters):
        if slot.role is not Role.PARAM:
            continue
        base = np.asarray(values[number], np.float64)
        slopes = np.zeros(base.shape)
        for at in np.ndindex(base.shape):
            ends = []
            for sign in (1, -1):
                moved = base.copy()
                moved[at] += sign * step
                given = [*values[:number], moved, *values[number + 1 :]]
                ends.append(float(run(F64, source, given)[place]))
            slopes[at] = (ends[0] - ends[1]) / (2 * step)
        found[slot.name] = slopes
    return found


@cache
def targets() -> tuple[Target, ...]:
    """Small models with everything the backward program of a network has."""
    models = {
        "mlp": mlp(3, [3, 4, 3]),
        "rows": row_model(3, 4),
        "transformer": transformer(1, 2, 3, 4, 2, 5),
        "lstm": lstm(3, 2, 2, 3),
        "channels": channel_model(2, 2, 3, 3),
    }
    return tuple(_target(name, f) for name, f in models.items())


def _target(name: str, source: Function) -> Target:
    names = [s.name for s in source.parameters if s.role is Role.PARAM]
    gradient = value_and_grad(source, names)
    return Target(name, source, gradient, seed_of(source))


@cache
def single_ops() -> tuple[Target, ...]:
    """One program per differentiable op: a weighted sum of what it gives."""
    found = []
    for definition in all_ops():
        for number, sample in enumerate(definition.samples[:2]):
            sizes = [n for t in sample.operands for n in t.static_shape]
            if 0 in sizes or not any(t.dtype.is_float for t in sample.operands):
                continue
            b = Builder()
            operands = [b.parameter(t) for t in sample.operands]
            y = b.apply(definition.name, operands, sample.attributes)[0]
            if not y.type.dtype.is_float:
                continue
            weights = b.parameter(y.type)
            total = b.one("mul", y, weights)
            loss = b.one("sum", total, axes=tuple(range(y.type.rank)))
            slots = [
                Slot(f"p{n}", Role.PARAM if v.type.dtype.is_float else Role.INPUT)
                for n, v in enumerate((*operands, weights))
            ]
            source = b.function(
                f"{definition.name}{number}", [loss], slots, [Slot("loss", Role.LOSS)]
            )
            found.append(_target(source.name, source))
    return tuple(found)


def is_valid(function: Function) -> bool:
    try:
        verify_function(function)
    except VerificationError:
        return False
    return True


def proved_gradient(target: Target, mutant: Function) -> bool:
    """What ``gradc verify`` would say of a wrong adjoint: all agrees."""
    tested = test_gradient(target.source, mutant, target.seed, points_for(mutant))
    return tested.primal_agrees and all(tested.agrees.values())


def adjoint_scores(
    target: Target, limit: int | None = None, kinds: Sequence[str] = tuple(OP_FAULTS)
) -> Iterator[tuple[str, Score]]:
    """Faults in the gradient program, by kind; ``limit`` per kind."""
    reals = target.reals
    expected = numbers(target.gradient, reals)
    slopes = [central_differences(target.source, values) for values in reals[:1]]
    for kind in kinds:
        fault = OP_FAULTS[kind]
        score = Score()
        for mutant in op_mutants(target.gradient, fault, 1):
            if limit is not None and score.mutants >= limit:
                break
            if not is_valid(mutant):
                continue
            score.mutants += 1
            with np.errstate(all="ignore"):
                found = numbers(mutant, reals)
            if not is_changed(expected, found):
                score.equivalent += 1
                continue
            if proved_gradient(target, mutant):
                score.missed.append(f"{target.name} {kind} #{score.mutants}")
            else:
                score.caught += 1
            score.by_differences += not _is_close(mutant, found[0], slopes[0])
        yield kind, score


def _is_close(function: Function, results: Sequence[Any], slopes: dict[str, Any]) -> bool:
    """Whether finite differences accept the gradients in ``results``."""
    places = cotangents(function)
    return all(
        np.allclose(results[n], slopes[name], rtol=RTOL, atol=ATOL) for name, n in places.items()
    )


def pass_scores(target: Target, limit: int | None = None) -> Iterator[tuple[str, Score]]:
    """Faults in what the passes made, against the program before them."""
    derive = [s.name for s in target.source.parameters if s.role is Role.PARAM]
    made = run_pipeline(
        target.source, Options(lambda f: value_and_grad(f, derive), verify=0, stop_after="fuse")
    )
    at = target.point(target.source)
    reals = target.reals
    slopes = central_differences(target.source, reals[0])
    for step in ("simplify", "fuse"):
        program = made.after(step)
        assert isinstance(program, Function)
        expected, residues = numbers(program, reals), values_by_result(program, at)
        for kind, fault in OP_FAULTS.items():
            score = Score()
            for mutant in op_mutants(program, fault, 2):
                if limit is not None and score.mutants >= limit:
                    break
                if not is_valid(mutant):
                    continue
                score.mutants += 1
                with np.errstate(all="ignore"):
                    found = numbers(mutant, reals)
                if not is_changed(expected, found):
                    score.equivalent += 1
                    continue
                if _is_kept(residues, mutant, at):
                    score.missed.append(f"{target.name} {step} {kind} #{score.mutants}")
                else:
                    score.caught += 1
                score.by_differences += not _is_close(mutant, found[0], slopes)
            yield f"pass {kind}", score


def _is_kept(residues: dict[str, Any], mutant: Function, at: Point) -> bool:
    return not differing(residues, values_by_result(mutant, at))


def kernel_scores(target: Target, limit: int | None = None) -> Iterator[tuple[str, Score]]:
    """Faults in the loop nests, against the tensor program."""
    derive = [s.name for s in target.source.parameters if s.role is Role.PARAM]
    made = run_pipeline(target.source, Options(lambda f: value_and_grad(f, derive), verify=0))
    last = made.after("fuse")
    assert isinstance(last, Function)
    at = target.point(last)
    residues = values_by_result(last, at)
    values = [np.asarray(v) for v in target.reals[0]]
    rounded = [v.astype(np.float32) if v.dtype.kind == "f" else v for v in values]
    names = [s.name for s in target.source.parameters]
    expected = execute_plan(made.plan, dict(zip(names, rounded, strict=True)))
    slopes = central_differences(target.source, target.reals[0])
    for kind, fault in KERNEL_FAULTS.items():
        score = Score()
        for number, kernel in enumerate(made.plan.kernels):
            for mutant in kernel_mutants(kernel, fault, 3):
                if limit is not None and score.mutants >= limit:
                    break
                kernels = (*made.plan.kernels[:number], mutant, *made.plan.kernels[number + 1 :])
                plan = replace(made.plan, kernels=kernels)
                _score_plan(score, plan, last, at, residues, (names, rounded, expected), slopes)
                if score.missed and score.missed[-1] == "?":
                    score.missed[-1] = f"{target.name} {kind} {kernel.name} #{score.mutants}"
        yield kind, score


def _score_plan(
    score: Score,
    plan: Plan,
    function: Function,
    at: Point,
    residues: dict[str, Any],
    machine: tuple[list[str], list[Any], list[Any]],
    slopes: dict[str, Any],
) -> None:
    names, given, expected = machine
    score.mutants += 1
    try:
        with np.errstate(all="ignore"):
            found = execute_plan(plan, dict(zip(names, given, strict=True)))
    except ExecutionError:
        score.caught += 1
        score.by_differences += 1
        return
    same = all(
        np.allclose(x, y, rtol=1e-7, atol=1e-9, equal_nan=True)
        for x, y in zip(expected, found, strict=True)
    )
    if same:
        score.equivalent += 1
        return
    try:
        with np.errstate(all="ignore"):
            is_proved = not differing(residues, run_plan(plan, function, at))
    except ExecutionError:
        is_proved = False
    if is_proved:
        score.missed.append("?")
    else:
        score.caught += 1
    ports = [p for p in plan.ports if p.direction != "in"]
    grads = {p.name: x for p, x in zip(ports, found, strict=True) if p.role is Role.COTANGENT}
    score.by_differences += not all(
        np.allclose(grads[n], s, rtol=RTOL, atol=ATOL) for n, s in slopes.items() if n in grads
    )


def everything(limit: int | None = None) -> dict[str, Score]:
    """Every fault of every kind, by kind."""
    table: dict[str, Score] = {}
    for target in targets():
        for scores in (adjoint_scores, pass_scores, kernel_scores):
            for kind, score in scores(target, limit):
                table.setdefault(kind, Score()).add(score)
    for target in single_ops():
        for kind, score in adjoint_scores(target, limit):
            table.setdefault(f"rule {kind}", Score()).add(score)
    return table


def main() -> int:
    """Prints the table; status 1 if anything was missed."""
    start = time.perf_counter()
    table = everything(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    total = Score()
    print(f"{'fault':22}{'mutants':>9}{'same':>7}{'caught':>8}{'missed':>8}{'differences':>13}")
    for kind, score in (*table.items(), ("all", total)):
        print(
            f"{kind:22}{score.mutants:9}{score.equivalent:7}{score.caught:8}"
            f"{len(score.missed):8}{score.by_differences:13}"
        )
        if kind != "all":
            total.add(score)
    for name in total.missed:
        print("missed:", name)
    print(f"{time.perf_counter() - start:.1f} s")
    return 1 if total.missed else 0


if __name__ == "__main__":
    sys.exit(main())
