"""Threads as ranks: a world of several ranks in one process, without MPI."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from gradc.codegen import exchange
from gradc.codegen.exchange import Bytes
from gradc.runtime.ranks.world import MpiRanks

T = TypeVar("T")

GARBAGE = 0xFF  # bytes of NaNs


class ThreadRanks:
    """One rank of ``size``, all of them threads that share ``table``."""

    def __init__(
        self,
        rank: int,
        size: int,
        table: list[Any],
        barrier: threading.Barrier,
        post: Any = None,
    ) -> None:
        self.rank, self.size = rank, size
        self._table, self._barrier = table, barrier
        self._post = post
        self.sent = self._number = 0
        self.agreed: list[str] = []

    def begin(self, kind: str, parts: Bytes) -> Callable[[], None]:
        """What has gone out is garbage until the others' parts come in, so that a program which
        reads too early finds none of its numbers, and one that writes is told.
        """
        self.sent += (len(parts) - 1) * parts.shape[1]
        self._number += 1
        number, ranks = self._number, exchange.members(kind, len(parts), self.rank, self.size)
        for there, rank in enumerate(ranks):
            part = parts[there if kind.startswith("deal") else 0].copy()
            self._box(number, self.rank, rank).put(part)
        parts[...] = GARBAGE

        def end() -> None:
            assert (parts == GARBAGE).all(), f"{kind} {parts.shape} was written on its way"
            for here, rank in enumerate(ranks):
                parts[here] = self._box(number, rank, self.rank).get(timeout=60)

        return end

    def _box(self, number: int, source: int, to: int) -> Any:
        return self._post.setdefault((number, source, to), queue.SimpleQueue())

    def send(self, array: Any, to: int) -> None:
        self._box(0, self.rank, to).put(array.copy())

    def receive(self, array: Any, source: int) -> None:
        array[...] = self._box(0, source, self.rank).get(timeout=60)

    def spread(self, arrays: Any) -> None:
        for own, first in zip(arrays, self._all([a.copy() for a in arrays])[0], strict=True):
            own[...] = first

    def total(self, own: Any, ranks: int) -> Any:
        first = self.rank // ranks * ranks
        return sum(self._all(own.copy())[first : first + ranks])

    def agree_on(self, what: str, text: str) -> None:
        self.agreed.append(what)
        assert len(set(self._all(text))) == 1

    @contextmanager
    def after_first(self) -> Iterator[None]:
        if self.rank:
            self._barrier.wait(60)
        yield
        if not self.rank:
            self._barrier.wait(60)

    def _all(self, own: Any) -> list[Any]:
        """What all ranks put in."""
        self._table[self.rank] = own
        self._barrier.wait(60)
        found = list(self._table)
        self._barrier.wait(60)
        return found


class RunRanks(ThreadRanks, MpiRanks):
    """With what a whole run asks of its ranks besides."""

    waited, is_shared_failure = 0.0, False

    def greatest(self, number: int) -> int:
        found: int = max(self._all(int(number)))
        return found

    def everyone(self, number: float) -> list[float]:
        return self._all(number)

    def spread_text(self, text: str) -> str:
        return str(self._all(text)[0])


def in_ranks(size: int, work: Callable[[Any], T], kind: type[ThreadRanks] = ThreadRanks) -> list[T]:
    """What ``work`` gives on each of ``size`` ranks."""
    table, barrier = [None] * size, threading.Barrier(size)
    post: Any = {}

    def run(rank: int) -> T:
        try:
            return work(kind(rank, size, table, barrier, post))
        except BaseException:
            barrier.abort()
            raise
        finally:
            exchange.join(None)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
