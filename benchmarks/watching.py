"""What watching a run costs, in CPU time of a step: its calls by themselves, the least of several
rounds, beside the step as one native call.

``python -m benchmarks.watching``: a row per program. ``step`` is the native call; ``watching`` is
what every step pays: the records, and its part of the steps that are recorded (one in 50 up to the
thousandth, one in 250 later). ``once`` is the loss of the best constant, in milliseconds a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gradc
from benchmarks.guard import ROOT, TINY, queue
from gradc.runtime.doctor.constant import best_constant
from gradc.runtime.doctor.watching import SELDOM, Watching
from gradc.runtime.files.batches import samples_of
from gradc.runtime.training.watch import CHUNK, LATER_EVERY, WATCH_EVERY, moves

# Program, batch, steps of a round.
ROWS = (
    (TINY, 16, 3000),
    ("examples/digits/mlp.grad", 64, 500),
    ("examples/digits/cnn.grad", 64, 10),
)
ROUNDS = 7


def least(work: Callable[[], object], count: int) -> float:
    """Microseconds of CPU time of one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - start) / count * 1e6)
    return best


def measured(program: str, batch: int, count: int) -> tuple[float, float, float, float]:
    """Microseconds of a step, of watching it early and late; milliseconds of the constant."""
    net = gradc.loads(program) if "\n" in program else gradc.load(ROOT / program)
    inputs = {name: array[0] for name, array in queue(net, batch, 1).items()}
    samples = samples_of(net.signature, inputs, "the data")
    step = net.train_step("adamw(lr=1e-4)", threads=1)
    state, names = step.start(0), net.select("params")
    plain = least(lambda: step(state, **inputs), count)
    before = {n: state.arrays[n].copy() for n in names}
    step(state, **inputs)
    watch = Watching(step, samples, batch, 10**9, 0)

    def recorded(number: int) -> dict[str, Any]:
        kept = {n: state.arrays[n].copy() for n in names}
        moved = moves(before, state.arrays, step.layout.squares)
        return {**watch.fields(number, state, before, moved), "kept": kept}

    records: list[dict[str, Any]] = [
        {"step": n, "loss": 1.0, **({"update": 1e-3} if n % WATCH_EVERY == 0 else {})}
        for n in range(1, CHUNK + 1)
    ]

    def followed() -> None:
        unread, due = [], CHUNK + 1
        for record in records:
            if record["step"] < due:
                unread.append(record)
        watch.read(unread)

    every = least(followed, 5) / CHUNK
    some, more = least(lambda: recorded(150), 50), least(lambda: recorded(SELDOM), 50)
    start = time.process_time()
    best_constant(net, samples, batch)
    once = (time.process_time() - start) * 1e3
    moments = (more - some) / SELDOM
    early, late = (every + some / n + moments for n in (WATCH_EVERY, LATER_EVERY))
    return plain, early, late, once


def main() -> None:
    print(f"{'program':<28} {'step, us':>10} {'watching, us: first 1000, later':>33} {'once':>8}")
    for row in ROWS:
        plain, early, late, once = measured(*row)
        name = "337 parameters" if "\n" in row[0] else row[0]
        shares = f"{early:.2f} ({early / plain:.1%}) {late:.2f} ({late / plain:.1%})"
        print(f"{name:<28} {plain:>10.2f} {shares:>33} {once:>8.1f}")


if __name__ == "__main__":
    main()
