"""The adjoint against somebody else's derivative: a ``Straight`` program that knows nothing of our
rules.

Both sides are evaluated over the same domains. Exact fractions of polynomials come first, in every
cell of the guards: if the quotients are equal, the entries are equal wherever both are defined.
What is too large for that, or needs laws they do not know, is compared in balls at real points:
disjoint balls refute, with the point.

Literals are the same on both sides if no pass has folded them, and then mean exactly what is
written; what our rules bring in is right to 2^-40. Which methods are tried depends on the programs
alone, not on the clock.
Non-goals: where the other derivative comes from (``codegen/symbolic/sympy/check``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flint
import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.domains.straight import Straight, evaluate
from gradc.ir.tensor.core import DType, Function, Role
from gradc.passes.prove.domains.balls import (
    DIGITS,
    BallArrays,
    BallScalars,
    Undecided,
    first_difference,
    shared_digits,
)
from gradc.passes.prove.domains.exact import ExactScalars, Quotient, TooLarge, cells
from gradc.passes.prove.report import Status
from gradc.passes.prove.rules.gradient import cotangents
from gradc.passes.prove.rules.refute import (
    FOLDED,
    LEAST_DIGITS,
    Difference,
    RealPoint,
    described,
    real_point,
    require_point,
    witness,
)

POINTS = 3
# How often integers are drawn for results that are finite.
_DRAWS = 16
BITS = 1024
MOST_CELLS = 16
# Longer programs, or those whose polynomials take more products of terms, are not expanded.
MOST_EXACT_STEPS = 700
MOST_PRODUCTS = 25_000


@dataclass(frozen=True, slots=True)
class Compared:
    """What is known of one parameter: PROVED_SHAPE, AGREES, REFUTED with the point, or SKIPPED, and
    how.
    """

    status: Status
    detail: str
    point: Mapping[str, str] = field(default_factory=dict)
    witness: Mapping[str, Any] = field(default_factory=dict)


class _Metered(ExactScalars):
    """Exact fractions that give up after so many products of terms."""

    left = MOST_PRODUCTS

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        return super().const(value)

    def _pay(self, *xs: Any) -> None:
        sizes = [len(x.num) + len(x.den) for x in xs if isinstance(x, Quotient)]
        self.left -= int(np.prod(sizes)) if sizes else 0
        if self.left < 0:
            raise TooLarge

    def add(self, a: Any, b: Any) -> Any:
        self._pay(a, b)
        return super().add(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        self._pay(a, b)
        return super().sub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        self._pay(a, b)
        return super().mul(a, b)

    gate = mul

    def div(self, a: Any, b: Any) -> Any:
        self._pay(a, b)
        return super().div(a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.add(self.mul(a, b), c)

    def atom(self, name: str, *arguments: Quotient) -> Quotient:
        for given, _ in self.functions.get(name, []):
            for a, b in zip(given, arguments, strict=True):
                self._pay(a, b)
        return super().atom(name, *arguments)


class _ExactArrays(BallArrays):
    """Arrays of exact fractions, which take single elements out of arrays as those of balls do."""

    def __init__(self, scalars: ExactScalars) -> None:
        super().__init__()
        self.scalars = scalars

    def _lifted(self, x: Any) -> Any:
        """With elements that are arrays without axes taken for what they hold."""
        array = super()._lifted(x)
        if array.dtype == object and any(isinstance(e, np.ndarray) for e in array.flat):
            flat = [e.item() if isinstance(e, np.ndarray) else e for e in array.flat]
            return self.objects(flat, array.shape)
        return array


def integers_of(function: Function) -> dict[str, Any]:
    """The integers and booleans that both sides are given: the first of a few draws at which
    results are finite.

    Ids are 0 or 1, which every axis has at shapes like these, unless only others give finite
    results (a masked class).
    """
    for number in range(_DRAWS):
        for most in (2, 1 << 16):
            rows = zip(function.parameters, real_point(function, number).numbers, strict=True)
            values = [
                x % most if slot.role is Role.INPUT and x.dtype.kind in "iu" else x
                for slot, x in rows
            ]
            arrays = NumpyArrays(DType.F64)
            results = run(arrays, function, values)
            losses = (
                x for s, x in zip(function.results, results, strict=True) if s.role is Role.LOSS
            )
            if all(np.isfinite(x).all() for x in losses):
                break
        else:
            continue
        break
    names = [slot.name for slot in function.parameters]
    return {n: x for n, x in zip(names, values, strict=True) if x.dtype.kind != "f"}


def compare(function: Function, gradient: Function, other: Straight) -> dict[str, Compared]:
    """The COTANGENT results of ``gradient`` against the results of ``other``, by parameter of
    ``function``.
    """
    places = cotangents(gradient)
    exact: dict[str, int] = {}
    if len(other.steps) <= MOST_EXACT_STEPS:
        exact = _exactly(function, gradient, other, places)
    rest = [name for name in places if name not in exact]
    found = {
        name: Compared(
            Status.PROVED_SHAPE,
            f"equal as exact fractions, {_counted(exact[name], 'cell')} of guards",
        )
        for name in exact
    }
    found.update(_at_points(function, gradient, other, {n: places[n] for n in rest}))
    return {name: found[name] for name in places}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _exactly(
    function: Function, gradient: Function, other: Straight, places: Mapping[str, int]
) -> dict[str, int]:
    """The parameters whose entries are equal in every cell, and the number of cells."""
    fixed = integers_of(function)
    paid = [MOST_PRODUCTS]

    def equal(plain: ExactScalars) -> set[str]:
        scalars = _Metered(plain.guards)
        scalars.left = paid[0]
        arrays, values = _ExactArrays(scalars), []
        for slot, value in zip(function.parameters, function.block.parameters, strict=True):
            shape = value.type.static_shape
            symbols = [scalars.fresh() for _ in range(int(np.prod(shape)))]
            values.append(
                fixed[slot.name] if slot.name in fixed else arrays.objects(symbols, shape)
            )
        theirs = evaluate(other, scalars, _flat(function, values))
        ours = run(arrays, gradient, values)
        same = {
            name
            for name, place in places.items()
            if all(
                scalars.is_zero(scalars.sub(_lifted(a), _lifted(b)))
                for a, b in zip(np.asarray(ours[place]).flat, theirs[name], strict=True)
            )
        }
        paid[0] = scalars.left
        return same

    kept, count = dict.fromkeys(places, 0), 0
    try:
        # `cells` hands every cell to the test; what it proves there is kept on the side.
        def test(scalars: ExactScalars) -> bool:
            same = equal(scalars)
            for name in [n for n in kept if n not in same]:
                del kept[name]
            return bool(kept)

        for is_left in cells(test, MOST_CELLS):
            count += 1
            if not is_left:
                return {}
    except (TooLarge, ZeroDivisionError, AttributeError, TypeError):
        return {}
    return dict.fromkeys(kept, count)


def _lifted(x: Any) -> Any:
    # Elements taken out of object arrays may be arrays without axes.
    x = x.item() if isinstance(x, np.ndarray) else x
    return x if isinstance(x, Quotient) else ExactScalars().const(float(x))


def _flat(function: Function, values: Sequence[Any]) -> dict[str, list[Any]]:
    rows = zip(function.parameters, values, strict=True)
    return {slot.name: list(np.asarray(x).flat) for slot, x in rows}


def _at_points(
    function: Function, gradient: Function, other: Straight, places: Mapping[str, int]
) -> dict[str, Compared]:
    """Balls at real points, all parameters at once."""
    fixed, found = integers_of(function), dict[str, Compared]()
    digits = dict.fromkeys(places, DIGITS)
    used = 0
    for number in range(8):
        if used == POINTS or not places:
            break
        rows = zip(function.parameters, real_point(function, number).numbers, strict=True)
        at = _DeepPoint(_DeepBalls(), tuple(fixed.get(slot.name, x) for slot, x in rows))
        try:
            with at.balls.quiet():
                values = at.values
                theirs = evaluate(other, at.balls.scalars, _flat(function, values))
                ours = run(at.balls, gradient, values)
                require_point(gradient, ours)
                for name, place in places.items():
                    x = np.asarray(ours[place], object).reshape(-1)
                    y = np.asarray([*theirs[name], None], object)[:-1]
                    wrong = first_difference(x, y, FOLDED[DType.F64])
                    if wrong is not None and name not in found:
                        found[name] = _refuted(function, at, name, wrong)
                    digits[name] = min(digits[name], shared_digits(x, y))
            used += 1
        except (Undecided, ZeroDivisionError):
            continue
    for name in places:
        if name not in found and not used:
            found[name] = Compared(Status.SKIPPED, "no real point could be evaluated")
        elif name not in found and digits[name] < LEAST_DIGITS[DType.F64]:
            found[name] = Compared(Status.SKIPPED, f"balls of {BITS} bits grow too wide")
        elif name not in found:
            detail = f"{digits[name]} digits at {_counted(used, 'real point')}"
            found[name] = Compared(Status.AGREES, detail)
    return found


def _refuted(
    function: Function, at: RealPoint, name: str, wrong: tuple[tuple[int, ...], str, str]
) -> Compared:
    shape = function.parameter(name).type.static_shape
    place = [int(n) for n in np.unravel_index(wrong[0][0], shape)]
    found = Difference(f"the gradient of {name}{place or ''}", wrong[1], wrong[2])
    detail = f"{found.name} is {found.one}, and SymPy has {found.other}"
    whole = witness(function, at, found)
    return Compared(Status.REFUTED, detail, described(function, at), whole)


class _Literals(BallScalars):
    """Balls whose literals are the floats they are, exactly, where they stand for no simpler
    number.
    """

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        found = super().const(value)
        if isinstance(value, bool) or not math.isfinite(value) or found.rel_accuracy_bits() > 60:
            return found
        return flint.arb(value)


class _DeepBalls(BallArrays):
    """Balls of more bits: deep programs lose digits on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = _Literals()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        with super().quiet():
            flint.ctx.prec = BITS
            yield


@dataclass(frozen=True, slots=True)
class _DeepPoint(RealPoint):
    balls: _DeepBalls
