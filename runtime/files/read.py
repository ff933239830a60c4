"""Reading the program that a command names. Light: nothing beyond the front end is loaded."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from gradc.frontend.keep import Shelf
from gradc.frontend.program import Program, load, loads
from gradc.frontend.syntax.limits import MAX_FILE_BYTES
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error


def read_program(file: str, shelf: Shelf | None = None) -> Program:
    """The program in ``file``, or on stdin for ``-``; imports of the latter are looked up in the
    working folder. ``shelf`` may know it from before.

    Raises:
        DiagnosticError: if it cannot be read or is not well formed.
    """
    if file == "-":
        return loads(_standard_input(), "<stdin>", _working_folder(), shelf)
    return load(Path(file), shelf)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None  # deleted meanwhile: there is nothing to import


def _standard_input() -> str:
    """All of it; bytes that are not UTF-8 stay visible, so that the front end can say where they
    are.
    """
    try:
        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)  # a stream may have no end
        return data.decode("utf-8", errors="surrogateescape")
    except OSError as problem:
        message = f"cannot read standard input: {problem.strerror or problem}"
        raise DiagnosticError([error("GC0001", message, None)]) from None
