"""A warm start asks the cache, not LLVM, what machine this is; and asks LLVM where the cache cannot
know.
"""

import sys
from pathlib import Path
from typing import Any

import llvmlite
import pytest

from gradc.codegen.llvm import cpuinfo
from gradc.codegen.llvm.host import jit, machine
from gradc.codegen.llvm.isa import select
from gradc.runtime.native.cache import ObjectCache, make_key


def test_the_answer_is_llvms(tmp_path: Path) -> None:
    store = ObjectCache(tmp_path / "cache")
    assert machine.environment(store) == jit.environment()
    assert machine.environment(store) == jit.environment()  # now from the store
    assert machine.environment(None) == jit.environment()


def test_native_code_mixes_no_encodings() -> None:
    # One insertq among AVX instructions made gradients of depthwise filters 8 times slower.
    assert "+sse4a" not in select("native").features.split(",")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows whenever LLVM is asked; the processor described is that of each test."""
    calls: list[int] = []
    real = jit.environment()

    def environment() -> tuple[str, ...]:
        calls.append(1)
        return real

    monkeypatch.setattr(jit, "environment", environment)
    cpuinfo.processor.cache_clear()
    return calls


def describe(monkeypatch: pytest.MonkeyPatch, path: Path, flags: str, speed: int) -> None:
    path.write_text(
        f"processor: 0\nflags : {flags}\ncpu MHz : {speed}\n\nprocessor: 1\nflags : x\n"
    )
    monkeypatch.setattr(cpuinfo, "_CPUINFO", path)
    cpuinfo.processor.cache_clear()


def test_another_processor_is_asked_about_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    store, path = ObjectCache(tmp_path / "cache"), tmp_path / "cpuinfo"
    for flags, speed, calls in (("avx", 1, 1), ("avx", 2, 1), ("avx avx2", 2, 2), ("avx", 3, 2)):
        describe(monkeypatch, path, flags, speed)
        machine.environment(store)
        assert len(asked) == calls
    cpuinfo.processor.cache_clear()


def test_without_a_description_llvm_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    monkeypatch.setattr(cpuinfo, "_CPUINFO", tmp_path / "there is none")
    cpuinfo.processor.cache_clear()
    store = ObjectCache(tmp_path / "cache")
    machine.environment(store)
    machine.environment(store)
    assert len(asked) == 2
    cpuinfo.processor.cache_clear()


@pytest.mark.parametrize("kept", [None, "text", [], ["too", "few"], {"a": 1}])
def test_an_answer_of_another_form_is_not_used(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    describe(monkeypatch, tmp_path / "cpuinfo", "avx", 1)
    store = ObjectCache(tmp_path / "cache")
    key = make_key("machine", sys.version, llvmlite.__version__, cpuinfo.processor())
    assert store.put(key, {"environment": kept}, b"")
    machine.environment(store)
    assert len(asked) == 1
    cpuinfo.processor.cache_clear()
