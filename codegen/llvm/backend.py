"""The CPU backend: LLVM machine code behind ``codegen.backend``.

What writes code is loaded when code is written: a warm start finds it in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradc.codegen.backend import Code, Loaded, Signature, Store
from gradc.codegen.llvm import pool
from gradc.codegen.llvm.cpuinfo import processor
from gradc.codegen.llvm.host import jit, machine
from gradc.codegen.llvm.host.load import NativeFunction
from gradc.codegen.llvm.host.symbols import inner_name
from gradc.codegen.llvm.isa import Isa, available, host, select
from gradc.codegen.measured import Clocked, Limits
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.loop.kernel import Kernel
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target

# Entries cheaper than this (microseconds) keep the GIL: giving it up and back costs a tenth of
# that.
RELEASE_ABOVE = 2.0


class Llvm:
    """See ``codegen.backend.Backend``."""

    def target(self, threads: int, isa: str | None = None) -> Target:
        return _isa(isa).target(max(1, min(threads, pool.MAX_WORKERS + 1)))

    def scratch(self, kernel: Kernel, target: Target) -> int:
        from gradc.codegen.llvm import driver

        return driver.scratch_bytes(kernel, _isa(target.isa), target.threads)

    def estimate(self, plan: Plan, target: Target) -> float:
        from gradc.codegen.llvm import driver

        return driver.estimate(plan, target.costs)

    def emit(self, plan: Plan, target: Target, level: int = 0) -> Code:
        from gradc.codegen.llvm import driver

        if plan.name != (name := inner_name(plan.name)):
            plan = replace(plan, name=name)
        isa = _isa(target.isa)
        program = driver.generate(plan, isa)
        is_brief = driver.estimate(plan, target.costs) <= RELEASE_ABOVE
        return Code(
            replace(Signature.of(plan, plan.threads, isa.name), is_brief=is_brief),
            program.text,
            functools.partial(jit.compile_object, program.text, isa, level=level),
            functools.partial(jit.assembly, program.text, isa, level=level),
        )

    def load(self, signature: Signature, code: bytes, threads: int, store: Store | None) -> Loaded:
        return NativeFunction(signature, code, threads, store)

    def environment(self, store: Store | None) -> tuple[str, ...]:
        return machine.environment(store)

    def write(
        self, plans: Sequence[Plan], name: str, folder: Path, target: Target, **more: Any
    ) -> dict[str, Path]:
        from gradc.codegen.llvm.host import artifact

        _refuse_kinds(more.get("kinds", ()), artifact.KINDS)
        return artifact.write_artifact(plans, name, folder, isa=target.isa, **more)

    def show(self, kind: str, plan: Plan, target: Target) -> str:
        from gradc.codegen.llvm import driver

        _refuse_kinds((kind,), ("llvm", "asm"))
        isa = _isa(target.isa)
        text = driver.generate(replace(plan, name=inner_name(plan.name)), isa).text
        return text if kind == "llvm" else jit.assembly(text, isa)

    def estimated(self) -> None:
        return None

    def texts(self) -> None:
        return None

    def about(self) -> str:
        return f"{host().cpu}, instruction sets {', '.join(available())}"

    def beneath(self) -> str:
        return "LLVM and the hardware below the loop programs"

    def identity(self) -> str:
        return f"{processor()}\n{host().triple}\n{host().features}"

    def precision(self, kernel: Kernel) -> str:
        from gradc.codegen.llvm.host import clocked

        return clocked.precision_of(kernel)

    def limits(self, threads: int, store: Store, room: int | None) -> Limits:
        from gradc.codegen.llvm.host import measure

        return measure.measure(threads, store, room)

    def clocked(self, plan: Plan, threads: int, store: Store | None) -> Clocked:
        from gradc.codegen.llvm.host import clocked

        return clocked.ClockedFunction(plan, threads, store)


def _refuse_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Raises DiagnosticError GC0564 for a kind of file or text that there is not."""
    for kind in kinds:
        if kind not in known:
            help = "--target cuda has cuda, ptx, cubin and sass"
            raise DiagnosticError([error("GC0564", f"cpu has no `{kind}`", None, help=help)])


def _isa(name: str | None) -> Isa:
    """The instruction set of a name that ``target`` gave out, or that a user wrote."""
    if not name or name in available():
        return select(name or "native")
    from gradc.codegen.llvm.host import artifact

    return artifact.target_of(name)


BACKEND = Llvm()
