"""SymPy expressions as scalar programs: the way back from SymPy's derivative into our domains.

Every node of an expression becomes verbs: sums and products one operand at a time, powers as
quotients, roots or ``pow``, ``Piecewise`` as selects. Literals of the program stand as symbols, so
that they reach the domains as they were written; what SymPy's own rules bring in is rational, or a
number with pi in it, which becomes the nearest float.

Non-goals: simplification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from gradc.ir.domains.straight import Straight, StraightStep

_FUNCTIONS = {
    "exp": "exp",
    "log": "log",
    "sin": "sin",
    "cos": "cos",
    "tan": "tan",
    "tanh": "tanh",
    "erf": "erf",
    "Floor": "floor",
    "RoundHalfEven": "round",
    "Maximum": "max",
    "Minimum": "min",
    "Signum": "sign",
    "Magnitude": "abs",
    "stop_gradient": "stop_gradient",
}
_RELATIONS = {
    sp.Gt: "gt",
    sp.Ge: "ge",
    sp.Lt: "lt",
    sp.Le: "le",
    sp.Eq: "eq",
    sp.Ne: "ne",
}
# Powers up to this are products.
_MOST_POWER = 16


class Unwritable(Exception):
    """An expression with something in it that no verb says."""


class Writer:
    """Collects the values of one program."""

    def __init__(self, given: Sequence[tuple[str, int]], literals: Sequence[float | bool]) -> None:
        self.given = tuple(given)
        self._literals: dict[tuple[str, str], int] = {}
        self.literals = list(literals)
        self.steps: list[tuple[str, tuple[tuple[str, int], ...]]] = []
        self._made: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[str, int]] = {}

    # A reference is ("given" | "literal" | "step", number) until the counts are known.

    def literal(self, value: float | bool) -> tuple[str, int]:
        """A number."""
        key = (type(value).__name__, value.hex() if isinstance(value, float) else str(value))
        if key not in self._literals:
            self._literals[key] = len(self.literals)
            self.literals.append(value)
        return "literal", self._literals[key]

    def step(self, verb: str, *operands: tuple[str, int]) -> tuple[str, int]:
        """A verb at earlier values; the same step once."""
        key = (verb, operands)
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = ("step", len(self.steps))
            self.steps.append(key)
        return known

    def expression(self, x: Any, known: Mapping[Any, tuple[str, int]]) -> tuple[str, int]:
        """The value of an expression over ``known`` symbols. Raises Unwritable."""
        found = known.get(x)
        if found is not None:
            return found
        if isinstance(x, (bool, int, float)):
            return self.literal(x if isinstance(x, bool) else float(x))
        if x in (sp.true, sp.false):
            return self.literal(bool(x))
        if x.is_number and not x.args:
            return self._number(x)
        if isinstance(x, sp.Add):
            return self._chain("add", x.args, known)
        if isinstance(x, sp.Mul):
            return self._product(x, known)
        if isinstance(x, sp.Pow):
            return self._power(x.base, x.exp, known)
        return self._applied(x, known)

    def _number(self, x: Any) -> tuple[str, int]:
        if isinstance(x, sp.Rational) and x.q != 1:
            if x.q & (x.q - 1) == 0 and float(x) * x.q == x.p:
                return self.literal(float(x))
            above, below = self.literal(float(x.p)), self.literal(float(x.q))
            return self.step("div", above, below)
        return self.literal(float(x))

    def _chain(
        self, verb: str, parts: Sequence[Any], known: Mapping[Any, tuple[str, int]]
    ) -> tuple[str, int]:
        total, *rest = (self.expression(p, known) for p in parts)
        for part in rest:
            total = self.step(verb, total, part)
        return total

    def _product(self, x: Any, known: Mapping[Any, tuple[str, int]]) -> tuple[str, int]:
        numbers = [p for p in x.args if p.is_number]
        others = [p for p in x.args if not p.is_number]
        if any(not isinstance(p, sp.Rational) for p in numbers):
            factor = self.literal(float(sp.Mul(*numbers).evalf(30)))
        elif numbers and sp.Mul(*numbers) == -1 and others:
            return self.step("neg", self._chain("mul", others, known))
        elif numbers:
            factor = self._number(sp.Mul(*numbers))
        else:
            return self._chain("mul", others, known)
        if not others:
            return factor
        return self.step("mul", factor, self._chain("mul", others, known))

    def _power(
        self, base: Any, exponent: Any, known: Mapping[Any, tuple[str, int]]
    ) -> tuple[str, int]:
        if base == sp.E:
            return self.step("exp", self.expression(exponent, known))
        below = self.expression(base, known)
        if not isinstance(exponent, sp.Rational) or exponent.q > 2 or abs(exponent) > _MOST_POWER:
            return self.step("pow", below, self.expression(exponent, known))
        size = abs(exponent)
        factors = [below] * int(size)
        if size.q == 2:
            factors.append(self.step("sqrt", below))
        total, *rest = factors
        for factor in rest:
            total = self.step("mul", total, factor)
        return total if exponent > 0 else self.step("div", self.literal(1.0), total)

    def _applied(self, x: Any, known: Mapping[Any, tuple[str, int]]) -> tuple[str, int]:
        relation = _RELATIONS.get(type(x))
        if relation is not None:
            return self.step(relation, *(self.expression(a, known) for a in x.args))
        if isinstance(x, (sp.And, sp.Or)):
            verb = "logical_and" if isinstance(x, sp.And) else "logical_or"
            return self._chain(verb, x.args, known)
        if isinstance(x, sp.Not):
            return self.step("logical_not", self.expression(x.args[0], known))
        if isinstance(x, sp.Piecewise):
            return self._cases(x, known)
        verb = _FUNCTIONS.get(type(x).__name__, "")
        if not verb:
            raise Unwritable(f"`{type(x).__name__}`")
        return self.step(verb, *(self.expression(a, known) for a in x.args))

    def _cases(self, x: Any, known: Mapping[Any, tuple[str, int]]) -> tuple[str, int]:
        *cases, last = x.args
        if last.cond != sp.true:
            raise Unwritable("cases that leave something out")
        total = self.expression(last.expr, known)
        for case in reversed(cases):
            condition = self.expression(case.cond, known)
            total = self.step("select", condition, self.expression(case.expr, known), total)
        return total

    def finished(self, results: Mapping[str, Sequence[tuple[str, int]]]) -> Straight:
        """The program with these results."""
        start = {"given": 0, "literal": len(self.given)}
        start["step"] = start["literal"] + len(self.literals)
        steps: list[StraightStep] = [
            (verb, tuple(start[kind] + n for kind, n in operands)) for verb, operands in self.steps
        ]
        named = {
            name: tuple(start[kind] + n for kind, n in found) for name, found in results.items()
        }
        return Straight(self.given, tuple(self.literals), tuple(steps), named)
