"""Copies from global to shared memory that are in flight: nobody may touch where they go from the
time they set off until the thread that sent them has waited for their group; then it has written
there, so that others see it after a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gradc.codegen.cuda.simulate.memory import Lanes, Own, SimulationError
from gradc.ir.loop.verbs import Array


@dataclass(frozen=True, slots=True)
class _Copy:
    to: Own
    at: Array
    lanes: Lanes
    values: Array


@dataclass
class Copies:
    """Those of one run; groups are the same for all of its threads."""

    began: int
    first: int  # the number of the first thread of this run
    _open: list[_Copy] = field(default_factory=list)
    _groups: list[list[_Copy]] = field(default_factory=list)

    def set_off(self, to: Own, at: Array, lanes: Lanes, values: Array) -> None:
        """``values`` are on their way to the cells ``at``. Raises SimulationError."""
        to.shadow.fly(at, lanes, self.began, to.name)
        self._open.append(_Copy(to, at, lanes, values.reshape(-1)))

    def commit(self) -> None:
        self._groups.append(self._open)
        self._open = []

    def wait(self, groups: int, times: Array) -> None:
        """All but the last ``groups`` groups arrive; ``times`` are now, of every thread."""
        while len(self._groups) > groups:
            for copy in self._groups.pop(0):
                now = times.reshape(-1)[copy.lanes.threads - self.first]
                lanes = replace(copy.lanes, times=now)
                copy.to.shadow.land(copy.at, lanes, self.began, copy.to.name)
                copy.to.values[copy.at] = copy.values

    def finish(self) -> None:
        """Raises SimulationError if something never arrived."""
        if self._open or any(self._groups):
            raise SimulationError("race", "a text ends with copies in flight")
