"""Mutation: seeded faults that change meaning are never confirmed; finite differences confirm many
of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Op, Role, Slot, TensorType, Value
from gradc.passes.prove.domains.terms import TermArrays
from gradc.passes.prove.report import Status
from gradc.passes.prove.rules.compose import gradient_terms, result_terms
from gradc.passes.prove.rules.pullback import pullback_verdict
from gradc.passes.prove.rules.refute import decide_gradient
from tests.support.mutants import OP_FAULTS, op_mutants
from tests.support.mutation import (
    Score,
    adjoint_scores,
    forward_scores,
    is_equivalent,
    kernel_scores,
    pass_scores,
    plan_scores,
    step_scores,
)
from tests.support.mutation_models import (
    Target,
    is_changed,
    numbers,
    reals,
    recomputed,
    single_ops,
    targets,
    tiled,
)

F = DType.F64


def total(kinds: list[tuple[str, Score]]) -> Score:
    score = Score()
    for _, one in kinds:
        score.add(one)
    return score


@pytest.mark.parametrize("number", [0, 1, 4])
def test_no_fault_in_an_adjoint_is_confirmed(number: int) -> None:
    """All kinds of faults; finite differences do not see some factors of 1 + 2^-12."""
    score = total(list(adjoint_scores(targets()[number], 2)))
    assert not score.missed
    assert score.caught >= 10


def test_finite_differences_accept_what_is_caught() -> None:
    """A gradient scaled by 1 + 2^-12 is caught every time, and mostly within rtol 1e-3 of finite
    differences.
    """
    score = dict(adjoint_scores(targets()[1], 12, ["scale"]))["scale"]
    assert not score.missed
    assert score.by_differences * 2 < score.caught


def test_no_fault_in_a_pass_or_kernel_is_confirmed() -> None:
    chosen = targets()[0]
    for scores in (pass_scores, kernel_scores):
        score = total(list(scores(chosen, 2)))
        assert not score.missed
        assert score.caught >= 10


def test_no_fault_in_a_rule_is_confirmed() -> None:
    score = total([row for t in single_ops()[::9] for row in adjoint_scores(t, 1)])
    assert not score.missed
    assert score.caught >= 25


def test_no_fault_in_other_derivatives_is_confirmed() -> None:
    """Recomputing adjoints, tiled attention, forward mode, training steps."""
    chosen = targets()[4]
    rows = [
        list(adjoint_scores(recomputed(chosen), 1)),
        list(adjoint_scores(tiled(), 1)),
        list(forward_scores(chosen, 1)),
        list(step_scores(chosen, 1)),
    ]
    for row in rows:
        score = total(row)
        assert not score.missed
        assert score.caught >= 5


def test_no_fault_in_a_plan_is_confirmed() -> None:
    score = total(list(plan_scores(targets()[3], 2)))
    assert not score.missed
    assert score.caught >= 12


@pytest.mark.parametrize("kind", ["lost_sum", "bracket", "transpose", "axis", "no_eps", "shift"])
def test_every_named_fault_is_made_somewhere(kind: str) -> None:
    """And changes numbers: made, not equivalent, caught."""
    made = [
        t for t in (*targets(), *single_ops()) if any(op_mutants(t.gradient, OP_FAULTS[kind], 1))
    ]
    assert made
    score = total([row for t in made[-3:] for row in adjoint_scores(t, 2, [kind])])
    assert score.caught and not score.missed


def test_equivalence_is_told_by_numbers() -> None:
    """a + b and b + a are the same program in numbers; a factor of 1 + 2^-33, which f64 at 1e-9
    accepts, is not.
    """
    type_ = TensorType((2,), F)
    programs = []
    for number in range(3):
        b = Builder()
        x, y = b.parameter(type_), b.parameter(type_)
        total_ = b.one("add", x, y) if number != 1 else b.one("add", y, x)
        if number == 2:
            total_ = b.one("mul", total_, b.constant(1 + 2.0**-33, F, (2,)))
        slots = [Slot("x", Role.PARAM), Slot("y", Role.PARAM)]
        programs.append(b.function("f", [total_], slots, [Slot("z", Role.OUTPUT)]))
    points = reals(programs[0])
    values = [numbers(p, points) for p in programs]
    assert is_equivalent(programs[0], programs[1], values[0], values[1])
    assert not is_changed(values[0], values[2])
    assert not is_equivalent(programs[0], programs[2], values[0], values[2])


def test_wrong_adjoints_are_never_the_terms_of_the_rules() -> None:
    """Composition over terms: a mutant whose terms are those of the second sweep computes the same
    numbers.
    """
    target = targets()[0]
    names = [s.name for s in target.source.parameters if s.role is Role.PARAM]
    arrays = TermArrays()
    expected = gradient_terms(arrays, target.source, names)
    faults = 0
    for kind in ("scale", "negate", "swap", "missing_sum", "axis"):
        for mutant in op_mutants(target.gradient, OP_FAULTS[kind], 5):
            try:
                found = result_terms(arrays, mutant)
            except (AssertionError, ValueError, IndexError):
                continue
            same = all(arrays.same(expected[n], found[f"cotangent {n}"]) for n in names)
            if same:
                at = [np.ones(v.type.static_shape) * 0.3 for v in mutant.block.parameters]
                assert len(at) == len(mutant.parameters)
                assert _is_equivalent(target, mutant), kind
            faults += not same
    assert faults >= 30


def _is_equivalent(target: Target, mutant: Function) -> bool:
    places = [n for n, s in enumerate(mutant.results) if s.role is Role.COTANGENT]
    rows = [numbers(f, target.reals) for f in (target.gradient, mutant)]
    left, right = ([[r[p] for p in places] for r in one] for one in rows)
    return not is_changed(left, right)


def test_a_wrong_gradient_is_refuted_with_a_point() -> None:
    target = targets()[0]
    mutant = next(iter(op_mutants(target.gradient, OP_FAULTS["missing_sum"], 1)))
    names = [s.name for s in target.source.parameters if s.role is Role.PARAM]
    outcomes = [decide_gradient(target.source, mutant, name, 2) for name in names]
    refuted = [o for o in outcomes if o.status is Status.REFUTED]
    assert refuted
    assert "x" in refuted[0].point or refuted[0].point


def custom(factor: float, with_floor: bool = False) -> Op:
    """y = x^2 * sin(x) (of floor(x), if asked), its pullback off by ``factor``."""
    type_ = TensorType((2,), F)
    primal = Builder()
    x = primal.parameter(type_, "x")
    inner = primal.one("floor", x) if with_floor else x
    y = primal.one("mul", primal.one("mul", inner, inner), primal.one("sin", inner))
    back = Builder()
    given, result, ct = (back.parameter(type_) for _ in range(3))
    slope = back.one("mul", given, back.one("sin", given))
    twice = back.one("mul", slope, back.constant(2.0 * factor, F, (2,)))
    square = back.one("mul", given, given)
    whole = back.one("add", twice, back.one("mul", square, back.one("cos", given)))
    found = back.one("mul", ct, whole)
    assert result.type == type_
    operand = Value(type_, "x")
    regions = (primal.block([y]), back.block([found]))
    return Op("custom", (operand,), (Value(type_),), {}, regions)


def test_a_right_pullback_is_proved() -> None:
    verdict = pullback_verdict(custom(1.0))
    assert verdict.status is Status.PROVED_SHAPE


@pytest.mark.parametrize("factor", [1 + 2.0**-12, -1.0, 0.0])
def test_a_wrong_pullback_is_refuted_with_the_point(factor: float) -> None:
    verdict = pullback_verdict(custom(factor))
    assert verdict.status is Status.REFUTED
    assert verdict.point["x"].startswith("[")


def test_a_pullback_through_floor_is_asserted() -> None:
    assert pullback_verdict(custom(1.0, with_floor=True)).status is Status.ASSERTED
