"""SymPy's opinion on every elementwise op: its partials are the derivatives of its meaning; and on
structural ops.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import sympy as sp

from gradc.codegen.symbolic.sympy.scalars import SympyScalars, symbols_like, sympy_arrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import OpDef, Pointwise, all_ops
from gradc.ir.tensor.core import DType, TensorType
from tests.support.op_cases import ARRAYS, PLAIN_OPS, close

PARTIALS = [
    (definition, position)
    for definition in all_ops()
    for position, partial in enumerate(definition.partials or ())
    if partial is not None
]
# Literals that stand for irrational numbers are rounded to 53 bits: identities with them hold to
# 1e-15.
ROUNDED_LITERALS = {"erf", "gelu"}


class Scalars(SympyScalars):
    """The verbs, with casts that a formula over the reals does not see."""

    def cast(self, x: Any, dtype: DType) -> Any:
        return x


def formulas(definition: OpDef, position: int) -> tuple[Any, Any, list[Any]]:
    """The partial as the op states it, the derivative SymPy finds, and the symbols."""
    sample = definition.samples[0]
    k = Scalars()
    operands: list[Any] = [
        sp.Symbol(f"x{n}", real=True) if t.dtype.is_float else True
        for n, t in enumerate(sample.operands)
    ]
    assert isinstance(definition.loop, Pointwise) and definition.partials is not None
    partial = definition.partials[position]
    assert partial is not None
    y = definition.loop.meaning(k, *operands, **sample.attributes)
    stated = partial.value(k, y, *operands, **sample.attributes)
    return stated, sp.diff(y, operands[position]), operands


@pytest.mark.parametrize("definition, position", PARTIALS, ids=lambda x: getattr(x, "name", str(x)))
def test_partial_is_the_derivative(definition: OpDef, position: int) -> None:
    """Equal at 6 random rational points to 40 digits (1e-15 where a literal is a rounded
    irrational).
    """
    stated, expected, operands = formulas(definition, position)
    source = random.Random(position)
    bound = sp.Float("1e-15") if definition.name in ROUNDED_LITERALS else sp.Float("1e-35")
    for _ in range(6):
        rows = zip(operands, definition.samples[0].ranges, strict=True)
        point = {
            x: sp.Rational(source.randint(int(low * 97), int(high * 97)), 97)
            for x, (low, high) in rows
            if isinstance(x, sp.Symbol)
        }
        assert abs(sp.N((stated - expected).subs(point), 60)) < bound, point


@pytest.mark.parametrize("definition", PLAIN_OPS, ids=lambda d: d.name)
def test_structural_ops_run_on_symbols(definition: OpDef) -> None:
    """What an op does to symbols, numbers put in afterwards, is what it does to numbers."""
    if definition.is_elementwise or definition.name in ("argmax", "argsort"):
        return
    sample = definition.samples[0]
    if any(not t.dtype.is_float for t in sample.operands) and definition.name == "random_bits":
        return
    b = Builder()
    b.apply(definition.name, [b.parameter(t) for t in sample.operands], sample.attributes)
    function = close(b, b.ops[-1].results)
    rng = np.random.default_rng(5)
    symbolic: list[Any] = []
    numbers: list[Any] = []
    values: dict[Any, Any] = {}
    for n, type_ in enumerate(sample.operands):
        drawn: Any
        if type_.dtype.is_float:
            names = symbols_like(f"x{n}", type_.static_shape)
            drawn = rng.integers(-40, 40, type_.static_shape) / 16.0
            values.update(zip(names.flat, (sp.Rational(x) for x in drawn.flat), strict=True))
        else:
            names = drawn = rng.integers(0, 3, type_.static_shape)
        symbolic.append(names)
        numbers.append(drawn)
    (formula,) = run(sympy_arrays(), function, symbolic)
    (number,) = run(ARRAYS, function, numbers)
    found = [float(sp.sympify(f).xreplace(values)) for f in np.asarray(formula, object).flat]
    np.testing.assert_allclose(np.reshape(found, number.shape), number, rtol=1e-14, atol=1e-14)


def test_softmax_cross_entropy_gradient_is_p_minus_y() -> None:
    """A program through the interpreter on formulas: the derivative of its result is softmax minus
    one-hot.
    """
    b = Builder()
    z = b.parameter(TensorType((3,), DType.F64))
    total = b.one("log", b.one("sum", b.one("exp", z), axes=(0,)))
    picked = b.one("slice", z, start=(1,), limit=(2,), stride=(1,))
    loss = b.one("sub", total, b.one("reshape", picked, shape=()))
    symbols = symbols_like("z", (3,))
    (formula,) = run(sympy_arrays(), close(b, [loss]), [symbols])
    powers = [sp.exp(s) for s in symbols]
    for n, s in enumerate(symbols):
        expected = powers[n] / sum(powers) - (1 if n == 1 else 0)
        assert sp.simplify(sp.diff(formula.item(), s) - expected) == 0
