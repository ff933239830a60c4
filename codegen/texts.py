"""What a backend's code is made of, where that can be run as it stands over other numbers than a
machine's: kernel texts beside the loop nests that they were printed from.

Non-goals: which numbers (``passes.prove``), what is said of what is found
(``runtime.reports.texts``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.loop.execute import Scalars

# Which elements of two arrays are equal.
Same: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text: its name, the number of its kernel in the Plan, and a digest of its source."""

    name: str
    kernel: int
    digest: str


@dataclass(frozen=True, slots=True)
class TextFault:
    """What is wrong with a text: a result that differs from its loop nest's (``kind`` is
    "differs"), or what no text may do (a race, an address out of bounds, ...).

    ``line`` counts in the text, 0 where none is to blame; ``source`` is that line. ``of`` is what
    was looked at, ``found`` and ``expected`` what was seen there.
    """

    text: str
    kind: str
    line: int
    source: str
    of: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"line {self.line}, `{self.source}`: " if self.line else ""
        if self.kind != "differs":
            return f"{where}{self.found}"
        return f"{where}{self.of} is {self.found}, and should be {self.expected}"


@dataclass(frozen=True, slots=True)
class TextsRun:
    """One run of all launches: the first fault of every text that has one; of every text and line
    with a loop the most trips, line 0 being its blocks; how many operations lanes took.
    """

    faults: Mapping[str, TextFault]
    trips: Mapping[str, Mapping[int, int]]
    operations: int


class Texts(Protocol):
    """The texts of a Plan, and how to run them."""

    rows: Sequence[TextRow]

    def run(
        self,
        scalars: Scalars,
        poison: Callable[[int], NDArray[Any]],
        arguments: Mapping[str, Any],
        same: Same,
    ) -> TextsRun:
        """Every launch in order, as text and as loop nest, each on what the loop nests before it
        have left in memory. ``poison`` gives words that nothing was written to.
        """

    def machine_code(self) -> dict[str, str]:
        """The digest of the machine code made of them, and the versions of what made it; empty
        where the toolchain is missing.
        """
