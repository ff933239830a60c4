"""``gradc explain CODE``: what a diagnostic code means, with a program that shows it."""

from __future__ import annotations

import argparse
import sys

from gradc.frontend.codes import all_codes, explain, similar_code
from gradc.ir.diagnostics import DiagnosticError, error
from gradc.ir.render import render_all
from gradc.runtime.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", metavar="CODE", help="a diagnostic code, such as GC0104")


def run(options: argparse.Namespace, console: Console) -> int:
    """Prints the explanation of a code."""
    text = explain(options.code)
    if text is None:
        near = similar_code(options.code)
        help = f"did you mean `{near}`?" if near else "codes look like GC0104"
        message = f"there is no diagnostic code `{options.code}`"
        raise DiagnosticError([error("GC0567", message, None, help=help)])
    sys.stdout.write(text + "\n")
    example = all_codes()[options.code.upper()].example
    if example:
        shown = _answer(example).replace("\n", "\n    ")
        sys.stdout.write(f"\nwhich gives\n\n    {shown}\n".replace("\n    \n", "\n\n"))
    return 0


def _answer(example: str) -> str:
    """What checking the program ``example`` finds, as text."""
    from gradc.frontend.program import loads

    try:
        program = loads(example, "example.grad")
        return render_all(program.check(), program.report.sources)
    except DiagnosticError as found:
        return render_all(found.diagnostics, found.sources)
