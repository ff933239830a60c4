"""Compile time of chained stencils, by counted calls: ``python -m benchmarks.stencil_growth [STEPS
...]``.

The steps of tests/runtime/test_stencil_growth.py, which counts to some hundred: here as many as
asked for (500, 1000, 2000 and 5000 unless said otherwise). The exponent is that of calls over ops
of the recorded program, from one length to the next; 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial

from gradc.passes.pipeline import run_pipeline
from tests.passes.test_pipeline_growth import calls
from tests.runtime.test_stencil_growth import STEPS, chain, traced


def main() -> None:
    """Prints a row per step and length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lengths", type=int, nargs="*", default=[500, 1000, 2000, 5000])
    parser.add_argument("--only", default="rolled,sliced")
    given = parser.parse_args()
    print("| step | length | ops | calls | exponent | seconds, counting |")
    print("|---|---|---|---|---|---|")
    for step in STEPS:
        if step.__name__ not in given.only.split(","):
            continue
        before: tuple[int, int] | None = None
        for length in given.lengths:
            began = time.process_time()
            function, options = traced(chain(step, length))
            ops = len(function.block.body)
            count = calls(partial(run_pipeline, function, options))
            shown = ""
            if before is not None:
                shown = f"{math.log(count / before[1]) / math.log(ops / before[0]):.3f}"
            before = ops, count
            seconds = time.process_time() - began
            cells = f"{step.__name__} | {length} | {ops} | {count} | {shown} | {seconds:.0f}"
            print(f"| {cells} |", flush=True)


if __name__ == "__main__":
    main()
