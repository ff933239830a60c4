"""``net.verify()``: every obligation of one compilation, discharged and reported.

The program is lowered and put through the very pipeline that compiles it; what each step made is
compared with what it got. Where the shapes are too large to draw random points cheaply, points are
drawn at smaller dimensions (``Report.probe_dims``), and verdicts say so.

Non-goals: how a verdict is found (``passes.prove_*``), how reports look.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from gradc._version import __version__
from gradc.frontend.program import Program
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.tensor.core import Function
from gradc.passes.budget import run_within
from gradc.passes.pipeline import Run
from gradc.passes.prove.domains.point import seed_of
from gradc.passes.prove.programs.shapes import MOST_WORK, probe_dims, work
from gradc.passes.prove.prove import Found, Subject, at_both, prove, prove_gradients
from gradc.passes.prove.report import Accuracy, Report, Status, certificate, from_json
from gradc.runtime.files.data import fail, write_text
from gradc.runtime.files.read import read_program
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import Options, compile_options, pipeline_options
from gradc.runtime.native.load import backend_of
from gradc.runtime.render.notebook import framed
from gradc.runtime.reports.accuracy import measure
from gradc.runtime.reports.independent import is_late, sympy_verdicts
from gradc.runtime.reports.ranks import Sharing
from gradc.runtime.reports.smaller import smaller
from gradc.runtime.reports.texts import text_verdicts, toolchain_of

# Random points at the second sizes of dimensions without a value.
_SECOND_POINTS = 2
# What may be said of a program whose integers are read as smaller ones.
_CONFIRMED = tuple(s for s in Status if s not in (Status.REFUTED, Status.UNDECIDED))
# SymPy's time, unless somebody says.
SYMPY_SECONDS = 10.0
TRUSTED = (
    "the meanings of the ops (ir/ops, `evaluate`), in which forward programs are understood",
    "the table of derivatives of scalar functions (ir/domains/dual.py)",
    "NumPy's integer arithmetic and python-flint's balls",
)


class Verified(Report):
    """A Report that can be written to files, and that remembers the model it is about."""

    __slots__ = ("_origin",)
    _origin: Model

    def about(self, model: Model) -> Verified:
        """The same report; its page will show the formulas and hazards of ``model``."""
        # The field is not part of the report: two reports are equal whatever they were made from.
        object.__setattr__(self, "_origin", model)
        return self

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.counts().items())
        return f"<verification of {self.model}: {counts}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the page without what only the model can add, which takes its
        time.
        """
        from gradc.runtime.reports.report_html import report_page

        return framed(report_page(self))

    def to_html(self, path: str | Path) -> None:
        """Writes the report as one page that needs nothing else."""
        # SymPy writes the formulas; it is loaded for pages alone.
        from gradc.runtime.reports.report_html import report_page

        write_text(Path(path), report_page(self, getattr(self, "_origin", None)))

    def to_json(self, path: str | Path) -> None:
        """Writes the certificate: everything in the report, and its digest."""
        write_text(Path(path), json.dumps(certificate(self), indent=1, sort_keys=True) + "\n")


class VerifyKeywords(TypedDict, total=False):
    """Keywords of ``verify_model``, for type checkers."""

    wrt: str | tuple[str, ...]
    budget: int | str | None
    points: int | None
    numbers: bool | None
    sympy: float
    target: str
    ranks: int | None
    accumulate: int
    shard: str | None
    machine_code: bool
    progress: Callable[[str], None] | None


def verify_model(
    model: Model,
    *,
    wrt: str | tuple[str, ...] = "params",
    budget: int | str | None = None,
    points: int | None = None,
    numbers: bool | None = False,
    sympy: float = SYMPY_SECONDS,
    target: str = "cpu",
    ranks: int | None = None,
    accumulate: int = 1,
    shard: str | None = None,
    machine_code: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Verified:
    """Verifies the gradients of ``model`` as ``value_and_grad`` compiles them.

    Args:
        points: random points per obligation; by default more for smaller programs.
        numbers: also measure the error of what the machine code computes; None: or note why not.
        sympy: at most so many CPU seconds for SymPy's own derivative at a small shape; 0: none.
        target: what it is compiled for.
        ranks: also that so many, with ``accumulate`` parts each, share a batch rightly.
        shard: the same of parameters cut along a dimension among ranks, such as ``H=2``.
        machine_code: also name it and its toolchain, where it is made of texts and can be made.
        progress: called with what is done next.

    Raises:
        DiagnosticError: for whatever keeps the model from being compiled.
    """
    start = time.perf_counter()
    if progress is not None:
        progress("compile")
    options = compile_options(budget=budget, target=target)
    names = model.select(wrt) or model.select("inputs")
    free, chosen = free_dims(model)
    least = _least(model, free, options)
    subject, found = _confirmed(
        lambda is_read: _subject(model, free, least, names, options, is_read),
        lambda one: prove(one, _seed(one), points, progress),
    )
    _ask_sympy(found, model, subject, options, sympy)
    made = _ask_texts(found, model, subject, (free, chosen), options, machine_code)
    sharing = Sharing(ranks, accumulate, shard)
    _ask_ranks(found, sharing, model, least, options, _seed(subject))
    _ask_again(found, model, subject, (free, chosen), options)
    at_probe = Model(model.program, model.name, least, model.precision)
    accuracy = _measured(found, at_probe, subject, names, target, numbers)
    return Verified(
        **_identity(model, subject, made),
        dims=subject.dims,
        chosen=chosen,
        probe_dims=subject.probe_dims,
        options=_asked(names, options, points, sympy, sharing),
        verdicts=tuple(found.verdicts),
        accuracy=accuracy,
        notes=tuple(found.notes),
        trusted=(*TRUSTED, backend_of(target).beneath()),
        seconds={**found.seconds, "total": time.perf_counter() - start},
    ).about(model)


def _identity(model: Model, subject: Subject, made: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a report that say what it is about, and made by what; ``made`` is machine code
    and toolchain.
    """
    real = subject.real
    return {
        "model": model.name,
        "file": model.signature.span.file,
        "source_digest": model.program.digest,
        "program_digest": fingerprint(real.source, PLACES),
        "plan_digest": fingerprint(real.plan, PLACES),
        "precision": model.precision,
        "seed": _seed(subject),
        "versions": {**_versions(), **made},
    }


def _ask_sympy(
    found: Found, model: Model, subject: Subject, options: Options, seconds: float
) -> None:
    """Adds SymPy's rows after the parameters, whose verdicts they leave alone; none in no time."""
    if seconds <= 0:
        return
    with found.timed("sympy"):
        known = {v.subject: v for v in found.verdicts if v.kind == "parameter"}
        rows = sympy_verdicts(model, subject, options, seconds, known)
    count = len(subject.wrt)
    found.verdicts[count:count] = rows


def _ask_texts(
    found: Found,
    model: Model,
    subject: Subject,
    sizes: tuple[Mapping[str, int], Sequence[str]],
    options: Options,
    is_made: bool,
) -> dict[str, str]:
    """Adds a row per kernel text, where the target's code is made of such; returns what machine
    code they make, if asked, and by what.
    """
    if backend_of(options.target).texts() is None:
        return {}
    free, chosen = sizes
    with found.timed("texts"):
        found.verdicts += text_verdicts(model, free, chosen, subject.wrt, options, _seed(subject))
    if not is_made:
        return {}
    with found.timed("machine code"):
        return toolchain_of(model, free, subject.wrt, options)


def _ask_ranks(
    found: Found,
    sharing: Sharing,
    model: Model,
    least: Mapping[str, int],
    options: Options,
    seed: int,
) -> None:
    """Adds rows on ranks, if any are asked for."""
    if sharing.asked:
        with found.timed("ranks"):
            found.verdicts += sharing.rows(model, least, options, seed)


def _measured(
    found: Found,
    model: Model,
    subject: Subject,
    names: Sequence[str],
    target: str,
    is_asked: bool | None,
) -> tuple[Accuracy, ...]:
    """Errors of the machine code, if asked for; None: where it can be made and run here, else a
    note says why not.
    """
    if is_asked is False:
        return ()
    try:
        return measure(model, subject.probe_dims, names, target)
    except DiagnosticError as problem:
        if is_asked:
            raise
        why = problem.diagnostics[0].message
        found.notes.append(f"errors of the machine code are not measured: {why}")
        return ()


def _ask_again(
    found: Found,
    model: Model,
    subject: Subject,
    sizes: tuple[Mapping[str, int], Sequence[str]],
    options: Options,
) -> None:
    """The verdicts at second sizes of dimensions without a value, beside the first."""
    free, chosen = sizes
    if not chosen:
        return
    with found.timed("second sizes"):
        again = _second(model, free, chosen, subject.wrt, options, _seed(subject))
        found.verdicts[:] = at_both(found.verdicts, again)
        found.notes += _chosen_notes(free, chosen, again)


def _seed(subject: Subject) -> int:
    return seed_of(subject.real.source, subject.real.after("differentiate"))


def _confirmed(
    made: Callable[[bool], Subject], proved: Callable[[Subject], Found]
) -> tuple[Subject, Found]:
    """What is found with integers read as smaller ones, or else of the program as it is: a number
    may mean something that no smaller one does."""
    subject = made(True)
    found = proved(subject)
    if subject.read and not all(v.status in _CONFIRMED for v in found.verdicts):
        subject = made(False)
        found = proved(subject)
    return subject, found


def _least(model: Model, free: Mapping[str, int], options: Options) -> Mapping[str, int]:
    """The dimensions at which points are drawn.

    What a budget recomputes is chosen at one shape; a smaller one would be another program.
    """
    if options.budget is not None:
        return free
    return probe_dims(free, lambda d: model.lower(d).function)[0]


def _subject(
    model: Model,
    free: Mapping[str, int],
    least: Mapping[str, int],
    names: tuple[str, ...],
    options: Options,
    is_read: bool = True,
) -> Subject:
    """The model compiled at its own dimensions, and at those where points are drawn.

    ``is_read``: where these are too large for points still, integers of the program are read as
    smaller ones.
    """
    dims, small = dict(model.lower(free).dims), dict(model.lower(least).dims)
    real = _compiled(model, free, names, options)
    is_large = work(model.lower(least).function) > MOST_WORK and options.budget is None
    reading = smaller(model, least) if is_read and is_large else None
    if reading is not None:
        probe = _compiled(reading.model, least, names, options)
        return Subject(names, real, probe, dims, small, str(reading))
    probe = real if small == dims else _compiled(model, least, names, options)
    return Subject(names, real, probe, dims, small)


def _asked(
    names: tuple[str, ...],
    options: Options,
    points: int | None,
    sympy: float,
    sharing: Sharing,
) -> dict[str, str]:
    """What was asked for, as a replay needs it."""
    return {
        **sharing.asked,
        "wrt": ",".join(names),
        "budget": "" if options.budget is None else str(options.budget),
        "points": "" if points is None else str(points),
        "sympy": f"{sympy:g}",
        "target": options.target,
    }


def _versions() -> dict[str, str]:
    return {"gradc": __version__, "numpy": np.__version__, "python": platform.python_version()}


def replay(data: Mapping[str, Any], path: str | None = None) -> tuple[Verified, list[str]]:
    """Verifies again what a certificate claims, from files alone; what differs is listed.

    Args:
        path: where the program is, if not where the certificate says.

    Raises:
        DiagnosticError: GC0701 for what is no certificate, and what keeps the program from being
            compiled.
    """
    claimed = _claimed(data)
    program = read_program(path or claimed.file)
    model = Model(program, claimed.model, _given(program, claimed), claimed.precision)
    options = claimed.options
    points = int(options["points"]) if options["points"] else None
    wrt = tuple(options["wrt"].split(","))
    sympy = float(options.get("sympy", "0"))
    sharing = Sharing.read(options)
    found = verify_model(
        model,
        wrt=wrt,
        budget=options["budget"] or None,
        points=points,
        sympy=sympy,
        target=options.get("target", "cpu"),
        ranks=sharing.ranks,
        accumulate=sharing.accumulate,
        shard=sharing.shard,
    )
    differing = []
    if data.get("digest") != claimed.digest:
        differing.append("the certificate's own digest is not that of its contents")
    claimed, compared = _timely(claimed, found)
    for name in ("source_digest", "program_digest", "plan_digest", "seed"):
        if getattr(claimed, name) != getattr(found, name):
            differing.append(f"{name.replace('_', ' ')} is {getattr(found, name)}")
    known = {(v.kind, v.subject): v.status for v in compared.verdicts}
    for verdict in claimed.verdicts:
        status = known.get((verdict.kind, verdict.subject))
        if status is not verdict.status:
            now = "absent" if status is None else status.value
            differing.append(f"{verdict.kind} {verdict.subject}: {verdict.status.value}, now {now}")
    if not differing and compared.digest != claimed.digest:
        differing.append(f"details differ: the digest is {compared.digest}")
    return found, differing


def _given(program: Program, claimed: Report) -> dict[str, int]:
    """The dimensions that the user gave values: not those chosen for want of one, nor those that
    follow from others.
    """
    free = {n: v for n, v in claimed.dims.items() if n not in program.derived}
    follows = Model(program, claimed.model, free, claimed.precision).lower().dims
    given = {n: v for n, v in claimed.dims.items() if n in free or follows.get(n) != v}
    return {n: v for n, v in given.items() if n not in claimed.chosen}


def _timely(claimed: Report, found: Report) -> tuple[Report, Report]:
    """Both reports without SymPy's rows, if its time was over in one: that is no difference of the
    programs.
    """
    if not any(is_late(v) for v in (*claimed.verdicts, *found.verdicts)):
        return claimed, found
    claimed, found = (
        replace(r, verdicts=tuple(v for v in r.verdicts if v.kind != "sympy"))
        for r in (claimed, found)
    )
    return claimed, found


def _claimed(data: Mapping[str, Any]) -> Report:
    try:
        return from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise fail("GC0701", f"this is not a certificate: {problem}") from None


def witness_arrays(witness: Mapping[str, Any]) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """A refuting point as arrays by name, as ``gradc grad`` and NumPy take them; both numbers stand
    beside them.
    """
    values = {name: np.asarray(value) for name, value in witness["values"].items()}
    for name in ("found", "expected"):
        try:
            values[f"witness.{name}"] = np.asarray(float(witness[name]))
        except ValueError:  # what is not there at all is said in words
            continue
    return values


def free_dims(model: Model) -> tuple[dict[str, int], tuple[str, ...]]:
    """Every dimension of the model that no other defines, and which of them were chosen here for
    want of a value.

    What others define follows from them, and is left out unless the user gave it a value.
    """
    names = [n for n in model.signature.dims if n not in model.derived]
    known = {n: size for n in names if (size := model.signature.dims[n]) is not None} | model.dims
    chosen = tuple(name for name in names if name not in known)
    return (known | _sizes(model, known, chosen)[0] if chosen else known), chosen


# Sizes of dimensions without a value: no two share a factor. Those that divide further are for
# programs that need it.
_SIZES = (3, 5, 7, 11, 13, 17, 19, 23, 4, 8, 16)


def _sizes(model: Model, known: Mapping[str, int], chosen: Sequence[str]) -> list[dict[str, int]]:
    """One size for all of ``chosen``, and where there is one a second that shares no factor with
    it.

    Sizes that the program writes (a hard-coded `/ 3`) or does not take are passed over.

    Raises:
        DiagnosticError: what the program says of the first size, if it takes none.
    """
    source = model.program.report.sources.get(model.signature.span.file)
    text = "" if source is None else re.sub(r"#.*", "", source.text)
    written = {int(number) for number in re.findall(r"(?<![\w.])\d{1,4}(?![\w.])", text)}
    found: list[dict[str, int]] = []
    problem: DiagnosticError | None = None
    for size in sorted(_SIZES, key=lambda n: n in written):
        if any(math.gcd(size, n) > 1 for one in found for n in one.values()):
            continue
        dims = dict.fromkeys(chosen, size)
        try:
            model.lower({**known, **dims})
        except DiagnosticError as refusal:
            problem = problem or refusal
            continue
        found.append(dims)
        if len(found) == 2:
            break
    if not found and problem is not None:
        raise problem
    return found


def _chosen_notes(free: Mapping[str, int], chosen: Sequence[str], again: Found | None) -> list[str]:
    """At which sizes dimensions without a value were tried."""
    where = "" if again is None else f"; gradients and pullbacks were tried at {again.notes[0]} too"
    return [f"{name} has no value: it is {free[name]} here{where}" for name in chosen]


def _second(
    model: Model,
    free: Mapping[str, int],
    chosen: Sequence[str],
    names: tuple[str, ...],
    options: Options,
    seed: int,
) -> Found | None:
    """What is known of the gradients and pullbacks at other sizes of the dimensions that were
    chosen here; None if the program does not take them."""
    known = {name: n for name, n in free.items() if name not in chosen}
    sizes = _sizes(model, known, chosen)
    if len(sizes) < 2:
        return None
    other = {**known, **sizes[1]}
    return _confirmed(
        lambda is_read: _subject(model, other, other, names, options, is_read),
        lambda one: prove_gradients(one, seed, _SECOND_POINTS),
    )[1]


def _compiled(
    model: Model, dims: Mapping[str, int], names: tuple[str, ...], options: Options
) -> Run:
    """The pipeline's records for ``dims`` under the budget, up to the Plan for any machine.

    What is recomputed is what this machine's budget asks for; its scratch, which follows, is no
    part of a certificate.
    """
    function = model.lower(dims, training=True).function
    derive: Callable[[Function], Function] = model.gradient_of(names)
    run = run_within(function, pipeline_options(derive, options), options.budget)
    return Run(run.source, tuple(record for record in run.records if record.step != "scratch"))
