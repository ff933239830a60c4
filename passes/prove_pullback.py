"""Pullbacks that users write (``custom``), against dual numbers of the primal they belong to.

A right pullback is proved by exact fractions where it is small, else by a prime field; a wrong one is refuted at a real
point where balls of both sides are disjoint. What has no derivative to compare with is asserted: the user's word stands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.ir.core import DType, Function, Op, Role, Slot, TensorType, walk
from gradc.ir.domains import NumpyArrays, ObjectArrays
from gradc.ir.dual import Dual, DualArrays
from gradc.ir.equal import PLACES, fingerprint
from gradc.ir.interpret import run_block
from gradc.passes.prove_dual import ProofDuals
from gradc.passes.prove_exact import ExactScalars, TooLarge, cells
from gradc.passes.prove_field import PRIME, FieldArrays
from gradc.passes.prove_point import element_of
from gradc.passes.prove_refute import RealPoint, decide
from gradc.passes.prove_report import Status, Verdict

POINTS = 4
# Primals of more elements than this are not expanded into exact fractions.
MOST_EXACT = 12
_FLAT = ("floor", "round", "sign", "argmax", "random_bits")


def pullback_verdicts(function: Function) -> list[Verdict]:
    """One verdict per distinct ``custom`` op of ``function``."""
    found: dict[str, Verdict] = {}
    for op in walk(function.block):
        if op.name == "custom":
            key = fingerprint(op.regions, PLACES)
            if key not in found:
                found[key] = pullback_verdict(op)
    return list(found.values())


def pullback_verdict(op: Op) -> Verdict:
    """What is known of the pullback of one ``custom`` op."""
    start = time.perf_counter()
    place = "" if op.span is None else str(op.span.outermost)
    name = f"{op.scope or 'custom'} at {place}" if place else op.scope or "custom"
    status, method, detail, point = _decided(op)
    seconds = time.perf_counter() - start
    assumed = () if status is Status.ASSERTED else ("off kinks",)
    return Verdict("pullback", name, status, method, detail, assumed, point, place, "", seconds)


def _decided(op: Op) -> tuple[Status, str, str, dict[str, str]]:
    flat = [o.name for o in walk(op.regions[0]) if o.name in _FLAT]
    flat += [o.name for o in walk(op.regions[0]) if o.name == "stop_gradient"]
    sizes = sum(int(np.prod(v.type.static_shape)) for v in op.operands)
    if sizes <= MOST_EXACT:
        try:
            if all(cells(lambda scalars: _exact(op, scalars))):
                return Status.PROVED_SHAPE, "exact fractions of polynomials", "", {}
        except (TooLarge, ZeroDivisionError):
            pass
    if all(_in_field(op, number) for number in range(POINTS)):
        detail = f"{POINTS} points modulo {PRIME}"
        return Status.PROVED_BOUND, "prime field: pullback = dual numbers", detail, {}
    if flat:
        detail = f"`{flat[0]}` has no derivative to compare with"
        return Status.ASSERTED, "the user's word", detail, {}
    outcome = decide(as_function(op), lambda at: _at_balls(op, at), ["<g, J v>"])
    if outcome.status is Status.UNDECIDED:
        return Status.ASSERTED, "the user's word", outcome.detail, {}
    return outcome.status, "balls at 50 digits", outcome.detail, outcome.point


def as_function(op: Op) -> Function:
    """The operands as parameters: what points are drawn for."""
    slots = tuple(
        Slot(v.hint or f"operand {n}", Role.INPUT) for n, v in enumerate(op.regions[0].parameters)
    )
    return Function("custom", op.regions[0], slots, ())


def _sides(
    arrays: NumpyArrays, duals: DualArrays, op: Op, values: Sequence[Any], draw: Any
) -> tuple[Any, Any]:
    """<g, J v> and <pullback(g), v> as scalars of the domain."""
    primal, pullback = op.regions[0], op.regions[1]
    vs = [draw(p.type) if p.type.dtype.is_float else None for p in primal.parameters]
    results = run_block(duals, primal, [Dual(x, v) for x, v in zip(values, vs, strict=True)])
    gs = [draw(v.type) if v.type.dtype.is_float else arrays.zeros_like(r.primal)
          for v, r in zip(primal.outputs, results, strict=True)]  # fmt: skip
    left = [(g, r.tangent) for g, r in zip(gs, results, strict=True) if r.tangent is not None]
    cts = run_block(arrays, pullback, [*values, *(r.primal for r in results), *gs])
    right = [(ct, v) for ct, v in zip(cts, vs, strict=True) if v is not None]
    return _inner(arrays, left), _inner(arrays, right)


def _inner(arrays: NumpyArrays, pairs: Sequence[tuple[Any, Any]]) -> Any:
    total = arrays.full(0.0, (), DType.F64)
    for a, b in pairs:
        product = np.asarray(arrays.verb("mul", a, b))
        axes = tuple(range(product.ndim))
        part = arrays.reduce("sum", product, axes, DType.F64) if axes else product
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
    values = [draw(v.type) for v in op.operands]
    left, right = _sides(arrays, DualArrays(arrays), op, values, draw)
    return scalars.is_zero(left.item() - right.item())


def _in_field(op: Op, number: int) -> bool:
    rng = np.random.default_rng([number, 3])
    arrays = FieldArrays(int(rng.integers(1 << 62)))
    values = [element_of(arrays, v.type, rng, 2) for v in op.operands]

    def draw(type_: TensorType) -> Any:
        return arrays.random(type_.static_shape, rng)

    with arrays.quiet():
        left, right = _sides(arrays, ProofDuals(arrays), op, values, draw)
    return int(left) == int(right)


def _at_balls(op: Op, at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
    rng = np.random.default_rng(11)

    def draw(type_: TensorType) -> Any:
        return at.balls.point(rng.integers(-8, 9, type_.static_shape) / 8.0)

    left, right = _sides(at.balls, DualArrays(at.balls), op, at.values, draw)
    return [left], [right]
