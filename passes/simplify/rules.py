"""Peephole rules as data: ``"mul(x, 1) => x"`` is the rule, its name and its documentation.

A pattern is an op name with patterns in brackets, a variable, or a number. A number stands for a
``constant`` op of that value; ``0.0`` and ``-0.0`` are one zero each, ``0`` is both. A variable
named ``c``, ``c1``, ``c2`` matches constants only, ``f`` finite constants, ``t`` powers of two
whose inverse is one as well; the same variable twice means the same value. On the right, ops on
constants alone are folded when the rule is applied. Variants that swap the operands of commutative
ops are generated.

Three sets:
- EXACT: both sides give the same bits for every operand, infinities, NaN and both zeros included
  (the sign and payload of a NaN aside, and the sign of a zero that ``gate`` lets through, which it
  does not promise);
- CLOSE: exact on special values, elsewhere within two units in the last place; applied too, because
  the left side is a library function whose last digit means nothing;
- FAST: equal over the reals, but not for NaN, infinities, signed zeros, overflow or rounding.
  ``--fast-math`` only.

``floats`` and ``integers`` rules hold for that kind of element type only. Tests prove every rule
with SymPy over the reals (over the integers where it says so), and try EXACT and CLOSE on special
floats.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, Union

import gradc.ir.ops  # noqa: F401  (fills the registry)
from gradc.ir.ops.registry import lookup

VariableKind: TypeAlias = Literal["any", "floats", "integers"]
Pattern: TypeAlias = Union["Apply", "Variable", "Number"]
_CONSTANTS = frozenset(("c", *(f"c{n}" for n in range(10)), "f", "t"))
_TOKEN = re.compile(r"\s*(?:(?P<name>[a-z_][a-z_0-9]*)|(?P<number>-?[0-9.]+)|(?P<sign>[(),]))")


@dataclass(frozen=True, slots=True)
class Variable:
    """Matches any value; one called c, c1, c2, f or t only constants, of which ``accepts`` says
    more.
    """

    name: str

    @property
    def is_constant(self) -> bool:
        return self.name in _CONSTANTS

    def accepts(self, constant: float | bool) -> bool:
        """Whether a variable for constants may stand for this one."""
        if self.name == "f":
            return math.isfinite(constant)
        if self.name == "t":
            # The exponents that f16 and all wider types have, in both directions.
            fraction, exponent = math.frexp(constant)
            return abs(fraction) == 0.5 and -13 <= exponent <= 14
        return True


@dataclass(frozen=True, slots=True)
class Number:
    """Matches the constant with this text, such as ``1``, ``-0.0``."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)


@dataclass(frozen=True, slots=True)
class Apply:
    """Matches the result of an op."""

    op: str
    operands: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """``left => right``; ``text`` is the rule as written, ``left`` one of its commutative
    variants.
    """

    text: str
    left: Apply
    right: Pattern
    kind: VariableKind

    def may_match(self, forms: Sequence[str | bool | None]) -> bool:
        """Whether operands of these forms leave a chance: of each the name of the op that makes it,
        True if it is a constant, None if nothing is known.
        """
        parts = zip(self.left.operands, forms, strict=True)
        return all(_may_match(part, form) for part, form in parts)


def _may_match(part: Pattern, form: str | bool | None) -> bool:
    if isinstance(part, Apply):
        return form == part.op
    return form is True or (isinstance(part, Variable) and not part.is_constant)


def parse_rule(text: str, kind: VariableKind) -> tuple[Rule, ...]:
    """The rule and its commutative variants. Raises ValueError for text that is no rule."""
    sides = text.split("=>")
    if len(sides) != 2:
        raise ValueError(f"{text!r} is not a rule")
    left, right = (_parse(side) for side in sides)
    if not isinstance(left, Apply):
        raise ValueError(f"the left side of {text!r} must be an op")  # noqa: TRY004 (bad text)
    unbound = set(variables(right)) - set(variables(left))
    if unbound:
        raise ValueError(f"{sorted(unbound)} in {text!r} are not bound on the left")
    return tuple(Rule(text, variant, right, kind) for variant in _variants(left))


def rules(*texts: str, kind: VariableKind = "any") -> tuple[Rule, ...]:
    """The rules of ``texts`` with their commutative variants, in order."""
    return tuple(rule for text in texts for rule in parse_rule(text, kind))


def variables(pattern: Pattern) -> tuple[str, ...]:
    """Names of the variables, in order of first occurrence."""
    found: dict[str, None] = {}
    stack = [pattern]
    while stack:
        item = stack.pop()
        if isinstance(item, Variable):
            found[item.name] = None
        elif isinstance(item, Apply):
            stack += reversed(item.operands)
    return tuple(found)


def _parse(text: str) -> Pattern:
    tokens: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"{text[position:]!r} is not a pattern")
        tokens.append(found.group().strip())
        position = found.end()
    pattern, end = _parse_at(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"{text!r} is more than one pattern")
    return pattern


def _parse_at(tokens: list[str], at: int) -> tuple[Pattern, int]:
    token = tokens[at]
    if not re.match(r"[a-z_]", token):
        return Number(token), at + 1
    if at + 1 == len(tokens) or tokens[at + 1] != "(":
        return Variable(token), at + 1
    operands: list[Pattern] = []
    at += 2
    while True:
        operand, at = _parse_at(tokens, at)
        operands.append(operand)
        if tokens[at] == ")":
            return Apply(token, tuple(operands)), at + 1
        at += 1


def _variants(pattern: Pattern) -> Iterator[Apply]:
    """``pattern`` with the operands of commutative ops in every order, without repeats up to
    renaming.
    """
    seen: set[Pattern] = set()
    for variant in _orders(pattern):
        if variant not in seen and isinstance(variant, Apply):
            seen.add(variant)
            yield variant


def _orders(pattern: Pattern) -> Iterator[Pattern]:
    if not isinstance(pattern, Apply):
        yield pattern
        return
    for operands in itertools.product(*(list(_orders(p)) for p in pattern.operands)):
        yield Apply(pattern.op, operands)
        if lookup(pattern.op).commutative:
            yield Apply(pattern.op, (operands[1], operands[0]))


EXACT = (
    *rules(
        "mul(x, 1) => x",
        "div(x, 1) => x",
        "neg(neg(x)) => x",
        "sub(x, neg(y)) => add(x, y)",
        "add(x, neg(y)) => sub(x, y)",
        "mul(neg(x), neg(y)) => mul(x, y)",
        "mul(neg(x), y) => neg(mul(x, y))",
        "abs(neg(x)) => abs(x)",
        "abs(abs(x)) => abs(x)",
        "max(x, x) => x",
        "min(x, x) => x",
        "logical_not(logical_not(x)) => x",
        "logical_and(x, x) => x",
        "logical_or(x, x) => x",
        "select(p, x, x) => x",
        "select(logical_not(p), x, y) => select(p, y, x)",
        "select(p, select(p, x, y), z) => select(p, x, z)",
        "select(p, x, select(p, y, z)) => select(p, x, z)",
    ),
    *rules(
        "add(x, -0.0) => x",
        "sub(x, 0.0) => x",
        "sub(-0.0, x) => neg(x)",
        "mul(x, -1) => neg(x)",
        "div(x, -1) => neg(x)",
        "div(neg(x), neg(y)) => div(x, y)",
        "div(neg(x), y) => neg(div(x, y))",
        "div(x, neg(y)) => neg(div(x, y))",
        "div(x, t) => mul(x, div(1, t))",
        "pow(x, 1) => x",
        "pow(x, 0) => 1",
        "pow(1, x) => 1",
        "gate(x, f) => mul(x, f)",
        "gate(1, x) => x",
        "gate(neg(x), neg(y)) => gate(x, y)",
        "relu(relu(x)) => relu(x)",
        "floor(floor(x)) => floor(x)",
        "round(round(x)) => round(x)",
        "sign(sign(x)) => sign(x)",
        "cos(neg(x)) => cos(x)",
        kind="floats",
    ),
    *rules(
        "add(x, 0) => x",
        "sub(x, 0) => x",
        "mul(x, 0) => 0",
        "sub(x, x) => 0",
        "add(add(x, c1), c2) => add(x, add(c1, c2))",
        "mul(mul(x, c1), c2) => mul(x, mul(c1, c2))",
        kind="integers",
    ),
)

CLOSE = rules(
    "pow(x, 2) => mul(x, x)",
    "pow(x, 3) => mul(mul(x, x), x)",
    "pow(x, -1) => div(1, x)",
    kind="floats",
)

FAST = rules(
    "add(x, 0) => x",
    "mul(x, 0) => 0",
    "sub(0, x) => neg(x)",
    "sub(x, x) => 0",
    "add(x, neg(x)) => 0",
    "div(x, x) => 1",
    "neg(sub(x, y)) => sub(y, x)",
    "gate(x, y) => mul(x, y)",
    "exp(log(x)) => x",
    "log(exp(x)) => x",
    "mul(sqrt(x), sqrt(x)) => x",
    "pow(x, 0.5) => sqrt(x)",
    "pow(x, -0.5) => rsqrt(x)",
    "div(1, sqrt(x)) => rsqrt(x)",
    "div(y, sqrt(x)) => mul(y, rsqrt(x))",
    "mul(exp(x), exp(y)) => exp(add(x, y))",
    "mul(div(x, y), y) => x",
    "div(mul(x, y), y) => x",
    "div(x, c) => mul(x, div(1, c))",
    "add(add(x, c1), c2) => add(x, add(c1, c2))",
    "mul(mul(x, c1), c2) => mul(x, mul(c1, c2))",
    kind="floats",
)
