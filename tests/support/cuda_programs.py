"""Programs as kernel texts in the simulator, against the CPU's bits and over a prime field.

    python -m tests.support.cuda_programs [WORDS...] [--programs N] [--proofs]

runs the subjects of ``memory_subjects`` whose names have all the words (all of them if there are
none) and ``N`` generated programs, each in the simulator with every check, on a poisoned arena;
results must have the bits of the CPU backend. ``--proofs`` adds the texts over a prime field. The
exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.cuda.printer.kernels import scratch_bytes
from gradc.codegen.cuda.printer.plans import print_plan, target
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.simulate.memory import SimulationError
from gradc.codegen.cuda.simulate.run import Device, execute, run_program
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.field import FieldArrays
from gradc.passes.prove.domains.words import words_of
from gradc.passes.prove.programs.kernels import ShadowRun
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import Subject, names, subject

ISA = "sm_90"
_POISON = 0xFF
Arrays = Mapping[str, NDArray[Any]]


def plan_of(one: Subject) -> Plan:
    """The Plan for a graphics processor, complete."""
    options = Options(
        one.derive, gradient=one.gradient, verify=0, target=target(ISA), scratch=scratch_bytes
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
            array[...] = given[port.name]
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
    return [port.name for port, a, b in rows if port.direction != "in" and not same_bits(a, b)]


def _for_cpu(one: Subject) -> Plan:
    return run_pipeline(one.function, Options(one.derive, gradient=one.gradient, verify=0)).plan


def unproved(plan: Plan, program: Program, seed: int = 1) -> list[str]:
    """The results in which the texts and the loop IR differ over a prime field, at one point.

    The arena holds a word per byte for both; integers are small and drawn.
    """
    rng = np.random.default_rng(seed)
    domain = FieldArrays(seed)
    scalars = words_of(domain)
    given: dict[str, NDArray[Any]] = {}
    for port in plan.ports:
        if port.direction == "out":
            continue
        if port.dtype.is_float:
            given[port.name] = domain.random(port.shape, rng)
        else:
            most = 2 if port.dtype is DType.BOOL else 3
            given[port.name] = rng.integers(0, most, port.shape).astype(NUMPY_DTYPE[port.dtype])
    with domain.quiet():
        expected = ShadowRun(plan, scalars).run(given)
    device = Device(scalars)
    arena = device.space("arena", scalars.poison(plan.arena_bytes), False)
    spaces = []
    for port in plan.ports:
        words = scalars.poison(plan.tensors[port.tensor].nbytes)
        if port.direction != "out":
            values = np.asarray(given[port.name]).reshape(-1)
            words[:: port.dtype.itemsize] = scalars.store(values, port.dtype)
        spaces.append(device.space(port.name, words, port.direction != "out"))
    execute(program, device, arena, spaces)
    results = [(p, s) for p, s in zip(plan.ports, spaces, strict=True) if p.direction != "in"]
    return [
        port.name
        for (port, space), value in zip(results, expected, strict=True)
        if not np.array_equal(_words(space.words, port.dtype, scalars), value.reshape(-1))
    ]


def _words(words: NDArray[Any], dtype: DType, scalars: Any) -> Any:
    return scalars.load(np.ascontiguousarray(words[:: dtype.itemsize]), dtype)


def check(name: str, proofs: bool = False) -> tuple[int, list[str]]:
    """The number of texts of a subject, and what is wrong with it."""
    one = subject(name)
    plan = plan_of(one)
    program = print_plan(plan, ISA)
    try:
        faults = differing(one, program, plan)
        if proofs:
            faults += [f"not proved: {result}" for result in unproved(plan, program)]
    except SimulationError as fault:
        faults = [str(fault)]
    return len(program.texts), faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--programs", type=int, default=0)
    parser.add_argument("--proofs", action="store_true")
    asked = parser.parse_args(arguments)
    chosen = [name for name in names() if all(word in name for word in asked.words)]
    if asked.programs and not asked.words:
        chosen += [f"program {n}" for n in range(asked.programs)]
    texts, wrong = 0, 0
    for name in chosen:
        count, faults = check(name, asked.proofs)
        texts += count
        wrong += bool(faults)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        print(f"{name}: {count} texts, {faults or 'equal'} ({used:.0f} s)", flush=True)
    print(f"{len(chosen)} programs, {texts} texts, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
