"""Which rank holds up the others: how long each works on its own share of the steps.

What a rank takes is its time by the clock less what it waits for others in exchanges, so a rank is
slow if it has more to do, or less to do it with: another program on its machine, a processor that
is throttled, a disk that others use.

Non-goals: what to do about it; time of launches (``runtime.reports.profile``).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.runtime.ranks.world import MpiRanks

# A rank that takes so many times what the others take (their median), and at least so many seconds
# more, is named, once.
TIMES = 1.5
SECONDS = 2.0
# What is older than so many seconds of work says nothing of now.
REMEMBERED = 60.0


class Pace:
    """The steps of one rank; every rank has one and asks when the others do."""

    def __init__(self, world: MpiRanks | None) -> None:
        self._world = world
        self._told: set[int] = set()
        self._took = 0.0
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside, a rank reads its samples and takes a step."""
        start, waited = self._now()
        yield
        end, more = self._now()
        self._took += end - start - (more - waited)
        self._steps += 1

    def _now(self) -> tuple[float, float]:
        return time.monotonic(), 0.0 if self._world is None else self._world.waited

    def slow(self) -> Diagnostic | None:
        """What is said of a rank that has become slow, on every rank. All ranks ask."""
        if self._world is None or self._world.size == 1 or not self._steps:
            return None
        took = self._world.everyone(self._took)
        steps, worst = self._steps, took.index(max(took))
        usual = statistics.median(x for n, x in enumerate(took) if n != worst)
        if took[worst] > REMEMBERED:
            self._took, self._steps = 0.0, 0
        is_slow = took[worst] > max(TIMES * usual, usual + SECONDS)
        if not is_slow or worst in self._told:
            return None
        self._told.add(worst)
        each, other = (f"{1e3 * seconds / steps:.4g} ms" for seconds in (took[worst], usual))
        place = self._world.machine_of(worst)
        message = f"rank {worst} on {place} is slow: it works {each} on a step, others {other}"
        help = "look what else runs there; all ranks wait for the slowest in every step"
        return warning("GC0825", message, None, help=help)
