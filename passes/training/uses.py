"""At which place a parameter has an index, told by what is done with it.

Of [I, 4 * H] only uses say whether an index of H lies in four blocks ([4, H], the gates of an LSTM)
or has four positions for each of its own ([H, 4]). So every place that is possible is followed
through the function by the links that ops state, and what an op does not follow speaks against it.

    best(function, {"wx": (Place(1), Place(1, 4))}, 2)     # {"wx": Place(1, 4)}

Non-goals: cutting (``passes.training.share``), which goes another way where an op has no link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from gradc.ir.ops.axes import Place
from gradc.ir.ops.control import scan_counts
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, Function, Op, Value

# Where in a value an index lies; bit n of each number: if it is the n-th of all possible places.
_Marks: TypeAlias = dict[Place, int]


def best(
    function: Function, possible: Mapping[str, Sequence[Place]], parts: int
) -> dict[str, Place]:
    """Of the places of each parameter the one that fewest ops refuse to cut in ``parts``; of equals
    the first.
    """
    seeds = [(name, place) for name, places in possible.items() for place in places]
    numbers = {seed: number for number, seed in enumerate(seeds)}
    walk = _Uses(parts)
    walk.block(
        function.block,
        [
            {place: 1 << numbers[slot.name, place] for place in possible.get(slot.name, ())}
            for slot in function.parameters
        ],
    )
    refused = [sum(lost >> n & 1 for lost in walk.lost.values()) for n in range(len(seeds))]
    return {
        name: min(places, key=lambda place: refused[numbers[name, place]])
        for name, places in possible.items()
    }


class _Uses:
    """One walk; ``lost`` are the marks that an operand of an op brings and nothing takes on."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.lost: dict[tuple[int, int, Place], int] = {}

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
                    (link.result, inside)
                    for link in links
                    if (inside := link.holds(link.operands[number], place, self.parts)) is not None
                ]
                if not ends and not (is_searched and place.outer == 1):
                    self._lose(op, number, place, seeds)
                for result, inside in ends:
                    if result is not None:
                        _add(found, result.inside(inside), seeds)
        return found

    def _lose(self, op: Op, number: int, place: Place, seeds: int) -> None:
        at = id(op), number, place
        self.lost[at] = self.lost.get(at, 0) | seeds

    def _region(self, op: Op, operands: Sequence[_Marks]) -> list[_Marks]:
        """Through a loop until its carries bring nothing new, or through what is called once."""
        carried, stacked = scan_counts(op.attributes) if is_loop(op) else (0, 0)
        inner: list[_Marks] = []
        for number, marks in enumerate(operands):
            by = int(carried <= number < carried + stacked)
            for place, seeds in marks.items():
                if by and place.axis == 0:
                    self._lose(op, number, place, seeds)
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


def _add(marks: _Marks, place: Place, seeds: int) -> None:
    marks[place] = marks.get(place, 0) | seeds
