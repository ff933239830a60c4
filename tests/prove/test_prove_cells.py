"""Cells: guards that depend on each other are compared in the patterns that real points have, and
only there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.prove.domains.cells import (
    Cells,
    ForcedArrays,
    RecordingArrays,
    cells_equal,
    real_operands,
)
from gradc.passes.prove.domains.point import draw
from gradc.passes.prove.programs.passes import differing, values_by_result
from gradc.passes.simplify.shuffle import shuffle
from gradc.passes.simplify.simplify import simplify
from tests.support.ad_programs import draw as real_draw
from tests.support.ad_programs import program as random_program
from tests.support.mutants import OP_FAULTS, op_mutants

F64 = DType.F64
SHAPE = (3,)
SEED = 411
Make = Callable[[Builder, Value, Value], Value]


def program(make: Make) -> Function:
    b = Builder()
    x, y = (b.parameter(TensorType(SHAPE, F64), name) for name in ("x", "y"))
    slots = [Slot("x", Role.PARAM), Slot("y", Role.PARAM)]
    return b.function("f", [make(b, x, y)], slots, [Slot("z", Role.OUTPUT)])


def number(b: Builder, value: float) -> Value:
    return b.constant(value, F64, SHAPE)


def relu(b: Builder, x: Value) -> Value:
    return b.one("max", x, number(b, 0.0))


def times(b: Builder, factor: float, x: Value) -> Value:
    return b.one("mul", number(b, factor), x)


def where(b: Builder, mask: Value, x: Value, y: Value) -> Value:
    return b.one("select", mask, x, y)


def above(b: Builder, x: Value, level: float) -> Value:
    return b.one("gt", x, number(b, level))


def top(b: Builder, x: Value) -> Value:
    found = b.one("reduce_max", x, axes=(0,))
    return b.one("broadcast", found, shape=SHAPE, dims=())


def lowest(b: Builder, x: Value) -> Value:
    found = b.one("reduce_min", x, axes=(0,))
    return b.one("broadcast", found, shape=SHAPE, dims=())


def nested(b: Builder, x: Value, y: Value, is_swapped: bool) -> Value:
    """A guard that the guard around it decides."""
    inner = (number(b, 1.0), y) if is_swapped else (y, number(b, 1.0))
    return where(b, above(b, x, 1.0), where(b, above(b, x, 0.5), *inner), number(b, 1.0))


# Equal over the reals; to a prime field with independent guards they are not.
EQUAL: dict[str, tuple[Make, Make]] = {
    "scaled relu": (
        lambda b, x, y: relu(b, times(b, 2.0, x)),
        lambda b, x, y: times(b, 2.0, relu(b, x)),
    ),
    "max by relu": (
        lambda b, x, y: b.one("max", x, y),
        lambda b, x, y: b.one("add", y, relu(b, b.one("sub", x, y))),
    ),
    "abs of product": (
        lambda b, x, y: b.one("abs", b.one("mul", x, y)),
        lambda b, x, y: b.one("mul", b.one("abs", x), b.one("abs", y)),
    ),
    "nested": (
        lambda b, x, y: where(b, above(b, x, 1.0), y, number(b, 1.0)),
        lambda b, x, y: nested(b, x, y, False),
    ),
    "floors": (
        lambda b, x, y: b.one("floor", b.one("neg", x)),
        lambda b, x, y: b.one("sub", number(b, -1.0), b.one("floor", x)),
    ),
    "shifted maximum": (
        lambda b, x, y: b.one("add", top(b, x), number(b, 3.0)),
        lambda b, x, y: top(b, b.one("add", x, number(b, 3.0))),
    ),
    "maximum by minimum": (
        lambda b, x, y: times(b, 2.0, top(b, x)),
        lambda b, x, y: times(b, -1.0, lowest(b, times(b, -2.0, x))),
    ),
}
DIFFERENT: dict[str, tuple[Make, Make]] = {
    "sign": (
        lambda b, x, y: relu(b, times(b, 2.0, x)),
        lambda b, x, y: times(b, 2.0, relu(b, b.one("neg", x))),
    ),
    "factor": (
        lambda b, x, y: relu(b, times(b, 2.0, x)),
        lambda b, x, y: times(b, 2 + 2.0**-12, relu(b, x)),
    ),
    "max by relu": (
        lambda b, x, y: b.one("max", x, y),
        lambda b, x, y: b.one("add", x, relu(b, b.one("sub", x, y))),
    ),
    "no guard": (lambda b, x, y: relu(b, x), lambda b, x, y: x),
    "nested": (
        lambda b, x, y: where(b, above(b, x, 1.0), y, number(b, 1.0)),
        lambda b, x, y: nested(b, x, y, True),
    ),
    "floors": (
        lambda b, x, y: b.one("floor", b.one("neg", x)),
        lambda b, x, y: b.one("neg", b.one("floor", x)),
    ),
    "least": (lambda b, x, y: top(b, x), lambda b, x, y: lowest(b, x)),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_in_every_cell(name: str) -> None:
    """Where a field with free guards sees a difference: else the pair would not need cells."""
    before, after = (program(make) for make in EQUAL[name])
    found = cells_equal(before, after, SEED)
    assert found.differing == ()
    assert found.tried > 1
    points = [draw(before, SEED, n) for n in range(8)]
    assert any(
        differing(values_by_result(before, at), values_by_result(after, at)) for at in points
    )


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_cell_tells_different_programs_apart(name: str) -> None:
    before, after = (program(make) for make in DIFFERENT[name])
    assert cells_equal(before, after, SEED).differing == ("output z",)
    assert cells_equal(after, before, SEED).differing == ("output z",)


def test_every_sign_pattern_is_met() -> None:
    """Three signs have eight patterns; a limit is kept."""
    before, after = (program(make) for make in EQUAL["scaled relu"])
    assert cells_equal(before, after, SEED) == Cells(8, ())
    assert cells_equal(before, after, SEED, 3) == Cells(3, ())


def test_without_guards_there_is_one_cell() -> None:
    f = program(lambda b, x, y: b.one("mul", x, y))
    assert cells_equal(f, f, SEED) == Cells(1, ())


def test_no_cell_is_no_agreement() -> None:
    """A guard that only sees NaN: log of a negative number."""

    def undefined(b: Builder, x: Value, y: Value) -> Value:
        negative = b.one("neg", b.one("mul", x, x))
        return relu(b, b.one("log", negative))

    f = program(undefined)
    assert cells_equal(f, f, SEED, 4) == Cells(0, ("output z",))


@pytest.mark.parametrize("name", EQUAL)
def test_recording_changes_no_value_and_all_outcomes_are_used(name: str) -> None:
    """The recorded run computes what NumPy does, and a forced run asks for just as many
    outcomes.
    """
    f = program(EQUAL[name][1])
    values = real_operands(f, SEED, 0)
    domain = RecordingArrays()
    (found,) = run(domain, f, values)
    assert domain.outcomes
    x, y = values
    (other,) = run(RecordingArrays(), program(EQUAL[name][0]), [x, y])
    np.testing.assert_allclose(found, other, rtol=1e-13)
    forced = ForcedArrays(3, domain.outcomes)
    rng = np.random.default_rng(1)
    run(forced, f, [forced.random(SHAPE, rng), forced.random(SHAPE, rng)])
    with pytest.raises(StopIteration):
        forced.recorded()


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_random_programs(seed: int) -> None:
    """Loops, gathers and guards: what passes make is the same, and no fault that changes numbers is
    confirmed.
    """
    source = random_program(seed)
    assert cells_equal(source, simplify(shuffle(source, 3)), SEED, 8).differing == ()
    points = [real_draw(source, n) for n in range(3)]
    expected = [run(NumpyArrays(), source, at) for at in points]
    caught = 0
    for fault in OP_FAULTS.values():
        for mutant in list(op_mutants(source, fault, 1))[:2]:
            found = [run(NumpyArrays(), mutant, at) for at in points]
            pairs = [
                xy for e, f in zip(expected, found, strict=True) for xy in zip(e, f, strict=True)
            ]
            if any(np.shape(x) != np.shape(y) for x, y in pairs):
                continue
            if all(np.allclose(x, y, 1e-9, 1e-13, equal_nan=True) for x, y in pairs):
                continue
            assert cells_equal(source, mutant, SEED, 16).differing
            caught += 1
    assert caught >= 3
