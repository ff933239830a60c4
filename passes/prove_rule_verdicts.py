"""Verdicts on derivative rules: of the ops a program uses, and of every op there is.

The order of methods: exact fractions for elementwise ops, the index algebra for linear ops between axes, a prime field
at the instances at hand, balls to refute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gradc.ir.equal import fingerprint
from gradc.ir.registry import all_ops, lookup
from gradc.passes.prove_exact import TooLarge
from gradc.passes.prove_index import index_verdict
from gradc.passes.prove_refute_rule import settle_rule
from gradc.passes.prove_report import Status, Verdict
from gradc.passes.prove_rules import (
    REGION_OPS,
    Instance,
    error_bound,
    holds_exactly,
    holds_in_field,
    instance,
    is_differentiable,
)

# Why some rules are not proved for all shapes.
REASONS = {
    "reshape": "a general reshape is taken at its sizes",
    "conv2d": "groups are no linear index",
    "conv2d_input": "groups are no linear index",
    "conv2d_filter": "groups are no linear index",
    "avg_pool": "written as padded slices, whose windows the index algebra does not merge",
    "max_pool": "not linear: the winner of each window",
    "reduce_max": "not linear: a mask of winners; every mask at once",
    "reduce_min": "not linear: a mask of winners; every mask at once",
    "prod": "not linear",
}


def scalar_verdict(name: str, attributes: Any = None) -> Verdict:
    """An elementwise op, on single elements: a proof for all shapes."""
    definition = lookup(name)
    chosen = definition.samples[0]
    types = [t.with_shape(()) for t in chosen.operands]
    case = instance(name, types, chosen.attributes if attributes is None else attributes)
    assumed = ("off kinks", "operands where the op is defined")
    try:
        holds = holds_exactly(case)
    except (TooLarge, ZeroDivisionError, AttributeError) as problem:
        return _by_field([case], name, str(problem) or type(problem).__name__)
    if holds:
        return Verdict(
            "rule", name, Status.PROVED_ALL, "exact fractions of polynomials",
            "single elements, every cell of its guards", assumed,
        )  # fmt: skip
    return _by_field([case], name, "not an identity of exact fractions")


def _by_field(cases: Sequence[Instance], name: str, reason: str) -> Verdict:
    """Every instance over the prime field."""
    for case in cases:
        holds = holds_in_field(case, 1 + len(str(case)))
        if not holds:
            return settle_rule(case)
    bound = max(error_bound(case) for case in cases)
    detail = f"{len(cases)} instances, error < 2^{math.ceil(bound)}"
    if reason:
        detail += f" ({reason})"
    return Verdict(
        "rule", name, Status.PROVED_BOUND, "prime field: rule = dual numbers", detail,
        ("off kinks",),
    )  # fmt: skip


def rule_verdict(name: str, cases: Sequence[Instance]) -> Verdict:
    """The rule of one op, at the instances given."""
    definition = lookup(name)
    if definition.is_elementwise or name == "cast":
        attributes = {fingerprint(dict(c.op.attributes)): c.op.attributes for c in cases}
        found = [scalar_verdict(name, attributes=a) for a in attributes.values()]
        return max(found, key=lambda v: v.status.rank)
    general = index_verdict(name, cases)
    # A theorem is tried at the shapes at hand as well, so that a fault of the algebra would show.
    if general is not None and all(holds_in_field(case, 1 + len(str(case)), 1) for case in cases):
        return general
    return _by_field(cases, name, REASONS.get(name, "sizes as they are"))


def all_rules() -> Iterator[Verdict]:
    """The rule of every op, at its samples where no proof for all shapes is found."""
    for definition in all_ops():
        cases = [
            instance(definition.name, s.operands, s.attributes)
            for s in definition.samples
            if all(n > 0 for t in s.operands for n in t.static_shape)
        ]
        used = [c for c in cases if is_differentiable(c.op)]
        if definition.name in REGION_OPS:
            yield Verdict(
                "rule", definition.name, Status.PROVED_ALL, "no rule of its own",
                "differentiated through its region, see `prove_compose`",
            )  # fmt: skip
        elif not used:
            yield Verdict(
                "rule", definition.name, Status.PROVED_ALL, "locally constant",
                "its derivative is zero wherever it has one", ("off kinks",),
            )  # fmt: skip
        else:
            yield rule_verdict(definition.name, used)
