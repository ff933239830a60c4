"""``gradc profile FILE``: where a step's time goes, launch by launch, against the machine's
limits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.commands.common import (
    chosen_wrt,
    compile_arguments,
    load_inputs,
    load_model,
    load_params,
    shapes_of,
    whole_number,
)
from gradc.runtime.commands.flags import add_compile, add_data, add_model
from gradc.runtime.console import Console
from gradc.runtime.files.data import fail, write_text
from gradc.runtime.files.ids import check_call
from gradc.runtime.model.model import Model
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.load import backend_of
from gradc.runtime.reports.estimate import estimate_program
from gradc.runtime.reports.profile import Profile, Progress
from gradc.runtime.reports.profile_figures import MOST

_LONGEST = 3600.0
_NO_DEVICE = ("GC0596", "GC0597")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser, required=False)
    add_compile(parser)
    add = parser.add_argument
    add("--wrt", default="params", help="params, inputs, or names separated by commas (params)")
    add("--forward", action="store_true", help="the forward program only")
    add("--optimizer", metavar="CALL", help="a whole training step, e.g. 'adamw(lr=1e-3)'")
    add("--accumulate", default="1", metavar="K", help="cut the step's batch into K parts (1)")
    add("--seconds", default="1", metavar="S", help="time to measure for (1)")
    add("--most", default=str(MOST), metavar="N", help=f"launches and layers to print ({MOST})")
    add("--html", metavar="P.html", help="write the page with both pictures")
    add("--svg", metavar="FILE", help="write the pictures: roofline, and time by layer")
    add("--json", action="store_true", help="everything as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the program for a while and prints where its time goes."""
    wanted = _seconds(options.seconds)
    most = whole_number(options.most, 1, "--most")
    model = load_model(options)
    if options.data is None:
        inputs = random_inputs(model, {}, options.seed)
    else:
        inputs = load_inputs(model, options.data, partial=options.params == options.data)
        check_call(model, inputs)
    if not _is_measured(options):
        return _estimate(options, model, inputs, most, console)
    params = load_params(model, options, model.bind(shapes_of(inputs)))
    with _progress() as report:
        how = {"wanted": wanted, "progress": report, "remark": console.message}
        found = _profiled(options, model, params, inputs, how)
    if options.html:
        found.to_html(options.html)
        console.message(f"wrote {options.html}")
    if options.svg:
        write_text(Path(options.svg), found.to_svg())
        console.message(f"wrote {options.svg}")
    if options.json:
        console.json(found.to_json())
    else:
        console.result(found.report(most))
    return 0


def _is_measured(options: argparse.Namespace) -> bool:
    """Whether the program can be run here; where it cannot, machine code of some targets is read.

    Raises:
        DiagnosticError: GC0596 to GC0598, why it cannot, where there is no estimate.
    """
    chosen = backend_of(options.target)
    if chosen.estimated() is None:
        return True
    try:
        chosen.environment(None)
    except DiagnosticError as problem:
        if options.html or options.svg:
            raise
        missing = problem.diagnostics[0].code in _NO_DEVICE
        if not missing:
            raise
        return False
    return True


def _estimate(
    options: argparse.Namespace, model: Model, inputs: Any, most: int, console: Console
) -> int:
    """Prints what is known without running anything."""
    compiling = compile_arguments(options)
    if options.optimizer:
        step = _step(options, model)
        made = step.program(model.bind(shapes_of(inputs)))
        program = (made.source, made.derive, made.gradient)
        found = estimate_program(model.name, "a training step", program, step.options)
    elif options.forward:
        found = model.forward(**compiling).estimated(inputs)
    else:
        found = model.value_and_grad(chosen_wrt(options), **compiling).estimated(inputs)
    if options.json:
        console.json(found.to_json())
    else:
        console.result(found.report(most))
    return 0


def _step(options: argparse.Namespace, model: Model) -> TrainStep:
    """The training step that the flags ask for."""
    if options.forward or options.wrt != "params":
        flag = "--forward" if options.forward else "--wrt"
        raise fail("GC0564", f"--optimizer is a step by all parameters: leave out {flag}")
    parts = whole_number(options.accumulate, 1, "--accumulate")
    compiling = compile_arguments(options)
    return model.train_step(options.optimizer, accumulate=parts, **compiling)


def _profiled(
    options: argparse.Namespace, model: Model, params: Any, inputs: Any, how: dict[str, Any]
) -> Profile:
    """The profile of what the flags ask for."""
    compiling = compile_arguments(options)
    if options.optimizer:
        step = _step(options, model)
        return step.profiled(step.init(params), inputs, **how)
    if options.forward:
        return model.forward(**compiling).profiled(params, (), inputs, **how)
    made = model.value_and_grad(chosen_wrt(options), **compiling)
    return made.profiled(params, (), inputs, **how)


def _seconds(text: str) -> float:
    """``--seconds``. Raises DiagnosticError GC0564 unless it is a time that passes."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= _LONGEST:
        message = f"--seconds must be a number above 0 and at most {_LONGEST:.0f}, not {text}"
        raise fail("GC0564", message)
    return value


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal."""
    columns = (TextColumn("measuring"), BarColumn(), TimeRemainingColumn())
    hidden = not sys.stderr.isatty()
    with Bar(*columns, console=RichConsole(stderr=True), disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def report(done: float) -> None:
            bar.update(task, completed=done)

        yield report
