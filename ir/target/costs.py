"""``Costs``: what work costs on a target. One table, from which fusion, schedules, estimates and
the cutting of launches all take their figures.

Figures are rough but in the right order; only thresholds and estimates depend on them. A verb costs
``cycles`` of one thread for a vector of ``lanes`` elements, and takes about ``instructions`` of
code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

# A verb of so many cycles is never computed twice if that can be helped.
_DEAR = 10.0


@dataclass(frozen=True, slots=True)
class VerbCost:
    """Throughput and length of one verb on one vector.

    ``is_crowded`` says that one vector at a time fills the registers: f32 is computed in f64, or
    much is needed until the end.
    """

    cycles: float = 1.0
    instructions: int = 1
    is_crowded: bool = False


_ONE = VerbCost()
_FUNCTIONS = ("exp", "expm1", "log", "log1p", "tanh", "erf")
_SLOW = ("div", "sqrt", "rsqrt", "floordiv", "mod", "mulhi")
_CPU: Mapping[str, VerbCost] = MappingProxyType(
    {
        **dict.fromkeys(_SLOW, VerbCost(4.0)),
        **dict.fromkeys(_FUNCTIONS, VerbCost(15.0, 25)),
        **dict.fromkeys(("sin", "cos"), VerbCost(15.0, 25, True)),
        "tan": VerbCost(30.0, 25, True),
        "pow": VerbCost(40.0, 60, True),
    }
)


@dataclass(frozen=True, slots=True)
class VerbCount:
    """Verbs per element of one op by class, and their cycles for a vector of elements."""

    plain: int = 0
    slow: int = 0
    transcendental: int = 0
    cycles: float = 0.0

    @property
    def total(self) -> int:
        """All of them."""
        return self.plain + self.slow + self.transcendental


@dataclass(frozen=True, eq=False)
class Costs:
    """The table of one target; one object for each, told apart by identity.

    Times are of one thread: ``cycles_per_us`` and ``bytes_per_us`` for what is bound by arithmetic
    and by memory, ``products`` multiply-adds of a matrix product per cycle.
    """

    verbs: Mapping[str, VerbCost] = field(default_factory=lambda: _CPU)
    lanes: int = 8
    element: float = 11.0  # cycles of a vector of elements beside its verbs: reading and writing
    products: float = 24.0
    cycles_per_us: float = 3e3
    bytes_per_us: float = 12e3
    # Cycles for a vector of elements from which on they are kept for the next stage of a kernel.
    keep: float = 4.0
    apart: float = 12.0  # cycles to read a vector of elements that are no neighbours
    # Microseconds from which on a loop is made parallel, and from which on a launch is cut; what a
    # part of it has at least; and the most parts.
    parallel_us: float = 75.0
    serial_us: float = 8.0
    part_us: float = 4.0
    parts: int = 64

    def of(self, verb: str) -> VerbCost:
        """What ``verb`` costs."""
        return self.verbs.get(verb, _ONE)

    def count(self, verbs: Sequence[str]) -> VerbCount:
        """The verbs of one element by class."""
        return _count(self, tuple(verbs))

    def microseconds(self, cycles: float, nbytes: int = 0) -> float:
        """The time of one thread for ``cycles`` of arithmetic and ``nbytes`` moved."""
        return max(cycles / self.cycles_per_us, nbytes / self.bytes_per_us)

    def worthwhile_parts(self, microseconds: float) -> int:
        """In how many ranges a launch is worth cutting, whatever the number of threads."""
        if microseconds < self.serial_us:
            return 1
        return max(1, min(self.parts, int(microseconds / self.part_us)))


@functools.lru_cache(maxsize=4096)
def _count(costs: Costs, verbs: tuple[str, ...]) -> VerbCount:
    cycles = [costs.of(verb).cycles for verb in verbs]
    dear = sum(c >= _DEAR for c in cycles)
    slow = sum(1 < c < _DEAR for c in cycles)
    return VerbCount(len(cycles) - dear - slow, slow, dear, sum(cycles))


CPU = Costs()
