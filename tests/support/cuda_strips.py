"""What launches over strips of rows save (``passes.lower.strips``), and their machine code.

    python -m tests.support.cuda_strips [--isa sm_90] [--code]

Prints for attention and GPT, forward alone and with gradients: launches, bytes that launches must
move (``ir.loop.traffic``) and bytes of the arena, without strips and with them; heads are cut apart
as they are for a processor in the first, and go together in the second. ``--code`` compiles
the texts of strips for each of ``--isa``, with commas, which needs the extra ``cuda``. The exit
status is 1 if one of them spills or has a stack.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import gradc
from gradc.codegen.cuda.printer.plans import PROCESSORS, print_plan, scratch_of, target
from gradc.codegen.cuda.toolchain import sass
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, build
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target
from gradc.passes.pipeline import Options, run_pipeline
from tests.support.memory_subjects import ROOT, Subject, of_model

MODELS = (
    ("attention", {"N": 16, "T": 256, "D": 64}),
    ("attention", {"N": 4, "T": 512, "D": 64}),
    ("attention", {"N": 16, "T": 1024, "D": 64}),
    ("attention", {"N": 64, "T": 2048, "D": 64}),
    ("gpt", {"B": 8}),
)


def planned(one: Subject, on: Target, is_forward: bool) -> Plan:
    """The Plan of a model, alone or with its gradients."""
    derive = None if is_forward else one.derive
    made = Options(derive, gradient=one.gradient, verify=0, target=on, scratch=scratch_of(on))
    return run_pipeline(one.function, made).plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default="sm_90", help=f"of {', '.join(PROCESSORS)}")
    parser.add_argument("--code", action="store_true")
    asked = parser.parse_args(arguments)
    is_bad = False
    for name, dims in MODELS:
        net = gradc.load(ROOT / "benchmarks" / "models" / f"{name}.grad", dims=dims)
        one = of_model(f"{name} gradient", net)
        for isa in asked.isa.split(","):
            on = target(isa)
            off = replace(on, strip_bytes=0, rows_together=0)
            for is_forward in (True, False):
                plans = [planned(one, t, is_forward) for t in (off, on)]
                print(name, dims, isa, "forward" if is_forward else "gradients")
                print("  launches", *(plan.total([1.0] * len(plan.kernels)) for plan in plans))
                print("  bytes", *(plan.total([k.bytes for k in plan.kernels]) for plan in plans))
                print("  arena", *(plan.arena_bytes for plan in plans))
            is_bad |= asked.code and _code(plans[1], on)
    return int(is_bad)


def _code(plan: Plan, on: Target) -> bool:
    """Prints the machine code of strips; whether any of it spills or has a stack."""
    program = print_plan(plan, on)
    texts = tuple(text for text in program.texts if "strips of" in text.source)
    cubin = build(replace(program, texts=texts, steps=()), CAPABILITIES[on.isa]).cubin
    found, loops = sass.statistics(cubin), sass.main_loops(cubin)
    is_bad = False
    for text in texts:
        of, loop = found[text.name], loops[text.name]
        blocks = of.occupancy(text.threads, on.processors, text.dynamic_bytes)
        print(f"  {text.name}: {text.threads} threads, {text.shared_bytes} bytes shared,", end=" ")
        print(
            f"{of.registers} registers, {blocks} blocks fit, stack {of.stack + of.local},", end=" "
        )
        print(f"f64 {of.f64}, {of.wide} wide accesses, {of.narrow} others,", end=" ")
        print(f"{loop.fused} of {loop.instructions} instructions of the main loop multiply")
        is_bad |= bool(of.stack or of.local or of.f64)
    return is_bad


if __name__ == "__main__":
    raise SystemExit(main())
