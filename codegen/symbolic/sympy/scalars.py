"""SymPy as a scalar domain of the reference interpreter: ``ObjectArrays(SympyScalars())`` runs
programs on formulas.

Expressions are built from IR only, never from text, over real symbols that the caller makes.
Literals are exact: a float is the rational number it is. Comparisons that SymPy decides are Python
booleans, others stay symbolic and ``select`` makes a ``Piecewise``. Numbers are real, so NaN,
signed zeros and rounding are out of sight; ``gate`` is the plain product.

Importing SymPy takes a third of a second: import this module only where formulas are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy as sp

from gradc.ir.domains.arrays import ObjectArrays
from gradc.ir.tensor.core import DType


def _flat_function(name: str, on_numbers: Callable[[Any], int]) -> Any:
    """A function that is evaluated on numbers, opaque on symbols, and flat everywhere.

    SymPy's own ``floor`` has a derivative that SymPy leaves unevaluated.
    """

    def evaluate(_cls: Any, x: Any) -> Any:
        return sp.Integer(on_numbers(sp.Rational(x))) if x.is_Rational else None

    def slope(_self: Any, _argindex: int = 1) -> Any:
        return sp.Integer(0)

    return type(name, (sp.Function,), {"eval": classmethod(evaluate), "fdiff": slope})


Floor = _flat_function("Floor", math.floor)
RoundHalfEven = _flat_function("RoundHalfEven", round)


def _decided(relation: Any) -> Any:
    if relation in (sp.true, sp.false):
        return bool(relation)
    return relation


def _relation(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    def compare(self: SympyScalars, a: Any, b: Any) -> Any:
        return _decided(make(a, b))

    return compare


class SympyScalars:
    """The scalar verbs over SymPy expressions (``Algebra`` of ``ir/tensor/algebra.py``)."""

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        """The exact number that ``value`` is."""
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return sp.Integer(value)
        if math.isnan(value):
            return sp.nan
        if math.isinf(value):
            return sp.oo if value > 0 else -sp.oo
        return sp.Rational(*value.as_integer_ratio())

    def truncate(self, x: Any, dtype: DType) -> int:
        """A number cast to an integer. Raises ValueError for an expression that is not a number."""
        if not x.is_number:
            raise ValueError(f"the integer part of {x} depends on symbols")
        return int(x)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def pow(self, a: Any, b: Any) -> Any:
        return a**b

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def gate(self, ct: Any, partial: Any) -> Any:
        return ct * partial

    def max(self, a: Any, b: Any) -> Any:
        return sp.Max(a, b)

    def min(self, a: Any, b: Any) -> Any:
        return sp.Min(a, b)

    def neg(self, x: Any) -> Any:
        return -x

    def abs(self, x: Any) -> Any:
        return sp.Abs(x)

    def sign(self, x: Any) -> Any:
        return sp.sign(x)

    def floor(self, x: Any) -> Any:
        return Floor(x)

    def round(self, x: Any) -> Any:
        return RoundHalfEven(x)

    def sqrt(self, x: Any) -> Any:
        return sp.sqrt(x)

    def rsqrt(self, x: Any) -> Any:
        return 1 / sp.sqrt(x)

    def exp(self, x: Any) -> Any:
        return sp.exp(x)

    def expm1(self, x: Any) -> Any:
        return sp.exp(x) - 1

    def log(self, x: Any) -> Any:
        return sp.log(x)

    def log1p(self, x: Any) -> Any:
        return sp.log(1 + x)

    def sin(self, x: Any) -> Any:
        return sp.sin(x)

    def cos(self, x: Any) -> Any:
        return sp.cos(x)

    def tan(self, x: Any) -> Any:
        return sp.tan(x)

    def tanh(self, x: Any) -> Any:
        return sp.tanh(x)

    def erf(self, x: Any) -> Any:
        return sp.erf(x)

    eq = _relation(sp.Eq)
    ne = _relation(sp.Ne)
    lt = _relation(sp.Lt)
    le = _relation(sp.Le)
    gt = _relation(sp.Gt)
    ge = _relation(sp.Ge)

    def logical_and(self, a: Any, b: Any) -> Any:
        return _decided(sp.And(a, b))

    def logical_or(self, a: Any, b: Any) -> Any:
        return _decided(sp.Or(a, b))

    def logical_not(self, x: Any) -> Any:
        return _decided(sp.Not(x))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        return a if a == b else sp.Piecewise((a, condition), (b, True))

    def stop_gradient(self, x: Any) -> Any:
        return x


def sympy_arrays() -> ObjectArrays:
    """The array domain of SymPy expressions."""
    return ObjectArrays(SympyScalars())


def symbols_like(name: str, shape: tuple[int, ...]) -> Any:
    """An array of distinct real symbols ``name_0``, ``name_1``, ... in row-major order."""
    count = math.prod(shape)
    flat = [sp.Symbol(f"{name}_{i}", real=True) for i in range(count)]
    return ObjectArrays.objects(flat, shape)
