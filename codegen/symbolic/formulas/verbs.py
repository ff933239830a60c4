"""The verbs in the algebra of formulas: ``VERBS[verb](*formulas)``.

A verb that is not here stays a function with its name. Identities are those of the reals where both
sides are defined; exponentials and logarithms are taken apart so that they meet and cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.terms import Poly


def _power(base: Poly, exponent: Poly) -> Poly:
    if len(exponent) == 1 and not exponent[0].factors:
        return it.power(base, exponent[0].coefficient)
    return it.single(it.Call("pow", (base, exponent)))


def exponential(poly: Poly) -> Poly:
    """e to the ``poly``: a product over its terms, so that constant shifts cancel."""
    factors = []
    for term in poly:
        base, exponent = term, Fraction(1)
        if term.coefficient.denominator == 1 and term.factors:
            base, exponent = it.Monomial(Fraction(1), term.factors), term.coefficient
        head = term.factors[0][0] if len(term.factors) == 1 else None
        if isinstance(head, it.Call) and head.name == "log" and term.factors[0][1] == 1:
            factors.append(it.power(head.arguments[0], exponent))
        elif isinstance(head, it.Call) and head.name == "softplus" and term.factors[0][1] == 1:
            grown = it.plus(it.ONE, exponential(head.arguments[0]))
            factors.append(it.power(grown, exponent))
        else:
            factors.append(it.single(it.Call("exp", ((base,),)), exponent))
    return it.times(it.ONE, *factors)


def _logarithm(poly: Poly) -> Poly:
    """The logarithm; of a product with exponentials and their sums it is taken factor by factor."""
    if len(poly) != 1 or poly[0].coefficient != 1:
        return it.single(it.Call("log", (poly,)))
    factors = poly[0].factors
    if len(factors) == 1 and factors[0][1] == 1 and not _is_exponential(factors[0][0]):
        return it.single(it.Call("log", (poly,)))
    if not all(_is_exponential(b) or _is_sum_of_exponentials(b) for b, _ in factors):
        return it.single(it.Call("log", (poly,)))
    parts = []
    for base, exponent in factors:
        if isinstance(base, it.Call) and base.name == "exp":
            parts.append(it.scaled(base.arguments[0], exponent))
        else:
            parts.append(it.scaled(it.single(it.Call("log", (it.single(base),))), exponent))
    return it.plus(*parts)


def _is_exponential(base: it.Base) -> bool:
    return isinstance(base, it.Call) and base.name == "exp"


def _is_sum_of_exponentials(base: it.Base) -> bool:
    return isinstance(base, it.Sigma) and all(_is_exponential(b) for b, _ in base.factors)


def _divided(a: Poly, b: Poly) -> Poly:
    return it.times(a, it.power(b, -1))


VERBS: Final[Mapping[str, Callable[..., Poly]]] = {
    "add": it.plus,
    "sub": it.minus,
    "mul": it.times,
    "gate": it.times,
    "neg": lambda x: it.scaled(x, -1),
    "div": _divided,
    "fma": lambda a, b, c: it.plus(it.times(a, b), c),
    "sqrt": lambda x: it.power(x, Fraction(1, 2)),
    "rsqrt": lambda x: it.power(x, Fraction(-1, 2)),
    "pow": _power,
    "exp": exponential,
    "log": _logarithm,
    "log1p": lambda x: _logarithm(it.plus(it.ONE, x)),
    "expm1": lambda x: it.minus(exponential(x), it.ONE),
}
