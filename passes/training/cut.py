"""A function cut into equal parts along one index of its inputs: the program of one part, made from
that of the whole.

    from  a function, and where in each cut input the index lies (``ir.axes.Place``)
    to    ``Cut``: the ops of one part, the sums over parts, what comes after them

The walk follows the index from op to op by the links that each op states (``ir/ops/axes.py``), and
writes every op again as it is on one part. Because the part is derived from the whole, and only
along stated links, stacking the parts' values (or adding the parts' sums) gives the whole's values,
whatever was reshaped or transposed on the way. Where an op has no link for the index, ``Mixed``
says so.

A value that no cut input reaches is the same for all parts; where it meets values that are cut, the
part of it is made on demand, from what broadcasts or draws it. Regions are walked with what their
operands are; a carry of a loop is cut if any of its trips makes it so.

Non-goals: adding up, derivatives (``passes.accumulate``), choosing what to cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gradc.ir.ops.attributes import get_int
from gradc.ir.ops.axes import Link, Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.control import scan_counts
from gradc.ir.ops.registry import has_pullback, is_loop, lookup, number_of
from gradc.ir.tensor.core import Attrs, Block, Function, Op, Value
from gradc.passes.training.pieces import part_type
from gradc.passes.training.ranks import Deal, Total

_Kind = Literal["function", "region", "pullback"]
_PLACES_DIFFER = "samples are put in another order or compared with other samples here"


class Mixed(Exception):
    """The parts cannot be computed one by one: what happens, and at which op."""

    def __init__(self, message: str, op: Op | None) -> None:
        super().__init__(message)
        self.message = message
        self.op = op


@dataclass(frozen=True, slots=True)
class Cut:
    """One part of a function.

    ``block`` has the function's parameters, cut, and every op of a part; it is not pruned.
    ``places`` are the values of the whole that are cut, ``parts_of[v]`` is that part of v;
    ``sums[v]`` is one summand of v, a sum over parts. ``after`` are the values that depend on such
    a sum; ``local`` are the same in all parts, but known there only.
    """

    parameters: tuple[Value, ...]
    ops: tuple[Op, ...]
    places: Mapping[Value, Place]
    parts_of: Mapping[Value, Value]
    sums: Mapping[Value, Value]
    after: frozenset[Value]
    local: frozenset[Value]


def cut(
    function: Function, places: Mapping[str, Place], parts: int, deal: Deal | None = None
) -> Cut:
    """``function`` cut at the places of its inputs. Raises Mixed, naming the op where parts
    meet.

    With ``deal``, whose ranks have a part each, samples may depend on sums over the whole batch:
    the ranks add them up on the way.
    """
    found = [places.get(slot.name) for slot in function.parameters]
    walk = Walk(function.block, found, parts, "function", deal)
    walk.run()
    parts_of = {value: walk.made[value, place] for value, place in walk.places.items()}
    return Cut(
        tuple(walk.b.parameters),
        tuple(walk.b.ops),
        walk.places,
        parts_of,
        walk.sums,
        frozenset(walk.after),
        frozenset(walk.local),
    )


class Walk:
    """One walk over a block; ``b`` collects the ops of a part."""

    def __init__(
        self,
        block: Block,
        places: Sequence[Place | None],
        parts: int,
        kind: _Kind,
        deal: Deal | None = None,
    ) -> None:
        self.block = block
        self.deal = deal
        self.parts = parts
        self.kind = kind
        self.b = Builder()
        self.places: dict[Value, Place] = {}
        self.made: dict[tuple[Value, Place | None], Value] = {}
        self.source: dict[Value, Op] = {}
        self.sums: dict[Value, Value] = {}
        self.after: set[Value] = set()
        self.local: set[Value] = set()
        # Parameters of a region that must be cut although their operands are the same for all
        # parts.
        self.demands: dict[int, Place] = {}
        for value, place in zip(block.parameters, places, strict=True):
            type_ = value.type if place is None else part_type(value.type, place, parts)
            self.made[value, place] = self.b.parameter(type_, value.hint)
            if place is not None:
                self.places[value] = place

    def run(self) -> None:
        for op in self.block.body:
            self.source.update(dict.fromkeys(op.results, op))
            self._op(op)

    def output(self, value: Value, place: Place | None) -> Value:
        """What a region yields: the part of ``value`` at ``place``, or all of it."""
        return self.whole(value) if place is None else self.cut(value, place, None)

    # --- values of a part

    def whole(self, value: Value) -> Value:
        """``value`` where it is the same for all parts."""
        if (value, None) not in self.made:
            self._join(value)
        return self.made[value, None]

    def _join(self, value: Value) -> None:
        """What depends on sums over the batch, from the sums of all ranks."""
        todo = [value]
        while todo:
            value = todo[-1]
            if (value, None) in self.made:
                todo.pop()
            elif value in self.sums:
                self.made[value, None] = self._total(value)
            else:
                op = self.source[value]
                missing = [v for v in op.operands if (v, None) not in self.made]
                if missing:
                    todo += missing
                    continue
                operands = [self.made[v, None] for v in op.operands]
                results = self._emit(op, operands, op.attributes, op.regions)
                self.made.update(((v, None), x) for v, x in zip(op.results, results, strict=True))

    def _total(self, value: Value) -> Value:
        """A sum over all ranks, from the summands."""
        assert self.deal is not None, "it was looked at before"
        total = Total(value.type, self.deal)
        joined = total.add(self.b, total.start(self.b), self.sums[value], self.deal.count)
        return total.finish(self.b, joined)

    def cut(self, value: Value, place: Place, user: Op | None) -> Value:
        """The part of ``value`` at ``place``, made from its source where it is the same for all
        parts.
        """
        todo = [(value, place)]
        while todo:
            if todo[-1] in self.made:
                todo.pop()
                continue
            value, place = todo[-1]
            op, link, inside = self._source_of(value, place, user)
            if op is None or link is None:
                continue  # a parameter, made by now
            wanted = [None if own is None else own.inside(inside) for own in link.operands]
            pairs = list(zip(op.operands, wanted, strict=True))
            missing = [(v, p) for v, p in pairs if p is not None and (v, p) not in self.made]
            if missing:
                todo += missing
                continue
            attributes = self._attributes(op, link)
            operands = [self.whole(v) if p is None else self.made[v, p] for v, p in pairs]
            if (
                link.is_drawn
            ):  # its key is numbered later (accumulate_draws), so it cannot be checked yet
                self.made[value, place] = self._drawn(op, operands, attributes, place)
                continue
            (self.made[value, place],) = self._emit(op, operands, attributes)
        return self.made[value, place]

    def _source_of(
        self, value: Value, place: Place, user: Op | None
    ) -> tuple[Op | None, Link | None, int]:
        """The op and the link that a part of ``value`` can be made with."""
        if value in self.places:
            raise Mixed(_PLACES_DIFFER, user)
        if value in self.sums or (value in self.after and self.deal is None):
            raise Mixed("single samples depend on a statistic of the whole batch here", user)
        op = self.source.get(value)
        if op is None:
            self._demand(value, place, user)
            return None, None, 1
        for link in self._links(op):
            if (inside := link.holds(link.result, place, self.parts)) is not None:
                if link.is_drawn and place.outer > 1:
                    break
                return op, link, inside
        raise Mixed(_meet(op), op)

    def _demand(self, value: Value, place: Place, user: Op | None) -> None:
        """Asks for a parameter of a region to be cut."""
        if self.kind == "function":
            name = value.hint or "a parameter"
            raise Mixed(f"`{name}` is not cut with the samples that it meets here", user)
        self._demand_of_region(value, place, user)

    def _demand_of_region(self, value: Value, place: Place, user: Op | None) -> None:
        number = self.block.parameters.index(value)
        if self.demands.setdefault(number, place) != place:
            raise Mixed(_PLACES_DIFFER, user)
        self.made[value, place] = Value(part_type(value.type, place, self.parts), value.hint)

    def _emit(
        self, op: Op, operands: Sequence[Value], attributes: Attrs, regions: tuple[Block, ...] = ()
    ) -> tuple[Value, ...]:
        hint = op.results[0].hint if op.results else ""
        with self.b.at(op.span, op.scope, op.replica):
            return self.b.apply(op.name, operands, attributes, regions, hint)

    def _drawn(self, op: Op, operands: Sequence[Value], attributes: Attrs, place: Place) -> Value:
        made = Value(part_type(op.result.type, place, self.parts), op.result.hint)
        with self.b.at(op.span, op.scope, op.replica):
            self.b.append(op.name, operands, (made,), attributes)
        return made

    # --- ops

    def _op(self, op: Op) -> None:
        is_cut = any(v in self.places for v in op.operands)
        is_after = any(v in self.after or v in self.sums for v in op.operands)
        if is_after and is_cut and self.deal is None:
            raise Mixed("single samples depend on a statistic of the whole batch here", op)
        if is_after and not is_cut:
            self._after(op)
        elif not is_cut:
            results = self._emit(
                op, [self.whole(v) for v in op.operands], op.attributes, op.regions
            )
            for value, made in zip(op.results, results, strict=True):
                self.made[value, None] = made
            if any(v in self.local for v in op.operands):
                self.local.update(op.results)
        elif op.regions:
            (self._custom if has_pullback(op) else self._region)(op)
        else:
            self._follow(op)

    def _after(self, op: Op) -> None:
        """What depends on sums: after all parts, or, in a pullback, a view of a cotangent that is a
        sum.
        """
        if any(v in self.local for v in op.operands):
            raise Mixed("what a loop over samples made is used after their sum", op)
        if self.kind == "function":
            self.after.update(op.results)
            return
        if self.kind == "region" or not lookup(op.name).is_view or len(op.operands) != 1:
            raise Mixed("samples are added up inside a loop, a checkpoint or a pullback here", op)
        (self.sums[op.result],) = self._emit(op, [self.sums[op.operands[0]]], op.attributes)

    def _follow(self, op: Op) -> None:
        """An op without regions, some of whose operands are cut."""
        link, inside = self._link(op)
        operands = [
            self.whole(value) if own is None else self.cut(value, own.inside(inside), op)
            for value, own in zip(op.operands, link.operands, strict=True)
        ]
        (made,) = self._emit(op, operands, self._attributes(op, link))
        if link.result is None:
            if self.kind == "region":
                raise Mixed("samples are added up inside a loop or a checkpoint here", op)
            self.sums[op.result] = made
        else:
            place = link.result.inside(inside)
            self.places[op.result] = place
            self.made[op.result, place] = made

    def _link(self, op: Op) -> tuple[Link, int]:
        """The link along which the cut operands go through ``op``, and how far inside it they are
        cut.
        """
        places = [self.places.get(v) for v in op.operands]
        first = next(n for n, place in enumerate(places) if place is not None)
        for link in self._links(op):
            place = places[first]
            assert place is not None, "`first` is cut"
            inside = link.holds(link.operands[first], place, self.parts)
            if inside is None:
                continue
            pairs = zip(places, link.operands, strict=True)
            if any(place is not None and own is None for place, own in pairs):
                raise Mixed("every sample is compared with every other here", op)
            return link, inside
        raise Mixed(_meet(op), op)

    def _links(self, op: Op) -> tuple[Link, ...]:
        """The links that are followed through ``op``."""
        rule = lookup(op.name).axes
        return () if rule is None else rule.links(op)

    def _attributes(self, op: Op, link: Link) -> Attrs:
        rule = lookup(op.name).axes
        assert rule is not None, "the link is one of its links"
        return rule.part(op, link, self.parts)

    # --- regions

    def _region(self, op: Op) -> None:
        """A loop or a checkpoint: its region is walked until what must be cut is known."""
        carried, stacked = scan_counts(op.attributes) if is_loop(op) else (0, 0)
        behind = [int(carried <= n < carried + stacked) for n in range(len(op.operands))]
        inner: list[Place | None] = []
        for value, by in zip(op.operands, behind, strict=True):
            place = self.places.get(value)
            if by and place is not None and place.axis == 0:
                raise Mixed("the loop runs over the samples", op)
            inner.append(None if place is None else place.moved(-by))
        (region,) = op.regions
        also: list[int] = []  # what is handed in whole too
        while True:
            walk = self._inside(region, inner)
            wholes = {n: walk.hand_in(region.parameters[n]) for n in also}
            walk.run()
            outs = [walk.places.get(value) for value in region.outputs]
            for n in range(carried):
                outs[n] = outs[n] if inner[n] is None else inner[n]
            outputs = [walk.output(v, p) for v, p in zip(region.outputs, outs, strict=True)]
            demands = {n: p for n, p in enumerate(outs[:carried]) if p is not None}
            demands = {n: p for n, p in {**demands, **walk.demands}.items() if inner[n] is None}
            if demands:
                inner = [demands.get(n, place) for n, place in enumerate(inner)]
                continue
            more = [n for n in walk.put_together() if n >= carried and n not in also]
            if not more or not is_loop(op):
                break
            also += more
        operands = [
            self.whole(value) if place is None else self.cut(value, place.moved(by), op)
            for value, place, by in zip(op.operands, inner, behind, strict=True)
        ]
        attributes = op.attributes
        for n, parameter in wholes.items():
            is_stacked = n < carried + stacked
            at = carried + get_int(attributes, "stacked") if is_stacked else len(operands)
            operands.insert(at, self.whole(op.operands[n]))
            walk.b.parameters.remove(parameter)
            walk.b.parameters.insert(at, parameter)
            if is_stacked:
                attributes = {**attributes, "stacked": get_int(attributes, "stacked") + 1}
        results = self._emit(op, operands, attributes, (walk.b.block(outputs),))
        found = [
            None if p is None else p.moved(is_loop(op) and n >= carried) for n, p in enumerate(outs)
        ]
        self._results(op, results, found)

    def _inside(self, region: Block, places: Sequence[Place | None]) -> Walk:
        """The walk over a region."""
        return Walk(region, places, self.parts, "region")

    def put_together(self) -> list[int]:
        """The numbers of cut parameters whose whole this walk over a region has made."""
        return []

    def hand_in(self, value: Value) -> Value:
        """A parameter of its own for the whole of a parameter that is cut."""
        made = self.made[value, None] = self.b.parameter(value.type, value.hint)
        return made

    def _results(self, op: Op, results: Sequence[Value], places: Sequence[Place | None]) -> None:
        for value, made, place in zip(op.results, results, places, strict=True):
            self.made[value, place] = made
            if place is None:
                self.local.add(value)
            else:
                self.places[value] = place

    def _custom(self, op: Op) -> None:
        """A function with its own pullback: cotangents of what all parts share must be sums over
        samples.
        """
        primal, reverse = op.regions
        count = len(op.operands)
        inner = [self.places.get(value) for value in op.operands]
        while True:
            forward = Walk(primal, inner, self.parts, "region")
            forward.run()
            outs = [forward.places.get(value) for value in primal.outputs]
            outputs = [forward.output(v, p) for v, p in zip(primal.outputs, outs, strict=True)]
            backward = Walk(reverse, [*inner, *outs, *outs], self.parts, "pullback")
            backward.run()
            pairs = zip(reverse.outputs, inner, strict=True)
            cotangents = [_cotangent(backward, value, place, op) for value, place in pairs]
            if any(n >= count for n in backward.demands):
                raise Mixed(_PLACES_DIFFER, op)
            demands = {**backward.demands, **forward.demands}
            if not demands:
                break
            inner = [demands.get(n, place) for n, place in enumerate(inner)]
        operands = [
            self.whole(value) if place is None else self.cut(value, place, op)
            for value, place in zip(op.operands, inner, strict=True)
        ]
        regions = forward.b.block(outputs), backward.b.block(cotangents)
        self._results(op, self._emit(op, operands, op.attributes, regions), outs)


def _cotangent(walk: Walk, value: Value, place: Place | None, op: Op) -> Value:
    """What a pullback returns for an operand that lies at ``place``."""
    if place is not None:
        return walk.output(value, place)
    if value in walk.sums:
        return walk.sums[value]
    source = walk.source.get(value)
    is_zero = source is not None and number_of(source) == 0
    if value in walk.places or (value.type.dtype.is_float and not is_zero):
        message = "the pullback's cotangent of what all samples share is not a sum over samples"
        raise Mixed(message, op)
    return walk.whole(value)


def _meet(op: Op) -> str:
    rule = lookup(op.name).axes
    why = "its axes say nothing of each other" if rule is None else rule.otherwise
    return f"samples meet in `{op.name}`: {why}"
