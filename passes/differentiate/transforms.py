"""Differentiation: IR to IR, closed. What comes out is an ordinary function and can be
differentiated again.

From-stage and to-stage: tensor, before ``fuse``. Parameters and results keep their order; what is
added follows them, in this order:

| function | added parameters (role SEED) | added results |
|---|---|---|
| ``vjp`` | a cotangent per result of ``of``, with its name | a COTANGENT per parameter of ``wrt`` |
| ``value_and_grad`` | none | a COTANGENT per parameter of ``wrt`` |
| ``jvp`` | a tangent per parameter of ``wrt`` | a TANGENT per result of ``of`` |
| ``hvp`` | a tangent per parameter of ``wrt`` | per parameter a COTANGENT, then its TANGENT |
| ``jacobian`` (``differentiate_jacobian``) | none | an OUTPUT ``of/p`` per parameter |

Names stay those of the parameter or result; where role and name are taken already (higher
derivatives), primes are added. Parameters that do not reach a result get zeros, and ``unreached``
names them. Only what ``wrt`` asks for is computed.

Conventions at kinks are those of the ops; ``stop_gradient`` stops; the untaken side of ``select``
contributes exactly nothing (``differentiate_reverse``). ``scan`` stays rolled, ``checkpoint`` is
recomputed.

Non-goals: making the result small (``simplify``, ``cse``, ``dce``) or its memory low
(``rematerialise``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function, Role, Slot, Value
from gradc.passes.differentiate.activity import useful, varied
from gradc.passes.differentiate.forward import forward_ops
from gradc.passes.differentiate.linear import NotLinear
from gradc.passes.differentiate.reverse import reverse_ops
from gradc.passes.differentiate.values import Cotangents, Numbers, Tangents, companion, zeros
from gradc.passes.differentiate.window import last_windows
from gradc.passes.rewrite import next_replica
from gradc.passes.simplify.dce import dce

# Slots are chosen by name or by position; positions tell slots of equal name apart.
Selector: TypeAlias = str | int
_OUTWARD = (Role.LOSS, Role.OUTPUT, Role.COTANGENT, Role.TANGENT)


class DerivativeError(DiagnosticError):
    """A derivative was asked for that does not exist; ``slot`` is the parameter or result
    concerned.
    """

    def __init__(self, code: str, message: str, slot: Slot | None, help: str = "") -> None:
        self.slot = slot
        span = slot.span if slot is not None else None
        super().__init__([error(code, message, span, help=help)])


def vjp(
    function: Function, wrt: Sequence[Selector], of: Sequence[Selector] | None = None
) -> Function:
    """Reverse mode: parameters and seeds to results and cotangents.

    ``of`` defaults to every floating result that is not a new state. Raises DerivativeError if
    something named does not exist or is not floating.
    """
    function = last_windows(function)
    parameters = chosen_slots(function.parameters, function.block.parameters, wrt, "parameter")
    results = _results(function, of)
    seeds = [companion(function.block.outputs[i], "ct") for i in results]
    cts = Cotangents()
    b = Builder()
    for number, seed in zip(results, seeds, strict=True):
        cts.add(b, function.block.outputs[number], seed, False)
    slots = [function.results[i] for i in results]
    return _reversed(function, parameters, b, cts, seeds, slots)


def value_and_grad(function: Function, wrt: Sequence[Selector]) -> Function:
    """Results and gradients of the scalar LOSS. Raises DerivativeError if there is no such loss."""
    function = last_windows(function)
    parameters = chosen_slots(function.parameters, function.block.parameters, wrt, "parameter")
    found = [i for i, slot in enumerate(function.results) if slot.role is Role.LOSS]
    if not found:
        raise DerivativeError("GC0521", f"`{function.name}` has no loss to differentiate", None)
    loss, slot = function.block.outputs[found[0]], function.results[found[0]]
    if loss.type.shape != () or not loss.type.dtype.is_float:
        message = f"a gradient needs a scalar loss; `{function.name}` returns {loss.type}"
        raise DerivativeError("GC0522", message, slot, "reduce it with `mean` or `sum`")
    cts = Cotangents()
    b = Builder()
    with b.at(slot.span):
        cts.add(b, loss, b.constant(1.0, loss.type.dtype), False)
    return _reversed(function, parameters, b, cts, [], [])


def jvp(
    function: Function, wrt: Sequence[Selector], of: Sequence[Selector] | None = None
) -> Function:
    """Forward mode: parameters and tangents to results and their tangents.

    Raises DerivativeError as ``vjp`` does, and for a ``custom`` pullback that is not linear in its
    cotangent.
    """
    parameters = chosen_slots(function.parameters, function.block.parameters, wrt, "parameter")
    results = _results(function, of)
    b, tangents = Builder(), Tangents()
    for number in parameters:
        value = function.block.parameters[number]
        tangents.of[value] = companion(value, "dot")
    seeds = [tangents.of[function.block.parameters[i]] for i in parameters]
    try:
        forward_ops(b, function.block.body, tangents, Numbers(next_replica(function.block)))
    except NotLinear as refused:
        slot = Slot("pullback", Role.OUTPUT, refused.offender.span or refused.op.span)
        message = "no forward derivative: this pullback is not linear in its cotangent"
        raise DerivativeError("GC0525", message, slot, "use reverse mode") from None
    targets = [function.block.outputs[i] for i in results]
    dots = [tangents.of.get(v) or zeros(b, v) for v in targets]
    return _joined(
        function,
        b,
        (seeds, [function.parameters[i] for i in parameters]),
        (dots, [function.results[i] for i in results], Role.TANGENT),
    )


def hvp(function: Function, wrt: Sequence[Selector]) -> Function:
    """Hessian-vector products of the loss, forward over reverse."""
    gradient = value_and_grad(function, wrt)
    chosen = chosen_slots(gradient.parameters, gradient.block.parameters, wrt, "parameter")
    first = len(function.results)
    return jvp(gradient, chosen, range(first, len(gradient.results)))


def unreached(
    function: Function, wrt: Sequence[Selector], of: Sequence[Selector] | None = None
) -> tuple[Slot, ...]:
    """The parameters of ``wrt`` on which no result of ``of`` depends differentiably."""
    parameters = chosen_slots(function.parameters, function.block.parameters, wrt, "parameter")
    targets = [function.block.outputs[i] for i in _results(function, of)]
    reaching = useful(function.block.body, targets)
    return tuple(
        function.parameters[i] for i in parameters if function.block.parameters[i] not in reaching
    )


def _reversed(
    function: Function,
    parameters: Sequence[int],
    b: Builder,
    cts: Cotangents,
    seeds: Sequence[Value],
    seed_slots: Sequence[Slot],
) -> Function:
    """The joint function: forward sweep, reverse sweep from ``cts``, cotangents of
    ``parameters``.
    """
    block = function.block
    sources = [block.parameters[i] for i in parameters]
    wanted = varied(block.body, sources)
    numbers = Numbers(next_replica(block))
    primal = reverse_ops(b, block.body, cts, wanted, numbers)
    taken = cts.take(b, sources)
    found = [ct or zeros(b, v) for ct, v in zip(taken, sources, strict=True)]
    b.ops[:0] = primal
    slots = [function.parameters[i] for i in parameters]
    return _joined(function, b, (seeds, seed_slots), (found, slots, Role.COTANGENT))


def _joined(
    function: Function,
    b: Builder,
    seeds: tuple[Sequence[Value], Sequence[Slot]],
    derivatives: tuple[Sequence[Value], Sequence[Slot], Role],
) -> Function:
    """``function`` with the ops of ``b``, further parameters and further results."""
    values, slots, role = derivatives
    block = function.block
    parameters = _extended(function.parameters, seeds[1], Role.SEED)
    results = _extended(function.results, slots, role)
    end = b.block((*block.outputs, *values), "return")
    body = Block((*block.parameters, *seeds[0]), end.ops)
    return dce(Function(function.name, body, parameters, results))


def _extended(known: Sequence[Slot], more: Sequence[Slot], role: Role) -> tuple[Slot, ...]:
    """``known`` and slots of ``role`` named after ``more``; primes keep role and name unique."""
    taken = {(slot.role, slot.name) for slot in known}
    slots = list(known)
    for slot in more:
        name = slot.name
        while (role, name) in taken:
            name += "'"
        taken.add((role, name))
        slots.append(Slot(name, role, slot.span))
    return tuple(slots)


def _results(function: Function, of: Sequence[Selector] | None) -> list[int]:
    outputs = function.block.outputs
    if of is not None:
        return chosen_slots(function.results, outputs, of, "result")
    return [
        i
        for i, (slot, value) in enumerate(zip(function.results, outputs, strict=True))
        if slot.role in _OUTWARD and value.type.dtype.is_float
    ]


def chosen_slots(
    slots: Sequence[Slot], values: Sequence[Value], selectors: Sequence[Selector], kind: str
) -> list[int]:
    """Positions of ``selectors``, each floating. Raises DerivativeError."""
    positions: dict[Selector, int] = {i: i for i in range(len(slots))}
    for number, slot in enumerate(slots):
        positions.setdefault(slot.name, number)
    chosen: list[int] = []
    for selector in selectors:
        if selector not in positions:
            raise DerivativeError("GC0523", f"there is no {kind} called `{selector}`", None)
        number = positions[selector]
        slot, dtype = slots[number], values[number].type.dtype
        if not dtype.is_float:
            message = f"`{slot.name}` has type {values[number].type}, which has no derivative"
            help = "only floating types are differentiated; `cast` it first or leave it out"
            raise DerivativeError("GC0524", message, slot, help)
        chosen.append(number)
    return chosen
