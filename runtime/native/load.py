"""Compiled Plans that Python can call: loading, the object cache, arenas, and both ways in.

The fast way is a function in machine code that checks the arrays and runs the entry with the GIL
released (``codegen.llvm.wrapper``); the other goes through ctypes, takes over when a second thread
calls meanwhile or an array is refused, and says in words what is wrong with it. Both run the same
entry and give the same bits.

Invariants: one arena per call in flight, exactly ``arena_bytes`` long and 64-byte aligned, kept for
the next call; a function and its code live as long as anything refers to them; one thread pool per
process, gone from a forked child and stopped at exit.
Non-goals: converting arrays (``runtime.arrays``), naming parameters (``runtime.api``).
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from gradc.codegen.llvm import pool
from gradc.codegen.llvm.host import jit, wrapper
from gradc.codegen.llvm.host.symbols import inner_name
from gradc.codegen.llvm.isa import Isa, host, select
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.plan.plan import ALIGNMENT, Plan, Port
from gradc.ir.tensor.core import DType, Role
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array
from gradc.runtime.native.cache import Json, ObjectCache, make_key
from gradc.runtime.native.machine import environment

if TYPE_CHECKING:
    from gradc.ir.target.target import Target
    from gradc.passes.place.scratch import Scratch

# Entries cheaper than this (microseconds) keep the GIL: giving it up and back costs a tenth of
# that.
RELEASE_ABOVE = 2.0
_HUGE_PAGE = 1 << 21


# Loss, outputs and states, cotangents, tangents of one call.
Results: TypeAlias = "tuple[Array | None, dict[str, Array], dict[str, Array], dict[str, Array]]"

# Which dictionary of a named call holds the arrays of a role: parameters, inputs, seeds.
HOLDER = {
    Role.PARAM: 0,
    Role.STATE: 0,
    Role.SLOT: 0,
    Role.HYPER: 0,
    Role.INPUT: 1,
    Role.SEED: 2,
}
_GROUP = {Role.LOSS: 0, Role.OUTPUT: 1, Role.STATE: 1, Role.COTANGENT: 2, Role.TANGENT: 3}


def named_ports(ports: Sequence[Port]) -> wrapper.Named:
    """Where a named call finds the ports it is given, and puts those it makes."""
    return wrapper.Named(
        tuple(-1 if p.direction == "out" else HOLDER.get(p.role, 0) for p in ports),
        tuple(_GROUP.get(p.role, 1) for p in ports),
    )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a caller must know of a compiled Plan; travels with its code in the cache."""

    name: str
    ports: tuple[Port, ...]
    arena_bytes: int
    threads: int  # most of a call: the arena has scratch for so many
    launches: int
    kernels: int
    isa: str

    @property
    def port_bytes(self) -> int:
        """Bytes of all arrays of a call."""
        return sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in self.ports)

    def to_json(self) -> dict[str, Json]:
        ports: list[Json] = [
            [p.name, p.role.value, list(p.shape), p.dtype.value, p.direction, p.tensor]
            for p in self.ports
        ]
        rest: dict[str, Json] = {
            key: getattr(self, key)
            for key in ("name", "arena_bytes", "threads", "launches", "kernels", "isa")
        }
        return {**rest, "ports": ports}

    @staticmethod
    def from_json(header: Mapping[str, Any]) -> Signature:
        """Reads ``to_json``'s result back. Raises KeyError, TypeError or ValueError otherwise."""
        ports = tuple(
            Port(name, Role(role), tuple(shape), DType(dtype), direction, tensor)
            for name, role, shape, dtype, direction, tensor in header["ports"]
        )
        arena, threads = int(header["arena_bytes"]), int(header["threads"])
        launches, kernels = int(header["launches"]), int(header["kernels"])
        return Signature(
            str(header["name"]), ports, arena, threads, launches, kernels, str(header["isa"])
        )


class NativeFunction:
    """A loaded entry. ``call`` takes one ndarray per port, in port order."""

    def __init__(
        self,
        signature: Signature,
        code: bytes,
        threads: int,
        plan: Plan | None,
        store: ObjectCache | None = None,
    ) -> None:
        """Loads ``code``; ``store`` may hold the thread pool's code."""
        name = signature.name
        exports = (name, f"{name}_call", f"{name}_named", f"{name}_state")
        library = jit.Library(
            code, exports, {"gradc_parallel": thread_pool(store)["gradc_parallel"]}
        )
        self.signature = signature
        self.plan = plan
        self.threads = max(1, min(threads, signature.threads))
        self.object_bytes = code
        self.llvm_text = ""
        self.assembly: Callable[[], str] = str
        self._library = library
        self._arenas = Arenas(signature.arena_bytes)
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
        )
        self._entry = prototype(library[name])
        kept = [library, self._arenas, *self._fill_state(library[f"{name}_state"])]
        # : The function in machine code: None after a call, else an int (see
        # ``codegen.llvm.wrapper``).
        self.fast: Callable[..., int | None] = _fastcall(library[f"{name}_call"], name, kept)
        #: The same from dictionaries of arrays (see ``named_call``).
        self.fast_named: Callable[..., Any] = _fastcall(library[f"{name}_named"], name, kept)

    def _fill_state(self, address: int) -> list[object]:
        """Writes what only this process knows into the wrapper's state; returns what must be kept
        alive.
        """
        self._first = self._arenas.take()
        dtypes = [NUMPY_DTYPE[kind] for kind in wrapper.kinds(self.signature.ports)]
        names = [sys.intern(port.name) for port in self.signature.ports]
        fields = {
            "ndarray": id(np.ndarray),
            "none": id(None),
            "arena": self._first,
            "threads": self.threads,
            "dict": id(dict),
            "new_array": _new_array(),
        }
        words = [fields[field] for field in wrapper.FIELDS]
        words += [id(item) for item in (*dtypes, *names)]
        data = struct.pack(f"{len(words)}Q", *words)
        ctypes.memmove(address, data, len(data))
        return [*dtypes, *names]

    def named_call(self, params: object, inputs: object, seeds: object) -> Results | None:
        """Runs the program on dictionaries of arrays by name; makes the arrays of the ``out``
        ports.

        Returns (loss or None, outputs and states, cotangents, tangents), or None if something does
        not fit: then nothing was run, and ``call_checked`` says what is wrong or does it beside
        other callers.
        """
        found = self.fast_named(params, inputs, seeds)
        return cast(Results, found) if type(found) is tuple else None

    def call(self, arrays: Sequence[Array]) -> None:
        """Runs the program on ``arrays``, writing to those of the ``out`` and ``inout`` ports.

        Raises:
            DiagnosticError: GC0552, GC0555 or GC0557, naming every array that does not fit.
        """
        if self.fast(*arrays) is not None:
            self.call_checked(arrays)

    def call_checked(self, arrays: Sequence[Array]) -> None:
        """The same through ctypes: slower, says what is wrong, and runs beside other callers."""
        found = self.explain(arrays)
        if found:
            raise DiagnosticError(found)
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        arena = self._arenas.take()
        try:
            self._entry(pointers, arena, self.threads)
        finally:
            self._arenas.give(arena)

    def explain(self, arrays: Sequence[object]) -> list[Diagnostic]:
        """What is wrong with ``arrays``; empty if they fit."""
        ports = self.signature.ports
        if len(arrays) != len(ports):
            message = f"{self.signature.name} takes {len(ports)} arrays; {len(arrays)} were given"
            return [error("GC0553", message, None)]
        found = []
        for port, array in zip(ports, arrays, strict=True):
            problem = _misfit(port, array)
            if problem is not None:
                found.append(problem)
        return found or _shared(ports, [cast(Array, array) for array in arrays])

    @property
    def arena_bytes(self) -> int:
        """Bytes per call in flight beyond its arrays."""
        return self.signature.arena_bytes

    @property
    def measured_bytes(self) -> int:
        """Bytes that one call touches, from the allocation made: the arena and the arrays."""
        return self._arenas.nbytes(self._first) + self.signature.port_bytes

    @property
    def arenas(self) -> int:
        """How many arenas exist: the most calls that were ever in flight together."""
        return self._arenas.count


def _misfit(port: Port, array: object) -> Diagnostic | None:
    """What keeps ``array`` from being handed to ``port`` as it is."""
    if not isinstance(array, np.ndarray):
        message = f"`{port.name}` is {type(array).__name__}; the program expects a numpy array"
        return error("GC0551", message, None)
    wanted = NUMPY_DTYPE[port.dtype]
    if array.dtype != wanted or not array.dtype.isnative:
        message = f"`{port.name}` is {array.dtype}; the program expects {port.dtype}"
        return error("GC0552", message, None, help=f"convert it: .astype(numpy.{wanted.name})")
    if array.shape != port.shape:
        message = (
            f"`{port.name}` has shape {list(array.shape)}; the program expects {list(port.shape)}"
        )
        return error("GC0555", message, None)
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        message = f"`{port.name}` is not a dense, aligned array in row-major order"
        return error("GC0557", message, None, help="numpy.ascontiguousarray makes one")
    if port.direction != "in" and not flags.writeable:
        return error("GC0557", f"`{port.name}` is read-only; the program writes to it", None)
    return None


def _shared(ports: Sequence[Port], arrays: Sequence[Array]) -> list[Diagnostic]:
    """Arrays that share memory with one that the program updates: it would read and write either
    of them while it takes them to be two.
    """
    begins = [(array.ctypes.data, number) for number, array in enumerate(arrays) if array.nbytes]
    found: list[Diagnostic] = []
    reached, last = 0, 0  # how far an array with this number reaches
    for begin, number in sorted(begins):
        one, other = sorted((number, last))
        if begin < reached and "inout" in (ports[one].direction, ports[other].direction):
            is_same = arrays[one] is arrays[other]
            found.append(_sharing(ports[one], ports[other], is_same))
        if begin + arrays[number].nbytes > reached:
            reached, last = begin + arrays[number].nbytes, number
    return found


def _sharing(one: Port, other: Port, is_same: bool) -> Diagnostic:
    how = "are the same array" if is_same else "share memory"
    updated = [f"`{port.name}`" for port in (one, other) if port.direction == "inout"]
    message = f"`{one.name}` and `{other.name}` {how}; the program updates {' and '.join(updated)}"
    help = f"give one of them memory of its own, e.g. a copy of `{other.name}`: .copy()"
    return error("GC0557", message, None, help=help)


# ---- compiling ----------------------------------------------------------------------------------


def compile_plan(
    plan: Plan,
    *,
    threads: int,
    isa: str | None = None,
    cache: ObjectCache | bool = True,
    key: str | None = None,
    level: int = 0,
) -> NativeFunction:
    """Machine code for ``plan``, from the cache if it was made before.

    A Plan without a target is completed for this one (``target_for``); the function's ``plan`` is
    the complete one. ``isa`` is a name of ``codegen.llvm.isa.available``, None for all that the
    host has. ``key`` names the cache entry (``load_native`` finds it again without a Plan); by
    default it follows from the generated code.

    Raises:
        PlanError: if the Plan is not placed or contradicts itself.
    """
    from gradc.codegen.llvm import driver  # a warm start needs no code generation

    if plan.name != (name := inner_name(plan.name)):
        plan = replace(plan, name=name)
    target = select(isa or "native")
    if not plan.threads:
        from gradc.passes.place.scratch import place_scratch

        plan = place_scratch(plan, target_for(target, threads), scratch_for(target, threads))
    program = driver.generate(plan, target)
    release = driver.estimate(plan, target.costs) > RELEASE_ABOVE
    text = program.text + wrapper.wrapper_text(
        plan.name, plan.ports, ndarray_layout(), named_ports(plan.ports), release
    )
    signature = Signature(
        plan.name,
        plan.ports,
        plan.arena_bytes,
        plan.threads,
        program.launches,
        program.kernels,
        target.name,
    )
    header = signature.to_json()
    store = cache_of(cache)
    if key is None:
        parts = (text, json.dumps(header, sort_keys=True), str(level))
        key = make_key(*environment(store), *parts)
    entry = store.get(key) if store is not None else None
    if entry is None:
        code = jit.compile_object(text, target, level=level)
        if store is not None:
            store.put(key, header, code)
    else:
        code = entry.code
    function = NativeFunction(signature, code, threads, plan, store)
    function.llvm_text = text
    function.assembly = functools.partial(jit.assembly, text, target, level=level)
    return function


def target_for(isa: Isa, threads: int) -> Target:
    """What programs are compiled for: code for ``isa``, run by up to ``threads`` threads."""
    return isa.target(max(1, min(threads, pool.MAX_WORKERS + 1)))


def scratch_for(isa: Isa, threads: int) -> Scratch:
    """The scratch that code for ``isa`` needs, run by up to ``threads`` threads."""
    from gradc.codegen.llvm.driver import scratch_bytes

    count = target_for(isa, threads).threads
    return functools.cache(lambda kernel: scratch_bytes(kernel, isa, count))


def load_native(
    key: str, *, threads: int, cache: ObjectCache | bool = True
) -> NativeFunction | None:
    """The function stored under ``key``, without its Plan; None if it must be compiled."""
    store = cache_of(cache)
    entry = store.get(key) if store is not None else None
    if entry is None:
        return None
    try:
        signature = Signature.from_json(entry.header)
    except (KeyError, TypeError, ValueError):
        return None
    return NativeFunction(signature, entry.code, threads, None, store)


def native_key(*parts: str | bytes, cache: ObjectCache | bool = True) -> str:
    """A cache key for ``compile_plan``: digest of ``parts``, gradc, LLVM, Python, NumPy and the
    processor.
    """
    return make_key(*environment(cache_of(cache)), np.__version__, *parts)


def cache_of(cache: ObjectCache | bool) -> ObjectCache | None:
    if isinstance(cache, ObjectCache):
        return cache
    return default_cache() if cache else None


@functools.cache
def default_cache() -> ObjectCache:
    """The user's cache."""
    return ObjectCache()


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
def ndarray_layout() -> wrapper.Layout:
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
    return wrapper.Layout(
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


_FASTCALL = 0x80


class _Keeper:
    """``self`` of a machine-code function: keeps all it refers to in memory."""

    def __init__(self, definition: _MethodDef, kept: list[object]) -> None:
        self.definition = definition
        self.kept = kept


def _fastcall(address: int, name: str, kept: list[object]) -> Callable[..., Any]:
    """A Python callable for the METH_FASTCALL function at ``address``."""
    definition = _MethodDef(name.encode(), address, _FASTCALL, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make.restype = ctypes.py_object
    keeper = _Keeper(definition, kept)
    return cast("Callable[..., Any]", make(ctypes.addressof(definition), keeper, None))


_NEW_FROM_DESCR = 94  # its number in NumPy's C interface, which never changes


@functools.cache
def _new_array() -> int:
    """The address of NumPy's ``PyArray_NewFromDescr``."""
    package = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    table = getattr(import_module(f"{package}._multiarray_umath"), "_ARRAY_API")  # noqa: B009
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer.restype = ctypes.c_void_p
    size = ctypes.sizeof(ctypes.c_void_p)
    entry = ctypes.c_size_t.from_address(pointer(table, None) + _NEW_FROM_DESCR * size)
    return int(entry.value)


# ---- the thread pool
# ------------------------------------------------------------------------------


_pools: list[jit.Library] = []  # one, once it is loaded
_pool_lock = threading.Lock()


def thread_pool(store: ObjectCache | None) -> jit.Library:
    """The process's thread pool. It starts its threads when they are first used."""
    with _pool_lock:
        if not _pools:
            _pools.append(_load_pool(store))
        return _pools[0]


def _load_pool(store: ObjectCache | None) -> jit.Library:
    machine = environment(store)
    triple = machine[3]
    text = f'target triple = "{triple}"\n' + pool.pool_text(triple.split("-")[0], "linux" in triple)
    key = make_key(*machine, text)
    entry = store.get(key) if store is not None else None
    code = jit.compile_object(text, host()) if entry is None else entry.code
    if entry is None and store is not None:
        store.put(key, {}, code)
    names = ["gradc_parallel"]
    if "@gradc_pool_stop" in text:
        names += ["gradc_pool_stop", "gradc_pool_forget", "gradc_pool_workers"]
    library = jit.Library(code, names, {})
    if len(names) > 1:
        plain = ctypes.CFUNCTYPE(None)
        os.register_at_fork(after_in_child=plain(library["gradc_pool_forget"]))
        atexit.register(plain(library["gradc_pool_stop"]))
    return library


def pool_workers() -> int:
    """How many worker threads run."""
    try:
        address = _pools[0]["gradc_pool_workers"]
    except LookupError:
        return 0
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())
