"""The metrics of a run: one JSON object per line, for each step and each epoch.

Non-goals: what is measured (``runtime.training``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.runtime.console import finite
from gradc.runtime.files.data import fail, write_text


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds records to the file, each at once.

    Raises:
        DiagnosticError: GC0573 if the file cannot be written to, the disk full among other reasons.
    """
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as problem:
        raise _unwritable(path, problem) from None

    def write(record: Mapping[str, Any]) -> None:
        try:
            stream.write(json.dumps(finite(record), allow_nan=False) + "\n")
            stream.flush()
        except OSError as problem:
            raise _unwritable(path, problem) from None

    try:
        yield write
    finally:
        try:
            stream.close()
        except OSError:
            pass  # a record that could not be written was said when it was


def _unwritable(path: Path, problem: OSError) -> Exception:
    return fail("GC0573", f"cannot write `{path}`: {problem.strerror or problem}")


def cut(path: Path, step: int, epoch: int) -> tuple[Diagnostic, ...]:
    """Drops what was written after a checkpoint, and a line that a kill cut short.

    Returns a warning if other lines are no records of a run, and dropped as well.

    Raises:
        DiagnosticError: GC0570 if the file cannot be read, GC0573 if it cannot be written.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{path}`: {problem.strerror or problem}") from None
    kept, damaged = [], 0
    lines = text.split("\n")
    for line in lines[:-1]:
        record = _record(line)
        if record is None:
            damaged += 1
        elif not _is_later(record, step, epoch):
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
    if not damaged:
        return ()
    lost = f"{damaged} line{'s' if damaged > 1 else ''} of `{path}`"
    message = f"{lost} held no record of a run and {'are' if damaged > 1 else 'is'} dropped"
    return (warning("GC0812", message, None),)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; lines that are none are left out, as is a file that is not there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = (_record(line) for line in text.splitlines())
    return [record for record in found if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    return found if type(found.get("epoch_done", 0)) is int else None


def _is_later(record: Mapping[str, Any], step: int, epoch: int) -> bool:
    at: int = record["step"]
    return at > step or (at == step and record.get("epoch_done", -1) >= epoch)
