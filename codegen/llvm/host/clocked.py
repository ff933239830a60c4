"""Programs that keep time: a Plan as code that logs every launch (``codegen.llvm.clock``).

The same kernels run as in the program that is not timed, in the same order on the same bytes, so
the results are the same to the bit; only reading the clock comes on top. The code is made and
cached apart from the product's, which knows nothing of it.

Invariants: calls from several threads wait for each other.
Non-goals: what the times mean (``runtime.reports.profile``).
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence

import numpy as np

from gradc.codegen.backend import Array, Store
from gradc.codegen.llvm import clock, driver
from gradc.codegen.llvm.gemm.blocking import is_paired
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.host.load import Arenas, imports
from gradc.codegen.llvm.host.machine import environment
from gradc.codegen.llvm.isa import host
from gradc.codegen.measured import CallTime, LaunchTime
from gradc.ir.loop.kernel import Gemm, Kernel
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType

# How long the tick is watched against the system's clock.
_WATCHED = 0.02


def precision_of(kernel: Kernel) -> str:
    """Which of the processor's peaks a kernel could reach: ``f64``, ``f32`` or ``bf16``."""
    products = [statement for statement in kernel.body if isinstance(statement, Gemm)]
    if products and all(is_paired(product, host()) for product in products):
        return "bf16"
    return "f64" if any(b.dtype is DType.F64 for b in kernel.buffers) else "f32"


class ClockedFunction:
    """The timed code of a complete Plan, loaded."""

    def __init__(self, plan: Plan, threads: int, store: Store | None) -> None:
        """Compiles ``plan`` (which has its scratch) for this processor, or finds its code."""
        isa = host()
        text = driver.generate(plan, isa, is_timed=True).text
        key = "" if store is None else store.key(*environment(store), "timed", text)
        entry = None if store is None else store.get(key)
        code = jit.compile_object(text, isa) if entry is None else entry.code
        if entry is None and store is not None:
            store.put(key, {}, code)
        names = (plan.name, f"{plan.name}_ticks")
        self._library = jit.Library(code, names, imports(store))
        pointer = ctypes.c_void_p
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, ctypes.c_int64, pointer)
        self._entry = kind(self._library[plan.name])
        self._ticks = ctypes.CFUNCTYPE(ctypes.c_int64)(self._library[names[1]])
        self._sites = driver.sites(plan, isa)
        last = max((site.word for site in self._sites), default=0)
        self._log = np.zeros(clock.HEAD + last + len(clock.FIELDS), np.int64)
        self._arenas = Arenas(plan.arena_bytes)
        self._lock = threading.Lock()
        self.threads = max(1, min(threads, plan.threads or 1))
        self.tick = self._measured_tick()

    def _measured_tick(self) -> float:
        """Seconds of a tick."""
        started, first = time.perf_counter(), int(self._ticks())
        while time.perf_counter() - started < _WATCHED:
            pass
        ended, last = time.perf_counter(), int(self._ticks())
        return (ended - started) / max(1, last - first)

    def call(self, arrays: Sequence[Array], times: int = 1) -> CallTime:
        """Runs the program ``times`` times on arrays that fit its ports; times are per call."""
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        with self._lock:
            self._log[:] = 0
            arena = self._arenas.take()
            try:
                for _ in range(times):
                    self._entry(pointers, arena, self.threads, self._log.ctypes.data)
            finally:
                self._arenas.give(arena)
            return self._read(times)

    def _read(self, times: int) -> CallTime:
        scale = self.tick / times
        found = []
        for site in self._sites:
            first = clock.HEAD + site.word
            took, runs, busy, busiest = (int(n) for n in self._log[first : first + 4])
            parts = max(1, min(self.threads, site.parts))
            found.append(
                LaunchTime(
                    site.launch, runs // times, parts, took * scale, busy * scale, busiest * scale
                )
            )
        return CallTime(int(self._log[clock.TOTAL]) * scale, tuple(found))
