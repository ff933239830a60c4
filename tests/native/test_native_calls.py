"""Plans run natively: launches, rolled repeats, threads, both ways to call, refusals, concurrency,
forks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm import driver
from gradc.codegen.llvm.host import wrapper
from gradc.codegen.llvm.host.load import calls, pool_workers
from gradc.codegen.llvm.isa import host, select
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Repeat, Tensor
from gradc.ir.plan.verify import PlanError
from gradc.ir.tensor.core import Role
from gradc.runtime.native import load as native
from gradc.runtime.native.cache import ObjectCache
from tests.support.llvm_kernels import sets
from tests.support.native_plans import (
    F32,
    Array,
    elementwise,
    mlp,
    mlp_arrays,
    mlp_reference,
    scan,
)


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache")


def load(plan: Plan, cache: ObjectCache, threads: int = 1, isa: str | None = None) -> Any:
    return native.compile_plan(plan, threads=threads, isa=isa, cache=cache)


@pytest.mark.parametrize("isa", sets())
def test_a_plan_computes_what_it_says(cache: ObjectCache, isa: str) -> None:
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache, isa=isa)
    arrays = mlp_arrays(plan)
    expected = mlp_reference(arrays)
    function.call(arrays)
    np.testing.assert_allclose(arrays[-1], expected, rtol=1e-5, atol=1e-5)
    assert function.measured_bytes == function.plan.peak_bytes > plan.peak_bytes


@pytest.mark.parametrize("level", [1, 2, 3])
def test_llvm_passes_change_no_bit(level: int) -> None:
    plan = mlp(33, 40, 50, 20)
    plain, passed = mlp_arrays(plan), mlp_arrays(plan)
    native.compile_plan(plan, threads=1, cache=False).call(plain)
    native.compile_plan(plan, threads=1, cache=False, level=level).call(passed)
    assert np.array_equal(plain[-1], passed[-1])


@pytest.mark.parametrize("trips", [0, 1, 2, 7])
def test_repeats_stay_rolled_with_strides_parity_and_counter(
    cache: ObjectCache, trips: int
) -> None:
    plan = scan(trips, 5)
    rng = np.random.default_rng(trips)
    h = rng.standard_normal((2, 5)).astype(np.float32)
    x = rng.standard_normal((trips, 5)).astype(np.float32)
    y = np.zeros((trips, 5), np.float32)
    state, expected = h[0].copy(), []
    for t in range(trips):
        state = state * x[t]
        expected.append(state + np.float32(t))
    load(plan, cache).call([h, x, y])
    assert np.array_equal(y, np.array(expected, np.float32).reshape(trips, 5))
    assert driver.generate(plan, select()).launches == 2


def test_nested_repeats_add_their_strides(cache: ObjectCache) -> None:
    """y[i, j] = a[i] * b[j], three by four, by one launch inside two loops."""
    shapes = ((3, 2), (4, 2), (3, 4, 2))
    tensors = tuple(Tensor(f"t{n}", shape, F32, "argument", n) for n, shape in enumerate(shapes))
    ports = (
        Port("a", Role.INPUT, shapes[0], F32, "in", 0),
        Port("b", Role.INPUT, shapes[1], F32, "in", 1),
        Port("y", Role.OUTPUT, shapes[2], F32, "out", 2),
    )
    launch = Launch(0, (Argument(0, 0, (2, 0)), Argument(1, 0, (0, 2)), Argument(2, 0, (8, 2))))
    steps = (Repeat(3, (Repeat(4, (launch,)),)),)
    plan = Plan("outer", ports, tensors, (elementwise("times", 2, "mul"),), steps, 0)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in shapes[:2])
    y = np.zeros(shapes[2], np.float32)
    load(plan, cache).call([a, b, y])
    assert np.array_equal(y, a[:, None, :] * b[None, :, :])


def test_views_are_addressed_through_their_roots(cache: ObjectCache) -> None:
    """A view at an offset inside another arena tensor, and one inside an argument."""
    tensors = (
        Tensor("x", (4, 3), F32, "argument", 0),
        Tensor("y", (3,), F32, "argument", 1),
        Tensor("row", (3,), F32, "argument", 0, root=0, root_offset=24),
        Tensor("pool", (32,), F32, "arena", offset=64),
        Tensor("part", (3,), F32, "arena", root=3, root_offset=40),
    )
    ports = (
        Port("x", Role.INPUT, (4, 3), F32, "in", 0),
        Port("y", Role.OUTPUT, (3,), F32, "out", 1),
    )
    add = elementwise("plus", 3, "add")
    steps = (
        Launch(0, (Argument(0, 3), Argument(2), Argument(4))),
        Launch(0, (Argument(3, 10), Argument(0), Argument(1))),
    )
    plan = Plan("views", ports, tensors, (add,), steps, 192)
    x = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2
    y = np.zeros(3, np.float32)
    load(plan, cache).call([x, y])
    assert np.array_equal(y, x[1] + x[2] + x[0])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bits_do_not_depend_on_the_number_of_threads(cache: ObjectCache, threads: int) -> None:
    plan = mlp(150, 200, 190, 170)
    assert all(driver.worthwhile_parts(kernel, host().costs) > 1 for kernel in plan.kernels)
    one, many = mlp_arrays(plan), mlp_arrays(plan)
    many[-1][:] = np.nan
    load(plan, cache, 1).call(one)
    function = load(plan, cache, threads)
    for _ in range(20):
        function.call(many)
        assert np.array_equal(one[-1], many[-1])
    assert pool_workers() >= 1


def test_parallel_loops_are_cut_into_ranges_that_cover_all(cache: ObjectCache) -> None:
    size = 100_003
    kernel = replace(elementwise("plus", size, "add", "grid"), flops=10**9)
    tensors = tuple(Tensor(n, (size,), F32, "argument", p) for p, n in enumerate("abc"))
    ports = tuple(
        Port(t.name, Role.INPUT, t.shape, F32, "out" if t.name == "c" else "in", p)
        for p, t in enumerate(tensors)
    )
    launch = Launch(0, tuple(map(Argument, range(3))))
    plan = Plan("plus", ports, tensors, (kernel,), (launch,), 0)
    a, b = np.arange(size, dtype=np.float32), np.full(size, 0.5, np.float32)
    c = np.full(size, np.nan, np.float32)
    load(plan, cache, 5).call([a, b, c])
    assert np.array_equal(c, a + b)


def test_twenty_thousand_launches_are_data(cache: ObjectCache) -> None:
    """y = x + x + ... : however many launches, one kernel and the same few functions."""
    count, size = 20_000, 3
    tensors = (
        Tensor("x", (size,), F32, "argument", 0),
        Tensor("y", (size,), F32, "argument", 1),
    )
    ports = (
        Port("x", Role.INPUT, (size,), F32, "in", 0),
        Port("y", Role.STATE, (size,), F32, "inout", 1),
    )
    add = elementwise("plus", size, "add")
    launch = Launch(0, (Argument(0), Argument(1), Argument(1)))
    unused = elementwise("times", size, "mul")
    plan = Plan("sums", ports, tensors, (add, unused), (launch,) * count, 0)
    program = driver.generate(plan, select())
    assert (program.launches, program.kernels) == (count, 1)
    assert program.text.count("define ") == 4  # kernel, its adapter, the walk, the entry
    x, y = np.array([1, 2, -1], np.float32), np.zeros(size, np.float32)
    load(plan, cache).call([x, y])
    assert np.array_equal(y, count * x)


def test_nothing_outside_the_arena_is_touched(cache: ObjectCache) -> None:
    function = load(mlp(23, 31, 45, 6), cache, threads=2)
    plan = function.plan
    arrays = mlp_arrays(plan)
    block = np.full(plan.arena_bytes + 2 * 4096, 0xA5, np.uint8)
    start = 2048 + (-(block.ctypes.data + 2048)) % 64
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    function._entry(pointers, block.ctypes.data + start, 64)  # more than there is scratch for
    np.testing.assert_allclose(arrays[-1], mlp_reference(arrays), rtol=1e-4, atol=1e-4)
    assert np.all(block[:start] == 0xA5)
    assert np.all(block[start + plan.arena_bytes :] == 0xA5)
    assert not np.all(block[start : start + plan.arena_bytes] == 0xA5)


# ---- the two ways to call
# -------------------------------------------------------------------------


def test_the_machine_code_call_and_ctypes_agree(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache)
    fast, slow = mlp_arrays(plan), mlp_arrays(plan)
    assert function.fast(*fast) is None
    function.call_checked(slow)
    assert np.array_equal(fast[-1], slow[-1])


def test_the_calls_from_python_are_the_same_code_for_all_programs(cache: ObjectCache) -> None:
    one, two = load(mlp(9, 7, 20, 5), cache), load(mlp(3, 4, 5, 6), cache)
    assert one.fast.__self__ is not two.fast.__self__
    for function in (one, two):
        defined = [line for line in function.llvm_text.splitlines() if line.startswith("define")]
        assert not any("@Py" in line or "_named" in line for line in defined)
        assert "Py" not in function.llvm_text and b"PyDict" not in function.object_bytes
    assert calls(cache) is calls(None)


NOTHING: dict[str, Array] = {}


def test_a_named_call_finds_its_arrays_and_makes_the_results(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    roles = (*[Role.PARAM] * 5, Role.COTANGENT)
    roles = (Role.INPUT, *roles[1:])
    ports = tuple(replace(p, role=r) for p, r in zip(plan.ports, roles, strict=True))
    function = load(replace(plan, ports=ports), cache)
    arrays = mlp_arrays(plan)
    given = dict(zip(("w1", "b1", "w2", "b2"), arrays[1:5], strict=True))
    function.call(arrays)
    found = function.named_call(given, {"x": arrays[0]}, NOTHING)
    assert found is not None
    loss, outputs, cotangents, tangents = found
    assert loss is None and outputs == {} and tangents == {}
    assert list(cotangents) == ["y"]
    y = cotangents["y"]
    assert np.array_equal(y, arrays[-1])
    assert y.flags.c_contiguous and y.flags.owndata and y.flags.writeable
    # A second call makes other arrays than those that are held; nothing is lost, and nothing held
    # on to but the results of two calls (tests/native/test_native_recycle.py).
    held = [sys.getrefcount(x) for x in (*arrays, *given)]
    of_y = sys.getrefcount(y)
    for _ in range(50):
        again = function.named_call(given, {"x": arrays[0]}, NOTHING)
        assert again is not None and again[2]["y"] is not y
    for bad in (
        {k: v for k, v in given.items() if k != "b2"},
        {**given, "more": arrays[1]},
        {**{k: v for k, v in given.items() if k != "b2"}, "b3": given["b2"]},
        {**given, "w2": given["w2"].astype(np.float64)},
        {**given, "w2": 3},
        [given],
        None,
    ):
        for _ in range(20):
            assert function.named_call(bad, {"x": arrays[0]}, NOTHING) is None
    del again
    assert held == [sys.getrefcount(x) for x in (*arrays, *given)]
    assert of_y - 1 <= sys.getrefcount(y) <= of_y


def test_a_named_call_returns_the_loss_alone(cache: ObjectCache) -> None:
    kernel = elementwise("plus", 1, "add")
    tensors = tuple(Tensor(n, (), F32, "argument", p) for p, n in enumerate("abc"))
    ports = (
        Port("a", Role.PARAM, (), F32, "in", 0),
        Port("b", Role.SEED, (), F32, "in", 1),
        Port("loss", Role.LOSS, (), F32, "out", 2),
    )
    launch = Launch(0, tuple(map(Argument, range(3))))
    function = load(Plan("plus", ports, tensors, (kernel,), (launch,), 0), cache)
    two, three = np.array(2, np.float32), np.array(3, np.float32)
    found = function.named_call({"a": two}, NOTHING, {"b": three})
    assert found is not None and found[0] is not None
    assert found[0].shape == () and found[0] == 5
    assert found[1:] == ({}, {}, {})


def _bad(arrays: list[Array], number: int, how: str) -> list[Any]:
    changed: list[Any] = list(arrays)
    array = arrays[number]
    if how == "list":
        changed[number] = array.tolist()
    elif how == "dtype":
        changed[number] = array.astype(np.float64)
    elif how == "swapped":
        changed[number] = array.astype(">f4")
    elif how == "rank":
        changed[number] = array[None]
    elif how == "shape":
        changed[number] = np.concatenate([array, array])
    elif how == "fortran":
        changed[number] = np.asfortranarray(array)
    elif how == "strided":
        changed[number] = np.repeat(array, 2, axis=-1)[..., ::2]
    elif how == "misaligned":
        room = np.zeros(array.nbytes + 1, np.uint8)[1:]
        changed[number] = room.view(np.float32).reshape(array.shape)
    return changed


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("list", "GC0551", "list"),
        ("dtype", "GC0552", "float64"),
        ("swapped", "GC0552", ">f4"),
        ("rank", "GC0555", "[1, 9, 7]"),
        ("shape", "GC0555", "[18, 7]"),
        ("fortran", "GC0557", "row-major"),
        ("strided", "GC0557", "row-major"),
        ("misaligned", "GC0557", "aligned"),
    ],
)
def test_what_does_not_fit_is_refused_by_both_and_named(
    cache: ObjectCache, how: str, code: str, words: str
) -> None:
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache)
    arrays = mlp_arrays(plan)
    before = arrays[-1].copy()
    bad = _bad(arrays, 0, how)
    assert function.fast(*bad) == 0
    with pytest.raises(DiagnosticError) as caught:
        function.call(bad)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert "`x`" in found.message and words in found.message
    assert np.array_equal(arrays[-1], before)


def test_a_read_only_result_and_a_wrong_count_are_refused(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache)
    arrays = mlp_arrays(plan)
    assert function.fast(*arrays[:-1]) == wrapper.WRONG_COUNT
    with pytest.raises(DiagnosticError, match="takes 6 arrays"):
        function.call(arrays[:-1])
    arrays[0].flags.writeable = False  # an input may be read-only
    assert function.fast(*arrays) is None
    arrays[-1].flags.writeable = False
    assert function.fast(*arrays) == 5
    with pytest.raises(DiagnosticError, match="read-only"):
        function.call(arrays)


def test_every_misfit_is_reported_at_once(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache)
    bad = _bad(_bad(mlp_arrays(plan), 0, "dtype"), 3, "shape")
    with pytest.raises(DiagnosticError) as caught:
        function.call(bad)
    assert [d.code for d in caught.value.diagnostics] == ["GC0552", "GC0555"]


def test_equal_dtypes_that_are_other_objects_are_accepted(cache: ObjectCache) -> None:
    """An unpickled or renamed dtype is not the same object; the ctypes way takes it."""
    plan = mlp(9, 7, 20, 5)
    function = load(plan, cache)
    arrays = mlp_arrays(plan)
    arrays[0] = arrays[0].view(np.dtype(np.float32, metadata={"unit": "m"}))
    function.call(arrays)
    np.testing.assert_allclose(arrays[-1], mlp_reference(arrays), rtol=1e-5, atol=1e-5)


def test_many_threads_call_the_same_function(cache: ObjectCache) -> None:
    plan = mlp(120, 130, 140, 150)
    function = load(plan, cache, 2)
    sets = [mlp_arrays(plan, seed) for seed in range(6)]
    expected = []
    for arrays in sets:
        function.call(arrays)
        expected.append(arrays[-1].copy())
    wrong: list[int] = []

    def work(number: int) -> None:
        arrays = [a.copy() for a in sets[number]]
        for _ in range(30):
            arrays[-1][:] = np.nan
            function.call(arrays)
            if not np.array_equal(arrays[-1], expected[number]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert 1 <= function.arenas <= 7


def test_functions_come_from_the_cache_with_or_without_their_plan(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    key = native.native_key("mlp", "9 7 20 5")
    assert native.load_native(key, threads=1, cache=cache) is None
    first = native.compile_plan(plan, threads=1, cache=cache, key=key)
    again = native.load_native(key, threads=1, cache=cache)
    assert again is not None
    assert again.plan is None and again.signature == first.signature
    assert again.object_bytes == first.object_bytes
    one, two = mlp_arrays(plan), mlp_arrays(plan)
    first.call(one)
    again.call(two)
    assert np.array_equal(one[-1], two[-1])
    assert native.compile_plan(plan, threads=1, cache=False).object_bytes == first.object_bytes


# ---- Plans that contradict themselves
# --------------------------------------------------------------


def test_incomplete_or_contradictory_plans_are_refused() -> None:
    plan = mlp(9, 7, 20, 5)
    hidden = plan.tensors[-1]

    def changed(**fields: Any) -> Plan:
        return replace(plan, tensors=(*plan.tensors[:-1], replace(hidden, **fields)))

    launch = plan.steps[0]
    assert isinstance(launch, Launch)
    far = replace(launch, arguments=(Argument(0, 1), *launch.arguments[1:]))
    repeated = replace(launch, arguments=(Argument(0, 0, (1,)), *launch.arguments[1:]))
    bad = {
        "no place": changed(offset=None),
        "leaves its storage": changed(offset=64),
        "not aligned": changed(offset=8),
        "a view of itself": changed(root=6),
        "leaves tensor x": replace(plan, steps=(far,)),
        "leaves tensor": replace(plan, steps=(Repeat(2, (repeated,)),)),
        "arguments": replace(plan, steps=(replace(launch, arguments=launch.arguments[:2]),)),
        "cannot be the name": replace(plan, name="two words"),
    }
    for words, broken in bad.items():
        with pytest.raises(PlanError, match=words):
            driver.generate(broken, select())


# ---- processes
# ------------------------------------------------------------------------------------

_SCRIPT = """
import sys, os, faulthandler
sys.path[:0] = [{tests!r}]
faulthandler.enable()
import numpy as np
import tests.support.native_plans as t
from pathlib import Path
from gradc.codegen.llvm.host.load import pool_workers
from gradc.runtime.native import load as native
from gradc.runtime.native.cache import ObjectCache
cache = ObjectCache(Path({cache!r}))
plan = t.mlp(150, 200, 190, 170)
arrays = t.mlp_arrays(plan)
function = native.compile_plan(plan, threads=2, cache=cache)
function.call(arrays)
expected = arrays[-1].copy()
"""


def _run(script: str, cache: ObjectCache, timeout: float = 120) -> str:
    text = (
        _SCRIPT.format(tests=str(Path(__file__).parent.parent.parent), cache=str(cache.directory))
        + script
    )
    environment = {**os.environ, "GRADC_CACHE": str(cache.directory)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        capture_output=True,
        check=False,
        text=True,
        timeout=timeout,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_pool_survives_forks_and_ends_with_the_process(cache: ObjectCache) -> None:
    out = _run(
        """
assert pool_workers() == 1
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        assert pool_workers() == 0
        arrays[-1][:] = 0
        function.call(arrays)
        assert pool_workers() == 1
        os._exit(0 if np.array_equal(arrays[-1], expected) else 1)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
function.call(arrays)
assert np.array_equal(arrays[-1], expected)
print("ok")
""",
        cache,
    )
    assert out == "ok\n"


def test_processes_that_meet_at_a_cold_cache(cache: ObjectCache) -> None:
    """Five at once compile or load the same function; all get the same bits and leave whole
    entries.
    """
    script = """
import hashlib
print(hashlib.blake2b(expected.tobytes()).hexdigest())
"""
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: _run(script, cache), range(5)))
    assert len(set(found)) == 1 and len(found[0]) == 129
    assert {p.suffix for p in cache.directory.iterdir()} == {".gco"}


def test_threads_that_compile_at_once(cache: ObjectCache) -> None:
    def work(number: int) -> bool:
        plan = mlp(9, 7 + number % 3, 20, 5)
        arrays = mlp_arrays(plan, number)
        native.compile_plan(plan, threads=2, cache=cache if number % 2 else False).call(arrays)
        return np.allclose(arrays[-1], mlp_reference(arrays), rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


def test_without_a_cache_nothing_is_written(cache: ObjectCache) -> None:
    tests = str(Path(__file__).parent.parent.parent)
    script = f"""
import sys
sys.path[:0] = [{tests!r}]
import tests.support.native_plans as t
from gradc.codegen.llvm.host.load import pool_workers
from gradc.runtime.native import load as native
plan = t.mlp(150, 200, 190, 170)
native.compile_plan(plan, threads=2, cache=False).call(t.mlp_arrays(plan))
assert pool_workers() == 1
"""
    environment = {**os.environ, "GRADC_CACHE": str(cache.directory)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert not cache.directory.exists()


def test_workers_do_not_take_the_signals_of_the_main_thread(cache: ObjectCache) -> None:
    out = _run(
        f"""
import time
def handler(number, frame):
    raise KeyboardInterrupt
import signal
signal.signal({int(signal.SIGUSR1)}, handler)
import threading
threading.Timer(0.2, lambda: os.kill(os.getpid(), {int(signal.SIGUSR1)})).start()
start = time.monotonic()
try:
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - start < 10)
""",
        cache,
    )
    assert out == "interrupted True\n"


def test_a_damaged_entry_is_compiled_again(cache: ObjectCache) -> None:
    plan = mlp(9, 7, 20, 5)
    key = native.native_key("damaged")
    good = native.compile_plan(plan, threads=1, cache=cache, key=key)
    path = cache.directory / f"{key}.gco"
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = native.compile_plan(plan, threads=1, cache=cache, key=key)
    assert again.object_bytes == good.object_bytes
    arrays = mlp_arrays(plan)
    again.call(arrays)
    np.testing.assert_allclose(arrays[-1], mlp_reference(arrays), rtol=1e-5, atol=1e-5)
    assert native.load_native(key, threads=1, cache=cache) is not None
