"""What a subcommand prints and where: results to stdout, diagnostics and progress to stderr.

Colour only on a terminal and never against ``NO_COLOR``. Rich is loaded only where a table or a
progress bar is really shown on a terminal.

Non-goals: what is said.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError
    from gradc.ir.diagnostics.source import Sources


def finite(value: object) -> object:
    """``value`` with None for every float that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class Console:
    """The two streams of one run."""

    def __init__(self, color: str = "auto", error_format: str = "human") -> None:
        self._color = color
        self._error_format = error_format

    def colors(self, stream: TextIO) -> bool:
        """Whether to colour what goes to ``stream``."""
        if self._color != "auto":
            return self._color == "always"
        return stream.isatty() and not os.environ.get("NO_COLOR")

    def result(self, text: str) -> None:
        """A line (or lines) of the result."""
        print(text)

    def json(self, value: object) -> None:
        """The result, for a program to read: one JSON document; NaN and infinities are null."""
        print(json.dumps(finite(value), indent=2, sort_keys=False, allow_nan=False))

    def message(self, text: str) -> None:
        """A remark for people."""
        print(text, file=sys.stderr)

    def diagnostics(self, error: DiagnosticError) -> None:
        """Everything an error carries."""
        self.findings(error.diagnostics, error.sources)

    def findings(self, diagnostics: Sequence[Diagnostic], sources: Sources) -> None:
        """Diagnostics, warnings included."""
        from gradc.ir.diagnostics.render import ansi, plain, render_all, to_json

        if not diagnostics:
            return
        if self._error_format == "json":
            print(json.dumps({"diagnostics": to_json(diagnostics)}), file=sys.stderr)
            return
        paint = ansi if self.colors(sys.stderr) else plain
        print(render_all(diagnostics, sources, paint), file=sys.stderr)

    def internal_error(self, problem: Exception) -> None:
        """One line, and a report file that can be attached to an issue."""
        report = "".join(traceback.format_exception(problem))
        try:
            handle, path = tempfile.mkstemp(prefix="gradc-internal-", suffix=".txt")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(report)
        except OSError as refused:
            path = f"these lines (a file could not be written: {refused.strerror}):\n{report}"
        self.message(
            f"gradc: internal error: {type(problem).__name__}: {problem}\n"
            f"this is a fault of gradc, not of your program; please report it with {path}"
        )

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table on stdout: ruled by rich on a terminal, aligned text otherwise."""
        rows = [tuple(row) for row in rows]
        if sys.stdout.isatty():
            self._rich_table(title, columns, rows)
            return
        widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
        if title:
            print(title)
        for row in (tuple(columns), *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())

    def _rich_table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        RichConsole(no_color=not self.colors(sys.stdout)).print(table)


class Silent(Console):
    """A console whose results and messages nobody sees: another process says the same."""

    def result(self, text: str) -> None:
        """Nothing."""

    def json(self, value: object) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def findings(self, diagnostics: Sequence[Diagnostic], sources: Sources) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Nothing."""
