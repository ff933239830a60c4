"""All obligations of one compilation, as verdicts: gradients, passes, kernels, the Plan.

``Subject`` holds the pipeline's records twice: at the real dimensions, and at probe dimensions where evaluating is cheap.
Non-goals: single methods (the other ``prove_`` modules), where programs come from (``runtime.verify``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from gradc.ir.core import Function, Slot, walk
from gradc.passes.pipeline import Run
from gradc.passes.plan_check import check_plan
from gradc.passes.prove_cells import cells_equal
from gradc.passes.prove_compose import gradient_terms, result_terms
from gradc.passes.prove_cuts import has_window, with_cuts
from gradc.passes.prove_field import PRIME
from gradc.passes.prove_free import Bound, bounded_equal
from gradc.passes.prove_gradient import Tested, test_gradient
from gradc.passes.prove_kernels import bounded_plan, compare_plan
from gradc.passes.prove_passes import Compared, compare_records, key
from gradc.passes.prove_pullback import pullback_verdicts
from gradc.passes.prove_refute import Outcome, decide_equal, decide_gradient
from gradc.passes.prove_report import Status, Verdict, weakest
from gradc.passes.prove_rule_verdicts import rule_verdict
from gradc.passes.prove_rules import instances
from gradc.passes.prove_shapes import points_for, work
from gradc.passes.prove_terms import TermArrays
from gradc.passes.prove_tower import LEAST_POINTS, tower_equal

# Passes that keep every term are tried at points for good measure only.
MOST_OF_PASSES = 3
FIELD = "prime field"
# Programs of at most so many field operations are evaluated modulo a large prime as well, where a bound is known.
MOST_FREE = 400_000
# What an operation of a convolution costs there: windows are summed place by place.
_WINDOWS = 8
TOO_LARGE = Bound(reason="too large for a bound")
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

    def at(self) -> str:
        """Where points were drawn, for details of verdicts."""
        changed = [f"{k}={n}" for k, n in self.probe_dims.items() if self.dims.get(k) != n]
        return f" at {', '.join(changed)}" if changed else ""


@dataclass
class Found:
    """Verdicts and times so far."""

    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - start


def prove(subject: Subject, seed: int, points: int | None = None) -> Found:
    """Every verdict about ``subject``, replayable from ``seed``."""
    found = Found()
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
    found.verdicts += [*rules.values(), *pullbacks]
    with found.timed("passes"):
        found.verdicts += pass_verdicts(subject, terms, seed, min(count, MOST_OF_PASSES))
    with found.timed("kernels"):
        found.verdicts += kernel_verdicts(subject, seed, 1)
    with found.timed("plan"):
        found.verdicts += plan_verdicts(subject)
    return found


# --- terms, at the real dimensions


@dataclass(frozen=True)
class Terms:
    """What comparing terms has shown: gradients that compose their rules, steps that keep every term."""

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
    pullbacks: Sequence[Verdict],
    seed: int,
    points: int,
) -> list[Verdict]:
    """One verdict per parameter: by composition of the rules, and at random points as well."""
    gradient = _function(subject.probe, "differentiate")
    # Dual numbers see the cuts of loops where they are written out.
    is_cut, source = has_window(subject.probe.source), with_cuts(subject.probe.source)
    slots = {slot.name: slot for slot in source.parameters}
    start = time.perf_counter()
    tested = test_gradient(source, gradient, seed, points)
    each = (time.perf_counter() - start) / max(1, len(tested.agrees))
    asked = {n: v for n, v in rules.items() if n in terms.used}
    # Rules may hold for all shapes; that the adjoint is made of them was seen at this one.
    premises = weakest([Status.PROVED_SHAPE, *(v.status for v in asked.values())])
    found = []
    for name in tested.agrees:
        slot, is_composed = slots[name], terms.composed.get(name, False)
        agrees, seen = tested.agrees[name], f"also at {tested.points} points modulo {PRIME}"
        outcome = None if agrees else decide_gradient(source, gradient, name)
        if outcome is not None and is_composed and not pullbacks:
            # Rules may rest on laws of exp and log that the field's oracles do not know, and balls meet ties.
            agrees = outcome.status is not Status.REFUTED
            seen = f"also {outcome.detail}{subject.at()}"
        trust = _trust(agrees, pullbacks)
        if is_composed and trust is not None:
            status = weakest([premises, trust])
            found.append(_composed_verdict(slot, status, asked, seen, is_cut, each))
        elif is_composed and outcome is not None:
            found.append(_misled_verdict(subject, slot, outcome, pullbacks, each))
        else:
            found.append(_gradient_verdict(subject, slot, tested, outcome, is_cut, each))
    return found


def _trust(agrees: bool, pullbacks: Sequence[Verdict]) -> Status | None:
    """The status that the user's pullbacks lend a composed gradient; None if composition decides nothing.

    Where the gradient differs from dual numbers, only an asserted pullback excuses it (straight-through estimators).
    """
    status = weakest([v.status for v in pullbacks])
    if status is Status.REFUTED or not (agrees or status is Status.ASSERTED):
        return None
    if agrees and status is Status.ASSERTED:
        return Status.PROBABLE
    return status


def _composed_verdict(
    slot: Slot, premises: Status, rules: Mapping[str, Verdict], note: str, is_cut: bool,
    seconds: float,
) -> Verdict:  # fmt: skip
    general = sum(v.status is Status.PROVED_ALL for v in rules.values())
    detail = f"each use once; {general} of {len(rules)} rules for all shapes"
    if note:
        detail += f"; {note}"
    assumed = [OFF_KINKS, DENOMINATORS]
    if premises is Status.ASSERTED:
        detail += "; the user's pullbacks are taken at their word"
    if is_cut:
        assumed.append(CUTS)
    return Verdict(
        "parameter", slot.name, premises, "composition of proved rules", detail, tuple(assumed),
        {}, "" if slot.span is None else str(slot.span), "", seconds,
    )  # fmt: skip


def _misled_verdict(
    subject: Subject, slot: Slot, outcome: Outcome, pullbacks: Sequence[Verdict], seconds: float
) -> Verdict:
    """A gradient that is composed as it should be, of a pullback that is refuted or shown by nothing."""
    names = ", ".join(v.subject for v in pullbacks if v.status is Status.REFUTED)
    detail = f"each use once, but it depends on the refuted pullback {names}"
    if outcome.status is not Status.REFUTED:
        # No point of its own shows it wrong, and what it is made of is no derivative.
        status, method = Status.ASSERTED, "the refuted pullback at its word"
    else:
        status, method = Status.REFUTED, "balls at 50 digits"
    return Verdict(
        "parameter", slot.name, status, method, f"{detail}; {outcome.detail}{subject.at()}",
        (OFF_KINKS,), outcome.point, "" if slot.span is None else str(slot.span), "", seconds,
    )  # fmt: skip


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
        "parameter", slot.name, outcome.status, "balls at 50 digits", outcome.detail + subject.at(),
        assumed, outcome.point, place, "", seconds,
    )  # fmt: skip


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
        return Verdict(
            "pass", one.step, Status.REFUTED, "results", f"lost {', '.join(one.differing)}"
        )
    by_law = agreement_by_law(before, after, seed, one.differing) if _is_small(before) else None
    if by_law is not None:
        method, detail = by_law
        assumed = (OFF_KINKS, DENOMINATORS)
        detail += subject.at()
        return Verdict("pass", one.step, Status.PROBABLE, method, detail, assumed)
    outcome = decide_equal(before, after, pairs)
    return Verdict(
        "pass", one.step, outcome.status, "balls at 50 digits", outcome.detail + subject.at(),
        (OFF_KINKS,), outcome.point,
    )  # fmt: skip


def agreement_by_law(
    before: Function, after: Function, seed: int, names: Sequence[str]
) -> tuple[str, str] | None:
    """Method and detail if results that differ over one field agree where more laws hold; else None.

    ``names`` are results by role and name. First a tower of fields, which knows that exp turns sums into products;
    then cells, which know guards that real numbers produce together.
    """
    if not set(tower_equal(before, after, seed, LEAST_POINTS)) & set(names):
        return "tower of prime fields: before = after", f"{LEAST_POINTS} points, exp homomorphic"
    found = cells_equal(before, after, seed)
    if found.tried and not set(found.differing) & set(names):
        return f"{FIELD}: before = after, guards forced", f"{found.tried} cells of real points"
    return None


def _is_small(function: Function) -> bool:
    has_windows = any(op.name.startswith("conv2d") for op in walk(function.block))
    return work(function) * (_WINDOWS if has_windows else 1) <= MOST_FREE


def _agreeing_pass(
    subject: Subject, one: Compared, before: Function, after: Function, seed: int
) -> Verdict:
    """A pass that changed terms and no residue."""
    detail = f"{one.points} points modulo {PRIME}{subject.at()}"
    assumed = (OFF_KINKS, DENOMINATORS)
    method = f"{FIELD}: before = after"
    is_small = _is_small(before) and _is_small(after)
    names = [key(slot) for slot in before.results]
    known = bounded_equal(before, after, seed, names) if is_small else TOO_LARGE
    if known.holds:
        text = f"{known}{subject.at()}"
        return Verdict("pass", one.step, Status.PROVED_BOUND, method, text, assumed)
    return Verdict("pass", one.step, Status.PROBABLE, method, f"{detail}; {known}", assumed)


# --- kernels and the Plan


def kernel_verdicts(subject: Subject, seed: int, points: int) -> list[Verdict]:
    """The loop nests over field elements against the tensor program they were made from."""
    run = subject.probe
    last = [r.artifact for r in run.records if isinstance(r.artifact, Function)][-1]
    start = time.perf_counter()
    name = f"{len(run.plan.kernels)} kernels"
    found = compare_plan(last, run.plan, seed, points)
    seconds = time.perf_counter() - start
    method = f"{FIELD}: loop nests = tensor program"
    if found.fault:
        status, detail = Status.REFUTED, found.fault
    elif found.differing:
        # Both sides run over the same field with the same oracles: no law of the reals is missing.
        status, detail = Status.REFUTED, f"they differ in {', '.join(found.differing)}"
    else:
        status, detail = Status.PROBABLE, f"{found.points} point modulo {PRIME}{subject.at()}"
        known = bounded_plan(last, run.plan, seed) if _is_small(last) else TOO_LARGE
        status = Status.PROVED_BOUND if known.holds else status
        detail = f"{known}{subject.at()}" if known.holds else f"{detail}; {known}"
        seconds = time.perf_counter() - start
    return [Verdict("kernel", name, status, method, detail, seconds=seconds)]


def plan_verdicts(subject: Subject) -> list[Verdict]:
    """Storage and order at the real dimensions, by the independent checker."""
    start = time.perf_counter()
    findings = check_plan(subject.real.plan)
    seconds = time.perf_counter() - start
    method = "replay of who owns each byte"
    if findings:
        detail = "; ".join(str(f) for f in findings[:3])
        return [Verdict("plan", "placement", Status.REFUTED, method, detail, seconds=seconds)]
    detail = f"{len(subject.real.plan.tensors)} tensors, {subject.real.plan.arena_bytes} bytes"
    status = Status.PROVED_SHAPE
    return [Verdict("plan", "placement", status, method, detail, seconds=seconds)]
