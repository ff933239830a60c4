"""Windows that move by one place at a time are read in place: images are packed once, with the
zeros around them, and every tap is a distance from a place, found in a table.

A packed block holds some images, or a band of rows (of places, along one axis) of one, of all
channels. Panels are parts of an image's rows, or several rows of one vector each, so that the
places of a vector are neighbours in memory whatever the tap; what a panel has beyond the end of a
row is computed and never stored.

Non-goals: windows that jump (``patch`` writes those out); deciding the register tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.pack import COMPUTE, LINE, load_lanes, memory_type, offset
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, constant, literal_vector, vector
from gradc.ir.loop.kernel import Gemm, Patch, dense_strides
from gradc.ir.loop.order import K_LEAF, K_NODE
from gradc.ir.tensor.core import DType

SHARE = 75  # percent of the second cache for a packed block
WRITING = 5.0  # cycles for a vector of a window that is written out
COPYING = 3.0  # cycles for a vector of an image that is packed
_PLACES = 1024  # of a block: the left factor is packed anew for each
_SMALLER = 0.01  # of the time for each image that a block has less, for that packing
_RANGES = 4  # into which two threads cut a product
_STRIP = 6  # rows that are computed together, roughly


@dataclass(frozen=True, slots=True)
class Slide:
    """How the images of a patch are packed: ``images`` of them, or one, ``band`` places of its
    first axis; ``size`` along each axis, ``plane`` elements from channel to channel. ``group`` rows
    of places are cut into panels together.
    """

    patch: Patch
    images: int
    band: int
    size: tuple[int, ...]
    plane: int
    group: int

    @property
    def is_line(self) -> bool:
        """Whether images have one axis."""
        return len(self.size) == 1

    @property
    def width(self) -> int:
        """Places of a group of rows; along one axis, of a band."""
        return self.band if self.is_line else self.patch.places[-1] * self.group

    @property
    def groups(self) -> int:
        """Groups of rows of an image; along one axis, bands."""
        return prod(self.patch.places) // self.width

    @property
    def block_groups(self) -> int:
        """Groups of rows of a block."""
        if self.is_line:
            return self.images
        return self.images * self.groups * self.band // self.patch.places[0]

    @property
    def apart(self) -> int:
        """Elements between the vectors of a panel; 0 if they are neighbours."""
        return self.strides[-2] if self.group > 1 else 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Of a packed image."""
        return dense_strides(self.size)

    @property
    def elements(self) -> int:
        """All channels of a block."""
        return self.patch.channels * self.plane

    @property
    def distances(self) -> tuple[int, ...]:
        """For each step of k, how far its element lies from a place."""
        patch, strides = self.patch, self.strides
        taps = []
        for tap in product(*map(range, patch.taps)):
            at = [p * d - low for p, d, low in zip(tap, patch.step, lowest(patch), strict=True)]
            taps.append(sum(a * s for a, s in zip(at, strides, strict=True)))
        return tuple(c * self.plane + tap for c in range(patch.channels) for tap in taps)


def lowest(patch: Patch) -> list[int]:
    """The least that a tap moves, along each axis."""
    return [min(0, (n - 1) * step) for n, step in zip(patch.taps, patch.step, strict=True)]


def packed_size(patch: Patch, places: Sequence[int]) -> tuple[int, ...]:
    """The size of an image that so many places of each axis see."""
    axes = zip(places, patch.stride, patch.taps, patch.step, strict=True)
    return tuple((n - 1) * jump + (taps - 1) * abs(step) + 1 for n, jump, taps, step in axes)


def plane_size(elements: int, itemsize: int) -> int:
    """An odd number of cache lines: planes that lie a page apart would fall into the same few sets
    of a cache.
    """
    line = LINE // itemsize
    return (-(-elements // line) | 1) * line


def slide_of(gemm: Gemm, isa: Isa) -> Slide | None:
    """How the right factor of ``gemm`` is read in place; None where it is written out."""
    patch, dtype = gemm.right.patch, gemm.acc.dtype
    if patch is None or patch.is_turned or not _slides(gemm, patch):
        return None
    room = isa.caches[1] * SHARE // 100 // dtype.itemsize
    places = patch.places
    most = -(-_PLACES // prod(places))
    size = packed_size(patch, places)
    fit = room // max(patch.channels * prod(size), 1)
    if fit >= 1:
        images, band = even_images(patch.images, min(most, fit), gemm.m), places[0]
    else:
        images, band = 1, _band(patch, room)
        size = packed_size(patch, (band, *places[1:]))
    group = (band, *places[1:])[-2] if len(places) > 1 and places[-1] == isa.lanes(dtype) else 1
    found = Slide(patch, images, band, size, plane_size(images * prod(size), dtype.itemsize), group)
    return found if _pays(gemm.m, found, isa.lanes(dtype)) else None


def even_images(count: int, most: int, m: int) -> int:
    """Of how many images a block is, of ``count`` that are cut into blocks of at most ``most``: so
    that the last block is whole and ranges of the work are equal, as far as smaller blocks are
    worth that. Products have ``m`` rows.
    """

    def loss(images: int) -> float:
        blocks = -(-count // images)
        units = blocks * -(-m // _STRIP)
        uneven = -(-units // _RANGES) * _RANGES / units
        return blocks * images / count + uneven + _SMALLER * (most - images)

    most = min(most, count)
    return min(range(most, (most - 1) // 2, -1), key=loss)


def _slides(gemm: Gemm, patch: Patch) -> bool:
    is_dense = all(stride == 1 for stride in patch.stride) and prod(patch.taps) > 1
    return is_dense and 0 not in (*patch.places, *patch.size) and gemm.k <= K_LEAF * K_NODE


def _band(patch: Patch, room: int) -> int:
    """Places of the first axis whose images fit into ``room`` elements; at least a quarter more
    than taps reach beyond, whatever that takes.
    """
    first, *others = patch.places
    reach = (patch.taps[0] - 1) * abs(patch.step[0])
    whole = [n for n in range(1, first + 1) if first % n == 0]
    fits = [n for n in whole if patch.channels * prod(packed_size(patch, (n, *others))) <= room]
    return (
        max(fits, default=1)
        if max(fits, default=0) >= 2 * reach
        else next((n for n in whole if n >= 2 * reach), first)
    )


def _pays(m: int, slide: Slide, lanes: int) -> bool:
    """Whether fewer cycles are modelled than for windows that are written out."""
    return slide_cost(m, slide, lanes) <= m / 2 + WRITING


def slide_cost(m: int, slide: Slide, lanes: int) -> float:
    """Modelled cycles of a step of k for a vector of places: what rows of places leave of their
    last vectors is computed for nothing.
    """
    width = slide.band if slide.is_line else slide.patch.places[-1]
    seen = -(-width // lanes) * lanes / width
    copied = slide.plane / (slide.block_groups * slide.width) / prod(slide.patch.taps)
    return m / 2 * seen + COPYING * copied


def emit_distances(module: Module, slide: Slide, dtype: DType) -> Value:
    """The table of ``slide``: bytes, an i32 for each step of k; returns its address."""
    found = [n * dtype.itemsize for n in slide.distances]
    text = ", ".join(f"i32 {n}" for n in found)
    name = f"gradc.slide.{_told(slide)}.{dtype}"
    kind = f"private unnamed_addr constant [{len(found)} x i32]"
    return module.add_global(name, f"{kind} [{text}], align 64")


def _told(slide: Slide) -> str:
    return f"{told(slide.patch)}.{slide.images}x{slide.band}x{slide.plane}"


def told(patch: Patch) -> str:
    """``patch`` as a part of a name."""
    numbers = (patch.images, patch.image_stride, patch.channels, patch.channel_stride)
    axes = (patch.size, patch.taps, patch.places, patch.stride, patch.step, patch.before)
    return ".".join("x".join(map(str, axis)).replace("-", "m") for axis in (numbers, *axes))


def start_of(f: Function, slide: Slide, group: Value, x: Value, lanes: int) -> Value:
    """Where place ``x``, the first of a vector, of a group of rows of the block lies in it, in
    elements.
    """
    row = static.mul(f, group, i64(slide.group))
    if slide.apart:
        x = static.mul(f, static.div(f, x, lanes), i64(slide.apart))
    places = (slide.images, slide.band, *slide.patch.places[1:-1])
    if slide.is_line:
        places = (slide.images,)
    strides = (prod(slide.size), *slide.strides[:-1])
    at = x
    for extent, stride in zip(reversed(places), reversed(strides), strict=True):
        at = static.add(f, at, static.mul(f, static.rem(f, row, extent), i64(stride)))
        row = static.div(f, row, extent)
    return at


def pack_slide(module: Module, slide: Slide, dtype: DType, isa: Isa) -> str:
    """Defines, once per module, the packing of a block; returns its name.

    ``void (ptr source, i64 channels, i64 first, i64 count, i64 start, ptr target)``: of the first
    ``channels`` of them, ``count`` images from ``first`` on, of each the band that begins ``start``
    further along its first axis.
    """
    name = f"gradc.pack_slide.{dtype}.{isa.lanes(dtype)}.{_told(slide)}"
    if name in module.functions:
        return name
    numbers = [("i64", number) for number in ("channels", "first", "count", "start")]
    given = (("ptr noalias readonly", "source"), *numbers, ("ptr noalias", "target"))
    f = module.function(name, "void", given, attributes="noinline")
    patch = slide.patch
    source, channels, first, count, start, target = f.parameters
    element = memory_type(dtype)
    compute = "double" if dtype is DType.F64 else "float"
    with f.loop(i64(0), channels, 1, nonempty=True) as c:
        plane = offset(f, source, element, (c.index, patch.channel_stride))
        out = offset(f, target, compute, (c.index, slide.plane))
        with f.loop(i64(0), count, 1, nonempty=True) as n:
            image = static.add(f, first, n.index)
            origin = offset(f, plane, element, (image, patch.image_stride))
            copy = offset(f, out, compute, (n.index, prod(slide.size)))
            _pack_image(f, slide, origin, start, copy, dtype, isa)
    f.ret()
    return name


def _pack_image(
    f: Function, slide: Slide, origin: Value, start: Value, copy: Value, dtype: DType, isa: Isa
) -> None:
    """The rows of one packed image."""
    patch, least = slide.patch, lowest(slide.patch)
    if slide.is_line and slide.band < patch.places[0]:
        _pack_part(f, slide, origin, start, copy, dtype, isa)
        return
    element = memory_type(dtype)
    compute = "double" if dtype is DType.F64 else "float"
    dense = dense_strides(patch.size)
    *outer, width = slide.size
    with f.loop(i64(0), i64(prod(outer)), 1, nonempty=True) as row:
        rest, inside, line = row.index, static.TRUE, origin
        for axis in reversed(range(len(outer))):
            at = static.rem(f, rest, outer[axis])
            rest = static.div(f, rest, outer[axis])
            at = static.add(f, at, i64(least[axis] - patch.before[axis]))
            at = static.add(f, at, start) if axis == 0 else at
            fits = f.compare("icmp ult", at, i64(patch.size[axis]))
            inside = static.both(f, inside, fits)
            line = offset(f, line, element, (at, dense[axis]))
        out = offset(f, copy, compute, (row.index, width))
        shift = least[-1] - patch.before[-1]
        with static.when(f, inside):
            _pack_row(f, (width, shift, patch.size[-1]), line, out, dtype, isa)
        if inside != static.TRUE:
            with f.branch(static.negation(f, inside)):
                _pack_row(f, (width, 0, 0), line, out, dtype, isa)


def _pack_part(
    f: Function, slide: Slide, line: Value, start: Value, out: Value, dtype: DType, isa: Isa
) -> None:
    """A band of an image of one axis: which of its elements lie outside is known when it runs."""
    lanes, element = isa.lanes(dtype), memory_type(dtype)
    compute = COMPUTE[dtype]
    (width,), (size,) = slide.size, slide.patch.size
    first = static.add(f, start, i64(lowest(slide.patch)[0] - slide.patch.before[0]))
    end = f.binary("add", first, i64(-(-width // lanes) * lanes))
    is_inside = f.binary(
        "and", f.compare("icmp sge", first, i64(0)), f.compare("icmp sle", end, i64(size))
    )
    numbers = literal_vector("i64", range(lanes))

    def row(masked: bool) -> None:
        with f.loop(i64(0), i64(width), lanes, nonempty=True) as some:
            at = f.binary("add", first, some.index)
            mask = None
            if masked:
                places = f.binary("add", f.splat(at, lanes), numbers)
                mask = f.compare("icmp ult", places, constant(places.type, size))
            value = load_lanes(f, f.address(line, element, at), dtype, lanes, mask, isa)
            f.store(value, f.address(out, compute, some.index), 8 if dtype is DType.F64 else 4)

    with f.branch(is_inside):
        row(False)
    with f.branch(static.negation(f, is_inside)):
        row(True)


def _pack_row(
    f: Function, places: tuple[int, int, int], line: Value, out: Value, dtype: DType, isa: Isa
) -> None:
    """``width`` elements, of which number x is element ``x + shift`` of a line of ``size``, or zero
    where it has none. Whole vectors are written: what follows comes later.
    """
    width, shift, size = places
    lanes, element = isa.lanes(dtype), memory_type(dtype)
    compute = "double" if dtype is DType.F64 else "float"
    itemsize = 8 if dtype is DType.F64 else 4
    zero = constant(vector(compute, lanes), 0.0)

    def put(first: Value, value: Value) -> None:
        f.store(value, f.address(out, compute, first), itemsize)

    def whole(x: int) -> bool:
        return 0 <= x + shift and x + lanes + shift <= size

    starts = range(0, width, lanes)
    inner = [x for x in starts if whole(x)]
    for x in starts:
        if whole(x):
            continue
        have = [0 <= x + n + shift < size and x + n < width for n in range(lanes)]
        if not any(have):
            put(i64(x), zero)
            continue
        bits = ", ".join(f"i1 {'true' if one else 'false'}" for one in have)
        at = f.address(line, element, i64(x + shift))
        mask = Value(vector("i1", lanes), f"<{bits}>")
        put(i64(x), load_lanes(f, at, dtype, lanes, mask, isa))
    if inner:
        with static.counted(f, i64(inner[0]), i64(inner[-1] + 1), lanes, nonempty=True) as some:
            at = f.address(line, element, static.add(f, some.index, i64(shift)))
            put(some.index, load_lanes(f, at, dtype, lanes, None, isa))
