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

from gradc.codegen.llvm.gemm.slide import Slide, lowest, packed_size, plane_size, told
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.text import Module, Value
from gradc.ir.loop.kernel import Gemm, Patch, dense_strides
from gradc.ir.loop.order import K_LEAF
from gradc.ir.tensor.core import DType

CHUNK = 288  # rows whose sums are parked at once
MOST_ROWS = 9  # of a tile: an address register for each
SHARE = 50  # percent of the second cache for a packed group
_TABLE = 2048  # places of a group
_ALIASED = 1024  # bytes: planes that lie whole multiples apart meet in a few sets of a cache
_FAR = 1 << 31


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
    if _lies_there(patch, dtype):
        found = _cut(patch, None)
        return None if found is None else Walk(patch, *found, None)
    itemsize = gemm.acc.dtype.itemsize
    room = isa.caches[1] * SHARE // 100 // itemsize
    found = _cut(patch, room)
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
    if prod(patch.taps) == 1 and patch.channel_stride * size % _ALIASED == 0:
        return max(patch.stride) > 1
    low = [a - b for a, b in zip(lowest(patch), patch.before, strict=True)]
    high = [
        (places - 1) * stride + max(0, (taps - 1) * step) - before
        for places, stride, taps, step, before in zip(
            patch.places, patch.stride, patch.taps, patch.step, patch.before, strict=True
        )
    ]
    return min(low) >= 0 and all(a < b for a, b in zip(high, patch.size, strict=True))


def _cut(patch: Patch, room: int | None) -> tuple[int, int] | None:
    """Images and places along the first axis of a group: as many as a table has and ``room``
    elements hold, whole leaves of the sum if that can be.
    """
    area, first = prod(patch.places), patch.places[0]

    def fits(images: int, band: int) -> bool:
        if images * band * (area // first) > _TABLE:
            return False
        size = packed_size(patch, (band, *patch.places[1:]))
        return room is None or channels_at_once(patch) * images * prod(size) <= room

    whole = K_LEAF // gcd(area, K_LEAF)
    most = max((n for n in range(1, patch.images + 1) if fits(n, first)), default=0)
    if most:
        return (most // whole * whole if most >= whole else most), first
    if len(patch.places) == 1:
        return None
    bands = [n for n in range(1, first) if first % n == 0 and fits(1, n)]
    even = [n for n in bands if n * (area // first) % K_LEAF == 0]
    return (1, max(even or bands)) if bands else None


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
