"""Finds where a gradient can become infinite or NaN before anything is run: by intervals over the
joint program.

``find_hazards(function)`` differentiates a model, gives every value an interval (inputs and
parameters: any finite number), and names the ops whose result may be infinite or NaN for finite
operands, if that reaches the loss or a gradient. ``where`` and the verb ``gate`` are understood:
what a condition excludes is excluded from the side it guards, and a derivative that meets an exact
zero is silent. Each hazard comes with a rewrite, where there is one;
``codegen/symbolic/sympy/rewrites.py`` proves the rewrites.

What is assumed: ids are in range. Overflow is looked for in exponentials; elsewhere
``find_overflow`` looks for it, for parameters up to a size. Of a loop's carries is known how they
start and what one trip makes of any finite number.

What comes out are candidates: ``runtime/reports/hazard_points`` makes them happen, or leaves them
open.

Non-goals: rounding; proving the absence of hazards at a given point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradc.ir.ops.interval import Interval
from gradc.ir.ops.registry import is_sum, number_of
from gradc.ir.tensor.core import Function, Op, Role, Span, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.hazards.analysis import SIZE, Analysis, Fault, is_meant
from gradc.passes.hazards.places import keeps_order
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.flatten import flatten

_LIBRARY = "stdlib/"


@dataclass(frozen=True, slots=True)
class Hazard:
    """A place where finite numbers can give a gradient that is not.

    ``when`` is ``forward`` if the loss itself is then not finite, else ``backward``; ``affects``
    are the results that are hit. ``rewrite`` names a row of ``REWRITES`` or is empty. ``place`` is
    in the user's own text, ``span`` the op's.
    """

    kind: str
    message: str
    place: Span | None
    span: Span | None
    when: str
    affects: tuple[str, ...]
    rewrite: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """``before`` and ``after`` are templates over E (and A), texts of the program; ``why`` in one
    line.
    """

    before: str
    after: str
    why: str


REWRITES: Mapping[str, Rewrite] = {
    "sqrt": Rewrite(
        "sqrt(E)",
        "where(E > 0, sqrt(E), 0)",
        "the same value for every argument >= 0; at 0 the derivative counts as 0",
    ),
    "rsqrt": Rewrite(
        "rsqrt(E)", "rsqrt(E + 1e-12)", "differs relatively by less than 5e-13 over the argument"
    ),
    "log": Rewrite(
        "log(E)",
        "where(E > 0, log(E), -69)",
        "the same value for every argument > 0; -69 is log(1e-30)",
    ),
    "xlogx": Rewrite(
        "E * log(E)",
        "where(E > 0, E * log(E), 0)",
        "the same for every positive argument, and the limit 0 at 0",
    ),
    "log_softmax": Rewrite(
        "log(softmax(E))", "log_softmax(E)", "the same function; no probability rounds to 0"
    ),
    "power": Rewrite(
        "E^A",
        "where(E > 0, E^A, 0)",
        "the same value for every base > 0; at 0 the derivative counts as 0",
    ),
    "divide": Rewrite(
        "A / E", "where(E != 0, A / E, 0)", "the same value wherever the quotient is defined"
    ),
    "logsumexp": Rewrite(
        "log(sum(exp(E)))", "logsumexp(E)", "the same function; the greatest exponent is taken out"
    ),
    "softmax": Rewrite(
        "exp(E) / sum(exp(E))",
        "softmax(E)",
        "the same function; the greatest exponent is taken out",
    ),
    "sigmoid": Rewrite(
        "1 / (1 + exp(-E))", "sigmoid(E)", "the same function, stable on both sides"
    ),
    "softplus": Rewrite("log(1 + exp(E))", "softplus(E)", "the same function; exp cannot overflow"),
}


def find_hazards(function: Function) -> list[Hazard]:
    """The hazards of a model's gradient, in the order of its text. A model without a scalar loss
    has none.
    """
    joint = _joint(function)
    if joint is None:
        return []
    analysis = Analysis()
    analysis.run(joint.block)
    found = [
        _hazard(analysis.faults[number], joint, names, is_forward)
        for number, names, is_forward in _reached(analysis, joint)
    ]
    return _ordered([*found, *_handed_out(analysis, joint)])


def find_overflow(function: Function, largest: Mapping[str, float]) -> Hazard | None:
    """Where numbers may first grow beyond what their type holds, if no parameter is larger than
    ``largest`` says; None if none can, over the reals.
    """
    joint = _joint(function)
    if joint is None:
        return None
    analysis = Analysis(sees_size=True)
    bounds = [Interval(-m, m, False, False) for m in (largest[s.name] for s in joint.parameters)]
    analysis.run(joint.block, bounds)
    for number, names, is_forward in _reached(analysis, joint):
        fault = analysis.faults[number]
        if fault.kind == SIZE:
            when = "forward" if is_forward else "backward"
            place = own_place(fault.op.span)
            return Hazard(*TOO_LARGE, place, fault.op.span, when, tuple(dict.fromkeys(names)))
    return None


def _joint(function: Function) -> Function | None:
    """The model and its gradient by everything that has one; None without a scalar loss."""
    loss = [s for s in function.results if s.role is Role.LOSS]
    value = function.block.outputs[function.results.index(loss[0])] if loss else None
    if value is None or value.type.shape != () or not value.type.dtype.is_float:
        return None
    wrt = [
        slot.name
        for slot, parameter in zip(function.parameters, function.block.parameters, strict=True)
        if slot.role in (Role.PARAM, Role.INPUT) and parameter.type.dtype.is_float
    ]
    # Without repetitions, what a condition says of an expression also holds where it is written
    # again.
    return cse(flatten(value_and_grad(function, wrt)))


def _reached(analysis: Analysis, joint: Function) -> list[tuple[int, list[str], bool]]:
    """The faults that reach the loss or a gradient: their numbers, what they reach, and whether the
    loss is among it.
    """
    reached: dict[int, list[str]] = {}
    is_forward: dict[int, bool] = {}
    for slot, result in zip(joint.results, joint.block.outputs, strict=True):
        for number in analysis.of(result).faults:
            if slot.role in (Role.LOSS, Role.COTANGENT):
                name = slot.name if slot.role is Role.LOSS else f"d loss / d {slot.name}"
                reached.setdefault(number, []).append(name)
                is_forward[number] = is_forward.get(number, False) or slot.role is Role.LOSS
    return [(number, names, is_forward[number]) for number, names in sorted(reached.items())]


def _handed_out(analysis: Analysis, joint: Function) -> list[Hazard]:
    """Results that may be an infinity which the program itself writes down."""
    written = [op for op in joint.block.body if math.isinf(number_of(op) or 0.0)]
    names = [
        "loss" if slot.role is Role.LOSS else f"d loss / d {slot.name}"
        for slot, result in zip(joint.results, joint.block.outputs, strict=True)
        if slot.role in (Role.LOSS, Role.COTANGENT) and is_meant(analysis.of(result))
    ]
    if not written or not names:
        return []
    span = written[0].span
    when = "forward" if "loss" in names else "backward"
    return [Hazard(*MASKED_RESULT, own_place(span), span, when, tuple(names))]


MASKED_RESULT = (
    "masked result", "what is asked for is an infinity that the program writes down",
)  # fmt: skip
EMPTY_ROW = (
    "empty row", "every entry of a row is -inf: it has no softmax, and its logsumexp is -inf",
)  # fmt: skip
TOO_LARGE = ("overflow", "the numbers grow beyond the largest of their type")


def _hazard(fault: Fault, joint: Function, names: list[str], is_forward: bool) -> Hazard:
    op = traced_to(fault.op, joint)
    kind, message, rewrite = _describe(fault, op, joint)
    return Hazard(
        kind,
        message,
        own_place(op.span),
        op.span,
        "forward" if is_forward else "backward",
        tuple(dict.fromkeys(names)),
        rewrite,
    )


def own_place(span: Span | None) -> Span | None:
    """The innermost place in the user's own text."""
    while span is not None and span.file.startswith(_LIBRARY):
        span = span.caller
    return span


def is_culprit(op: Op) -> bool:
    """Whether hazards are told of ``op``."""
    return op.name in _CULPRITS


def named_at(hazard: Hazard, op: Op | None, arguments: Sequence[Any]) -> Hazard:
    """``hazard`` by the name of what happens where ``op``, which it is told of, is given the arrays
    ``arguments``: intervals only say what may.
    """
    if op is None or not arguments:
        return hazard
    argument = arguments[0] + (1 if op.name == "log1p" else 0)
    is_below = bool((argument < 0).any())
    if op.name == "pow":
        is_below = bool(((argument < 0) & (arguments[1] % 1 != 0)).any())
    named = (_BELOW if is_below else _AT_ZERO).get(hazard.kind)
    if named is None or (not is_below and not (argument == 0).any()):
        return hazard
    kind, message, rewrite = named
    return replace(hazard, kind=kind, message=message, rewrite=rewrite)


_ROOT = ("sqrt of a negative number", "the argument of sqrt is negative", "")
_BELOW = {
    "sqrt at 0": _ROOT,
    "sqrt of a negative number": _ROOT,
    "rsqrt at 0": _ROOT,
    "log at 0": ("log of a negative number", "log of a negative number is NaN", "log"),
    "0 * log(0)": ("log of a negative number", "log of a negative number is NaN", "xlogx"),
    "power at 0": (
        "power of a negative number",
        "a negative number has no power that is not whole",
        "power",
    ),
}
_AT_ZERO = {
    "sqrt of a negative number": ("sqrt at 0", "the derivative of sqrt is infinite at 0", "sqrt"),
}


def traced_to(op: Op, joint: Function) -> Op:
    """The op of the program whose derivative ``op`` belongs to: the first at its place."""
    for other in joint.block.body:
        if other.span == op.span and other.scope == op.scope and is_culprit(other):
            return other
    return op


_CULPRITS = ("sqrt", "rsqrt", "log", "log1p", "div", "pow", "exp", "expm1", "abs")


def _describe(fault: Fault, op: Op, joint: Function) -> tuple[str, str, str]:
    """Kind, message and rewrite of a fault at ``op``."""
    if fault.kind == "empty":
        return *EMPTY_ROW, ""
    makers = {r: o for o in joint.block.body for r in o.results}
    readers: dict[Value, list[Op]] = {}
    for reader in joint.block.body:
        for value in reader.operands:
            readers.setdefault(value, []).append(reader)
    if op.name in ("sqrt", "rsqrt"):
        if fault.kind == "negative":
            return "sqrt of a negative number", "the argument of sqrt may be negative", ""
        if op.name == "rsqrt":
            return "rsqrt at 0", "1 / sqrt(0) is infinite, and so is its derivative", "rsqrt"
        return "sqrt at 0", "the derivative of sqrt is infinite at 0", "sqrt"
    if op.name in ("log", "log1p"):
        return _describe_log(op, makers, readers)
    if op.name in ("exp", "expm1"):
        message = "exp overflows to infinity for large arguments"
        return "exp overflow", message, _rewrite_of_exp(op, makers, readers)
    if op.name == "pow":
        return "power at 0", "a power of 0, or its derivative, is infinite or undefined", "power"
    return "division by 0", "the divisor may be 0", "divide"


def _describe_log(
    op: Op, makers: Mapping[Value, Op], readers: Mapping[Value, list[Op]]
) -> tuple[str, str, str]:
    argument = makers.get(op.operands[0])
    if argument is not None and argument.name == "div":
        above = makers.get(argument.operands[0])
        if above is not None and above.name == "exp":
            message = (
                "a softmax that rounds to 0 has logarithm -inf, and its derivative is infinite"
            )
            return "log of a softmax", message, "log_softmax"
    if argument is not None and _is_sum_of_exponentials(argument, makers):
        message = "if every exponential rounds to 0, the logarithm is -inf"
        return "log at 0", message, "logsumexp"
    factors = [r for r in readers.get(op.result, ()) if r.name == "mul"]
    if any(op.operands[0] in r.operands for r in factors):
        return "0 * log(0)", "0 * log(0) is NaN", "xlogx"
    return "log at 0", "log is -inf at 0, and its derivative is infinite", "log"


def _is_summing(op: Op) -> bool:
    return is_sum(op) or keeps_order(op)


def _is_sum_of_exponentials(op: Op, makers: Mapping[Value, Op]) -> bool:
    inner = makers.get(op.operands[0]) if _is_summing(op) else None
    if inner is not None and _is_summing(inner):
        return _is_sum_of_exponentials(inner, makers)
    return inner is not None and inner.name == "exp"


def _rewrite_of_exp(op: Op, makers: Mapping[Value, Op], readers: Mapping[Value, list[Op]]) -> str:
    """What the exponential is part of, a few ops on."""
    frontier, seen = [op.results[0]], list[Op]()
    for _ in range(4):
        later = [r for v in frontier for r in readers.get(v, ())]
        seen += later
        frontier = [v for r in later for v in r.results]
    names = [r.name for r in seen]
    sums = [r for r in seen if is_sum(r)]
    logs = [makers.get(r.operands[0]) for r in seen if r.name == "log"]
    if logs:
        is_of_sums = any(m is not None and _is_sum_of_exponentials(m, makers) for m in logs)
        return "logsumexp" if is_of_sums else "softplus"
    if any(r.name == "div" and r.operands[0] is op.results[0] for r in seen) and sums:
        return "softmax"
    argument = makers.get(op.operands[0])
    is_negated = argument is not None and argument.name == "neg"
    return "sigmoid" if is_negated and "div" in names and "add" in names else ""


def _ordered(hazards: list[Hazard]) -> list[Hazard]:
    """One hazard per kind and place, in the order of the text."""
    merged: dict[tuple[str, Span | None], Hazard] = {}
    for hazard in hazards:
        key = (hazard.kind, hazard.place)
        known = merged.get(key)
        if known is None:
            merged[key] = hazard
            continue
        when = "forward" if "forward" in (known.when, hazard.when) else "backward"
        affects = tuple(dict.fromkeys((*known.affects, *hazard.affects)))
        merged[key] = Hazard(
            known.kind, known.message, known.place, known.span, when, affects, known.rewrite
        )
    return sorted(merged.values(), key=_position)


def _position(hazard: Hazard) -> tuple[str, int, int]:
    place = hazard.place
    return (place.file, place.line, place.column) if place is not None else ("", 0, 0)
