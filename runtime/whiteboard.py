"""The whiteboard: a program's forward and backward tables, with values, as one writes them by hand.

One row is one step of the user's text: its name (or ``v1``, ``v2``, ... where the text gives none), its formula, its
local derivatives and its value; then, in reverse, every cotangent with the chain rule that makes it and its value.
What the standard library does inside counts as one step: softmax cross-entropy is one row, and its derivative is found
as p - y, not looked up.

Values are computed by the reference interpreter in float64, from the joint program that the compiler differentiates.
Formulas come out of that program too (``codegen.symbolic``). Rolled loops are one step.

Non-goals: how tables look (``whiteboard_show``); formulas of the whole gradient (``formulas``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from gradc.codegen.symbolic import index_terms as it
from gradc.codegen.symbolic.index_expand import Reader
from gradc.codegen.symbolic.index_fold import Definition, Folder
from gradc.codegen.symbolic.index_print import Writer
from gradc.codegen.symbolic.notation import (
    COTANGENT,
    Equation,
    Indexed,
    Name,
    Notation,
    Slope,
    plain_name,
)
from gradc.frontend.models import ModelIR
from gradc.frontend.values import Named
from gradc.ir.core import DType, Function, Op, Role, Span, Value
from gradc.ir.domains import NumpyArrays
from gradc.ir.interpret import run
from gradc.ir.source import Sources
from gradc.passes.differentiate_trace import Traced, traced_gradient, traced_tangent
from gradc.passes.rewrite import copy_ops, with_ops
from gradc.runtime.arrays import Array

if TYPE_CHECKING:
    from gradc.runtime.model import Model

LIBRARY = "stdlib/"
_SILENT = ("constant", "iota", "broadcast", "reshape", "transpose", "cast", "stop_gradient")
_FEW_STATES = 40
_MOST_ROWS = 400


@dataclass(frozen=True, slots=True)
class Row:
    """One step. ``source`` is the user's text, ``local`` its derivatives, ``scope`` the layer instance.

    ``reads`` are the names of the values that it is computed from.
    """

    name: str
    equation: Notation
    source: str
    local: tuple[Notation, ...]
    value: Array
    place: Span | None
    scope: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gradient:
    """One cotangent on the way back: its name, the chain rule that makes it, its value."""

    name: str
    of: str
    equation: Notation
    value: Array
    place: Span | None
    scope: str
    is_asked: bool


@dataclass(frozen=True, slots=True)
class Tangent:
    """One row of forward mode: a value and its derivative along the seed."""

    name: str
    value: Array
    tangent: Array


@dataclass(frozen=True, slots=True)
class Whiteboard:
    """All tables of one model at one set of arrays. ``given`` are the parameters and inputs."""

    model: str
    given: Mapping[str, Array]
    forward: tuple[Row, ...]
    backward: tuple[Gradient, ...]
    tangents: tuple[Tangent, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    function: Function

    @property
    def gradients(self) -> dict[str, Array]:
        """The gradients asked for, by name."""
        return {g.of: g.value for g in self.backward if g.is_asked}

    def row(self, name: str) -> Row:
        """The step called ``name``. Raises KeyError."""
        for row in self.forward:
            if row.name == name:
                return row
        raise KeyError(name)

    def cotangent(self, name: str) -> Gradient:
        """The cotangent of ``name``. Raises KeyError."""
        for gradient in self.backward:
            if gradient.of == name:
                return gradient
        raise KeyError(name)


@dataclass
class Steps:
    """A function cut into steps: which op belongs to which step, and what the steps' values are called."""

    function: Function
    names: dict[Value, str]
    step_of: dict[Op, int]
    results: list[tuple[Value, Op]] = field(default_factory=list)


def explain(
    model: Model,
    params: Mapping[str, Array],
    inputs: Mapping[str, Array],
    *,
    wrt: Sequence[str] | None = None,
    tangent: Mapping[str, Array] | None = None,
    training: bool = True,
) -> Whiteboard:
    """The whiteboard of ``model`` at these arrays.

    Args:
        wrt: whose gradients are asked for; by default the parameters, or the inputs of a model without any.
        tangent: a direction for forward mode, by name.
    """
    shapes = {name: np.shape(array) for name, array in inputs.items()}
    ir = model.lower(model.bind(shapes), training)
    function, names = without_checkpoints(ir)
    chosen = tuple(wrt) if wrt is not None else model.select("params") or model.select("inputs")
    steps = cut(function, names)
    traced = traced_gradient(function, chosen)
    given = {s.name: _float64(params, inputs, s.name) for s in function.parameters}
    board = _Board(steps, traced, given, model.program.report.sources)
    forward = board.forward()
    backward = board.backward(chosen)
    tangents = board.tangents(tangent) if tangent else ()
    notes = []
    if len(steps.results) > _MOST_ROWS:
        notes.append(f"{len(steps.results)} steps; the first and last {_MOST_ROWS // 2} are shown")
    return Whiteboard(
        ir.name,
        {n: a for n, a in given.items() if n != "rng"},
        forward,
        backward,
        tangents,
        tuple(board.assumptions),
        tuple(notes),
        function,
    )


def _float64(params: Mapping[str, Array], inputs: Mapping[str, Array], name: str) -> Array:
    array = np.asarray(params[name] if name in params else inputs[name])
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def without_checkpoints(ir: ModelIR) -> tuple[Function, dict[Value, Named]]:
    """The model with what its checkpoints run in their place, and the names that its values have."""
    names = dict(ir.names)
    ops: list[Op] = []
    mapping: dict[Value, Value] = {}
    pending = list(reversed(ir.function.block.body))
    while pending:
        op = pending.pop()
        if op.name != "checkpoint":
            (copy,) = copy_ops([op], mapping) if mapping else (op,)
            ops.append(copy)
            names.update(
                {b: names[a] for a, b in zip(op.results, copy.results, strict=True) if a in names}
            )
            continue
        region = op.regions[0]
        inner = {p: mapping.get(v, v) for p, v in zip(region.parameters, op.operands, strict=True)}
        copies = copy_ops(region.body, inner)
        names.update({inner[v]: n for v, n in ir.names.items() if v in inner})
        mapping.update(
            {r: inner.get(v, v) for r, v in zip(op.results, region.outputs, strict=True)}
        )
        names.update({mapping[r]: names[r] for r in op.results if r in names})
        pending += reversed(copies)
    outputs = [mapping.get(v, v) for v in ir.function.block.outputs]
    return with_ops(ir.function, ops, outputs), names


# --- steps and their names


def own_place(span: Span | None) -> Span | None:
    """The innermost place in the user's own text."""
    while span is not None and span.file.startswith(LIBRARY):
        span = span.caller
    return span


def cut(function: Function, names: Mapping[Value, Named]) -> Steps:
    """Steps: runs of ops that come from one place of the user's text; views and constants join their readers."""
    step_of: dict[Op, int] = {}
    numbers = count()
    current, previous = -1, None
    for op in function.block.body:
        key = (own_place(op.span), op.scope, op.replica)
        if op.name in _SILENT and key[0] == op.span and op.results[0] not in names:
            continue
        if key != previous:
            current, previous = next(numbers), key
        step_of[op] = current
    readers: dict[Value, Op] = {}
    for op in reversed(function.block.body):
        if op not in step_of and op.results[0] in readers:
            reader = readers[op.results[0]]
            if reader in step_of:
                step_of[op] = step_of[reader]
        readers.update(dict.fromkeys(op.operands, op))
    steps = Steps(function, {}, step_of)
    taken = set()
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        steps.names[value] = slot.name
        taken.add(slot.name)
    _name_results(steps, names, taken)
    return steps


def _name_results(steps: Steps, names: Mapping[Value, Named], taken: set[str]) -> None:
    """Names what leaves each step: as the user did, else the loss ``L``, else ``v1``, ``v2``, ..."""
    function = steps.function
    used_by: dict[Value, set[int]] = {}
    readers: dict[Value, list[Op]] = {}
    for op in function.block.body:
        for value in op.operands:
            used_by.setdefault(value, set()).add(steps.step_of.get(op, -1))
            readers.setdefault(value, []).append(op)
    slots = dict(zip(function.block.outputs, function.results, strict=True))
    numbers = count(1)
    for op in function.block.body:
        step = steps.step_of.get(op)
        for value in op.results:
            named = names.get(value)
            is_own = named is not None and not named.is_library
            leaves = value in slots or bool(used_by.get(value, set()) - {step})
            is_view = op.name in _SILENT and not is_own
            if not is_own and value not in slots and _is_weighted_sum(value, op, readers):
                steps.step_of[op] = steps.step_of.get(readers[value][0], -1)
                continue
            if value in steps.names or not (
                is_own or (leaves and step is not None and not is_view)
            ):
                continue
            slot = slots.get(value)
            if is_own and named is not None:
                scope = f"{named.scope}." if named.scope and named.depth > 1 else ""
                wanted = f"{scope}{named.text}"
            elif slot is not None and slot.role in (Role.LOSS, Role.OUTPUT):
                wanted = "L" if slot.role is Role.LOSS else slot.name
            elif not value.type.dtype.is_float:
                continue
            else:
                wanted = next(n for i in numbers if (n := f"v{i}") not in taken)
            steps.names[value] = _unused(wanted, taken)
            steps.results.append((value, op))


def _is_weighted_sum(value: Value, op: Op, readers: Mapping[Value, Sequence[Op]]) -> bool:
    """The product of a dense layer before its bias is added: nobody writes that down by itself."""
    after = readers.get(value, ())
    return op.name == "contract" and len(after) == 1 and after[0].name == "add"


def _unused(wanted: str, taken: set[str]) -> str:
    name = next(n for i in count(1) if (n := wanted if i == 1 else f"{wanted}#{i}") not in taken)
    taken.add(name)
    return name


# --- tables


class _Board:
    """What the tables are written from."""

    def __init__(
        self, steps: Steps, traced: Traced, given: Mapping[str, Array], sources: Sources
    ) -> None:
        self.steps = steps
        self.traced = traced
        self.given = given
        self.sources = sources
        self.assumptions: dict[str, None] = {}
        self.producers = {r: op for op in traced.function.block.body for r in op.results}
        self.atoms = dict(steps.names)
        # A cotangent that several values share is called after the one that the user named, else the first.
        parameters = set(steps.function.block.parameters)
        seeds = [traced.of.get(v) for v, n in steps.names.items() if n == "L"]
        by_rank = sorted(steps.names.items(), key=lambda item: is_made_up(item[1]))
        for value, name in by_rank:
            ct = traced.of.get(value)
            if ct is None or value in parameters or ct not in self.producers or ct in seeds:
                continue
            self.atoms.setdefault(ct, COTANGENT + name)
        self.values = self._evaluate(traced.function, list(given.values()))
        self.writer = Writer()
        self.definitions: list[Definition] = []
        for value, op in steps.results:
            if _is_distribution(op, self.producers):
                at, poly = Reader(self.producers, steps.names).formula(value, through=True)
                self.definitions.append(Definition(steps.names[value], at, poly))

    def _evaluate(self, function: Function, operands: Sequence[Array]) -> dict[Value, Array]:
        wanted = set(self.steps.names) | set(self.traced.of.values()) | set(self.traced.of)
        found: dict[Value, Array] = {}

        def observe(op: Op, results: Sequence[Any]) -> None:
            for value, array in zip(op.results, results, strict=True):
                if value in wanted:
                    found[value] = np.asarray(array)

        parameters = function.block.parameters
        found.update({v: np.asarray(a) for v, a in zip(parameters, operands, strict=True)})
        run(NumpyArrays(DType.F64), function, list(operands), observe)
        return found

    def _shown(self) -> list[tuple[Value, Op]]:
        results = self.steps.results
        if len(results) <= _MOST_ROWS:
            return results
        half = _MOST_ROWS // 2
        return [*results[:half], *results[-half:]]

    def _short(self, reader: Reader, poly: it.Poly) -> it.Poly:
        folder = Folder(self.definitions, self._distributions(), most_states=_FEW_STATES)
        found = folder.shortest(poly)
        self.assumptions.update(reader.assumptions)
        self.assumptions.update(folder.assumptions)
        return found

    def _distributions(self) -> list[str]:
        slots = self.steps.function.parameters
        return [
            s.name
            for s, v in zip(slots, self.steps.function.block.parameters, strict=True)
            if s.role is Role.INPUT and v.type.dtype.is_float
        ]

    def _equation(self, name: str, value: Value) -> Notation:
        reader = Reader(self.producers, self.atoms)
        at, poly = reader.formula(value, through=True)
        short = self._short(reader, poly)
        if short == it.single(it.Ref(name, at)):
            # A definition is not shortened by itself.
            short = Folder((), most_states=_FEW_STATES).shortest(poly)
        return self.writer.equation(name, at, short)

    def forward(self) -> tuple[Row, ...]:
        """Every step in order."""
        local = self._local_derivatives()
        rows = []
        for value, op in self._shown():
            place = own_place(op.span)
            rows.append(
                Row(
                    self.atoms[value],
                    self._equation(self.atoms[value], value),
                    text_at(self.sources, place),
                    tuple(local.get(value, ())),
                    self.values[value],
                    place,
                    op.scope,
                    self._reads(op),
                )
            )
        return tuple(rows)

    def _reads(self, op: Op) -> tuple[str, ...]:
        """The nearest values with a name that ``op`` is computed from."""
        found: dict[str, None] = {}
        pending, seen = list(reversed(op.operands)), set[Value]()
        while pending:
            value = pending.pop()
            name = self.steps.names.get(value)
            if name is not None:
                found[name] = None
            elif value in self.producers and value not in seen:
                seen.add(value)
                pending += reversed(self.producers[value].operands)
        return tuple(found)

    def backward(self, asked: Sequence[str]) -> tuple[Gradient, ...]:
        """Every cotangent, last step first; then those asked for."""
        rows = []
        written: dict[Value, str] = {}
        for value, op in reversed(self._shown()):
            if value in self.traced.of:
                rows.append(self._gradient(value, own_place(op.span), op.scope, written))
        function = self.traced.primal
        for slot, value in zip(function.parameters, function.block.parameters, strict=True):
            if slot.name in asked:
                rows.append(self._gradient(value, slot.span, "", None))
        return tuple(rows)

    def _gradient(
        self, value: Value, place: Span | None, scope: str, written: dict[Value, str] | None
    ) -> Gradient:
        """One row; the first value that a cotangent belongs to gets its formula, the others that one's name."""
        name, ct = self.atoms[value], self.traced.of[value]
        called = COTANGENT + name
        known = self.atoms.get(ct) if written is None else written.get(ct)
        if written is not None:
            written.setdefault(ct, called)
        equation: Notation
        if known is not None and known != called:
            equation = Equation(Name(called), Name(known))
        else:
            equation = self._equation(called, ct)
        array = self.values.get(ct, np.zeros(value.type.static_shape))
        return Gradient(plain_name(called), name, equation, array, place, scope, written is None)

    def _local_derivatives(self) -> dict[Value, list[Notation]]:
        """Per step the derivatives of its value by what it reads, found in the adjoint."""
        last_of_step = {self.steps.step_of.get(op): value for value, op in self.steps.results}
        makers = {r: op for op in self.traced.primal.block.body for r in op.results}
        found: dict[Value, list[Notation]] = {}
        for operand, name in self.steps.names.items():
            by_step: dict[Value, list[Value]] = {}
            for part in self.traced.parts.get(operand, ()):
                op = makers.get(part.through[0]) if part.through else None
                result = last_of_step.get(self.steps.step_of.get(op)) if op is not None else None
                if result is not None and result is not operand:
                    by_step.setdefault(result, []).append(part.value)
            for result, parts in by_step.items():
                notation = self._local(name, operand, result, parts)
                if notation is not None:
                    found.setdefault(result, []).append(notation)
        return found

    def _local(
        self, name: str, operand: Value, result: Value, parts: Sequence[Value]
    ) -> Notation | None:
        """``d result / d operand`` where the map is elementwise, else what it adds to the cotangent."""
        own = COTANGENT + self.atoms[result]
        atoms = {v: n for v, n in self.atoms.items() if v not in parts or n == own}
        ct = self.traced.of.get(result)
        if ct is not None:
            atoms[ct] = own
        reader = Reader(self.producers, atoms)
        at = tuple(it.UNIT if n == 1 else i for i, n in enumerate(operand.type.static_shape, 10**6))
        poly = self._short(reader, it.plus(*(reader.read(v, at) for v in parts)))
        if result.type.rank == 0:
            divided = _without(poly, it.Ref(own, ()))
        else:
            divided = _without(poly, it.Ref(own, at)) if operand.type == result.type else None
        if divided is not None:
            found = self.writer.equation("", at, divided)
            return self._renamed(found, Slope(self.atoms[result], name), False)
        return self._renamed(self.writer.equation("", at, poly), Name(COTANGENT + name), True)

    @staticmethod
    def _renamed(equation: Notation, left: Notation, adds: bool) -> Notation:
        """An equation with another left side, the indices of its own kept."""
        assert isinstance(equation, Equation)
        if isinstance(equation.left, Indexed):
            left = Indexed(left, equation.left.at)
        return Equation(left, equation.right, adds)

    def tangents(self, direction: Mapping[str, Array]) -> tuple[Tangent, ...]:
        """Forward mode along ``direction``; what it does not name stays fixed."""
        function = self.steps.function
        traced = traced_tangent(function, list(direction))
        self.traced = traced
        seeds = [np.asarray(direction[n], np.float64) for n in direction]
        values = self._evaluate(traced.function, [*self.given.values(), *seeds])
        order = [s for s in function.parameters if s.name in direction]
        inputs = [function.parameter(s.name) for s in order]
        rows = []
        for value in (*inputs, *(v for v, _ in self._shown())):
            dot = traced.of.get(value)
            tangent = values.get(dot) if dot is not None else None
            if tangent is None:
                tangent = np.zeros_like(values[value], dtype=np.float64)
            rows.append(Tangent(self.steps.names[value], values[value], tangent))
        return tuple(rows)


def is_made_up(name: str) -> bool:
    """Whether ``name`` is one of ``v1``, ``v2``, ... that stand for values without a name."""
    return name.startswith("v") and name[1:].isdigit()


def _is_distribution(op: Op, producers: Mapping[Value, Op]) -> bool:
    """Whether ``op`` divides exponentials by their sum: the one name that derivatives are written with."""
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
    return it.plus(*terms) if terms else None


def _mentions(base: it.Base, name: str) -> bool:
    return f"name={name!r}" in repr(base)


def text_at(sources: Sources, span: Span | None) -> str:
    """The user's text at ``span``, its lines joined."""
    source = sources.get(span.file) if span is not None else None
    if source is None or span is None:
        return ""
    if span.end_line == span.line:
        return source.line(span.line)[span.column - 1 : span.end_column - 1]
    lines = [source.line(n).strip() for n in range(span.line + 1, span.end_line)]
    first = source.line(span.line)[span.column - 1 :]
    return " ".join([first, *lines, source.line(span.end_line)[: span.end_column - 1].strip()])
