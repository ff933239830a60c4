"""At which place a parameter has an index, told by what is done with it.

Of [I, 4 * H] only uses say whether an index of H lies in four blocks ([4, H], the gates of an LSTM)
or has four positions for each of its own ([H, 4]). So every place that is possible is followed
through the function by the links that ops state, and what an op does not follow speaks against it.

    best(function, {"wx": (Place(1), Place(1, 4))}, 2)     # {"wx": Place(1, 4)}
    reached(function, fewer, 2)      # {"qkv.w": [Place(1, 3)], ...}, of heads that no shape names

Non-goals: cutting (``passes.training.share``), which goes another way where an op has no link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from gradc.ir.ops.axes import Place
from gradc.ir.ops.control import scan_counts
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, Function, Op, Role, Value

# Where in a value an index lies; bit n of each number: if it is the n-th of all possible places.
_Marks: TypeAlias = dict[Place, int]
_Key = TypeVar("_Key")


def best(
    function: Function, possible: Mapping[str, Sequence[Place]], parts: int
) -> dict[str, Place]:
    """Of the places of each parameter the one that fewest ops refuse to cut in ``parts``; of equals
    the first axis, and along it the place that meets other parameters most often, or the first.
    """
    seeds = [(name, place) for name, places in possible.items() for place in places]
    numbers = {seed: number for number, seed in enumerate(seeds)}
    own = {n: sum(1 << numbers[n, place] for place in places) for n, places in possible.items()}
    walk = _Uses(parts, tuple(own.values()))
    walk.block(
        function.block,
        [
            {place: 1 << numbers[slot.name, place] for place in possible.get(slot.name, ())}
            for slot in function.parameters
        ],
    )

    def cost(name: str, place: Place) -> tuple[int, int, int]:
        number, axes = numbers[name, place], [other.axis for other in possible[name]]
        return _count(walk.lost, number), axes.index(place.axis), -_count(walk.met, number)

    return {n: min(places, key=partial(cost, n)) for n, places in possible.items()}


def _count(found: Mapping[tuple[int, int, Place], int], number: int) -> int:
    return sum(seeds >> number & 1 for seeds in found.values())


def reached(function: Function, fewer: Function, parts: int) -> dict[str, list[Place]]:
    """Where parameters have an index of which values have ``parts`` times as many positions in
    ``function`` as in ``fewer``, the same program at another size of a dimension. Nothing where
    the ops differ.

    So heads are found in ``reshape(x @ w, [B, T, N, D // N])``, though w is [D, D]: links are
    followed both ways.
    """
    ops = function.block.body
    if [op.name for op in ops] != [op.name for op in fewer.block.body]:
        return {}
    touching: dict[Value, list[Op]] = {}
    todo: list[tuple[Value, Place]] = []
    for op, other in zip(ops, fewer.block.body, strict=True):
        for value in {*op.operands, *op.results}:
            touching.setdefault(value, []).append(op)
        for one, two in zip(op.results, other.results, strict=True):
            sizes = zip(one.type.static_shape, two.type.static_shape, strict=True)
            todo += [(one, Place(axis)) for axis, (n, m) in enumerate(sizes) if n == parts * m]
    found = dict.fromkeys(todo)
    while todo:
        value, place = todo.pop()
        for op in touching.get(value, ()):
            new = [at for at in _neighbours(op, value, place, parts) if at not in found]
            found.update(dict.fromkeys(new))
            todo += new
    held: dict[str, list[Place]] = {}
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        places = [place for at, place in found if at is value]
        if places and slot.role in (Role.PARAM, Role.STATE):
            held[slot.name] = sorted(places, key=lambda place: (place.axis, place.outer))
    return held


def _neighbours(op: Op, value: Value, place: Place, parts: int) -> Iterator[tuple[Value, Place]]:
    """Where other operands, or the result, of an op have the index that ``value`` has."""
    rule = lookup(op.name).axes
    for link in () if rule is None or op.regions else rule.links(op):
        ends = [*zip(op.operands, link.operands, strict=True), (op.result, link.result)]
        for end, own in ends:
            inside = link.holds(own, place, parts) if end is value else None
            if inside is not None:
                yield from ((v, at.inside(inside)) for v, at in ends if at is not None)


class _Uses:
    """One walk; ``lost`` are the marks that an operand of an op brings and nothing takes on,
    ``met`` those that an operand has where another has marks too, of another parameter (``own``
    are the bits of each).
    """

    def __init__(self, parts: int, own: Sequence[int]) -> None:
        self.parts = parts
        self.own = own
        self.lost: dict[tuple[int, int, Place], int] = {}
        self.met: dict[tuple[int, int, Place], int] = {}

    def block(self, block: Block, given: Sequence[_Marks]) -> list[_Marks]:
        """The marks of a block's outputs."""
        marks: dict[Value, _Marks] = dict(zip(block.parameters, given, strict=True))
        for op in block.body:
            operands = [marks.get(v, {}) for v in op.operands]
            if any(operands):
                results = self._region(op, operands) if op.regions else [self._op(op, operands)]
                marks.update(zip(op.results, results, strict=False))
        return [marks.get(value, {}) for value in block.outputs]

    def _op(self, op: Op, operands: Sequence[_Marks]) -> _Marks:
        rule = lookup(op.name).axes
        links = () if rule is None else (*rule.links(op), *rule.folded(op))
        found: _Marks = {}
        for number, marks in enumerate(operands):
            for place, seeds in marks.items():
                is_searched = rule is not None and rule.searched is not None and number == 0
                ends = [
                    (link, inside)
                    for link in links
                    if (inside := link.holds(link.operands[number], place, self.parts)) is not None
                ]
                if not ends and not (is_searched and place.outer == 1):
                    _add(self.lost, (id(op), number, place), seeds)
                for link, inside in ends:
                    if link.result is not None:
                        _add(found, link.result.inside(inside), seeds)
                    for n, other in enumerate(link.operands):
                        if n != number and other is not None:
                            there = operands[n].get(other.inside(inside), 0)
                            met = sum(seeds & own for own in self.own if there & ~own)
                            _add(self.met, (id(op), number, place), met)
        return found

    def _region(self, op: Op, operands: Sequence[_Marks]) -> list[_Marks]:
        """Through a loop until its carries bring nothing new, or through what is called once."""
        carried, stacked = scan_counts(op.attributes) if is_loop(op) else (0, 0)
        inner: list[_Marks] = []
        for number, marks in enumerate(operands):
            by = int(carried <= number < carried + stacked)
            for place, seeds in marks.items():
                if by and place.axis == 0:
                    _add(self.lost, (id(op), number, place), seeds)
            inner.append({p.moved(-by): s for p, s in marks.items() if p.axis >= by})
        while True:
            outputs = self.block(op.regions[0], inner)
            before = [dict(marks) for marks in inner[:carried]]
            for marks, more in zip(inner, outputs[:carried], strict=False):
                for place, seeds in more.items():
                    _add(marks, place, seeds)
            if inner[:carried] == before:
                break
        by_trip = int(is_loop(op))
        later = [{p.moved(by_trip): s for p, s in m.items()} for m in outputs[carried:]]
        return [*outputs[:carried], *later]


def _add(marks: dict[_Key, int], at: _Key, seeds: int) -> None:
    marks[at] = marks.get(at, 0) | seeds
