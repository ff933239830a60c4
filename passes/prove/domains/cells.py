"""Cells: programs whose guards are related to each other, compared region by region.

A guard (a comparison, the choice of a maximum or minimum, a sign, a rounding) is an independent
coin in a prime field, so patterns occur there that no real point has, and programs that differ only
in such patterns look different. Here the patterns come from real points: both programs run in f64,
and every outcome is recorded in order of evaluation. Then both run over the prime field with those
outcomes *forced*, each program replaying its own.

Why agreement means something: within one pattern both programs are fixed compositions of sums,
products, quotients and functions; if these agree at random points of a prime field
(``prove_field``), they are the same function wherever that pattern holds. What is not known is
whether every pattern that occurs was met, so the verdict is PROBABLE and carries the number of
cells, not an error bound. Points at which a guard sees NaN, or two equal numbers that it must order
by
rounding alone, are used as they come: equal numbers mean the same on either side.

Non-goals: refutation, laws of exp (``prove_tower``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.tensor.core import DType, Function, Role
from gradc.passes.prove.domains.field import FieldArrays, is_field, mul, neg
from gradc.passes.prove.domains.point import Runnable, element_of, index_limit, results_of
from gradc.passes.prove.domains.tower import name_of

# Real points that are tried per cell that is asked for.
_POINTS_PER_CELL = 4
# Points of the field per cell.
_FIELD_POINTS = 2
# Magnitudes of operands: guards against constants meet both sides.
_SCALES = (1.0, 0.1, 4.0)

Outcomes: TypeAlias = list[NDArray[Any]]

_CHOICES: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "max": np.greater,
    "min": np.less,
}
_STEPS: dict[str, Callable[[Any], Any]] = {"floor": np.floor, "round": np.rint}


class Infeasible(Exception):
    """A real point at which a guard is not defined."""


@dataclass(frozen=True, slots=True)
class Cells:
    """How many different patterns were met, and which results (named as by ``prove_passes.key``)
    differ in one.

    With no pattern met, all of them count as different.
    """

    tried: int
    differing: tuple[str, ...]


class RecordingArrays(NumpyArrays):
    """Floats of f64 that note the outcome of every guard. Raises Infeasible where one sees NaN."""

    def __init__(self) -> None:
        super().__init__(DType.F64)
        self.outcomes: Outcomes = []

    def note(self, outcome: Any, *seen: Any) -> Any:
        """``outcome``, written down."""
        if any(np.isnan(x).any() for x in seen):
            raise Infeasible
        self.outcomes.append(np.array(outcome))
        return outcome

    def verb(self, name: str, *operands: Any) -> Any:
        if not any(_is_float(x) for x in operands):
            return super().verb(name, *operands)
        if name in _CHOICES:
            a, b = operands
            chosen = self.note(_CHOICES[name](a, b), a, b)
            return np.where(chosen, a, b) if name in ("max", "min") else chosen
        if name in ("sign", "abs"):
            (x,) = operands
            sign = self.note(np.sign(x).astype(np.int8), x)
            return sign * x if name == "abs" else sign.astype(np.float64)
        if name in _STEPS:
            return self.note(_STEPS[name](operands[0]), operands[0])
        return super().verb(name, *operands)

    def cast(self, x: Any, dtype: DType) -> Any:
        found = super().cast(x, dtype)
        if _is_float(x) and not dtype.is_float and dtype is not DType.BOOL:
            return self.note(found, x)
        return found

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if not _is_float(x) or verb not in ("max", "min") or not x.size:
            return super().reduce(verb, x, axes, dtype)
        rows = _in_rows(x, axes)
        place = np.argmax(rows, 0) if verb == "max" else np.argmin(rows, 0)
        return _pick(rows, self.note(place, x))

    def argmax(self, x: Any, axis: int) -> Any:
        found = super().argmax(x, axis)
        return self.note(found, x) if _is_float(x) else found

    def argsort(self, x: Any, axis: int) -> Any:
        found = super().argsort(x, axis)
        return self.note(found, x) if _is_float(x) else found


class ForcedArrays(FieldArrays):
    """A prime field in which guards come out as recorded."""

    def __init__(self, seed: int, outcomes: Outcomes) -> None:
        super().__init__(seed)
        self._outcomes = iter(outcomes)

    def recorded(self) -> Any:
        """The next outcome. Both runs evaluate the same ops, so it is the one of this guard."""
        return next(self._outcomes)

    def verb(self, name: str, *operands: Any) -> Any:
        if not any(is_field(x) for x in operands):
            return super().verb(name, *operands)
        if name in _CHOICES:
            chosen = self.recorded()
            return np.where(chosen, *operands) if name in ("max", "min") else chosen
        if name in ("sign", "abs"):
            sign = self.recorded()
            x = operands[0] if name == "abs" else np.ones((), np.uint64)
            signed = np.where(sign < 0, neg(x), x)
            return mul(signed, np.abs(sign).astype(np.uint64))
        if name in _STEPS:
            return self.whole(self.recorded())
        return super().verb(name, *operands)

    def whole(self, x: Any) -> Any:
        """Integers as elements."""
        return super().cast(np.asarray(x).astype(np.int64), DType.F64)

    def cast(self, x: Any, dtype: DType) -> Any:
        if is_field(x) and not dtype.is_float and dtype is not DType.BOOL:
            return self.recorded()
        return super().cast(x, dtype)

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if not is_field(x) or verb not in ("max", "min") or not x.size:
            return super().reduce(verb, x, axes, dtype)
        return _pick(_in_rows(x, axes), self.recorded())

    def argmax(self, x: Any, axis: int) -> Any:
        return self.recorded() if is_field(x) else super().argmax(x, axis)

    def argsort(self, x: Any, axis: int) -> Any:
        return self.recorded() if is_field(x) else super().argsort(x, axis)


def cells_equal(
    before: Function,
    after: Function | Runnable,
    seed: int,
    most: int = 64,
    names: Sequence[str] | None = None,
) -> Cells:
    """Compares two programs, parameters matched by place, in up to ``most`` cells found at random
    real points.

    A cell is a pattern of outcomes of both programs' guards, with the integer and boolean operands
    it was met at. No guards at all make one cell. ``names``: results that are asked for, by role
    and name; the search ends where one of them differs.
    """
    met: set[bytes] = set()
    wrong: dict[str, None] = {}
    for number in range(_POINTS_PER_CELL * most):
        if len(met) >= most or (names is not None and not wrong.keys().isdisjoint(names)):
            break
        values = real_operands(before, seed, number)
        try:
            outcomes = [_recorded(f, values) for f in (before, after)]
        except Infeasible:
            continue
        pattern = _pattern(values, outcomes)
        if pattern in met:
            continue
        met.add(pattern)
        for point in range(_FIELD_POINTS):
            wrong.update(dict.fromkeys(_differing_in(before, after, values, outcomes, seed, point)))
    order = [name_of(slot) for slot in before.results]
    return Cells(len(met), tuple(name for name in order if name in wrong or not met))


def real_operands(function: Function, seed: int, number: int) -> list[Any]:
    """Point ``number``: normal floats of several magnitudes, integers and booleans as in
    ``prove_point``.
    """
    rng = np.random.default_rng([seed, number, 3])
    plain = FieldArrays(seed)
    limit = index_limit(function)
    scale = _SCALES[number % len(_SCALES)]
    values: list[Any] = []
    for value, slot in zip(function.block.parameters, function.parameters, strict=True):
        if value.type.dtype.is_float:
            values.append(np.asarray(rng.normal(0.0, scale, value.type.static_shape)))
            continue
        top = 1 << 16 if slot.role is Role.STATE else limit
        values.append(element_of(plain, value.type, rng, top, number % 2 == 0))
    return values


def _recorded(program: Function | Runnable, values: Sequence[Any]) -> Outcomes:
    domain = RecordingArrays()
    with domain.quiet():
        results_of(program, domain, values)
    return domain.outcomes


def _pattern(values: Sequence[Any], outcomes: Sequence[Outcomes]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for x in (*(v for v in values if not _is_float(v)), *outcomes[0], *outcomes[1]):
        digest.update(repr((x.shape, x.dtype.str)).encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.digest()


def _differing_in(
    before: Function,
    after: Function | Runnable,
    values: Sequence[Any],
    outcomes: Sequence[Outcomes],
    seed: int,
    point: int,
) -> list[str]:
    """The results that differ in one cell at one point of the field."""
    sequence = np.random.SeedSequence([seed, point, 5])
    oracles = int(sequence.generate_state(2, np.uint64)[0])
    rng = np.random.default_rng([seed, point, 7])
    plain = FieldArrays(oracles)
    elements = [plain.random(x.shape, rng) if _is_float(x) else x for x in values]
    found = []
    sides: tuple[Function | Runnable, ...] = (before, after)
    for program, recorded in zip(sides, outcomes, strict=True):
        results = results_of(program, ForcedArrays(oracles, recorded), elements)
        found.append({name_of(s): x for s, x in zip(program.results, results, strict=True)})
    left, right = found
    return [n for n, x in left.items() if n not in right or not np.array_equal(x, right[n])]


def _is_float(x: Any) -> bool:
    return bool(np.asarray(x).dtype.kind == "f")


def _in_rows(x: Any, axes: Sequence[int]) -> Any:
    """The reduced axes as one first axis."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return x.transpose([*axes, *kept]).reshape(-1, *(x.shape[axis] for axis in kept))


def _pick(rows: Any, place: Any) -> Any:
    return np.take_along_axis(rows, np.asarray(place)[None], 0)[0]
