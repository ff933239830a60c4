"""How far compiled gradients are from the exact ones, in ulps, with finite differences and dot
products beside them.

The reference is the gradient program evaluated at the very numbers that the machine code gets, with
balls at 50 digits where the program is small, in f64 otherwise. One ulp is that of the program's
type.

What precision explains: the gradient is evaluated again at inputs moved by half an ulp of the
coarsest type that the program computes in. An error of more than ``MARGIN`` times what that changes
(or four such ulps) is not one of
rounding: sums that stagnate, underflow, a fault.

Non-goals: proofs (``passes.prove``); speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Role, walk
from gradc.passes.prove.domains.balls import BallArrays, Undecided
from gradc.passes.prove.domains.point import index_limit
from gradc.passes.prove.programs.shapes import work
from gradc.passes.prove.report import Accuracy
from gradc.passes.prove.rules.gradient import cotangents

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

MOST_BALLS = 30_000
STEP = 1e-5
# Relative to the numbers at hand, nothing but rounding at 50 digits (or in f64, where that is the
# reference).
_ZERO = 1e-15
MARGIN = 16.0
MORE = 7
_EPSILON = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.BF16: 2.0**-7, DType.F16: 2.0**-10}


def measure(
    model: Model, dims: Mapping[str, int], names: Sequence[str], target: str = "cpu"
) -> tuple[Accuracy, ...]:
    """The errors of the gradients by ``names`` at fresh parameters and random inputs."""
    function = model.lower(dims).function
    gradient = model.gradient_of(names)(function)
    values = _point(model, function, dims)
    found = _compiled(model, function, names, values, model.init(0, dims), target)
    exact, reference = _exact(gradient, values)
    moved = _moved(gradient, values, _coarsest(function))
    rows = []
    for name, place in cotangents(gradient).items():
        row = _row(name, np.asarray(found[name]), exact[place], reference, function, values)
        change = _change(exact[place], moved[place]) + 4.0 * _coarsest(function)
        own = _EPSILON[function.parameter(name).type.dtype]
        rows.append(replace(row, explained=MARGIN * change / own))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A compiled gradient that is wrong by ``error`` of its largest entry, where precision explains
    ``explained``.
    """

    name: str
    error: float
    explained: float


def unexplained(
    model: Model, names: Sequence[str], operands: Mapping[str, Any], target: str = "cpu"
) -> tuple[Unexplained, ...]:
    """The gradients by ``names`` at ``operands`` (parameters, states and inputs) whose error their
    precision does not explain; against f64, without finite differences.

    What looks wrong at first is compared with ``MORE`` further moves: an input near a kink flips
    with some of them.
    """
    shapes = {name: np.shape(operands[name]) for name in model.inputs}
    function = model.lower(model.bind(shapes)).function
    pairs = zip(function.parameters, function.block.parameters, strict=True)
    values = [
        np.asarray(operands[s.name]).astype(NumpyArrays.dtype(v.type.dtype)) for s, v in pairs
    ]
    gradient = model.gradient_of(names)(function)
    found = _compiled(model, function, names, values, operands, target)
    exact = _wide(gradient, values)
    places, coarsest = cotangents(gradient), _coarsest(function)
    wrong: dict[str, Unexplained] = {}
    for number in range(1 + MORE):
        moved = _moved(gradient, values, coarsest, number)
        for name, place in places.items() if number == 0 else [(n, places[n]) for n in wrong]:
            largest = _largest(exact[place], values)
            worst = np.abs(np.asarray(found[name], np.float64) - exact[place])
            error = float(np.max(worst, initial=0.0)) / largest
            change = MARGIN * (_change(exact[place], moved[place]) + 4.0 * coarsest)
            known = wrong[name].explained if name in wrong else 0.0
            wrong[name] = Unexplained(name, error, max(known, change))
        wrong = {n: w for n, w in wrong.items() if not w.error <= w.explained}
        if not wrong:
            break
    return tuple(wrong.values())


def _compiled(
    model: Model,
    function: Function,
    names: Sequence[str],
    values: Sequence[Any],
    held: Mapping[str, Any],
    target: str,
) -> dict[str, Any]:
    """What the compiled program gives at ``values``; parameters that the program does not read are
    those of ``held``.
    """
    given = {s.name: v for s, v in zip(function.parameters, values, strict=True)}
    params = {n: given.get(n, held[n]) for n in held if n not in model.inputs}
    inputs = {n: given.get(n, held.get(n)) for n in model.inputs}
    compiled = model.value_and_grad(tuple(names), target=target)
    return dict(compiled(params, **inputs)[1])


def _coarsest(function: Function) -> float:
    """The ulp at 1 of the coarsest float type that ``function`` computes in."""
    values = [*function.block.parameters, *(v for op in walk(function.block) for v in op.results)]
    return max(_EPSILON.get(v.type.dtype, 0.0) for v in values)


def _moved(gradient: Function, values: Sequence[Any], epsilon: float, number: int = 0) -> list[Any]:
    """The results in f64 at inputs moved by half an ulp, up or down; other ones for each
    number.
    """
    rng = np.random.default_rng(3 + number)
    moved = [
        v.astype(np.float64) * (1.0 + epsilon / 2 * rng.choice((-1.0, 1.0), v.shape))
        if v.dtype.kind == "f"
        else v
        for v in values
    ]
    return [np.asarray(x) for x in run(NumpyArrays(DType.F64), gradient, moved)]


def _change(exact: Any, moved: Any) -> float:
    """The greatest difference over the greatest entry."""
    largest = float(np.max(np.abs(exact), initial=0.0))
    return float(np.max(np.abs(moved - exact), initial=0.0)) / largest if largest else 0.0


def _point(model: Model, function: Function, dims: Mapping[str, int]) -> list[Any]:
    """Fresh parameters, random inputs."""
    held = model.init(0, dims)
    limit = index_limit(function)
    rng = np.random.default_rng(1)
    values: list[Any] = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        storage, shape = NumpyArrays.dtype(value.type.dtype), value.type.static_shape
        if slot.name in held and slot.role in (Role.PARAM, Role.STATE):
            values.append(np.asarray(held[slot.name]))
        elif value.type.dtype.is_float:
            values.append(rng.uniform(0.1, 0.9, shape).astype(storage))
        elif value.type.dtype is DType.BOOL:
            values.append(rng.random(shape) < 0.5)
        else:
            values.append(rng.integers(0, limit, shape).astype(storage))
    return values


def _exact(gradient: Function, values: Sequence[Any]) -> tuple[list[Any], str]:
    """The results with more digits, and what was used."""
    if work(gradient) <= MOST_BALLS:
        balls = BallArrays()
        try:
            with balls.quiet():
                exact = [balls.point(v) if v.dtype.kind == "f" else v for v in values]
                results = run(balls, gradient, exact)
                return [_middle(x) for x in results], "balls at 50 digits"
        except (Undecided, ValueError, AttributeError):
            pass
    return _wide(gradient, values), "f64"


def _wide(gradient: Function, values: Sequence[Any]) -> list[Any]:
    """The results in f64."""
    wide = [v.astype(np.float64) if v.dtype.kind == "f" else v for v in values]
    return [np.asarray(x) for x in run(NumpyArrays(DType.F64), gradient, wide)]


def _largest(exact: Any, values: Sequence[Any]) -> float:
    """The greatest entry; 1 for a gradient that is 0 by mathematics, whose error is absolute."""
    largest = float(np.max(np.abs(exact), initial=0.0))
    return 1.0 if largest <= _ZERO * _size_of_parts(values) else largest


def _middle(x: Any) -> Any:
    array = np.asarray(x)
    if array.dtype != object:
        return array
    flat = [float(v.mid()) for v in array.reshape(-1)]
    return np.asarray(flat, np.float64).reshape(array.shape)


def _row(
    name: str, found: Any, exact: Any, reference: str, function: Function, values: Sequence[Any]
) -> Accuracy:
    epsilon = _EPSILON[function.parameter(name).type.dtype]
    error = np.abs(found.astype(np.float64) - exact)
    own = np.where(exact == 0, 1.0, np.abs(exact))
    elementwise = float(np.max(np.where(exact == 0, 0.0, error / own), initial=0.0)) / epsilon
    rng = np.random.default_rng(2)
    v = rng.standard_normal(exact.shape)
    slope, true = _difference(function, values, name, v), float((exact * v).sum())
    scale = max(abs(true), 1e-300)
    dot = float((found.astype(np.float64) * v).sum())
    worst = float(np.max(error, initial=0.0))
    largest = _largest(exact, values)
    if float(np.max(np.abs(exact), initial=0.0)) < largest:
        # Nothing but rounding has entries to measure by.
        elementwise = worst / epsilon
    return Accuracy(
        name,
        worst / (largest * epsilon),
        elementwise,
        abs(slope - true) / scale,
        abs(dot - slope) / scale,
        reference,
    )


def _size_of_parts(values: Sequence[Any]) -> float:
    """How large numbers get here, at least 1: what a sum that cancels is small beside."""
    sizes = [float(np.max(np.abs(v), initial=0.0)) for v in values if v.dtype.kind == "f"]
    return max(1.0, *sizes) if sizes else 1.0


def _difference(function: Function, values: Sequence[Any], name: str, v: Any) -> float:
    """The central difference of the loss along ``v``, in f64."""
    place = next(n for n, s in enumerate(function.results) if s.role is Role.LOSS)
    ends = []
    step = STEP / max(1.0, math.sqrt(float((v * v).mean())))
    for sign in (1, -1):
        moved = [
            x.astype(np.float64) + (sign * step * v if s.name == name else 0.0)
            if x.dtype.kind == "f"
            else x
            for s, x in zip(function.parameters, values, strict=True)
        ]
        ends.append(float(run(NumpyArrays(DType.F64), function, moved)[place]))
    return (ends[0] - ends[1]) / (2 * step)
