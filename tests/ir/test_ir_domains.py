"""Domains of the interpreter: exact fractions, a prime field and dual numbers agree with the
derivative programs exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import Arrays, NumpyArrays, ObjectArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_block, inline_function
from gradc.ir.tensor.core import DType, Function, Op, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import value_and_grad
from tests.support.generate import random_program

F = DType.F64
P = 2**61 - 1


class Fractions:
    """Exact rational numbers; what is not rational is refused by absence."""

    def const(self, value: float | bool) -> Any:
        return Fraction(value)

    def truncate(self, x: Fraction, dtype: DType) -> int:
        return int(x)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    gate = mul

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def neg(self, x: Any) -> Any:
        return -x

    def max(self, a: Any, b: Any) -> Any:
        return max(a, b)

    def gt(self, a: Any, b: Any) -> bool:
        return bool(a > b)

    def eq(self, a: Any, b: Any) -> bool:
        return bool(a == b)

    def stop_gradient(self, x: Any) -> Any:
        return x


class Residues(Fractions):
    """The integers modulo the Mersenne prime 2**61 - 1."""

    def const(self, value: float | bool) -> Any:
        exact = Fraction(value)
        return exact.numerator * pow(exact.denominator, -1, P) % P

    def add(self, a: Any, b: Any) -> Any:
        return (a + b) % P

    def sub(self, a: Any, b: Any) -> Any:
        return (a - b) % P

    def mul(self, a: Any, b: Any) -> Any:
        return a * b % P

    gate = mul

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return (a * b + c) % P

    def div(self, a: Any, b: Any) -> Any:
        return a * pow(b, -1, P) % P

    def neg(self, x: Any) -> Any:
        return -x % P


def rational_net(with_relu: bool) -> Function:
    """A dense layer, an optional relu, a normalisation by the mean square, a weighted loss: only +
    - * / and max.
    """
    b = Builder()
    x, w = b.parameter(TensorType((3, 2), F)), b.parameter(TensorType((2, 4), F))
    h = b.one("contract", x, w, batch=(), contract=((1, 0),))
    if with_relu:
        h = b.one("relu", h)
    square = b.one("sum", b.one("mul", h, h), axes=(1,))
    scale = b.one("add", square, b.constant(0.5, F, (3,)))
    row = b.one("broadcast", scale, shape=(3, 4), dims=(0,))
    y = b.one("div", h, row)
    y = b.one("reverse", b.one("cumsum", y, axis=0, reverse=False), axes=(1,))
    y = b.one("pad", y, low=(1, 0), high=(0, 1), interior=(1, 0))
    k = b.algebra(y.type)
    weights = b.one("add", b.one("iota", axis=1, dtype=F, shape=y.type.static_shape), k.const(0.25))
    loss = b.one("sum", b.one("mul", b.one("mul", y, y), weights), axes=(0, 1))
    slots = [Slot("x", Role.INPUT), Slot("w", Role.PARAM)]
    return b.function("net", [loss], slots, [Slot("loss", Role.LOSS)])


def draw_objects(scalars: Any, shape: Sequence[int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-64, 64, tuple(shape))
    flat = [scalars.const(int(n) / 32) for n in numbers.flat]
    return ObjectArrays.objects(flat, shape)


def total(arrays: ObjectArrays, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
    """The inner product over all arrays."""
    found = arrays.scalars.const(0)
    for x, y in zip(xs, ys, strict=True):
        for a, b in zip(np.asarray(x).flat, np.asarray(y).flat, strict=True):
            found = arrays.scalars.fma(a, b, found)
    return found


@pytest.mark.parametrize("scalars, with_relu", [(Fractions(), True), (Residues(), False)])
def test_reverse_mode_equals_dual_numbers_exactly(scalars: Any, with_relu: bool) -> None:
    """<gradient, v> is the derivative along v, to the last digit of exact arithmetic; a changed
    gradient is not.
    """
    arrays = ObjectArrays(scalars)
    function = rational_net(with_relu)
    operands = [
        draw_objects(scalars, v.type.static_shape, n)
        for n, v in enumerate(function.block.parameters)
    ]
    directions = [draw_objects(scalars, x.shape, 10 + n) for n, x in enumerate(operands)]
    duals = [Dual(x, v) for x, v in zip(operands, directions, strict=True)]
    (along,) = run(DualArrays(arrays), function, duals)
    value, *gradient = run(arrays, value_and_grad(function, ["x", "w"]), operands)
    assert value.item() == along.primal.item()
    assert total(arrays, gradient, directions) == along.tangent.item()
    wrong = gradient[0].copy()
    wrong[0, 0] = scalars.mul(wrong[0, 0], scalars.const(1 + 2.0**-12))
    assert total(arrays, [wrong, gradient[1]], directions) != along.tangent.item()


def test_fractions_are_what_floats_round() -> None:
    function = rational_net(True)
    exact = ObjectArrays(Fractions())
    operands = [
        draw_objects(Fractions(), v.type.static_shape, n)
        for n, v in enumerate(function.block.parameters)
    ]
    (precise,) = run(exact, function, operands)
    (rounded,) = run(NumpyArrays(), function, [x.astype(np.float64) for x in operands])
    assert float(precise.item()) == pytest.approx(float(rounded), rel=1e-14)


@pytest.mark.parametrize("seed", range(12))
def test_dual_numbers_against_reverse_mode(seed: int) -> None:
    """Random programs: forward mode by evaluation, reverse mode by the rules."""
    program = random_program(seed + 500, smooth=seed % 2 == 0, regions=seed % 3 == 0)
    arrays, rng = NumpyArrays(), np.random.default_rng(seed)
    directions = [rng.standard_normal(x.shape) for x in program.inputs]
    duals = [Dual(x, v) for x, v in zip(program.inputs, directions, strict=True)]
    along = run(DualArrays(arrays), program.function, duals)[0].tangent
    found = run(arrays, value_and_grad(program.function, program.differentiable), program.inputs)
    gradient = found[len(program.function.results) :]
    inner = sum(float(np.sum(g * v)) for g, v in zip(gradient, directions, strict=True))
    assert inner == pytest.approx(0.0 if along is None else float(along), rel=1e-10, abs=1e-10)


# --- region ops and the interpreter itself --------------------------------------------------------


def running_product(trips: int, reverse: bool) -> Function:
    """carry = carry * x + c; yields the carry and its square."""
    b = Builder()
    start, xs = b.parameter(TensorType((2,), F)), b.parameter(TensorType((trips, 2), F))
    constant = b.parameter(TensorType((2,), F))
    body = Builder()
    h, x, c = (body.parameter(TensorType((2,), F)) for _ in range(3))
    new = body.one("add", body.one("mul", h, x), c)
    region = body.block([new, body.one("mul", new, new)])
    results = b.emit(
        "scan",
        start,
        xs,
        constant,
        regions=(region,),
        trips=trips,
        carried=1,
        stacked=1,
        reverse=reverse,
        truncate=0,
    )
    names = [Slot(n, Role.INPUT) for n in ("start", "xs", "c")]
    return b.function("scan", results, names, [Slot("last", Role.OUTPUT), Slot("all", Role.OUTPUT)])


@pytest.mark.parametrize("trips", [0, 1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan(trips: int, reverse: bool) -> None:
    rng = np.random.default_rng(trips)
    start, xs, c = rng.standard_normal(2), rng.standard_normal((trips, 2)), rng.standard_normal(2)
    last, rows = run(NumpyArrays(), running_product(trips, reverse), [start, xs, c])
    carry, expected = start, np.zeros((trips, 2))
    for t in reversed(range(trips)) if reverse else range(trips):
        carry = carry * xs[t] + c
        expected[t] = carry**2
    np.testing.assert_allclose(last, carry)
    assert rows.shape == (trips, 2)
    np.testing.assert_allclose(rows, expected)


def test_custom_runs_its_first_region() -> None:
    b = Builder()
    x = b.parameter(TensorType((3,), F))
    primal, pullback = Builder(), Builder()
    p = primal.parameter(x.type)
    forward = primal.block([primal.one("round", p)])
    _, _, ct = (pullback.parameter(x.type) for _ in range(3))
    (y,) = b.emit("custom", x, regions=(forward, pullback.block([ct])))
    function = b.function("f", [y], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    (found,) = run(NumpyArrays(), function, [np.array([0.4, 1.6, -2.5])])
    assert found.tolist() == [0.0, 2.0, -2.0]


def test_observer_sees_every_op_in_order() -> None:
    function = rational_net(True)
    seen: list[Op] = []
    operands = [np.ones(v.type.static_shape) for v in function.block.parameters]
    run(NumpyArrays(), function, operands, lambda op, results: seen.append(op))
    assert seen == list(function.block.body)


def test_wrong_number_of_operands_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        run(NumpyArrays(), rational_net(True), [np.ones((3, 2))])


def test_precision_of_choice() -> None:
    """f32 and bf16 programs in their own precision, and in f64 as the yardstick."""
    b = Builder()
    x = b.parameter(TensorType((), DType.BF16))
    y = b.one("add", x, b.constant(1.0, DType.BF16))
    function = b.function("f", [y], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    small = np.float32(2.0**-9)
    own: Arrays = NumpyArrays()
    assert run(own, function, [small])[0] == 1.0
    assert run(NumpyArrays(DType.F64), function, [np.float64(small)])[0] == 1.0 + 2.0**-9


def test_inlining() -> None:
    """f inlined twice: values are copied, replica numbers set, and the result is f(f(x))."""
    inner = Builder()
    p = inner.parameter(TensorType((2,), F))
    inner.span = None
    block = inner.block([inner.one("exp", inner.one("neg", p))], "return")
    function = Function("f", block, (Slot("p", Role.INPUT),), (Slot("y", Role.OUTPUT),))
    b = Builder()
    x = b.parameter(TensorType((2,), F))
    (first,) = inline_function(b, function, {"p": x})
    (second,) = inline_block(b, block, [first], replica=5)
    assert [op.replica for op in b.ops] == [0, 0, 5, 5]
    assert len({id(v) for op in b.ops for v in op.results}) == 4
    outer = b.function("g", [second], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    (found,) = run(NumpyArrays(), outer, [np.array([0.0, 1.0])])
    np.testing.assert_allclose(found, np.exp(-np.exp(-np.array([0.0, 1.0]))))
    with pytest.raises(ValueError, match=r"takes \(f64\[2\]\), not \(f64\[\]\)"):
        inline_block(b, block, [b.constant(1.0, F)])
