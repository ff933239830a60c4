"""The command line called in this process: status, what went to stdout, what to stderr."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from gradc.runtime.cli import main


@dataclass(frozen=True)
class Done:
    """One finished call."""

    status: int
    out: str
    err: str


def gradc(*arguments: object, stdin: str = "", together: bool = False) -> Done:
    """Runs ``gradc ARGUMENTS``; ``together`` puts both streams into ``out``, as a terminal shows
    them.
    """
    out = io.StringIO()
    err = out if together else io.StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
    ):
        status = main([str(argument) for argument in arguments])
    return Done(status, out.getvalue(), "" if together else err.getvalue())
