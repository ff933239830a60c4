"""The part of ``gradc diagnose`` that trains: the doctor on a run, or on settings that are given.

Non-goals: finding causes (``runtime.doctor``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.runtime.commands.common import (
    load_inputs,
    load_model,
    loss_scale_of,
    parse_dims,
    whole_number,
)
from gradc.runtime.console import Console
from gradc.runtime.doctor.checkup import Checkup, checkup
from gradc.runtime.doctor.page import checkup_page
from gradc.runtime.doctor.runs import PastRun, read_run
from gradc.runtime.doctor.search import Overfit, Rates, find_rate, overfit_batch
from gradc.runtime.files.batches import samples_of
from gradc.runtime.files.data import fail, write_text
from gradc.runtime.files.ids import check_samples
from gradc.runtime.files.read import read_program
from gradc.runtime.model.model import Model
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import finite_or_fail
from gradc.runtime.reports.diagnose import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", metavar="DIR", help="why this run of `gradc train` went as it did")
    add("--optimizer", metavar="CALL", help="why a training with it fails, e.g. 'adamw(lr=1e-3)'")
    add("--schedule", metavar="CALL", help="of the learning rate")
    add("--clip-norm", type=float, metavar="X", help="limit on the gradients' global L2 norm")
    add("--loss-scale", metavar="S", help="`dynamic`, or a factor")
    add("--batch", default="64", metavar="N", help="samples per step (64)")
    add("--steps", default="300", metavar="N", help="steps that the training is to have (300)")
    add("--overfit-batch", action="store_true", help="can one batch be learned by heart?")
    add("--rates", action="store_true", help="which learning rate suits: a range test, and trials")
    add("--html", metavar="FILE", help="write the findings as a page")


def wants(options: argparse.Namespace) -> bool:
    """Whether the arguments ask for a training.

    Raises:
        DiagnosticError: GC0564 for trials without a training.
    """
    is_asked = options.run is not None or options.optimizer is not None
    if not is_asked and (options.overfit_batch or options.rates or options.html):
        message = "--overfit-batch, --rates and --html need a training: --run DIR or --optimizer"
        raise DiagnosticError([error("GC0564", message, None)])
    return is_asked


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains beside the training and prints why it fails, or what was asked of it."""
    past = None if options.run is None else read_run(Path(options.run))
    model, step, batch, total = _training(options, past, console)
    arrays = load_inputs(model, options.data)
    finite_or_fail(arrays)
    samples = samples_of(model.signature, arrays, f"`{options.data}`")
    check_samples(model, samples, batch)
    if past is not None:
        if samples.digest() != past.settings.data:
            raise fail("GC0805", f"`{options.data}` is not what `{options.run}` was trained on")
        total = max(1, past.settings.epochs * -(-samples.count // batch))
    seed = options.seed if past is None else past.settings.seed
    if options.overfit_batch:
        return _print_overfit(overfit_batch(step, samples, batch, seed), options, console)
    if options.rates:
        return _print_rates(find_rate(step, samples, batch, seed), options, console)
    found = checkup(step, samples, batch, total, seed)
    if options.html:
        losses = () if past is None else past.losses
        write_text(Path(options.html), checkup_page(model.name, found, losses, samples.count))
        console.message(f"wrote {options.html}")
    if options.json:
        console.json(found.to_json())
        return 0
    _print(found, console)
    return 0


def _training(
    options: argparse.Namespace, past: PastRun | None, console: Console
) -> tuple[Model, TrainStep, int, int]:
    if past is None:
        model = load_model(options)
        step = model.train_step(
            options.optimizer,
            schedule=options.schedule,
            clip_norm=options.clip_norm,
            loss_scale=loss_scale_of(options.loss_scale),
            target=options.target,
        )
        batch = whole_number(options.batch, 1, "--batch")
        return model, step, batch, whole_number(options.steps, 1, "--steps")
    settings = past.settings
    dims = {**settings.dims, **parse_dims(options.dims)}
    model = Model(read_program(options.file), settings.entry, dims, settings.precision)
    if model.program.digest != settings.program:
        console.message("the program is another one than that of the run: findings are of this one")
    recipe: dict[str, Any] = {
        f: getattr(past.recipe, f)
        for f in ("schedule", "clip_norm", "clip_value", "decay_on", "loss_scale")
    }
    step = model.train_step(past.recipe.optimizer, **recipe, target=options.target)
    return model, step, settings.batch, 0


def _print(found: Checkup, console: Console) -> None:
    first = found.losses[0] if found.losses else float("nan")
    last = found.losses[-1] if found.losses else float("nan")
    console.result(f"{len(found.losses)} steps as they are: loss {first:.5g} to {last:.5g}")
    if found.dealt is not None:
        console.result(f"with targets dealt at random: {found.dealt:.5g}")
    console.result("")
    if not found.findings:
        console.result("nothing wrong found")
    for number, finding in enumerate(found.findings, 1):
        print_finding(finding, console, f"{number}. ")
    others = [t for t in found.trials if t.helps and not _is_told(t.remedy, found.findings)]
    if others:
        console.result("\nalso tried, and lower:")
        for trial in others:
            console.result(f"  {trial.remedy}: {trial.before:.4g} -> {trial.after:.4g}")


def _is_told(remedy: str, findings: tuple[Finding, ...]) -> bool:
    return any(f.remedy == remedy for f in findings)


def print_finding(finding: Finding, console: Console, before: str = "") -> None:
    """One finding: what, where, what to try, what that did."""
    console.result(f"{before}{finding.kind}: {finding.message}")
    if finding.span is not None:
        console.result(f"  --> {finding.span.outermost}")
    if finding.remedy:
        console.result(f"  try: {finding.remedy}")
    if finding.effect:
        console.result(f"  {finding.effect}")


def _print_overfit(found: Overfit, options: argparse.Namespace, console: Console) -> int:
    if options.json:
        console.json(found.to_json())
        return 0
    first = found.losses[0] if found.losses else float("nan")
    what = "is learned by heart" if found.is_learned else "is not learned"
    console.result(
        f"one batch of {found.samples} samples {what}: {len(found.losses)} steps, loss "
        f"{first:.5g} to {found.end:.5g}"
    )
    return 0


def _print_rates(found: Rates, options: argparse.Namespace, console: Console) -> int:
    if options.json:
        console.json(found.to_json())
        return 0
    shown = found.rates[:: max(1, len(found.rates) // 12)]
    kept = dict(zip(found.rates, found.losses, strict=True))
    rows = [(f"{rate:.3g}", f"{kept[rate]:.5g}") for rate in shown]
    console.table("", ("rate", "loss at that step"), rows)
    console.result("")
    for rate, loss in found.tried:
        console.result(f"tried: lr = {rate:g} from the start ends at {loss:.5g}")
    now = "as set" if found.current is None else f"lr = {found.current:g}, as set,"
    console.result(f"tried: {now} ends at {found.loss:.5g}")
    if found.suggested is None:
        console.result("no rate was better than the one that is set")
    else:
        console.result(f"suggested: lr = {found.suggested:g}")
    return 0
