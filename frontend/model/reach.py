"""Warnings about what a model declares and does not need: unused parameters, inputs, and dead ends.

A parameter reaches the loss if a path of floating-point values leads there that no op without a
derivative interrupts. Regions are taken as a whole: what goes in reaches what comes out.
"""

from __future__ import annotations

from typing import Final

from gradc.frontend.elaborate.context import Context
from gradc.ir.tensor.core import Function, Role, Span, Value

# Their derivative is zero wherever it exists.
_INTERRUPTS: Final = frozenset(("stop_gradient", "floor", "round", "sign"))


def warn_unreached(ctx: Context, function: Function) -> None:
    """Reports what ``function`` declares in vain."""
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
    """Parameters that are used and do not reach the loss: one warning for each declaration, naming
    all instances.
    """
    by_span: dict[Span, list[str]] = {}
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        if slot.role is Role.PARAM and slot.span is not None and value in used - reached:
            by_span.setdefault(slot.span, []).append(slot.name)
    for span, names in by_span.items():
        shown = ", ".join(f"`{name}`" for name in names)
        subject = f"parameter {shown} does" if len(names) == 1 else f"parameters {shown} do"
        tail = "its gradient is zero" if len(names) == 1 else "their gradients are zero"
        help = "the way to the loss is interrupted, for example by `stop_gradient`"
        ctx.warn("GC0211", f"{subject} not reach the loss: {tail}", span, help=help)


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
