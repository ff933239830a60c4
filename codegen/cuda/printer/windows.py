"""Windows of images as a factor of a product by tiles: how a part of them gets to shared memory.

A thread brings elements of one row (column) of the tile, so what its place or its channel and taps
mean for an address is worked out once, and within the sum only what k means is.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times, unflatten
from gradc.codegen.cuda.printer.words import from_element
from gradc.ir.loop.kernel import Factor, Patch


class Windows:
    """One such factor; element (place, k) of a slice lies at ``size * k + place`` of the shared
    memory ``name``. ``first`` names the first row or column of the tile, ``limits`` say how many
    rows or columns and steps of k there are where not all tiles are full, else None.
    """

    def __init__(
        self,
        nest: Nest,
        factor: Factor,
        patch: Patch,
        name: str,
        first: str,
        limits: tuple[int | None, int | None],
    ) -> None:
        self.nest = nest
        self.factor = factor
        self.patch = patch
        self.name = name
        self.first = first
        self.limits = limits
        # Whether rows (columns) of the tile are channels and taps, and k goes over images.
        self.own_taps = (name == "left") != patch.is_turned
        new = nest.words.names.new
        self.own, self.place = new(f"{name}_own"), new(f"{name}_place")
        self.at = [new(f"{name}_at") for _ in patch.size]

    def _index(self, flat: str, taps: bool) -> list[str]:
        """A channel and taps, or an image and places, named."""
        patch, new = self.patch, self.nest.words.names.new
        if taps:
            extents, names = (patch.channels, *patch.taps), ["channel", *["tap"] * len(patch.taps)]
        else:
            extents, names = (patch.images, *patch.places), ["image", *["at"] * len(patch.places)]
        named = [new(name) for name in names]
        unflatten(self.nest, flat, extents, named)
        return named

    def _steps(self, taps: bool) -> tuple[int, tuple[int, ...]]:
        patch = self.patch
        if taps:
            return patch.channel_stride, patch.step
        return patch.image_stride, patch.stride

    def base(self, batch: Sequence[str], size: int) -> None:
        """What the thread's row or column means, before the sum."""
        lines, factor = self.nest.lines, self.factor
        lines.add(f"{self.place} = mod(t, {size})")
        lines.add(f"{self.own} = {self.first} + {self.place}")
        outer, *inner = self._index(self.own, self.own_taps)
        stride, steps = self._steps(self.own_taps)
        terms = [times(n, s) for n, s in zip(batch, factor.batch_strides, strict=True) if s]
        terms += [str(factor.offset)] if factor.offset else []
        self.start = self.nest.words.names.new(f"{self.name}_start")
        lines.add(f"{self.start} = {' + '.join([*terms, times(outer, stride)])}")
        for at, index, step, before in zip(self.at, inner, steps, self.patch.before, strict=True):
            lines.add(f"{at} = {times(index, step)} - {before}")

    def load(self, size: int, threads: int, depth: int) -> None:
        """A slice; 0 where a window reaches out of its image or the factor ends."""
        lines = self.nest.lines
        head = f"range({depth})"
        if threads > size:
            head = f"range(floordiv(t, {size}), {depth}, {threads // size})"
        with lines.block(f"for step in {head}"):
            self._element(size)

    def _element(self, size: int) -> None:
        lines, new = self.nest.lines, self.nest.words.names.new
        k, value = new(f"{self.name}_k"), new(f"{self.name}_x")
        lines.add(f"{k} = k + step")
        outer, *inner = self._index(k, not self.own_taps)
        stride, steps = self._steps(not self.own_taps)
        inside = [
            f"({name} < {most})"
            for name, most in zip((self.own, k), self.limits, strict=True)
            if most is not None
        ]
        within = ""
        for own, index, step, extent in zip(self.at, inner, steps, self.patch.size, strict=True):
            at = new("at")
            lines.add(f"{at} = {own} + {times(index, step)}")
            inside += [f"({at} >= 0)", f"({at} < {extent})"]
            wrapped = f"({within})" if " " in within else within
            within = f"{extent} * {wrapped} + {at}" if within else at
        dtype = self.factor.buffer.dtype
        pointer = self.nest.buffers[self.factor.buffer]
        place = f"{self.start} + {times(outer, stride)} + {within}"
        lines.add(f"{value} = f32(0.0)")
        with lines.block(f"if {' & '.join(inside)}"):
            lines.add(f"{value} = {from_element(f'load({pointer}, {place})', dtype)}")
        lines.add(f"store({self.name}, {size} * step + {self.place}, {value})")
