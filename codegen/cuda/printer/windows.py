"""Windows of images as a factor of a product by tiles: how slices of it get to shared memory.

A thread copies elements of one row (column) of the tile, so what its place or its channel and taps
mean for an address is worked out once, and within the sum only what k means is.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times, unflatten
from gradc.codegen.cuda.printer.slices import Side
from gradc.ir.loop.kernel import Factor, Patch


class Windows:
    """One such factor."""

    def __init__(self, nest: Nest, factor: Factor, patch: Patch, side: Side) -> None:
        self.nest = nest
        self.factor = factor
        self.patch = patch
        self.side = side
        # Whether rows (columns) of the tile are channels and taps, and k goes over images.
        self.own_taps = (side.name == "left") != patch.is_turned
        new = nest.words.names.new
        self.own = new(f"{side.name}_own")
        self.starts = [new(f"{side.name}_{axis}") for axis in "xyz"[: len(patch.size)]]

    def _index(self, flat: str, taps: bool) -> list[str]:
        """A channel and taps, or an image and places, named."""
        patch, new = self.patch, self.nest.words.names.new
        if taps:
            extents, names = (patch.channels, *patch.taps), ["channel", *["tap"] * len(patch.taps)]
        else:
            extents, names = (patch.images, *patch.places), ["image", *["at"] * len(patch.places)]
        named = [new(name) for name in names]
        unflatten(self.nest, flat, extents, named, short=True)
        return named

    def _steps(self, taps: bool) -> tuple[int, tuple[int, ...]]:
        patch = self.patch
        if taps:
            return patch.channel_stride, patch.step
        return patch.image_stride, patch.stride

    def base(self, batch: Sequence[str]) -> None:
        """What the thread's row or column means, before the sum."""
        lines, factor, side = self.nest.lines, self.factor, self.side
        lines.add(f"{side.name}_place = mod(t, {side.size})")
        lines.add(f"{side.name}_step = floordiv(t, {side.size})")
        lines.add(f"{side.name}_to = {side.stride} * {side.name}_step + {side.name}_place")
        lines.add(f"{self.own} = {side.first} + {side.name}_place")
        outer, *inner = self._index(self.own, self.own_taps)
        stride, steps = self._steps(self.own_taps)
        terms = [times(n, s) for n, s in zip(batch, factor.batch_strides, strict=True) if s]
        terms += [str(factor.offset)] if factor.offset else []
        lines.add(f"{side.name}_at = {' + '.join([*terms, times(outer, stride)])}")
        for start, index, step, before in zip(
            self.starts, inner, steps, self.patch.before, strict=True
        ):
            lines.add(f"{start} = {times(index, step)} - {before}")
        if side.ragged:
            lines.add(f"{side.name}_in = {self.own} < {side.extent}")

    def copy(self, k: str, slot: str) -> None:
        """The slice that begins with step ``k`` sets off: 0 where a window reaches out of its image
        or the factor ends.
        """
        tile, side = self.side.tile, self.side
        steps = tile.threads // side.size
        names = self.nest.words.state()
        with self.nest.lines.block(f"for n in range({tile.depth // steps})"):
            self._element(k, slot, steps)
        self.nest.words.reset(names)

    def _element(self, k: str, slot: str, steps: int) -> None:
        lines, new, side = self.nest.lines, self.nest.words.names.new, self.side
        at_k = new(f"{side.name}_k")
        lines.add(f"{at_k} = {k} + {side.name}_step + {times('n', steps)}")
        outer, *inner = self._index(at_k, not self.own_taps)
        stride, every = self._steps(not self.own_taps)
        inside = [f"{side.name}_in"] if side.ragged else []
        inside += [f"({at_k} < {side.k})"] if side.k % side.tile.depth else []
        within = ""
        for own, index, step, extent in zip(
            self.starts, inner, every, self.patch.size, strict=True
        ):
            at = new("at")
            lines.add(f"{at} = {own} + {times(index, step)}")
            inside += [f"({at} >= 0)", f"({at} < {extent})"]
            wrapped = f"({within})" if " " in within else within
            within = f"{extent} * {wrapped} + {at}" if within else at
        pointer = self.nest.buffers[self.factor.buffer]
        place = f"{side.name}_at + {times(outer, stride)} + {within}"
        to = f"{side.slot(slot)}{side.name}_to + {times('n', steps * side.stride)}"
        lines.add(f"inside = {' & '.join(inside)}")
        lines.add(f"copy_async({side.name}, {to}, {pointer}, {place}, 1, inside)")
