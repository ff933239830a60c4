"""A Program on a device: its machine code loaded, its arena, and a call as one CUDA graph.

Launches, and the counters of Repeats, are captured once from a stream, for each set of addresses
that the ports have had lately; a call is then one launch of a graph. What ranks exchange goes
through pinned memory of the host and the world that the calling thread has joined
(``codegen.exchange``), between graphs: a call of such a program is a graph from one exchange to the
next. While a message is on its way the device computes what does not wait for it.

Invariants: device memory of a call is the arena and the arrays of its ports, nothing else.
"""

from __future__ import annotations

import ctypes
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.codegen import exchange
from gradc.codegen.cuda.program import Counted, Exchanged, Launch, Program, Resolved, Text
from gradc.codegen.cuda.runner.device import Device, Event, Handle, Memory, Pinned
from gradc.codegen.cuda.runner.driver import too_large
from gradc.codegen.cuda.toolchain.build import Built

Marked: TypeAlias = "Callable[[Launch], tuple[Event, Event] | None]"
Asked: TypeAlias = Resolved | Counted  # of the device

_GRAPHS = 8  # sets of addresses that are remembered
# cuLaunchKernel: what follows is the address, the size of a packed list of parameters; the end.
_BUFFER, _SIZE, _END = 1, 2, 0
_RELAXED = 2  # a capture that other threads need not mind
_MOST_DYNAMIC = 8  # the attribute of a kernel: how much dynamic shared memory it may be given


class Executable:
    """Machine code on a device, with memory to run in."""

    def __init__(self, built: Built, device: Device) -> None:
        self.program: Program = built.program
        self.device = device
        device.enter()
        self._module = Handle()
        call = device.driver.call
        code = ctypes.create_string_buffer(built.cubin, len(built.cubin))
        call("cuModuleLoadData", ctypes.byref(self._module), code)
        self._kernels = [self._kernel(text) for text in self.program.texts]
        self.arena: Memory = device.take(self.program.arena_bytes)
        self._graphs: OrderedDict[tuple[int, ...], list[Handle | Exchanged]] = OrderedDict()
        # Where the host has what is exchanged, by address and size on the device.
        self._rooms: dict[tuple[int, int], tuple[Pinned, NDArray[Any]]] = {}

    def _kernel(self, text: Text) -> Handle:
        """A kernel of the module, with leave to have the dynamic memory that it needs."""
        found, asked = Handle(), text.dynamic_bytes
        call = self.device.driver.call
        call("cuModuleGetFunction", ctypes.byref(found), self._module, text.name.encode())
        if asked > self.device.processors.block_bytes:
            raise too_large(text.name, asked, self.device.processors.block_bytes)
        if asked:
            call("cuFuncSetAttribute", found, _MOST_DYNAMIC, asked)
        return found

    def __del__(self) -> None:
        # What failed in __init__ has no module.
        module = getattr(self, "_module", None)
        if module is not None and module.value:
            status = self.device.driver.status
            status("cuCtxSetCurrent", self.device._context)
            for parts in getattr(self, "_graphs", {}).values():
                for graph in parts:
                    if isinstance(graph, Handle):
                        status("cuGraphExecDestroy", graph)
            status("cuModuleUnload", module)

    def run(self, addresses: Sequence[int]) -> None:
        """One call on ports at ``addresses``, in order of the device's stream."""
        key = tuple(addresses)
        parts = self._graphs.get(key)
        if parts is None:
            parts = self._graphs[key] = self._captured(key)
            if len(self._graphs) > _GRAPHS:
                _, oldest = self._graphs.popitem(last=False)
                for part in oldest:
                    if isinstance(part, Handle):
                        self.device.driver.call("cuGraphExecDestroy", part)
        else:
            self._graphs.move_to_end(key)
        for part in parts:
            if isinstance(part, Exchanged):
                self._exchange(part, addresses)
            else:
                self.device.driver.call("cuGraphLaunch", part, self.device.stream)

    def run_plainly(self, addresses: Sequence[int], marked: Marked | None = None) -> None:
        """The same without a graph, launch by launch; ``marked`` gives what is set before and after
        each.
        """
        for step in self.program.unrolled():
            if isinstance(step, Exchanged):
                self._exchange(step, addresses)
            else:
                self._ask(step, addresses, marked)

    def _ask(self, step: Asked, addresses: Sequence[int], marked: Marked | None = None) -> None:
        """Asks the device for one step, in order of the stream."""
        if isinstance(step, Resolved):
            marks = None if marked is None else marked(step.launch)
            if marks is not None:
                marks[0].set()
            self._launch(step, addresses)
            if marks is not None:
                marks[1].set()
            return
        place = self._address(step.place, addresses)
        low, high = struct.unpack("<2I", struct.pack("<q", step.value))
        self.device.set_word(place, low)
        self.device.set_word(place + 4, high)

    def _exchange(self, step: Exchanged, addresses: Sequence[int]) -> None:
        """Begins an exchange once the device has made what it sends, or waits for one and hands it
        to the device.
        """
        given, address = step.exchange, self._address(step.place, addresses)
        pinned, parts = self._room(address, given.nbytes)
        if given.kind != "await":
            self.device.download(pinned.address, address, given.nbytes)
            self.device.wait()
        exchange.run(given.kind, parts.reshape(given.ranks, -1))
        if given.kind == "await":
            self.device.upload(address, pinned.address, given.nbytes)

    def _room(self, address: int, nbytes: int) -> tuple[Pinned, NDArray[Any]]:
        found = self._rooms.get((address, nbytes))
        if found is None:
            pinned = self.device.take_pinned(nbytes)
            raw = (ctypes.c_uint8 * nbytes).from_address(pinned.address)
            found = self._rooms[address, nbytes] = pinned, np.ctypeslib.as_array(raw)
        return found

    def _captured(self, addresses: Sequence[int]) -> list[Handle | Exchanged]:
        """What ``run_plainly`` would do: graphs that can be launched, exchanges between them."""
        found: list[Handle | Exchanged] = []
        rest: list[Asked] = []
        for step in self.program.unrolled():
            if not isinstance(step, Exchanged):
                rest.append(step)
                continue
            found += [self._graph(rest, addresses)] if rest else []
            found.append(step)
            rest = []
        return [*found, self._graph(rest, addresses)] if rest or not found else found

    def _graph(self, steps: Sequence[Asked], addresses: Sequence[int]) -> Handle:
        call, stream = self.device.driver.call, self.device.stream
        graph, executable = Handle(), Handle()
        call("cuStreamBeginCapture", stream, _RELAXED)
        try:
            for step in steps:
                self._ask(step, addresses)
        finally:
            call("cuStreamEndCapture", stream, ctypes.byref(graph))
        call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        call("cuGraphDestroy", graph)
        return executable

    def _address(self, place: tuple[str, int, int], addresses: Sequence[int]) -> int:
        space, number, offset = place
        return (self.arena.address if space == "arena" else addresses[number]) + offset

    def _launch(self, step: Resolved, addresses: Sequence[int]) -> None:
        """One kernel; its parameters are addresses, packed one after another."""
        launch, text = step.launch, self.program.texts[step.launch.text]
        packed = [self._address(place, addresses) for place in step.places]
        buffer = (ctypes.c_uint64 * len(packed))(*packed)
        size = ctypes.c_size_t(ctypes.sizeof(buffer))
        extra = (ctypes.c_void_p * 5)(
            _BUFFER, ctypes.addressof(buffer), _SIZE, ctypes.addressof(size), _END
        )
        shape = (launch.grid, 1, 1, text.threads, 1, 1)
        self.device.driver.call(
            "cuLaunchKernel",
            self._kernels[launch.text],
            *(ctypes.c_uint(n) for n in shape),
            ctypes.c_uint(text.dynamic_bytes),
            self.device.stream,
            None,
            extra,
        )
