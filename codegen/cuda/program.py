"""``Program``: kernel texts and the order of their launches, as data; what the simulator runs and
the runner makes a graph of.

A ``Text`` is source in the vocabulary of ``codegen.cuda.verbs``; a ``Launch`` binds its pointers to
places: bytes in the arena or in the array of a port. Steps run in order, each after all that stand
before it. ``Program.unrolled`` gives them one by one with every address resolved.

Invariants: a Program is a function of its Plan and needs nothing else; ``to_json`` carries no
source, so that what is read back from a file (``from_json``) can be launched as machine code and
never run as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from gradc.codegen.backend import Signature
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_SHARED
from gradc.codegen.exchange import KINDS

Access = Literal["read", "write", "update"]
Space = Literal["port", "arena"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A pointer that a text takes: to ``size`` elements of a memory type (``verbs``)."""

    name: str
    dtype: str
    access: Access
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes that it may touch."""
        return self.size * MEMORY_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Text:
    """A kernel: ``source`` defines the function ``name`` after the functions that it calls.

    ``threads`` is the size of its blocks, ``shared_bytes`` what a block has of shared memory: all
    of it dynamic where it is more than a text may have of static one. ``source`` is empty where
    only the machine code is at hand.
    """

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    threads: int
    shared_bytes: int = 0
    functions: tuple[str, ...] = ()  # the functions that stand before it
    together: int = 1  # blocks that a multiprocessor is to have registers for at once
    # The number of the kernel in its Plan whose text, or part of it, this is.
    kernel: int = field(default=-1, compare=False)

    @property
    def dynamic_bytes(self) -> int:
        """Dynamic shared memory that a launch gives every block."""
        return self.shared_bytes if self.shared_bytes > MOST_SHARED else 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pointer points: ``offset`` bytes into the arena or the array of port ``number``, plus
    a stride per enclosing Repeat, and ``parity`` times the counter modulo 2.
    """

    space: Space
    number: int
    offset: int
    strides: tuple[int, ...] = ()
    parity: tuple[int, ...] = ()

    def at(self, counters: Sequence[int]) -> int:
        """The bytes from the start of its space at these counters, outer first."""
        total = self.offset
        for level, counter in enumerate(counters):
            if level < len(self.strides):
                total += self.strides[level] * counter
            if level < len(self.parity):
                total += self.parity[level] * (counter % 2)
        return total


@dataclass(frozen=True, slots=True)
class Launch:
    """Runs ``Program.texts[text]`` on ``grid`` blocks; ``arguments`` match its parameters."""

    text: int
    grid: int
    arguments: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Runs ``body`` ``trips`` times; before each trip the i64 at ``counter``, if there is one,
    becomes the trip's number.
    """

    trips: int
    body: tuple[Step, ...]
    counter: Place | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """The ``nbytes`` at ``place``, in ``ranks`` equal parts, begin to become what the ranks have
    for this one (``codegen.exchange``), or, if ``kind`` is ``await``, have become that.
    """

    kind: str
    ranks: int
    place: Place
    nbytes: int


Step: TypeAlias = Launch | Repeat | Exchange


@dataclass(frozen=True, slots=True)
class Resolved:
    """One launch of a run: ``places`` are (space, number, bytes)."""

    launch: Launch
    places: tuple[tuple[Space, int, int], ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """The i64 at a place becomes ``value``."""

    place: tuple[Space, int, int]
    value: int


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One exchange of a run, or its end."""

    exchange: Exchange
    place: tuple[Space, int, int]


@dataclass(frozen=True, slots=True)
class Program:
    """Everything that a call does. Arguments are one array per port of ``signature``, in order."""

    texts: tuple[Text, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    signature: Signature

    @property
    def name(self) -> str:
        return self.signature.name

    def unrolled(self) -> Iterator[Resolved | Counted | Exchanged]:
        """What a run does, one by one in order."""
        return _unrolled(self.steps, ())

    def to_json(self) -> dict[str, Any]:
        """The manifest: all but the sources."""
        texts = [
            {
                "name": t.name,
                "parameters": [[p.name, p.dtype, p.access, p.size] for p in t.parameters],
                "threads": t.threads,
                "shared_bytes": t.shared_bytes,
            }
            for t in self.texts
        ]
        return {
            "signature": self.signature.to_json(),
            "arena_bytes": self.arena_bytes,
            "texts": texts,
            "steps": [_step_to_json(step) for step in self.steps],
        }

    @staticmethod
    def from_json(manifest: Mapping[str, Any]) -> Program:
        """Reads ``to_json``'s result back, without sources. Raises KeyError, TypeError or
        ValueError for anything else.
        """
        texts = tuple(_text_from_json(text) for text in manifest["texts"])
        signature = Signature.from_json(manifest["signature"])
        steps = tuple(_step_from_json(step) for step in manifest["steps"])
        program = Program(texts, steps, int(manifest["arena_bytes"]), signature)
        program.check()
        return program

    def check(self) -> None:
        """Raises ValueError if a launch does not fit its text, or reaches out of its space."""
        ports = self.signature.ports
        room: dict[tuple[str, int], int] = {("arena", 0): self.arena_bytes}
        for number, port in enumerate(ports):
            size = 1
            for extent in port.shape:
                size *= extent
            room["port", number] = size * port.dtype.itemsize
        for step in self.steps:
            _check(step, self.texts, room, ())


def _unrolled(
    steps: Sequence[Step], counters: tuple[int, ...]
) -> Iterator[Resolved | Counted | Exchanged]:
    for step in steps:
        if isinstance(step, Exchange):
            place = step.place
            yield Exchanged(step, (place.space, place.number, place.at(counters)))
            continue
        if isinstance(step, Launch):
            places = tuple((a.space, a.number, a.at(counters)) for a in step.arguments)
            yield Resolved(step, places)
            continue
        for trip in range(step.trips):
            if step.counter is not None:
                cell = step.counter
                yield Counted((cell.space, cell.number, cell.at(counters)), trip)
            yield from _unrolled(step.body, (*counters, trip))


def _check(
    step: Step, texts: Sequence[Text], room: Mapping[tuple[str, int], int], trips: tuple[int, ...]
) -> None:
    if isinstance(step, Repeat):
        if step.counter is not None:
            _inside(step.counter, 8, room, trips, "a counter")
        for inner in step.body:
            _check(inner, texts, room, (*trips, step.trips))
        return
    if isinstance(step, Exchange):
        if step.kind not in KINDS or step.ranks < 2 or step.nbytes % step.ranks:
            raise ValueError(f"{step.kind} of {step.nbytes} bytes between {step.ranks} ranks")
        _inside(step.place, step.nbytes, room, trips, step.kind)
        return
    if not 0 <= step.text < len(texts):
        raise ValueError(f"a launch of text {step.text} of {len(texts)}")
    text = texts[step.text]
    if len(step.arguments) != len(text.parameters) or step.grid < 1:
        raise ValueError(f"a launch does not fit {text.name}")
    for place, parameter in zip(step.arguments, text.parameters, strict=True):
        _inside(place, parameter.nbytes, room, trips, f"{text.name}: {parameter.name}")


def _inside(
    place: Place,
    nbytes: int,
    room: Mapping[tuple[str, int], int],
    trips: tuple[int, ...],
    what: str,
) -> None:
    space = room.get((place.space, place.number))
    low = high = place.offset
    for level, count in enumerate(trips):
        stride = place.strides[level] if level < len(place.strides) else 0
        parity = place.parity[level] if level < len(place.parity) else 0
        # Extremes lie at the first two and the last two trips.
        ends = sorted({0, min(1, count - 1), max(0, count - 2), count - 1})
        reached = [c * stride + c % 2 * parity for c in ends]
        low, high = low + min(reached), high + max(reached)
    if space is None or low < 0 or high + nbytes > space:
        raise ValueError(f"{what} reaches out of {place.space} {place.number}")


def _place_to_json(place: Place) -> list[Any]:
    return [place.space, place.number, place.offset, list(place.strides), list(place.parity)]


def _place_from_json(given: Sequence[Any]) -> Place:
    space, number, offset, strides, parity = given
    if space not in ("port", "arena"):
        raise ValueError(f"no space {space!r}")
    each = tuple(map(int, strides)), tuple(map(int, parity))
    return Place(cast(Space, space), int(number), int(offset), *each)


def _step_to_json(step: Step) -> dict[str, Any]:
    if isinstance(step, Launch):
        places = [_place_to_json(place) for place in step.arguments]
        return {"text": step.text, "grid": step.grid, "arguments": places}
    if isinstance(step, Exchange):
        place = _place_to_json(step.place)
        return {"kind": step.kind, "ranks": step.ranks, "place": place, "nbytes": step.nbytes}
    cell = None if step.counter is None else _place_to_json(step.counter)
    return {"trips": step.trips, "counter": cell, "body": [_step_to_json(s) for s in step.body]}


def _step_from_json(given: Mapping[str, Any]) -> Step:
    if "trips" in given:
        cell = None if given["counter"] is None else _place_from_json(given["counter"])
        return Repeat(int(given["trips"]), tuple(map(_step_from_json, given["body"])), cell)
    if "kind" in given:
        sizes = int(given["ranks"]), _place_from_json(given["place"]), int(given["nbytes"])
        return Exchange(str(given["kind"]), *sizes)
    places = tuple(map(_place_from_json, given["arguments"]))
    return Launch(int(given["text"]), int(given["grid"]), places)


def _text_from_json(given: Mapping[str, Any]) -> Text:
    parameters = []
    for name, dtype, access, size in given["parameters"]:
        if dtype not in MEMORY_BYTES or access not in ("read", "write", "update"):
            raise ValueError(f"no parameter {dtype!r} {access!r}")
        parameters.append(Parameter(str(name), dtype, cast(Access, access), int(size)))
    threads, shared = int(given["threads"]), int(given["shared_bytes"])
    return Text(str(given["name"]), "", tuple(parameters), threads, shared)


def print_program(program: Program) -> str:
    """The program for people: its launches as comments, then every text."""
    parts = [_launches(program.steps, program.texts, "# ")]
    for text in program.texts:
        says = [f"{p.name}: {p.access} {p.dtype}[{p.size}]" for p in text.parameters]
        head = f"# {text.name}: {text.threads} threads, {text.shared_bytes} bytes shared"
        parts.append("\n".join([head, *(f"#   {line}" for line in says), text.source.rstrip()]))
    head = f"# {program.name}: arena of {program.arena_bytes} bytes\n"
    return head + "\n\n".join(parts) + "\n"


def _launches(steps: Sequence[Step], texts: Sequence[Text], indent: str) -> str:
    lines = []
    for step in steps:
        if isinstance(step, Launch):
            places = ", ".join(_says(place) for place in step.arguments)
            lines.append(f"{indent}{texts[step.text].name}[{step.grid}]({places})")
        elif isinstance(step, Exchange):
            what = f"{step.kind} {step.nbytes} bytes at {_says(step.place)}"
            lines.append(f"{indent}{what}, {step.ranks} ranks")
        else:
            cell = "" if step.counter is None else f", counter at {_says(step.counter)}"
            lines.append(f"{indent}repeat {step.trips}{cell}:")
            lines.append(_launches(step.body, texts, indent + "  "))
    return "\n".join(lines)


def _says(place: Place) -> str:
    where = "arena" if place.space == "arena" else f"port {place.number}"
    moves = "".join(
        f" + {stride} t{level}" for level, stride in enumerate(place.strides) if stride
    ) + "".join(f" + {flip} (t{n} & 1)" for n, flip in enumerate(place.parity) if flip)
    return f"{where} + {place.offset}{moves}"
