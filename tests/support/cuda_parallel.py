"""How much of a program's work is in launches that fill a graphics processor.

    python -m tests.support.cuda_parallel [gpt rows resnet16 lenet] [--isa sm_90] [--launches]
        [--code]

A launch fills it if it has a block for every multiprocessor (108, 132 and 148 on A100, H100 and
B200), each of a warp or more. The work of a launch is the
time that it would take if it filled an H200, by the slower of arithmetic (``FLOPS`` operations a
second in f32, without tensor cores; products count two a term, other verbs one) and memory
(``BANDWIDTH`` bytes a second, each element counted once). Time of launching is not work.

Prints the shares, the launches by class, and with ``--launches`` every text: how often it is
launched, its grid and threads, its share of the work. ``--isa`` may be several, with commas;
``--code`` adds the machine code of every text that is no product, in minutes. The exit status is 1
where less than 90 % of the work of a program fills the processor, or where a text has a stack or
spills.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import gradc
from benchmarks.cases import CASES
from gradc.codegen.cuda.printer.kernels import segments
from gradc.codegen.cuda.printer.plans import PROCESSORS, print_plan, target
from gradc.codegen.cuda.printer.strips import products
from gradc.codegen.cuda.program import Launch, Program, Repeat, Step
from gradc.codegen.cuda.toolchain import assemble, sass
from gradc.codegen.cuda.toolchain.build import CAPABILITIES, ptx
from gradc.codegen.cuda.verbs import WARP
from gradc.ir.loop.kernel import For, Gemm, Let, Stmt
from gradc.ir.loop.traffic import traffic
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.native.compile import compile_options, pipeline_options

FLOPS, BANDWIDTH = 60e12, 4.8e12
LEAST = 0.9
_DIMS = {"gpt": {"B": 8}}
NAMES = ("gpt", "rows", "resnet16", "lenet")


@dataclass(frozen=True)
class Part:
    """One text of a program: what it does, and with how many blocks."""

    name: str
    says: str
    is_product: bool
    grid: int
    threads: int
    seconds: float  # of work, per launch
    launches: int
    fills: bool

    @property
    def kind(self) -> str:
        """Its class."""
        if self.is_product:
            return "products" if self.fills else "products of fewer blocks"
        if self.fills:
            return "independent rows or elements"
        return "fewer blocks"


def compiled(name: str, machine: Target) -> tuple[Plan, Program]:
    """The gradient of a benchmark's model, for a graphics processor."""
    case = CASES[name]
    net = gradc.load(case.file, dims=_DIMS.get(name, case.dims) or None)
    bound = {} if name in _DIMS else net.bind({n: a.shape for n, a in case.inputs().items()})
    function = net.lower(bound, training=True).function
    options = compile_options(target="cuda", threads=1)
    asked = pipeline_options(net.gradient_of("params"), options, isa=machine.isa)
    plan = run_pipeline(function, asked).plan
    return plan, print_plan(plan, machine)


def parts(plan: Plan, program: Program, processors: int) -> list[Part]:
    """Every text with its work and how often it is launched."""
    counts: dict[int, list[int]] = {}
    for step, times in _launches(program.steps, 1):
        found = counts.setdefault(step.text, [step.grid, 0])
        found[1] += times
    kernels = dict.fromkeys(launch.kernel for launch in plan.launches)
    pieces = [one for number in kernels for one in segments(plan.kernels[number], processors)]
    found_parts = []
    for number, (text, piece) in enumerate(zip(program.texts, pieces, strict=True)):
        grid, launches = counts[number]
        says = text.source.split(f"def {text.name}(")[1].split('"""')[1].split("\n")[0]
        operations = _operations(piece.statements)
        if piece.split_k is not None:  # each of its parts has some of the steps of k
            operations //= piece.split_k.count
        work = max(operations / FLOPS, traffic(piece.statements) / BANDWIDTH)
        is_product = isinstance(piece.only, Gemm) or bool(products(piece.statements))
        fills = grid >= processors and text.threads >= WARP
        facts = (says, is_product, grid, text.threads, work, launches, fills)
        found_parts.append(Part(text.name, *facts))
    return found_parts


def _launches(steps: Iterable[Step], times: int) -> Iterable[tuple[Launch, int]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _launches(step.body, times * step.trips)
        elif isinstance(step, Launch):
            yield step, times


def _operations(statements: Sequence[Stmt]) -> int:
    total = 0
    for s in statements:
        if isinstance(s, For):
            total += s.extent * (_operations(s.body) + len(s.folds))
        elif isinstance(s, Gemm):
            total += prod(s.batch) * s.m * s.n * (2 * s.k + _operations(s.epilogue))
        elif isinstance(s, Let):
            total += 1
    return total


def share(found: Sequence[Part], products: bool = True) -> float:
    """How much of the work fills the processor; without products if they are left out."""
    counted = [p for p in found if products or not p.is_product]
    total = sum(p.seconds * p.launches for p in counted)
    return sum(p.seconds * p.launches for p in counted if p.fills) / total


def _machine_code(program: Program, found: Sequence[Part], isa: str) -> bool:
    """Prints what machine code texts have; whether none of them needs local memory."""
    capability, clean = CAPABILITIES[isa], True
    for part, text in zip(found, program.texts, strict=True):
        if part.is_product:
            continue
        made = assemble.cubin([ptx(text, capability)], capability)
        have = sass.statistics(made)[text.name]
        clean = clean and not (have.stack or have.local)
        print(
            f"  {isa} {text.name}: {have.registers} registers, "
            f"{have.occupancy(text.threads, PROCESSORS[isa], text.dynamic_bytes)} blocks of "
            f"{text.threads} fit, "
            f"{have.wide} accesses of 16 bytes and {have.narrow} others, "
            f"stack {have.stack}, local {have.local}, f64 {have.f64}",
            flush=True,
        )
    return clean


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--isa", default="sm_90")
    parser.add_argument("--launches", action="store_true")
    parser.add_argument("--code", action="store_true")
    asked = parser.parse_args(arguments)
    least, clean = 1.0, True
    for name in asked.names:
        for isa in asked.isa.split(","):
            machine = target(isa)
            plan, program = compiled(name, machine)
            found = parts(plan, program, machine.processors.count)
            least = min(least, share(found))
            _print(f"{name}, {isa}", found, asked.launches)
            if asked.code:
                clean = _machine_code(program, found, isa) and clean
    return 1 if least < LEAST or not clean else 0


def _print(name: str, found: Sequence[Part], launches: bool) -> None:
    """Prints the shares of a program."""
    total = sum(p.seconds * p.launches for p in found)
    others = share(found, products=False)
    print(f"{name}: {share(found):.1%} of the work fills; {others:.1%} besides products")
    kinds: dict[str, list[Part]] = {}
    for part in found:
        kinds.setdefault(part.kind, []).append(part)
    for kind, each in sorted(kinds.items()):
        count = sum(p.launches for p in each)
        work = sum(p.seconds * p.launches for p in each) / total
        print(f"  {count:4d} launches, {work:6.1%} of the work: {kind}")
    if not launches:
        return
    for p in sorted(found, key=lambda p: -p.seconds * p.launches):
        work = p.seconds * p.launches / total
        print(f"  {p.launches:4d} x {p.grid:6d} x {p.threads:3d}  {work:6.2%}  {p.name}: {p.says}")


if __name__ == "__main__":
    raise SystemExit(main())
