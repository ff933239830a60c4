"""Training by several ranks: the bytes of one, whatever their number; faults are told and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import gradc
from benchmarks.soak_rank_kills import process_of
from gradc.codegen import exchange
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.passes.training.ranks import Deal
from gradc.runtime.files.data import load_npz, save_npz
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from gradc.runtime.ranks.launch import in_our_words, mpi, mpiexec_path, started_with
from gradc.runtime.ranks.world import MpiRanks
from gradc.runtime.training.pace import Pace
from tests.support.rank_threads import ThreadRanks, in_ranks

TEXT = """
dim B, D = 6, H = 40
model m(x: float[B, D], y: int[B], w: float[B]) -> float {
    use one = dense(D, H)
    use two = dense(H, 3)
    losses = cross_entropy(two(dropout(gelu(one(x)), 0.2)), y)
    return sum(losses * w) / sum(w)
}
"""
WIDE = TEXT.replace("H = 40", "H = 700")


def data(samples: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "x": rng.standard_normal((samples, 6)).astype(np.float32),
        "y": rng.integers(0, 3, samples),
        "w": rng.integers(0, 2, samples).astype(np.float32) + np.float32(0.5),
    }


# --- one process


def trained(net: gradc.Model, parts: int, ranks: int, **how: Any) -> list[dict[str, Any]]:
    """The state after three steps on each rank."""
    whole = data(2 * parts)
    recipe = Recipe("adamw(lr=1e-2)", clip_norm=1.0, accumulate=parts)

    def train(world: ThreadRanks) -> dict[str, Any]:
        step = TrainStep(net, recipe, compile_options(threads=1, **how), world)
        own = {name: step.rows_of(rows) for name, rows in whole.items()}
        state = step.init(net.init(1))
        losses = [step(state, **own)[0] for _ in range(3)]
        assert world.sent == 3 * step.plan({"B": 2 * parts}).sent_bytes
        assert world.agreed == ["what they exchange in a step"]
        return {**state.arrays, "losses": np.array(losses)}

    return in_ranks(ranks, train)


@pytest.mark.parametrize(
    "precision, parts, ranks, how",
    [
        ("f32", 5, 2, {"budget": "200KiB"}),
        ("bf16", 4, 3, {}),
        ("bf16", 3, 2, {"target": "reference"}),
    ],
)
def test_compiled_steps_have_the_bits_of_one_rank(
    precision: str, parts: int, ranks: int, how: dict[str, Any]
) -> None:
    net = gradc.loads(TEXT if "target" in how else WIDE, precision=precision)
    (one,) = trained(net, parts, 1, **how)
    for state in trained(net, parts, ranks, **how):
        for name, array in one.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_bytes_sent_are_planned() -> None:
    net = gradc.loads(WIDE)
    sizes = [a.nbytes for a in net.init(0).values()]
    for ranks in (2, 3, 4):
        step = net.train_step("sgd(lr=0.1)", ranks=ranks)
        sent = step.plan({"B": 2 * ranks}).sent_bytes
        # Every gradient once as slices, once as sums; the small ones and two sums whole.
        assert sent >= sum((ranks - 1) * 2 * (size // ranks) for size in sizes if size > 4096)
        assert sent < sum((ranks - 1) * max(2 * size // ranks, 4096) for size in sizes) + 2000


def test_a_planned_step_cannot_run() -> None:
    net = gradc.loads(TEXT)
    step = net.train_step("sgd(lr=0.1)", ranks=2)
    state = step.init(net.init(0))
    with pytest.raises(DiagnosticError) as caught:
        step(state, **data(4))
    assert caught.value.diagnostics[0].code == "GC0820"
    exchange.join(None)


def test_what_is_no_world_is_refused() -> None:
    for ranks in ("2", 0, 2.0, object()):
        with pytest.raises(DiagnosticError) as caught:
            gradc.loads(TEXT).train_step("sgd(lr=0.1)", ranks=ranks)
        assert caught.value.diagnostics[0].code == "GC0801"


def test_a_program_for_other_ranks_says_so() -> None:
    exchange.join(None)
    exchange.run("deal", np.zeros((2, 4), np.uint8))
    exchange.run("deal", np.zeros((3, 4), np.uint8))
    with pytest.raises(exchange.NoRanksError, match="for 2 ranks was called in a world of 1"):
        exchange.check()
    exchange.check()


@pytest.mark.parametrize("parts, ranks", [(1, 1), (4, 2), (5, 2), (7, 3), (2, 4), (1, 3)])
def test_every_row_is_dealt_once(parts: int, ranks: int) -> None:
    net = gradc.loads(TEXT)
    rows = np.arange(3 * parts)
    found: list[int] = []
    deal = Deal(parts, ranks)
    for rank in range(ranks):
        world = ThreadRanks(rank, ranks, [], threading.Barrier(1))
        recipe = Recipe("sgd(lr=0.1)", accumulate=parts)
        step = TrainStep(net, recipe, compile_options(), world)
        own = step.rows_of(rows)
        if deal.is_alone:
            assert list(own) == list(rows)
            return
        assert len(own) == 3 * deal.turns
        has = deal.full + (rank < deal.late)
        found += own[: 3 * has].tolist()
    assert sorted(found) == rows.tolist()


def test_arrays_are_read_where_they_lie(tmp_path: Path) -> None:
    arrays = {"a": np.arange(12.0).reshape(3, 4), "f": np.asfortranarray(np.ones((5, 2)))}
    arrays["none"] = np.zeros((0, 3))
    save_npz(tmp_path / "stored.npz", arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)  # type: ignore[arg-type]
    for file in ("stored.npz", "packed.npz"):
        found = load_npz(tmp_path / file, in_place=True)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    a = load_npz(tmp_path / "stored.npz", in_place=True)["a"]
    assert not a.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        a[0, 0] = 1.0


def test_what_mpiexec_adds_is_left_out() -> None:
    rule = "-" * 74 + "\n"
    aborted = ["MPI_ABORT was invoked on rank 0 in communicator\n", "  Errorcode: 1\n"]
    killed = [
        "prterun noticed that process rank 1 with PID 42 on node n7 exited on\n",
        "signal 9 (Killed).\n",
    ]
    other = ["There are not enough slots available\n"]
    noise = "[vm:7] PMIX ERROR: PMIX_ERR_UNREACH in file pmix_server.c\n"
    lines = [
        "epoch 1\n",
        noise,
        rule,
        *aborted,
        rule,
        rule,
        *killed,
        rule,
        rule,
        *other,
        rule,
        "end\n",
    ]
    assert list(in_our_words(lines)) == [
        "epoch 1\n",
        "rank 1 (process 42 on n7) was ended by SIGKILL; the job ends\n",
        *other,
        "end\n",
    ]


def test_without_mpi_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(DiagnosticError) as caught:
        mpi()
    (found,) = caught.value.diagnostics
    assert found.code == "GC0822" and "pip install" in (found.help or "")


# --- many processes


def command(file: Path, folder: Path, out: str, *flags: str) -> list[str]:
    given = ["--data", str(folder / "train.npz"), "--batch", "12", "--out", str(folder / out)]
    train = [sys.executable, "-m", "gradc", "train", str(file), *given]
    return [*train, "--optimizer", "adamw(lr=1e-2)", *flags]


def finished(arguments: list[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("ranks")
    (found / "m.grad").write_text(WIDE)
    save_npz(found / "train.npz", data(43))  # the last batch has 7: no multiple of any parts
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """The weights of one rank after three epochs in six parts."""
    finished(command(folder / "m.grad", folder, "one", "--parts", "6", "--epochs", "3"))
    return (folder / "one" / "params.safetensors").read_bytes()


@pytest.mark.mpi
def test_any_number_of_ranks_trains_to_the_same_bytes(folder: Path, whole: bytes) -> None:
    """Three ranks go on where two stopped; what is written is what one rank writes."""
    file = folder / "m.grad"
    finished(command(file, folder, "few", "--ranks", "2", "--accumulate", "3", "--epochs", "1"))
    resumed = ("--resume", "--ranks", "3", "--parts", "6", "--epochs", "3", "--json")
    done = finished(command(file, folder, "few", *resumed))
    assert json.loads(done.stdout)["steps"] == 12
    assert (folder / "few" / "params.safetensors").read_bytes() == whole
    names = ("metrics.jsonl", "step-000000000012.safetensors")
    for name in names:
        assert (folder / "few" / name).read_bytes() == (folder / "one" / name).read_bytes()


def _wait(test: Iterator[bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not next(test):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.mpi
def test_a_rank_that_dies_ends_the_job_and_loses_nothing(folder: Path, whole: bytes) -> None:
    file, out = folder / "m.grad", folder / "killed"
    start = command(file, folder, "killed", "--ranks", "2", "--accumulate", "3")
    job = subprocess.Popen(
        [*start, "--epochs", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.jsonl"
    _wait(iter(lambda: metrics.exists() and metrics.stat().st_size > 0, None), 60)
    pid = process_of(1, out)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _, told = job.communicate(timeout=20)
    assert job.returncode and f"rank 1 (process {pid} on " in told and "SIGKILL" in told, told
    saved = sorted(out.glob("step-*.safetensors"))
    assert saved and int(saved[-1].stem.partition("-")[2]) % 4 == 0  # at the end of an epoch
    if int(saved[-1].stem.partition("-")[2]) <= 12:
        finished(command(file, folder, "killed", "--resume", "--parts", "6", "--epochs", "3"))
        assert (out / "params.safetensors").read_bytes() == whole


@pytest.mark.mpi
def test_a_signal_stops_all_ranks_after_the_same_step(folder: Path) -> None:
    file, out = folder / "m.grad", folder / "stopped"
    start = command(file, folder, "stopped", "--ranks", "2", "--epochs", "100000")
    job = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    _wait(iter(lambda: metrics.exists() and metrics.stat().st_size > 0, None), 60)
    job.send_signal(signal.SIGTERM)
    _, told = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in told, told
    (*_, saved) = sorted(out.glob("step-*.safetensors"))
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert int(saved.stem.partition("-")[2]) == last["step"]


@pytest.mark.mpi
def test_ranks_with_different_programs_are_told(folder: Path) -> None:
    (folder / "other.grad").write_text(WIDE.replace("700", "600"))
    pair = [command(folder / name, folder, "odd") for name in ("m.grad", "other.grad")]
    environment = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    mpiexec = [mpiexec_path(), "--oversubscribe", "-n", "1", *pair[0], ":", "-n", "1", *pair[1]]
    done = subprocess.run(
        mpiexec,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "error[GC0821]: rank 1 and rank 0 disagree" in done.stderr, done.stderr
    assert done.stderr.count("GC0821") == 1


@pytest.mark.mpi
def test_what_one_rank_finds_ends_all(folder: Path) -> None:
    """Weights that an update breaks are seen by the rank that saves, which tells the others."""
    save_npz(folder / "few.npz", data(12))
    start = command(folder / "m.grad", folder, "broken", "--ranks", "2", "--epochs", "2")
    start[start.index(str(folder / "train.npz"))] = str(folder / "few.npz")
    start[start.index("adamw(lr=1e-2)")] = "sgd(lr=1e45)"
    done = finished(start, 1)
    assert done.stderr.count("error[GC0806]") == 1 and "failed" not in done.stderr, done.stderr
    assert "is not finite any more" in done.stderr


@pytest.mark.mpi
def test_what_all_ranks_refuse_is_told_once(folder: Path) -> None:
    done = finished(command(folder / "m.grad", folder, "no", "--ranks", "2", "--parts", "5"), 1)
    assert done.stderr.count("error[GC0808]") == 1 and "failed" not in done.stderr, done.stderr


@pytest.mark.mpi
def test_processes_that_mpi_does_not_join_do_not_train_alone(folder: Path) -> None:
    """As under `srun` with a plugin that MPI does not know."""
    start = command(folder / "m.grad", folder, "apart")
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    done = subprocess.run(
        start, env={**os.environ, **told}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "error[GC0823]: 2 processes were started" in done.stderr
    assert "srun --mpi=pmix" in done.stderr and not (folder / "apart").exists()


def test_a_shell_that_slurm_has_started_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    for tasks, count in (("1", 0), ("4", 4), ("", 0)):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
        assert started_with() == count
    monkeypatch.setenv("PMI_SIZE", "1")
    assert started_with() == 1


class Paced:
    """The world of a pace: what all ranks took, by what this one waited."""

    size = 3

    def __init__(self, took: list[float]) -> None:
        self.waited, self._took = 0.0, took
        self.asked: list[float] = []

    def everyone(self, number: float) -> list[float]:
        self.asked.append(number)
        return self._took

    def machine_of(self, rank: int) -> str:
        return f"n{rank}"


@pytest.mark.parametrize(
    "took, slow",
    [([5.0, 5.2, 9.1], 2), ([9.1, 5.0, 5.2], 0), ([5.0, 5.2, 7.0], None), ([0.1, 0.1, 1.9], None)],
)
def test_a_slow_rank_is_named_once(took: list[float], slow: int | None) -> None:
    pace = Pace(cast(MpiRanks, Paced(took)))
    assert pace.slow() is None  # nobody has taken a step
    for _ in range(2):
        with pace.step():
            pass
    found = pace.slow()
    if slow is None:
        assert found is None
    else:
        assert found is not None and found.code == "GC0825"
        told = f"rank {slow} on n{slow} is slow: it works 4550 ms on a step, others 2550 ms"
        assert found.message == told
    assert pace.slow() is None


def test_what_a_rank_waits_for_others_is_not_its_own_work() -> None:
    world = Paced([0.0] * 3)
    pace = Pace(cast(MpiRanks, world))
    start = time.monotonic()
    with pace.step():
        time.sleep(0.02)
        world.waited += 0.015
    took = time.monotonic() - start
    pace.slow()
    assert 0.005 <= world.asked[0] <= took - 0.015
