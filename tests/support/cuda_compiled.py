"""Machine code of every kernel text of the examples and of the benchmarks' models: no spill, no
stack, no f64 unless asked.

    python -m tests.support.cuda_compiled [WORDS...] [--isa sm_90] [--kept FILE]

compiles the texts of the subjects of ``memory_subjects`` (small sizes) and of the benchmarks' cases
(their own sizes) whose names have all the words. A text that another program has had is read from
``FILE``, a line of JSON per text, which is also where an interrupted run goes on. The table has a
row per program; exceptions follow, with their programs; the exit status is 1 if there are any.
Needs the extra ``cuda``; about a second a text.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradc
from benchmarks.cases import CASES
from gradc.codegen.cuda.lockstep import digest
from gradc.codegen.cuda.printer.plans import print_plan, target
from gradc.codegen.cuda.program import Program, Text
from gradc.codegen.cuda.toolchain import build, sass
from gradc.codegen.cuda.toolchain.assemble import cubin
from gradc.ir.plan.plan import Plan
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.native.compile import compile_options, pipeline_options
from tests.support import cuda_programs
from tests.support.memory_subjects import names, subject

Found = dict[str, Any]


def plans(words: Sequence[str], isa: str) -> Iterator[tuple[str, Plan]]:
    """Name and Plan of every program."""
    for name in CASES:
        if all(word in f"case {name}" for word in words):
            yield f"case {name}", _of_case(name, isa)
    for name in names():
        if all(word in name for word in words):
            yield name, cuda_programs.plan_of(subject(name), target(isa))


def _of_case(name: str, isa: str) -> Plan:
    case = CASES[name]
    net = gradc.load(case.file, dims=case.dims)
    dims = net.bind({n: a.shape for n, a in case.inputs().items()})
    function = net.lower(dims, training=True).function
    options = compile_options(target="cuda")
    asked = pipeline_options(net.gradient_of("params"), options, isa=isa)
    return run_pipeline(function, asked).plan


def key_of(text: Text, isa: str) -> str:
    """What machine code follows from, whatever the kernel is called."""
    source = text.source.replace(text.name, "kernel")
    pointers = " ".join(p.dtype for p in text.parameters)
    return digest(f"{isa} {text.threads} {pointers}\n{source}")


def compiled(text: Text, isa: str) -> Found:
    """What the machine code of one text is like."""
    capability = build.CAPABILITIES[isa]
    code = cubin([build.ptx(text, capability)], capability)
    (found,) = sass.statistics(code).values()
    return {"key": key_of(text, isa), **asdict(found), "threads": text.threads}


def faults(text: Text, found: Found) -> list[str]:
    """What machine code of a text must not have."""
    wrong = [f"{found['local']} accesses of local memory"] if found["local"] else []
    wrong += [f"{found['stack']} bytes of stack"] if found["stack"] else []
    asked = any(p.dtype == "f64" for p in text.parameters) or "f64" in text.source
    wrong += [f"{found['f64']} instructions of f64"] if found["f64"] and not asked else []
    fours = [p.name for p in text.parameters if p.dtype in ("f32", "i32", "u32")]
    wide = any(f"{verb}({n}," in text.source for n in fours for verb in ("load4", "store4"))
    if wide and not found["wide"]:
        wrong.append("no access of 128 bits")
    return wrong


def check(program: Program, isa: str, known: dict[str, Found], kept: Path | None) -> list[str]:
    """Faults of a program's texts; new ones are compiled and kept."""
    wrong = []
    for text in program.texts:
        key = key_of(text, isa)
        if key not in known:
            known[key] = compiled(text, isa)
            if kept is not None:
                with kept.open("a") as out:
                    out.write(json.dumps(known[key]) + "\n")
        wrong += [f"{text.name}: {fault}" for fault in faults(text, known[key])]
    return wrong


def row(name: str, program: Program, isa: str, known: dict[str, Found]) -> str:
    """A line of the table."""
    found = [known[key_of(text, isa)] for text in program.texts]
    accesses = sum(one["wide"] + one["narrow"] for one in found)
    most = max((one["registers"] for one in found), default=0)
    wide = sum(one["wide"] for one in found)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    return (
        f"{name}: {len(found)} texts, {most} registers at most, {wide} of {accesses} accesses of "
        f"128 bits ({used:.0f} s)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--isa", default="sm_90", choices=list(build.CAPABILITIES))
    parser.add_argument("--kept", type=Path)
    asked = parser.parse_args(arguments)
    known: dict[str, Found] = {}
    if asked.kept is not None and asked.kept.exists():
        rows = [json.loads(line) for line in asked.kept.read_text().splitlines()]
        known = {one["key"]: one for one in rows}
    programs, texts, exceptions = 0, 0, list[str]()
    used: set[str] = set()
    for name, plan in plans(asked.words, asked.isa):
        program = print_plan(plan, target(asked.isa))
        wrong = check(program, asked.isa, known, asked.kept)
        exceptions += [f"{name}: {fault}" for fault in wrong]
        programs, texts = programs + 1, texts + len(program.texts)
        used |= {key_of(text, asked.isa) for text in program.texts}
        print(row(name, program, asked.isa, known) + (f": {wrong}" if wrong else ""), flush=True)
    says = f"{programs} programs, {texts} texts, {len(used)} different, for {asked.isa}"
    print(f"{says}: {len(exceptions)} exceptions")
    print("\n".join(exceptions))
    return 1 if exceptions else 0


if __name__ == "__main__":
    raise SystemExit(main())
