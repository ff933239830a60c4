"""A complete Plan as a ``Program``: every kernel's texts, every launch's places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gradc.codegen.backend import Signature
from gradc.codegen.cuda.printer.conflicts import Overlaps
from gradc.codegen.cuda.printer.kernels import Part, print_kernel, scratch_bytes
from gradc.codegen.cuda.printer.strips import BESIDE_STRIP
from gradc.codegen.cuda.printer.words import Names
from gradc.codegen.cuda.program import Exchange, Launch, Place, Program, Repeat, Step
from gradc.ir.loop import kernel as kernels
from gradc.ir.loop.kernel import Buffer, Kernel
from gradc.ir.plan import plan as plans
from gradc.ir.plan.plan import Plan
from gradc.ir.plan.verify import PlanError
from gradc.ir.target.costs import Costs
from gradc.ir.target.target import Processors, Target

Trips = tuple[int, ...]
_ALIGNED = 16  # bytes of the widest access
# Of what a compute capability is usually met on: A100, H100 and H200, B200 (CUDA C++ Programming
# Guide, compute capabilities 8.0, 9.0 and 10.0; data sheets).
PROCESSORS = {
    "sm_80": Processors(108, 164 << 10, 65536, 2048, 163 << 10),
    "sm_90": Processors(132, 228 << 10, 65536, 2048, 227 << 10),
    "sm_100": Processors(148, 228 << 10, 65536, 2048, 227 << 10),
}
_BY_GROUPS = ("sm_90",)  # whose groups of 128 threads multiply (wgmma)
# Of tiles, for each multiprocessor: strips of 16 rows leave none of them out.
_ROWS = 24
_COSTS = Costs(parallel_us=0.0)  # whatever is independent is spread over blocks


def target(isa: str, found: Processors | None = None) -> Target:
    """What schedules for graphics processors are for: ``isa`` is a compute capability, ``found``
    what a device has, if there is one.
    """
    each = found or PROCESSORS[isa]
    return Target(
        "cuda",
        isa,
        chunks=4096,
        processors=each,
        nodes=each.count,
        strip_bytes=each.block_bytes - BESIDE_STRIP,
        rows_together=_ROWS * each.count,
        copies=False,
        costs=_COSTS,
    )


def scratch_of(target: Target) -> Callable[[Kernel], int]:
    """How many bytes of scratch a launch of a kernel needs."""
    return lambda kernel: scratch_bytes(kernel, target.processors.count)


def print_plan(plan: Plan, target: Target) -> Program:
    """``plan``, with scratch by ``scratch_of``, as kernel texts and launches for ``target``.

    Raises:
        PrintError: a kernel has no text.
        PlanError: the Plan is not complete.
    """
    plan.verify()
    overlaps, aligned = _overlaps(plan), _aligned(plan)
    names = Names()
    parts: dict[int, tuple[Part | kernels.Exchange, ...]] = {}
    for launch in plan.launches:
        if launch.kernel not in parts:
            kernel = plan.kernels[launch.kernel]
            name = names.new(kernel.name)
            parts[launch.kernel] = print_kernel(
                kernel,
                name,
                overlaps[launch.kernel],
                aligned[launch.kernel],
                _titles(plan, launch),
                target.processors.count,
                target.isa in _BY_GROUPS,
                target.processors.block_bytes,
            )
    numbers: dict[tuple[int, int], int] = {}
    for kernel_number, found in parts.items():
        for part_number, part in enumerate(found):
            if isinstance(part, Part):
                numbers[kernel_number, part_number] = len(numbers)
    texts = tuple(
        replace(part.text, kernel=number)
        for number, found in parts.items()
        for part in found
        if isinstance(part, Part)
    )
    steps = _Steps(plan, parts, numbers).steps(plan.steps)
    signature = Signature.of(plan, 1, target.isa)
    return Program(texts, steps, plan.arena_bytes, signature)


class _Steps:
    """Translates steps."""

    def __init__(
        self,
        plan: Plan,
        parts: Mapping[int, tuple[Part | kernels.Exchange, ...]],
        numbers: Mapping[tuple[int, int], int],
    ) -> None:
        self.plan = plan
        self.parts = parts
        self.numbers = numbers

    def steps(self, steps: Sequence[plans.Step]) -> tuple[Step, ...]:
        found: list[Step] = []
        for step in steps:
            found += step.case(self._launches, self._repeat)
        return tuple(found)

    def _repeat(self, repeat: plans.Repeat) -> list[Step]:
        cell = None
        if repeat.counter_cell is not None:
            cell = self._place(plans.Argument(repeat.counter_cell), 8)
        body = self.steps(repeat.body)
        return [Repeat(repeat.trips, body, cell)]

    def _launches(self, launch: plans.Launch) -> list[Step]:
        bound = dict(zip(self.plan.kernels[launch.kernel].bound, launch.arguments, strict=True))
        found: list[Step] = []
        for number, part in enumerate(self.parts[launch.kernel]):
            if not isinstance(part, Part):
                kind, size = "await" if part.ends else part.kind, part.buffer.dtype.itemsize
                place = self._place(bound[part.buffer], size)
                found.append(Exchange(kind, part.ranks, place, part.buffer.size * size))
                continue
            places = []
            for argument in part.arguments:
                if argument.buffer is not None:
                    size = argument.buffer.dtype.itemsize
                    places.append(self._place(bound[argument.buffer], size))
                    continue
                if launch.scratch is None:
                    raise PlanError(f"{part.text.name} needs scratch that the Plan has not")
                scratch = self._place(plans.Argument(launch.scratch), 1)
                places.append(Place("arena", 0, scratch.offset + argument.offset))
            text = self.numbers[launch.kernel, number]
            found.append(Launch(text, part.grid, tuple(places)))
        return found

    def _place(self, argument: plans.Argument, itemsize: int) -> Place:
        tensor = self.plan.tensors[argument.tensor]
        moves = [tuple(n * itemsize for n in each) for each in (argument.strides, argument.parity)]
        at = argument.offset * itemsize
        if tensor.space == "argument":
            return Place("port", tensor.argument or 0, at, *moves)
        return Place("arena", 0, (tensor.offset or 0) + at, *moves)


def _titles(plan: Plan, launch: plans.Launch) -> dict[Buffer, str]:
    """What the buffers of a kernel are in its first launch."""
    bound = plan.kernels[launch.kernel].bound
    pairs = zip(bound, launch.arguments, strict=True)
    return {buffer: _plain(plan.tensors[argument.tensor].name) for buffer, argument in pairs}


def _plain(name: str) -> str:
    """A name that a docstring holds whatever it is."""
    return "".join(c if c.isalnum() or c in " ._:/[]-" else "?" for c in name)


def _aligned(plan: Plan) -> dict[int, frozenset[Buffer]]:
    """Of every kernel the buffers that all launches put at multiples of 16 bytes; the arrays of
    ports begin there.
    """
    found: dict[int, set[Buffer]] = {}
    for launch in plan.launches:
        bound = plan.kernels[launch.kernel].bound
        known = found.setdefault(launch.kernel, set(bound))
        for buffer, argument in zip(bound, launch.arguments, strict=True):
            tensor = plan.tensors[argument.tensor]
            moves = (argument.offset, *argument.strides, *argument.parity)
            places = [n * buffer.dtype.itemsize for n in moves]
            places += [] if tensor.space == "argument" else [tensor.offset or 0]
            if any(place % _ALIGNED for place in places):
                known.discard(buffer)
    return {kernel: frozenset(buffers) for kernel, buffers in found.items()}


def _overlaps(plan: Plan) -> dict[int, Overlaps]:
    """Of every kernel the pairs of buffers that some launch puts into the same memory."""
    found: dict[int, tuple[set[frozenset[Buffer]], set[frozenset[Buffer]]]] = {}
    for launch, trips in plan.walk():
        bound = plan.kernels[launch.kernel].bound
        pairs, shifted = found.setdefault(launch.kernel, (set(), set()))
        ranges = [
            _range(plan, argument, buffer, trips)
            for buffer, argument in zip(bound, launch.arguments, strict=True)
        ]
        for n, (space, low, high) in enumerate(ranges):
            for m in range(n):
                other, start, end = ranges[m]
                if space == other and low < end and start < high:
                    pair = frozenset((bound[n], bound[m]))
                    pairs.add(pair)
                    one, two = launch.arguments[n], launch.arguments[m]
                    moves = [(a.strides, a.parity) for a in (one, two)]
                    alike = ranges[n] == ranges[m] and moves[0] == moves[1]
                    if not alike or bound[n].dtype is not bound[m].dtype:
                        shifted.add(pair)
    return {
        kernel: Overlaps(frozenset(pairs), frozenset(pairs - shifted))
        for kernel, (pairs, shifted) in found.items()
    }


def _range(
    plan: Plan, argument: plans.Argument, buffer: Buffer, trips: Trips
) -> tuple[int, int, int]:
    """The space, and the bytes of it that an argument may touch."""
    tensor = plan.tensors[argument.tensor]
    low, high = argument.reach(trips)
    start = 0 if tensor.space == "argument" else (tensor.offset or 0)
    space = -1 if tensor.space == "arena" else (tensor.argument or 0)
    size = buffer.dtype.itemsize
    return space, start + low * size, start + (high + buffer.size) * size
