"""`gradc verify`, its certificates and their replay, `gradc bisect`, `gradc compile --certify`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.ir.tensor.core import Function
from gradc.passes.pipeline import Options, Record, run_pipeline
from gradc.passes.prove.programs.bisect import bisect
from gradc.passes.prove.report import SCHEMA, Status, from_json
from gradc.runtime.api import load, loads
from gradc.runtime.cli import main
from tests.support.mutants import OP_FAULTS, op_mutants

MLP = """dim B, D = 4, H = 3
model net(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, 3)
    return mean(cross_entropy(fc2(tanh(fc1(x))), y))
}
"""
WRONG = """dim D = 3
fn wrong(x: float[D]) -> float[D] {
    return x * x
    pullback(ct) { return FACTOR * x * ct }
}
model net(x: float[D]) -> float {
    param w: float[D] ~ normal(1)
    return sum(wrong(x * w))
}
"""


PROOFS = (Status.PROVED_ALL, Status.PROVED_SHAPE, Status.PROVED_BOUND)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "net.grad"
    path.write_text(MLP, encoding="utf-8")
    return path


def test_every_verdict_has_a_name_and_nothing_is_undecided(program: Path) -> None:
    report = load(program).verify()
    assert report.ok
    assert {v.subject for v in report.of("parameter")} == {"fc1.w", "fc1.b", "fc2.w", "fc2.b"}
    assert all(v.status.is_proof for v in report.of("parameter"))
    assert not [v for v in report.verdicts if v.status is Status.UNDECIDED]
    assert report.chosen == ("B",)


def test_a_certificate_is_the_same_every_time_and_reads_back(program: Path) -> None:
    first, second = (load(program).verify() for _ in range(2))
    assert first.digest == second.digest
    path = program.with_suffix(".json")
    first.to_json(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["schema"] == SCHEMA
    assert from_json(data).digest == first.digest == data["digest"]


def test_replay_in_a_fresh_process_from_files_alone(program: Path) -> None:
    cert = program.with_suffix(".json")
    assert main(["verify", str(program), "--json", str(cert)]) == 0
    command = [sys.executable, "-m", "gradc", "verify", str(program), "--replay", str(cert)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parent)
    assert done.returncode == 0, done.stderr
    assert "holds" in done.stdout


@pytest.mark.parametrize("what", ["verdict", "program"])
def test_replay_refuses_what_was_changed(
    program: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cert = program.with_suffix(".json")
    assert main(["verify", str(program), "--json", str(cert)]) == 0
    if what == "verdict":
        text = cert.read_text(encoding="utf-8")
        cert.write_text(
            text.replace('"PROVED (error bound)"', '"PROVED (all shapes)"'), encoding="utf-8"
        )
    else:
        program.write_text(MLP.replace("tanh", "sigmoid"), encoding="utf-8")
    assert main(["verify", str(program), "--replay", str(cert)]) == 3
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "gradc-certificate-1"}'])
def test_what_is_no_certificate_is_a_diagnostic(program: Path, text: str) -> None:
    cert = program.with_suffix(".json")
    cert.write_text(text, encoding="utf-8")
    assert main(["verify", str(program), "--replay", str(cert)]) == 1


def test_the_manifest_names_the_certificate(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compile", str(program), "-D", "B=2", "--certify", "--emit", "object"]
    assert main([*arguments, "-o", str(out)]) == 0
    cert = json.loads((out / "net.certificate.json").read_text(encoding="utf-8"))
    manifests = [json.loads(p.read_text(encoding="utf-8")) for p in out.glob("*.json")]
    assert any(m.get("certificate", {}).get("digest") == cert["digest"] for m in manifests)


@pytest.mark.parametrize("factor, status", [("2", 0), ("2.0005", 3)])
def test_pullbacks_in_programs(
    factor: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.grad"
    path.write_text(WRONG.replace("FACTOR", factor), encoding="utf-8")
    assert main(["verify", str(path)]) == status
    out = capsys.readouterr().out
    assert ("REFUTED" in out) == (status == 3)
    assert ("is wrong at" in out) == (status == 3)


def values(function: Function) -> list[Any]:
    rng = np.random.default_rng(3)
    found: list[Any] = []
    for value in function.block.parameters:
        shape = value.type.static_shape
        is_float = value.type.dtype.is_float
        found.append(rng.normal(size=shape) if is_float else rng.integers(0, 3, shape, np.int32))
    return found


@pytest.mark.parametrize("step", ["simplify", "dce", "fuse"])
def test_bisect_finds_a_faulty_pass_and_line(step: str) -> None:
    model = loads(MLP, dims={"B": 2})
    source = model.lower().function
    options = Options(model.gradient_of(), verify=0, stop_after="fuse")
    records = run_pipeline(source, options).records
    assert bisect(source, records, values(source)) is None
    number = next(n for n, r in enumerate(records) if r.step == step)
    good = records[number].artifact
    assert isinstance(good, Function)
    hits = 0
    for mutant in list(op_mutants(good, OP_FAULTS["missing_sum"], 1))[:4]:
        bad = [*records[:number], replace(records[number], artifact=mutant, is_changed=True)]
        rest = [Record(r.step, 0.0, False, mutant) for r in records[number + 1 :]]
        culprit = bisect(source, [*bad, *rest], values(source))
        if culprit is None:
            continue  # the sum was over one element
        assert culprit.step == step
        assert culprit.results
        hits += culprit.place.startswith("<string>:") or "losses" in culprit.place
    assert hits >= 1


def test_bisect_on_a_right_compilation(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = program.with_suffix(".npz")
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(2, 4)).astype(np.float32), y=np.array([0, 2], np.int32))
    assert main(["bisect", str(program), "--data", str(data)]) == 0
    assert "compute the same" in capsys.readouterr().out


def test_errors_of_the_machine_code_are_a_few_ulps(program: Path) -> None:
    report = load(program).verify(numbers=True)
    assert {a.tensor for a in report.accuracy} == {"fc1.w", "fc1.b", "fc2.w", "fc2.b"}
    for row in report.accuracy:
        assert row.reference == "balls at 50 digits"
        assert row.of_largest < 16
        assert row.differences < 1e-6
        assert row.dot < 1e-4


THROUGH = """dim D = 3
fn through(x: float[D]) -> float[D] {
    return round(x)
    pullback(ct) { return ct }
}
model net(x: float[D]) -> float {
    param w: float[D] ~ normal(1)
    param v: float[D] ~ normal(1)
    return sum(through(x * w) * v)
}
"""


def test_a_straight_through_estimator_is_asserted() -> None:
    """Its gradient is not the derivative, and nobody is told that it is; the other parameter is not
    blamed.
    """
    report = loads(THROUGH).verify()
    found = {v.subject: v.status for v in report.of("parameter")}
    assert found == {"w": Status.ASSERTED, "v": Status.PROBABLE}
    assert [v.status for v in report.of("pullback")] == [Status.ASSERTED]
    assert report.ok


LAYERS = {
    "dense": "use f = dense(D, 3)\nreturn mean(f(x)^2)",
    "norms": "use a = layernorm(D)\nuse b = rmsnorm(D)\nuse c = batchnorm(D)\nreturn "
             "mean(c(b(a(x)))^2)",
    "softmax": "param w: float[D] ~ normal(1)\nreturn mean(softmax(x * w)^2) + "
               "mean(log_softmax(x + w))",
    "spread": "param w: float[D] ~ normal(1)\nreturn std(x * w) + var(x + w) + mean(logsumexp(x "
              "* w))",
    "curves": "param w: float[D] ~ normal(1)\ny = x * w\nreturn mean(gelu(y) + silu(y) + "
              "softplus(y) + sigmoid(y))",
    "losses": (
        "param w: float[D] ~ normal(1)\ny = x * w\n"
        "return mean(binary_cross_entropy_logits(y, x)) + mse(y, x)"
    ),
    "powers": "param w: float[D] ~ normal(1)\ny = x * w\nreturn mean(sqrt(1 + y^2) + abs(y) + "
              "y^3 + log(1 + y^2))",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_no_function_of_the_library_is_undecided(name: str) -> None:
    text = f"dim B, D = 4\nmodel net(x: float[B, D]) -> float {{\n{LAYERS[name]}\n}}\n"
    report = loads(text).verify()
    assert report.ok
    assert all(v.status.is_proof for v in report.of("parameter"))
    ours = [v for v in report.verdicts if v.kind != "sympy"]
    assert all(v.status in (*PROOFS, Status.PROBABLE) for v in ours)
    assert all(v.status in (*PROOFS, Status.AGREES) for v in report.of("sympy"))
