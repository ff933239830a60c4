"""Scratch of the target in the arena: packed factors of matrix products, rows of threads.

A launch may use its scratch as it likes and leaves nothing in it, so its bytes can lie wherever
nothing else is alive at that moment: in a gap below the top of the arena, or above what is alive.
The arena grows only where a launch finds no gap, and then by as little as the placement of the
other tensors allows: scratch of different launches never exists at the same time. If that leaves
the arena too far above its lower bound, all offsets are chosen again, scratch included.

Invariants: every launch that needs scratch has a tensor of its own, whole cache lines long, alive
during that launch only. Non-goals: how much a kernel needs (the backend says so).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TypeAlias

import numpy as np

from gradc.ir.loop.kernel import Kernel
from gradc.ir.plan.plan import Launch, Plan, Tensor
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType
from gradc.passes.place.lifetime import numbered
from gradc.passes.place.pack import aligned
from gradc.passes.place.place import WORTH, arena_lower_bound, assign, storage

# Scratch that was just used is still in the caches; so many places are tried before a new one.
_TRIED = 4
# Everything is placed anew only if the arena is further above its lower bound than this.
_CLOSE = 1.02


# The bytes that a launch of a kernel needs, all of its threads together.
Scratch: TypeAlias = Callable[[Kernel], int]


def place_scratch(plan: Plan, target: Target, scratch: Scratch) -> Plan:
    """``plan``, which is placed, with what ``scratch`` asks for on ``target``."""
    needs = [aligned(scratch(kernel)) for kernel in plan.kernels]
    wanted = [(i.number, i.launch, needs[i.launch.kernel]) for i in numbered(plan.steps)]
    wanted = [item for item in wanted if item[2]]
    if not wanted:
        return replace(plan, threads=target.threads)
    blocks = _Blocks(plan)
    total = max(plan.arena_bytes, *(size + blocks.lowest(n, size) for n, _, size in wanted))
    tensors, names = list(plan.tensors), {}
    recent: list[int] = []
    for number, launch, size in wanted:
        offset = blocks.offset(number, size, total, recent)
        recent = [offset, *(other for other in recent if other != offset)][:_TRIED]
        names[number] = len(tensors)
        title = f"scratch of {plan.kernels[launch.kernel].name}"
        words = (size // DType.U32.itemsize,)
        tensors.append(
            Tensor(
                title, words, DType.U32, "arena", None, offset, span=launch.span, scope=launch.scope
            )
        )
    numbers = count()

    def with_scratch(launch: Launch) -> Launch:
        number = next(numbers)
        return replace(launch, scratch=names[number]) if number in names else launch

    made = replace(
        plan.map(with_scratch),
        tensors=tuple(tensors),
        arena_bytes=total,
        threads=target.threads,
    )
    if total == plan.arena_bytes or total <= arena_lower_bound(made) * _CLOSE:
        return made
    together = assign(made)
    return together if together.arena_bytes < total * WORTH else made


class _Blocks:
    """The placed blocks of a Plan: where they lie and when they are alive."""

    def __init__(self, plan: Plan) -> None:
        sizes, times = storage(plan)
        order = sorted(sizes, key=lambda n: plan.tensors[n].offset or 0)
        self._low = np.array([plan.tensors[n].offset or 0 for n in order], np.int64)
        self._high = self._low + np.array([aligned(sizes[n]) for n in order], np.int64)
        self._first = np.array([times[n].first for n in order], np.int64)
        self._last = np.array([times[n].last for n in order], np.int64)
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _gaps(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and size of every free stretch at a launch; the last one has no end."""
        if number not in self._known:
            alive = (self._first <= number) & (self._last >= number)
            starts = self._low[alive]
            ends = np.concatenate(([0], np.maximum.accumulate(self._high[alive])))
            room = np.concatenate((starts - ends[:-1], [np.iinfo(np.int64).max]))
            self._known[number] = ends, room
        return self._known[number]

    def lowest(self, number: int, size: int) -> int:
        """The lowest offset at which ``size`` bytes are free during a launch."""
        starts, room = self._gaps(number)
        return int(starts[np.flatnonzero(room >= size)[0]])

    def offset(self, number: int, size: int, total: int, recent: list[int]) -> int:
        """A place below ``total``: where scratch was before if that is free, else the lowest."""
        starts, room = self._gaps(number)
        for offset in recent:
            gap = int(np.searchsorted(starts, offset, "right")) - 1
            if offset + size <= total and offset + size - starts[gap] <= room[gap]:
                return offset
        return int(starts[np.flatnonzero(room >= size)[0]])


def scratch_tensors(plan: Plan) -> list[int]:
    """The numbers of the tensors that are scratch of a launch."""
    found = (item.launch.scratch for item in numbered(plan.steps))
    return [number for number in found if number is not None]
