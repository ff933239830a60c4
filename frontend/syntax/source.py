"""Reading source files: bytes to text, with everything that could mislead a reader refused.

A :class:`Source` keeps the text as decoded: UTF-8, one leading byte order mark dropped, line ends
made ``\\n``. Columns therefore count characters of the user's own lines.

Invariants: a Source made here is at most ``MAX_FILE_BYTES`` long.
Non-goals: following imports (``frontend.project``), characters within the text
(``frontend.lexer``)."""

from __future__ import annotations

import os
from pathlib import Path

from gradc.frontend.syntax.diagnostics import DiagnosticError, error
from gradc.frontend.syntax.limits import MAX_FILE_BYTES
from gradc.ir.diagnostics.source import Source, Sources

__all__ = ["Source", "Sources", "decode", "from_text", "read"]

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def from_text(text: str, name: str = "<string>") -> Source:
    """A Source of text that is already decoded, such as an argument of ``gradc.loads``.

    Raises:
        DiagnosticError: GC0002 when it is too long, GC0003 when it holds lone surrogates.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as problem:
        found = text[problem.start]
        if "\udc80" <= found <= "\udcff":
            # A byte that was not UTF-8, as Python's standard input hands it on.
            return decode(text.encode("utf-8", errors="surrogateescape"), name)
        source = Source(name, text)
        raise DiagnosticError(
            [error("GC0003", f"the text holds a lone surrogate, \\u{ord(found):04x}", None)],
            Sources({name: source}),
        ) from None
    return decode(data, name)


def read(path: Path, name: str | None = None) -> Source:
    """The Source in the file at ``path``; ``name`` is what messages call it.

    Raises:
        DiagnosticError: GC0001 when it cannot be read, GC0002 when it is too long, GC0003 when it
            is not UTF-8.
    """
    shown = str(path) if name is None else name
    try:
        with open(path, "rb", opener=_at_once) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not a valid path"
        message = f"cannot read `{shown}`: {reason or problem}"
        raise DiagnosticError([error("GC0001", message, None)]) from None
    return decode(data, shown)


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe that nobody writes to is empty, not a reason to wait."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(handle, True)
    return handle


def decode(data: bytes, name: str) -> Source:
    """The Source that ``data`` encodes.

    Raises:
        DiagnosticError: GC0002 when it is too long, GC0003 when it is not UTF-8.
    """
    if len(data) > MAX_FILE_BYTES:
        message = f"`{name}` is larger than {MAX_FILE_BYTES} bytes"
        help = "split the program over several files and `import` them"
        raise DiagnosticError([error("GC0002", message, None, help=help)])
    if data.startswith(_UTF16_MARKS):
        message = f"`{name}` is UTF-16; programs are UTF-8"
        raise DiagnosticError([error("GC0003", message, None, help="save the file as UTF-8")])
    data = data.removeprefix(_UTF8_MARK)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise _undecodable(data, problem, name) from None
    return Source(name, text.replace("\r\n", "\n").replace("\r", "\n"))


def _undecodable(data: bytes, problem: UnicodeDecodeError, name: str) -> DiagnosticError:
    """GC0003 at the first byte that is not UTF-8, in the text with such bytes replaced."""
    source = Source(name, data.decode("utf-8", errors="replace"))
    before = data[: problem.start].decode("utf-8", errors="replace")
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    span = source.span(line, column, line, column + 1)
    message = f"byte 0x{data[problem.start]:02x} is not UTF-8"
    found = error("GC0003", message, span, help="save the file as UTF-8")
    return DiagnosticError([found], Sources({name: source}))
