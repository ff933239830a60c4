"""The whiteboard: a program's forward and backward tables, with values, as one writes them by hand.

One row is one step of the user's text: its name (or ``v1``, ``v2``, ... where the text gives none),
its formula and its value; then, in reverse, every cotangent with the chain rule that makes it.
Between rows run edges, one for each use of a value: over it goes a message on the way back, the
cotangent of the step times the slope of the step by the value; the messages of a value add up to
its cotangent. What the standard library does inside counts as one step: softmax cross-entropy is
one row, and its derivative is found as p - y, not looked up.

Values are computed by the reference interpreter from the joint program that the compiler
differentiates: in float64, of a program in f16 or bf16 in its own types, since what vanishes there
is what one wants to see. Formulas come out of that program too (``codegen.symbolic``); each was
computed at several points before it got here (``whiteboard_formulas``). Where none is right, a step
is told in the user's own words, and a message as a transposed Jacobian matrix times a cotangent.
Loops are one step.

Non-goals: how tables look (``whiteboard_show``); formulas of the whole gradient (``formulas``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradc.codegen.symbolic.formulas.notation import Equation, Notation, plain_name
from gradc.frontend.model.models import ModelIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.diagnostics.source import Sources
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Op, Role, Span, Value
from gradc.passes.differentiate.jacobian import JacobianPlan, jacobian_plan
from gradc.passes.differentiate.trace import Contribution, Traced, traced_gradient, traced_tangent
from gradc.runtime.native.arrays import Array
from gradc.runtime.render.notebook import framed
from gradc.runtime.reports.whiteboard_formulas import Board, Message
from gradc.runtime.reports.whiteboard_steps import (
    Steps,
    cut,
    own_place,
    text_at,
    without_checkpoints,
)

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

_MOST_ROWS = 400
_HALF = ("f16", "bf16")
# How far the compiled gradient in float64 may be from the tables' one.
_CLOSE = 1e-7


@dataclass(frozen=True, slots=True)
class Made:
    """One op of a step: its name and the types of what it reads and makes."""

    name: str
    operands: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class BoardRow:
    """One step. ``source`` is the user's text, ``scope`` the layer instance.

    ``reads`` are the names of the values that it is computed from, ``ops`` what it is made of;
    ``local`` are its derivatives by what it reads, or what it adds to their cotangents where it
    does not work element by element.
    """

    name: str
    equation: Notation
    source: str
    local: tuple[Notation, ...]
    value: Array
    type: str
    place: Span | None
    scope: str
    reads: tuple[str, ...]
    ops: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """One use of the value ``start`` by the step ``end``.

    ``slope`` is the derivative of the step by the value, where the step works element by element.
    ``message`` is what comes back over this edge, ``sent`` its numbers; both are None where no
    derivative flows.
    """

    number: int
    start: str
    end: str
    slope: Notation | None = None
    slope_value: Array | None = None
    message: Notation | None = None
    sent: Array | None = None


@dataclass(frozen=True, slots=True)
class Gradient:
    """One cotangent on the way back: its name, the chain rule that makes it, its value.

    ``edges`` are the numbers of the edges whose messages add up to it; the loss has none, its
    cotangent is 1.
    """

    name: str
    of: str
    equation: Notation
    value: Array
    place: Span | None
    scope: str
    is_asked: bool
    edges: tuple[int, ...]


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
    precision: str
    given: Mapping[str, Array]
    forward: tuple[BoardRow, ...]
    edges: tuple[Edge, ...]
    backward: tuple[Gradient, ...]
    tangents: tuple[Tangent, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    function: Function

    def __repr__(self) -> str:
        asked = list(self.gradients)
        names = ", ".join(asked[:3]) + (f", ... ({len(asked)} in all)" if len(asked) > 3 else "")
        return f"<whiteboard of {self.model}: {len(self.forward)} steps, gradients of {names}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        # The page draws the graph; it is loaded where it is shown.
        from gradc.runtime.reports.whiteboard_html import whiteboard_page

        return framed(whiteboard_page(self))

    @property
    def gradients(self) -> dict[str, Array]:
        """The gradients asked for, by name."""
        return {g.of: g.value for g in self.backward if g.is_asked}

    @property
    def passes(self) -> JacobianPlan:
        """How many passes the gradients asked for take, and how many forward mode would."""
        (loss,) = (n for n, s in enumerate(self.function.results) if s.role is Role.LOSS)
        return jacobian_plan(self.function, list(self.gradients), loss, "reverse")

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return next((g.of for g in self.backward if not g.edges and not g.is_asked), "")

    def row(self, name: str) -> BoardRow:
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

    def messages(self, name: str) -> tuple[Edge, ...]:
        """The edges whose messages add up to the cotangent of ``name``."""
        return tuple(self.edges[n] for n in self.cotangent(name).edges)


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
        wrt: whose gradients are asked for; by default the parameters, or the inputs of a model
            without any.
        tangent: a direction for forward mode, by name.
    """
    shapes = {name: np.shape(array) for name, array in inputs.items()}
    dims = model.bind(shapes)
    ir = model.lower(dims, training)
    function, names = without_checkpoints(ir)
    chosen = tuple(wrt) if wrt is not None else model.select("params") or model.select("inputs")
    _refuse_many_results(function, chosen)
    steps = cut(function, names)
    traced = traced_gradient(function, chosen)
    given = {s.name: _float64(params, inputs, s.name) for s in function.parameters}
    tables = _Tables(steps, traced, given, model.program.report.sources, model.precision)
    backward, edges = tables.backward(chosen)
    forward = tables.forward()
    tangents = tables.tangents(tangent) if tangent else ()
    notes = list(tables.board.notes)
    if len(steps.results) > _MOST_ROWS:
        notes.append(f"{len(steps.results)} steps; the first and last {_MOST_ROWS // 2} are shown")
    found = Whiteboard(
        ir.name,
        model.precision,
        {n: a for n, a in given.items() if n != "rng"},
        forward,
        edges,
        backward,
        tangents,
        tuple(tables.board.assumptions),
        tuple(notes),
        function,
    )
    return _beside_compiled(found, model, ir, (params, inputs), chosen, training)


def _refuse_many_results(function: Function, wrt: Sequence[str]) -> None:
    """Raises DiagnosticError GC0521 where the result is an array: it has a Jacobian, and no
    gradient.
    """
    for number, (slot, value) in enumerate(
        zip(function.results, function.block.outputs, strict=True)
    ):
        if slot.role is Role.LOSS and value.type.shape != () and value.type.dtype.is_float:
            plan = jacobian_plan(function, wrt, number)
            help = f"its Jacobian takes {plan}: `net.jacobian({list(wrt)})` in Python"
            message = f"`{function.name}` has no scalar loss"
            raise DiagnosticError([error("GC0521", message, None, help=help)])


def _float64(params: Mapping[str, Array], inputs: Mapping[str, Array], name: str) -> Array:
    array = np.asarray(params[name] if name in params else inputs[name])
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _beside_compiled(
    board: Whiteboard,
    model: Model,
    ir: ModelIR,
    arrays: tuple[Mapping[str, Array], Mapping[str, Array]],
    chosen: Sequence[str],
    training: bool,
) -> Whiteboard:
    """The tables with the compiled gradients, where the precision is half; a note where they differ
    otherwise.
    """
    params, inputs = arrays
    is_half = model.precision in _HALF
    twin = type(model)(model.program, model.name, model.dims, model.precision if is_half else "f64")
    own = {
        n: (np.asarray(a) if is_half else _float64(params, inputs, n)) for n, a in params.items()
    }
    fed = {n: (a if is_half else _float64(params, inputs, n)) for n, a in inputs.items()}
    _, grads = twin.value_and_grad(list(chosen), training=training)(own, **fed)
    if is_half:
        rows = [
            replace(g, value=np.asarray(grads[g.of], np.float64)) if g.is_asked else g
            for g in board.backward
        ]
        return replace(board, backward=tuple(rows))
    notes = list(board.notes)
    for name, value in board.gradients.items():
        compiled = np.asarray(grads[name], np.float64)
        scale = float(np.max(np.abs(value), initial=0.0))
        gap = float(np.max(np.abs(compiled - value), initial=0.0))
        if np.isfinite(scale) and not gap <= _CLOSE * scale + 1e-12:
            notes.append(f"the compiled gradient of {name} differs from this table by {gap:.3g}")
    return replace(board, notes=tuple(notes))


class _Tables:
    """What the tables are written from."""

    def __init__(
        self,
        steps: Steps,
        traced: Traced,
        given: Mapping[str, Array],
        sources: Sources,
        precision: str,
    ) -> None:
        self.steps = steps
        self.traced = traced
        self.given = given
        self.sources = sources
        self.local: dict[str, list[Notation]] = {}
        self.floats = None if precision in _HALF else DType.F64
        self.board = Board(steps, traced, given, sources)
        self.values = self._evaluate(traced.function, list(given.values()))
        self.producers = {r: op for op in traced.primal.block.body for r in op.results}

    def _evaluate(self, function: Function, operands: Sequence[Array]) -> dict[Value, Array]:
        found: dict[Value, Array] = {}

        def observe(op: Op, results: Sequence[Any]) -> None:
            for value, array in zip(op.results, results, strict=True):
                found[value] = np.asarray(array)

        arrays = NumpyArrays(self.floats)
        held = [
            arrays.settle(np.asarray(a, arrays.storage(v.type.dtype)), v.type.dtype)
            for v, a in zip(function.block.parameters, operands, strict=True)
        ]
        found.update(zip(function.block.parameters, held, strict=True))
        run(arrays, function, held, observe)
        return found

    def _shown(self) -> list[tuple[Value, Op]]:
        results = self.steps.results
        if len(results) <= _MOST_ROWS:
            return results
        half = _MOST_ROWS // 2
        return [*results[:half], *results[-half:]]

    def forward(self) -> tuple[BoardRow, ...]:
        """Every step in order; ``backward`` comes first."""
        made: dict[int, list[Op]] = {}
        for op in self.traced.primal.block.body:
            made.setdefault(self.steps.step_of.get(op, -1), []).append(op)
        rows = []
        for value, op in self._shown():
            place = own_place(op.span)
            step = self.steps.step_of.get(op, -1)
            rows.append(
                BoardRow(
                    self.steps.names[value],
                    self.board.definition(value, op),
                    text_at(self.sources, place),
                    tuple(self.local.get(self.steps.names[value], ())),
                    self.values[value],
                    str(value.type),
                    place,
                    op.scope,
                    self._reads(value),
                    tuple(_made(o) for o in made.get(step, ())),
                )
            )
        return tuple(rows)

    def _reads(self, value: Value) -> tuple[str, ...]:
        """The nearest values with a name that ``value`` is computed from."""
        found: dict[str, None] = {}
        pending, seen = list(reversed(self.producers[value].operands)), set[Value]()
        while pending:
            here = pending.pop()
            name = self.steps.names.get(here)
            if name is not None:
                found[name] = None
            elif here in self.producers and here not in seen:
                seen.add(here)
                pending += reversed(self.producers[here].operands)
        return tuple(found)

    def backward(self, asked: Sequence[str]) -> tuple[tuple[Gradient, ...], tuple[Edge, ...]]:
        """Every cotangent, last step first, then those asked for; and the edges, in order of the
        steps they end in.
        """
        function = self.traced.primal
        order = [(v, own_place(op.span), op.scope, False) for v, op in reversed(self._shown())]
        order = [item for item in order if item[0] in self.traced.of]
        order += [
            (value, slot.span, "", True)
            for slot, value in zip(function.parameters, function.block.parameters, strict=True)
            if slot.name in asked
        ]
        messages = {value: self.board.messages(value) for value, *_ in order}
        for value, sent in messages.items():
            self._add_local(value, sent)
        edges, numbers = self._edges(messages)
        rows = []
        for value, place, scope, is_asked in order:
            name = self.steps.names[value]
            called = self.steps.mark + name
            zeros = np.zeros(value.type.static_shape)
            array = self.values.get(self.traced.of[value], zeros)
            equation = self.board.cotangent(value, messages[value])
            over = tuple(numbers[value, n] for n in range(len(messages[value])))
            rows.append(
                Gradient(plain_name(called), name, equation, array, place, scope, is_asked, over)
            )
        return tuple(rows), edges

    def _add_local(self, value: Value, sent: Sequence[Message]) -> None:
        """The derivatives of steps by ``value``, all uses of it by one step together."""
        by_end: dict[str, list[Message]] = {}
        for message in sent:
            by_end.setdefault(message.end, []).append(message)
        for end, messages in by_end.items():
            whole = messages[0]
            if len(messages) > 1:
                whole = self.board.message(value, tuple(p for m in messages for p in m.parts))
            assert isinstance(whole.notation, Equation)
            adds = replace(whole.notation, adds=True)
            self.local.setdefault(end, []).append(whole.slope or adds)

    def _edges(
        self, messages: Mapping[Value, Sequence[Message]]
    ) -> tuple[tuple[Edge, ...], dict[tuple[Value, int], int]]:
        """An edge for each message, and for each value that is read without one."""
        position = {self.steps.names[v]: n for n, (v, _) in enumerate(self.steps.results)}
        found: list[tuple[tuple[int, str], tuple[Value, int] | None, Edge]] = []
        for value, sent in messages.items():
            start = self.steps.names[value]
            for n, m in enumerate(sent):
                total = self._total(m.parts)
                edge = Edge(0, start, m.end, m.slope, m.slope_value, m.notation, total)
                found.append(((position.get(m.end, 0), start), (value, n), edge))
        known = {(edge.start, edge.end) for _, _, edge in found}
        for value, _ in self._shown():
            end = self.steps.names[value]
            for start in self._reads(value):
                if (start, end) not in known:
                    found.append(((position[end], start), None, Edge(0, start, end)))
        found.sort(key=lambda item: item[0][0])
        numbers = {key: n for n, (_, key, _) in enumerate(found) if key is not None}
        return tuple(replace(edge, number=n) for n, (_, _, edge) in enumerate(found)), numbers

    def _total(self, parts: Sequence[Contribution]) -> Array:
        total = self.values[parts[0].value]
        for part in parts[1:]:
            total = total + self.values[part.value]
        return np.asarray(total)

    def tangents(self, direction: Mapping[str, Array]) -> tuple[Tangent, ...]:
        """Forward mode along ``direction``; what it does not name stays fixed."""
        function = self.steps.function
        traced = traced_tangent(function, list(direction))
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


def _made(op: Op) -> Made:
    return Made(op.name, tuple(str(v.type) for v in op.operands), str(op.results[0].type))
