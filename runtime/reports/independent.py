"""SymPy's own derivative as a row per parameter of ``gradc verify``: at a small shape, against the
adjoint made there.

The shape is the smallest at which the model can be lowered, sizes differing where they may, layers
as many as there are. A row never changes the verdict on its parameter, but a refuted one refutes
the report. What is too large, or not done when the time is over, is SKIPPED, with the reason; rows
skipped for want of time are known by ``is_late``. Time is that of the processor.

SymPy is loaded on use. Non-goals: comparing (``passes.prove_independent``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.straight import Straight
from gradc.ir.tensor.core import Function
from gradc.passes.pipeline import run_pipeline
from gradc.passes.prove.programs.cuts import has_window, with_cuts
from gradc.passes.prove.programs.independent import Compared, compare, integers_of
from gradc.passes.prove.programs.shapes import is_structural, work
from gradc.passes.prove.prove import CUTS, OFF_KINKS, Subject
from gradc.passes.prove.report import Status, Verdict
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.reports.smaller import Reading, smallest

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

METHOD = "SymPy: independent derivative"
# Programs of so few scalar operations are taken at their own shape.
_SMALL = 400
_LARGEST = 20_000
_SIZES = ((2, 3), (2, 2), (3, 3), (4, 4), (4, 8), (8, 8))
# Integers of programs are read as smaller ones until there are about so few.
_FEW, _FACTORS = 3000, (32, 16, 8, 4)
_LATE = "its time was over after"


@dataclass(frozen=True, slots=True)
class _Shape:
    dims: Mapping[str, int]
    function: Function
    reading: Reading | None = None

    def at(self, subject: Subject, chosen: Collection[str]) -> str:
        """Which shape this is, for details of verdicts; ``chosen`` are dimensions that nobody gave
        a size.
        """
        known = self.dims == subject.dims
        named = _dims({n: d for n, d in self.dims.items() if not known or n in chosen})
        return ", ".join(filter(None, (named, "" if self.reading is None else str(self.reading))))


def is_late(verdict: Verdict) -> bool:
    """Whether SymPy would have needed more time."""
    return verdict.status is Status.SKIPPED and _LATE in verdict.detail


def sympy_verdicts(
    model: Model,
    subject: Subject,
    options: Options,
    seconds: float,
    known: Mapping[str, Verdict],
) -> list[Verdict]:
    """One row per parameter of ``subject``; ``known`` is what is known of each already.

    A gradient that is the user's word and not the derivative is not SymPy's either.
    """
    start = time.perf_counter()
    shape, compared = _first_compared(model, subject, options, seconds)
    found = {name: _excused(row, known[name]) for name, row in compared.items()}
    each = (time.perf_counter() - start) / max(1, len(found))
    chosen = {n for n, d in model.signature.dims.items() if d is None and n not in model.dims}
    where = shape.at(subject, chosen)
    at = f"at {where}: " if where else ""
    slots = {slot.name: slot for slot in shape.function.parameters}
    assumed = (OFF_KINKS, CUTS) if has_window(shape.function) else (OFF_KINKS,)
    return [
        Verdict(
            "sympy", name, row.status, METHOD, at + row.detail,
            () if row.status is Status.SKIPPED else assumed, row.point,
            str(slots[name].span or ""), "", each,
            {**row.witness, "dims": dict(shape.dims)} if row.witness else {},
        )
        for name, row in found.items()
    ]  # fmt: skip


def _skipped(subject: Subject, why: str) -> dict[str, Compared]:
    return dict.fromkeys(subject.wrt, Compared(Status.SKIPPED, why))


def _first_compared(
    model: Model, subject: Subject, options: Options, seconds: float
) -> tuple[_Shape, dict[str, Compared]]:
    """The first shape of a few that is small enough, and what is known there."""
    from gradc.codegen.symbolic.sympy.check import Late, NoDerivative, TooLong, derivative

    until = time.thread_time() + seconds
    shape, why = _Shape(subject.dims, subject.real.source), ""
    for shape in _shapes(model, subject):
        if work(shape.function) > _LARGEST:
            why = "too large"
            continue
        forward = with_cuts(shape.function)
        left = until - time.thread_time()
        try:
            theirs = derivative(forward, subject.wrt, integers_of(forward), left)
        except TooLong as problem:
            why = str(problem)
            continue
        except NoDerivative as problem:
            return shape, _skipped(subject, str(problem))
        except Late:
            return shape, _skipped(subject, f"{_LATE} {seconds:g} CPU seconds")
        made = model if shape.reading is None else shape.reading.model
        compared = _compared(made, subject, shape, options, theirs)
        if shape.reading is not None and _refuted(compared):
            # A number may mean something that no smaller one does.
            why = "too large"
            continue
        return shape, compared
    return shape, _skipped(subject, why)


def _refuted(compared: Mapping[str, Compared]) -> bool:
    return any(row.status is Status.REFUTED for row in compared.values())


def _compared(
    model: Model, subject: Subject, shape: _Shape, options: Options, theirs: Straight
) -> dict[str, Compared]:
    # Without `simplify-source`, which folds literals in the program's type: both sides have them as
    # they are written.
    asked = pipeline_options(
        model.gradient_of(subject.wrt), options,
        stop_after="differentiate", skip=("simplify-source",), verify=0,
    )  # fmt: skip
    gradient = run_pipeline(shape.function, asked).after("differentiate")
    assert isinstance(gradient, Function), "a tensor-stage step makes functions"
    return compare(with_cuts(shape.function), gradient, theirs)


def _excused(row: Compared, known: Verdict) -> Compared:
    if row.status is not Status.REFUTED or known.status is not Status.ASSERTED:
        return row
    return Compared(Status.ASSERTED, f"not SymPy's derivative, as the user says; {row.detail}")


def _dims(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={n}" for name, n in dims.items())


# --- a small shape


def _shapes(model: Model, subject: Subject) -> Iterator[_Shape]:
    """The model's own shape if that is small, else those of a few at which it can be lowered, and
    last its own.
    """
    own = _Shape(subject.dims, subject.real.source)
    free = {n: v for n, v in subject.dims.items() if n not in model.derived}
    if work(own.function) <= _SMALL:
        yield own
        return

    def lower(dims: Mapping[str, int]) -> Function:
        return model.lower(dims, training=True).function

    fixed = {
        name for name, n in free.items() if n <= 2 or is_structural(name, free, own.function, lower)
    }
    least: dict[str, int] | None = None
    for dims in _candidates(free, fixed):
        try:
            shape = _Shape(model.lower(dims).dims, lower(dims))
        except DiagnosticError:
            continue
        least = least or dims
        yield shape
    if least is not None:
        yield from _thinner(model, least, fixed, lower)
    reading = None if least is None else smallest(model, least, _FEW, _FACTORS)
    if reading is not None and least is not None:
        made = reading.model.lower(least, training=True)
        yield _Shape(made.dims, made.function, reading)
    yield own


def _thinner(
    model: Model,
    least: Mapping[str, int],
    fixed: set[str],
    lower: Callable[[Mapping[str, int]], Function],
) -> list[_Shape]:
    """One of the dimensions at 1, which channels of deep networks may have to be; cheapest
    first.
    """
    found = []
    for name in least:
        try:
            dims = {**least, name: 1}
            if name not in fixed:
                found.append(_Shape(model.lower(dims).dims, lower(dims)))
        except DiagnosticError:
            continue
    return sorted(found, key=lambda shape: work(shape.function))


def _candidates(dims: Mapping[str, int], fixed: set[str]) -> Iterator[dict[str, int]]:
    for sizes in _SIZES:
        free = [name for name in dims if name not in fixed]
        yield {
            name: n if name in fixed else min(n, sizes[free.index(name) % 2])
            for name, n in dims.items()
        }
