"""Derivatives whose every step can be looked at: which value is whose cotangent, and from which use each part came.

The functions are those of ``differentiate``; beside them come the tables that explanations are written from. Values
of the primal program keep their identity, so a name the front end gave them still holds.

Non-goals: compiling what comes out (``differentiate`` does the same without the tables).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gradc.ir.builder import Builder
from gradc.ir.core import Block, Function, Op, Role, Value
from gradc.passes.differentiate import DerivativeError, Selector, chosen_slots
from gradc.passes.differentiate_activity import varied
from gradc.passes.differentiate_forward import forward_ops
from gradc.passes.differentiate_reverse import reverse_ops
from gradc.passes.differentiate_values import Cotangents, Numbers, Tangents, companion, zeros
from gradc.passes.rewrite import next_replica


@dataclass(frozen=True, slots=True)
class Contribution:
    """One summand of a cotangent: ``value``, which came back through the results ``through`` of one op."""

    value: Value
    through: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Traced:
    """A joint program; ``of`` maps primal values to cotangents (or tangents), ``parts`` to their summands."""

    function: Function
    primal: Function
    of: dict[Value, Value]
    parts: dict[Value, tuple[Contribution, ...]] = field(default_factory=dict)


@dataclass
class _Recorded(Cotangents):
    """Cotangents that remember their summands."""

    found: dict[Value, list[Contribution]] = field(default_factory=dict)
    latest: tuple[Value, ...] = ()

    def take(self, b: Builder, values: Iterable[Value]) -> list[Value | None]:
        """The cotangents of ``values``; they belong to the op that is reversed next."""
        self.latest = tuple(values)
        # In the base class sums of slices come back through `add`; they keep what `latest` says.
        return super().take(b, self.latest)

    def add(self, b: Builder, value: Value, ct: Value | None, is_marked: bool) -> None:
        """Adds a contribution and remembers it."""
        if ct is not None:
            self.found.setdefault(value, []).append(Contribution(ct, self.latest))
        super().add(b, value, ct, is_marked)


def traced_gradient(function: Function, wrt: Sequence[Selector]) -> Traced:
    """The gradient of the scalar LOSS with respect to ``wrt``, and every cotangent on the way.

    Results of the function are those of ``function``, then every cotangent, so nothing is dead. Raises
    DerivativeError as ``value_and_grad`` does.
    """
    block = function.block
    chosen = chosen_slots(function.parameters, block.parameters, wrt, "parameter")
    places = [i for i, slot in enumerate(function.results) if slot.role is Role.LOSS]
    if not places or block.outputs[places[0]].type.shape != ():
        raise DerivativeError("GC0521", f"`{function.name}` has no scalar loss", None)
    loss = block.outputs[places[0]]
    cts, b = _Recorded(), Builder()
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
