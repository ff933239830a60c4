"""``net.fit``: what `gradc train` does with the same data and settings, from Python."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.doctor.fit import Fitted
from tests.runtime.test_doctor_before import HEALTHY, SICK, train
from tests.support.doctor_cases import Case


def fitted(case: Case, **how: Any) -> Fitted:
    arrays, held = case.arrays(0)
    net = gradc.loads(case.text(), name="net.grad", dims=case.dims)
    given: dict[str, Any] = {"optimizer": case.optimizer, "batch": case.batch, "epochs": 2, **how}
    if given.pop("validated", False):
        given["valid"] = held
    return net.fit(arrays, **given)


def test_it_gives_what_the_command_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records, weights, findings and page, with a folder and without."""
    case = SICK["unscaled-column"]
    assert train(tmp_path, case, valid="other", epochs=2) == 0
    shown, folder = capsys.readouterr().err, tmp_path / "run"
    kept = fitted(case, out=tmp_path / "own", validated=True)
    gone = fitted(case, validated=True)
    lines = (folder / "metrics.jsonl").read_text()
    assert lines == (tmp_path / "own" / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in lines.splitlines()] == kept.records == gone.records
    for name in ("params.safetensors", "run.html"):
        assert (folder / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert gone.page == (folder / "run.html").read_text() and gone.folder is None
    assert [f.message for f in gone.findings] and all(f.message in shown for f in gone.findings)
    assert all((gone.params[n] == a).all() for n, a in kept.params.items())
    assert len(gone.losses) == 32 and len(gone.valid) == 2


def test_it_ends_where_it_is_told_to_and_keeps_the_best() -> None:
    case, seen = HEALTHY["mlp"], []

    def enough(progress: Any) -> bool:
        seen.append((progress.epoch, progress.step, progress.valid["loss"]))
        return len(seen) == 2

    found = fitted(case, epochs=9, callbacks=[enough], validated=True)
    assert [s[:2] for s in seen] == [(1, 16), (2, 32)] and found.valid == [s[2] for s in seen]
    case = HEALTHY["linear"]
    loud = fitted(case, optimizer="sgd(lr=0.9)", epochs=40, early_stopping=2, validated=True)
    least = int(np.argmin(loud.valid))
    assert len(loud.valid) == least + 3 < 40
    best = fitted(
        case, optimizer="sgd(lr=0.9)", epochs=len(loud.valid), keep="best", validated=True
    )
    again = fitted(case, optimizer="sgd(lr=0.9)", epochs=least + 1)
    assert all((best.params[n] == a).all() for n, a in again.params.items())
    going_on = fitted(case, init_from=again.params, epochs=0)
    assert all((going_on.params[n] == a).all() for n, a in again.params.items())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"keep": "first"}, "keep is `last` or `best`"),
        ({"early_stopping": 2}, "give valid"),
        ({"resume": True}, "resume needs the folder"),
        ({"ranks": 2}, "`fit` trains in one process"),
        ({"clip_norm": -1.0}, "clip_norm must be a positive number"),
    ],
)
def test_what_cannot_be_is_said(how: dict[str, Any], words: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match=words):
        fitted(HEALTHY["linear"], **how)


def test_other_words_and_other_data_are_refused() -> None:
    net = gradc.loads(HEALTHY["linear"].text())
    with pytest.raises(TypeError, match="has no option `epoch`; did you mean `epochs`"):
        net.fit({}, epoch=3)  # type: ignore[call-arg]
    with pytest.raises(gradc.DiagnosticError, match="GC0553"):
        net.fit({"x": np.zeros((4, 4), np.float32)})
    with pytest.raises(gradc.DiagnosticError, match="GC0542"):
        net.fit({"x": np.zeros((4, 4), np.float32), "y": np.zeros(0, np.float32)})


def test_a_step_that_is_not_finite_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """In another thread too, where there are no signals; nothing is printed."""
    found: list[Any] = []

    def work() -> None:
        with pytest.raises(gradc.DiagnosticError) as raised:
            fitted(SICK["zero-distance"])
        found.append(raised.value)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    said, origin = found[0].diagnostics
    assert said.notes == ("nothing was updated",) and "step 1" in said.message
    assert "`sqrt`" in origin.message and str(origin.span.outermost) == "net.grad:8:9"
    assert capfd.readouterr() == ("", "")
