"""Which indices meet linear inequalities, as those of a mask (``ir.ops.needs``)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def run_of(
    lines: Iterable[tuple[NDArray[np.int64], int]], extent: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of indices below ``extent`` those where all of ``rest + step * index >= 0`` hold are one run:
    its first one, and the one after its last, or an earlier one where there is none.
    """
    low, end = np.zeros((), np.int64), np.full((), extent, np.int64)
    for rest, step in lines:
        if step > 0:
            low = np.maximum(low, -(rest // step))
        elif step < 0:
            end = np.minimum(end, rest // -step + 1)
        else:
            end = np.where(rest >= 0, end, 0)
    return low, end
