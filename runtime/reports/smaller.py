"""The same program with smaller numbers written in it, for points that cost little.

Networks that say `conv(64, 128, 3)` have no dimension that could be smaller. Their integers are:
every 64 is read as 8, every 128 as 16, and so on, if the program is well formed then and has the
parameters it had. What is seen of such a program confirms what is proved of the real one; it never
refutes that, since a number may have meant something else (``runtime.reports.verify`` tries again
with the program as it is).

Non-goals: dimensions (``passes/prove/programs/shapes``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TypeAlias

from gradc.frontend.program import parsed
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.passes.prove.programs.shapes import MOST_WORK, work
from gradc.runtime.model.model import Model

# Integers from here on are taken for sizes: windows and strides are smaller.
_LEAST_WRITTEN = 8
_FACTORS = (8, 16, 32, 4, 2)
_IMAGES = (8, 4, 2)
_INTEGER = re.compile(r"(?<![\w.])\d{1,5}(?![\w.])")
# How many readings are tried, and how many numbers one of them may leave alone.
_MOST_TRIED, _MOST_KEPT = 20, 2
# The first readings are looked at for the smallest; later ones are no better than this.
_FIRST, _ENOUGH = 5, 4


# A number, and whether it stands among the inputs: what 32 means there, of an image, it need not
# mean in a layer.
Written: TypeAlias = tuple[int, bool]


@dataclass(frozen=True)
class Reading:
    """A model in which some of the integers that are written are read as others."""

    model: Model
    read: Mapping[Written, int]

    def __str__(self) -> str:
        found: dict[str, None] = {}
        for (n, is_input), m in self.read.items():
            is_split = self.read.get((n, not is_input), m) != m
            found[f"{n} read as {m}{' in the inputs' if is_split and is_input else ''}"] = None
        return ", ".join(found)


def smaller(model: Model, dims: Mapping[str, int], most: int = MOST_WORK) -> Reading | None:
    """The first reading at which one evaluation takes at most ``most`` field operations, else the
    one that takes fewest; None if none takes half as many as the program as it is."""
    return smallest(model, dims, most, _FACTORS)


def smallest(
    model: Model, dims: Mapping[str, int], most: int, factors: Sequence[int]
) -> Reading | None:
    """``smaller``, numbers divided by one of ``factors``."""
    function = model.lower(dims).function
    names = [slot.name for slot in function.parameters]
    best, least = None, work(function) // 2
    for number, read in enumerate(_readings(_written(model), factors)):
        if number >= _MOST_TRIED:
            break
        try:
            found = _read_as(model, read)
            made = found.lower(dims).function
        except DiagnosticError:
            continue
        if [slot.name for slot in made.parameters] == names and work(made) <= least:
            best, least = Reading(found, read), work(made)
            if least <= most * (1 if number < _FIRST else _ENOUGH):
                break
        if number >= _FIRST and least <= most * _ENOUGH:
            break
    return best


def _written(model: Model) -> list[Written]:
    """The integers of the program that may be sizes, smallest first."""
    found: set[Written] = set()
    for name, text in _texts(model):
        inputs = _inputs(model, name, text)
        for match in _INTEGER.finditer(re.sub(r"#.*", lambda m: " " * len(m[0]), text)):
            found.add((int(match[0]), match.start() in inputs))
    return sorted(key for key in found if key[0] >= _LEAST_WRITTEN)


def _inputs(model: Model, name: str, text: str) -> range:
    """Where the inputs of the model stand in the text of the file ``name``."""
    span = model.signature.span
    head = re.search(rf"\bmodel\s+{re.escape(model.name)}\s*\(", text)
    if name != span.file or head is None:
        return range(0)
    return range(head.end(), text.find(")", head.end()))


def _texts(model: Model) -> list[tuple[str, str]]:
    sources = model.program.report.sources.by_name
    names = [file.span.file for file in model.program.files]
    return [(name, sources[name].text) for name in names]


def _readings(written: Sequence[Written], factors: Sequence[int]) -> Iterator[dict[Written, int]]:
    """All numbers divided by a factor; all but the inputs; images by one, layers by another, and
    the largest number, which counts what images have become, by both; then all but one or two.
    """
    inputs = [key for key in written if key[1]]
    layers = [key for key in written if not key[1]]
    for keys in dict.fromkeys([tuple(written), tuple(layers)]):
        yield from (_divided(dict.fromkeys(keys, f)) for f in factors if keys)
    if inputs and layers:
        for by, f in product(_IMAGES, factors):
            found = dict.fromkeys(layers, f) | {layers[-1]: f * by**2} | dict.fromkeys(inputs, by)
            yield _divided(found)
    for kept in range(1, min(_MOST_KEPT, len(written) - 1) + 1):
        for alone in combinations(written, kept):
            rest = [key for key in written if key not in alone]
            yield from (_divided(dict.fromkeys(rest, f)) for f in factors)


def _divided(by: Mapping[Written, int]) -> dict[Written, int]:
    return {key: max(2, key[0] // factor) for key, factor in by.items()}


def _read_as(model: Model, read: Mapping[Written, int]) -> Model:
    """Raises DiagnosticError where the program is not well formed so."""
    files = []
    for name, text in _texts(model):
        inputs = _inputs(model, name, text)

        def replaced(match: re.Match[str], inputs: range = inputs) -> str:
            # As wide as before, so that places in the text stay what they are.
            found = read.get((int(match[0]), match.start() in inputs))
            return match[0] if found is None else f"{found:>{len(match[0])}}"

        files.append((name, _INTEGER.sub(replaced, text)))
    given = {name: n for name, n in model.dims.items() if name in model.program.names.dims}
    return Model(parsed(tuple(files)), model.name, given, model.precision)
