"""Where the threads of a block must wait for each other: a barrier stands before a statement that
touches what others have touched since the last one, at least one of them writing.

Two buffers of a launch may be the same memory (the Plan updates in place); ``Overlaps`` says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gradc.ir.loop.kernel import Buffer, For, Load, Store, Var
from gradc.ir.loop.registers import accesses

# What is touched: a buffer, or memory of the text's own by name.
Touched: TypeAlias = "Buffer | str"


@dataclass(frozen=True, slots=True)
class Access:
    """``who``: "first" (thread 0), "all" (each thread the same), or lanes of a loop in which
    iteration i belongs to thread i modulo a number. ``at``: of an access at a constant, a multiple
    of the grid's index and the lane's own, the first two.
    """

    what: Touched
    is_write: bool
    who: str
    at: tuple[int, int] | None = None


@dataclass(frozen=True)
class Overlaps:
    """Pairs of bound buffers that some launch puts into the same memory; ``ones`` are those that no
    launch puts there otherwise than element on element.
    """

    pairs: frozenset[frozenset[Buffer]] = frozenset()
    ones: frozenset[frozenset[Buffer]] = frozenset()

    def __call__(self, a: Touched, b: Touched) -> bool:
        if a is b or a == b:
            return True
        if isinstance(a, str) or isinstance(b, str):
            return False
        return frozenset((a, b)) in self.pairs

    def are_one(self, a: Buffer, b: Buffer) -> bool:
        """Whether two buffers that share memory do so element on element."""
        return frozenset((a, b)) in self.ones


@dataclass
class Pending:
    """What was touched since the last barrier."""

    overlaps: Overlaps
    found: set[Access] = field(default_factory=set)

    def conflicts(self, new: Iterable[Access]) -> bool:
        """Whether ``new`` accesses must wait."""
        return any(
            (a.is_write or b.is_write) and self.overlaps(a.what, b.what) and not _own(a, b)
            for a in new
            for b in self.found
        )


def _own(a: Access, b: Access) -> bool:
    """Whether each element is touched by one thread only."""
    if a.who != b.who:
        return False
    return a.who == "first" or (a.what is b.what and a.at is not None and a.at == b.at)


def lane_accesses(loop: For, who: str, grid: Var | None) -> Iterable[Access]:
    """Every access of a vector loop's body, made by lanes ``who``; ``grid`` is the index of the
    grid loop around it.
    """
    for touched in accesses([loop]):
        statement = touched.statement
        at = _place(statement, loop, grid)
        if isinstance(statement, Load):
            yield Access(statement.buffer, False, who, at)
        else:
            for access in store_accesses(statement, who):
                yield replace(access, at=at)


def _place(access: Load | Store, loop: For, grid: Var | None) -> tuple[int, int] | None:
    """See ``Access.at``."""
    terms = dict(access.offset.terms)
    own = terms.pop(loop.index, 0)
    multiple = terms.pop(grid, 0) if grid is not None else 0
    return (access.offset.constant, multiple) if own == 1 and not terms else None


def store_accesses(store: Store, who: str) -> Iterable[Access]:
    """A store, and the read that it makes if it combines."""
    yield Access(store.buffer, True, who)
    if store.combine:
        yield Access(store.buffer, False, who)
