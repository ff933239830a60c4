"""The loop nests that code is made of, run over a prime field, against the tensor program they come from.

``FieldScalars`` puts field elements where kernels compute with machine numbers; the arena is a shadow in which the
element at byte o stands at index o, whatever its width, so storage that is shared or reused too early shows as a wrong
residue. Everything between the tensor IR and the code generator takes part: fusion, loop forms, rolled loops, offsets.

Non-goals: what the code generator makes of a nest (measured, see ``prove_report.Accuracy``), rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.core import DType, Function
from gradc.ir.interpret import run
from gradc.ir.loops_execute import ExecutionError, Scalars, execute_kernel
from gradc.ir.loops_verbs import Array, apply_verb, combine, computed_dtype
from gradc.ir.plan import Launch, Plan, Repeat, Step, Tensor
from gradc.ir.plan_execute import resolve
from gradc.passes.prove_field import FieldArrays, add, is_field, matmul, mul
from gradc.passes.prove_free import Bound, Free, FreeArrays, FreePoint, bound, values
from gradc.passes.prove_passes import key, values_by_result
from gradc.passes.prove_point import Point, at_points

_WORD = np.dtype(np.uint64)
_OBJECT = np.dtype(object)


class FieldScalars(Scalars):
    """Field elements for floating numbers; integers and booleans are themselves. Memory is words of 64 bits."""

    def __init__(self, domain: FieldArrays) -> None:
        self.domain = domain
        self._poison = np.random.default_rng(domain.key & 0xFFFF)

    def poison(self, count: int) -> Array:
        """Words that nothing was written to: random elements, which no result survives."""
        words: Array = self.domain.random((count,), self._poison)
        return words

    def computed(self, dtype: DType) -> np.dtype[Any]:
        return _WORD if dtype.is_float else computed_dtype(dtype)

    def stored(self, dtype: DType) -> np.dtype[Any]:
        return _WORD

    def load(self, stored: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return stored
        return stored.view(np.int64).astype(computed_dtype(dtype))

    def store(self, values: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return values
        return np.asarray(values).astype(np.int64).view(np.uint64)

    def literal(self, value: Any, dtype: DType) -> Array:
        if dtype.is_float:
            return self.domain.element(float(value), dtype)
        return np.asarray(value, computed_dtype(dtype))

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        if name == "copy":
            return operands[0]
        if name == "cast" and (dtype.is_float or is_field(operands[0])):
            return np.asarray(self.domain.cast(operands[0], dtype))
        if any(is_field(x) for x in operands):
            return np.asarray(self.domain.verb(name, *operands))
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        if not (is_field(a) or is_field(b)):
            return combine(kind, a, b)
        found = {"add": add, "mul": mul}.get(kind)
        if found is not None:
            return found(a, b)
        return np.asarray(self.domain.verb(kind, a, b))

    def neutral(self, kind: str, dtype: DType) -> Array:
        if not dtype.is_float:
            return super().neutral(kind, dtype)
        value = {"add": 0.0, "mul": 1.0, "max": -np.inf, "min": np.inf}[kind]
        return self.literal(value, dtype)

    def product(self, left: Array, right: Array, dtype: DType) -> Array:
        return matmul(left, right)


class FreeWords(Scalars):
    """Free elements (``prove_free``) for floating numbers, and for guards that are left open. Memory holds objects."""

    def __init__(self, domain: FreeArrays) -> None:
        self.domain = domain
        self._reads = 0

    def poison(self, count: int) -> Array:
        """Words that nothing was written to."""
        return np.full(count, None, object)

    def computed(self, dtype: DType) -> np.dtype[Any]:
        return _OBJECT if dtype.is_float else computed_dtype(dtype)

    def stored(self, dtype: DType) -> np.dtype[Any]:
        return _OBJECT

    def load(self, stored: Array, dtype: DType) -> Array:
        # A single element taken out of an array of objects comes as itself.
        words = stored if isinstance(stored, np.ndarray) else self.domain.objects([stored], ())
        if any(x is None for x in words.reshape(-1)):
            flat = [self._unwritten(dtype) if x is None else x for x in words.reshape(-1)]
            words = self.domain.objects(flat, words.shape)
        if dtype.is_float or any(type(x) is Free for x in words.reshape(-1)):
            return words
        return words.astype(computed_dtype(dtype))

    def _unwritten(self, dtype: DType) -> Free | int:
        """What a read finds that nothing was written for: a variable of its own, which no result survives.

        Lanes that are switched off read as well. Integers are checked over the small field.
        """
        self._reads += 1
        return self.domain.scalars.atom(f"unwritten {self._reads}") if dtype.is_float else 0

    def store(self, values: Array, dtype: DType) -> Array:
        return np.asarray(values).astype(_OBJECT)

    def literal(self, value: Any, dtype: DType) -> Array:
        found: Array = self.domain.full(value, (), dtype)
        return found.astype(self.computed(dtype))

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        if name == "copy":
            return operands[0]
        if name == "cast" and (dtype.is_float or operands[0].dtype == _OBJECT):
            return np.asarray(self.domain.cast(operands[0], dtype))
        if any(x.dtype == _OBJECT for x in operands):
            return np.asarray(self.domain.verb(name, *operands))
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        if a.dtype != _OBJECT and b.dtype != _OBJECT:
            return combine(kind, a, b)
        return np.asarray(self.domain.verb(kind, a, b))

    def neutral(self, kind: str, dtype: DType) -> Array:
        if not dtype.is_float:
            return super().neutral(kind, dtype)
        return self.literal({"add": 0.0, "mul": 1.0, "max": -np.inf, "min": np.inf}[kind], dtype)

    def product(self, left: Array, right: Array, dtype: DType) -> Array:
        batch = [(n, n) for n in range(left.ndim - 2)]
        inner = [(left.ndim - 1, right.ndim - 2)]
        return np.asarray(self.domain.contract(left, right, batch, inner, dtype))


class ShadowRun:
    """One execution of a Plan over another domain."""

    def __init__(self, plan: Plan, scalars: FieldScalars | FreeWords) -> None:
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
            if isinstance(step, Launch):
                self._launch(step, counters)
            else:
                self._repeat(step, counters)

    def _repeat(self, repeat: Repeat, counters: tuple[int, ...]) -> None:
        for trip in range(repeat.trips):
            if repeat.counter_cell is not None:
                self._words(self.plan.tensors[repeat.counter_cell])[0] = trip
            self._steps(repeat.body, (*counters, trip))

    def _launch(self, launch: Launch, counters: tuple[int, ...]) -> None:
        kernel = self.plan.kernels[launch.kernel]
        named = [b for b in kernel.buffers if b.access != "scratch"]
        views = []
        for buffer, argument in zip(named, launch.arguments, strict=True):
            words = self._words(self.plan.tensors[argument.tensor])
            size = buffer.dtype.itemsize
            start = resolve(argument, counters) * size
            end = start + buffer.size * size
            if start < 0 or end > words.size:
                raise ExecutionError(f"{kernel.name}: {buffer.name} lies outside its tensor")
            tensor = self.plan.tensors[argument.tensor]
            is_own = argument.tensor in self.private and tensor.space == "arena"
            if is_own and buffer.access == "write":
                # Nobody else reads it: an accumulator that is not cleared must not find a zero by luck.
                words[start:end] = self.scalars.poison(end - start)
            views.append(words[start:end:size])
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
    stack = list(steps)
    while stack:
        step = stack.pop()
        if isinstance(step, Launch):
            counts.update(argument.tensor for argument in step.arguments)
        else:
            stack += step.body
    return {number for number, count in counts.items() if count == 1}


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which results of the Plan differ from the tensor program's; ``fault`` if it could not run at all."""

    differing: tuple[str, ...]
    fault: str
    points: int


def run_plan(plan: Plan, function: Function, at: Point | FreePoint) -> dict[str, Any]:
    """What ``plan`` computes at a point of ``function``'s parameters, by result. Raises ExecutionError and Open."""
    arguments = {s.name: x for s, x in zip(function.parameters, at.values, strict=True)}
    scalars = FreeWords(at.domain) if isinstance(at, FreePoint) else FieldScalars(at.domain)
    found = ShadowRun(plan, scalars).run(arguments)
    results = [p for p in plan.ports if p.direction != "in"]
    return {f"{p.role.value} {p.name}": x for p, x in zip(results, found, strict=True)}


def compare_plan(function: Function, plan: Plan, seed: int, points: int) -> Kernels:
    """The Plan's results against those of the tensor program it was made from."""

    def test(at: Point) -> list[str]:
        expected = values_by_result(function, at)
        found = run_plan(plan, function, at)
        names = [key(slot) for slot in function.results]
        return [n for n in names if n not in found or not np.array_equal(expected[n], found[n])]

    try:
        with np.errstate(all="ignore"):
            per_point = at_points(function, seed, points, test)
    except ExecutionError as fault:
        return Kernels((), str(fault), 0)
    return Kernels(tuple(dict.fromkeys(n for one in per_point for n in one)), "", points)


def bounded_plan(function: Function, plan: Plan, seed: int) -> Bound:
    """The error with which the Plan could differ from its tensor program all the same, guards left open."""

    def test(at: FreePoint) -> list[str]:
        expected = run(at.domain, function, at.values)
        found = run_plan(plan, function, at)
        pairs = ((key(slot), x) for slot, x in zip(function.results, expected, strict=True))
        return [n for n, x in pairs if not np.array_equal(values(x), values(found[n]))]

    return bound(function, seed, test)
