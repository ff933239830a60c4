"""The benchmark's command line: check that all contenders agree, time them in turns, print and
save.

Nothing is timed before its loss and every gradient agree with the reference (PyTorch in float64
where it is installed, else the first peer) to TOLERANCE of the largest entry.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.contenders import (
    MAKERS,
    Contender,
    Result,
    disagreement,
    make_gradc,
    make_torch,
)
from gradc.runtime.bench.timing import Timing, ratio, take_turns

TOLERANCE = 1e-4
ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, object]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--models", default=",".join(CASES), help="comma separated; default: all")
    parser.add_argument(
        "--against", default="torch,torch.compile,jax", help="peers, comma separated; may be empty"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="time per model")
    parser.add_argument("--first-call", action="store_true", help="time compiling, not running")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    chosen = parser.parse_args(arguments)
    chosen.models = [name for name in chosen.models.split(",") if name]
    chosen.against = [name for name in chosen.against.split(",") if name]
    for name in chosen.models:
        if name not in CASES:
            parser.error(f"no model {name!r}; there are {', '.join(CASES)}")
    for name in chosen.against:
        if name not in MAKERS or name == "gradc":
            peers = ", ".join(peer for peer in MAKERS if peer != "gradc")
            parser.error(f"no peer {name!r}; there are {peers}")
    return chosen


def make_all(
    case: Case, peers: Sequence[str], threads: int
) -> tuple[list[Contender], dict[str, str]]:
    """gradc and those peers that are installed and run, and by name why an installed one does not.

    A peer may raise anything at its first step; what gradc raises is ours to see.
    """
    made, failures = [MAKERS["gradc"](case, threads)], {}
    for name in peers:
        try:
            peer = MAKERS[name](case, threads)
            peer.step()
        except ImportError as missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
        except Exception as problem:  # noqa: BLE001 - whatever a peer raises belongs into its row
            failures[name] = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            print(f"{case.name}: {name} fails: {failures[name]}", file=sys.stderr)
        else:
            made.append(peer)
    return made, failures


def reference(case: Case, threads: int, contenders: Sequence[Contender]) -> Result | None:
    """What loss and gradients should be, or None where gradc is alone."""
    try:
        return make_torch(case, threads, exact=True).result()
    except ImportError:
        return contenders[1].result() if len(contenders) > 1 else None


def check(case: Case, threads: int, contenders: Sequence[Contender]) -> dict[str, float]:
    """Each contender's disagreement with the reference. Raises ValueError where it is too large."""
    expected = reference(case, threads, contenders)
    if expected is None:
        print("no peer is installed: results are not compared", file=sys.stderr)
        return {}
    if case.has_kinks:
        exact = make_gradc(case, threads, exact=True).result()
        losses = {c.name: disagreement((c.result()[0], {}), (expected[0], {})) for c in contenders}
        errors = losses | {"gradc": disagreement(exact, expected)}
    else:
        errors = {c.name: disagreement(c.result(), expected) for c in contenders}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise ValueError(f"{case.name}: {name} is off by {error:.1e} of the largest entry")
    return errors


def compare(case: Case, peers: Sequence[str], threads: int, seconds: float) -> list[Row]:
    """One row per contender: milliseconds per step, times gradc's, for gradc the share of what the
    machine allows that it reaches (docs/performance.md), error against the reference.

    A peer that fails has a row without figures that says how it failed.
    """
    contenders, failures = make_all(case, peers, threads)
    errors = check(case, threads, contenders)
    timings = take_turns([c.step for c in contenders], seconds)
    rows = [
        row(case, c, t, ratio(t, timings[0]), errors.get(c.name))
        for c, t in zip(contenders, timings, strict=True)
    ]
    figures = [key for key in rows[0] if key not in ("model", "contender")]
    return rows + [
        {"model": case.name, "contender": name, **dict.fromkeys(figures), "failure": why}
        for name, why in failures.items()
    ]


def row(case: Case, contender: Contender, time: Timing, times: float, error: float | None) -> Row:
    return {
        "model": case.name,
        "contender": contender.name,
        "milliseconds": 1e3 * time.median,
        "best": 1e3 * time.best,
        "worst": 1e3 * time.worst,
        "rounds": len(time.rounds),
        "times_gradc": times,
        "of_limit": None if contender.least is None else contender.least() / time.median,
        "error": error,
    }


def first_calls(case: Case, peers: Sequence[str], threads: int) -> list[Row]:
    """Seconds from model to first result in fresh processes, with an empty cache and with a filled
    one.
    """
    found: list[Row] = []
    for name in ("gradc", *peers):
        command = [sys.executable, "-m", "benchmarks.first_call", case.name, name, str(threads)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{name} is left out: {done.stderr.strip()[-300:]}", file=sys.stderr)
            continue
        found.append({"model": case.name, "contender": name, **json.loads(done.stdout)})
    return found


def machine(threads: int) -> dict[str, object]:
    """What the figures belong to."""
    names = ("numpy", "llvmlite", "torch", "jax")
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        processor = named[0].split(":", 1)[1].strip() if named else processor
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in names if name in installed},
    }


def print_table(rows: Sequence[Row]) -> None:
    """The rows as columns; figures as they were measured."""
    if not rows:
        return
    columns = [name for name in rows[0] if name not in ("best", "worst", "rounds")]
    texts = [[cell(row[name]) for name in columns] for row in rows]
    widths = [max(len(t[i]) for t in [columns, *texts]) for i in range(len(columns))]
    for line in [columns, *texts]:
        cells = (
            text.ljust(w) if i < 2 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; return the exit status: 1 where contenders disagree."""
    chosen = parse(arguments)
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[: chosen.threads])
    rows: list[Row] = []
    status = 0
    for name in chosen.models:
        try:
            if chosen.first_call:
                found = first_calls(CASES[name], chosen.against, chosen.threads)
            else:
                found = compare(CASES[name], chosen.against, chosen.threads, chosen.seconds)
        except ValueError as wrong:
            print(wrong, file=sys.stderr)
            status = 1
            continue
        print_table(found)
        print(flush=True)
        rows += found
    if chosen.json is not None:
        text = json.dumps({"machine": machine(chosen.threads), "rows": rows}, indent=1)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    return status
