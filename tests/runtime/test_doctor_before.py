"""What `gradc train` says before the first step and when a gradient breaks, and what it records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.cli import main
from gradc.runtime.training.loop import METRICS_FILE
from gradc.runtime.training.watch import WATCH_EVERY
from tests.support.doctor_cases import Case, cases

SICK, HEALTHY = cases("sick"), cases("healthy")


def train(tmp_path: Path, case: Case, *more: str, valid: str | None = None, epochs: int = 1) -> int:
    arrays: dict[str, Any] = dict(case.arrays(0)[0])
    np.savez(tmp_path / "data.npz", **arrays)
    held: dict[str, Any] = arrays if valid == "same" else dict(case.arrays(0)[1])
    np.savez(tmp_path / "valid.npz", **held)
    (tmp_path / "net.grad").write_text(case.text())
    files = [str(tmp_path / "net.grad"), "--data", str(tmp_path / "data.npz")]
    files += [] if valid is None else ["--valid", str(tmp_path / "valid.npz")]
    settings = ["--optimizer", case.optimizer, "--batch", str(case.batch), "--epochs", str(epochs)]
    dims = [item for name, n in case.dims.items() for item in ("-D", f"{name}={n}")]
    out = ["--out", str(tmp_path / "run")]
    return main(["train", *files, *settings, *dims, *out, *more])


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("softmax-twice", "GC0218", "softmax already"),
        ("batch-of-one", "GC0223", "mean over one number"),
        ("unscaled-column", "GC0813", "1870 times as large"),
        ("target-outlier", "GC0813", "1 of 512 targets"),
        ("rare-class", "GC0813", "class 1 of `y`"),
    ],
)
def test_a_warning_stands_before_the_first_step(
    name: str, code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, SICK[name])
    shown = capsys.readouterr().err
    assert f"warning[{code}]" in shown and words in shown
    assert shown.index("warning[") < (shown.index("epoch ") if "epoch " in shown else len(shown))


def test_samples_in_both_sets_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, HEALTHY["mlp"], valid="same") == 0
    assert "512 of 512 validation samples are training samples" in capsys.readouterr().err


def test_nothing_is_said_of_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, HEALTHY["mlp"], valid="other") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_named_at_its_own_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss of that step is finite."""
    assert train(tmp_path, SICK["zero-distance"]) == 1
    shown = capsys.readouterr().err
    assert "a gradient is not finite at step 1, where the loss is 3." in shown
    assert "values stop being finite here: `div` of the gradient of `sqrt`" in shown
    assert "net.grad:8" in shown


def test_an_update_that_is_not_finite_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, SICK["no-eps"]) == 1
    assert "the update of step 1 gives numbers that are not finite" in capsys.readouterr().err


def test_updates_are_recorded_at_the_first_step_and_now_and_then(tmp_path: Path) -> None:
    assert train(tmp_path, HEALTHY["momentum"], epochs=7) == 0
    rows = [json.loads(r) for r in (tmp_path / "run" / METRICS_FILE).read_text().splitlines()]
    told = {r["step"]: r["updates"] for r in rows if "updates" in r}
    assert list(told) == [1, WATCH_EVERY, 2 * WATCH_EVERY]
    assert list(told[1]) == ["fc1.w", "fc1.b", "fc2.w", "fc2.b", "fc3.w", "fc3.b"]
    assert 1e-4 < told[WATCH_EVERY]["fc1.w"] < 1
