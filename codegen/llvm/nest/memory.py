"""Loads and stores of loop IR: scalar, contiguous, reversed, broadcast, gathered; whole or masked.

``Lanes`` says how a vector body stands to its loop: lane l is iteration ``base + l``. An address is
cut into a scalar part, a stride per lane, and a vector part (offsets from data); from these the
cheapest instruction follows. Masked-off lanes read nothing, are 0, and write nothing.

Invariants: within one vector body the order of loads and stores is the order of the statements.
Non-goals: aliasing analysis; the Plan promises that an element is read before it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.codegen.llvm.maths.scalars import STORED, Scalars
from gradc.codegen.llvm.nest.turned import Turn, load_turned
from gradc.codegen.llvm.text import (
    Function,
    Value,
    bits_suffix,
    constant,
    element_of,
    lanes_of,
    literal_vector,
    vector,
    with_element,
)
from gradc.ir.loop.kernel import Affine, Var
from gradc.ir.tensor.core import DType

# Up to so many whole vectors and shuffles beat a gather.
_MOST_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Lanes:
    """A vector body: ``index`` is ``base + lane`` for ``count`` lanes; ``mask`` says which are
    alive (None: all).
    """

    index: Var
    base: Value
    count: int
    mask: Value | None = None

    @property
    def is_front(self) -> bool:
        """Whether those alive are known here, and the first ones."""
        return _alive(self.mask, self.count) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """An address: elements from the buffer's start, known elements per lane, and per-lane offsets
    from data.

    Lane l lies at ``start + pattern[l] + offsets[l]``; an empty pattern is all zeros. ``is_small``
    promises that pattern and offsets together stay within 31 bits. A ``turn`` gives them once more,
    counted from ``start`` too.
    """

    start: Value
    pattern: tuple[int, ...] = ()
    offsets: Value | None = None
    is_small: bool = False
    turn: Turn | None = None

    @property
    def is_uniform(self) -> bool:
        return not self.pattern and self.offsets is None

    @property
    def stride(self) -> int:
        """Elements per lane if they are the same from lane to lane (and nothing comes from data),
        else 0.
        """
        if self.offsets is not None or not self.pattern:
            return 0
        step = self.pattern[1] - self.pattern[0] if len(self.pattern) > 1 else 0
        return step if self.pattern == run(step, len(self.pattern)) else 0


def run(stride: int, count: int) -> tuple[int, ...]:
    """``(0, stride, 2 stride, ...)``."""
    return tuple(stride * lane for lane in range(count))


def sum_patterns(a: tuple[int, ...], b: tuple[int, ...], factor: int = 1) -> tuple[int, ...]:
    """``a + factor b``, empty if that is all zeros."""
    if not a or not b:
        total = a or tuple(factor * y for y in b)
    else:
        total = tuple(x + factor * y for x, y in zip(a, b, strict=True))
    return total if any(total) else ()


def i64(value: int) -> Value:
    return Value("i64", str(value))


def first_lanes(count: int, alive: int) -> Value:
    """The constant mask of the first ``alive`` lanes."""
    bits = ", ".join(f"i1 {'true' if n < alive else 'false'}" for n in range(count))
    return Value(vector("i1", count), f"<{bits}>")


def both(fn: Function, a: Value | None, b: Value | None, lanes: int) -> Value | None:
    """The conjunction of two conditions of which either may be absent (true)."""
    if a is None or b is None:
        found = b if a is None else a
        return None if found is None else fn.splat(found, lanes)
    return fn.binary("and", fn.splat(a, lanes), fn.splat(b, lanes))


class Memory:
    """Emits the loads and stores of one function."""

    def __init__(self, fn: Function, scalars: Scalars) -> None:
        self.fn = fn
        self.scalars = scalars

    def place(
        self,
        offset: Affine,
        env: dict[Var, Value],
        lanes: Lanes | None,
        runs: dict[Var, Address] | None = None,
    ) -> Address:
        """Cuts an affine offset into its parts; ``runs`` are variables of a vector body that are
        cut already.
        """
        start = i64(offset.constant)
        pattern: tuple[int, ...] = ()
        offsets: Value | None = None
        turned: list[tuple[Turn | None, int]] = []
        for var, factor in offset.terms:
            if lanes is not None and var is lanes.index:
                term = Address(lanes.base, run(1, lanes.count))
            elif runs is not None and var in runs:
                term = runs[var]
            elif lanes_of(env[var].type):
                term = Address(i64(0), (), env[var])
            else:
                term = Address(env[var])
            start = self._sum(start, self._times(term.start, factor))
            pattern = sum_patterns(pattern, term.pattern, factor)
            if term.offsets is not None:
                scaled = self._times(term.offsets, factor)
                offsets = scaled if offsets is None else self.fn.binary("add", offsets, scaled)
                turned.append((term.turn, factor))
        return Address(start, pattern, offsets, turn=self._turn(turned, pattern))

    def _turn(
        self, parts: Sequence[tuple[Turn | None, int]], pattern: tuple[int, ...]
    ) -> Turn | None:
        """The sum of ``parts``, turns times factors, and of a pattern; None if not all of them turn
        at the same border.
        """
        borders = {None if turn is None else turn.border for turn, _ in parts}
        border = borders.pop() if len(borders) == 1 else None
        if border is None:
            return None
        here = there = i64(0)
        for turn, factor in parts:
            if turn is not None:
                here = self._sum(here, self._times(turn.here, factor))
                there = self._sum(there, self._times(turn.there, factor))
                pattern = sum_patterns(pattern, turn.pattern, factor)
        return Turn(border, here, there, pattern)

    def _times(self, x: Value, factor: int) -> Value:
        if factor == 1 or x.name == "0":
            return x
        if not lanes_of(x.type) and not x.name.startswith("%"):
            return i64(int(x.name) * factor)
        return self.fn.binary("mul", x, constant(x.type, factor))

    def _sum(self, a: Value, b: Value) -> Value:
        if a.name == "0" or b.name == "0":
            return b if a.name == "0" else a
        if not a.name.startswith("%") and not b.name.startswith("%"):
            return i64(int(a.name) + int(b.name))
        return self.fn.binary("add", a, b)

    def number(self, place: Address, lanes: Lanes | None) -> Value:
        """A place as an i64 scalar, or as one per lane."""
        if lanes is None or place.is_uniform:
            return place.start
        total = self.fn.splat(place.start, lanes.count)
        for part in self._offsets(place, lanes):
            total = self.fn.binary("add", total, part)
        return total

    def _offsets(self, place: Address, lanes: Lanes) -> list[Value]:
        parts = [] if place.offsets is None else [place.offsets]
        if place.pattern:
            parts.append(literal_vector("i64", place.pattern))
        return parts

    # ---- loads ----------------------------------------------------------------------------------

    def load(
        self, base: Value, dtype: DType, place: Address, lanes: Lanes | None, guard: Value | None
    ) -> Value:
        """The element, or one per lane; 0 where ``guard`` is false."""
        fn, element = self.fn, STORED[dtype]
        pointer = fn.address(base, element, place.start)
        uniform = guard is None or not lanes_of(guard.type)
        if lanes is None or (place.is_uniform and uniform):
            return self.scalars.widen(self._load_scalar(pointer, element, dtype, guard), dtype)
        if guard is not None and uniform and place.stride == 1:
            # Masked loads that read nothing, where no memory is, take some processors a thousand
            # cycles.
            pointer = fn.select(guard, pointer, base)
        mask = both(fn, lanes.mask, guard, lanes.count)
        return self.scalars.widen(self._load_lanes(pointer, dtype, place, lanes, mask), dtype)

    def _load_scalar(
        self, pointer: Value, element: str, dtype: DType, guard: Value | None
    ) -> Value:
        if guard is None:
            return self.fn.load(pointer, element, dtype.itemsize)
        zero = constant(element, 0.0 if element in ("float", "double") else 0)
        with self.fn.branch(guard, [zero]) as arm:
            arm.next = [self.fn.load(pointer, element, dtype.itemsize)]
        return arm.results[0]

    def _load_lanes(
        self, pointer: Value, dtype: DType, place: Address, lanes: Lanes, mask: Value | None
    ) -> Value:
        type_ = vector(STORED[dtype], lanes.count)
        if place.stride == 1:
            return self._load_run(pointer, type_, dtype, mask)
        alive = _alive(mask, lanes.count)
        if place.offsets is None and place.pattern and alive:
            reach = max(place.pattern[:alive]) - min(place.pattern[:alive])
            if reach < _MOST_CHUNKS * lanes.count:
                return self._load_pattern(pointer, type_, dtype, place.pattern, alive)
        if place.turn is not None and mask is None and STORED[dtype] in ("float", "double"):
            found = load_turned(self.fn, pointer, STORED[dtype], place.turn, dtype.itemsize)
            if found is not None:
                return found
        return self._gather(self._pointers(pointer, dtype, place, lanes), type_, dtype, mask)

    def _load_pattern(
        self, pointer: Value, type_: str, dtype: DType, pattern: tuple[int, ...], alive: int
    ) -> Value:
        """The first ``alive`` lanes from whole vectors, shuffled; nothing outside their reach is
        read.
        """
        lanes = lanes_of(type_)
        first, last = min(pattern[:alive]), max(pattern[:alive])
        result: Value | None = None
        for start in range(first, last + 1, lanes):
            left = last + 1 - start
            place = self.fn.address(pointer, STORED[dtype], i64(start))
            mask = first_lanes(lanes, left) if left < lanes else None
            chunk = self._load_run(place, type_, dtype, mask)
            # What lies in earlier chunks is in the result already.
            shift = 0 if result is None else lanes
            picks = [
                at - start + shift if lane < alive and 0 <= at - start < lanes else lane
                for lane, at in enumerate(pattern)
            ]
            second = None if result is None else chunk
            result = self.fn.shuffle(chunk if result is None else result, second, picks)
        assert result is not None
        if alive == lanes:
            return result
        zero = constant(type_, 0.0 if element_of(type_) in ("float", "double") else 0)
        return self.fn.shuffle(
            result, zero, [lane if lane < alive else lanes for lane in range(lanes)]
        )

    def _load_run(self, pointer: Value, type_: str, dtype: DType, mask: Value | None) -> Value:
        if mask is None:
            return self.fn.load(pointer, type_, dtype.itemsize)
        name = f"llvm.masked.load.{bits_suffix(type_)}.p0"
        self.fn.module.declare(name, type_, ["ptr", "i32", mask.type, type_])
        text = f"{pointer}, i32 {dtype.itemsize}, {mask}, {type_} zeroinitializer"
        return self.fn.effect(f"call {type_} @{name}({text})", type_)

    def _gather(self, pointers: Value, type_: str, dtype: DType, mask: Value | None) -> Value:
        mask = mask or constant(with_element(type_, "i1"), True)
        name = f"llvm.masked.gather.{bits_suffix(type_)}.{bits_suffix(pointers.type)}"
        self.fn.module.declare(name, type_, [pointers.type, "i32", mask.type, type_])
        text = f"{pointers}, i32 {dtype.itemsize}, {mask}, {type_} zeroinitializer"
        return self.fn.effect(f"call {type_} @{name}({text})", type_)

    def _pointers(self, pointer: Value, dtype: DType, place: Address, lanes: Lanes) -> Value:
        fn = self.fn
        parts = self._offsets(place, lanes)
        index = parts[0] if len(parts) == 1 else fn.binary("add", *parts) if parts else None
        if index is None:
            return fn.splat(pointer, lanes.count)
        if place.is_small:
            # A gather takes twice as many lanes by 32-bit offsets.
            narrow = fn.convert("trunc", index, vector("i32", lanes.count))
            index = fn.convert("sext", narrow, index.type)
        return fn.address(pointer, STORED[dtype], index)

    def _reverse(self, x: Value) -> Value:
        return self.fn.shuffle(x, None, range(lanes_of(x.type) - 1, -1, -1))

    # ---- stores ---------------------------------------------------------------------------------

    def store(
        self,
        base: Value,
        dtype: DType,
        place: Address,
        lanes: Lanes | None,
        guard: Value | None,
        value: Value,
        combine: str,
    ) -> None:
        """Stores ``value``, or combines it with what is there."""
        fn, element = self.fn, STORED[dtype]
        pointer = fn.address(base, element, place.start)
        if lanes is None:
            self._store_scalar(pointer, dtype, guard, value, combine)
            return
        if place.is_uniform:
            self._store_in_turn(pointer, dtype, lanes, guard, value, combine)
            return
        mask = both(fn, lanes.mask, guard, lanes.count)
        if combine:
            there = self._load_lanes(pointer, dtype, place, lanes, mask)
            old = self.scalars.widen(there, dtype)
            value = self.scalars.combine(combine, old, value, dtype)
        value = self.scalars.narrow(fn.splat(value, lanes.count), dtype)
        self._store_lanes(pointer, dtype, place, lanes, mask, value)

    def store_joined(
        self, base: Value, dtype: DType, place: Address, lanes: Lanes, value: Value
    ) -> None:
        """Stores what lies side by side from ``place`` on, so many elements for each lane."""
        pointer = self.fn.address(base, STORED[dtype], place.start)
        alive = _alive(lanes.mask, lanes.count)
        assert alive is not None, "other masks store one by one"
        value = self.scalars.narrow(value, dtype)
        if alive == lanes.count:
            self.fn.store(value, pointer, dtype.itemsize)
        else:
            front = alive * (lanes_of(value.type) // lanes.count)
            self._store_front(pointer, dtype, value, front)

    def _store_scalar(
        self, pointer: Value, dtype: DType, guard: Value | None, value: Value, combine: str
    ) -> None:
        if guard is not None:
            with self.fn.branch(guard):
                self._store_scalar(pointer, dtype, None, value, combine)
            return
        if combine:
            old = self.fn.load(pointer, STORED[dtype], dtype.itemsize)
            value = self.scalars.combine(combine, self.scalars.widen(old, dtype), value, dtype)
        self.fn.store(self.scalars.narrow(value, dtype), pointer, dtype.itemsize)

    def _store_in_turn(
        self,
        pointer: Value,
        dtype: DType,
        lanes: Lanes,
        guard: Value | None,
        value: Value,
        combine: str,
    ) -> None:
        """One address for all lanes: they store in order."""
        fn = self.fn
        mask = both(fn, lanes.mask, guard, lanes.count)
        for lane in range(lanes.count):
            alive = None if mask is None else fn.extract(mask, lane)
            one = fn.extract(value, lane) if lanes_of(value.type) else value
            self._store_scalar(pointer, dtype, alive, one, combine)

    def _store_lanes(
        self,
        pointer: Value,
        dtype: DType,
        place: Address,
        lanes: Lanes,
        mask: Value | None,
        value: Value,
    ) -> None:
        if place.stride == 1:
            self._store_run(pointer, dtype, mask, value)
        elif place.stride == -1:
            low = self.fn.address(pointer, element_of(value.type), i64(1 - lanes.count))
            turned = None if mask is None else self._reverse(mask)
            self._store_run(low, dtype, turned, self._reverse(value))
        elif place.offsets is None and _alive(mask, lanes.count) is not None:
            # Places that are known need no vector of addresses.
            element = element_of(value.type)
            for lane, at in enumerate(place.pattern[: _alive(mask, lanes.count)]):
                here = self.fn.address(pointer, element, i64(at))
                self.fn.store(self.fn.extract(value, lane), here, dtype.itemsize)
        else:
            self._scatter(self._pointers(pointer, dtype, place, lanes), dtype, mask, value)

    def _store_run(self, pointer: Value, dtype: DType, mask: Value | None, value: Value) -> None:
        if mask is None:
            self.fn.store(value, pointer, dtype.itemsize)
            return
        # LLVM (22) makes a masked store of one lane, known to it, of truncated values a scalar
        # store of the wide type, beyond the end. So one lane is stored as a scalar here, and masks
        # it might yet fold are hidden from it.
        lanes = mask.name.strip("<>").split(", ") if mask.name.startswith("<") else []
        if lanes.count("i1 true") == 1:
            self._store_lane(pointer, dtype, value, lanes.index("i1 true"))
            return
        alive = _alive(mask, len(lanes)) if lanes else None
        if alive and dtype.itemsize >= 4 and not self.scalars.isa.masks:
            self._store_front(pointer, dtype, value, alive)
            return
        if mask.name.startswith("%") and dtype.itemsize < 4:
            mask = self._hidden(mask)
        name = f"llvm.masked.store.{bits_suffix(value.type)}.p0"
        self.fn.module.declare(name, "void", [value.type, "ptr", "i32", mask.type])
        self.fn.line(f"call void @{name}({value}, {pointer}, i32 {dtype.itemsize}, {mask})")

    def _store_front(self, pointer: Value, dtype: DType, value: Value, alive: int) -> None:
        """The first lanes, in whole vectors that are ever smaller: where masked stores are slow."""
        first = 0
        while first < alive:
            count = 1 << ((alive - first).bit_length() - 1)
            if count == 1:
                self._store_lane(pointer, dtype, value, first)
            else:
                part = self.fn.shuffle(value, None, range(first, first + count))
                place = self.fn.address(pointer, element_of(value.type), i64(first))
                self.fn.store(part, place, dtype.itemsize)
            first += count

    def _store_lane(self, pointer: Value, dtype: DType, value: Value, lane: int) -> None:
        place = self.fn.address(pointer, element_of(value.type), i64(lane))
        self.fn.store(self.fn.extract(value, lane), place, dtype.itemsize)

    def _hidden(self, mask: Value) -> Value:
        """The same mask, of which LLVM cannot know that it is constant."""
        fn = self.fn
        real = fn.op(f"icmp ne {fn.parameters[0]}, null", "i1")
        return fn.binary("and", mask, fn.splat(real, lanes_of(mask.type)))

    def _scatter(self, pointers: Value, dtype: DType, mask: Value | None, value: Value) -> None:
        mask = mask or constant(with_element(value.type, "i1"), True)
        name = f"llvm.masked.scatter.{bits_suffix(value.type)}.{bits_suffix(pointers.type)}"
        self.fn.module.declare(name, "void", [value.type, pointers.type, "i32", mask.type])
        self.fn.line(f"call void @{name}({value}, {pointers}, i32 {dtype.itemsize}, {mask})")


def _alive(mask: Value | None, lanes: int) -> int | None:
    """How many lanes, all at the front, a mask known here lets through; None if it is not of that
    kind.
    """
    if mask is None:
        return lanes
    bits = mask.name.strip("<>").split(", ")
    count = bits.count("i1 true")
    front = mask.name.startswith("<") and bits[:count] == ["i1 true"] * count
    return count if front else None
