"""Views: arrays that read, and where they are a part write, the array they are of.

Non-goals: strides and memory; a recorded array has neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gradc.runtime.tracing.trace import Traced


@dataclass(slots=True)
class View:
    """What an array is a view of: how it is read again, and the key under which it is assigned to
    (None: not).
    """

    base: Traced
    changes: int
    again: Callable[[Traced], Any]
    key: Any = None


@dataclass(frozen=True, slots=True)
class Part:
    """The key of a view that is one part of complex numbers: ``real`` or ``imag``."""

    name: str


# Functions whose result shares memory with their first argument, in NumPy.
VIEWS = frozenset(
    [
        "reshape",
        "ravel",
        "transpose",
        "permute_dims",
        "swapaxes",
        "moveaxis",
        "rollaxis",
        "squeeze",
        "expand_dims",
        "broadcast_to",
        "diagonal",
        "flip",
        "fliplr",
        "flipud",
        "rot90",
        "matrix_transpose",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
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
