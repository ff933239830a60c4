"""A Program that is called: arrays of the host and of devices, states that stay on the device.

Arrays of the host are copied to the device and back, in the order in which the program needs them.
An array that lies on the device already is used where it is (``placed``). In calls by name, states
(ports that are updated in place) move to the device for good: the caller's dictionary has a
``DeviceArray`` in the place of each from then on, which NumPy reads as a copy. Where all inputs lie
on the device, results stay there too.

Invariants: the same bits whichever way; one call runs at a time, others wait.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from gradc.codegen.backend import STOPPED, Loaded, device_shape, misfit, sharing, stop_port
from gradc.codegen.cuda.runner.arrays import DeviceArray, view
from gradc.codegen.cuda.runner.device import Device, Event, Memory, Pinned
from gradc.codegen.cuda.runner.executable import Executable, Marked
from gradc.codegen.cuda.runner.placed import Placed
from gradc.codegen.cuda.toolchain.build import Built
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.loop.verbs import stored_dtype
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import Role

_INPUT, _SEED = 1, 2
_HOLDERS = {Role.INPUT: _INPUT, Role.SEED: _SEED}  # of the others: parameters and states
_PLACES = {Role.OUTPUT: 1, Role.STATE: 1, Role.COTANGENT: 2, Role.TANGENT: 3}


class CudaProgram(Loaded):
    """Machine code of a Program, loaded on a device."""

    def __init__(self, built: Built, device: Device) -> None:
        super().__init__(built.program.signature, 1)
        self.device = device
        self.built = built
        self.executable = Executable(built, device)
        self.fast_named = self._named
        self._ports = self.signature.ports
        self._rooms: list[Memory | None] = [None] * len(self._ports)
        self._lock = threading.Lock()
        self._stop = stop_port(self._ports)
        self._given = [n for n, port in enumerate(self._ports) if port.direction != "out"]
        counts = [0, 0, 0]
        for n in self._given:
            counts[_HOLDERS.get(self._ports[n].role, 0)] += 1
        self._counts = tuple(counts)

    # ---- by position

    def launch(self, arrays: Sequence[Any]) -> None:
        with self._lock:
            self.device.enter()
            self._run(arrays)
            self.device.wait()

    def plainly(self, arrays: Sequence[Any]) -> None:
        """A call without a graph, launch by launch."""
        with self._lock:
            self.device.enter()
            self._run(arrays, _unmarked)
            self.device.wait()

    def seconds(self, arrays: Sequence[Any], count: int) -> list[float]:
        """Seconds of ``count`` calls that follow each other, by the device's clock; what the host
        has is copied once before, and nothing after.
        """
        with self._lock:
            self.device.enter()
            placed = self._placed(arrays)
            placed.arrive()
            self.executable.run(placed.addresses)
            marks = [self.device.event() for _ in range(count + 1)]
            marks[0].set()
            for mark in marks[1:]:
                self.executable.run(placed.addresses)
                mark.set()
            self.device.wait()
            return [b.seconds_since(a) for a, b in pairwise(marks)]

    def timed(self, arrays: Sequence[Any], marked: Marked) -> None:
        """A call without a graph; ``marked`` gives the marks around each launch."""
        with self._lock:
            self.device.enter()
            self._run(arrays, marked)
            self.device.wait()

    def _run(self, arrays: Sequence[Any], marked: Marked | None = None) -> None:
        """One call in order of the stream; host arrays hold results once it is waited for."""
        placed = self._placed(arrays)
        placed.arrive()
        if marked is None:
            self.executable.run(placed.addresses)
        else:
            self.executable.run_plainly(placed.addresses, marked)
        placed.leave()

    def _placed(self, arrays: Sequence[Any], apart: Iterable[int] = ()) -> Placed:
        return Placed(self._ports, arrays, self.device, self._room, apart)

    def _room(self, number: int) -> int:
        room = self._rooms[number]
        if room is None:
            port = self._ports[number]
            room = self.device.take(prod(port.shape) * port.dtype.itemsize)
            self._rooms[number] = room
        return room.address

    def explain(self, arrays: Sequence[object]) -> list[Diagnostic]:
        """What is wrong with ``arrays``, which lie on the host or on this device."""
        ports = self._ports
        if len(arrays) != len(ports) or not any(map(_is_foreign, arrays)):
            return super().explain(arrays)
        found = [
            p for port, array in zip(ports, arrays, strict=True) if (p := self._fit(port, array))
        ]
        return found or self._sharing(self._ports, arrays)

    def _fit(self, port: Port, array: object) -> Diagnostic | None:
        if not _is_foreign(array):
            return misfit(port, array)
        try:
            seen = view(array, self.device)
        except ValueError as problem:
            help = "make a dense copy on this device"
            return error("GC0557", f"`{port.name}`: {problem}", None, help=help)
        wanted = stored_dtype(port.dtype)
        if seen.dtype != wanted:
            message = f"`{port.name}` is {seen.dtype}; the program expects {port.dtype}"
            return error("GC0552", message, None, help="convert it on the device")
        if seen.shape != port.shape:
            given, expected = list(seen.shape), list(port.shape)
            message = f"`{port.name}` has shape {given}; the program expects {expected}"
            return error("GC0555", message, None)
        if port.direction != "in" and not seen.is_writable:
            message = f"`{port.name}` is read-only; the program writes to it"
            return error("GC0557", message, None)
        return None

    def _sharing(self, ports: Sequence[Port], arrays: Sequence[object]) -> list[Diagnostic]:
        """Arrays that share memory with one that is updated, on the host or on the device."""
        extents = []
        for array in arrays:
            if isinstance(array, np.ndarray):
                extents.append((array.ctypes.data, array.nbytes))
            else:
                seen = view(array, self.device)
                extents.append((seen.address, seen.nbytes))
        return sharing(ports, extents)

    def call_checked(self, arrays: Sequence[Any]) -> None:
        found = self.explain(arrays)
        if found:
            raise DiagnosticError(found)
        self.launch(arrays)

    # ---- by name

    def _named(self, params: object, inputs: object, seeds: object) -> object:
        """``fast_named``: a tuple of results, STOPPED, or None if something does not fit."""
        holders = (params, inputs, seeds)
        if not all(isinstance(holder, dict) for holder in holders):
            return None
        if tuple(map(len, holders)) != self._counts:  # type: ignore[arg-type]
            return None
        arrays: list[Any] = [None] * len(self._ports)
        for n in self._given:
            port = self._ports[n]
            holder: Any = holders[_HOLDERS.get(port.role, 0)]
            array = holder.get(port.name)
            if array is None:
                return None
            arrays[n] = array
        given = [arrays[n] for n in self._given]
        ports = [self._ports[n] for n in self._given]
        if any(self._fit(port, array) for port, array in zip(ports, given, strict=True)):
            return None
        if self._sharing(ports, given):
            return None
        stays = self._stays(holders[1])
        for n, port in enumerate(self._ports):
            dtype = stored_dtype(port.dtype)
            if port.direction == "out":
                is_here = stays and n != self._stop
                arrays[n] = (
                    DeviceArray(self.device, port.shape, dtype)
                    if is_here
                    else np.empty(port.shape, dtype)
                )
            elif port.direction == "inout" and isinstance(arrays[n], np.ndarray):
                moved = DeviceArray.of(self.device, arrays[n])
                arrays[n] = moved
                holders[_HOLDERS.get(port.role, 0)][port.name] = moved  # type: ignore[index]
        self.launch(arrays)
        if self._stop is not None and arrays[self._stop]:
            return STOPPED
        return self._grouped(arrays)

    def _stays(self, inputs: object) -> bool:
        """Whether results stay on the device: all inputs, and there are some, lie there."""
        values = list(inputs.values()) if isinstance(inputs, Mapping) else []
        return bool(values) and all(map(_is_foreign, values))

    def _grouped(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        loss: Any = None
        groups: list[dict[str, Any]] = [{}, {}, {}, {}]
        for port, array in zip(self._ports, arrays, strict=True):
            if port.direction != "out":
                continue
            if port.role is Role.LOSS:
                loss = array
            elif port.role in _PLACES:
                groups[_PLACES[port.role]][port.name] = array
        return (loss, *groups[1:])

    # ---- many

    def launch_many(self, arrays: Sequence[Any], is_stacked: Sequence[bool], count: int) -> int:
        """All in order of the stream: while the device works on one batch, the next one is copied
        to pinned memory, of which there are two blocks.
        """
        with self._lock:
            self.device.enter()
            return _Queue(self, arrays, is_stacked).run(count)


def _unmarked(_: object) -> None:
    """No marks around a launch."""


def _is_foreign(array: object) -> bool:
    return isinstance(array, DeviceArray) or device_shape(array) is not None


class _Queue:
    """Batches that follow each other, through two blocks of pinned memory."""

    def __init__(
        self, owner: CudaProgram, arrays: Sequence[Any], is_stacked: Sequence[bool]
    ) -> None:
        self.owner, self.device = owner, owner.device
        self.arrays, self.is_stacked = arrays, is_stacked
        ports = owner.signature.ports
        self.sizes = [prod(p.shape) * p.dtype.itemsize for p in ports]
        stacked = [n for n, s in enumerate(is_stacked) if s]
        self.into = [n for n in stacked if ports[n].direction != "out"]
        self.out = [n for n in stacked if ports[n].direction != "in"]
        self.placed = owner._placed(arrays, stacked)
        room = sum(self.sizes[n] for n in (*self.into, *self.out))
        self.blocks: list[Pinned] = [self.device.take_pinned(room) for _ in range(2)]
        self.marks: list[Event] = [self.device.event() for _ in range(2)]

    def run(self, count: int) -> int:
        """Runs up to ``count`` times; returns how often."""
        self.placed.arrive()
        stop = self.owner._stop
        self._stage(0)
        ran = 0
        while ran < count:
            self._ask(ran)
            if ran + 1 < count:
                self._stage(ran + 1)  # while the device works
            self._take(ran)
            ran += 1
            if stop is not None and self.arrays[stop][ran - 1]:
                break
        self._finish()
        return ran

    def _finish(self) -> None:
        """What is updated in place goes back to where it came from."""
        self.placed.leave()
        self.device.wait()

    def _stage(self, turn: int) -> None:
        """Copies one batch to its pinned block."""
        at = self.blocks[turn % 2].address
        for n in self.into:
            ctypes.memmove(at, self._source(n, turn), self.sizes[n])
            at += self.sizes[n]

    def _ask(self, turn: int) -> None:
        """Asks the device for all of a run: the batch from its block, the results into it."""
        at = self.blocks[turn % 2].address
        for n in self.into:
            self.device.upload(self.placed.addresses[n], at, self.sizes[n])
            at += self.sizes[n]
        self.owner.executable.run(self.placed.addresses)
        for n in self.out:
            self.device.download(at, self.placed.addresses[n], self.sizes[n])
            at += self.sizes[n]
        self.marks[turn % 2].set()

    def _take(self, turn: int) -> None:
        """Waits for one run, and copies its results to where they belong."""
        self.marks[turn % 2].wait()
        block = self.blocks[turn % 2]
        at = sum(self.sizes[n] for n in self.into)
        for n in self.out:
            ctypes.memmove(self._source(n, turn), block.address + at, self.sizes[n])
            at += self.sizes[n]

    def _source(self, number: int, turn: int) -> int:
        """Where the host has the array of one run."""
        array = self.arrays[number]
        return int(array.ctypes.data) + turn * int(array.strides[0])
