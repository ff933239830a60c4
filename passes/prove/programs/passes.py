"""Does every pass keep what a program computes? Before = after on every result, at points of a
prime field.

Programs are compared through what the first of them computes at each point, so a chain of n passes
costs n + 1 evaluations; an artifact that a pass returned unchanged costs nothing. Results are
matched by role and name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gradc.ir.domains.interpret import run
from gradc.ir.loop.equal import PLACES, equal
from gradc.ir.tensor.core import Function
from gradc.passes.pipeline import Record
from gradc.passes.prove.domains.point import Point, at_points
from gradc.passes.prove.report import key


@dataclass(frozen=True, slots=True)
class Compared:
    """One pass: which results differ somewhere (by role and name); ``is_same_text`` if it changed
    nothing.
    """

    step: str
    differing: tuple[str, ...]
    is_same_text: bool
    points: int


def values_by_result(function: Function, at: Point) -> dict[str, Any]:
    """What ``function`` computes at a point, by result."""
    results = run(at.domain, function, at.values)
    return {key(slot): x for slot, x in zip(function.results, results, strict=True)}


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The results that both have and that differ, and those that were lost."""
    return [n for n, x in before.items() if n not in after or not np.array_equal(x, after[n])]


def compare_records(
    source: Function, records: Sequence[Record], seed: int, points: int
) -> list[Compared]:
    """Every tensor-stage record against the program before it.

    A step that adds results (``differentiate``) is compared on those that were there before; what
    it adds is the business of ``prove_gradient``.
    """
    chain = [source, *(r.artifact for r in records if isinstance(r.artifact, Function))]
    steps = [r for r in records if isinstance(r.artifact, Function)]
    same = [b is a or equal(a, b, PLACES) for a, b in pairwise(chain)]

    def test(at: Point) -> list[list[str]]:
        found: list[list[str]] = []
        known = values_by_result(chain[0], at)
        for program, is_same in zip(chain[1:], same, strict=True):
            if is_same:
                found.append([])
                continue
            now = values_by_result(program, at)
            found.append(differing(known, now))
            known = now
        return found

    per_point = at_points(source, seed, points, test)
    compared = []
    for number, (record, is_same) in enumerate(zip(steps, same, strict=True)):
        names = dict.fromkeys(name for one in per_point for name in one[number])
        compared.append(Compared(record.step, tuple(names), is_same, points))
    return compared
