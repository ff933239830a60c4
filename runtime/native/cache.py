"""The object cache: compiled code on disk, one self-checking file per entry, private to the user.

An entry is ``magic, header length, JSON header, code length, code, BLAKE2 digest of all before``.
It is written to a new file in the same directory and renamed, so readers see all of it or nothing,
and several processes may fill a cold cache together. The key is part of the header and covers
whatever the code depends on; the caller names it with ``make_key`` and puts in the versions of
Python and LLVM and the processor (``jit.environment``).

Invariants: the directory is the user's own, mode 0700; one that is a link, belongs to another, or
can be written by others is not used. Whatever is wrong with an entry, it counts as absent, and its
replacement is written over it. Whoever can write in the directory can run code as the user: that is
why nobody else may.

Non-goals: trusting anything in an entry beyond its digest, sharing between users.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
import stat
import struct
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gradc._version import __version__

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAGIC = b"GRADCOBJ"
FORMAT = 1
SUFFIX = ".gco"
_DIGEST = 32
_HEAD = struct.Struct("<8sIQ")  # magic, format, length of the header
_LENGTH = struct.Struct("<Q")
MAX_ENTRY = 1 << 28
_STALE_SECONDS = 3600  # no writer takes so long for one entry
DEFAULT_LIMIT = 1 << 29  # bytes of all entries; the oldest go first


@dataclass(frozen=True, slots=True)
class Entry:
    """What was stored: ``header`` says what the code is, ``code`` is an object file."""

    header: dict[str, Json]
    code: bytes


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """Where the cache is and what it holds; ``problem`` says why it is not used, or is empty."""

    directory: str
    entries: int
    nbytes: int
    problem: str


def default_directory() -> Path:
    """``$GRADC_CACHE``, or ``gradc`` in the user's cache directory."""
    named = os.environ.get("GRADC_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    # Without a home directory the folder is one that cannot be made, and nothing is kept.
    return Path(base) / "gradc" if base else Path(os.path.expanduser("~")) / ".cache" / "gradc"


def make_key(*parts: str | bytes) -> str:
    """The name of an entry: a digest of ``parts``, of this format, and of the gradc that asks."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (__version__, source_stamp(), str(FORMAT), *parts):
        data = part.encode() if isinstance(part, str) else part
        digest.update(_LENGTH.pack(len(data)) + data)
    return digest.hexdigest()


@functools.cache
def source_stamp() -> str:
    """Sizes and times of gradc's own files: one that was edited must not find what it made
    before.
    """
    folder = Path(__file__).resolve().parent.parent.parent
    lines: list[str] = []
    for part in ("codegen", "frontend", "ir", "passes", "runtime"):
        _list_files(str(folder / part), lines)
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def _list_files(folder: str, lines: list[str]) -> None:
    """A line for every file below ``folder``, those beside each other by name, folders last."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    below = []
    for entry in entries:
        if not entry.is_dir():
            facts = entry.stat()
            lines.append(f"{entry.name} {facts.st_size} {facts.st_mtime_ns}\n")
        elif entry.name != "__pycache__":
            below.append(entry.path)
    for path in below:
        _list_files(path, lines)


class ObjectCache:
    """A directory of entries. Every method works, doing nothing, when the directory cannot be
    trusted.
    """

    def __init__(self, directory: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.directory = directory if directory is not None else default_directory()
        self.limit = limit
        self._warned = False
        # Bytes put since the last look at the whole directory, and how many may be before the next.
        self._put = 0
        self._room = 0

    # ---- reading ----------------------------------------------------------------------------

    def key(self, *parts: str | bytes) -> str:
        """``make_key``."""
        return make_key(*parts)

    def get(self, key: str) -> Entry | None:
        """The entry called ``key``, or None if there is none that is whole and ours."""
        if self.problem():
            return None
        path = self._path(key)
        try:
            data = _read_private(path)
        except FileNotFoundError:
            return None
        except OSError as problem:
            self._warn(f"cannot read {path.name}: {problem.strerror or problem}")
            return None
        try:
            entry = decode(data, key)
        except ValueError as problem:
            self._warn(f"{path.name} is damaged ({problem}); it is compiled again and replaced")
            return None
        try:
            os.utime(path)  # used lately: evicted late
        except OSError:
            pass  # a read-only cache still serves
        return entry

    # ---- writing ----------------------------------------------------------------------------

    def put(self, key: str, header: Mapping[str, Json], code: bytes) -> bool:
        """Stores an entry; returns whether that worked. A full disk or a lost race is no error."""
        if self.problem(create=True):
            return False
        data = encode(key, header, code)
        if len(data) > MAX_ENTRY:
            return False
        name = ""
        try:
            handle, name = tempfile.mkstemp(prefix=".new-", dir=self.directory)  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, self._path(key))
        except OSError as problem:
            if name:
                _remove(Path(name))
            self._warn(f"cannot store compiled code: {problem.strerror or problem}")
            return False
        self._put += len(data)
        if self._put >= self._room:
            self._evict()
        return True

    def clear(self) -> int:
        """Removes every entry and unfinished file; returns how many there were."""
        if self.problem():
            return 0
        return sum(_remove(Path(path)) for path, _ in self._files())

    def info(self) -> CacheInfo:
        problem = self.problem()
        files = [] if problem else [s for p, s in self._files() if p.endswith(SUFFIX)]
        total = sum(s.st_size for s in files)
        return CacheInfo(str(self.directory), len(files), total, problem)

    # ---- trust ------------------------------------------------------------------------------

    def problem(self, create: bool = False) -> str:
        """Why the directory is not used, or an empty string. ``create`` makes a missing one."""
        try:
            if create:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.lstat(self.directory)
        except FileNotFoundError:
            return "" if not create else "cannot be created"
        except OSError as problem:
            return f"cannot be used: {problem.strerror or problem}"
        reason = _distrust(found, directory=True)
        if reason and create:
            self._warn(f"{self.directory} {reason}; compiled code is not kept")
        return reason

    def _path(self, key: str) -> Path:
        if not key.isalnum():
            raise ValueError(f"{key!r} is no cache key")
        return self.directory / f"{key}{SUFFIX}"

    def _files(self) -> list[tuple[str, os.stat_result]]:
        """Entries and unfinished files, least recently used first."""
        found = []
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) or entry.name.startswith(".new-"):
                        found.append((entry.path, entry.stat(follow_symlinks=False)))
        except OSError:
            return []  # gone or emptied meanwhile
        return sorted(found, key=lambda f: (f[1].st_mtime_ns, f[0]))

    def _evict(self) -> None:
        """Looks at every file, so not at every entry that is put: the next look is due when this
        process has filled an eighth of what is free; others may be filling it too.
        """
        files = self._files()
        old = time.time() - _STALE_SECONDS
        for path, status in files:
            if not path.endswith(SUFFIX) and status.st_mtime < old:
                _remove(Path(path))  # of a writer that was killed
        total = sum(s.st_size for _, s in files)
        for path, status in files[:-1]:
            if total <= self.limit:
                break
            _remove(Path(path))
            total -= status.st_size
        self._put, self._room = 0, max(0, self.limit - total) // 8

    def _warn(self, text: str) -> None:
        """Once per cache: a broken cache must not flood a training log."""
        if not self._warned:
            self._warned = True
            # Not ``warn``: it would quote a line of gradc, and there is nothing to see in it.
            warnings.warn_explicit(f"gradc cache: {text}", RuntimeWarning, "gradc", 1)


# ---- the file format ----------------------------------------------------------------------------


def encode(key: str, header: Mapping[str, Json], code: bytes) -> bytes:
    """The bytes of an entry."""
    head = json.dumps({**header, "key": key}, sort_keys=True, allow_nan=False).encode()
    body = _HEAD.pack(MAGIC, FORMAT, len(head)) + head + _LENGTH.pack(len(code)) + code
    return body + hashlib.blake2b(body, digest_size=_DIGEST).digest()


def decode(data: bytes, key: str) -> Entry:
    """The entry in ``data``.

    Raises:
        ValueError: if any byte is not as ``encode`` wrote it, or it is the entry of another key.
    """
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise ValueError("the digest does not match")
    if len(body) < _HEAD.size:
        raise ValueError("it is too short")
    magic, version, length = _HEAD.unpack_from(body)
    if magic != MAGIC or version != FORMAT:
        raise ValueError("it has another format")
    start = _HEAD.size + length + _LENGTH.size
    if start > len(body):
        raise ValueError("the header is cut short")
    header = json.loads(body[_HEAD.size : _HEAD.size + length])
    (size,) = _LENGTH.unpack_from(body, _HEAD.size + length)
    if not isinstance(header, dict) or header.get("key") != key or size != len(body) - start:
        raise ValueError("it is not the entry of its name")
    return Entry(header, body[start:])


def _read_private(path: Path) -> bytes:
    """The bytes of a regular file of ours that only we can write. Raises OSError."""
    # A pipe in the place of an entry must not be waited for.
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))
    handle = os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        reason = _distrust(status, directory=False)
        if reason:
            raise PermissionError(0, reason)
        if status.st_size > MAX_ENTRY:
            raise PermissionError(0, "it is too large")
        return file.read(MAX_ENTRY + 1)


def _distrust(status: os.stat_result, *, directory: bool) -> str:
    """Why a directory or file is not trusted, or an empty string."""
    right = stat.S_ISDIR(status.st_mode) if directory else stat.S_ISREG(status.st_mode)
    if not right:
        return "is not a directory" if directory else "is not a regular file"
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return ""


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False  # another process was faster, or may
    return True
