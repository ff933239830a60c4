"""The table of the doctor: `python -m tests.support.doctor sickness|table [names...] [--state F]`.

``sickness`` trains every case of ``tests/doctor`` on three seeds, the sick ones with their repair,
and says which are not what they are said to be. Rows go to the state file as they are done; a
second run with the same file goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.doctor_cases import Case, cases, trained

SEEDS = (0, 1, 2)

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


def all_cases() -> dict[str, Case]:
    """Every case, sick ones first."""
    return {**cases("sick"), **{f"healthy {n}": c for n, c in cases("healthy").items()}}


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
    parser.add_argument("what", choices=("sickness",))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    rows = run(options.names, options.state, sickness)
    wrong = [name for name, row in rows.items() if not row["is_right"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} are what they are said to be; not: {wrong}")


if __name__ == "__main__":
    main()
