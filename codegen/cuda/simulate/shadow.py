"""Who touched each cell of a memory last, and when: what races and unwritten reads show by.

Time is counted in intervals between barriers, per block. Two accesses of one element by different
threads, at least one of them a write, are a race unless both threads are of one block and lie in
different intervals: then no order of threads or blocks can change what is read. Together with
control flow that does not depend on what races, absence of races in one lockstep run covers all.

An access is one number, its time above its thread (``Lanes.keys``), so that one comparison tells
whether a cell has been touched since; most have not, and nothing more is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradc.ir.loop.verbs import Array

_BITS = 32  # of a key, for the thread
_NEVER = -1
_FLYING = np.iinfo(np.int64).max  # a copy is on its way there
_SEVERAL = (1 << _BITS) - 1  # no thread has this number
_MOST_READS = 256  # that are kept apart before they are noted cell by cell


class SimulationError(Exception):
    """What a text must not do. ``kind``: race, divergence, bounds, alignment, uninitialised, text,
    launch.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True)
class Lanes:
    """The lanes of one access: all of them flat, of which thread and block, at what time."""

    threads: Array  # numbers across all blocks
    blocks: Array
    times: Array  # intervals, counted up over the whole run
    alone: bool  # whether no other block can touch the same
    interval: int = 0  # a number that changes when all blocks have passed a barrier

    @cached_property
    def floors(self) -> Array:
        """The least key of each one's interval."""
        return self.times << _BITS

    @cached_property
    def keys(self) -> Array:
        """Thread and time of each in one number."""
        return self.floors | self.threads

    def part(self, which: Array) -> Lanes:
        """Some of them."""
        chosen = self.threads[which], self.blocks[which], self.times[which]
        return Lanes(*chosen, self.alone, self.interval)


def _refuse(is_race: Array, at: Array, what: str, says: str) -> None:
    if is_race.any():
        raise SimulationError("race", f"a thread {says}: {what}[{at[is_race][0]}]")


def _unwritten(written: Array, at: Array, what: str) -> None:
    if not written.all():
        raise SimulationError("uninitialised", f"{what}[{at[~written][0]}] is read unwritten")


class Shadow:
    """Of memory that all blocks see. ``began`` is the time at which this launch began."""

    def __init__(self, cells: int, is_written: bool) -> None:
        self.written = np.full(cells, is_written)
        self._writes = np.full(cells, _NEVER)
        self._write_blocks = np.full(cells, _NEVER)
        self._reads: Array | None = None
        self._read_blocks: Array | None = None
        self._noted = _NEVER  # when the last launch began of which reads were noted

    def seen(self, at: Array, what: str) -> None:
        """Notes a read of what no pointer of the launch may write. Raises SimulationError."""
        _unwritten(self.written[at], at, what)

    def read(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """Notes that ``lanes`` read the cells ``at``. Raises SimulationError."""
        _unwritten(self.written[at], at, what)
        self._against_writes(at, lanes, began, what, "reads")
        if self._reads is None or self._read_blocks is None:
            self._reads = np.full(self.written.size, _NEVER)
            self._read_blocks = np.full(self.written.size, _NEVER)
        self._noted = began
        _note(self._reads, at, lanes.keys, lanes.floors)
        if not lanes.alone:
            since = np.int64(began << _BITS)
            _note(self._read_blocks, at, since | lanes.blocks, since)

    def write(self, at: Array, lanes: Lanes, began: int, what: str) -> None:
        """Notes that ``lanes`` write the cells ``at``. Raises SimulationError."""
        keys = lanes.keys
        self._against_writes(at, lanes, began, what, "writes")
        if self._noted >= began and self._reads is not None and self._read_blocks is not None:
            reads = self._reads[at]
            is_race = (reads >= lanes.floors) & (reads != keys)
            if not lanes.alone:
                since = np.int64(began << _BITS)
                reads = self._read_blocks[at]
                is_race |= (reads >= since) & (reads != (since | lanes.blocks))
            _refuse(is_race, at, what, "writes what another reads")
        self._writes[at] = keys
        _refuse(self._writes[at] != keys, at, what, "writes what another writes")
        self._write_blocks[at] = lanes.blocks
        self.written[at] = True

    def since(self, at: Array, began: int) -> Array:
        """Which cells this launch has written."""
        found: Array = self._writes[at] >= began << _BITS
        return found

    def _against_writes(self, at: Array, lanes: Lanes, began: int, what: str, does: str) -> None:
        writes = self._writes[at]
        other = writes >= began << _BITS
        if other.any():
            other &= (writes & _SEVERAL) != lanes.threads
            unordered = (writes >> _BITS == lanes.times) | (self._write_blocks[at] != lanes.blocks)
            _refuse(other & unordered, at, what, f"{does} what another writes")


def _note(last: Array, at: Array, keys: Array, floors: Any) -> None:
    """Puts ``keys`` into the cells ``at`` of ``last``; where two differ that are of one time, that
    there are several.
    """
    before = last[at]
    also = (before >= floors) & (before != keys)
    last[at] = np.where(also, floors | _SEVERAL, keys) if also.any() else keys
    several = last[at] != keys
    if several.any():
        last[at[several]] = np.broadcast_to(floors, keys.shape)[several] | _SEVERAL


@dataclass(frozen=True)
class Place:
    """Elements ``first`` to ``last`` of an owner's, and the cells of lanes: of every owner in its
    ``row`` the same ``columns``, one a thread; or any, flat.
    """

    first: int
    last: int
    rows: Array  # the first cell of each lane's owner, [blocks, threads] or what broadcasts
    index: Array  # elements, the same
    mask: Array | None
    shape: tuple[int, int]
    given: Array | None = None  # the cells, where they are a part of another place's

    @cached_property
    def columns(self) -> Array | None:
        is_same = self.mask is None and self.index.shape == (1, self.shape[1])
        is_same &= self.given is None and self.rows.shape[1] == 1
        return self.index[0] if is_same else None

    @cached_property
    def cells(self) -> Array:
        if self.given is not None:
            return self.given
        at = np.broadcast_to(self.rows + self.index, self.shape)
        return at.reshape(-1) if self.mask is None else at[self.mask]

    def part(self, which: Array) -> Place:
        """That of some of its lanes."""
        return replace(self, given=self.cells[which])

    def of(self, table: Array) -> Array:
        """What a table [owners, elements] has there, flat."""
        if self.columns is not None:
            found: Array = table.take(self.columns, axis=1).reshape(-1)
            return found
        return table.reshape(-1)[self.cells]

    def put(self, table: Array, values: Any) -> None:
        """Writes there: one value, or one a lane."""
        if self.columns is not None:
            table[:, self.columns] = np.reshape(values, self.shape) if np.ndim(values) else values
        else:
            table.reshape(-1)[self.cells] = values


@dataclass
class OwnShadow:
    """Of memory that a block or a thread has to itself, ``owners`` times ``size`` elements.

    Reads matter to writes of the same interval only. They are kept as places, which are compared by
    their first and last elements; cell by cell only where those overlap with a write's.
    """

    owners: int
    size: int
    _writes: Array = field(init=False)
    _reads: Array | None = None
    _noted: int = _NEVER  # the interval in which reads were last noted cell by cell
    _pending: list[tuple[Place, Lanes]] = field(default_factory=list)
    _interval: int = _NEVER

    def __post_init__(self) -> None:
        self._writes = np.full((self.owners, self.size), _NEVER)

    def read(self, place: Place, lanes: Lanes, what: str) -> None:
        """Notes that ``lanes`` read there. Raises SimulationError."""
        writes = place.of(self._writes)
        if (writes < 0).any():
            _unwritten(writes >= 0, place.cells, what)
        self._against_writes(writes, place, lanes, what, "reads")
        self._pass(lanes)
        self._pending.append((place, lanes))
        if len(self._pending) > _MOST_READS:
            self._note_pending()

    def write(self, place: Place, lanes: Lanes, what: str) -> None:
        """Notes that ``lanes`` write there. Raises SimulationError."""
        self._against_writes(place.of(self._writes), place, lanes, what, "writes")
        self._against_reads(place, lanes, what)
        self._written(place, lanes, what)

    def fly(self, place: Place, lanes: Lanes, what: str) -> None:
        """``lanes`` begin to write there, which nobody may touch until ``land``."""
        self.write(place, lanes, what)
        place.put(self._writes, _FLYING)

    def land(self, place: Place, lanes: Lanes, what: str) -> None:
        """What ``lanes`` began to write is there, for them."""
        self._written(place, lanes, what)

    def _written(self, place: Place, lanes: Lanes, what: str) -> None:
        place.put(self._writes, lanes.keys)
        other = place.of(self._writes) != lanes.keys
        if other.any():
            _refuse(other, place.cells, what, "writes what another writes")

    def _pass(self, lanes: Lanes) -> None:
        """Forgets reads that all blocks have passed a barrier since."""
        if self._interval != lanes.interval:
            self._pending.clear()
            self._interval = lanes.interval

    def _against_writes(
        self, writes: Array, place: Place, lanes: Lanes, what: str, does: str
    ) -> None:
        recent = writes >= lanes.floors
        if not recent.any():
            return
        recent &= writes != lanes.keys
        _refuse(recent & (writes == _FLYING), place.cells, what, f"{does} what is in flight")
        _refuse(recent, place.cells, what, f"{does} what another writes")

    def _against_reads(self, place: Place, lanes: Lanes, what: str) -> None:
        self._pass(lanes)
        if any(p.first <= place.last and place.first <= p.last for p, _ in self._pending):
            self._note_pending()
        if self._noted == lanes.interval and self._reads is not None:
            reads = place.of(self._reads)
            is_race = (reads >= lanes.floors) & (reads != lanes.keys)
            if is_race.any():
                _refuse(is_race, place.cells, what, "writes what another reads")

    def _note_pending(self) -> None:
        if self._reads is None:
            self._reads = np.full((self.owners, self.size), _NEVER)
        flat = self._reads.reshape(-1)
        for place, lanes in self._pending:
            _note(flat, place.cells, lanes.keys, lanes.floors)
        self._noted = self._interval
        self._pending.clear()


@dataclass
class LinesShadow(OwnShadow):
    """Of what products of groups read, for as long as they are in flight (``groups``)."""

    _published: Array = field(init=False)  # when
    _held: Array = field(init=False)  # by how many products

    def __post_init__(self) -> None:
        super().__post_init__()
        self._published = np.full(self.owners * self.size, _FLYING)
        self._held = np.zeros((self.owners, self.size), np.int64)

    def _written(self, place: Place, lanes: Lanes, what: str) -> None:
        held = place.of(self._held) > 0
        if held.any():
            _refuse(held, place.cells, what, "writes what a product in flight reads")
        super()._written(place, lanes, what)
        self._published[place.cells] = _FLYING

    def publish(self, times: Array, first: int) -> None:
        """What threads have written is there for products: ``times`` of those that say so, -1 of
        others, by their numbers from ``first`` on.
        """
        writes = self._writes.reshape(-1)
        is_new = (self._published == _FLYING) & (writes != _NEVER) & (writes != _FLYING)
        fresh = np.flatnonzero(is_new)
        when = times[(writes[fresh] & _SEVERAL) - first]
        self._published[fresh[when >= 0]] = when[when >= 0]

    def hold(self, cells: Array, times: Array, what: str) -> None:
        """A product begins to read ``cells``. Raises SimulationError."""
        writes = self._writes.reshape(-1)[cells]
        _unwritten(writes >= 0, cells, what)
        _refuse(writes == _FLYING, cells, what, "reads what is in flight")
        says = "reads what was not published before a barrier"
        _refuse(self._published[cells] >= times, cells, what, says)
        np.add.at(self._held.reshape(-1), cells, 1)

    def release(self, cells: Array, times: Array, interval: int) -> None:
        """A product has read ``cells``: all of its threads have, just now."""
        np.subtract.at(self._held.reshape(-1), cells, 1)
        if self._reads is None:
            self._reads = np.full((self.owners, self.size), _NEVER)
        self._reads.reshape(-1)[cells] = times << _BITS | _SEVERAL
        self._noted = interval
