"""Who of a job has died, seen by the process that started it.

Open MPI says nothing of a rank that is killed while it joins, and its ``mpiexec`` can be killed
itself. So each rank begins as a line of `sh` that writes down its process and becomes the rank;
this module looks at those processes until the job has ended.

A rank that ends because another has died is told so by SIGTERM, which it writes down, or is killed
afterwards: half a second later by Open MPI, at once by MPICH, so that ends are seen when they
happen, where the system has `pidfd_open`. Whoever is gone first without a word is the one who died.
A rank whose `gradc` is gone ends itself.

Non-goals: starting a job and what it prints (``launch``).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import math
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

# Set where gradc has started the job: the folder in which ranks say how they are.
FOLDER = "GRADC_JOB"
_NUMBERS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
# SIGTERM means nothing to a rank before Python can write it down.
_BEGIN = 'trap "" TERM; echo $$ > "$0/rank-${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}"; exec "$@"'
POLL = 0.05  # seconds between two looks, below the time in which mpiexec ends other ranks
PATIENCE = 5.0  # seconds that mpiexec has to end a job of which a rank has died
_ENDED_BY = "ended by "
_DONE, _FAILED = "done", "failed"


def command_of(folder: Path, rank: Sequence[str]) -> list[str]:
    """The command of a rank that writes down its process in ``folder``."""
    return ["/bin/sh", "-c", _BEGIN, str(folder), *rank]


# --- on a rank


def report() -> None:
    """On a rank that gradc has started: from now on it says how it ends, and ends when the `gradc`
    that started it is gone.
    """
    if FOLDER not in os.environ:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended_by)
    atexit.register(note, _DONE)  # before MPI's, so that it comes after it
    threading.Thread(target=_end_when_alone, daemon=True).start()


def note(word: str) -> None:
    """Appends a word to what this rank has said of itself, for the process that started it."""
    folder, number = os.environ.get(FOLDER), _number()
    if folder is None or number is None:
        return
    with contextlib.suppress(OSError), open(_of(Path(folder), number), "a") as stream:
        stream.write(word + "\n")


def note_failure() -> None:
    """Notes that the job fails, and that this rank or another has said why."""
    note(_FAILED)


def _ended_by(number: int, _frame: FrameType | None) -> None:
    """Python calls it between two steps of its own: a rank that waits in MPI is killed first."""
    note(_ENDED_BY + signal.Signals(number).name)
    os._exit(128 + number)


def _end_when_alone() -> None:
    """The launcher holds a lock for as long as it lives."""
    folder = Path(os.environ[FOLDER])
    with contextlib.suppress(OSError), open(folder / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    shutil.rmtree(folder, ignore_errors=True)  # which it can do no more
    os._exit(1)


def _number() -> int | None:
    found = [os.environ[name] for name in _NUMBERS if os.environ.get(name, "").isdecimal()]
    return int(found[0]) if found else None


def _of(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}"


# --- where the job was started


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, ranks see that whoever started them lives."""
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass
class Watch:
    """A job of ``ranks`` ranks that say in ``folder`` how they are."""

    job: subprocess.Popen[bytes]
    folder: Path
    ranks: int
    processes: dict[int, int] = field(default_factory=dict)  # by rank
    gone: dict[int, list[str]] = field(default_factory=dict)  # ranks, and what each has said
    dead: tuple[int, ...] = ()  # ranks that were the first to go without a word
    _ends: dict[int, int] = field(default_factory=dict)  # what tells of a rank's end, where it can
    _ends_since: float | None = None  # when a rank was seen to have died or failed

    def lines(self) -> Iterator[str]:
        """What the job says, line by line, until it has ended; ranks are looked at meanwhile."""
        assert self.job.stderr is not None
        stream = self.job.stderr.fileno()
        rest = b""
        until = math.inf
        while time.monotonic() < until:
            ready, _, _ = select.select([stream, *self._living()], [], [], POLL)
            if not self._runs():  # somebody may hold its stream
                until = min(until, time.monotonic() + 1.0)
            data = os.read(stream, 1 << 16) if stream in ready else None
            if data == b"":
                break
            *whole, rest = (rest + (data or b"")).split(b"\n")
            yield from (line.decode(errors="replace") + "\n" for line in whole)
        if rest:
            yield rest.decode(errors="replace") + "\n"
        while self._runs():
            time.sleep(POLL)
        for end in self._ends.values():
            os.close(end)
        self._ends.clear()

    def _living(self) -> list[int]:
        """What tells at once that a rank ends: an MPI may end the others within a millisecond."""
        return [end for rank, end in self._ends.items() if rank not in self.gone]

    def _runs(self) -> bool:
        """Whether the job does. Notes who is gone, ends a job that goes on without a rank, and
        ranks that are left of a job that has ended.
        """
        has_ended = self.job.poll() is not None
        self._look()
        if has_ended:
            for pid in (pid for rank, pid in self.processes.items() if rank not in self.gone):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        elif self._ends_since is not None:
            late = time.monotonic() - self._ends_since - PATIENCE
            if late > 0:
                self.job.send_signal(signal.SIGTERM if late < PATIENCE else signal.SIGKILL)
        return not has_ended

    def _look(self) -> None:
        newly = [rank for rank in range(self.ranks) if self._is_newly_gone(rank)]
        said = {rank: self._words(rank)[1:] for rank in newly}
        self.gone |= said
        if self._ends_since is not None:
            return
        silent = tuple(rank for rank, words in said.items() if not words)
        told = tuple(r for r, words in said.items() if words and words[-1].startswith(_ENDED_BY))
        has_failed = any(_FAILED in words for words in said.values())
        if has_failed or silent or told:
            self._ends_since = time.monotonic()
            self.dead = () if has_failed else silent or told

    def _is_newly_gone(self, rank: int) -> bool:
        if rank in self.gone:
            return False
        pid = self.processes.get(rank)
        if pid is None:
            words = self._words(rank)
            if not words or not words[0].isdecimal():
                return False
            pid = self.processes[rank] = int(words[0])
            with contextlib.suppress(AttributeError, OSError):  # other systems, older kernels
                self._ends[rank] = os.pidfd_open(pid)
        if rank in self._ends:
            return bool(select.select([self._ends[rank]], [], [], 0)[0])
        try:
            os.kill(pid, 0)
        except OSError:
            return True
        return False

    def _words(self, rank: int) -> list[str]:
        try:
            return _of(self.folder, rank).read_text(errors="replace").splitlines()
        except OSError:
            return []

    def verdict(self, status: int) -> str:
        """Of a job that ended with ``status`` and did not say who died: who it was; "" if nobody
        did.
        """
        node = os.uname().nodename
        if status < 0:
            name = signal.Signals(-status).name
            return f"`mpiexec` (process {self.job.pid}) was ended by {name}; the job ends"
        if not status:
            return ""
        if self.dead:
            who = " and ".join(
                f"rank {rank} (process {self.processes[rank]} on {node})" for rank in self.dead
            )
            return f"{who} {'was' if len(self.dead) == 1 else 'were'} {self._how(status)}"
        missing = [rank for rank in range(self.ranks) if rank not in self.gone]
        if missing:
            ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            return f"{ranks} did not begin; the job ends with status {status}"
        return ""

    def _how(self, status: int) -> str:
        said = self.gone[self.dead[0]]
        if said:
            return f"{said[-1]}; the job ends"
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(status - 128).name}; the job ends"
        return f"ended without a word; the job ends with status {status}"
