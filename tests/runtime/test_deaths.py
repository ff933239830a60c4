"""Whatever process of a job is killed, and whenever: the job ends within seconds and says who it
was, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradc.runtime.ranks import deaths, launch

# A rank that does what it is told and then lives on.
RANK = """
import os, sys, time
from gradc.runtime.ranks import deaths

def die():
    os.kill(os.getpid(), 9)

number = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")))
{when_it_has_begun}
deaths.report()
{when_it_reports}
"""
JOIN = "from mpi4py import MPI\n"
LIVE = "time.sleep(20)\n"
# An `mpiexec` that ends other ranks and says nothing.
SILENT = """#!/bin/sh
shift; ranks=$1; shift
trap 'kill $all 2>/dev/null; exit 143' TERM
for n in $(seq 0 $((ranks - 1))); do PMI_RANK=$n "$@" & all="$all $!"; done
while :; do
    for one in $all; do
        if ! kill -0 $one 2>/dev/null; then
            wait $one; status=$?
            kill -TERM $all 2>/dev/null; sleep 0.3; kill -KILL $all 2>/dev/null
            exit $status
        fi
    done
    sleep 0.01
done
"""


def rank(begun: str = "", reports: str = LIVE) -> list[str]:
    text = RANK.format(when_it_has_begun=begun, when_it_reports=reports)
    return [sys.executable, "-c", text]


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mpiexec"
    path.write_text(SILENT)
    path.chmod(0o755)
    monkeypatch.setattr(launch, "mpi", lambda is_used: None)
    monkeypatch.setattr(launch, "mpiexec_path", lambda: str(path))


def told(ranks: int, command: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    started = time.monotonic()
    status = launch.launch(ranks, command)
    assert time.monotonic() - started < 15
    return status, capfd.readouterr().err


DIES = "number == 1 and die()\n"


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/sh", "-c", "[ $PMI_RANK = 1 ] && kill -9 $$; sleep 20"],
        rank(DIES),
        rank(reports=DIES + LIVE),
        # The others are told by SIGTERM, and write that down, or are killed.
        rank(reports=DIES + "import signal; signal.signal(15, signal.SIG_IGN)\n" + LIVE),
        # It has done its work, but has not ended.
        rank(reports="import atexit; atexit.register(die); number == 1 or time.sleep(20)\n"),
    ],
    ids=["before Python", "before it reports", "at work", "others are killed", "at its end"],
)
@pytest.mark.usefixtures("silent")
def test_a_rank_is_named_where_mpiexec_says_nothing(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = told(3, command, capfd)
    assert status == 137
    (line,) = said.splitlines()
    assert line.startswith("rank 1 (process ")
    assert line.endswith(f" on {os.uname().nodename}) was ended by SIGKILL; the job ends")


@pytest.mark.usefixtures("silent")
def test_a_rank_is_seen_to_die_between_two_looks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPICH ends the others at once."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("needs pidfd_open")
    path = tmp_path / "mpiexec"
    path.write_text(SILENT.replace("kill -TERM $all 2>/dev/null; sleep 0.3;", "sleep 0.4;"))
    monkeypatch.setattr(deaths, "POLL", 1.0)
    dies = ["/bin/sh", "-c", "[ $PMI_RANK = 1 ] && sleep 1.2 && kill -9 $$; exec sleep 20"]
    status, said = told(3, dies, capfd)
    assert status == 137 and said.startswith("rank 1 (process ") and said.count("rank") == 1, said


@pytest.mark.usefixtures("silent")
def test_a_rank_that_leaves_without_a_word_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    status, said = told(2, rank(reports="number == 1 and os._exit(7)\n" + LIVE), capfd)
    assert status == 7 and said.startswith("rank 1 (process "), said
    assert said.endswith("was ended without a word; the job ends with status 7\n")


@pytest.mark.usefixtures("silent")
def test_a_rank_that_has_said_why_it_ends_is_not_named(capfd: pytest.CaptureFixture[str]) -> None:
    fails = """
if number == 1:
    print("rank 1 failed", file=sys.stderr, flush=True)
    deaths.note_failure()
    os._exit(1)
"""
    assert told(2, rank(reports=fails + LIVE), capfd) == (1, "rank 1 failed\n")


@pytest.mark.usefixtures("silent")
def test_ranks_that_all_end_are_not_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert told(2, rank(reports="time.sleep(0.3 * number)\n"), capfd) == (0, "")


def test_a_job_that_does_not_end_without_a_rank_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `mpiexec` that has not seen that a rank has died, and heeds no SIGTERM."""
    monkeypatch.setattr(deaths, "PATIENCE", 0.2)
    (tmp_path / "rank-0").write_text(f"{os.getpid()}\ndone\n")
    with subprocess.Popen(["/bin/true"]) as rank1:
        rank1.wait()
    (tmp_path / "rank-1").write_text(f"{rank1.pid}\n")
    stuck = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    with subprocess.Popen(stuck, stderr=subprocess.PIPE) as job:
        watch = deaths.Watch(job, tmp_path, 2)
        monkeypatch.setattr(watch, "processes", {1: rank1.pid})
        monkeypatch.setattr(watch, "gone", {0: ["done"]})
        assert list(watch.lines()) == [] and job.wait(5) == -signal.SIGKILL
    assert watch.dead == (1,)


def _until(path: Path) -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError(f"{path} is not there")


LAUNCH = "import sys; from gradc.runtime.ranks.launch import launch; "


@pytest.mark.mpi
@pytest.mark.parametrize("victim", ["mpiexec", "gradc", "gradc and mpiexec"])
def test_whoever_is_killed_the_job_ends(victim: str, tmp_path: Path) -> None:
    """And no process of it is left; of all but `gradc` itself it is said."""
    here = "open(sys.argv[1] + str(number), 'w').write(str(os.getpid()))\n"
    parent = "open(sys.argv[1] + 'mpiexec', 'w').write(str(os.getppid()))\n"
    command = [*rank(reports=JOIN + parent + here + LIVE), f"{tmp_path}/"]
    start = [sys.executable, "-c", LAUNCH + f"sys.exit(launch(2, {command!r}))"]
    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True) as job:
        ranks = [_until(tmp_path / name) for name in "01"]
        mpiexec = _until(tmp_path / "mpiexec")
        if "gradc" in victim:
            job.kill()
        if "mpiexec" in victim:
            os.kill(mpiexec, signal.SIGKILL)
        said = job.communicate(timeout=20)[1]
    if "gradc" in victim:
        assert job.returncode == -signal.SIGKILL
    else:
        who = f"`mpiexec` (process {mpiexec})"
        assert (job.returncode, said) == (137, f"{who} was ended by SIGKILL; the job ends\n")
    until = time.monotonic() + 10
    while left := [pid for pid in (*ranks, mpiexec) if _runs(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
