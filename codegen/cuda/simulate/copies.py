"""Copies from global to shared memory that are in flight: nobody may touch where they go from the
time they set off until the thread that sent them has waited for their group; then it has written
there, so that others see it after a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradc.codegen.cuda.simulate.memory import Lanes, Own, SimulationError
from gradc.ir.loop.verbs import Array


@dataclass(frozen=True, slots=True)
class _Copy:
    """One element of each of some lanes; ``own`` are their numbers in this run."""

    to: Own
    at: Array
    lanes: Lanes
    own: Array
    values: Array
    groups: Array


class Copies:
    """Those of one run. Every thread has groups of its own, numbered as it commits them."""

    def __init__(self, began: int, first: int, count: int) -> None:
        """``first``: the number of the first of its ``count`` threads."""
        self.began = began
        self.first = first
        self._committed = np.zeros(count, np.int64)
        self._flying: list[_Copy] = []

    def set_off(self, to: Own, at: Array, lanes: Lanes, values: Array) -> None:
        """``values`` are on their way to the cells ``at``. Raises SimulationError."""
        to.shadow.fly(at, lanes, self.began, to.name)
        own = lanes.threads - self.first
        copy = _Copy(to, at, lanes, own, values.reshape(-1), self._committed[own])
        self._flying.append(copy)

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
                self._land(copy, there, now)
            if not there.all():
                staying.append(_part(copy, ~there))
        self._flying = staying

    def _land(self, copy: _Copy, there: Array, now: Array) -> None:
        done = _part(copy, there)
        lanes = Lanes(done.lanes.threads, done.lanes.blocks, now[done.own], done.lanes.alone)
        done.to.shadow.land(done.at, lanes, self.began, done.to.name)
        done.to.values[done.at] = done.values

    def finish(self) -> None:
        """Raises SimulationError if something never arrived."""
        if self._flying:
            raise SimulationError("race", "a text ends with copies in flight")


def _part(copy: _Copy, which: Array) -> _Copy:
    lanes = copy.lanes
    chosen = Lanes(lanes.threads[which], lanes.blocks[which], lanes.times[which], lanes.alone)
    own, groups = copy.own[which], copy.groups[which]
    return _Copy(copy.to, copy.at[which], chosen, own, copy.values[which], groups)
