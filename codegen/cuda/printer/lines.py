"""Lines of a text, indented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Lines:
    """Collects lines; ``block`` opens an indented one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 1

    def add(self, text: str) -> None:
        """One line."""
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """``head:`` and what is written in it; nothing at all if that is nothing."""
        self.add(f"{head}:")
        start = len(self.lines)
        self._depth += 1
        yield
        self._depth -= 1
        if len(self.lines) == start:
            self.lines.pop()
