"""Long counts in pieces: one line of JSON for each item that is done, so that a count that was
stopped goes on and pieces add up.

``alarm_count`` is the main of the two scripts that ask that right programs raise no alarm.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gradc.passes.prove.report import Status, Verdict

ALARMS = (Status.REFUTED, Status.UNDECIDED)


def in_pieces(
    items: Iterable[str], one: Callable[[str], dict[str, Any]], state: Path | None
) -> dict[str, dict[str, Any]]:
    """What ``one`` says of every item, from ``state`` where a line there has it already; what is
    new is added there at once.
    """
    done: dict[str, dict[str, Any]] = {}
    if state is not None and state.exists():
        for line in state.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            done[row["item"]] = row
    found = {}
    for item in items:
        if item not in done:
            start = time.process_time()
            row = {"item": item, **one(item), "seconds": round(time.process_time() - start, 2)}
            done[item] = row
            if state is not None:
                with state.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        found[item] = done[item]
    return found


def alarm_count(doc: str, verdicts: Callable[[int], Iterable[Verdict]]) -> int:
    """Prints counts of verdicts on programs FIRST to LAST, and every alarm; status 1 if there is
    one.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--state", type=Path, help="go on from this file, kept up to date")
    options = parser.parse_args()

    def one(item: str) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        alarms = []
        for verdict in verdicts(int(item)):
            counts[f"{verdict.kind} {verdict.status.value}"] += 1
            if verdict.status in ALARMS:
                alarms.append(f"{item} {verdict} {verdict.detail}")
                print(alarms[-1], flush=True)
        return {"counts": counts, "alarms": alarms}

    rows = in_pieces(map(str, range(options.first, options.last)), one, options.state).values()
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    for name, count in sorted(total.items()):
        print(f"{count:6} {name}")
    refuted, undecided = (sum(_has(row, s) for row in rows) for s in ALARMS)
    seconds = sum(row["seconds"] for row in rows)
    print(
        f"{len(rows)} programs: {refuted} refuted, {undecided} undecided; {seconds:.0f} CPU seconds"
    )
    return 1 if refuted or undecided else 0


def _has(row: dict[str, Any], status: Status) -> bool:
    return any(name.endswith(f" {status.value}") for name in row["counts"])
