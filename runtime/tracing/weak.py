"""A bound method that does not keep its object alive.

Non-goals: who keeps it (``transformed``).
"""

from __future__ import annotations

import types
import weakref
from typing import Any


class WeakMethod:
    """A bound method that does not keep its object alive; the cache of the object's transforms
    holds it.
    """

    __gradc_wrapped__ = True

    def __init__(self, method: types.MethodType) -> None:
        self._method = weakref.WeakMethod(method)
        self.__name__ = method.__name__
        self.__qualname__ = method.__qualname__
        self.__doc__ = method.__doc__
        self.__module__ = method.__module__

    @property
    def __wrapped__(self) -> Any:
        return self._method()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self._method()
        assert method is not None, "the object of a bound transform lives while it is called"
        return method(*args, **kwargs)
