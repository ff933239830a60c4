"""Kernels cut further, where few blocks or threads would walk long loops: in more steps, each of
which has many.

A grid of few iterations over rows of several parts (a channel of all images: sums over them, what
follows from the sums, elements that use it) becomes a launch per stage. Stages that walk the parts
take every part as a row of its own and keep what it gives to a sum; stages between add that up in
the same order, one thread an iteration. A sum of many terms in one thread is taken leaf by leaf,
each in a thread, then over the leaves.

What passes from one step to the next lies in memory of the launch. The order of sums is untouched:
a node of a tree is the same wherever it is computed (``ir.loop.order``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gradc.codegen.cuda.printer.maps import at_zero
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Fold,
    For,
    Index,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.order import LEAF
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

_LEAST = 32  # columns of a part that is a row
_WORK = 8192  # elements under which one launch is as good as several
_MANY = 8 * LEAF  # terms of a sum that is cut into leaves


def split(statements: Sequence[Stmt], processors: int) -> list[tuple[Stmt, ...]]:
    """The steps that a text's statements become, in order: themselves if nothing is gained. Grids
    with an iteration for each of ``processors`` need no help.
    """
    if len(statements) == 1 and isinstance(statements[0], For) and statements[0].kind == "grid":
        found = _stages(statements[0], processors)
        return found if found is not None else [tuple(statements)]
    return _by_leaves(statements)


# ---- grids of few iterations


@dataclass(frozen=True, slots=True)
class _Stage:
    """Statements that stand together: a loop over parts, or what stands between two."""

    statements: tuple[Stmt, ...]

    @property
    def loop(self) -> For | None:
        first = self.statements[0] if self.statements else None
        return first if isinstance(first, For) else None


def _stages(grid: For, processors: int) -> list[tuple[Stmt, ...]] | None:
    """A grid loop as a step per stage; None if it stays as it is."""
    body = grid.body
    only = body[0] if len(body) == 1 else None
    if isinstance(only, For) and only.kind == "serial" and only.extent == 1 and not only.folds:
        body = at_zero(only.body, only.index) if only.limit is None else body
    loops = [s for s in body if isinstance(s, For)]
    if not loops or grid.extent >= processors or grid.limit is not None:
        return None
    if not all(map(_has_parts, loops)):
        return None
    if grid.extent * max(map(_elements, loops)) < _WORK:
        return None
    stages: list[_Stage] = []
    for s in _apart(body, grid):
        if not isinstance(s, (Let, Index, Load, Store, For)):
            return None
        if isinstance(s, For) or not stages or stages[-1].loop is not None:
            stages.append(_Stage((s,)))
        else:
            stages[-1] = _Stage((*stages[-1].statements, s))
    return _Grid(grid, stages).steps()


def _has_parts(loop: For) -> bool:
    """Whether it walks parts that are rows: scalars, then loops over columns."""
    if loop.kind != "serial" or loop.limit is not None or loop.extent < 2:
        return False
    columns = [s for s in loop.body if isinstance(s, For)]
    plain = all(isinstance(s, (Let, Index, Load, For)) for s in loop.body)
    wide = all(c.kind == "vector" and c.extent >= _LEAST and c.extent % 4 == 0 for c in columns)
    return plain and bool(columns) and wide


def _elements(loop: For) -> int:
    """Of all parts of one iteration, in the loop over columns that has most."""
    return loop.extent * max(s.extent for s in loop.body if isinstance(s, For))


def _apart(body: Sequence[Stmt], grid: For) -> tuple[Stmt, ...]:
    """``body`` with private memory that lives longer than a statement as a part of memory that all
    iterations of ``grid`` share.
    """
    users: dict[Buffer, set[int]] = {}
    for n, statement in enumerate(body):
        for touched in accesses((statement,)):
            if touched.statement.buffer.is_private:
                users.setdefault(touched.statement.buffer, set()).add(n)
    moved = {
        buffer: replace(buffer, size=buffer.size * grid.extent, memory="block")
        for buffer, found in users.items()
        if len(found) > 1
    }

    def one(s: Stmt) -> Stmt:
        if isinstance(s, (Load, Store)) and s.buffer in moved:
            own = s.offset + Affine.of(grid.index) * s.buffer.size
            return replace(s, buffer=moved[s.buffer], offset=own)
        return replace(s, body=tuple(map(one, s.body))) if isinstance(s, For) else s

    return tuple(map(one, body)) if moved else tuple(body)


class _Grid:
    """Writes the steps of a grid loop."""

    def __init__(self, grid: For, stages: Sequence[_Stage]) -> None:
        self.grid, self.stages = grid, stages
        self.kept: dict[Var, Buffer] = {}  # what is handed on, an element per iteration

    def steps(self) -> list[tuple[Stmt, ...]]:
        steps: list[tuple[Stmt, ...]] = []
        adding: list[Stmt] = []  # the sums of the stage before
        for number, stage in enumerate(self.stages):
            loop = stage.loop
            if loop is None:
                steps.append((self._between((*adding, *stage.statements), number),))
                adding = []
                continue
            if adding:
                steps.append((self._between(adding, number - 1),))
            parts, adding = self._parts(loop)
            steps.append((parts,))
        if adding:
            steps.append((self._between(adding, len(self.stages)),))
        return steps

    def _given(self, statements: Sequence[Stmt]) -> list[Stmt]:
        """Reads of what earlier stages handed on and these use."""
        used = dict.fromkeys(_used(statements))
        return [Load(v, self.kept[v], Affine.of(self.grid.index)) for v in used if v in self.kept]

    def _between(self, statements: Sequence[Stmt], number: int) -> For:
        """What stands between loops, a thread an iteration; hands on what is used later."""
        given = self._given(statements)
        later = set(_used([s for stage in self.stages[number + 1 :] for s in stage.statements]))
        stores: list[Stmt] = []
        for var in _made(statements):
            if var in later:
                buffer = Buffer(var.name, var.dtype, self.grid.extent, "update", "block")
                self.kept[var] = buffer
                stores.append(Store(buffer, Affine.of(self.grid.index), var))
        return replace(self.grid, kind="vector", body=(*given, *statements, *stores))

    def _parts(self, loop: For) -> tuple[For, list[Stmt]]:
        """Every part as a row of its own; and the loop that adds up what they give."""
        place = Affine.of(self.grid.index) * loop.extent + Affine.of(loop.index)
        size = self.grid.extent * loop.extent
        stores, loads, folds = _handed(loop.folds, place, size)
        body = (*self._given((loop,)), *loop.body, *stores)
        parts = replace(self.grid, body=(replace(loop, body=body, folds=()),))
        return parts, [replace(loop, body=loads, folds=folds)] if folds else []


def _handed(
    folds: Iterable[Fold], place: Affine, size: int
) -> tuple[tuple[Stmt, ...], tuple[Stmt, ...], tuple[Fold, ...]]:
    """Stores of what is folded, reads of it, and the folds over those."""
    stores, loads, found = [], [], []
    for fold in folds:
        buffer = Buffer(f"{fold.result.name}_parts", fold.result.dtype, size, "update", "block")
        part = Var(f"{fold.result.name}_part", fold.result.dtype)
        stores.append(Store(buffer, place, fold.value))
        loads.append(Load(part, buffer, place))
        found.append(replace(fold, value=part))
    return tuple(stores), tuple(loads), tuple(found)


def _used(statements: Iterable[Stmt]) -> Iterator[Var]:
    """The scalars that statements use, in order."""

    def of(*xs: Scalar | None) -> Iterator[Var]:
        yield from (x for x in xs if isinstance(x, Var))

    for s in statements:
        if isinstance(s, Let):
            yield from of(*s.operands)
        elif isinstance(s, Index):
            yield from of(*(v for v, _ in s.value.terms))
        elif isinstance(s, (Load, Store)):
            yield from of(s.guard, *(v for v, _ in s.offset.terms))
            if isinstance(s, Store):
                yield from of(s.value)
        elif isinstance(s, For):
            yield from of(*(v for v, _ in (s.limit or Affine()).terms))
            yield from of(*(f.value for f in s.folds))
            yield from _used(s.body)


def _made(statements: Iterable[Stmt]) -> Iterator[Var]:
    """The scalars that statements define and others can use."""
    for s in statements:
        if isinstance(s, (Let, Index, Load)):
            yield s.var
        elif isinstance(s, For):
            yield from (f.result for f in s.folds)


# ---- sums of many terms


def _by_leaves(statements: Sequence[Stmt]) -> list[tuple[Stmt, ...]]:
    """Sums that one thread would take over many terms, by leaves in a step before."""
    before: list[Stmt] = []
    left: list[Stmt] = []
    for s in statements:
        if isinstance(s, For) and s.kind == "vector" and not s.folds and s.limit is None:
            leaves, body = _cut(s.body, s)
            before += leaves
            left.append(replace(s, body=body))
        else:
            leaves, kept = _cut((s,), None, statements)
            before += leaves
            left += kept
    if not before or _stored(statements) & {t.statement.buffer for t in accesses(before)}:
        return [tuple(statements)]
    return [*((s,) for s in before), tuple(left)]


def _cut(
    body: Sequence[Stmt], around: For | None, beside: Sequence[Stmt] = ()
) -> tuple[list[For], tuple[Stmt, ...]]:
    """The leaves of all long sums in ``body``, a loop for those of one length; and what is left."""
    found: dict[int, list[_Leaves]] = {}
    left: list[Stmt] = []
    for s in body:
        if isinstance(s, For) and _is_long(s, beside or body):
            leaves = _Leaves.of(s, around)
            found.setdefault(s.extent, []).append(leaves)
            s = leaves.over
        left.append(s)
    return [_together(each, around) for each in found.values()], tuple(left)


def _stored(statements: Sequence[Stmt]) -> set[Buffer]:
    found = (t.statement for t in accesses(statements))
    return {s.buffer for s in found if isinstance(s, Store)}


def _is_long(loop: For, around: Sequence[Stmt]) -> bool:
    """Whether a loop folds many terms of memory, and needs nothing that stands beside it."""
    plain = all(isinstance(s, (Let, Index, Load)) for s in loop.body)
    if loop.kind != "serial" or not loop.folds or loop.limit is not None or not plain:
        return False
    private = any(t.statement.buffer.is_private for t in accesses((loop,)))
    beside = set(_made(s for s in around if s is not loop))
    return loop.extent >= _MANY and not private and not beside & set(_used((loop,)))


@dataclass(frozen=True, slots=True)
class _Leaves:
    """A long sum, cut: ``inside`` sums leaf ``number`` of ``count`` and keeps it, ``over`` adds up
    what was kept.
    """

    number: Var
    count: int
    inside: tuple[Stmt, ...]
    over: For

    @staticmethod
    def of(loop: For, around: For | None) -> _Leaves:
        """``around`` is the loop of which every iteration has such a sum, if there is one."""
        count, width = -(-loop.extent // LEAF), 1 if around is None else around.extent
        leaf, step = (Var(f"{loop.index.name}_{part}", DType.I64) for part in ("leaf", "n"))
        place = Affine.of(leaf) * width
        if around is not None:
            place = place + Affine.of(around.index)
        results = [Var(f"{f.result.name}_of", f.result.dtype) for f in loop.folds]
        pairs = list(zip(loop.folds, results, strict=True))
        handed = [replace(fold, value=result) for fold, result in pairs]
        stores, loads, folds = _handed(handed, place, count * width)
        limit = None if loop.extent % LEAF == 0 else Affine.of(leaf) * -LEAF + loop.extent
        own = Index(loop.index, Affine.of(leaf) * LEAF + Affine.of(step))
        inner = tuple(replace(fold, result=result) for fold, result in pairs)
        one = For(step, LEAF, "serial", (own, *loop.body), inner, limit)
        return _Leaves(leaf, count, (one, *stores), For(leaf, count, "serial", loads, folds))


def _together(leaves: Sequence[_Leaves], around: For | None) -> For:
    """One loop over the leaves of sums of one length."""
    first, *others = leaves
    body = list(first.inside)
    for each in others:
        body += [Index(each.number, Affine.of(first.number)), *each.inside]
    if around is None:
        return For(first.number, first.count, "vector", tuple(body))
    inner = replace(around, body=tuple(body))
    return For(first.number, first.count, "grid", (inner,))
