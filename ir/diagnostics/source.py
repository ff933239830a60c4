"""Source text: decoded files, their lines, and spans of places in them.

A :class:`Source` keeps the text exactly as decoded (after one leading byte order mark is dropped
and line ends are made ``\\n``), so columns count characters of the user's own lines. ``Sources`` is
the set of texts that diagnostics may quote.

Non-goals: decoding bytes, lexing, following imports (``frontend``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gradc.ir.tensor.core import Span


@dataclass(frozen=True)
class Source:
    """One text. ``name`` is what spans and messages call it: the path as the user gave it."""

    name: str
    text: str

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines without their ends; a text ending in a newline has a last, empty line."""
        return tuple(self.text.split("\n"))

    def line(self, number: int) -> str:
        """Line ``number``, counted from 1, or an empty string beyond the end."""
        return self.lines[number - 1] if 1 <= number <= len(self.lines) else ""

    def span(self, line: int, column: int, end_line: int, end_column: int) -> Span:
        """A span in this text."""
        return Span(self.name, line, column, end_line, end_column)

    @cached_property
    def end(self) -> Span:
        """The empty place after the last character."""
        line, column = len(self.lines), len(self.lines[-1]) + 1
        return Span(self.name, line, column, line, column)


@dataclass
class Sources:
    """The texts of one run by name; later texts of one name replace earlier ones."""

    by_name: dict[str, Source] = field(default_factory=dict)

    def add(self, source: Source) -> Source:
        """Remember ``source`` and return it."""
        self.by_name[source.name] = source
        return source

    def get(self, name: str) -> Source | None:
        """The text called ``name``."""
        return self.by_name.get(name)

    def __iter__(self) -> Iterator[Source]:
        return iter(self.by_name.values())
