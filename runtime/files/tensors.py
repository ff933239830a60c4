"""A ``.safetensors`` file written one array at a time, so that nobody need have them all at once.

The order of arrays in the file and the names of their types are the library's, which is asked with
arrays of no elements; shapes and places are filled in. Metadata are written in order of their names
(the library takes any order, so equal content would have different bytes).

Invariants: the bytes depend on content alone, not on the order in which arrays come.
Non-goals: reading (``runtime.files.data``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gradc.runtime.files.data import Array, write_atomically


class ArrayType(NamedTuple):
    """What is known of an array before it is there."""

    dtype: np.dtype
    shape: tuple[int, ...]


def types_of(arrays: Mapping[str, Array]) -> dict[str, ArrayType]:
    """The types of ``arrays``."""
    return {name: ArrayType(array.dtype, array.shape) for name, array in arrays.items()}


def save_safetensors(
    path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a ``.safetensors`` file atomically. Raises DiagnosticError GC0573 if it cannot be
    written.
    """
    known = dict(metadata or {})
    save_each(Path(path), types_of(arrays), arrays.items(), lambda: known)


def save_each(
    path: Path,
    types: Mapping[str, ArrayType],
    arrays: Iterable[tuple[str, Array]],
    metadata: Callable[[], Mapping[str, str]],
) -> None:
    """Writes ``arrays`` of ``types`` as they come, atomically. ``metadata`` are asked for before
    and after, and are as long then as before.

    Raises:
        DiagnosticError: GC0573 if it cannot be written; what ``arrays`` raises. The old file stays.
    """

    def write(stream: BinaryIO) -> None:
        header, places = _header(types, metadata())
        stream.write(header)
        for name, array in arrays:
            dense = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            stream.seek(len(header) + places[name])
            stream.write(dense.reshape(-1).view(np.uint8).data)
        again, _ = _header(types, metadata())
        assert len(again) == len(header), "metadata are as long as they were"
        stream.seek(0)
        stream.write(again)

    write_atomically(path, write)


def _header(
    types: Mapping[str, ArrayType], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The beginning of the file, and where after it each array lies."""
    from safetensors.numpy import save

    empty = save({name: np.empty(0, type_.dtype) for name, type_ in types.items()}, {"": ""})
    known = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    places: dict[str, int] = {}
    end = 0
    for name in (name for name in known if name != "__metadata__"):
        dtype, shape = types[name]
        places[name], end = end, end + prod(shape) * dtype.itemsize
        header[name] = {**known[name], "shape": shape, "data_offsets": [places[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
