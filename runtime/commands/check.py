"""``gradc check FILE``: parse and check a program; several diagnostics at once."""

from __future__ import annotations

import argparse

from gradc.frontend.program import Program
from gradc.ir.diagnostics import Diagnostic
from gradc.ir.render import to_json
from gradc.runtime.console import Console
from gradc.runtime.read import read_program


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
    if options.hazards:
        warnings = (*warnings, *_hazards(program))
    if options.json:
        console.json({"ok": True, "models": list(program.models), "warnings": to_json(warnings)})
        return 0
    console.findings(warnings, program.report.sources)
    names = ", ".join(program.models) or "no models"
    console.message(f"{options.file}: ok ({names})")
    return 0


# What dimensions without a value count as; hazards hardly depend on sizes.
_SIZE = 6


def _hazards(program: Program) -> list[Diagnostic]:
    """Warnings about every model's gradient."""
    from gradc.passes.hazards import find_hazards
    from gradc.runtime.hazard_text import as_diagnostic

    found: list[Diagnostic] = []
    for entry in program.models:
        dims = {name: size or _SIZE for name, size in program.signature(entry).dims.items()}
        hazards = find_hazards(program.lower(entry, dims).function)
        found += [as_diagnostic(hazard, program.report.sources) for hazard in hazards]
    return found
