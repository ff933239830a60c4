"""Is each derivative rule right? <g, J v> against sum <pullback_k(g), v_k>, J from dual numbers.

Elementwise ops are decided exactly on single elements (``prove_exact``), in every cell of their
guards: that is a proof for all shapes. Linear ops between axes are proved for all shapes by the
index algebra (``prove_index``). The others are run over a prime field at each combination of
attributes and shapes a program uses: both sides are polynomials of small degree in g, v and the
operands, so the chance that a wrong rule passes is computed and printed.

Where an op compares (max, pooling), comparisons are opaque there: a field element that depends on
the two numbers compared, so one evaluation speaks for every order of the operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays, ObjectArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run_block
from gradc.ir.loop.equal import fingerprint
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import lookup, zero_vjp
from gradc.ir.tensor.core import Block, Function, Op, TensorType, Value, walk
from gradc.passes.prove.domains.dual import ProofDuals
from gradc.passes.prove.domains.exact import ExactScalars, cells
from gradc.passes.prove.domains.field import PRIME, FieldArrays, add, mul, sub
from gradc.passes.prove.domains.point import element_of

POINTS = 3
# Functions of which roots are taken: operands are squares.
POSITIVE = ("sqrt", "rsqrt")
# Both sides of the identity, degree in everything that is drawn; reductions of n factors have n
# more.
_DEGREE = 8


@dataclass(frozen=True)
class Instance:
    """An op at given attributes and operand types, alone in a block."""

    op: Op
    parameters: tuple[Value, ...]

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def degree(self) -> int:
        """A bound on the degree of both sides of the identity."""
        definition = lookup(self.name)
        if definition.is_elementwise or definition.traits.linear:
            return _DEGREE + 64
        sizes = [math.prod(v.type.static_shape) for v in self.parameters]
        return _DEGREE + max(64, *sizes)

    def __str__(self) -> str:
        types = ", ".join(str(v.type) for v in self.parameters)
        return f"{self.name}({types})"


def instance(name: str, types: Sequence[TensorType], attributes: Any) -> Instance:
    """``name`` on fresh parameters."""
    b = Builder()
    parameters = [b.parameter(t) for t in types]
    b.apply(name, parameters, attributes)
    return Instance(b.ops[-1], tuple(parameters))


def instances(function: Function) -> dict[str, list[Instance]]:
    """The ops of ``function`` that have rules, once per name, attributes and types."""
    known: dict[str, None] = {}
    found: dict[str, list[Instance]] = {}
    for op in walk(function.block):
        if op.regions or not op.results or not is_differentiable(op):
            continue
        types = [v.type for v in op.operands]
        key = fingerprint((op.name, tuple(types), dict(op.attributes)))
        if key not in known:
            known[key] = None
            found.setdefault(op.name, []).append(instance(op.name, types, op.attributes))
    return found


def is_differentiable(op: Op) -> bool:
    """Whether ``op`` hands cotangents on."""
    definition = lookup(op.name)
    if not any(v.type.dtype.is_float for v in op.results):
        return False
    return definition.vjp is not zero_vjp and any(v.type.dtype.is_float for v in op.operands)


# --- the identity, in any domain


def sides(
    arrays: NumpyArrays, duals: DualArrays, case: Instance, values: Sequence[Any], drawn: Drawn
) -> tuple[list[Any], list[Any]]:
    """The terms of <g, J v> and of sum <ct_k, v_k>, as arrays to be added up."""
    op = case.op
    operands = [Dual(x, v) for x, v in zip(values, drawn.directions(case.parameters), strict=True)]
    block = Block(case.parameters, (op, Op("yield", op.results, ())))
    results = run_block(duals, block, operands)
    gs = drawn.seeds(op.results)
    left = [
        arrays.verb("mul", g, r.tangent)
        for g, r in zip(gs, results, strict=True)
        if g is not None and r.tangent is not None
    ]
    b = Builder()
    seeds = [None if g is None else Value(v.type) for g, v in zip(gs, op.results, strict=True)]
    needed = [v.type.dtype.is_float for v in op.operands]
    cts = lookup(op.name).vjp(b, op, seeds, needed)
    outputs = [ct for ct in cts if ct is not None]
    given = [v for v in seeds if v is not None]
    whole = Block((*case.parameters, *given), (op, *b.ops, Op("yield", tuple(outputs), ())))
    found = iter(run_block(arrays, whole, [*values, *(g for g in gs if g is not None)]))
    right = []
    for ct, dual in zip(cts, operands, strict=True):
        value = None if ct is None else next(found)
        if value is not None and dual.tangent is not None:
            right.append(arrays.verb("mul", value, dual.tangent))
    return left, right


def tangent_sides(
    arrays: NumpyArrays, duals: DualArrays, case: Instance, values: Sequence[Any], drawn: Drawn
) -> tuple[list[Any], list[Any]]:
    """The terms of <g, J v> and of <g, w>, w what the forward rule makes of v."""
    op = case.op
    operands = [Dual(x, v) for x, v in zip(values, drawn.directions(case.parameters), strict=True)]
    results = run_block(duals, Block(case.parameters, (op, Op("yield", op.results, ()))), operands)
    gs = drawn.seeds(op.results)
    b = Builder()
    tangents = [
        None if x.tangent is None else Value(v.type)
        for x, v in zip(operands, case.parameters, strict=True)
    ]
    out = [v for v in lookup(op.name).jvp(b, op, tangents) if v is not None]
    given = [v for v in tangents if v is not None]
    whole = Block((*case.parameters, *given), (op, *b.ops, Op("yield", tuple(out), ())))
    moved = [x.tangent for x in operands if x.tangent is not None]
    found = run_block(arrays, whole, [*values, *moved])
    pairs = zip(gs, results, strict=True)
    left = [arrays.verb("mul", g, r.tangent) for g, r in pairs if r.tangent is not None]
    seeds = [g for g in gs if g is not None]
    right = [arrays.verb("mul", g, w) for g, w in zip(seeds, found, strict=False)]
    return left, right


class Drawn:
    """Where directions and seeds come from: one draw per floating value."""

    def draw(self, type_: TensorType) -> Any:
        raise AssertionError("a domain of its own each")

    def directions(self, values: Sequence[Value]) -> list[Any]:
        return [self.draw(v.type) if v.type.dtype.is_float else None for v in values]

    def seeds(self, values: Sequence[Value]) -> list[Any]:
        return [self.draw(v.type) if v.type.dtype.is_float else None for v in values]


Sides: TypeAlias = Callable[..., tuple[list[Any], list[Any]]]

# --- exact, on single elements


class _Generators(Drawn):
    def __init__(self, scalars: ExactScalars) -> None:
        self.scalars = scalars

    def draw(self, type_: TensorType) -> Any:
        flat = [self.scalars.fresh() for _ in range(math.prod(type_.static_shape))]
        return ObjectArrays.objects(flat, type_.static_shape)


def holds_exactly(case: Instance, forward: bool = False) -> bool:
    """Whether the rule of ``case`` (or its forward rule) is an identity in every cell. Raises
    TooLarge.
    """
    identity = tangent_sides if forward else sides
    return all(cells(lambda scalars: _exact(case, scalars, identity)))


def _exact(case: Instance, scalars: ExactScalars, identity: Sides) -> bool:
    arrays = ObjectArrays(scalars)
    drawn = _Generators(scalars)
    values = []
    for value in case.parameters:
        shape = value.type.static_shape
        if not value.type.dtype.is_float:
            bits = [scalars.guards.answer() for _ in range(math.prod(shape))]
            values.append(np.asarray(bits, bool).reshape(shape))
        elif case.name in POSITIVE:
            flat = [scalars.square() for _ in range(math.prod(shape))]
            values.append(arrays.objects(flat, shape))
        else:
            values.append(drawn.draw(value.type))
    left, right = identity(arrays, DualArrays(arrays), case, values, drawn)
    total = scalars.const(0.0)
    for array in left:
        for x in np.asarray(array, object).reshape(-1):
            total = total + x
    for array in right:
        for x in np.asarray(array, object).reshape(-1):
            total = total - x
    return scalars.is_zero(total)


# --- over a prime field


class OpaqueArrays(FieldArrays):
    """Field elements whose comparisons are opaque: c = oracle(a, b) stands for any truth value.

    select(c, a, b) is c a + (1 - c) b; an identity in these holds for c = 0 and for c = 1, for
    every guard at once.
    """

    def verb(self, name: str, *operands: Any) -> Any:
        xs = [np.asarray(x) for x in operands]
        if name in ("eq", "ne", "lt", "le", "gt", "ge") and xs[0].dtype == np.uint64:
            return self._compared(name, *np.broadcast_arrays(xs[0], xs[1]))
        if name == "select" and xs[0].dtype == np.uint64:
            return add(mul(xs[0], xs[1]), mul(sub(np.asarray(1, np.uint64), xs[0]), xs[2]))
        if name == "logical_not" and xs[0].dtype == np.uint64:
            return sub(np.asarray(1, np.uint64), xs[0])
        if name == "logical_and" and xs[0].dtype == np.uint64:
            return mul(xs[0], xs[1])
        return super().verb(name, *operands)

    def _compared(self, name: str, a: Any, b: Any) -> Any:
        if name == "ne":
            return self.verb("logical_not", self._compared("eq", a, b))
        if name == "eq":
            low, high = np.minimum(a, b), np.maximum(a, b)
            return self.oracle("eq", add(mul(low, np.asarray(65537, np.uint64)), high))
        return super().verb(name, a, b)


class _Uniform(Drawn):
    def __init__(self, arrays: FieldArrays, rng: np.random.Generator) -> None:
        self.arrays, self.rng = arrays, rng

    def draw(self, type_: TensorType) -> Any:
        return self.arrays.random(type_.static_shape, self.rng)


def holds_in_field(case: Instance, seed: int, points: int = POINTS, is_opaque: bool = True) -> bool:
    """Whether the rule of ``case`` holds at random points."""
    return _holds(case, seed, points, is_opaque, sides)


def tangent_holds(case: Instance, seed: int, points: int = POINTS, is_opaque: bool = True) -> bool:
    """Whether the forward rule of ``case`` holds at random points."""
    return _holds(case, seed, points, is_opaque, tangent_sides)


def _holds(case: Instance, seed: int, points: int, is_opaque: bool, identity: Sides) -> bool:
    domain = OpaqueArrays if is_opaque else FieldArrays
    return all(_field_point(case, domain, seed, number, identity) for number in range(points))


def _field_point(
    case: Instance, domain: type[FieldArrays], seed: int, number: int, identity: Sides
) -> bool:
    rng = np.random.default_rng([seed, number])
    arrays = domain(int(rng.integers(1 << 62)))
    limit = _index_limit(case)
    values = [element_of(arrays, v.type, rng, limit) for v in case.parameters]
    with arrays.quiet():
        left, right = identity(arrays, ProofDuals(arrays), case, values, _Uniform(arrays, rng))
    return _total(left) == _total(right)


def is_flat(case: Instance) -> bool:
    """Whether neither dual numbers nor the forward rule give any result of ``case`` a tangent."""
    op = case.op
    arrays = FieldArrays(1)
    drawn = _Uniform(arrays, np.random.default_rng(1))
    limit = _index_limit(case)
    values = [element_of(arrays, v.type, drawn.rng, limit) for v in case.parameters]
    moved = drawn.directions(case.parameters)
    operands = [Dual(x, v) for x, v in zip(values, moved, strict=True)]
    with arrays.quiet():
        block = Block(case.parameters, (op, Op("yield", op.results, ())))
        results = run_block(ProofDuals(arrays), block, operands)
    tangents = [None if x is None else v for x, v in zip(moved, op.operands, strict=True)]
    out = lookup(op.name).jvp(Builder(), op, tangents)
    return all(r.tangent is None for r in results) and all(v is None for v in out)


def _total(arrays: Sequence[Any]) -> int:
    return sum(int(np.asarray(x).sum(dtype=np.uint64)) for x in arrays) % PRIME


def _index_limit(case: Instance) -> int:
    if case.name == "take":
        return max(1, case.parameters[0].type.static_shape[int(str(case.op.attributes["axis"]))])
    if case.name == "scatter_add":
        return max(1, int(str(case.op.attributes["size"])))
    return 2


def error_bound(case: Instance, points: int = POINTS) -> float:
    """log2 of the chance that a wrong rule passes: (degree / p) per point."""
    return points * (math.log2(case.degree) - math.log2(PRIME))
