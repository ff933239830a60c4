"""Reading and writing arrays: ``.npz`` data and ``.safetensors`` weights, from files nobody vouches
for.

Nothing in a file is executed or unpickled; sizes are checked before memory is taken; what is wrong
is said as a diagnostic (GC05xx) that names the file and the array. Writing is atomic: a reader sees
the old file or the new one.

Non-goals: matching arrays with a model's inputs (``runtime.arrays``), checkpoints
(``runtime.checkpoint``).
"""

from __future__ import annotations

import errno
import glob
import io
import json
import lzma
import math
import os
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.tensor.bf16 import from_bf16
from gradc.runtime.native.room import machine_bytes

Array = NDArray[np.generic]

# An archive may claim any size; beyond this the answer is a diagnostic that names the limit.
MAX_ARRAY_BYTES = 64 << 30
MAX_ARRAYS = 100_000
MAX_HEADER_BYTES = 100_000_000
MAX_STREAM_BYTES = 1 << 28  # of what is no regular file, and may never end
MAX_AXES = 32
_STALE_SECONDS = 3600
_SUPPORTED_KINDS = "biuf"
# What reading a damaged, encrypted or strangely packed member raises.
_UNPACKING = (NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, struct.error)
_DAMAGE = (
    *_UNPACKING,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
)
# The types of a weight file that NumPy has as well.
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1",
}  # fmt: skip


def fail(code: str, message: str, help: str = "") -> DiagnosticError:
    """A DiagnosticError with one finding that has no place in a program text."""
    return DiagnosticError([error(code, message, None, help=help)])


# Given the shapes of all arrays of a file, the names of those to read; may refuse instead.
Choose: TypeAlias = "Callable[[Mapping[str, tuple[int, ...]]], Iterable[str]]"


def load_npz(
    path: str | Path, choose: Choose | None = None, in_place: bool = False
) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, in the order they are stored.

    With ``in_place`` arrays that are not compressed stay in the file: their numbers are read when
    they are used, and only those that are. Nobody may change the file meanwhile.

    Only the headers are unpacked before ``choose`` has seen their shapes and said which arrays are
    wanted.

    Raises:
        DiagnosticError: GC0570 if it cannot be read or is not an npz archive, GC0571 if an array is
            not plain numbers (object arrays hold pickles, which are never read), GC0572 if it is
            larger than allowed.
    """
    shown = str(path)
    try:
        with _regular(path) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise fail("GC0572", f"`{shown}` holds {len(members)} arrays; at most {MAX_ARRAYS}")
            _refuse_size(sum(m.file_size for m in members), shown, MAX_ARRAY_BYTES)
            _refuse_repeats(members, shown)
            headers = {_member_name(m): _read_header(archive, m, shown) for m in members}
            wanted = list(headers)
            if choose is not None:
                chosen = set(choose({name: header.shape for name, header in headers.items()}))
                wanted = [name for name in headers if name in chosen]
            room = min(MAX_ARRAY_BYTES, machine_bytes() or MAX_ARRAY_BYTES)
            mapped = {name: headers[name].is_stored and in_place for name in wanted}
            _refuse_size(sum(headers[n].nbytes for n in wanted if not mapped[n]), shown, room)
            return {
                name: _mapped(stream, headers[name], shown)
                if mapped[name]
                else _read_member(archive, headers[name], shown)
                for name in wanted
            }
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{shown}`: {problem.strerror or problem}") from None
    except (ValueError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, *_UNPACKING) as problem:
        help = "write it with numpy.savez(FILE, x=..., y=...)"
        raise fail("GC0570", f"`{shown}` is not a readable .npz file: {problem}", help) from None


@contextmanager
def _regular(path: str | Path) -> Iterator[BinaryIO]:
    """The file at ``path``, if it is one that can be read at any place. Raises OSError for pipes
    and devices, without waiting for what may never come."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.ESPIPE, "it is no file that can be read at any place")
        yield stream


def _refuse_size(nbytes: int, shown: str, limit: int) -> None:
    if nbytes > limit:
        raise fail("GC0572", f"`{shown}` unpacks to {nbytes} bytes, over {limit}")


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


@dataclass(frozen=True, slots=True)
class _Header:
    """What the .npy header of a member says, and where its numbers begin."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[np.generic]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_stored(self) -> bool:
        """Whether its numbers lie in the archive as they are."""
        return self.member.compress_type == zipfile.ZIP_STORED and self.nbytes > 0


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shown: str) -> _Header:
    """The header of one array, its declared size checked against the bytes that are there."""
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
            try:
                shape, is_fortran, dtype = read_header(stream)
            # The text is parsed as Python's: it may fail in any way.
            except Exception as problem:  # noqa: BLE001
                raise ValueError(f"its header cannot be read: {problem}") from None
            refuse_dtype(name, dtype, shown)
            _check_extents(shape)
            found = _Header(member, shape, is_fortran, dtype, stream.tell())
        if found.start + found.nbytes != member.file_size:
            raise ValueError(f"it declares {found.nbytes} bytes and holds others")
    except _DAMAGE as problem:
        raise _damaged(name, shown, problem) from None
    return found


def _check_extents(shape: tuple[object, ...]) -> None:
    """Raises ValueError unless NumPy can make an array of this shape."""
    if len(shape) > MAX_AXES:
        raise ValueError(f"it has {len(shape)} axes; at most {MAX_AXES} are possible")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent < 1 << 63:
            raise ValueError(f"its shape holds {str(extent)[:40]}, which is no size")
    if math.prod(n for n in shape if isinstance(n, int) and n) >= 1 << 60:
        raise ValueError("its shape is larger than any memory")


def _damaged(name: str, shown: str, problem: object) -> DiagnosticError:
    return fail("GC0570", f"array `{name}` of `{shown}` is damaged: {problem}")


def _read_member(archive: zipfile.ZipFile, header: _Header, shown: str) -> Array:
    """One array of an npz archive; never more is unpacked than its header declares."""
    try:
        with archive.open(header.member) as stream:
            stream.read(header.start)
            data = stream.read(header.nbytes + 1)
        if len(data) != header.nbytes:
            raise ValueError(f"it declares {header.nbytes} bytes and holds others")
        shape = header.shape[::-1] if header.is_fortran else header.shape
        array = np.frombuffer(data, header.dtype).reshape(shape)
    except _DAMAGE as problem:
        raise _damaged(_member_name(header.member), shown, problem) from None
    return array.T if header.is_fortran else array


_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # of a member: APPNOTE.TXT of PKWARE, 4.3.7


def _mapped(stream: BinaryIO, header: _Header, shown: str) -> Array:
    """One stored array of an npz archive, as a read-only window into the file."""
    stream.seek(header.member.header_offset)
    try:
        mark, *_, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
        if mark != b"PK\x03\x04":
            raise ValueError("its place in the archive holds something else")
        start = header.member.header_offset + _LOCAL_HEADER.size + name + extra + header.start
        order: Literal["F", "C"] = "F" if header.is_fortran else "C"
        return np.asarray(np.memmap(stream, header.dtype, "r", start, header.shape, order))
    except _DAMAGE as problem:
        raise _damaged(_member_name(header.member), shown, problem) from None


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

    A link is followed. A device or a pipe is written to: a rename would put a plain file in its
    place.

    Raises:
        DiagnosticError: GC0573 if the folder is missing or the disk refuses.
    """
    temporary = ""
    try:
        if path.exists() and not path.is_file():
            whole = io.BytesIO()
            write(whole)
            # A pipe that nobody reads is an error, not a reason to wait.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(handle, True)
            with os.fdopen(handle, "wb") as stream:
                stream.write(whole.getvalue())
            return
        place = Path(os.path.realpath(path))
        _sweep(place)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{place.name}.", suffix=".tmp", dir=place.parent
        )
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, place)
        sync_folder(place.parent)
    except OSError as problem:
        raise fail("GC0573", f"cannot write `{path}`: {problem.strerror or problem}") from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _sweep(place: Path) -> None:
    """Removes what writers of ``place`` left that were killed, once it is an hour old."""
    old = time.time() - _STALE_SECONDS
    for path in place.parent.glob(f".{glob.escape(place.name)}.????????.tmp"):
        try:
            if path.lstat().st_mtime < old:
                path.unlink()
        except OSError:
            pass  # another was faster, or may; it is in nobody's way


def make_folder(path: Path) -> Path:
    """``path`` as a folder, made if it is not there. Raises DiagnosticError GC0573 if it cannot
    be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        reason = problem.strerror or problem
        raise fail("GC0573", f"cannot make the folder `{path}`: {reason}") from None
    return path


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8. Raises DiagnosticError GC0573 if it cannot be
    written.
    """
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
    """Arrays and metadata of a ``.safetensors`` file. bf16, which NumPy lacks, is read as f32.

    The format's own reader accepts a header with a repeated name (the last wins), so the header is
    parsed here too and repeats are refused.

    Raises:
        DiagnosticError: GC0574 if the file is damaged, names an array twice, or holds numbers of a
            type that programs do not have; GC0570 if it cannot be read, GC0572 if it is a stream
            without end.
    """
    from safetensors import SafetensorError, deserialize

    shown = str(path)
    try:
        data = read_limited(path)
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{shown}`: {problem.strerror or problem}") from None
    try:
        header, metadata = _checked_header(data)
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
        arrays = {name: _tensor(name, tensors[name], shown) for name in header}
    except (SafetensorError, ValueError, TypeError, RecursionError) as problem:
        raise fail("GC0574", f"`{shown}` is not a valid .safetensors file: {problem}") from None
    return arrays, metadata


def map_safetensors(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """``load_safetensors`` of arrays that stay in their file: what is looked at is read, and
    nothing can be written.

    Raises:
        DiagnosticError: as ``load_safetensors``.
    """
    from safetensors import SafetensorError, safe_open

    shown = str(path)
    if not Path(path).is_file():
        return load_safetensors(path)
    try:
        with safe_open(shown, framework="numpy"):  # which looks at the header alone
            data = np.memmap(path, np.uint8, "r")
        header, metadata = _checked_header(data)
        start = 8 + int.from_bytes(bytes(data[:8]), "little")
        arrays = {}
        for name, found in header.items():
            begin, end = found["data_offsets"]
            lies = {**found, "data": data[start + begin : start + end]}
            arrays[name] = _tensor(name, lies, shown)
    except OSError as problem:
        raise fail("GC0570", f"cannot read `{shown}`: {problem.strerror or problem}") from None
    except (SafetensorError, ValueError, TypeError, RecursionError) as problem:
        raise fail("GC0574", f"`{shown}` is not a valid .safetensors file: {problem}") from None
    return arrays, metadata


def read_limited(path: str | Path) -> bytes:
    """All bytes of a file, or of a pipe or device if there are not too many.

    Raises:
        OSError: if it cannot be read; DiagnosticError: GC0572 beyond ``MAX_STREAM_BYTES`` of a pipe
            or device.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe may have no writer
    with os.fdopen(handle, "rb") as stream:
        os.set_blocking(handle, True)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return stream.read()
        data = stream.read(MAX_STREAM_BYTES + 1)
    if len(data) > MAX_STREAM_BYTES:
        message = f"`{path}` is no file and gives more than {MAX_STREAM_BYTES} bytes"
        raise fail("GC0572", message, "save it in a file first")
    return data


def _tensor(name: str, found: Mapping[str, Any], shown: str) -> Array:
    """One array of a safetensors file. Raises DiagnosticError GC0574 for a type that programs do
    not have.
    """
    kind, shape = found["dtype"], tuple(found["shape"])
    if kind == "BF16":
        return from_bf16(np.frombuffer(found["data"], "<u2").reshape(shape))
    dtype = _SAFETENSORS.get(kind)
    if dtype is None:
        message = f"`{name}` of `{shown}` holds {kind}, which programs do not have"
        raise fail("GC0574", message, "save it as F32 or BF16")
    return np.frombuffer(found["data"], dtype).reshape(shape)


def _checked_header(data: bytes | Array) -> tuple[dict[str, Any], dict[str, str]]:
    """What is said of arrays, by name in order, and the metadata. Raises ValueError for repeats and
    lies about the length.
    """
    if len(data) < 8:
        raise ValueError("it is shorter than a header")
    length = int.from_bytes(bytes(data[:8]), "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header claims {length} bytes")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"its header names {repeated!r} twice")
        return found

    header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=once)
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text")
    return header, metadata
