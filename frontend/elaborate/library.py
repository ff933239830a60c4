"""The standard library: declarations in ``stdlib/*.grad``, parsed one at a time, when first asked
for.

A file is cut at its top-level declarations, which start at the left margin and end at the first
``}`` there; so a program pays only for what it names. The cut text is parsed behind as many empty
lines as stand before it, which keeps the spans true.

Invariants: names are unique within a kind over all files (a test compares with parsing whole
files).
Non-goals: letting users add files (they import).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final, TypeAlias

from gradc.frontend.syntax import tree
from gradc.frontend.syntax.parse import parse
from gradc.ir.diagnostics.diagnostic import Report
from gradc.ir.diagnostics.source import Source
from gradc.ir.tensor.core import Span

Declared: TypeAlias = tree.Function | tree.Layer | tree.Optimizer | tree.Schedule | tree.Initializer

FOLDER: Final = "stdlib/"  # what names of its texts begin with
FILES: Final = ("functions", "losses", "layers", "optimizers", "schedules", "initializers")
_HEAD: Final = re.compile(r"^(fn|layer|optimizer|schedule|initializer)\s+(\w+)", re.MULTILINE)


@cache
def source(file: str) -> Source:
    """The text of one file of the library; spans call it ``stdlib/<file>.grad``."""
    name = f"{file}.grad"
    text = files("gradc.frontend.stdlib").joinpath(name).read_text(encoding="utf-8")
    return Source(f"{FOLDER}{name}", text)


def source_of(span: Span) -> Source:
    """The whole file that a span of the library points into."""
    return source_called(span.file)


def source_called(name: str) -> Source:
    """The file that spans call ``name``. Raises ValueError for what is no file of the library."""
    file = name.removeprefix(FOLDER).removesuffix(".grad")
    if file not in FILES:
        raise ValueError(name)
    return source(file)


@cache
def contents() -> dict[tuple[str, str], tuple[str, int, int]]:
    """(kind, name) of every declaration to its file and the stretch of text it takes."""
    found: dict[tuple[str, str], tuple[str, int, int]] = {}
    for file in FILES:
        text = source(file).text
        for match in _HEAD.finditer(text):
            line_end = text.index("\n", match.start())
            one_line = text[match.start() : line_end].endswith("}")
            end = line_end if one_line else text.index("\n}", match.start()) + 2
            found[match.group(1), match.group(2)] = (file, match.start(), end)
    return found


@cache
def names(kind: str) -> tuple[str, ...]:
    """The library's names of one kind (``fn``, ``layer``, ``optimizer``, ``schedule``,
    ``initializer``).
    """
    return tuple(name for found, name in contents() if found == kind)


@cache
def declaration(kind: str, name: str) -> Declared | None:
    """The declaration, parsed once per process, or None."""
    place = contents().get((kind, name))
    if place is None:
        return None
    file, start, end = place
    whole = source(file)
    lines_before = whole.text.count("\n", 0, start)
    cut = Source(whole.name, "\n" * lines_before + whole.text[start:end] + "\n")
    (found,) = parse(cut, Report()).declarations
    assert isinstance(found, Declared)
    return found
