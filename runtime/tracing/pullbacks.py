"""Whether a pullback that a function brings is the derivative of the function: in NumPy, f64, at
random points.

Entries where differentiation gives no number are not compared, nor is a step, whose derivative is
nothing. The points and cotangents are always the same ones.

Non-goals: a proof (``passes.prove``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run_block
from gradc.ir.tensor.core import Block, DType, Function, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import vjp
from gradc.passes.prove.rules.steps import ends_in_step
from gradc.runtime.native.arrays import Array

# How points are made of normal numbers: anywhere, positive, between 0 and 1.
_POINTS: tuple[Callable[[Array], Array], ...] = (
    lambda x: x,
    lambda x: np.abs(x) + 0.1,
    lambda x: 1 / (1 + np.exp(-x)),
)
_MARGIN = 1e-6  # of the largest entry of a cotangent
_LARGE = 1 << 16  # elements from which one point is enough


@dataclass(frozen=True, slots=True)
class Pullback:
    """The regions of a ``custom`` op: ``count`` operands, then what ``captured`` names."""

    primal: Block
    pull: Block
    count: int
    captured: Sequence[Any]


def difference(pullback: Pullback, names: Sequence[str]) -> str:
    """Where the two differ, in words; empty where they agree, or nothing can be compared."""
    primal = pullback.primal
    wrt = [n for n, v in enumerate(primal.parameters[: pullback.count]) if v.type.dtype.is_float]
    of = [n for n, v in enumerate(primal.outputs) if v.type.dtype.is_float]
    if not wrt or not of:
        return ""
    slots = [Slot(f"x{n}", Role.INPUT) for n in range(len(primal.parameters))]
    results = [Slot(f"y{n}", Role.OUTPUT) for n in range(len(primal.outputs))]
    try:
        derived = vjp(Function("custom", primal, tuple(slots), tuple(results)), wrt, of)
    except DiagnosticError:
        return ""  # what has no derivative has nothing to compare with
    size = sum(int(np.prod(primal.parameters[n].type.static_shape)) for n in wrt)
    is_step = ends_in_step(primal)
    for number, shape in enumerate(_POINTS[: 1 if size > _LARGE else None]):
        rng = np.random.default_rng(number)
        values = _values(pullback, rng, shape)
        found, expected = _both(pullback, derived, values, wrt, rng)
        if is_step and not any(np.any(e) for e in expected):
            continue
        told = _told(found, expected, [names[n] for n in wrt])
        if told:
            shown = zip(names, values, strict=False)
            return told + " at " + ", ".join(f"{name} = {_short(x)}" for name, x in shown)
    return ""


def _both(
    pullback: Pullback,
    derived: Function,
    values: list[Array],
    wrt: Sequence[int],
    rng: np.random.Generator,
) -> tuple[list[Array], list[Array]]:
    """The cotangents of the operands ``wrt`` by the pullback, and by differentiation."""
    arrays = NumpyArrays(DType.F64)
    with arrays.quiet():
        results = run_block(arrays, pullback.primal, values)
        outputs = pullback.primal.outputs
        cts = [_random(v, rng) for v in outputs]
        seeds = [ct for ct, v in zip(cts, outputs, strict=True) if v.type.dtype.is_float]
        found = run_block(arrays, pullback.pull, [*values, *results, *cts])
        expected = run_block(arrays, derived.block, [*values, *seeds])
    return [found[n] for n in wrt], list(expected[-len(wrt) :])


def _values(
    pullback: Pullback, rng: np.random.Generator, shape: Callable[[Array], Array]
) -> list[Array]:
    parameters = pullback.primal.parameters
    made = [_random(v, rng, shape) for v in parameters[: pullback.count]]
    for value, item in zip(parameters[pullback.count :], pullback.captured, strict=True):
        is_known = isinstance(item, np.ndarray) and type(item) is np.ndarray
        made.append(_held(item, value.type) if is_known else _random(value, rng))
    return made


def _random(
    value: Value, rng: np.random.Generator, shape: Callable[[Array], Array] = _POINTS[0]
) -> Array:
    """Numbers for a floating value, zeros for another."""
    extents = value.type.static_shape
    if not value.type.dtype.is_float:
        return _held(np.zeros(extents), value.type)
    return _held(shape(np.asarray(rng.normal(size=extents))), value.type)


def _held(item: Array, type_: TensorType) -> Array:
    return np.asarray(item, NumpyArrays(DType.F64).storage(type_.dtype))


def _told(found: Sequence[Array], expected: Sequence[Array], names: Sequence[str]) -> str:
    for one, other, name in zip(found, expected, names, strict=True):
        known = np.isfinite(other)
        scale = max(1.0, float(np.max(np.abs(other), initial=0.0, where=known)))
        wrong = known & ~(np.abs(one - other) <= _MARGIN * scale)
        if np.any(wrong):
            place = tuple(int(n) for n in np.argwhere(wrong)[0])
            entry = f"{name}[{', '.join(map(str, place))}]" if place else name
            return (
                f"its pullback gives {one[place]:.6g} for {entry}, "
                f"and the derivative of the function is {other[place]:.6g},"
            )
    return ""


def _short(x: Array) -> str:
    return np.array2string(x, precision=4, threshold=8, edgeitems=2).replace("\n", "")


__all__ = ["Pullback", "difference"]
