"""What the calls from Python (``wrapper``) must know of one program, as a table of words.

The words are addresses and numbers: the entry, its arena, of every port the type, the shape, what
is asked of its array and in which dictionary it lies, and room for what is remembered between
calls. They are the data of an ndarray that the machine code gets as its ``self``, and that holds on
to everything whose address is among them.

Non-goals: the machine code (``wrapper``), loading it (``load``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.backend import GROUP, Signature, last_group, stop_port
from gradc.codegen.llvm.host import recycle
from gradc.ir.loop.verbs import stored_dtype
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import Role

# The words of a table; `seen` are the addresses of the last call, `kept` the results of the last;
# `last` is the group that a caller may give room for, `places` the addresses of the last such call.
FIELDS = (
    *("entry", "arena", "threads", "brief", "stop"),
    *("count", "ports", "updated", "order", "sizes", "seen"),
    *("holders", "groups", "kept", "turn"),
    *("last", "extents", "places"),
)
# The words of one port; `holder` is -1 where its array is made, `spared` an array for a number that
# is read before anybody else can run.
PORT = ("dtype", "rank", "flags", "dims", "holder", "group", "name", "spared")
# What the machine code must know of the process, once.
PROCESS = (
    *("ndarray", "none", "dict", "tuple", "int", "empty"),
    *("new_array", "new_scalar", "arrays", "metrics", "out"),
)
GROUPS = 4  # of results; number 0 is a single array, the others are dictionaries
HOLDERS = 3  # dictionaries that a named call may take

# Which dictionary of a named call holds the arrays of a role: parameters, inputs, seeds.
_HOLDER = {
    Role.PARAM: 0,
    Role.STATE: 0,
    Role.SLOT: 0,
    Role.HYPER: 0,
    Role.INPUT: 1,
    Role.SEED: 2,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets inside a Python object and an ndarray, and the flag bits of an ndarray."""

    type: int
    data: int
    rank: int  # an int
    shape: int  # pointer to Py_ssize_t
    dtype: int
    flags: int  # an int
    contiguous: int
    aligned: int
    writeable: int


class Words(np.ndarray[Any, np.dtype[np.int64]]):
    """The words, which may outlive this view of them, and what they refer to."""

    words: NDArray[np.int64]
    kept: tuple[object, ...] = ()


def words_of(numbers: Sequence[int] | NDArray[np.int64]) -> Words:
    """``numbers`` as the ``self`` of machine code."""
    words = np.asarray(numbers, np.int64)
    found = words.view(Words)
    found.words = words
    return found


def table(signature: Signature, layout: Layout, entry: int, arena: int, threads: int) -> Words:
    """The table of a program whose code begins at ``entry``: a view of an array that may outlive
    it.
    """
    ports, count = signature.ports, len(signature.ports)
    holders = [-1 if p.direction == "out" else _HOLDER.get(p.role, 0) for p in ports]
    groups = [GROUP.get(p.role, 1) for p in ports]
    made = [n for n, holder in enumerate(holders) if holder < 0]
    sizes = [prod(p.shape) * p.dtype.itemsize for p in ports]
    keeps = recycle.is_possible(layout.type, sum(sizes[n] for n in made), len(made))
    # Arrays that are updated come first.
    order = sorted(range(count), key=lambda n: ports[n].direction != "inout")
    parts = {
        "ports": [0] * (count * len(PORT)),
        "dims": [size for p in ports for size in p.shape],
        "order": order,
        "sizes": [sizes[n] for n in order],
        "seen": [0] * sum(p.direction == "inout" for p in ports),
        "holders": [holders.count(h) for h in range(HOLDERS)],
        "groups": [sum(groups[n] == g for n in made) for g in range(GROUPS)],
        "kept": [0] * (recycle.SETS * (GROUPS + count) if keeps else 0),
        "extents": sizes,
        "places": [0] * count,
    }
    words = np.empty(len(FIELDS) + sum(map(len, parts.values())), np.int64)
    at, starts = len(FIELDS), dict[str, int]()
    for part, numbers in parts.items():
        words[at : at + len(numbers)] = numbers
        starts[part] = words.ctypes.data + 8 * at
        at += len(numbers)
    dtypes = [stored_dtype(p.dtype) for p in ports]
    names = [sys.intern(p.name) for p in ports]
    rows = _rows(ports, layout, starts["dims"])
    spared = [
        np.empty((), dtype) if port.role is Role.LOSS and port.shape == () else None
        for port, dtype in zip(ports, dtypes, strict=True)
    ]
    lent = [0 if array is None else id(array) for array in spared]
    facts = zip(map(id, dtypes), rows, holders, groups, map(id, names), lent, strict=True)
    flat = [word for d, row, h, g, n, s in facts for word in (d, *row, h, g, n, s)]
    words[len(FIELDS) : len(FIELDS) + len(flat)] = flat
    stop = stop_port(ports)
    fields = {
        "entry": entry,
        "arena": arena,
        "threads": threads,
        "brief": int(signature.is_brief),
        "stop": -1 if stop is None else stop,
        "count": count,
        "updated": len(parts["seen"]),
        "turn": 0,
        "last": last_group(ports),
        **{part: start for part, start in starts.items() if part != "dims"},
    }
    fields["kept"] *= keeps
    words[: len(FIELDS)] = [fields[field] for field in FIELDS]
    found = words_of(words)
    found.kept = (dtypes, names, spared)
    return found


def _rows(ports: Sequence[Port], layout: Layout, dims: int) -> list[tuple[int, int, int]]:
    """Rank, flags and address of the dims of every port, where all dims begin at ``dims``."""
    found = []
    for port in ports:
        required = layout.contiguous | layout.aligned
        if port.direction != "in":
            required |= layout.writeable
        found.append((len(port.shape), required, dims))
        dims += 8 * len(port.shape)
    return found
