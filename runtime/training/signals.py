"""Signals that are collected while a run trains, to be acted on between two steps.

Non-goals: what they mean (``loop``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A signal asked to stop; everything is saved."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


class _BrokenError(Exception):
    """Which array is not finite, and where."""


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects signals instead of acting on them; a second one of a kind acts at once. Other
    threads than the main one get none.
    """
    pending: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    caught = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]

    def note(signum: int, _frame: FrameType | None) -> None:
        if signum in pending and signum != signal.SIGUSR1:
            os._exit(128 + signum)
        pending.append(signum)

    previous = {s: signal.signal(s, note) for s in caught}
    try:
        yield pending
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
