"""What is known of a program's time without the device it is for: nothing is run, nothing measured.

    gradc profile model.grad --target cuda        # where there is no device

Of every launch: what its kernels take of a multiprocessor, how much of the hottest loop multiplies
and adds, how many accesses have 16 bytes, all read from the machine code; flops and bytes, from the
Plan; and the least time that data sheets allow for both: the larger of flops by peak and bytes by
bandwidth. What it takes beyond that is not known here.

Non-goals: times (``profile``, on a device).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradc.codegen.estimated import CodeEstimate, KernelCode, Sheet
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function
from gradc.passes.inspect.report import user_line
from gradc.runtime.model.compiled import Derive
from gradc.runtime.native.compile import Options, plan_of, refuse_beyond_machine
from gradc.runtime.native.load import backend_of
from gradc.runtime.reports.profile_figures import MOST, seconds

NOTHING = "an estimate from machine code and data sheets: nothing was measured"


@dataclass(frozen=True, slots=True)
class EstimatedLaunch:
    """One launch of a call, all its runs together. ``least`` seconds by data sheet."""

    number: int
    kernel: str
    runs: int
    flops: int
    nbytes: int
    precision: str
    least: tuple[float, ...]
    bound: tuple[str, ...]
    codes: tuple[KernelCode, ...]
    line: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "bytes": self.nbytes, "codes": [asdict(c) for c in self.codes]}


@dataclass(frozen=True, slots=True)
class Estimate:
    """All launches of a call in order."""

    name: str
    what: str
    architecture: str
    sheets: tuple[Sheet, ...]
    launches: tuple[EstimatedLaunch, ...]

    @property
    def least(self) -> tuple[float, ...]:
        """What a call takes at least, by data sheet."""
        return tuple(sum(row.least[n] for row in self.launches) for n in range(len(self.sheets)))

    @property
    def filled(self) -> float:
        """How much of the least time lies in launches with a block for every multiprocessor."""
        most = self.sheets[0].multiprocessors
        wide = [r.least[0] for r in self.launches if any(c.grid >= most for c in r.codes)]
        return sum(wide) / self.least[0] if self.least[0] else 0.0

    def to_json(self) -> dict[str, Any]:
        """The estimate as plain data; times in seconds."""
        return {
            "name": self.name,
            "what": self.what,
            "measured": False,
            "about": NOTHING,
            "architecture": self.architecture,
            "sheets": [asdict(sheet) for sheet in self.sheets],
            "least": list(self.least),
            "filled": self.filled,
            "launches": [row.to_json() for row in self.launches],
        }

    def report(self, most: int = MOST) -> str:
        """The estimate as text: totals, then the launches that take longest at least."""
        lines = [f"{self.name}, {self.what}, for {self.architecture}: {NOTHING}"]
        for sheet, least in zip(self.sheets, self.least, strict=True):
            says = f"{len(self.launches)} launches take at least {seconds(least)}"
            peak = f"{sheet.flops['f32'] / 1e12:g} TF/s in f32, {sheet.bandwidth / 1e12:g} TB/s"
            lines.append(f"{sheet.processor}: {says} ({peak}: {sheet.source})")
        count = self.sheets[0].multiprocessors
        lines.append(f"{self.filled:.0%} of that in launches of {count} blocks or more")
        order = sorted(self.launches, key=lambda row: -row.least[0])[:most]
        lines += ["", *_table([_cells(row) for row in order])]
        if len(self.launches) > most:
            lines.append(f"and {len(self.launches) - most} more (--most)")
        return "\n".join(lines)


_COLUMNS = (
    *("kernel", "runs", "at least", "by", "Mflop", "MB", "grid", "threads", "registers"),
    *("a multiprocessor", "occupancy", "hot loop", "fma", "busy", "16-byte", "notes", "line"),
)


def _cells(row: EstimatedLaunch) -> list[tuple[str, ...]]:
    """Lines of a launch: one per kernel, figures of the launch at the first."""
    shared = (
        *(str(row.runs), seconds(row.least[0]), row.bound[0]),
        *(f"{row.flops / 1e6:.3g}", f"{row.nbytes / 1e6:.3g}"),
    )
    found = []
    for n, code in enumerate(row.codes):
        notes = []
        notes += [f"{code.spilled} spills"] if code.spilled else []
        notes += [f"stack {code.stack}"] if code.stack else []
        notes += [f"{code.f64} f64"] if code.f64 and row.precision != "f64" else []
        accesses = code.wide + code.narrow
        found.append(
            (
                code.name,
                *(shared if not n else ("",) * len(shared)),
                *(str(code.grid), str(code.threads), str(code.registers)),
                *(f"{code.blocks} blocks", f"{code.occupancy:.0%}", str(code.hot)),
                *(str(code.hot_adds), f"{code.hot_share:.0%}", f"{code.wide} of {accesses}"),
                *(", ".join(notes), row.line if not n else ""),
            )
        )
    return found


def _table(groups: list[list[tuple[str, ...]]]) -> list[str]:
    rows = [_COLUMNS, *(row for group in groups for row in group)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_COLUMNS))]
    keep = [n for n in range(len(_COLUMNS)) if any(row[n] for row in rows[1:])]
    return ["  ".join(row[n].ljust(widths[n]) for n in keep).rstrip() for row in rows]


def estimate_program(
    name: str, what: str, program: tuple[Function, Derive, Derive | None], options: Options
) -> Estimate:
    """Compiles ``program`` (as for ``plan_of``) and reads its machine code.

    Raises:
        DiagnosticError: as compiling does; GC0595 where the toolchain is missing.
    """
    refuse_beyond_machine(options.budget)
    source, derive, gradient = program
    plan = plan_of(source, derive, options, gradient)
    chosen = backend_of(options.target)
    read = chosen.estimated()
    assert read is not None, "asked before"
    return _estimate(name, what, plan, read(plan, chosen.target(options.thread_count)))


def _estimate(name: str, what: str, plan: Plan, found: CodeEstimate) -> Estimate:
    rows = []
    for number, one in enumerate(found.launches):
        kernel = plan.kernels[one.launch.kernel]
        flops, nbytes = kernel.flops * one.runs, kernel.bytes * one.runs
        each = [(flops / s.flops[one.precision], nbytes / s.bandwidth) for s in found.sheets]
        rows.append(
            EstimatedLaunch(
                number,
                kernel.name,
                one.runs,
                flops,
                nbytes,
                one.precision,
                tuple(max(pair) for pair in each),
                tuple("arithmetic" if a > b else "bandwidth" for a, b in each),
                one.kernels,
                user_line(one.launch.span),
            )
        )
    return Estimate(name, what, found.architecture, found.sheets, tuple(rows))
