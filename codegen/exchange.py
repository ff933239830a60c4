"""What joins the ranks of one program: the exchanges of their kernels, carried out by a ``World``.

Every rank is a process that runs the same Plan. A kernel's ``Exchange`` (``ir.loop.kernel``) calls
``run``, whatever backend made its code. Machine code cannot raise: what goes wrong is kept, later
exchanges of the call do nothing, and ``check`` raises it when the call is over.

Non-goals: transport (``runtime.ranks`` has MPI's).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

KINDS = ("deal", "share")  # by number in machine code


class World(Protocol):
    """The ranks of a run, seen from one of them."""

    @property
    def rank(self) -> int:
        """This one's number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def exchange(self, kind: str, parts: Bytes) -> None:
        """Exchanges ``parts``, of [ranks, bytes of a part], with the others, in place."""


class NoRanksError(RuntimeError):
    """A program for several ranks was called where there are others, or none."""


_world: World | None = None
_failure: BaseException | None = None


def join(world: World | None) -> None:
    """Makes ``world`` the one that this process's programs run in; None leaves it."""
    global _world, _failure
    _world, _failure = world, None


def run(kind: str, parts: Bytes) -> None:
    """One exchange, in place. What it raises is kept for ``check``."""
    global _failure
    if _failure is not None:
        return
    try:
        size = 1 if _world is None else _world.size
        if _world is None or size != len(parts):
            raise NoRanksError(f"a program for {len(parts)} ranks was called in a world of {size}")
        _world.exchange(kind, parts)
    except BaseException as problem:  # noqa: BLE001  (it must not pass through machine code)
        _failure = problem


def check() -> None:
    """Raises what went wrong in an exchange since the last check."""
    global _failure
    found, _failure = _failure, None
    if found is not None:
        raise found


def as_bytes(parts: NDArray[Any]) -> Bytes:
    """``parts`` of [ranks, n], which is dense, as bytes of the same memory."""
    return parts.reshape(len(parts), -1).view(np.uint8)
