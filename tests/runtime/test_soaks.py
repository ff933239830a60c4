"""Every soak of `benchmarks/`, with a tiny count: it runs, and finds nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
    soak_cli,
    soak_convolutions,
    soak_files,
    soak_functions,
    soak_programs,
    soak_threads,
)
from benchmarks.soak_common import Hang, Tally, limited, soak
from tests.support.command_line import gradc

ROOT = Path(__file__).resolve().parent.parent.parent


def test_mutated_programs() -> None:
    tally = soak("programs", soak_programs.case, 12, seed=5)
    assert tally.ok, tally.line()


def test_damaged_files() -> None:
    tally = soak_files.files(25, seed=5, seconds=60)
    assert tally.ok, tally.line()


def test_kills() -> None:
    """In a process of its own: it forks, which libraries that other tests load object to."""
    script = (
        "from benchmarks import soak_kills\n"
        "soak_kills.EPOCHS = 10\n"
        "tally = soak_kills.kills(2, seed=5, seconds=60)\n"
        "print(tally.line())\n"
        "raise SystemExit(not tally.ok)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_random_convolutions() -> None:
    pytest.importorskip("torch")
    tally = soak("convolutions", soak_convolutions.case, 8, seed=5)
    assert tally.ok and tally.cases == 8, tally.line()


def test_concurrent_calls() -> None:
    tally = soak_threads.threads(48, seed=5, seconds=60)
    assert tally.ok and tally.cases == 48, tally.line()


def test_odd_command_lines() -> None:
    with soak_cli.place():
        tally = soak("command lines", soak_cli.case, 12, seed=5)
    assert tally.ok, tally.line()


def test_generated_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = soak("functions", soak_functions.case, 8, seed=5)
    assert tally.ok and tally.kinds["right"] >= 7, tally.line()
    differences = soak_functions._difference
    monkeypatch.setattr(soak_functions, "_difference", lambda *a: 1.001 * differences(*a) + 1e-3)
    assert len(soak("wrong", soak_functions.case, 1, seed=5).lost) == 1


def test_failures_are_counted() -> None:
    def case(_rng: random.Random, tally: Tally) -> str:
        if tally.cases == 1:
            raise ValueError("boom")
        return "gone" if tally.cases == 2 else ""

    tally = soak("itself", case, 4)
    assert (len(tally.tracebacks), len(tally.lost), tally.cases) == (1, 1, 4)
    assert not tally.ok
    with pytest.raises(Hang), limited(0.05):
        while True:
            pass


def test_a_pipe_is_not_waited_for() -> None:
    with soak_cli.place():
        with limited(8):
            read = gradc("check", "pipe")  # empty, as nobody writes to it
            written = gradc("run", "net.grad", "--data", "data.npz", "--out", "pipe")
        assert read.status == 0
        assert (written.status, "error[GC0573]" in written.err) == (1, True), written.err
