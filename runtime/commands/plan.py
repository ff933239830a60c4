"""``gradc plan FILE``: the peak and what makes it, what is kept and computed again, and what a
budget would cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from gradc.ir.tensor.core import Function
from gradc.passes.budget import EXPLAINED, NOTED
from gradc.passes.inspect.report import shown
from gradc.passes.pipeline import Derivative
from gradc.runtime.commands.common import load_model, whole_number
from gradc.runtime.commands.flags import add_model, add_target
from gradc.runtime.console import Console
from gradc.runtime.files.data import fail, write_text
from gradc.runtime.model.compiled import pure
from gradc.runtime.model.model import Model
from gradc.runtime.model.remedies import remedies
from gradc.runtime.model.shard import Shard, parts_of
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options, machine_warnings, quoting
from gradc.runtime.reports.memory import Choice, MemoryPlan, choices, plan_memory
from gradc.runtime.reports.memory_chart import choices_svg

_REFUTED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument
    add("--budget", metavar="SIZE", help="most memory of a call, e.g. 64MiB")
    add("--threads", type=int, metavar="N", help="threads (one per core)")
    add_target(parser)
    add("--wrt", default="params", help="params, inputs, or names separated by commas (params)")
    add("--forward", action="store_true", help="the forward program only")
    add("--optimizer", metavar="CALL", help="a whole training step, e.g. 'adamw(lr=1e-3)'")
    add("--accumulate", default="1", metavar="K", help="cut the step's batch into K parts (1)")
    add("--ranks", default="1", metavar="R", help="share the step's batch among R ranks (1)")
    add("--shard-dim", metavar="H=R", help="cut parameters along H among R ranks")
    add("--pareto", action="store_true", help="work against memory, for every budget")
    add("--check", action="store_true", help="replay the plan with an independent checker")
    add("--svg", metavar="FILE", help="write a picture: memory over time; with --pareto, the curve")
    add("--json", action="store_true", help="the report as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Plans without running anything. Status 3 if the checker finds a fault."""
    if options.pareto and (options.budget is not None or options.check):
        flag = "--check" if options.budget is None else "--budget"
        raise fail("GC0564", f"--pareto covers every budget and checks none: leave out {flag}")
    model = load_model(options)
    chosen = compile_options(budget=options.budget, threads=options.threads, target=options.target)
    console.findings(machine_warnings(chosen.budget), model.program.report.sources)
    make = partial(_program, options)
    sizes = model.lower().dims
    with quoting(model.program.report.sources), remedies(model, sizes, chosen, make):
        source, derive, gradient = make(model, sizes)
        if options.pareto:
            _pareto(model.name, choices(source, derive, chosen, gradient), options, console)
            return 0
        made = plan_memory(source, derive, chosen, gradient)
    updates = _step(options, model).updates(sizes) if options.optimizer else {}
    return _report(made, updates, options, console)


def _program(
    options: argparse.Namespace, model: Model, dims: Mapping[str, int]
) -> tuple[Function, Derivative, Derivative | None]:
    if options.shard_dim is not None and (options.forward or options.wrt != "params"):
        message = "--shard-dim plans gradients of all parameters"
        raise fail("GC0564", message, "leave out --forward and --wrt")
    if options.shard_dim is not None and not options.optimizer:
        if options.ranks != "1":
            help = "say --optimizer 'adamw(lr=1e-3)', or so"
            raise fail("GC0564", "--ranks and --shard-dim together plan a training step", help)
        cut, make = Shard.parsed(model, options.shard_dim).at(dims), model.gradient_of()
        return cut.whole.function, pure(lambda function: cut.share(make(function))), pure(make)
    if options.forward:
        return model.lower(dims, training=False).function, pure(lambda f: f), None
    if options.optimizer:
        program = _step(options, model).program(dims)
        return program.source, program.derive, program.gradient
    wrt = options.wrt if options.wrt in ("params", "inputs") else options.wrt.split(",")
    return model.lower(dims).function, pure(model.gradient_of(wrt)), None


def _step(options: argparse.Namespace, model: Model) -> TrainStep:
    """The step that ``--optimizer`` asks for."""
    parts = whole_number(options.accumulate, 1, "--accumulate")
    ranks = whole_number(options.ranks, 1, "--ranks")
    shard = None if options.shard_dim is None else dict([parts_of(options.shard_dim)])
    world = None if shard is not None and options.ranks == "1" else ranks
    return model.train_step(options.optimizer, accumulate=parts, ranks=world, shard=shard)


def _report(
    made: MemoryPlan, updates: Mapping[str, str], options: argparse.Namespace, console: Console
) -> int:
    if options.svg:
        write_text(Path(options.svg), made.to_svg())
        console.message(f"wrote {options.svg}")
    faults = made.check() if options.check else ()
    if options.json:
        found = made.to_json() | ({"updates": dict(updates)} if updates else {})
        if options.check:
            found["faults"] = [str(fault) for fault in faults]
        console.json(found)
    else:
        console.result(made.report())
        for name, how in updates.items():
            why = "rows that the batch names" if how == "rows" else f"all rows: {how}"
            console.result(f"  updates of {name} visit {why}")
        if options.check and not faults:
            console.result("  checked: replayed by the independent checker, no fault")
    for fault in faults:
        console.message(f"gradc plan: fault: {fault}")
    return _REFUTED if faults else 0


def _pareto(name: str, found: list[Choice], options: argparse.Namespace, console: Console) -> None:
    if options.svg:
        write_text(Path(options.svg), choices_svg(found, f"{name}: work against memory"))
        console.message(f"wrote {options.svg}")
    if options.json:
        console.json({"name": name, "choices": [asdict(choice) for choice in found]})
        return
    rows = [
        (
            shown(c.peak_bytes),
            str(c.peak_bytes),
            shown(c.arena_bytes),
            f"{c.work:.3f}",
            f"{c.gap:.1%}",
            c.policy,
        )
        for c in found
    ]
    heads = ("peak", "bytes", "arena", "work", "above bound", "policy")
    console.table(f"{name}: work against memory", heads, rows)
    if any(c.gap > NOTED for c in found):
        console.message(f"above bound: {EXPLAINED}")
