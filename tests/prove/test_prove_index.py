"""The index algebra: its table of elements is the registry's evaluation; faults in rules are not
proved; what it must not equate.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.index.sums import (
    Binder,
    Entry,
    Factor,
    Sum,
    Unfit,
    constant,
    factor,
    normal_form,
    number_of,
    times,
)
from gradc.ir.ops.reduction import halves, joined
from gradc.ir.ops.registry import OpDef, TypeRuleError, lookup
from gradc.ir.tensor.core import Value
from gradc.passes.prove.index import prod, theorems
from gradc.passes.prove.index.prod import tree_is_proved
from gradc.passes.prove.index.read import Reader
from gradc.passes.prove.index.theorems import (
    INDEX_OPS,
    Theorem,
    confirmed,
    generalised,
    pullback_is_proved,
    replayed,
    tangent_is_proved,
)
from gradc.passes.prove.rule_verdicts import sampled
from gradc.passes.prove.rules import rules
from gradc.passes.prove.rules.rules import Instance
from tests.support.mutants import OP_FAULTS
from tests.support.op_cases import ARRAYS, close

CASES = [case for name in INDEX_OPS for case in sampled(name)]
READ = [case for case in CASES if case.name not in ("max_pool", "reduce_max", "reduce_min")]


def value_of(entry: Entry, tensors: dict[str, Any], ids: Any) -> Fraction:
    """An entry whose indices are all numbers."""
    total = Fraction(0)
    for one in entry:
        assert not one.equations and not one.ranges
        product = one.coefficient
        for f in one.factors:
            at = tuple(int(number_of(e) or 0) for e in f.index)
            if f.name == "not above":
                product *= at[0] <= at[1]
            elif f.name == "ids":
                product *= int(ids[at[1:]]) == at[0]
            else:
                inside = all(0 <= i < n for i, n in zip(at, tensors[f.name].shape, strict=True))
                product *= Fraction(float(tensors[f.name][at])) if inside else 0
        total += product
    return total


@pytest.mark.parametrize("case", READ, ids=str)
def test_the_table_of_elements_is_the_evaluation(case: Instance) -> None:
    """At most fourteen elements of each, the first and the last among them."""
    b = Builder()
    operands = [b.parameter(v.type) for v in case.parameters]
    result = b.apply(case.name, operands, case.op.attributes)[0]
    rng = np.random.default_rng(3)
    values: list[Any] = [
        rng.integers(-9, 10, v.type.static_shape) / 4.0
        if v.type.dtype.is_float
        else rng.integers(0, 3, v.type.static_shape)
        for v in operands
    ]
    (expected,) = run(ARRAYS, close(b, [result]), values)
    leaves = {v: f"x{n}" for n, v in enumerate(operands)}
    reader = Reader(b.ops, leaves, Binder())
    tensors = {f"x{n}": x for n, x in enumerate(values)}
    ids = next((x for x in values if x.dtype.kind == "i"), None)
    places = list(np.ndindex(expected.shape))
    some = rng.permutation(len(places))[:12]
    for at in {places[n] for n in (*some, 0, -1)} if places else ():
        entry = reader.read(result, [constant(i) for i in at])
        assert float(value_of(entry, tensors, ids)) == pytest.approx(float(expected[at]), abs=1e-12)


class Fault:
    """An op whose rule emits something wrong: a fault in number ``at`` of the ops called ``name``
    that it emits.
    """

    def __init__(self, definition: OpDef, kind: str, name: str, at: int) -> None:
        self.definition, self.kind, self.name, self.at = definition, kind, name, at
        self.made = False

    def emit(self, rule: Any, b: Builder, *arguments: Any) -> Any:
        first = len(b.ops)
        found = rule(b, *arguments)
        places = [n for n in range(first, len(b.ops)) if b.ops[n].name == self.name]
        if self.at < len(places):
            place = places[self.at]
            known: list[Value] = [v for o in b.ops[first:place] for v in o.results]
            changed = OP_FAULTS[self.kind](b.ops[place], known, random.Random(self.at))
            if changed is not None:
                self.made = True
                b.ops[place : place + 1] = changed
        return found

    def lookup(self, name: str) -> OpDef:
        if name != self.definition.name:
            return lookup(name)

        def vjp(b: Builder, *arguments: Any) -> Any:
            return self.emit(self.definition.vjp, b, *arguments)

        def jvp(b: Builder, *arguments: Any) -> Any:
            return self.emit(self.definition.jvp, b, *arguments)

        return replace(self.definition, vjp=vjp, jvp=jvp)


def emitted(theorem: Theorem, forward: bool) -> list[tuple[str, int]]:
    """The ops that a rule emits at symbolic sizes: names, and which of that name."""
    b, given = theorems._forward(theorem)
    sweep = Builder()
    definition = lookup(theorem.name)
    is_float = [v.type.dtype.is_float for v in given.operands]
    if forward:
        rows = zip(given.operands, is_float, strict=True)
        definition.jvp(
            sweep, given.named, [sweep.parameter(v.type) if f else None for v, f in rows]
        )
    else:
        definition.vjp(sweep, given.named, [sweep.parameter(given.named.result.type)], is_float)
    names = [op.name for op in sweep.ops]
    assert b.ops
    return [(name, names[:n].count(name)) for n, name in enumerate(names)]


def test_faults_in_rules_between_axes_are_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops of a quarter of the samples' rules, both modes, every other kind of fault in turn; the
    field says which are faults.
    """
    unproved = same = 0
    turn = itertools.count()
    for case in CASES[::4]:
        theorem = generalised(case)
        for forward in (False, True):
            for name, at in emitted(theorem, forward)[:6]:
                for kind in list(OP_FAULTS)[next(turn) % 2 :: 2]:
                    fault = Fault(lookup(case.name), kind, name, at)
                    with monkeypatch.context() as patch:
                        for module in (theorems, rules):
                            patch.setattr(module, "lookup", fault.lookup)
                        outcome = outcome_of(fault, theorem, case, forward)
                    if outcome is not None:
                        is_proved, holds = outcome
                        unproved += not is_proved
                        same += is_proved
                        assert holds or not is_proved, f"{case} {kind} {name} {at} {forward}"
    assert unproved >= 80


def outcome_of(
    fault: Fault, theorem: Theorem, case: Instance, forward: bool
) -> tuple[bool, bool] | None:
    """Whether the algebra proves the faulty rule, and whether it holds over the field; None if none
    is made.
    """
    try:
        is_proved = tangent_is_proved(theorem) if forward else pullback_is_proved(theorem)
    except (Unfit, TypeRuleError, ValueError, TypeError, StopIteration, KeyError, AttributeError):
        is_proved = False
    if not fault.made:
        return None
    if not is_proved:
        return False, False
    fault.made = False
    with np.errstate(all="ignore"):
        holds = theorems.tangent_confirmed(case) if forward else confirmed(case)
    return (is_proved, holds) if fault.made else None


def test_theorems_are_tried_at_three_shapes() -> None:
    for case in CASES:
        theorem = generalised(case)
        if len(theorem.sizes) > 1 and 0 not in case.op.results[0].type.shape:
            assert replayed(theorem) == 3, case


def element(name: str, *index: Any, shape: tuple[int, ...] = (100, 100)) -> Entry:
    return factor(name, index, shape[: len(index)])


def bound(number: int, extent: int = 100) -> Entry:
    return [Sum(ranges={number: extent})]


I, J = ({1: Fraction(1)}, {2: Fraction(1)})


@pytest.mark.parametrize(
    "left, right, same",
    [
        # sum_ij a_ij b_ij, indices renamed; transposed; a lost equation; a range that differs
        (times(element("a", I, J), element("b", I, J)), times(element("a", J, I), element("b", J,
        I)), True),
        (times(element("a", I, J), element("b", I, J)), times(element("a", I, J), element("b", J,
        I)), False),
        (times(element("a", I), element("b", I)), times(element("a", I), element("b", J)), False),
        (element("a", I), element("a", constant(3)), False),
    ],
)  # fmt: skip
def test_normal_forms(left: Entry, right: Entry, same: bool) -> None:
    both = [times(times(bound(1), bound(2)), e) for e in (left, right)]
    assert (normal_form(both[0]) == normal_form(both[1])) == same


def test_a_range_that_is_not_that_of_an_axis_is_kept() -> None:
    """sum over i < 90 of a_i is not the sum over the axis of size 100, nor is it forgotten when i
    is eliminated.
    """
    short = times(bound(1, 90), element("a", I))
    whole = times(bound(1), element("a", I))
    assert normal_form(short) != normal_form(whole)
    moved = {1: Fraction(1), ("one",): Fraction(1)}
    assert normal_form(times(bound(1, 90), element("a", moved))) != normal_form(whole)


def test_factors_of_one_name_are_numbered_in_every_way() -> None:
    """sum_ij a_i a_j b_j is the same with i and j exchanged, and not sum_ij a_i a_i b_j; very many
    do not fit.
    """
    a, b = (element("a", x) for x in (I, J)), element("b", J)
    left, right = a
    first = times(times(times(bound(1), bound(2)), times(left, right)), b)
    turned = times(times(times(bound(1), bound(2)), times(right, left)), element("b", I))
    other = times(times(times(bound(1), bound(2)), times(left, left)), b)
    assert normal_form(first) == normal_form(turned) != normal_form(other)
    many = [Sum(factors=[Factor("a", ({n: Fraction(1)},), (100,)) for n in range(9)])]
    with pytest.raises(Unfit):
        normal_form(many)


def test_equations_without_a_solution_vanish() -> None:
    """2 i = 2 j + 1 has none; 2 i = 2 j is i = j; nothing is read beyond an axis."""
    both = times(times(bound(1), bound(2)), times(element("a", I), element("b", J)))
    odd = {1: Fraction(2), 2: Fraction(-2), ("one",): Fraction(-1)}
    assert normal_form(times(both, [Sum(equations=[odd])])) == ()
    even = {1: Fraction(2), 2: Fraction(-2)}
    same = times(bound(1), times(element("a", I), element("b", I)))
    assert normal_form(times(both, [Sum(equations=[even])])) == normal_form(same)
    read = factor("x", [constant(100)], [100], ("x",))
    assert normal_form(read) == () != normal_form(factor("x", [constant(99)], [100], ("x",)))


def test_the_product_tree_is_proved_for_every_number_of_factors() -> None:
    assert tree_is_proved()


@pytest.mark.parametrize("is_odd", [False, True])
@pytest.mark.parametrize("kind", ["sibling", "self", "shift", "no outside"])
def test_wrong_levels_of_the_product_tree_are_not_proved(
    kind: str, is_odd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Siblings not exchanged, one of them twice, pairs that overlap, and the smaller tree
    forgotten.
    """

    def wrong_joined(b: Builder, outside: Value, even: Value, odd: Value, odd_count: bool) -> Value:
        if kind == "sibling":
            even, odd = odd, even
        if kind == "self":
            odd = even
        if kind == "no outside":
            outside = b.constant(1.0, outside.type.dtype, outside.type.shape)
        return joined(b, outside, even, odd, odd_count)

    def wrong_halves(b: Builder, level: Value, pairs: Any, odd_count: bool) -> tuple[Value, Value]:
        even, odd = halves(b, level, pairs, odd_count)
        return (even, even) if kind == "shift" else (even, odd)

    monkeypatch.setattr(prod, "joined", wrong_joined)
    monkeypatch.setattr(prod, "halves", wrong_halves)
    try:
        assert not prod._level_is_right(is_odd)
    except Unfit:
        pass
