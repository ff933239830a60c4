"""Probes: where a program's gradient can be looked at, and the program with parameters added there.

From-stage and to-stage: tensor, before ``differentiate``. At each probed value v a parameter e of
the same type is added (v + e): at e = 0 nothing changes, and the gradient with respect to e is the
cotangent of v. Inside a ``scan`` the carry gets one e per trip, so the cotangent comes per time
step.

What is probed: the outcome of every layer instance (the last value made in its scope that something
outside reads), and in the model's own body every nonlinearity and product.

Non-goals: saying what the numbers mean (``runtime.diagnose``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Contraction, is_loop, lookup
from gradc.ir.tensor.core import Block, Function, Op, Role, Slot, Span, TensorType, Value
from gradc.passes.rewrite import Scan


@dataclass(frozen=True, slots=True)
class Probe:
    """One place. ``parameter`` is the added parameter's name; ``is_stacked`` if it has a row per
    time step.
    """

    parameter: str
    label: str
    span: Span | None
    op: str
    is_stacked: bool = False


def insert_probes(function: Function) -> tuple[Function, tuple[Probe, ...]]:
    """``function`` with a PARAM per probed place, and the places in order of execution."""
    return _Inserter(function).run()


def _chosen(function: Function) -> dict[Value, Op]:
    """The values to probe and the ops that make them."""
    ops = function.block.body
    readers: dict[Value, list[str]] = {}
    for op in ops:
        for value in op.operands:
            readers.setdefault(value, []).append(op.scope)
    for value in function.block.outputs:
        readers.setdefault(value, []).append("")
    last: dict[str, tuple[Value, Op]] = {}
    own: dict[Value, Op] = {}
    for op in ops:
        for value in op.results:
            if not value.type.dtype.is_float or lookup(op.name).is_source or is_loop(op):
                continue
            scope = op.scope
            outside = [s for s in readers.get(value, ()) if not _within(s, scope)]
            if scope and outside:
                # A value that leaves several nested layers at once is the outcome of the outermost.
                while "." in scope and all(not _within(s, _parent(scope)) for s in outside):
                    scope = _parent(scope)
                last[scope] = (value, op)
            elif not scope and _is_telling(op):
                own[value] = op
    return {**{value: op for value, op in last.values()}, **own}


def _parent(scope: str) -> str:
    return scope.rpartition(".")[0]


def _within(scope: str, outer: str) -> bool:
    return scope == outer or scope.startswith(outer + ".")


def _is_telling(op: Op) -> bool:
    definition = lookup(op.name)
    return bool(definition.traits.slope) or isinstance(definition.loop, Contraction)


class _Inserter:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.b = Builder()
        self.b.parameters = list(function.block.parameters)
        self.slots = list(function.parameters)
        self.probes: list[Probe] = []
        self.mapping: dict[Value, Value] = {}

    def run(self) -> tuple[Function, tuple[Probe, ...]]:
        chosen = _chosen(self.function)
        for op in self.function.block.body:
            operands = tuple(self.mapping.get(v, v) for v in op.operands)
            copied = replace(op, operands=operands)
            if is_loop(op):
                self._scan(op, copied)
                continue
            self.b.ops.append(copied)
            for value in op.results:
                if value in chosen:
                    self._probe(value, op)
        outputs = [self.mapping.get(v, v) for v in self.function.block.outputs]
        block = self.b.block(outputs, "return")
        made = replace(self.function, block=block, parameters=tuple(self.slots))
        return made, tuple(self.probes)

    def _declare(self, type_: TensorType, op: Op, label: str, is_stacked: bool = False) -> Value:
        name = f"probe{len(self.probes)}"
        self.slots.append(Slot(name, Role.PARAM, op.span))
        self.probes.append(Probe(name, label, op.span, op.name, is_stacked))
        return self.b.parameter(type_, name)

    def _probe(self, value: Value, op: Op) -> None:
        line = f" (line {op.span.outermost.line})" if op.span is not None else ""
        extra = self._declare(value.type, op, op.scope or f"{value.hint or op.name}{line}")
        with self.b.at(op.span, op.scope):
            self.mapping[value] = self.b.one("add", value, extra)

    def _scan(self, op: Op, copied: Op) -> None:
        """Adds a stacked probe to every floating carry of the loop."""
        scan = Scan.of(copied)
        carries, slices, constants = scan.split(scan.body.parameters)
        given, sequences, fixed = scan.split(copied.operands)
        probed = [i for i, v in enumerate(carries) if v.type.dtype.is_float]
        if not isinstance(scan.trips, int) or not probed:
            self.b.ops.append(copied)
            return
        extra: list[Value] = []
        inner: list[Value] = []
        for i in probed:
            label = f"{op.scope or 'scan'} carry {i}".strip()
            type_ = carries[i].type
            stacked = type_.with_shape((scan.trips, *type_.shape))
            extra.append(self._declare(stacked, op, label, is_stacked=True))
            inner.append(Value(type_))
        body = _with_probes(scan, probed, inner)
        parameters = (*carries, *slices, *inner, *constants)
        region = Block(parameters, body)
        self.b.ops.append(
            replace(
                copied,
                operands=(*given, *sequences, *extra, *fixed),
                attributes=scan.attributes(carried=scan.carried, stacked=scan.stacked + len(extra)),
                regions=(region,),
            )
        )


def _with_probes(scan: Scan, probed: Sequence[int], inner: Sequence[Value]) -> tuple[Op, ...]:
    """The loop's body with the probes added to the carries as they come in."""
    b = Builder()
    carries = scan.split(scan.body.parameters)[0]
    mapping: dict[Value, Value] = {}
    with b.at(scan.op.span, scan.op.scope):
        for i, extra in zip(probed, inner, strict=True):
            mapping[carries[i]] = b.one("add", carries[i], extra)
    b.ops += [
        replace(op, operands=tuple(mapping.get(v, v) for v in op.operands)) for op in scan.body.body
    ]
    outputs = [mapping.get(v, v) for v in scan.body.outputs]
    return b.block(outputs).ops
