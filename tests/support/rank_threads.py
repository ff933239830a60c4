"""Threads as ranks: a world of several ranks in one process, without MPI."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

from gradc.codegen import exchange
from gradc.codegen.exchange import Bytes

T = TypeVar("T")


class ThreadRanks:
    """One rank of ``size``, all of them threads that share ``table``."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._table, self._barrier = table, barrier
        self.sent = 0
        self.agreed: list[str] = []

    def exchange(self, kind: str, parts: Bytes) -> None:
        self.sent += (self.size - 1) * parts.shape[1]
        own = parts.copy() if kind == "deal" else np.tile(parts[0], (self.size, 1))
        for other, found in enumerate(self._all(own)):
            parts[other] = found[self.rank]

    def agree_on(self, what: str, text: str) -> None:
        self.agreed.append(what)
        assert len(set(self._all(text))) == 1

    def after_first(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _all(self, own: Any) -> list[Any]:
        """What all ranks put in."""
        self._table[self.rank] = own
        self._barrier.wait(60)
        found = list(self._table)
        self._barrier.wait(60)
        return found


def in_ranks(size: int, work: Callable[[ThreadRanks], T]) -> list[T]:
    """What ``work`` gives on each of ``size`` ranks."""
    table, barrier = [None] * size, threading.Barrier(size)

    def run(rank: int) -> T:
        try:
            return work(ThreadRanks(rank, size, table, barrier))
        except BaseException:
            barrier.abort()
            raise
        finally:
            exchange.join(None)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
