"""Where the arrays of a training state lie: whole on every rank, or cut among some.

    layout.own("fc1.w", whole)         # this rank's part
    layout.each(arrays)                # on rank 0, one after another put together
    layout.whole(arrays)               # on rank 0, all of it put together
    layout.spread(arrays, whole)       # from rank 0, to each rank its part, in place

Ranks that hold the same parts follow each other: rank r has part r modulo ``ranks``.

Non-goals: which arrays are cut (``runtime.model.shard``), files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gradc.ir.ops.axes import Place
from gradc.ir.tensor.core import TensorType
from gradc.runtime.native.arrays import Array
from gradc.runtime.ranks.world import Ranks


@dataclass(frozen=True, slots=True)
class Layout:
    """``places`` are those at which arrays are cut in ``ranks`` equal parts, by name."""

    places: Mapping[str, Place]
    ranks: int
    world: Ranks | None

    @property
    def is_cut(self) -> bool:
        """Whether a rank lacks something."""
        return self.ranks > 1

    def own(self, name: str, array: Array) -> Array:
        """This rank's part of a whole array: a view where it lies in one piece along its axis, or
        the array.
        """
        return self.part(name, array, 0 if self.world is None else self.world.rank)

    def part(self, name: str, array: Array, rank: int) -> Array:
        """The part of ``rank``."""
        if name not in self.places:
            return array
        found = self._views(name, array)[rank % self.ranks]
        axis = self.places[name].axis
        size = array.shape[axis] // self.ranks
        return found.reshape((*array.shape[:axis], size, *array.shape[axis + 1 :]))

    def _views(self, name: str, whole: Array) -> list[Array]:
        """The parts of ``whole`` as [..., blocks, positions, ...], none of them copied."""
        place, shape = self.places[name], whole.shape
        size = shape[place.axis] // (place.outer * self.ranks)
        split = (place.outer, self.ranks, size)
        split = (*shape[: place.axis], *split, *shape[place.axis + 1 :])
        return list(np.moveaxis(whole.reshape(split), place.axis + 1, 0))

    def whole(self, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
        """Every array put together on rank 0; None on the others. All ranks call."""
        if not self.is_cut or self.world is None:
            return dict(arrays)
        found = dict(self.each(arrays))
        return {name: found[name] for name in arrays} if self.world.rank == 0 else None

    def shape(self, name: str, own: Array) -> tuple[int, ...]:
        """The shape of the whole of which ``own`` is a part."""
        if name not in self.places:
            return own.shape
        axis = self.places[name].axis
        return (*own.shape[:axis], own.shape[axis] * self.ranks, *own.shape[axis + 1 :])

    def each(self, arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """The arrays in order of their names, one after another: on rank 0 whole, on the others
        their own part, once it is sent. All ranks take all.
        """
        for name in sorted(arrays):
            own = arrays[name]
            if name in self.places and self.world is not None:
                yield name, self._gathered(name, own)
            else:
                yield name, own

    def _gathered(self, name: str, own: Array) -> Array:
        assert self.world is not None, "there are other ranks"
        if self.world.rank:
            if self.world.rank < self.ranks:
                self.world.send(np.ascontiguousarray(own), 0)
            return own
        found = np.empty(self.shape(name, own), own.dtype)
        parts = self._views(name, found)
        parts[0][...] = own.reshape(parts[0].shape)
        row = np.empty_like(own)
        for rank in range(1, self.ranks):
            self.world.receive(row, rank)
            parts[rank][...] = row.reshape(parts[rank].shape)
        return found

    def spread(self, arrays: Mapping[str, Array], whole: Mapping[str, Array] | None) -> None:
        """Fills ``arrays`` on every rank from ``whole``, which rank 0 has, maybe in a file: what is
        cut part by part. All ranks call.
        """
        is_first = self.world is None or self.world.rank == 0
        for name, own in arrays.items():
            if is_first and whole is not None:
                own[...] = self.own(name, whole[name])
        if self.world is None:
            return
        self.spread_common(arrays)
        for name in (n for n in arrays if n in self.places):
            if not is_first:
                self.world.receive(arrays[name], 0)
                continue
            assert whole is not None, "rank 0 has it"
            for rank in range(1, self.world.size):
                self.world.send(np.ascontiguousarray(self.part(name, whole[name], rank)), rank)

    def spread_common(self, arrays: Mapping[str, Array]) -> None:
        """Makes what every rank has that of rank 0, in place. All ranks call."""
        assert self.world is not None, "there are other ranks"
        self.world.spread([array for name, array in arrays.items() if name not in self.places])

    def squares(self, squares: Mapping[str, float]) -> dict[str, float]:
        """Sums over a parameter of which every rank has that of its own part, over all of it. All
        ranks call.
        """
        if not self.is_cut or self.world is None:
            return dict(squares)
        own = np.array([x if n in self.places else 0.0 for n, x in squares.items()])
        total = self.world.total(own, self.ranks)
        return {
            name: float(total[n]) if name in self.places else x
            for n, (name, x) in enumerate(squares.items())
        }


def resized(type_: TensorType, axis: int, size: Callable[[int], int]) -> TensorType:
    """``type_`` with another size of one axis."""
    shape = type_.static_shape
    return type_.with_shape((*shape[:axis], size(shape[axis]), *shape[axis + 1 :]))
