"""How the axes of an op's result depend on the axes of its operands: links, stated by each op at
its definition.

A ``Link`` is one index that runs through an op. Where the result has it, the op treats its
positions one by one:

    op(operands at positions I) = op(operands) at positions I          for every set I of positions,

and where the result does not have it, the result is a sum over it: op(operands) is the sum of
op(operands at I) over the sets I of any partition. Operands without the index are the same for all
positions. What an op does not link
it is taken to mix: absent means refused. Passes that cut a program along an axis (parts of a batch,
tiles, shares of several processes) follow links and need no list of ops.

An axis may hold several indices, one inside another: ``reshape`` from [B, T] to [B * T] has two
links, and in the result the index of B lies outside that of T. Four gates of H beside each other,
[4 * H], are four blocks, and an index of H lies inside each: slices at the borders of blocks, and
what is joined or padded by whole blocks, have it too. ``Place`` says where in its axis an index
lies.

Non-goals: links between the operands and results of regions, which passes follow through the
regions themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.ir.tensor.core import Attrs, Op, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


@dataclass(frozen=True, slots=True)
class Place:
    """An index of ``axis``: position = (before * size + index) * after + rest, with ``outer``
    values of ``before``.
    """

    axis: int
    outer: int = 1

    def inside(self, positions: int) -> Place:
        """The index that comes after the first ``positions`` positions of this one."""
        return Place(self.axis, self.outer * positions)

    def moved(self, by: int) -> Place:
        """The same place where ``by`` more axes come before."""
        return Place(self.axis + by, self.outer)


@dataclass(frozen=True, slots=True)
class Link:
    """One index of ``size`` positions; where it lies in each operand, and in the result (None: not
    there).

    Without a place in any operand all positions of the result are the same, unless the link
    ``is_drawn``: then the elements are random, and ``AxisRule.part`` makes the op draw some of
    them, given a key that numbers the part.
    """

    size: int
    operands: tuple[Place | None, ...]
    result: Place | None
    is_drawn: bool = False

    def holds(self, own: Place | None, place: Place, parts: int) -> int | None:
        """If ``place`` lies in this link, which has the place ``own``, and can be cut in ``parts``:
        how far inside.
        """
        if own is None or own.axis != place.axis or place.outer % own.outer:
            return None
        inside = place.outer // own.outer
        return inside if self.size % (inside * parts) == 0 else None


def _same(op: Op, _link: Link, _parts: int) -> Attrs:
    return op.attributes


def no_links(_op: Op) -> tuple[Link, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class AxisRule:
    """What an op states: its links, the attributes that it has on one of ``parts`` parts of a link,
    and why not more.

    ``otherwise`` says in words what happens between positions of axes that have no link. Along
    ``folded`` links, which no result has, the op ``by`` (not a sum) puts the results of parts
    together.

    Ops that count positions of an axis state what one part is to them, given the number of its
    first position, a scalar: ``counted`` makes the part of the result at a place, from whole
    operands; ``searched`` makes a summand of the result from the part of operand 0 that lies at a
    place. None where the place is another one.
    """

    links: Callable[[Op], tuple[Link, ...]]
    otherwise: str
    part: Callable[[Op, Link, int], Attrs] = _same
    folded: Callable[[Op], tuple[Link, ...]] = no_links
    by: str = "add"
    counted: Callable[[Builder, Op, Sequence[Value], Place, Value, int], Value | None] | None = None
    searched: Callable[[Builder, Op, Sequence[Value], Place, Value], Value | None] | None = None


def sizes(value: Value) -> tuple[int, ...]:
    """The static shape of an operand or a result."""
    return value.type.static_shape


def kept(op: Op, mixed: Iterable[int] = ()) -> tuple[Link, ...]:
    """Every axis of the result is the same axis of every operand, except the axes ``mixed``."""
    left_out = set(mixed)
    return tuple(
        Link(size, (Place(axis),) * len(op.operands), Place(axis))
        for axis, size in enumerate(sizes(op.result))
        if axis not in left_out
    )


def invented(op: Op, axes: Iterable[int], is_drawn: bool = False) -> tuple[Link, ...]:
    """Axes of the result that no operand has."""
    shape = sizes(op.result)
    return tuple(Link(shape[a], (None,) * len(op.operands), Place(a), is_drawn) for a in axes)


def in_blocks(axis: int, sizes_: Sequence[int], edge: int, total: int) -> Link | None:
    """The index inside blocks of equal size, into which pieces of ``sizes_`` along ``axis``, what
    lies beside them (``edge``) and the result of ``total`` positions can all be taken apart.
    """
    size = math.gcd(*sizes_, edge, total)
    if size < 2 or 0 in (*sizes_, total):
        return None
    return Link(size, tuple(Place(axis, n // size) for n in sizes_), Place(axis, total // size))


def at_axes(axes: Mapping[str, int]) -> dict[str, Place]:
    """The places of indices that have an axis each."""
    return {name: Place(axis) for name, axis in axes.items()}


def shortened(name: str) -> Callable[[Op, Link, int], Attrs]:
    """The attributes of a part, where ``name`` is the result's shape."""

    def part(op: Op, link: Link, parts: int) -> Attrs:
        assert link.result is not None, "the link of a shape is in the result"
        axis = link.result.axis
        shape: tuple[Dim, ...] = sizes(op.result)
        shorter = (*shape[:axis], sizes(op.result)[axis] // parts, *shape[axis + 1 :])
        return {**op.attributes, name: shorter}

    return part


def regrouped(before: Sequence[int], after: Sequence[int]) -> tuple[Link, ...]:
    """The links of a row-major regrouping of the axes ``before`` into ``after``: their common
    factors, outermost first.

    Where neither of two axes is a multiple of the other only their common divisor can be followed,
    and nothing more until the borders of both sides meet again.
    """
    if math.prod(before) == 0:
        return ()
    found: list[Link] = []
    left, right = _Side(before), _Side(after)
    while left.goes_on() and right.goes_on():
        size = math.gcd(left.rest, right.rest)
        if left.done == right.done and size > 1:
            found.append(Link(size, (left.place,), right.place))
            left.take(size)
            right.take(size)
        else:
            behind = left if left.done <= right.done else right
            behind.take(behind.rest)
    return tuple(found)


class _Side:
    """A walk over the axes of one side of a regrouping, factor by factor."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = shape
        self.axis = 0
        self.outer = 1  # positions of this axis that are done
        self.done = 1  # positions of all axes that are done

    @property
    def rest(self) -> int:
        return self.shape[self.axis] // self.outer

    @property
    def place(self) -> Place:
        return Place(self.axis, self.outer)

    def take(self, size: int) -> None:
        self.outer *= size
        self.done *= size

    def goes_on(self) -> bool:
        """Goes to the next axis with positions left; False at the end."""
        while self.axis < len(self.shape) and self.rest == 1:
            self.axis, self.outer = self.axis + 1, 1
        return self.axis < len(self.shape)
