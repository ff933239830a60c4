"""Views: arrays that read, and write, the array they are of; what shares memory and what does not.

NumPy itself is asked which of the two a result is: the function is called on an array that lies as
the recorded one would, and on the numbers of its places. How an array lies is known of what the
function makes (``np.zeros``, copies, arguments, elementwise results of those) and of views of it.
Where it is not known and matters, as for ``reshape``, writing is refused.

Non-goals: memory of the caller's arrays; a recorded argument is an array of its own, in order.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gradc.runtime.tracing.trace import Traced


@dataclass(slots=True)
class View:
    """What an array is a view of: how it is read again, what NumPy does to get it (None: parts of
    complex numbers), and the key under which it is assigned to (None: by its places).
    """

    base: Traced
    again: Callable[[Traced], Any]
    same: Callable[[Any], Any] | None
    key: Any = None
    is_unsure: bool = False
    is_read_only: bool = False
    changes: int = field(init=False)

    def __post_init__(self) -> None:
        self.changes = self.base.changes


@dataclass(frozen=True, slots=True)
class Part:
    """The key of a view that is one part of complex numbers: ``real`` or ``imag``."""

    name: str


# Functions whose result may share memory with an argument, in NumPy.
VIEWS = frozenset(
    [
        *("reshape", "ravel", "transpose", "permute_dims", "swapaxes", "moveaxis", "rollaxis"),
        *("squeeze", "expand_dims", "broadcast_to", "flip", "fliplr", "flipud", "rot90"),
        *("matrix_transpose", "linalg.matrix_transpose", "diag", "diagonal", "linalg.diagonal"),
        *("atleast_1d", "atleast_2d", "atleast_3d", "einsum", "broadcast_arrays"),
        *("split", "array_split", "hsplit", "vsplit", "dsplit", "unstack", "sliding_window_view"),
    ]
)
# Those that copy an array that does not lie in order.
_ORDERED = ("reshape", "ravel")
# Functions whose result may be an argument itself, or a part of complex numbers.
_THE_SAME = ("real", "imag", "real_if_close", "nan_to_num", "astype")
# Functions that make arrays in order of arrays in order; of others that is not known.
DENSE = frozenset(
    [
        *("copy", "where", "clip", "astype", "matmul", "dot", "outer", "sum", "cumsum", "cumprod"),
        *("concatenate", "stack", "vstack", "hstack", "zeros_like", "ones_like", "full_like"),
        *("empty_like", "nan_to_num", "round", "around", "tril", "triu", "tile"),
    ]
)


def is_basic_key(key: object) -> bool:
    """Whether a key is made of integers, slices, ``...`` and None alone, so that NumPy gives a
    view.
    """
    parts = key if isinstance(key, tuple) else (key,)
    # `type`, since a traced number passes for an integer with `isinstance`.
    return all(
        part is None
        or part is Ellipsis
        or type(part) in (int, slice)
        or issubclass(type(part), np.integer)
        for part in parts
    )


def memory_of(item: Any) -> Any:
    """What an array that is kept alive shares with others of the same numbers, such as ``M.T``
    taken again. Anything else is itself.
    """
    if type(item) is not np.ndarray or not item.size:
        return id(item)
    return item.ctypes.data, item.shape, item.strides, item.dtype.str


def layout(item: Traced) -> np.ndarray | None:
    """An array without numbers that lies as NumPy's would; None where that is not known."""
    view = item._view
    if view is None:
        return np.empty(item.shape, np.int8) if item._is_dense else None
    base = None if view.same is None or view.is_unsure else layout(view.base)
    return None if base is None or view.same is None else np.asarray(view.same(base))


def is_dense(items: Any) -> bool:
    """Whether every array among the arguments of a call lies row by row, so that NumPy lays the
    result so.
    """
    for item in items:
        if type(item) in (tuple, list):
            if not is_dense(item):
                return False
        elif hasattr(item, "_is_dense"):
            if item.ndim > 1 and not _is_by_rows(layout(item)):
                return False
        elif isinstance(item, np.ndarray) and not _is_by_rows(item):
            return False
    return True


def _is_by_rows(lies: np.ndarray | None) -> bool:
    if lies is None:
        return False
    steps = [step for step, size in zip(lies.strides, lies.shape, strict=True) if size != 1]
    return all(a >= b > 0 for a, b in itertools.pairwise(steps)) or lies.ndim < 2


def results_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> Any:
    """What a rule found, as arrays that share with the arguments what NumPy's result shares."""
    if type(found) in (list, tuple):
        return type(found)(_result(name, args, kwargs, part, n) for n, part in enumerate(found))
    return _result(name, args, kwargs, found, None)


def _result(name: str, args: Any, kwargs: Any, found: Any, part: int | None) -> Any:
    if not hasattr(found, "_is_dense"):
        return found
    if name not in VIEWS:
        if found._view is not None or any(found is item for item in _arrays(args, kwargs)):
            if name in _THE_SAME:
                return found
            found = found.origin.wrap(found.value, found._kind)
        if name in DENSE and found.ndim > 1:
            found._is_dense = is_dense((args, tuple(kwargs.values())))
        return found
    found = found.origin.wrap(found.value, found._kind)
    given = list(_arrays(args, kwargs))
    if part is not None and len(given) > 1:  # each array of several has a result
        given, args, part = [args[part]], (args[part],), None
    if len(given) == 1 and hasattr(given[0], "_is_dense"):
        found._view = _view(name, args, kwargs, given[0], found, part)
    found._is_dense = found._view is None  # reshape, ravel: a copy in order
    return found


def _arrays(args: Any, kwargs: Any) -> Iterator[Any]:
    for item in (*args, *kwargs.values()):
        if hasattr(item, "_is_dense"):
            yield item


def _view(name: str, args: Any, kwargs: Any, base: Any, found: Any, part: int | None) -> Any:
    """The view that a result is of the one array among the arguments; None where it is a copy."""

    def on(item: Any, call: Callable[..., Any]) -> Any:
        own = tuple(item if x is base else x for x in args)
        made = call(*own, **{k: item if x is base else x for k, x in kwargs.items()})
        return made if part is None else made[part]

    original = numpys(name)
    lies = layout(base)
    is_unsure = lies is None and name in _ORDERED and _extents(base) != _extents(found)
    whole = np.empty(base.shape, np.int8) if lies is None else lies
    made = np.asarray(on(whole, original))
    if made.size and not np.may_share_memory(made, whole):
        return None
    again: Any = lambda b: on(b, lambda *a, **k: b._apply(name, a, k))
    is_read_only = not made.flags.writeable
    return View(base, again, lambda a: on(a, original), None, is_unsure, is_read_only)


def _extents(item: Any) -> tuple[int, ...]:
    return tuple(n for n in item.shape if n != 1)


@functools.lru_cache(maxsize=1024)
def numpys(name: str) -> Callable[..., Any]:
    """NumPy's own function of a name in the tables."""
    if name == "sliding_window_view":
        return np.lib.stride_tricks.sliding_window_view
    return functools.reduce(getattr, name.split("."), np)  # type: ignore[return-value]


@functools.lru_cache(maxsize=1024)
def _place_of_out(name: str) -> int | None:
    """Which argument by position is the array for the result."""
    try:
        names = list(inspect.signature(numpys(name)).parameters.values())
    except (AttributeError, TypeError, ValueError):
        return None
    places = [n for n, p in enumerate(names) if p.name == "out" and p.kind is not p.KEYWORD_ONLY]
    return places[0] if places else None


def without_out(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], Any]:
    """The arguments by position without the array for the result, and that array."""
    place = _place_of_out(name)
    if place is None or len(args) <= place:
        return args, kwargs.pop("out", None)
    rest = args[place + 1 :]
    return (*args[:place], *((None, *rest) if rest else ())), args[place]
