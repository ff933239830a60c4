"""Objects whose call goes straight to machine code, once it is known which.

A class with a ``__call__`` in Python costs half a microsecond a call before its first line runs.
``functools.partial`` calls what it holds without one: here that is a function in machine code
(``Loaded.direct``), or the object's own ``_called`` as long as there is none, and for all calls
that the machine code does not take.

The interpreter hands arguments to a ``partial`` as they stand in its frame (PEP 590). Subclasses do
the same from Python 3.12 on; in 3.11 they inherit the way but not the flag that says so, and every
call makes a tuple and a dictionary first, 130 ns of 1 200. There the flag is set here.

Non-goals: what is called (``runtime.model.compiled``, ``runtime.model.step``).
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Self

# Not overridden by a class that is copied otherwise.
_set: Callable[[Any, tuple[object, ...]], None] = getattr(functools.partial, "__setstate__")  # noqa: B009


class _Slow:
    """The call in Python. It does not keep its object alive: whoever calls does."""

    def __init__(self, owner: Direct) -> None:
        self._owner = weakref.ref(owner)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        owner = self._owner()
        assert owner is not None, "its caller holds it"
        return owner._called(*args, **inputs)


_VECTORCALL: Final = 1 << 11  # Py_TPFLAGS_HAVE_VECTORCALL


def _say_vectorcall(kind: type) -> None:
    """Lets calls of ``kind``, a subclass of ``functools.partial`` that is called the same way, go
    the way that it inherits.
    """
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return
    word = ctypes.sizeof(ctypes.c_ulong)
    metatype: type = type
    places = range(0, metatype.__basicsize__, word)
    # Where types keep their flags: the only place where several have theirs.
    known = (functools.partial, kind, int, dict, object)
    found = [
        at
        for at in places
        if all(ctypes.c_ulong.from_address(id(k) + at).value == k.__flags__ for k in known)
    ]
    if len(found) == 1:
        flags = ctypes.c_ulong.from_address(id(kind) + found[0])
        flags.value |= _VECTORCALL
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def _unready(*_args: Any, **_inputs: Any) -> None:
    """What an object holds before it is made."""


class Direct(functools.partial[Any], ABC):
    """What is called as ``f(holder, **inputs)``."""

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        if cls.__call__ is functools.partial.__call__:
            _say_vectorcall(cls)

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        return super().__new__(cls, _unready)

    def __init__(self) -> None:
        self.__signature__ = inspect.signature(self._called)
        self._slow = _Slow(self)
        self._go(None)

    def __get__(self, instance: object, owner: type | None = None) -> Direct:
        """Itself: an attribute of a class is called as any other."""
        return self

    @abstractmethod
    def _called(self, *args: Any, **inputs: Any) -> Any:
        """A call that may have to check, convert, explain or compile."""

    def _go(self, direct: Callable[..., Any] | None) -> None:
        """Has later calls begin with ``direct``; None is Python."""
        _set(self, (direct or self._slow, (), {}, self.__dict__))
