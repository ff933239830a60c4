"""Machine code of every kernel text of the examples and of the benchmarks' models: no spill, no
stack, no f64 unless asked.

    python -m tests.support.cuda_compiled [WORDS...] [--isa sm_80,sm_90,sm_100] [--kept FILE]
        [--precision bf16]

compiles the texts of the subjects of ``memory_subjects`` (small sizes) and of the benchmarks' cases
(their own sizes) whose names have all the words; in another type than f32, the subjects alone. A
text that another program has had is read from ``FILE``, a line of JSON per text, which is also
where an interrupted run goes on. The table has a row per program and architecture; exceptions
follow, with their programs; the exit status is 1 if there are any. Needs the extra ``cuda``; half a
second a text, whatever the number of architectures: Numba's part is done once.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

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
from tests.support.cuda_programs import plan_of, small_subject
from tests.support.memory_subjects import names, subject

Found: TypeAlias = dict[str, Any]
Programs: TypeAlias = tuple[str, dict[str, Program]]


def programs(words: Sequence[str], isas: Sequence[str], precision: str) -> Iterator[Programs]:
    """Every program by name, for every architecture."""
    for name in names():
        if all(word in name for word in words):
            one = subject(name) if precision == "f32" else small_subject(name, precision)
            yield name, {isa: print_plan(plan_of(one, target(isa)), target(isa)) for isa in isas}
    for name in CASES if precision == "f32" else ():
        if all(word in f"case {name}" for word in words):
            yield (
                f"case {name}",
                {isa: print_plan(_of_case(name, isa), target(isa)) for isa in isas},
            )


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
    return digest(f"{isa} {text.threads} {text.together} {pointers}\n{source}")


def compile_new(made: Mapping[str, Program], known: dict[str, Found], kept: Path | None) -> None:
    """Compiles what is not known of programs by architecture, each text once, and keeps it."""
    wanted: dict[str, tuple[Text, list[str]]] = {}
    for isa, program in made.items():
        for text in program.texts:
            if key_of(text, isa) not in known:
                isas = wanted.setdefault(key_of(text, ""), (text, []))[1]
                isas += [isa] if isa not in isas else []
    code: dict[str, list[tuple[str, str, Text]]] = {}
    for number, (text, isas) in enumerate(wanted.values()):
        name = f"kernel{number}"
        alone = replace(text, name=name, source=text.source.replace(text.name, name))
        found = build.ptx_for(alone, tuple(build.CAPABILITIES[isa] for isa in isas))
        for isa, one in zip(isas, found, strict=True):
            code.setdefault(isa, []).append((name, one, text))
    for isa, rows in code.items():
        # One cubin for all of them: to start nvdisasm takes longer than what it does.
        made_of = sass.statistics(cubin([one for _, one, _ in rows], build.CAPABILITIES[isa]))
        for name, _, text in rows:
            key = key_of(text, isa)
            known[key] = {"key": key, **asdict(made_of[name]), "threads": text.threads}
            if kept is not None:
                with kept.open("a") as out:
                    out.write(json.dumps(known[key]) + "\n")


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


def check(program: Program, isa: str, known: Mapping[str, Found]) -> list[str]:
    """Faults of a program's texts."""
    return [
        f"{text.name}: {fault}"
        for text in program.texts
        for fault in faults(text, known[key_of(text, isa)])
    ]


def row(name: str, program: Program, isa: str, known: Mapping[str, Found]) -> str:
    """A line of the table."""
    found = [known[key_of(text, isa)] for text in program.texts]
    accesses = sum(one["wide"] + one["narrow"] for one in found)
    most = max((one["registers"] for one in found), default=0)
    wide = sum(one["wide"] for one in found)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    return (
        f"{name}, {isa}: {len(found)} texts, {most} registers at most, {wide} of {accesses} "
        f"accesses of 128 bits ({used:.0f} s)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--isa", default="sm_90", help="one or more, with commas")
    parser.add_argument("--precision", default="f32", choices=("f64", "f32", "bf16", "f16"))
    parser.add_argument("--kept", type=Path)
    asked = parser.parse_args(arguments)
    isas = asked.isa.split(",")
    known: dict[str, Found] = {}
    if asked.kept is not None and asked.kept.exists():
        rows = [json.loads(line) for line in asked.kept.read_text().splitlines()]
        known = {one["key"]: one for one in rows}
    count, exceptions = 0, list[str]()
    used: dict[str, list[str]] = {isa: [] for isa in isas}
    for name, made in programs(asked.words, isas, asked.precision):
        compile_new(made, known, asked.kept)
        count += 1
        for isa, program in made.items():
            wrong = check(program, isa, known)
            exceptions += [f"{name}, {isa}: {fault}" for fault in wrong]
            used[isa] += [key_of(text, isa) for text in program.texts]
            said = row(name, program, isa, known) + (f": {wrong}" if wrong else "")
            print(said, flush=True)
    for isa, keys in used.items():
        says = f"{count} programs, {len(keys)} texts, {len(set(keys))} different, for {isa}"
        print(f"{says}: {sum(f', {isa}: ' in one for one in exceptions)} exceptions")
    print("\n".join(exceptions))
    return 1 if exceptions else 0


if __name__ == "__main__":
    raise SystemExit(main())
