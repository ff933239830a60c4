"""Structural equality and fingerprints of anything the IR is made of: functions, blocks, kernels,
plans.

Two things are equal if they differ only in the identity and printed names of values, variables and
buffers, that is up to a renaming. Everything else counts, down to the bits of floats (NaN equals
NaN, -0.0 does not equal 0.0) and the difference between 1, 1.0 and true. The order of attributes
does not count. The walk is over dataclass fields, so a field added to a class takes part at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from gradc.ir.loop.kernel import Buffer, Var
from gradc.ir.tensor.core import Value

# Classes compared by a renaming, and the field that is only their name.
_NAMED: dict[type, str] = {Value: "hint", Var: "name", Buffer: "name"}
# Where a thing came from; `ignore=PLACES` compares meanings only.
PLACES = frozenset({"span", "spans", "scope"})


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields(kind: type) -> tuple[str, ...]:
    if kind not in _FIELDS:
        name = _NAMED.get(kind)
        _FIELDS[kind] = tuple(f.name for f in dataclasses.fields(kind) if f.name != name)
    return _FIELDS[kind]


def _is_record(item: object) -> bool:
    return dataclasses.is_dataclass(item) and not isinstance(item, type)


def equal(a: object, b: object, ignore: Collection[str] = ()) -> bool:
    """Whether ``a`` and ``b`` are the same up to a renaming; fields named in ``ignore`` do not
    count.
    """
    return difference(a, b, ignore) is None


def difference(a: object, b: object, ignore: Collection[str] = ()) -> str | None:
    """Where ``a`` and ``b`` first differ, as a path such as ``block.ops[3].attributes``; None if
    they are equal.
    """
    forward: dict[int, Any] = {}
    backward: dict[int, Any] = {}
    stack: list[tuple[Any, Any, str]] = [(a, b, "")]
    while stack:
        x, y, path = stack.pop()
        if type(x) is not type(y):
            return path or "type"
        if type(x) in _NAMED:
            if id(x) in forward or id(y) in backward:
                if forward.get(id(x)) is not y or backward.get(id(y)) is not x:
                    return path
                continue
            forward[id(x)], backward[id(y)] = y, x
        parts = _paired(x, y, path, ignore)
        if parts is None:
            return path or "value"
        stack.extend(parts)
    return None


def _paired(
    x: Any, y: Any, path: str, ignore: Collection[str]
) -> list[tuple[Any, Any, str]] | None:
    """The parts of two things of one type, in reverse order; None if they differ here."""
    if _is_record(x):
        names = [n for n in reversed(_fields(type(x))) if n not in ignore]
        return [(getattr(x, n), getattr(y, n), f"{path}.{n}" if path else n) for n in names]
    if isinstance(x, (tuple, list)):
        if len(x) != len(y):
            return None
        return [(x[i], y[i], f"{path}[{i}]") for i in reversed(range(len(x)))]
    if isinstance(x, Mapping):
        if sorted(x) != sorted(y):
            return None
        return [(x[key], y[key], f"{path}.{key}") for key in sorted(x, reverse=True)]
    return [] if _atom(x) == _atom(y) else None


def _atom(item: object) -> str:
    # repr tells -0.0 from 0.0 and 1 from 1.0 and True, writes floats exactly, and all NaN alike.
    return repr(item)


def fingerprint(item: object, ignore: Collection[str] = ()) -> str:
    """A digest (hexadecimal) that equal things share, the same in every process and on every
    machine.
    """
    digest = hashlib.blake2b(digest_size=20)
    numbers: dict[int, int] = {}
    stack: list[Any] = [item]
    while stack:
        x = stack.pop()
        if type(x) in _NAMED:
            is_new = id(x) not in numbers
            digest.update(f"#{numbers.setdefault(id(x), len(numbers))};".encode())
            if not is_new:
                continue
        head, parts = _taken_apart(x, ignore)
        digest.update(head.encode())
        stack.extend(parts)
    return digest.hexdigest()


def _taken_apart(x: Any, ignore: Collection[str]) -> tuple[str, list[Any]]:
    """What stands for ``x`` itself in a fingerprint, and its parts in reverse order."""
    if isinstance(x, Enum):
        return f"{type(x).__name__}.{x.name};", []
    if _is_record(x):
        names = [n for n in reversed(_fields(type(x))) if n not in ignore]
        return f"{type(x).__name__}{len(names)};", [getattr(x, n) for n in names]
    if isinstance(x, (tuple, list)):
        return f"[{len(x)};", list(reversed(x))
    if isinstance(x, Mapping):
        keys = sorted(x)
        return f"{{{keys!r};", [x[key] for key in reversed(keys)]
    return f"{type(x).__name__}:{x.hex() if isinstance(x, float) else x!r};", []
