"""The tower: laws of exp, log and sqrt are known, near misses are rejected, and programs that exact
fields tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from sympy import isprime

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.prove.domains.point import draw
from gradc.passes.prove.domains.tower import (
    CHAINS,
    TowerArrays,
    discrete_log,
    powers,
    residues,
    tower_equal,
)
from gradc.passes.prove.programs.passes import differing, values_by_result
from tests.support.mutants import OP_FAULTS, op_mutants

F64 = DType.F64
Make = Callable[["Terms"], Value]
SEED = 20261121
POINTS = 2


class Terms:
    """Short names for building a program over x (2 x 4), y (2 x 4) and v (4)."""

    def __init__(self) -> None:
        self.b = Builder()
        self.x = self.b.parameter(TensorType((2, 4), F64), "x")
        self.y = self.b.parameter(TensorType((2, 4), F64), "y")
        self.k = self.b.algebra(TensorType((2, 4), F64))

    def number(self, value: float) -> Value:
        return self.b.constant(value, F64, (2, 4))

    def fold(self, name: str, x: Value) -> Value:
        """A reduction over the last axis, stretched back."""
        axes: tuple[int, ...] = (1,)
        found = self.b.one(name, x, axes=axes)
        return self.b.one("broadcast", found, shape=x.type.shape, dims=(0,))

    def half(self, x: Value, start: int) -> Value:
        return self.b.one("slice", x, start=(0, start), limit=(2, start + 2), stride=(1, 1))


def program(make: Make) -> Function:
    t = Terms()
    slots = [Slot("x", Role.PARAM), Slot("y", Role.PARAM)]
    return t.b.function("f", [make(t)], slots, [Slot("z", Role.OUTPUT)])


def softmax(t: Terms) -> Value:
    e = t.k.exp(t.x)
    return t.k.div(e, t.fold("sum", e))


def stable_softmax(t: Terms) -> Value:
    e = t.k.exp(t.k.sub(t.x, t.fold("reduce_max", t.x)))
    return t.k.div(e, t.fold("sum", e))


def online_softmax(t: Terms, rescales: bool = True) -> Value:
    """sum(softmax(x) y) in two blocks, each with its own maximum; stretched to (2, 4)."""
    parts = []
    for start in (0, 2):
        x, y = t.half(t.x, start), t.half(t.y, start)
        top = t.b.one("reduce_max", x, axes=(1,))
        e = t.k.exp(t.k.sub(x, t.b.one("broadcast", top, shape=(2, 2), dims=(0,))))
        total = t.b.one("sum", e, axes=(1,))
        parts.append((top, total, t.b.one("sum", t.k.mul(e, y), axes=(1,))))
    (m1, s1, a1), (m2, s2, a2) = parts
    top = t.k.max(m1, m2)
    c1, c2 = t.k.exp(t.k.sub(m1, top)), t.k.exp(t.k.sub(m2, top))
    if not rescales:
        c1 = t.k.exp(t.k.sub(m2, m2))
    total = t.k.add(t.k.mul(s1, c1), t.k.mul(s2, c2))
    found = t.k.div(t.k.add(t.k.mul(a1, c1), t.k.mul(a2, c2)), total)
    return t.b.one("broadcast", found, shape=(2, 4), dims=(0,))


def plain_attention(t: Terms) -> Value:
    return t.fold("sum", t.k.mul(softmax(t), t.y))


def sigmoid(t: Terms, x: Value) -> Value:
    one = t.number(1.0)
    return t.k.div(one, t.k.add(one, t.k.exp(t.k.neg(x))))


def other_sigmoid(t: Terms, x: Value) -> Value:
    e = t.k.exp(x)
    return t.k.div(e, t.k.add(t.number(1.0), e))


def tanh_silu(t: Terms, sign: float = 1.0) -> Value:
    half = t.k.mul(t.x, t.number(0.5))
    return t.k.add(half, t.k.mul(t.number(sign), t.k.mul(half, t.k.tanh(half))))


def twice_softmax(t: Terms, is_stable: bool) -> Value:
    """exp within exp within exp: levels run out below three."""
    t.x = t.k.mul(t.y, (stable_softmax if is_stable else softmax)(t))
    t.x = t.k.mul(t.y, (stable_softmax if is_stable else softmax)(t))
    return softmax(t)


def logsumexp(t: Terms, is_stable: bool) -> Value:
    if not is_stable:
        return t.k.log(t.fold("sum", t.k.exp(t.x)))
    top = t.fold("reduce_max", t.x)
    return t.k.add(top, t.k.log(t.fold("sum", t.k.exp(t.k.sub(t.x, top)))))


def normed(t: Terms, is_rsqrt: bool, eps: float = 1e-5) -> Value:
    square = t.fold("sum", t.k.mul(t.x, t.x))
    inner = t.k.add(square, t.number(eps)) if eps else square
    return t.k.mul(t.x, t.k.rsqrt(inner)) if is_rsqrt else t.k.div(t.x, t.k.sqrt(inner))


EQUAL: dict[str, tuple[Make, Make]] = {
    "stable softmax": (softmax, stable_softmax),
    "online attention": (plain_attention, online_softmax),
    "sigmoid": (lambda t: sigmoid(t, t.x), lambda t: other_sigmoid(t, t.x)),
    "silu by tanh": (lambda t: t.k.mul(t.x, sigmoid(t, t.x)), tanh_silu),
    "softmax of softmax": (lambda t: twice_softmax(t, False), lambda t: twice_softmax(t, True)),
    "logsumexp": (lambda t: logsumexp(t, False), lambda t: logsumexp(t, True)),
    "log of exp": (lambda t: t.x, lambda t: t.k.log(t.k.exp(t.x))),
    "exp of sum": (
        lambda t: t.k.exp(t.k.add(t.x, t.y)),
        lambda t: t.k.mul(t.k.exp(t.x), t.k.exp(t.y)),
    ),
    "rsqrt": (lambda t: normed(t, True), lambda t: normed(t, False)),
}
# Programs that are not equal, next to such that are.
DIFFERENT: dict[str, tuple[Make, Make]] = {
    "no rescale": (plain_attention, lambda t: online_softmax(t, False)),
    "sign of tanh": (lambda t: t.k.mul(t.x, sigmoid(t, t.x)), lambda t: tanh_silu(t, -1.0)),
    "sign in sigmoid": (
        lambda t: sigmoid(t, t.x),
        lambda t: other_sigmoid(t, t.k.neg(t.x)),
    ),
    "no eps": (lambda t: normed(t, True), lambda t: normed(t, False, 0.0)),
    "eps": (lambda t: normed(t, True), lambda t: normed(t, False, 1e-6)),
    "factor": (softmax, lambda t: t.k.mul(t.number(1 + 2.0**-12), stable_softmax(t))),
    "sign in log": (lambda t: t.k.log(t.x), lambda t: t.k.log(t.k.neg(t.x))),
    "exp of product": (
        lambda t: t.k.exp(t.k.mul(t.x, t.y)),
        lambda t: t.k.mul(t.k.exp(t.x), t.k.exp(t.y)),
    ),
    "half of logsumexp": (
        lambda t: logsumexp(t, False),
        lambda t: t.k.log(t.fold("sum", t.k.exp(t.k.sub(t.x, t.fold("reduce_max", t.x))))),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_programs_agree(name: str) -> None:
    """Also in f64, so that the pair is what it says."""
    before, after = (program(make) for make in EQUAL[name])
    rng = np.random.default_rng(3)
    at = [rng.uniform(-1, 1, (2, 4)) for _ in range(2)]
    (x,), (y,) = (run(NumpyArrays(), f, at) for f in (before, after))
    np.testing.assert_allclose(x, y, rtol=1e-12)
    assert tower_equal(before, after, SEED, POINTS) == ()


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_programs_do_not(name: str) -> None:
    before, after = (program(make) for make in DIFFERENT[name])
    assert tower_equal(before, after, SEED, POINTS) == ("output z",)
    assert tower_equal(after, before, SEED, POINTS) == ("output z",)


def of_scalar(make: Callable[[Terms, Value], Value]) -> Function:
    """A program of one number: one decision, one root per point."""
    t = Terms()
    b = Builder()
    t.b, x = b, b.parameter(TensorType((), F64), "x")
    t.k = b.algebra(x.type)
    slots = [Slot("x", Role.PARAM)]
    return b.function("f", [make(t, x)], slots, [Slot("z", Role.OUTPUT)])


def test_square_of_a_root_is_known_and_the_root_of_a_square_is_not() -> None:
    """sqrt(x^2) = x holds wherever x is a residue, at half of the points: chance must not confirm
    it.
    """
    plain = of_scalar(lambda t, x: x)
    square = of_scalar(lambda t, x: t.k.mul(t.k.sqrt(x), t.k.sqrt(x)))
    root = of_scalar(lambda t, x: t.k.sqrt(t.k.mul(x, x)))
    other = of_scalar(lambda t, x: t.k.mul(x, t.k.rsqrt(x)))
    assert tower_equal(plain, square, SEED, POINTS) == ()
    assert tower_equal(of_scalar(lambda t, x: t.k.sqrt(x)), other, SEED, POINTS) == ()
    for seed in range(8):
        assert tower_equal(plain, root, seed, 1) == ("output z",)


def test_guards_are_not_dropped_by_chance() -> None:
    relu = of_scalar(lambda t, x: t.k.max(x, t.b.constant(0.0, F64)))
    for seed in range(8):
        assert tower_equal(relu, of_scalar(lambda t, x: x), seed, 1) == ("output z",)


def test_a_prime_field_alone_tells_the_softmaxes_apart() -> None:
    """Or the tower would not be needed."""
    before, after = program(softmax), program(stable_softmax)
    at = draw(before, SEED, 0)
    assert differing(values_by_result(before, at), values_by_result(after, at)) == ["output z"]


@pytest.mark.parametrize("chain", CHAINS)
def test_chains(chain: tuple[int, ...]) -> None:
    assert all(isprime(p) and p % 8 == 7 and p < 2**31 for p in chain)
    assert all(upper == 2 * lower + 1 for upper, lower in pairwise(chain))
    exponents = np.random.default_rng(1).integers(0, chain[1], (3, 2), np.uint64)
    four, prime = np.full((3, 2), 4, np.uint64), np.uint64(chain[0])
    raised = powers(four, exponents, prime)
    assert raised[1, 1] == pow(4, int(exponents[1, 1]), chain[0])
    np.testing.assert_array_equal(discrete_log(raised, chain[0]), exponents)


def test_arithmetic_against_integers() -> None:
    """Products of matrices and quotients on every level, in Python's integers."""
    at = TowerArrays(5, CHAINS[0], 4)
    rng = np.random.default_rng(2)
    a, b = at.random((1, 3, 40), rng), at.random((1, 40, 2), rng)
    found = residues(at.contract(a, b, [(0, 0)], [(2, 1)], F64))
    quotient = residues(at.div(a, at.add(a, at.literal(1.0))))
    for level, p in enumerate(CHAINS[0][:4]):
        x, y = residues(a)[..., level].astype(object), residues(b)[..., level].astype(object)
        np.testing.assert_array_equal(found[..., level].astype(object), (x[0] @ y[0])[None] % p)
        assert int(quotient[0, 0, 0, level]) * (x[0, 0, 0] + 1) % p == x[0, 0, 0]


@pytest.mark.parametrize("name", ["stable softmax", "silu by tanh", "rsqrt"])
def test_no_fault_that_changes_numbers_is_confirmed(name: str) -> None:
    """Seeded faults in the second program of a pair, against the first; f64 says which change
    anything.
    """
    before, after = (program(make) for make in EQUAL[name])
    rng = np.random.default_rng(6)
    points = [[rng.normal(size=(2, 4)) for _ in range(2)] for _ in range(3)]
    caught = 0
    for fault in OP_FAULTS.values():
        for mutant in op_mutants(after, fault, 1):
            pairs = [[run(NumpyArrays(), f, at)[0] for f in (before, mutant)] for at in points]
            if all(np.allclose(x, y, rtol=1e-9, equal_nan=True) for x, y in pairs):
                continue
            assert tower_equal(before, mutant, SEED, POINTS) == ("output z",)
            caught += 1
    assert caught >= 8
