"""The loop nests that code is made of, run over a prime field, against the tensor program they come
from.

``prove_words`` puts elements where kernels compute with machine numbers; the arena is a shadow in
which the element at byte o stands at index o, whatever its width, so storage that is shared or
reused too early shows as a wrong residue. Everything between the tensor IR and the code generator
takes part: fusion, loop forms, rolled loops, offsets. ``PlanProgram`` is the same over any domain:
in a tower, in cells and in balls at real points.

Non-goals: what the code generator makes of a nest (measured, see ``prove_report.Accuracy``),
rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.execute import ExecutionError, execute_kernel
from gradc.ir.loop.verbs import Array
from gradc.ir.plan.execute import resolve
from gradc.ir.plan.plan import Launch, Plan, Repeat, Step, Tensor
from gradc.ir.tensor.core import DType, Function, Slot
from gradc.passes.prove.domains.free import Bound, FreePoint, bound, values
from gradc.passes.prove.domains.point import Point, at_points
from gradc.passes.prove.domains.words import Words, words_of
from gradc.passes.prove.report import key


class ShadowRun:
    """One execution of a Plan over another domain."""

    def __init__(self, plan: Plan, scalars: Words) -> None:
        self.plan = plan
        self.scalars = scalars
        self.arena = scalars.poison(plan.arena_bytes)
        self.private = _private(plan.steps)
        self.ports: list[Array] = []

    def run(self, arguments: Mapping[str, Any]) -> list[Array]:
        """The `inout` and `out` ports, in order; ``arguments`` by name. Raises ExecutionError."""
        for port in self.plan.ports:
            tensor = self.plan.tensors[port.tensor]
            shadow = self.scalars.poison(tensor.nbytes)
            if port.direction != "out":
                values = np.asarray(arguments[port.name]).reshape(-1)
                shadow[:: port.dtype.itemsize] = self.scalars.store(values, port.dtype)
            self.ports.append(shadow)
        self._steps(self.plan.steps, ())
        return [self._result(n) for n, p in enumerate(self.plan.ports) if p.direction != "in"]

    def _result(self, number: int) -> Array:
        port = self.plan.ports[number]
        words = np.ascontiguousarray(self.ports[number][:: port.dtype.itemsize])
        return self.scalars.load(words, port.dtype).reshape(port.shape)

    def _steps(self, steps: Sequence[Step], counters: tuple[int, ...]) -> None:
        for step in steps:
            step.case(
                partial(self._launch, counters=counters), partial(self._repeat, counters=counters)
            )

    def _repeat(self, repeat: Repeat, counters: tuple[int, ...]) -> None:
        for trip in range(repeat.trips):
            if repeat.counter_cell is not None:
                cell = self._words(self.plan.tensors[repeat.counter_cell])[:1]
                cell[:] = self.scalars.store(np.asarray([trip], np.int64), DType.I64)
            self._steps(repeat.body, (*counters, trip))

    def _launch(self, launch: Launch, counters: tuple[int, ...]) -> None:
        kernel = self.plan.kernels[launch.kernel]
        named = kernel.bound
        views, read, own = [], [], []
        for buffer, argument in zip(named, launch.arguments, strict=True):
            tensor = self.plan.tensors[argument.tensor]
            words = self._words(tensor)
            size = buffer.dtype.itemsize
            start = resolve(argument, counters) * size
            end = start + buffer.size * size
            if start < 0 or end > words.size:
                raise ExecutionError(f"{kernel.name}: {buffer.name} lies outside its tensor")
            part = words[start:end]
            if buffer.access != "write":
                read.append(part)
            elif argument.tensor in self.private and tensor.space == "arena":
                own.append(part)
            views.append(part[::size])
        for part in own:
            # Nobody else reads it: an accumulator that is not cleared must not find a zero by luck.
            # What shares its storage with an operand finds that there.
            if not any(np.shares_memory(part, other) for other in read):
                part[:] = self.scalars.poison(part.size)
        execute_kernel(kernel, views, self.scalars)

    def _words(self, tensor: Tensor) -> Array:
        if tensor.space == "argument":
            return self.ports[tensor.argument or 0]
        if tensor.offset is None or tensor.offset + tensor.nbytes > self.arena.size:
            raise ExecutionError(f"{tensor.name} does not lie in the arena")
        return self.arena[tensor.offset : tensor.offset + tensor.nbytes]


def _private(steps: Sequence[Step]) -> set[int]:
    """Tensors that one launch alone has to do with, as one argument: its own room."""
    counts: Counter[int] = Counter()
    for step in steps:
        for launch, _ in step.walk():
            counts.update(argument.tensor for argument in launch.arguments)
    return {number for number, count in counts.items() if count == 1}


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which results of the Plan differ from the tensor program's; ``fault`` if it could not run at
    all.
    """

    differing: tuple[str, ...]
    fault: str
    points: int


@dataclass(frozen=True)
class PlanProgram:
    """A Plan as another way to compute what ``function`` does. Running it raises ExecutionError."""

    function: Function
    plan: Plan

    @property
    def results(self) -> tuple[Slot, ...]:
        return self.function.results

    def run(self, domain: NumpyArrays, values: Sequence[Any]) -> list[Any]:
        """The function's results at ``values``; None for one that the Plan has no port for."""
        arguments = {s.name: x for s, x in zip(self.function.parameters, values, strict=True)}
        with domain.quiet():
            found = ShadowRun(self.plan, words_of(domain)).run(arguments)
        ports = [p for p in self.plan.ports if p.direction != "in"]
        known = {f"{p.role.value} {p.name}": x for p, x in zip(ports, found, strict=True)}
        return [known.get(key(slot)) for slot in self.results]


def compare_plan(function: Function, plan: Plan, seed: int, points: int) -> Kernels:
    """The Plan's results against those of the tensor program it was made from."""

    program = PlanProgram(function, plan)

    def test(at: Point) -> list[str]:
        expected = run(at.domain, function, at.values)
        rows = zip(function.results, expected, program.run(at.domain, at.values), strict=True)
        return [key(slot) for slot, x, y in rows if y is None or not np.array_equal(x, y)]

    try:
        per_point = at_points(function, seed, points, test)
    except ExecutionError as fault:
        return Kernels((), str(fault), 0)
    return Kernels(tuple(dict.fromkeys(n for one in per_point for n in one)), "", points)


def bounded_plan(function: Function, plan: Plan, seed: int) -> Bound:
    """The error with which the Plan could differ from its tensor program all the same, guards left
    open.
    """

    program = PlanProgram(function, plan)

    def test(at: FreePoint) -> list[str]:
        expected = run(at.domain, function, at.values)
        rows = zip(function.results, expected, program.run(at.domain, at.values), strict=True)
        return [key(slot) for slot, x, y in rows if not np.array_equal(values(x), values(y))]

    return bound(function, seed, test)
