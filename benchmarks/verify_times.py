"""What `gradc verify` takes: CPU seconds and verdicts of programs, one process each.

``python -m benchmarks.verify_times [PROGRAM.grad ...]`` prints a table; without programs, of all
examples, benchmarks and networks. CPU time, since a machine may have other work.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gradc

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks/verify", "benchmarks/models", "examples", "tests/networks")


def programs() -> list[Path]:
    """Every program of the repository that people might verify."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.grad"))]


def row(path: Path) -> str:
    """CPU seconds of one verification in this process, and its verdicts."""
    report = gradc.load(path).verify(sympy=60)
    used = resource.getrusage(resource.RUSAGE_SELF)
    counts = Counter(v.status.value for v in report.verdicts)
    known = ", ".join(f"{n} {name}" for name, n in counts.items())
    seconds = used.ru_utime + used.ru_stime
    return f"| {path.resolve().relative_to(ROOT)} | {seconds:.0f} | {known} |"


def main() -> int:
    """The table; status 1 if a program could not be verified."""
    asked = [Path(name) for name in sys.argv[1:]]
    if len(asked) == 1:
        print(row(asked[0]))
        return 0
    print("| program | CPU s | verdicts |\n|---|---|---|", flush=True)
    failed = False
    for path in asked or programs():
        command = [sys.executable, "-m", "benchmarks.verify_times", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        failed = failed or done.returncode != 0
        said = done.stdout.strip() or f"| {path} | | {done.stderr.strip().splitlines()[-1]} |"
        print(said, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
