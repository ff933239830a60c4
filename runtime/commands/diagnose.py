"""``gradc diagnose FILE --data IN.npz``: how the gradient flows, and what is wrong with it; with
``--run`` or ``--optimizer``, why a training fails.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gradc.runtime.commands import diagnose_training
from gradc.runtime.commands.common import load_call
from gradc.runtime.commands.flags import add_data, add_model, add_target
from gradc.runtime.console import Console
from gradc.runtime.files.data import write_text
from gradc.runtime.files.ids import refuse_empty
from gradc.runtime.reports.diagnose import Diagnosis, flow_svg
from gradc.runtime.reports.truncation import Truncation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_target(parser)
    diagnose_training.add_arguments(parser)
    parser.add_argument("--svg", metavar="FILE", help="draw the gradient by depth and by time")
    parser.add_argument("--json", action="store_true", help="everything measured, as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Prints norms by layer, time step and parameter, then the findings, worst first."""
    if diagnose_training.wants(options):
        return diagnose_training.run(options, console)
    model, inputs, params = load_call(options)
    refuse_empty(inputs)
    diagnosis = model.diagnosed(params, inputs, seed=options.seed, target=options.target)
    if options.svg:
        write_text(Path(options.svg), flow_svg(diagnosis, model.name))
        console.message(f"wrote {options.svg}")
    if options.json:
        console.json(diagnosis.to_json())
        return 0
    _tables(diagnosis, console)
    return 0


def _tables(diagnosis: Diagnosis, console: Console) -> None:
    console.result(f"loss {diagnosis.loss:.6g}\n")
    rows = []
    after = None
    for place in reversed(diagnosis.places):
        gain = "" if after is None or after == 0 else f"{place.norm / after:.3g}"
        rows.append((place.label, _line(place.span), f"{place.norm:.4g}", gain))
        after = place.norm
    if rows:
        columns = ("place (last first)", "line", "gradient norm", "gain")
        console.table("", columns, _shortened(rows))
    for name, norms in diagnosis.times.items():
        first, last = norms[0] if norms else 0.0, norms[-1] if norms else 0.0
        text = f"\nthrough time: {name}: step 1 {first:.4g}, step {len(norms)} {last:.4g}"
        console.result(text)
    if diagnosis.parameters:
        console.result("")
        table = [
            (p.name, f"{p.norm:.4g}", f"{p.grad_norm:.4g}", f"{p.underflow:.1%}")
            for p in diagnosis.parameters
        ]
        columns = ("parameter", "norm", "gradient norm", "lost in f16")
        console.table("", columns, _shortened(table))
    if diagnosis.truncation is not None:
        _truncation_table(diagnosis.truncation, console)
    console.result("")
    if not diagnosis.findings:
        console.result("nothing wrong found")
    for finding in diagnosis.findings:
        diagnose_training.print_finding(finding, console)


def _truncation_table(ledger: Truncation, console: Console) -> None:
    console.result("")
    for window in ledger.windows:
        where = _line(window.span)
        console.result(f"{where}: truncate {window.size} of {window.trips} steps")
    columns = ("parameter", "whole gradient", "kept", "left out by truncation", "share")
    rows = [
        (r.name, f"{r.whole:.4g}", f"{r.kept:.4g}", f"{r.dropped:.4g}", f"{r.share:.1%}")
        for r in ledger.parameters
    ]
    console.table("", columns, _shortened(rows))


def _line(span: object) -> str:
    outermost = getattr(span, "outermost", None)
    return "" if outermost is None else f"{outermost.file}:{outermost.line}"


def _shortened(rows: Sequence[tuple[str, ...]], most: int = 40) -> Sequence[tuple[str, ...]]:
    """Long tables keep their ends; ``--json`` has all of it."""
    if len(rows) <= most:
        return rows
    half = most // 2
    gap = (f"... {len(rows) - 2 * half} more", *("" for _ in rows[0][1:]))
    return [*rows[:half], gap, *rows[-half:]]
