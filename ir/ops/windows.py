"""Windows over images, and a loop over the places of a window, for derivatives of pooling over many
places.

Written out place by place a window of a thousand places makes thousands of ops, and compiling them
takes longer than any training step. The loop is a ``scan`` whose trip takes one place of every
window (``take`` along rows and columns) or adds to it (``scatter_add``); it adds in the order of
places, as the written form does, in the accumulator's type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

from gradc.ir.tensor.core import DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder

_ROLLED = 64  # windows of more places than this are walked over in a loop


@dataclass(frozen=True, slots=True)
class Window:
    """Size, stride and (low, high) padding per spatial axis."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], ...]

    @property
    def places(self) -> list[tuple[int, int]]:
        """The places in a window, row by row."""
        return list(product(range(self.size[0]), range(self.size[1])))

    @property
    def is_tiling(self) -> bool:
        """Whether every element lies in at most one window and no window in the padding."""
        return self.size == self.stride and self.padding == ((0, 0), (0, 0))

    @property
    def is_rolled(self) -> bool:
        """Whether there are too many places to write each one out."""
        return self.size[0] * self.size[1] > _ROLLED


# body(builder, place, carries, constants) -> the next carries
Body: TypeAlias = "Callable[[Builder, WindowTap, Sequence[Value], Sequence[Value]], list[Value]]"


@dataclass(frozen=True, slots=True)
class WindowTap:
    """One place of every window, inside the loop: ``rows`` and ``columns`` are where it lies in the
    padded image.
    """

    b: Builder
    rows: Value
    columns: Value
    size: tuple[Dim, ...]

    def read(self, x: Value) -> Value:
        """That element of every window of a padded image."""
        taken = self.b.one("take", x, self.rows, axis=2, fill="zero")
        return self.b.one("take", taken, self.columns, axis=3, fill="zero")

    def write(self, piece: Value) -> Value:
        """A padded image of zeros with ``piece`` there: the transpose of ``read``."""
        wide = self.b.one("scatter_add", self.columns, piece, axis=3, size=self.size[3])
        return self.b.one("scatter_add", self.rows, wide, axis=2, size=self.size[2])


class WindowLoop:
    """The loop over the places of the windows of ``op``, emitted into ``b``."""

    def __init__(self, b: Builder, op: Op, window: Window) -> None:
        self.b = b
        self.window = window
        self.out = op.result.type
        self.image = op.operands[0].type
        self.low, self.high = (tuple(pair[end] for pair in window.padding) for end in (0, 1))
        shape = self.image.shape
        rows = zip(shape[2:], self.low, self.high, strict=True)
        self.padded_type = self.image.with_shape((*shape[:2], *(s + a + z for s, a, z in rows)))

    def padded(self, x: Value, outside: float) -> Value:
        """``x`` with ``outside`` around it."""
        if self.padded_type == self.image:
            return x
        margins: dict[str, Any] = {
            "low": (0, 0, *self.low),
            "high": (0, 0, *self.high),
            "interior": (0, 0, 0, 0),
        }
        found = self.b.one("pad", x, **margins)
        if outside == 0.0:
            return found
        inside = self.b.one("pad", self.b.constant(True, DType.BOOL, x.type.shape), **margins)
        fill = self.b.constant(outside, x.type.dtype, found.type.shape)
        return self.b.one("select", inside, found, fill)

    def cropped(self, x: Value) -> Value:
        """The image inside its padding."""
        if self.padded_type == self.image:
            return x
        ends = zip(self.low, self.image.shape[2:], strict=True)
        limit = (*self.image.shape[:2], *(low + size for low, size in ends))
        start = (0, 0, *self.low)
        return self.b.one("slice", x, start=start, limit=limit, stride=(1, 1, 1, 1))

    def zeros(self, like: TensorType) -> Value:
        """What a sum of the shape of ``like`` starts from."""
        return self.b.constant(0.0, like.dtype.accumulator, like.shape)

    def wide(self, b: Builder, x: Value) -> Value:
        """A summand in the accumulator's type."""
        dtype = self.image.dtype.accumulator
        return x if x.type.dtype is dtype else b.one("cast", x, dtype=dtype)

    def narrow(self, x: Value) -> Value:
        """A sum in the image's type."""
        dtype = self.image.dtype
        return x if x.type.dtype is dtype else self.b.one("cast", x, dtype=dtype)

    def run(self, carries: Sequence[Value], constants: Sequence[Value], body: Body) -> list[Value]:
        """The carries after all places, row by row."""
        count = self.window.size[0] * self.window.size[1]
        number = self.b.one("iota", axis=0, dtype=DType.I32, shape=(count,))
        width = self.b.constant(self.window.size[1], DType.I32, (count,))
        stacked = [self.b.one("floordiv", number, width), self.b.one("mod", number, width)]
        inner = type(self.b)()
        given = [inner.parameter(v.type) for v in carries]
        at = [inner.parameter(TensorType((), DType.I32)) for _ in stacked]
        shared = [inner.parameter(v.type) for v in constants]
        rows, columns = (self._positions(inner, axis, at[axis]) for axis in (0, 1))
        place = WindowTap(inner, rows, columns, self.padded_type.shape)
        block = inner.block(body(inner, place, given, shared))
        attributes: dict[str, Any] = {
            "trips": count,
            "carried": len(carries),
            "stacked": 2,
            "reverse": False,
            "truncate": 0,
            "saves_memory": True,  # what all places need at once is what the loop is there to avoid
        }
        found = self.b.emit("scan", *carries, *stacked, *constants, regions=(block,), **attributes)
        return list(found)

    def _positions(self, b: Builder, axis: int, place: Value) -> Value:
        """Where this place of each window lies along one axis: number of the window * stride +
        place.
        """
        shape = (self.out.shape[2 + axis],)
        number = b.one("iota", axis=0, dtype=DType.I32, shape=shape)
        stride = b.constant(self.window.stride[axis], DType.I32, shape)
        start = b.one("broadcast", place, shape=shape, dims=())
        return b.one("add", b.one("mul", number, stride), start)
