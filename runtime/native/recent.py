"""A mapping that keeps what was used last, and forgets the rest.

Every new shape of a call gives a specialisation: a program in IR and machine code. A process that
sees ever new shapes (lengths of texts, last batches) would keep them all, so only the last ``KEPT``
are; one that comes back later is made again, from the object cache as a rule. What a call in
another thread still uses lives until that call ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

# How many specialisations of one compiled function, and how many lowered programs of one model, are
# remembered.
KEPT: Final = 64

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    """The last ``size`` entries by use. Safe to use from several threads."""

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._items: dict[_Key, _Value] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[_Key]:
        """The keys, the one not used for longest first."""
        with self._lock:
            return iter(list(self._items))

    def get(self, key: _Key) -> _Value | None:
        """The value of ``key``, which counts as used."""
        with self._lock:
            if key not in self._items:
                return None
            value = self._items[key] = self._items.pop(key)
            return value

    def put(self, key: _Key, value: _Value) -> _Value:
        """Adds ``value`` and forgets what was not used for longest. Returns ``value``."""
        with self._lock:
            self._items.pop(key, None)
            self._items[key] = value
            while len(self._items) > self._size:
                del self._items[next(iter(self._items))]
        return value
