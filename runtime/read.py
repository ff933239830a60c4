"""Reading the program that a command names. Light: nothing beyond the front end is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

from gradc.frontend.program import Program, load, loads


def read_program(file: str) -> Program:
    """The program in ``file``, or on stdin for ``-``; imports of the latter are looked up in the working folder.

    Raises:
        DiagnosticError: if it cannot be read or is not well formed.
    """
    if file == "-":
        return loads(sys.stdin.read(), "<stdin>", Path.cwd())
    return load(Path(file))
