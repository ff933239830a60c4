"""A verdict on every kernel text: the text itself, run by the simulator, against the loop nest that
it was printed from.

Both are run over a prime field, launch by launch on the same memory; small ones once more with
guards left open, which bounds the error. A text that differs there, or does what none may (a race,
an address out of bounds), is refuted by a point of real numbers at which it does so in f64.

Dimensions without a value become as large as the work allows, so that loops of texts run twice and
more; what still runs once is named.
Non-goals: the loop nests themselves (``passes.prove.programs.kernels``), rounding, machine code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.texts import TextFault, TextRow, Texts, TextsRun
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.registry import is_loop
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function, walk
from gradc.ir.tensor.dims import DimExpr, symbols
from gradc.passes.budget import run_within
from gradc.passes.prove.domains import free
from gradc.passes.prove.domains.field import PRIME
from gradc.passes.prove.domains.point import draw
from gradc.passes.prove.domains.words import words_of
from gradc.passes.prove.programs.shapes import is_structural, work
from gradc.passes.prove.prove import FIELD, OFF_KINKS, TOO_LARGE
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.refute import FloatArrays, described, real_point
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import backend_of
from gradc.runtime.reports.smaller import smaller

# Field operations of the tensor program that one run may cost, and operations of lanes that are
# taken again over a slow domain.
MOST_WORK = 3_000_000
MOST_OPEN = 250_000
# Sizes of dimensions without a value, largest first: more than one, two, four and eight slices of
# most loops.
_SIZES = (523, 263, 131, 67, 37)
_LEAST = 4  # dimensions are not made smaller than this
_POINTS = 4  # of real numbers, at which a difference is looked for
# How far apart numbers of f64 are, relative to the largest of their array, that rounding does not
# explain.
_APART = 2.0**-20
_METHOD = f"{FIELD}: text = loop nest"


@dataclass(frozen=True, slots=True)
class TextSubject:
    """A compilation whose texts are looked at: the program, its Plan and texts, the dimensions."""

    function: Function
    plan: Plan
    texts: Texts
    dims: Mapping[str, int]
    read: str

    def at(self, dims: Mapping[str, int]) -> str:
        """In words where it differs from ``dims``."""
        changed = [f"{name}={n}" for name, n in self.dims.items() if dims.get(name) != n]
        changed += [self.read] if self.read else []
        return f" at {', '.join(changed)}" if changed else ""


def text_verdicts(
    model: Model,
    dims: Mapping[str, int],
    chosen: Sequence[str],
    names: tuple[str, ...],
    options: Options,
    seed: int,
) -> list[Verdict]:
    """A row per kernel text of the gradients by ``names``, for a target whose code is made of
    texts. ``chosen`` are dimensions that nobody gave a value.
    """
    start = time.perf_counter()
    subject = _subject(model, dims, chosen, names, options)
    if work(subject.function) > 8 * MOST_WORK:
        detail = f"too large to be run over a field{subject.at(dims)}"
        return [_verdict(subject, row, Status.UNDECIDED, detail) for row in subject.texts.rows]
    at = draw(subject.function, seed, 0)
    with at.domain.quiet():
        words = words_of(at.domain)
        ran = subject.texts.run(words, words.poison, _named(subject, at.values), np.equal)
    bound = _bound(subject, seed) if not ran.faults and ran.operations <= MOST_OPEN else TOO_LARGE
    where = subject.at(dims)
    faulty = {row.kernel for row in subject.texts.rows if row.name in ran.faults}
    refuted = _refuted(subject) if ran.faults else {}
    found = []
    for row in subject.texts.rows:
        fault, trips = ran.faults.get(row.name), _once(ran, row.name)
        if fault is not None:
            found.append(_faulty(subject, row, fault, refuted.get(row.name), where))
        elif row.kernel in faulty:
            detail = "another text of its kernel is wrong"
            found.append(_verdict(subject, row, Status.UNDECIDED, detail))
        elif bound.holds:
            detail = f"{bound}{where}; {trips}"
            found.append(_verdict(subject, row, Status.PROVED_BOUND, detail))
        else:
            detail = f"1 point modulo {PRIME}{where}; {trips}; {bound}"
            found.append(_verdict(subject, row, Status.PROBABLE, detail))
    seconds = (time.perf_counter() - start) / max(1, len(found))
    return [replace(verdict, seconds=seconds) for verdict in found]


def toolchain_of(
    model: Model, dims: Mapping[str, int], names: tuple[str, ...], options: Options
) -> dict[str, str]:
    """Digest of the machine code of the program at ``dims``, and versions of the toolchain; empty
    where there is none.
    """
    return _compiled(model, dims, names, options, "").texts.machine_code()


# --- the subject


def _subject(
    model: Model,
    dims: Mapping[str, int],
    chosen: Sequence[str],
    names: tuple[str, ...],
    options: Options,
) -> TextSubject:
    """The model at dimensions that are large enough for loops and small enough to be run."""
    if options.budget is not None:  # a smaller one would be another program
        return _compiled(model, dims, names, options, "")
    dims = _grown(model, dims, chosen)
    least = _reduced(model, dims)
    is_large = work(model.lower(least).function) > MOST_WORK
    reading = smaller(model, least, MOST_WORK) if is_large else None
    if reading is not None:
        return _compiled(reading.model, least, names, options, str(reading))
    return _compiled(model, least, names, options, "")


def _grown(model: Model, dims: Mapping[str, int], chosen: Sequence[str]) -> dict[str, int]:
    """``dims`` with the largest size for those that were chosen for want of a value."""
    free_ones = [n for n in chosen if not _counts_layers(model, dims, n)]
    free_ones = [n for n in free_ones if not _counts_steps(model, dims, n)]
    for size in _SIZES if free_ones else ():
        grown = {**dims, **dict.fromkeys(free_ones, size)}
        try:
            function = model.lower(grown).function
        except DiagnosticError:
            continue
        if work(function) <= MOST_WORK:
            return grown
    return dict(dims)


def _reduced(model: Model, dims: Mapping[str, int]) -> dict[str, int]:
    """``dims`` with smaller ones where the work is too much: samples first, then whatever is
    largest, so that other loops keep their trips.
    """
    found = dict(dims)
    shapes = [spec.type.shape for spec in model.signature.inputs]
    samples = {n for s in shapes if s and isinstance(s[0], DimExpr) for n in symbols(s[0])}
    names = [n for n, size in found.items() if size > _LEAST and not _counts_layers(model, dims, n)]
    while names and work(model.lower(found).function) > MOST_WORK:
        name = max(names, key=lambda n: (n in samples, found[n]))
        smaller_one = {**found, name: max(_LEAST, found[name] // 2)}
        try:
            model.lower(smaller_one)
        except DiagnosticError:
            names.remove(name)
            continue
        found = smaller_one
        names = [n for n in names if found[n] > _LEAST]
    return found


def _counts_layers(model: Model, dims: Mapping[str, int], name: str) -> bool:
    return is_structural(name, dims, model.lower(dims).function, lambda d: model.lower(d).function)


def _counts_steps(model: Model, dims: Mapping[str, int], name: str) -> bool:
    """Whether a loop over time becomes longer with this dimension: it has trips enough as it is."""
    larger = {**dims, name: dims[name] + 2}
    try:
        return _steps(model.lower(larger).function) > _steps(model.lower(dims).function)
    except DiagnosticError:
        return False


def _steps(function: Function) -> int:
    trips = (op.attributes.get("trips") for op in walk(function.block) if is_loop(op))
    return sum(n for n in trips if isinstance(n, int))


def _compiled(
    model: Model, dims: Mapping[str, int], names: tuple[str, ...], options: Options, read: str
) -> TextSubject:
    lowered = model.lower(dims, training=True)
    asked = pipeline_options(model.gradient_of(names), options)
    run = run_within(lowered.function, asked, options.budget)
    chosen = backend_of(options.target)
    texts_of = chosen.texts()
    assert texts_of is not None, "asked before"
    texts = texts_of(run.plan, chosen.target(options.thread_count))
    return TextSubject(lowered.function, run.plan, texts, dict(lowered.dims), read)


# --- runs


def _named(subject: TextSubject, values: Sequence[Any]) -> dict[str, Any]:
    slots = subject.function.parameters
    return {slot.name: x for slot, x in zip(slots, values, strict=True)}


def _bound(subject: TextSubject, seed: int) -> free.Bound:
    """The error with which some text could differ from its loop nest all the same."""

    def test(at: free.FreePoint) -> list[str]:
        words = words_of(at.domain)
        ran = subject.texts.run(words, words.poison, _named(subject, at.values), _same_values)
        return list(ran.faults)

    return free.bound(subject.function, seed, test)


def _same_values(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(free.values(x) == free.values(y), bool)


def _close(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers rounding may have made of each other."""
    if x.dtype.kind != "f":
        return np.asarray(x == y)
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))
        known = np.isfinite(x) & np.isfinite(y)
        return np.asarray(~known | (np.abs(x - y) <= _APART * largest))


def _refuted(subject: TextSubject) -> dict[str, tuple[TextFault, int]]:
    """Faults that show at points of real numbers, in f64: the first of each text, and the number of
    its point.
    """
    found: dict[str, tuple[TextFault, int]] = {}
    for number in range(_POINTS):
        numbers = real_point(subject.function, number).numbers
        domain: NumpyArrays = FloatArrays()
        words = words_of(domain)
        with domain.quiet():
            ran = subject.texts.run(words, words.poison, _named(subject, numbers), _close)
        for name, fault in ran.faults.items():
            found.setdefault(name, (fault, number))
    return found


def _once(ran: TextsRun, name: str) -> str:
    """Which loops of a text have run but once."""
    trips = ran.trips.get(name, {})
    lines = [str(line) for line, count in sorted(trips.items()) if line and count < 2]
    once = ["one block"] if trips.get(0, 0) < 2 else []
    once += [f"one trip at line {', '.join(lines)}"] if lines else []
    return "; ".join(once) if once else "every loop twice or more"


# --- verdicts


def _faulty(
    subject: TextSubject,
    row: TextRow,
    fault: TextFault,
    seen: tuple[TextFault, int] | None,
    where: str,
) -> Verdict:
    """A text that differs over the field: refuted if it does at real numbers too."""
    if seen is None:
        detail = (
            f"{fault.kind} over a prime field{where}; at {_POINTS} real points in f64 it is not"
        )
        return _verdict(subject, row, Status.UNDECIDED, detail)
    fault, number = seen
    at = real_point(subject.function, number)
    slots = zip(subject.function.parameters, at.numbers, strict=True)
    witness = {
        "of": f"{row.name}: {fault.of}",
        "found": fault.found,
        "expected": fault.expected,
        "values": {slot.name: x.tolist() for slot, x in slots},
        "dims": dict(subject.dims),
    }
    verdict = _verdict(subject, row, Status.REFUTED, f"{fault}{where}")
    point = described(subject.function, at)
    method = "f64 at a real point"
    return replace(verdict, method=method, point=point, witness=witness)


def _verdict(subject: TextSubject, row: TextRow, status: Status, detail: str) -> Verdict:
    kernel = subject.plan.kernels[row.kernel]
    place = str(kernel.spans[0].outermost) if kernel.spans else ""
    told = f"{detail}; text {row.digest}"
    return Verdict("text", row.name, status, _METHOD, told, (OFF_KINKS,), place=place)
