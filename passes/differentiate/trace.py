"""Derivatives whose every step can be looked at: which value is whose cotangent, and from which use
each part came.

The functions are those of ``differentiate``; beside them come the tables that explanations are
written from. Values of the primal program keep their identity, so a name the front end gave them
still holds.

Non-goals: compiling what comes out (``differentiate`` does the same without the tables).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function, Op, Role, Value
from gradc.passes.differentiate.activity import varied
from gradc.passes.differentiate.forward import forward_ops
from gradc.passes.differentiate.parts import Part, joined
from gradc.passes.differentiate.reverse import reverse_ops
from gradc.passes.differentiate.transforms import DerivativeError, Selector, chosen_slots
from gradc.passes.differentiate.values import Cotangents, Numbers, Tangents, companion, zeros
from gradc.passes.rewrite import next_replica


@dataclass(frozen=True, slots=True)
class Contribution:
    """One summand of a cotangent: ``value``, which came back through the results ``through`` of one
    op.
    """

    value: Value
    through: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """A joint program; ``of`` maps primal values to cotangents (or tangents), ``parts`` to their
    summands.
    """

    function: Function
    primal: Function
    of: dict[Value, Value]
    parts: dict[Value, tuple[Contribution, ...]] = field(default_factory=dict)


@dataclass
class _Recorded(Cotangents):
    """Cotangents that remember their summands.

    Every summand and every finished sum is a value of its own (a copy where the rules would share
    one), so what is told of one step can never be read off another that happens to have the same
    cotangent. For the same reason slices are not put together, and loops do not go on adding to
    sums that others began.
    """

    builder: Builder = field(default_factory=Builder)
    found: dict[Value, list[Contribution]] = field(default_factory=dict)
    latest: tuple[Value, ...] = ()
    settled: set[Value] = field(default_factory=set)

    def take(self, b: Builder, values: Iterable[Value]) -> list[Value | None]:
        """The cotangents of ``values``; they belong to the op that is reversed next."""
        self.latest = tuple(values)
        for value, ct in zip(self.latest, super().take(b, self.latest), strict=True):
            if ct is not None and value not in self.settled:
                self.settled.add(value)
                self.of[value] = self._apart(b, ct)
        return [self.of.get(v) for v in self.latest]

    def _apart(self, b: Builder, ct: Value) -> Value:
        copy = b.one("stop_gradient", ct)
        if ct in self.marked:
            self.marked.add(copy)
        return copy

    def add(self, b: Builder, value: Value, ct: Value | None, is_marked: bool) -> None:
        """Adds a contribution and remembers it."""
        if ct is not None:
            ct = self._apart(b, ct)
            self.found.setdefault(value, []).append(Contribution(ct, self.latest))
        super().add(b, value, ct, is_marked)

    def add_part(self, value: Value, part: Part, is_marked: bool) -> None:
        """A slice's contribution, as large as the whole."""
        self.add(self.builder, value, joined(self.builder, value, [part]), is_marked)

    def withdraw(self, b: Builder, value: Value) -> Value | None:
        """Nothing: what a loop adds stays apart."""
        return None


def traced_gradient(function: Function, wrt: Sequence[Selector]) -> Traced:
    """The gradient of the scalar LOSS with respect to ``wrt``, and every cotangent on the way.

    Results of the function are those of ``function``, then every cotangent, so nothing is dead.
    Raises DerivativeError as ``value_and_grad`` does.
    """
    block = function.block
    chosen = chosen_slots(function.parameters, block.parameters, wrt, "parameter")
    places = [i for i, slot in enumerate(function.results) if slot.role is Role.LOSS]
    if not places or block.outputs[places[0]].type.shape != ():
        raise DerivativeError("GC0521", f"`{function.name}` has no scalar loss", None)
    loss = block.outputs[places[0]]
    b = Builder()
    cts = _Recorded(builder=b)
    with b.at(function.results[places[0]].span):
        cts.add(b, loss, b.constant(1.0, loss.type.dtype), False)
    sources = [block.parameters[i] for i in chosen]
    numbers = Numbers(next_replica(block))
    primal = reverse_ops(b, block.body, cts, varied(block.body, sources), numbers)
    taken = cts.take(b, sources)
    found = [ct or zeros(b, v) for ct, v in zip(taken, sources, strict=True)]
    cts.of.update(zip(sources, found, strict=True))
    joint = Block(block.parameters, (*primal, *b.ops, _end(block, (*block.outputs, *found))))
    slots = [replace(function.parameters[i], role=Role.COTANGENT) for i in chosen]
    made = Function(function.name, joint, function.parameters, (*function.results, *slots))
    parts = {value: tuple(summands) for value, summands in cts.found.items()}
    return Traced(made, function, dict(cts.of), parts)


def traced_tangent(function: Function, wrt: Sequence[Selector]) -> Traced:
    """Forward mode along ``wrt``, and every tangent on the way; seeds follow the parameters.

    Raises DerivativeError as ``jvp`` does.
    """
    block = function.block
    chosen = chosen_slots(function.parameters, block.parameters, wrt, "parameter")
    b, tangents = Builder(), Tangents()
    for number in chosen:
        value = block.parameters[number]
        tangents.of[value] = companion(value, "dot")
    seeds = [tangents.of[block.parameters[i]] for i in chosen]
    forward_ops(b, block.body, tangents, Numbers(next_replica(block)))
    slots = [replace(function.parameters[i], role=Role.SEED) for i in chosen]
    body = Block((*block.parameters, *seeds), (*b.ops, _end(block, block.outputs)))
    made = Function(function.name, body, (*function.parameters, *slots), function.results)
    return Traced(made, function, dict(tangents.of))


def _end(block: Block, outputs: Sequence[Value]) -> Op:
    return replace(block.terminator, operands=tuple(outputs))
