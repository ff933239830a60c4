"""Timed programs give the bits of the product and account for every launch; measured limits are
kept and found again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.codegen.backend import Loaded, backend
from gradc.codegen.llvm import clock, driver
from gradc.codegen.llvm.host import jit, measure
from gradc.codegen.llvm.isa import host, select
from gradc.codegen.measured import Clocked, Limits
from gradc.ir.plan.plan import Plan
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.compiled import pure
from gradc.runtime.native import limits as measured
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array
from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.native.compile import Options, plan_of
from gradc.runtime.native.limits import described, limits
from gradc.runtime.native.load import cache_of, compile_plan
from tests.support.llvm_kernels import sets
from tests.support.machines import quick_limits

RECURRENT = """
dim B, T, H = 8
model m(x: float[T, B, H], y: float[B, H]) -> float {
    use rnn = gru(H, H)
    hs = rnn(x)
    return mse(hs[-1], y)
}
"""
WIDE = """
dim B
model m(x: float[B, 300], y: float[B, 200]) -> float {
    use fc = dense(300, 200)
    return mse(gelu(fc(x)), y)
}
"""


def compiled(text: str, threads: int, **dims: int) -> tuple[Loaded, list[Array]]:
    """The gradient of a program, and arrays for its ports."""
    net = gradc.loads(text, dims=dims)
    model = net.lower(net.dims)
    given = {**net.init(0, net.dims), **random_inputs(net, {}, 1)}
    plan = plan_of(model.function, pure(net.gradient_of()), Options(threads=threads))
    native = compile_plan(plan, threads=threads)
    arrays = [
        given[p.name] if p.direction == "in" else np.zeros(p.shape, NUMPY_DTYPE[p.dtype])
        for p in native.signature.ports
    ]
    return native, arrays


def clocked(plan: Plan, threads: int) -> Clocked:
    return backend("cpu").clocked(plan, threads, cache_of(True))


@pytest.mark.parametrize(
    ("text", "dims"), [(RECURRENT, {"T": 9, "B": 3}), (WIDE, {"B": 257}), (WIDE, {"B": 1})]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_timed_programs_give_the_same_bits(text: str, dims: dict[str, int], threads: int) -> None:
    native, arrays = compiled(text, threads, **dims)
    assert native.plan is not None
    native.call(arrays)
    expected = [array.tobytes() for array in arrays]
    for port, array in zip(native.signature.ports, arrays, strict=True):
        if port.direction == "out":
            array.fill(7)
    clocked(native.plan, threads).call(arrays, 2)
    assert [array.tobytes() for array in arrays] == expected


def test_every_launch_is_timed_and_within_the_whole() -> None:
    native, arrays = compiled(RECURRENT, 2, T=9, B=3)
    assert native.plan is not None
    found = clocked(native.plan, 2).call(arrays, 3)
    launches = list(native.plan.launches)
    assert [item.launch for item in found.launches] == launches
    assert {item.runs for item in found.launches} >= {1, 9}
    assert 0 < sum(item.seconds for item in found.launches) <= found.seconds
    for item in found.launches:
        assert 0 < item.busiest <= item.busy
        assert item.busiest <= item.seconds
        assert item.busy <= item.parts * item.busiest * (1 + 1e-9)


def test_a_launch_of_several_threads_says_so() -> None:
    native, arrays = compiled(WIDE, 2, B=257)
    assert native.plan is not None
    found = clocked(native.plan, 2).call(arrays)
    assert 2 in {item.parts for item in found.launches}
    alone = clocked(native.plan, 1).call(arrays)
    assert {item.parts for item in alone.launches} == {1}


def test_a_program_that_is_not_timed_has_nothing_of_it() -> None:
    native, _ = compiled(WIDE, 2, B=1)
    assert native.plan is not None
    plain = driver.generate(native.plan, host()).text
    assert "gradc.now" not in plain
    assert "gradc.log" not in plain


@pytest.mark.parametrize("isa", sets())
def test_clocks_of_all_processors_compile(isa: str) -> None:
    native, _ = compiled(WIDE, 1, B=1)
    assert native.plan is not None
    target = select(isa)
    text = driver.generate(native.plan, target, is_timed=True).text
    assert jit.compile_object(text, target)
    other = text.replace(
        clock.definitions(native.plan.name, "x86_64"),
        clock.definitions(native.plan.name, "aarch64"),
    )
    assert "clock_gettime" in other
    assert jit.compile_object(other, target)


def test_limits_are_measured_kept_and_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_limits(monkeypatch)
    store, said = ObjectCache(tmp_path / "cache"), list[str]()
    first = limits(2, store=store, report=said.append)
    assert limits(2, store=store, report=said.append) == first
    assert [text.split()[2] for text in said] == ["2", "1"]
    alone = limits(1, store=store, report=said.append)
    assert len(said) == 2
    assert all(first.flops[name] >= rate for name, rate in alone.flops.items())
    assert all(a[1] >= b[1] for a, b in zip(first.bandwidth, alone.bandwidth, strict=True))
    limits(2, store=store, report=said.append, anew=True)
    assert len(said) == 3
    assert first.peak("f32") > 0 and first.peak("f16") == first.peak("f32")
    assert [size for size, _ in first.bandwidth] == [1 << 14, 1 << 18, 1 << 20]
    assert "GF/s" in described(first)


def test_limits_are_not_kept_where_the_cache_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Limits("p", "d", 1, {"f32": 1e9}, ((1024, 2e9), (4096, 1e9)), 1.0)
    monkeypatch.setattr(measure, "measure", lambda *_: made)
    monkeypatch.setattr(measured, "_UNKEPT", measured._Unkept())
    store, said = ObjectCache(tmp_path / "cache"), list[str]()
    monkeypatch.setenv("GRADC_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        assert limits(1, keep=False, report=said.append) == made
    assert len(said) == 1
    assert store.info().entries == 0
    limits(1)
    assert store.info().entries == 1


def test_a_damaged_entry_of_limits_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Limits("p", "d", 1, {"f32": 1e9}, ((1024, 2e9), (4096, 1e9)), 1.0)
    monkeypatch.setattr(measure, "measure", lambda *_: made)
    store = ObjectCache(tmp_path / "cache")
    limits(1, store=store)
    (path,) = (tmp_path / "cache").glob("*.gco")
    header = {**made.to_json(), "flops": {"f64": 1.0}}
    assert store.put(path.stem, header, b"")
    assert limits(1, store=store) == made


def test_bandwidth_is_that_of_caches_that_can_hold_the_bytes() -> None:
    found = Limits("p", "d", 1, {"f32": 1e9}, ((1000, 9e9), (4000, 3e9), (16000, 4e9)), 1.0)
    assert [found.bandwidth_for(n) for n in (10, 1000, 3999, 4000, 15999, 16000, 10**9)] == [
        *([9e9] * 3),
        *([4e9] * 4),
    ]
    assert found.memory == 4e9


def test_a_backend_that_keeps_no_time_says_so() -> None:
    net = gradc.loads(WIDE, dims={"B": 1})
    with pytest.raises(gradc.DiagnosticError, match="keeps no time") as refused:
        net.value_and_grad(target="reference").profile(net.init(0), **random_inputs(net, {}, 1))
    assert [d.code for d in refused.value.diagnostics] == ["GC0563"]
