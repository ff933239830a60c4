"""What sharing a batch costs a rank: the same samples on each of R ranks of one thread.

    mpiexec -n 1 python -m benchmarks.rank_scaling; mpiexec -n 2 python -m benchmarks.rank_scaling

Steps of the GPT of ``examples/text``. Counted is the processor time of a rank, since machines are
shared and waiting for others is no work: of a step without its exchanges (median), and of the
exchanges where nobody had to wait (the least of all steps). Weak scaling is the step of one rank
over step and exchanges of one of several.

In turns with steps whose exchanges are waited for where they begin (``blocking``): what of the time
in exchanges, by the clock on the wall, is hidden behind what the ranks compute. With ``--gbit 10``
a message arrives no sooner than a network of so many gigabits a second would bring it, 50 us after
it left and one after another, without taking a core; that stands for a network between machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import gradc
from gradc.codegen.exchange import Bytes
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from gradc.runtime.ranks.launch import mpi
from gradc.runtime.ranks.world import MpiRanks

MESSAGE = 5e-5
PROGRAM = Path(__file__).parents[1] / "examples" / "text" / "gpt.grad"


class Timed(MpiRanks):
    """Ranks whose exchanges are timed and counted; where they are ``blocking`` each is waited for
    where it begins.
    """

    blocking = False
    link = 0.0  # bytes per second, if what is sent takes that long besides
    sent = 0
    cpu = wall = free = 0.0

    def begin(self, kind: str, parts: Bytes) -> Callable[[], object]:
        count = (len(parts) - 1) * parts.shape[1]
        self.sent += count
        with self._timed():
            arrived = super().begin(kind, parts)
            self.free = max(self.free, time.perf_counter())
            self.free += MESSAGE + count / self.link if self.link else 0.0
            end = partial(self._timed_end, arrived, self.free)
        if self.blocking:
            end()
        return (lambda: None) if self.blocking else end

    def _timed_end(self, arrived: Callable[[], object], until: float) -> None:
        with self._timed():
            arrived()
            time.sleep(max(0.0, until - time.perf_counter()))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def main() -> None:
    """Prints one line of JSON from rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="samples of each rank (16)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--gbit", type=float, default=0.0, help="of a network, as told above")
    options = parser.parse_args()
    world = Timed(mpi().COMM_WORLD)
    world.link = options.gbit / 8 * 1e9
    net = gradc.load(str(PROGRAM))
    ranks = None if world.size == 1 else world
    step = TrainStep(
        net, Recipe("adamw(lr=1e-3)", accumulate=world.size), compile_options(threads=1), ranks
    )
    state = step.start(0)
    rows = np.random.default_rng(world.rank).integers(0, 96, (2, options.batch, 64))

    def run(blocking: bool) -> dict[str, float]:
        """Milliseconds of a step, and those in exchanges."""
        world.blocking, world.cpu, world.wall = blocking, 0.0, 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        step(state, tokens=rows[0], targets=rows[1])
        took, used = time.perf_counter() - wall, time.process_time() - cpu - world.cpu
        times = {"work": used, "step": took, "exchange": world.wall, "exchange_cpu": world.cpu}
        return {name: 1e3 * seconds for name, seconds in times.items()}

    run(False)
    sent = world.sent
    pairs = [(run(False), run(True)) for _ in range(options.steps)]
    ways = {"": [a for a, _ in pairs], "blocking_": [b for _, b in pairs]}
    found: dict[str, float] = {"ranks": world.size}
    for way, runs in ways.items() if ranks is not None else [("", ways[""])]:
        for name in runs[0]:
            times = [run[name] for run in runs]
            found[f"{way}{name}_ms"] = round(statistics.median(times), 2)
            found[f"{way}least_{name}_ms"] = round(min(times), 2)
    if ranks is not None:
        waited = found["exchange_ms"] / found["blocking_exchange_ms"]
        found["hidden_percent"] = round(100 * (1 - waited), 1)
    found["sent_bytes"] = (world.sent - sent) // (2 * options.steps)
    if ranks is not None:
        found["planned_bytes"] = step.plan({"B": options.batch * world.size}).sent_bytes
    if world.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
