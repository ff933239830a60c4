"""The page of findings: `python -m tests.support.doctor_page` writes docs/findings.md.

For every finding of the table in docs/training.md the first training that shows it is written to a
folder as a program and its data, `gradc diagnose` is run on it, and what it prints stands on the
page. `python -m tests.support.doctor_page NAME --to DIR` writes one training and its command only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gradc.runtime.cli import main as gradc
from tests.support.doctor import SICK
from tests.support.doctor_cases import FOLDER, Case, cases

DOCS = FOLDER.parents[1] / "docs"
PAGE, TABLE = DOCS / "findings.md", DOCS / "training.md"
HEAD = """# Findings

What `gradc diagnose` prints where a training fails, one training per finding;
[training.md](training.md#why) says what each means. Written by `python -m
tests.support.doctor_page`; with `NAME --to .` that writes the program and the data of one training,
and its command.
"""


def shown() -> dict[str, str]:
    """Each finding of the table, and the first training that shows it."""
    known = {n: c for tables in SICK for n, c in cases(tables).items()}
    rows = TABLE.read_text(encoding="utf-8").split("| trainings that show it |", 1)[1]
    found: dict[str, str] = {}
    for row in rows.split("\n\n", 1)[0].splitlines()[2:]:
        for name in row.strip("| ").split(" | ")[2].split(", "):
            for cause in known[name].cause[:1]:
                found.setdefault(cause.partition(":")[0], name)
    return found


def written(case: Case, folder: Path) -> list[str]:
    """Writes program and data of a training; the command that asks about it."""
    arrays: dict[str, Any] = dict(case.arrays(0)[0])
    np.savez(folder / f"{case.name}.npz", **arrays)
    (folder / f"{case.name}.grad").write_text(case.text())
    found = ["gradc", "diagnose", f"{case.name}.grad", "--data", f"{case.name}.npz"]
    for name, size in case.dims.items():
        found += ["-D", f"{name}={size}"]
    given = {
        "precision": None if case.precision == "f32" else case.precision,
        "optimizer": case.optimizer,
        "schedule": case.schedule,
        "clip-norm": case.clip_norm,
        "clip-value": case.clip_value,
        "loss-scale": case.loss_scale,
        "batch": case.batch,
        "steps": case.epochs * (case.samples // case.batch),
    }
    for flag, value in given.items():
        found += [] if value is None else [f"--{flag}", str(value)]
    return found


def output(command: list[str], folder: Path) -> str:
    """What the command prints in ``folder``, findings and errors."""
    said = io.StringIO()
    out, err = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with contextlib.chdir(folder), out, err:
        gradc(command[1:])
    return said.getvalue().rstrip()


def section(kind: str, case: Case, folder: Path) -> str:
    command = written(case, folder)
    text = output(command, folder)
    said = f"[{case.kind}]({case.source}), `{case.name}`"
    return f"\n## {kind}\n\n{said}\n\n```\n$ {shlex.join(command)}\n{text}\n```\n"


def page() -> str:
    known = {n: c for tables in SICK for n, c in cases(tables).items()}
    with tempfile.TemporaryDirectory() as folder:
        parts = [section(kind, known[name], Path(folder)) for kind, name in shown().items()]
    return HEAD + "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.doctor_page")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--to", type=Path, default=Path())
    options = parser.parse_args()
    if options.name is None:
        PAGE.write_text(page(), encoding="utf-8")
        return
    known = {n: c for tables in SICK for n, c in cases(tables).items()}
    print(shlex.join(written(known[options.name], options.to)))


if __name__ == "__main__":
    main()
