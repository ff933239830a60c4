"""Warnings about what a model declares and does not need: unused parameters, inputs, and dead ends.

A parameter reaches the loss if a path of floating-point values leads there that no op without a
derivative interrupts. Regions are taken as a whole: what goes in reaches what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gradc.frontend.elaborate.context import Context
from gradc.frontend.model.suspect import own_line
from gradc.ir.tensor.core import Function, Op, Role, Span, Value

# How many names a warning lists.
_SHOWN: Final = 6
# Their derivative is zero wherever it exists.
_INTERRUPTS: Final = frozenset(("stop_gradient", "floor", "round", "sign"))


def warn_unreached(ctx: Context, function: Function) -> None:
    """Reports what ``function`` declares and does not use."""
    used = {value for op in function.block.ops for value in op.operands}
    reached = _reaching(function)
    _warn_interrupted(ctx, function, used, reached)
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        if slot.span is None:
            continue
        if slot.role is Role.PARAM and value not in used:
            message = f"parameter `{slot.name}` is never used, so it is not trained"
            ctx.warn("GC0210", message, slot.span, help="remove it, or use it")
        elif slot.role is Role.INPUT and value not in used:
            message = f"input `{slot.name}` is never used"
            ctx.warn("GC0212", message, slot.span, help="remove it, or use it")


def _warn_interrupted(
    ctx: Context, function: Function, used: set[Value], reached: set[Value]
) -> None:
    """Parameters that are used and do not reach the loss: one warning for each place that cuts
    them off, naming them all. One whose every reader is `stop_gradient` is frozen on purpose.
    """
    readers: dict[Value, list[Op]] = {}
    for op in function.block.body:
        for value in op.operands:
            readers.setdefault(value, []).append(op)
    by_place: dict[Span, dict[Span, list[str]]] = {}
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        if slot.role is not Role.PARAM or slot.span is None or value not in used - reached:
            continue
        if all(op.name == "stop_gradient" for op in readers[value]):
            continue
        cut = _cut(value, readers)
        place = (None if cut is None else own_line(cut.span)) or slot.span
        by_place.setdefault(place, {}).setdefault(slot.span, []).append(slot.name)
    for place, by_span in by_place.items():
        names = [name for found in by_span.values() for name in found]
        shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
        if len(names) > _SHOWN:
            shown += f" and {len(names) - _SHOWN} more"
        subject = f"parameter {shown} does" if len(names) == 1 else f"parameters {shown} do"
        tail = "its gradient is zero" if len(names) == 1 else "their gradients are zero"
        label = "" if place in by_span else "this has no derivative"
        help = "let another way lead to the loss; for a parameter that is to stay, use `state`"
        ctx.warn("GC0211", f"{subject} not reach the loss: {tail}", place, label=label, help=help)


def _cut(value: Value, readers: Mapping[Value, list[Op]]) -> Op | None:
    """The first op after ``value`` that lets no derivative through."""
    waiting, seen = [value], {value}
    while waiting:
        for op in readers.get(waiting.pop(0), ()):
            if op.name in _INTERRUPTS or not any(r.type.dtype.is_float for r in op.results):
                return op
            fresh = [r for r in op.results if r not in seen]
            seen.update(fresh)
            waiting += fresh
    return None


def _reaching(function: Function) -> set[Value]:
    """Every value from which the loss can be reached."""
    reached = {
        value
        for slot, value in zip(function.results, function.block.outputs, strict=True)
        if slot.role is Role.LOSS
    }
    for op in reversed(function.block.body):
        if op.name in _INTERRUPTS or not any(result in reached for result in op.results):
            continue
        if any(result.type.dtype.is_float for result in op.results):
            reached.update(value for value in op.operands if value.type.dtype.is_float)
    return reached
