"""How slices of a factor get to shared memory: threads send off copies, some slices before they
are used; ``windows`` does it for windows of images.

In a slice k is the slow axis, wherever the factor is contiguous: element (place, step) lies at
``(size + PAD) * step + place``. Where neighbours of a row (column) are neighbours in memory, copies
are of 16 bytes; where those in k are, neighbouring threads take neighbours in k, an element each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times
from gradc.codegen.cuda.printer.tiles import PAD, Tile
from gradc.codegen.cuda.verbs import MEMORY_BYTES
from gradc.ir.loop.kernel import Factor


@dataclass(frozen=True, slots=True)
class Side:
    """One factor of a product by tiles: ``size`` rows (columns) of ``extent`` from the one that
    ``first`` names, and ``k`` steps. Its slices are in the shared memory ``name``.
    """

    name: str
    first: str
    size: int
    extent: int
    k: int
    tile: Tile

    @property
    def ragged(self) -> bool:
        """Whether some tiles reach beyond the factor."""
        return self.extent % self.size != 0

    @property
    def stride(self) -> int:
        """Elements from one step of k to the next in shared memory."""
        return self.size + PAD

    @property
    def slice_size(self) -> int:
        return self.tile.depth * self.stride

    def slot(self, slot: str) -> str:
        """Where the slice of a stage begins."""
        return "" if slot == "0" else f"{times(slot, self.slice_size)} + "


class Slices:
    """Slices of a matrix."""

    def __init__(
        self, nest: Nest, factor: Factor, strides: tuple[int, int], side: Side, aligned: bool
    ) -> None:
        self.nest = nest
        self.factor = factor
        self.side = side
        self.stride, self.k_stride = strides
        self.along_k = self.k_stride == 1 and self.stride != 1
        four = 16 // MEMORY_BYTES[side.tile.dtype]
        others = [*factor.batch_strides, factor.offset, self.k_stride, side.extent]
        others += [step for _, step in factor.at.terms]
        by_four = aligned and self.stride == 1 and not any(n % four for n in others)
        is_enough = side.size * side.tile.depth >= four * side.tile.threads
        self.width = four if by_four and is_enough else 1
        self.pieces = side.size * side.tile.depth // self.width // side.tile.threads

    def base(self, batch: Sequence[str]) -> None:
        """Which elements this thread copies, and where they lie for k = 0."""
        side, tile, name = self.side, self.side.tile, self.side.name
        add = self.nest.lines.add
        per_step = side.size // self.width
        step, place = f"{name}_step", f"{name}_place"
        if self.along_k:
            add(f"{step} = mod(t, {tile.depth})")
            add(f"{place} = floordiv(t, {tile.depth})")
        else:
            add(f"{step} = floordiv(t, {per_step})")
            add(f"{place} = {times(f'mod(t, {per_step})', self.width)}")
        strides = zip(batch, self.factor.batch_strides, strict=True)
        terms = [times(index, stride) for index, stride in strides if stride]
        at = self.nest.words.affine(self.factor.at + self.factor.offset)
        terms += [at] if at != "0" else []
        terms += [times(f"({side.first} + {place})", self.stride)] if self.stride else []
        terms += [times(step, self.k_stride)] if self.k_stride else []
        add(f"{name}_at = {' + '.join(terms) or '0'}")
        add(f"{name}_to = {side.stride} * {step} + {place}")
        if side.ragged and not self.along_k:
            add(f"{name}_in = {side.first} + {place} < {side.extent}")

    def copy(self, k: str, slot: str) -> None:
        """The slice that begins with step ``k`` sets off."""
        if self.pieces == 1:
            self._piece(k, slot, "")
            return
        with self.nest.lines.block(f"for n in range({self.pieces})"):
            self._piece(k, slot, "n")

    def _piece(self, k: str, slot: str, n: str) -> None:
        side, tile, name = self.side, self.side.tile, self.side.name
        if self.along_k:
            places, steps = tile.threads // tile.depth, 0
        else:
            places, steps = 0, tile.threads * self.width // side.size
        to = f"{side.slot(slot)}{name}_to"
        at = f"{name}_at"
        if k != "0" and self.k_stride:
            at += f" + {times(k if ' ' not in k else f'({k})', self.k_stride)}"
        if n:
            to += f" + {times(n, side.stride * steps + places)}"
            apart = self.k_stride * steps + self.stride * places
            at += f" + {times(n, apart)}" if apart else ""
        inside = []
        if side.ragged:
            place = f" + {times(n, places)}" if n else ""
            row = f"{side.first} + {name}_place{place} < {side.extent}"
            inside.append(f"({row})" if self.along_k else f"{name}_in")
        if side.k % tile.depth:
            step = f" + {times(n, steps)}" if n and steps else ""
            inside.append(f"({k} + {name}_step{step} < {side.k})")
        pointer = self.nest.buffers[self.factor.buffer]
        condition = " & ".join(inside) or "True"
        self.nest.lines.add(f"copy_async({name}, {to}, {pointer}, {at}, {self.width}, {condition})")
