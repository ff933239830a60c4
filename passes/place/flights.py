"""When exchanges between ranks begin and when they are waited for: what is on its way is on its way
while the ranks compute.

    from  a Plan in some order, whose exchanges are waited for where they begin
    to    the same steps, in an order in which an exchange begins as soon as what it sends is there,
          and is waited for as late as possible

A list scheduler with a clock. Steps keep their order as far as they can; an exchange goes first
once it can begin, and so does, when by the clock it has arrived, what another exchange needs of it
(a slice of a gradient, say, whose sum is sent in turn). What nothing but later steps need is waited
for when there is nothing else to do. Steps that stand further behind than ``AHEAD`` wait for their
turn, since what they write would lie about. Times are guessed from operations and bytes alone, so
that the order, which all ranks must have in common, depends on the program and not on the machine.

Invariants: dependences (``schedule``); an exchange ends in the list of steps in which it began.
Non-goals: whether there is room for it (``passes.pipeline``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from gradc.ir.loop.kernel import Exchange
from gradc.ir.plan.plan import Plan, Step
from gradc.passes.place.schedule import dependences, step_uses

# A core's operations and bytes per second, and a network's bytes per second and seconds for a
# message: only which of two is longer matters.
_OPERATIONS, _BYTES = 2e10, 1e10
_SENT, _MESSAGE = 2e9, 2e-5
# How many steps after the first one left may be brought forward.
AHEAD = 64


def overlapped(plan: Plan) -> Plan:
    """``plan`` with its exchanges under way while it computes."""
    if not any(True for _ in plan.exchanges()):
        return plan
    return replace(plan, steps=_ordered(plan, plan.steps))


def _ordered(plan: Plan, steps: Sequence[Step]) -> tuple[Step, ...]:
    inner = [step.with_body(lambda body: _ordered(plan, body)) for step in steps]
    if not any(_exchange(plan, step) for step in inner):
        return tuple(inner)
    return tuple(inner[number] for number in _Clocked(plan, inner).order())


def _exchange(plan: Plan, step: Step) -> Exchange | None:
    """The exchange of a step that is a launch, or the end of one."""
    found = () if step.launch is None else plan.kernels[step.launch.kernel].flights
    return found[0] if found else None


def _seconds(plan: Plan, step: Step) -> float:
    """A guess at how long a step takes."""
    total = 0.0
    for launch, trips in step.walk():
        kernel = plan.kernels[launch.kernel]
        total += prod(trips) * (kernel.flops / _OPERATIONS + kernel.bytes / _BYTES)
    return total


class _Clocked:
    """The order of one list of steps."""

    def __init__(self, plan: Plan, steps: Sequence[Step]) -> None:
        self._steps = steps
        before = dependences([step_uses(plan, step) for step in steps])
        self._waiting = [len(found) for found in before]
        self._after: list[list[int]] = [[] for _ in steps]
        for number, found in enumerate(before):
            for earlier in found:
                self._after[earlier].append(number)
        exchanges = [_exchange(plan, step) for step in steps]
        self._begins = [e is not None and not e.ends for e in exchanges]
        self._ends = [e is not None and e.ends for e in exchanges]
        self._sent = [0 if e is None else e.sent for e in exchanges]
        self._seconds = [_seconds(plan, step) for step in steps]
        self._links = self._links_of(before)
        self._now = self._free = 0.0  # the clock; when the network is free again
        self._arrives: dict[int, float] = {}  # by the number of what ends it

    def _message(self, number: int) -> float:
        """How long the network is busy with what a step sends."""
        return _MESSAGE + self._sent[number] / _SENT

    def _links_of(self, before: Sequence[Sequence[int]]) -> dict[int, float]:
        """Steps on the way to the beginning of an exchange, which go first, and the time it takes
        from there: those that serve nothing else, and those from the end of another exchange if
        that takes less time than the exchange will.
        """
        arrived = list(self._ends)
        for number, found in enumerate(before):
            arrived[number] |= any(arrived[n] for n in found)
        leads: dict[int, tuple[float, float]] = {}  # seconds to the beginning; those of a message
        links: dict[int, float] = {}
        for number in reversed(range(len(self._steps))):
            own = self._seconds[number]
            nearest = min((leads[n] for n in self._after[number] if n in leads), default=None)
            if self._begins[number]:
                leads[number] = own, self._message(number)
            elif nearest is not None:
                leads[number] = own + nearest[0], nearest[1]
            if number not in leads:
                continue
            later = self._after[number]
            serves = all(self._begins[n] or n in links for n in later)
            if serves or (arrived[number] and leads[number][0] < leads[number][1]):
                links[number] = leads[number][0]
        return links

    def order(self) -> list[int]:
        """The numbers of the steps, in order."""
        ready = [n for n, count in enumerate(self._waiting) if not count]
        left, order = dict.fromkeys(range(len(self._steps))), list[int]()
        while ready:
            chosen = self._chosen(ready, next(iter(left)) + AHEAD)
            ready.remove(chosen)
            del left[chosen]
            order.append(chosen)
            self._run(chosen)
            for later in self._after[chosen]:
                self._waiting[later] -= 1
                if not self._waiting[later]:
                    ready.append(later)
        return order

    def _chosen(self, ready: Sequence[int], end: int) -> int:
        """The next step: the first of those with the strongest reason."""

        def rank(number: int) -> tuple[int, float, int]:
            arrives = self._arrives.get(number, 0.0)
            if self._begins[number]:
                return 0, 0.0, number
            if number in self._links and arrives <= self._now:
                return 1, self._links[number], number
            if self._ends[number]:
                return 3, arrives, number
            return 2 if number < end else 4, 0.0, number

        return min(ready, key=rank)

    def _run(self, number: int) -> None:
        """Moves the clock."""
        if self._begins[number]:
            self._now += self._seconds[number]
            self._free = max(self._free, self._now) + self._message(number)
            for later in self._after[number]:
                if self._ends[later]:
                    self._arrives[later] = self._free
        elif self._ends[number]:
            self._now = max(self._now, self._arrives.get(number, 0.0))
        else:
            self._now += self._seconds[number]
