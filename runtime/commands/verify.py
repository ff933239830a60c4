"""``gradc verify FILE``: a verdict on every gradient, pass and kernel, as a table, JSON or a page."""

from __future__ import annotations

import argparse

from gradc.passes.prove_report import KINDS, Report, Verdict, certificate
from gradc.runtime.cli import OK, REFUTED
from gradc.runtime.commands.common import load_model
from gradc.runtime.commands.flags import add_model
from gradc.runtime.console import Console
from gradc.runtime.verify import verify_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--wrt", default="params", help="params, inputs, or names (params)")
    parser.add_argument("--budget", metavar="SIZE", help="most memory, e.g. 64MiB")
    parser.add_argument("--points", type=int, metavar="N", help="random points per obligation")
    parser.add_argument("--json", metavar="CERT.json", nargs="?", const="-", help="the certificate")


def run(options: argparse.Namespace, console: Console) -> int:
    """Verifies and reports; status 3 if anything is refuted."""
    model = load_model(options)
    wrt = options.wrt if options.wrt in ("params", "inputs") else tuple(options.wrt.split(","))
    report = verify_model(model, wrt=wrt, budget=options.budget, points=options.points)
    if options.json == "-":
        console.json(certificate(report))
    else:
        show(report, console)
        if options.json is not None:
            report.to_json(options.json)
            console.message(f"wrote {options.json}")
    return OK if report.ok else REFUTED


def show(report: Report, console: Console) -> None:
    """The report as tables."""
    for name in report.chosen:
        console.message(f"note: {name} has no value; it is {report.dims[name]} here (-D {name}=N)")
    for kind in KINDS:
        rows = [_row(v) for v in report.of(kind)]
        if rows:
            console.table(kind, (kind, "verdict", "by", "details"), rows)
    for verdict in report.verdicts:
        if verdict.point:
            console.result(f"{verdict.kind} {verdict.subject} is wrong at")
            for name, value in verdict.point.items():
                console.result(f"  {name} = {value}")
    assumed = dict.fromkeys(a for v in report.verdicts for a in v.assumptions)
    if assumed:
        console.result(f"assuming: {'; '.join(assumed)}")
    counts = ", ".join(f"{n} {name}" for name, n in report.counts().items())
    console.result(f"{counts} in {report.seconds['total']:.2f} s; certificate {report.digest}")


def _row(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.subject, verdict.status.value, verdict.method, verdict.detail
