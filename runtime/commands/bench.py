"""``gradc bench FILE [--against torch,jax]``: a step's time, side by side in one run."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gradc.runtime.bench.compare import Timing, compare, random_inputs
from gradc.runtime.commands.common import (
    compile_arguments,
    load_call,
    load_model,
    load_params,
    shapes_of,
)
from gradc.runtime.commands.flags import add_compile, add_data, add_model
from gradc.runtime.console import Console
from gradc.runtime.files.ids import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser, required=False)
    add_compile(parser)
    parser.add_argument(
        "--against", default="", metavar="PEERS", help="torch, jax or both, separated by commas"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure for (2)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Checks that all agree, times them in turns, prints a row for each."""
    if options.data is None:
        model = load_model(options)
        inputs = random_inputs(model, {}, options.seed)
        params = load_params(model, options, model.bind(shapes_of(inputs)))
    else:
        model, inputs, params = load_call(options)
        refuse_empty(inputs)
    peers = tuple(name for name in options.against.split(",") if name)
    rows = compare(model, params, inputs, peers, options.seconds, **compile_arguments(options))
    if options.json:
        console.json({"model": model.name, "rows": [asdict(row) for row in rows]})
        return 0
    columns = ("", "ms per step", "fastest", "slowest", "times gradc", "disagreement")
    console.table(f"{model.name}: loss and gradients", columns, [_cells(row) for row in rows])
    return 0


def _cells(row: Timing) -> tuple[str, ...]:
    times = (row.milliseconds, row.best, row.worst)
    return (
        row.contender,
        *(f"{time:.4g}" for time in times),
        f"{row.times_gradc:.3g}",
        f"{row.error:.1e}" if row.contender != "gradc" else "-",
    )
