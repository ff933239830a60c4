"""Windows whose places are summed over are read in place: each row of the product is a channel and
a tap, a distance from where the images begin, and each step of k a place, a distance from there. A
table has the ones, another the others.

Where taps leave the images, or their elements must be converted, a *group* of places, of some
images or of a band of rows of one, is packed with the zeros around it (``slide``).

Non-goals: deciding the register tile; the loops (``walking``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.slide import (
    COPYING,
    WRITING,
    Slide,
    even_images,
    lowest,
    pack_slide,
    packed_size,
    plane_size,
    slide_cost,
    slide_of,
    told,
)
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value
from gradc.ir.loop.kernel import Gemm, Patch, dense_strides
from gradc.ir.loop.order import K_LEAF, K_NODE
from gradc.ir.tensor.core import DType

CHUNK = 288  # rows whose sums are parked at once
MOST_ROWS = 9  # of a tile: an address register for each
SHARE = 50  # percent of the second cache for a packed group
_TABLE = 2048  # places of a group
_ALIASED = 1024  # bytes: planes that lie whole multiples apart meet in a few sets of a cache
_FAR = 1 << 31
_BLOCK = (
    32  # places that are finished together where vectors run across channels, if rows are short
)
_WIDEST = 128  # ... at most
_WEIGHTS = 512 << 10  # bytes of the other factor, packed for each group
_TURNING = 8.0  # cycles for turning a vector of a result round
GAIN = 0.95  # of the cycles of vectors of places that vectors of channels must not exceed


@dataclass(frozen=True, slots=True)
class Walk:
    """A group has ``images`` images, or ``band`` places along the first axis of one. ``packed``
    says how they are packed, if they are.
    """

    patch: Patch
    images: int
    band: int
    packed: Slide | None

    @property
    def group(self) -> int:
        """Places of a group."""
        return self.images * self.band * prod(self.patch.places[1:])

    @property
    def groups(self) -> int:
        """How many there are; the last may have fewer images."""
        return -(-self.patch.images * prod(self.patch.places) // self.group)

    @property
    def bands(self) -> int:
        """Groups of an image, where one does not hold it."""
        return self.patch.places[0] // self.band

    @property
    def is_cut(self) -> bool:
        """Whether a group may end inside of a leaf of the sum."""
        return self.groups > 1 and self.group % K_LEAF != 0

    @property
    def plane(self) -> int:
        """Elements from channel to channel."""
        return self.patch.channel_stride if self.packed is None else self.packed.plane

    @property
    def _strides(self) -> tuple[int, ...]:
        return dense_strides(self.patch.size if self.packed is None else self.packed.size)

    @property
    def steps(self) -> list[int]:
        """How far each place of a group lies from its first window's origin."""
        patch, strides = self.patch, self._strides
        image = patch.image_stride if self.packed is None else prod(self.packed.size)
        found = []
        for at in product(range(self.images), range(self.band), *map(range, patch.places[1:])):
            moved = zip(at[1:], patch.stride, strides, strict=True)
            found.append(at[0] * image + sum(y * s * d for y, s, d in moved))
        return found

    @property
    def rows(self) -> list[int]:
        """How far each channel and tap lies from there, and from the first channel."""
        patch = self.patch
        start = patch.before if self.packed is None else lowest(patch)
        taps = []
        for tap in product(*map(range, patch.taps)):
            axes = zip(tap, patch.step, start, self._strides, strict=True)
            taps.append(sum((p * step - low) * stride for p, step, low, stride in axes))
        return [c * self.plane + tap for c in range(patch.channels) for tap in taps]

    def strips_at_once(self, rows: int) -> int:
        """Strips of so many rows whose sums are parked at once."""
        return max(1, CHUNK // rows)


def walk_of(gemm: Gemm, isa: Isa) -> Walk | None:
    """How the left factor of ``gemm`` is read in place; None where it is written out."""
    patch, right = gemm.left.patch, gemm.right.patch
    if patch is None or right is None or not right.is_turned:
        return None
    if 0 in (*patch.places, *patch.size, *patch.taps, patch.images, patch.channels):
        return None
    dtype = gemm.left.buffer.dtype
    # Rows of one tap are planes: where these meet in a few sets of a cache, copies do not.
    step = patch.channel_stride * dtype.itemsize
    meets = prod(patch.taps) == 1 and max(patch.stride) == 1 and step % _ALIASED == 0
    most = (channels_at_once(patch), _TABLE)
    return _walk(patch, (dtype, gemm.acc.dtype), most, not meets, isa)


def across_of(gemm: Gemm, isa: Isa) -> Walk | None:
    """How windows that are the right factor of ``gemm`` are read where vectors run across its rows,
    and its rows are their places; None where they do not.
    """
    patch, left = gemm.right.patch, gemm.left
    if patch is None or patch.is_turned or 0 in (gemm.m, gemm.k, patch.images):
        return None
    if 0 in (*patch.places, *patch.size) or gemm.k > K_LEAF * K_NODE:
        return None
    if block_of(patch) > _WIDEST or (left.patch is None and left.column != 1):
        return None
    types = (gemm.right.buffer.dtype, gemm.acc.dtype)
    if gemm.k * gemm.m * types[1].itemsize > _WEIGHTS:
        return None
    found = _walk(patch, types, (patch.channels, _TABLE // 4), True, isa)
    if found is not None and found.bands == 1:  # a group of these is a unit of work
        images = even_images(patch.images, found.images, 1)
        found = _walk(patch, types, (patch.channels, images * prod(patch.places)), True, isa)
    if found is None or found.group % block_of(patch):
        return None
    return found if _pays(gemm, found, isa.lanes(types[1]), isa) else None


def _pays(gemm: Gemm, walk: Walk, lanes: int, isa: Isa) -> bool:
    """Whether fewer cycles are modelled, for a step of k and a vector of places, than where vectors
    are places: channels fill theirs, and results are turned round.
    """
    other = slide_of(gemm, isa)
    theirs = gemm.m / 2 + WRITING if other is None else slide_cost(gemm.m, other, lanes)
    ours = -(-gemm.m // lanes) * lanes / 2 + _TURNING * gemm.m / gemm.k
    if walk.packed is not None:
        ours += COPYING * walk.plane / walk.group / prod(walk.patch.taps)
    return ours < GAIN * theirs


def block_of(patch: Patch) -> int:
    """Places that are finished together: some rows of an image."""
    *outer, width = patch.places
    rows = outer[-1] if outer else 1
    most = max(1, _BLOCK // max(width, 1))
    return width * max((n for n in range(1, rows + 1) if rows % n == 0 and n <= most), default=1)


def _walk(
    patch: Patch, types: tuple[DType, DType], most: tuple[int, int], in_place: bool, isa: Isa
) -> Walk | None:
    """How windows of images of the first of ``types`` are read, packed in the second if that must
    be; ``most`` channels are packed at once, and places are in a group.
    """
    if in_place and _lies_there(patch, types[0]):
        found = _cut(patch, most, None)
        return None if found is None else Walk(patch, *found, None)
    itemsize = types[1].itemsize
    found = _cut(patch, most, isa.caches[1] * SHARE // 100 // itemsize)
    if found is None:
        return None
    images, band = found
    size = packed_size(patch, (band, *patch.places[1:]))
    plane = plane_size(images * prod(size), itemsize)
    return Walk(patch, images, band, Slide(patch, images, band, size, plane, 1))


def channels_at_once(patch: Patch) -> int:
    """Of how many channels the rows of a chunk may be."""
    return min(patch.channels, -(-CHUNK // prod(patch.taps)) + 1)


def _lies_there(patch: Patch, dtype: DType) -> bool:
    """Whether windows may be read where the images lie: no tap leaves them."""
    size = dtype.itemsize
    is_far = max(patch.channels * patch.channel_stride, patch.image_stride * _TABLE) * size >= _FAR
    if dtype not in (DType.F32, DType.F64) or is_far:
        return False
    low = [a - b for a, b in zip(lowest(patch), patch.before, strict=True)]
    high = [
        (places - 1) * stride + max(0, (taps - 1) * step) - before
        for places, stride, taps, step, before in zip(
            patch.places, patch.stride, patch.taps, patch.step, patch.before, strict=True
        )
    ]
    return min(low) >= 0 and all(a < b for a, b in zip(high, patch.size, strict=True))


def _cut(patch: Patch, limits: tuple[int, int], room: int | None) -> tuple[int, int] | None:
    """Images and places along the first axis of a group: as many as ``room`` elements hold, whole
    leaves of a sum over places if that can be. ``limits`` are channels packed at once and the most
    places.
    """
    channels, table = limits
    area, first = prod(patch.places), patch.places[0]

    def fits(images: int, band: int) -> bool:
        if images * band * (area // first) > table:
            return False
        size = packed_size(patch, (band, *patch.places[1:]))
        return room is None or channels * images * prod(size) <= room

    whole = K_LEAF // gcd(area, K_LEAF)
    most = max((n for n in range(1, patch.images + 1) if fits(n, first)), default=0)
    if most:
        return (most // whole * whole if most >= whole else most), first
    bands = [n for n in range(1, first) if first % n == 0 and fits(1, n)]
    even = [n for n in bands if n * (area // first) % K_LEAF == 0]
    return (1, max(even or bands)) if bands else None


def emit_group(f: Function, walk: Walk, group: Value) -> tuple[Value, Value]:
    """The first image of a group of places, and the first line of its band."""
    image = static.mul(f, static.div(f, group, walk.bands), i64(walk.images))
    line = walk.band * walk.patch.stride[0]
    return image, static.mul(f, static.rem(f, group, walk.bands), i64(line))


def emit_packing(
    f: Function,
    module: Module,
    isa: Isa,
    walk: Walk,
    dtype: DType,
    channels: tuple[Value, Value],
    group: tuple[Value, Value],
    target: Value,
) -> None:
    """Packs so many channels from an address on, of the images of a group (``emit_group``)."""
    assert walk.packed is not None, "others are read where they lie"
    source, count = channels
    image, start = group
    images = static.minimum(f, static.sub(f, i64(walk.patch.images), image), i64(walk.images))
    name = pack_slide(module, walk.packed, dtype, isa)
    given = f"{source}, {count}, {image}, {images}, {start}, {target}"
    f.line(f"call void @{name}({given})")


def emit_tables(module: Module, walk: Walk, dtype: DType) -> tuple[Value, Value]:
    """The tables of ``rows`` and ``steps``, in bytes; returns their addresses."""
    name = f"{told(walk.patch)}.{walk.images}x{walk.band}.{'lies' if walk.packed is None else ''}"
    kinds = (("rows", walk.rows), ("steps", walk.steps))
    rows, steps = (_table(module, f"{kind}.{name}", found, dtype) for kind, found in kinds)
    return rows, steps


def _table(module: Module, name: str, distances: Sequence[int], dtype: DType) -> Value:
    text = ", ".join(f"i32 {n * dtype.itemsize}" for n in distances)
    kind = f"private unnamed_addr constant [{len(distances)} x i32]"
    return module.add_global(f"gradc.walk.{name}.{dtype}", f"{kind} [{text}], align 64")
