"""The prepared script for a machine with a device, from end to end on the driver double."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_cases
from gradc.codegen.cuda.runner.device import Device
from gradc.codegen.cuda.runner.driver import driver
from tests.support import cuda_machine
from tests.support.cuda_double import Double, doubled
from tests.support.cuda_machine import session_on

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def double() -> Iterator[Double]:
    with doubled() as found:
        yield found


def test_the_script_runs_to_its_end(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step writes its result; bits are the CPU's; a wrong digest is found."""
    monkeypatch.setattr(gpu, "REPEATS", 2)
    monkeypatch.setattr(gpu, "TIMED", 2)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "jax", None)
    folder, out = tmp_path / "cases", tmp_path / "out"
    only = "exp_f32,erf_f64,mlp_tiny,mlp_tiny_step,product"
    small = ["--maths-size", "1000", "--product", "7"]
    assert gpu_cases.main([str(folder), "--only", only, *small]) == 0
    there = ["run", str(folder), "--out", str(out), "--budget", "100"]
    status = gpu.main(there, session_on(double))
    found = list(gpu.lines_of(out))
    assert status == 0, found
    steps = [line["step"] for line in found]
    for step in ("machine", "maths", "launches", "graph", "bandwidth", "time", "torch", "jax"):
        assert step in steps
    order = ["machine", "load", "maths", "launches", "graph", "sanitizer", "bandwidth", "time"]
    assert list(dict.fromkeys(steps)) == [*order, "torch", "jax", "end"]
    assert [line["case"] for line in found if line["step"] == "graph" and line["same"]] == [
        "mlp_tiny",
        "mlp_tiny_step",
        "product",
    ]
    without = tmp_path / "without"
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "device", Device)
        patch.setitem(driver().__dict__, "count", 0)
        assert gpu.main(["run", str(folder), "--out", str(without)]) == 1
    first, last = gpu.lines_of(without)
    assert "GC0597" in first["failed"] and last["step"] == "end"
    monkeypatch.setattr(cuda_machine, "MOST_FLOPS", 5000)
    index = json.loads((folder / "index.json").read_text())
    index["cases"][0]["ports"][1]["after"][3] = "another"
    (folder / "index.json").write_text(json.dumps(index))
    again = tmp_path / "again"
    small_only = ["run", str(folder), "--out", str(again), "--only", "exp_f32,mlp_tiny"]
    assert gpu.main(small_only, session_on(double)) == 1
    assert any("too many" in line.get("skipped", "") for line in gpu.lines_of(again))
    wrong = [line["differs"] for line in gpu.lines_of(again) if "differs" in line]
    assert len(wrong) == 1 and "1 of 64 parts" in wrong[0][0]


def test_the_script_needs_numpy_alone() -> None:
    """Nothing of the compiler, and no library but NumPy, is loaded where the device is."""
    text = (
        "import sys, benchmarks.gpu\n"
        "bad = {'lark', 'llvmlite', 'numba', 'sympy', 'flint', 'rich', 'safetensors', 'torch'}\n"
        "print(sorted(bad & {m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
