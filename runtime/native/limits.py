"""What this machine's arithmetic and memory allow, measured and kept.

``limits`` gives them from the cache folder, or measures (a second or two) and keeps them there,
under the processor and the number of threads; ``gradc doctor --measure`` measures anew. Every
figure is the fastest of several rounds: other programs on the machine can only make it slower, and
how far the rounds were apart is kept with it.

``bandwidth`` is a curve over how many bytes are gone through: what fits into a cache comes faster
than what does not. Bytes that a launch touches cannot come from a cache that does not hold them, so
the figure for its own bytes is a bound on it, wherever they lie.

Non-goals: limits of other machines, of accelerators.
"""

from __future__ import annotations

import ctypes
import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradc.codegen.backend import Store
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.host.limits import (
    STREAMS,
    exports,
    fma_flops,
    limits_text,
    precisions,
)
from gradc.codegen.llvm.host.load import Arenas, thread_pool
from gradc.codegen.llvm.host.machine import processor
from gradc.codegen.llvm.isa import Isa, host
from gradc.runtime.native.cache import Entry, ObjectCache, make_key
from gradc.runtime.native.room import machine_bytes

ROUNDS = 7
# Rounds further apart than this were disturbed.
BUSY = 1.25
_ROUND_SECONDS = 2.5e-3
_CONFIRMED, _PATIENCE = 1.02, 0.15
_UNIT = 3 * 4 * 64  # bytes that every stream goes through without a rest
_SIZES = tuple(1 << n for n in (14, 17, 20, 22, 24, 26))
_BEYOND = 1 << 27  # bytes that no cache holds, unless the system says so
_FORMAT = "limits 1"


@dataclass(frozen=True, slots=True)
class Limits:
    """Flops and bytes per second of ``threads`` threads together, and what they belong to.

    ``flops`` is by precision, ``bandwidth`` by bytes gone through, ascending. ``spread`` is how
    many times longer than the fastest the median round took, at worst.
    """

    processor: str
    date: str
    threads: int
    flops: Mapping[str, float]
    bandwidth: tuple[tuple[int, float], ...]
    spread: float

    @property
    def is_disturbed(self) -> bool:
        """Whether the machine was busy with other things when this was measured."""
        return self.spread > BUSY

    @property
    def memory(self) -> float:
        """Bytes per second from beyond the caches."""
        return self.bandwidth[-1][1]

    def peak(self, precision: str) -> float:
        """Flops per second; bf16 and f16 are computed in f32 where the processor has nothing
        better.
        """
        return self.flops.get(precision, self.flops["f32"])

    def bandwidth_for(self, nbytes: float) -> float:
        """Bytes per second at most, for something that touches ``nbytes`` different bytes."""
        smaller = [size for size, _ in self.bandwidth if size <= nbytes]
        least = smaller[-1] if smaller else 0
        return max(rate for size, rate in self.bandwidth if size >= least)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "processor": self.processor,
            "date": self.date,
            "threads": self.threads,
            "flops": dict(self.flops),
            "bandwidth": [[size, rate] for size, rate in self.bandwidth],
            "spread": self.spread,
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Limits:
        """Reads ``to_json``'s result back. Raises KeyError, TypeError or ValueError for anything
        else.
        """
        flops = {str(name): float(rate) for name, rate in found["flops"].items()}
        bandwidth = tuple((int(size), float(rate)) for size, rate in found["bandwidth"])
        if "f32" not in flops or not bandwidth or min(*flops.values(), bandwidth[-1][1]) <= 0:
            raise ValueError("a figure is missing")
        texts = (str(found["processor"]), str(found["date"]))
        return Limits(*texts, int(found["threads"]), flops, bandwidth, float(found["spread"]))


def described(found: Limits) -> str:
    """The figures in a line of text."""
    peaks = ", ".join(f"{name} {rate / 1e9:.3g}" for name, rate in found.flops.items())
    nearest = found.bandwidth[0][1]
    text = f"{peaks} GF/s, memory {found.memory / 1e9:.3g} GB/s, first cache {nearest / 1e9:.3g}"
    busy = "; the machine was busy" if found.is_disturbed else ""
    return f"{text} ({found.processor}, measured {found.date}{busy})"


class _Unkept:
    """A store that lasts as long as the process."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def key(self, *parts: str | bytes) -> str:
        return make_key(*parts)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def put(self, key: str, header: Mapping[str, Any], code: bytes) -> bool:
        self._entries[key] = Entry(dict(header), code)
        return True


_UNKEPT = _Unkept()


def limits(
    threads: int,
    *,
    anew: bool = False,
    keep: bool = True,
    store: Store | None = None,
    report: Callable[[str], None] | None = None,
) -> Limits:
    """What ``threads`` threads of this machine can do at most; from the cache unless ``anew``.

    ``keep`` off leaves the cache alone; ``report`` is told what is measured, if anything is.
    """
    if store is None:
        store = ObjectCache() if keep else _UNKEPT
    about = processor()
    text = "\n".join((_FORMAT, about, host().triple, host().features, str(threads)))
    key = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
    entry = None if anew else store.get(key)
    if entry is not None:
        try:
            return Limits.from_json(entry.header)
        except (KeyError, TypeError, ValueError):
            pass  # measured again and replaced
    if report is not None:
        report(f"measuring what {threads} thread{'s' * (threads > 1)} can do on this machine")
    found = _Bench(threads, store).run(_name(about))
    if threads > 1:
        found = _at_least(found, limits(1, store=store, report=report))
    store.put(key, found.to_json(), b"")
    return found


def _at_least(found: Limits, alone: Limits) -> Limits:
    """``found`` of several threads, which can do no less than one: where they were held up, what
    one was seen to do.
    """
    flops = {name: max(rate, alone.peak(name)) for name, rate in found.flops.items()}
    rates = [
        max(mine[1], one[1]) for mine, one in zip(found.bandwidth, alone.bandwidth, strict=True)
    ]
    curve = tuple((size, rate) for (size, _), rate in zip(found.bandwidth, rates, strict=True))
    return replace(found, flops=flops, bandwidth=curve)


def _name(about: str) -> str:
    rows = dict(line.split(":", 1) for line in about.splitlines() if ":" in line)
    return rows.get("model name", rows.get("CPU part", host().cpu)).strip()


class _Bench:
    """The loops of ``codegen.llvm.host.limits``, loaded, and what they run on."""

    def __init__(self, threads: int, store: Store) -> None:
        self.isa: Isa = host()
        self.threads = threads
        code = jit.compile_object(limits_text(self.isa), self.isa)
        self._library = jit.Library(code, exports(self.isa), {})
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )
        self._parallel = kind(thread_pool(store)["gradc_parallel"])
        self._spread = 1.0

    def run(self, name: str) -> Limits:
        """Everything, measured."""
        flops = {p: self._flops(p) for p in precisions(self.isa)}
        sizes = (*_SIZES, _beyond_caches())
        arenas = Arenas(sizes[-1])
        arena = arenas.take()
        ctypes.memset(arena, 0, sizes[-1])
        curve = tuple((size, self._bandwidth(arena, size)) for size in sizes)
        date = time.strftime("%Y-%m-%d %H:%M")
        return Limits(name, date, self.threads, flops, curve, self._spread)

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


def _beyond_caches() -> int:
    """Bytes to go through so that no cache helps, and the machine still has them."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            largest = max(largest, int(text.rstrip("KM")) << {"K": 10, "M": 20}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    wanted = max(_BEYOND, 4 * largest)
    room = machine_bytes()
    return wanted if room is None else max(_SIZES[-1] * 2, min(wanted, room // 8))
