"""Bytes predicted and measured, gradients under every budget and thread count: on generated
programs and on examples.

    python -m benchmarks.soak_memory [--programs 500] [--first 0] [--examples] [--jobs 2] [--json
    FILE] [--resume]

For each program (``tests/support/generate.py``), and with ``--examples`` for every example, every
model of the benchmarks and a whole training step of each, small: for each point of its Pareto
front, for one and two threads, the compiled results are bitwise those of the plain plan (a step's
after three calls), the arena really allocated has the predicted size, nothing beside it is written,
nothing in it is read before it is written, and the independent checker finds nothing
(``tests/support/memory_subjects.py``).

Prints a line per disagreement and a summary, also when interrupted; the exit status says whether
there was any. ``--json`` writes what was found, subject by subject, while it runs; ``--resume``
goes on after those in the file.
"""

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.support.memory_subjects import Outcome, check, names, subject

Found = dict[str, Outcome]
# Seconds between two writings of the file.
_EVERY = 5.0


def look(name: str) -> Outcome:
    """Checks one subject; what cannot be compiled at all is a disagreement too."""
    try:
        return check(subject(name))
    except Exception:  # noqa: BLE001  (the others are still to be checked)
        return Outcome(faults=[f"{name}: {traceback.format_exc(limit=-3).strip()}"])


def outcomes(todo: Sequence[str], jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Subjects as they are done, in this process or in ``jobs`` others."""
    if jobs == 1:
        yield from ((name, look(name)) for name in todo)
        return
    # Fresh processes: a fork would copy the threads that compiled code runs on.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: dict[Future[Outcome], str] = {pool.submit(look, name): name for name in todo}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def summary(found: Found, wanted: int) -> str:
    programs = sum(name.startswith("program ") for name in found)
    tried = sum(outcome.tried for outcome in found.values())
    points = sum(outcome.points for outcome in found.values())
    wrong = sum(len(outcome.faults) for outcome in found.values())
    text = (
        f"{programs} programs and {len(found) - programs} examples, benchmarks and steps, {points} "
        f"budgets, "
    )
    text += f"{tried} compiled gradients: {wrong} disagreements"
    return text if len(found) == wanted else f"stopped after {len(found)} of {wanted}: {text}"


def write(path: Path, found: Found) -> None:
    rows = {name: asdict(found[name]) for name in sorted(found)}
    path.write_text(json.dumps(rows, indent=1) + "\n")


def read(path: Path) -> Found:
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return {name: Outcome(**row) for name, row in rows.items()}


def soak(todo: Sequence[str], jobs: int, path: Path | None, found: Found) -> bool:
    """Checks ``todo``, adds to ``found``; False if interrupted."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    written = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("no disagreement", total=len(todo))
        try:
            for name, outcome in outcomes(todo, jobs):
                found[name] = outcome
                for line in outcome.faults:
                    print(line, flush=True)
                wrong = sum(len(other.faults) for other in found.values())
                text = f"[red]{wrong} disagreements" if wrong else "no disagreement"
                progress.update(task, advance=1, description=text)
                if path is not None and time.monotonic() - written > _EVERY:
                    write(path, found)
                    written = time.monotonic()
        except KeyboardInterrupt:
            return False
        finally:
            if path is not None:
                write(path, found)
    return True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--examples", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    wanted = list(names()) if options.examples else []
    seeds = range(options.first, options.first + options.programs)
    wanted += [f"program {seed}" for seed in seeds]
    known = read(options.json) if options.resume and options.json and options.json.exists() else {}
    found = {name: known[name] for name in wanted if name in known}
    todo = [name for name in wanted if name not in found]
    done = soak(todo, max(1, options.jobs), options.json, found)
    print(summary(found, len(wanted)))
    if not done:
        return 130
    return 1 if any(outcome.faults for outcome in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
