"""What joins the ranks of one program: the exchanges of their kernels, carried out by a ``World``.

Every rank is a process, or a thread, that runs the same Plan. A kernel's ``Exchange``
(``ir.loop.kernel``) calls ``run``, whatever backend made its code: once where it begins, and once
where its bytes must have arrived. Machine code cannot raise: what goes wrong is kept, later
exchanges of the call do nothing, and ``check`` raises it when the call is over.

Non-goals: transport (``runtime.ranks`` has MPI's).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

KINDS = ("deal", "share", "deal_across", "share_across", "await")  # by number in machine code


class World(Protocol):
    """The ranks of a run, seen from one of them."""

    @property
    def rank(self) -> int:
        """This one's number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def begin(self, kind: str, parts: Bytes) -> Callable[[], object]:
        """Begins to exchange ``parts``, of [ranks, bytes of a part], with the others, in place; on
        a grid with those of this rank's group (``members``). Returns what ends it: it waits until
        the parts have arrived and are this rank's again.

        Every rank begins the same exchanges in the same order.
        """


class NoRanksError(RuntimeError):
    """A program for several ranks was called where there are others, or none."""


class _Here(threading.local):
    """What a thread's programs run in, and what went wrong there."""

    world: World | None = None
    failure: BaseException | None = None

    def __init__(self) -> None:
        self.begun: dict[int, Callable[[], object]] = {}  # what ends it, by its address


_here = _Here()


def members(kind: str, ranks: int, rank: int, size: int) -> list[int]:
    """The ranks, of ``size``, between which ``rank`` exchanges with ``ranks``."""
    if kind.endswith("_across"):
        return list(range(rank % (size // ranks), size, size // ranks))
    first = rank // ranks * ranks
    return list(range(first, first + ranks))


def join(world: World | None) -> None:
    """Makes ``world`` the one that programs called by this thread run in; None leaves it."""
    _here.world, _here.failure = world, None
    _here.begun.clear()


def run(kind: str, parts: Bytes) -> None:
    """Begins an exchange, in place, or ends the one that was begun there (``await``). What it
    raises is kept for ``check``.
    """
    if _here.failure is not None:
        return
    try:
        if kind == "await":
            _here.begun.pop(parts.ctypes.data)()
            return
        world = _here.world
        size = 1 if world is None else world.size
        if world is None or size % len(parts) or (size == 1) != (len(parts) == 1):
            raise NoRanksError(f"a program for {len(parts)} ranks was called in a world of {size}")
        if parts.ctypes.data in _here.begun:
            raise RuntimeError(f"{kind} begins where an exchange is on its way")
        _here.begun[parts.ctypes.data] = world.begin(kind, parts)
    except BaseException as problem:  # noqa: BLE001  (it must not pass through machine code)
        _here.failure = problem


def check() -> None:
    """Raises what went wrong in an exchange since the last check."""
    found, _here.failure = _here.failure, None
    if found is not None:
        raise found
    if _here.begun:
        raise RuntimeError(f"{len(_here.begun)} exchanges have not been waited for")


def as_bytes(parts: NDArray[Any]) -> Bytes:
    """``parts`` of [ranks, n], which is dense, as bytes of the same memory."""
    return parts.reshape(len(parts), -1).view(np.uint8)
