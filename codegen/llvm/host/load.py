"""Machine code that Python calls: loading, arenas, and both ways in.

The fast way is a function in machine code, the same for all programs, that checks the arrays and
runs the entry with the GIL released (``wrapper``, driven by a ``table``); the other goes through
ctypes, takes over when a second thread calls meanwhile or an array is refused, and says in words
what is wrong with it. Both run the same entry and give the same bits.

Invariants: one arena per call in flight, exactly ``arena_bytes`` long and 64-byte aligned, kept for
the next call; a function and its code live as long as anything refers to them; the thread pool is
one per process, gone from a forked child and stopped at exit.

Non-goals: the object cache (``runtime.native.load``), converting arrays, naming parameters.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np

from gradc.codegen import exchange
from gradc.codegen.backend import Array, Loaded, Results, Signature, Store
from gradc.codegen.llvm import amx, pool
from gradc.codegen.llvm.host import jit, wrapper
from gradc.codegen.llvm.host.machine import environment
from gradc.codegen.llvm.host.table import PROCESS, Layout, Words, table, words_of
from gradc.codegen.llvm.isa import host
from gradc.ir.plan.plan import ALIGNMENT

_HUGE_PAGE = 1 << 21


class NativeFunction(Loaded):
    """A loaded entry."""

    def __init__(
        self,
        signature: Signature,
        code: bytes,
        threads: int,
        store: Store | None = None,
    ) -> None:
        """Loads ``code``; ``store`` may hold the thread pool's code."""
        name = signature.name
        amx.is_permitted()  # code from a cache may need what only emitting asks for otherwise
        library = jit.Library(code, (name,), imports(store))
        caller = calls(store)
        super().__init__(signature, threads)
        self.object_bytes = code
        self._library = library
        self._arenas = Arenas(signature.arena_bytes)
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )
        self._entry = prototype(library[name])
        self._many = ctypes.CFUNCTYPE(
            ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64
        )(caller["gradc_many"])
        self._first = self._arenas.take()
        self._table = made = table(
            signature, ndarray_layout(), library[name], self._first, self.threads
        )
        made.kept += (library, self._arenas)
        forget = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(caller["gradc_forget"])
        # The words outlive their table: what is forgotten may be asked for again, by address.
        weakref.finalize(made, _forget, forget, made.words)
        #: The function in machine code: None after a call, else an int (see
        #: ``codegen.llvm.host.wrapper``).
        self.fast = _builtin(caller["gradc_call"], name, made)
        #: The same from dictionaries of arrays (see ``named_call``).
        self.fast_named = _builtin(caller["gradc_named"], name, made)
        self._direct = caller["gradc_direct"]

    def direct(
        self,
        slow: Callable[..., Any],
        finish: Callable[[Results], Any] | None,
        state: type | None = None,
        takes_seeds: bool = False,
    ) -> Callable[..., Any]:
        """See ``Loaded``: in machine code."""
        kept = (self._table, slow, finish, state)
        at = self._table.ctypes.data
        objects = (0 if item is None else id(item) for item in kept[1:])
        given = words_of([at, *objects, int(takes_seeds)])
        given.kept = kept
        return _builtin(self._direct, self.signature.name, given, _FASTCALL | _KEYWORDS)

    def launch(self, arrays: Sequence[Array]) -> None:
        """Runs the program through ctypes, in an arena of its own."""
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        arena = self._arenas.take()
        try:
            self._entry(pointers, arena, self.threads)
        finally:
            self._arenas.give(arena)

    def launch_many(self, arrays: Sequence[Array], is_stacked: Sequence[bool], count: int) -> int:
        """All in one call of machine code, in one arena."""
        room = max(1, len(arrays))
        pointers = (ctypes.c_void_p * room)(*(a.ctypes.data for a in arrays))
        pairs = zip(arrays, is_stacked, strict=True)
        strides = (ctypes.c_int64 * room)(*(a.strides[0] if s else 0 for a, s in pairs))
        arena = self._arenas.take()
        try:
            at = self._table.ctypes.data
            return cast(int, self._many(at, pointers, strides, arena, self.threads, count))
        finally:
            self._arenas.give(arena)

    @property
    def measured_bytes(self) -> int:
        """Bytes that one call touches, from the allocation made: the arena and the arrays."""
        return self._arenas.nbytes(self._first) + self.signature.port_bytes

    @property
    def arenas(self) -> int:
        """How many arenas exist: the most calls that were ever in flight together."""
        return self._arenas.count


# ---- memory -------------------------------------------------------------------------------------


class Arenas:
    """Aligned blocks of one size. ``take`` and ``give`` are atomic under the GIL."""

    def __init__(self, nbytes: int) -> None:
        self.size = nbytes
        self.free: list[int] = []
        self._sizes: dict[int, int] = {}
        weakref.finalize(self, _free_all, self._sizes)

    @property
    def count(self) -> int:
        return len(self._sizes)

    def nbytes(self, arena: int) -> int:
        return self._sizes[arena]

    def take(self) -> int:
        """A block that nobody uses. Raises MemoryError."""
        try:
            return self.free.pop()
        except IndexError:
            arena = _aligned(self.size)
            self._sizes[arena] = self.size
            return arena

    def give(self, arena: int) -> None:
        self.free.append(arena)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _aligned(nbytes: int) -> int:
    """Address of a new block of exactly ``nbytes``; large ones on huge pages where the system has
    them.
    """
    address = ctypes.c_void_p()
    alignment = _HUGE_PAGE if nbytes >= 2 * _HUGE_PAGE else ALIGNMENT
    size = ctypes.c_size_t(max(1, nbytes))
    if _libc().posix_memalign(ctypes.byref(address), ctypes.c_size_t(alignment), size):
        raise MemoryError(f"no room for an arena of {nbytes} bytes")
    if alignment == _HUGE_PAGE:
        madvise_hugepage = 14
        whole = nbytes // _HUGE_PAGE * _HUGE_PAGE
        _libc().madvise(address, ctypes.c_size_t(whole), madvise_hugepage)
    return cast(int, address.value)


def _free_all(sizes: dict[int, int]) -> None:
    for address in sizes:
        _libc().free(ctypes.c_void_p(address))


# ---- the interpreter's and NumPy's structures
# -----------------------------------------------------


@functools.cache
def ndarray_layout() -> Layout:
    """Where ndarrays keep their fields, found by looking at known ones.

    Raises:
        RuntimeError: if a field cannot be found (then this NumPy keeps arrays differently than any
            known one).
    """
    samples: list[Array] = [
        np.zeros((3, 5, 7), np.float32),
        np.zeros((2, 11), np.int64)[:, ::2],
        np.asfortranarray(np.zeros((4, 6, 8, 9), np.float64)),
    ]
    samples[0].flags.writeable = False
    size = int(np.ndarray.__basicsize__)
    views = [ctypes.string_at(id(a), size) for a in samples]

    def find(what: str, form: str, values: Sequence[int], mask: int = -1) -> int:
        for at in range(0, size - struct.calcsize(form) + 1, struct.calcsize(form)):
            found = [struct.unpack_from(form, view, at)[0] & mask for view in views]
            if found == list(values):
                return at
        raise RuntimeError(f"cannot find {what} of an ndarray")

    def shape_at() -> int:
        data = find("the data", "Q", [a.ctypes.data for a in samples])
        for at in range(data + 8, size - 7, 8):
            places = [struct.unpack_from("Q", view, at)[0] for view in views]
            if all(p > 4096 and p % 8 == 0 for p in places) and at != dtype:
                # A tuple of dimensions and one of strides follow each other in one block: take the
                # first match.
                shapes = [
                    list((ctypes.c_ssize_t * a.ndim).from_address(p))
                    for a, p in zip(samples, places, strict=True)
                ]
                if shapes == [list(a.shape) for a in samples]:
                    return at
        raise RuntimeError("cannot find the shape of an ndarray")

    flags = [a.flags.num for a in samples]
    dtype = find("the dtype", "Q", [id(a.dtype) for a in samples])
    return Layout(
        type=find("the type", "Q", [id(np.ndarray)] * len(samples)),
        data=find("the data", "Q", [a.ctypes.data for a in samples]),
        rank=find("the rank", "i", [a.ndim for a in samples]),
        shape=shape_at(),
        dtype=dtype,
        flags=find("the flags", "i", flags, 0xFFFF),
        contiguous=0x1,
        aligned=0x100,
        writeable=0x400,
    )


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL, _KEYWORDS = 0x80, 0x2


def _builtin(address: int, name: str, given: Words, flags: int = _FASTCALL) -> Callable[..., Any]:
    """A Python callable for the function at ``address``, whose ``self`` is ``given``."""
    definition = _MethodDef(name.encode(), address, flags, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make.restype = ctypes.py_object
    given.kept += (definition,)
    return cast("Callable[..., Any]", make(ctypes.addressof(definition), given, None))


# Numbers in NumPy's C interface, which never change: PyArray_NewFromDescr, PyArray_Scalar.
_NEW_FROM_DESCR, _SCALAR = 94, 60


def _of_numpy(number: int) -> int:
    """The address of a function of NumPy's C interface."""
    package = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    table = getattr(import_module(f"{package}._multiarray_umath"), "_ARRAY_API")  # noqa: B009
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer.restype = ctypes.c_void_p
    size = ctypes.sizeof(ctypes.c_void_p)
    entry = ctypes.c_size_t.from_address(pointer(table, None) + number * size)
    return int(entry.value)


# ---- the thread pool
# ------------------------------------------------------------------------------


def imports(store: Store | None) -> dict[str, int]:
    """Addresses of what code of a Plan calls in this process."""
    parallel = thread_pool(store)["gradc_parallel"]
    return {"gradc_parallel": parallel, "gradc_exchange": exchanger()}


@functools.cache
def _exchange_call() -> Any:
    """``gradc_exchange`` as a C function; it lives as long as the process."""
    word = ctypes.c_int64

    def call(kind: int, address: int, ranks: int, part: int) -> None:
        memory = (ctypes.c_uint8 * (ranks * part)).from_address(address)
        parts = np.ctypeslib.as_array(memory).reshape(ranks, part)
        exchange.run(exchange.KINDS[kind], parts)

    return ctypes.CFUNCTYPE(None, word, ctypes.c_void_p, word, word)(call)


def exchanger() -> int:
    """The address of ``gradc_exchange``."""
    return cast(int, ctypes.cast(_exchange_call(), ctypes.c_void_p).value)


_pools: list[jit.Library] = []  # one, once it is loaded
_pool_lock = threading.Lock()


def thread_pool(store: Store | None) -> jit.Library:
    """The process's thread pool. It starts its threads when they are first used."""
    with _pool_lock:
        if not _pools:
            _pools.append(_load_pool(store))
        return _pools[0]


def _load_pool(store: Store | None) -> jit.Library:
    machine = environment(store)
    triple = machine[3]
    parts = triple.split("-")[0], "linux" in triple
    names = ["gradc_parallel"]
    if pool.has_workers(*parts):
        names += ["gradc_pool_stop", "gradc_pool_forget", "gradc_pool_workers"]

    def text() -> str:
        return f'target triple = "{triple}"\n' + pool.pool_text(*parts)

    library = _made_once("thread pool", text, names, machine, store)
    if len(names) > 1:
        plain = ctypes.CFUNCTYPE(None)
        os.register_at_fork(after_in_child=plain(library["gradc_pool_forget"]))
        atexit.register(plain(library["gradc_pool_stop"]))
    return library


def _made_once(
    what: str,
    text: Callable[[], str],
    names: Sequence[str],
    machine: Sequence[str],
    store: Store | None,
) -> jit.Library:
    """Code that is the same for all programs of this process, from ``store`` if it is there:
    ``what`` and the machine determine its ``text``, which a warm start does not write.
    """
    key = "" if store is None else store.key(*machine, what)
    entry = store.get(key) if store is not None else None
    code = jit.compile_object(text(), host()) if entry is None else entry.code
    if entry is None and store is not None:
        store.put(key, {}, code)
    return jit.Library(code, names, {})


# Objects that machine code knows by address; nobody writes to them.
_EMPTY: dict[str, Array] = {}
_ATTRIBUTES = tuple(map(sys.intern, ("arrays", "metrics", "out")))
_NAMES = {name: id(name) for name in _ATTRIBUTES}
_callers: list[jit.Library] = []  # one, once it is loaded


def calls(store: Store | None) -> jit.Library:
    """What Python calls (``wrapper``), loaded once a process."""
    with _pool_lock:
        if not _callers:
            machine, layout = environment(store), ndarray_layout()

            def text() -> str:
                return wrapper.caller_text(machine[3], layout)

            what = f"calls {layout}"
            library = _made_once(what, text, wrapper.EXPORTS, machine, store)
            known = {
                "ndarray": id(np.ndarray),
                "none": id(None),
                "dict": id(dict),
                "tuple": id(tuple),
                "int": id(int),
                "empty": id(_EMPTY),
                **_NAMES,
                "new_array": _of_numpy(_NEW_FROM_DESCR),
                "new_scalar": _of_numpy(_SCALAR),
            }
            data = struct.pack(f"{len(PROCESS)}Q", *(known[word] for word in PROCESS))
            ctypes.memmove(library["gradc_process"], data, len(data))
            _callers.append(library)
        return _callers[0]


def _forget(forget: Callable[[int], None], words: Array) -> None:
    """Gives up the results that a table, which is gone, has kept (``recycle``)."""
    forget(words.ctypes.data)


def pool_workers() -> int:
    """How many worker threads run."""
    try:
        address = _pools[0]["gradc_pool_workers"]
    except LookupError:
        return 0
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())
