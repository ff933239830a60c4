"""Starting ranks: ``gradc train --ranks 2`` begins itself again under ``mpiexec``, once per rank.

Under an ``mpiexec`` or ``srun`` of the user's own it takes its place in their world instead.

Non-goals: hosts, queues, networks: those are the flags of the user's own ``mpiexec``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.runtime.console import Console
from gradc.runtime.ranks import deaths
from gradc.runtime.ranks.world import MpiRanks

# Number of processes as launchers tell it: Open MPI, MPICH and its kin, Slurm.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
_LOCAL = "MPI_LOCALNRANKS"  # of these, the number on this machine
_SLURM = "SLURM_STEP_NUM_TASKS"
_AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
# The file of a job's folder in which rank 0 says which process takes signals.
_RANK0 = "rank0"
_INSTALL = "install both with `{python} -m pip install 'gradc[mpi]'`"


def started_with() -> int:
    """How many processes a launcher started this one among; 0 if none did. One task of Slurm is
    as good as none: a shell that `srun` has started is one.
    """
    name, count = _told()
    return 0 if name == _SLURM and count == 1 else count


def _told() -> tuple[str, int]:
    """Which launcher says how many processes there are."""
    for name in _SIZES:
        text = os.environ.get(name, "")
        if text.isdecimal():
            return name, int(text)
    return "", 0


def check_all_joined(world: MpiRanks) -> None:
    """Raises DiagnosticError GC0823 unless MPI has joined all processes that were started: else
    each would train alone.
    """
    name, count = _told()
    if name in ("", _LOCAL) or count == world.size:
        return
    world.is_shared_failure = True
    message = f"{count} processes were started, and MPI has joined {world.size} of them"
    help = "start them with the `mpiexec` of the MPI that mpi4py finds"
    if name == _SLURM:
        help = "name what your MPI was built for, such as `srun --mpi=pmix`; or use its `mpiexec`"
    raise DiagnosticError([error("GC0823", message, None, help=help)])


def relaunch(ranks: int, arguments: Sequence[str]) -> int:
    """Runs this command as ``ranks`` ranks and returns the exit status of the job.

    Raises:
        DiagnosticError: GC0822 if mpi4py or mpiexec is missing.
    """
    return launch(ranks, [sys.executable, "-m", "gradc", *arguments])


def launch(ranks: int, rank: Sequence[str]) -> int:
    """Runs the command ``rank`` as ``ranks`` ranks and returns the exit status of the job. Who of
    it dies is told.

    Raises:
        DiagnosticError: GC0822 if mpi4py or mpiexec is missing.
    """
    mpi(is_used=False)
    mpiexec = mpiexec_path()
    environment = dict(os.environ)
    if "Open MPI" in _version(mpiexec):
        more = ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:  # it refuses root unless told so, which whoever is root has decided
            environment.update(dict.fromkeys(_AS_ROOT, "1"))
    else:
        more = []
    with tempfile.TemporaryDirectory(prefix="gradc-ranks-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment[deaths.FOLDER] = name
        one = deaths.command_of(folder, rank)
        with (
            deaths.held(folder),
            subprocess.Popen(
                [mpiexec, *more, "-n", str(ranks), *one],
                env=environment,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C at the terminal goes through us
            ) as job,
            _handing_on(job, folder / _RANK0) as signals,
        ):
            return _followed(deaths.Watch(job, folder, ranks), signals)


def _followed(watch: deaths.Watch, signals: Sequence[int]) -> int:
    """Hands on what a job says, says who has died if nobody did, and returns its status."""
    is_said = False
    for line in in_our_words(watch.lines()):
        is_said |= _DEATH.match(line) is not None
        print(line, file=sys.stderr, end="", flush=True)
    status: int = watch.job.wait()
    verdict = "" if is_said else watch.verdict(status)
    if verdict and signals:
        verdict = f"the job was ended by {signal.Signals(signals[-1]).name}"
    if verdict:
        print(verdict, file=sys.stderr, flush=True)
    return status if status >= 0 else 128 - status


@contextmanager
def _handing_on(job: subprocess.Popen[bytes], told: Path) -> Iterator[list[int]]:
    """Inside, the first SIGINT or SIGTERM goes to rank 0, which stops all ranks after the same
    step; another, or one before the ranks are there, ends the job.
    """
    seen: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        try:
            rank0 = int(told.read_text())
            if number in seen:
                raise ProcessLookupError
            os.kill(rank0, number)
        except (OSError, ValueError):
            job.terminate()
        seen.append(number)

    caught = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, hand_on) for number in caught]
    try:
        yield seen
    finally:
        for number, handler in zip(caught, previous, strict=True):
            signal.signal(number, handler)


_RULE = "-" * 70
_ABORTS = ("MPI_ABORT was invoked", "has exited due to process", "non-zero status", "exited with")
_NOISE = re.compile(r"\[\S+:\d+\] PMIX ERROR")
_KILLED = re.compile(r"process rank (\d+) with PID (\d+) on node (\S+) exited on\s+signal (\d+)")
_DEATH = re.compile(r"rank \d+ \(process \d+ on \S+\) was ended by ")


def in_our_words(lines: Iterable[str]) -> Iterator[str]:
    """What a job says, without what Open MPI adds, between rules, to a rank that has said why it
    ends; of a rank that was killed, who and where.
    """
    block: list[str] | None = None
    for line in lines:
        is_rule = line.startswith(_RULE)
        if block is None and not is_rule:
            if not _NOISE.match(line):
                yield line
        elif block is None:
            block = []
        elif not is_rule:
            block.append(line)
        else:
            yield from _block(block)
            block = None
    yield from block or ()


def _block(block: Sequence[str]) -> Iterator[str]:
    text = " ".join(" ".join(block).split())
    killed = _KILLED.search(text)
    if killed is not None:
        rank, pid, node, number = killed.groups()
        name = signal.Signals(int(number)).name
        yield f"rank {rank} (process {pid} on {node}) was ended by {name}; the job ends\n"
    elif not any(words in text for words in _ABORTS):
        yield from block


def mpi(is_used: bool = True) -> Any:
    """mpi4py's module ``MPI``; unless ``is_used`` it is loaded without joining a world.

    Raises:
        DiagnosticError: GC0822 if there is none, or no library behind it.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = is_used
        from mpi4py import MPI
    except (ImportError, RuntimeError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise _missing(f"ranks need mpi4py and an MPI library: {reason}") from None
    return MPI


def join() -> MpiRanks:
    """The world of all processes of this job."""
    deaths.report()
    world = MpiRanks(mpi().COMM_WORLD)
    if world.rank == 0 and deaths.FOLDER in os.environ:
        told = Path(os.environ[deaths.FOLDER]) / _RANK0
        told.write_text(str(os.getpid()), encoding="ascii")
    return world


def mpiexec_path() -> str:
    """The ``mpiexec`` that belongs to this Python, or else the one on the path.

    Raises:
        DiagnosticError: GC0822 if there is none.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise _missing("ranks are started by `mpiexec`, which is not on the path")
    return found


def _version(mpiexec: str) -> str:
    done = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _missing(message: str) -> DiagnosticError:
    help = _INSTALL.format(python=sys.executable or "python")
    return DiagnosticError([error("GC0822", message, None, help=help)])


def guarded(world: MpiRanks, console: Console, work: Callable[[], int]) -> int:
    """Runs ``work`` on this rank. What fails here ends the job, told once with the rank's number.

    Where every rank fails in the same way rank 0 tells it, and all end by themselves.
    """
    try:
        status = work()
        if status:  # told
            deaths.note_failure()
        return status
    except DiagnosticError as found:
        if world.have_all_failed():
            if world.rank == 0:
                console.diagnostics(found)
            deaths.note_failure()
            return 1
        _end(world, console, partial(console.diagnostics, found), 1)
    except Exception as problem:  # noqa: BLE001  (the others would wait for this rank for ever)
        _end(world, console, partial(console.internal_error, problem), 4)


def _end(world: MpiRanks, console: Console, tell: Callable[[], None], status: int) -> NoReturn:
    console.message(f"rank {world.rank} of {world.size} failed; the job ends:")
    tell()
    sys.stdout.flush()
    sys.stderr.flush()
    deaths.note_failure()
    # Our own mpiexec ends the job when a rank is gone, and says less.
    if deaths.FOLDER not in os.environ:
        world.abort(status)
    os._exit(status)
