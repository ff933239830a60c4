"""What a backend measures: how long launches took, and what a machine can do at most.

Non-goals: measuring (each backend's own), what the figures mean (``runtime.reports.profile``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from gradc.ir.plan.plan import Launch

# Rounds further apart than this were disturbed.
BUSY = 1.25


@dataclass(frozen=True, slots=True)
class LaunchTime:
    """Seconds of one launch in one call, all its runs together.

    ``busy`` is what its ``parts`` threads worked together, ``busiest`` the one that worked longest.
    """

    launch: Launch
    runs: int
    parts: int
    seconds: float
    busy: float
    busiest: float


@dataclass(frozen=True, slots=True)
class CallTime:
    """One call: its whole time, and that of its launches in order."""

    seconds: float
    launches: tuple[LaunchTime, ...]


class Clocked(Protocol):
    """A program that keeps time: the same launches on the same bytes as its twin that does not."""

    threads: int

    def call(self, arrays: Sequence[NDArray[Any]], times: int = 1) -> CallTime:
        """Runs the program ``times`` times on arrays that fit its ports; times are per call."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Flops and bytes per second of ``threads`` threads together, and what they belong to.

    ``flops`` is by precision, ``bandwidth`` by bytes gone through, ascending. ``spread`` is how
    many times longer than the fastest the median round took, at worst.
    """

    processor: str
    date: str
    threads: int
    flops: Mapping[str, float]
    bandwidth: tuple[tuple[int, float], ...]
    spread: float

    @property
    def is_disturbed(self) -> bool:
        """Whether the machine was busy with other things when this was measured."""
        return self.spread > BUSY

    @property
    def memory(self) -> float:
        """Bytes per second from beyond the caches."""
        return self.bandwidth[-1][1]

    def peak(self, precision: str) -> float:
        """Flops per second; bf16 and f16 are computed in f32 where the processor has nothing
        better.
        """
        return self.flops.get(precision, self.flops["f32"])

    def bandwidth_for(self, nbytes: float) -> float:
        """Bytes per second at most, for something that touches ``nbytes`` different bytes."""
        smaller = [size for size, _ in self.bandwidth if size <= nbytes]
        least = smaller[-1] if smaller else 0
        return max(rate for size, rate in self.bandwidth if size >= least)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "processor": self.processor,
            "date": self.date,
            "threads": self.threads,
            "flops": dict(self.flops),
            "bandwidth": [[size, rate] for size, rate in self.bandwidth],
            "spread": self.spread,
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Limits:
        """Reads ``to_json``'s result back. Raises KeyError, TypeError or ValueError for anything
        else.
        """
        flops = {str(name): float(rate) for name, rate in found["flops"].items()}
        bandwidth = tuple((int(size), float(rate)) for size, rate in found["bandwidth"])
        if "f32" not in flops or not bandwidth or min(*flops.values(), bandwidth[-1][1]) <= 0:
            raise ValueError("a figure is missing")
        texts = (str(found["processor"]), str(found["date"]))
        return Limits(*texts, int(found["threads"]), flops, bandwidth, float(found["spread"]))
