"""Verdicts on derivative rules: of the ops a program uses, and of every op there is.

The order of methods: exact fractions for elementwise ops, the index algebra for linear ops between
axes, a prime field at the instances at hand, balls to refute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gradc.ir.loop.equal import fingerprint
from gradc.ir.ops.registry import Control, OpDef, all_ops, lookup
from gradc.passes.prove.domains.exact import TooLarge
from gradc.passes.prove.index.theorems import confirmed, index_verdict, tangent_confirmed
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.refute_rule import settle_rule
from gradc.passes.prove.rules.rules import (
    POINTS,
    Instance,
    error_bound,
    holds_exactly,
    holds_in_field,
    instance,
    is_differentiable,
    is_flat,
)


def _why_not(definition: OpDef) -> str:
    """Why the rule of an op is not proved for all shapes, should the index algebra give up on
    it.
    """
    if definition.element is not None:
        return definition.element.otherwise
    return definition.without.get("element", "sizes as they are")


def scalar_verdict(name: str, attributes: Any = None, forward: bool = False) -> Verdict:
    """An elementwise op's rule (or forward rule) on single elements: a proof for all shapes."""
    definition = lookup(name)
    chosen = definition.samples[0]
    types = [t.with_shape(()) for t in chosen.operands]
    case = instance(name, types, chosen.attributes if attributes is None else attributes)
    assumed = ("off kinks", "operands where the op is defined")
    try:
        holds = holds_exactly(case, forward)
    except (TooLarge, ZeroDivisionError, AttributeError) as problem:
        return _by_field([case], name, str(problem) or type(problem).__name__, forward)
    if holds:
        return Verdict(
            "rule", name, Status.PROVED_ALL, "exact fractions of polynomials",
            "single elements, every cell of its guards", assumed,
        )  # fmt: skip
    return _by_field([case], name, "not an identity of exact fractions", forward)


def _by_field(cases: Sequence[Instance], name: str, reason: str, forward: bool = False) -> Verdict:
    """Every instance over the prime field."""
    for case in cases:
        if forward and not tangent_confirmed(case):
            detail = f"{case}: the forward rule differs from dual numbers"
            return Verdict("rule", name, Status.UNDECIDED, "prime field", detail)
        if not forward and not holds_in_field(case, 1 + len(str(case))):
            return settle_rule(case)
    bound = max(error_bound(case, 1 if forward else POINTS) for case in cases)
    detail = f"{len(cases)} instances, error < 2^{math.ceil(bound)}"
    if reason:
        detail += f" ({reason})"
    return Verdict(
        "rule", name, Status.PROVED_BOUND, "prime field: rule = dual numbers", detail,
        ("off kinks",),
    )  # fmt: skip


def rule_verdict(name: str, cases: Sequence[Instance], forward: bool = False) -> Verdict:
    """The rule (or the forward rule) of one op, at the instances given."""
    definition = lookup(name)
    if definition.is_elementwise or name == "cast":
        attributes = {fingerprint(dict(c.op.attributes)): c.op.attributes for c in cases}
        found = [scalar_verdict(name, a, forward) for a in attributes.values()]
        return max(found, key=lambda v: v.status.rank)
    # A theorem is tried at the shapes at hand as well, so that a fault of the algebra would show.
    general = index_verdict(name, cases, forward)
    at_hand = tangent_confirmed if forward else confirmed
    if general is not None and all(at_hand(case) for case in cases):
        return general
    return _by_field(cases, name, _why_not(definition), forward)


def sampled(name: str) -> list[Instance]:
    """The op at its samples that have elements."""
    return [
        instance(name, s.operands, s.attributes)
        for s in lookup(name).samples
        if all(n > 0 for t in s.operands for n in t.static_shape)
    ]


def sampled_verdict(name: str, forward: bool = False) -> Verdict:
    """The rule of one op at its samples, or why it needs none."""
    used = [case for case in sampled(name) if is_differentiable(case.op)]
    if isinstance(lookup(name).loop, Control):
        return Verdict(
            "rule", name, Status.PROVED_ALL, "no rule of its own",
            "differentiated through its region, see `prove_compose`",
        )  # fmt: skip
    if not used:
        flat = all(is_flat(case) for case in sampled(name))
        return Verdict(
            "rule", name, Status.PROVED_ALL if flat else Status.REFUTED, "locally constant",
            "dual numbers have no tangent" if flat else "dual numbers have a tangent",
            ("off kinks",),
        )  # fmt: skip
    return rule_verdict(name, used, forward)


def all_rules(forward: bool = False) -> Iterator[Verdict]:
    """The rule of every op, at its samples where no proof for all shapes is found."""
    for definition in all_ops():
        yield sampled_verdict(definition.name, forward)
