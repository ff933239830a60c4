"""What the compiler writes for every example and benchmark model, to compare two versions of it.

    python -m tests.support.emitted DIR [--against OTHER]

One file per program with its loops, Plan and LLVM text: the subjects of ``memory_subjects``
(examples and benchmark models at small sizes, training steps, traced functions), the benchmarks'
cases and the examples of digits and text at their own sizes, and generated programs. A change that
is silent in the generated code leaves every file as it was. Exit status 1 if files differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import gradc
from benchmarks.cases import CASES
from gradc.codegen.llvm.driver import generate
from gradc.codegen.llvm.host.symbols import inner_name
from gradc.codegen.llvm.isa import host
from gradc.ir.tensor.core import Function
from gradc.passes.pipeline import Derivative, run_pipeline, text_of
from gradc.runtime.model.compiled import pure
from gradc.runtime.native.compile import Options, pipeline_options
from tests.support.memory_subjects import EXAMPLES, ROOT, names, subject

THREADS = 2
GENERATED = 30
ROWS = 64  # of the examples whose batch the call decides
Program = tuple[str, Function, Derivative, Derivative | None]


def programs() -> Iterator[Program]:
    """Name, function, derivative and gradient of everything that is written."""
    for name in (*names(), *(f"program {n}" for n in range(GENERATED))):
        one = subject(name)
        yield name, one.function, one.derive, one.gradient
    for case in CASES.values():
        yield f"case {case.name}", *_gradient(case.file, {})
    yield "tiled gpt", *_gradient(CASES["gpt"].file, {"B": 2, "T": 1024, "L": 1})
    for path in EXAMPLES:
        if path.parent.name != "worked":
            name = f"whole {path.parent.name}/{path.name}"
            yield name, *_gradient(path, {"B": ROWS})


def _gradient(path: Path, dims: Mapping[str, int]) -> tuple[Function, Derivative, None]:
    net = gradc.load(str(path), dims=dims)
    return net.lower().function, pure(net.gradient_of("params")), None


def text(function: Function, derive: Derivative, gradient: Derivative | None) -> str:
    """Loops, Plan and LLVM text for this machine."""
    chosen = Options(threads=THREADS)
    run = run_pipeline(function, pipeline_options(derive, chosen, gradient=gradient, verify=0))
    plan = replace(run.plan, name=inner_name(run.plan.name))
    parts = (text_of(run.after("to-loops")), text_of(run.plan), generate(plan, host()).text)
    return "\n\n".join(parts).replace(f"{ROOT}/", "")


def main() -> int:
    """Writes, and compares if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    differ = []
    for name, function, derive, gradient in programs():
        file = f"{name.replace('/', '+').replace(' ', '_')}.txt"
        made = text(function, derive, gradient)
        (asked.folder / file).write_text(made, encoding="utf-8")
        if asked.against is not None and _read(asked.against / file) != made:
            differ.append(name)
            print(f"differs: {name}", flush=True)
    print(f"{sum(1 for _ in asked.folder.iterdir())} programs, {len(differ)} differ")
    return 1 if differ else 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    raise SystemExit(main())
