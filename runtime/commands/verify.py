"""``gradc verify FILE``: a verdict on every gradient, pass and kernel, as a table, JSON or a
page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.passes.prove.report import KINDS, Report, Status, Verdict, certificate
from gradc.runtime.cli import OK, REFUTED, USAGE
from gradc.runtime.commands.common import load_model, whole_number
from gradc.runtime.commands.flags import add_model, add_target
from gradc.runtime.console import Console
from gradc.runtime.files.data import fail, save_npz
from gradc.runtime.model.model import Model
from gradc.runtime.reports.hazard_points import search
from gradc.runtime.reports.hazard_text import as_diagnostic
from gradc.runtime.reports.rules import COLUMNS, as_json, cells, rule_rows
from gradc.runtime.reports.verify import SYMPY_SECONDS, replay, verify_model, witness_arrays

# What each phase of a verification does, for who waits.
_DONE = {
    "compile": "compiling the program, and a small one to draw points for",
    "terms": "composing the rules at the real shape",
    "rules": "proving the rules of ops",
    "pullbacks": "comparing pullbacks with derivatives",
    "gradients": "trying the gradients at points",
    "passes": "comparing programs before and after each pass",
    "kernels": "running the kernels over a field",
    "plan": "replaying who owns each byte",
    "texts": "running kernel texts over a field",
    "machine code": "making machine code of the texts",
    "sympy": "asking SymPy for its own derivative",
    "ranks": "comparing all ranks together with one",
    "second sizes": "trying the gradients at other sizes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, is_optional=True)
    parser.add_argument("--wrt", default="params", help="params, inputs, or names (params)")
    parser.add_argument("--budget", metavar="SIZE", help="most memory, e.g. 64MiB")
    add_target(parser)
    parser.add_argument("--points", type=int, metavar="N", help="random points per obligation")
    parser.add_argument(
        "--sympy",
        type=float,
        metavar="SECONDS",
        default=SYMPY_SECONDS,
        help=f"CPU time for SymPy's own derivative at a small shape; 0: none ({SYMPY_SECONDS:g})",
    )
    parser.add_argument("--ranks", metavar="R", help="also that R ranks share a batch rightly")
    parser.add_argument("--accumulate", default="1", metavar="K", help="parts of each rank (1)")
    parser.add_argument("--shard-dim", metavar="H=R", help="also parameters cut along H, R ranks")
    parser.add_argument("--json", metavar="CERT.json", nargs="?", const="-", help="the certificate")
    parser.add_argument("--html", metavar="PAGE.html", help="the report as one page")
    parser.add_argument(
        "--witness", metavar="POINT.npz", help="the first refuting point, for gradc grad or NumPy"
    )
    parser.add_argument(
        "--numbers", action="store_true", help="also measure the error of the machine code"
    )
    parser.add_argument(
        "--replay", metavar="CERT.json", help="verify again what a certificate claims of FILE"
    )
    parser.add_argument(
        "--rules", action="store_true", help="what is known of the rules of every op; needs no FILE"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Verifies and reports; status 3 if anything is refuted."""
    if options.rules:
        return _rules(options, console)
    if options.file is None:
        print("gradc verify: error: FILE is missing (or --rules)", file=sys.stderr)
        return USAGE
    if options.replay is not None:
        return _replay(options, console)
    model = load_model(options)
    wrt = options.wrt if options.wrt in ("params", "inputs") else tuple(options.wrt.split(","))
    with _shown() as progress:
        report = verify_model(
            model,
            wrt=wrt,
            budget=options.budget,
            points=options.points,
            numbers=options.numbers or (False if options.html is None else None),
            sympy=options.sympy,
            target=options.target,
            ranks=None if options.ranks is None else whole_number(options.ranks, 1, "--ranks"),
            accumulate=whole_number(options.accumulate, 1, "--accumulate"),
            shard=options.shard_dim,
            machine_code=options.json is not None or options.html is not None,
            progress=progress,
        )
    if options.json == "-":
        console.json(certificate(report))
    else:
        show(report, console)
        if options.json is not None:
            report.to_json(options.json)
            console.message(f"wrote {options.json}")
    if options.html is not None:
        report.to_html(options.html)
        console.message(f"wrote {options.html}")
    if options.witness is not None:
        _save_witness(report, options, console)
    console.findings(_hazards(model, report), model.program.report.sources)
    return OK if report.ok else REFUTED


@contextmanager
def _shown() -> Iterator[Callable[[str], None] | None]:
    """What is done now and for how long, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console as RichConsole
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what: bar.update(task, description=_DONE.get(what, what))


def _save_witness(report: Report, options: argparse.Namespace, console: Console) -> None:
    """Writes the first refuting point as arrays, and says how to look at it."""
    refuted = next((v for v in report.verdicts if v.witness), None)
    if refuted is None:
        console.message("nothing is refuted, so there is no witness")
        return
    save_npz(options.witness, witness_arrays(refuted.witness))
    console.message(f"wrote {options.witness}: {refuted.kind} {refuted.subject}")
    if refuted.kind in ("parameter", "sympy", "kernel", "plan", "pass"):
        dims = "".join(f" -D {name}={n}" for name, n in refuted.witness["dims"].items())
        path = options.witness
        console.message(f"  gradc grad {options.file}{dims} --data {path} --params {path}")


def _rules(options: argparse.Namespace, console: Console) -> int:
    """The table of all rules; status 3 if one is not proved."""
    rows = rule_rows()
    if options.json is not None:
        data = as_json(rows)
        if options.json == "-":
            console.json(data)
        else:
            Path(options.json).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
            console.message(f"wrote {options.json}")
    else:
        console.table("rules", COLUMNS, [cells(row) for row in rows])
        proved = sum(row["ok"] for row in rows)
        console.result(f"{proved} of {len(rows)} ops: reverse, forward and second order proved")
    return OK if all(row["ok"] for row in rows) else REFUTED


def _hazards(model: Model, report: Report) -> list[Diagnostic]:
    """Where the gradient, right as it is, becomes infinite or NaN."""
    sources = model.program.report.sources
    return [as_diagnostic(f, sources) for f in search(model, report.dims).found]


def _replay(options: argparse.Namespace, console: Console) -> int:
    """Status 3 if the certificate does not hold."""
    found, differing = replay(load_json(options.replay), options.file)
    for line in differing:
        console.result(f"differs: {line}")
    if not differing:
        console.result(f"the certificate {found.digest} holds: {len(found.verdicts)} verdicts")
    return OK if found.ok and not differing else REFUTED


def load_json(path: str) -> dict[str, Any]:
    """A JSON object from a file. Raises DiagnosticError GC0001 or GC0701."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{path}`: {problem.strerror}") from None
    except ValueError:
        raise fail("GC0701", f"`{path}` is not a certificate: it is not JSON") from None
    if not isinstance(data, dict):
        raise fail("GC0701", f"`{path}` is not a certificate: it is not a JSON object")
    return data


def show(report: Report, console: Console) -> None:
    """The report as tables."""
    for note in report.notes:
        console.message(f"note: {note}")
    for kind in KINDS:
        rows = [_row(v) for v in report.of(kind)]
        if rows:
            console.table(kind, (kind, "verdict", "by", "details"), rows)
    for verdict in report.verdicts:
        if verdict.point:
            console.result(f"{verdict.kind} {verdict.subject} is wrong at")
            for name, value in verdict.point.items():
                console.result(f"  {name} = {value}")
        if verdict.witness:
            of, found, expected = (verdict.witness[n] for n in ("of", "found", "expected"))
            console.result(f"  there {of} is {found}, and should be {expected}")
    if report.accuracy:
        measured = [
            (
                a.tensor,
                f"{a.of_largest:.3g}",
                f"{a.elementwise:.3g}",
                f"{a.differences:.1e}",
                f"{a.dot:.1e}",
            )
            for a in report.accuracy
        ]
        columns = ("gradient", "ulps of largest", "ulps elementwise", "differences", "dot product")
        console.table("errors of the machine code", columns, measured)
        for a in report.accuracy:
            if not a.is_explained:
                console.result(
                    f"the gradient of `{a.tensor}` is wrong by {a.of_largest:.3g} ulps; "
                    f"rounding in {report.precision} explains {a.explained:.3g}"
                )
    assumed = dict.fromkeys(a for v in report.verdicts for a in v.assumptions)
    if assumed:
        console.result(f"assuming: {'; '.join(assumed)}")
    for line in said(report):
        console.result(line)
    counts = ", ".join(f"{n} {name}" for name, n in report.counts().items())
    console.result(f"{counts} in {report.seconds['total']:.2f} s; certificate {report.digest}")


def said(report: Report) -> list[str]:
    """What rests on the user's word, so that it is not read as checked."""
    words = [v for v in report.of("pullback") if v.status is Status.ASSERTED]
    resting = [v.subject for v in report.of("parameter") if v.status is Status.ASSERTED]
    if not words:
        return []
    what = "1 pullback is" if len(words) == 1 else f"{len(words)} pullbacks are"
    line = f"asserted: {what} the user's word and not proved: {', '.join(v.subject for v in words)}"
    on_it = f"; the gradients of {', '.join(resting)} are that word and no derivative"
    return [line + (on_it if resting else "")]


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.subject, verdict.status.value, verdict.method, verdict.detail
