"""Packing of patches: windows of images become panels or strips of a matrix product, a vector of
places at a time.

For a vector of places, where each lane's window begins is computed once; a tap then moves all lanes
by one distance, and lanes that leave the image there are masked to zero. Where neighbouring places
are neighbours in memory a vector is one load (one for each image it spans), else a gather.

Non-goals: deciding the blocking; elements beyond 2 ** 31.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

from gradc.codegen.llvm.gemm.pack import load_lanes, memory_type, transpose, widen
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import TRUE, i64, negation, when
from gradc.codegen.llvm.text import (
    Function,
    Module,
    Value,
    bits_suffix,
    constant,
    literal_vector,
    vector,
)
from gradc.ir.loop.kernel import Patch, dense_strides
from gradc.ir.tensor.core import DType

I64 = "i64"
_PARAMETERS = (
    ("ptr", "source"),
    (I64, "t0"),
    (I64, "t1"),
    (I64, "r0"),
    (I64, "count"),
    ("ptr", "target"),
)


def pack_patch(
    module: Module, patch: Patch, dtype: DType, shape: tuple[int, int], pitch: int, isa: Isa
) -> str:
    """Defines, once per module, the packing of a patch; returns its name.

    ``void (ptr source, i64 t0, i64 t1, i64 r0, i64 count, ptr target)``: places ``t0`` to ``t1`` of
    rows (channels and taps) ``r0`` to ``r0 + count``. ``shape`` is (lanes, vectors of a panel).
    With a ``pitch`` they become ``target[row * pitch + place]``, else panels of ``lanes * vectors``
    columns: places, or if the patch is turned, rows; columns beyond the last become anything finite
    that no result has a part of.
    """
    lanes, vectors = shape
    numbers = (patch.images, patch.image_stride, patch.channels, patch.channel_stride)
    axes = (patch.size, patch.taps, patch.places, patch.stride, patch.step, patch.before)
    told = ".".join("x".join(map(str, axis)).replace("-", "m") for axis in (numbers, *axes))
    way = f"{'turned' if patch.is_turned else 'plain'}.{dtype}.{lanes}x{vectors}.{pitch}"
    name = f"gradc.pack_patch.{way}.{told}"
    if name in module.functions:
        return name
    f = module.function(name, "void", _PARAMETERS, attributes="noinline")
    packer = _Packer(f, patch, dtype, isa, lanes)
    if patch.is_turned:
        _pack_turned(packer, vectors)
    else:
        _pack_plain(packer, vectors, pitch)
    f.ret()
    return name


@dataclass(frozen=True, slots=True)
class _Lanes:
    """A vector of places: where the window of each begins along each axis, and where that
    is in memory: the address of lane 0 and, by parts, which lanes there are and how far from it.
    """

    starts: list[Value]
    base: Value
    parts: list[tuple[Value, int]]
    offsets: Value | None  # of each lane from the source, where they are no run


class _Packer:
    """What both ways of packing are written with."""

    def __init__(self, f: Function, patch: Patch, dtype: DType, isa: Isa, lanes: int) -> None:
        self.f, self.patch, self.dtype, self.isa, self.lanes = f, patch, dtype, isa, lanes
        self.source, self.t0, self.t1, self.r0, self.count, self.target = f.parameters
        self.element = memory_type(dtype)
        self.compute = "double" if dtype is DType.F64 else "float"
        self.size = 8 if dtype is DType.F64 else 4
        self.dense = dense_strides(patch.size)
        self.area = prod(patch.places)
        runs = zip(patch.stride, self.dense, dense_strides(patch.places), strict=True)
        self.is_run = all(stride * step == place for stride, step, place in runs)

    def words(self, value: int) -> Value:
        """``value`` in every lane."""
        return constant(vector("i32", self.lanes), value)

    def at(self, t: Value) -> _Lanes:
        """The places from ``t`` on."""
        f, patch, lanes = self.f, self.patch, self.lanes
        step = literal_vector("i32", range(lanes))
        first = f.convert("trunc", t, "i32")
        number = f.binary("add", f.splat(first, lanes), step)
        last = f.splat(f.convert("trunc", self.t1, "i32"), lanes)
        valid = f.compare("icmp slt", number, last)
        image, local = self._divided(number, self.area)
        starts: list[Value] = []
        for axis in reversed(range(len(patch.places))):
            local, place = self._divided(local, patch.places[axis])
            begin = f.binary("mul", place, self.words(patch.stride[axis]))
            starts.append(f.binary("sub", begin, self.words(patch.before[axis])))
        starts.reverse()
        if not self.is_run:
            offsets = f.binary("mul", image, self.words(patch.image_stride))
            for begin, stride in zip(starts, self.dense, strict=True):
                moved = f.binary("mul", begin, self.words(stride))
                offsets = f.binary("add", offsets, moved)
            wide = f.convert("sext", offsets, vector(I64, lanes))
            return _Lanes(starts, self.source, [(valid, 0)], wide)
        image0 = f.binary("udiv", t, i64(self.area))
        within = f.binary("sub", t, f.binary("mul", image0, i64(self.area)))
        before = sum(b * s for b, s in zip(patch.before, self.dense, strict=True))
        place = f.binary("add", f.binary("mul", image0, i64(patch.image_stride)), within)
        base = f.address(self.source, self.element, f.binary("sub", place, i64(before)))
        return _Lanes(starts, base, self._parts(image, image0, valid), None)

    def whole(self, t: Value) -> tuple[Value, Value] | None:
        """Whether a vector of places from ``t`` on is a run of one image's elements, of one tap
        that never leaves it, and where that is in the first channel; None where it never is.
        """
        f, patch, lanes = self.f, self.patch, self.lanes
        axes = range(len(patch.taps))
        if prod(patch.taps) > 1 or not self.is_run or self.area < lanes:
            return None
        if not all(map(self._stays, axes)):
            return None
        image = f.binary("udiv", t, i64(self.area))
        within = f.binary("sub", t, f.binary("mul", image, i64(self.area)))
        fits = f.compare("icmp sle", f.binary("add", within, i64(lanes)), i64(self.area))
        ends = f.compare("icmp sle", f.binary("add", t, i64(lanes)), self.t1)
        before = sum(b * s for b, s in zip(patch.before, self.dense, strict=True))
        place = f.binary("add", f.binary("mul", image, i64(patch.image_stride)), within)
        start = f.address(self.source, self.element, f.binary("sub", place, i64(before)))
        return f.binary("and", fits, ends), start

    def line(self, start: Value, channel: Value) -> Value:
        """A run of a channel's elements."""
        distance = self.f.binary("mul", channel, i64(self.patch.channel_stride))
        at = self.f.address(start, self.element, distance)
        return load_lanes(self.f, at, self.dtype, self.lanes, None, self.isa)

    def _divided(self, x: Value, by: int) -> tuple[Value, Value]:
        """Quotient and remainder of each lane."""
        quotient = self.f.binary("udiv", x, self.words(by))
        return quotient, self.f.binary("sub", x, self.f.binary("mul", quotient, self.words(by)))

    def _parts(self, image: Value, image0: Value, valid: Value) -> list[tuple[Value, int]]:
        """For each image that a vector may span: its lanes, and how much further they lie."""
        patch, f = self.patch, self.f
        if patch.images == 1 or self.area % self.lanes == 0:
            return [(valid, 0)]
        first = f.splat(f.convert("trunc", image0, "i32"), self.lanes)
        found = []
        for n in range(min(patch.images, -(-(self.lanes - 1) // self.area) + 1)):
            here = f.compare("icmp eq", image, f.binary("add", first, self.words(n)))
            gap = n * (patch.image_stride - self.area)
            found.append((f.binary("and", here, valid), gap))
        return found

    @contextmanager
    def taps(self, lanes: _Lanes) -> Iterator[tuple[Value, Value, list[tuple[Value, int]]]]:
        """In a loop over the taps: the number of the tap, how far it moves, and the parts of the
        vector with the lanes that stay inside the image there.
        """
        f, patch = self.f, self.patch
        number, moved = i64(0), i64(0)
        inside: Value | None = None
        with ExitStack() as stack:
            for axis, count in enumerate(patch.taps):
                tap = stack.enter_context(f.loop(i64(0), i64(count), 1, nonempty=True)).index
                number = f.binary("add", f.binary("mul", number, i64(count)), tap)
                distance = f.binary("mul", tap, i64(patch.step[axis]))
                moved = f.binary("add", moved, f.binary("mul", distance, i64(self.dense[axis])))
                if not self._stays(axis):
                    shift = f.splat(f.convert("trunc", distance, "i32"), self.lanes)
                    at = f.binary("add", lanes.starts[axis], shift)
                    fits = f.compare("icmp ult", at, self.words(patch.size[axis]))
                    inside = fits if inside is None else f.binary("and", inside, fits)
            parts = [
                (mask if inside is None else f.binary("and", mask, inside), gap)
                for mask, gap in lanes.parts
            ]
            yield number, moved, parts

    def _stays(self, axis: int) -> bool:
        """Whether no tap of no place leaves the image along an axis."""
        patch = self.patch
        ends = [0, patch.step[axis] * (patch.taps[axis] - 1)]
        low = min(ends) - patch.before[axis]
        high = max(ends) + patch.stride[axis] * (patch.places[axis] - 1) - patch.before[axis]
        return low >= 0 and high < patch.size[axis]

    @contextmanager
    def channels(self, tap: Value) -> Iterator[tuple[Value, Value]]:
        """In a loop over the channels whose row at ``tap`` is asked for: the channel, and the row
        counted from the first.
        """
        f, taps = self.f, prod(self.patch.taps)
        above = f.binary("add", f.binary("sub", self.r0, tap), i64(taps - 1))
        low = f.binary("sdiv", above, i64(taps))
        high = f.binary("sdiv", f.binary("add", above, self.count), i64(taps))
        with f.loop(low, high, 1) as channel:
            row = f.binary("add", f.binary("mul", channel.index, i64(taps)), tap)
            yield channel.index, f.binary("sub", row, self.r0)

    def load(
        self, lanes: _Lanes, moved: Value, channel: Value, parts: list[tuple[Value, int]]
    ) -> Value:
        """The elements of a channel at a tap; zero outside."""
        f = self.f
        start = f.binary("mul", channel, i64(self.patch.channel_stride))
        start = f.binary("add", start, moved)
        type_ = vector(self.element, self.lanes)
        found = Value(type_, "zeroinitializer")
        if lanes.offsets is not None:
            places = f.address(
                f.address(lanes.base, self.element, start), self.element, lanes.offsets
            )
            mask = parts[0][0]
            name = f"llvm.masked.gather.{bits_suffix(type_)}.v{self.lanes}p0"
            f.module.declare(name, type_, (places.type, "i32", mask.type, type_))
            text = f"call {type_} @{name}({places}, i32 {self.dtype.itemsize}, {mask}, {found})"
            return widen(f, f.effect(text, type_), self.dtype, self.isa)
        for mask, gap in parts:
            at = f.address(lanes.base, self.element, f.binary("add", start, i64(gap)))
            name = f"llvm.masked.load.{bits_suffix(type_)}.p0"
            f.module.declare(name, type_, ("ptr", "i32", mask.type, type_))
            text = f"call {type_} @{name}({at}, i32 {self.dtype.itemsize}, {mask}, {found})"
            found = f.effect(text, type_)
        return widen(f, found, self.dtype, self.isa)


def _pack_plain(p: _Packer, vectors: int, pitch: int) -> None:
    """Places along the vectors: ``rows x pitch``, or panels of places."""
    f, lanes, width = p.f, p.lanes, p.lanes * vectors
    span = f.binary("sub", p.t1, p.t0)
    unit = lanes if pitch else width
    groups = f.binary("sdiv", f.binary("add", span, i64(unit - 1)), i64(unit))
    if not pitch:
        groups = f.binary("mul", groups, i64(vectors))
    with f.loop(i64(0), groups, 1) as group:
        base = f.binary("mul", group.index, i64(lanes))
        if not pitch:
            panel = f.binary("sdiv", group.index, i64(vectors))
            part = f.binary("srem", group.index, i64(vectors))
            step = f.binary("mul", p.count, i64(width))
            base = f.binary("mul", part, i64(lanes))
            base = f.binary("add", base, f.binary("mul", panel, step))
        out = f.address(p.target, p.compute, base)
        here = p.at(f.binary("add", p.t0, f.binary("mul", group.index, i64(lanes))))
        with p.taps(here) as (tap, moved, parts), p.channels(tap) as (channel, row):
            value = p.load(here, moved, channel, parts)
            place = f.address(out, p.compute, f.binary("mul", row, i64(pitch or width)))
            f.store(value, place, p.size)


def _pack_turned(p: _Packer, vectors: int) -> None:
    """Panels of channels, places along k: blocks are loaded along places and turned round."""
    f, lanes, width = p.f, p.lanes, p.lanes * vectors
    depth = f.binary("sub", p.t1, p.t0)
    last = f.binary("sub", f.binary("add", p.r0, p.count), i64(1))
    groups = f.binary("sdiv", f.binary("add", p.count, i64(width - 1)), i64(width))
    groups = f.binary("mul", groups, i64(vectors))
    blocks = f.binary("sdiv", f.binary("add", depth, i64(lanes - 1)), i64(lanes))
    with f.loop(i64(0), groups, 1) as group:
        panel = f.binary("sdiv", group.index, i64(vectors))
        part = f.binary("srem", group.index, i64(vectors))
        base = f.binary("mul", panel, f.binary("mul", depth, i64(width)))
        base = f.binary("add", base, f.binary("mul", part, i64(lanes)))
        first = f.binary("add", p.r0, f.binary("mul", group.index, i64(lanes)))
        with f.loop(i64(0), blocks, 1) as block:
            k = f.binary("mul", block.index, i64(lanes))
            place = f.binary("add", p.t0, k)
            out = f.address(p.target, p.compute, base)
            out = f.address(out, p.compute, f.binary("mul", k, i64(width)))
            # Columns past the edge repeat the last one: never part of a result.
            wanted = [f.binary("add", first, i64(n)) for n in range(lanes)]
            columns = [f.select(f.compare("icmp slt", n, last), n, last) for n in wanted]

            def put(lines: list[Value], out: Value = out) -> None:
                for n, value in enumerate(transpose(f, lines)):
                    f.store(value, f.address(out, p.compute, i64(n * width)), p.size)

            whole = p.whole(place)
            if whole is not None:
                fits, start = whole
                with f.branch(fits):
                    put([p.line(start, channel) for channel in columns])
            with when(f, TRUE if whole is None else negation(f, whole[0])):
                here = p.at(place)
                with p.taps(here) as (_, moved, parts):  # of which there is one
                    put([p.load(here, moved, channel, parts) for channel in columns])
