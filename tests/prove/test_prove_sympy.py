"""SymPy's rows of `gradc verify`: there for every parameter, within their time, in certificates and
their replay.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.report import Report, Status, from_json
from gradc.runtime.api import load, loads
from gradc.runtime.cli import main
from gradc.runtime.reports import independent
from gradc.runtime.reports.verify import replay

MLP = """dim B = 32, D = 16, H = 8
model net(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, 3)
    return mean(cross_entropy(fc2(tanh(fc1(x))), y))
}
"""
STRAIGHT = """model net(x: float[3]) -> float {
    param w: float[3] ~ normal(1)
    return sum(through(x * w)^2)
}
fn through(x: float[3]) -> float[3] {
    return round(x)
    pullback(ct) { return ct }
}
"""


def statuses(report: Report) -> dict[str, Status]:
    return {v.subject: v.status for v in report.of("sympy")}


def test_every_parameter_has_a_row_at_a_small_shape() -> None:
    report = loads(MLP).verify()
    assert statuses(report) == dict.fromkeys(("fc1.w", "fc1.b", "fc2.w", "fc2.b"), Status.AGREES)
    for row in report.of("sympy"):
        assert row.detail == "at B=2, D=3, H=2: 50 digits at 3 real points"
        assert row.method == "SymPy: independent derivative"
    assert report.ok


def test_a_small_program_is_proved_at_its_own_shape() -> None:
    report = loads("model m(x: float[3], w: float[3]) -> float { return sum(tanh(x * w)) }").verify(
        wrt=("w",)
    )
    assert statuses(report) == {"w": Status.PROVED_SHAPE}


@pytest.mark.parametrize("counted", ["one_hot(y, 3)", "cast(y[:, None] > 0, float)"])
def test_truth_values_that_are_counted_are_numbers(counted: str) -> None:
    head = "model m(x: float[2, 3], y: int[2], w: float[3]) -> float {"
    text = f"{head} return sum({counted} * x * w) }}"
    assert statuses(loads(text).verify(wrt=("w",))) == {"w": Status.PROVED_SHAPE}


def test_zero_seconds_turn_it_off_and_change_no_other_verdict() -> None:
    with_sympy, without = loads(MLP).verify(), loads(MLP).verify(sympy=0)
    assert not without.of("sympy")
    rest = [v for v in with_sympy.verdicts if v.kind != "sympy"]
    assert [(v.kind, v.subject, v.status) for v in rest] == [
        (v.kind, v.subject, v.status) for v in without.verdicts
    ]


def test_too_little_time_is_skipped_with_the_reason() -> None:
    report = loads(MLP).verify(sympy=1e-6)
    assert set(statuses(report).values()) == {Status.SKIPPED}
    assert all("its time was over after" in v.detail for v in report.of("sympy"))
    assert report.ok


def test_a_straight_through_estimator_is_not_refuted() -> None:
    report = loads(STRAIGHT).verify()
    assert statuses(report) == {"w": Status.ASSERTED}
    assert "as the user says" in report.of("sympy")[0].detail
    assert report.ok


def test_cut_loops_are_compared_with_their_cuts() -> None:
    path = Path(__file__).resolve().parent.parent.parent / "examples" / "worked" / "w19.grad"
    report = load(path, entry="windowed").verify()
    assert set(statuses(report).values()) <= {Status.AGREES, Status.PROVED_SHAPE}


def doubled(function: Function, names: Sequence[str]) -> Function:
    """A derivative whose last gradient is counted twice."""
    gradient = value_and_grad(function, names)
    *ops, end = gradient.block.ops
    b = Builder()
    twice = b.one("add", end.operands[-1], end.operands[-1])
    ops += [*b.ops, replace(end, operands=(*end.operands[:-1], twice))]
    return replace(gradient, block=Block(gradient.block.parameters, tuple(ops)))


def test_a_wrong_adjoint_is_refuted_and_the_status_is_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.grad"
    path.write_text(MLP, encoding="utf-8")
    monkeypatch.setattr("gradc.runtime.model.model.value_and_grad", doubled)
    assert main(["verify", str(path)]) == 3
    shown = capsys.readouterr().out
    assert "sympy fc2.b is wrong at" in shown
    assert "parameter fc2.b is wrong at" in shown
    assert "fc1.w is wrong" not in shown


def test_rows_are_in_the_certificate_and_its_replay(tmp_path: Path) -> None:
    path, cert = tmp_path / "net.grad", tmp_path / "cert.json"
    path.write_text(MLP, encoding="utf-8")
    assert main(["verify", str(path), "--json", str(cert)]) == 0
    data = json.loads(cert.read_text(encoding="utf-8"))
    claimed = from_json(data)
    assert len(claimed.of("sympy")) == 4
    assert claimed.options["sympy"] == "10"
    assert main(["verify", str(path), "--replay", str(cert)]) == 0


def test_a_replay_that_runs_out_of_time_differs_in_nothing(tmp_path: Path) -> None:
    path, cert = tmp_path / "net.grad", tmp_path / "cert.json"
    path.write_text(MLP, encoding="utf-8")
    load(path).verify(sympy=1e-6).to_json(cert)
    data = json.loads(cert.read_text(encoding="utf-8"))
    found, differing = replay(data)
    assert differing == []
    assert all(independent.is_late(v) for v in found.of("sympy"))


def test_the_command_has_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.grad"
    path.write_text(MLP, encoding="utf-8")
    assert main(["verify", str(path), "--sympy", "0"]) == 0
    assert "SymPy" not in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0
    assert "SymPy: independent derivative" in capsys.readouterr().out


def test_numbers_are_measured_at_smaller_dimensions_than_those_given() -> None:
    """Dimensions that are given and too large for points: measured where the points are."""
    text = MLP.replace("B = 32, D = 16, H = 8", "B, D, H")
    report = loads(text, dims={"B": 512, "D": 256, "H": 64}).verify(numbers=True, sympy=0)
    assert report.probe_dims != report.dims
    assert {a.tensor for a in report.accuracy} == {"fc1.w", "fc1.b", "fc2.w", "fc2.b"}
