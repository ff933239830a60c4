"""``Backend``: what the rest of the house knows of a kind of machine code.

A backend says what it compiles for (``target``), what its kernels need and take (``scratch``,
``estimate``), writes a Plan as code (``emit``) and makes code callable (``load``). ``Loaded`` is
called with one array per port (``launch`` and its faster ways). ``runtime`` imports this module
only; ``backend`` finds the implementation by name when it is first asked for.

CONTRIBUTING has the recipe; ``loops_numpy`` is the smallest one there is.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.estimated import CodeEstimate
from gradc.codegen.measured import Clocked, Limits
from gradc.codegen.texts import Texts
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.loop.kernel import Kernel
from gradc.ir.loop.verbs import stored_dtype
from gradc.ir.plan.plan import Plan, Port
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType, Role

Array = NDArray[Any]
# Loss, outputs and states, cotangents, tangents of one call.
Results: TypeAlias = "tuple[Array | None, dict[str, Array], dict[str, Array], dict[str, Array]]"

# Names that users write, and where each backend stands.
MODULES = {
    "cpu": "gradc.codegen.llvm.backend",
    "reference": "gradc.codegen.loops_numpy.backend",
    "cuda": "gradc.codegen.cuda.backend",
}
# Those of which a machine may have several: `cuda:1` is the second.
NUMBERED = ("cuda",)

# What ``fast`` answers where the program has run and refused its step.
STOPPED = -4


def stop_port(ports: Sequence[Port]) -> int | None:
    """The number of the port that says whether the step was refused; None if none does."""
    return next((n for n, port in enumerate(ports) if port.role is Role.STOP), None)


# Which part of ``Results`` has what a role names: number 0 is a single array.
GROUP = {
    Role.LOSS: 0,
    Role.OUTPUT: 1,
    Role.STATE: 1,
    Role.COTANGENT: 2,
    Role.TANGENT: 3,
    Role.STOP: 3,
}


def last_group(ports: Sequence[Port]) -> int:
    """The last dictionary of ``Results`` that a call fills, which callers may give room for."""
    return max((1, *(GROUP.get(p.role, 1) for p in ports if p.direction == "out")))


class Stored(Protocol):
    """What a store keeps under a key."""

    @property
    def header(self) -> Mapping[str, Any]:
        """What is known of the code, as JSON."""

    @property
    def code(self) -> bytes:
        """The code."""


class Store(Protocol):
    """The object cache, as far as backends use it."""

    def key(self, *parts: str | bytes) -> str:
        """The key that ``parts`` determine."""

    def get(self, key: str) -> Stored | None:
        """What was put under ``key``; None if nothing sound is there."""

    def put(self, key: str, header: Mapping[str, Any], code: bytes) -> bool:
        """Keeps ``code``; False if it could not."""


# Fields of a Signature that JSON has words for.
_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": str,
    "arena_bytes": int,
    "threads": int,
    "launches": int,
    "kernels": int,
    "isa": str,
    "sent": int,
    "exchanges": str,
    "is_brief": bool,
}


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
    sent: int = 0  # bytes that one rank of several sends in a call
    exchanges: str = ""  # digest of what the ranks exchange, in order; empty where there is one
    is_brief: bool = False  # a call is over before giving the GIL up would pay

    @classmethod
    def of(cls, plan: Plan, threads: int, isa: str) -> Signature:
        """The signature of ``plan`` as code for ``isa``."""
        counts = (len(plan.launches), len({launch.kernel for launch in plan.launches}))
        told = "".join(
            f"{e.kind} {e.buffer.dtype}[{e.buffer.size}] {times}\n" for e, times in plan.exchanges()
        )
        exchanges = hashlib.sha256(told.encode()).hexdigest() if told else ""
        return cls(
            plan.name,
            plan.ports,
            plan.arena_bytes,
            threads,
            *counts,
            isa,
            plan.sent_bytes,
            exchanges,
        )

    @property
    def port_bytes(self) -> int:
        """Bytes of all arrays of a call."""
        return sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in self.ports)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a cache entry's header."""
        ports = [
            [p.name, p.role.value, list(p.shape), p.dtype.value, p.direction, p.tensor]
            for p in self.ports
        ]
        return {**{key: getattr(self, key) for key in _PLAIN}, "ports": ports}

    @staticmethod
    def from_json(header: Mapping[str, Any]) -> Signature:
        """Reads ``to_json``'s result back. Raises KeyError, TypeError or ValueError for anything
        else.
        """
        ports = tuple(
            Port(name, Role(role), tuple(shape), DType(dtype), direction, tensor)
            for name, role, shape, dtype, direction, tensor in header["ports"]
        )
        return Signature(ports=ports, **{key: kind(header[key]) for key, kind in _PLAIN.items()})


@dataclass(frozen=True, slots=True)
class Code:
    """A Plan as a backend writes it. ``text`` is what its code is made from and what names it in
    the cache; ``assemble`` makes the code, ``assembly`` shows it to people.
    """

    signature: Signature
    text: str
    assemble: Callable[[], bytes]
    assembly: Callable[[], str]


class Loaded(ABC):
    """A program that can be called: what all backends share.

    ``fast`` runs on one array per port and returns None, or an int if it did not run (an array does
    not fit, or another call is in flight); with one thing more behind them it does not run where
    what the program writes shares memory with another of them. ``fast_named`` takes dictionaries of
    arrays by name and returns a tuple, or anything else if it did not run; one dictionary more has
    the arrays of the ``last_group``. Both may answer ``STOPPED`` where the
    program ran and refused its step. A backend that has no faster ways has ``launch`` only.
    """

    plan: Plan | None = None
    llvm_text = ""
    object_bytes = b""
    assembly: Callable[[], str] = staticmethod(str)
    fast: Callable[..., int | None]
    fast_named: Callable[..., Any]

    def __init__(self, signature: Signature, threads: int) -> None:
        self.signature = signature
        self.threads = max(1, min(threads, signature.threads))
        self.fast = self._fast
        self.fast_named = _never

    @abstractmethod
    def launch(self, arrays: Sequence[Array]) -> None:
        """Runs the program on arrays that fit, writing to those of `out` and `inout` ports."""

    def launch_many(self, arrays: Sequence[Array], is_stacked: Sequence[bool], count: int) -> int:
        """Runs the program ``count`` times, or until it refuses a step; arrays that are stacked
        have a first axis of as many, one for every run. Returns how often it ran.
        """
        stop = stop_port(self.signature.ports)
        for n in range(count):
            pairs = zip(arrays, is_stacked, strict=True)
            # Views, of arrays without axes too.
            self.launch([a[n : n + 1].reshape(a.shape[1:]) if s else a for a, s in pairs])
            if stop is not None and arrays[stop][n]:
                return n + 1
        return count

    def _fast(self, *arrays: Array) -> int | None:
        if self.explain(arrays):
            return 0
        self.launch(arrays)
        return None

    def direct(
        self,
        slow: Callable[..., Any],
        finish: Callable[[Results], Any] | None,
        state: type | None = None,
        takes_seeds: bool = False,
    ) -> Callable[..., Any] | None:
        """``f(params, **inputs)``, in one piece; None where this backend has nothing faster. It is
        ``f(params, seeds, **inputs)`` where it ``takes_seeds``.

        The answer is what ``finish`` makes of a named call's, whose array of the loss it does not
        keep, or, for None, ``(loss, cotangents)``, the loss a scalar. With ``state`` the argument
        is an object of that type, whose attribute ``arrays`` are the parameters; it gets the
        outputs as ``metrics`` and is the second part of the answer. An input ``out`` that the
        program does not have is the dictionary of the ``last_group``. Whatever does not fit is
        handed to ``slow`` as it came.
        """
        return None

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
        if self.fast(*arrays) not in (None, STOPPED):
            self.call_checked(arrays)

    def call_checked(self, arrays: Sequence[Array]) -> None:
        """The same, slower: says what is wrong, and runs beside other callers."""
        found = self.explain(arrays)
        if found:
            raise DiagnosticError(found)
        self.launch(arrays)

    def explain(self, arrays: Sequence[object]) -> list[Diagnostic]:
        """What is wrong with ``arrays``; empty if they fit."""
        ports = self.signature.ports
        if len(arrays) != len(ports):
            message = f"{self.signature.name} takes {len(ports)} arrays; {len(arrays)} were given"
            return [error("GC0553", message, None)]
        pairs = zip(ports, arrays, strict=True)
        found = [p for port, array in pairs if (p := misfit(port, array)) is not None]
        if found:
            return found
        places = [cast(Array, array) for array in arrays]
        return sharing(ports, [(a.ctypes.data, a.nbytes) for a in places])

    @property
    def arena_bytes(self) -> int:
        """Bytes per call in flight beyond its arrays."""
        return self.signature.arena_bytes

    @property
    def measured_bytes(self) -> int:
        """Bytes that one call touches: the arena and the arrays."""
        return self.arena_bytes + self.signature.port_bytes


def _never(*_: object) -> None:
    """A fast way that never runs."""


def misfit(port: Port, array: object) -> Diagnostic | None:
    """What keeps ``array`` from being handed to ``port`` as it is."""
    if not isinstance(array, np.ndarray):
        message = f"`{port.name}` is {type(array).__name__}; the program expects a numpy array"
        return error("GC0551", message, None)
    wanted = stored_dtype(port.dtype)
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


def sharing(ports: Sequence[Port], extents: Sequence[tuple[int, int]]) -> list[Diagnostic]:
    """Arrays, given by address and bytes, that share memory with one that the program updates: it
    would read and write either of them while it takes them to be two.
    """
    begins = [(begin, number) for number, (begin, nbytes) in enumerate(extents) if nbytes]
    found: list[Diagnostic] = []
    reached, last = 0, 0  # how far an array with this number reaches
    for begin, number in sorted(begins):
        one, other = sorted((number, last))
        if begin < reached and "inout" in (ports[one].direction, ports[other].direction):
            found.append(_sharing(ports[one], ports[other], extents[one] == extents[other]))
        end = begin + extents[number][1]
        if end > reached:
            reached, last = end, number
    return found


def _sharing(one: Port, other: Port, is_same: bool) -> Diagnostic:
    how = "are the same array" if is_same else "share memory"
    updated = [f"`{port.name}`" for port in (one, other) if port.direction == "inout"]
    message = f"`{one.name}` and `{other.name}` {how}; the program updates {' and '.join(updated)}"
    help = f"give one of them memory of its own, e.g. a copy of `{other.name}`: .copy()"
    return error("GC0557", message, None, help=help)


class Backend(Protocol):
    """One kind of machine code."""

    def target(self, threads: int, isa: str | None = None) -> Target:
        """This machine, or one with the instruction set ``isa``, for launches of up to ``threads``
        threads. Raises DiagnosticError GC0577 if there is none of that name.
        """

    def scratch(self, kernel: Kernel, target: Target) -> int:
        """Bytes of scratch that one launch of ``kernel`` needs, all of its threads together."""

    def estimate(self, plan: Plan, target: Target) -> float:
        """Microseconds of one call by one thread, roughly."""

    def emit(self, plan: Plan, target: Target, level: int = 0) -> Code:
        """``plan``, complete, as code; ``level`` asks for the toolchain's own optimisation, 0 to 3.

        Raises:
            PlanError: if the Plan is not complete or contradicts itself.
        """

    def load(self, signature: Signature, code: bytes, threads: int, store: Store | None) -> Loaded:
        """Code that can be called with up to ``threads`` threads; ``store`` may hold what all
        programs share.
        """

    def environment(self, store: Store | None) -> tuple[str, ...]:
        """What code depends on besides its source: toolchain and processor."""

    def write(
        self, plans: Sequence[Plan], name: str, folder: Path, target: Target, **more: Any
    ) -> dict[str, Path]:
        """Files to be linked by others, by kind. Raises DiagnosticError where there are none."""

    def show(self, kind: str, plan: Plan, target: Target) -> str:
        """The code of ``plan`` for people, without what calls it: ``llvm``, ``asm``. Raises
        DiagnosticError GC0564 for a kind that this backend does not have.
        """

    def estimated(self) -> Callable[[Plan, Target], CodeEstimate] | None:
        """What compiles a complete Plan and reads from its machine code what is known of its time
        without the machine; None for code that is only of interest where it runs.
        """

    def texts(self) -> Callable[[Plan, Target], Texts] | None:
        """What gives the texts that the code of a complete Plan is made of, where these can be run
        as they are over other numbers than a machine's; None where they cannot.
        """

    def about(self) -> str:
        """This machine in words."""

    def beneath(self) -> str:
        """What a verification of the loop programs still takes on trust."""

    def identity(self) -> str:
        """What tells this machine from others on which the same code runs otherwise fast."""

    def precision(self, kernel: Kernel) -> str:
        """Which of the machine's peaks (``Limits.flops``) a kernel could reach."""

    def limits(self, threads: int, store: Store, room: int | None) -> Limits:
        """What ``threads`` threads of this machine, which has ``room`` bytes, can do at most:
        measured. Raises DiagnosticError GC0563 where nothing is.
        """

    def clocked(self, plan: Plan, threads: int, store: Store | None) -> Clocked:
        """``plan``, complete, as a program that keeps time. Raises DiagnosticError GC0563 where
        launches are not timed.
        """


def device_shape(value: object) -> tuple[int, ...] | None:
    """The shape of an array that says that it lies on a device of its own: what NumPy cannot read
    as it is. None for any other value.
    """
    if isinstance(value, np.ndarray):
        return None
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return tuple(map(int, interface["shape"]))
    ask = getattr(value, "__dlpack_device__", None)
    if ask is None or int(ask()[0]) != 2:  # kDLCUDA
        return None
    return tuple(map(int, getattr(value, "shape", ())))


def is_target(name: object) -> bool:
    """Whether ``name`` is a backend's, with the number of a device behind it or without."""
    if not isinstance(name, str):
        return False
    base, colon, number = name.partition(":")
    if not colon:
        return base in MODULES
    return base in NUMBERED and number.isdecimal() and len(number) < 4


@cache
def backend(name: str) -> Backend:
    """The backend that users call ``name``. Raises KeyError for another name."""
    base, _, number = name.partition(":")
    found = import_module(MODULES[base]).BACKEND
    return cast(Backend, found.at(int(number)) if number else found)
