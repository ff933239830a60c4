"""What a compiled program does with memory: the Plan, its peak, what is kept for the reverse sweep,
and why.

    plan = net.plan(budget="64MiB")
    plan.peak_bytes, plan.tensors, plan.launches
    print(plan.report())

Nothing is run: the Plan is what compiled code will do, to the byte. ``pareto`` compiles every
policy of recomputation and gives time against memory, time as a model of the processor estimates
it.

Invariants: ``peak_bytes`` is what a call allocates and is handed: arrays and the arena, thread
scratch included.
Non-goals: choosing what to recompute (``passes.budget``), drawing the arena
(``passes.plan_picture``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradc.ir.ops.registry import recomputes
from gradc.ir.plan.plan import Launch, Plan, Tensor
from gradc.ir.tensor.core import Function, Op, Span
from gradc.passes.budget import Gap, chosen_within, pareto
from gradc.passes.inspect.check import Finding, check_plan
from gradc.passes.inspect.picture import to_svg
from gradc.passes.inspect.report import (
    Held,
    MemoryReport,
    memory_report,
    shown,
    to_text,
    user_line,
)
from gradc.passes.pipeline import Derivative, Run
from gradc.passes.recompute.residuals import residuals
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import backend_of
from gradc.runtime.render.notebook import card

# How many values a printed list names.
MOST = 12


@dataclass(frozen=True, slots=True)
class Decision:
    """One value that the reverse sweep needs: kept in memory, or computed again, and why."""

    op: str
    nbytes: int
    span: Span | None
    scope: str
    is_kept: bool
    why: str


class MemoryPlan:
    """The Plan of one program and what can be said about it without running it."""

    def __init__(self, run: Run, budget: int | None, gap: Gap, target: str) -> None:
        self.plan: Plan = run.plan
        self.memory: MemoryReport = memory_report(run.plan)
        self.threads = max(1, run.plan.threads)
        self._backend = backend_of(target)
        self._target = self._backend.target(self.threads)
        self.budget = budget
        self.gap = gap
        self.decisions = _decisions(run)

    def __repr__(self) -> str:
        return (
            f"<plan of {self.plan.name}: peak {self.peak_bytes} bytes, {len(self.launches)} "
            f"launches>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        subtitle = f"peak {shown(self.peak_bytes)} in {len(self.launches)} launches"
        return card(f"plan of {self.plan.name}", subtitle, (), self.report())

    @property
    def peak_bytes(self) -> int:
        """Bytes a call touches: its arrays and the arena."""
        return self.plan.peak_bytes

    @property
    def arena_bytes(self) -> int:
        """Bytes a call needs beyond its arrays."""
        return self.plan.arena_bytes

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All storage of the program, arguments and arena, with offsets."""
        return self.plan.tensors

    @property
    def launches(self) -> tuple[Launch, ...]:
        """The kernels' calls in order; those in a rolled loop once."""
        return self.plan.launches

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the arena that the threads of one launch use for packing and the like, at
        most.
        """
        return self.memory.scratch_bytes

    @property
    def milliseconds(self) -> float:
        """An estimate of one call's time on one core of a present-day processor."""
        return self._backend.estimate(self.plan, self._target) / 1e3

    @property
    def sent_bytes(self) -> int:
        """Bytes that one rank of several sends to others in a call."""
        return self.plan.sent_bytes

    def check(self) -> tuple[Finding, ...]:
        """What an independent replay finds wrong with the Plan; empty if nothing is."""
        return check_plan(self.plan, lambda kernel: self._backend.scratch(kernel, self._target))

    def report(self, most: int = MOST) -> str:
        """The report as text: the peak and what makes it, what is kept and computed again."""
        lines = [to_text(self.memory, most)]
        if self.budget is not None:
            lines.append(f"  budget {self.budget} bytes ({shown(self.budget)}): kept")
            lines.append(f"  recomputation: {self.gap}")
        if self.sent_bytes:
            count = sum(number for _, number in self.plan.exchanges())
            sent = f"{self.sent_bytes} bytes ({shown(self.sent_bytes)})"
            times = f"{count} exchange{'s' if count != 1 else ''}"
            lines.append(f"  each rank sends {sent} in {times}")
        kept = [d for d in self.decisions if d.is_kept]
        again = [d for d in self.decisions if not d.is_kept]
        lines += _listed("kept for the reverse sweep", kept, most)
        lines += _listed("computed again", again, most)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        memory = self.memory
        return {
            "name": memory.name,
            "peak_bytes": memory.peak_bytes,
            "arena_bytes": memory.arena_bytes,
            "lower_bound": memory.lower_bound,
            "gap": memory.gap,
            "one_buffer_per_value": memory.apart_bytes,
            "budget": self.budget,
            "work": self.gap.work,
            "least_work": self.gap.least,
            "work_gap": self.gap.share,
            "bytes_by_role": dict(memory.port_bytes),
            "scratch_bytes": memory.scratch_bytes,
            "scratch_only": memory.scratch_only,
            "threads": self.threads,
            "launches": memory.launches,
            "kernels": memory.kernels,
            "sent_bytes": self.sent_bytes,
            "moment": {
                "launch": memory.moment,
                "kernel": memory.moment_kernel,
                "line": user_line(memory.moment_span),
            },
            "live": list(memory.live),
            "at_peak": [_held(held) for held in memory.at_peak],
            "kept": [_decided(d) for d in self.decisions if d.is_kept],
            "recomputed": [_decided(d) for d in self.decisions if not d.is_kept],
        }

    def to_svg(self) -> str:
        """The arena over the launches, as a picture."""
        return to_svg(self.memory)


def plan_memory(
    source: Function, derivative: Derivative, options: Options, gradient: Derivative | None = None
) -> MemoryPlan:
    """The Plan of what ``derivative`` makes of ``source``; ``gradient`` as for ``compile.plan_of``.

    Raises:
        BudgetError: GC0602 if the budget cannot be kept.
    """
    asked = pipeline_options(derivative, options, gradient=gradient)
    run, gap = chosen_within(source, asked, options.budget)
    return MemoryPlan(run, options.budget, gap, options.target)


# --- what is kept and why


def _decisions(run: Run) -> tuple[Decision, ...]:
    """What the reverse sweep of the optimised program needs, in the order in which it is
    computed.
    """
    function = run.after("dce")
    assert isinstance(function, Function), "`dce` keeps the stage"
    asked = _asked_for(run.source)
    found = []
    for residual in residuals(function):
        assert isinstance(residual.nbytes, int), "dimensions are bound when a Plan is made"
        is_kept = residual.decision == "saved"
        readers = f"{residual.readers} op{'s' if residual.readers > 1 else ''}"
        if is_kept:
            why = f"read by {readers} of the reverse sweep"
        elif (residual.span, residual.scope) in asked:
            why = "in a checkpoint block"
        else:
            why = "to keep the budget"
        found.append(
            Decision(residual.op, residual.nbytes, residual.span, residual.scope, is_kept, why)
        )
    return tuple(found)


def _asked_for(function: Function) -> dict[tuple[Span | None, str], None]:
    """Where the ops of the user's own checkpoint blocks come from."""
    found: dict[tuple[Span | None, str], None] = {}
    waiting = [(op, False) for op in function.block.body]
    while waiting:
        op, is_inside = waiting.pop()
        if is_inside:
            found[op.span, op.scope] = None
        inside = is_inside or recomputes(op)
        waiting += [(inner, inside) for inner in _inner(op)]
    return found


def _inner(op: Op) -> list[Op]:
    return [inner for region in op.regions for inner in region.body]


def _listed(title: str, decisions: list[Decision], most: int) -> list[str]:
    if not decisions:
        return []
    total = sum(d.nbytes for d in decisions)
    count = f"{len(decisions)} value{'s' if len(decisions) > 1 else ''}"
    lines = [f"  {title}: {count}, {shown(total)}"]
    largest = sorted(decisions, key=lambda d: -d.nbytes)
    for decision in largest[:most]:
        parts = [decision.op, decision.scope, user_line(decision.span), decision.why]
        text = "  ".join(part for part in parts if part)
        lines.append(f"    {shown(decision.nbytes):>10}  {text}")
    left = largest[most:]
    if left:
        lines.append(f"    {shown(sum(d.nbytes for d in left)):>10}  in {len(left)} more")
    return lines


def _held(held: Held) -> dict[str, Any]:
    return {
        "name": held.name,
        "type": held.type,
        "bytes": held.nbytes,
        "offset": held.offset,
        "from": held.first,
        "to": held.last,
        "layer": held.scope,
        "line": user_line(held.span),
    }


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "op": decision.op,
        "bytes": decision.nbytes,
        "layer": decision.scope,
        "line": user_line(decision.span),
        "why": decision.why,
    }


# --- time against memory


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to compile: what is computed again, the peak, and the work relative to recomputing
    nothing.

    ``gap`` is how far the work is above a bound for this arena, as a share.
    """

    policy: str
    peak_bytes: int
    arena_bytes: int
    work: float
    gap: float


def choices(
    source: Function, derivative: Derivative, options: Options, gradient: Derivative | None = None
) -> list[Choice]:
    """All ways worth taking, the fastest and largest first; none is run."""
    points = pareto(source, pipeline_options(derivative, options, gradient=gradient))
    least = max(1, points[0].work)
    return [
        Choice(str(p.policy), p.peak_bytes, p.arena_bytes, p.work / least, p.gap.share)
        for p in points
    ]
