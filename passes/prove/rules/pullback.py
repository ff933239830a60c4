"""Pullbacks that users write (``custom``), against dual numbers of the primal they belong to.

What counts is the derivative that differentiation would give the primal, ``stop_gradient``
included. A right pullback is proved by exact fractions where it is small, else by a prime field, or
agrees in balls; a wrong one is refuted at a real point, with the entry that is wrong. Asserted is
what the user calls so, and what belongs to a function that ends in a step (``prove_steps``) and is
not its derivative, which says nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays, ObjectArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run_block
from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.ops.registry import has_pullback
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, TensorType, Value, walk
from gradc.passes.prove.domains.balls import BallArrays, require_finite
from gradc.passes.prove.domains.dual import ProofDuals
from gradc.passes.prove.domains.exact import ExactScalars, TooLarge, cells
from gradc.passes.prove.domains.field import PRIME, FieldArrays
from gradc.passes.prove.domains.point import element_of
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.refute import MOST_ENTRIES, Outcome, RealPoint, decide, refined
from gradc.passes.prove.rules.steps import ends_in_step

POINTS = 4
# Primals of more elements than this are not expanded into exact fractions.
MOST_EXACT = 12
# Nor are those of more regions.
MOST_CELLS = 8


def name_of(op: Op) -> str:
    """The same for two ``custom`` ops that do the same."""
    return fingerprint((bool(op.attributes.get("asserted")), op.regions), PLACES)


def pullback_verdicts(function: Function) -> dict[str, Verdict]:
    """One verdict per distinct ``custom`` op of ``function``, by ``name_of``."""
    found: dict[str, Verdict] = {}
    for op in walk(function.block):
        if has_pullback(op) and name_of(op) not in found:
            found[name_of(op)] = pullback_verdict(op)
    return found


def pullback_verdict(op: Op) -> Verdict:
    """What is known of the pullback of one ``custom`` op."""
    start = time.perf_counter()
    place = "" if op.span is None else str(op.span.outermost)
    called = str(op.attributes.get("function", "custom"))
    called = f"{op.scope}: {called}" if op.scope else called
    name = f"{called} at {place}" if place else called
    found = _decided(op)
    seconds = time.perf_counter() - start
    assumed = () if found.status is Status.ASSERTED else ("off kinks",)
    return Verdict(
        "pullback", name, found.status, found.method, found.detail, assumed, found.point, place,
        "", seconds, found.witness,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settled:
    """What is known of a pullback, and how."""

    status: Status
    method: str
    detail: str
    point: Mapping[str, str] = field(default_factory=dict)
    witness: Mapping[str, Any] = field(default_factory=dict)


def _decided(op: Op) -> Settled:
    if op.attributes.get("asserted"):
        return Settled(Status.ASSERTED, "the user's word", "`asserted` stands there")
    sizes = sum(int(np.prod(v.type.static_shape)) for v in op.operands)
    if sizes <= MOST_EXACT:
        try:
            if all(cells(lambda scalars: _exact(op, scalars), MOST_CELLS)):
                return Settled(Status.PROVED_SHAPE, "exact fractions of polynomials", "")
        except (TooLarge, ZeroDivisionError):
            pass
    if all(_in_field(op, number) for number in range(POINTS)):
        detail = f"{POINTS} points modulo {PRIME}"
        return Settled(Status.PROVED_BOUND, "prime field: pullback = dual numbers", detail)
    if ends_in_step(op.regions[0]):
        detail = "the function ends in a step, whose derivative says nothing"
        return Settled(Status.ASSERTED, "the user's word", detail)
    function = as_function(op)
    outcome = decide(function, lambda at: _at_balls(op, at), ["<g, J v>"], is_exact=True)
    if outcome.status is Status.REFUTED:
        outcome = _wrong_entry(op, function, outcome)
    return Settled(
        outcome.status, "balls at 50 digits", outcome.detail, outcome.point, outcome.witness
    )


def as_function(op: Op) -> Function:
    """The operands and the cotangents of the results as parameters: what points are drawn for."""
    primal = op.regions[0]
    names = [v.hint or f"operand {n}" for n, v in enumerate(primal.parameters)]
    cts = [Value(v.type) for v in primal.outputs]
    names += ["ct" if len(cts) == 1 else f"ct {n}" for n in range(len(cts))]
    while len(set(names)) < len(names):
        names = [f"{name}'" if name in names[:n] else name for n, name in enumerate(names)]
    slots = tuple(Slot(name, Role.INPUT) for name in names)
    return Function("custom", Block((*primal.parameters, *cts), primal.body), slots, ())


def _sides(
    arrays: NumpyArrays,
    duals: DualArrays,
    op: Op,
    values: Sequence[Any],
    directions: Sequence[Any],
    cotangents: Sequence[Any],
) -> tuple[Any, Any]:
    """<g, J v> and <pullback(g), v> as scalars of the domain; ``directions`` has None for what is
    no float.
    """
    primal = op.regions[0]
    given = [Dual(x, v) for x, v in zip(values, directions, strict=True)]
    results = run_block(duals, primal, given)
    if isinstance(arrays, BallArrays):
        for result in results:
            require_finite(result.primal)
    gs = [g if v.type.dtype.is_float else arrays.zeros_like(r.primal)
          for g, v, r in zip(cotangents, primal.outputs, results, strict=True)]  # fmt: skip
    left = [(g, r.tangent) for g, r in zip(gs, results, strict=True) if r.tangent is not None]
    primals = [r.primal for r in results]
    cts = run_block(arrays, op.regions[1], [*values, *primals, *gs])
    right = [(ct, v) for ct, v in zip(cts, directions, strict=True) if v is not None]
    if isinstance(arrays, BallArrays):
        for ct, _ in right:
            require_finite(ct)
    return _inner(arrays, left), _inner(arrays, right)


def _inner(arrays: NumpyArrays, pairs: Sequence[tuple[Any, Any]]) -> Any:
    total = arrays.full(0.0, (), DType.F64)
    for a, b in pairs:
        product = np.asarray(arrays.verb("mul", a, b))
        axes = tuple(range(product.ndim))
        part = arrays.reduce("add", product, axes, DType.F64) if axes else product
        total = arrays.verb("add", total, part)
    return np.asarray(total)


def _exact(op: Op, scalars: ExactScalars) -> bool:
    arrays = ObjectArrays(scalars)

    def draw(type_: TensorType) -> Any:
        count = int(np.prod(type_.static_shape))
        return arrays.objects([scalars.fresh() for _ in range(count)], type_.static_shape)

    needs_roots = any(o.name in ("sqrt", "rsqrt") for o in walk(op.regions[0]))
    if needs_roots or any(not v.type.dtype.is_float for v in op.operands):
        raise TooLarge
    values, directions = ([draw(v.type) for v in op.operands] for _ in range(2))
    cts = [draw(v.type) if v.type.dtype.is_float else None for v in op.results]
    left, right = _sides(arrays, DualArrays(arrays), op, values, directions, cts)
    return scalars.is_zero(left.item() - right.item())


def _in_field(op: Op, number: int) -> bool:
    rng = np.random.default_rng([number, 3])
    arrays = FieldArrays(int(rng.integers(1 << 62)))
    values = [element_of(arrays, v.type, rng, 2) for v in op.operands]

    directions = [_random(arrays, v.type, rng) for v in op.operands]
    cts = [_random(arrays, v.type, rng) for v in op.results]
    with arrays.quiet():
        left, right = _sides(arrays, ProofDuals(arrays), op, values, directions, cts)
    return int(left) == int(right)


def _random(arrays: FieldArrays, type_: TensorType, rng: np.random.Generator) -> Any:
    return arrays.random(type_.static_shape, rng) if type_.dtype.is_float else None


def _at_balls(
    op: Op, at: RealPoint, unit: tuple[int, Any] | None = None
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Both sides at a point, along one random direction or ``unit``: the number of an operand, and
    a direction of it.
    """
    rng = np.random.default_rng(11)
    directions = []
    for n, value in enumerate(op.operands):
        shape = value.type.static_shape
        numbers = rng.integers(-8, 9, shape) / 8.0
        if unit is not None:
            numbers = unit[1] if n == unit[0] else np.zeros(shape)
        directions.append(at.balls.point(numbers) if value.type.dtype.is_float else None)
    values, count = at.values, len(op.operands)
    left, right = _sides(
        at.balls, DualArrays(at.balls), op, values[:count], directions, values[count:]
    )
    return [right], [left]


def _wrong_entry(op: Op, function: Function, outcome: Outcome) -> Outcome:
    """The same refutation by the first entry of a cotangent that is wrong on its own."""
    names = [slot.name for slot in function.parameters]
    for number, value in enumerate(op.operands):
        if not value.type.dtype.is_float:
            continue
        for entry in list(np.ndindex(value.type.static_shape))[:MOST_ENTRIES]:
            unit = np.zeros(value.type.static_shape)
            unit[entry] = 1.0
            name = f"the cotangent of {names[number]}{list(entry) or ''}"

            def sides(
                at: RealPoint, direction: tuple[int, Any] = (number, unit)
            ) -> tuple[Sequence[Any], Sequence[Any]]:
                return _at_balls(op, at, direction)

            found = refined(function, outcome, sides, name)
            if found is not None:
                return found
    return outcome
