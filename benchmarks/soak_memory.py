"""Five hundred generated programs: bytes predicted and measured, gradients under every budget and thread count.

    python -m benchmarks.soak_memory [--programs 500] [--first 0]

For each program (``tests/generate.py``), for each point of its Pareto front and for one and two threads: the compiled
gradient is bitwise that of the plain plan, the arena really allocated has the predicted size, and the independent
checker finds nothing. Prints a line per disagreement and a summary; the exit status says whether there was any.
"""

import argparse
import sys
from functools import partial

import numpy as np

from gradc.ir.core import Function
from gradc.passes.budget import pareto
from gradc.passes.differentiate import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.plan_check import check_plan
from gradc.runtime.arrays import NUMPY_DTYPE
from gradc.runtime.native import NativeFunction, compile_plan
from tests.generate import random_program


def results(native: NativeFunction, given: list[np.ndarray]) -> list[np.ndarray]:
    """Fresh arrays of everything the program hands out."""
    waiting = iter(given)
    arrays = []
    for port in native.signature.ports:
        if port.direction == "out":
            arrays.append(np.empty(port.shape, NUMPY_DTYPE[port.dtype]))
        else:
            arrays.append(np.array(next(waiting), NUMPY_DTYPE[port.dtype], order="C"))
    native.call(arrays)
    ports = native.signature.ports
    return [a for a, port in zip(arrays, ports, strict=True) if port.direction != "in"]


def faults(seed: int) -> tuple[int, list[str]]:
    """How many plans of program ``seed`` were tried, and what was wrong."""
    program = random_program(seed, regions=seed % 2 == 0, images=seed % 7 == 0)
    names = list(program.differentiable)

    def derive(function: Function) -> Function:
        return value_and_grad(function, names)

    options = Options(derivative=derive, verify=0)
    given = [np.asarray(a) for a in program.inputs]
    points = pareto(program.function, options)
    plain: list[np.ndarray] | None = None
    found = []
    for point in points:
        plan = run_pipeline(
            program.function, Options(derivative=derive, verify=0, policy=point.policy)
        ).plan
        found += [f"{seed}: {point.policy}: {fault}" for fault in check_plan(plan)]
        for threads in (1, 2):
            native = compile_plan(plan, threads=threads, cache=False)
            if native.measured_bytes != plan.peak_bytes:
                found.append(f"{seed}: {native.measured_bytes} bytes, {plan.peak_bytes} predicted")
            outcome = results(native, given)
            plain = plain or outcome
            same = map(partial(np.array_equal, equal_nan=True), plain, outcome)
            if not all(same):
                found.append(f"{seed}: {point.policy}, {threads} threads: other bits")
    return 2 * len(points), found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args(arguments)
    tried, wrong = 0, 0
    for seed in range(options.first, options.first + options.programs):
        count, found = faults(seed)
        tried += count
        wrong += len(found)
        for line in found:
            print(line, flush=True)
    print(f"{options.programs} programs, {tried} compiled gradients, {wrong} disagreements")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
