"""SymPy's opinion on the partial derivatives of elementwise ops: it differentiates each op's
meaning by itself.

An independent table of derivatives beside that of ``ir/domains/dual.py``. The difference of what an
op states and what SymPy finds is simplified; what does not become zero is evaluated at rational
points, to 50 digits.

Importing SymPy takes a third of a second: import this module only where it is wanted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp

from gradc.codegen.symbolic.sympy.scalars import SympyScalars
from gradc.ir.ops.registry import OpDef, Pointwise, lookup
from gradc.ir.tensor.core import DType

_POINTS = 6
# What rounding of literals (2 / sqrt(pi) in 53 bits) may explain, and what nothing explains.
_OF_LITERALS = sp.Float("1e-15")
_EQUAL = sp.Float("1e-35")


@dataclass(frozen=True, slots=True)
class Opinion:
    """``kind`` is "equal" (simplified to zero), "equal at points", "up to rounded literals", or
    "differs".
    """

    kind: str
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.kind != "differs"


class _Scalars(SympyScalars):
    """The verbs, with casts that a formula over the reals does not see."""

    def cast(self, x: Any, dtype: DType) -> Any:
        return x


@cache
def sympy_opinion(name: str) -> Opinion | None:
    """On all partials of an elementwise op; None for other ops and for ops without a derivative."""
    definition = lookup(name)
    places = [n for n, p in enumerate(definition.partials or ()) if p is not None]
    if not places:
        return None
    found = [_opinion(definition, place) for place in places]
    order = ("equal", "equal at points", "up to rounded literals", "differs")
    return max(found, key=lambda o: order.index(o.kind))


def _opinion(definition: OpDef, place: int) -> Opinion:
    sample = definition.samples[0]
    k = _Scalars()
    operands: list[Any] = [
        sp.Symbol(f"x{n}", real=True) if t.dtype.is_float else True
        for n, t in enumerate(sample.operands)
    ]
    assert isinstance(definition.loop, Pointwise) and definition.partials is not None
    partial = definition.partials[place]
    assert partial is not None
    y = definition.loop.meaning(k, *operands, **sample.attributes)
    difference = partial.value(k, y, *operands, **sample.attributes) - sp.diff(y, operands[place])
    if difference == 0 or sp.expand(difference) == 0:
        return Opinion("equal")
    source = random.Random(place)
    worst = sp.Float(0)
    for _ in range(_POINTS):
        point = {
            x: sp.Rational(source.randint(int(low * 97), int(high * 97)), 97)
            for x, (low, high) in zip(operands, sample.ranges, strict=True)
            if isinstance(x, sp.Symbol)
        }
        worst = max(worst, abs(sp.N(difference.subs(point), 60)))
    if worst < _EQUAL:
        return Opinion("equal at points", f"{_POINTS} points, 35 digits")
    if worst < _OF_LITERALS:
        return Opinion("up to rounded literals", f"{_POINTS} points, {sp.N(worst, 2)}")
    return Opinion("differs", f"by {sp.N(worst, 3)}")
