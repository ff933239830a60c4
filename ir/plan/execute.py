"""The reference executor of a Plan: a real arena of bytes, real offsets, every launch by
``execute_kernel``.

With ``poison`` the arena starts as NaN bytes, and each tensor's bytes become NaN bytes again after
the last step of the Plan's order that touches them, so a use of uninitialised or freed memory shows
in the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gradc.ir.loop.execute import MACHINE, ExecutionError, Scalars, execute_kernel
from gradc.ir.loop.verbs import Array, from_memory, stored_dtype, to_memory
from gradc.ir.plan.plan import ALIGNMENT, Argument, Launch, Plan, Repeat, Step, Tensor

# All bits set is NaN in every floating type and -1 in integers.
POISON = 0xFF


def execute_plan(
    plan: Plan,
    arguments: Mapping[str, Array] | Sequence[Array],
    poison: bool = False,
    scalars: Scalars = MACHINE,
) -> list[Array]:
    """Runs ``plan``; ``arguments`` are the `in` and `inout` ports, by name or in order.

    Returns the `inout` and `out` ports in order of ports, as fresh arrays; inputs are not changed.
    bf16 arrays are
    float32 arrays of bf16 values.

    Raises:
        ExecutionError: an access outside its tensor, or arguments that do not fit.
    """
    return _Execution(plan, poison, scalars).run(arguments)


class _Execution:
    def __init__(self, plan: Plan, poison: bool, scalars: Scalars) -> None:
        self.plan = plan
        self.scalars = scalars
        self.poison = poison
        block = np.full(plan.arena_bytes + ALIGNMENT, POISON if poison else 0, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        self.arena = block[start : start + plan.arena_bytes]
        self.ports: list[Array] = []

    def run(self, arguments: Mapping[str, Array] | Sequence[Array]) -> list[Array]:
        given = iter(() if isinstance(arguments, Mapping) else arguments)
        for port in self.plan.ports:
            size = self.plan.tensors[port.tensor].nbytes
            if port.direction == "out":
                self.ports.append(np.full(size, POISON if self.poison else 0, np.uint8))
                continue
            array = arguments[port.name] if isinstance(arguments, Mapping) else next(given)
            stored = to_memory(np.asarray(array), port.dtype)
            if stored.shape != port.shape:
                raise ExecutionError(f"{port.name} is {stored.shape}, not {port.shape}")
            self.ports.append(np.frombuffer(stored.tobytes(), np.uint8).copy())
        last = _last_uses(self.plan) if self.poison else {}
        self._steps(self.plan.steps, (), last)
        return [self._result(n) for n, p in enumerate(self.plan.ports) if p.direction != "in"]

    def _result(self, number: int) -> Array:
        port = self.plan.ports[number]
        stored = self.ports[number].view(stored_dtype(port.dtype))
        return from_memory(stored, port.dtype).reshape(port.shape)

    def _steps(
        self, steps: Sequence[Step], counters: tuple[int, ...], last: Mapping[int, list[int]]
    ) -> None:
        for number, step in enumerate(steps):
            step.case(
                partial(self._launch, counters=counters), partial(self._repeat, counters=counters)
            )
            if not counters:
                for tensor in last.get(number, ()):
                    self._bytes(self.plan.tensors[tensor])[:] = POISON

    def _repeat(self, repeat: Repeat, counters: tuple[int, ...]) -> None:
        for trip in range(repeat.trips):
            if repeat.counter_cell is not None:
                cell = self._bytes(self.plan.tensors[repeat.counter_cell])
                cell[:8].view(np.int64)[0] = trip
            self._steps(repeat.body, (*counters, trip), {})

    def _launch(self, launch: Launch, counters: tuple[int, ...]) -> None:
        kernel = self.plan.kernels[launch.kernel]
        if launch.scratch is not None:
            # The kernel's own scratch lies elsewhere here, but these bytes are as good as
            # overwritten.
            scratch = self._bytes(self.plan.tensors[launch.scratch])
            scratch[:] = POISON
        named = kernel.bound
        views = []
        for buffer, argument in zip(named, launch.arguments, strict=True):
            raw = self._bytes(self.plan.tensors[argument.tensor])
            start = resolve(argument, counters) * buffer.dtype.itemsize
            end = start + buffer.size * buffer.dtype.itemsize
            if start < 0 or end > raw.size:
                name = self.plan.tensors[argument.tensor].name
                raise ExecutionError(f"{kernel.name}: {buffer.name} lies outside {name}")
            views.append(raw[start:end].view(stored_dtype(buffer.dtype)))
        execute_kernel(kernel, views, self.scalars)

    def _bytes(self, tensor: Tensor) -> Array:
        if tensor.space == "argument":
            found: Array = self.ports[tensor.argument or 0]
            return found
        if tensor.offset is None or tensor.offset + tensor.nbytes > self.arena.size:
            raise ExecutionError(f"{tensor.name} does not lie in the arena")
        return self.arena[tensor.offset : tensor.offset + tensor.nbytes]


def resolve(argument: Argument, counters: Sequence[int]) -> int:
    """The element offset of ``argument`` into its tensor at the given trip counters."""
    strides: tuple[int, ...] = argument.strides or (0,) * len(counters)
    parity: tuple[int, ...] = argument.parity or (0,) * len(counters)
    total = argument.offset
    for counter, stride, flip in zip(counters, strides, parity, strict=True):
        total += stride * counter + flip * (counter % 2)
    return total


def _last_uses(plan: Plan) -> dict[int, list[int]]:
    """The arena tensors whose last use is each top-level step; shared storage counts as one."""
    last: dict[int, int] = {}
    for number, step in enumerate(plan.steps):
        last.update(dict.fromkeys(step.cells(), number))
        for launch, _ in step.walk():
            last.update((argument.tensor, number) for argument in launch.arguments)
    ends: dict[int, int] = {}
    for tensor, number in last.items():
        root = plan.root(tensor)
        ends[root] = max(ends.get(root, 0), number)
    found: dict[int, list[int]] = {}
    for tensor, number in last.items():
        # Bytes that are in another tensor live on through it.
        if plan.tensors[tensor].space == "arena" and ends[plan.root(tensor)] == number:
            found.setdefault(number, []).append(tensor)
    return found
