"""What is known of the rules of every op: reverse, forward, and both applied again to what they
made.

Second order: the pullback of an op is a program of ops; its gradient by the rules, against dual
numbers of it and against a plain second sweep over terms. If that sweep's terms are those of the
gradient, what is known of the rules it used, at the instances it used, is known of the second order
as well.

Non-goals: rules at the instances of one program (``prove_rule_verdicts``), formulas, SymPy's
opinion (``runtime``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import ObjectArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Control, all_ops, lookup
from gradc.ir.tensor.core import Function, Role, Slot
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.domains.exact import ExactScalars, TooLarge, cells
from gradc.passes.prove.domains.point import seed_of
from gradc.passes.prove.domains.terms import TermArrays
from gradc.passes.prove.report import Status, Verdict, weakest
from gradc.passes.prove.rule_verdicts import rule_verdict, sampled, sampled_verdict
from gradc.passes.prove.rules.compose import gradient_terms, result_terms
from gradc.passes.prove.rules.gradient import test_gradient
from gradc.passes.prove.rules.rules import (
    POSITIVE,
    Instance,
    instance,
    instances,
    is_differentiable,
)

POINTS = 2


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One op."""

    name: str
    reverse: Verdict
    forward: Verdict
    second: Verdict

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Those of all three, each once."""
        verdicts = (self.reverse, self.forward, self.second)
        return tuple(dict.fromkeys(a for v in verdicts for a in v.assumptions))

    @property
    def ok(self) -> bool:
        """Whether all three are proved."""
        return all(v.status.is_proof for v in (self.reverse, self.forward, self.second))


def pullback_program(case: Instance) -> Function | None:
    """<pullback(g), v> as a loss of the operands, g and v; None if no operand gets a cotangent."""
    b = Builder()
    operands = [b.parameter(v.type) for v in case.parameters]
    result = b.apply(case.name, operands, case.op.attributes)[0]
    op = b.ops[-1]
    g = b.parameter(result.type)
    cts = lookup(case.name).vjp(b, op, [g], [v.type.dtype.is_float for v in operands])
    parameters = [*operands, g]
    total = None
    for ct in cts:
        if ct is None:
            continue
        v = b.parameter(ct.type)
        parameters.append(v)
        product = b.one("mul", ct, v)
        term = b.one("sum", product, axes=tuple(range(ct.type.rank))) if ct.type.rank else product
        total = term if total is None else b.one("add", total, term)
    if total is None:
        return None
    slots = [
        Slot(f"p{n}", Role.PARAM if v.type.dtype.is_float else Role.INPUT)
        for n, v in enumerate(parameters)
    ]
    return b.function(f"pullback of {case.name}", [total], slots, [Slot("loss", Role.LOSS)])


def second_verdict(name: str) -> Verdict:
    """The rules applied to the op's own pullback, at its samples."""
    used = [case for case in sampled(name) if is_differentiable(case.op)]
    if isinstance(lookup(name).loop, Control):
        return sampled_verdict(name)
    if lookup(name).is_elementwise and used and _holds_on_elements(used[0]):
        return Verdict(
            "rule", name, Status.PROVED_ALL, "exact fractions of polynomials",
            "single elements, every cell of its guards", ("off kinks",),
        )  # fmt: skip
    programs = [p for p in (pullback_program(case) for case in used) if p is not None]
    found = [_second(name, program) for program in programs]
    if not found:
        detail = "its derivative is zero wherever it has one"
        return Verdict("rule", name, Status.PROVED_ALL, "locally constant", detail, ("off kinks",))
    return max(found, key=lambda v: v.status.rank)


def _holds_on_elements(case: Instance) -> bool:
    """Whether the gradient of an elementwise op's pullback is its derivative, exactly, on single
    elements.
    """
    types = [v.type.with_shape(()) for v in case.parameters]
    program = pullback_program(instance(case.name, types, case.op.attributes))
    assert program is not None
    names = [s.name for s in program.parameters if s.role is Role.PARAM]
    gradient = value_and_grad(program, names)
    is_root = case.name in POSITIVE

    def agrees(scalars: ExactScalars) -> bool:
        arrays = ObjectArrays(scalars)
        values: list[Any] = []
        duals = []
        for number, slot in enumerate(program.parameters):
            if slot.role is not Role.PARAM:
                values.append(np.asarray(scalars.guards.answer()))
                duals.append(Dual(values[-1]))
                continue
            drawn = scalars.square() if is_root and not number else scalars.fresh()
            values.append(arrays.objects([drawn], ()))
            duals.append(Dual(values[-1], arrays.objects([scalars.fresh()], ())))
        (loss,) = run(DualArrays(arrays), program, duals)
        total = scalars.const(0.0) if loss.tangent is None else np.asarray(loss.tangent).item()
        moved = [d.tangent for d in duals if d.tangent is not None]
        for ct, tangent in zip(run(arrays, gradient, values)[1:], moved, strict=True):
            total = total - np.asarray(ct, object).item() * tangent.item()
        return scalars.is_zero(total)

    try:
        return all(cells(agrees))
    except (TooLarge, ZeroDivisionError, AttributeError):
        return False


def _second(name: str, program: Function) -> Verdict:
    names = [s.name for s in program.parameters if s.role is Role.PARAM]
    gradient = value_and_grad(program, names)
    tested = test_gradient(program, gradient, seed_of(program), POINTS)
    if not (tested.primal_agrees and all(tested.agrees.values())):
        detail = f"{program.name}: gradient and dual numbers differ"
        return Verdict("rule", name, Status.UNDECIDED, "prime field", detail)
    arrays = TermArrays()
    rules: dict[str, None] = {}
    expected = gradient_terms(arrays, program, names, rules)
    made = result_terms(arrays, gradient)
    if not all(arrays.same(expected[n], made[f"cotangent {n}"]) for n in names):
        detail = f"{POINTS} points"
        return Verdict("rule", name, Status.PROBABLE, "prime field", detail, ("off kinks",))
    known = [rule_verdict(n, cases) for n, cases in instances(program).items() if n in rules]
    status = weakest([v.status for v in known])
    detail = f"rules of {', '.join(rules)}; tried at {POINTS} points"
    assumed = tuple(dict.fromkeys(a for v in known for a in v.assumptions))
    return Verdict("rule", name, status, "composition", detail, assumed)


def table() -> Iterator[RuleRow]:
    """A row per op, in order of definition."""
    for definition in all_ops():
        name = definition.name
        yield RuleRow(
            name, sampled_verdict(name), sampled_verdict(name, True), second_verdict(name)
        )
