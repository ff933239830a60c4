"""What recomputation costs: every point of the Pareto front of a model, compiled and timed beside
the plain program.

    python -m benchmarks.recompute [--models mlp_deep,lstm_long] [--seconds 20] [--threads 2]
    [--json FILE] [--svg FILE] python -m benchmarks.recompute --results FILE [--svg FILE]
    [--markdown]

Activation bytes are the arena: all that a call needs beyond parameters, inputs, outputs and
gradients. Work counts multiplications as the compiler does. Steps take turns
(``gradc.runtime.bench.timing``): a time is the median over rounds, a ratio the median over rounds
of the ratio within one. Before anything is timed, loss and gradients of every point have to be
those of the plain program to the bit, for one thread and for as many as are timed.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import gradc
from benchmarks.cases import MODELS
from benchmarks.chart import Mark, Series, scatter
from gradc.codegen.backend import Loaded
from gradc.passes.budget import pareto
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.bench.timing import ratio, take_turns
from gradc.runtime.model.compiled import pure
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array
from gradc.runtime.native.compile import compile_options, pipeline_options
from gradc.runtime.native.load import compile_plan

NAMES = ("mlp_deep", "lstm_long")
# What is asked of recomputation: this many times less activation memory, at not much more time.
WANTED = 4.0


@dataclass(frozen=True)
class Row:
    """One point of one model's front; ``less`` and ``slower`` are relative to the plain program."""

    model: str
    policy: str
    peak_bytes: int
    arena_bytes: int
    less: float
    work: float
    milliseconds: float
    slower: float


def arrays_of(native: Loaded, given: dict[str, Array]) -> list[Array]:
    """Arrays for a call, in the order of its ports; fresh ones for what it makes."""
    return [
        np.empty(port.shape, NUMPY_DTYPE[port.dtype])
        if port.direction == "out"
        else np.ascontiguousarray(given[port.name], NUMPY_DTYPE[port.dtype])
        for port in native.signature.ports
    ]


def results(native: Loaded, given: dict[str, Array]) -> list[bytes]:
    arrays = arrays_of(native, given)
    native.call(arrays)
    ports = native.signature.ports
    return [a.tobytes() for a, p in zip(arrays, ports, strict=True) if p.direction == "out"]


def measure(name: str, seconds: float, threads: int) -> list[Row]:
    """All points of one model, largest peak first.

    Raises:
        RuntimeError: if a point gives other bits than the plain program.
    """
    net = gradc.load(MODELS / f"{name}.grad")
    given = {**net.init(0), **random_inputs(net, {}, 0)}
    derive, source = pure(net.gradient_of("params")), net.lower().function
    chosen = compile_options(threads=threads)
    points = pareto(source, pipeline_options(derive, chosen, verify=0))
    natives, expected = [], None
    console = Console(stderr=True)
    for point in track(points, f"{name}: compiling, comparing", console=console, transient=True):
        options = pipeline_options(derive, chosen, verify=0, policy=point.policy)
        plan = run_pipeline(source, options).plan
        natives.append(compile_plan(plan, threads=threads))
        for native in (natives[-1], compile_plan(plan, threads=1)):
            found = results(native, given)
            expected = expected or found
            if found != expected:
                raise RuntimeError(f"{name}, {point.policy}: other bits than the plain program")
    steps = [partial(native.call, arrays_of(native, given)) for native in natives]
    with console.status(f"{name}: {len(steps)} ways take turns"):
        timings = take_turns(steps, seconds)
    plain = points[0]
    return [
        Row(
            name,
            str(point.policy),
            point.peak_bytes,
            point.arena_bytes,
            plain.arena_bytes / point.arena_bytes,
            point.work / plain.work,
            1e3 * timing.median,
            ratio(timing, timings[0]),
        )
        for point, timing in zip(points, timings, strict=True)
    ]


def best(rows: list[Row]) -> Row:
    """The fastest with at most a quarter of the arena; the smallest arena if there is none."""
    enough = [row for row in rows if row.less >= WANTED]
    return min(enough, key=lambda r: r.slower, default=rows[-1])


def table(rows: list[Row]) -> Table:
    made = Table(title=f"{rows[0].model}: memory for time", title_justify="left")
    heads = ("budget MiB", "arena MiB", "times less", "work", "ms", "step")
    for head in heads:
        made.add_column(head, justify="right")
    made.add_column("what is computed again", no_wrap=True)
    chosen = best(rows)
    for row in rows:
        figures = (
            f"{row.peak_bytes / 2**20:.2f}",
            f"{row.arena_bytes / 2**20:.2f}",
            f"{row.less:.2f}",
            f"{row.work:.3f}",
            f"{row.milliseconds:.2f}",
            f"{row.slower:.3f}",
            row.policy,
        )
        made.add_row(*figures, style="bold" if row == chosen else "")
    return made


def markdown(rows: list[Row]) -> str:
    """The table of docs/memory.md."""
    lines = [
        "| model | budget, MiB | arena, MiB | times less | work | step | what is computed again |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = f"{row.peak_bytes / 2**20:.1f} | {row.arena_bytes / 2**20:.1f} | {row.less:.2f}"
        lines.append(
            f"| `{row.model}` | {memory} | {row.work:.3f} | {row.slower:.2f} | {row.policy} |"
        )
    return "\n".join(lines)


def chart(rows: list[Row]) -> str:
    """Step time against the arena, both relative to the plain program."""
    series = []
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        chosen = best(own)
        marks = []
        for row in own:
            about = f"{name}, {row.policy}: {row.arena_bytes} bytes, {row.milliseconds:.2f} ms"
            said = f"{name}: {row.less:.1f} times less at {row.slower:.2f}"
            label = said if row == chosen else ""
            marks.append(Mark(100 / row.less, row.slower, label, about))
        series.append(Series(name, marks, is_front=True))
    title = "Activation memory against step time, recomputing nothing = 100 % and 1"
    return scatter(title, "activation memory, %", "step time", series)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--svg", metavar="FILE", type=Path)
    parser.add_argument("--results", metavar="FILE", type=Path, help="show those of an earlier run")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/memory.md")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.models.split(",") if name not in NAMES]
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = options.models.split(",")
    rows: list[Row] = []
    if options.results:
        rows = [Row(**row) for row in json.loads(options.results.read_text())["rows"]]
        names = list(dict.fromkeys(row.model for row in rows))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for name in names:
        if not options.results:
            rows += measure(name, options.seconds, options.threads)
        own = [row for row in rows if row.model == name]
        if not options.markdown:
            console.print(table(own))
        chosen = best(own)
        print(f"{name}: {chosen.less:.2f} times less at {chosen.slower:.2f} times the step time\n")
    if options.markdown:
        print(markdown(rows))
    if options.json:
        load: Any = [round(n, 2) for n in os.getloadavg()]
        found = {"load": load, "threads": options.threads, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(chart(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
