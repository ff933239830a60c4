"""The reference backend: a Plan's own text is its code, and NumPy runs it (``ir.plan.execute``).

Slow, and independent of everything that writes machine code: the same fusion, loops and places as
any other target, each statement of a kernel as NumPy has it. Bits are those of every backend but
where a function is computed (the C library's here), for fused multiply-adds, and within the leaves
of matrix products, which are summed in f64 (``ir.loop.execute``): a few ulps each.

Invariants: deterministic; the arrays of a call are written only where their ports say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradc.codegen import exchange
from gradc.codegen.backend import Array, Code, Loaded, Signature, Store
from gradc.codegen.measured import Clocked, Limits
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.kernel import Exchange, Kernel
from gradc.ir.loop.verbs import from_memory, to_memory
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.target.target import GENERIC, Target


class Reference:
    """See ``codegen.backend.Backend``."""

    def target(self, threads: int, isa: str | None = None) -> Target:
        if isa is not None:
            message = f"the reference knows no instruction set `{isa}`"
            raise DiagnosticError([error("GC0577", message, None)])
        return GENERIC

    def scratch(self, kernel: Kernel, target: Target) -> int:
        return 0  # the executor has rows of its own

    def estimate(self, plan: Plan, target: Target) -> float:
        """What the bytes of every launch would take; statements of NumPy are not timed."""
        each = [target.costs.microseconds(0.0, kernel.bytes) for kernel in plan.kernels]
        return plan.total(each)

    def emit(self, plan: Plan, target: Target, level: int = 0) -> Code:
        text = print_plan(plan)
        signature = Signature.of(plan, 1, target.name)
        return Code(signature, text, text.encode, lambda: text)

    def load(self, signature: Signature, code: bytes, threads: int, store: Store | None) -> Loaded:
        return _Program(signature, parse_plan(code.decode()))

    def environment(self, store: Store | None) -> tuple[str, ...]:
        return ("reference",)

    def write(
        self, plans: Sequence[Plan], name: str, folder: Path, target: Target, **more: Any
    ) -> dict[str, Path]:
        message = "the reference makes no files that others could link"
        raise DiagnosticError([error("GC0563", message, None, help="use --target cpu")])

    def show(self, kind: str, plan: Plan, target: Target) -> str:
        message = f"the reference has no `{kind}`: its code is the Plan"
        raise DiagnosticError([error("GC0564", message, None, help="use --emit plan")])

    def estimated(self) -> None:
        return None

    def texts(self) -> None:
        return None

    def about(self) -> str:
        return "NumPy"

    def beneath(self) -> str:
        return "NumPy, which runs the loop programs (ir/plan/execute)"

    def identity(self) -> str:
        return "reference"

    def precision(self, kernel: Kernel) -> str:
        return "f64"

    def limits(self, threads: int, store: Store, room: int | None) -> Limits:
        raise _untimed()

    def clocked(self, plan: Plan, threads: int, store: Store | None) -> Clocked:
        raise _untimed()


def _untimed() -> DiagnosticError:
    message = "`reference` keeps no time of its launches"
    help = "use --target cpu: what is profiled runs there"
    return DiagnosticError([error("GC0563", message, None, help=help)])


class _Joined(Scalars):
    """Machine numbers, and the other ranks of this process's world."""

    def exchange(self, statement: Exchange, parts: Array) -> None:
        if statement.ranks != 1:
            kind = "await" if statement.ends else statement.kind
            exchange.run(kind, exchange.as_bytes(parts))


_JOINED = _Joined()


class _Program(Loaded):
    def __init__(self, signature: Signature, plan: Plan) -> None:
        super().__init__(signature, 1)
        self._plan = plan

    def launch(self, arrays: Sequence[Array]) -> None:
        ports = self.signature.ports
        pairs = list(zip(ports, arrays, strict=True))
        given = [from_memory(a, p.dtype) for p, a in pairs if p.direction != "out"]
        made = iter(execute_plan(self._plan, given, scalars=_JOINED))
        for port, array in pairs:
            if port.direction != "in":
                array[...] = to_memory(next(made), port.dtype)


BACKEND = Reference()
