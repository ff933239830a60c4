"""Scalar programs without arrays, loops or branches: a list of verbs applied to earlier values.

A ``Straight`` is what an outsider who knows nothing of this compiler can say about a program: every
value is a number it was given, a literal, or a verb of ``ir/tensor/algebra.py`` at earlier values.
``evaluate`` runs it over any scalar domain; ``to_json``/``from_json`` carry it between processes.

Invariants: operands stand before what uses them. Non-goals: integers, which are numbers by the time
one gets here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# (verb, operands); an operand is the number of a value.
StraightStep: TypeAlias = tuple[str, tuple[int, ...]]
_BOOLEANS: Mapping[str, Callable[..., bool]] = {
    "logical_and": lambda a, b: a and b,
    "logical_or": lambda a, b: a or b,
    "logical_not": lambda a: not a,
}


@dataclass(frozen=True, slots=True)
class Straight:
    """``given`` (array and flat position), then ``literals``, then ``steps`` are the values, in
    this order.

    ``results`` maps names to the values of their elements in row-major order.
    """

    given: tuple[tuple[str, int], ...]
    literals: tuple[float | bool, ...]
    steps: tuple[StraightStep, ...]
    results: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def evaluate(
    program: Straight, scalars: Any, arrays: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """The results over the scalar domain ``scalars``; ``arrays`` are flat."""
    values = [arrays[name][place] for name, place in program.given]
    values += [scalars.const(x) for x in program.literals]
    for verb, operands in program.steps:
        given = [values[n] for n in operands]
        plain = _BOOLEANS.get(verb)
        if plain is not None and all(isinstance(x, bool) for x in given):
            values.append(plain(*given))
        else:
            values.append(getattr(scalars, verb)(*given))
    return {name: [values[n] for n in places] for name, places in program.results.items()}


def to_json(program: Straight) -> dict[str, Any]:
    """The program as JSON values; literals as hexadecimal text, so that they are exact."""
    return {
        "given": [list(g) for g in program.given],
        "literals": [x if isinstance(x, bool) else x.hex() for x in program.literals],
        "steps": [[verb, *operands] for verb, operands in program.steps],
        "results": {name: list(places) for name, places in program.results.items()},
    }


def from_json(data: Mapping[str, Any]) -> Straight:
    """What ``to_json`` wrote."""
    return Straight(
        tuple((str(name), int(place)) for name, place in data["given"]),
        tuple(x if isinstance(x, bool) else float.fromhex(x) for x in data["literals"]),
        tuple((str(verb), tuple(operands)) for verb, *operands in data["steps"]),
        {name: tuple(places) for name, places in data["results"].items()},
    )
