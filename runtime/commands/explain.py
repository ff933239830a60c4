"""``gradc explain``: the whiteboard of a program at given arrays, or what a diagnostic code means.

``gradc explain FILE --data IN.npz`` prints the forward and backward tables with values and
formulas; ``gradc explain CODE`` explains a diagnostic with a program that shows it.
"""

from __future__ import annotations

import argparse
import re
import sys

from gradc.frontend.codes.codes import all_codes, explain, similar_code
from gradc.frontend.program import loads
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.diagnostics.render import render_all
from gradc.runtime.commands.flags import add_data, add_model
from gradc.runtime.console import Console

# One slipped letter still makes a code: a program has a dot or a slash in its name.
_CODE = re.compile(r"[A-Za-z]{2}[0-9]{1,6}|[Gg][Cc][0-9A-Za-z]{4}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.usage = (
        "gradc explain FILE --data IN.npz [--params P | --seed N] [--json] [--html R] [--svg G]\n"
        "       gradc explain CODE"
    )
    add_data(parser, required=False)
    add = parser.add_argument
    add("--wrt", metavar="NAMES", help="params, inputs, or names separated by commas")
    add("--tangent", metavar="NAMES", help="forward mode too, seeded with 1 in these")
    add("--json", action="store_true", help="the tables as JSON")
    add("--html", metavar="PAGE.html", help="write the whiteboard as one page")
    add("--svg", metavar="GRAPH.svg", help="write the computational graph")


def run(options: argparse.Namespace, console: Console) -> int:
    """Prints a whiteboard, or the explanation of a code."""
    if _CODE.fullmatch(options.file):
        return _explain_code(options.file)
    from gradc.runtime.commands.explain_model import explain_model

    return explain_model(options, console)


def _explain_code(code: str) -> int:
    text = explain(code)
    if text is None:
        near = similar_code(code)
        help = f"did you mean `{near}`?" if near else "codes look like GC0104"
        message = f"there is no diagnostic code `{code}`"
        raise DiagnosticError([error("GC0567", message, None, help=help)])
    sys.stdout.write(text + "\n")
    example = all_codes()[code.upper()].example
    if example:
        shown = _answer(example).replace("\n", "\n    ")
        sys.stdout.write(f"\nwhich gives\n\n    {shown}\n".replace("\n    \n", "\n\n"))
    return 0


def _answer(example: str) -> str:
    """What checking the program ``example`` finds, as text."""
    try:
        program = loads(example, "example.grad")
        return render_all(program.check(), program.report.sources)
    except DiagnosticError as found:
        return render_all(found.diagnostics, found.sources)
