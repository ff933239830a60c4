"""Programs as kernel texts in the simulator, against the CPU's bits and over a prime field.

    python -m tests.support.cuda_programs [WORDS...] [--programs N] [--proofs] [--precision f64]
        [--groups] [--kept FILE]

runs the subjects of ``memory_subjects`` whose names have all the words (all of them if there are
none) and ``N`` generated programs, each in the simulator with every check, on a poisoned arena;
results must have the bits of the CPU backend. Models of images have sizes of their own here: fewer
images and channels, the same structure. ``--proofs`` adds the texts over a prime field,
``--precision`` compiles models in another type; in bf16 and f16, whose products are not promised
the CPU's bits, results must be as near as one of their roundings; those for sm_90, whose large
products are by groups of warps (``wgmma``), must have the bits of those for sm_80, which are by
warps, and those of another run: the simulator takes k in order in both. Products of these sizes are
seldom large: with ``--groups`` all that tensor cores multiply is by groups, and texts that do so
are counted. What takes longest comes last.
``FILE`` gets a line of JSON per program, by which an interrupted run goes on: programs that stand
there without a fault are not run again. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import gradc
from gradc.codegen.cuda.lockstep import KernelTexts
from gradc.codegen.cuda.printer import tensor
from gradc.codegen.cuda.printer.plans import print_plan, scratch_of, target
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.ir.loop.verbs import from_memory, to_memory
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.field import FieldArrays
from gradc.passes.prove.domains.words import Words, words_of
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import (
    ROOT,
    Subject,
    names,
    of_model,
    of_step,
    small,
    subject,
)

ISA = "sm_90"
TARGET = target(ISA)
# Sizes for models that take minutes at those of ``memory_subjects``.
SIZES: dict[str, dict[str, int]] = {
    "residual": {"B": 2, "C": 8},
    "unet": {"B": 2, "W": 4, "S": 16},
    "vgg": {"B": 2},
    "resnet": {"B": 2, "W": 4},
    "llama": {"B": 2, "F": 24},
    "mixer": {"B": 2, "S": 18, "P": 12, "F": 20, "G": 24},
    "conv1d": {"B": 2, "C": 12},
    "conv3d": {"B": 2, "D": 4, "S": 4},
    "mobilenet": {"B": 2, "C": 12, "S": 12},
    "lenet": {"B": 2},
}
_POISON = 0xFF
Arrays = Mapping[str, NDArray[Any]]


def small_subject(name: str, precision: str = "f32") -> Subject:
    """The subject of a name, at sizes that the simulator runs in moments."""
    if not name.endswith((" gradient", " step")) or name.startswith("noisy"):
        return subject(name)
    file, entry, kind = name.split()
    sizes = SIZES.get(Path(file).stem) if file.startswith("benchmarks") else None
    if sizes is None and precision == "f32":
        return subject(name)
    net = small(ROOT / file, entry, **(sizes or {}))
    if precision != "f32":
        net = gradc.load(ROOT / file, entry=entry, dims=net.dims, precision=precision)
    return of_step(name, net) if kind == "step" else of_model(name, net)


def plan_of(one: Subject, machine: Target | None = None) -> Plan:
    """The Plan for a graphics processor, complete."""
    on = machine or TARGET
    options = Options(
        one.derive, gradient=one.gradient, verify=0, target=on, scratch=scratch_of(on)
    )
    return run_pipeline(one.function, options).plan


def arrays_of(plan: Plan, given: Arrays) -> list[NDArray[Any]]:
    """One array per port, as memory holds it; what is only written is poisoned."""
    found = []
    for port in plan.ports:
        array = np.empty(port.shape, NUMPY_DTYPE[port.dtype])
        if port.direction == "out":
            array.reshape(-1).view(np.uint8)[:] = _POISON
        else:
            array[...] = to_memory(np.asarray(given[port.name]), port.dtype)
        found.append(array)
    return found


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays have equal bits, any NaN being as good as any other."""
    if not np.issubdtype(a.dtype, np.floating):
        return np.array_equal(a, b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    equal = np.atleast_1d(a).view(bits) == np.atleast_1d(b).view(bits)
    return bool((equal | (np.isnan(a) & np.isnan(b))).all())


def differing(one: Subject, program: Program, plan: Plan) -> list[str]:
    """The results in which the simulator and the CPU differ. Raises SimulationError."""
    mine, theirs = arrays_of(plan, one.arrays), arrays_of(plan, one.arrays)
    run_program(program, mine)
    native = compile_plan(_for_cpu(one), threads=1)
    native.call(theirs)
    rows = zip(plan.ports, mine, theirs, strict=True)
    return [
        port.name
        for port, a, b in rows
        if port.direction != "in" and not (same_bits(a, b) or _near(a, b, port.dtype))
    ]


def _near(a: NDArray[Any], b: NDArray[Any], dtype: DType) -> bool:
    """Whether results of 16 bits are as near as a rounding of their largest."""
    if dtype not in (DType.BF16, DType.F16):
        return False
    x, y = (from_memory(array, dtype).astype(np.float64) for array in (a, b))
    scale = float(np.abs(y).max(initial=0.0))
    ulp = 2.0**-7 if dtype is DType.BF16 else 2.0**-10
    return bool(np.isfinite(x).all() and np.abs(x - y).max(initial=0.0) <= ulp * scale)


def _for_cpu(one: Subject) -> Plan:
    return run_pipeline(one.function, Options(one.derive, gradient=one.gradient, verify=0)).plan


def field_point(plan: Plan, seed: int) -> tuple[dict[str, NDArray[Any]], Words]:
    """Elements of a prime field for the ports that are read, and what is computed with; integers
    are small.
    """
    rng = np.random.default_rng(seed)
    domain = FieldArrays(seed)
    given: dict[str, NDArray[Any]] = {}
    for port in plan.ports:
        if port.direction == "out":
            continue
        if port.dtype.is_float:
            given[port.name] = domain.random(port.shape, rng)
        else:
            most = 2 if port.dtype is DType.BOOL else 3
            given[port.name] = rng.integers(0, most, port.shape).astype(NUMPY_DTYPE[port.dtype])
    return given, words_of(domain)


def unproved(plan: Plan, program: Program, seed: int = 1) -> list[str]:
    """What is wrong with the texts over a prime field, at one point: each launch is run beside its
    loop nest.
    """
    given, words = field_point(plan, seed)
    with words.domain.quiet():
        ran = KernelTexts(plan, program, ISA).run(words, words.poison, given, np.equal)
    return [f"{name}: {fault}" for name, fault in ran.faults.items()]


def all_by_groups(plan: Plan) -> Program:
    """The texts for sm_90, where every product on tensor cores is by groups, however small."""
    with patch.object(tensor, "block_of", lambda *given: tensor.SMALL_GROUPS):
        return print_plan(plan, TARGET)


def check(
    name: str, proofs: bool = False, precision: str = "f32", groups: bool = False
) -> tuple[int, list[str]]:
    """The number of texts of a subject (with ``groups`` of those that have such products), and what
    is wrong with it.
    """
    one = small_subject(name, precision)
    plan = plan_of(one)
    program = all_by_groups(plan) if groups else print_plan(plan, TARGET)
    try:
        faults = differing(one, program, plan)
        faults += by_warps(one, program, plan) if precision in ("bf16", "f16") else []
        if proofs:
            faults += [f"not proved: {result}" for result in unproved(plan, program)]
    except SimulationError as fault:
        faults = [str(fault)]
    return sum("by groups" in t.source or not groups for t in program.texts), faults


def by_warps(one: Subject, program: Program, plan: Plan) -> list[str]:
    """The results in which texts for an architecture without products of groups differ, or another
    run does. Raises SimulationError.
    """
    machine = target("sm_80", TARGET.processors)
    theirs = plan_of(one, machine)
    runs = []
    for of, texts in ((plan, program), (plan, program), (theirs, print_plan(theirs, machine))):
        arrays = arrays_of(of, one.arrays)
        run_program(texts, arrays)
        runs.append({p.name: a for p, a in zip(of.ports, arrays, strict=True)})
    names = [p.name for p in plan.ports if p.direction != "in"]
    first, again, warps = runs
    found = [f"{n} in another run" for n in names if not same_bits(first[n], again[n])]
    return found + [f"{n} by warps" for n in names if not same_bits(first[n], warps[n])]


def _known(kept: Path | None) -> dict[tuple[str, str], tuple[int, list[str]]]:
    """The texts of the programs that are known to be right."""
    if kept is None or not kept.exists():
        return {}
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    return {(one["name"], one["as"]): (one["texts"], []) for one in rows if not one["faults"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--programs", type=int, default=0)
    parser.add_argument("--proofs", action="store_true")
    parser.add_argument("--precision", default="f32", choices=("f64", "f32", "bf16", "f16"))
    parser.add_argument("--groups", action="store_true")
    parser.add_argument("--kept", type=Path)
    asked = parser.parse_args(arguments)
    chosen = [name for name in names() if all(word in name for word in asked.words)]
    if asked.programs and not asked.words:
        chosen += [f"program {n}" for n in range(asked.programs)]
    chosen.sort(key=lambda name: (Path(name.split()[0]).stem in SIZES, name.endswith("step")))
    known = _known(asked.kept)
    texts, wrong = 0, 0
    for name in chosen:
        as_what = f"{asked.precision}{' proved' * asked.proofs}{' by groups' * asked.groups}"
        how = asked.proofs, asked.precision, asked.groups
        count, faults = known.get((name, as_what)) or check(name, *how)
        texts += count
        wrong += bool(faults)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        print(f"{name}: {count} texts, {faults or 'equal'} ({used:.0f} s)", flush=True)
        if asked.kept is not None and (name, as_what) not in known:
            row = {"name": name, "as": as_what, "texts": count, "faults": faults}
            with asked.kept.open("a") as out:
                out.write(json.dumps(row) + "\n")
    print(f"{len(chosen)} programs, {texts} texts, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
