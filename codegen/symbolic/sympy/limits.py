"""What happens at a hazard, by SymPy's limits: the value and the derivative as the argument goes to
where it is dangerous.

Each kind of hazard is one function of one argument and the edge of its domain. A limit that is not
finite confirms the hazard; of a value that stays finite it says what to put there.

Non-goals: finding hazards (``passes/hazards``), compositions: limits are those of the op itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp


@dataclass(frozen=True, slots=True)
class Edge:
    """``region``: where it happens; ``value`` and ``slope``: the limits there, as text (``oo`` is
    infinity).
    """

    region: str
    formula: str
    value: str
    slope: str

    @property
    def is_confirmed(self) -> bool:
        """Whether a limit is infinite, or differs from the two sides."""
        return any("oo" in x or "/" in x for x in (self.value, self.slope))

    def __str__(self) -> str:
        return (
            f"{self.region}: there {self.formula} -> {self.value}, and its derivative -> "
            f"{self.slope}"
        )


@dataclass(frozen=True, slots=True)
class _Case:
    region: str
    formula: str
    function: Callable[[Any], Any]
    at: Any = 0
    is_two_sided: bool = False


_CASES: Mapping[str, _Case] = {
    "sqrt at 0": _Case("where the argument x is 0", "sqrt(x)", sp.sqrt),
    "sqrt of a negative number": _Case(
        "where the argument x is below 0 there is no value; at 0", "sqrt(x)", sp.sqrt
    ),
    "rsqrt at 0": _Case("where the argument x is 0", "1 / sqrt(x)", lambda x: 1 / sp.sqrt(x)),
    "log at 0": _Case("where the argument x is 0 or rounds to 0", "log(x)", sp.log),
    "log of a negative number": _Case(
        "where the argument x is below 0 there is no value; at 0", "log(x)", sp.log
    ),
    "power of a negative number": _Case(
        "where the base x is below 0 there is no value unless the exponent is whole; at 0",
        "x^(1/3)", lambda x: x ** sp.Rational(1, 3),
    ),
    "log of a softmax": _Case("where the probability x rounds to 0", "log(x)", sp.log),
    "0 * log(0)": _Case("where x is 0 or rounds to 0", "x log(x)", lambda x: x * sp.log(x)),
    "division by 0": _Case("where the divisor x is 0", "1 / x", lambda x: 1 / x, 0, True),
    "power at 0": _Case(
        "where the base x is 0, for exponents below 1 such as 1/3", "x^(1/3)",
        lambda x: x ** sp.Rational(1, 3),
    ),
    "exp overflow": _Case(
        "where the argument x is above 88.7 in f32, 709.7 in f64", "exp(x)", sp.exp, sp.oo
    ),
}  # fmt: skip


@cache
def edge(kind: str) -> Edge | None:
    """The limits at hazards of ``kind``; None for a kind that is not known."""
    case = _CASES.get(kind)
    if case is None:
        return None
    x = sp.Symbol("x", real=True)
    value = case.function(x)
    return Edge(
        case.region, case.formula, _limit(value, x, case), _limit(sp.diff(value, x), x, case)
    )


def _limit(expression: Any, x: Any, case: _Case) -> str:
    """The limit from above, and from below where that is another."""
    found = [sp.limit(expression, x, case.at, "+" if case.at == 0 else "-")]
    if case.is_two_sided:
        found.append(sp.limit(expression, x, case.at, "-"))
    return " / ".join(dict.fromkeys(str(limit) for limit in found))
