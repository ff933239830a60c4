"""The order of the steps of a Plan: dependences, and an order that keeps fewer bytes alive.

A step depends on the last writer of what it reads, and must come after every reader and writer of
what it writes. Among the steps that are ready, the scheduler takes the one that frees the most
bytes net of what it allocates, earlier steps first where that is equal; it looks at a bounded
number of them. Repeats are one step each.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
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
    alive = _Alive(uses, nbytes)
    ready = sorted(n for n in range(count) if waiting[n] == 0)
    order: list[int] = []
    while ready:
        chosen = min(ready[:WINDOW], key=lambda n: (alive.growth(n), n))
        ready.remove(chosen)
        order.append(chosen)
        alive.run(chosen)
        for n in after[chosen]:
            waiting[n] -= 1
            if waiting[n] == 0:
                insort(ready, n)
    return order


class _Alive:
    """What is alive while steps run one after another."""

    def __init__(self, uses: Sequence[Uses], nbytes: Callable[[int], int]) -> None:
        self._nbytes = nbytes
        self._touched = [tuple(dict.fromkeys((*use.reads, *use.writes))) for use in uses]
        self._users: dict[int, list[int]] = {}
        for number, tensors in enumerate(self._touched):
            for tensor in tensors:
                self._users.setdefault(tensor, []).append(number)
        self._left = {tensor: len(users) for tensor, users in self._users.items()}
        self._live: dict[int, None] = {}
        # Of steps that were asked about, until a tensor of theirs begins or is used once more.
        self._known: dict[int, int] = {}

    def growth(self, step: int) -> int:
        """Bytes alive after ``step`` minus before, if it is the next."""
        if step not in self._known:
            growth = 0
            for tensor in self._touched[step]:
                if tensor not in self._live:
                    growth += self._nbytes(tensor) if self._left[tensor] > 1 else 0
                elif self._left[tensor] == 1:
                    growth -= self._nbytes(tensor)
            self._known[step] = growth
        return self._known[step]

    def run(self, step: int) -> None:
        """Runs ``step``."""
        for tensor in self._touched[step]:
            self._left[tensor] -= 1
            if tensor not in self._live or self._left[tensor] == 1:
                for user in self._users[tensor]:
                    self._known.pop(user, None)
            if self._left[tensor]:
                self._live[tensor] = None
            else:
                self._live.pop(tensor, None)
