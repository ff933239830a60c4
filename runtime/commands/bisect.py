"""``gradc bisect FILE --data IN.npz``: the first pass, op and line at which a compilation goes
wrong.
"""

from __future__ import annotations

import argparse

import numpy as np

from gradc.ir.tensor.core import Role
from gradc.passes.budget import run_within
from gradc.passes.prove.programs.bisect import Culprit, bisect
from gradc.runtime.cli import OK, REFUTED
from gradc.runtime.commands.common import chosen_wrt, load_call, shapes_of
from gradc.runtime.commands.flags import add_data, add_model
from gradc.runtime.console import Console
from gradc.runtime.native.compile import compile_options, pipeline_options, quoting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    parser.add_argument("--wrt", default="params", help="params, inputs, or names (params)")
    parser.add_argument("--budget", metavar="SIZE", help="most memory, e.g. 64MiB")
    parser.add_argument("--json", action="store_true", help="what was found, as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs every stage on the data; status 3 if two differ."""
    model, inputs, params = load_call(options)
    dims, wrt = model.bind(shapes_of(inputs)), chosen_wrt(options)
    function = model.lower(dims).function
    chosen = compile_options(budget=options.budget)
    asked = pipeline_options(model.gradient_of(wrt), chosen, verify=0)
    with quoting(model.program.report.sources):
        made = run_within(function, asked, chosen.budget)
    values = [
        np.asarray(inputs[s.name] if s.role is Role.INPUT else params[s.name])
        for s in function.parameters
    ]
    culprit = bisect(function, made.records, values)
    if options.json:
        console.json(_plain(culprit, len(made.records)))
    else:
        _show(culprit, len(made.records), console)
    return OK if culprit is None else REFUTED


def _plain(culprit: Culprit | None, steps: int) -> dict[str, object]:
    if culprit is None:
        return {"culprit": None, "steps": steps}
    return {
        "culprit": culprit.step,
        "results": list(culprit.results),
        "op": culprit.op,
        "place": culprit.place,
        "message": culprit.message,
        "steps": steps,
    }


def _show(culprit: Culprit | None, steps: int, console: Console) -> None:
    if culprit is None:
        console.result(f"{steps} steps compute the same on this data, up to rounding")
        return
    console.result(f"`{culprit.step}` is the first step that changes a result")
    for name in culprit.results:
        console.result(f"  {name}")
    if culprit.op:
        console.result(f"first wrong op: {culprit.op}")
    if culprit.place:
        console.result(f"it comes from {culprit.place}")
    if culprit.message:
        console.result(culprit.message)
