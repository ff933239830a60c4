"""Balls at real points: the only thing that refutes, and never without a witness.

Points are drawn from a fixed sequence, in several ranges so that logarithms and roots get arguments
they like. At each, both sides are evaluated at 50 digits. Entries that certainly differ refute,
with the point and both numbers (``Witness``), if it is a point: losses, gradients and states are
finite there, and so is what is compared; the difference is still there a little way off, so it is
no kink. Points where a guard is too close to call, or a function is not defined, are passed over,
unless the first of two programs gives numbers there and the second in f64 gives none, here and a
little way off: a division by zero or a logarithm of a negative number is a difference. A program in
which two computed numbers are equal everywhere (a maximum of copies) has such a guard at every
point: there both sides are compared in f64, which decides ties the same way on both sides, can
agree to some digits, and refutes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.execute import ExecutionError
from gradc.ir.tensor.core import DType, Function, Role
from gradc.passes.prove.domains.balls import (
    DIGITS,
    BallArrays,
    NudgedArrays,
    Undecided,
    are_finite,
    first_difference,
    largest_gap,
    require_finite,
    shared_digits,
    shown,
)
from gradc.passes.prove.domains.point import Runnable, index_limit, results_of
from gradc.passes.prove.report import Status, key
from gradc.passes.prove.rules.gradient import cotangents

# Passes fold constants in the program's type; what that can explain, several times over, refutes
# nothing.
FOLDED = {DType.F64: 2.0**-40, DType.F32: 2.0**-17, DType.BF16: 2.0**-3, DType.F16: 2.0**-6}
# In how many ways literals are moved before a difference refutes, and how many times as large it
# must then be.
NUDGES, SPREADS = 4, 8
RANGES = ((-1.0, 1.0), (0.1, 0.9), (0.5, 2.0), (-0.2, 0.2))
# Digits that two right computations share, at the least, where constants were folded in a type.
LEAST_DIGITS = {DType.F64: 7, DType.F32: 4, DType.F16: 1, DType.BF16: 0}
# Arrays of more elements are described by their first ones.
MOST_SHOWN = 6
# How far a point is moved to see whether it lies on a kink.
_ASIDE = 2.0**-34
# Entries of a gradient that are looked at one by one for the one that is wrong.
MOST_ENTRIES = 48
# What numbers have to be finite at a point.
_FINITE = (Role.LOSS, Role.COTANGENT, Role.TANGENT, Role.STATE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """REFUTED with a point (as text, and whole as ``witness``), AGREES with figures, or UNDECIDED
    if no point could be evaluated."""

    status: Status
    detail: str
    point: Mapping[str, str] = field(default_factory=dict)
    witness: Mapping[str, Any] = field(default_factory=dict)
    number: int = -1  # of the point in the sequence
    has_laws: bool = False  # whether slower domains, with more laws, were asked as well


class OtherSide(Undecided):
    """The first of two sides is a number at a point, the second could not be evaluated."""


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
    """Numbers for every parameter of a program, and the domain (balls, or floats) they are taken
    to.
    """

    balls: PointArrays
    numbers: tuple[Any, ...]

    @property
    def values(self) -> list[Any]:
        return [self.balls.point(x) if x.dtype.kind == "f" else x for x in self.numbers]


def real_point(function: Function, number: int) -> RealPoint:
    """Point ``number`` of the sequence: odd multiples of 2^-13, which print short and are never
    zero (a kink of relu).
    """
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


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry in which two sides are apart; ``other`` is empty where the other side gives
    nothing.
    """

    name: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.name} is {self.one}, the other side {self.other}"


def decide(
    function: Function,
    sides: Sides,
    names: Sequence[str],
    points: int = 8,
    is_exact: bool = False,
) -> Outcome:
    """Compares two lists of arrays of balls, called ``names``, at real points of ``function``.

    ``is_exact``: literals are as they were written, so that none may have been folded in the
        program's type.
    """
    used = on_kinks = 0
    digits, is_folded = DIGITS, False
    for number in range(points):
        at = real_point(function, number)
        try:
            with at.balls.quiet():
                compared = _compared(function, at, sides, names, is_exact)
                found = compared.difference
                if found is not None and _is_there(function, at, sides, names):
                    return _refuted(function, at, found, number)
            on_kinks += found is not None
            if found is None:
                digits = min(digits, compared.digits)
                is_folded = is_folded or compared.is_folded
                used += 1
        except OtherSide:
            found = _not_finite(at, sides, names)
            if found is not None and _not_finite(_aside(at), sides, names) is not None:
                return _refuted(function, at, found, number)
        except (Undecided, ZeroDivisionError):
            continue
    if not used:
        if on_kinks:
            return Outcome(Status.UNDECIDED, f"{on_kinks} real points, all of them on kinks")
        return _in_floats(function, sides, points, ", as balls do not decide ties")
    if digits < least_digits(function):
        return Outcome(Status.UNDECIDED, f"balls share {digits} digits at {used} real points")
    told = f"{digits} digits at {used} real points"
    more = "; where more cancels, no further than literals a few ulps off take it"
    return Outcome(Status.AGREES, told + (more if is_folded else ""))


def _refuted(function: Function, at: RealPoint, found: Difference, number: int) -> Outcome:
    shown_at, whole = described(function, at), witness(function, at, found)
    return Outcome(Status.REFUTED, str(found), shown_at, whole, number)


def _not_finite(at: RealPoint, sides: Sides, names: Sequence[str]) -> Difference | None:
    """The first entry that is a number on the first side and none on the second, in f64; None
    where the first side has no number somewhere."""
    there = replace(at, balls=FloatArrays())
    try:
        with there.balls.quiet():
            left, right = sides(there)
    except (Undecided, ZeroDivisionError, ExecutionError):
        return None
    rows = [(name, np.asarray(x, float)) for name, x in zip(names, left, strict=True)]
    if not all(np.isfinite(x).all() for _, x in rows):
        return None
    for (name, x), other in zip(rows, right, strict=True):
        wrong = np.argwhere(~np.isfinite(np.asarray(other, float)))
        if len(wrong):
            place = tuple(int(n) for n in wrong[0])
            there_is = str(np.asarray(other, float)[place])
            return Difference(f"{name}{list(place) or ''}", repr(float(x[place])), there_is)
    return None


def least_digits(function: Function) -> int:
    """How many digits two right computations share, at the least, where constants were folded in
    the shortest type of ``function``.
    """
    floats = [v.type.dtype for v in function.block.parameters if v.type.dtype.is_float]
    return min((LEAST_DIGITS[dtype] for dtype in floats), default=LEAST_DIGITS[DType.F64])


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two sides at a point: the first certain difference, the digits they share elsewhere, and
    whether what differs is a matter of folded literals.
    """

    difference: Difference | None
    digits: int
    is_folded: bool = False


def _compared(
    function: Function, at: RealPoint, sides: Sides, names: Sequence[str], is_exact: bool = False
) -> _Pair:
    """Both sides at a point. Raises Undecided where there is none."""
    floats = [v.type.dtype for v in function.block.parameters if v.type.dtype.is_float]
    tolerance = max((FOLDED[dtype] for dtype in floats), default=FOLDED[DType.F64])
    tolerance = FOLDED[DType.F64] if is_exact else tolerance
    try:
        left, right = sides(at)
    except ExecutionError as fault:
        return _Pair(Difference("the program", "defined", f"stops: {fault}"), 0)
    found, digits = None, DIGITS
    for name, x, y in zip(names, left, right, strict=True):
        wrong = first_difference(x, y, tolerance)
        if wrong is None:
            digits = min(digits, shared_digits(x, y))
        elif found is None:
            place, one, other = wrong
            found = Difference(f"{name}{list(place) or ''}", one, other)
    is_folded = found is not None and not is_exact and _is_folding(at, sides, left, right)
    return _Pair(None if is_folded else found, digits, is_folded)


def _is_there(function: Function, at: RealPoint, sides: Sides, names: Sequence[str]) -> bool:
    """Whether a difference is no matter of a kink: it is there a little way off as well."""
    return _compared(function, _aside(at), sides, names).difference is not None


def _aside(at: RealPoint) -> RealPoint:
    """A point a little way off."""
    rng = np.random.default_rng(31)
    moved = [
        x + rng.integers(1, 64, x.shape) * rng.choice([-_ASIDE, _ASIDE], x.shape)
        if x.dtype.kind == "f"
        else x
        for x in at.numbers
    ]
    return replace(at, numbers=tuple(moved))


def witness(function: Function, at: RealPoint, found: Difference) -> dict[str, Any]:
    """The point in full, as JSON has it, and what differs there."""
    rows = zip(function.parameters, at.numbers, strict=True)
    values = {slot.name: x.tolist() for slot, x in rows}
    return {"of": found.name, "found": found.one, "expected": found.other, "values": values}


def _is_folding(at: RealPoint, sides: Sides, left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether a difference is no more than what literals that are a few ulps off make of the left
    side.

    Cancellation makes much of little there, so a difference relative to the result says nothing of
    it.
    """
    nudged = [sides(replace(at, balls=NudgedArrays(seed)))[0] for seed in range(NUDGES)]
    for n, (x, y) in enumerate(zip(left, right, strict=True)):
        spread = max(largest_gap(x, one[n]) for one in nudged)
        if largest_gap(x, y) > SPREADS * spread:
            return False
    return True


def _in_floats(function: Function, sides: Sides, points: int, why: str = "") -> Outcome:
    """Both sides in f64: AGREES to the digits they share, or UNDECIDED."""
    digits, used = 16, 0
    for number in range(points):
        at = RealPoint(FloatArrays(), real_point(function, number).numbers)
        try:
            with at.balls.quiet():
                left, right = sides(at)
        except (Undecided, ZeroDivisionError, ExecutionError):
            continue
        rows = [
            (np.asarray(x, float), np.asarray(y, float)) for x, y in zip(left, right, strict=True)
        ]
        if not all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in rows):
            continue
        used += 1
        for x, y in rows:
            scale = max(float(np.max(np.abs(x), initial=0.0)), 1e-300)
            error = float(np.max(np.abs(x - y), initial=0.0)) / scale
            digits = min(digits, 16 if error == 0 else max(0, int(-np.log10(error))))
    if not used:
        return Outcome(Status.UNDECIDED, "no real point could be evaluated")
    if digits < least_digits(function):
        return Outcome(Status.UNDECIDED, f"f64 shares {digits} digits, and balls meet ties")
    detail = f"{digits} digits at {used} real points in f64{why}"
    return Outcome(Status.AGREES, detail)


def described(function: Function, at: RealPoint) -> dict[str, str]:
    """The numbers of a point by parameter, long arrays cut."""
    found = {}
    for slot, x in zip(function.parameters, at.numbers, strict=True):
        flat = [repr(v) for v in x.reshape(-1)[:MOST_SHOWN].tolist()]
        more = ", ..." if x.size > MOST_SHOWN else ""
        found[slot.name] = f"[{', '.join(flat)}{more}]" if x.shape else flat[0]
    return found


def decide_gradient(function: Function, gradient: Function, name: str, points: int = 8) -> Outcome:
    """The gradient of one parameter against dual numbers over balls: along one direction, and where
    that is wrong, the entry that is."""
    place = cotangents(gradient)[name]

    def sides(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        ct = _gradient(gradient, at, place)
        rng = np.random.default_rng(5)
        direction = at.balls.point(rng.integers(-8, 9, ct.shape) / 8.0)
        total = np.sum(np.asarray(ct * direction, object))
        return [np.asarray(total, object)], [tangent_along(function, at, {name: direction})]

    outcome = decide(function, sides, [f"<gradient of {name}, v>"], points)
    if outcome.status is not Status.REFUTED:
        return outcome
    return _wrong_entry(function, gradient, name, outcome) or outcome


def gradients_in_floats(function: Function, gradient: Function, points: int = 3) -> Outcome:
    """All gradients against dual numbers along one direction, in f64: AGREES, which is no proof and
    costs little, or UNDECIDED."""
    places = cotangents(gradient)

    def sides(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        results, rng = run(at.balls, gradient, at.values), np.random.default_rng(5)
        drawn = {n: rng.integers(-8, 9, np.shape(results[i])) / 8.0 for n, i in places.items()}
        total = sum(np.sum(results[i] * drawn[n]) for n, i in places.items())
        return [total], [tangent_along(function, at, drawn)]

    return _in_floats(function, sides, points)


def _gradient(gradient: Function, at: RealPoint, place: int) -> Any:
    """One cotangent at a point. Raises Undecided where the loss or a cotangent is not finite."""
    results = run(at.balls, gradient, at.values)
    require_point(gradient, results)
    return np.asarray(results[place], object)


def require_point(program: Function | Runnable, results: Sequence[Any]) -> None:
    """Raises Undecided unless losses, gradients and states among ``results`` are finite."""
    for slot, x in zip(program.results, results, strict=True):
        if slot.role in _FINITE and x is not None:
            require_finite(x)


def _wrong_entry(
    function: Function, gradient: Function, name: str, outcome: Outcome
) -> Outcome | None:
    """The same refutation by the first entry that is wrong on its own."""
    place = cotangents(gradient)[name]
    shape = gradient.block.outputs[place].type.static_shape
    for entry in list(np.ndindex(shape))[:MOST_ENTRIES]:
        unit = np.zeros(shape)
        unit[entry] = 1.0

        def sides(
            at: RealPoint, unit: Any = unit, entry: tuple[int, ...] = entry
        ) -> tuple[Sequence[Any], Sequence[Any]]:
            one = _gradient(gradient, at, place)[entry]
            tangent = tangent_along(function, at, {name: at.balls.point(unit)})
            return [_scalar(one)], [_scalar(tangent)]

        found = refined(function, outcome, sides, f"the gradient of {name}{list(entry) or ''}")
        if found is not None:
            return found
    return None


def _scalar(x: Any) -> Any:
    """An array without axes that holds ``x``."""
    found = np.empty((), object)
    found[()] = x
    return found


def refined(function: Function, outcome: Outcome, sides: Sides, name: str) -> Outcome | None:
    """The refutation ``outcome`` by ``name`` alone, if that is wrong at its point."""
    at = real_point(function, outcome.number)
    try:
        with at.balls.quiet():
            found = _compared(function, at, sides, [name], is_exact=True).difference
    except (Undecided, ZeroDivisionError):
        return None
    if found is None:
        return None
    detail = f"{found.name} is {found.one}, the derivative {found.other}"
    return replace(outcome, detail=detail, witness=witness(function, at, found))


def tangent_along(function: Function, at: RealPoint, directions: dict[str, Any]) -> Any:
    """The tangent of the loss as a ball. Raises Undecided where the loss is not finite."""
    duals = [
        Dual(value, directions.get(slot.name))
        for value, slot in zip(at.values, function.parameters, strict=True)
    ]
    results = run(DualArrays(at.balls), function, duals)
    place = next(n for n, slot in enumerate(function.results) if slot.role is Role.LOSS)
    require_finite(results[place].primal)
    tangent = results[place].tangent
    return at.balls.point(np.zeros(())).item() if tangent is None else np.asarray(tangent).item()


def decide_equal(
    before: Function,
    after: Function | Runnable,
    places: Sequence[tuple[int, int]],
    points: int = 8,
) -> Outcome:
    """Results of two programs with the same parameters, pairwise."""

    def sides(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        values = at.values
        left = run(at.balls, before, values)
        require_point(before, left)
        ours = [_floats(left[i]) for i, _ in places]

        def theirs() -> Sequence[Any]:
            right = results_of(after, at.balls, values)
            return [_floats(right[j]) for _, j in places]

        return ours, theirs() if isinstance(at.balls, FloatArrays) else _other_side(ours, theirs)

    return decide(before, sides, [key(before.results[i]) for i, _ in places], points)


def _other_side(ours: Sequence[Any], theirs: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    """The balls of the second side. Raises OtherSide if they are no numbers, and ``ours`` are."""
    is_number = all(are_finite(x) for x in ours)
    try:
        found = theirs()
    except (Undecided, ZeroDivisionError):
        if is_number:
            raise OtherSide from None
        raise
    if is_number and not all(are_finite(x) for x in found):
        raise OtherSide
    return found


def lacking(before: Function, names: Sequence[str], points: int = 8) -> Outcome:
    """What to say of a program that does not give the results ``names`` of ``before`` at all:
    REFUTED with a point at which they are numbers."""
    place = next(n for n, slot in enumerate(before.results) if key(slot) == names[0])
    for number in range(points):
        at = real_point(before, number)
        try:
            with at.balls.quiet():
                results = run(at.balls, before, at.values)
                require_point(before, results)
                number_there = shown(np.ravel(_floats(results[place]))[0])
        except (Undecided, ZeroDivisionError, IndexError):
            continue
        found = Difference(names[0], number_there, "absent")
        whole = witness(before, at, found)
        return Outcome(Status.REFUTED, str(found), described(before, at), whole, number)
    return Outcome(Status.UNDECIDED, f"lost {', '.join(names)}; no real point could be evaluated")


def _floats(x: Any) -> Any:
    array = np.asarray(x)
    return array if array.dtype == object else BallArrays().point(array.astype(np.float64))
