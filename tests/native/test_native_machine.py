"""A warm start asks the cache, not LLVM, what machine this is; and asks LLVM where the cache cannot
know.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite
import pytest

from gradc.codegen.llvm.host import jit, machine
from gradc.runtime.native.cache import ObjectCache, make_key

ROOT = Path(__file__).resolve().parent.parent.parent

RUN = """
import sys
import numpy as np
import gradc
net = gradc.loads("model m(x: float[5]) -> float { return sum(tanh(x)^2) }", precision="f64")
loss, grads = net.value_and_grad(wrt="inputs")({}, x=np.arange(5.0))
t = np.tanh(np.arange(5.0))
assert np.allclose(grads["x"], 2 * t * (1 - t**2)), grads
print("llvmlite.binding" in sys.modules, "gradc.passes.pipeline" in sys.modules)
"""


def test_a_warm_start_loads_neither_llvm_nor_a_pass(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            cwd=ROOT,
            env=os.environ | {"GRADC_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split())
    assert told[0] == ["True", "True"]
    if Path("/proc/cpuinfo").exists():
        assert told[1] == ["False", "False"]


def test_the_answer_is_llvms(tmp_path: Path) -> None:
    store = ObjectCache(tmp_path / "cache")
    assert machine.environment(store) == jit.environment()
    assert machine.environment(store) == jit.environment()  # now from the store
    assert machine.environment(None) == jit.environment()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows whenever LLVM is asked; the processor described is that of each test."""
    calls: list[int] = []
    real = jit.environment()

    def environment() -> tuple[str, ...]:
        calls.append(1)
        return real

    monkeypatch.setattr(jit, "environment", environment)
    machine.processor.cache_clear()
    return calls


def describe(monkeypatch: pytest.MonkeyPatch, path: Path, flags: str, speed: int) -> None:
    path.write_text(
        f"processor: 0\nflags : {flags}\ncpu MHz : {speed}\n\nprocessor: 1\nflags : x\n"
    )
    monkeypatch.setattr(machine, "_CPUINFO", path)
    machine.processor.cache_clear()


def test_another_processor_is_asked_about_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    store, path = ObjectCache(tmp_path / "cache"), tmp_path / "cpuinfo"
    for flags, speed, calls in (("avx", 1, 1), ("avx", 2, 1), ("avx avx2", 2, 2), ("avx", 3, 2)):
        describe(monkeypatch, path, flags, speed)
        machine.environment(store)
        assert len(asked) == calls
    machine.processor.cache_clear()


def test_without_a_description_llvm_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "there is none")
    machine.processor.cache_clear()
    store = ObjectCache(tmp_path / "cache")
    machine.environment(store)
    machine.environment(store)
    assert len(asked) == 2
    machine.processor.cache_clear()


@pytest.mark.parametrize("kept", [None, "text", [], ["too", "few"], {"a": 1}])
def test_an_answer_of_another_form_is_not_used(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    describe(monkeypatch, tmp_path / "cpuinfo", "avx", 1)
    store = ObjectCache(tmp_path / "cache")
    key = make_key("machine", sys.version, llvmlite.__version__, machine.processor())
    assert store.put(key, {"environment": kept}, b"")
    machine.environment(store)
    assert len(asked) == 1
    machine.processor.cache_clear()
