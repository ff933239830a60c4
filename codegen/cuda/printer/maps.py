"""Loops of which every iteration is independent, spread over all threads of the grid: one iteration
a thread, or four neighbours with 16-byte accesses.

A map is a chain of loops, each the last statement of the one around it: a grid loop or none, serial
loops of one iteration, a vector loop. Grid and vector loops are independent by what they mean. What
stands before an inner loop only computes and reads, so each thread does it for itself. Maps fold
nothing and have no memory of their own.

Four neighbours are one thread's where the last loop's body is straight: its reads along the loop
become one, and so do its stores; whatever does not depend on the loop is done once. All reads come
first, so no read may follow a store into memory that it may share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.cuda.printer.conflicts import Overlaps
from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import unflatten
from gradc.codegen.cuda.printer.words import from_element, to_element
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MEMORY_TYPES, WARP
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    For,
    Index,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

_MOST_THREADS = 256
FOUR = 4


@dataclass(frozen=True, slots=True)
class Map:
    """``loops`` from the outside in, ``before`` what stands before each inner one."""

    loops: tuple[For, ...]
    before: tuple[tuple[Stmt, ...], ...]
    width: int  # neighbours of a thread: 1 or 4
    processors: int

    @property
    def count(self) -> int:
        """Threads that have something to do."""
        return prod(loop.extent for loop in self.loops) // self.width

    @property
    def threads(self) -> int:
        """Of a block: fewer where there would not be a block for every multiprocessor."""
        threads = _MOST_THREADS
        while threads > WARP and -(-self.count // threads) < self.processors:
            threads //= 2
        return threads

    @property
    def blocks(self) -> int:
        return -(-self.count // self.threads)


def map_of(
    statements: Sequence[Stmt],
    overlaps: Overlaps,
    aligned: frozenset[Buffer],
    processors: int,
    common: Collection[Buffer] = (),
) -> Map | None:
    """The map that ``statements`` are, for a device of so many ``processors``; None if they are
    none. ``common`` is private memory that the whole grid shares.
    """
    chain: list[For] = []
    before: list[tuple[Stmt, ...]] = []
    body = tuple(statements)
    while not chain or chain[-1].kind != "vector":
        *first, last = body
        if not isinstance(last, For) or not _belongs(last, first, overlaps):
            return None
        chain.append(last)
        before.append(tuple(first))
        body = last.body
    touched = (t.statement.buffer for t in accesses(tuple(statements)))
    if any(buffer.is_private and buffer not in common for buffer in touched):
        return None
    if len(chain) == 2 and chain[1].extent == 1 and chain[0].limit is None:
        chain, before = [_flat(chain[0], before[1], chain[1])], before[:1]
    return Map(tuple(chain), tuple(before), width_of(chain[-1], overlaps, aligned), processors)


def _flat(outer: For, before: Sequence[Stmt], inner: For) -> For:
    """A loop around another of one iteration as one loop, where the inner one's body is straight;
    else the same two, the inner one inside of a loop that is the outer.
    """
    if any(isinstance(s, For) for s in inner.body):
        body = (*before, replace(inner, kind="serial"))
    else:
        body = (*before, *at_zero(inner.body, inner.index))
    return replace(outer, kind="vector", body=body)


def at_zero(statements: Sequence[Stmt], index: Var) -> tuple[Stmt, ...]:
    """Statements in which an index is 0."""
    zero = Const(0, DType.I64)

    def scalar(x: Scalar) -> Scalar:
        return zero if x is index else x

    def moved(affine: Affine) -> Affine:
        return Affine(affine.constant, tuple(t for t in affine.terms if t[0] is not index))

    def one(s: Stmt) -> Stmt:
        if isinstance(s, Let):
            return replace(s, operands=tuple(map(scalar, s.operands)))
        if isinstance(s, Index):
            return replace(s, value=moved(s.value))
        if isinstance(s, Store):
            return replace(s, offset=moved(s.offset), value=scalar(s.value))
        if isinstance(s, Load):
            return replace(s, offset=moved(s.offset))
        if isinstance(s, For):
            folds = tuple(replace(f, value=scalar(f.value)) for f in s.folds)
            limit = None if s.limit is None else moved(s.limit)
            return replace(s, body=tuple(map(one, s.body)), folds=folds, limit=limit)
        return s

    return tuple(map(one, statements))


def _belongs(loop: For, before: Sequence[Stmt], overlaps: Overlaps) -> bool:
    """Whether a loop and what stands before it can be part of a map."""
    if loop.folds or not loop.extent or loop.kind == "block":
        return False
    if loop.limit is not None and loop.kind != "serial":
        return False
    if loop.kind == "serial" and loop.extent != 1 and not _are_apart(loop, overlaps):
        return False
    if any(not isinstance(s, (Let, Index, Load)) for s in before):
        return False
    # A scalar that is read before a loop may be written in it.
    read = [s.buffer for s in before if isinstance(s, Load)]
    found = (touched.statement for touched in accesses([loop]))
    written = {s.buffer for s in found if isinstance(s, Store)}
    return not any(overlaps(a, b) for a in read for b in written)


def _are_apart(loop: For, overlaps: Overlaps) -> bool:
    """Whether no iteration of a loop touches what another one writes."""
    found = list(_places(loop.body, {}))
    for store, inner in found:
        if not isinstance(store, Store):
            continue
        for other, _ in found:
            if other is store or not overlaps(store.buffer, other.buffer):
                continue
            one = store.buffer is other.buffer or overlaps.are_one(store.buffer, other.buffer)
            if not one or store.offset != other.offset:
                return False
        own = abs(store.offset.coefficient(loop.index))
        reach = 0
        for var, factor in store.offset.terms:
            if var in inner:
                reach += abs(factor) * (inner[var] - 1)
            elif var is not loop.index and var in defined(loop.body):
                return False
        if own <= reach:
            return False
    return True


def _places(
    statements: Sequence[Stmt], inner: Mapping[Var, int]
) -> Iterator[tuple[Load | Store, Mapping[Var, int]]]:
    """Every access, with the loops around it by index."""
    for s in statements:
        if isinstance(s, (Load, Store)):
            yield s, inner
        elif isinstance(s, For):
            yield from _places(s.body, {**inner, s.index: s.extent})


def defined(statements: Sequence[Stmt]) -> set[Var]:
    """The variables that statements define."""
    found: set[Var] = set()
    for s in statements:
        if isinstance(s, (Let, Index, Load)):
            found.add(s.var)
        elif isinstance(s, For):
            found |= {s.index, *(f.result for f in s.folds), *defined(s.body)}
    return found


def width_of(loop: For, overlaps: Overlaps, aligned: frozenset[Buffer]) -> int:
    """Four if neighbours can be a thread's."""
    limit = loop.limit or Affine()
    ends = (loop.extent, limit.constant, *(n for _, n in limit.terms))
    if any(n % FOUR for n in ends) or any(isinstance(s, For) for s in loop.body):
        return 1
    runs = 0
    stored: list[Buffer] = []
    for statement in loop.body:
        if isinstance(statement, Load):
            if any(overlaps(statement.buffer, other) for other in stored):
                return 1
            runs += is_run(statement, loop, aligned)
        elif isinstance(statement, Store):
            stored.append(statement.buffer)
            runs += is_run(statement, loop, aligned)
            if not statement.offset.coefficient(loop.index):
                return 1
    return FOUR if runs else 1


def is_run(access: Load | Store, loop: For, aligned: frozenset[Buffer]) -> bool:
    """Whether four neighbours' elements are one access of 16 bytes (8 of half words)."""
    offset, buffer = access.offset, access.buffer
    if access.guard is not None:
        return False
    if MEMORY_BYTES[MEMORY_TYPES[buffer.dtype]] not in (2, 4) or buffer not in aligned:
        return False
    others = [n for var, n in offset.terms if var is not loop.index]
    fits = not any(n % FOUR for n in (offset.constant, *others))
    return offset.coefficient(loop.index) == 1 and fits


def write_map(nest: Nest, it: Map, aligned: frozenset[Buffer]) -> None:
    """Writes what a thread does."""
    nest.lines.add(f"element = b * {it.threads} + t")
    if it.count % it.threads == 0:
        _inside(nest, it, "element", aligned)
        return
    with nest.lines.block(f"if element < {it.count}"):
        _inside(nest, it, "element", aligned)


def _inside(nest: Nest, it: Map, flat: str, aligned: frozenset[Buffer]) -> None:
    names = [nest.words.define(loop.index) for loop in it.loops]
    extents = [loop.extent for loop in it.loops]
    extents[-1] //= it.width
    unflatten(nest, flat, extents, names)
    limits = [f"({nest.words.define(x.index)} < {nest.end(x)})" for x in it.loops if x.limit]
    if limits:
        with nest.lines.block(f"if {' & '.join(limits)}"):
            _one(nest, it, names, aligned)
        return
    _one(nest, it, names, aligned)


def _one(nest: Nest, it: Map, names: Sequence[str], aligned: frozenset[Buffer]) -> None:
    for statements in it.before:
        for statement in statements:
            nest.plain(statement)
    if it.width == 1:
        nest.body(it.loops[-1].body)
        return
    nest.lines.add(f"{names[-1]} = {FOUR} * {names[-1]}")
    Four(nest, it.loops[-1], aligned).write()


class Four:
    """Writes the body of a loop for four neighbours, of whom ``nest`` knows the first. Values of
    ``slots`` go there, a pointer and a place, instead of where the program stores them; ``each``
    are names of variables that differ from one neighbour to the other.
    """

    def __init__(
        self,
        nest: Nest,
        loop: For,
        aligned: frozenset[Buffer],
        slots: Mapping[Store, str] | None = None,
        each: Mapping[Var, list[str]] | None = None,
    ) -> None:
        self.nest = nest
        self.loop = loop
        self.aligned = aligned
        self.slots = slots or {}
        self.first = nest.words.variables[loop.index]
        # Of each variable that differs its four names; of the index its four values.
        self.each: dict[Var, list[str]] = dict(each or {})

    def write(self) -> None:
        for statement in self.loop.body:
            if isinstance(statement, Load) and is_run(statement, self.loop, self.aligned):
                self._load(statement)
            elif isinstance(statement, Store):
                self._store(statement)
            elif isinstance(statement, (Let, Index, Load)):
                self._each(statement)

    def _varies(self, statement: Let | Index | Load | Store) -> bool:
        if isinstance(statement, Let):
            used: list[Scalar | None] = list(statement.operands)
        elif isinstance(statement, Index):
            used = [var for var, _ in statement.value.terms]
        else:
            used = [statement.guard, *(var for var, _ in statement.offset.terms)]
        return any(x is self.loop.index or x in self.each for x in used)

    def _lane(self, lane: int) -> None:
        """From here on variables are those of one neighbour."""
        words = self.nest.words
        words.variables[self.loop.index] = self.first if not lane else f"({self.first} + {lane})"
        for var, names in self.each.items():
            words.variables[var] = names[lane]

    def _each(self, statement: Let | Index | Load) -> None:
        """A statement for every neighbour, or once if it is the same for all."""
        words = self.nest.words
        if not self._varies(statement):
            self._lane(0)
            self.nest.plain(statement)
            return
        names = []
        for lane in range(FOUR):
            self._lane(lane)
            words.variables.pop(statement.var, None)
            self.nest.plain(statement)
            names.append(words.variables[statement.var])
        self.each[statement.var] = names

    def _load(self, load: Load) -> None:
        words, buffer = self.nest.words, load.buffer
        self._lane(0)
        names = [words.names.new(load.var.name) for _ in range(FOUR)]
        at = self.nest.at(buffer, load.offset)
        self.nest.lines.add(f"{', '.join(names)} = load4({self.nest.buffers[buffer]}, {at})")
        for n, name in enumerate(names):
            value = from_element(name, buffer.dtype)
            if value != name:
                names[n] = words.names.new(load.var.name)
                self.nest.lines.add(f"{names[n]} = {value}")
        self.each[load.var] = names

    def values(self, x: Scalar) -> list[str]:
        """What the neighbours have for a scalar of the body, once it is written."""
        if isinstance(x, Var) and x in self.each:
            return self.each[x]
        if x is self.loop.index:
            return [self.first if not n else f"({self.first} + {n})" for n in range(FOUR)]
        return [self.nest.words.scalar(x)] * FOUR

    def _store(self, store: Store) -> None:
        words, buffer = self.nest.words, store.buffer
        if store in self.slots:
            four = ", ".join(self.values(store.value))
            self.nest.lines.add(f"store4({self.slots[store]}, {four})")
            return
        if not is_run(store, self.loop, self.aligned):
            for lane in range(FOUR):
                self._lane(lane)
                self.nest.store(store)
            return
        self._lane(0)
        at, pointer = self.nest.at(buffer, store.offset), self.nest.buffers[buffer]
        values = self.values(store.value)
        if store.combine:
            place, olds = words.names.new("at"), [words.names.new("old") for _ in range(FOUR)]
            self.nest.lines.add(f"{place} = {at}")
            self.nest.lines.add(f"{', '.join(olds)} = load4({pointer}, {place})")
            at, dtype = place, buffer.dtype
            there = [from_element(old, dtype) for old in olds]
            pairs = zip(there, values, strict=True)
            values = [words.combine(store.combine, pair, dtype, dtype) for pair in pairs]
        given = ", ".join(to_element(value, buffer.dtype) for value in values)
        self.nest.lines.add(f"store4({pointer}, {at}, {given})")
