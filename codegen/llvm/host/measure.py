"""Runs the loops of ``limits`` on this processor: ``measure``.

Every figure is the fastest of several rounds: other programs on the machine can only make it
slower, and how far the rounds were apart is kept with it.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from pathlib import Path

from gradc.codegen.backend import Store
from gradc.codegen.llvm.cpuinfo import processor
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.host.limits import STREAMS, exports, fma_flops, limits_text, precisions
from gradc.codegen.llvm.host.load import Arenas, thread_pool
from gradc.codegen.llvm.isa import Isa, host
from gradc.codegen.measured import Limits

ROUNDS = 7
_ROUND_SECONDS = 2.5e-3
_CONFIRMED, _PATIENCE = 1.02, 0.15
_UNIT = 3 * 4 * 64  # bytes that every stream goes through without a rest
_SIZES = tuple(1 << n for n in (14, 17, 20, 22, 24, 26))
_BEYOND = 1 << 27  # bytes that no cache holds, unless the system says so


def measure(threads: int, store: Store, room: int | None) -> Limits:
    """What ``threads`` threads can do at most, on a machine with ``room`` bytes of memory."""
    return _Bench(threads, store, room).run()


def _name() -> str:
    rows = dict(line.split(":", 1) for line in processor().splitlines() if ":" in line)
    return rows.get("model name", rows.get("CPU part", host().cpu)).strip()


class _Bench:
    """The loops of ``limits``, loaded, and what they run on."""

    def __init__(self, threads: int, store: Store, room: int | None) -> None:
        self.room = room
        self.isa: Isa = host()
        self.threads = threads
        code = jit.compile_object(limits_text(self.isa), self.isa)
        self._library = jit.Library(code, exports(self.isa), {})
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )
        self._parallel = kind(thread_pool(store)["gradc_parallel"])
        self._spread = 1.0

    def run(self) -> Limits:
        """Everything, measured."""
        flops = {p: self._flops(p) for p in precisions(self.isa)}
        sizes = (*_SIZES, _beyond_caches(self.room))
        arenas = Arenas(sizes[-1])
        arena = arenas.take()
        ctypes.memset(arena, 0, sizes[-1])
        curve = tuple((size, self._bandwidth(arena, size)) for size in sizes)
        date = time.strftime("%Y-%m-%d %H:%M")
        return Limits(_name(), date, self.threads, flops, curve, self._spread)

    def _flops(self, precision: str) -> float:
        args = _Args(0, 0, 0)
        seconds = self._fastest(f"fma_{precision}", args, 2 * self.threads)
        return 2 * self.threads * fma_flops(precision, self.isa) / seconds

    def _bandwidth(self, arena: int, size: int) -> float:
        unit = size // self.threads // _UNIT * _UNIT
        if unit == 0:
            unit = _UNIT
        best = 0.0
        for kind in STREAMS:
            once = _Args(arena, unit, 1)
            self._time(kind, once, self.threads)
            repeats = max(1, int(_ROUND_SECONDS / self._time(kind, once, self.threads)))
            args = _Args(arena, unit, min(repeats, 4096))
            seconds = self._fastest(kind, args, self.threads)
            best = max(best, unit * self.threads * args.repeats / seconds)
        return best

    def _fastest(self, name: str, args: _Args, units: int) -> float:
        self._time(name, args, units)
        rounds = [self._time(name, args, units) for _ in range(ROUNDS)]
        # On a busy machine a round is lucky now and then: one that another confirms is believed.
        until = time.perf_counter() + _PATIENCE
        while sorted(rounds)[1] > _CONFIRMED * min(rounds) and time.perf_counter() < until:
            rounds.append(self._time(name, args, units))
        self._spread = max(self._spread, statistics.median(rounds) / min(rounds))
        return min(rounds)

    def _time(self, name: str, args: _Args, units: int) -> float:
        started = time.perf_counter()
        self._parallel(self._library[name], args.address, units, self.threads)
        return max(time.perf_counter() - started, 1e-9)


class _Args:
    """What a loop is handed: the arena, the bytes of a unit, the repeats; then factors of one half
    in every precision's bits, and room for what it writes.
    """

    def __init__(self, arena: int, unit: int, repeats: int) -> None:
        self.repeats = repeats
        self._block = (ctypes.c_int64 * 40)()
        base = ctypes.addressof(self._block)
        self.address = (base + 63) // 64 * 64
        # Small numbers in f32, f64 and bf16 alike: chains of multiply-adds stay finite.
        halves = (ctypes.c_uint16 * 32)(*[0x3E00] * 32)
        ctypes.memmove(self.address, (ctypes.c_int64 * 3)(arena, unit, repeats), 24)
        ctypes.memmove(self.address + 64, halves, 64)


def _beyond_caches(room: int | None) -> int:
    """Bytes to go through so that no cache helps, and the machine still has them."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            largest = max(largest, int(text.rstrip("KM")) << {"K": 10, "M": 20}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    wanted = max(_BEYOND, 4 * largest)
    return wanted if room is None else max(_SIZES[-1] * 2, min(wanted, room // 8))
