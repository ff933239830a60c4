"""How a row-wise product is cut: which axis are the rows, which columns every strip of them reads.

The rows are an axis of the score matrix S that goes through all ops to the result, the columns the
axis that the last product sums over. Both are followed by the links that ops state
(``ir/ops/axes.py``), so what a tile reads of every value is known, and what mixes rows is refused.

Non-goals: finding the ops (``tile``), writing the tiles (``strips``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from gradc.ir.loop.execute import neutral
from gradc.ir.loop.order import LEAF
from gradc.ir.ops.axes import Link, Place
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.tensor.core import Attr, Op, Value
from gradc.passes.recompute.ranges import Part, Ranges, operand_parts
from gradc.passes.recompute.strips import Inside, Strip, Tiling

# Strips that read different columns are written out one by one, so there are about so many; up to
# MOST_STRIPS where they would read more than SLACK times what their tiles do (windows).
# Those on the same columns are joined up to LEAF tiles: longer sums in a loop are carried in f64.
STRIPS = 8
MOST_STRIPS = 32
SLACK = 1.3
# A strip has an eighth of the rows at most, or the mask's border would cost too much; and whole
# register tiles of rows where it has many. Nor does it have fewer rows than this: programs grow by
# every strip, and short ones leave little out.
SHARE = 8
ROWS = 16
STRIP_ROWS = 64
# Fewer rows than this make thin products: then fewer of what lies beside them (heads) go at once.
LEAST_ROWS = 128
# Where rows are long, a tile of half as many may be so many times as large as others.
SPARE = 4
# A mask is looked at in pieces of so many columns.
PIECE = 64
# What is left of the work must be below this part for strips to be worth their code.
WORTH = 0.9


class _Mixed(Exception):
    """An op mixes rows, or a value would be cut in two ways."""


def tiling_of(
    ops: tuple[Op, ...],
    makers: Mapping[Value, Op],
    spread: AbstractSet[Value],
    size: int,
    together: int = 0,
) -> Tiling | None:
    """The longest axis of S that can be cut: in strips where a mask empties columns, else in tiles
    of about ``size`` bytes of S; where so few rows make a tile that products are thin, another
    axis first. ``ops`` are in order, the contractions first and last; what is ``spread`` is made
    inside a tile.
    """
    sizes = ops[0].result.type.static_shape
    summed = _summed(ops)
    rows = sorted((i for i in range(len(sizes)) if i not in summed), key=lambda i: -sizes[i])
    for row in rows:
        for column in (*summed, None):
            try:
                parts = _Parts(ops, makers, spread, row, column)
            except _Mixed:
                continue
            outer = _outer(parts, rows, size)
            found = _widened(outer, parts, size, together) if outer else _cut(parts, size)
            if found is not None:
                return found
            break
    return None


def _outer(parts: _Parts, axes: Sequence[int], size: int) -> Tiling | None:
    """A loop over another axis than the rows, where LEAST_ROWS of all its positions are too much
    for a tile.
    """
    scores = parts.scores.value.type
    sizes = scores.static_shape
    thin = scores.nbytes // parts.row_count * min(parts.row_count, LEAST_ROWS)
    if thin <= size:
        return None
    for axis in axes:
        if axis == parts.scores.row or sizes[axis] == 1:
            continue
        try:
            found = _Parts(parts.ops, parts.makers, parts.spread, axis, None)
        except _Mixed:
            continue
        return _loop_over(found, size * sizes[axis] // thin)
    return None


def _widened(outer: Tiling, parts: _Parts, size: int, together: int) -> Tiling:
    """A loop over another axis than the rows, with more positions at once, or tiles of all of them:
    the same rows make a tile, and nothing is summed over trips, so that no bit changes.
    """
    count, tile = outer.strips[0].rows, outer.tile
    # Gradients of what all trips read are summed trip by trip.
    is_shared = any(p.row is None and p.value.type.dtype.is_float for p in outer.outside)
    if not together or is_shared:
        return outer
    for wide in range(tile, count, tile):
        if count % wide == 0 and wide * LEAST_ROWS >= together:
            return replace(outer, tile=wide, times=wide // tile)
    return _cut(parts, size * (count // tile)) or outer


def _links(op: Op) -> tuple[Link, ...]:
    rule = lookup(op.name).axes
    return () if rule is None else rule.links(op)


def _step(op: Op, number: int, axis: int) -> int | None:
    """Where axis ``axis`` of an operand lies in the result, if it goes through whole."""
    for link in _links(op):
        if link.operands[number] == Place(axis) and link.result is not None:
            is_whole = link.result.outer == 1 and not link.is_drawn
            size = op.result.type.static_shape[link.result.axis]
            return link.result.axis if is_whole and size == link.size else None
    return None


def _followed(ops: Sequence[Op], axis: int) -> dict[Value, int]:
    """Where an axis of the first op's result lies in the values made from it. Raises _Mixed where
    it comes from two sides in two places.
    """
    places = {ops[0].result: axis}
    for op in ops[1:]:
        found = {
            _step(op, number, places[x]) for number, x in enumerate(op.operands) if x in places
        } - {None}
        if len(found) > 1:
            raise _Mixed
        places.update((op.result, after) for after in found if after is not None)
    return places


def _summed(ops: Sequence[Op]) -> list[int]:
    """The axes of S that the last contraction sums over, the longest first."""
    sizes = ops[0].result.type.static_shape
    last = ops[-1]
    ends = [link.operands[0] for link in _links(last) if link.result is None]
    found = []
    for axis in range(len(sizes)):
        try:
            end = _followed(ops[:-1], axis).get(last.operands[0])
        except _Mixed:
            continue
        if end is not None and Place(end) in ends:
            found.append(axis)
    return sorted(found, key=lambda axis: -sizes[axis])


class _Parts:
    """What a tile reads of every value, for one axis of rows and one of columns (or none)."""

    def __init__(
        self,
        ops: tuple[Op, ...],
        makers: Mapping[Value, Op],
        spread: AbstractSet[Value],
        row: int,
        column: int | None,
    ) -> None:
        self.ops = ops
        self.makers = makers
        self.spread = spread
        self.scores = Part(ops[0].result, row, column)
        self.inside = {op.result: op for op in ops}
        self.rows = _followed(ops, row)
        self.columns = {} if column is None else _followed(ops[:-1], column)
        self.steps: dict[Part, Inside] = {}
        self.outside: dict[Part, None] = {}
        self.thin: dict[Part, Op] = {}
        # Where columns end: the operand of a fold or of the last contraction, and what is nothing
        # there.
        self.ends: list[tuple[Part, float]] = []
        last = ops[-1].result
        if any(op.result not in self.rows for op in ops):
            raise _Mixed
        self._walk(Part(last, self.rows[last]))

    @property
    def row_count(self) -> int:
        return self._size(self.scores.row)

    @property
    def column_count(self) -> int:
        return 1 if self.scores.column is None else self._size(self.scores.column)

    def _size(self, axis: int | None) -> int:
        assert axis is not None, "the rows have an axis"
        return self.scores.value.type.static_shape[axis]

    def _walk(self, result: Part) -> None:
        """Lists what is made inside a tile, operands first, and what it reads from outside."""
        stack = [result]
        while stack:
            part = stack[-1]
            if part in self.steps or part in self.outside:
                stack.pop()
                continue
            step = self._made(part)
            if step is None:
                self.outside[part] = None
                continue
            missing = [x for x in step.operands if x not in self.steps and x not in self.outside]
            if missing:
                stack += reversed(missing)
                continue
            self.steps[part] = step
        cut = [part.value for part in self.steps if part.value in self.inside]
        if len(cut) != len(self.inside):
            raise _Mixed

    def _made(self, part: Part) -> Inside | None:
        """How ``part`` is made inside a tile; None if it comes from outside."""
        op = self.inside.get(part.value)
        if op is not None:
            return self._own(op, part)
        op = self.makers.get(part.value)
        if op is None or part.value not in self.spread:
            return None
        operands = operand_parts(op, part)
        if operands is not None:
            return Inside(part, op, operands)
        return self._positions(op, part) if not op.operands and part.value.type.rank > 1 else None

    def _positions(self, op: Op, part: Part) -> Inside | None:
        """A source of positions along an axis that is cut: those alone come from outside."""
        free = {link.result.axis for link in _links(op) if link.result is not None}
        axes = [axis for axis in (part.row, part.column) if axis is not None and axis not in free]
        if len(axes) != 1:
            return None
        (axis,) = axes
        sizes = part.value.type.static_shape
        shape = tuple(size if a == axis else 1 for a, size in enumerate(sizes))
        attributes: dict[str, Attr] = {**op.attributes, "shape": shape}
        key = Part(part.value, axis)
        if key not in self.thin:
            made = (Value(part.value.type.with_shape(shape), part.value.hint),)
            self.thin[key] = replace(op, results=made, attributes=attributes)
        is_row = axis == part.row
        given = Part(self.thin[key].result, axis if is_row else None, None if is_row else axis)
        return Inside(part, None, (given,))

    def _own(self, op: Op, part: Part) -> Inside:
        """One of the ops that are cut."""
        if part.row != self.rows[op.result]:
            raise _Mixed
        found = operand_parts(op, part)
        if found is None:
            raise _Mixed
        operands = [self._with_columns(op, part, x) for x in found]
        if op is self.ops[-1] and operands[0].column is not None:
            operands[1] = replace(operands[1], column=self._partner(op, operands[0].column))
            self.ends.append((operands[0], 0.0))
        if any(x.value in self.inside and x.row is None for x in operands):
            raise _Mixed
        return Inside(part, op, tuple(operands))

    def _with_columns(self, op: Op, part: Part, operand: Part) -> Part:
        """``operand`` with the columns that ``op`` folds."""
        axis = self.columns.get(operand.value)
        if axis is None or op is self.ops[0]:
            return operand
        if operand.column is not None or part.column is not None:
            if operand.column != axis:
                raise _Mixed
            return operand
        form = lookup(op.name).loop
        if isinstance(form, Reduction):
            self.ends.append((replace(operand, column=axis), self._nothing(form, operand)))
        return replace(operand, column=axis)

    def _nothing(self, form: Reduction, operand: Part) -> float:
        return float(neutral(form.combine, operand.value.type.dtype))

    def _partner(self, op: Op, axis: int) -> int:
        """The axis of the second operand that is summed with ``axis`` of the first."""
        for link in _links(op):
            places = link.operands
            if link.result is None and places[0] == Place(axis) and places[1] is not None:
                return places[1].axis
        raise _Mixed


def _cut(parts: _Parts, size: int) -> Tiling | None:
    """Strips on the columns that a mask leaves, or on all; None where S is one tile."""
    rows = parts.row_count
    most = _most_rows(parts, size)
    masked = _masked(parts, most)
    if masked is not None:
        return _tiling(parts, *masked)
    if most >= rows:
        return None
    tile = _even(rows, most)
    tiles = [Strip(i, min(i + tile, rows), 0, parts.column_count) for i in range(0, rows, tile)]
    return _tiling(parts, tile, _runs(tiles, tile, len(tiles)))


def _most_rows(parts: _Parts, size: int) -> int:
    """Rows of a tile of ``size`` bytes, or of up to four times as many where rows are long."""
    row_bytes = max(1, parts.scores.value.type.nbytes // parts.row_count)
    return max(size // row_bytes, min(LEAST_ROWS // 2, SPARE * size // row_bytes), 1)


def _even(rows: int, most: int) -> int:
    """The rows of tiles of equal size, at most so many; whole register tiles where they are
    many.
    """
    tile = -(-rows // -(-rows // most))
    up = -(-tile // ROWS) * ROWS
    return up if up <= most else tile


def _loop_over(parts: _Parts, most: int) -> Tiling:
    """Equal tiles of at most so many positions of an axis beside the rows."""
    count = parts.row_count
    tile = max(d for d in range(1, max(most, 1) + 1) if count % d == 0)
    return replace(_tiling(parts, tile, [Strip(0, count, 0, 1)]), is_outer=True)


def _tiling(parts: _Parts, tile: int, strips: Sequence[Strip]) -> Tiling:
    return Tiling(
        parts.ops,
        tuple(parts.steps.values()),
        tuple(parts.outside),
        tuple(parts.thin.values()),
        tuple(strips),
        tile,
    )


def _masked(parts: _Parts, most: int) -> tuple[int, list[Strip]] | None:
    """Rows of a tile, and strips, where a mask leaves less than WORTH of the matrix."""
    if parts.scores.column is None:
        return None
    rows, columns = parts.row_count, parts.column_count
    tile = _even(rows, min(most, max(-(-rows // SHARE), STRIP_ROWS)))
    starts = np.arange(0, rows, tile)
    stops = np.minimum(starts + tile, rows)
    lows = np.arange(0, columns, max(1, min(PIECE, columns // (2 * SHARE))))
    highs = np.append(lows[1:], columns)
    is_read = ~_emptied(parts, (starts, stops), (lows, highs))
    tiles = [
        Strip(int(start), int(stop), *_extent(read, lows, highs))
        for start, stop, read in zip(starts, stops, is_read, strict=True)
    ]
    strips = _joined(tiles, tile, STRIPS)
    for count in range(2 * STRIPS, MOST_STRIPS + 1, STRIPS):
        if _area(strips) <= SLACK * _area(tiles):
            break
        strips = _joined(tiles, tile, count)
    return (tile, strips) if _area(strips) <= WORTH * rows * columns else None


def _area(strips: Sequence[Strip]) -> int:
    """How many scores are computed."""
    return sum(strip.rows * strip.columns for strip in strips)


def _emptied(
    parts: _Parts, rows: tuple[NDArray[np.int64], ...], columns: tuple[NDArray[np.int64], ...]
) -> NDArray[np.bool_]:
    """In which boxes of rows and columns nothing is added wherever columns end."""
    own = {p: step.operands for p, step in parts.steps.items() if p.value in parts.inside}
    ends = [[x.astype(np.float64) for x in pair] for pair in (rows, columns)]
    ranges = Ranges(parts.makers, (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1]), own)
    found = np.ones((len(rows[0]), len(columns[0])), np.bool_)
    for part, nothing in parts.ends:
        found &= ranges.of(part).is_always(nothing)
    return found


def _extent(
    is_read: NDArray[np.bool_], lows: NDArray[np.int64], highs: NDArray[np.int64]
) -> tuple[int, int]:
    """From the first to the last column that is read; all of them where none is: such rows are
    what they are in the program (NaN, most likely).
    """
    read = np.flatnonzero(is_read)
    if not len(read):
        return 0, int(highs[-1])
    return int(lows[read[0]]), int(highs[read[-1]])


def _joined(tiles: Sequence[Strip], tile: int, count: int) -> list[Strip]:
    """Tiles as about ``count`` strips: runs that read nearly the same columns."""
    found: list[Strip] = []
    for _, same in groupby(
        _runs(tiles, tile, -(-len(tiles) // count)), key=lambda s: (s.low, s.high, s.rows < tile)
    ):
        found += _runs(list(same), tile, LEAF)
    return found


def _runs(strips: Sequence[Strip], tile: int, most: int) -> list[Strip]:
    """``strips`` put together while they have at most so many tiles; a last one that is no whole
    tile stays by itself.
    """
    found: list[Strip] = []
    for strip in strips:
        before = found[-1] if found else None
        if before is None or strip.rows < tile or before.rows + strip.rows > most * tile:
            found.append(strip)
        else:
            found[-1] = _union((before, strip))
    return found


def _union(strips: Sequence[Strip]) -> Strip:
    low, high = min(s.low for s in strips), max(s.high for s in strips)
    return Strip(strips[0].start, strips[-1].stop, low, high)
