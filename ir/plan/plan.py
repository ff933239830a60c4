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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import prod
from typing import ClassVar, Literal, TypeAlias, TypeVar

from gradc.ir.loop.kernel import Exchange, Kernel
from gradc.ir.plan.verify import verify_plan
from gradc.ir.tensor.core import DType, Role, Span

Answer = TypeVar("Answer")

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

    def renamed(self, names: Mapping[int, int]) -> Argument:
        """With another tensor, if its own is in ``names``."""
        number = names.get(self.tensor, self.tensor)
        if number == self.tensor:
            return self
        return Argument(number, self.offset, self.strides, self.parity)

    def reach(self, trips: Sequence[int]) -> tuple[int, int]:
        """The least and the greatest first element that it takes in Repeats of ``trips``."""
        low = high = self.offset
        for level, count in enumerate(trips):
            stride, parity = _at(self.strides, level), _at(self.parity, level)
            # Extremes lie at the first two and the last two trips.
            ends = {0, min(1, count - 1), max(0, count - 2), count - 1}
            reached = [c * stride + c % 2 * parity for c in sorted(ends)]
            low, high = low + min(reached), high + max(reached)
        return low, high


def _at(values: Sequence[int], level: int) -> int:
    return values[level] if level < len(values) else 0


@dataclass(frozen=True, slots=True)
class Launch:
    """Runs ``Plan.kernels[kernel]``; ``arguments`` match its bound buffers in order.

    ``scratch`` is an arena tensor whose bytes the launch may use as it likes, cut evenly among the
    threads that run it.
    """

    kernel: int
    arguments: tuple[Argument, ...]
    span: Span | None = None
    scope: str = ""
    replica: int = 0
    scratch: int | None = None
    depth = 0  # Repeats in it
    body: ClassVar[tuple[Step, ...]] = ()

    @property
    def launch(self) -> Launch:
        """Itself."""
        return self

    def case(self, launch: Callable[[Launch], Answer], _: Callable[[Repeat], Answer]) -> Answer:
        """What ``launch`` says of it."""
        return launch(self)

    def with_body(self, _: Callable[[tuple[Step, ...]], Iterable[Step]]) -> Launch:
        """Itself: it has none."""
        return self

    def repeats(self, _: int = 0) -> Iterator[tuple[Repeat, int]]:
        """It is no Repeat."""
        return iter(())

    @property
    def tensors(self) -> tuple[int, ...]:
        """The tensors that it names: arguments, then scratch."""
        scratch = () if self.scratch is None else (self.scratch,)
        return (*(argument.tensor for argument in self.arguments), *scratch)

    def walk(self, trips: tuple[int, ...] = ()) -> Iterator[tuple[Launch, tuple[int, ...]]]:
        """Itself, and the trips of the Repeats around it."""
        yield self, trips

    def map(
        self, change: Callable[[Launch], Launch | None], _: Callable[[int], int] | None = None
    ) -> Launch | None:
        """What ``change`` makes of it; None if nothing."""
        return change(self)

    def renamed(self, names: Mapping[int, int]) -> Launch:
        """With other tensors for those in ``names``."""
        return self.on(tuple([a.renamed(names) for a in self.arguments]), self.scratch)

    def on(self, arguments: tuple[Argument, ...], scratch: int | None) -> Launch:
        """Of other arguments."""
        if arguments == self.arguments and scratch == self.scratch:
            return self
        return Launch(self.kernel, arguments, self.span, self.scope, self.replica, scratch)

    def cells(self) -> Iterator[int]:
        """It counts nothing."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Repeat:
    """A rolled loop (one ``scan``)."""

    trips: int
    body: tuple[Step, ...]
    counter_cell: int | None = None
    span: Span | None = None
    launch: ClassVar[None] = None

    def case(self, _: Callable[[Launch], Answer], repeat: Callable[[Repeat], Answer]) -> Answer:
        """What ``repeat`` says of it."""
        return repeat(self)

    def with_body(self, change: Callable[[tuple[Step, ...]], Iterable[Step]]) -> Repeat:
        """With what ``change`` makes of its body."""
        return replace(self, body=tuple(change(self.body)))

    def repeats(self, depth: int = 0) -> Iterator[tuple[Repeat, int]]:
        """Itself and the Repeats in it, and how many Repeats are around each."""
        yield self, depth
        for step in self.body:
            yield from step.repeats(depth + 1)

    @property
    def depth(self) -> int:
        """How deep Repeats are nested, itself included."""
        return 1 + max((step.depth for step in self.body), default=0)

    @property
    def tensors(self) -> tuple[int, ...]:
        """The tensors that it names itself: its counter."""
        return () if self.counter_cell is None else (self.counter_cell,)

    def walk(self, trips: tuple[int, ...] = ()) -> Iterator[tuple[Launch, tuple[int, ...]]]:
        """Every launch in it, in order, each once, and the trips of the Repeats around it."""
        for step in self.body:
            yield from step.walk((*trips, self.trips))

    def map(
        self, change: Callable[[Launch], Launch | None], cell: Callable[[int], int] | None = None
    ) -> Repeat | None:
        """With every launch as ``change`` makes it, without those that it makes nothing of, and
        every counter as ``cell`` has it.
        """
        body = tuple(step for old in self.body if (step := old.map(change, cell)) is not None)
        changed = replace(self, body=body)
        if cell is None or self.counter_cell is None:
            return changed
        return replace(changed, counter_cell=cell(self.counter_cell))

    def cells(self) -> Iterator[int]:
        """The counters of it and of the Repeats in it."""
        yield from self.tensors
        for step in self.body:
            yield from step.cells()


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
    def launches(self) -> tuple[Launch, ...]:
        """Every launch in order; those in a Repeat once."""
        return tuple(launch for launch, _ in self.walk())

    @property
    def depth(self) -> int:
        """How deep Repeats are nested."""
        return max((step.depth for step in self.steps), default=0)

    @property
    def touched(self) -> set[int]:
        """The tensors that ports, launches and counters name."""
        found = {port.tensor for port in self.ports}
        for step in self.steps:
            found.update(step.cells())
        return found.union(*(launch.tensors for launch in self.launches))

    def walk(self) -> Iterator[tuple[Launch, tuple[int, ...]]]:
        """Every launch in order, each once, and the trips of the Repeats around it."""
        for step in self.steps:
            yield from step.walk()

    def map(
        self, change: Callable[[Launch], Launch | None], cell: Callable[[int], int] | None = None
    ) -> Plan:
        """With every launch as ``change`` makes it, without those that it makes nothing of, and
        every counter as ``cell`` has it.
        """
        steps = (step.map(change, cell) for step in self.steps)
        return replace(self, steps=tuple(step for step in steps if step is not None))

    def chain(self, tensor: int) -> Iterator[int]:
        """``tensor`` and the tensors it is a view of, up to its root."""
        yield tensor
        while (root := self.tensors[tensor].root) is not None:
            tensor = root
            yield tensor

    def root(self, tensor: int) -> int:
        """The tensor whose bytes ``tensor`` shares; itself if it is nobody's view."""
        while (root := self.tensors[tensor].root) is not None:
            tensor = root
        return tensor

    def place(self, tensor: int) -> tuple[int, int]:
        """The root of ``tensor``, and the bytes from the root's start at which it begins."""
        *views, root = self.chain(tensor)
        return root, sum(self.tensors[view].root_offset for view in views)

    def verify(self) -> None:
        """Raises PlanError, naming the tensor or the launch, unless the Plan is complete and every
        address stays inside its storage: what a backend asks before it makes code.
        """
        verify_plan(self, ALIGNMENT)

    def total(self, each: Sequence[float]) -> float:
        """The sum over all launches, as often as they run; ``each`` is a figure per kernel."""
        return sum(each[launch.kernel] * prod(trips) for launch, trips in self.walk())

    def exchanges(self) -> Iterator[tuple[Exchange, int]]:
        """What the ranks exchange, in the order in which it begins, and how often in a row its
        Repeats run each.
        """
        for launch, trips in self.walk():
            for statement in self.kernels[launch.kernel].body:
                if isinstance(statement, Exchange) and not statement.ends:
                    yield statement, prod(trips)

    @property
    def sent_bytes(self) -> int:
        """Bytes that one rank sends to others in a call."""
        return sum(exchange.sent * times for exchange, times in self.exchanges())

    @property
    def peak_bytes(self) -> int:
        """Bytes a call touches: entry arguments plus the arena."""
        return self.arena_bytes + sum(self.tensors[port.tensor].nbytes for port in self.ports)
