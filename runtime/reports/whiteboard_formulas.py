"""The formulas of a whiteboard, each computed from its notation and compared before it is shown.

Points: the arrays at hand, those a little moved, and random ones, all in float64. A formula that
has the value of what it stands for wherever that is finite is shown; else the next candidate is
tried, and in the end what cannot be wrong: the user's own text for a step, the transposed Jacobian
matrix for a message.

Non-goals: values and tables (``whiteboard``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.codegen.symbolic.formulas import notation as n
from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.expand import Reader, is_readable, is_said
from gradc.codegen.symbolic.formulas.fold import Definition, Folder
from gradc.codegen.symbolic.formulas.notation_value import (
    UNREADABLE,
    Lazy,
    Names,
    agrees,
    is_near,
    value_of,
)
from gradc.codegen.symbolic.formulas.print import Writer
from gradc.ir.diagnostics.source import Sources
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import has_pullback
from gradc.ir.tensor.core import DType, Function, Op, Role, Value
from gradc.passes.differentiate.trace import Contribution, Traced
from gradc.runtime.native.arrays import Array
from gradc.runtime.reports.whiteboard_steps import LIBRARY, Steps, own_place, spoken, text_at

_FEW_STATES = 40


@dataclass(frozen=True, slots=True)
class Message:
    """What comes back over one use of a value: ``poly`` at ``at``, by ``notation``; the use is by
    the step ``end``.
    """

    end: str
    parts: tuple[Contribution, ...]
    at: tuple[int, ...]
    poly: it.Poly
    notation: n.Notation
    slope: n.Notation | None
    slope_value: Array | None


@dataclass(frozen=True, slots=True)
class _Point:
    """All values of the joint program at one set of arrays."""

    values: Mapping[Value, Array]


def run_at(function: Function, operands: Sequence[Array]) -> dict[Value, Array]:
    """Every value of ``function`` in float64, by the reference interpreter."""
    found: dict[Value, Array] = {}

    def observe(op: Op, results: Sequence[Any]) -> None:
        for value, array in zip(op.results, results, strict=True):
            found[value] = np.asarray(array)

    found.update(zip(function.block.parameters, map(np.asarray, operands), strict=True))
    run(NumpyArrays(DType.F64), function, list(operands), observe)
    return found


class Board:
    """Finds the formulas of one joint program."""

    def __init__(
        self, steps: Steps, traced: Traced, given: Mapping[str, Array], sources: Sources
    ) -> None:
        self.steps = steps
        self.traced = traced
        self.sources = sources
        self.assumptions: dict[str, None] = {}
        self.notes: list[str] = []
        self.producers = {r: op for op in traced.function.block.body for r in op.results}
        self.primal = {r: op for op in traced.primal.block.body for r in op.results}
        self.readers: dict[Value, list[Op]] = {}
        for op in traced.primal.block.body:
            for value in dict.fromkeys(op.operands):
                self.readers.setdefault(value, []).append(op)
        block = traced.primal.block
        self.loss = next(
            v
            for v, s in zip(block.outputs, traced.primal.results, strict=True)
            if s.role is Role.LOSS
        )
        self.atoms = dict(steps.names)
        for value, name in steps.names.items():
            ct = traced.of.get(value)
            if ct is not None and value is not self.loss and value in self.primal:
                self.atoms[ct] = steps.mark + name
        self.known: dict[Value, str] = {}
        self.words: dict[str, n.Notation] = {}
        self.word_parts: dict[str, tuple[Contribution, ...]] = {}
        self.writer = Writer(words=self.words)
        self.targets = _targets(traced.primal, given)
        self.points = self._points(given)
        self.definitions = [
            Definition(
                steps.names[v], *Reader(self.producers, steps.names).formula(v, through=True)
            )
            for v, op in steps.results
            if _is_distribution(op, self.producers)
        ]

    def _reader(self, atoms: Mapping[Value, str] | None = None) -> Reader:
        return Reader(self.producers, self.atoms if atoms is None else atoms, known=self.known)

    # --- points

    def _points(self, given: Mapping[str, Array]) -> list[_Point]:
        rng = np.random.default_rng(11)
        moved = {name: _moved(a, rng) for name, a in given.items()}
        drawn = {name: _drawn(a, rng) for name, a in given.items()}
        found = []
        for arrays in (given, moved, drawn):
            held = {k: _normalised(a) if k in self.targets else a for k, a in arrays.items()}
            found.append(_Point(run_at(self.traced.function, list(held.values()))))
        return found

    def _is_right(self, equation: n.Notation, parts: Sequence[Value], reader: Reader) -> bool:
        """Whether the right side is the sum of ``parts`` at every point where that is finite, and
        at one at least.
        """
        tried = 0
        for point in self.points:
            expected = _total(point.values, parts)
            if not np.all(np.isfinite(expected)):
                continue
            if not agrees(equation, expected, self._names(point, reader)):
                return False
            tried += 1
        return tried > 0

    def _names(self, point: _Point, reader: Reader) -> Names:
        sources: dict[str, Sequence[Value]] = {}
        for value, name in (*self.steps.names.items(), *self.known.items(), *reader.atoms.items()):
            if value in point.values:
                sources[name] = (value,)
        for word, parts in self.word_parts.items():
            sources[word] = [part.value for part in parts]
        return Names(Lazy(sources, lambda values: _total(point.values, values)))

    # --- candidates

    def _shown(
        self,
        name: str,
        at: tuple[int, ...],
        poly: it.Poly,
        reader: Reader,
        parts: Sequence[Value],
    ) -> n.Notation | None:
        """``name = poly`` as short as it is right, or None."""
        own = it.single(it.Ref(name, at))
        tried: list[n.Notation] = []
        for short, presumed in self._shortened(poly):
            if short == own:
                continue
            for write in (self.writer.equation, self.writer.by_index):
                equation = write(name, at, short)
                if equation in tried:
                    continue
                tried.append(equation)
                if self._is_right(equation, parts, reader):
                    self.assumptions.update(reader.assumptions)
                    self.assumptions.update(presumed)
                    return equation
        return None

    def _shortened(self, poly: it.Poly) -> Iterator[tuple[it.Poly, dict[str, None]]]:
        for definitions, targets in (
            (self.definitions, self.targets),
            (self.definitions, ()),
            ((), ()),
        ):
            folder = Folder(definitions, targets, most_states=_FEW_STATES)
            yield folder.shortest(poly), folder.assumptions
        yield poly, {}

    def _reads_well(self, reader: Reader, poly: it.Poly) -> bool:
        """Whether all that ``poly`` is written with has a name or is an op on names."""
        text = repr(poly)
        return all(
            is_said(self.producers.get(value), self.atoms, name)
            for value, name in reader.opaque.items()
            if f"name={name!r}" in text
        )

    # --- forward

    def definition(self, value: Value, op: Op) -> n.Notation:
        """The step that makes ``value``: a formula, else the user's own text."""
        name = self.steps.names[value]
        reader = self._reader()
        at, poly = reader.formula(value, through=True)
        if self._reads_well(reader, poly) and is_readable(op):
            found = self._shown(name, at, poly, reader, [value])
            if found is not None:
                return found
        return n.Equation(n.Name(name), n.Name(spoken(text_at(self.sources, own_place(op.span)))))

    # --- backward

    def messages(self, value: Value) -> tuple[Message, ...]:
        """What comes back to ``value``, use by use; uses inside a library function count as one."""
        groups: dict[object, list[Contribution]] = {}
        for number, part in enumerate(self.traced.parts.get(value, ())):
            op = self.primal.get(part.through[0]) if part.through else None
            if op is None:
                continue
            is_library = op.span is not None and op.span.file.startswith(LIBRARY)
            key: object = number
            if is_library:
                key = ("step", self.steps.step_of.get(op))
            elif len(set(op.operands)) < len(op.operands) and self._is_power(op):
                key = ("power", part.through)
            groups.setdefault(key, []).append(part)
        return tuple(self.message(value, tuple(parts)) for parts in groups.values())

    def _is_power(self, op: Op) -> bool:
        """Whether a product of a value with itself is written as a power: one use."""
        return "^" in text_at(self.sources, own_place(op.span))

    def _ends(self, through: Sequence[Value]) -> list[Value]:
        """The named values that a derivative comes back from through these results."""
        found: dict[Value, None] = {}
        pending, seen = list(through), set[Value]()
        while pending:
            here = pending.pop(0)
            if here in seen:
                continue
            seen.add(here)
            if here in self.steps.names:
                found[here] = None
            else:
                pending += [r for op in self.readers.get(here, ()) for r in op.results]
        return [v for v in found if v in self.traced.of]

    def message(self, value: Value, parts: tuple[Contribution, ...]) -> Message:
        """What ``parts`` bring back to ``value`` together."""
        ends = self._ends([v for part in parts for v in part.through])
        name, values = self.steps.names[value], [p.value for p in parts]
        end = self.steps.names[ends[-1]] if ends else ""
        reader = self._reader()
        at = tuple(
            it.UNIT if size == 1 else i for i, size in enumerate(value.type.static_shape, 10**6)
        )
        poly = it.plus(*(reader.read(v, at) for v in values))
        called = self.steps.mark + name
        notation = None
        if self._reads_well(reader, poly):
            notation = self._shown(called, at, poly, reader, values)
        if notation is None:
            return self._opaque(name, parts, ends, end, at)
        slope, numbers = self._slope(value, ends, values, at) if len(ends) == 1 else (None, None)
        return Message(end, parts, at, poly, notation, slope, numbers)

    def _opaque(
        self,
        name: str,
        parts: tuple[Contribution, ...],
        ends: Sequence[Value],
        end: str,
        at: tuple[int, ...],
    ) -> Message:
        """A message that has no formula of its own: the transposed Jacobian matrix times the
        cotangent.
        """
        word = f"@{len(self.words)}"
        mark, names = self.steps.mark, [self.steps.names[v] for v in ends]
        is_curly = mark != n.COTANGENT
        shown = tuple((n.Slope(by, name, is_curly), mark + by) for by in names)
        ops = [self.primal[v] for part in parts for v in part.through if v in self.primal]
        self.words[word] = through = n.Through(shown, word, any(has_pullback(op) for op in ops))
        self.word_parts[word] = parts
        equation = n.Equation(n.Name(mark + name), through)
        return Message(end, parts, at, it.single(it.Ref(word, at)), equation, None, None)

    def _slope(
        self, value: Value, ends: Sequence[Value], parts: Sequence[Value], at: tuple[int, ...]
    ) -> tuple[n.Notation | None, Array | None]:
        """``d end / d value`` where the step works element by element, and its numbers."""
        (end,) = ends
        own = self.steps.mark + self.steps.names[end]
        ct = self.traced.of[end]
        reader = self._reader({**self.atoms, ct: own})
        poly = it.plus(*(reader.read(v, at) for v in parts))
        if end.type.rank != 0 and value.type != end.type:
            return None, None
        place = at if end.type.rank else ()
        for short, _ in self._shortened(poly):
            divided = _without(short, it.Ref(own, place))
            if divided is None:
                continue
            for write in (self.writer.equation, self.writer.by_index):
                equation = write(self.steps.names[value], at, divided)
                numbers = self._slope_numbers(equation, value, ct, parts, reader)
                if numbers is not None:
                    assert isinstance(equation, n.Equation)
                    is_curly = self.steps.mark != n.COTANGENT
                    left: n.Notation = n.Slope(
                        self.steps.names[end], self.steps.names[value], is_curly
                    )
                    if isinstance(equation.left, n.Indexed):
                        left = n.Indexed(left, equation.left.at)
                    return n.Equation(left, equation.right), numbers
        return None, None

    def _slope_numbers(
        self,
        equation: n.Notation,
        value: Value,
        ct: Value,
        parts: Sequence[Value],
        reader: Reader,
    ) -> Array | None:
        """The slope at the arrays at hand, if times the cotangent it is the message at every
        point.
        """
        assert isinstance(equation, n.Equation)
        first: Array | None = None
        tried = 0
        for point in self.points:
            try:
                found = value_of(equation, value.type.static_shape, self._names(point, reader))
            except UNREADABLE:
                return None
            if found is None:
                return None
            first = found if first is None else first
            expected = _total(point.values, parts)
            if np.all(np.isfinite(expected)):
                tried += 1
                if not is_near(found * point.values[ct], expected):
                    return None
        return first if tried else None

    def cotangent(self, value: Value, messages: Sequence[Message]) -> n.Notation:
        """The sum of the messages."""
        name, ct = self.steps.mark + self.steps.names[value], self.traced.of[value]
        reader = self._reader()
        if value is self.loss and not messages:
            return n.Equation(n.Name(name), n.Num("1"))
        if ct not in self.producers or not messages:
            return n.Equation(n.Name(name), n.Num("0"))
        if len(messages) == 1:
            return messages[0].notation
        at = messages[0].at
        poly = it.plus(*(m.poly for m in messages))
        if value is self.loss:
            poly = it.plus(it.ONE, poly)
        found = self._shown(name, at, poly, reader, [ct])
        if found is not None:
            return found
        rights = [m.notation.right for m in messages if isinstance(m.notation, n.Equation)]
        return n.Equation(n.Name(name), n.Sum(tuple((1, right) for right in rights)))


def _total(values: Mapping[Value, Array], parts: Sequence[Value]) -> Array:
    total = values[parts[0]]
    for part in parts[1:]:
        total = total + values[part]
    return np.asarray(total)


def _targets(function: Function, given: Mapping[str, Array]) -> list[str]:
    """Floating inputs that are distributions here: rows that sum to 1."""
    found = []
    for slot in function.parameters:
        array = np.asarray(given[slot.name])
        is_wide = array.dtype.kind == "f" and array.ndim > 0 and array.size > 0
        if slot.role is not Role.INPUT or not is_wide:
            continue
        if np.allclose(array.sum(axis=-1), 1.0, rtol=0, atol=1e-6):
            found.append(slot.name)
    return found


def _moved(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    return np.asarray(array + 0.05 * rng.standard_normal(array.shape))


def _drawn(array: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.uniform(0.2, 0.9, array.shape)) if array.dtype.kind == "f" else array


def _normalised(array: Array) -> Array:
    positive = np.abs(array)
    return np.asarray(positive / positive.sum(axis=-1, keepdims=True))


def _is_distribution(op: Op, producers: Mapping[Value, Op]) -> bool:
    """Whether ``op`` divides exponentials by their sum: the one name that derivatives are written
    with.
    """
    above = producers.get(op.operands[0]) if op.name == "div" else None
    return above is not None and above.name == "exp"


def _without(poly: it.Poly, ct: it.Ref) -> it.Poly | None:
    """``poly`` over ``ct``, if every term has it as a factor and nowhere else."""
    terms = []
    for term in poly:
        factors = dict(term.factors)
        if factors.pop(ct, None) != 1 or any(_mentions(b, ct.name) for b in factors):
            return None
        terms.append((it.monomial(term.coefficient, factors.items()),))
    return it.plus(*terms)


def _mentions(base: it.Base, name: str) -> bool:
    return f"name={name!r}" in repr(base)
