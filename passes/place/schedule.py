"""The order of the steps of a Plan: dependences, and an order that keeps fewer bytes alive.

A step depends on the last writer of what it reads, and must come after every reader and writer of
what it writes. Among the steps that are ready, the scheduler takes the one that frees the most
bytes net of what it allocates, earlier steps first where that is equal; it looks at a bounded
number of them. Repeats are one step each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradc.ir.plan.plan import Plan, Step

# Ready steps considered at a time.
WINDOW = 48


@dataclass(frozen=True, slots=True)
class Uses:
    """The storage (root tensors) that one step reads and writes."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


def step_uses(plan: Plan, step: Step) -> Uses:
    """What ``step`` reads and writes, everything below a Repeat included."""
    reads: dict[int, None] = {}
    writes: dict[int, None] = {plan.root(cell): None for cell in step.cells()}
    for launch, _ in step.walk():
        named = plan.kernels[launch.kernel].bound
        for buffer, argument in zip(named, launch.arguments, strict=True):
            root = plan.root(argument.tensor)
            if buffer.access in ("read", "update"):
                reads[root] = None
            if buffer.access in ("write", "update"):
                writes[root] = None
    return Uses(tuple(reads), tuple(writes))


def dependences(uses: Sequence[Uses]) -> list[tuple[int, ...]]:
    """For each step the earlier steps it must follow."""
    writers: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    found: list[tuple[int, ...]] = []
    for number, use in enumerate(uses):
        before: dict[int, None] = {}
        for tensor in use.reads:
            if tensor in writers:
                before[writers[tensor]] = None
        for tensor in use.writes:
            if tensor in writers:
                before[writers[tensor]] = None
            before.update(dict.fromkeys(readers.get(tensor, ())))
        before.pop(number, None)
        found.append(tuple(before))
        for tensor in use.reads:
            readers.setdefault(tensor, []).append(number)
        for tensor in use.writes:
            writers[tensor] = number
            readers[tensor] = []
    return found


def schedule(
    uses: Sequence[Uses],
    before: Sequence[Sequence[int]],
    nbytes: Callable[[int], int],
) -> list[int]:
    """An order of the steps that keeps few bytes alive. ``nbytes`` is 0 for what is not in the
    arena."""
    count = len(uses)
    waiting = [len(b) for b in before]
    after: list[list[int]] = [[] for _ in range(count)]
    for number, earlier in enumerate(before):
        for n in earlier:
            after[n].append(number)
    left: dict[int, int] = {}
    touched = [tuple(dict.fromkeys((*use.reads, *use.writes))) for use in uses]
    for tensors in touched:
        for tensor in tensors:
            left[tensor] = left.get(tensor, 0) + 1
    live: dict[int, None] = {}
    ready = sorted(n for n in range(count) if waiting[n] == 0)
    order: list[int] = []
    while ready:
        chosen = min(ready[:WINDOW], key=lambda n: (_growth(touched[n], left, live, nbytes), n))
        ready.remove(chosen)
        order.append(chosen)
        for tensor in touched[chosen]:
            left[tensor] -= 1
            if left[tensor]:
                live[tensor] = None
            else:
                live.pop(tensor, None)
        for n in after[chosen]:
            waiting[n] -= 1
            if waiting[n] == 0:
                _insert(ready, n)
    return order


def _growth(
    tensors: Sequence[int],
    left: Mapping[int, int],
    live: Mapping[int, None],
    nbytes: Callable[[int], int],
) -> int:
    """Bytes alive after a step that touches ``tensors`` minus before."""
    growth = 0
    for tensor in tensors:
        if tensor not in live:
            growth += nbytes(tensor) if left[tensor] > 1 else 0
        elif left[tensor] == 1:
            growth -= nbytes(tensor)
    return growth


def _insert(ready: list[int], number: int) -> None:
    low, high = 0, len(ready)
    while low < high:
        middle = (low + high) // 2
        if ready[middle] < number:
            low = middle + 1
        else:
            high = middle
    ready.insert(low, number)
