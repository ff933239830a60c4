"""Products that a group of 128 threads begins and waits for (``wgmma`` of sm_90a): who may touch
sums and factors when, and what the sums are.

Sums are values until ``ready`` makes them a group's, and again once their batch has been waited
for; between, nothing reads them. Factors must have been published by their writers before a
barrier, and nobody writes there until products that read them have been waited for, and a barrier
after that has been passed. Sums are chains of fused multiply-adds in k's order, as in ``tensor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.codegen.cuda.simulate.lanes import Run, Sums
from gradc.codegen.cuda.simulate.memory import Own
from gradc.codegen.cuda.simulate.shadow import LinesShadow, SimulationError
from gradc.codegen.cuda.verbs import GROUP
from gradc.ir.loop.verbs import Array

_SIDE, _STEPS = 64, 16
_THREAD = np.arange(GROUP)
_ROW = 16 * (_THREAD // 32) + _THREAD % 32 // 4
_COLUMN = 2 * (_THREAD % 4)
# Row and column of each of a thread's 32 sums: [sum, thread].
_ROWS = np.stack([_ROW + 8 * (n // 2 % 2) for n in range(32)])
_COLUMNS = np.stack([_COLUMN + 8 * (n // 4) + n % 2 for n in range(32)])


@dataclass(frozen=True, slots=True)
class _Product:
    """What some groups' products in flight read: cells of a factor [group, element]."""

    own: Own
    cells: Array
    groups: tuple[Array, Array]  # which block, which group of it
    batch: Array


def ready(run: Run, sums: Any) -> Sums:
    """Sums as products take them. Raises SimulationError."""
    _active(run)
    if isinstance(sums, Sums):
        raise SimulationError("race", "sums are read before their products are waited for")
    if len(sums) != 32:
        raise SimulationError("text", "a group has 64 x 64 sums")
    return Sums(sums, np.zeros_like(run.committed), False)


def multiply(run: Run, value: str, sums: Any, *factors: Any) -> Sums:
    """A product of 64 x 16 by 16 x 64 begins. Raises SimulationError."""
    active = _active(run)
    if not isinstance(sums, Sums):
        raise SimulationError("race", "a product begins with sums that are not ready")
    left, right = (_factor(run, value, active, *factors[n : n + 3]) for n in (0, 3))
    own = np.stack([_by_group(run, x)[active] for x in sums.values], axis=1)  # [group, sum, thread]
    total = np.zeros((own.shape[0], _SIDE, _SIDE), own.dtype)
    total[:, _ROWS, _COLUMNS] = own
    for k in range(_STEPS):
        pair = np.broadcast_arrays(left[:, :, k, None], right[:, None, :, k])
        total = run.verb("fma", [*pair, total])
    found = []
    for n, before in enumerate(sums.values):
        after = _by_group(run, before).copy()
        after[active] = total[:, _ROWS[n], _COLUMNS[n]]
        found.append(after.reshape(run.shape))
    return Sums(tuple(found), np.where(active, run.committed, sums.batch), True)


def commit(run: Run) -> None:
    """Products of active groups since the last such are a batch."""
    run.committed += _active(run)


def wait(run: Run, sums: Any, batches: int) -> Any:
    """Sums as values, all batches but the last ``batches`` being there. Raises SimulationError."""
    active = _active(run)
    if not isinstance(sums, Sums):
        raise SimulationError("text", "sums are waited for that no product changes")
    there = run.committed - batches
    if sums.begun and (sums.batch >= there)[active].any():
        raise SimulationError("race", "sums are taken whose products may be in flight")
    flying = []
    for product in run.products:
        done = active[product.groups] & (product.batch < there[product.groups])
        if done.any():
            _release(run, product, done)
        if not done.all():
            flying.append(_part(product, ~done))
    run.products = flying
    return sums.values


def _release(run: Run, product: _Product, done: Array) -> None:
    part = _part(product, done)
    times = np.broadcast_to(run.times[part.groups[0]], part.cells.shape)
    assert isinstance(part.own.shadow, LinesShadow)
    part.own.shadow.release(part.cells.reshape(-1), times.reshape(-1), run.interval)


def _part(product: _Product, which: Array) -> _Product:
    block, group = product.groups
    chosen = block[which], group[which]
    return _Product(product.own, product.cells[which], chosen, product.batch[which])


def _active(run: Run) -> Array:
    """Which groups of which blocks are here: [block, group]. Raises SimulationError."""
    if run.shape[1] % GROUP:
        raise SimulationError("divergence", "a group that multiplies is not whole")
    here = _by_group(run, True if run.mask is None else run.mask)
    there: Array = np.asarray(here.all(axis=2))
    if (here.any(axis=2) != there).any():
        raise SimulationError("divergence", "not all threads of a group meet a product")
    return there


def _by_group(run: Run, x: Any) -> Array:
    return run.spread(x).reshape(run.shape[0], -1, GROUP)


def _factor(run: Run, value: str, active: Array, memory: Any, index: Any, is_turned: int) -> Array:
    """A factor of every active group, as 64 places of 16 steps of k."""
    if not (isinstance(memory, Own) and memory in run.lines and memory.dtype == "u16"):
        raise SimulationError("text", "groups multiply half words of shared lines")
    begins = _by_group(run, index)[active]
    if (begins != begins[:, :1]).any():
        raise SimulationError("divergence", "threads of a group name several factors")
    begin = begins[:, 0]
    places, steps = np.arange(_SIDE)[:, None], np.arange(_STEPS)[None, :]
    if is_turned:
        aligned = begin % 512 == 0
        at = begin[:, None, None] + 64 * steps + places
        at ^= (at // 64 % 8) * 8
    else:
        aligned = (begin // 32 % 8 == 0) & (begin % 8 == 0) & (begin % 32 <= 16)
        at = begin[:, None, None] + 32 * places + steps
        at ^= (at // 64 % 4) * 8
    if not aligned.all():
        raise SimulationError("alignment", f"a factor begins at {memory.name}[{begin[0]}]")
    if (at < 0).any() or (at >= memory.size).any():
        raise SimulationError("bounds", f"a factor at {memory.name}[{begin[0]}] of {memory.size}")
    block, group = np.nonzero(active)
    cells = (block[:, None, None] * memory.size + at).reshape(len(block), -1)
    times = np.broadcast_to(run.times[block], cells.shape)
    assert isinstance(memory.shadow, LinesShadow)
    memory.shadow.hold(cells.reshape(-1), times.reshape(-1), memory.name)
    run.products.append(_Product(memory, cells, (block, group), run.committed[active]))
    return np.asarray(run.bits(value, memory.values.reshape(-1)[cells])).reshape(at.shape)
