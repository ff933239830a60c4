"""What the reverse sweep reads of the forward sweep: derived from the program, not remembered from
making it.

The forward sweep is what the results other than COTANGENTs depend on; the rest is the reverse
sweep. A residual is a value that crosses: computed by the forward sweep, read by the reverse one.
What the reverse sweep computes again is listed as recomputed: ops with a replica number whose name,
attributes and place are those of a forward op, in loops of one of the same trip. Parameters cross
at no cost, as they stay in memory anyway. A view counts as what it is a view of.

The list is about the program it is given: ask before and after ``rematerialise`` to see the
difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Function, Op, Role, Span, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.simplify.cse import attributes_key


@dataclass(frozen=True, slots=True)
class Residual:
    """One value that the reverse sweep reads, or computes again.

    ``nbytes`` is symbolic while dimensions are; ``op`` is the name of the op that computes it,
    ``readers`` how many ops of the reverse sweep read it.
    """

    name: str
    op: str
    nbytes: Dim
    span: Span | None
    scope: str
    decision: Literal["saved", "recomputed"]
    readers: int


def residuals(function: Function) -> tuple[Residual, ...]:
    """The residuals of a joint function, in the order in which they are computed."""
    forward = forward_values(function)
    readers: dict[Value, int] = {}
    viewed = {op.result: op.operands[0] for op in function.block.body if _is_view(op)}
    for op in function.block.body:
        if op.results[0] not in forward and not _is_view(op):
            for value in dict.fromkeys(_root(v, viewed) for v in op.operands):
                readers[value] = readers.get(value, 0) + 1
    originals = {_identity(op) for op in function.block.body if op.results[0] in forward}
    found: list[Residual] = []
    for op in function.block.body:
        is_copy = op.replica > 0 and _identity(op) in originals
        for value in op.results:
            is_recomputed = is_copy and value not in forward
            if (
                not lookup(op.name).is_source
                and value in readers
                and (value in forward or is_recomputed)
            ):
                found.append(_residual(op, value, is_recomputed, readers[value]))
        for region in op.regions:
            found += _recomputed_in(region)
    return tuple(found)


def _recomputed_in(block: Block) -> list[Residual]:
    """What a loop computes twice in one trip: parts of a batch go forward and backward in the same
    trip.
    """
    originals = {_identity(op) for op in block.body if not op.replica}
    readers: dict[Value, int] = {}
    for op in block.body:
        for value in dict.fromkeys(op.operands):
            readers[value] = readers.get(value, 0) + 1
    found: list[Residual] = []
    for op in block.body:
        if op.replica and not lookup(op.name).is_free and _identity(op) in originals:
            found += [_residual(op, v, True, readers[v]) for v in op.results if v in readers]
        for region in op.regions:
            found += _recomputed_in(region)
    return found


def _is_view(op: Op) -> bool:
    """Whether ``op`` only moves elements of its operand, in whose place it can be read."""
    definition = lookup(op.name)
    return definition.is_free and not definition.is_source


def _root(value: Value, viewed: Mapping[Value, Value]) -> Value:
    """What is kept in memory so that ``value`` can be read: views and broadcasts cost nothing."""
    while value in viewed:
        value = viewed[value]
    return value


def _identity(op: Op) -> Hashable:
    """What a recomputed op has in common with its original."""
    types = tuple(v.type for v in op.results)
    return (op.name, attributes_key(op.attributes), types, op.span, op.scope)


def saved_values(function: Function) -> list[tuple[Op, Value]]:
    """The values of the forward sweep that are kept for the reverse sweep of a joint function, and
    their ops.
    """
    forward = forward_values(function)
    viewed = {op.result: op.operands[0] for op in function.block.body if _is_view(op)}
    read: set[Value] = set()
    for op in function.block.body:
        if op.results[0] not in forward and not _is_view(op):
            read.update(_root(v, viewed) for v in op.operands)
    return [
        (op, v)
        for op in function.block.body
        if not lookup(op.name).is_source
        for v in op.results
        if v in forward and v in read
    ]


def forward_values(function: Function) -> set[Value]:
    """The values that the results other than cotangents depend on; of a training step, those of the
    loss.

    Everything else that a training step hands out follows from the gradients.
    """
    block = function.block
    slots = list(zip(function.results, block.outputs, strict=True))
    is_step = any(slot.role is Role.PARAM for slot, _ in slots)
    needed = {
        v
        for slot, v in slots
        if (slot.role is Role.LOSS if is_step else slot.role is not Role.COTANGENT)
    }
    for op in reversed(block.body):
        if any(v in needed for v in op.results):
            needed.update(op.results)
            needed.update(op.operands)
    return needed


def total_bytes(found: Iterable[Residual]) -> Dim:
    """The bytes of the residuals that are saved."""
    total: Dim = 0
    for residual in found:
        if residual.decision == "saved":
            total = total + residual.nbytes
    return total


def _residual(op: Op, value: Value, is_recomputed: bool, readers: int) -> Residual:
    nbytes = value.type.size * value.type.dtype.itemsize
    decision: Literal["saved", "recomputed"] = "recomputed" if is_recomputed else "saved"
    return Residual(value.hint, op.name, nbytes, op.span, op.scope, decision, readers)
