"""Every peephole rule: proved by SymPy over the reals, tried on special floats, and seen to fire
where it should.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.simplify.rules import (
    CLOSE,
    EXACT,
    FAST,
    Apply,
    Number,
    Pattern,
    Rule,
    Variable,
    parse_rule,
    variables,
)
from gradc.passes.simplify.simplify import simplify

ALL = (*EXACT, *CLOSE, *FAST)
# One row per rule as written; variants differ in operand order only.
WRITTEN = tuple({(rule.text, rule.kind): rule for rule in reversed(ALL)}.values())
SPECIAL = (
    0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.7, 1e308, -1e308, 1e-308, 5e-324, -5e-324, 1e-160,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


def booleans_of(pattern: Pattern) -> set[str]:
    """The variables that stand where a condition is expected."""
    found: set[str] = set()
    stack = [pattern]
    while stack:
        item = stack.pop()
        if isinstance(item, Apply):
            for number, operand in enumerate(item.operands):
                is_condition = (item.op == "select" and number == 0) or item.op.startswith(
                    "logical"
                )
                if is_condition and isinstance(operand, Variable):
                    found.add(operand.name)
                stack.append(operand)
    return found


# --- proofs over the reals ------------------------------------------------------------------------

_SYMPY: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "gate": lambda a, b: a * b,
    "pow": lambda a, b: a**b,
    "max": sympy.Max,
    "min": sympy.Min,
    "neg": lambda a: -a,
    "abs": sympy.Abs,
    "sqrt": sympy.sqrt,
    "rsqrt": lambda a: 1 / sympy.sqrt(a),
    "exp": sympy.exp,
    "log": sympy.log,
    "cos": sympy.cos,
    "relu": lambda a: sympy.Max(a, 0),
    "floor": sympy.floor,
    # Half to even and half up agree but at halves, which `floor` of an integer never meets.
    "round": lambda a: sympy.floor(a + sympy.Rational(1, 2)),
    "sign": sympy.sign,
    "select": lambda p, a, b: sympy.Piecewise((a, p), (b, True)),
    "logical_not": sympy.Not,
    "logical_and": sympy.And,
    "logical_or": sympy.Or,
}


def as_sympy(pattern: Pattern, symbols: dict[str, Any]) -> Any:
    if isinstance(pattern, Variable):
        return symbols[pattern.name]
    if isinstance(pattern, Number):
        return sympy.Rational(pattern.text)
    return _SYMPY[pattern.op](*(as_sympy(p, symbols) for p in pattern.operands))


@pytest.mark.parametrize("rule", WRITTEN, ids=lambda r: f"{r.text} ({r.kind})")
def test_proved_over_the_reals(rule: Rule) -> None:
    """Both sides are the same expression; roots, logarithms and quotients on positive operands."""
    conditions = booleans_of(rule.left)
    needs_positive = any(word in rule.text for word in ("sqrt", "log", "pow", "div"))
    kinds = {"positive": True} if needs_positive else {"real": True}
    if rule.kind == "integers":
        kinds = {"integer": True}
    symbols = {
        name: sympy.Symbol(name) if name in conditions else sympy.Symbol(name, **kinds)
        for name in variables(rule.left)
    }
    left, right = as_sympy(rule.left, symbols), as_sympy(rule.right, symbols)
    if conditions:
        for truth in (sympy.true, sympy.false):
            values = {symbols[name]: truth for name in conditions}
            assert left.subs(values) == right.subs(values)
    else:
        assert sympy.simplify(left - right) == 0


def test_the_prover_rejects_wrong_rules() -> None:
    for text in ("sub(x, neg(y)) => sub(x, y)", "div(neg(x), y) => div(x, y)", "pow(x, 2) => x"):
        (rule, *_) = parse_rule(text, "floats")
        with pytest.raises(AssertionError):
            test_proved_over_the_reals(rule)


# --- special floats -------------------------------------------------------------------------------


def evaluate(pattern: Pattern, values: dict[str, Any], dtype: DType) -> Any:
    """``pattern`` in machine numbers, op by op."""
    if isinstance(pattern, Variable):
        return values[pattern.name]
    if isinstance(pattern, Number):
        number = float(pattern.text) if dtype.is_float else int(pattern.text)
        return np.asarray(number, NumpyArrays.dtype(dtype))
    operands = [evaluate(p, values, dtype) for p in pattern.operands]
    b = Builder()
    parameters = [
        b.parameter(TensorType((), DType.BOOL if x.dtype == np.bool_ else dtype)) for x in operands
    ]
    result = b.one(pattern.op, *parameters)
    slots = [Slot(f"x{i}", Role.INPUT) for i in range(len(operands))]
    function = b.function("f", [result], slots, [Slot("y", Role.OUTPUT)])
    return np.asarray(run(NumpyArrays(), function, operands)[0])


def same_bits(a: Any, b: Any, ulps: int, zero_sign_counts: bool) -> bool:
    if np.isnan(a) or np.isnan(b):
        return bool(np.isnan(a) and np.isnan(b))
    if a == b:
        return bool(a != 0 or not zero_sign_counts or np.signbit(a) == np.signbit(b))
    if not (np.isfinite(a) and np.isfinite(b)):
        return False
    return bool(abs(a - b) <= ulps * np.spacing(np.maximum(abs(a), abs(b))))


CONSTANTS = {
    "f": st.floats(-1e3, 1e3),
    "t": st.builds(lambda e, s: s * 2.0**e, st.integers(-14, 13), st.sampled_from([1.0, -1.0])),
}
numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(width=64), st.floats(-10, 10))


@pytest.mark.parametrize(
    "rule", [r for r in (*EXACT, *CLOSE) if r.kind != "integers"], ids=lambda r: str(r.left)
)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([DType.F64, DType.F32]))
def test_exact_on_special_floats(rule: Rule, data: st.DataObject, dtype: DType) -> None:
    """EXACT rules keep every bit; CLOSE ones two units in the last place, and special values."""
    conditions = booleans_of(rule.left)
    if rule.left.op.startswith("logical"):
        conditions = set(variables(rule.left))
    values: dict[str, Any] = {}
    kind = NumpyArrays.dtype(dtype)
    for name in variables(rule.left):
        if name in conditions:
            values[name] = np.asarray(data.draw(st.booleans()))
        else:
            drawn = data.draw(CONSTANTS.get(name, numbers))
            with np.errstate(all="ignore"):
                values[name] = np.asarray(drawn).astype(kind)
    left, right = (evaluate(side, values, dtype) for side in (rule.left, rule.right))
    if conditions == set(values):
        assert left == right
        return
    ulps = 2 if rule in CLOSE else 0
    assert same_bits(left, right, ulps, "gate" not in rule.text), (rule.text, values, left, right)


@pytest.mark.parametrize(
    "rule", [r for r in EXACT if r.kind == "integers"], ids=lambda r: str(r.left)
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_exact_on_integers(rule: Rule, data: st.DataObject) -> None:
    """Integers wrap, so the rules hold for all of them."""
    drawn = {n: data.draw(st.integers(-(2**31), 2**31 - 1)) for n in variables(rule.left)}
    values = {n: np.asarray(v, np.int32) for n, v in drawn.items()}
    with np.errstate(all="ignore"):
        assert evaluate(rule.left, values, DType.I32) == evaluate(rule.right, values, DType.I32)


# --- firing ---------------------------------------------------------------------------------------


def left_as_function(rule: Rule) -> tuple[Function, list[Any]]:
    """The left side as a program on tensors, and arguments for it."""
    dtype = DType.I32 if rule.kind == "integers" else DType.F64
    conditions = booleans_of(rule.left)
    b = Builder()
    source = np.random.default_rng(7)
    values: dict[str, Value] = {}
    arguments: list[Any] = []
    slots: list[Slot] = []
    for number, name in enumerate(variables(rule.left)):
        if Variable(name).is_constant:
            constant = 8.0 if name == "t" else number + 1.5
            values[name] = b.constant(number + 2 if dtype is DType.I32 else constant, dtype, (4,))
            continue
        own = DType.BOOL if name in conditions else dtype
        values[name] = b.parameter(TensorType((4,), own), name)
        slots.append(Slot(name, Role.INPUT))
        drawn = source.uniform(0.5, 3.0, 4) if own.is_float else source.integers(0, 2, 4)
        arguments.append(drawn.astype(NumpyArrays.dtype(own)))

    def build(pattern: Pattern) -> Value:
        if isinstance(pattern, Variable):
            return values[pattern.name]
        if isinstance(pattern, Number):
            number = float(pattern.text) if dtype.is_float else int(pattern.text)
            return b.constant(number, dtype, (4,))
        return b.one(pattern.op, *(build(p) for p in pattern.operands))

    result = build(rule.left)
    return b.function("f", [result], slots, [Slot("y", Role.OUTPUT)]), arguments


@pytest.mark.parametrize("rule", ALL, ids=lambda r: f"{r.left} {r.kind}")
def test_rules_fire_and_keep_the_value(rule: Rule) -> None:
    """Every variant of every rule is reached: the left side changes, and its value does not."""
    function, arguments = left_as_function(rule)
    hits: Counter[str] = Counter()
    simpler = simplify(function, fast_math=rule in FAST, hits=hits)
    assert simpler is not function
    before, after = (run(NumpyArrays(), f, arguments)[0] for f in (function, simpler))
    np.testing.assert_allclose(before, after, rtol=1e-14)
    again = simplify(simpler, fast_math=rule in FAST)
    assert again is simpler, "one run reaches the fixed point"


@pytest.mark.parametrize("rule", FAST, ids=lambda r: str(r.left))
def test_fast_rules_are_off_by_default(rule: Rule) -> None:
    function, _ = left_as_function(rule)
    hits: Counter[str] = Counter()
    simplify(function, hits=hits)
    exact = {r.text for r in (*EXACT, *CLOSE)}
    assert not {text for text in hits if text in {r.text for r in FAST}} - exact


def test_bad_rules_are_refused() -> None:
    for text in ("mul(x, 1)", "x => mul(x, 1)", "neg(x) => y", "neg(x)) => x", "neg(?) => 1"):
        with pytest.raises(ValueError):
            parse_rule(text, "any")
