"""Diagnostics as text for people and as JSON for programs.

    error[GC0103]: `**` is not an operator here
      --> mlp.grad:4:11
       |
     4 |     y = x ** 2
       |           ^^ powers are written `^`
       = help: write x ^ 2

Plain text first: colour is a separate, optional pass over the same pieces (``paint``). Every
character that could change how the terminal shows the rest (controls, bidirectional marks, lone
surrogates) is escaped; carets are placed by display width, so tabs and wide characters do not shift
them.

Non-goals: deciding what to report.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gradc.ir.diagnostics.diagnostic import MAX_DIAGNOSTICS, Diagnostic
from gradc.ir.diagnostics.source import Sources
from gradc.ir.tensor.core import Span

# What a stretch of output is, for colouring: its role and its text.
Role: TypeAlias = str
Paint: TypeAlias = Callable[[Role, str], str]

TAB_WIDTH = 4
# Longer lines are cut around the carets, so that a one-line file of 1 MiB stays readable.
MAX_SHOWN_CHARACTERS = 160
_ELISION = "..."
_ANSI = {
    "error": "\x1b[1;31m",
    "warning": "\x1b[1;33m",
    "title": "\x1b[1m",
    "gutter": "\x1b[1;34m",
    "primary": "\x1b[1;31m",
    "secondary": "\x1b[1;34m",
    "help": "\x1b[1;36m",
}


def plain(_role: Role, text: str) -> str:
    """No colour."""
    return text


def ansi(role: Role, text: str) -> str:
    """Colour by ANSI sequences; unknown roles stay plain."""
    return f"{_ANSI[role]}{text}\x1b[0m" if role in _ANSI and text else text


def escape(text: str) -> str:
    """``text`` with every character that must not reach a terminal written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{{{code:04x}}}"


def display_width(text: str) -> int:
    """The number of terminal cells that printable ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(c) for c in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shown(line: str, column: int) -> str:
    """The text of ``line`` before ``column`` (from 1) as displayed: tabs expanded, escapes made."""
    pieces: list[str] = []
    width = 0
    for character in line[: column - 1]:
        piece = (
            _escape_character(character)
            if character != "\t"
            else " " * (TAB_WIDTH - width % TAB_WIDTH)
        )
        pieces.append(piece)
        width += display_width(piece)
    return "".join(pieces)


def render(diagnostic: Diagnostic, sources: Sources, paint: Paint = plain) -> str:
    """One diagnostic as lines of text, without a final newline."""
    head = paint(diagnostic.severity, f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [head + paint("title", f": {escape(diagnostic.message)}")]
    snippets = _snippets(diagnostic)
    gutter = max((len(str(span.end_line)) for span, _, _ in snippets), default=1)
    previous: Span | None = None
    for span, text, role in snippets:
        lines += _render_place(span, text, role, gutter, previous, sources, paint)
        previous = span
    margin = " " * (gutter + 1)
    if diagnostic.help:
        lines += _remark("help", diagnostic.help, margin, paint)
    for note in diagnostic.notes:
        lines += _remark("note", note, margin, paint)
    lines += _callers(diagnostic.span, margin, paint)
    return "\n".join(lines)


def _snippets(diagnostic: Diagnostic) -> list[tuple[Span, str, Role]]:
    """The places to show, the primary one first."""
    found: list[tuple[Span, str, Role]] = []
    if diagnostic.span is not None:
        found.append((diagnostic.span, diagnostic.label, "primary"))
    found += [(label.span, label.text, "secondary") for label in diagnostic.labels]
    return found


def _remark(kind: str, text: str, margin: str, paint: Paint) -> list[str]:
    first, *others = text.split("\n")
    lines = [f"{margin}{paint('gutter', '=')} {paint('help', kind)}: {escape(first)}"]
    indent = " " * (len(margin) + len(kind) + 4)
    return lines + [indent + escape(line) for line in others]


def _callers(span: Span | None, margin: str, paint: Paint) -> list[str]:
    """Where the code at ``span`` was used, for code inlined from layers and functions."""
    lines: list[str] = []
    caller = span.caller if span is not None else None
    while caller is not None and len(lines) < 8:
        place = f"{escape(caller.file)}:{caller.line}:{caller.column}"
        lines.append(f"{margin}{paint('gutter', '=')} {paint('help', 'used')}: at {place}")
        caller = caller.caller
    return lines


def _render_place(
    span: Span,
    text: str,
    role: Role,
    gutter: int,
    previous: Span | None,
    sources: Sources,
    paint: Paint,
) -> list[str]:
    """The arrow (if the file changes), the source line (if it does), the carets of a place."""
    lines: list[str] = []
    margin = " " * (gutter + 1)
    bar = paint("gutter", "|")
    if previous is None or span.file != previous.file:
        arrow = "-->" if previous is None else ":::"
        place = f"{escape(span.file)}:{span.line}:{span.column}"
        lines += [f"{' ' * gutter}{paint('gutter', arrow)} {place}"]
    source = sources.get(span.file)
    if source is None:
        return lines + ([f"{margin}{bar} {escape(text)}"] if text else [])
    if previous is None or span.file != previous.file:
        lines.append(f"{margin}{bar}")
    line = source.line(span.line)
    end_column = span.end_column if span.end_line == span.line else len(line) + 1
    shown, before, width = _window(line, span.column, end_column)
    if previous is None or (span.file, span.line) != (previous.file, previous.line):
        number = paint("gutter", f"{span.line:>{gutter}} |")
        lines.append(f"{number} {shown}".rstrip())
    mark = ("^" if role == "primary" else "-") * max(1, width)
    remark = f" {escape(text)}" if text else ""
    carets = paint(role, mark + remark)
    lines.append(f"{margin}{bar} {' ' * before}{carets}")
    return lines


def _window(line: str, column: int, end_column: int) -> tuple[str, int, int]:
    """The displayed part of ``line``, the cells before the carets and the cells under them."""
    head = tail = ""
    if len(line) > MAX_SHOWN_CHARACTERS:
        first = max(
            0, min(column - 1 - MAX_SHOWN_CHARACTERS // 4, len(line) - MAX_SHOWN_CHARACTERS)
        )
        last = first + MAX_SHOWN_CHARACTERS
        head = _ELISION if first else ""
        tail = _ELISION if last < len(line) else ""
        line = line[first:last]
        column, end_column = column - first, min(end_column - first, MAX_SHOWN_CHARACTERS + 1)
    before = display_width(_shown(line, column))
    upto = display_width(_shown(line, max(end_column, column)))
    return head + _shown(line, len(line) + 1) + tail, len(head) + before, upto - before


def render_all(
    diagnostics: Sequence[Diagnostic],
    sources: Sources,
    paint: Paint = plain,
    limit: int = MAX_DIAGNOSTICS,
) -> str:
    """All diagnostics, at most ``limit`` in full, and a closing count; ends without a newline."""
    parts = [render(d, sources, paint) for d in diagnostics[:limit]]
    left = len(diagnostics) - limit
    if left > 0:
        parts.append(f"... and {left} more")
    parts.append(_summary(diagnostics))
    return "\n\n".join(parts)


def _summary(diagnostics: Sequence[Diagnostic]) -> str:
    counts: list[str] = []
    for severity in ("error", "warning"):
        number = sum(d.severity == severity for d in diagnostics)
        if number:
            counts.append(f"{number} {severity}{'s' if number > 1 else ''}")
    return " and ".join(counts)


def to_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, object]]:
    """The diagnostics as plain data; columns count characters from 1, ends are exclusive."""
    return [
        {
            "code": d.code,
            "severity": d.severity,
            "message": d.message,
            "span": _span_json(d.span),
            "label": d.label,
            "labels": [{"span": _span_json(label.span), "text": label.text} for label in d.labels],
            "help": d.help,
            "notes": list(d.notes),
        }
        for d in diagnostics
    ]


def _span_json(span: Span | None) -> dict[str, object] | None:
    if span is None:
        return None
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "caller": _span_json(span.caller),
    }
