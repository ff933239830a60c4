"""Lockstep lanes: every thread of a launch is a lane of NumPy arrays [blocks, threads], and what a
branch does is done by the lanes under its mask.

A value is a Python int (an index that all lanes share), a NumPy scalar (a literal), an array that
broadcasts to the lanes, a tuple of values, or a pointer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc.codegen.cuda.simulate.copies import Copies
from gradc.codegen.cuda.simulate.memory import DTYPES, NUMPY, Own, Pointer, Room
from gradc.codegen.cuda.simulate.shadow import Lanes, LinesShadow, Place, SimulationError
from gradc.codegen.cuda.verbs import GROUP, LINES, MEMORY_BYTES, WARP
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array
from gradc.ir.tensor.bf16 import bf16_bits, from_bf16
from gradc.ir.tensor.core import DType
from gradc.ir.tensor.numpy_verbs import NUMPY_VERBS

_OF_NUMPY = {
    np.dtype(np.float32): DType.F32,
    np.dtype(np.float64): DType.F64,
    np.dtype(np.int32): DType.I32,
    np.dtype(np.uint32): DType.U32,
    np.dtype(np.int64): DType.I64,
    np.dtype(np.bool_): DType.BOOL,
}
_BITWISE = ("logical_and", "logical_or", "bitxor")


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums that a group's products may change: nothing reads them before they are waited for.
    ``batch``: of each group that of its last product, ``begun`` if there is one.
    """

    values: tuple[Any, ...]
    batch: Array
    begun: bool

    def _refuse(self, *given: Any, **more: Any) -> Any:
        raise SimulationError("race", "sums are read before their products are waited for")

    __getitem__ = __iter__ = __len__ = __array__ = _refuse


def _plain(x: Any) -> Any:
    return x.values if isinstance(x, Sums) else x


class Run:
    """One launch, or a part of its blocks: lanes, masks, time."""

    def __init__(
        self,
        blocks: range,
        threads: int,
        scalars: Scalars,
        began: int,
        shared_bytes: int,
        is_alone: bool = False,
        mark: int = 0,
    ) -> None:
        """``is_alone``: the launch has one block. ``mark`` is added to lines that store."""
        self.shape = (len(blocks), threads)
        self.scalars = scalars
        self.is_machine = scalars.computed(DType.F32) == np.dtype(np.float32)
        self.began = began
        self.times = np.full((len(blocks), 1), began)
        self.block = np.asarray(blocks, np.int64)[:, None]
        self.thread = np.arange(threads, dtype=np.int64)[None, :]
        self.room = Room(shared_bytes)
        self.mask: Array | None = None  # None: all lanes
        self.last = began
        self.mark = mark
        self.line = 0  # of the statement that is taken
        self.trips: dict[int, int] = {}  # of loops, by line
        self.operations = 0  # that lanes took
        self.copies = Copies(blocks.start * threads, len(blocks) * threads)
        self.lines: list[Own] = []  # what products of groups read
        self.products: list[Any] = []  # those in flight (``groups``)
        # Batches that each group has committed.
        self.committed = np.zeros((len(blocks), max(1, threads // GROUP)), np.int64)
        self._numbers = np.broadcast_to(self.block * threads + self.thread, self.shape)
        self._rows = np.arange(len(blocks))[:, None]
        self.interval = 0  # barriers that all blocks have passed
        self._blocks = np.ascontiguousarray(np.broadcast_to(self.block, self.shape))
        self._is_alone = is_alone
        self._known: tuple[Any, Any, Lanes] | None = None

    # ---- masks

    def spread(self, x: Any) -> Array:
        """``x`` of every lane."""
        if type(x) is np.ndarray and x.shape == self.shape:
            return x
        return np.broadcast_to(np.asarray(x), self.shape)

    def both(self, condition: Any) -> Array:
        """The lanes that are active and for which ``condition`` holds."""
        chosen = self.spread(condition)
        return chosen if self.mask is None else chosen & self.mask

    def keep(self, new: Any, old: Any) -> Any:
        """``new`` in active lanes, ``old`` in the others."""
        if self.mask is None or new is old:
            return new
        if isinstance(new, Sums):
            return replace(new, values=self.keep(new.values, _plain(old)))
        old = _plain(old)
        if isinstance(new, tuple):
            return tuple(self.keep(a, b) for a, b in zip(new, old, strict=True))
        if isinstance(new, (Pointer, Own)):
            return new
        return np.where(self.mask, new, old)

    def steps(self, start: Any, stop: Any, step: Any) -> Iterator[Any]:
        """The values of a loop's variable; while one is used, the mask is that of its lanes."""
        if not any(isinstance(x, np.ndarray) and x.ndim for x in (start, stop, step)):
            yield from range(int(start), int(stop), int(step))
            return
        before = self.mask
        at = self.spread(start)
        while True:
            mask = self.both(at < stop)
            if not mask.any():
                return
            self.mask = mask
            yield at
            self.mask = before
            at = at + step

    # ---- threads

    def barrier(self) -> None:
        """Ends an interval; all threads of a block must come."""
        if self.mask is None:
            self.times = self.times + 1
            self.interval += 1
        else:
            there = self.mask.sum(axis=1, keepdims=True)
            if ((there != 0) & (there != self.shape[1])).any():
                raise SimulationError("divergence", "not all threads of a block meet a barrier")
            self.times = self.times + (there != 0)
        self.last = max(self.last, int(self.times.max()))

    def copy(self, to: Any, i: Any, source: Any, j: Any, width: int, condition: Any) -> None:
        """``width`` elements set off from global to shared memory."""
        if not (isinstance(to, Own) and to.is_shared and isinstance(source, Pointer)):
            raise SimulationError("text", "copies go from global to shared memory")
        if to.dtype != source.dtype or width * MEMORY_BYTES[to.dtype] not in (4, 8, 16):
            raise SimulationError("text", f"a copy of {width} {source.dtype} to {to.dtype}")
        before = self.mask
        held = self.both(condition)
        self.mask = before if held.all() else held
        values = self._loaded(source, j, width)
        self.mask = before
        lanes = self._lanes()
        for value, at in zip(values, self._places(to, i, width), strict=True):
            self.copies.set_off(to, at, lanes, self._active(value))

    def commit(self) -> None:
        """Active lanes' copies since the last such are a group."""
        self.copies.commit(self._lanes())

    def wait(self, groups: int) -> None:
        """All but the last ``groups`` groups of active lanes arrive."""
        self.copies.wait(groups, self._lanes())

    def whole_warps(self, what: str) -> None:
        """Raises SimulationError where some threads of a warp are here and some are not."""
        if self.mask is None:
            return
        warps = self.mask.reshape(self.shape[0], -1, min(WARP, self.shape[1]))
        there = warps.sum(axis=2)
        if ((there != 0) & (there != warps.shape[2])).any():
            raise SimulationError("divergence", f"not all threads of a warp meet {what}")

    def shuffle_xor(self, x: Any, distance: int) -> Array:
        """``x`` of the lane whose number differs in the bits of ``distance``."""
        self.whole_warps("a shuffle")
        if not 0 < distance < WARP or self.shape[1] % WARP:
            raise SimulationError("text", f"a shuffle over {distance} of {self.shape[1]} threads")
        found: Array = self.spread(x)[:, np.arange(self.shape[1]) ^ distance]
        return found

    # ---- memory

    def shared(self, name: str, dtype: str, count: int) -> Own:
        return self._shared(name, dtype, count, 16)

    def shared_lines(self, name: str, dtype: str, count: int) -> Own:
        own = self._shared(name, dtype, count, LINES)
        own.shadow = LinesShadow(self.shape[0], count)
        self.lines.append(own)
        return own

    def dynamic(self, name: str, dtype: str, count: int, at: int) -> Own:
        """Dynamic shared memory from byte ``at`` on."""
        if self.mask is not None:
            raise SimulationError("divergence", f"{name} is declared in a branch")
        self.room.place(dtype, count, at)
        return Own(name, dtype, count, self.shape[0], self.scalars, True)

    def _shared(self, name: str, dtype: str, count: int, align: int) -> Own:
        if self.mask is not None:
            raise SimulationError("divergence", f"{name} is declared in a branch")
        self.room.take(dtype, count, align)
        return Own(name, dtype, count, self.shape[0], self.scalars, True)

    def publish(self) -> None:
        """What active lanes have written to lines is there for products."""
        lanes, first = self._lanes(), int(self._numbers[0, 0])
        times = np.full(self._numbers.size, -1)
        times[lanes.threads - first] = lanes.times
        for own in self.lines:
            if isinstance(own.shadow, LinesShadow):
                own.shadow.publish(times, first)

    def finish(self) -> None:
        """Raises SimulationError if something is still on its way."""
        self.copies.finish()
        if self.products:
            raise SimulationError("race", "a text ends with products in flight")

    def local(self, name: str, dtype: str, count: int) -> Own:
        return Own(name, dtype, count, self.shape[0] * self.shape[1], self.scalars, False)

    def load(self, memory: Pointer | Own, index: Any, width: int = 1) -> Any:
        """Elements of a pointer in active lanes, 0 in the others; a tuple if ``width`` is more."""
        found = self._loaded(memory, index, width)
        return tuple(found) if width > 1 else found[0]

    def load_runs(self, memory: Pointer | Own, index: Any, step: int, count: int) -> Any:
        """Fours, ``step`` apart."""
        at = self.spread(index)
        runs = [self.load(memory, at + step * n, 4) for n in range(count // 4)]
        return tuple(x for run in runs for x in run)

    def store_runs(
        self, memory: Pointer | Own, index: Any, step: int, values: Sequence[Any]
    ) -> None:
        at = self.spread(index)
        for n in range(len(values) // 4):
            self.store(memory, at + step * n, values[4 * n : 4 * n + 4])

    def _loaded(self, memory: Pointer | Own, index: Any, width: int) -> list[Array]:
        if isinstance(memory, Own):
            lanes = self._lanes()
            found = []
            for place in self._places(memory, index, width):
                memory.shadow.read(place, lanes, memory.name)
                found.append(self._spread_out(place.of(memory.values)))
            return found
        at = self._cells(memory, index, width)
        if not memory.is_seen_only or self.mask is not None:
            at = self._active(at)
        size = MEMORY_BYTES[memory.dtype]
        return [self._element(memory, at + n * size) for n in range(width)]

    def _element(self, memory: Pointer, at: Array) -> Array:
        """One element of each active lane; of what is only read, as few as broadcast to them."""
        shadow = memory.space.shadow
        if memory.is_seen_only:
            shadow.seen(at, memory.name)
            values = memory.space.load(memory.dtype, at)
            return np.broadcast_to(values, self.shape) if at.ndim > 1 else self._spread_out(values)
        # What a launch only writes it may read where it has written.
        if memory.access == "write" and not shadow.since(at, self.began).all():
            raise SimulationError("uninitialised", f"{memory.name} is only written")
        shadow.read(at, self._lanes(), self.began, memory.name)
        return self._spread_out(memory.space.load(memory.dtype, at))

    def _spread_out(self, values: Array) -> Array:
        """Flat values of active lanes on all lanes."""
        if self.mask is None:
            return values.reshape(self.shape)
        full = np.zeros(self.shape, values.dtype)
        full[self.mask] = values
        return full

    def _active(self, x: Any) -> Array:
        """``x`` of active lanes, flat."""
        spread = self.spread(x)
        return spread.reshape(-1) if self.mask is None else spread[self.mask]

    def store(self, memory: Pointer | Own, index: Any, values: Sequence[Any]) -> None:
        """Elements of active lanes."""
        if isinstance(memory, Pointer) and memory.access == "read":
            raise SimulationError("bounds", f"{memory.name} is only read")
        given = [self._active(value) for value in values]
        for one in given:
            self._expect(one, memory.dtype)
        if isinstance(memory, Own):
            lanes = self._lanes()
            places = self._places(memory, index, len(values))
            for one, place in zip(given, places, strict=True):
                memory.shadow.write(place, lanes, memory.name)
                place.put(memory.values, one)
            return
        first = self._active(self._cells(memory, index, len(values)))
        for n, one in enumerate(given):
            at = first + n * MEMORY_BYTES[memory.dtype]
            memory.space.shadow.write(at, self._lanes(), self.began, memory.name)
            memory.space.store(memory.dtype, at, one)
            memory.space.lines[at] = self.mark + self.line

    def _expect(self, values: Array, dtype: str) -> None:
        if self.is_machine and values.dtype != NUMPY[dtype]:
            raise SimulationError("text", f"a store of {values.dtype} into {dtype}")

    def _cells(self, memory: Pointer, index: Any, width: int) -> Array:
        """The first cells of an access, checked; as few as broadcast to the lanes."""
        elements, _, _ = self._checked(memory, index, width, memory.start)
        found: Array = memory.start + elements * MEMORY_BYTES[memory.dtype]
        return found

    def _places(self, memory: Own, index: Any, width: int) -> list[Place]:
        """The places of an access, checked."""
        elements, least, most = self._checked(memory, index, width, 0)
        owners = self._rows if memory.is_shared else self._numbers - self._numbers[0, 0]
        rows = owners * memory.size
        return [
            Place(least + n, most + n, rows, elements + n, self.mask, self.shape)
            for n in range(width)
        ]

    def _checked(
        self, memory: Pointer | Own, index: Any, width: int, start: int
    ) -> tuple[Array, int, int]:
        """Elements, two-dimensional, the least and the greatest. Those of lanes that are not active
        are not checked.
        """
        elements = np.asarray(index)
        if elements.ndim < 2:
            elements = elements.reshape(1, -1)
        least, most = int(elements.min()), int(elements.max())
        if least < 0 or most + width > memory.size:
            chosen = self._active(elements)
            outside = (chosen < 0) | (chosen + width > memory.size)
            if outside.any():
                first = int(chosen[outside][0])
                at = first if first < 0 else max(first, memory.size)
                raise SimulationError("bounds", f"{memory.name}[{at}] of {memory.size}")
        size = MEMORY_BYTES[memory.dtype]
        beside = min(16, width * size) - 1
        if width > 1 and (
            (start + elements * size & beside).any()
            and (start + self._active(elements) * size & beside).any()
        ):
            said = f"{memory.name}: an access of {width} elements"
            raise SimulationError("alignment", said)
        return elements, least, most

    def _lanes(self) -> Lanes:
        """The active lanes."""
        known = self._known
        if known is None or known[0] is not self.mask or known[1] is not self.times:
            threads, blocks, times = map(self._active, (self._numbers, self._blocks, self.times))
            lanes = Lanes(threads, blocks, times, self._is_alone, self.interval)
            known = self._known = (self.mask, self.times, lanes)
        return known[2]

    # ---- values

    def dtype(self, *values: Any) -> DType:
        """The type of values; plain ints are i64 unless another has a type."""
        found = DType.I64
        for x in values:
            if isinstance(x, bool):
                return DType.BOOL
            if not isinstance(x, int):
                return _OF_NUMPY.get(np.asarray(x).dtype, DType.F32)
        return found

    def verb(self, name: str, values: Sequence[Any]) -> Any:
        """A verb of the algebra on lanes."""
        if name in _PLAIN and all(type(x) is int for x in values):
            return _PLAIN[name](*values)
        kind = _kind(values)
        direct = _DIRECT.get(name)
        if direct is not None and (kind in _WHOLE or (self.is_machine and kind in _FLOATS)):
            self.operations += max(getattr(x, "size", 1) for x in values)
            return direct(*values)
        given = values[1:] if name == "select" else values
        dtype = self.dtype(*given)
        if self.is_machine and kind is None:
            self._same(name, given)
        if dtype is DType.BOOL and name in _BITWISE:
            return _LOGIC[name](*values)
        arrays = [np.asarray(x) for x in values]
        self.operations += max(x.size for x in arrays)
        return self.scalars.verb(name, arrays, dtype if name not in _COMPARED else DType.BOOL)

    def _same(self, name: str, values: Sequence[Any]) -> None:
        types = {np.asarray(x).dtype for x in values}
        if len(types) != 1:
            raise SimulationError("text", f"{name} of {' and '.join(sorted(map(str, types)))}")

    def cast(self, name: str, x: Any) -> Any:
        """A value as another type; a literal of Python's as that type."""
        if name in ("u16", "u8"):
            if self.is_machine or np.asarray(x).dtype == bool:
                return np.asarray(x).astype(NUMPY[name])
            return x
        target = DTYPES[name]
        if isinstance(x, (int, float)) and not isinstance(x, bool):
            if target is DType.I64:
                return int(x)
            if not target.is_float:
                return NUMPY[name].type(x)
            return self.scalars.literal(x, target)
        return self.scalars.verb("cast", [np.asarray(x)], target)

    def bits(self, name: str, x: Any) -> Any:
        """The bits of a float, or the float of bits."""
        if not self.is_machine:
            if name.startswith(("bf16", "f16")):
                return x
            raise SimulationError("text", "bits of elements of a field")
        value = np.asarray(x)
        if name == "bf16_bits":
            return bf16_bits(value)
        if name == "bf16_value":
            return from_bf16(value)
        if name == "f16_bits":
            return value.astype(np.float16).view(np.uint16)
        if name == "f16_value":
            return value.view(np.float16).astype(np.float32)
        views: dict[str, Any] = {"f32_bits": np.uint32, "f32_of": np.float32}
        views |= {"f64_bits": np.int64, "f64_of": np.float64}
        return np.ascontiguousarray(value).view(views[name])


_INT64 = np.dtype(np.int64)
_WHOLE = frozenset((_INT64, np.dtype(np.uint32), np.dtype(np.int32)))
_FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
# Verbs that NumPy has as they are, for numbers of one type.
_DIRECT = {name: NUMPY_VERBS[name] for name in ("add", "sub", "mul", *_COMPARED)}


def _kind(values: Sequence[Any]) -> np.dtype[Any] | None:
    """The one type of ``values``, plain ints being i64; None if they have several, or another."""
    found = None
    for x in values:
        own = _INT64 if type(x) is int else getattr(x, "dtype", None)
        if own is not found:
            if found is not None:
                return None
            found = own
    return found


_PLAIN: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "bitand": lambda a, b: a & b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
}
_LOGIC = {
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "bitxor": np.logical_xor,
}
