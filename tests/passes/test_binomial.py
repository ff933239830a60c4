"""Binomial checkpointing: counts against dynamic programming, schedules played, the published large
case.
"""

from __future__ import annotations

from functools import cache

import pytest

from gradc.passes.recompute.binomial import forward_steps, schedule


@cache
def optimum(steps: int, slots: int) -> int:
    """The least number of advances, by trying every place for the next state."""
    if steps <= 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + optimum(m, slots) + optimum(steps - m, slots - 1) for m in range(1, steps))


def played(steps: int, slots: int) -> int:
    """Plays the schedule as a machine would and returns the number of advances."""
    kept: set[int] = set()
    state, left, advances = 0, steps, 0
    for action in schedule(steps, slots):
        if action.kind == "save":
            assert state == action.first and len(kept) < slots
            kept.add(action.first)
        elif action.kind == "advance":
            assert action.first in kept and action.last > action.first
            advances += action.last - action.first
            state = action.last
        elif action.kind == "reverse":
            assert action.first == left - 1, "steps are reversed in order"
            assert action.first in kept or action.first == state
            left -= 1
        else:
            kept.remove(action.first)
    assert left == 0 and not kept
    return advances


@pytest.mark.parametrize("slots", range(1, 9))
def test_small_cases_are_optimal(slots: int) -> None:
    for steps in range(80):
        assert forward_steps(steps, slots) == optimum(steps, slots)
        assert played(steps, slots) == optimum(steps, slots)


def test_the_published_case() -> None:
    """13 465 steps in 116 slots take 33 374 forward steps."""
    assert forward_steps(13_465, 116) == 33_374
    assert played(13_465, 116) == 33_374


def test_edges() -> None:
    assert forward_steps(100, 100) == 99 == played(100, 100)
    assert forward_steps(1, 1) == 0 and forward_steps(0, 3) == 0
    assert list(schedule(0, 1)) == []
    with pytest.raises(ValueError, match="first state"):
        forward_steps(5, 0)
