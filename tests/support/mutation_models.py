"""What mutants are made of: small models, their derivatives of every mode, and what both are at
real points.

Non-goals: faults (``tests.support.mutants``), scores (``tests.support.mutation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import all_ops
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.prove.domains.point import index_limit, seed_of
from gradc.passes.recompute import tile as tiling
from gradc.passes.recompute.rematerialise import Policy, rematerialise
from gradc.passes.training.step import Update, train_step
from tests.support.loops_models import channel_model, lstm, mlp, row_model, transformer

F64 = NumpyArrays(DType.F64)
# Below this relative change in f64, two programs are the same up to rounding (balls are asked as
# well).
SAME = 1e-9


@dataclass(frozen=True)
class Target:
    """A model, its gradient, and what both are at real points and at one point of the field."""

    name: str
    source: Function
    gradient: Function
    seed: int

    @property
    def reals(self) -> list[list[Any]]:
        return reals(self.source)

    @property
    def wrt(self) -> list[str]:
        return [s.name for s in self.source.parameters if s.role is Role.PARAM]


def reals(function: Function, points: int = 4) -> list[list[Any]]:
    """Arrays for every parameter at a few points, away from zero; all positive at the first."""
    limit = index_limit(function)
    found = []
    for number in range(points):
        rng = np.random.default_rng([number, 5])
        values: list[Any] = []
        for value in function.block.parameters:
            shape, dtype = value.type.static_shape, value.type.dtype
            if dtype.is_float:
                signs = 1 if number == 0 else rng.choice([-1, 1], shape)
                values.append(rng.uniform(0.2, 1.4, shape) * signs)
            else:
                values.append(rng.integers(0, limit, shape).astype(NumpyArrays.dtype(dtype)))
        found.append(values)
    return found


def numbers(function: Function, points: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """What ``function`` computes at real points, in f64."""
    with np.errstate(all="ignore"):
        return [[np.asarray(x) for x in run(F64, function, values)] for values in points]


def is_changed(before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]) -> bool:
    """Whether some result differs by more than rounding."""
    for xs, ys in zip(before, after, strict=True):
        for x, y in zip(xs, ys, strict=True):
            if x.dtype.kind != "f":
                if not np.array_equal(x, y):
                    return True
                continue
            scale = max(1e-30, float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)))
            if not np.isclose(x, y, rtol=0, atol=SAME * scale, equal_nan=True).all():
                return True
    return False


def central_differences(
    source: Function, values: Sequence[Any], step: float = 1e-6
) -> dict[str, Any]:
    """The gradient by central differences in f64, every entry."""
    place = next(n for n, s in enumerate(source.results) if s.role is Role.LOSS)
    found = {}
    for number, slot in enumerate(source.parameters):
        if slot.role is not Role.PARAM:
            continue
        base = np.asarray(values[number], np.float64)
        slopes = np.zeros(base.shape)
        for at in np.ndindex(base.shape):
            ends = []
            for sign in (1, -1):
                moved = base.copy()
                moved[at] += sign * step
                given = [*values[:number], moved, *values[number + 1 :]]
                ends.append(float(run(F64, source, given)[place]))
            slopes[at] = (ends[0] - ends[1]) / (2 * step)
        found[slot.name] = slopes
    return found


@cache
def targets() -> tuple[Target, ...]:
    """Small models with everything the backward program of a network has."""
    models = {
        "mlp": mlp(3, [3, 4, 3]),
        "rows": row_model(3, 4),
        "transformer": transformer(1, 2, 3, 4, 2, 5),
        "lstm": lstm(3, 2, 2, 3),
        "channels": channel_model(2, 2, 3, 3),
        "square": mlp(3, [3, 3, 3]),  # where a wrong axis or transpose has the right type
    }
    return tuple(target_of(name, f) for name, f in models.items())


def target_of(name: str, source: Function) -> Target:
    names = [s.name for s in source.parameters if s.role is Role.PARAM]
    return Target(name, source, value_and_grad(source, names), seed_of(source))


@cache
def single_ops() -> tuple[Target, ...]:
    """One program per differentiable op: a weighted sum of what it gives."""
    found = []
    for definition in all_ops():
        for number, sample in enumerate(definition.samples[:2]):
            sizes = [n for t in sample.operands for n in t.static_shape]
            if 0 in sizes or not any(t.dtype.is_float for t in sample.operands):
                continue
            b = Builder()
            operands = [b.parameter(t) for t in sample.operands]
            y = b.apply(definition.name, operands, sample.attributes)[0]
            if not y.type.dtype.is_float:
                continue
            weights = b.parameter(y.type)
            total = b.one("mul", y, weights)
            loss = b.one("sum", total, axes=tuple(range(y.type.rank)))
            slots = [
                Slot(f"p{n}", Role.PARAM if v.type.dtype.is_float else Role.INPUT)
                for n, v in enumerate((*operands, weights))
            ]
            name = f"{definition.name}{number}"
            source = b.function(name, [loss], slots, [Slot("loss", Role.LOSS)])
            found.append(target_of(source.name, source))
    return tuple(found)


# --- derivatives of other kinds


def recomputed(target: Target) -> Target:
    """The gradient under a budget: loops in chunks, and the middle of the program is recomputed by
    the reverse sweep.
    """
    if any(op.name == "scan" for op in target.source.block.body):
        policy = Policy(chunk=2)
    else:
        count = len(target.source.block.body)
        policy = Policy(stretches=((count // 4, count - count // 4),))
    source = rematerialise(target.source, policy)
    return replace(target, gradient=value_and_grad(source, target.wrt))


def tiled() -> Target:
    """Attention whose scores exist one tile at a time, and its gradient."""
    least, size = tiling.LEAST, tiling.TILE
    tiling.LEAST, tiling.TILE = 1, 8
    try:
        source = tiling.tile(attention(4, 3))
    finally:
        tiling.LEAST, tiling.TILE = least, size
    assert any(op.name == "scan" for op in source.block.body)
    return target_of("attention", source)


def attention(time: int, width: int) -> Function:
    """mean((softmax(q k^T) v)^3) of one head."""
    b = Builder()
    q, k, v = (b.parameter(TensorType((time, width), DType.F64)) for _ in range(3))
    scores = b.one("contract", q, k, batch=(), contract=((1, 1),))
    shape = (time, time)
    most = b.one("broadcast", b.one("reduce_max", scores, axes=(1,)), shape=shape, dims=(0,))
    powers = b.one("exp", b.one("sub", scores, b.one("stop_gradient", most)))
    total = b.one("broadcast", b.one("sum", powers, axes=(1,)), shape=shape, dims=(0,))
    y = b.one("contract", b.one("div", powers, total), v, batch=(), contract=((1, 0),))
    cube = b.one("mul", y, b.one("mul", y, y))
    slots = [Slot(name, Role.PARAM) for name in "qkv"]
    loss = b.one("sum", cube, axes=(0, 1))
    return b.function("attention", [loss], slots, [Slot("loss", Role.LOSS)])


def forward(target: Target) -> Function:
    """Forward mode: results and their tangents."""
    return jvp(target.source, target.wrt)


def step_of(target: Target) -> Function:
    """A training step: the gradient, and an update of every parameter like Adam's without moments
    of the gradient.
    """
    rows = zip(target.source.parameters, target.source.block.parameters, strict=True)
    types = {slot.name: value.type for slot, value in rows}
    return train_step(target.gradient, {name: scaled_update(types[name]) for name in target.wrt})


def scaled_update(type_: TensorType) -> Update:
    """p - lr g / (sqrt(v') + eps), v' = 0.75 v + 0.25 g^2; v is drawn positive where it is a
    square.
    """
    b = Builder()
    p, g = (b.parameter(type_) for _ in range(2))
    t, lr = (b.parameter(type_.with_shape(())) for _ in range(2))
    v = b.parameter(type_)

    def filled(x: float) -> Value:
        return b.constant(x, type_.dtype, type_.shape)

    kept, new = b.one("mul", filled(0.75), b.one("mul", v, v)), b.one("mul", g, g)
    second = b.one("add", kept, b.one("mul", filled(0.25), new))
    below = b.one("add", b.one("sqrt", second), filled(0.001))
    rate = b.one("broadcast", lr, shape=type_.shape, dims=()) if type_.rank else lr
    step = b.one("div", b.one("mul", rate, g), below)
    roles = (Role.PARAM, Role.COTANGENT, Role.HYPER, Role.HYPER, Role.SLOT)
    slots = [Slot(n, r) for n, r in zip(("p", "g", "t", "lr", "v"), roles, strict=True)]
    assert t.type == lr.type
    results = [Slot("p", Role.PARAM), Slot("v", Role.SLOT)]
    return Update(b.function("scaled", [b.one("sub", p, step), second], slots, results), 0.01)
