"""Products that are consumed row by row are computed a few rows at a time: attention without its
score matrix.

From-stage and to-stage: tensor, before ``differentiate``. Looks for a contraction whose large
result S goes through row-wise ops (scaling, masks, softmax) into the left side of another
contraction, as in softmax(Q K^T) V. If nothing else reads what lies between, the rows are cut into
tiles:

    scan over tiles: checkpoint { S_tile = Q_tile K^T; ...; O_tile = P_tile V }

so that only one tile of S exists at a time, in the forward sweep and, because of the checkpoint, in
the reverse sweep, where it is computed again (Dao et al. 2022, with whole rows instead of running
maxima). Every row is computed by the same operations as before.

Applies where S takes at least ``LEAST`` bytes; smaller ones live in the cache anyway. Invariants:
values are the same but for the order of sums: gradients of what all tiles share are summed tile by
tile. Non-goals: tiling along the contracted axis; programs whose row-wise part draws random numbers
(their place in the matrix keys the draw).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradc.ir.ops.attributes import get_ints, get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Contraction, Control, Reduction, lookup
from gradc.ir.tensor.core import Attr, Block, Function, Op, Value
from gradc.passes.rewrite import with_ops
from gradc.passes.simplify.dce import dce

# How S is cut fixes the order in which gradients of what all tiles share are summed, so these are
# sizes for everyone and not the target's.
LEAST = 8 << 20
TILE = 4 << 20
# Views of something small that are cheaper made inside a tile than handed in.
_ABSORBED = ("broadcast", "constant")


def tile(function: Function) -> Function:
    """``function`` with large row-wise products cut into tiles; the same object if there is
    none.
    """
    # Dead readers of what lies between would hide that nothing needs it.
    live = dce(function)
    block = _block(live.block)
    if block is live.block:
        return function
    return with_ops(live, block.body, block.outputs)


def _block(block: Block) -> Block:
    ops = [_inside(op) for op in block.body]
    tiled = _Search(ops, block.outputs).run()
    if all(a is b for a, b in zip(tiled, block.body, strict=False)):
        return block
    return Block(block.parameters, (*tiled, block.terminator))


def _inside(op: Op) -> Op:
    form = lookup(op.name).loop
    if not isinstance(form, Control) or form.keeps_signature:
        return op
    regions = tuple(_block(region) for region in op.regions)
    if all(a is b for a, b in zip(regions, op.regions, strict=True)):
        return op
    return replace(op, regions=regions)


@dataclass(frozen=True, slots=True)
class _Tiling:
    """What is cut: ops in order (first and last are the contractions), the row axis of every value,
    tile size.

    ``shared`` are those of ``ops`` that others may read as well: they stay where they are, too.
    """

    ops: tuple[Op, ...]
    shared: frozenset[Op]
    axis: dict[Value, int]
    rows: int
    tile: int

    @property
    def result(self) -> Value:
        return self.ops[-1].result


# --- finding


class _Search:
    """One walk over the ops of a block: every contraction that can be the last of a tiling is,
    earlier ones first.

    What is known of a value is known when its op is passed, after all rewriting before it, so the
    walk is linear.
    """

    def __init__(self, ops: Sequence[Op], outputs: Sequence[Value]) -> None:
        self.ops = ops
        self.outputs = dict.fromkeys(outputs)
        self.made = {v: op for op in ops for v in op.results}
        self.readers: dict[Value, dict[Op, None]] = {}
        for op in ops:
            self._read(op)
        self.position = {op: (i, 0) for i, op in enumerate(ops)}
        # Values that come from a contraction through row-wise ops (masks and constants do not) ...
        self.depends: dict[Value, bool] = {}
        # ... of them, those with a small contraction on the way.
        self.is_small: dict[Value, bool] = {}

    def run(self) -> list[Op]:
        """The ops with tilings in place of what they cut."""
        made_of: dict[Op, list[Op]] = {}
        gone: dict[Op, None] = {}
        for op in self.ops:
            found = self._ending(op)
            if found is not None:
                made_of[op] = self._replace(found)
                gone.update((o, None) for o in found.ops if o not in found.shared)
            for new in made_of.get(op, (op,)):
                self._pass(new)
        if not made_of:
            return list(self.ops)
        kept: list[Op] = []
        for op in self.ops:
            kept += made_of.get(op, () if op in gone else (op,))
        return kept

    def _read(self, op: Op) -> None:
        for value in op.operands:
            self.readers.setdefault(value, {})[op] = None

    def _replace(self, tiling: _Tiling) -> list[Op]:
        """The ops of the loop that replaces what ``tiling`` cuts."""
        first, _ = self.position[tiling.ops[-1]]
        for op in tiling.ops:
            if op not in tiling.shared:
                for value in op.operands:
                    self.readers[value].pop(op, None)
        ops = _scan(tiling)
        for number, op in enumerate(ops):
            self.position[op] = (first, number)
            self.made.update(dict.fromkeys(op.results, op))
            self._read(op)
        return ops

    def _pass(self, op: Op) -> None:
        """Notes what is known of the results of ``op``."""
        depends = small = False
        if isinstance(lookup(op.name).loop, Contraction):
            depends, small = True, op.result.type.nbytes < LEAST
        elif _is_rowwise(op):
            depends = any(self.depends.get(v, False) for v in op.operands)
            small = any(self.is_small.get(v, False) for v in op.operands)
        self.depends.update(dict.fromkeys(op.results, depends))
        self.is_small.update(dict.fromkeys(op.results, small))

    def _ending(self, last: Op) -> _Tiling | None:
        """The tiling that ``last`` ends, if it does."""
        if not isinstance(lookup(last.name).loop, Contraction):
            return None
        between = self._between(last)
        if between is None or not self._is_closed(between, last):
            return None
        between.sort(key=lambda op: self.position[op])
        return _choose(tuple(between), self.made)

    def _between(self, last: Op) -> list[Op] | None:
        """The ops from a large contraction to the first operand of ``last``; None if there are
        others on the way.
        """
        if self.is_small.get(last.operands[0], False):
            return None
        found: dict[Op, None] = {}
        firsts: dict[Op, None] = {}
        stack = [last.operands[0]]
        while stack:
            op = self.made.get(stack.pop())
            if op is None or op in found or op in firsts:
                continue
            if isinstance(lookup(op.name).loop, Contraction):
                firsts[op] = None
            elif _is_rowwise(op):
                found[op] = None
                stack.extend(v for v in op.operands if self.depends.get(v, False))
            else:
                return None
        # Without a reduction over the row there is nothing quadratic about it (a feed-forward
        # layer).
        if len(firsts) != 1 or not any(isinstance(lookup(op.name).loop, Reduction) for op in found):
            return None
        return [*firsts, *found, last]

    def _is_closed(self, ops: Sequence[Op], last: Op) -> bool:
        """Whether nothing else reads what ``ops`` make (the last one aside)."""
        inside = set(ops)
        for op in ops:
            if op is last:
                continue
            if any(reader not in inside for reader in self.readers.get(op.result, ())):
                return False
            if op.result in self.outputs:
                return False
        return True


def _is_rowwise(op: Op) -> bool:
    definition = lookup(op.name)
    if definition.is_elementwise or isinstance(definition.loop, Reduction):
        return op.name != "random_bits"
    return op.name in ("broadcast", "reshape", "stop_gradient")


def _choose(ops: tuple[Op, ...], made: dict[Value, Op]) -> _Tiling | None:
    """The longest axis of S that can be cut, in tiles of about TILE bytes."""
    scores = ops[0].result
    sizes = scores.type.static_shape
    for start in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        shared, axis = _follow(ops, start, made)
        if axis is None:
            continue
        rows = sizes[start]
        most = max(1, TILE * rows // scores.type.nbytes)
        size = max((d for d in range(1, most + 1) if rows % d == 0), default=rows)
        if size < rows:
            return _Tiling((ops[0], *shared, *ops[1:]), frozenset(shared), axis, rows, size)
    return None


def _follow(
    ops: tuple[Op, ...], start: int, made: dict[Value, Op]
) -> tuple[list[Op], dict[Value, int] | None]:
    """The row axis of every value, from axis ``start`` of S on (None if an op mixes rows).

    Before it the broadcasts and constants from outside that are made inside the tile.
    """
    axis: dict[Value, int] = {}
    if not _enter(ops[0], start, axis):
        return [], None
    absorbed: list[Op] = []
    for op in ops[1:]:
        for value in op.operands:
            source = made.get(value)
            is_new = value not in axis and source not in absorbed and source not in ops
            if source is not None and is_new and source.name in _ABSORBED:
                absorbed.append(source)
        if not _step(op, axis, made):
            return [], None
    return [op for op in absorbed if op.result in axis and _absorb(op, axis)], axis


def _enter(first: Op, start: int, axis: dict[Value, int]) -> bool:
    """Which operand of the first contraction has the rows, and where."""
    batch = get_pairs(first.attributes, "batch")
    contract = get_pairs(first.attributes, "contract")
    sides = []
    for side, value in enumerate(first.operands):
        used = [pair[side] for pair in (*batch, *contract)]
        sides.append([i for i in range(value.type.rank) if i not in used])
    axis[first.result] = start
    if start < len(batch):
        axis[first.operands[0]], axis[first.operands[1]] = batch[start]
        return first.operands[0] is not first.operands[1]
    place = start - len(batch)
    side = 0 if place < len(sides[0]) else 1
    place -= len(sides[0]) if side else 0
    axis[first.operands[side]] = sides[side][place]
    return first.operands[0] is not first.operands[1]


def _step(op: Op, axis: dict[Value, int], made: dict[Value, Op]) -> bool:
    """Follows the row axis through one op; False if it mixes rows or is cut in two ways."""
    definition = lookup(op.name)
    if isinstance(definition.loop, Contraction):
        return _leave(op, axis)
    source = op.operands[0] if op.operands else None
    if definition.is_elementwise or op.name == "stop_gradient":
        found = {axis[v] for v in op.operands if v in axis and v.type.rank}
        if len(found) != 1:
            return False
        (row,) = found
        for value in op.operands:
            if axis.setdefault(value, row) != row:
                return False
        axis[op.result] = row
        return True
    if source is None or source not in axis:
        return False
    after = _moved(op, axis[source])
    if after is None:
        return False
    axis[op.result] = after
    return True


def _moved(op: Op, row: int) -> int | None:
    """Where a reduction or view leaves the row axis ``row`` of its operand."""
    if isinstance(lookup(op.name).loop, Reduction):
        axes = get_ints(op.attributes, "axes")
        return None if row in axes else row - sum(a < row for a in axes)
    if op.name == "broadcast":
        dims = get_ints(op.attributes, "dims")
        shape = op.result.type.static_shape
        size = op.operands[0].type.static_shape[row]
        return dims[row] if shape[dims[row]] == size else None
    if op.name == "reshape":
        before, after = op.operands[0].type.static_shape, op.result.type.static_shape
        return _same_place(before, after, row)
    return None


def _same_place(before: Sequence[int], after: Sequence[int], row: int) -> int | None:
    """The axis of ``after`` that is axis ``row`` of ``before``, where only axes of 1 come and
    go.
    """
    if [n for n in before if n != 1] != [n for n in after if n != 1] or before[row] == 1:
        return None
    number = sum(n != 1 for n in before[:row])
    places = [i for i, n in enumerate(after) if n != 1]
    return places[number]


def _leave(op: Op, axis: dict[Value, int]) -> bool:
    """The row axis must be free or a batch axis of the last contraction's first operand."""
    batch = get_pairs(op.attributes, "batch")
    contract = get_pairs(op.attributes, "contract")
    left, right = op.operands
    if left not in axis or right in axis:
        return False
    row = axis[left]
    if row in [a for a, _ in contract]:
        return False
    for number, (a, b) in enumerate(batch):
        if a == row:
            axis[right] = b
            axis[op.result] = number
            return True
    used = [a for a, _ in (*batch, *contract)]
    free = [i for i in range(left.type.rank) if i not in used]
    axis[op.result] = len(batch) + free.index(row)
    return True


def _absorb(op: Op, axis: dict[Value, int]) -> bool:
    """Whether an outside broadcast or constant can be made per tile; notes its operand's row
    axis.
    """
    if op.name == "constant":
        return True
    row = axis[op.result]
    dims = get_ints(op.attributes, "dims")
    source = op.operands[0]
    if row in dims and source.type.static_shape[dims.index(row)] != 1:
        place = dims.index(row)
        return axis.setdefault(source, place) == place
    return source not in axis


# --- rewriting


@dataclass
class _Body:
    """The inside of a tile."""

    tiling: _Tiling
    b: Builder = field(default_factory=Builder)
    mapping: dict[Value, Value] = field(default_factory=dict)

    def outside(self) -> list[Value]:
        """What the tile reads from outside, in order of first use."""
        made = {v for op in self.tiling.ops for v in op.results}
        found: dict[Value, None] = {}
        for op in self.tiling.ops:
            found.update(dict.fromkeys(v for v in op.operands if v not in made))
        return list(found)

    def emit(self, op: Op) -> None:
        """``op`` on a tile."""
        operands = [self.mapping[v] for v in op.operands]
        with self.b.at(op.span, op.scope, op.replica):
            attributes = self._attributes(op)
            self.mapping[op.result] = self.b.one(
                op.name, *operands, hint=op.result.hint, **attributes
            )

    def _attributes(self, op: Op) -> dict[str, Attr]:
        if "shape" not in op.attributes:
            return dict(op.attributes)
        shape = list(op.result.type.static_shape)
        shape[self.tiling.axis[op.result]] = self.tiling.tile
        return {**op.attributes, "shape": tuple(shape)}


def _scan(tiling: _Tiling) -> list[Op]:
    """The loop over tiles and the views around it; its last op makes the old result."""
    body = _Body(tiling)
    outside = body.outside()
    cut = [v for v in outside if v in tiling.axis]
    whole = [v for v in outside if v not in tiling.axis]
    last = tiling.ops[-1]
    outer = Builder()
    with outer.at(last.span, last.scope, last.replica):
        given = [_to_tiles(outer, v, tiling.axis[v], tiling) for v in cut]
        region = _region(body, cut, whole)
        (stacked,) = outer.emit(
            "scan",
            *given,
            *whole,
            regions=(region,),
            hint="",
            trips=tiling.rows // tiling.tile,
            carried=0,
            stacked=len(cut),
            reverse=False,
            truncate=0,
            saves_memory=True,
        )
        ops = _from_tiles(outer, stacked, tiling.axis[last.result])
    end = ops[-1]
    return [*ops[:-1], replace(end, results=(last.result,))]


def _to_tiles(b: Builder, value: Value, row: int, tiling: _Tiling) -> Value:
    """[..., rows, ...] as [tiles, ..., rows of a tile, ...]."""
    shape = value.type.static_shape
    split = (*shape[:row], tiling.rows // tiling.tile, tiling.tile, *shape[row + 1 :])
    value = b.one("reshape", value, shape=split)
    if row == 0:
        return value
    perm = (row, *(i for i in range(len(split)) if i != row))
    return b.one("transpose", value, perm=perm)


def _from_tiles(b: Builder, stacked: Value, row: int) -> list[Op]:
    """[tiles, ..., rows of a tile, ...] as [..., rows, ...]; all ops of ``b``."""
    if row:
        rank = stacked.type.rank
        perm = (*range(1, row + 1), 0, *range(row + 1, rank))
        stacked = b.one("transpose", stacked, perm=perm)
    shape = stacked.type.static_shape
    whole = (*shape[:row], shape[row] * shape[row + 1], *shape[row + 2 :])
    b.one("reshape", stacked, shape=whole)
    return b.ops


def _region(body: _Body, cut: Sequence[Value], whole: Sequence[Value]) -> Block:
    """The scan's body: a checkpoint around one tile."""
    tiling = body.tiling
    outer = Builder()
    parameters = []
    for value in cut:
        shape = list(value.type.static_shape)
        shape[tiling.axis[value]] = tiling.tile
        parameters.append(outer.parameter(value.type.with_shape(tuple(shape)), value.hint))
    parameters += [outer.parameter(v.type, v.hint) for v in whole]
    for value, parameter in zip((*cut, *whole), parameters, strict=True):
        body.mapping[value] = body.b.parameter(parameter.type, value.hint)
    for op in tiling.ops:
        body.emit(op)
    inner = body.b.block([body.mapping[tiling.result]])
    last = tiling.ops[-1]
    with outer.at(last.span, last.scope, last.replica):
        results = outer.emit("checkpoint", *parameters, regions=(inner,), hint="")
    return outer.block(results)
