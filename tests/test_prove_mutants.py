"""Mutation: seeded faults that change meaning are never confirmed; finite differences confirm many of them."""

from __future__ import annotations

import numpy as np
import pytest

from gradc.ir.builder import Builder
from gradc.ir.core import DType, Op, Role, TensorType, Value
from gradc.passes.prove_compose import gradient_terms, result_terms
from gradc.passes.prove_pullback import pullback_verdict
from gradc.passes.prove_refute import decide_gradient
from gradc.passes.prove_report import Status
from gradc.passes.prove_terms import TermArrays
from tests.mutants import OP_FAULTS, op_mutants
from tests.mutation import Score, adjoint_scores, kernel_scores, pass_scores, single_ops, targets

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
    assert score.by_differences <= score.caught


def test_finite_differences_accept_what_is_caught() -> None:
    """A gradient scaled by 1 + 2^-12 is caught every time, and mostly within rtol 1e-3 of finite differences."""
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


def test_wrong_adjoints_are_never_the_terms_of_the_rules() -> None:
    """Composition over terms: a mutant whose terms are those of the second sweep computes the same numbers."""
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


def _is_equivalent(target: object, mutant: object) -> bool:
    from gradc.ir.core import Function
    from tests.mutation import Target, is_changed, numbers

    assert isinstance(target, Target) and isinstance(mutant, Function)
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
