"""The table of the doctor: `python -m tests.support.doctor sickness|table [names...] [--state F]`.

``table`` asks the doctor about every case, seed 0, as `gradc diagnose --optimizer ...` does: does
the right cause stand first or among the first three, has a healthy training a finding, and does
each remedy that is offered lower the loss again from another start on other data (seed 1)? Beside
it stand a plain watcher of losses and data that says only that something is wrong, and PyTorch's
anomaly mode on the same program (``doctor_anomaly``; left out where there is no PyTorch).

``sickness`` trains every case of ``tests/doctor`` on three seeds, the sick ones with their repair,
and says which are not what they are said to be. Rows go to the state file as they are done; a
second run with the same file goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.doctor.checkup import Trial, checkup
from gradc.runtime.files.batches import samples_of
from gradc.runtime.files.ids import check_inputs
from gradc.runtime.native.arrays import finite_or_fail
from gradc.runtime.reports.diagnose import Finding
from tests.support.doctor_cases import Case, cases, trained

try:  # PyTorch is optional
    from tests.support.doctor_anomaly import anomaly
except ImportError:
    anomaly = None  # type: ignore[assignment]

SEEDS = (0, 1, 2)
SICK = ("sick", "sick_more", "sick_asked", "sick_last", "sick_noise")
WELL = ("healthy", "healthy_last")

Row = dict[str, Any]


def sickness(case: Case, seeds: Iterable[int] = SEEDS) -> Row:
    """The scores of a case and of its repair, and whether it is what it is said to be."""
    chosen = tuple(seeds)
    found = [trained(case, seed).score for seed in chosen]
    if not case.cause:
        return {"scores": found, "is_right": min(found) >= case.reaches}
    repaired = [trained(case.repaired, seed).score for seed in chosen]
    is_sick = min(repaired) >= 0.5 and max(found) <= 0.7 * min(repaired)
    return {"scores": found, "repaired": repaired, "is_right": is_sick}


def table(case: Case) -> Row:
    """What the doctor and the watcher say of a case."""
    started = time.process_time()
    findings, _ = asked(case, 0)
    seconds = time.process_time() - started
    row: Row = {
        "found": [f.kind for f in findings],
        "right": [is_right(case, f) for f in findings],
        "watcher": watcher(case),
        "torch": anomaly(case) if anomaly is not None else None,
        "seconds": round(seconds, 2),
    }
    offered = [f for f in findings if f.effect.startswith("tried")]
    if offered:
        again = {(t.kind, t.remedy): t.helps for t in asked(case, 1)[1]}
        row["lowers"] = [again.get((f.kind, f.remedy), False) for f in offered]
    return row


def asked(case: Case, seed: int) -> tuple[list[Finding], tuple[Trial, ...]]:
    """What `gradc diagnose` finds and tries with the data of a seed, and starting from it."""
    train, _ = case.arrays(seed)
    net = case.model()
    try:
        finite_or_fail(train)
        check_inputs(net, train)
        step = net.train_step(case.optimizer, **case.recipe)
        samples = samples_of(net.signature, train, "the data")
        found = checkup(step, samples, case.batch, _steps(case), seed)
    except DiagnosticError as refused:
        return [Finding(d.code, d.message, d.span, 100.0) for d in refused.diagnostics], ()
    return list(found.findings), found.trials


def _steps(case: Case) -> int:
    return case.epochs * (case.samples // case.batch)


def is_right(case: Case, finding: Finding) -> bool:
    """Whether a finding names the cause of a sick case."""
    pairs = (cause.partition(":") for cause in case.cause)
    return any(finding.kind == kind and word in finding.message for kind, _, word in pairs)


def watcher(case: Case) -> bool:
    """Plain rules over the losses and the data: whether something is wrong, not what."""
    train, _ = case.arrays(0)
    for array in train.values():
        if array.dtype.kind == "f" and array.ndim > 1:
            sizes = np.abs(array.reshape(len(array), -1)).max(axis=0)
            if not np.isfinite(sizes).all() or sizes.max() > 50 * max(np.median(sizes), 1):
                return True
            if not array.std():
                return True
    losses = trained(case, 0).losses
    if not losses or not np.isfinite(losses).all():
        return True
    last = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    return last > 0.9 * losses[0] or last > 3 * abs(min(losses)) + 0.1


def is_named(case: Case, row: Row) -> bool:
    """Whether anomaly mode raises at the op that is the cause."""
    found = row["torch"] or {}
    ops = {cause.partition(":")[2] for cause in case.cause if cause.startswith("not-finite:")}
    return bool(found.get("raises")) and found["names"] in ops


def print_table(rows: Mapping[str, Row]) -> None:
    """The sums."""
    known = all_cases()
    for tables in SICK:
        names, title = [n for n in cases(tables) if n in rows], f"{tables}.toml"
        first = sum(rows[n]["right"][:1] == [True] for n in names)
        three = sum(any(rows[n]["right"][:3]) for n in names)
        fired = sum(rows[n]["watcher"] for n in names)
        print(f"{title}: cause first {first} of {len(names)}, in the first three {three}; ", end="")
        stops = [n for n in names if (rows[n]["torch"] or {}).get("stops")]
        raised = sum(rows[n]["torch"]["raises"] for n in stops)
        broken = [n for n in names if any(c.startswith("not-finite:") for c in known[n].cause)]
        right = sum(is_named(known[n], rows[n]) for n in broken)
        print(
            f"the watcher fired on {fired}; PyTorch's anomaly mode raised in {raised} of the ",
            end="",
        )
        print(f"{len(stops)} that stop and named the cause's op in {right} of {len(broken)}")
    for tables in WELL:
        names = [f"{tables} {n}" for n in cases(tables) if f"{tables} {n}" in rows]
        alarms = [n for n in names if rows[n]["found"]]
        fired = sum(rows[n]["watcher"] for n in names)
        raised = sum((rows[n]["torch"] or {}).get("raises", False) for n in names)
        print(f"{tables}.toml: alarms {len(alarms)} of {len(names)} {alarms}; ", end="")
        print(f"watcher {fired}; anomaly mode {raised}")
    lowers = [one for row in rows.values() for one in row.get("lowers", [])]
    print(
        f"remedies offered that lower the loss from another start: {sum(lowers)} of {len(lowers)}"
    )
    print(f"{sum(row['seconds'] for row in rows.values()):.0f} CPU s")


def all_cases() -> dict[str, Case]:
    """Every case, sick ones first."""
    return {
        **{n: c for tables in SICK for n, c in cases(tables).items()},
        **{f"{tables} {n}": c for tables in WELL for n, c in cases(tables).items()},
    }


def run(names: list[str], state: Path | None, work: Callable[[Case], Row]) -> Mapping[str, Row]:
    """A row per case; those in ``state`` are not done again."""
    rows: dict[str, Row] = {}
    if state is not None and state.exists():
        rows = {r.pop("case"): r for r in map(json.loads, state.read_text().splitlines())}
    for name, case in all_cases().items():
        if (names and name not in names) or name in rows:
            continue
        rows[name] = work(case)
        line = json.dumps({"case": name, **rows[name]})
        print(line, flush=True)
        if state is not None:
            with state.open("a") as stream:
                stream.write(line + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.doctor")
    parser.add_argument("what", choices=("sickness", "table"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    if options.what == "table":
        print_table(run(options.names, options.state, table))
        return
    rows = run(options.names, options.state, sickness)
    wrong = [name for name, row in rows.items() if not row["is_right"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} are what they are said to be; not: {wrong}")


if __name__ == "__main__":
    main()
