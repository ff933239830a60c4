"""All obligations of one compilation, as verdicts: gradients, passes, kernels, the Plan.

``Subject`` holds the pipeline's records twice: at the real dimensions, and at probe dimensions
where evaluating is cheap.
Non-goals: single methods (the other ``prove_`` modules), where programs come from
(``runtime.verify``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gradc.ir.ops.registry import has_pullback
from gradc.ir.tensor.core import Function, Slot
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Run
from gradc.passes.prove.domains.field import PRIME
from gradc.passes.prove.domains.free import Bound, bounded_equal
from gradc.passes.prove.domains.terms import TermArrays
from gradc.passes.prove.programs.cuts import has_window, with_cuts
from gradc.passes.prove.programs.kernels import Kernels, PlanProgram, bounded_plan, compare_plan
from gradc.passes.prove.programs.laws import (
    Law,
    agreement_by_law,
    is_small,
    overflowing,
    settle_plan,
)
from gradc.passes.prove.programs.passes import Compared, compare_records
from gradc.passes.prove.programs.shapes import points_for
from gradc.passes.prove.report import RowKind, Status, Verdict, key, weakest
from gradc.passes.prove.rule_verdicts import rule_verdict
from gradc.passes.prove.rules.compose import gradient_terms, result_terms
from gradc.passes.prove.rules.gradient import Tested, cotangents, test_gradient
from gradc.passes.prove.rules.pullback import name_of, pullback_verdicts
from gradc.passes.prove.rules.refute import (
    Outcome,
    decide_equal,
    decide_gradient,
    gradients_in_floats,
    lacking,
)
from gradc.passes.prove.rules.rules import instances
from gradc.passes.simplify.flatten import flatten

# Passes that keep every term are tried at points for good measure only.
MOST_OF_PASSES = 3
FIELD = "prime field"
TOO_LARGE = Bound(reason="too large for a bound")
BALLS = "balls at 50 digits"
OFF_KINKS = "off kinks"
DENOMINATORS = "denominators are not zero"
CUTS = "loops let no derivative through where `truncate` says so"


@dataclass(frozen=True)
class Subject:
    """What is to be proved."""

    wrt: tuple[str, ...]
    real: Run
    probe: Run
    dims: Mapping[str, int]
    probe_dims: Mapping[str, int]
    read: str = ""  # integers that the probe program has smaller, in words

    def at(self) -> str:
        """Where points were drawn, for details of verdicts."""
        changed = [f"{k}={n}" for k, n in self.probe_dims.items() if self.dims.get(k) != n]
        changed += [self.read] if self.read else []
        return f" at {', '.join(changed)}" if changed else ""


@dataclass
class Found:
    """Verdicts and times so far."""

    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    progress: Callable[[str], None] | None = None  # is told what is done next

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(what)
        start = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - start


def prove(
    subject: Subject,
    seed: int,
    points: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Found:
    """Every verdict about ``subject``, replayable from ``seed``."""
    found = Found(progress=progress)
    gradient = _function(subject.probe, "differentiate")
    count = points_for(gradient) if points is None else points
    with found.timed("terms"):
        terms = Terms.of(subject)
    with found.timed("rules"):
        rules = rule_verdicts(subject)
    with found.timed("pullbacks"):
        pullbacks = pullback_verdicts(subject.probe.source)
    with found.timed("gradients"):
        found.verdicts += gradient_verdicts(subject, terms, rules, pullbacks, seed, count)
    found.verdicts += [*rules.values(), *pullbacks.values()]
    with found.timed("passes"):
        found.verdicts += pass_verdicts(subject, terms, seed, min(count, MOST_OF_PASSES))
    with found.timed("kernels"):
        found.verdicts += kernel_verdicts(subject, seed, 1)
    with found.timed("plan"):
        found.verdicts += plan_verdicts(subject)
    return found


def prove_gradients(subject: Subject, seed: int, points: int) -> Found:
    """The verdicts on parameters and pullbacks alone."""
    found = Found()
    terms, rules = Terms.of(subject), rule_verdicts(subject)
    pullbacks = pullback_verdicts(subject.probe.source)
    found.verdicts += gradient_verdicts(subject, terms, rules, pullbacks, seed, points)
    found.verdicts += pullbacks.values()
    found.notes.append(", ".join(f"{name}={n}" for name, n in subject.dims.items()))
    return found


def at_both(verdicts: Sequence[Verdict], other: Found | None) -> list[Verdict]:
    """Verdicts with what is known at other sizes: the weaker of both (of two proofs the first), and
    the detail says at which."""
    if other is None:
        return list(verdicts)
    known = {(v.kind, v.subject): v for v in other.verdicts}
    (sizes,) = other.notes
    found = []
    for verdict in verdicts:
        again = known.get((verdict.kind, verdict.subject))
        if again is None:
            found.append(verdict)
        elif again.status.rank > verdict.status.rank and not again.status.is_proof:
            found.append(replace(again, detail=f"{again.detail} at {sizes}"))
        else:
            found.append(replace(verdict, detail=f"{verdict.detail}; also at {sizes}"))
    return found


# --- terms, at the real dimensions


@dataclass(frozen=True)
class Terms:
    """What comparing terms has shown: gradients that compose their rules, steps that keep every
    term.
    """

    composed: Mapping[str, bool]
    kept: Mapping[str, bool]
    used: tuple[str, ...]  # ops whose rules the reverse sweep asked

    @staticmethod
    def of(subject: Subject) -> Terms:
        """Evaluates every tensor-stage program of the real run over terms."""
        arrays, run = TermArrays(), subject.real
        known = result_terms(arrays, run.source)
        kept: dict[str, bool] = {}
        composed: dict[str, bool] = {}
        used: dict[str, None] = {}
        before = run.source
        for record in run.records:
            if not isinstance(record.artifact, Function):
                break
            if not record.is_changed:
                kept[record.step] = True
                continue
            now = result_terms(arrays, record.artifact)
            kept[record.step] = all(n in now and arrays.same(x, now[n]) for n, x in known.items())
            if record.step == "differentiate":
                found = gradient_terms(arrays, before, subject.wrt, used)
                composed = {n: arrays.same(x, now[f"cotangent {n}"]) for n, x in found.items()}
            known, before = now, record.artifact
        return Terms(composed, kept, tuple(used))


def rule_verdicts(subject: Subject) -> dict[str, Verdict]:
    """The rule of every op that the source uses, by name of the op."""
    found = {}
    for name, cases in instances(_before_adjoint(subject.probe)).items():
        start = time.perf_counter()
        verdict = rule_verdict(name, cases)
        at = subject.at() if verdict.status is Status.PROVED_BOUND else ""
        seconds = time.perf_counter() - start
        found[name] = replace(verdict, detail=verdict.detail + at, seconds=seconds)
    return found


def _before_adjoint(run: Run) -> Function:
    """The program that ``differentiate`` was given."""
    program = run.source
    for record in run.records:
        if record.step == "differentiate":
            return program
        if isinstance(record.artifact, Function):
            program = record.artifact
    return program


# --- gradients


def gradient_verdicts(
    subject: Subject,
    terms: Terms,
    rules: Mapping[str, Verdict],
    pullbacks: Mapping[str, Verdict],
    seed: int,
    points: int,
) -> list[Verdict]:
    """One verdict per parameter: by composition of the rules, and at random points as well."""
    gradient = _function(subject.probe, "differentiate")
    # Dual numbers see the cuts of loops where they are written out.
    is_cut, source = has_window(subject.probe.source), with_cuts(subject.probe.source)
    slots = {slot.name: slot for slot in source.parameters}
    start = time.perf_counter()
    asked = {n: v for n, v in rules.items() if n in terms.used}
    # Rules may hold for all shapes; that the adjoint is made of them was seen at this one.
    premises = weakest([Status.PROVED_SHAPE, *(v.status for v in asked.values())])
    is_sound = weakest([premises, *(v.status for v in pullbacks.values())]).is_proof
    proved = [name for name, is_composed in terms.composed.items() if is_composed and is_sound]
    tested = test_gradient(source, gradient, seed, points, proved)
    doubted = [name for name in proved if not tested.agrees[name]]
    # What is proved needs no more laws of exp and log, only a look at real numbers.
    known = gradients_in_floats(source, gradient) if doubted else None
    each = (time.perf_counter() - start) / max(1, len(tested.agrees))
    found = []
    for name in tested.agrees:
        slot, is_composed = slots[name], terms.composed.get(name, False)
        seen = f"also at {tested.points} points modulo {PRIME}{subject.at()}"
        outcome = None
        if name in doubted and known is not None and known.status is Status.AGREES:
            outcome = known
        elif not tested.agrees[name]:
            outcome = decide_gradient(source, gradient, name)
        if outcome is not None:
            seen = f"also {outcome.detail}{subject.at()}"
        status = _composed_status(premises, pullbacks, outcome) if is_composed else None
        if status is not None:
            found.append(_composed_verdict(slot, status, asked, seen, is_cut, each))
        elif outcome is not None and outcome.status is Status.REFUTED:
            excuse = _is_the_users_word(subject, gradient, name, pullbacks)
            found.append(_other_verdict(subject, slot, outcome, pullbacks, excuse, each))
        else:
            found.append(_gradient_verdict(subject, slot, tested, outcome, is_cut, each))
    return found


def _composed_status(
    premises: Status, pullbacks: Mapping[str, Verdict], outcome: Outcome | None
) -> Status | None:
    """What a gradient deserves that is composed as it should be; None if that decides nothing.

    ``outcome`` is what real points say of one that differs from dual numbers over the field: that
    may be for want of laws of exp and log (rules do not need them), or because a pullback is no
    derivative.
    """
    word = weakest([v.status for v in pullbacks.values()])
    if outcome is not None and outcome.status is Status.REFUTED:
        return None
    if word.is_proof:
        return weakest([premises, word])
    if outcome is None and word is not Status.REFUTED:
        # The gradient is right whatever the pullbacks are: either they do not matter to it, or they
        # are right.
        return weakest([premises, word if word is Status.AGREES else Status.PROBABLE])
    if outcome is not None and outcome.status is Status.AGREES and word is Status.AGREES:
        return weakest([premises, word])
    return None


def _is_the_users_word(
    subject: Subject, gradient: Function, name: str, pullbacks: Mapping[str, Verdict]
) -> bool:
    """Whether a gradient that is not the derivative is what asserted pullbacks make of it, every
    other one being the derivative of its function."""
    asserted = {n for n, v in pullbacks.items() if v.status is Status.ASSERTED}
    if not asserted:
        return False
    source = subject.probe.source
    opened = flatten(source, lambda op: has_pullback(op) and name_of(op) not in asserted)
    other = value_and_grad(opened, subject.wrt)
    places = cotangents(other)[name], cotangents(gradient)[name]
    return decide_equal(other, gradient, [places]).status is Status.AGREES


def _composed_verdict(
    slot: Slot, premises: Status, rules: Mapping[str, Verdict], note: str, is_cut: bool,
    seconds: float,
) -> Verdict:  # fmt: skip
    general = sum(v.status is Status.PROVED_ALL for v in rules.values())
    detail = f"each use once; {general} of {len(rules)} rules for all shapes"
    if note:
        detail += f"; {note}"
    assumed = [OFF_KINKS, DENOMINATORS]
    if is_cut:
        assumed.append(CUTS)
    return Verdict(
        "parameter", slot.name, premises, "composition of proved rules", detail, tuple(assumed),
        {}, "" if slot.span is None else str(slot.span), "", seconds,
    )  # fmt: skip


def _other_verdict(
    subject: Subject, slot: Slot, outcome: Outcome, pullbacks: Mapping[str, Verdict],
    is_asserted: bool, seconds: float,
) -> Verdict:  # fmt: skip
    """A gradient that is not the derivative: the user's word, or wrong, because of a pullback or
    otherwise.
    """
    place = "" if slot.span is None else str(slot.span)
    if is_asserted:
        names = _named(pullbacks, Status.ASSERTED)
        detail = f"not the derivative, as the user says at {names}; {outcome.detail}{subject.at()}"
        return Verdict(
            "parameter", slot.name, Status.ASSERTED, "the user's word", detail, (OFF_KINKS,), {},
            place, "", seconds,
        )  # fmt: skip
    names = _named(pullbacks, Status.REFUTED)
    note = f"it depends on the refuted pullback {names}; " if names else ""
    return Verdict(
        "parameter", slot.name, Status.REFUTED, BALLS, f"{note}{outcome.detail}{subject.at()}",
        (OFF_KINKS,), outcome.point, place, "", seconds, _witness(subject, outcome),
    )  # fmt: skip


def _named(pullbacks: Mapping[str, Verdict], status: Status) -> str:
    return ", ".join(v.subject for v in pullbacks.values() if v.status is status)


def _gradient_verdict(
    subject: Subject, slot: Slot, tested: Tested, outcome: Outcome | None, is_cut: bool,
    seconds: float,
) -> Verdict:  # fmt: skip
    place = "" if slot.span is None else str(slot.span)
    assumed = (OFF_KINKS, DENOMINATORS, *((CUTS,) if is_cut else ()))
    if outcome is None:
        detail = f"{tested.points} points modulo {PRIME}{subject.at()}"
        return Verdict(
            "parameter", slot.name, Status.PROBABLE, f"{FIELD}: adjoint = dual numbers", detail,
            assumed, {}, place, "", seconds,
        )  # fmt: skip
    return Verdict(
        "parameter", slot.name, outcome.status, BALLS, outcome.detail + subject.at(),
        assumed, outcome.point, place, "", seconds, _witness(subject, outcome),
    )  # fmt: skip


def _witness(subject: Subject, outcome: Outcome) -> dict[str, Any]:
    """The point of a refutation in full, with the dimensions that were tried."""
    return {**outcome.witness, "dims": dict(subject.probe_dims)} if outcome.witness else {}


def _function(run: Run, step: str) -> Function:
    artifact = run.after(step)
    assert isinstance(artifact, Function), "tensor-stage steps make functions"
    return artifact


# --- passes


def pass_verdicts(subject: Subject, terms: Terms, seed: int, points: int) -> list[Verdict]:
    """One verdict per tensor-stage pass: what it was given computes what it made."""
    run = subject.probe
    compared = compare_records(run.source, run.records, seed, points)
    programs = [run.source, *(r.artifact for r in run.records if isinstance(r.artifact, Function))]
    return [
        _pass_verdict(subject, terms, one, programs[n], programs[n + 1], seed)
        for n, one in enumerate(compared)
    ]


def _pass_verdict(
    subject: Subject, terms: Terms, one: Compared, before: Function, after: Function, seed: int
) -> Verdict:
    changed = {r.step: r.is_changed for r in subject.real.records}
    if one.is_same_text and not changed[one.step]:
        detail = "it changes nothing"
        return Verdict("pass", one.step, Status.PROVED_SHAPE, "structural equality", detail)
    if terms.kept[one.step] and not one.differing:
        detail = f"every result is the same term; also at {one.points} points modulo {PRIME}"
        return Verdict(
            "pass", one.step, Status.PROVED_SHAPE, "equal terms", detail, (DENOMINATORS,)
        )
    if not one.differing:
        return _agreeing_pass(subject, one, before, after, seed)
    names = {f"{s.role.value} {s.name}": n for n, s in enumerate(after.results)}
    known = {f"{s.role.value} {s.name}": n for n, s in enumerate(before.results)}
    pairs = [(known[n], names[n]) for n in one.differing if n in names]
    if not pairs:
        return _decided("pass", one.step, lacking(before, one.differing), subject)
    # What is wrong shows at real points, which cost least.
    outcome = decide_equal(before, after, pairs)
    if outcome.status is Status.REFUTED:
        return _decided("pass", one.step, outcome, subject)
    law = agreement_by_law(before, after, seed, one.differing)
    if law is not None and not overflowing(before, after, seed, one.differing):
        assumed = (OFF_KINKS, DENOMINATORS)
        detail = law.detail + subject.at()
        return Verdict("pass", one.step, Status.PROBABLE, law.method, detail, assumed)
    return _decided("pass", one.step, outcome, subject, is_small(before))


LAWS = "a tower of prime fields, cells of real points"


def _decided(
    kind: RowKind,
    name: str,
    outcome: Outcome,
    subject: Subject,
    has_laws: bool = False,
    note: str = "",
) -> Verdict:
    """What real points say of a pass, of kernels or of a Plan; UNDECIDED with what was tried, laws
    of exp and guards among it if ``has_laws``."""
    detail = f"{note}{outcome.detail}{subject.at()}"
    if outcome.status is Status.UNDECIDED:
        detail += f"; tried: {f'{LAWS}, ' if has_laws else ''}{BALLS}"
    return Verdict(
        kind, name, outcome.status, BALLS, detail, (OFF_KINKS,), outcome.point,
        witness=_witness(subject, outcome),
    )  # fmt: skip


def _agreeing_pass(
    subject: Subject, one: Compared, before: Function, after: Function, seed: int
) -> Verdict:
    """A pass that changed terms and no residue."""
    detail = f"{one.points} points modulo {PRIME}{subject.at()}"
    assumed = (OFF_KINKS, DENOMINATORS)
    method = f"{FIELD}: before = after"
    small = is_small(before) and is_small(after)
    names = [key(slot) for slot in before.results]
    known = bounded_equal(before, after, seed, names) if small else TOO_LARGE
    if known.holds:
        text = f"{known}{subject.at()}"
        return Verdict("pass", one.step, Status.PROVED_BOUND, method, text, assumed)
    return Verdict("pass", one.step, Status.PROBABLE, method, f"{detail}; {known}", assumed)


# --- kernels and the Plan


def kernel_verdicts(subject: Subject, seed: int, points: int) -> list[Verdict]:
    """The loop nests over field elements against the tensor program they were made from."""
    run = subject.probe
    last = _last(run)
    start = time.perf_counter()
    name = f"{len(run.plan.kernels)} kernels"
    found = compare_plan(last, run.plan, seed, points)
    if found.fault or found.differing:
        verdict = _differing_kernels(subject, last, found, name, seed)
        return [replace(verdict, seconds=time.perf_counter() - start)]
    known = bounded_plan(last, run.plan, seed) if is_small(last) else TOO_LARGE
    status = Status.PROVED_BOUND if known.holds else Status.PROBABLE
    detail = f"{found.points} point modulo {PRIME}{subject.at()}"
    detail = f"{known}{subject.at()}" if known.holds else f"{detail}; {known}"
    seconds = time.perf_counter() - start
    method = f"{FIELD}: loop nests = tensor program"
    return [Verdict("kernel", name, status, method, detail, seconds=seconds)]


def _last(run: Run) -> Function:
    """The tensor program that the Plan was made from."""
    return [r.artifact for r in run.records if isinstance(r.artifact, Function)][-1]


def _differing_kernels(
    subject: Subject, last: Function, found: Kernels, name: str, seed: int
) -> Verdict:
    """Kernels that one field tells from their program: more laws, then real points."""
    settled = settle_plan(last, subject.probe.plan, found, seed)
    if isinstance(settled, Law):
        return Verdict(
            "kernel", name, Status.PROBABLE, settled.method, settled.detail + subject.at(),
            (OFF_KINKS, DENOMINATORS),
        )  # fmt: skip
    note = found.fault or f"residues differ in {', '.join(found.differing)}"
    return _decided("kernel", name, settled, subject, settled.has_laws, f"{note}; ")


def plan_verdicts(subject: Subject) -> list[Verdict]:
    """Storage and order at the real dimensions, by the independent checker."""
    start = time.perf_counter()
    plan = subject.real.plan
    findings = check_plan(plan)
    if findings:
        verdict = _faulty_plan(subject, "; ".join(str(f) for f in findings[:3]))
        return [replace(verdict, seconds=time.perf_counter() - start)]
    seconds = time.perf_counter() - start
    detail = f"{len(plan.tensors)} tensors, {plan.arena_bytes} bytes"
    method = "replay of who owns each byte"
    return [Verdict("plan", "placement", Status.PROVED_SHAPE, method, detail, seconds=seconds)]


def _faulty_plan(subject: Subject, findings: str) -> Verdict:
    """A Plan that breaks a rule: refuted if it also computes something wrong at a point, else
    undecided.
    """
    last = _last(subject.probe)
    places = [(n, n) for n in range(len(last.results))]
    outcome = decide_equal(last, PlanProgram(last, subject.probe.plan), places)
    if outcome.status is Status.AGREES:
        outcome = replace(outcome, status=Status.UNDECIDED)
    return _decided("plan", "placement", outcome, subject, note=f"{findings}; ")
