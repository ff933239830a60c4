"""An independent checker of Plans: replays one over a map of who owns each byte. Shares no code
with ``place``.

Rules, each with the word that begins its findings:

* structure: kernels, tensors, ports and arguments exist and fit each other; buffers have the type
  of their tensors;
* placement: every arena tensor that is used has an offset on a cache line and lies in the arena;
* bounds: every argument lies within its tensor in every trip, every access of a kernel within its
  buffer;
* reading: every byte that is read was last written through the same tensor (or is an input):
  nothing is uninitialised, overwritten too early, or freed too early;
* losing: what a trip writes for others is not overwritten by a later trip before anything has read
  it (a carry that is read from the wrong buffer); rows that no launch reads at any time may be, and
  so may rows that are written again with what is there: by the same kernel from the same operands;
* order: a carry in two buffers is read where it was written last: always in this trip, or always
  in the one before;
* sharing: two arguments of one launch share bytes only if one tensor is declared the root of the
  other (or they are one tensor), and then each element is read before it is written, in the same
  iteration;
* writing: inputs are never written; every `out` port is written whole, every `inout` port at least
  in part;
* kernel: a buffer that is only written is stored whole; nothing reads its own scratch or result
  before writing it;
* flight: what is on its way between ranks is touched by nobody (``ir.plan.flights``);
* scratch: in a Plan with a target, every launch whose kernel has rows of its own has room for them,
  and as much as the target asks for if that is given; nobody else reads scratch, it overlaps
  nothing that the launch reads or writes, and it overwrites what lay there.

A correct Plan gives no findings. Non-goals: whether kernels compute the right thing (the executors'
tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import gcd
from typing import TypeAlias

import numpy as np

from gradc.ir.loop.kernel import Buffer, Kernel
from gradc.ir.loop.verbs import Array
from gradc.ir.plan.flights import misused_flights
from gradc.ir.plan.plan import ALIGNMENT, Argument, Launch, Plan, Repeat, Step
from gradc.passes.inspect.check_kernel import (
    Footprint,
    Touch,
    covers,
    footprint,
    interval,
    is_affine,
    points,
    reads_before_write,
    within_limits,
    written_before_read,
)

MAX_FINDINGS = 50
_UNOWNED = -1


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule; ``step`` is the path of positions to the launch, if it is about one."""

    rule: str
    message: str
    step: tuple[int, ...] = ()

    def __str__(self) -> str:
        place = f" at step {'.'.join(map(str, self.step))}" if self.step else ""
        return f"{self.rule}{place}: {self.message}"


def check_plan(plan: Plan, scratch: Callable[[Kernel], int] | None = None) -> tuple[Finding, ...]:
    """What is wrong with ``plan``; empty if nothing is.

    ``scratch`` says how many bytes a launch of a kernel needs on the Plan's target.
    """
    checker = _Checker(plan, scratch)
    checker.structure()
    if not checker.findings:
        checker.kernels()
    if not checker.findings:
        checker.replay()
    if not checker.findings:
        checker.findings += [Finding("flight", problem) for problem in misused_flights(plan)]
    return tuple(checker.findings[:MAX_FINDINGS])


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The bytes of one argument in one trip; ``space`` is the arena (-1) or a port's tensor."""

    space: int
    start: int
    end: int

    def overlaps(self, other: _Stretch) -> bool:
        return self.space == other.space and self.start < other.end and other.start < self.end


# A kernel, what it reads, and the position of the result among its buffers.
_Author: TypeAlias = tuple[int, tuple[_Stretch, ...], int]


@dataclass(eq=False)
class _Checker:
    plan: Plan
    scratch: Callable[[Kernel], int] | None = None
    findings: list[Finding] = field(default_factory=list)
    prints: dict[int, Footprint] = field(default_factory=dict)
    owners: dict[int, Array] = field(default_factory=dict)
    unit: int = 1
    unread: dict[int, Array] = field(default_factory=dict)
    read_somewhere: dict[int, None] = field(default_factory=dict)
    # Rows lost unread, to be reported if anything reads them at all; what is read of such tensors.
    losses: list[tuple[int, _Stretch, Finding]] = field(default_factory=list)
    rows_read: dict[int, Array] = field(default_factory=dict)
    # Tensors in two buffers: what was written to them in the current trip, and in the latest one
    # before it.
    doubled: dict[int, None] = field(default_factory=dict)
    current: dict[int, list[_Stretch]] = field(default_factory=dict)
    previous: dict[int, list[_Stretch]] = field(default_factory=dict)
    ages: dict[tuple[tuple[int, ...], Argument], int] = field(default_factory=dict)
    # Who wrote a stretch last and from what; when a byte was written, in launches.
    authors: dict[_Stretch, tuple[int, _Author]] = field(default_factory=dict)
    written: dict[int, Array] = field(default_factory=dict)
    clock: int = 0
    written_ports: dict[int, None] = field(default_factory=dict)
    named: dict[int, None] = field(default_factory=dict)  # tensors that are arguments
    scratches: dict[int, None] = field(default_factory=dict)
    sharing_known: dict[tuple[int, int, int, int], bool] = field(default_factory=dict)

    def fault(self, rule: str, message: str, step: tuple[int, ...] = ()) -> None:
        self.findings.append(Finding(rule, message, step))

    # ---- structure and placement

    def structure(self) -> None:
        plan = self.plan
        used: dict[int, None] = {}
        self._structure_of(plan.steps, 0, (), used)
        for number, port in enumerate(plan.ports):
            if not 0 <= port.tensor < len(plan.tensors):
                self.fault("structure", f"port {port.name} has no tensor")
                continue
            tensor = plan.tensors[port.tensor]
            if tensor.space != "argument" or tensor.argument != number:
                self.fault("structure", f"{tensor.name} is not the storage of port {port.name}")
            if (tensor.shape, tensor.dtype) != (port.shape, port.dtype):
                self.fault("structure", f"port {port.name} and its tensor differ in type")
        for tensor_number in used:
            self._placement(tensor_number)
        for tensor_number in self.scratches:
            if tensor_number in self.named:
                self.fault("scratch", f"{plan.tensors[tensor_number].name} is an argument as well")

    def _structure_of(
        self, steps: Sequence[Step], depth: int, path: tuple[int, ...], used: dict[int, None]
    ) -> None:
        for position, step in enumerate(steps):
            at = (*path, position)
            step.case(
                partial(self._structure_of_launch, depth=depth, at=at, used=used),
                partial(self._structure_of_repeat, depth=depth, at=at, used=used),
            )

    def _structure_of_repeat(
        self, repeat: Repeat, depth: int, at: tuple[int, ...], used: dict[int, None]
    ) -> None:
        if repeat.trips < 0:
            self.fault("structure", "a negative number of trips", at)
        if repeat.counter_cell is not None:
            used[repeat.counter_cell] = None
        self._structure_of(repeat.body, depth + 1, at, used)

    def _structure_of_launch(
        self, launch: Launch, depth: int, at: tuple[int, ...], used: dict[int, None]
    ) -> None:
        plan = self.plan
        if not 0 <= launch.kernel < len(plan.kernels):
            self.fault("structure", f"there is no kernel {launch.kernel}", at)
            return
        named = plan.kernels[launch.kernel].bound
        if len(named) != len(launch.arguments):
            self.fault("structure", f"{len(launch.arguments)} arguments for {len(named)}", at)
            return
        self._structure_of_scratch(launch, at, used)
        for buffer, argument in zip(named, launch.arguments, strict=True):
            if not 0 <= argument.tensor < len(plan.tensors):
                self.fault("structure", f"there is no tensor {argument.tensor}", at)
                continue
            tensor = plan.tensors[argument.tensor]
            used[argument.tensor] = self.named[argument.tensor] = None
            if buffer.access != "write":
                self.read_somewhere[argument.tensor] = None
            if any(argument.parity):
                self.doubled[argument.tensor] = None
            if tensor.dtype is not buffer.dtype:
                self.fault("structure", f"{buffer.name} of {buffer.dtype} is {tensor.name}", at)
            for name in (argument.strides, argument.parity):
                if name and len(name) != depth:
                    self.fault("structure", f"{len(name)} strides in {depth} repeats", at)

    def _structure_of_scratch(
        self, launch: Launch, at: tuple[int, ...], used: dict[int, None]
    ) -> None:
        kernel = self.plan.kernels[launch.kernel]
        number = launch.scratch
        need = 0
        if self.plan.threads:
            rows = kernel.private
            own = sum(-(-b.size * b.dtype.itemsize // ALIGNMENT) * ALIGNMENT for b in rows)
            # A graphics processor has memory of its own for what is private.
            need = own if self.scratch is None else self.scratch(kernel)
        if number is None:
            if need:
                self.fault("scratch", f"{kernel.name} needs {need} bytes and has none", at)
            return
        if not 0 <= number < len(self.plan.tensors):
            self.fault("structure", f"there is no tensor {number}", at)
            return
        used[number] = self.scratches[number] = None
        tensor = self.plan.tensors[number]
        if tensor.space != "arena" or tensor.root is not None:
            self.fault("scratch", f"{tensor.name} is not storage of its own", at)
        elif tensor.nbytes < need:
            self.fault("scratch", f"{kernel.name} needs {need} bytes, not {tensor.nbytes}", at)

    def _placement(self, number: int) -> None:
        tensor = self.plan.tensors[number]
        if tensor.space == "argument":
            if tensor.argument is None or not 0 <= tensor.argument < len(self.plan.ports):
                self.fault("placement", f"{tensor.name} belongs to no port")
            return
        if tensor.offset is None:
            self.fault("placement", f"{tensor.name} has no offset")
        elif tensor.offset < 0 or tensor.offset + tensor.nbytes > self.plan.arena_bytes:
            self.fault("placement", f"{tensor.name} does not lie in the arena")
        elif tensor.offset % ALIGNMENT and tensor.root is None:
            self.fault("placement", f"{tensor.name} does not start on a cache line")

    # ---- kernels

    def kernels(self) -> None:
        for number, kernel in enumerate(self.plan.kernels):
            found = footprint(kernel)
            self.prints[number] = found
            for access in found.accesses:
                self._kernel_bounds(kernel, access)
            if not self.findings:
                self._kernel_buffers(kernel, found)

    def _kernel_bounds(self, kernel: Kernel, access: Touch) -> None:
        name, size = access.buffer.name, access.buffer.size
        if access.is_store and access.buffer.access == "read":
            self.fault("kernel", f"{kernel.name} writes {name}, which it declares read")
        if access.is_guarded or not is_affine(access):
            return
        reach = interval(access)
        if reach is None or (reach[0] >= 0 and reach[1] < size):
            return
        if not within_limits(access):
            found = points(access, 0).address
            if found.size == 0 or (found.min() >= 0 and found.max() < size):
                return
        self.fault("bounds", f"{kernel.name} reaches {name}[{reach[0]}..{reach[1]}] of {size}")

    def _kernel_buffers(self, kernel: Kernel, found: Footprint) -> None:
        for buffer in kernel.buffers:
            accesses = found.of(buffer)
            stores = [a for a in accesses if a.is_store]
            if buffer.access == "write" and not covers(stores, buffer.size):
                self.fault("kernel", f"{kernel.name} does not write all of {buffer.name}")
            if buffer.access != "write" and not buffer.is_private:
                continue
            plain = [a for a in stores if not a.is_combining and not a.is_guarded]
            if any(not is_affine(a) for a in stores):
                continue
            for load in accesses:
                reads = not load.is_store or load.is_combining
                if not reads or load.is_guarded or not is_affine(load):
                    continue
                if not written_before_read(load, plain, buffer.size):
                    self.fault("kernel", f"{kernel.name} reads {buffer.name} before writing it")

    # ---- replay

    def replay(self) -> None:
        plan = self.plan
        self.unit = self._unit(plan.steps)
        self.owners = {_UNOWNED: self._fresh(plan.arena_bytes, _UNOWNED)}
        for port in plan.ports:
            owner = port.tensor if port.direction != "out" else _UNOWNED
            self.owners[port.tensor] = self._fresh(plan.tensors[port.tensor].nbytes, owner)
        self.unread = {space: np.zeros(o.shape, bool) for space, o in self.owners.items()}
        self.written = {space: np.zeros(o.shape, np.int64) for space, o in self.owners.items()}
        self._run(plan.steps, (), ())
        for number, part, finding in self.losses:
            if self._rows_read(number, part).any() and finding not in self.findings:
                self.findings.append(finding)
        for port in plan.ports:
            if port.direction == "out" and (self.owners[port.tensor] != port.tensor).any():
                self.fault("writing", f"port {port.name} is not written whole")
            if port.direction == "inout" and port.tensor not in self.written_ports:
                self.fault("writing", f"port {port.name} is never updated")

    def _fresh(self, nbytes: int, owner: int) -> Array:
        return np.full(-(-nbytes // self.unit), owner, np.int32)

    def _unit(self, steps: Sequence[Step]) -> int:
        """The greatest number of bytes that divides every address and size of the replay."""
        unit = ALIGNMENT
        for launch in (launch for step in steps for launch, _ in step.walk()):
            if launch.scratch is not None:
                tensor = self.plan.tensors[launch.scratch]
                unit = gcd(unit, tensor.offset or 0, tensor.nbytes)
            named = self.plan.kernels[launch.kernel].bound
            for buffer, argument in zip(named, launch.arguments, strict=True):
                size = buffer.dtype.itemsize
                tensor = self.plan.tensors[argument.tensor]
                numbers = (argument.offset, buffer.size, *argument.strides, *argument.parity)
                unit = gcd(unit, *(n * size for n in numbers), tensor.offset or 0, tensor.nbytes)
        return unit

    def _run(self, steps: Sequence[Step], counters: tuple[int, ...], path: tuple[int, ...]) -> None:
        for position, step in enumerate(steps):
            if len(self.findings) >= MAX_FINDINGS:
                return
            at = (*path, position)
            step.case(
                partial(self._launch, counters=counters, at=at),
                partial(self._repeat, counters=counters, at=at),
            )

    def _repeat(self, repeat: Repeat, counters: tuple[int, ...], at: tuple[int, ...]) -> None:
        for trip in range(repeat.trips):
            self._next_trip()
            if repeat.counter_cell is not None:
                self._own(self._whole(repeat.counter_cell), repeat.counter_cell)
            self._run(repeat.body, (*counters, trip), at)

    def _age(self, tensor: int, part: _Stretch) -> int:
        """Whether a carry at ``part`` is of the current trip (0), the one before (1), or older
        (-1)."""
        for age, writes in enumerate((self.current, self.previous)):
            for written in writes.get(tensor, ()):
                if written.start <= part.start and part.end <= written.end:
                    return age
        return -1

    def _next_trip(self) -> None:
        for tensor, parts in self.current.items():
            self.previous[tensor] = parts
        self.current = {}

    def _whole(self, number: int) -> _Stretch:
        tensor = self.plan.tensors[number]
        if tensor.space == "argument":
            return _Stretch(number, 0, tensor.nbytes)
        start = tensor.offset or 0
        return _Stretch(_UNOWNED, start, start + tensor.nbytes)

    def _stretch(self, buffer: Buffer, argument: Argument, counters: Sequence[int]) -> _Stretch:
        element = argument.offset
        for level, counter in enumerate(counters):
            if argument.strides:
                element += argument.strides[level] * counter
            if argument.parity:
                element += argument.parity[level] * (counter % 2)
        whole = self._whole(argument.tensor)
        start = whole.start + element * buffer.dtype.itemsize
        return _Stretch(whole.space, start, start + buffer.size * buffer.dtype.itemsize)

    def _launch(self, launch: Launch, counters: tuple[int, ...], at: tuple[int, ...]) -> None:
        kernel = self.plan.kernels[launch.kernel]
        named = kernel.bound
        parts = [
            self._stretch(b, a, counters) for b, a in zip(named, launch.arguments, strict=True)
        ]
        for buffer, argument, part in zip(named, launch.arguments, parts, strict=True):
            whole = self._whole(argument.tensor)
            if part.start < whole.start or part.end > whole.end:
                name = self.plan.tensors[argument.tensor].name
                self.fault("bounds", f"{kernel.name}: {buffer.name} lies outside {name}", at)
                return
        for buffer, argument, part in zip(named, launch.arguments, parts, strict=True):
            if buffer.access != "write":
                self._read(kernel, buffer, argument, part, at)
        self._shared(launch, named, parts, at)
        if launch.scratch is not None:
            room = self._whole(launch.scratch)
            for buffer, part in zip(named, parts, strict=True):
                if room.overlaps(part):
                    message = f"scratch of {kernel.name} overlaps its {buffer.name}"
                    self.fault("scratch", message, at)
            self._own(room, launch.scratch)
        self.clock += 1
        read = tuple(p for b, p in zip(named, parts, strict=True) if b.access != "write")
        for n, (argument, part) in enumerate(zip(launch.arguments, parts, strict=True)):
            if named[n].access != "read":
                author = launch.kernel, read, n
                self._write(named[n], argument, part, at, author)

    def _units(self, maps: Mapping[int, Array], part: _Stretch) -> Array:
        """The part of one of the maps of all memory."""
        found: Array = maps[part.space][part.start // self.unit : -(-part.end // self.unit)]
        return found

    def _owner(self, part: _Stretch) -> Array:
        return self._units(self.owners, part)

    def _own(self, part: _Stretch, tensor: int) -> None:
        self._owner(part)[:] = tensor
        self._unread(part)[:] = True
        self._units(self.written, part)[:] = self.clock

    def _unread(self, part: _Stretch) -> Array:
        return self._units(self.unread, part)

    def _rows_read(self, number: int, part: _Stretch) -> Array:
        """Which units of a stretch of an arena tensor have been read at any time."""
        whole = self._whole(number)
        known = self.rows_read.get(number)
        if known is None:
            size = -(-(whole.end - whole.start) // self.unit)
            known = self.rows_read[number] = np.zeros(size, bool)
        first, last = part.start - whole.start, part.end - whole.start
        return known[first // self.unit : -(-last // self.unit)]

    def _read(
        self,
        kernel: Kernel,
        buffer: Buffer,
        argument: Argument,
        part: _Stretch,
        at: tuple[int, ...],
    ) -> None:
        owners = self._owner(part)
        self._unread(part)[:] = False
        if part.space == _UNOWNED:
            self._rows_read(argument.tensor, part)[:] = True
        if argument.tensor in self.doubled:
            age = self._age(argument.tensor, part)
            if age < 0 or self.ages.setdefault((at, argument), age) != age:
                name = self.plan.tensors[argument.tensor].name
                self.fault("order", f"{kernel.name} reads {name} where it is out of date", at)
        wrong = owners != argument.tensor
        if not wrong.any():
            return
        other = int(owners[wrong][0])
        name = self.plan.tensors[argument.tensor].name
        what = "never written" if other == _UNOWNED else f"now {self.plan.tensors[other].name}"
        self.fault("reading", f"{kernel.name} reads {name} as {buffer.name}, which is {what}", at)

    def _is_rewritten(self, part: _Stretch, author: _Author) -> bool:
        """Whether the same kernel has written this very stretch from the same operands, and nobody
        has touched any of
        it since: it holds what will be written."""
        clock, known = self.authors.get(part, (0, None))
        units = [part, *author[1]]
        return known == author and all(
            int(self._units(self.written, p).max(initial=0)) <= clock for p in units
        )

    def _write(
        self,
        buffer: Buffer,
        argument: Argument,
        part: _Stretch,
        at: tuple[int, ...],
        author: _Author,
    ) -> None:
        tensor, kernel = self.plan.tensors[argument.tensor], self.plan.kernels[author[0]]
        if tensor.space == "argument":
            port = self.plan.ports[tensor.argument or 0]
            if port.direction == "in":
                self.fault("writing", f"{kernel.name} writes input {port.name}", at)
            self.written_ports[argument.tensor] = None
        elif buffer.access == "write" and argument.tensor in self.read_somewhere:
            lost = self._unread(part) & (self._owner(part) == argument.tensor)
            if lost.size and lost.all() and not self._is_rewritten(part, author):
                message = f"{kernel.name} overwrites {tensor.name}, which nothing has read"
                finding = Finding("losing", message, at)
                if any(argument.strides):
                    self.losses.append((argument.tensor, part, finding))
                else:
                    self.findings.append(finding)
        if argument.tensor in self.doubled:
            self.current.setdefault(argument.tensor, []).append(part)
        self._own(part, argument.tensor)
        self.authors[part] = self.clock, author

    # ---- sharing

    def _shared(
        self,
        launch: Launch,
        named: Sequence[Buffer],
        parts: Sequence[_Stretch],
        at: tuple[int, ...],
    ) -> None:
        for w, written in enumerate(named):
            if written.access == "read":
                continue
            for r, read in enumerate(named):
                if r == w or not parts[r].overlaps(parts[w]):
                    continue
                if read.access != "read":
                    if r < w:
                        self.fault("sharing", f"{read.name} and {written.name} are written", at)
                    continue
                a, b = launch.arguments[r].tensor, launch.arguments[w].tensor
                if a != b and self._root(a) != self._root(b):
                    names = f"{self.plan.tensors[a].name} and {self.plan.tensors[b].name}"
                    self.fault("sharing", f"{names} overlap undeclared", at)
                    continue
                key = (launch.kernel, r, w, parts[w].start - parts[r].start)
                if key not in self.sharing_known:
                    self.sharing_known[key] = self._may_share(*key, read, written)
                if not self.sharing_known[key]:
                    kernel = self.plan.kernels[launch.kernel].name
                    message = f"{kernel} writes {written.name} before it has read {read.name}"
                    self.fault("sharing", message, at)

    def _root(self, tensor: int) -> int:
        for _ in range(len(self.plan.tensors)):
            root = self.plan.tensors[tensor].root
            if root is None:
                break
            tensor = root
        return tensor

    def _may_share(
        self, kernel: int, r: int, w: int, shift: int, read: Buffer, written: Buffer
    ) -> bool:
        if shift or read.dtype.itemsize != written.dtype.itemsize:
            return False
        found = self.prints[kernel]
        stores = [a for a in found.of(written) if a.is_store]
        size = max(read.size, written.size)
        for load in found.of(read):
            if load.is_factor or not is_affine(load):
                return False
            for store in stores:
                if not is_affine(store) or not reads_before_write(load, store, size):
                    return False
        return True
