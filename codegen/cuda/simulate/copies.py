"""Copies from global to shared memory that are in flight: nobody may touch where they go from the
time they set off until the thread that sent them has waited for their group; then it has written
there, so that others see it after a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradc.codegen.cuda.simulate.memory import Own
from gradc.codegen.cuda.simulate.shadow import Lanes, Place, SimulationError
from gradc.ir.loop.verbs import Array


@dataclass(frozen=True, slots=True)
class _Copy:
    """One element of each of some lanes; ``own`` are their numbers in this run."""

    to: Own
    at: Place
    lanes: Lanes
    own: Array
    values: Array
    groups: Array

    def part(self, which: Array) -> _Copy:
        if which.all():
            return self
        own, groups = self.own[which], self.groups[which]
        place, lanes = self.at.part(which), self.lanes.part(which)
        return _Copy(self.to, place, lanes, own, self.values[which], groups)


class Copies:
    """Those of one run. Every thread has groups of its own, numbered as it commits them."""

    def __init__(self, first: int, count: int) -> None:
        """``first``: the number of the first of its ``count`` threads."""
        self.first = first
        self._committed = np.zeros(count, np.int64)
        self._flying: list[_Copy] = []

    def set_off(self, to: Own, at: Place, lanes: Lanes, values: Array) -> None:
        """``values``, one a lane, are on their way. Raises SimulationError."""
        to.shadow.fly(at, lanes, to.name)
        own = lanes.threads - self.first
        self._flying.append(_Copy(to, at, lanes, own, values, self._committed[own]))

    def commit(self, lanes: Lanes) -> None:
        self._committed[lanes.threads - self.first] += 1

    def wait(self, groups: int, lanes: Lanes) -> None:
        """All but the last ``groups`` groups of these lanes arrive."""
        least = np.full(self._committed.size, -1)
        now = np.zeros(self._committed.size, np.int64)
        own = lanes.threads - self.first
        least[own] = self._committed[own] - groups
        now[own] = lanes.times
        staying = []
        for copy in self._flying:
            there = copy.groups < least[copy.own]
            if there.any():
                self._land(copy.part(there), now, lanes.interval)
            if not there.all():
                staying.append(copy.part(~there))
        self._flying = staying

    def _land(self, done: _Copy, now: Array, interval: int) -> None:
        times = now[done.own]
        lanes = Lanes(done.lanes.threads, done.lanes.blocks, times, done.lanes.alone, interval)
        done.to.shadow.land(done.at, lanes, done.to.name)
        done.at.put(done.to.values, done.values)

    def finish(self) -> None:
        """Raises SimulationError if something never arrived."""
        if self._flying:
            raise SimulationError("race", "a text ends with copies in flight")
