"""Reading and writing arrays: ``.npz`` data and ``.safetensors`` weights, from files nobody vouches for.

Nothing in a file is executed or unpickled; sizes are checked before memory is taken; what is wrong is said as a
diagnostic (GC05xx) that names the file and the array. Writing is atomic: a reader sees the old file or the new one.

Non-goals: matching arrays with a model's inputs (``runtime.arrays``), checkpoints (``runtime.checkpoint``).
"""

from __future__ import annotations

import io
import json
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gradc.ir.diagnostics import DiagnosticError, error

Array = NDArray[np.generic]

# An archive may claim any size; beyond this the answer is a diagnostic that names the limit.
MAX_ARRAY_BYTES = 64 << 30
MAX_ARRAYS = 100_000
MAX_HEADER_BYTES = 100_000_000
_SUPPORTED_KINDS = "biuf"
# What reading a damaged, encrypted or strangely packed member raises.
_DAMAGE = (
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)


def fail(code: str, message: str, help: str = "") -> DiagnosticError:
    """A DiagnosticError with one finding that has no place in a program text."""
    return DiagnosticError([error(code, message, None, help=help)])


def load_npz(path: str | Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, in the order they are stored.

    Raises:
        DiagnosticError: GC0570 if it cannot be read or is not an npz archive, GC0571 if an array is not plain
            numbers (object arrays hold pickles, which are never read), GC0572 if it is larger than allowed.
    """
    shown = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise fail("GC0572", f"`{shown}` holds {len(members)} arrays; at most {MAX_ARRAYS}")
            total = sum(member.file_size for member in members)
            if total > MAX_ARRAY_BYTES:
                raise fail("GC0572", f"`{shown}` unpacks to {total} bytes, over {MAX_ARRAY_BYTES}")
            _refuse_repeats(members, shown)
            return {_member_name(m): _read_member(archive, m, shown) for m in members}
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{shown}`: {problem.strerror or problem}") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as problem:
        help = "write it with numpy.savez(FILE, x=..., y=...)"
        raise fail("GC0570", f"`{shown}` is not a readable .npz file: {problem}", help) from None


def _refuse_repeats(members: Sequence[zipfile.ZipInfo], shown: str) -> None:
    """Of two arrays of one name, readers differ in which they take."""
    seen: set[str] = set()
    for member in members:
        name = _member_name(member)
        if name in seen:
            raise fail("GC0570", f"`{shown}` holds the array `{name}` twice")
        seen.add(name)


def _member_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shown: str) -> Array:
    """One array of an npz archive, its declared size checked against the bytes that are there."""
    name = _member_name(member)
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise ValueError(f"format version {version} is not known")
            shape, fortran, dtype = read_header(stream)
            refuse_dtype(name, dtype, shown)
            count = 1
            for extent in shape:
                count *= extent
            data = stream.read(count * dtype.itemsize + 1)
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"it declares {count * dtype.itemsize} bytes and holds others")
    except _DAMAGE as problem:
        raise fail("GC0570", f"array `{name}` of `{shown}` is damaged: {problem}") from None
    array = np.frombuffer(data, dtype).reshape(shape[::-1] if fortran else shape)
    return array.T if fortran else array


def refuse_dtype(name: str, dtype: np.dtype[np.generic], where: str) -> None:
    """Raises DiagnosticError GC0571 unless ``dtype`` is a boolean, integer or real number."""
    if dtype.kind in _SUPPORTED_KINDS and not dtype.hasobject:
        return
    kind = "Python objects" if dtype.hasobject else str(dtype)
    help = (
        "convert it to numbers, e.g. numpy.asarray(values, dtype=numpy.float32), and save it again"
    )
    raise fail("GC0571", f"array `{name}` of `{where}` holds {kind}, not numbers", help)


def save_npz(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Writes an ``.npz`` file atomically. Raises DiagnosticError GC0573 if it cannot be written."""

    def write(stream: BinaryIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                # A fixed date keeps the file's bytes a function of its contents.
                info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    write_atomically(Path(path), write)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes beside ``path``, syncs, and renames; on any failure the old file stays.

    A link is followed. A device or a pipe is written to: a rename would put a plain file in its place.

    Raises:
        DiagnosticError: GC0573 if the folder is missing or the disk refuses.
    """
    temporary = ""
    try:
        if path.exists() and not path.is_file():
            whole = io.BytesIO()
            write(whole)
            path.write_bytes(whole.getvalue())
            return
        place = Path(os.path.realpath(path))
        handle, temporary = tempfile.mkstemp(
            prefix=f".{place.name}.", suffix=".tmp", dir=place.parent
        )
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, place)
        sync_folder(place.parent)
    except OSError as problem:
        raise fail("GC0573", f"cannot write `{path}`: {problem.strerror or problem}") from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def make_folder(path: Path) -> Path:
    """``path`` as a folder, made if it is not there. Raises DiagnosticError GC0573 if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        reason = problem.strerror or problem
        raise fail("GC0573", f"cannot make the folder `{path}`: {reason}") from None
    return path


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8. Raises DiagnosticError GC0573 if it cannot be written."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_safetensors(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata of a ``.safetensors`` file.

    The format's own reader accepts a header with a repeated name (the last wins), so the header is parsed here
    too and repeats are refused.

    Raises:
        DiagnosticError: GC0574 if the file is unreadable, damaged, or names an array twice.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    shown = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{shown}`: {problem.strerror or problem}") from None
    try:
        metadata = _checked_header(data)
        arrays = load(data)
    except (SafetensorError, ValueError, TypeError, RecursionError) as problem:
        raise fail("GC0574", f"`{shown}` is not a valid .safetensors file: {problem}") from None
    order = [name for name in metadata.pop("__order__").split("\0") if name]
    return {name: arrays[name] for name in order}, metadata


def _checked_header(data: bytes) -> dict[str, str]:
    """The metadata, plus the order of names. Raises ValueError for repeats and lies about the length."""
    if len(data) < 8:
        raise ValueError("it is shorter than a header")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header claims {length} bytes")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"its header names {repeated!r} twice")
        return found

    header = json.loads(data[8 : 8 + length], object_pairs_hook=once)
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text")
    return {**metadata, "__order__": "\0".join(header)}


def save_safetensors(
    path: str | Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a ``.safetensors`` file atomically. Raises DiagnosticError GC0573 if it cannot be written."""
    from safetensors.numpy import save

    dense = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    data = save(dense, dict(metadata or {}))
    write_atomically(Path(path), lambda stream: _write_sorted(stream, data))


def _write_sorted(stream: BinaryIO, data: bytes) -> None:
    """Writes ``data`` with its metadata in order of their names: the format's own writer takes any order, so equal
    content had different bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    stream.write(memoryview(data)[end:])
