"""Subcommands with ``--target cuda``, on the driver double."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import gradc
from tests.support.cuda_double import Double, doubled

PROGRAM = """
    dim B
    model m(x: float[B, 6], y: float[B]) -> float {
        param w: float[6] ~ normal(0.5)
        return mean((tanh(x) @ w - y)^2)
    }
"""


@pytest.fixture
def double() -> Iterator[Double]:
    with doubled() as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The program and its data."""
    rng = np.random.default_rng(0)
    program, data = tmp_path / "m.grad", tmp_path / "in.npz"
    program.write_text(PROGRAM)
    x, y = rng.normal(size=(8, 6)), rng.normal(size=8)
    np.savez(data, x=x.astype(np.float32), y=y.astype(np.float32))
    return program, data


def test_each_command_gives_what_it_gives_on_the_cpu(
    double: Double, files: tuple[Path, Path], tmp_path: Path
) -> None:
    program, data = files
    for command in ("run", "grad"):
        asked = (command, program, "--data", data, "--no-cache", "--out")
        found = {}
        for target in ("cpu", "cuda"):
            path = tmp_path / f"{target}.npz"
            done = gradc(*asked, path, "--target", target)
            assert done.status == 0, done.err
            with np.load(path, allow_pickle=False) as arrays:
                found[target] = {name: arrays[name].tobytes() for name in arrays.files}
        assert found["cpu"] == found["cuda"]
    plan = gradc("plan", program, "-D", "B=8", "--target", "cuda", "--json")
    assert plan.status == 0 and json.loads(plan.out)["peak_bytes"] > 0


def test_training_on_the_device(double: Double, files: tuple[Path, Path], tmp_path: Path) -> None:
    """The weights after two epochs are those of the CPU, checkpoints on the way."""
    program, data = files
    found = {}
    for target in ("cpu", "cuda"):
        out = tmp_path / target
        asked = ("train", program, "--data", data, "--epochs", 2, "--batch", 4, "--no-cache")
        done = gradc(*asked, "--optimizer", "adam(lr=0.01)", "--out", out, "--target", target)
        assert done.status == 0, done.err
        found[target] = {p.name: p.read_bytes() for p in out.rglob("*.safetensors")}
    assert found["cpu"] and found["cpu"] == found["cuda"]


def test_reports_are_of_the_device(double: Double, files: tuple[Path, Path]) -> None:
    program, data = files
    verified = gradc("verify", program, "-D", "B=3", "--target", "cuda", "--json", "--sympy", 0)
    assert verified.status == 0, verified.err
    assert "ptxas" in verified.out
    profile = gradc("profile", program, "--data", data, "--target", "cuda", "--no-cache", "--json")
    assert profile.status == 0, profile.err
    bench = gradc(
        *("bench", program, "--data", data, "--target", "cuda", "--no-cache"),
        *("--seconds", 0.05, "--json"),
    )
    assert bench.status == 0, bench.err
    doctor = gradc("doctor", "--target", "cuda", "--json")
    assert doctor.status == 0, doctor.err
    said = json.loads(doctor.out)
    assert said["ok"] and said["GPU"].startswith("Double 0, compute capability 9.0")
