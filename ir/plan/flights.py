"""What is wrong with the exchanges of a placed Plan: bytes that are on their way between ranks
(``ir.loop.kernel.Exchange``) are nobody's until they have arrived.

An exchange begins and ends in the same list of steps, over the same bytes. Between the two no
launch touches any of them, be it by another name or as scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Exchange

if TYPE_CHECKING:
    from gradc.ir.plan.plan import Argument, Launch, Plan, Step


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of the arena (``space`` -1) or of an entry argument, the last one not included."""

    space: int
    start: int
    end: int

    def overlaps(self, other: Stretch) -> bool:
        """Whether they share a byte."""
        return self.space == other.space and self.start < other.end and other.start < self.end


def stretch(plan: Plan, argument: Argument, size: int, trips: Sequence[int]) -> Stretch:
    """All that ``size`` elements from ``argument`` reach in Repeats of ``trips``."""
    number, offset = plan.place(argument.tensor)
    root, itemsize = plan.tensors[number], plan.tensors[argument.tensor].dtype.itemsize
    low, high = argument.reach(trips)
    space = -1 if root.space == "arena" else number
    start = offset + (root.offset or 0 if root.space == "arena" else 0)
    return Stretch(space, start + low * itemsize, start + (high + size) * itemsize)


def misused_flights(plan: Plan) -> Iterator[str]:
    """What breaks the rule, in words; nothing where ranks exchange nothing."""
    if any(kernel.flights for kernel in plan.kernels):
        yield from _in(plan, plan.steps, ())


def _of(plan: Plan, launch: Launch) -> list[tuple[Exchange, Argument]]:
    """The exchanges of a launch, and where."""
    kernel = plan.kernels[launch.kernel]
    at = dict(zip(kernel.bound, launch.arguments, strict=True))
    return [(exchange, at[exchange.buffer]) for exchange in kernel.flights]


def _in(plan: Plan, steps: Sequence[Step], trips: tuple[int, ...]) -> Iterator[str]:
    """The same for one list of steps."""
    begun: dict[Argument, tuple[Exchange, Stretch]] = {}
    for step in steps:
        launch = step.launch
        found = [] if launch is None else _of(plan, launch)
        for exchange, at in found:
            name = plan.tensors[at.tensor].name
            if not exchange.ends:
                continue
            known = begun.pop(at, None)
            if known is None:
                yield f"an exchange of {name} ends that has not begun"
            elif _what(known[0]) != _what(exchange):
                yield f"an exchange of {name} ends as another one than it begins"
        for inner, around in step.walk(trips):
            yield from _touched(plan, inner, around, begun)
        if launch is None:
            for repeat, depth in step.repeats():
                if not depth:
                    yield from _in(plan, repeat.body, (*trips, repeat.trips))
        for exchange, at in found:
            if not exchange.ends:
                begun[at] = exchange, stretch(plan, at, exchange.buffer.size, trips)
    for at in begun:
        yield f"an exchange of {plan.tensors[at.tensor].name} begins and does not end"


def _what(exchange: Exchange) -> tuple[str, int, int]:
    return exchange.kind, exchange.ranks, exchange.buffer.size


def _touched(
    plan: Plan,
    launch: Launch,
    trips: tuple[int, ...],
    begun: dict[Argument, tuple[Exchange, Stretch]],
) -> Iterator[str]:
    """What ``launch`` touches of that which has begun."""
    if not begun:
        return
    kernel = plan.kernels[launch.kernel]
    touched = [
        (b.name, stretch(plan, a, b.size, trips))
        for b, a in zip(kernel.bound, launch.arguments, strict=True)
    ]
    if launch.scratch is not None:
        room = plan.tensors[launch.scratch]
        touched.append(("scratch", Stretch(-1, room.offset or 0, (room.offset or 0) + room.nbytes)))
    for at, (_, flight) in begun.items():
        for name, part in touched:
            if part.overlaps(flight):
                what = plan.tensors[at.tensor].name
                yield f"{kernel.name} touches {what}, which is on its way, as {name}"
