"""Keeping a memory budget: the pipeline with the policy of recomputation that needs least work and fits.

Policies come from ``rematerialise.candidates``, ordered by the work they repeat. Each is compiled to its Plan, whose
``peak_bytes`` is what counts; the first that fits is taken. Since the order does not depend on the budget, a smaller
budget never gives a larger peak. ``pareto`` compiles them all.

Where none fits, ``BudgetError`` says what the smallest would be and which tensors stand in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.core import Function, Span
from gradc.ir.diagnostics import DiagnosticError, Label, error
from gradc.ir.plan import Plan, Tensor
from gradc.passes.pipeline import Options, Run, run_pipeline
from gradc.passes.plan_report import user_span
from gradc.passes.rematerialise import Candidate, Policy, candidates, work

# How many of the largest tensors a refusal looks at, and how many groups of them it names.
_LOOKED_AT = 64
_SHOWN = 3
# Fusion keeps a little less than estimates say; a policy this far above the budget is not even compiled.
_HOPELESS = 1.5
# How many of the most frugal policies a refusal compiles to say what would do.
_OFFERED = 4


class BudgetError(DiagnosticError):
    """No policy fits the budget. ``smallest`` is the least peak found, in bytes."""

    def __init__(self, budget: int, smallest: int, tensors: Sequence[Tensor]) -> None:
        self.budget = budget
        self.smallest = smallest
        labels = _binding(tensors)
        message = f"a budget of {shown(budget)} cannot be kept: the smallest peak found is {shown(smallest)}"
        help = f"allow {smallest} bytes, or make the batch or the model smaller"
        span = labels[0].span if labels else None
        label = labels[0].text if labels else ""
        super().__init__(
            [error("GC0602", message, span, label=label, labels=labels[1:], help=help)]
        )


def _binding(tensors: Sequence[Tensor]) -> list[Label]:
    """What takes most room: tensors of one line and type together, the largest such groups first."""
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
class Point:
    """One way to compile a program: peak bytes against work (multiplications, roughly)."""

    policy: Policy
    peak_bytes: int
    arena_bytes: int
    work: int


def run_within(function: Function, options: Options, budget: int | None) -> Run:
    """The pipeline under a budget of ``peak_bytes``; None is no limit.

    Raises BudgetError if no policy fits, and what ``run_pipeline`` raises.
    """
    first = run_pipeline(function, options)
    if budget is None or first.plan.peak_bytes <= budget:
        return first
    smallest = first
    room = budget - (first.plan.peak_bytes - first.plan.arena_bytes)
    for candidate in _candidates(function, options)[1:]:
        if candidate.keeps > _HOPELESS * room:
            continue
        found = run_pipeline(function, replace(options, policy=candidate.policy))
        if found.plan.peak_bytes <= budget:
            return found
        if found.plan.peak_bytes < smallest.plan.peak_bytes:
            smallest = found
    plan = _most_frugal(function, options, smallest).plan
    raise BudgetError(budget, plan.peak_bytes, largest(plan))


def pareto(function: Function, options: Options) -> list[Point]:
    """Peak against work of every policy, those that another one beats in both left out; largest peak first."""
    points: list[Point] = []
    for candidate in _candidates(function, options):
        run = run_pipeline(function, replace(options, policy=candidate.policy))
        optimised = run.after("dce")
        assert isinstance(optimised, Function), "`dce` keeps the stage"
        done = sum(work(op) for op in optimised.block.body)
        plan = run.plan
        points.append(Point(candidate.policy, plan.peak_bytes, plan.arena_bytes, done))
    points.sort(key=lambda p: (p.work, p.peak_bytes))
    front: list[Point] = []
    for point in points:
        if not front or point.peak_bytes < front[-1].peak_bytes:
            front.append(point)
    return front


def largest(plan: Plan, count: int = _LOOKED_AT) -> list[Tensor]:
    """The largest blocks of the arena, largest first."""
    blocks = [t for t in plan.tensors if t.space == "arena" and t.root is None]
    return sorted(blocks, key=lambda t: -t.nbytes)[:count]


def shown(count: int) -> str:
    """A number of bytes for people: ``64 MiB``, ``1.5 KiB``."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"


def _candidates(function: Function, options: Options) -> list[Candidate]:
    if options.derivative is None:
        return [Candidate(Policy(), 0, 0)]
    steps = replace(options, stop_after="simplify-source", verify=0, dump_after=())
    source = run_pipeline(function, steps).result
    assert isinstance(source, Function), "the first step keeps the stage"
    return candidates(source, options.gradient or options.derivative)


def _most_frugal(function: Function, options: Options, otherwise: Run) -> Run:
    """The smallest of the runs that keep least by the estimate: what a refusal offers."""
    frugal = sorted(_candidates(function, options), key=lambda c: c.keeps)[:_OFFERED]
    runs = [run_pipeline(function, replace(options, policy=c.policy)) for c in frugal]
    return min(otherwise, *runs, key=lambda run: run.plan.peak_bytes)
