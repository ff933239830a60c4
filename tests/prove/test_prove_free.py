"""Large primes with open guards: the laws that are kept, the bound, and what must not be proved."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest

from gradc.ir.loop.kernel import Const, Let
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.free import EXPONENTS, Free, FreeScalars, Open, bounded_equal
from gradc.passes.prove.programs.kernels import bounded_plan, compare_plan
from tests.support.generate import random_program

Body = Callable[[Builder, list[Value]], Value]


def program(body: Body, count: int = 3, shape: tuple[int, ...] = (4,)) -> Function:
    b = Builder()
    values = [b.parameter(TensorType(shape, DType.F32), f"x{n}") for n in range(count)]
    slots = [Slot(f"x{n}", Role.PARAM) for n in range(count)]
    return b.function("f", [body(b, values)], slots, [Slot("y", Role.OUTPUT)])


def proved(left: Body, right: Body) -> bool:
    return bounded_equal(program(left), program(right), 1, ["output y"]).holds


def constant(b: Builder, value: float) -> Value:
    return b.one("broadcast", b.constant(value, DType.F32), shape=(4,), dims=())


EQUAL: dict[str, tuple[Body, Body]] = {
    "distribution": (
        lambda b, x: b.one("mul", x[0], b.one("add", x[1], x[2])),
        lambda b, x: b.one("add", b.one("mul", x[0], x[1]), b.one("mul", x[0], x[2])),
    ),
    "quotients": (
        lambda b, x: b.one("div", b.one("div", x[0], x[1]), x[2]),
        lambda b, x: b.one("div", x[0], b.one("mul", x[1], x[2])),
    ),
    "order of a maximum": (
        lambda b, x: b.one("max", b.one("max", x[0], x[1]), b.one("max", x[2], x[0])),
        lambda b, x: b.one("max", x[2], b.one("max", x[1], x[0])),
    ),
    "minimum": (
        lambda b, x: b.one("min", x[0], x[1]),
        lambda b, x: b.one("neg", b.one("max", b.one("neg", x[1]), b.one("neg", x[0]))),
    ),
    "turned comparison": (
        lambda b, x: b.one("select", b.one("gt", x[0], x[1]), x[2], x[1]),
        lambda b, x: b.one("select", b.one("gt", x[1], x[0]), x[1], x[2]),
    ),
    "exp of minus": (
        lambda b, x: b.one("exp", b.one("sub", x[0], x[1])),
        lambda b, x: b.one("div", constant(b, 1.0), b.one("exp", b.one("sub", x[1], x[0]))),
    ),
    "odd functions": (
        lambda b, x: b.one("tanh", b.one("neg", x[0])),
        lambda b, x: b.one("neg", b.one("tanh", x[0])),
    ),
    "infinity as a summand": (
        lambda b, x: b.one("exp", b.one("sub", b.one("add", x[0], constant(b, -inf)), x[1])),
        lambda b, x: constant(b, 0.0),
    ),
    "infinity in a sum": (
        lambda b, x: b.one("add", b.one("sub", x[0], constant(b, -inf)), x[1]),
        lambda b, x: constant(b, inf),
    ),
}
DIFFERENT: dict[str, tuple[Body, Body]] = {
    "a factor of 1 + 2^-12": (
        lambda b, x: b.one("mul", x[0], x[1]),
        lambda b, x: b.one("mul", constant(b, 1 + 2.0**-12), b.one("mul", x[0], x[1])),
    ),
    "another tie": (
        lambda b, x: b.one("select", b.one("gt", x[0], x[0]), x[1], x[2]),
        lambda b, x: b.one("select", b.one("ge", x[0], x[0]), x[1], x[2]),
    ),
    "a maximum of fewer": (
        lambda b, x: b.one("max", x[0], b.one("max", x[1], x[2])),
        lambda b, x: b.one("max", x[0], x[1]),
    ),
    "the other branch": (
        lambda b, x: b.one("select", b.one("gt", x[0], x[1]), x[2], x[1]),
        lambda b, x: b.one("select", b.one("gt", x[1], x[0]), x[2], x[1]),
    ),
    "infinities of both signs": (
        lambda b, x: b.one("add", b.one("add", x[0], constant(b, inf)), constant(b, -inf)),
        lambda b, x: x[0],
    ),
    "eps ignored": (
        lambda b, x: b.one("sqrt", b.one("add", x[0], constant(b, 1e-5))),
        lambda b, x: b.one("sqrt", x[0]),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_laws_hold(name: str) -> None:
    assert proved(*EQUAL[name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_not_proved(name: str) -> None:
    assert not proved(*DIFFERENT[name])


@pytest.mark.parametrize("seed", range(40))
def test_degrees_are_bounds(seed: int) -> None:
    """A random rational function of one variable, its degrees found by Euclid's algorithm on the
    exact polynomials.
    """
    source = random.Random(seed)
    scalars = FreeScalars(521, seed)
    x = scalars.fresh(source.getrandbits(500))
    known: list[tuple[Free, list[Fraction], list[Fraction]]] = [
        (x, [Fraction(0), Fraction(1)], [Fraction(1)])
    ]
    for n in (2, 3):
        known.append((scalars.const(float(n)), [Fraction(n)], [Fraction(1)]))
    for _ in range(12):
        (a, p, q), (b, r, s) = source.choice(known), source.choice(known)
        verb = source.choice(["add", "sub", "mul", "div"])
        if verb == "div" and not any(r):
            continue
        found = getattr(scalars, verb)(a, b)
        if verb == "mul":
            num, den = times(p, r), times(q, s)
        elif verb == "div":
            num, den = times(p, s), times(q, r)
        else:
            sign = 1 if verb == "add" else -1
            num, den = plus(times(p, s), times(r, q), sign), times(q, s)
        num, den = lowest(num, den)
        if len(num) > 40 or len(den) > 40:
            break
        known.append((found, num, den))
        assert found.num >= len(num) - 1 or not num
        assert found.den >= len(den) - 1
        expected = value(num, x.value, scalars.prime)
        assert found.value * value(den, x.value, scalars.prime) % scalars.prime == expected


def times(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    found = [Fraction(0)] * max(0, len(a) + len(b) - 1)
    for i, c in enumerate(a):
        for j, d in enumerate(b):
            found[i + j] += c * d
    return found


def plus(a: list[Fraction], b: list[Fraction], sign: int) -> list[Fraction]:
    size = max(len(a), len(b))
    wide = [[*p, *[Fraction(0)] * (size - len(p))] for p in (a, b)]
    return trimmed([c + sign * d for c, d in zip(*wide, strict=True)])


def trimmed(a: list[Fraction]) -> list[Fraction]:
    while a and not a[-1]:
        a = a[:-1]
    return a


def rest(a: list[Fraction], b: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Quotient and remainder."""
    quotient = [Fraction(0)] * max(0, len(a) - len(b) + 1)
    while len(a) >= len(b):
        factor, shift = a[-1] / b[-1], len(a) - len(b)
        quotient[shift] = factor
        a = trimmed(plus(a, [*[Fraction(0)] * shift, *(factor * c for c in b)], -1))
    return quotient, a


def lowest(num: list[Fraction], den: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    a, b = trimmed(num), trimmed(den)
    while b:
        a, b = b, rest(a, b)[1]
    return (rest(num, a)[0] if num else []), rest(den, a)[0]


def value(polynomial: list[Fraction], x: int, prime: int) -> int:
    total = 0
    for c in reversed(polynomial):
        total = (total * x + c.numerator * pow(c.denominator, -1, prime)) % prime
    return total


def test_the_prime_grows_until_the_bound_is_kept() -> None:
    """x^(2^100): its degree alone is beyond the smallest prime's bound."""

    def high(b: Builder, x: list[Value]) -> Value:
        found = x[0]
        for _ in range(100):
            found = b.one("mul", found, found)
        return found

    found = bounded_equal(program(high), program(high), 3, ["output y"])
    assert found.holds
    assert found.exponent == EXPONENTS[1]
    assert -521 < found.error <= -60


def test_what_depends_on_a_guard_is_refused() -> None:
    scalars = FreeScalars(127, 0)
    guard = scalars.gt(scalars.fresh(3), scalars.fresh(5))
    with pytest.raises(Open):
        bool(guard)
    with pytest.raises(Open):
        scalars.truncate(scalars.fresh(3), DType.I32)


def test_kernels_of_random_programs_are_proved_and_mutants_are_not() -> None:
    """The loop nests of gradients, and the same with one product a sum where the small field sees a
    difference.
    """
    known, refused = 0, 0
    for seed in range(7):
        made = random_program(seed, regions=seed % 2 == 0)
        names = list(made.differentiable)
        options = Options(derivative=partial(value_and_grad, wrt=names), verify=0)
        done = run_pipeline(made.function, options)
        last = [r.artifact for r in done.records if isinstance(r.artifact, Function)][-1]
        found = bounded_plan(last, done.plan, seed)
        assert found.error <= -60 or found.reason
        known += found.holds
        for number, kernel in enumerate(done.plan.kernels):
            body, is_changed = mutated(kernel.body)
            if is_changed:
                kernels = list(done.plan.kernels)
                kernels[number] = replace(kernel, body=body)
                wrong = replace(done.plan, kernels=tuple(kernels))
                if compare_plan(last, wrong, seed, 1).differing:
                    refused += 1
                    assert not bounded_plan(last, wrong, seed).holds
    assert known >= 4
    assert refused >= 5


def mutated(body: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
    """The first product by two of the body's own values becomes a sum."""
    found = list(body)
    for n, statement in enumerate(found):
        if is_product(statement):
            found[n] = replace(statement, verb="add")
            return tuple(found), True
        inner = getattr(statement, "body", None)
        if inner:
            changed, is_changed = mutated(inner)
            if is_changed:
                found[n] = replace(statement, body=changed)
                return tuple(found), True
    return body, False


def is_product(statement: Any) -> bool:
    if not isinstance(statement, Let) or statement.verb != "mul":
        return False
    return statement.var.dtype.is_float and not any(
        isinstance(x, Const) for x in statement.operands
    )


def test_open_guards_speak_for_every_region() -> None:
    """Two programs that agree where x0 > x1 and nowhere else are not proved, whichever pattern a
    seed would draw.
    """
    left = program(lambda b, x: b.one("max", x[0], x[1]))
    right = program(lambda b, x: b.one("select", b.one("gt", x[0], x[1]), x[0], x[2]))
    assert not any(bounded_equal(left, right, s, ["output y"]).holds for s in range(8))
    assert np.all([not bounded_equal(right, left, s, ["output y"]).holds for s in range(8)])
