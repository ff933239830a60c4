"""The least work with which a chain of steps can be reversed when only few states may be kept
(Griewank 1992).

To reverse ``steps`` steps with room for ``slots`` states (the first one included), some steps must
be run again. With r the least number for which C(slots + r, slots) >= steps, the least number of
forward steps in all is ``r steps - C(slots + r, r - 1)``, and a schedule that needs no more splits
at binomial places (Griewank and Walther 2000, algorithm 799, ``revolve``). ``rematerialise_time``
carries it out for few units; for the chunks of equal size of ``rematerialise_scan``, which stay
rolled, it is the yardstick.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Literal


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a schedule.

    ``save``: keep the state before step ``first``. ``advance``: run the steps ``first`` to ``last``
        (exclusive).
    ``reverse``: run step ``first`` once more and reverse it. ``free``: forget the state before step
        ``first``.
    """

    kind: Literal["save", "advance", "reverse", "free"]
    first: int
    last: int = 0


def forward_steps(steps: int, slots: int) -> int:
    """The least number of forward steps that reverses ``steps`` steps with ``slots`` states.

    The run that a reversal of one step begins with does not count. Raises ValueError without a
    slot.
    """
    if slots < 1:
        raise ValueError("at least the first state has to be kept")
    if steps < 1:
        return 0
    repeats = _repeats(steps, slots)
    return repeats * steps - comb(slots + repeats, repeats - 1) if repeats else 0


def _repeats(steps: int, slots: int) -> int:
    """How often a step is run at most: the least r with C(slots + r, slots) >= steps."""
    repeats = 0
    while comb(slots + repeats, slots) < steps:
        repeats += 1
    return repeats


def schedule(steps: int, slots: int) -> Iterator[Action]:
    """Actions that reverse ``steps`` steps with at most ``slots`` states kept and ``forward_steps``
    advances.
    """
    if steps < 1:
        return
    # Pieces still to be reversed, last first: (first step, end, free slots, whether its first state
    # is kept).
    pending: list[tuple[int, int, int, bool]] = [(0, steps, slots, False)]
    while pending:
        first, end, free, is_kept = pending.pop()
        if not is_kept:
            yield Action("save", first)
            free -= 1
        if end - first == 1:
            yield Action("reverse", first)
            yield Action("free", first)
            continue
        middle = first + split(end - first, free)
        yield Action("advance", first, middle)
        if free:
            pending.append((first, middle, free, True))
            pending.append((middle, end, free, False))
        else:
            yield Action("reverse", end - 1)
            pending.append((first, end - 1, free, True))


def split(steps: int, free: int) -> int:
    """How far to advance ``steps`` steps before the next state is kept, with ``free`` slots: where
    both sides need least.

    The cost is convex in the place, so the first place from which it does not fall is found by
    halving.
    """
    if not free:
        return steps - 1

    def cost(place: int) -> int:
        return place + forward_steps(place, free + 1) + forward_steps(steps - place, free)

    low, high = 1, steps - 1
    while low < high:
        middle = (low + high) // 2
        if cost(middle + 1) < cost(middle):
            low = middle + 1
        else:
            high = middle
    return low
