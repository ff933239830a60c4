"""``gradc check FILE``: parse and check a program; several diagnostics at once."""

from __future__ import annotations

import argparse

from gradc.ir.render import to_json
from gradc.runtime.console import Console
from gradc.runtime.read import read_program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .grad program; - reads it from stdin")
    parser.add_argument("--json", action="store_true", help="the findings as JSON on stdout")


def run(options: argparse.Namespace, console: Console) -> int:
    """Checks every declaration of the program and of the files it imports."""
    program = read_program(options.file)
    warnings = program.check()
    if options.json:
        console.json({"ok": True, "models": list(program.models), "warnings": to_json(warnings)})
        return 0
    console.findings(warnings, program.report.sources)
    names = ", ".join(program.models) or "no models"
    console.message(f"{options.file}: ok ({names})")
    return 0
