"""Which integers of a program name rows of something, and whether they can.

``uses(function, inputs)`` runs the part of a function that turns integer inputs into ids (``take``,
``scatter_add`` and whatever else states ``OpDef.indexes``, and the one-hot form: a comparison with
a count along an axis of its own), and yields every use with the ids it gets. Nothing else of the
function is computed; ids that depend on floating numbers, parameters or random draws are not looked
at.

Regions are entered: a scan is walked trip by trip, unless its region takes the ids as they come.
Non-goals: what is said about an id out of range (``runtime.ids``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.control import scan_counts
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Value

Known: TypeAlias = dict[Value, Any]
_INTEGERS = (DType.I32, DType.I64)


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """``ids`` name rows of a table of ``size`` rows in ``op``; None where they are not known."""

    op: Op
    size: int
    ids: Any


class IndexUses:
    """The uses of ids in one function."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self._arrays = NumpyArrays()
        self._plans: dict[Block, _Plan] = {}
        self._plan(function.block)
        pairs = zip(function.parameters, function.block.parameters, strict=True)
        needed = self._plans[function.block].needed
        #: Inputs of which ids are made, by name.
        self.inputs: dict[str, Value] = {
            slot.name: value
            for slot, value in pairs
            if slot.role is Role.INPUT and value.type.dtype in _INTEGERS and value in needed
        }

    def uses(self, given: Mapping[str, Any], only_moves: bool = False) -> Iterator[Use]:
        """Every use of ids, in an order that depends on the function alone.

        With ``only_moves`` nothing is computed of ids: they come through unchanged, or are not
        known.
        """
        known = {value: given[name] for name, value in self.inputs.items() if name in given}
        return self._walk(self.function.block, known, only_moves)

    # --- what is needed

    def _plan(self, block: Block) -> _Plan:
        found = self._plans.get(block)
        if found is None:
            found = self._plans[block] = self._made(block)
        return found

    def _made(self, block: Block) -> _Plan:
        """Backwards from ids to what they are made of."""
        needed: set[Value] = set()
        runs: list[Op] = []
        makers = {value: op for op in block.body for value in op.results}
        uses = {op: indexed(op, makers) for op in block.body}
        for op in reversed(block.body):
            inside = self._needed_inside(op)
            if op.regions:
                needed.update(inside)
                if inside:
                    runs.append(op)
                continue
            needed.update(value for value, _ in uses[op])
            is_needed = any(value in needed for value in op.results)
            if is_needed or uses[op]:
                runs.append(op)
            if is_needed:
                needed.update(op.operands)
        return _Plan(frozenset(needed), tuple(reversed(runs)), uses)

    def _needed_inside(self, op: Op) -> list[Value]:
        """The operands of a region op that become ids in its (first) region."""
        if not op.regions or len(op.regions[0].parameters) != len(op.operands):
            return []
        inner = self._plan(op.regions[0]).needed
        pairs = zip(op.operands, op.regions[0].parameters, strict=True)
        return [outer for outer, parameter in pairs if parameter in inner]

    # --- running

    def _walk(self, block: Block, known: Known, only_moves: bool) -> Iterator[Use]:
        plan = self._plan(block)
        for op in plan.runs:
            if op.regions:
                yield from self._region(op, known, only_moves)
                continue
            for value, size in plan.uses[op]:
                yield Use(op, size, known.get(value))
            if any(value in plan.needed for value in op.results):
                self._run(op, known, only_moves)

    def _run(self, op: Op, known: Known, only_moves: bool) -> None:
        """The results of ``op``, if its operands are known."""
        definition = lookup(op.name)
        if not all(v in known for v in op.operands):
            return
        if only_moves and not (definition.is_view and op.operands):
            return
        found = definition.evaluate(self._arrays, op, [known[v] for v in op.operands])
        known.update(zip(op.results, found, strict=True))

    def _region(self, op: Op, known: Known, only_moves: bool) -> Iterator[Use]:
        region = op.regions[0]
        pairs = list(zip(region.parameters, op.operands, strict=True))
        if not is_loop(op):
            inner = {p: known[v] for p, v in pairs if v in known}
            yield from self._walk(region, inner, only_moves)
            return
        carried, stacked = scan_counts(op.attributes)
        slices = pairs[carried : carried + stacked]
        fixed = {p: known[v] for p, v in pairs[carried + stacked :] if v in known}
        if not self._computed(region):
            # Ids come as they are: all trips at once.
            whole = {p: known[v] for p, v in slices if v in known}
            yield from self._walk(region, {**fixed, **whole}, only_moves)
            return
        trips = op.attributes["trips"]
        assert isinstance(trips, int), "dimensions are bound before a program runs"
        for trip in range(trips):
            rows = {p: known[v][trip] for p, v in slices if v in known}
            yield from self._walk(region, {**fixed, **rows}, only_moves)

    def _computed(self, region: Block) -> Sequence[Op]:
        """The ops of a region that make ids, or have regions where they are used."""
        plan = self._plan(region)
        return [op for op in plan.runs if op.regions or any(v in plan.needed for v in op.results)]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Of one block: the values of which ids are made, the ops to look at, and the ids they use with
    their ranges.
    """

    needed: frozenset[Value]
    runs: tuple[Op, ...]
    uses: Mapping[Op, Sequence[tuple[Value, int]]]


def indexed(op: Op, makers: Mapping[Value, Op]) -> Sequence[tuple[Value, int]]:
    """Which values ``op`` takes as numbers of rows, and of how many rows."""
    if op.regions:
        return ()
    definition = lookup(op.name)
    if definition.indexes is not None:
        return tuple((op.operands[number], size) for number, size in definition.indexes(op))
    if definition.commutative and len(op.operands) == 2 and op.result.type.dtype is DType.BOOL:
        return _one_hot(op, makers)
    return ()


def _one_hot(op: Op, makers: Mapping[Value, Op]) -> Sequence[tuple[Value, int]]:
    """``one_hot`` compares ids, repeated along a new last axis, with the count along it.

    The word makes all three ops at one place of the text, which tells it from comparisons that a
    program writes, where a number that fits nowhere has a meaning.
    """
    ids, count = (makers.get(v) for v in op.operands)
    if ids is None or count is None or not ids.span == count.span == op.span:
        return ()
    rank = op.result.type.rank
    is_pair = ids.name == "broadcast" and count.name == "iota"
    if not is_pair or count.attributes["axis"] != rank - 1:
        return ()
    if ids.attributes["dims"] != tuple(range(rank - 1)):
        return ()
    return ((ids.operands[0], op.result.type.static_shape[-1]),)


def first_outside(use: Use) -> tuple[int, ...] | None:
    """Where the first id out of range lies in ``use.ids``; None if there is none."""
    ids = np.asarray(use.ids)
    if not ids.size or (ids.min() >= 0 and ids.max() < use.size):
        return None
    wrong = np.unravel_index(np.argmax((ids < 0) | (ids >= use.size)), ids.shape)
    return tuple(int(i) for i in wrong)
