"""``gradc fmt FILE...``: programs in canonical form, written back or compared."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from gradc.frontend.format.format import format_source
from gradc.frontend.syntax.source import from_text, read
from gradc.runtime.console import Console
from gradc.runtime.files.data import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="programs; - reads stdin")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing; status 1 if any differs")
    mode.add_argument("--diff", action="store_true", help="show what would change")
    mode.add_argument("--stdout", action="store_true", help="print instead of writing back")


def run(options: argparse.Namespace, console: Console) -> int:
    """Formats each file; a file that is canonical already is left untouched."""
    differing = 0
    for file in options.files:
        is_stdin = file == "-"
        source = from_text(sys.stdin.read(), "<stdin>") if is_stdin else read(Path(file))
        text = format_source(source)
        if options.diff:
            before, after = (t.splitlines(keepends=True) for t in (source.text, text))
            sys.stdout.writelines(difflib.unified_diff(before, after, file, file))
        elif options.stdout or (is_stdin and not options.check):
            sys.stdout.write(text)
        if text == source.text:
            continue
        differing += 1
        if options.check:
            console.message(f"{file}: not in canonical form")
        elif not (options.diff or options.stdout or is_stdin):
            write_text(Path(file), text)
            console.message(f"{file}: formatted")
    return 1 if differing and options.check else 0
