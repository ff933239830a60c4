"""``gradc run FILE --data IN.npz``: the outputs of a model that the data determine, or those asked
for.
"""

from __future__ import annotations

import argparse

import numpy as np

from gradc.runtime.commands.common import (
    chosen_outputs,
    compile_arguments,
    load_inputs,
    load_model,
    load_params,
    shapes_of,
)
from gradc.runtime.commands.flags import add_compile, add_data, add_model, add_outputs
from gradc.runtime.console import Console
from gradc.runtime.files.data import save_npz
from gradc.runtime.files.ids import IdCheck


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_compile(parser)
    add_outputs(parser)
    parser.add_argument("--train-mode", action="store_true", help="run with `training` true")
    parser.add_argument("--out", metavar="OUT.npz", help="write the outputs here")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Compiles the forward program, calls it once, and prints or writes what it gives."""
    model = load_model(options)
    inputs = load_inputs(model, options.data, some=True)
    outputs = chosen_outputs(options)
    forward = model.forward(outputs, training=options.train_mode, **compile_arguments(options))
    part = forward.part(shapes_of(inputs))
    IdCheck(part.function, model.program.report.sources)(inputs)
    params = load_params(model, options, part.dims)
    results = {name: np.asarray(a) for name, a in forward(params, **inputs).items()}
    if options.out:
        save_npz(options.out, results)
    if options.json:
        small = {name: a.tolist() for name, a in results.items() if a.size <= 1000}
        console.json({"shapes": {n: list(a.shape) for n, a in results.items()}, "values": small})
        return 0
    for name, array in results.items():
        shown = np.array2string(array, threshold=40, edgeitems=3, precision=6)
        console.result(f"{name} {array.dtype}{list(array.shape)}\n{shown}")
    return 0
