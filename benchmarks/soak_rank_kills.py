"""`gradc train --ranks` with one of its processes killed at a random moment, and resumed: the same
bytes as one rank that was left alone.

    python -m benchmarks.soak_rank_kills --count 200 --state FILE

Each case starts (or resumes) a run of two or three ranks that share batches of six parts, and kills
one process with SIGKILL: mostly a rank, else `mpiexec` or the `gradc` that has started it. The job
must end within ``PATIENCE`` seconds of a machine that has processors to spare (on a busy one, of
its share), say once which process it was (but for `gradc`), and leave no process; no checkpoint may
be gone. A run that comes to its end must have the weights and metrics, byte for byte, of one rank
that nothing happened to.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.soak_common import Case, Tally, arguments, report, soak
from gradc.runtime.ranks.deaths import FOLDER
from gradc.runtime.training import checkpoint

PROGRAM = """
dim B, D = 6, H = 300, C = 3

model net(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, C)
    return mean(cross_entropy(fc2(dropout(relu(fc1(x)), 0.2)), y))
}
"""
EPOCHS = 40
PATIENCE = 20.0


def processes_of(out: Path) -> dict[int, tuple[bytes, ...]]:
    """The processes of the job that writes to ``out``, each with its environment."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
            told = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(out) in line:
            found[int(entry.name)] = tuple(told)
    return found


def process_of(rank: int, out: Path) -> int | None:
    """The process of a rank of the job that writes to ``out``, if it is there."""
    wanted = b"OMPI_COMM_WORLD_RANK=%d" % rank
    return next((pid for pid, told in processes_of(out).items() if wanted in told), None)


def mpiexec_of(out: Path) -> int | None:
    """The process of `mpiexec` of the job that writes to ``out``, if it is there."""
    for pid, told in processes_of(out).items():
        names = {name.partition(b"=")[0] for name in told}
        if FOLDER.encode() in names and b"OMPI_COMM_WORLD_RANK" not in names:
            return pid
    return None


@dataclass
class Work:
    """The folder of one soak: a program, data, a run left alone, one that is killed."""

    place: Path
    whole_seconds: float = 2.0

    @staticmethod
    def made() -> Work:
        work = Work(Path(tempfile.mkdtemp(prefix="gradc-rank-kills-")))
        (work.place / "net.grad").write_text(PROGRAM)
        x = np.random.default_rng(0).normal(size=(109, 6)).astype(np.float32)
        np.savez(work.place / "data.npz", x=x, y=np.arange(109, dtype=np.int32) % 3)
        assert work.begun("whole", 1).wait() == 0
        shutil.rmtree(work.place / "run", ignore_errors=True)
        started = time.monotonic()
        assert work.begun("run", 3).wait() == 0
        work.whole_seconds = time.monotonic() - started
        shutil.rmtree(work.place / "run")
        return work

    def begun(self, out: str, ranks: int) -> subprocess.Popen[str]:
        """A job that trains, or goes on, in the folder ``out``."""
        resume = ["--resume"] if (self.place / out / "run.json").exists() else []
        shared = ["--ranks", str(ranks)] if ranks > 1 else []
        flags = ["--data", str(self.place / "data.npz"), "--out", str(self.place / out)]
        how = ["--batch", "24", "--epochs", str(EPOCHS), "--threads", "1", "--parts", "6"]
        file = str(self.place / "net.grad")
        command = [sys.executable, "-m", "gradc", "train", file, *flags, *how, *shared, *resume]
        out_, errors = subprocess.DEVNULL, subprocess.PIPE
        return subprocess.Popen(command, stdout=out_, stderr=errors, text=True)

    def differs(self) -> list[str]:
        """The files in which the run differs from the one that was left alone."""
        names = ("params.safetensors", "metrics.jsonl")
        sides = [[(self.place / out / n).read_bytes() for n in names] for out in ("run", "whole")]
        return [n for n, a, b in zip(names, *sides, strict=True) if a != b]


def case_of(work: Work) -> Case:
    """One kill, or a run that came to its end."""

    def case(rng: random.Random, tally: Tally) -> str:
        run = work.place / "run"
        before = checkpoint.newest_step(run) or 0
        ranks = rng.choice((2, 3))
        job = work.begun("run", ranks)
        try:
            return ended(job, rng, tally, ranks, before)
        finally:
            job.kill()

    def ended(
        job: subprocess.Popen[str], rng: random.Random, tally: Tally, ranks: int, before: int
    ) -> str:
        run = work.place / "run"
        time.sleep(rng.random() * work.whole_seconds)
        rank = rng.randrange(ranks)
        victim = rng.choice((*[f"rank {rank}"] * 6, "mpiexec", "gradc"))
        who = {"mpiexec": mpiexec_of(run), "gradc": job.pid}
        pid = who[victim] if victim in who else process_of(rank, run)
        if pid is not None and job.poll() is None:
            os.kill(pid, signal.SIGKILL)
        told = told_within(job, PATIENCE + (60 if pid is None else 0))
        if told is None:
            return f"{PATIENCE} s after {victim} was killed the job still runs"
        if job.returncode == 0:
            tally.kinds[f"completed by {ranks} ranks"] += 1
            wrong = work.differs()
            shutil.rmtree(run)
            return f"other bytes: {', '.join(wrong)}" if wrong else ""
        name = f"`{victim}` (process {pid})" if victim in who else f"{victim} (process {pid} on "
        is_named = told.count(name) == told.count("(process ") == 1
        if pid is None or not (is_named or (victim == "gradc" and job.returncode < 0)):
            return f"status {job.returncode} of {victim} (process {pid}): {told!r}"
        if not is_left_by_all(run):
            return f"{victim} was killed, and {len(processes_of(run))} processes are left"
        after = checkpoint.newest_step(run) or 0
        tally.kinds[f"{victim} of {ranks} ranks killed"] += 1
        return "" if after >= before else f"step {before} is gone, {after} is the newest"

    return case


def is_left_by_all(out: Path) -> bool:
    """Whether the processes of the job that writes to ``out`` end, within ``PATIENCE``."""
    seconds = PATIENCE
    while processes_of(out) and seconds > 0:
        seconds -= share_of(0.2)
        time.sleep(0.2)
    return seconds > 0


def told_within(job: subprocess.Popen[str], seconds: float) -> str | None:
    """What a job that ends says; None if it runs on for ``seconds``, each of which counts for the
    share of it that a process can expect to run.
    """
    while seconds > 0:
        try:
            return job.communicate(timeout=1.0)[1]
        except subprocess.TimeoutExpired:
            seconds -= share_of(1.0)
    return None


def share_of(seconds: float) -> float:
    """How much of ``seconds`` a process can expect to run."""
    running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]
    return seconds * min(1.0, (os.cpu_count() or 1) / max(1, int(running)))


def main() -> int:
    """Runs the soak."""
    options = arguments(__doc__ or "", 200)
    work = Work.made()
    try:
        given = (options.count, options.seed, options.seconds, options.state, 300.0)
        tally = soak("rank kills", case_of(work), *given)
    finally:
        shutil.rmtree(work.place, ignore_errors=True)
    return report(tally, options.json)


if __name__ == "__main__":
    sys.exit(main())
