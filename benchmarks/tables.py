"""Steps over large tables: `python -m benchmarks.tables`.

One step of `sgd` over the two tables of 20 000 words of `word2vec`, in turns: as it is compiled,
which visits the rows that the batch names, and with the same rate from a schedule, by which all
rows are updated. Both have the same bits, which is held first. Prints the smallest and the median
CPU milliseconds of one thread, and the bytes that a step needs beyond its arrays.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import gradc
from benchmarks.cases import word2vec

ROUNDS, CALLS = 15, 20
OPTIMIZER = "sgd(lr=0.1)"
WAYS = {"rows": None, "whole": "constant(0.1)"}


def main() -> None:
    """Checks, times and tells."""
    case = word2vec()
    net, inputs = gradc.load(case.file), case.draw_inputs(np.random.default_rng(0))
    steps = {way: net.train_step(OPTIMIZER, schedule=s, threads=1) for way, s in WAYS.items()}
    states = {way: step.init(case.params()) for way, step in steps.items()}
    for _ in range(3):
        for way, step in steps.items():
            step(states[way], **inputs)
    for name, array in states["rows"].arrays.items():
        assert array.tobytes() == states["whole"].arrays[name].tobytes(), name
    spent: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(ROUNDS):
        for way, step in steps.items():
            start = time.thread_time()
            for _ in range(CALLS):
                step(states[way], **inputs)
            spent[way].append((time.thread_time() - start) / CALLS * 1e3)
    for way, times in spent.items():
        room = steps[way].plan().arena_bytes / 1e6
        print(f"{way:6s} {min(times):7.3f} {median(times):7.3f} ms, {room:6.2f} MB")


if __name__ == "__main__":
    main()
