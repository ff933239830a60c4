"""What ops state of their axes holds: an op on parts of its operands gives the parts of its result,
or it is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops import registry
from gradc.ir.ops.axes import Link, Place, kept, regrouped
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import OpDef, all_ops, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.training.accumulate import accumulate
from gradc.passes.training.cut import Cut, Mixed, cut
from tests.support.op_cases import CASES, Array, Case, close

Places = dict[str, Place]


def taken(array: Array, place: Place, parts: int, part: int) -> Array:
    """One part of an array, cut behind the first ``place.outer`` positions of its axis."""
    shape, axis = array.shape, place.axis
    split = (
        *shape[:axis],
        place.outer,
        parts,
        shape[axis] // (place.outer * parts),
        *shape[axis + 1 :],
    )
    picked = array.reshape(split).take(part, axis + 1)
    return np.reshape(picked, (*shape[:axis], shape[axis] // parts, *shape[axis + 1 :]))


def part_function(whole: Function, found: Cut) -> tuple[Function, Place | None, bool]:
    """The program of a part with its only result, where that lies, and whether it is a summand."""
    (result,) = whole.block.outputs
    is_sum = result in found.sums
    made = found.sums[result] if is_sum else found.parts_of[result]
    block = Block(found.parameters, (*found.ops, Op("return", (made,), ())))
    return replace(whole, block=block), found.places.get(result), is_sum


def choices(function: Function) -> Iterator[tuple[Places, int]]:
    """Some operands cut, each at every place of every axis, in every number of parts."""
    types = [v.type.static_shape for v in function.block.parameters]
    counts = {n for shape in types for size in shape for n in range(2, size + 1) if size % n == 0}
    for parts in sorted(counts):
        options: list[list[Place | None]] = []
        for shape in types:
            places = [
                Place(axis, outer)
                for axis, size in enumerate(shape)
                for outer in range(1, size)
                if size % (outer * parts) == 0
            ]
            options.append([None, *places])
        for chosen in itertools.product(*options):
            if any(chosen):
                names = (slot.name for slot in function.parameters)
                yield {n: p for n, p in zip(names, chosen, strict=True) if p is not None}, parts


def disagreement(function: Function, operands: Sequence[Array], places: Places, parts: int) -> str:
    """``refused``, ``holds``, or ``wrong`` where the parts do not give the whole."""
    try:
        found = cut(function, places, parts)
    except Mixed:
        return "refused"
    program, place, is_sum = part_function(function, found)
    (whole,) = run(NumpyArrays(), function, operands)
    rows = []
    for part in range(parts):
        given = [
            taken(a, places[s.name], parts, part) if s.name in places else a
            for s, a in zip(function.parameters, operands, strict=True)
        ]
        rows.append(run(NumpyArrays(), program, given)[0])
    if is_sum:
        return "holds" if np.allclose(sum(rows), whole, rtol=1e-12, atol=1e-12) else "wrong"
    assert place is not None
    expected = [taken(whole, place, parts, part) for part in range(parts)]
    pairs = zip(rows, expected, strict=True)
    same = all(np.allclose(r, e, 1e-12, 1e-12, equal_nan=True) for r, e in pairs)
    return "holds" if same else "wrong"


def answers(case: Case) -> list[str]:
    function = case.function()
    return [
        disagreement(function, case.operands(n), places, parts)
        for n, (places, parts) in enumerate(choices(function))
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_of_an_op_give_its_result_or_are_refused(case: Case) -> None:
    assert "wrong" not in answers(case)


@pytest.mark.parametrize("definition", all_ops(), ids=lambda d: d.name)
def test_every_op_states_how_its_axes_depend(definition: OpDef) -> None:
    """Regions are followed through their ops; everything else has links at one of its samples."""
    cases = [case for case in CASES if case.definition is definition]
    if "axes" in definition.without:
        assert definition.axes is None
        return
    assert bool(cases) == (definition.axes is not None)
    if cases and any(case.sample.operands for case in cases) and definition.name != "random_bits":
        assert any("holds" in answers(case) for case in cases)


def _links_of_a_sum(op: Op) -> tuple[Link, ...]:
    rule = lookup("sum").axes
    assert rule is not None
    return rule.links(replace(op, name="sum"))


@pytest.mark.parametrize("name", ["cumsum", "reverse", "reduce_max", "prod"])
def test_a_false_statement_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An op that claims all its axes, or that a maximum is a sum, does not pass the test above."""
    definition = lookup(name)
    assert definition.axes is not None
    links = kept if name in ("cumsum", "reverse") else _links_of_a_sum
    lying = replace(definition, axes=replace(definition.axes, links=links))
    monkeypatch.setitem(registry._REGISTRY, name, lying)
    assert any("wrong" in answers(case) for case in CASES if case.definition.name == name)


def test_draws_in_parts_are_the_rows_of_the_whole() -> None:
    b = Builder()
    b.one("random_bits", b.parameter(TensorType((2,), DType.U32)), stream=3, shape=(4, 6, 2))
    op = b.ops[-1]
    rule = lookup("random_bits").axes
    assert rule is not None
    key = np.asarray([11, 5], np.uint32)
    (whole,) = run(NumpyArrays(), close(b, op.results), [key])
    for link in rule.links(op):
        for parts in (2, link.size):
            part = Builder()
            given = part.parameter(TensorType((3,), DType.U32))
            part.apply("random_bits", [given], rule.part(op, link, parts))
            function = close(part, part.ops[-1].results)
            for n in range(parts):
                (row,) = run(NumpyArrays(), function, [np.asarray([*key, n], np.uint32)])
                assert link.result is not None
                np.testing.assert_array_equal(row, taken(whole, link.result, parts, n))


def test_regrouping_follows_every_factor_that_both_sides_have() -> None:
    rng = np.random.default_rng(5)
    refused = held = 0
    for _ in range(120):
        factors = rng.integers(1, 5, rng.integers(1, 5))
        before, after = (grouped(rng, f.tolist()) for f in (factors, rng.permutation(factors)))
        b = Builder()
        b.one("reshape", b.parameter(TensorType(before, DType.F64)), shape=after)
        function = close(b, b.ops[-1].results)
        found = regrouped(before, after)
        sizes = math.prod(link.size for link in found)
        assert math.prod(before) % sizes == 0
        if before == after:
            assert sizes == math.prod(before)
        operand = rng.normal(size=before)
        for places, parts in choices(function):
            answer = disagreement(function, [operand], places, parts)
            assert answer != "wrong", (before, after, places, parts)
            refused, held = refused + (answer == "refused"), held + (answer == "holds")
    assert min(refused, held) > 100


def grouped(rng: np.random.Generator, factors: Sequence[int]) -> tuple[int, ...]:
    """Neighbouring factors multiplied together at random."""
    shape = [1]
    for factor in factors:
        if rng.random() < 0.5:
            shape.append(int(factor))
        else:
            shape[-1] *= int(factor)
    return tuple(shape)


# ---- generated programs

B, T, D = 4, 2, 4


class Programs:
    """Random programs over samples and parameters, ending in a scalar; many of them mix samples."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([7, seed])
        self.b = Builder()
        types = {"x": (B, T, D), "y": (T, B), "w": (D, D), "u": (B,), "k": (2, 1, 1, 3)}
        self.names = list(types)
        self.pool = [self.b.parameter(TensorType(s, DType.F64), n) for n, s in types.items()]

    def function(self) -> Function:
        for _ in range(self.rng.integers(3, 9)):
            self.step(self.b, self.pool)
        wanted = [self.scalar(v) for v in self.pool[-3:]]
        total = wanted[0]
        for value in wanted[1:]:
            total = self.b.one("add", total, value)
        shown = self.pool[-1]
        slots = [Slot(n, Role.INPUT if n in "xy" else Role.PARAM) for n in self.names]
        results = [Slot("loss", Role.LOSS), Slot("shown", Role.OUTPUT)]
        return self.b.function("m", [total, shown], slots, results)

    def scalar(self, value: Value) -> Value:
        """Half of them not linear in the sum."""
        total = self.b.one("sum", value, axes=tuple(range(value.type.rank)))
        return self.b.one("sin", total) if self.rng.random() < 0.4 else total

    def step(self, b: Builder, pool: list[Value]) -> None:
        pick = self.rng.integers
        x = pool[-1 - pick(min(len(pool), 3))] if pick(3) else pool[pick(len(pool))]
        shape = x.type.static_shape
        axis = int(pick(max(1, len(shape))))
        moves: list[Any] = [lambda: b.one("tanh", x), lambda: b.one("mul", x, x)]
        mates = [v for v in pool if v.type == x.type]
        moves += [lambda: b.one("mul", x, mates[pick(len(mates))])] * 2
        if shape:
            flat = math.prod(shape)
            moves += [
                lambda: b.one(
                    "transpose", x, perm=tuple(self.rng.permutation(len(shape)).tolist())
                ),
                lambda: b.one("reshape", x, shape=(flat,)),
                lambda: b.one("reshape", x, shape=(4, flat // 4)) if flat % 4 == 0 else x,
                lambda: b.one("reshape", x, shape=(flat // 4, 4)) if flat % 4 == 0 else x,
                lambda: b.one("reshape", x, shape=(1, 1, flat // 4, 4)) if flat % 4 == 0 else x,
                lambda: b.one("reshape", x, shape=(*shape[:axis], 1, *shape[axis:])),
                lambda: b.one("reverse", x, axes=(axis,)),
                lambda: b.one("cumsum", x, axis=axis, reverse=bool(pick(2))),
                lambda: b.one("sum", x, axes=(axis,)),
                lambda: b.one("sum", x, axes=(axis,)),
                lambda: b.one("reduce_max", x, axes=(axis,)),
                lambda: b.one("concat", x, x, axis=axis),
                lambda: b.one(
                    "broadcast", x, shape=(B, *shape), dims=tuple(range(1, len(shape) + 1))
                ),
                lambda: self.along(b, x, axis, pool),
                lambda: self.product(b, x, axis, pool),
                lambda: b.one("contract", x, x, batch=((0, 0),), contract=()),
                lambda: self.convolved(b, x, pool),
                lambda: self.region(b, x),
                lambda: self.loop(b, x),
            ]
        made = moves[pick(len(moves))]()
        if math.prod(made.type.static_shape) <= 512 and made.type.rank <= 5:
            pool.append(made)

    def along(self, b: Builder, x: Value, axis: int, pool: Sequence[Value]) -> Value:
        """x times the vector u (as long as the batch) along one axis."""
        u = next((v for v in pool if v.hint == "u"), None)
        if u is None or x.type.static_shape[axis] != B:
            return x
        return b.one("mul", x, b.one("broadcast", u, shape=x.type.shape, dims=(axis,)))

    def product(self, b: Builder, x: Value, axis: int, pool: Sequence[Value]) -> Value:
        w = next((v for v in pool if v.hint == "w"), x)
        if x.type.static_shape[axis] != w.type.static_shape[0]:
            return x
        return b.one("contract", x, w, batch=(), contract=((axis, 0),))

    def convolved(self, b: Builder, x: Value, pool: Sequence[Value]) -> Value:
        shape = x.type.static_shape
        if len(shape) != 4 or shape[1] != 1:
            return x
        padding = ((0, 0), (1, 1))
        plain: dict[str, Any] = {"stride": (1, 1), "padding": padding}
        if self.rng.random() < 0.5:
            return b.one("max_pool", x, size=(1 + (shape[2] > 1), 3), **plain)
        kernel = next((v for v in pool if v.hint == "k"), None)
        if kernel is None:
            return x
        if self.rng.random() < 0.5:
            kernel = b.one("reshape", kernel, shape=(2, 1, 3, 1))
            plain["padding"] = (padding[1], padding[0])
        return b.one("conv2d", x, kernel, dilation=(1, 1), groups=1, **plain)

    def region(self, b: Builder, x: Value) -> Value:
        inner = Builder()
        pool = [inner.parameter(x.type)]
        for _ in range(2):
            self.step(inner, pool)
        return b.emit("checkpoint", x, regions=(inner.block([pool[-1]]),))[0]

    def loop(self, b: Builder, x: Value) -> Value:
        """A running sum over the first axis from zeros, all steps kept."""
        trips, *rest = x.type.static_shape
        inner = Builder()
        row = TensorType(tuple(rest), DType.F64)
        carry, slice_ = inner.parameter(row), inner.parameter(row)
        total = inner.one("sin", inner.one("add", carry, slice_))
        zero = b.constant(0.0, DType.F64, tuple(rest))
        counts: dict[str, Any] = {
            "trips": trips,
            "carried": 1,
            "stacked": 1,
            "reverse": False,
            "truncate": 0,
        }
        return b.emit("scan", zero, x, regions=(inner.block([total, total]),), **counts)[1]


def test_accumulation_of_generated_programs_is_exact_or_refused() -> None:
    exact = refused = 0
    wrt = ["w", "u", "k"]
    for seed in range(100):
        programs = Programs(seed)
        function = programs.function()
        rng = np.random.default_rng(seed)
        operands = [rng.normal(size=v.type.static_shape) for v in function.block.parameters]
        expected = run(NumpyArrays(), value_and_grad(function, wrt), operands)
        for axes in ({"x": 0, "y": 1}, {"x": 2}):
            for parts in (2, 4):
                try:
                    made = accumulate(function, axes, wrt, parts)
                except DiagnosticError as problem:
                    assert [d.code for d in problem.diagnostics] == ["GC0807"]
                    refused += 1
                    continue
                compare(made, operands, expected, seed)
                exact += 1
    assert exact > 250 and refused > 40


def compare(made: Function, operands: Sequence[Array], expected: Any, seed: int) -> None:
    found = run(NumpyArrays(), made, operands)
    for slot, e, f in zip(made.results, expected, found, strict=True):
        scale = max(1.0, float(np.abs(e).max(initial=0.0)))
        assert np.abs(e - f).max(initial=0.0) <= 1e-9 * scale, (seed, slot.name)
