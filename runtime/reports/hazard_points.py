"""Hazards with a point each: what intervals cannot exclude is made to happen in the compiled
gradient, or is not reported.

``search(model, dims)`` runs the native gradient of every floating parameter and input at points
where programs are known to break: zeros, equal entries, the program's own constants, large and very
small numbers, masks that hide everything. Where a result is not finite, the joint program is run at
that point by the reference interpreter in the same precision and walked back to the op whose result
stopped being finite. A hazard is reported with the first point that shows it. What intervals cannot
exclude and no point shows is left open, and said to be.

Parameters are kept near their start, unless there is nothing else to vary: that a deep network
overflows at weights of 1e10 is no finding.

Non-goals: proving that there is no such point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import is_loop, is_sum, lookup, number_of
from gradc.ir.tensor.core import DType, Function, Op, Role, Slot, Span, Value, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.hazards.hazards import (
    EMPTY_ROW,
    MASKED_RESULT,
    TOO_LARGE,
    Hazard,
    find_hazards,
    find_overflow,
    is_culprit,
    named_at,
    own_place,
    traced_to,
)
from gradc.passes.hazards.places import keeps_order
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.native.arrays import Array

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

_MOST_POINTS = 500
_MOST_SECONDS = 4.0
_MOST_TRACED = 40
LARGEST = 100.0
_VALUES = (0.0, 1.0, -1.0, 0.5, 2.0, -20.0, 20.0, -LARGEST, LARGEST, 9.5, -3.0, 1e-30, math.pi / 2)
_MOST_LITERALS = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """A hazard that happens: ``point`` are arrays by name, ``results`` what is not finite there, by
    name.
    """

    hazard: Hazard
    point: Mapping[str, Array]
    results: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found. ``open`` could not be excluded, but no point showed it; ``is_cut`` if
    time ran out. ``largest`` is how large parameters may be in magnitude where overflow is
    excluded; None if it is not.
    """

    found: tuple[Finding, ...]
    open: tuple[Hazard, ...]
    tried: int
    is_cut: bool
    precision: str
    largest: float | None = None

    @property
    def searched(self) -> str:
        """What was looked for, in a sentence."""
        if not self.tried:
            return "the program has no scalar loss with something to vary: no point was tried"
        cut = "; the search was cut there for time" if self.is_cut else ""
        return (
            f"the compiled gradient was run in {self.precision} at {self.tried} points: "
            "parameters near their "
            f"start, inputs up to {LARGEST:g} in magnitude, zeros, equal entries, the program's "
            "constants, "
            f"masks of every kind{cut}"
        )


def search(model: Model, dims: Mapping[str, int]) -> Findings:
    """The hazards of ``model`` at ``dims`` that happen, each with a point."""
    function = model.lower(dict(dims)).function
    candidates = find_hazards(function)
    params = model.init(0, dict(dims))
    slots = list(zip(function.parameters, function.block.parameters, strict=True))
    wrt = [s.name for s, v in slots if s.role in _VARIED and v.type.dtype.is_float]
    if not wrt or not _has_loss(function):
        return Findings((), tuple(candidates), 0, False, model.precision)
    # Dimensions with a definition of their own keep it.
    known = {n: d for n, d in dims.items() if n in model.dims or n in _open_dims(model)}
    compiled = type(model)(model.program, model.name, known, model.precision).value_and_grad(wrt)
    tracer = _Tracer(function, wrt)
    found: dict[tuple[str, object], Finding] = {}
    tried, traced, is_cut = 0, 0, False
    clock = _Clock()
    for point in _points(function, slots, params):
        is_cut = clock.seconds > _MOST_SECONDS
        if is_cut or tried >= _MOST_POINTS:
            break
        tried += 1
        own = {s.name: point[s.name] for s, _ in slots if s.role is not Role.INPUT}
        fed = {s.name: point[s.name] for s, _ in slots if s.role is Role.INPUT}
        loss, grads = compiled(own, **fed)
        results = {"loss": loss, **{f"d loss / d {n}": g for n, g in grads.items()}}
        wrong = {n: _kind_of(a) for n, a in results.items() if not np.all(np.isfinite(a))}
        if not wrong or traced >= _MOST_TRACED:
            continue
        traced += 1
        for hazard, is_expected in tracer.hazards(point, wrong, candidates):
            where: object = hazard.place
            if not is_expected and hazard.place is not None:
                # Growth shows in many ops of one expression.
                where = hazard.place.line
            found.setdefault((hazard.kind, where), Finding(hazard, point, wrong))
    places = {finding.hazard.place for finding in found.values()}
    left = [h for h in candidates if h.place not in places]
    ordered = sorted(found.values(), key=lambda f: _position(f.hazard.place))
    # What may be infinite anyway says nothing of sizes.
    largest, grown = (None, None) if candidates else _overflow(function, slots, params)
    left += [grown] if grown is not None and not ordered else []
    return Findings(tuple(ordered), tuple(left), tried, is_cut, model.precision, largest)


def _overflow(
    function: Function, slots: Sequence[tuple[Slot, Value]], params: Mapping[str, Array]
) -> tuple[float | None, Hazard | None]:
    """Where numbers may outgrow their type, with inputs and parameters as large as at the points;
    where nowhere, how large parameters may be.
    """
    starts = (
        np.abs(np.asarray(x)).max(initial=0.0) for x in params.values() if x.dtype.kind == "f"
    )
    most = max((1.0, *map(float, starts)))
    sizes = {s.name: LARGEST if s.role is Role.INPUT else most for s, _ in slots}
    if not any(s.role is Role.INPUT and v.type.dtype.is_float for s, v in slots):
        sizes, most = dict.fromkeys(sizes, LARGEST), LARGEST
    grown = find_overflow(function, sizes)
    return (most, None) if grown is None else (None, grown)


class _Clock:
    """Seconds of the processor since it was made, of this thread; no less than a fourth of those
    that the clock on the wall shows, for work that other threads do.
    """

    def __init__(self) -> None:
        self.started = time.thread_time(), time.monotonic()

    @property
    def seconds(self) -> float:
        own, wall = self.started
        return max(time.thread_time() - own, (time.monotonic() - wall) / 4)


def _open_dims(model: Model) -> set[str]:
    return {n for n, d in model.signature.dims.items() if d is None}


_VARIED = (Role.PARAM, Role.INPUT)


def _has_loss(function: Function) -> bool:
    values = zip(function.results, function.block.outputs, strict=True)
    return any(s.role is Role.LOSS and v.type.shape == () for s, v in values)


def _position(place: Span | None) -> tuple[int, int]:
    return (place.line, place.column) if place is not None else (0, 0)


def _kind_of(array: Any) -> str:
    return "NaN" if np.any(np.isnan(array)) else "infinite"


# --- points


def _points(
    function: Function, slots: Sequence[tuple[Slot, Value]], params: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    """Arrays for every parameter, simple ones first."""
    rng = np.random.default_rng(5)
    values = [*_VALUES, *_literals(function)]
    fills: list[float | str] = [*values, "normal", "wide", "rows", "first", "large first"]
    has_inputs = any(s.role is Role.INPUT and v.type.dtype.is_float for s, v in slots)

    def of(slot: Slot, value: Value, fill: float | str, start: str) -> Array:
        is_varied = slot.role is Role.INPUT or (slot.role is Role.PARAM and not has_inputs)
        if not value.type.dtype.is_float:
            return _other(value, fill, rng, params.get(slot.name))
        if is_varied:
            return _filled(value, fill, rng)
        if slot.role is Role.PARAM and start != "start":
            return _filled(value, 0.0 if start == "zeros" else 1.0, rng)
        return np.asarray(params[slot.name])

    for start in ("start", "ones", "zeros") if has_inputs else ("start",):
        for fill in fills:
            yield {s.name: of(s, v, fill, start) for s, v in slots}
    for _ in range(_MOST_POINTS):
        start = ("start", "ones", "zeros")[int(rng.integers(0, 3))]
        chosen = [fills[int(i)] for i in rng.integers(0, len(fills), len(slots))]
        yield {s.name: of(s, v, f, start) for (s, v), f in zip(slots, chosen, strict=True)}


def _literals(function: Function) -> list[float]:
    """Constants that the program compares or subtracts, and their quotients: where it may have
    poles.
    """
    found: dict[float, None] = {}
    for op in walk(function.block):
        number = number_of(op)
        if number is not None and op.result.type.dtype.is_float:
            value = abs(float(number))
            if 0 < value <= 1e4 and np.isfinite(value):
                found[value] = None
    plain = list(found)[:6]
    more = [a / b for a in plain for b in plain if a != b]
    every = dict.fromkeys(v for x in (*plain, *more) for v in (x, -x))
    return [v for v in every if v not in _VALUES and abs(v) <= 1e4][:_MOST_LITERALS]


def _filled(value: Value, fill: float | str, rng: np.random.Generator) -> Array:
    shape = value.type.static_shape
    numbers = rng.standard_normal(shape)
    if isinstance(fill, float):
        numbers = np.full(shape, fill)
    elif fill == "wide":
        numbers = 30.0 * numbers
    elif fill == "rows" and shape:
        numbers = np.broadcast_to(rng.standard_normal((*shape[:-1], 1)), shape)
    elif fill in ("first", "large first") and shape:
        numbers = np.zeros(shape)
        numbers[..., :1] = 1.0 if fill == "first" else LARGEST
    return np.asarray(numbers, _FLOATS.get(value.type.dtype, np.float32))


_FLOATS = {DType.F64: np.float64, DType.F16: np.float16}
_INTEGERS = {DType.I32: np.int32, DType.I64: np.int64, DType.U32: np.uint32}


def _other(value: Value, fill: float | str, rng: np.random.Generator, start: Array | None) -> Array:
    """Masks that are all off, all on or mixed; ids 0 and 1; what starts with a value keeps it."""
    shape = value.type.static_shape
    if start is not None:
        return np.asarray(start)
    if value.type.dtype is DType.BOOL:
        mixed = rng.random(shape) < 0.5
        return np.asarray(mixed if isinstance(fill, str) else np.full(shape, fill > 0))
    drawn = rng.integers(0, 2, shape) if isinstance(fill, str) else np.zeros(shape)
    return np.asarray(drawn).astype(_INTEGERS[value.type.dtype])


# --- where a number stopped being finite


class _Tracer:
    """Walks back from results that are not finite, in the joint program run in its own types."""

    def __init__(self, function: Function, wrt: Sequence[str]) -> None:
        self.joint = cse(flatten(value_and_grad(function, wrt)))
        self.producers = {r: op for op in self.joint.block.body for r in op.results}

    def hazards(
        self, point: Mapping[str, Array], wrong: Mapping[str, str], candidates: Sequence[Hazard]
    ) -> list[tuple[Hazard, bool]]:
        """What goes wrong at ``point``: the candidates at the places of the culprits, else hazards
        of their own; and which it is.
        """
        values = self._run([point[s.name] for s in self.joint.parameters])
        found = []
        for op in self._culprits(values):
            place = own_place(op.span)
            inside = [h for h in candidates if _lies_in(h.place, place)]
            same = [h for h in inside if h.place == place] or inside
            if same:
                found.append((self._named(same[0], values), True))
            else:
                found.append((self._own(op, values, wrong), False))
        return found

    def _named(self, hazard: Hazard, values: Mapping[Value, Array]) -> Hazard:
        """``hazard`` by what its op was given."""
        every = (o for o in self.joint.block.body if o.span == hazard.span and is_culprit(o))
        op = next(every, None)
        return named_at(hazard, op, [values[v] for v in op.operands] if op is not None else [])

    def _run(self, operands: Sequence[Array]) -> dict[Value, Array]:
        found: dict[Value, Array] = {}
        arrays = NumpyArrays()

        def observe(op: Op, results: Sequence[Any]) -> None:
            for value, array in zip(op.results, results, strict=True):
                found[value] = np.asarray(array)

        parameters = self.joint.block.parameters
        held = [
            np.asarray(a, arrays.storage(v.type.dtype))
            for a, v in zip(operands, parameters, strict=True)
        ]
        found.update(zip(parameters, held, strict=True))
        run(arrays, self.joint, held, observe)
        return found

    def _culprits(self, values: Mapping[Value, Array]) -> list[Op]:
        """Ops whose results are not finite though what they read is, or NaN though it holds no
        NaN.
        """
        bad = {v for v in self.joint.block.outputs if not _is_finite(values[v])}
        found: list[Op] = []
        for op in reversed(self.joint.block.body):
            if bad.isdisjoint(op.results):
                continue
            worse = [v for v in op.operands if v in values and _has_nan(values[v])]
            if not worse and not any(_has_nan(values[r]) for r in op.results):
                worse = [v for v in op.operands if not _is_finite(values[v])]
            elif not worse:
                worse = [
                    v
                    for v in op.operands
                    if not _is_finite(values[v]) and not self._is_meant(v, values)
                ]
            if worse:
                bad.update(worse)
            else:
                found.append(op)
        return found

    def _is_meant(self, value: Value, values: Mapping[Value, Array], depth: int = 24) -> bool:
        """Whether an infinity is one that the program writes down, handed on."""
        op = self.producers.get(value)
        if op is None or depth == 0:
            return False
        wide = [v for v in op.operands if v in values and not _is_finite(values[v])]
        if not wide:
            return number_of(op) is not None
        return all(self._is_meant(v, values, depth - 1) for v in wide)

    def _own(self, op: Op, values: Mapping[Value, Array], wrong: Mapping[str, str]) -> Hazard:
        kind, message = self._described(op, values)
        culprit = traced_to(op, self.joint)
        when = "forward" if "loss" in wrong else "backward"
        return Hazard(kind, message, own_place(culprit.span), culprit.span, when, tuple(wrong))

    def _described(self, op: Op, values: Mapping[Value, Array]) -> tuple[str, str]:
        """Kind and message of what happens at ``op`` itself."""
        operands = [values[v] for v in op.operands if v in values]
        is_nan = any(_has_nan(values[r]) for r in op.results)
        if op.name in ("div", "rsqrt") and (op.name == "rsqrt" or np.any(operands[-1] == 0)):
            return "division by 0", "the divisor is 0"
        if is_nan and any(not _is_finite(a) for a in operands):
            if op.name == "mul":
                return "0 * infinity", "a factor is infinite where the other is 0"
            return EMPTY_ROW
        if is_nan and lookup(op.name).is_elementwise:
            return f"{op.name} undefined", f"{op.name} has no value there"
        if is_loop(op):
            return "in a loop", "a value of the loop, or its derivative, is not finite"
        if op.name == "log" and np.any(operands[0] == 0):
            if self._sums_nothing(op.operands[0], values):
                return EMPTY_ROW
            return "log at 0", "log is -inf at 0, and its derivative is infinite"
        if number_of(op) is not None:
            return MASKED_RESULT
        return TOO_LARGE

    def _sums_nothing(self, value: Value, values: Mapping[Value, Array]) -> bool:
        """Whether ``value`` is a sum of exponentials, some of them of an infinity."""
        op = self.producers.get(value)
        while op is not None and (is_sum(op) or keeps_order(op)):
            op = self.producers.get(op.operands[0])
        return op is not None and op.name == "exp" and not _is_finite(values[op.operands[0]])


def _lies_in(place: Span | None, around: Span | None) -> bool:
    if place is None or around is None or place.file != around.file:
        return False
    start, end = (around.line, around.column), (around.end_line, around.end_column)
    return start <= (place.line, place.column) and (place.end_line, place.end_column) <= end


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.all(np.isfinite(array)))


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.any(np.isnan(array)))
