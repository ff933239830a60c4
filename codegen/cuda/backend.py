"""The backend ``cuda``: kernel texts, machine code of them, a device that runs it, behind
``codegen.backend``.

Compiling needs the extra ``cuda`` and no device: without one, code is for ``sm_90``. Running needs
a driver and a device, and the extra only for code that is not in the cache yet. ``cuda:1`` is the
second device; ``cuda`` alone is the first, or the one that GRADC_CUDA_DEVICE numbers.

Invariants: the bits of f32 and f64 are those of the CPU's backend; one device runs a program, and
of several ranks each has its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradc.codegen.backend import Code, Loaded, Signature, Store
from gradc.codegen.cuda.estimate import code_estimate
from gradc.codegen.cuda.header import header_text
from gradc.codegen.cuda.lockstep import KernelTexts
from gradc.codegen.cuda.printer.nest import PrintError
from gradc.codegen.cuda.printer.plans import print_plan, scratch_of
from gradc.codegen.cuda.printer.plans import target as printer_target
from gradc.codegen.cuda.program import Program, print_program
from gradc.codegen.cuda.runner.clock import ClockedProgram, measured_limits
from gradc.codegen.cuda.runner.device import Device, device
from gradc.codegen.cuda.runner.driver import LIBRARY, driver
from gradc.codegen.cuda.runner.loaded import CudaProgram
from gradc.codegen.cuda.toolchain import sass
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, Built, build, ptx, toolchain
from gradc.codegen.estimated import CodeEstimate
from gradc.codegen.measured import Clocked, Limits
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.loop.kernel import Kernel
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Processors, Target
from gradc.ir.tensor.core import DType

DEVICE = "GRADC_CUDA_DEVICE"
_USUAL = "sm_90"  # where no device says what it is
# The number of a rank among those of its machine, as launchers tell it: Open MPI, MPICH and Intel
# MPI, MVAPICH, Slurm.
_LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)


@dataclass(frozen=True)
class Cuda:
    """See ``codegen.backend.Backend``. ``number`` is the device's; None for the usual one."""

    number: int | None = None

    def at(self, number: int) -> Cuda:
        """The same on another device."""
        return replace(self, number=number)

    def device(self) -> Device:
        """The device that programs run on.

        Raises:
            DiagnosticError: GC0596 without a driver, GC0597 if there is no such device.
        """
        return device(self.number if self.number is not None else _usual_device())

    def target(self, threads: int, isa: str | None = None) -> Target:
        name = isa or self._architecture()
        if name not in CAPABILITIES:
            known = ", ".join(CAPABILITIES)
            message = f"there is no CUDA architecture `{name}`"
            raise DiagnosticError([error("GC0577", message, None, help=f"there are {known}")])
        return printer_target(name, None if isa else self._processors())

    def _architecture(self) -> str:
        """The newest known one that this machine's device runs; the usual one without a device."""
        try:
            found = self.device().capability
        except DiagnosticError:
            return _USUAL
        fits = [n for n, c in CAPABILITIES.items() if c[0] == found[0] and c <= found]
        return fits[-1] if fits else _USUAL

    def _processors(self) -> Processors | None:
        """Those of this machine's device."""
        try:
            return self.device().processors
        except DiagnosticError:
            return None

    def scratch(self, kernel: Kernel, target: Target) -> int:
        return scratch_of(target)(kernel)

    def estimate(self, plan: Plan, target: Target) -> float:
        """What the bytes of every launch take at 3 TB/s, and 2 microseconds a launch."""
        return plan.total([2.0 + kernel.bytes / 3e6 for kernel in plan.kernels])

    def emit(self, plan: Plan, target: Target, level: int = 0) -> Code:
        program = printed(plan, target)
        text = print_program(program)

        def assembly() -> str:
            return sass.listing(build(program, CAPABILITIES[target.isa]).cubin)

        def assemble() -> bytes:
            return build(program, CAPABILITIES[target.isa]).pack()

        return Code(program.signature, text, assemble, assembly)

    def load(self, signature: Signature, code: bytes, threads: int, store: Store | None) -> Loaded:
        return CudaProgram(Built.unpack(code), self.device())

    def environment(self, store: Store | None) -> tuple[str, ...]:
        # What cannot run here is said before it is compiled for a minute.
        on = repr(self.device().processors)
        return ("cuda", os.environ.get(LIBRARY, ""), self._architecture(), on, *toolchain())

    def write(
        self, plans: Sequence[Plan], name: str, folder: Path, target: Target, **more: Any
    ) -> dict[str, Path]:
        """``NAME.cubin``, ``NAME.h``, with which C calls it, and ``NAME.json``, which says what it
        is.
        """
        kinds = tuple(more.get("kinds", ("cubin", "header", "manifest")))
        _refuse_kinds(kinds, ("cubin", "header", "manifest"))
        (plan,) = plans
        made = build(printed(plan, target), CAPABILITIES[target.isa])
        texts = {
            "cubin": (f"{name}.cubin", made.cubin),
            "header": (f"{name}.h", header_text(made.program, name, made.architecture).encode()),
        }
        folder.mkdir(parents=True, exist_ok=True)
        written: dict[str, Path] = {}
        facts = _manifest(made, name, more.get("source", b""), more.get("extra") or {})
        for kind, (file, data) in texts.items():
            if kind in kinds:
                written[kind] = folder / file
                written[kind].write_bytes(data)
                facts["files"][file] = {"bytes": len(data), "blake2b": _digest(data)}
        if "manifest" in kinds:
            written["manifest"] = folder / f"{name}.json"
            text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            written["manifest"].write_text(text, encoding="utf-8")
        return written

    def show(self, kind: str, plan: Plan, target: Target) -> str:
        _refuse_kinds((kind,), ("cuda", "ptx", "sass"))
        program = printed(plan, target)
        if kind == "cuda":
            return print_program(program)
        capability = CAPABILITIES[target.isa]
        if kind == "ptx":
            return "\n".join(ptx(text, capability) for text in program.texts)
        return sass.listing(build(program, capability).cubin)

    def estimated(self) -> Callable[[Plan, Target], CodeEstimate]:
        return lambda plan, target: code_estimate(plan, printed(plan, target), target)

    def texts(self) -> Callable[[Plan, Target], KernelTexts]:
        return lambda plan, target: KernelTexts(plan, printed(plan, target), target.isa)

    def about(self) -> str:
        try:
            return self.device().about()
        except DiagnosticError as problem:
            return problem.diagnostics[0].message

    def beneath(self) -> str:
        return "Numba, NVVM and ptxas, and the hardware, below the kernel texts"

    def identity(self) -> str:
        found = self.device()
        return f"cuda\n{found.about()}"

    def precision(self, kernel: Kernel) -> str:
        return "f64" if any(b.dtype is DType.F64 for b in kernel.buffers) else "f32"

    def limits(self, threads: int, store: Store, room: int | None) -> Limits:
        return measured_limits(self.device())

    def clocked(self, plan: Plan, threads: int, store: Store | None) -> Clocked:
        target = self.target(threads)
        made = build(printed(plan, target), CAPABILITIES[target.isa])
        return ClockedProgram(made, plan, self.device())


def printed(plan: Plan, target: Target) -> Program:
    """``plan`` as kernel texts.

    Raises:
        DiagnosticError: GC0599 for a kernel that has no text.
        PlanError: if the Plan is not complete or contradicts itself.
    """
    try:
        return print_plan(plan, target)
    except PrintError as problem:
        message = f"the CUDA target cannot run `{plan.name}`: {problem}"
        raise DiagnosticError([error("GC0599", message, None, help="use --target cpu")]) from None


def _usual_device() -> int:
    """The device that the environment numbers; of several ranks of a machine each has the next."""
    text = os.environ.get(DEVICE)
    if text is None:
        local = next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "0")
        return int(local) % max(1, driver().count) if local.isdecimal() else 0
    if not text.isdecimal():
        message = f"{DEVICE} is `{text}`; it is the number of a device, from 0"
        raise DiagnosticError([error("GC0597", message, None)])
    return int(text)


def _refuse_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Raises DiagnosticError GC0564 for a kind of file or text that there is not."""
    for kind in kinds:
        if kind not in known:
            help = "use --emit cuda,ptx,cubin,sass,header, or --target cpu"
            raise DiagnosticError([error("GC0564", f"cuda has no `{kind}`", None, help=help)])


def _manifest(made: Built, name: str, source: bytes, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a host needs besides the cubin: ports, arena, and every launch of a call in order."""
    return {
        "name": name,
        "target": made.architecture,
        "toolchain": list(toolchain()),
        "source": {"blake2b": _digest(source)},
        "notes": [],
        "files": {},
        **extra,
        "program": made.program.to_json(),
    }


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


BACKEND = Cuda()
