"""``gradc check FILE``: parse and check a program; several diagnostics at once."""

from __future__ import annotations

import argparse

from gradc.frontend.program import Program
from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.ir.diagnostics.render import to_json
from gradc.runtime.console import Console
from gradc.runtime.files.read import read_program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .grad program; - reads it from stdin")
    parser.add_argument("--json", action="store_true", help="the findings as JSON on stdout")
    parser.add_argument(
        "--hazards",
        action="store_true",
        help="also warn of places where a gradient can become infinite or NaN",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Checks every declaration of the program and of the files it imports."""
    program = read_program(options.file)
    warnings = program.check()
    remarks: list[str] = []
    if options.hazards:
        warnings = (*warnings, *_hazards(program, remarks))
    if options.json:
        console.json({"ok": True, "models": list(program.models), "warnings": to_json(warnings)})
        return 0
    console.findings(warnings, program.report.sources)
    for remark in remarks:
        console.message(remark)
    names = ", ".join(program.models) or "no models"
    console.message(f"{options.file}: ok ({names})")
    return 0


# What dimensions without a value count as; hazards hardly depend on sizes.
_SIZE = 6


def _hazards(program: Program, remarks: list[str]) -> list[Diagnostic]:
    """Warnings about every model's gradient; ``remarks`` gains what was looked for and what is left
    open.
    """
    from gradc.runtime.model.model import Model
    from gradc.runtime.reports.hazard_points import search
    from gradc.runtime.reports.hazard_text import as_diagnostic, left_open, none_found

    found: list[Diagnostic] = []
    for entry in program.models:
        dims = {name: size or _SIZE for name, size in program.signature(entry).dims.items()}
        findings = search(Model(program, entry), dims)
        found += [as_diagnostic(f, program.report.sources) for f in findings.found]
        text = left_open(findings) if findings.found else none_found(findings)
        remarks += [f"{entry}: {line}" for line in (text,) if line]
        if not findings.found and findings.open:
            remarks.append(f"{entry}: {left_open(findings)}")
    return found
