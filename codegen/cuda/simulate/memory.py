"""What kernel texts read and write: bytes of the arena and of ports, shared and local elements,
each with a shadow that knows who wrote and who read it when (``shadow``).

Elements are found by the first of their bytes, so the same memory may be held as bytes of a machine
or as one word per byte (proofs, ``ir.loop.execute.Scalars``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc.codegen.cuda.simulate.shadow import OwnShadow, Shadow, SimulationError
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_DYNAMIC, MOST_SHARED
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

# As many bytes that are written, as one number.
_WRITTEN = {n: np.ones(n, np.uint8).view(f"u{n}")[0] for n in (1, 2, 4, 8)}


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
        whole = self.words.size // size * size
        if self._is_machine:
            self.words[:whole].view(NUMPY[dtype])[at // size] = values
        else:
            self.words[at] = to_word(self._scalars, values, dtype)
        self.shadow.written[:whole].view(_WRITTEN[size].dtype)[at // size] = _WRITTEN[size]


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
    is_seen_only: bool = False  # whether no pointer of the launch may write there


def seen_only(pointers: Sequence[Pointer]) -> list[Pointer]:
    """The same pointers, each knowing whether another writes where it reads."""
    spans = [(p.space, p.start, p.start + p.size * MEMORY_BYTES[p.dtype]) for p in pointers]
    written = [span for span, p in zip(spans, pointers, strict=True) if p.access != "read"]
    return [
        replace(p, is_seen_only=not any(_overlap(span, other) for other in written))
        for span, p in zip(spans, pointers, strict=True)
    ]


def _overlap(one: tuple[Space, int, int], other: tuple[Space, int, int]) -> bool:
    return one[0] is other[0] and one[1] < other[2] and other[1] < one[2]


class Own:
    """Shared memory of every block, or local memory of every thread: a row of elements each."""

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
        self.values = np.zeros((owners, size), held)
        self.shadow = OwnShadow(owners, size)


class Room:
    """Shared memory of a text, counted: static, or dynamic where it declares more than that."""

    def __init__(self, limit: int) -> None:
        self.is_dynamic = limit > MOST_SHARED
        self.limit = min(limit, MOST_DYNAMIC)
        self.used = 0
        self.spans: list[tuple[int, int]] = []

    def take(self, dtype: str, count: int, align: int = 16) -> None:
        """Raises SimulationError where there is not as much as the text declares."""
        begin = -(-self.used // align) * align
        self.used = begin + count * MEMORY_BYTES[dtype]
        if self.is_dynamic:
            raise SimulationError("launch", "static memory beside dynamic one")
        self._check()

    def place(self, dtype: str, count: int, at: int) -> None:
        """Dynamic memory from byte ``at`` on. Raises SimulationError where another part lies there,
        or a launch does not give as much.
        """
        end = at + count * MEMORY_BYTES[dtype]
        if not self.is_dynamic:
            raise SimulationError("launch", "a launch that gives no dynamic memory")
        if at % 16 or at < 0:
            raise SimulationError("alignment", f"dynamic memory from byte {at} on")
        if any(at < stop and start < end for start, stop in self.spans):
            raise SimulationError("launch", f"two parts of dynamic memory at byte {at}")
        self.spans.append((at, end))
        self.used = max(self.used, end)
        self._check()

    def _check(self) -> None:
        if self.used > self.limit:
            raise SimulationError("launch", f"{self.used} bytes are shared, {self.limit} declared")
