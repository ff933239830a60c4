"""Where the memory of a Plan goes: the peak, its moment, the tensors that make it, and the picture
over time.

All figures are exact: the arena is one block of the size stated, entry arguments are counted by
role. Scratch of launches lies in the arena as well; ``scratch_bytes`` is the most that a launch
has, all its threads together, ``scratch_only`` the end of the arena that nothing else uses.
``live`` is what the tensors that are needed at each launch take; the arena can only be larger
by what packing leaves between them. ``to_text`` prints the report, ``plan_picture`` draws it;
``MemoryReport`` is plain data for other printers.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Span
from gradc.passes.place.lifetime import Lifetime, lifetimes, numbered
from gradc.passes.place.pack import aligned, live_bytes
from gradc.passes.place.place import storage
from gradc.passes.place.scratch import scratch_tensors

# What people call the arrays of a role.
_WORDS = {
    "param": "parameters",
    "state": "state",
    "slot": "optimiser state",
    "hyper": "counters and rates",
    "input": "inputs",
    "seed": "seeds",
    "loss (result)": "loss",
    "output (result)": "outputs",
    "cotangent (result)": "gradients",
    "tangent (result)": "tangents",
}


@dataclass(frozen=True, slots=True)
class Held:
    """A block of the arena: its bytes, the launches it lives from and to, what it is."""

    name: str
    type: str
    nbytes: int
    offset: int
    first: int
    last: int
    span: Span | None
    scope: str


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Memory of one call. ``moment`` is the launch at which most bytes are alive (-1 without an
    arena)."""

    name: str
    peak_bytes: int
    arena_bytes: int
    port_bytes: tuple[tuple[str, int], ...]
    lower_bound: int
    apart_bytes: int
    scratch_bytes: int
    scratch_only: int
    threads: int
    live: tuple[int, ...]
    moment: int
    moment_kernel: str
    moment_span: Span | None
    at_peak: tuple[Held, ...]
    blocks: tuple[Held, ...]
    launches: int
    kernels: int

    @property
    def gap(self) -> float:
        """How far the arena is above the lower bound, as a share of it."""
        return self.arena_bytes / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def saved(self) -> float:
        """The share of memory saved against one buffer per value."""
        return 1 - self.arena_bytes / self.apart_bytes if self.apart_bytes else 0.0


def memory_report(plan: Plan) -> MemoryReport:
    """The report of a placed Plan."""
    sizes, times = storage(plan)
    scratch = {n: plan.tensors[n].nbytes for n in scratch_tensors(plan)}
    values = {n: aligned(plan.tensors[n].nbytes) for n in lifetimes(plan) if n not in scratch}
    ends = [(plan.tensors[n].offset or 0) + aligned(sizes[n]) for n in sizes if n not in scratch]
    most = max(scratch.values(), default=0)
    live = tuple(int(n) for n in live_bytes(sizes, times))
    items = list(numbered(plan.steps))
    moment = live.index(max(live)) if live else -1
    blocks = tuple(
        sorted(
            (_held(plan, n, times[n], n in scratch) for n in sizes),
            key=lambda h: (-h.nbytes, h.first, h.name),
        )
    )
    roles: dict[str, int] = {}
    for port in plan.ports:
        key = port.role.value if port.direction != "out" else f"{port.role.value} (result)"
        roles[key] = roles.get(key, 0) + plan.tensors[port.tensor].nbytes
    launch = items[moment].launch if 0 <= moment < len(items) else None
    return MemoryReport(
        plan.name,
        plan.peak_bytes,
        plan.arena_bytes,
        tuple(roles.items()),
        max(live, default=0),
        sum(values.values()) + most,
        most,
        plan.arena_bytes - max(ends, default=0),
        max(1, plan.threads),
        live,
        moment,
        plan.kernels[launch.kernel].name if launch is not None else "",
        launch.span if launch is not None else None,
        tuple(h for h in blocks if h.first <= moment <= h.last),
        blocks,
        len(items),
        len(plan.kernels),
    )


def _held(plan: Plan, number: int, time: Lifetime, is_scratch: bool) -> Held:
    tensor = plan.tensors[number]
    shape = ", ".join(str(d) for d in tensor.shape)
    return Held(
        tensor.name,
        "scratch" if is_scratch else f"{tensor.dtype}[{shape}]",
        tensor.nbytes,
        tensor.offset or 0,
        time.first,
        time.last,
        tensor.span,
        tensor.scope,
    )


def shown(nbytes: int) -> str:
    """Bytes for people: exact below 1 KiB, four digits above."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{nbytes} B" if unit == "B" else f"{value:.4g} {unit}"
        value /= 1024
    return f"{nbytes} B"


def to_text(report: MemoryReport, most: int = 12) -> str:
    """The report as lines of text: totals first, then the tensors at the peak, the largest ``most``
    of them."""
    bound = f"lower bound {shown(report.lower_bound)} (gap {report.gap:.1%})"
    apart = f"one buffer per value {shown(report.apart_bytes)} (saved {report.saved:.0%})"
    lines = [
        f"{report.name}: peak {report.peak_bytes} bytes ({shown(report.peak_bytes)})",
        f"  arena {shown(report.arena_bytes)}, {bound}, {apart}",
    ]
    lines += [f"  {_WORDS.get(role, role)} {shown(n)}" for role, n in report.port_bytes]
    lines.append(f"  {report.launches} launches of {report.kernels} kernels")
    if report.scratch_bytes:
        threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
        lines.append(
            f"  thread scratch, in the arena: {shown(report.scratch_bytes)} at most for {threads};"
            f" {shown(report.scratch_only)} of the arena are for nothing else"
        )
    if report.moment >= 0:
        place = f", {user_line(report.moment_span)}" if report.moment_span is not None else ""
        lines.append(
            f"  most alive at launch {report.moment} ({report.moment_kernel}{place}):"
            f" {shown(report.live[report.moment])}"
        )
    for held in report.at_peak[:most]:
        place = f"  {user_line(held.span)}" if held.span is not None else ""
        scope = f"  {held.scope}" if held.scope else ""
        lines.append(f"    {shown(held.nbytes):>10}  {held.type}{scope}{place}")
    left = report.at_peak[most:]
    if left:
        lines.append(f"    {shown(sum(h.nbytes for h in left)):>10}  in {len(left)} more")
    return "\n".join(lines)


def user_line(span: Span | None) -> str:
    """The line of ``user_span`` as text; empty without a span."""
    if span is None:
        return ""
    at = user_span(span)
    return f"{at.file}:{at.line}"


def user_span(span: Span) -> Span:
    """The innermost place that lies in the user's own file, layers of the library aside."""
    own = span.outermost.file
    at = span
    while at.file != own and at.caller is not None:
        at = at.caller
    return at
