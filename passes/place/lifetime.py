"""Lifetimes of the tensors of a Plan: from the first step that touches one to the last.

Steps are numbered through all Repeats in order. A tensor touched only inside one Repeat body is
written there before it is read, so it lives within the body; one that is touched from outside as
well lives through the whole Repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradc.ir.plan.plan import Launch, Plan, Step


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Step numbers, both inclusive."""

    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Numbered:
    """A launch, its number, and the spans (first and last number) of the Repeats around it, outer
    first."""

    number: int
    launch: Launch
    repeats: tuple[tuple[int, int], ...]


def count(steps: Sequence[Step]) -> int:
    """Number of launches below ``steps``."""
    return sum(1 for step in steps for _ in step.walk())


def numbered(
    steps: Sequence[Step], start: int = 0, repeats: tuple[tuple[int, int], ...] = ()
) -> Iterator[Numbered]:
    """Every launch with its number. Recursion follows the nesting of Repeats."""
    number = start
    for step in steps:
        if step.launch is not None:
            yield Numbered(number, step.launch, repeats)
            number += 1
            continue
        size = count(step.body)
        span = (number, number + size - 1)
        yield from numbered(step.body, number, (*repeats, span))
        number += size


def counter_cells(steps: Sequence[Step], start: int = 0) -> Iterator[tuple[int, tuple[int, int]]]:
    """Tensors that hold a trip counter, and the span of their Repeat."""
    number = start
    for step in steps:
        size = count([step])
        for cell in () if step.launch is not None else step.tensors:
            yield cell, (number, number + size - 1)
        yield from counter_cells(step.body, number)
        number += size


def lifetimes(plan: Plan) -> dict[int, Lifetime]:
    """The lifetime of every arena tensor that is touched, by tensor number."""
    touched: dict[int, list[Numbered]] = {}
    for item in numbered(plan.steps):
        for argument in item.launch.arguments:
            if plan.tensors[argument.tensor].space == "arena":
                touched.setdefault(argument.tensor, []).append(item)
        if item.launch.scratch is not None:
            touched.setdefault(item.launch.scratch, []).append(item)
    found = {tensor: _lifetime(items) for tensor, items in touched.items()}
    for tensor, span in counter_cells(plan.steps):
        known = found.get(tensor, Lifetime(*span))
        found[tensor] = Lifetime(min(known.first, span[0]), max(known.last, span[1]))
    return found


def _lifetime(items: Sequence[Numbered]) -> Lifetime:
    """The span of all uses, widened to whole Repeats that do not hold all of them."""
    shared = 0
    depth = min(len(item.repeats) for item in items)
    while shared < depth and len({item.repeats[shared] for item in items}) == 1:
        shared += 1
    first, last = items[0].number, items[-1].number
    for item in items:
        if len(item.repeats) > shared:
            first = min(first, item.repeats[shared][0])
            last = max(last, item.repeats[shared][1])
        first, last = min(first, item.number), max(last, item.number)
    return Lifetime(first, last)
