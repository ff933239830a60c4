"""What sharing a batch costs a rank: the same samples on each of R ranks of one thread.

    mpiexec -n 1 python -m benchmarks.rank_scaling; mpiexec -n 2 python -m benchmarks.rank_scaling

Steps of the GPT of ``examples/text``. Counted is the processor time of a rank, since machines are
shared and waiting for others is no work: of a step without its exchanges (median), and of the
exchanges where nobody had to wait (the least of all steps). Weak scaling is the step of one rank
over step and exchanges of one of several.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

import gradc
from gradc.codegen.exchange import Bytes
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from gradc.runtime.ranks.launch import mpi
from gradc.runtime.ranks.world import MpiRanks

PROGRAM = Path(__file__).parents[1] / "examples" / "text" / "gpt.grad"


class Timed(MpiRanks):
    """Ranks whose exchanges are timed and counted."""

    spent = 0.0
    sent = 0

    def exchange(self, kind: str, parts: Bytes) -> None:
        start = time.process_time()
        super().exchange(kind, parts)
        self.spent += time.process_time() - start
        self.sent += (len(parts) - 1) * parts.shape[1]


def main() -> None:
    """Prints one line of JSON from rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="samples of each rank (16)")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    world = Timed(mpi().COMM_WORLD)
    net = gradc.load(str(PROGRAM))
    ranks = None if world.size == 1 else world
    step = TrainStep(
        net, Recipe("adamw(lr=1e-3)", accumulate=world.size), compile_options(threads=1), ranks
    )
    state = step.start(0)
    rows = np.random.default_rng(world.rank).integers(0, 96, (2, options.batch, 64))
    step(state, tokens=rows[0], targets=rows[1])
    work, exchanged, sent = [], [], world.sent
    for _ in range(options.steps):
        start, before = time.process_time(), world.spent
        step(state, tokens=rows[0], targets=rows[1])
        exchanged.append(world.spent - before)
        work.append(time.process_time() - start - exchanged[-1])
    found = {
        "ranks": world.size,
        "work_ms": round(1e3 * statistics.median(work), 2),
        "least_work_ms": round(1e3 * min(work), 2),
        "exchange_ms": round(1e3 * min(exchanged), 2),
        "sent_bytes": (world.sent - sent) // options.steps,
    }
    if ranks is not None:
        found["planned_bytes"] = step.plan({"B": options.batch * world.size}).sent_bytes
    if world.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
