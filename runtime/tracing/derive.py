"""What a transform makes of a recorded function: its program, and the value a call returns.

A ``Transform`` is one transform. ``derive`` goes from IR to IR (with ``wrt``, the numbers of the
parameters to differentiate in); ``finish`` puts the results of the derived program, arrays or
traced values, into the trees that users see. Both ways of calling share them: compiled for arrays,
inlined inside another trace.

Non-goals: transforms that are compositions of others (``transforms``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import Function, Slot, Value
from gradc.passes.differentiate.jacobian import JacobianPlan, jacobian_plan
from gradc.passes.differentiate.jacobian import jacobian as jacobian_of
from gradc.passes.differentiate.transforms import jvp as jvp_of
from gradc.passes.differentiate.transforms import value_and_grad as value_and_grad_of
from gradc.passes.differentiate.transforms import vjp as vjp_of
from gradc.runtime.tracing.record import Recorded
from gradc.runtime.tracing.trees import LEAF, Structure, rebuild

Mode = Literal["forward", "reverse"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is differentiated: parameters by number, and the structure they come back in."""

    numbers: tuple[int, ...]
    structure: Structure


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform. ``seeds`` says whether calls bring tangents or cotangents."""

    name: str
    derive: Callable[[Recorded, Wanted], Function]
    finish: Callable[[Recorded, Wanted, Sequence[Any]], Any]
    is_loss: bool = False
    seeds: Literal["tangents", "cotangents"] | None = None
    # Jacobians: how many passes each result takes.
    passes: Callable[[Recorded, Wanted], Sequence[JacobianPlan]] | None = None


def results_of(recorded: Recorded, results: Sequence[Any]) -> Any:
    """The function's own result."""
    return rebuild(recorded.out, results[: recorded.outputs])


def _aux_of(recorded: Recorded, results: Sequence[Any]) -> Any:
    count = len(recorded.function.results)
    return rebuild(recorded.aux, results[recorded.outputs : count])


def _derivatives(recorded: Recorded, wanted: Wanted, results: Sequence[Any]) -> Any:
    return rebuild(wanted.structure, results[len(recorded.function.results) :])


# --- value and gradient


def _gradient(recorded: Recorded, wanted: Wanted) -> Function:
    return value_and_grad_of(recorded.function, wanted.numbers)


def _finish_value_and_grad(recorded: Recorded, wanted: Wanted, results: Sequence[Any]) -> Any:
    value = results[0]
    if recorded.aux is not None:
        value = (value, _aux_of(recorded, results))
    return value, _derivatives(recorded, wanted, results)


def _finish_grad(recorded: Recorded, wanted: Wanted, results: Sequence[Any]) -> Any:
    slope = _derivatives(recorded, wanted, results)
    return slope if recorded.aux is None else (slope, _aux_of(recorded, results))


# --- value alone


def _same(recorded: Recorded, _wanted: Wanted) -> Function:
    return recorded.function


def _finish_value(recorded: Recorded, _wanted: Wanted, results: Sequence[Any]) -> Any:
    return results_of(recorded, results)


# --- one direction


def _forward(recorded: Recorded, wanted: Wanted) -> Function:
    return jvp_of(recorded.function, wanted.numbers, recorded.floating)


def _finish_jvp(recorded: Recorded, _wanted: Wanted, results: Sequence[Any]) -> Any:
    count = len(recorded.function.results)
    dots: list[Any] = [0.0] * recorded.outputs  # what is no float does not move
    for place, dot in zip(recorded.floating, results[count:], strict=True):
        dots[place] = dot
    pair = results_of(recorded, results), rebuild(recorded.out, dots)
    return pair if recorded.aux is None else (*pair, _aux_of(recorded, results))


def _reverse(recorded: Recorded, wanted: Wanted) -> Function:
    return vjp_of(recorded.function, wanted.numbers, recorded.floating)


# --- Jacobians


def _jacobians(mode: Mode | None) -> Callable[[Recorded, Wanted], Function]:
    def derive(recorded: Recorded, wanted: Wanted) -> Function:
        function = recorded.function
        if len(recorded.floating) != recorded.outputs:
            message = (
                "a Jacobian is taken of floating results; this function returns others as well"
            )
            raise DiagnosticError([error("GC0562", message, None)])
        parts = [jacobian_of(function, wanted.numbers, of, mode) for of in range(recorded.outputs)]
        return parts[0] if len(parts) == 1 else _joined(function, parts)

    return derive


def _passes(mode: Mode | None) -> Callable[[Recorded, Wanted], Sequence[JacobianPlan]]:
    def count(recorded: Recorded, wanted: Wanted) -> Sequence[JacobianPlan]:
        function = recorded.function
        return [jacobian_plan(function, wanted.numbers, of, mode) for of in range(recorded.outputs)]

    return count


def _joined(function: Function, parts: Sequence[Function]) -> Function:
    """The results of ``function``, then what each of ``parts`` adds to them; what they share is
    found by CSE.
    """
    b = Builder()
    operands = [b.parameter(v.type, v.hint) for v in function.block.parameters]
    count = len(function.results)
    outputs: list[Value] = []
    slots: list[Slot] = []
    for part in parts:
        found = inline_function(b, part, operands)
        if not outputs:
            outputs, slots = list(found[:count]), list(part.results[:count])
        outputs += found[count:]
        slots += part.results[count:]
    return b.function(function.name, outputs, list(function.parameters), slots)


def _finish_jacobian(recorded: Recorded, wanted: Wanted, results: Sequence[Any]) -> Any:
    """For each leaf of the result, the tree of the arguments; a single leaf gives that tree
    alone.
    """
    arrays = results[len(recorded.function.results) :]
    width = len(wanted.numbers)
    rows = [
        rebuild(wanted.structure, arrays[n * width : (n + 1) * width])
        for n in range(recorded.outputs)
    ]
    whole = rows[0] if recorded.out is LEAF else rebuild(recorded.out, rows)
    return whole if recorded.aux is None else (whole, _aux_of(recorded, results))


_MODES: Sequence[tuple[str, Mode | None]] = (
    ("jacobian", None),
    ("jacfwd", "forward"),
    ("jacrev", "reverse"),
)
VALUE_AND_GRAD = Transform("value_and_grad", _gradient, _finish_value_and_grad, True)
GRAD = Transform("grad", _gradient, _finish_grad, True)
JIT = Transform("jit", _same, _finish_value)
JVP = Transform("jvp", _forward, _finish_jvp, seeds="tangents")
VJP = Transform("vjp", _reverse, _derivatives, seeds="cotangents")
JACOBIAN, JACFWD, JACREV = (
    Transform(name, _jacobians(mode), _finish_jacobian, passes=_passes(mode))
    for name, mode in _MODES
)

__all__ = [
    "GRAD",
    "JACFWD",
    "JACOBIAN",
    "JACREV",
    "JIT",
    "JVP",
    "VALUE_AND_GRAD",
    "VJP",
    "Transform",
    "Wanted",
    "results_of",
]
