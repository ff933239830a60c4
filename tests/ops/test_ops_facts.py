"""What is known of an op stands at the op, all of it, and it is so.

Every op goes through every consumer of facts: differentiation, linearisation, intervals, elements
for every shape, axes, interpreter, dual numbers, loops, text, formulas, SymPy, the page of ops. A
fact is stated, or its absence is, with the reason (``OpDef.without``); what is missing is named
with the file to edit. Facts that can be tried are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.codegen.symbolic.formulas.expand import Reader
from gradc.codegen.symbolic.sympy.scalars import symbols_like, sympy_arrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops import registry
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.interval import Bounds, Condition, Interval
from gradc.ir.ops.page import row
from gradc.ir.ops.registry import (
    ByIndex,
    Control,
    Nest,
    OpDef,
    Pointwise,
    SumOfProducts,
    TypeRuleError,
    all_ops,
    lookup,
    zero_vjp,
)
from gradc.ir.ops.traits import ALL, Moves, Traits
from gradc.ir.tensor.text import parse_function, print_function
from gradc.passes.lower.element import LoweringError
from gradc.passes.lower.plan import to_loops
from tests.support.op_cases import ARRAYS, CASES, PLAIN_OPS, Array, Case

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ir.md").read_text(encoding="utf-8")
FULL = [c for c in CASES if all(n for t in c.sample.operands for n in t.static_shape)]


def file_of(definition: OpDef) -> str:
    """The file that an op's facts stand in: where its loop form is written."""
    form = definition.loop
    told: Any = definition.evaluate
    if isinstance(form, Pointwise):
        told = form.meaning
    elif isinstance(form, ByIndex):
        told = form.element
    elif isinstance(form, Nest):
        told = form.build
    elif isinstance(form, SumOfProducts):
        told = form.of
    return str(Path(inspect.unwrap(told).__code__.co_filename).resolve().relative_to(ROOT))


def missing(definition: OpDef) -> list[str]:
    """The facts that an op neither states nor says that it has none of, each with the file."""
    stated = {
        "interval": definition.interval is not None,
        "element": definition.element is not None or definition.is_elementwise,
        "axes": definition.axes is not None,
    }
    where = file_of(definition)
    found = [
        f"{where}: `{definition.name}` does not state `{fact}`; state it, or why not: "
        f'without={{"{fact}": "..."}}'
        for fact, is_stated in stated.items()
        if is_stated == (fact in definition.without)
    ]
    if row(definition) not in PAGE:
        found.append(f"docs/ir.md: `{definition.name}` is not there: python -m gradc.ir.ops.page")
    return found


@pytest.mark.parametrize("definition", all_ops(), ids=lambda d: d.name)
def test_every_fact_is_stated_or_its_absence_is(definition: OpDef) -> None:
    if isinstance(definition.loop, Control):
        assert row(definition) in PAGE and not definition.without
        return
    told = missing(definition)
    assert not told, "\n".join(told)


def test_a_missing_fact_is_named_with_the_file_to_edit() -> None:
    bare = replace(lookup("cumsum"), interval=None, axes=None, without={"element": "none"})
    told = missing(bare)
    assert [line.split(":")[0] for line in told] == ["ir/ops/reduction.py"] * 3
    assert [fact for fact in ("interval", "element", "axes") for t in told if f"`{fact}`" in t] == [
        "interval",
        "element",
        "axes",
    ]


# --- every op through every consumer


def to_numbers(case: Case) -> Sequence[Array]:
    return run(ARRAYS, case.function(), case.operands(3))


def to_duals(case: Case) -> Any:
    duals = DualArrays(ARRAYS)
    with duals.quiet():
        operands = [
            Dual(x, np.ones_like(x)) if x.dtype.kind == "f" else Dual(x) for x in case.operands(3)
        ]
        return run(duals, case.function(), operands)


def to_rules(case: Case) -> Any:
    b = Builder()
    op = case.emit(b)
    one = b.parameter(op.result.type)
    tangents = [b.parameter(t) if t.dtype.is_float else None for t in case.sample.operands]
    floats = op.result.type.dtype.is_float
    case.definition.jvp(b, op, tangents if floats else [None] * len(tangents))
    return case.definition.vjp(b, op, [one if floats else None], case.active)


def to_loops_of(case: Case) -> Any:
    return to_loops(case.function())


def to_text(case: Case) -> Any:
    text = print_function(case.function())
    assert print_function(parse_function(text)) == text
    return text


def to_formula(case: Case) -> Any:
    function = case.function()
    makers = {v: op for op in function.block.body for v in op.results}
    atoms = {v: f"x{n}" for n, v in enumerate(function.block.parameters)}
    return Reader(makers, atoms).formula(function.block.outputs[0])


def to_symbols(case: Case) -> Any:
    if "symbols" in case.definition.without:
        return None
    rng = np.random.default_rng(4)
    operands = [
        symbols_like(f"x{n}", t.static_shape) if t.dtype.is_float else x
        for n, (t, x) in enumerate(zip(case.sample.operands, case.operands(3), strict=True))
    ]
    assert rng
    return run(sympy_arrays(), case.function(), operands)


REFUSALS = (
    LoweringError,
    TypeRuleError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
CONSUMERS: dict[str, Callable[[Case], Any]] = {
    "the interpreter": to_numbers,
    "dual numbers": to_duals,
    "differentiation": to_rules,
    "loops": to_loops_of,
    "text": to_text,
    "formulas": to_formula,
    "SymPy": to_symbols,
}


@pytest.mark.parametrize("definition", PLAIN_OPS, ids=lambda d: d.name)
def test_every_consumer_takes_every_op(definition: OpDef) -> None:
    case = Case(definition, definition.samples[0], 0)
    for consumer, take in CONSUMERS.items():
        try:
            take(case)
        except REFUSALS as problem:
            pytest.fail(f"{file_of(definition)}: {consumer} cannot take `{case}`: {problem!r}")


# --- what is stated holds


def results_of(case: Case, operands: Sequence[Array]) -> Array:
    with ARRAYS.quiet():
        return np.asarray(run(ARRAYS, case.function(), operands)[0])


def mixed(case: Case, chosen: set[int]) -> tuple[Array, Array]:
    """f(2x - 3y) and 2 f(x) - 3 f(y), where the operands ``chosen`` are x and y, the others
    fixed.
    """
    x, y = case.operands(5), case.operands(6)
    fixed = [a if n in chosen else b for n, (a, b) in enumerate(zip(y, x, strict=True))]
    together = [
        2 * a - 3 * b if n in chosen else a for n, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    return results_of(case, together), 2 * results_of(case, x) - 3 * results_of(case, fixed)


@pytest.mark.parametrize("case", FULL, ids=str)
def test_ops_are_linear_where_they_say_so_and_nowhere_else(case: Case) -> None:
    definition = case.definition
    floats = {n for n, t in enumerate(case.sample.operands) if t.dtype.is_float}
    if not floats or not case.function().block.outputs[0].type.dtype.is_float:
        return
    if definition.vjp is zero_vjp:
        assert definition.traits.linear == ()
        return
    groups = [floats] if definition.traits.linear == ALL else map(set, definition.traits.linear)
    stated = [group for group in groups if group <= floats]
    for group in stated:
        found, expected = mixed(case, group)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    for n in floats:
        if not any(n in group for group in stated):
            found, expected = mixed(case, {n})
            is_linear = np.allclose(found, expected, rtol=1e-9, atol=1e-9)
            # Other samples may look linear by chance: one factor, a slope of 0 or 1.
            is_chance = definition.masks or case.number > 0 or "linear" in definition.without
            where = f"{file_of(definition)}: `{definition.name}`"
            assert not is_linear or is_chance, (
                f"{where} is linear in operand {n}: say so in `traits`"
            )


@pytest.mark.parametrize("case", FULL, ids=str)
def test_ops_move_elements_as_they_say(case: Case) -> None:
    definition, operands = case.definition, case.operands(7)
    moves = definition.traits.moves
    result = results_of(case, operands)
    if moves is None:
        is_moving = isinstance(definition.loop, ByIndex) and not definition.traits.picks
        if is_moving and len(operands) == 1 and operands[0].dtype.kind == "f":
            where = f"{file_of(definition)}: `{definition.name}`"
            found = set(result.ravel()) <= set(operands[0].ravel())
            assert not found, f"{where} moves elements: say so in `traits`"
        return
    before = np.concatenate([x.ravel() for x in operands]) if operands else np.zeros(0)
    after = result.ravel()
    if moves is Moves.SOURCE:
        assert not operands
    elif moves is Moves.PERMUTES:
        np.testing.assert_array_equal(np.sort(after), np.sort(before))
    elif moves is Moves.REPEATS:
        assert set(after) == set(before) or not after.size
    elif moves is Moves.SELECTS:
        assert set(after) <= set(before)
    else:
        assert set(after) - {0.0} == set(before) - {0.0}
    assert definition.is_free == (moves is not Moves.PLACES)
    assert definition.traits.is_same_numbers == (definition.is_free and bool(operands))


@pytest.mark.parametrize("case", FULL, ids=str)
def test_ops_of_stacks_are_stacks_of_ops(case: Case) -> None:
    stacked = case.definition.traits.stacked
    if stacked is None:
        assert not (case.definition.is_view and len(case.sample.operands) == 1)
        return
    rows = [case.operands(seed) for seed in (1, 2, 3)]
    types = [t.with_shape((3, *t.shape)) for t in case.sample.operands]
    attributes = {**case.sample.attributes, **stacked(case.sample.attributes, 3)}
    whole = Case(
        case.definition, replace(case.sample, operands=tuple(types), attributes=attributes), 0
    )
    operands = [np.stack(column) for column in zip(*rows, strict=True)]
    expected = np.stack([results_of(case, row) for row in rows])
    np.testing.assert_array_equal(results_of(whole, operands), expected)


@pytest.mark.parametrize("case", FULL, ids=str)
def test_extrema_pick_elements(case: Case) -> None:
    picks = case.definition.traits.picks
    if picks:
        (x,) = case.operands(8)
        result = results_of(case, [x])
        assert set(result.ravel()) <= set(x.ravel())
        best = x.max() if picks == "greatest" else x.min()
        assert best in result


class Known(Bounds):
    """Bounds of operands that are known, for one op alone."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self.intervals = intervals
        self.kinds: list[str] = []

    def of(self, number: int, *conditions: Condition) -> Interval:
        return self.intervals[number]

    def nonzero(self, number: int) -> tuple[Condition, ...]:
        return ()

    def fault(self, kind: str) -> frozenset[int]:
        self.kinds.append(kind)
        return frozenset([len(self.kinds)])


@pytest.mark.parametrize("case", FULL, ids=str)
def test_results_lie_in_their_intervals(case: Case) -> None:
    """At operands of the sample's ranges, and at ones ten times as large where that is finite."""
    rule = case.definition.interval
    op = case.function().block.body[0]
    if rule is None or not op.result.type.dtype.is_float:
        return
    for scale in (1.0, 10.0):
        operands = [x * scale if x.dtype.kind == "f" else x for x in case.operands(9)]
        bounds = Known([Interval(float(x.min()), float(x.max()), False, False) for x in operands])
        found = rule(bounds, op)
        result = results_of(case, operands)
        if bounds.kinds:
            result = result[np.isfinite(result)]
        slack = 1e-9 * (1 + np.abs(result))
        assert (result >= found.low - slack).all() and (result <= found.high + slack).all()


def test_facts_that_do_not_hold_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above, on ops that say what is not so."""
    wrong = {
        "exp": Traits(linear=ALL),
        "slice": Traits(moves=Moves.PERMUTES, cost="free", is_same_numbers=True, linear=ALL),
        "reduce_max": Traits(picks="least"),
    }
    tests: dict[str, Callable[[Case], None]] = {
        "exp": test_ops_are_linear_where_they_say_so_and_nowhere_else,
        "slice": test_ops_move_elements_as_they_say,
        "reduce_max": test_extrema_pick_elements,
    }
    for name, traits in wrong.items():
        definition = replace(lookup(name), traits=traits)
        monkeypatch.setitem(registry._REGISTRY, name, definition)
        with pytest.raises(AssertionError):
            tests[name](Case(definition, definition.samples[0], 0))
    sine = replace(lookup("sin"), interval=lookup("sigmoid").interval)
    with pytest.raises(AssertionError):
        test_results_lie_in_their_intervals(Case(sine, sine.samples[0], 0))
