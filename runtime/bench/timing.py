"""Fair timing of several contenders in one process.

Contenders take turns: in every round each runs a block of calls, in rotating order, after one
untimed call that brings its code and its threads back. The time of a contender is the median over
rounds of its time per call; a ratio is the median over rounds of the ratio within that round, so
that a machine that slows down for a while slows down everyone.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BLOCK_SECONDS = 0.05
WARM_UP_CALLS = 3
MIN_ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over rounds, the fastest and the slowest round; and the
    rounds.
    """

    median: float
    best: float
    worst: float
    rounds: tuple[float, ...]


def block(step: Callable[[], object], calls: int) -> float:
    """Seconds per call of a block of `calls` calls, after one that does not count."""
    step()
    started = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - started) / calls


def calls_per_block(step: Callable[[], object]) -> int:
    """How many calls fill a block."""
    for _ in range(WARM_UP_CALLS):
        step()
    return max(1, round(BLOCK_SECONDS / block(step, WARM_UP_CALLS)))


def take_turns(steps: Sequence[Callable[[], object]], seconds: float) -> list[Timing]:
    """Time every step for about `seconds` in all, at least MIN_ROUNDS rounds each."""
    counts = [calls_per_block(step) for step in steps]
    rounds: list[list[float]] = [[] for _ in steps]
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        turn = 0
        while turn < MIN_ROUNDS or time.perf_counter() - started < seconds:
            for place in range(len(steps)):
                i = (place + turn) % len(steps)
                rounds[i].append(block(steps[i], counts[i]))
            turn += 1
    finally:
        gc.enable()
    return [Timing(statistics.median(r), min(r), max(r), tuple(r)) for r in rounds]


def ratio(of: Timing, to: Timing) -> float:
    """How many times slower `of` is than `to`: the median over rounds of both."""
    return statistics.median(a / b for a, b in zip(of.rounds, to.rounds, strict=True))
