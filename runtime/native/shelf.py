"""Records of checked programs (``frontend.keep``) in the object cache, an entry each.

A record is the header of its entry: JSON, whole by the entry's digest, under a key that covers
gradc's own files. A damaged one is said and replaced like any entry.
"""

from __future__ import annotations

from typing import Any

from gradc.runtime.native.cache import ObjectCache
from gradc.runtime.native.load import default_cache


class CacheShelf:
    """See ``frontend.keep.Shelf``."""

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache

    def get(self, *parts: str) -> Any:
        entry = self._cache.get(self._cache.key("program", *parts))
        return None if entry is None else entry.header.get("record")

    def put(self, record: Any, *parts: str) -> None:
        self._cache.put(self._cache.key("program", *parts), {"record": record}, b"")


def shelf() -> CacheShelf:
    """The user's."""
    return CacheShelf(default_cache())
