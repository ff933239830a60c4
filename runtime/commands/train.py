"""``gradc train FILE --data TRAIN.npz --out RUN``: training with a natively compiled step."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gradc.runtime.commands.common import (
    compile_arguments,
    load_inputs,
    load_model,
    loss_scale_of,
    whole_number,
)
from gradc.runtime.commands.flags import add_compile, add_model
from gradc.runtime.console import Console, Silent
from gradc.runtime.doctor.fit import PAGE_FILE, Report, carry_out, news, planned, with_sizes_of
from gradc.runtime.files.batches import batch_dim, samples_of
from gradc.runtime.files.data import fail
from gradc.runtime.model.model import Model
from gradc.runtime.model.shard import parts_of
from gradc.runtime.native.compile import quoting, usable_cores
from gradc.runtime.ranks.launch import check_all_joined, guarded, join, relaunch, started_with
from gradc.runtime.ranks.world import MpiRanks
from gradc.runtime.training.loop import PARAMS_FILE, Run
from gradc.runtime.training.progress import Progress
from gradc.runtime.training.signals import Interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_compile(parser)
    add = parser.add_argument
    add("--data", metavar="TRAIN.npz", required=True, help="the inputs, one sample per row")
    add("--valid", metavar="VALID.npz", help="data to validate on after each epoch")
    add("--optimizer", default="adamw(lr=1e-3)", help="a call, e.g. 'sgd(lr=0.1, momentum=0.9)'")
    add("--schedule", help="of the learning rate, e.g. 'cosine(peak=1e-3, total=1000)'")
    add("--batch", default="64", metavar="N", help="samples per step (64)")
    add("--epochs", default="5", metavar="N", help="times through the data (5)")
    add("--clip-norm", type=float, metavar="X", help="limit on the gradients' global L2 norm")
    add("--clip-value", type=float, metavar="X", help="limit on each gradient value")
    add("--accumulate", default="1", metavar="K", help="cut each batch into K parts (1)")
    add("--ranks", metavar="R", help="share every batch among R processes, by MPI")
    add("--shard-dim", metavar="H=R", help="hold parameters in R parts along H, one on each rank")
    add("--parts", metavar="P", help="cut each batch into P parts in all, dealt to the ranks")
    add(
        "--shared-statistics",
        action="store_true",
        help="batch normalisation over all ranks, one part for each",
    )
    add("--loss-scale", metavar="S", help="`dynamic`, or a factor, for f16 and bf16")
    add("--decay-on", choices=("matrices", "all"), default="matrices", help="where decay falls")
    add(
        "--no-guard",
        action="store_true",
        help="update with gradients that are not finite too; takes less memory",
    )
    add("--seed", type=int, default=0, help="seed of parameters and shuffling (0)")
    add("--out", metavar="RUN", required=True, help="folder for metrics, checkpoints, weights")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--json", action="store_true", help="the summary as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains, prints a line per epoch, and a summary."""
    started = started_with()
    wanted = None if options.ranks is None else whole_number(options.ranks, 1, "--ranks")
    if wanted is None and options.shard_dim is not None and not started:
        wanted = parts_of(options.shard_dim)[1]
    if wanted is None and started <= 1:
        return _run(options, console, None)
    if not started and wanted is not None:
        if options.file == "-":
            help = "write it to a file, which every rank can read"
            raise fail("GC0564", "--ranks: a program on standard input reaches one rank", help)
        return relaunch(wanted, sys.argv[1:])
    world = join()
    told = Silent() if world.rank else console
    return guarded(world, console, lambda: _run(options, told, _checked(world, wanted)))


def _checked(world: MpiRanks, wanted: int | None) -> MpiRanks:
    """Raises DiagnosticError GC0823 unless there are as many ranks as were started, and as
    ``--ranks`` says.
    """
    check_all_joined(world)
    if wanted not in (None, world.size):
        world.is_shared_failure = True
        message = f"--ranks {wanted}, and {world.size} were started"
        help = "leave --ranks out under mpiexec or srun: all processes of the job are ranks"
        raise fail("GC0823", message, help)
    return world


def _run(options: argparse.Namespace, console: Console, world: MpiRanks | None) -> int:
    training = _prepare(options, world)
    sources = training.model.program.report.sources
    shown = _Shown(console)
    try:
        carry_out(
            training,
            options.resume,
            lambda found: console.findings(found, sources),
            shown.reporting,
        )
    except Interrupted as stop:
        console.message(f"stopped by {stop}; continue with --resume")
        return 128 + stop.signum
    _summary(training, console, options, time.perf_counter() - shown.started, shown.first)
    return 0


def _prepare(options: argparse.Namespace, world: MpiRanks | None) -> Run:
    model = load_model(options)
    with quoting(model.program.report.sources):
        return _prepared(model, options, world)


def _prepared(model: Model, options: argparse.Namespace, world: MpiRanks | None) -> Run:
    batch_dim(model.signature)  # refused before any array is
    # Ranks read the rows of their parts, where they lie in the file.
    arrays = load_inputs(model, options.data, in_place=world is not None)
    model = with_sizes_of(model, arrays)
    step = model.train_step(
        options.optimizer,
        schedule=options.schedule,
        clip_norm=options.clip_norm,
        clip_value=options.clip_value,
        decay_on=options.decay_on,
        loss_scale=loss_scale_of(options.loss_scale),
        accumulate=whole_number(options.accumulate, 1, "--accumulate"),
        ranks=world,
        shared_statistics=options.shared_statistics,
        guard=not options.no_guard,
        shard=None if options.shard_dim is None else dict([parts_of(options.shard_dim)]),
        **_compile_arguments(options, world),
    )
    if options.parts is not None:
        parts = whole_number(options.parts, 1, "--parts")
        step = step.like(replace(step.recipe, accumulate=parts))
    valid = None
    # Ranks that hold parts of the parameters validate together.
    validates = world is None or world.rank == 0 or step.layout.is_cut
    if options.valid is not None and validates:
        held_out = load_inputs(model, options.valid, in_place=world is not None)
        valid = samples_of(model.signature, held_out, f"`{options.valid}`")
    return planned(
        step,
        samples_of(model.signature, arrays, f"`{options.data}`"),
        valid,
        batch=whole_number(options.batch, 1, "--batch"),
        epochs=whole_number(options.epochs, 0, "--epochs"),
        seed=options.seed,
        folder=Path(options.out),
    )


def _compile_arguments(options: argparse.Namespace, world: MpiRanks | None) -> dict[str, Any]:
    """As for one process, but for the threads: ranks of one machine share its cores."""
    found = compile_arguments(options)
    if world is not None and found["threads"] is None:
        found["threads"] = max(1, usable_cores() // world.neighbours())
    return found


class _Shown:
    """A bar on a terminal; a line per epoch everywhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started, self.first = 0.0, 0

    @contextmanager
    def reporting(self, training: Run) -> Iterator[Report]:
        self.started, self.first = time.perf_counter(), training.progress.step
        shown = training.progress.epoch
        total = training.settings.epochs * training.train.count
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, disable=not sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task("", total=total, epoch=shown, loss=float("nan"))

            def report(progress: Progress) -> None:
                nonlocal shown
                done = progress.epoch * training.train.count + progress.position
                bar.update(task, completed=done, epoch=progress.epoch, loss=progress.loss)
                if progress.epoch > shown:
                    shown = progress.epoch
                    bar.console.file = sys.stderr
                    self.console.message(_epoch_line(progress))
                    self.console.findings(news(training), training.model.program.report.sources)

            yield report


def _epoch_line(progress: Progress) -> str:
    line = f"epoch {progress.epoch:>3}  step {progress.step:>6}  loss {progress.loss:.5f}"
    for name, value in (progress.valid or {}).items():
        line += (
            f"  valid {name} {value:.2%}" if name == "accuracy" else f"  valid {name} {value:.5f}"
        )
    return line


def _summary(
    training: Run, console: Console, options: argparse.Namespace, seconds: float, first: int
) -> None:
    progress = training.progress
    steps = progress.step - first
    path, page = training.folder / PARAMS_FILE, training.folder / PAGE_FILE
    if options.json:
        found = {"steps": progress.step, "loss": progress.loss, "seconds": seconds}
        valid = {f"valid_{k}": v for k, v in (progress.valid or {}).items()}
        pages = {"page": str(page)} if page.exists() else {}
        console.json({**found, **valid, "params": str(path), **pages})
        return
    rate = f", {steps / seconds:.0f} steps/s" if steps and seconds > 0 else ""
    count = f"{steps} step{'s' if steps != 1 else ''}"
    console.result(f"{count} in {seconds:.2f} s{rate}; last loss {progress.loss:.5f}")
    for name, value in (progress.valid or {}).items():
        shown = f"{value:.2%}" if name == "accuracy" else f"{value:.5f}"
        console.result(f"validation {name} {shown}")
    console.result(f"weights: {path}")
    if page.exists():
        console.result(f"as a page: {page}")
