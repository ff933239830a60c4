"""`gradc train`: the numbers of a run, and that nothing that happens to it changes them.

A run is stopped by signals, killed at random moments, robbed of its newest checkpoint, resumed: in
the end the weights and the metrics are those of a run that was left alone, bit for bit.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc as gradc_api
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.files.data import load_safetensors
from gradc.runtime.training import checkpoint
from tests.support.api_models import MLP, batch, forward, gradients
from tests.support.command_line import Done, gradc

# Everything that a resumed run must get right: batch statistics, random draws, optimiser state.
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
# Descends only with small steps.
LINE = """
dim B, D = 6

model line(x: float[B, D], y: int[B]) -> float {
    param w: float[D] ~ normal(1.0)
    return mean((x @ w - cast(y, float))^2)
}
"""
SAMPLES = 50


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "net.grad").write_text(PROGRAM)
    (folder / "mlp.grad").write_text(MLP)
    for name, seed, size in (("train", 0, SAMPLES), ("valid", 1, 21)):
        data = batch(seed, size)
        data["y"] = (data["x"][:, 0] + data["x"][:, 1] > 0).astype(np.int32)
        np.savez(folder / f"{name}.npz", x=data["x"].astype(np.float32), y=data["y"])
    return folder


def flags(work: Path, out: Path, program: str = "net", **more: Any) -> list[str]:
    chosen = {
        "--data": work / "train.npz", "--batch": 16, "--epochs": 3,
        "--optimizer": "adamw(lr=1e-2)", "--out": out,
    }  # fmt: skip
    chosen |= {f"--{name.replace('_', '-')}": value for name, value in more.items()}
    pairs = [str(part) for pair in chosen.items() for part in pair]
    return ["train", str(work / f"{program}.grad"), *pairs]


def train(work: Path, out: Path, *extra: str, program: str = "net", **more: Any) -> Done:
    done = gradc(*flags(work, out, program, **more), *extra)
    assert done.status == 0, done.err
    return done


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Any]:
    return load_safetensors(folder / "params.safetensors")[0]


def same_run(one: Path, two: Path) -> None:
    """Weights and metrics, bit for bit."""
    assert (one / "metrics.jsonl").read_text() == (two / "metrics.jsonl").read_text()
    first, second = weights(one), weights(two)
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)


# ---- the numbers of a run


def test_a_run_is_gradient_descent_over_shuffled_batches(work: Path, tmp_path: Path) -> None:
    """Every loss and the last weights, against the same run in NumPy; the last batch of an epoch is
    short.
    """
    out = tmp_path / "run"
    done = train(
        work, out, "--json", program="mlp", optimizer="sgd(lr=0.3)", precision="f64", seed=4,
        valid=work / "valid.npz",
    )  # fmt: skip
    params = gradc_api.loads(MLP, precision="f64").init(4)
    data, held = (dict(np.load(work / f"{name}.npz")) for name in ("train", "valid"))
    expected: list[dict[str, Any]] = []
    for epoch in range(3):
        order = permutation(4, epoch, SAMPLES)
        assert sorted(order) == list(range(SAMPLES))
        for start in range(0, SAMPLES, 16):
            rows = order[start : start + 16]
            x, y = data["x"][rows].astype(float), data["y"][rows]
            step = len([r for r in expected if "loss" in r]) + 1
            expected.append({"step": step, "epoch": epoch, "loss": forward(params, x, y)[0]})
            found = gradients(params, x, y)
            if step == 1:
                first = {
                    n: 0.3 * np.linalg.norm(found[n]) / np.linalg.norm(params[n])
                    for n in params
                    if params[n].any()
                }
            params = {name: params[name] - 0.3 * found[name] for name in params}
        loss, logits = forward(params, held["x"].astype(float), held["y"])
        right = float((logits.argmax(1) == held["y"]).mean())
        done_at = {"step": step, "epoch_done": epoch}
        expected.append({**done_at, "valid_loss": loss, "valid_accuracy": right})
    seen = records(out)
    # How far the first update moved each parameter; null for those that started at zero.
    updates = seen[0].pop("updates")
    assert list(updates) == list(params) and min(first.values()) < seen[0].pop("update") < 1
    told = {name: share for name, share in updates.items() if share is not None}
    assert told == pytest.approx(first, rel=1e-10)
    assert [list(r) for r in seen] == [list(r) for r in expected]
    for record, wanted in zip(seen, expected, strict=True):
        assert record == pytest.approx(wanted, rel=1e-10)
    for name, array in weights(out).items():
        np.testing.assert_allclose(array, params[name], rtol=1e-9, atol=1e-12)
    summary = json.loads(done.out)
    assert summary["steps"] == 12
    assert summary["valid_accuracy"] == pytest.approx(expected[-1]["valid_accuracy"])
    assert summary["params"] == str(out / "params.safetensors")


def test_epochs_differ_in_their_order_and_seeds_in_everything(work: Path, tmp_path: Path) -> None:
    assert not np.array_equal(permutation(0, 0, 50), permutation(0, 1, 50))
    assert not np.array_equal(permutation(0, 0, 50), permutation(1, 0, 50))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(work, tmp_path / name, seed=seed)
    same_run(tmp_path / "a", tmp_path / "b")
    assert records(tmp_path / "a") != records(tmp_path / "c")


@pytest.mark.parametrize("more", [{"threads": 2}, {"budget": "1GiB"}])
def test_threads_and_budgets_do_not_change_a_bit(
    work: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    train(work, tmp_path / "one", threads=1)
    train(work, tmp_path / "two", **more)
    same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_accumulation_equals_the_whole_batch(work: Path, tmp_path: Path, accumulate: int) -> None:
    """Also for the last batch of two samples, which cannot be cut as the others are."""
    given: dict[str, Any] = {"program": "mlp", "precision": "f64", "optimizer": "sgd(lr=0.3)"}
    train(work, tmp_path / "whole", **given)
    train(work, tmp_path / "parts", **given, accumulate=accumulate)
    for one, two in zip(records(tmp_path / "whole"), records(tmp_path / "parts"), strict=True):
        moved = one.pop("updates", {}), two.pop("updates", {})
        first, second = ({n: v or 0.0 for n, v in found.items()} for found in moved)
        assert first == pytest.approx(second, rel=1e-9)
        assert one == pytest.approx(two, rel=1e-9)


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_half_precision_learns_and_its_accuracy_is_true(
    work: Path, tmp_path: Path, precision: str
) -> None:
    """The accuracy reported is that of the weights written, computed here in float64."""
    out = tmp_path / "run"
    done = train(
        work, out, "--json", program="mlp", precision=precision, epochs=30,
        optimizer="adamw(lr=3e-2)", loss_scale="dynamic", valid=work / "valid.npz",
    )  # fmt: skip
    summary = json.loads(done.out)
    held = dict(np.load(work / "valid.npz"))
    params = {name: a.astype(float) for name, a in weights(out).items()}
    _, logits = forward(params, held["x"].astype(float), held["y"])
    right = float((logits.argmax(1) == held["y"]).mean())
    assert right > 0.8
    assert summary["valid_accuracy"] == pytest.approx(right, abs=1.01 / len(held["y"]))


def test_clipping_is_reported_and_holds(work: Path, tmp_path: Path) -> None:
    train(work, tmp_path / "run", program="mlp", clip_norm=0.1, optimizer="sgd(lr=1.0)", epochs=1)
    norms = [r["grad_norm"] for r in records(tmp_path / "run") if "loss" in r]
    assert len(norms) == 4
    assert max(norms) > 0.1
    start = gradc_api.loads(MLP).init(0)
    moved = sum(float(((a - start[n]) ** 2).sum()) for n, a in weights(tmp_path / "run").items())
    assert moved**0.5 <= 4 * 0.1 * 1.001


def test_zero_epochs_write_the_initial_weights(work: Path, tmp_path: Path) -> None:
    done = train(work, tmp_path / "run", "--json", program="mlp", epochs=0)
    summary = json.loads(done.out)
    assert (summary["steps"], summary["loss"]) == (0, None)
    start = gradc_api.loads(MLP).init(0)
    assert all(np.array_equal(a, start[n]) for n, a in weights(tmp_path / "run").items())


# ---- one folder, one run


def test_a_run_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    train(work, tmp_path / "run", epochs=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    done = gradc(*flags(work, tmp_path / "run", epochs=2))
    assert done.status == 1
    assert "GC0804" in done.err
    assert "--resume" in done.err
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_other_data_of_the_same_shape_is_another_run(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(work, out, epochs=1, valid=work / "valid.npz")
    with np.load(work / "train.npz") as kept:
        x, y = kept["x"].copy(), kept["y"]
    x[7, 3] = np.nextafter(x[7, 3], np.float32(9))
    np.savez(tmp_path / "near.npz", x=x, y=y)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"data": tmp_path / "near.npz"}, "the data hold other numbers"),
        ({"valid": tmp_path / "near.npz"}, "the validation data hold other numbers"),
    )
    for change, says in changes:
        more = {"valid": work / "valid.npz", **change}
        done = gradc(*flags(work, out, epochs=2, **more), "--resume")
        assert (done.status, "GC0805" in done.err) == (1, True), done.err
        assert says in done.err
    done = gradc(*flags(work, out, epochs=2), "--resume")
    assert "the validation data were part of it" in done.err
    # The same numbers in another order of axes in memory are the same data.
    with np.load(work / "train.npz") as kept:
        np.savez(tmp_path / "same.npz", x=np.asfortranarray(kept["x"]), y=y)
    train(work, out, "--resume", epochs=2, data=tmp_path / "same.npz", valid=work / "valid.npz")


def test_the_digest_sees_every_number_name_and_shape() -> None:
    def digest(**arrays: Any) -> str:
        return Samples({n: np.asarray(a) for n, a in arrays.items()}, {}, 1).digest()

    x = np.random.default_rng(3).normal(size=(300, 5, 70))
    assert digest(x=x) == digest(x=np.asfortranarray(x)) == digest(x=x[::-1][::-1])
    changed = x.copy()
    changed[299, 4, 69] += 1e-9
    others = [
        digest(x=changed), digest(y=x), digest(x=x.reshape(5, 300, 70)),
        digest(x=x.astype(np.float32)), digest(x=x, y=x), digest(x=x[:, :, :0]), digest(x=3.0),
    ]  # fmt: skip
    assert len({digest(x=x), *others}) == 8


def test_a_checkpoint_of_other_types_is_not_resumed(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(work, out, epochs=1)
    found, _ = checkpoint.load_newest(out)
    weight: Any = found.arrays["fc1.w"]
    for changed, says in (
        (weight.astype(np.float64), r"`fc1.w` as float64\[6, 8\]"),
        (weight.reshape(-1), r"`fc1.w` as float32\[48\]"),
    ):
        arrays = {**found.arrays, "fc1.w": changed}
        copy = tmp_path / str(len(says))
        shutil.copytree(out, copy)
        checkpoint.save(copy, replace(found, step=found.step + 1, arrays=arrays))
        done = gradc(*flags(work, copy, epochs=2), "--resume")
        assert (done.status, "GC0805" in done.err) == (1, True), done.err
        assert re.search(says, done.err), done.err


def test_the_same_run_writes_the_same_bytes(work: Path, tmp_path: Path) -> None:
    for name in "abc":
        train(work, tmp_path / name, epochs=1)
    files = [sorted((tmp_path / name).iterdir()) for name in "abc"]
    for one, two, three in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes(), one.name


@pytest.mark.parametrize("optimizer", ["sgd(lr=3e38)", "adamw(lr=nan)", "adamw(lr=inf)"])
def test_weights_that_stop_being_finite_with_the_last_update_are_not_written(
    work: Path, tmp_path: Path, optimizer: str
) -> None:
    out = tmp_path / "run"
    (work / "line.grad").write_text(LINE)
    more = {"batch": SAMPLES, "epochs": 1, "optimizer": optimizer}
    done = gradc(*flags(work, out, "line", **more))
    assert done.status == 1
    assert "GC0806" in done.err
    assert re.search(r"`w` is not finite any more \(\d of its 6 values.*\) at step 1", done.err)
    assert not (out / "params.safetensors").exists()
    assert [p.name for p in out.glob("step-*")] == ["step-000000000000.safetensors"]


def test_a_validation_loss_that_is_not_finite_is_said_once(work: Path, tmp_path: Path) -> None:
    source = LINE.replace("mean((", "mean(0 * log(x[:, 0] + 100)) + mean((")
    (work / "logs.grad").write_text(source)
    x, y = np.zeros((4, 6), np.float32), np.zeros(4, np.int32)
    x[0, 0] = -101
    np.savez(tmp_path / "odd.npz", x=x, y=y)
    more = {"epochs": 2, "valid": tmp_path / "odd.npz", "optimizer": "sgd(lr=0.01)"}
    done = train(work, tmp_path / "run", program="logs", **more)
    assert done.err.count("GC0811") == 1
    assert "the validation loss is nan after epoch 1" in done.err


DIFFERENT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"batch": 8}, "batch was 16, now 8"),
    ({"seed": 9}, "seed was 0, now 9"),
    ({"optimizer": "sgd(lr=0.1)"}, "recipe was .*adamw"),
    ({"precision": "f64"}, "precision was 'f32', now 'f64'"),
    ({"program": "mlp"}, "program was"),
    ({"data": "valid"}, "samples was 50, now 21"),
    ({"clip_norm": 1.0}, "clip_norm"),
)


@pytest.fixture(scope="module")
def begun(work: Path) -> Path:
    """A run of one epoch; what goes on from it goes on from a copy."""
    train(work, work / "begun", epochs=1)
    return work / "begun"


@pytest.mark.parametrize(("change", "says"), DIFFERENT, ids=[d[1] for d in DIFFERENT])
def test_another_run_is_not_resumed(
    work: Path, begun: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    more = dict(change)
    if "data" in more:
        more["data"] = work / f"{more['data']}.npz"
    done = gradc(*flags(work, tmp_path / "run", **more), "--resume")
    assert done.status == 1
    assert "GC0805" in done.err
    assert re.search(says, done.err), done.err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_line(
    work: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (work / "line.grad").write_text(LINE)
    done = gradc(*flags(work, out, "line", optimizer="sgd(lr=1e6)", epochs=9))
    assert (done.status, done.out) == (1, "")
    assert "GC0806" in done.err
    assert "--clip-norm" in done.err
    assert "line.grad:6" in done.err
    kept = sorted(out.glob("step-*.safetensors"))
    arrays, _ = load_safetensors(kept[-1])
    assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")
    assert not (out / "params.safetensors").exists()


# ---- stopped and resumed


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    """The run that nothing happened to: six epochs, 24 steps."""
    train(work, work / "whole", epochs=6, valid=work / "valid.npz")
    return work / "whole"


def test_more_epochs_continue_a_finished_run(work: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for epochs in (1, 2, 2, 6):
        extra = [] if epochs == 1 else ["--resume"]
        train(work, out, *extra, epochs=epochs, valid=work / "valid.npz")
    same_run(out, whole)
    assert len(list(out.glob("step-*.safetensors"))) == 2
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("harm", ["flipped", "cut", "emptied", "swapped"])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    work: Path, whole: Path, tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "run"
    train(work, out, epochs=4, valid=work / "valid.npz")
    older, newest = sorted(out.glob("step-*.safetensors"))
    data = bytearray(newest.read_bytes())
    if harm == "flipped":
        data[-7] ^= 0x40
    elif harm == "cut":
        del data[len(data) // 2 :]
    elif harm == "emptied":
        data.clear()
    else:
        data = bytearray(older.read_bytes())
        data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    done = train(work, out, "--resume", epochs=6, valid=work / "valid.npz")
    assert "warning[GC0576]" in done.err
    assert newest.name in done.err
    same_run(out, whole)


def test_without_an_intact_checkpoint_nothing_is_resumed(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(work, out, epochs=2)
    for path in out.glob("step-*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    done = gradc(*flags(work, out), "--resume")
    assert done.status == 1
    assert "GC0575" in done.err


def test_half_a_line_of_metrics_and_stale_files_are_swept(
    work: Path, whole: Path, tmp_path: Path
) -> None:
    """What a kill leaves behind: a line cut short, steps beyond the checkpoint, a temporary
    file.
    """
    out = tmp_path / "run"
    train(work, out, epochs=2, valid=work / "valid.npz")
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 9, "epoch": 2, "loss": 0.1}\n{"step": 10, "ep')
    stale = out / ".step-000000000009.safetensors.x1.tmp"
    stale.write_bytes(b"half")
    train(work, out, "--resume", epochs=6, valid=work / "valid.npz")
    same_run(out, whole)
    assert not stale.exists()


# ---- signals and kills, from outside

LONG = 60


@pytest.fixture(scope="module")
def long_run(work: Path) -> Path:
    train(work, work / "long", epochs=LONG)
    return work / "long"


def started(work: Path, out: Path, *extra: str) -> subprocess.Popen[str]:
    """The same run in a process of its own, slowed so that it can be met in the middle."""
    slow = (
        "import sys, time\n"
        "from gradc.runtime.training import loop as training\n"
        "step = training.Run._one_step\n"
        "def slowly(self, *rest):\n"
        "    time.sleep(0.004)\n"
        "    step(self, *rest)\n"
        "training.Run._one_step = slowly\n"
        "from gradc.runtime.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", slow, *flags(work, out, epochs=LONG), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(job: subprocess.Popen[str], out: Path, lines: int) -> None:
    """Until the run has written so many lines of metrics."""
    path, limit = out / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_nothing_is_lost(
    work: Path, long_run: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    out = tmp_path / "run"
    job = started(work, out)
    wait_for(job, out, 33)
    job.send_signal(signum)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 128 + signum
    assert f"stopped by {signum.name}; continue with --resume" in errors
    newest = max(out.glob("step-*.safetensors"))
    steps = [r for r in records(out) if "loss" in r]
    assert int(newest.name[5:17]) == steps[-1]["step"], "the last step is saved"
    assert not (out / "params.safetensors").exists()
    train(work, out, "--resume", epochs=LONG)
    same_run(out, long_run)


def test_a_second_signal_stops_at_once(work: Path, tmp_path: Path) -> None:
    """The state on disk is the last checkpoint."""
    from gradc.runtime.training.signals import signals

    with signals() as pending:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert pending == [signal.SIGUSR1, signal.SIGUSR1]
    program = (
        "import os, signal, time\n"
        "from gradc.runtime.training.signals import signals\n"
        "with signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == 143


def test_sigusr1_saves_and_goes_on(work: Path, long_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = started(work, out)
    wait_for(job, out, 22)
    before = {p.name for p in out.glob("step-*.safetensors")}
    middle: set[str] = set()
    # A signal may come as an epoch ends, where a checkpoint is written anyway: then another one is
    # sent.
    while not middle and job.poll() is None:
        job.send_signal(signal.SIGUSR1)
        limit = time.monotonic() + 0.2
        while not middle and time.monotonic() < limit:
            names = {p.name for p in out.glob("step-*.safetensors")} - before
            middle = {name for name in names if int(name[5:17]) % 4}
            time.sleep(0.001)
    assert middle, "a checkpoint in the middle of an epoch"
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    same_run(out, long_run)


def test_killed_at_random_moments_a_run_ends_as_if_left_alone(
    work: Path, long_run: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    out = tmp_path / "run"
    reached = 0
    for number in range(5):
        job = started(work, out, *(["--resume"] if number else []))
        wait_for(job, out, reached + int(rng.integers(3, 40)))
        time.sleep(float(rng.random()) * 0.02)
        job.kill()
        job.communicate(timeout=60)
        assert job.returncode == -signal.SIGKILL
        saved = sorted(out.glob("step-*.safetensors"))
        reached = sum(int(saved[-1].name[5:17]) >= r["step"] for r in _whole_lines(out))
    train(work, out, "--resume", epochs=LONG)
    same_run(out, long_run)


def _whole_lines(out: Path) -> list[dict[str, Any]]:
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_a_folder_in_which_another_process_trains(tmp_path: Path) -> None:
    """Resuming a run that is still going would sweep its files away under it."""
    folder = tmp_path / "run"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    (tmp_path / "m.grad").write_text("dim B\nmodel m(x: float[B, 2]) -> float { return mean(x) }\n")
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2), np.float32))
    flags = ("--data", tmp_path / "d.npz", "--optimizer", "sgd(lr=0.1)", "--out", folder)
    try:
        more: tuple[str, ...]
        for more in ((), ("--resume",)):
            done = gradc("train", tmp_path / "m.grad", *flags, *more)
            assert done.status == 1
            assert "GC0804" in done.err and "a process is training" in done.err
    finally:
        os.close(handle)
    assert list(folder.iterdir()) == []


def test_dimensions_that_the_data_fixes_are_bound_by_it(work: Path, tmp_path: Path) -> None:
    """Parameters sized by the data need no `-D`: the same weights as with the size in the
    program.
    """
    (work / "open.grad").write_text(LINE.replace("D = 6", "D").replace("model line", "model open"))
    (work / "line.grad").write_text(LINE)
    for name in ("open", "line"):
        done = train(work, tmp_path / name, program=name, epochs=1)
        assert done.status == 0, done.err
    one, other = (weights(tmp_path / name) for name in ("open", "line"))
    assert list(one) == list(other) and one["w"].shape == (6,)
    np.testing.assert_array_equal(one["w"], other["w"])
