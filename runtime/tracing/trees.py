"""Arguments and results as trees of arrays: dictionaries, lists, tuples, dataclasses and types that
users register.

``flatten`` takes a tree apart into a structure, which can be hashed and compared (it is a cache
key), and its leaves: arrays and numbers. ``rebuild`` puts leaves back, into containers of the same
types. What is no container and no number (text, None, booleans, functions) is part of the
structure, compared by type and value, functions by identity; the structure keeps them alive, so
that an address is never taken for another object's.

Non-goals: converting leaves (``runtime.arrays``).
"""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# Either LEAF, a Static, or (type, what rebuilding needs, structures of the children).
Structure: TypeAlias = Any


class _LeafType:
    """Where an array stood; there is one object of this class."""

    def __repr__(self) -> str:
        return "*"


LEAF = _LeafType()


class Static:
    """A part of the arguments that is no array: equal to another of the same type and value."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(type(self.value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        return equal_values(self.value, other.value)

    def __repr__(self) -> str:
        return repr(self.value)


def equal_values(a: Any, b: Any) -> bool:
    """Whether two options are the same: one object, or of one type, hashable and equal, to the bits
    of floats.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a.hex() == float(b).hex()
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal_values, a, b))
    return type(a).__hash__ is not None and bool(a == b)


_ATOMS = (bool, str, bytes, enum.Enum, type, np.dtype, slice, type(Ellipsis))

Unflatten = Callable[[Any, Sequence[Any]], Any]
Flatten = Callable[[Any], tuple[Iterable[Any], Any]]
_registered: dict[type, tuple[Flatten, Unflatten]] = {}
_lock = threading.Lock()


def register_tree(kind: type, flatten: Flatten, unflatten: Unflatten) -> None:
    """Makes objects of class ``kind`` trees.

    ``flatten(x)`` gives the children and anything hashable that rebuilding needs; ``unflatten(that,
    children)`` makes the object again, also from gradients.

    Raises:
        TypeError: if ``kind`` is no class.
        ValueError: if it is registered already.

    >>> class Point:
    ...     def __init__(self, x, y):
    ...         self.x, self.y = x, y
    >>> register_tree(Point, lambda p: ((p.x, p.y), None), lambda _, xy: Point(*xy))
    >>> slope = gradc.grad(lambda p: p.x * p.y)(Point(2.0, 5.0))
    >>> float(slope.x), float(slope.y)
    (5.0, 2.0)
    """
    if not isinstance(kind, type):
        raise TypeError(f"register_tree takes a class, not {kind!r}")
    with _lock:
        if kind in _registered:
            raise ValueError(f"{kind.__name__} is registered already")
        _registered[kind] = (flatten, unflatten)


def flatten(tree: Any, leaves: list[Any]) -> Structure:
    """The structure of ``tree``; its arrays and numbers go to ``leaves``."""
    kind = type(tree)
    if kind is np.ndarray or kind is float or kind is int:
        leaves.append(tree)
        return LEAF
    if kind is dict:
        return (dict, tuple(tree), _flatten_all(tree.values(), leaves))
    if kind is tuple or kind is list:
        return (kind, None, _flatten_all(tree, leaves))
    return _flatten_other(kind, tree, leaves)


def _flatten_all(items: Iterable[Any], leaves: list[Any]) -> tuple[Structure, ...]:
    parts: list[Structure] = []
    for item in items:
        if type(item) is np.ndarray:
            leaves.append(item)
            parts.append(LEAF)
        else:
            parts.append(flatten(item, leaves))
    return tuple(parts)


def _flatten_other(kind: type, tree: Any, leaves: list[Any]) -> Structure:
    children: Iterable[Any]
    aux: Any
    if kind in _registered:
        children, aux = _registered[kind][0](tree)
    elif kind is Static:
        return tree
    elif tree is None or isinstance(tree, _ATOMS):
        return Static(tree)
    elif isinstance(tree, dict):
        children, aux = tree.values(), (tuple(tree), getattr(tree, "default_factory", None))
    elif isinstance(tree, (list, tuple)):
        children, aux = tree, None
    elif dataclasses.is_dataclass(tree) and not hasattr(tree, "__array__"):
        names = tuple(field.name for field in dataclasses.fields(tree))
        children, aux = [getattr(tree, name) for name in names], names
    elif callable(tree) and not hasattr(tree, "__array__"):
        return Static(tree)
    else:
        leaves.append(tree)
        return LEAF
    return (kind, aux, tuple([flatten(child, leaves) for child in children]))


def rebuild(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The tree of ``structure`` with ``leaves`` in order."""
    if structure is LEAF:
        return next(iter(leaves))
    return _rebuild(structure, iter(leaves))


def _rebuild(structure: Structure, leaves: Any) -> Any:
    if structure is LEAF:
        return next(leaves)
    if type(structure) is Static:
        return structure.value
    kind, aux, parts = structure
    children = [next(leaves) if part is LEAF else _rebuild(part, leaves) for part in parts]
    if kind is dict:
        return dict(zip(aux, children, strict=True))
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    return _rebuild_other(kind, aux, children)


def _rebuild_other(kind: Any, aux: Any, children: list[Any]) -> Any:
    if kind in _registered:
        return _registered[kind][1](aux, children)
    if issubclass(kind, dict):
        made = kind.__new__(kind)
        if issubclass(kind, defaultdict):
            made.default_factory = aux[1]
        made.update(zip(aux[0], children, strict=True))
        return made
    if issubclass(kind, (list, tuple)):
        return kind._make(children) if hasattr(kind, "_make") else kind(children)
    made = object.__new__(kind)
    for name, child in zip(aux, children, strict=True):
        object.__setattr__(made, name, child)
    return made


def paths(structure: Structure, root: str) -> list[str]:
    """How a user would write each leaf, such as ``params['w'][0]``; in order."""
    if structure is LEAF:
        return [root]
    if type(structure) is Static:
        return []
    kind, aux, parts = structure
    found: list[str] = []
    for step, part in zip(_steps(kind, aux, len(parts)), parts, strict=True):
        found += paths(part, root + step)
    return found


def _steps(kind: Any, aux: Any, count: int) -> list[str]:
    if kind in _registered:
        return [f"[{number}]" for number in range(count)]
    if issubclass(kind, dict):
        return [f"[{key!r}]" for key in (aux if kind is dict else aux[0])]
    names = aux if dataclasses.is_dataclass(kind) else getattr(kind, "_fields", None)
    if names is not None:
        return [f".{name}" for name in names]
    return [f"[{number}]" for number in range(count)]


def leaf_count(structure: Structure) -> int:
    """How many leaves a structure has."""
    if structure is LEAF:
        return 1
    return 0 if type(structure) is Static else sum(leaf_count(part) for part in structure[2])


def tree_map(function: Callable[..., Any], tree: Any, *more: Any) -> Any:
    """``function`` of the corresponding leaves of trees of one structure, as such a tree.

    Raises:
        ValueError: if the structures differ.
    """
    columns: list[list[Any]] = []
    structures = []
    for item in (tree, *more):
        leaves: list[Any] = []
        structures.append(flatten(item, leaves))
        columns.append(leaves)
    if any(s != structures[0] for s in structures):
        raise ValueError("tree_map: the trees have different structures")
    return rebuild(structures[0], [function(*row) for row in zip(*columns, strict=True)])


def names_of(mapping: Mapping[str, Any]) -> str:
    """Keys for a message."""
    return ", ".join(f"`{name}`" for name in mapping) or "none"
