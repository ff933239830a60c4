"""Where the carries of a ``scan`` lie: in two buffers that change roles every trip, or in the
history that is kept anyway.

If the body hands out a carry as a stacked result, before or after the trip, all its values are
kept: they lie one after another in one tensor of ``trips + 1`` slots, each trip reads a slot and
writes the next, and the stacked results are stretches of that tensor. Nothing is copied. In a
reversed scan the slots run backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gradc.ir.plan.plan import Argument
from gradc.ir.tensor.core import Block


@dataclass(frozen=True, slots=True)
class Carry:
    """Places of one carry. ``read`` and ``write`` are seen from inside the loop, the others from
    outside.

    ``before`` and ``after`` are the stacks of the values that trips start from and end with, where
    they are kept.
    """

    start: Argument
    end: Argument
    read: Argument
    write: Argument
    before: Argument | None = None
    after: Argument | None = None


def along(argument: Argument, depth: int, stride: int = 0, parity: int = 0) -> Argument:
    """``argument`` seen from inside one more Repeat."""
    zeros = (0,) * (depth - len(argument.strides))
    return replace(
        argument,
        strides=(*argument.strides, *zeros, stride),
        parity=(*argument.parity, *zeros, parity),
    )


def doubled(cell: Argument, size: int, trips: int, depth: int) -> Carry:
    """A carry in the two halves of ``cell``."""
    other = replace(cell, offset=cell.offset + size)
    return Carry(
        start=cell,
        end=replace(cell, offset=cell.offset + (trips % 2) * size),
        read=along(cell, depth, parity=size),
        write=along(other, depth, parity=-size),
    )


def kept(cell: Argument, size: int, trips: int, is_reverse: bool, depth: int) -> Carry:
    """A carry in the ``trips + 1`` slots of ``cell``."""

    def slot(number: int) -> Argument:
        return replace(cell, offset=cell.offset + number * size)

    if is_reverse:
        return Carry(
            start=slot(trips),
            end=slot(0),
            read=along(slot(trips), depth, stride=-size),
            write=along(slot(trips - 1), depth, stride=-size),
            before=slot(1),
            after=slot(0),
        )
    return Carry(
        start=slot(0),
        end=slot(trips),
        read=along(slot(0), depth, stride=size),
        write=along(slot(1), depth, stride=size),
        before=slot(0),
        after=slot(1),
    )


def stacked_carries(region: Block, carried: int) -> dict[int, tuple[int, bool]]:
    """For each stacked result that is a carry: which one, and whether after the trip. By position
    among the stacked."""
    found: dict[int, tuple[int, bool]] = {}
    parameters, outputs = region.parameters[:carried], region.outputs
    for position, value in enumerate(outputs[carried:]):
        if value in outputs[:carried]:
            found[position] = (outputs[:carried].index(value), True)
        elif value in parameters:
            found[position] = (parameters.index(value), False)
    return found
