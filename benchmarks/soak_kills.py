"""`gradc train` killed at random moments and resumed: the same bytes as a run that was left alone.

    python -m benchmarks.soak_kills --count 1000 --state FILE

This process has everything imported and the program's grammar at hand, and forks the ones that
train, so a kill costs a tenth of a second of processor time and most moments fall into the work,
not into imports. Each case is one kill (SIGKILL) of a process that trains, at a moment drawn from
the time that it takes. A run is killed and resumed until it is done; then its weights and metrics
must be, byte for byte, those of a run that nothing happened to. A checkpoint that was there before
is never gone afterwards. Before each run goes on, another data set of the same shape is offered to
it and must be refused by its digest.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.soak_common import Case, Tally, command, soak
from gradc.frontend.program import loads
from gradc.runtime.cli import main as command_line
from gradc.runtime.commands import train as _loaded  # noqa: F401  (children find it loaded)
from gradc.runtime.training import checkpoint

PROGRAM = """
dim B, D = 6, H = 8, C = 3

model net(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use norm = batchnorm(H)
    use fc2 = dense(H, C)
    logits = fc2(dropout(relu(norm(fc1(x))), 0.2))
    output logits
    return mean(cross_entropy(logits, y))
}
"""
EPOCHS = 24
_STATUS_KILLED = -int(signal.SIGKILL)


@dataclass
class Work:
    """The folder of one soak: a program, two data sets of one shape, a run left alone, one that is
    killed.
    """

    place: Path
    whole_seconds: float = 0.5

    @staticmethod
    def made() -> Work:
        work = Work(Path(tempfile.mkdtemp(prefix="gradc-kills-")))
        (work.place / "net.grad").write_text(PROGRAM)
        loads(PROGRAM).check()  # children find the standard library read
        random_numbers = np.random.default_rng(0)
        for name in ("data", "other"):
            x = random_numbers.normal(size=(96, 6)).astype(np.float32)
            np.savez(work.place / f"{name}.npz", x=x, y=np.arange(96, dtype=np.int32) % 3)
        for _ in range(2):  # the second finds everything compiled
            shutil.rmtree(work.place / "whole", ignore_errors=True)
            started = time.monotonic()
            assert work.finished(work.begun("whole")) == 0
            work.whole_seconds = time.monotonic() - started
        return work

    def begun(self, out: str, data: str = "data") -> int:
        """A process that trains, or goes on, in the folder ``out``; its number."""
        resume = ["--resume"] if (self.place / out / "run.json").exists() else []
        flags = ["--data", str(self.place / f"{data}.npz"), "--out", str(self.place / out)]
        how = ["--batch", "16", "--epochs", str(EPOCHS), "--threads", "1"]
        child = os.fork()
        if child:
            return child
        status = 70
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            said = os.open(self.place / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, target in ((0, nowhere), (1, nowhere), (2, said)):
                os.dup2(target, number)
            with open(2, "w", encoding="utf-8", closefd=False) as sys.stderr:
                command = ["train", str(self.place / "net.grad"), *flags, *how, *resume]
                status = command_line(command)
        finally:
            os._exit(status)

    @staticmethod
    def finished(child: int) -> int:
        """Its status; negative if a signal ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def said(self) -> str:
        return (self.place / "said").read_text(encoding="utf-8", errors="replace")


def case_of(work: Work) -> Case:
    """One kill."""

    def case(rng: random.Random, tally: Tally) -> str:
        before = checkpoint.newest_step(work.place / "run") or 0
        if before and rng.random() < 0.2:
            wrong = _other_data(work)
            tally.kinds["other data refused"] += 1
            if wrong:
                return wrong
        status = 0
        while status == 0:
            child = work.begun("run")
            time.sleep(rng.random() * work.whole_seconds)
            os.kill(child, signal.SIGKILL)
            status = work.finished(child)
            wrong = "" if status else _complete(work, tally)
            if wrong:
                return wrong
            before = before if status else 0
        if status != _STATUS_KILLED:
            return f"status {status}: {work.said()}"
        after = checkpoint.newest_step(work.place / "run") or 0
        begun = (work.place / "run" / "run.json").exists()
        moment = "training" if after else "at its first checkpoint" if begun else "starting"
        tally.kinds[f"killed {moment}"] += 1
        return "" if after >= before else f"step {before} is gone, {after} is the newest"

    return case


def _other_data(work: Work) -> str:
    """What is wrong when the run is offered other data; empty if it refuses them and stays as it
    is.
    """
    run = work.place / "run"
    kept = {p.name: p.read_bytes() for p in run.iterdir()}
    status = work.finished(work.begun("run", "other"))
    if not (run / "run.json").exists():
        return "" if status == 1 else f"other data: status {status}"
    if status != 1 or "GC0805" not in work.said():
        return f"other data were taken: status {status}, {work.said()}"
    return "" if kept == {p.name: p.read_bytes() for p in run.iterdir()} else "the run changed"


def _complete(work: Work, tally: Tally) -> str:
    """A run that is done equals the one that was left alone; the next begins."""
    tally.kinds["runs completed"] += 1
    whole, run = work.place / "whole", work.place / "run"
    different = [
        name
        for name in ("params.safetensors", "metrics.jsonl", "run.json")
        if (whole / name).read_bytes() != (run / name).read_bytes()
    ]
    left = [p.name for p in run.iterdir() if p.name not in {q.name for q in whole.iterdir()}]
    shutil.rmtree(run)
    return f"other bytes in {different}, left over {left}" if different or left else ""


def kills(count: int, seed: int, seconds: float, state: Path | None = None) -> Tally:
    """Kills ``count`` times."""
    work = Work.made()
    try:
        tally = soak("kills", case_of(work), count, seed, seconds, state)
        if (work.place / "run").exists():
            status = work.finished(work.begun("run"))
            wrong = f"status {status}: {work.said()}" if status else _complete(work, tally)
            tally.lost += [f"at the end: {wrong}"] if wrong else []
    finally:
        shutil.rmtree(work.place, ignore_errors=True)
    return tally


if __name__ == "__main__":
    sys.exit(command(__doc__, 1000, kills))
