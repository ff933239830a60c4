"""The thread pool by itself: every range once, nested and concurrent callers, modes, many parts,
start and stop.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.codegen.llvm import pool
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import host

LINUX = "linux" in host().triple
pytestmark = pytest.mark.skipif(not LINUX, reason="the pool needs futexes")

# mark: adds 1 to every element of its range. busy: counts calls at work per worker, 64: clashes,
# 65: highest. nested: calls the pool again from inside. tiny: a denormal product.
_BODIES = """
define void @mark(ptr %array, i64 %begin, i64 %end, i64 %worker) {
entry:
  %none = icmp sge i64 %begin, %end
  br i1 %none, label %out, label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %cell = getelementptr i64, ptr %array, i64 %i
  %old = load i64, ptr %cell
  %new = add i64 %old, 1
  store i64 %new, ptr %cell
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}
define void @nested(ptr %array, i64 %begin, i64 %end, i64 %worker) {
  %start = getelementptr i64, ptr %array, i64 %begin
  %count = sub i64 %end, %begin
  call void @gradc_parallel(ptr @mark, ptr %start, i64 %count, i64 3)
  ret void
}
define void @busy(ptr %array, i64 %begin, i64 %end, i64 %worker) {
entry:
  %cell = getelementptr i64, ptr %array, i64 %worker
  %old = atomicrmw add ptr %cell, i64 1 seq_cst
  %clashes = getelementptr i64, ptr %array, i64 64
  %m = atomicrmw add ptr %clashes, i64 %old seq_cst
  %highest = getelementptr i64, ptr %array, i64 65
  %h = atomicrmw umax ptr %highest, i64 %worker seq_cst
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %x = load volatile i64, ptr %cell
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, 300
  br i1 %more, label %loop, label %out
out:
  %o = atomicrmw sub ptr %cell, i64 1 seq_cst
  ret void
}
define void @tiny(ptr %array, i64 %begin, i64 %end, i64 %worker) {
entry:
  %none = icmp sge i64 %begin, %end
  br i1 %none, label %out, label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %cell = getelementptr float, ptr %array, i64 %i
  %x = load volatile float, ptr %cell
  %y = fmul float %x, 0.5
  store volatile float %y, ptr %cell
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}
define void @tiny_flushed(ptr %array, i64 %total, i64 %parts) {
  %old = alloca i32
  %mode = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old)
  %before = load i32, ptr %old
  %flush = or i32 %before, 32832
  store i32 %flush, ptr %mode
  call void @llvm.x86.sse.ldmxcsr(ptr %mode)
  call void @gradc_parallel(ptr @tiny, ptr %array, i64 %total, i64 %parts)
  call void @llvm.x86.sse.ldmxcsr(ptr %old)
  ret void
}
"""


class Pool:
    """A pool of its own, apart from the process's."""

    def __init__(self) -> None:
        target = host()
        text = pool.pool_text(target.triple.split("-")[0], True) + _BODIES
        bodies = ["mark", "busy", "nested", "tiny", "tiny_flushed"]
        control = ["gradc_parallel", "gradc_pool_stop", "gradc_pool_workers"]
        code = jit.compile_object(f'target triple = "{target.triple}"\n{text}', target)
        self.library = jit.Library(code, [*bodies, *control], {})
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        run = ctypes.CFUNCTYPE(None, pointer, pointer, word, word)
        self._run = run(self.library["gradc_parallel"])
        self.stop = ctypes.CFUNCTYPE(None)(self.library["gradc_pool_stop"])
        self.workers = ctypes.CFUNCTYPE(word)(self.library["gradc_pool_workers"])
        flushed = ctypes.CFUNCTYPE(None, pointer, word, word)
        self.flushed = flushed(self.library["tiny_flushed"])

    def run(self, body: str, array: NDArray[Any], parts: int, total: int | None = None) -> None:
        count = array.size if total is None else total
        self._run(self.library[body], array.ctypes.data, count, parts)


@pytest.fixture
def threads() -> Any:
    made = Pool()
    yield made
    made.stop()
    assert made.workers() == 0


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("total", [0, 1, 2, 5, 64, 1001])
def test_every_element_is_done_exactly_once(threads: Pool, total: int, parts: int) -> None:
    array = np.zeros(total, np.int64)
    for _ in range(20):
        threads.run("mark", array, parts)
    assert np.all(array == 20)
    assert threads.workers() == max(0, min(parts, total, pool.MAX_WORKERS + 1) - 1)


def test_a_call_from_inside_runs_where_it_is(threads: Pool) -> None:
    array = np.zeros(500, np.int64)
    for _ in range(50):
        threads.run("nested", array, 4)
    assert np.all(array == 50)


def test_several_callers_at_once(threads: Pool) -> None:
    arrays = [np.zeros(300, np.int64) for _ in range(6)]

    def work(array: NDArray[Any]) -> None:
        for _ in range(200):
            threads.run("mark", array, 3)

    callers = [threading.Thread(target=work, args=(array,)) for array in arrays]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.all(array == 200) for array in arrays)


def test_it_wakes_after_sleeping_and_starts_again_after_stopping(threads: Pool) -> None:
    array = np.zeros(100, np.int64)
    for round_ in range(1, 6):
        threads.run("mark", array, 2)
        threading.Event().wait(0.02)  # long enough for the workers to sleep
        threads.run("mark", array, 2)
        assert np.all(array == 2 * round_)
        if round_ == 3:
            threads.stop()
            assert threads.workers() == 0


@pytest.mark.skipif("x86_64" not in host().triple, reason="MXCSR is an x86 register")
def test_workers_take_the_callers_rounding_mode(threads: Pool) -> None:
    smallest = np.float32(2.0**-126)
    for _ in range(30):
        kept, flushed = np.full(64, smallest), np.full(64, smallest)
        threads.run("tiny", kept, 2)
        threads.flushed(flushed.ctypes.data, flushed.size, 2)
        assert np.all(kept == smallest / 2)
        assert np.all(flushed == 0)


def test_workers_of_a_job_have_numbers_of_their_own_below_its_parts(threads: Pool) -> None:
    """Large and small jobs in turn: a worker that is late from a large one keeps out of a small
    one.
    """
    for _ in range(300):
        for parts in (8, 2, 3):
            array = np.zeros(66, np.int64)
            threads.run("busy", array, parts, 4 * parts)
            assert not array[:65].any(), "two calls at a time had one number"
            assert array[65] < parts
