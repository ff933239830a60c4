"""Keeping a memory budget: the pipeline with the policy of recomputation that needs least work and
fits.

Policies come from ``rematerialise_choose.candidates``, ordered by the work they repeat. Compiling
one to its Plan gives its ``peak_bytes``, which is what counts. ``run_within`` takes the first whose
peak fits. The plain one is compiled first: it fits, or it says by how much estimates of this
program are too high; then policies are compiled in order, but for those whose estimate is hopeless
(``_Search.fits``), so that one or two are compiled as a rule.

A smaller budget never gives a larger peak. Policies that need less than ``_HOPELESS`` of their
estimate never count as fitting, so what is left out by its estimate would not have been taken
anyway, and the first that fits does not depend on the estimates. Take budgets b' < b. What fits b'
fits b; so the one taken for b comes no later, and if it is another one, it does not fit b': its
peak is above b', and so above the peak taken for b'. And where b is refused, b' is.

``pareto`` compiles them all. Where none fits, ``BudgetError`` says what the smallest would be and
which tensors stand in the way. A ``Gap`` says how far the work of a choice is above a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gradc.ir.diagnostics.diagnostic import DiagnosticError, Label, error
from gradc.ir.plan.plan import Plan, Tensor
from gradc.ir.tensor.core import Function, Span
from gradc.passes.inspect.report import user_span
from gradc.passes.pipeline import Options, Run, run_pipeline
from gradc.passes.place.pack import live_bytes
from gradc.passes.place.place import storage
from gradc.passes.place.scratch import scratch_tensors
from gradc.passes.recompute.choose import Candidate, Estimate, candidates, work
from gradc.passes.recompute.rematerialise import NOTHING, Policy

# How many of the largest tensors a refusal looks at, and how many groups of them it names.
_LOOKED_AT = 64
_SHOWN = 3
# How many of the most frugal policies a refusal compiles to say what would do.
_OFFERED = 2
# A policy is not compiled for a budget below this share of its estimate, and not taken if it needs
# less. Where the plain program needs less than its estimate, because much of it is never stored, it
# is that much less.
_HOPELESS = 0.9
# The steps that do not depend on the policy; they are run once.
_SHARED = ("simplify-source", "tile")
# A gap of more than this share is explained.
NOTED = 0.05
EXPLAINED = (
    "the bound takes every value on its own and computes it again from operands that are there,"
    " while stretches compute again all that leads from one kept value to the next"
)


class BudgetError(DiagnosticError):
    """No policy fits the budget. ``smallest`` is the least peak found, in bytes."""

    def __init__(self, budget: int, plan: Plan, is_recomputed: bool) -> None:
        """``plan`` is the one with the least peak; ``is_recomputed``: whether it computes anything
        again.
        """
        self.budget = budget
        self.smallest = plan.peak_bytes
        labels = _binding(largest(plan))
        figures = shown(budget), shown(plan.peak_bytes)
        message = (
            f"a budget of {figures[0]} cannot be kept: the smallest peak found is {figures[1]}"
        )
        help = f"allow {plan.peak_bytes} bytes, or make the batch or the model smaller"
        arrays = plan.peak_bytes - plan.arena_bytes
        notes = []
        if arrays > budget:
            notes.append(f"the arrays that a call is given and makes take {shown(arrays)} alone")
        elif is_recomputed:
            notes.append(
                "this is with everything computed again that can be; checkpoint blocks save no more"
            )
        else:
            notes.append("nothing is kept for a reverse sweep that computing again would save")
        span = labels[0].span if labels else None
        label = labels[0].text if labels else ""
        super().__init__(
            [
                error(
                    "GC0602",
                    message,
                    span,
                    label=label,
                    labels=labels[1:],
                    help=help,
                    notes=notes,
                )
            ]
        )

    def add(self, notes: Sequence[str]) -> None:
        """Adds what would help to the diagnostic."""
        (refusal,) = self.diagnostics
        self.diagnostics = (replace(refusal, notes=(*refusal.notes, *notes)),)
        self.args = (self.diagnostics,)


def _binding(tensors: Sequence[Tensor]) -> list[Label]:
    """What takes most room: tensors of one line and type together, the largest such groups
    first.
    """
    groups: dict[tuple[Span, str], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.span is not None:
            key = (user_span(tensor.span), f"{tensor.dtype}{list(tensor.shape)}")
            groups.setdefault(key, []).append(tensor)
    ordered = sorted(groups.items(), key=lambda g: -sum(t.nbytes for t in g[1]))
    labels = []
    for (span, type_), members in ordered[:_SHOWN]:
        count = f"{len(members)} times " if len(members) > 1 else ""
        labels.append(Label(span, f"{count}{shown(members[0].nbytes)}: {type_}"))
    return labels


@dataclass(frozen=True, slots=True)
class Gap:
    """How good a choice is: its work, and the least work of any choice that keeps no more bytes.

    ``least`` comes from ``Estimate.least_repeated``: all that the arena holds is taken to be kept
    for the reverse sweep.
    """

    work: int
    least: int

    @property
    def share(self) -> float:
        """By how much the work is above the bound, as a share of it."""
        return self.work / self.least - 1 if self.least else 0.0

    def __str__(self) -> str:
        text = f"work {self.share:.1%} above a bound for this arena"
        return text if self.share <= NOTED else f"{text}; {EXPLAINED}"


@dataclass(frozen=True, slots=True)
class Point:
    """One way to compile a program: peak bytes against work (multiplications, roughly)."""

    policy: Policy
    peak_bytes: int
    arena_bytes: int
    work: int
    gap: Gap


def run_within(function: Function, options: Options, budget: int | None) -> Run:
    """The pipeline under a budget of ``peak_bytes``; None is no limit.

    Raises BudgetError if no policy fits, and what ``run_pipeline`` raises.
    """
    return chosen_within(function, options, budget)[0]


def chosen_within(function: Function, options: Options, budget: int | None) -> tuple[Run, Gap]:
    """``run_within``, and how far the work of what it chose is above a bound."""
    search = _Search(function, replace(options, limit=budget))
    try:
        number = _fitting(search, budget)
    except BudgetError:
        narrow = _narrow(options)
        if narrow is options:
            raise
        return chosen_within(function, narrow, budget)
    return search.runs[number], search.gap(number)


def _narrow(options: Options) -> Options:
    """With tiles of the least memory: no more rows together than make one."""
    target = options.target
    if not target.rows_together:
        return options
    return replace(options, target=replace(target, rows_together=0))


def _fitting(search: _Search, budget: int | None) -> int:
    """The number of the policy to take; it is compiled. Raises BudgetError."""
    if budget is None or search.peak(0) <= budget:
        search.peak(0)
        return 0
    for number in range(1, len(search.candidates)):
        if search.fits(number, budget):
            return number
    # A refusal says what would do.
    for number in search.frugal():
        search.peak(number)
    least = min(filter(search.needs_enough, list(search.runs)), key=lambda n: (search.peak(n), n))
    is_recomputed = not search.candidates[least].policy.is_none if least else False
    raise BudgetError(budget, search.runs[least].plan, is_recomputed)


def smallest_peak(function: Function, options: Options) -> int:
    """The least peak that some budget is sure to get: of the most frugal policy by the estimate, or
    of none.
    """
    search = _Search(function, replace(_narrow(options), limit=0))
    best = search.frugal()[0]
    return min(search.peak(n) for n in sorted({0, best}) if search.needs_enough(n))


def pareto(function: Function, options: Options) -> list[Point]:
    """Peak against work of every policy, those that another one beats in both left out; largest
    peak first.
    """
    search = _Search(function, options)
    points: list[Point] = []
    for number, candidate in enumerate(search.candidates):
        if search.needs_enough(number):
            plan, gap = search.runs[number].plan, search.gap(number)
            points.append(Point(candidate.policy, plan.peak_bytes, plan.arena_bytes, gap.work, gap))
        # Plans of large programs are large, and only figures are handed out.
        if number:
            del search.runs[number]
    points.sort(key=lambda p: (p.work, p.peak_bytes))
    front: list[Point] = []
    for point in points:
        if not front or point.peak_bytes < front[-1].peak_bytes:
            front.append(point)
    return front


class _Search:
    """Runs of one program under its policies, by number; the steps before the policy matters are
    shared.
    """

    def __init__(self, function: Function, options: Options) -> None:
        self._function = function
        self._options = options
        self.runs: dict[int, Run] = {}
        self._prepared = self._shared()

    def _shared(self) -> Run:
        steps = [name for name in _SHARED if name not in self._options.skip]
        if not steps:
            return Run(self._function, ())
        return run_pipeline(self._function, replace(self._options, stop_after=steps[-1]))

    @cached_property
    def source(self) -> Function:
        """The program as policies meet it."""
        found = self._prepared.result
        assert isinstance(found, Function), "the first steps keep the stage"
        return found

    @cached_property
    def _choice(self) -> tuple[Estimate | None, list[Candidate]]:
        options = self._options
        if options.derivative is None:
            return None, [Candidate(NOTHING, 0, 0)]
        derivative = options.gradient or options.derivative
        estimate = Estimate(self.source, derivative, options.target.costs)
        return estimate, candidates(self.source, derivative, estimate)

    @property
    def candidates(self) -> list[Candidate]:
        """Policies worth trying, by the work they repeat."""
        return self._choice[1]

    def frugal(self) -> list[int]:
        """The numbers of those that keep least by the estimate."""
        found = self.candidates
        return sorted(range(len(found)), key=lambda n: found[n].keeps)[:_OFFERED]

    def fits(self, number: int, budget: int) -> bool:
        """Whether a policy keeps ``budget``; compiles it unless the estimate rules that out."""
        plain = self.runs[0].plan
        room = budget - (plain.peak_bytes - plain.arena_bytes)
        if self._least(number) > room:
            return False
        return self.peak(number) <= budget and self.needs_enough(number)

    def needs_enough(self, number: int) -> bool:
        """Whether the estimate of a policy would not rule it out for its own peak; compiles it."""
        self.peak(number)
        return self._least(number) <= self.runs[number].plan.arena_bytes

    def _least(self, number: int) -> float:
        """Bytes of the arena that a policy needs to be believed."""
        if not number:
            return 0.0
        keeps, arena = self.candidates[0].keeps, self.runs[0].plan.arena_bytes
        share = min(1.0, arena / keeps) if keeps else 1.0
        return _HOPELESS * share * self.candidates[number].keeps

    def peak(self, number: int) -> int:
        """The peak of a policy; compiles it if that has not happened."""
        if number not in self.runs:
            policy = self.candidates[number].policy if number else NOTHING
            skip = (*self._options.skip, *_SHARED)
            options = replace(self._options, policy=policy, skip=skip)
            run = run_pipeline(self.source, options)
            records = (*self._prepared.records, *run.records)
            self.runs[number] = Run(self._function, records)
        return self.runs[number].plan.peak_bytes

    def gap(self, number: int) -> Gap:
        """How far the work of a compiled policy is above a bound for its arena; the first has to be
        compiled too.
        """
        done, plain = _done(self.runs[number]), _done(self.runs[0])
        estimate = self._choice[0] if number else None
        if estimate is None:
            return Gap(done, done)
        least = plain + estimate.least_repeated(self.runs[number].plan.arena_bytes)
        return Gap(done, min(done, least))


def _done(run: Run) -> int:
    optimised = run.after("dce")
    assert isinstance(optimised, Function), "`dce` keeps the stage"
    return sum(work(op) for op in optimised.block.body)


def largest(plan: Plan, count: int = _LOOKED_AT) -> list[Tensor]:
    """What the arena holds when most is alive, largest first; scratch, which never lives long, left
    out.
    """
    sizes, times = storage(plan)
    live = [int(n) for n in live_bytes(sizes, times)]
    if not live:
        return []
    moment = live.index(max(live))
    scratch = dict.fromkeys(scratch_tensors(plan))
    held = [n for n in sizes if n not in scratch and times[n].first <= moment <= times[n].last]
    return sorted((plan.tensors[n] for n in held), key=lambda t: -t.nbytes)[:count]


def shown(count: int) -> str:
    """A number of bytes for people: ``64 MiB``, ``1.5 KiB``, ``1 byte``."""
    size, unit = float(count), "byte" if count == 1 else "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"
