"""The ranks of one program as one function, in which an exchange is a rearrangement of rows.

    from  a function that R ranks run, each on parameters of its own but for those that are the same
    to    a function without exchanges: parameters and results ``name@r`` of rank r, or ``name``
          where all ranks have the same

It is what the ranks compute together, so whatever can be said of a function can be said of them:
the reference interpreter runs it in any domain, and its results can be compared with those of one
rank. What does not depend on rank-own parameters is computed once.

Non-goals: speed; memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.axes import Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.collective import is_across
from gradc.ir.ops.inline import inline_function
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, Function, Op, Role, Slot, Value, walk
from gradc.passes.rewrite import Scan, copy_ops
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.pieces import joined, part
from gradc.passes.training.ranks import Deal

Copies = tuple[Value, ...]  # of one value, a copy per rank; the same one where all ranks agree


def exchanges(block: Block) -> tuple[Op, ...]:
    """The exchanges of a function, in its loops too, in order."""
    return tuple(op for op in walk(block) if op.results and is_exchange(op))


def is_exchange(op: Op) -> bool:
    """Whether the result has what other ranks gave."""
    return lookup(op.name).traits.joined is not None


def together(function: Function, ranks: int, same: Collection[str]) -> Function:
    """``function`` as ``ranks`` ranks run it; ``same`` names the parameters that all of them have
    in common.

    Raises:
        ValueError: for exchanges between another number of ranks, or inside a region that is no
            loop.
    """
    walk_ = _Walk(ranks)
    parameters: list[Slot] = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        count = 1 if slot.name in same else ranks
        names = [slot.name] if count == 1 else [f"{slot.name}@{r}" for r in range(ranks)]
        made = [walk_.b.parameter(value.type, value.hint) for _ in names]
        walk_.copies[value] = tuple(made) * (ranks // count)
        parameters += [replace(slot, name=name) for name in names]
    walk_.run(function.block.body)
    outputs, results = [], []
    for slot, value in zip(function.results, function.block.outputs, strict=True):
        copies = walk_.copies[value]
        if len(set(copies)) == 1:
            outputs.append(copies[0])
            results.append(slot)
            continue
        outputs += copies
        results += [_of_rank(slot, rank) for rank in range(ranks)]
    return walk_.b.function(f"{function.name}_together", outputs, parameters, results)


def _of_rank(slot: Slot, rank: int) -> Slot:
    """The result of one rank; a function has one loss, so other ranks' are outputs."""
    is_other = slot.role is Role.LOSS and rank > 0
    role = Role.OUTPUT if is_other else slot.role
    return replace(slot, name=f"{slot.name}@{rank}", role=role)


class _Walk:
    """One walk over a block; ``copies`` are those of the values in sight."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.b = Builder()
        self.copies: dict[Value, Copies] = {}

    def run(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if is_exchange(op):
                self._exchange(op)
            elif any(exchanges(region) for region in op.regions):
                self._loop(op)
            else:
                self._each(op)

    def _each(self, op: Op) -> None:
        """An op that every rank runs for itself, once where their operands are the same."""
        operands = [self.copies[v] for v in op.operands]
        is_same = all(len(set(copies)) == 1 for copies in operands)
        found: list[tuple[Value, ...]] = []
        for rank in range(1 if is_same else self.ranks):
            mapping = {v: c[rank] for v, c in zip(op.operands, operands, strict=True)}
            self.b.ops += copy_ops([op], mapping)
            found.append(tuple(mapping[v] for v in op.results))
        for number, value in enumerate(op.results):
            copies = tuple(results[number] for results in found)
            self.copies[value] = copies * self.ranks if is_same else copies

    def _exchange(self, op: Op) -> None:
        joined, count = lookup(op.name).traits.joined, op.result.type.shape[0]
        if joined is None or not isinstance(count, int) or self.ranks % count:
            raise ValueError(f"{op.name} is not between {self.ranks} ranks")
        step = self.ranks // count
        groups = [
            range(n, self.ranks, step) if is_across(op) else range(n * count, (n + 1) * count)
            for n in range(step)
        ]
        given, found = self.copies[op.operands[0]], dict[int, Value]()
        with self.b.at(op.span, op.scope, op.replica):
            for group in groups:
                made = joined(self.b, op, [given[rank] for rank in group])
                found.update(zip(group, made, strict=True))
        self.copies[op.result] = tuple(found[rank] for rank in range(self.ranks))

    def _loop(self, op: Op) -> None:
        """A loop in whose trips ranks exchange: one loop with the carries of all of them."""
        if not is_loop(op):
            raise ValueError(f"ranks exchange inside `{op.name}`")
        scan, ranks = Scan.of(op), self.ranks
        inner = _Walk(ranks)
        operands: list[Value] = []
        for value, parameter in zip(op.operands, scan.body.parameters, strict=True):
            copies = self.copies[value]
            operands += copies
            inner.copies[parameter] = tuple(
                inner.b.parameter(parameter.type, parameter.hint) for _ in copies
            )
        inner.run(scan.body.body)
        outputs = [copy for value in scan.body.outputs for copy in inner.copies[value]]
        region = inner.b.block(outputs)
        attributes = scan.attributes(carried=ranks * scan.carried, stacked=ranks * scan.stacked)
        with self.b.at(op.span, op.scope, op.replica):
            found = self.b.emit("scan", *operands, regions=(region,), hint="", **attributes)
        for number, value in enumerate(op.results):
            self.copies[value] = tuple(found[ranks * number : ranks * (number + 1)])


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters of which ranks that follow each other hold ``parts`` parts at ``places``."""

    places: Mapping[str, Place]
    parts: int = 1


def as_rank(
    whole: Function,
    cut: Function,
    deal: Deal,
    places: Mapping[str, Place],
    rank: int,
    held: Held | None = None,
) -> Function:
    """What ``rank`` has when all ranks have run ``cut``, from the parameters of ``whole``: each is
    handed the rows of its parts. Results that are whole on every rank; those of samples are not,
    and gradients of what is cut are put together.

    ``places`` are those of samples, by input (``accumulate``). On a grid each of ``deal.ranks`` is
    a group of ranks that hold parts of parameters (``held``).
    """
    held = held or Held({})
    own = {*places, *held.places}
    same = [slot.name for slot in cut.parameters if slot.name not in own]
    all_ = together(flatten(cut), deal.ranks * held.parts, same)  # fusions may hold exchanges
    b = Builder()
    given = {
        slot.name: b.parameter(value.type, value.hint)
        for slot, value in zip(whole.parameters, whole.block.parameters, strict=True)
    }
    operands = []
    for slot in all_.parameters:
        name, is_own, number = slot.name.partition("@")
        value = given[name]
        if is_own and name in held.places:
            parts = Deal(held.parts, held.parts)
            value = _dealt(b, value, held.places[name], parts, int(number) % held.parts)
        elif is_own:
            value = _dealt(b, value, places[name], deal, int(number) // held.parts)
        operands.append(value)
    made = inline_function(b, all_, operands)
    found = {slot.name: x for slot, x in zip(all_.results, made, strict=True)}
    types = {slot.name: v.type for slot, v in zip(whole.results, whole.block.outputs, strict=True)}
    kept = []
    for slot in cut.results:
        copy = found.get(f"{slot.name}@{rank}", found.get(slot.name))
        if slot.role is Role.COTANGENT and slot.name in places:
            pieces = [found[f"{slot.name}@{r}"] for r in range(deal.ranks)]
            copy = joined(b, pieces, places[slot.name])
        if slot.role is Role.COTANGENT and slot.name in held.places:
            first = rank // held.parts * held.parts
            pieces = [found[f"{slot.name}@{first + r}"] for r in range(held.parts)]
            copy = joined(b, pieces, held.places[slot.name])
        if copy is not None and copy.type == types.get(slot.name):
            kept.append((slot, copy))
    slots = [slot for slot, _ in kept]
    outputs = [v for _, v in kept]
    return dce(b.function(f"{cut.name}_{rank}", outputs, whole.parameters, slots))


def _dealt(b: Builder, value: Value, place: Place, deal: Deal, rank: int) -> Value:
    """The rows of the parts of ``rank``."""
    parts = [part(b, value, place, deal.count, n) for n in deal.parts_of(rank)]
    return parts[0] if len(parts) == 1 else b.one("concat", *parts, axis=place.axis)
