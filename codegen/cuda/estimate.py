"""What a program's machine code says of it without a device: registers, occupancy, the hottest
loop, accesses; and the data sheets of the processors that it is for.
"""

from __future__ import annotations

import math

from gradc.codegen.cuda.printer.plans import PROCESSORS
from gradc.codegen.cuda.program import Launch, Program, Repeat, Step, Text
from gradc.codegen.cuda.toolchain import sass
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, build
from gradc.codegen.estimated import CodeEstimate, KernelCode, LaunchCode, Sheet
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType

# Dense, without sparsity; f32 and f64 without tensor cores. Memory of the usual module.
SHEETS = {
    "sm_80": (
        Sheet(
            "A100 SXM 80 GB",
            {"f32": 19.5e12, "f64": 9.7e12, "bf16": 312e12, "f16": 312e12},
            2.039e12,
            PROCESSORS["sm_80"].count,
            "NVIDIA A100 datasheet",
        ),
    ),
    "sm_90": (
        Sheet(
            "H100 SXM",
            {"f32": 67e12, "f64": 34e12, "bf16": 989e12, "f16": 989e12},
            3.35e12,
            PROCESSORS["sm_90"].count,
            "NVIDIA H100 datasheet",
        ),
        Sheet(
            "H200 SXM",
            {"f32": 67e12, "f64": 34e12, "bf16": 989e12, "f16": 989e12},
            4.8e12,
            PROCESSORS["sm_90"].count,
            "NVIDIA H200 datasheet",
        ),
    ),
    "sm_100": (
        Sheet(
            "B200 SXM",
            {"f32": 80e12, "f64": 40e12, "bf16": 2250e12, "f16": 2250e12},
            8e12,
            PROCESSORS["sm_100"].count,
            "NVIDIA Blackwell architecture brief, HGX B200",
        ),
    ),
}

# CUDA C++ Programming Guide, arithmetic instructions by compute capability; whitepapers of GA100,
# GH100 and Blackwell for tensor cores. Peaks of the sheets are these at the clocks of a module.
RATES = {
    "sm_80": sass.Rates(64, 32, 1024),
    "sm_90": sass.Rates(128, 64, 2048),
    "sm_100": sass.Rates(128, 64, 4096),
}


def code_estimate(plan: Plan, program: Program, target: Target) -> CodeEstimate:
    """Compiles ``program``, the texts of ``plan``, and reads what came out.

    Raises:
        DiagnosticError: GC0595 if a part of the toolchain is missing.
    """
    cubin = build(program, CAPABILITIES[target.isa]).cubin
    found, loops = sass.statistics(cubin), sass.main_loops(cubin)
    launches = iter(_launches(program.steps))
    parts: dict[int, int] = {}
    for text in program.texts:
        parts[text.kernel] = parts.get(text.kernel, 0) + 1
    rows = []
    for launch, trips in plan.walk():
        codes = []
        for _ in range(parts.get(launch.kernel, 0)):
            one = next(launches)
            text = program.texts[one.text]
            loop = loops.get(text.name)
            codes.append(_code(found[text.name], loop, one.grid, text, target))
        halves = {b.dtype.value for b in plan.kernels[launch.kernel].bound if b.dtype.is_float}
        precision = "f64" if DType.F64.value in halves else "f32"
        if any(found[code.name].tensor for code in codes):
            precision = next(iter(sorted(halves & {"bf16", "f16"})), precision)
        rows.append(LaunchCode(launch, math.prod(trips), precision, tuple(codes)))
    return CodeEstimate(target.isa, SHEETS[target.isa], rows)


def _launches(steps: tuple[Step, ...]) -> list[Launch]:
    found: list[Launch] = []
    for step in steps:
        if isinstance(step, Repeat):
            found += _launches(step.body)
        elif isinstance(step, Launch):
            found.append(step)
    return found


def _code(
    of: sass.Statistics, loop: sass.Loop | None, grid: int, text: Text, target: Target
) -> KernelCode:
    on, hot = target.processors, loop or of.whole
    blocks = of.occupancy(text.threads, on, text.dynamic_bytes)
    warps = -(-text.threads // 32)
    return KernelCode(
        of.name,
        grid,
        text.threads,
        of.registers,
        of.shared + text.dynamic_bytes,
        of.stack,
        of.local,
        blocks,
        min(1.0, blocks * warps * 32 / on.threads),
        of.instructions,
        hot.instructions,
        hot.multiply_adds,
        hot.busy(RATES[target.isa]),
        of.wide,
        of.narrow,
        of.f64,
    )
