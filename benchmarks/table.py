"""The figures of README from a results file: `python -m benchmarks.table results.json`.

Prints one Markdown row per model: milliseconds of each system, how many times faster gradc is than
the best peer of the same rounds, and the share of the machine's limit that gradc reaches.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PEERS = ("torch", "torch.compile", "jax")


def by_model(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows by model and contender, in the order of the file, without those of peers that failed."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "failure" in row:
            continue
        found.setdefault(row["model"], {})[row["contender"]] = row
    return found


def step_table(rows: Sequence[Row]) -> list[str]:
    """Milliseconds per step."""
    lines = [
        f"| model | gradc | {' | '.join(PEERS)} | best peer / gradc | of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, contenders in by_model(rows).items():
        times = [_digits(contenders[n]["milliseconds"]) if n in contenders else "-" for n in PEERS]
        ratios = [contenders[n]["times_gradc"] for n in PEERS if n in contenders]
        best = _digits(min(ratios)) if ratios else "-"
        ours = _digits(contenders["gradc"]["milliseconds"])
        share = contenders["gradc"].get("of_limit")
        shown = "-" if share is None else f"{share:.0%}"
        lines.append(f"| {model} | {ours} | {' | '.join(times)} | {best} | {shown} |")
    return lines


def first_call_table(rows: Sequence[Row]) -> list[str]:
    """Seconds to the first result, cold and warm, and growth of the peak in MiB."""
    lines = ["| model | system | cold s | warm s | peak MiB |", "|---|---|---|---|---|"]
    for row in rows:
        figures = (_digits(row[name]) for name in ("cold_seconds", "warm_seconds", "peak_mib"))
        lines.append(f"| {row['model']} | {row['contender']} | {' | '.join(figures)} |")
    return lines


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def main(arguments: Sequence[str]) -> None:
    for name in arguments:
        results = json.loads(Path(name).read_text(encoding="utf-8"))
        rows = results["rows"]
        is_first_call = bool(rows) and "cold_seconds" in rows[0]
        print("\n".join(first_call_table(rows) if is_first_call else step_table(rows)))
        about = results["machine"]
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        print(
            f"\n{about['processor']}, {about['threads']} threads; Python {about['python']}, "
            f"{versions}\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
