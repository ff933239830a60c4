"""What tensor cores do: fragments of matrices over the lanes of a warp, and their products.

A pair is a tuple of two elements as memory has them. Sums are chains of fused multiply-adds in k's
order, which a processor does not promise: there only that they repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.codegen.cuda.simulate.lanes import Run
from gradc.codegen.cuda.simulate.memory import Own
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.verbs import WARP
from gradc.ir.loop.verbs import Array

_LANES = np.arange(WARP)
_ROW, _PLACE = _LANES // 4, _LANES % 4 * 2  # of a lane's first element in a matrix of 8 x 8


def matrices(run: Run, memory: Any, index: Any, is_turned: bool) -> Any:
    """Four matrices as pairs. Raises SimulationError."""
    _whole(run)
    if not (isinstance(memory, Own) and memory.is_shared and memory.dtype == "u16"):
        raise SimulationError("text", "matrices are half words of shared memory")
    rows = np.stack([_by_warp(run, x) for x in run.load(memory, index, 8)], axis=-1)
    found = []
    for number in range(4):
        own = rows[:, 8 * number : 8 * number + 8]  # [warp, row, element]
        if is_turned:
            own = own.swapaxes(1, 2)
        found.append(tuple(_by_block(run, own[:, _ROW, _PLACE + n]) for n in (0, 1)))
    return tuple(found)


def mma(
    run: Run, value: str, total: Sequence[Any], left: Sequence[Any], right: Sequence[Any]
) -> Any:
    """Every product of a left by a right fragment, added to its four sums a lane."""
    _whole(run)
    if len(total) != len(left) // 4 * (len(right) // 2) * 4:
        raise SimulationError("text", "sums are not as many as products")
    found: list[Any] = []
    for i in range(0, len(left), 4):
        rows = _left(run, value, left[i : i + 4])
        for j in range(0, len(right), 2):
            columns = _right(run, value, right[j : j + 2])
            own = [_by_warp(run, x) for x in total[len(found) : len(found) + 4]]
            sums = _scattered(own)
            for k in range(16):
                one, other = rows[:, :, k, None], columns[:, None, k, :]
                shape = np.broadcast_shapes(one.shape, other.shape)
                pair = [np.broadcast_to(x, shape) for x in (one, other)]
                sums = run.verb("fma", [*pair, sums])
            places = [
                (_ROW, _PLACE),
                (_ROW, _PLACE + 1),
                (_ROW + 8, _PLACE),
                (_ROW + 8, _PLACE + 1),
            ]
            found += [_by_block(run, sums[:, row, column]) for row, column in places]
    return tuple(found)


def _whole(run: Run) -> None:
    if run.shape[1] % WARP:
        raise SimulationError("divergence", "a warp that meets a tensor core is not whole")
    run.whole_warps("a tensor core")


def _by_warp(run: Run, x: Any) -> Array:
    return run.spread(x).reshape(-1, WARP)


def _by_block(run: Run, x: Array) -> Array:
    return x.reshape(run.shape)


def _scattered(own: Sequence[Array]) -> Array:
    """Sums of lanes as matrices of 16 x 8."""
    found = np.zeros((own[0].shape[0], 16, 8), own[0].dtype)
    for n, values in enumerate(own):
        found[:, _ROW + 8 * (n // 2), _PLACE + n % 2] = values
    return found


def _left(run: Run, value: str, fragment: Sequence[Any]) -> Array:
    """16 rows of 16 steps of k."""
    return _matrix(run, value, fragment, (16, 16), [(0, 0), (8, 0), (0, 8), (8, 8)])


def _right(run: Run, value: str, fragment: Sequence[Any]) -> Array:
    """16 steps of k of 8 columns."""
    return _matrix(run, value, fragment, (8, 16), [(0, 0), (0, 8)]).swapaxes(1, 2)


def _matrix(
    run: Run,
    value: str,
    fragment: Sequence[Any],
    shape: tuple[int, int],
    corners: Sequence[tuple[int, int]],
) -> Array:
    parts = [[run.bits(value, _by_warp(run, x)) for x in pair] for pair in fragment]
    found = np.zeros((parts[0][0].shape[0], *shape), parts[0][0].dtype)
    for pair, (row, k) in zip(parts, corners, strict=True):
        for n, values in enumerate(pair):
            found[:, _ROW + row, _PLACE + k + n] = values
    return found
