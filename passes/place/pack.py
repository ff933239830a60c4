"""Offsets for blocks of known size and lifetime: the largest first, each in the tightest gap that
is free.

Best fit by size is within a few percent of the lower bound (the most bytes alive at any step) on
networks, and within a factor of two always (Pisarchyk and Lee 2020 compare such strategies).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradc.ir.plan.plan import ALIGNMENT
from gradc.passes.place.lifetime import Lifetime


def aligned(nbytes: int) -> int:
    """``nbytes`` up to whole cache lines."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def pack(sizes: Mapping[int, int], times: Mapping[int, Lifetime]) -> tuple[dict[int, int], int]:
    """Offsets such that blocks alive together do not overlap, and the bytes needed in all."""
    orders = (
        lambda b: (-sizes[b], times[b].first, b),
        lambda b: (-sizes[b] * (times[b].last - times[b].first + 1), times[b].first, b),
        lambda b: (times[b].first, -sizes[b], b),
    )
    best: tuple[dict[int, int], int] | None = None
    bound = lower_bound(sizes, times)
    for order in orders:
        limit = None if best is None else best[1]
        found = _pack_in(sorted(sizes, key=order), sizes, times, limit)
        if found is not None:
            best = found
        if best is not None and best[1] == bound:
            break
    assert best is not None
    return best


def _pack_in(
    order: list[int], sizes: Mapping[int, int], times: Mapping[int, Lifetime], limit: int | None
) -> tuple[dict[int, int], int] | None:
    """Offsets and the bytes needed; None as soon as these are no fewer than ``limit``."""
    # Start, end, first and last step of every block that has a place, by their starts.
    rows = np.zeros((4, len(order)), np.int64)
    low, high, first, last = rows
    offsets: dict[int, int] = {}
    total = 0
    for placed, block in enumerate(order):
        size, time = aligned(sizes[block]), times[block]
        clash = ((first[:placed] <= time.last) & (last[:placed] >= time.first)).nonzero()[0]
        offset = _gap(low[clash], high[clash], size)
        offsets[block] = offset
        at = int(low[:placed].searchsorted(offset))
        rows[:, at + 1 : placed + 1] = rows[:, at:placed]
        rows[:, at] = offset, offset + size, time.first, time.last
        total = max(total, offset + size)
        if limit is not None and total >= limit:
            return None
    return offsets, total


def _gap(low: np.ndarray, high: np.ndarray, size: int) -> int:
    """The start of the tightest free gap of at least ``size`` bytes between blocks from ``low``,
    which ascends, to ``high``; the end of all if there is none.
    """
    if low.size == 0:
        return 0
    # ends[i]: where the occupied stretch before block i ends.
    ends = np.zeros(low.size + 1, np.int64)
    np.maximum.accumulate(high, out=ends[1:])
    gaps = low - ends[:-1]
    fits = (gaps >= size).nonzero()[0]
    if fits.size:
        return int(ends[fits[gaps[fits].argmin()]])
    return int(ends[-1])


def live_bytes(sizes: Mapping[int, int], times: Mapping[int, Lifetime]) -> np.ndarray:
    """Bytes alive at every step."""
    steps = 1 + max((time.last for time in times.values()), default=-1)
    change = np.zeros(steps + 1, np.int64)
    for block, size in sizes.items():
        change[times[block].first] += aligned(size)
        change[times[block].last + 1] -= aligned(size)
    return np.cumsum(change[:-1])


def lower_bound(sizes: Mapping[int, int], times: Mapping[int, Lifetime]) -> int:
    """No placement needs less: the most bytes alive at any step."""
    live = live_bytes(sizes, times)
    return int(live.max()) if live.size else 0
