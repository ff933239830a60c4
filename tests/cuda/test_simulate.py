"""The simulator on texts written by hand: right ones give their results, each kind of fault is
found and named.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from gradc.codegen.cuda.grammar import TextError, parse_text
from gradc.codegen.cuda.program import Parameter, Text
from gradc.codegen.cuda.simulate.memory import Pointer
from gradc.codegen.cuda.simulate.run import Device, text_result
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.passes.prove.domains.field import FieldArrays
from gradc.passes.prove.domains.words import words_of

# Sums of 64 numbers in the order of a fold over lanes, by two warps; each block has its own.
SUM = """
def tree(x, y):
    t = thread()
    b = block()
    parts = shared(f32, 64)
    total = f32(0.0)
    for i in range(t, 256, 64):
        total = total + load(x, 256 * b + i)
    total = total + shuffle_xor(total, 16)
    store(parts, t, total)
    barrier()
    total = total + load(parts, bitxor(t, 32))
    total = total + shuffle_xor(total, 8)
    total = total + shuffle_xor(total, 4)
    total = total + shuffle_xor(total, 2)
    total = total + shuffle_xor(total, 1)
    if t == 0:
        store(y, b, total)
"""


def run(source: str, arrays: list[Any], threads: int = 64, grid: int = 2, **more: Any) -> None:
    """Runs a text; arrays called y are written, z updated."""
    names = [a.arg for a in parse_text(source).kernel.args.args]
    kinds = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "uint64": "f32"}
    access = {"y": "write", "z": "update"}
    parameters = tuple(
        Parameter(name, kinds[str(a.dtype)], access.get(name, "read"), a.size)  # type: ignore
        for name, a in zip(names, arrays, strict=True)
    )
    shared = more.pop("shared", 4096)
    text_result(Text("tree", source, parameters, threads, shared), grid, arrays, **more)


def numbers(count: int) -> Any:
    return np.random.default_rng(3).standard_normal(count).astype(np.float32)


def expected_sum(x: Any) -> Any:
    total = np.zeros(64, np.float32)
    for part in x.reshape(-1, 64):
        total = total + part
    for step in (16, 32, 8, 4, 2, 1):
        total = total + total[np.arange(64) ^ step]
    return total[0]


def test_a_right_text_gives_its_results() -> None:
    x, y = numbers(512), np.full(2, np.nan, np.float32)
    run(SUM, [x, y])
    assert y.tolist() == [expected_sum(x[:256]), expected_sum(x[256:])]


def test_the_same_text_runs_over_a_prime_field() -> None:
    domain = FieldArrays(5)
    x = domain.random((512,), np.random.default_rng(1))
    y = np.zeros(2, np.uint64)
    run(SUM, [x, y], scalars=words_of(domain))
    prime = (1 << 31) - 1
    assert y.tolist() == [sum(map(int, half)) % prime for half in (x[:256], x[256:])]


FAULTS = {
    "no barrier": ("    barrier()\n", "", "race"),
    "a block's neighbour": ("store(y, b, total)", "store(y, 0, total)", "race"),
    "every thread stores": (
        "    if t == 0:\n        store",
        "    if t < 2:\n        store",
        "race",
    ),
    "reads beyond": ("256 * b + i)", "256 * b + i + 1)", "bounds"),
    "reads what is only written": (
        "store(y, b, total)",
        "store(y, b, load(y, b))",
        "uninitialised",
    ),
    "shared memory unwritten": ("store(parts, t, total)", "store(parts, 0 * t, total)", "race"),
    "half of shared memory": (
        "    store(parts, t, total)",
        "    if t < 32:\n        store(parts, t, total)",
        "uninitialised",
    ),
    "a barrier in a branch": ("    barrier()", "    if t < 40:\n        barrier()", "divergence"),
    "a shuffle in a branch": (
        "    total = total + shuffle_xor(total, 16)",
        "    if t < 40:\n        total = total + shuffle_xor(total, 16)",
        "divergence",
    ),
    "a misplaced four": (
        "    if t == 0:\n",
        "    v, w, p, q = load4(x, 4 * t + 1)\n    if t == 0:\n",
        "alignment",
    ),
    "a store into what is read": ("store(y, b, total)", "store(x, b, total)", "bounds"),
    "two types": ("total = total + load", "total = f64(total) + load", "text"),
    "more shared memory than declared": ("shared(f32, 64)", "shared(f32, 2048)", "launch"),
    "dynamic memory that no launch gives": ("shared(f32, 64)", "dynamic(f32, 64, 0)", "launch"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_kind_of_fault_is_found(name: str) -> None:
    old, new, kind = FAULTS[name]
    assert old in SUM
    with pytest.raises(SimulationError) as found:
        run(SUM.replace(old, new), [numbers(512), np.zeros(2, np.float32)])
    assert found.value.kind == kind


DYNAMIC = SUM.replace("shared(f32, 64)", "dynamic(f32, 64, 49152)").replace(
    "    barrier()",
    "    other = dynamic(f32, 64, 256)\n    store(other, t, total)\n    barrier()",
    1,
)
DYNAMIC_FAULTS = {
    "two parts in one place": ("dynamic(f32, 64, 256)", "dynamic(f32, 64, 49152)", "launch"),
    "beyond what a launch gives": ("64, 49152)", "64, 49408)", "launch"),
    "between wide accesses": ("dynamic(f32, 64, 256)", "dynamic(f32, 64, 260)", "alignment"),
    "static memory beside": ("dynamic(f32, 64, 256)", "shared(f32, 64)", "launch"),
    "beyond its own part": ("store(other, t,", "store(other, t + 64,", "bounds"),
}


def test_faults_of_dynamic_memory_are_found() -> None:
    arrays = [numbers(512), np.zeros(2, np.float32)]
    run(DYNAMIC, arrays, shared=49152 + 256)
    assert arrays[1].tolist() == [expected_sum(arrays[0][:256]), expected_sum(arrays[0][256:])]
    for name, (old, new, kind) in DYNAMIC_FAULTS.items():
        assert old in DYNAMIC, name
        with pytest.raises(SimulationError) as found:
            run(DYNAMIC.replace(old, new), arrays, shared=49152 + 256)
        assert found.value.kind == kind, name


def test_a_read_by_one_block_and_a_later_write_by_another_race() -> None:
    source = """
def tree(z):
    v = load(z, 1)
    barrier()
    if block() == 1:
        if thread() == 0:
            store(z, 1, v)
"""
    with pytest.raises(SimulationError, match="race"):
        run(source, [numbers(4)])


# Shared memory of two halves: one is read, the other written, in one interval.
HALVES = """
def tree(x, y):
    t = thread()
    b = block()
    parts = shared(f32, 128)
    store(parts, t, load(x, 64 * b + t))
    barrier()
    total = f32(0.0)
    for n in range({trips}):
        total = total + load(parts, bitxor({read}, 1))
    store(parts, 64 + t, total)
    {after}
    store(y, 64 * b + t, total + load(parts, 64 + bitxor(t, 3)))
"""


@pytest.mark.parametrize("trips", [1, 300], ids=["one read", "reads that are noted by cells"])
def test_reads_and_writes_of_one_interval_meet_by_cells(trips: int) -> None:
    x, y = numbers(128), np.zeros(128, np.float32)
    right = HALVES.format(trips=trips, read="t", after="barrier()")
    run(right, [x, y])
    assert np.isfinite(y).all() and y.any()
    faults = {
        "store(parts, 64 + t, total)": "store(parts, bitxor(t, 1) + 1 - bitand(t, 1), total)",
        "    store(parts, 64": "    if t < 9:\n        store(parts, t, total)\n    store(parts, 64",
        "    barrier()\n    store(y": "    store(y",
    }
    for old, new in faults.items():
        assert old in right
        with pytest.raises(SimulationError, match="race"):
            run(right.replace(old, new), [x, y])


COPIED = """
def tree(x, y):
    t = thread()
    b = block()
    parts = shared(f32, 64)
    copy_async(parts, t, x, 64 * b + t, 1, t < 48)
    commit_copies()
    wait_copies(0)
    barrier()
    store(y, 64 * b + t, load(parts, bitxor(t, 5)))
"""


def test_copies_are_there_after_their_wait_and_a_barrier() -> None:
    x, y = numbers(128), np.full(128, np.nan, np.float32)
    run(COPIED, [x, y])
    whole = np.where(np.arange(64) < 48, x.reshape(2, 64), 0)
    np.testing.assert_array_equal(y.reshape(2, 64), whole[:, np.arange(64) ^ 5])
    for gone in ("    wait_copies(0)\n", "    barrier()\n", "    wait_copies(0)\n    barrier()\n"):
        with pytest.raises(SimulationError, match="race"):
            run(COPIED.replace(gone, ""), [x, y])


def test_memory_that_a_launch_reads_and_writes_is_watched_though_one_pointer_only_reads() -> None:
    source = """
def tree(x, z):
    v = load(x, bitxor(thread(), 1))
    store(z, thread(), v)
"""
    text = Text(
        "tree",
        source,
        (Parameter("x", "f32", "read", 64), Parameter("z", "f32", "update", 64)),
        64,
        0,
    )
    for start, is_race in ((0, True), (4 * 63, True), (4 * 64, False)):
        device = Device()
        space = device.space("arena", numbers(128).view(np.uint8), True)
        pointers = [
            Pointer("x", space, 0, "f32", 64, "read"),
            Pointer("z", space, start, "f32", 64, "update"),
        ]
        with pytest.raises(SimulationError, match="race") if is_race else nullcontext():
            device.launch(text, 1, pointers)


def test_lanes_of_loops_and_branches_keep_what_is_theirs() -> None:
    source = """
def tree(x, y):
    t = thread()
    total = f32(0.0)
    for i in range(t):
        total = total + load(x, i)
    if t < 10:
        total = f32(1.0)
    else:
        total = total + total
    n = t
    while n > 60:
        n = n - 1
        total = total + f32(1.0)
    store(y, t, total)
"""
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    run(source, [x, y], grid=1)
    wanted = [1.0 if t < 10 else t * (t - 1.0) + max(t - 60, 0) for t in range(64)]
    assert y.tolist() == wanted


@pytest.mark.parametrize(
    "line",
    [
        "x = y",
        "y = __import__('os')",
        "y = a.b",
        "y = [load(a, 0)]",
        "y = 3 // 2",
        "y = lambda: 1",
        "import os",
        "y = load(a)",
        "y = shuffle_xor(load(a, 0), n)",
        "y = not 1",
        "load = 3",
        "if 1 < 2:\n        y = 1\n    z = y",
        "y: int = 3",
    ],
)
def test_what_is_no_text_is_refused(line: str) -> None:
    with pytest.raises(TextError):
        parse_text(f"def tree(a, n):\n    {line}\n")
