"""Programs of kernel texts run in the simulator: one launch after the other, every access checked.

``run_program`` is what a processor would do with a ``Program``: the same bits, or a
``SimulationError`` where the order of threads, blocks or bytes decides what is computed. ``Device``
keeps the memory between runs. Over other scalars than machine numbers memory holds a word per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.codegen import exchange
from gradc.codegen.cuda.program import Counted, Exchanged, Program, Resolved, Text
from gradc.codegen.cuda.simulate.lanes import Run
from gradc.codegen.cuda.simulate.memory import Pointer, Space, seen_only
from gradc.codegen.cuda.simulate.numbers import EXACT
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.simulate.steps import steps_of
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_THREADS
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array

_POISON = 0xFF
_MOST_LANES = 1 << 17  # that are run together


class Device:
    """Memory, the time that its launches have counted, and what they did: by text the most trips of
    every loop (by line; line 0 is the grid), and the operations that lanes took.

    ``mark`` is added to the lines that memory keeps of its stores.
    """

    def __init__(self, scalars: Scalars = EXACT) -> None:
        self.scalars = scalars
        self.time = 0
        self.mark = 0
        self.trips: dict[str, dict[int, int]] = {}
        self.operations = 0

    def space(self, name: str, words: Array, is_written: bool) -> Space:
        """Memory of the device: bytes, or words of the domain."""
        return Space(name, words, self.scalars, is_written)

    def launch(self, text: Text, grid: int, pointers: Sequence[Pointer]) -> None:
        """Runs ``text`` on ``grid`` blocks. Raises SimulationError, TextError."""
        if not 1 <= text.threads <= MOST_THREADS or grid < 1:
            raise SimulationError("launch", f"{grid} blocks of {text.threads} threads")
        names, steps = steps_of(text.source)
        if len(names) != len(pointers):
            raise SimulationError("launch", f"{text.name} takes {len(names)} pointers")
        for pointer in pointers:
            end = pointer.start + pointer.size * MEMORY_BYTES[pointer.dtype]
            if pointer.start < 0 or end > pointer.space.words.size:
                raise SimulationError("launch", f"{pointer.name} reaches out of its space")
            if pointer.start % MEMORY_BYTES[pointer.dtype]:
                raise SimulationError("alignment", f"{pointer.name} starts at {pointer.start}")
        known = seen_only(pointers)
        began = last = self.time + 1
        together = max(1, _MOST_LANES // text.threads)
        trips = self.trips.setdefault(text.name, {})
        trips[0] = max(trips.get(0, 0), grid)
        with np.errstate(all="ignore"):
            for first in range(0, grid, together):
                blocks = range(first, min(first + together, grid))
                shared, alone = text.shared_bytes, grid == 1
                run = Run(blocks, text.threads, self.scalars, began, shared, alone, self.mark)
                try:
                    steps(run, dict(zip(names, known, strict=True)))
                    run.finish()
                except SimulationError as fault:
                    said = str(fault).removeprefix(f"{fault.kind}: ")
                    self.time = max(last, run.last)  # later launches are later all the same
                    raise SimulationError(fault.kind, f"{text.name}: {said}") from None
                last = max(last, run.last)
                self.operations += run.operations
                for line, count in run.trips.items():
                    trips[line] = max(trips.get(line, 0), count)
        self.time = last


def run_program(program: Program, arrays: Sequence[Array]) -> int:
    """Runs ``program`` on one array per port, as memory holds them; those of `out` and `inout`
    ports are changed. Returns the number of launches. The arena starts as NaN bytes.

    Raises:
        SimulationError: a launch does what it must not.
    """
    device = Device()
    arena = device.space("arena", np.full(program.arena_bytes, _POISON, np.uint8), False)
    ports = []
    for port, array in zip(program.signature.ports, arrays, strict=True):
        words = np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
        ports.append(device.space(port.name, words, port.direction != "out"))
    count = execute(program, device, arena, ports)
    for port, array, space in zip(program.signature.ports, arrays, ports, strict=True):
        if port.direction != "in":
            array.reshape(-1)[:] = space.words.view(array.dtype)
    return count


def execute(program: Program, device: Device, arena: Space, ports: Sequence[Space]) -> int:
    """Every step of ``program`` in order; returns the number of launches."""
    count = 0

    def space(kind: str, number: int) -> Space:
        return arena if kind == "arena" else ports[number]

    for step in program.unrolled():
        if isinstance(step, Counted):
            kind, number, offset = step.place
            count_at(space(kind, number), offset, step.value)
            continue
        if isinstance(step, Exchanged):
            kind, number, offset = step.place
            exchange_at(space(kind, number), offset, step)
            continue
        assert isinstance(step, Resolved)
        text = program.texts[step.launch.text]
        pointers = [
            Pointer(p.name, space(kind, number), offset, p.dtype, p.size, p.access)
            for p, (kind, number, offset) in zip(text.parameters, step.places, strict=True)
        ]
        device.launch(text, step.launch.grid, pointers)
        count += 1
    return count


def count_at(space: Space, offset: int, value: int) -> None:
    """Sets a counter between launches."""
    space.store("i64", np.asarray([offset]), np.asarray([value], np.int64))
    space.shadow.written[offset] = True


def exchange_at(space: Space, offset: int, step: Exchanged) -> None:
    """Exchanges bytes with the ranks that this thread has joined, between launches."""
    if space.words.dtype != np.uint8:
        raise SimulationError("launch", "ranks exchange nothing but machine numbers")
    end = offset + step.exchange.nbytes
    exchange.run(step.exchange.kind, space.words[offset:end].reshape(step.exchange.ranks, -1))
    space.shadow.written[offset:end] = True


def text_result(text: Text, grid: int, arrays: Sequence[Array], scalars: Scalars = EXACT) -> Any:
    """Runs one text on flat arrays in memory's types, those that are written in place; for tests
    and proofs of single texts. Words of another domain are one per element.
    """
    device = Device(scalars)
    spaces = []
    for parameter, array in zip(text.parameters, arrays, strict=True):
        size = MEMORY_BYTES[parameter.dtype]
        if array.dtype == np.uint64:
            words = np.repeat(array, size)
        else:
            words = np.ascontiguousarray(array).view(np.uint8).copy()
        spaces.append(device.space(parameter.name, words, parameter.access != "write"))
    pointers = [
        Pointer(p.name, space, 0, p.dtype, p.size, p.access)
        for p, space in zip(text.parameters, spaces, strict=True)
    ]
    device.launch(text, grid, pointers)
    for parameter, array, space in zip(text.parameters, arrays, spaces, strict=True):
        if parameter.access != "read":
            size = MEMORY_BYTES[parameter.dtype]
            is_word = array.dtype == np.uint64
            array[...] = space.words[::size] if is_word else space.words.view(array.dtype)
    return device
