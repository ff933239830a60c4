"""Balls at real points: the only thing that refutes.

Points are drawn from a fixed sequence, in several ranges so that logarithms and roots get arguments they like. At each,
both sides are evaluated at 50 digits; entries that certainly differ refute, with the point. Points where a guard is
too close to call, or a function is not defined, are passed over. A program in which two computed numbers are equal
everywhere (a maximum of copies) has such a guard at every point: there both sides are compared in f64, which decides ties
the same way on both sides, can agree to some digits, and refutes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.core import DType, Function, Role
from gradc.ir.domains import NumpyArrays
from gradc.ir.dual import Dual, DualArrays
from gradc.ir.interpret import run
from gradc.passes.prove_balls import (
    BallArrays,
    NudgedArrays,
    Undecided,
    agreeing_digits,
    first_difference,
    largest_gap,
)
from gradc.passes.prove_gradient import cotangents
from gradc.passes.prove_point import index_limit
from gradc.passes.prove_report import Status

# Passes fold constants in the program's type; what that can explain, several times over, refutes nothing.
FOLDED = {DType.F64: 2.0**-40, DType.F32: 2.0**-17, DType.BF16: 2.0**-3, DType.F16: 2.0**-6}
# In how many ways literals are moved before a difference refutes, and how many times as large it must then be.
NUDGES, SPREADS = 4, 8
RANGES = ((-1.0, 1.0), (0.1, 0.9), (0.5, 2.0), (-0.2, 0.2))
# Digits that two right computations in f64 share, at the least.
LEAST_DIGITS = 7
# The same, where constants were folded in a shorter type.
LEAST_DIGITS_FOLDED = 4
# Arrays of more elements are described by their first ones.
MOST_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """REFUTED with a point, AGREES with figures, or UNDECIDED if no point could be evaluated."""

    status: Status
    detail: str
    point: dict[str, str]


class FloatArrays(NumpyArrays):
    """Numbers of f64 where balls are expected."""

    def __init__(self) -> None:
        super().__init__(DType.F64)

    def point(self, x: np.ndarray[Any, np.dtype[Any]]) -> Any:
        """The numbers of ``x`` themselves."""
        return x.astype(np.float64)


PointArrays: TypeAlias = BallArrays | FloatArrays


@dataclass(frozen=True, slots=True)
class RealPoint:
    """Numbers for every parameter of a program, and the domain (balls, or floats) they are taken to."""

    balls: PointArrays
    numbers: tuple[Any, ...]

    @property
    def values(self) -> list[Any]:
        return [self.balls.point(x) if x.dtype.kind == "f" else x for x in self.numbers]


def real_point(function: Function, number: int) -> RealPoint:
    """Point ``number`` of the sequence: odd multiples of 2^-13, which print short and are never zero (a kink of relu)."""
    rng = np.random.default_rng([number, 77])
    low, high = RANGES[number % len(RANGES)]
    limit = index_limit(function)
    numbers: list[Any] = []
    for value, slot in zip(function.block.parameters, function.parameters, strict=True):
        shape, dtype = value.type.static_shape, value.type.dtype
        if dtype.is_float:
            numbers.append((np.floor(rng.uniform(low, high, shape) * 4096) + 0.5) / 4096)
        elif dtype is DType.BOOL:
            numbers.append(rng.random(shape) < 0.5)
        else:
            top = 1 << 16 if slot.role is Role.STATE else limit
            numbers.append(rng.integers(0, top, shape).astype(BallArrays.dtype(dtype)))
    return RealPoint(BallArrays(), tuple(numbers))


Sides = Callable[[RealPoint], tuple[Sequence[Any], Sequence[Any]]]


def decide(function: Function, sides: Sides, names: Sequence[str], points: int = 8) -> Outcome:
    """Compares two lists of arrays of balls, called ``names``, at real points of ``function``."""
    pairs: list[tuple[Any, Any]] = []
    used = 0
    floats = [v.type.dtype for v in function.block.parameters if v.type.dtype.is_float]
    tolerance = max((FOLDED[dtype] for dtype in floats), default=FOLDED[DType.F64])
    for number in range(points):
        at = real_point(function, number)
        try:
            with at.balls.quiet():
                left, right = sides(at)
                for name, x, y in zip(names, left, right, strict=True):
                    found = first_difference(x, y, tolerance)
                    if found is not None and not _is_folding(at, sides, left, right):
                        return Outcome(
                            Status.REFUTED,
                            f"{name}{list(found[0]) or ''} is {found[1]}, the other side {found[2]}",
                            described(function, at),
                        )
                    flat = zip(np.ravel(x), np.ravel(y), strict=True)
                    pairs.extend(flat)
                used += 1
        except (Undecided, ZeroDivisionError):
            continue
    if not used:
        return _in_floats(function, sides, points)
    detail = f"{agreeing_digits(pairs)} digits at {used} real points"
    return Outcome(Status.AGREES, detail, {})


def _is_folding(at: RealPoint, sides: Sides, left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether a difference is no more than what literals that are a few ulps off make of the left side.

    Cancellation makes much of little there, so a difference relative to the result says nothing of it.
    """
    nudged = [sides(RealPoint(NudgedArrays(seed), at.numbers))[0] for seed in range(NUDGES)]
    for n, (x, y) in enumerate(zip(left, right, strict=True)):
        spread = max(largest_gap(x, one[n]) for one in nudged)
        if largest_gap(x, y) > SPREADS * spread:
            return False
    return True


def _in_floats(function: Function, sides: Sides, points: int) -> Outcome:
    """Both sides in f64: AGREES to the digits they share, or UNDECIDED."""
    digits, used = 16, 0
    for number in range(points):
        at = RealPoint(FloatArrays(), real_point(function, number).numbers)
        with at.balls.quiet():
            rows = [
                (np.asarray(x, float), np.asarray(y, float))
                for x, y in zip(*sides(at), strict=True)
            ]
        if not all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in rows):
            continue
        used += 1
        for x, y in rows:
            scale = max(float(np.max(np.abs(x), initial=0.0)), 1e-300)
            error = float(np.max(np.abs(x - y), initial=0.0)) / scale
            digits = min(digits, 16 if error == 0 else max(0, int(-np.log10(error))))
    if not used:
        return Outcome(Status.UNDECIDED, "no real point could be evaluated", {})
    floats = [v.type.dtype for v in function.block.parameters if v.type.dtype.is_float]
    is_wide = all(dtype is DType.F64 for dtype in floats)
    if digits < (LEAST_DIGITS if is_wide else LEAST_DIGITS_FOLDED):
        return Outcome(Status.UNDECIDED, f"f64 shares {digits} digits, and balls meet ties", {})
    detail = f"{digits} digits at {used} real points in f64, as balls do not decide ties"
    return Outcome(Status.AGREES, detail, {})


def described(function: Function, at: RealPoint) -> dict[str, str]:
    """The numbers of a point by parameter, long arrays cut."""
    shown = {}
    for slot, x in zip(function.parameters, at.numbers, strict=True):
        flat = [repr(v) for v in x.reshape(-1)[:MOST_SHOWN].tolist()]
        more = ", ..." if x.size > MOST_SHOWN else ""
        shown[slot.name] = f"[{', '.join(flat)}{more}]" if x.shape else flat[0]
    return shown


def decide_gradient(function: Function, gradient: Function, name: str, points: int = 8) -> Outcome:
    """The gradient of one parameter against dual numbers over balls, entry by entry along one direction."""
    place = cotangents(gradient)[name]

    def sides(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        values = at.values
        ct = np.asarray(run(at.balls, gradient, values)[place], object)
        rng = np.random.default_rng(5)
        shape = ct.shape
        direction = at.balls.point(rng.integers(-8, 9, shape) / 8.0)
        total = np.sum(np.asarray(ct * direction, object))
        return [np.asarray(total, object)], [tangent_along(function, at, {name: direction})]

    return decide(function, sides, [f"<gradient of {name}, v>"], points)


def tangent_along(function: Function, at: RealPoint, directions: dict[str, Any]) -> Any:
    """The tangent of the loss as a ball."""
    duals = [
        Dual(value, directions.get(slot.name))
        for value, slot in zip(at.values, function.parameters, strict=True)
    ]
    results = run(DualArrays(at.balls), function, duals)
    place = next(n for n, slot in enumerate(function.results) if slot.role is Role.LOSS)
    tangent = results[place].tangent
    return at.balls.point(np.zeros(())).item() if tangent is None else np.asarray(tangent).item()


def decide_equal(
    before: Function, after: Function, places: Sequence[tuple[int, int]], points: int = 8
) -> Outcome:
    """Results of two programs with the same parameters, pairwise."""

    def sides(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        values = at.values
        left, right = run(at.balls, before, values), run(at.balls, after, values)
        return [_floats(left[i]) for i, _ in places], [_floats(right[j]) for _, j in places]

    return decide(before, sides, [before.results[i].name for i, _ in places], points)


def _floats(x: Any) -> Any:
    array = np.asarray(x)
    return array if array.dtype == object else BallArrays().point(array.astype(np.float64))
