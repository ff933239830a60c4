"""What kernel texts read and write: bytes of the arena and of ports, shared and local elements,
each with a shadow that knows who wrote and who read it when.

Time is counted in intervals between barriers, per block. Two accesses of one element by different
threads, at least one of them a write, are a race unless both threads are of one block and lie in
different intervals: then no order of threads or blocks can change what is read. Together with
control flow that does not depend on what races, absence of races in one lockstep run covers all.

Elements are found by the first of their bytes, so the same memory may be held as bytes of a machine
or as one word per byte (proofs, ``ir.loop.execute.Scalars``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_SHARED
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array
from gradc.ir.tensor.core import DType

NUMPY: dict[str, np.dtype[Any]] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32),
    "u16": np.dtype(np.uint16),
    "u8": np.dtype(np.uint8),
}
DTYPES: dict[str, DType] = {
    "f64": DType.F64,
    "f32": DType.F32,
    "i64": DType.I64,
    "i32": DType.I32,
    "u32": DType.U32,
    "bool": DType.BOOL,
}
_NOBODY, _SEVERAL = -1, -2


class SimulationError(Exception):
    """What a text must not do. ``kind``: race, divergence, bounds, alignment, uninitialised, text,
    launch.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of one access: all of them flat, of which thread and block, at what time."""

    threads: Array  # numbers across all blocks
    blocks: Array
    times: Array  # intervals, counted up over the whole run
    alone: bool  # whether no other block can touch the same


class Shadow:
    """Who touched each cell of a memory last. ``began`` is the time at which this launch began."""

    def __init__(self, cells: int, is_written: bool) -> None:
        self.written = np.full(cells, is_written)
        self._writer = np.full(cells, _NOBODY)
        self._write_time = np.full(cells, -1)
        self._reader = np.full(cells, _NOBODY)
        self._read_time = np.full(cells, -1)
        self._block = np.full(cells, _NOBODY)  # that read it in this launch
        self._block_time = np.full(cells, -1)
        self._write_block = np.full(cells, _NOBODY)
        self._flying: Array | None = None  # cells that copies are on their way to

    def read(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """Notes that ``lanes`` read the cells ``at``. Raises SimulationError."""
        self._landed(at, what, "reads")
        written = self.written[at]
        if not written.all():
            raise SimulationError("uninitialised", f"{what}[{at[~written][0]}] is read unwritten")
        self._against_writes(at, lanes, began, what, "reads")
        threads, times = lanes.threads, lanes.times
        # Who else has read it in this interval, before or just now.
        also = (self._read_time[at] == times) & (self._reader[at] != threads)
        self._reader[at] = np.where(also, _SEVERAL, threads)
        several = self._reader[at] != threads
        if several.any():
            self._reader[at[several]] = _SEVERAL
        self._read_time[at] = times
        if lanes.alone:
            return
        also = (self._block_time[at] >= began) & (self._block[at] != lanes.blocks)
        self._block[at] = np.where(also, _SEVERAL, lanes.blocks)
        several = self._block[at] != lanes.blocks
        if several.any():
            self._block[at[several]] = _SEVERAL
        self._block_time[at] = times

    def write(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """Notes that ``lanes`` write the cells ``at``. Raises SimulationError."""
        self._landed(at, what, "writes")
        threads, times = lanes.threads, lanes.times
        self._against_writes(at, lanes, began, what, "writes")
        is_race = (self._read_time[at] == times) & (self._reader[at] != threads)
        if not lanes.alone:
            is_race |= (self._block_time[at] >= began) & (self._block[at] != lanes.blocks)
        self._refuse(is_race, at, what, "writes what another reads")
        self._writer[at] = threads
        self._refuse(self._writer[at] != threads, at, what, "writes what another writes")
        self._write_time[at] = times
        self._write_block[at] = lanes.blocks
        self.written[at] = True

    def fly(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """``lanes`` begin to write the cells ``at``, which nobody may touch until ``land``."""
        self.write(at, lanes, began, what)
        if self._flying is None:
            self._flying = np.zeros(self.written.size, bool)
        self._flying[at] = True

    def land(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """What ``lanes`` began to write is there, for them."""
        assert self._flying is not None
        self._flying[at] = False
        self.write(at, lanes, began, what)

    def _landed(self, at: Array, what: str, does: str) -> None:
        if self._flying is not None and self._flying[at].any():
            place = at[self._flying[at]][0]
            raise SimulationError("race", f"a thread {does} what is in flight: {what}[{place}]")

    def since(self, at: Array, began: int) -> Array:
        """Which cells this launch has written."""
        found: Array = self._write_time[at] >= began
        return found

    def _against_writes(self, at: Array, lanes: Lanes, began: int, what: str, does: str) -> None:
        time = self._write_time[at]
        other = time >= began
        if other.any():
            other &= self._writer[at] != lanes.threads
            unordered = (time == lanes.times) | (self._write_block[at] != lanes.blocks)
            self._refuse(other & unordered, at, what, f"{does} what another writes")

    def _refuse(self, is_race: Array, at: Array, what: str, says: str) -> None:
        if is_race.any():
            raise SimulationError("race", f"a thread {says}: {what}[{at[is_race][0]}]")


class Space:
    """Memory of the device: the arena, or the array of a port, by bytes."""

    def __init__(self, name: str, words: Array, scalars: Scalars, is_written: bool) -> None:
        """``words``: bytes of a machine (uint8), or one word of another domain per byte."""
        self.name = name
        self.words = words
        self.lines = np.zeros(words.size, np.int64)  # the line that stored each element last
        self.shadow = Shadow(words.size, is_written)
        self._scalars = scalars
        self._is_machine = words.dtype == np.uint8

    def load(self, dtype: str, at: Array) -> Array:
        """The elements whose first bytes are ``at``."""
        if self._is_machine:
            size = MEMORY_BYTES[dtype]
            whole = self.words.size // size * size
            found: Array = self.words[:whole].view(NUMPY[dtype])[at // size]
            return found
        return from_word(self._scalars, self.words[at], dtype)

    def store(self, dtype: str, at: Array, values: Array) -> None:
        """Writes elements."""
        size = MEMORY_BYTES[dtype]
        if self._is_machine:
            whole = self.words.size // size * size
            self.words[:whole].view(NUMPY[dtype])[at // size] = values
        else:
            self.words[at] = to_word(self._scalars, values, dtype)
        for byte in range(1, size):
            self.shadow.written[at + byte] = True


def from_word(scalars: Scalars, words: Array, dtype: str) -> Array:
    """Elements of a memory type from words of another domain."""
    if dtype in ("u16", "f32", "f64"):
        return scalars.load(words, DType.F32)
    if dtype == "u8":
        return scalars.load(words, DType.BOOL).astype(np.uint8)
    return scalars.load(words, DTYPES[dtype])


def to_word(scalars: Scalars, values: Array, dtype: str) -> Array:
    """Words of another domain from elements of a memory type."""
    if dtype in ("u16", "f32", "f64"):
        return scalars.store(values, DType.F32)
    if dtype == "u8":
        return scalars.store(np.asarray(values).astype(bool), DType.BOOL)
    return scalars.store(values, DTYPES[dtype])


@dataclass(frozen=True, slots=True)
class Pointer:
    """``size`` elements of ``dtype`` in a space from byte ``start`` on."""

    name: str
    space: Space
    start: int
    dtype: str
    size: int
    access: str


class Own:
    """Shared memory of every block, or local memory of every thread: rows of elements."""

    def __init__(
        self, name: str, dtype: str, size: int, owners: int, scalars: Scalars, is_shared: bool
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.size = size
        self.is_shared = is_shared
        held = scalars.computed(DTYPES[dtype]) if dtype in DTYPES else NUMPY[dtype]
        if dtype == "u16" and scalars.computed(DType.F32) != np.dtype(np.float32):
            held = scalars.computed(DType.F32)
        self.values = np.zeros(owners * size, held)
        self.shadow = Shadow(owners * size, False)


class Room:
    """Static shared memory of a text, counted."""

    def __init__(self, limit: int) -> None:
        self.limit = min(limit, MOST_SHARED)
        self.used = 0

    def take(self, dtype: str, count: int) -> None:
        """Raises SimulationError where there is not as much as the text declares."""
        self.used = -(-self.used // 16) * 16 + count * MEMORY_BYTES[dtype]
        if self.used > self.limit:
            raise SimulationError("launch", f"{self.used} bytes are shared, {self.limit} declared")
