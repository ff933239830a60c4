"""``gradc explain``: the whiteboard of a program at given arrays, or what a diagnostic code means.

``gradc explain FILE --data IN.npz`` prints the forward and backward tables with values and
formulas; ``gradc explain CODE`` explains a diagnostic with a program that shows it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from gradc.frontend.codes.codes import all_codes, explain, similar_code
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
    return _explain_model(options, console)


def _explain_model(options: argparse.Namespace, console: Console) -> int:
    from gradc.runtime.commands.common import load_inputs, load_model, load_params, shapes_of
    from gradc.runtime.files.data import fail, write_text
    from gradc.runtime.files.ids import check_call
    from gradc.runtime.reports.whiteboard_text import to_graph, to_json, to_lines

    model = load_model(options)
    if options.data is None and model.inputs:
        raise fail("GC0564", "give --data IN.npz with the arrays of the model's inputs")
    inputs = load_inputs(model, options.data) if options.data is not None else {}
    check_call(model, inputs)
    params = load_params(model, options, model.bind(shapes_of(inputs)))
    board = model.explain(
        params, _wrt(options.wrt), _ones(options.tangent, {**params, **inputs}), **inputs
    )
    if options.html is not None:
        from gradc.runtime.reports.whiteboard_html import whiteboard_page

        write_text(Path(options.html), whiteboard_page(board))
        console.message(f"wrote {options.html}")
    if options.svg is not None:
        from gradc.runtime.render.graph import drawn

        write_text(Path(options.svg), drawn(to_graph(board), board.model))
        console.message(f"wrote {options.svg}")
    if options.json:
        console.json(to_json(board))
    else:
        console.result("\n".join(to_lines(board)))
    return 0


def _wrt(text: str | None) -> Any:
    if text is None or text in ("params", "inputs"):
        return text
    return text.split(",")


def _ones(text: str | None, arrays: dict[str, Any]) -> dict[str, Any] | None:
    """A direction with 1 in every element of the arrays named."""
    import numpy as np

    from gradc.runtime.native.arrays import check_names

    if text is None:
        return None
    names = text.split(",")
    check_names("name", {n: None for n in names if n not in arrays}, [])
    return {name: np.ones(np.shape(arrays[name])) for name in names}


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
    from gradc.frontend.program import loads

    try:
        program = loads(example, "example.grad")
        return render_all(program.check(), program.report.sources)
    except DiagnosticError as found:
        return render_all(found.diagnostics, found.sources)
