"""Arrays that a recorded function makes for itself: ``np.zeros(3)`` that traced values are put
into, ``np.array([x, y])``.

NumPy asks nobody when it makes an array from numbers alone, and it looks for numbers in whatever
stands in a list. So while a function is recorded, ``numpy.zeros``, ``ones``, ``full``, ``empty``,
``array``, ``asarray`` and their relatives are stand-ins. They hand on to NumPy at once unless this
thread is recording and the user's own code is written to call them; when the last recording ends,
NumPy has its own functions back.

Non-goals: names bound by ``from numpy import zeros`` before; arrays of integers and booleans made
without traced values, which are options (indices, counts) and stay NumPy's.
"""

from __future__ import annotations

import dis
import functools
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.tracing.captures import is_library
from gradc.runtime.tracing.refused import instead
from gradc.runtime.tracing.trace import (
    DTYPES,
    FUNCTIONS,
    PROTOCOLS,
    RECORDING,
    WHY_NO_NUMBER,
    Trace,
    Traced,
    current_trace,
    refuse,
)
from gradc.runtime.tracing.views import is_dense, layout

Make = Callable[..., Any]


def holds_traced(item: Any) -> bool:
    """Whether an item is traced, or a list or tuple that holds a traced one."""
    if type(item) is Traced:
        return True
    return type(item) in (list, tuple) and any(map(holds_traced, item))


def array_of(t: Trace, item: Any, dtype: Any = None) -> Traced:
    """An array of traced values, lists of them within lists."""
    if type(item) in (list, tuple):
        parts = [array_of(t, part) for part in item]
        made: Traced = FUNCTIONS["stack"](t, parts)  # type: ignore[assignment]
        made._is_dense = True
    else:
        made = t.wrap(t.lift(item), np.ndarray)
        made._is_dense = is_dense([item])  # numpy.array keeps how an array lies
    return made if dtype is None else made.astype(dtype)


def _joined(t: Trace, items: Any) -> Any:
    """A list where an array is meant: traced if anything in it is."""
    return array_of(t, items) if holds_traced(items) else np.asarray(items)


PROTOCOLS["joined"] = _joined


def _made_of(original: Make, is_copied: bool, order: str = "K") -> Make:
    """``numpy.array`` and ``asarray``; ``order`` is how the result lies if nobody says."""

    def make(t: Trace, item: Any, dtype: Any = None, *args: Any, **options: Any) -> Any:
        if not holds_traced(item):
            return original(item, dtype, *args, **options)
        is_kept = not options.get("copy", is_copied)
        if type(item) is Traced and dtype in (None, item.dtype) and is_kept:
            return _as_it_lies(item, options.get("order", order))
        made = array_of(t, item, dtype)
        least = options.get("ndmin", 0) - made.ndim
        return made.reshape((1,) * least + made.shape) if least > 0 else made

    return make


def _as_it_lies(item: Traced, order: str | None) -> Traced:
    """An array itself, where it lies in the order that is asked for; a copy where it does not."""
    lies = layout(item)
    if order in ("K", "A", None) or item.ndim < 2:
        return item
    if lies is None:
        help = "write x.copy(), which is one for certain"
        raise refuse("GC0561", "whether NumPy copies this array is not known here", help)
    lies_so = lies.flags.f_contiguous if order == "F" else lies.flags.c_contiguous
    return item if lies_so else item.copy(order)


def _filled(original: Make, number: float | None) -> Make:
    """``numpy.zeros``, ``ones``, ``empty``, ``full``."""

    def make(t: Trace, shape: Any, *args: Any, **options: Any) -> Any:
        if number is None:
            fill, *rest = args or (options.pop("fill_value"),)
            dtype = options.get("dtype", rest[0] if rest else None)
            if type(fill) is Traced:
                value = fill.value if dtype is None else fill.astype(dtype).value
                return t.wrap(t.broadcast(value, _extents(shape)), np.ndarray)
        made = original(shape, *args, **options)
        return _own(t, made, made.ravel()[0] if number is None and made.size else number or 0)

    return make


def _computed(original: Make) -> Make:
    """``numpy.eye``: an array of known numbers, of the function's own."""

    def make(t: Trace, *args: Any, **options: Any) -> Any:
        return _own(t, original(*args, **options))

    return make


def _filled_like(original: Make, number: float | None) -> Make:
    """The same like an array that is NumPy's own; like a traced one they are functions of it."""

    def make(t: Trace, like: Any, *args: Any, **options: Any) -> Any:
        if holds_traced([like, *args]):
            return original(like, *args, **options)
        made = original(like, *args, **options)
        return _own(t, made, made.ravel()[0] if number is None and made.size else number or 0)

    return make


def _own(t: Trace, made: Any, number: Any = None) -> Any:
    """An array of known floats, all of them ``number`` if that is given, as one that traced values
    can be put into.
    """
    dtype = DTYPES.get(made.dtype.name)
    if dtype is None or not dtype.is_float:
        return made
    if number is None:
        value = t.lift(made)
    else:
        value = t.constant(made.dtype.type(number).item(), dtype, made.shape)
    own = t.wrap(value, np.ndarray)
    own._is_dense = made.flags.c_contiguous
    return own


def _extents(shape: Any) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, (tuple, list)) else (int(shape),)


class _Joiner:
    """Stands in for ``numpy.r_`` or ``numpy.c_``, which convert what is put into their brackets."""

    def __init__(self, original: Any, is_column: bool) -> None:
        self._original, self._is_column = original, is_column

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: Any) -> Any:
        items = key if type(key) is tuple else (key,)
        trace = current_trace()
        if trace is None or not holds_traced(items):
            return self._original[key]
        if any(type(item) is str for item in items):
            name = "c_" if self._is_column else "r_"
            help = "write numpy.concatenate with axis=..."
            raise refuse("GC0560", f"numpy.{name} with directions in a text cannot be traced", help)
        parts = [self._part(trace, item) for item in items]
        return FUNCTIONS["concatenate"](trace, parts, axis=-1 if self._is_column else 0)

    def _part(self, trace: Trace, item: Any) -> Traced:
        if type(item) is slice:
            item = self._original[item].ravel()
        made = array_of(trace, item)
        if not self._is_column:
            return made.reshape(-1) if not made.ndim else made
        return made.reshape(-1, 1) if made.ndim < 2 else made


# What of NumPy converts a list, or an array, by itself; and what to write.
_INSTEAD = {
    "append": "write numpy.append(numpy.array(a), numpy.array(b)): lists are converted by NumPy",
    "vectorize": "write the function for whole arrays, with numpy.where for its branches",
    "apply_along_axis": "write the function for whole arrays, with axis=...",
}


def no_numbers() -> DiagnosticError:
    """The refusal of a conversion, in terms of what asked for it."""
    frame, name, module, owner = sys._getframe(2), "", "", None
    inner: dict[str, Any] = {}
    while frame.f_back is not None and is_library(frame.f_globals.get("__name__", "")):
        name, module = frame.f_code.co_name, str(frame.f_globals["__name__"])
        inner = frame.f_locals
        owner = inner.get("self")
        of = inner.get("f")
        if module.startswith("scipy._lib") and callable(of):  # a decorator's wrapper
            name, module = getattr(of, "__name__", name), getattr(of, "__module__", module)
        frame = frame.f_back
    written = called_name(frame.f_code, frame.f_lasti)
    if module.startswith("scipy."):
        return _scipys(module, written if name.startswith("_") and written else name, owner)
    if name.startswith("__") and owner is not None:
        name = type(owner).__name__  # numpy.vectorize
    name = name or written
    if name in DTYPES:
        help = f"write x.astype(numpy.{name})"
        return refuse("GC0561", f"numpy.{name}(x) of a traced array wants its numbers", help)
    if name in _INSTEAD:
        message = f"numpy.{name} wants the numbers of a traced array"
        return refuse("GC0561", message, _INSTEAD[name])
    if module.startswith("numpy.") and _is_list_of_traced(inner):
        message = f"numpy.{name} of a list of traced values wants their numbers"
        return refuse("GC0561", message, f"write numpy.{name}(numpy.array([...]))")
    return refuse("GC0561", "a traced array has no numbers to convert", WHY_NO_NUMBER)


def _is_list_of_traced(names: dict[str, Any]) -> bool:
    """Whether a function of NumPy's got a list, in which it looks for numbers itself."""
    return any(type(x) in (list, tuple) and holds_traced(x) for x in names.values())


def _scipys(module: str, name: str, owner: Any) -> DiagnosticError:
    """SciPy's functions that are written in Python convert what they get."""
    parts = module.split(".")
    room = ".".join(parts[:2])
    if room in ("scipy.stats", "scipy.spatial") and parts[-1][0] != "_":
        room = module
    if room == "scipy.stats" and owner is not None:
        kind = str(getattr(owner, "name", type(owner).__name__.removesuffix("_gen")))
        help = instead(room, kind)
        return refuse("GC0560", f"scipy.stats.{kind}.{name} cannot be traced", help)
    help = instead(room, name) or "write it in NumPy's functions: SciPy converts its arguments"
    return refuse("GC0560", f"{room}.{name} cannot be traced", help)


PROTOCOLS["no numbers"] = no_numbers
_JOINERS = {"r_": False, "c_": True}
_MAKERS: dict[str, Callable[[Make], Make]] = {
    "array": lambda f: _made_of(f, True),
    "asarray": lambda f: _made_of(f, False),
    "asanyarray": lambda f: _made_of(f, False),
    "ascontiguousarray": lambda f: _made_of(f, False, "C"),
    "zeros": lambda f: _filled(f, 0),
    "empty": lambda f: _filled(f, 0),
    "ones": lambda f: _filled(f, 1),
    "full": lambda f: _filled(f, None),
    "eye": _computed,
    "identity": _computed,
    "zeros_like": lambda f: _filled_like(f, 0),
    "empty_like": lambda f: _filled_like(f, 0),
    "ones_like": lambda f: _filled_like(f, 1),
    "full_like": lambda f: _filled_like(f, None),
}


def _stand_in(name: str, original: Make) -> Make:
    make = _MAKERS[name](original)

    @functools.wraps(original)
    def stand_in(*args: Any, **options: Any) -> Any:
        trace = current_trace()
        if trace is None:
            return original(*args, **options)
        caller = sys._getframe(1)
        if is_library(caller.f_globals.get("__name__", "")):
            return original(*args, **options)
        if called_name(caller.f_code, caller.f_lasti) != name:
            return original(*args, **options)
        return make(trace, *args, **options)

    return stand_in


_Place = tuple[int, int]


@functools.lru_cache(maxsize=4096)
def called_name(code: types.CodeType, at: int) -> str:
    """The name by which the call at bytecode offset ``at`` calls; empty if it cannot be told.

    Extension modules have no frame of their own: what they call seems to be called by the user's
    code, and must not be answered by a stand-in. Only a call that is written with the function's
    name is.
    """
    steps = [s for s in dis.get_instructions(code) if s.positions is not None]
    reached = [s.positions for s in steps if s.offset <= at]  # `at` may lie in the call's cache
    call = reached[-1] if reached else None
    if call is None or call.lineno is None:
        return ""
    best: tuple[_Place, str] = ((-1, -1), "")
    for step in steps:
        found = step.positions
        if found is None or (found.lineno, found.col_offset) != (call.lineno, call.col_offset):
            continue
        end = (found.end_lineno or 0, found.end_col_offset or 0)
        is_inside = end < (call.end_lineno or 0, call.end_col_offset or 0)
        if is_inside and step.opname.startswith("LOAD_") and end > best[0]:
            best = (end, str(step.argval))
    return best[1]


class _Switch:
    """Puts the stand-ins in place while anybody records."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._own: dict[str, Make] = {}

    def enter(self) -> None:
        """A recording begins."""
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._own = {name: getattr(np, name) for name in _MAKERS}
                for name, original in self._own.items():
                    setattr(np, name, _stand_in(name, original))
                for name, is_column in _JOINERS.items():
                    self._own[name] = getattr(np, name)
                    setattr(np, name, _Joiner(self._own[name], is_column))

    def leave(self) -> None:
        """A recording ends."""
        with self._lock:
            self._count -= 1
            if self._count == 0:
                for name, original in self._own.items():
                    setattr(np, name, original)


_switch = _Switch()
RECORDING.append((_switch.enter, _switch.leave))
