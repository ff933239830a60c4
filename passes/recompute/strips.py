"""A tiling written out: blocks of rows, each on the columns that it reads, in tiles that are
computed again by the reverse sweep.

    block 1: checkpoint { S = Q[0:a] K[0:c]^T; ...; O = P V[0:c] }
    block 2: scan over tiles: checkpoint { ... }
    concat(block 1, block 2)

Every op inside is the program's own on a part of its operands; which part, ``operand_parts`` says.
What the tiles share enters whole, what has rows or columns enters cut; sources and what is spread
from something small are made inside. Weights are divided after the product (``late_division``).

A checkpoint gives, besides its part of the result, what its rows fold to (the greatest score, the
sum of weights), and the reverse sweep reads both: folding again would take every score before the
first weight is there.

Non-goals: choosing what is cut and where (``tile``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.ops.structural import slice_axis
from gradc.ir.tensor.core import Attr, Block, Op, Value
from gradc.passes.recompute.ranges import Part
from gradc.passes.simplify.dce import live_ops
from gradc.passes.simplify.late_division import divided

# What a row folds to is kept if it is this many times smaller than the row.
FEW = 8


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows from ``start`` to ``stop``, which read the columns from ``low`` to ``high``."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def columns(self) -> int:
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class Inside:
    """One value of a tile: ``op`` on ``operands``; or, where there is no op, the one operand
    repeated along the other axes (positions along an axis that is cut enter from outside).
    """

    part: Part
    op: Op | None
    operands: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Tiling:
    """What is cut and how.

    ``ops`` go, in order (first and last are the contractions); ``steps`` compute a tile, of what
    ``outside`` gives and ``thin`` ops make; ``strips`` cover all rows, and a strip of more than
    ``tile`` rows is a loop. A tile of one ``is_outer`` is still to be cut along another axis; it is
    ``times`` as large as it would be on a processor.
    """

    ops: tuple[Op, ...]
    steps: tuple[Inside, ...]
    outside: tuple[Part, ...]
    thin: tuple[Op, ...]
    strips: tuple[Strip, ...]
    tile: int
    is_outer: bool = False
    times: int = 1

    @property
    def result(self) -> Part:
        return self.steps[-1].part

    @property
    def last(self) -> Op:
        return self.ops[-1]


def written(tiling: Tiling) -> list[Op]:
    """The ops that replace those of ``tiling``; the last one makes the old result."""
    last = tiling.last
    b = Builder()
    b.ops += tiling.thin
    row = tiling.result.row
    assert row is not None, "the result has the rows"
    with b.at(last.span, last.scope, last.replica):
        made = [_strip(b, tiling, strip, row) for strip in tiling.strips]
        if len(made) > 1:
            b.one("concat", *made, axis=row)
    end = b.ops[-1]
    return [*b.ops[:-1], replace(end, results=(last.result, *end.results[1:]))]


def _strip(b: Builder, tiling: Tiling, strip: Strip, row: int) -> Value:
    """The rows of one strip. What it reads is taken inside its checkpoint, so that no piece of what
    is there anyway is kept. That of a loop costs nothing: its tiles are computed from what enters
    it, so nothing reads what the loop would give a second time.
    """
    outside = tiling.outside
    is_loop = strip.rows > tiling.tile
    if is_loop and all(part.size(strip.rows, strip.columns) == part.shape for part in outside):
        given = {part: part.value for part in outside}
        return _from_tiles(b, _loop(b, tiling, given, strip)[0], row)
    inner = Builder()
    with inner.at(tiling.last.span, tiling.last.scope, tiling.last.replica):
        given = {}
        for part in outside:
            value = inner.parameter(part.value.type, part.value.hint)
            value = _taken(inner, value, part.row, strip.start, strip.stop)
            given[part] = _taken(inner, value, part.column, strip.low, strip.high)
        if is_loop:
            region = inner.block(_loop(inner, tiling, given, strip))
        else:
            made = _tile(inner, tiling, given, strip.rows, strip.columns)
            region = _with_folds(inner.block([made]))
    operands = [part.value for part in outside]
    made = b.emit("checkpoint", *operands, regions=(region,), hint="", keeps_results=True)[0]
    return _from_tiles(b, made, row) if is_loop else made


def _with_folds(region: Block) -> Block:
    """A tile that gives what its rows fold to as well, with weights divided late."""
    region = divided(region)
    ops = live_ops(region.body, region.outputs) or list(region.body)
    folds = [
        op.result
        for op in ops
        if isinstance(lookup(op.name).loop, Reduction)
        and op.result.type.nbytes * FEW <= op.operands[0].type.nbytes
    ]
    end = replace(region.terminator, operands=(*region.outputs, *folds))
    return Block(region.parameters, (*ops, end))


def _taken(b: Builder, value: Value, axis: int | None, low: int, high: int) -> Value:
    """``value`` from ``low`` to ``high`` along ``axis``, if it has that axis."""
    if axis is None or high - low == value.type.static_shape[axis]:
        return value
    return slice_axis(b, value, axis, low, high)


def _tile(
    b: Builder, tiling: Tiling, given: Mapping[Part, Value], rows: int, columns: int
) -> Value:
    """The result on one tile."""
    mapping = dict(given)
    for step in tiling.steps:
        operands = [mapping[x] for x in step.operands]
        mapping[step.part] = _on_a_tile(b, step, operands, step.part.size(rows, columns))
    return mapping[tiling.result]


def _on_a_tile(
    b: Builder, step: Inside, operands: Sequence[Value], shape: tuple[int, ...]
) -> Value:
    op = step.op
    if op is None:
        return b.one("broadcast", *operands, shape=shape, dims=tuple(range(len(shape))))
    attributes: dict[str, Attr] = dict(op.attributes)
    if "shape" in attributes:
        attributes["shape"] = shape
    with b.at(op.span, op.scope, op.replica):
        return b.one(op.name, *operands, hint=op.result.hint, **attributes)


def _loop(
    b: Builder, tiling: Tiling, given: Mapping[Part, Value], strip: Strip
) -> tuple[Value, ...]:
    """The tiles of one strip, one after the other; what they give, stacked."""
    trips = strip.rows // tiling.tile
    cut = {part: part.row for part in given if part.row is not None}
    whole = [part for part in given if part.row is None]
    return b.emit(
        "scan",
        *(_to_tiles(b, given[part], axis, trips) for part, axis in cut.items()),
        *(given[part] for part in whole),
        regions=(_trip(tiling, (*cut, *whole), strip.columns),),
        hint="",
        trips=trips,
        carried=0,
        stacked=len(cut),
        reverse=False,
        truncate=0,
        saves_memory=True,
    )


def _trip(tiling: Tiling, given: Sequence[Part], columns: int) -> Block:
    """The body of the loop: a checkpoint around one tile."""
    last = tiling.last
    inner, b = Builder(), Builder()
    entered = {}
    for part in given:
        shape = part.size(tiling.tile, columns)
        entered[part] = inner.parameter(part.value.type.with_shape(shape), part.value.hint)
    made = _tile(inner, tiling, entered, tiling.tile, columns)
    region = inner.block([made])
    if tiling.is_outer:
        return region
    region = _with_folds(region)
    parameters = [b.parameter(v.type, v.hint) for v in region.parameters]
    with b.at(last.span, last.scope, last.replica):
        results = b.emit("checkpoint", *parameters, regions=(region,), hint="", keeps_results=True)
    return b.block(results)


def _to_tiles(b: Builder, value: Value, row: int, trips: int) -> Value:
    """[..., rows, ...] as [tiles, ..., rows of a tile, ...]."""
    shape = value.type.static_shape
    split = (*shape[:row], trips, shape[row] // trips, *shape[row + 1 :])
    value = b.one("reshape", value, shape=split)
    if row == 0:
        return value
    return b.one("transpose", value, perm=(row, *(i for i in range(len(split)) if i != row)))


def _from_tiles(b: Builder, stacked: Value, row: int) -> Value:
    """[tiles, ..., rows of a tile, ...] as [..., rows, ...]."""
    if row:
        perm = (*range(1, row + 1), 0, *range(row + 1, stacked.type.rank))
        stacked = b.one("transpose", stacked, perm=perm)
    shape = stacked.type.static_shape
    whole = (*shape[:row], shape[row] * shape[row + 1], *shape[row + 2 :])
    return b.one("reshape", stacked, shape=whole)
