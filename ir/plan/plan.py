"""The Plan: a program as data. Kernels, tensors, ordered steps, entry signature; every backend
executes this.

``to_loops`` makes a Plan whose arena tensors have no offset (``Tensor.offset is None``,
``arena_bytes == 0``); ``place`` orders the steps, shares storage and sets offsets; ``scratch`` adds
what a target needs besides: packed factors of matrix products and rows of its threads, one tensor
per launch (``Launch.scratch``), alive during that launch. After that the Plan is complete: whatever
a call touches is an argument of the entry or lies in ``[0, arena_bytes)``.

Steps run in order. ``Repeat`` runs its body ``trips`` times, innermost counters last; an argument's
address is ``offset + sum(strides[l] * counter[l])`` elements into its tensor, one stride per
enclosing Repeat (outer first), with ``parity`` added as ``parity[l] * (counter[l] % 2)`` for
double-buffered carries. ``counter_cell`` is an i64[1] arena tensor that the executor sets to the
counter before each trip, for kernels that need it as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

from gradc.ir.loop.kernel import Kernel
from gradc.ir.tensor.core import DType, Role, Span

ALIGNMENT = 64  # bytes; every arena tensor starts on a cache line


@dataclass(frozen=True, slots=True)
class Tensor:
    """Dense row-major storage. ``space`` says whose: an entry argument (``argument`` is its number)
    or the arena.

    ``root`` names another tensor of which this one is a view (same bytes from ``root_offset``
    elements on).
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    space: Literal["argument", "arena"]
    argument: int | None = None
    offset: int | None = None  # bytes into the arena
    root: int | None = None  # index of the tensor this one aliases (in-place reuse or view)
    root_offset: int = 0  # bytes from the root's start
    span: Span | None = None
    scope: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        total = 1
        for dim in self.shape:
            total *= dim
        return total

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Argument:
    """Where one kernel buffer points: ``tensor`` plus ``offset`` elements plus a stride per
    enclosing Repeat.
    """

    tensor: int
    offset: int = 0
    strides: tuple[int, ...] = ()
    parity: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """Runs ``Plan.kernels[kernel]``; ``arguments`` match its non-scratch buffers in order.

    ``scratch`` is an arena tensor whose bytes the launch may use as it likes, cut evenly among the
    threads that run it.
    """

    kernel: int
    arguments: tuple[Argument, ...]
    span: Span | None = None
    scope: str = ""
    replica: int = 0
    scratch: int | None = None


@dataclass(frozen=True, slots=True)
class Repeat:
    """A rolled loop (one ``scan``)."""

    trips: int
    body: tuple[Step, ...]
    counter_cell: int | None = None
    span: Span | None = None


Step: TypeAlias = Launch | Repeat


@dataclass(frozen=True, slots=True)
class Port:
    """One entry argument: what the caller hands in (`in`), receives (`out`), or has updated in
    place (`inout`).
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: DType
    direction: Literal["in", "out", "inout"]
    tensor: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete program. Entry argument number i is ``ports[i]``; the arena is one aligned block
    of the caller's.

    ``threads`` is how many threads the scratch is for; 0 as long as no target has been chosen and
    scratch is not placed.
    """

    name: str
    ports: tuple[Port, ...]
    tensors: tuple[Tensor, ...]
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    arena_bytes: int = 0
    threads: int = 0

    def __repr__(self) -> str:
        sizes = f"{len(self.ports)} ports, {len(self.tensors)} tensors, {len(self.kernels)} kernels"
        return f"<plan {self.name}: {sizes}, {len(self.steps)} steps, peak {self.peak_bytes} bytes>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head = "<tr><th>port</th><th>direction</th><th>type</th><th>shape</th></tr>"
        rows = "".join(
            f"<tr><td>{escape(p.name)}</td><td>{p.direction}</td><td>{p.dtype.value}</td>"
            f"<td>{list(p.shape)}</td></tr>"
            for p in self.ports
        )
        return f"<div><code>{escape(repr(self))}</code><table>{head}{rows}</table></div>"

    @property
    def peak_bytes(self) -> int:
        """Bytes a call touches: entry arguments plus the arena."""
        return self.arena_bytes + sum(self.tensors[port.tensor].nbytes for port in self.ports)
