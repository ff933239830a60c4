"""The doctor: a trial is the training itself, and what is offered lowers the loss."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.cli import main
from gradc.runtime.doctor.checkup import Checkup, checkup
from gradc.runtime.doctor.roles import roles_of
from gradc.runtime.doctor.search import find_rate, overfit_batch
from gradc.runtime.doctor.trial import Bench, Change
from gradc.runtime.files.batches import samples_of
from tests.support.doctor_cases import Case, cases, trained

SICK, HEALTHY = cases("sick"), cases("healthy")


def bench_of(case: Case) -> Bench:
    train, _ = case.arrays(0)
    net = case.model()
    step = net.train_step(case.optimizer, **case.recipe)
    return Bench(step, samples_of(net.signature, train, "the data"), case.batch, 0)


def checked(case: Case) -> Checkup:
    bench = bench_of(case)
    steps = case.epochs * (case.samples // case.batch)
    return checkup(bench.step, bench.samples, case.batch, steps)


@pytest.mark.parametrize("name", ["clipped", "half", "dropout"])
def test_a_trial_is_the_training_itself(name: str) -> None:
    case = HEALTHY[name]
    losses = trained(case, 0).losses[:40]
    found = bench_of(case).run(Change(), 40).losses
    np.testing.assert_allclose(found, losses, rtol=2e-3 if name in ("half", "brain") else 1e-4)


@pytest.mark.parametrize(
    ("name", "features", "targets", "squared"),
    [
        ("regression", ("x",), ("y",), "y"),
        ("gan", ("real", "z"), (), None),
        ("pinn", ("t",), (), None),
        ("autoencoder", ("x",), (), None),
        ("vae", ("x", "noise"), (), None),
        ("factors", ("u", "v"), ("y",), "y"),
        ("transformer", ("x",), ("y",), None),
        ("contrastive", ("a", "b"), (), None),
    ],
)
def test_inputs_are_told_apart(
    name: str, features: tuple[str, ...], targets: tuple[str, ...], squared: str | None
) -> None:
    found = roles_of(bench_of(HEALTHY[name]).flat)
    assert (found.features, found.targets, found.squared) == (features, targets, squared)


@pytest.mark.parametrize(
    "name",
    [
        "unscaled-column",
        "wrong-sign",
        "relu-output",
        "zero-distance",
        "uphill",
        "strong-decay",
        "loud-scale",
    ],
)
def test_the_cause_is_named_first(name: str) -> None:
    found = checked(SICK[name])
    kind, _, word = SICK[name].cause[0].partition(":")
    kinds = {c.partition(":")[0] for c in SICK[name].cause}
    assert found.findings[0].kind in kinds, found.findings
    assert word in found.findings[0].message or kind != found.findings[0].kind
    for finding in found.findings:
        told = [t for t in found.trials if t.remedy == finding.remedy and t.kind == finding.kind]
        # What is said to have been tried was, and lowered the loss.
        assert finding.effect.startswith("tried") == bool(told)
        assert all(t.helps for t in told)


@pytest.mark.parametrize("name", ["gan", "lora", "linear"])
def test_a_healthy_training_has_no_finding(name: str) -> None:
    assert not checked(HEALTHY[name]).findings


def test_a_rate_is_suggested_that_is_better_than_the_one_set() -> None:
    bench = bench_of(SICK["rate-low"])
    found = find_rate(bench.step, bench.samples, 32)
    assert found.suggested is not None and found.suggested > 1e-3
    assert min(loss for _, loss in found.tried) < found.loss
    assert len(found.rates) == len(found.losses) <= 100


def test_one_batch_is_learned_by_heart_or_not() -> None:
    for case, learned in ((HEALTHY["momentum"], True), (SICK["zero-start"], False)):
        bench = bench_of(case)
        assert overfit_batch(bench.step, bench.samples, 16).is_learned is learned


# --- the command


def written(tmp_path: Path, case: Case) -> list[str]:
    train, _ = case.arrays(0)
    arrays: dict[str, Any] = dict(train)
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "net.grad").write_text(case.text())
    return [str(tmp_path / "net.grad"), "--data", str(tmp_path / "data.npz")]


def test_a_run_is_diagnosed_from_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, out = written(tmp_path, SICK["tight-clip"]), str(tmp_path / "run")
    settings = ["--optimizer", "sgd(lr=0.1)", "--clip-norm", "1e-4", "--batch", "32"]
    assert main(["train", *files, *settings, "--epochs", "3", "--out", out]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["diagnose", *files, "--run", out, "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "1. clip: 100% of the steps are clipped" in shown and "tried: 48 steps" in shown
    assert "1. clip" in page.read_text() and "<svg" in page.read_text()
    assert main(["diagnose", *files, "--run", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["kind"] == "clip" and found["tried"][0]["helps"] is True
    for flag in ("--rates", "--overfit-batch"):
        assert main(["diagnose", *files, "--run", out, flag]) == 0
        assert main(["diagnose", *files, "--run", out, flag, "--json"]) == 0
    capsys.readouterr()
    others: dict[str, Any] = dict(SICK["tight-clip"].arrays(1)[0])
    np.savez(tmp_path / "data.npz", **others)
    assert main(["diagnose", *files, "--run", out]) == 1
    assert "GC0805" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "GC0805"), ("{}", "GC0805"), ("[[[", "GC0805"), ('{"recipe": {"a": 1}}', "GC0805")],
)
def test_a_folder_that_holds_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, code: str
) -> None:
    files = written(tmp_path, SICK["tight-clip"])
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    assert main(["diagnose", *files, "--run", str(tmp_path)]) == 1
    assert code in capsys.readouterr().err


def test_trials_without_a_training_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, SICK["tight-clip"])
    for flag in (["--rates"], ["--overfit-batch"], ["--html", "p.html"]):
        assert main(["diagnose", *files, *flag]) == 1
        assert "GC0564" in capsys.readouterr().err
