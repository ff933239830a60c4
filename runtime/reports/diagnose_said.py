"""What of a diagnosis is said: numbers that are not finite before all else, one finding a cause,
nothing of a precision that does not run.

Non-goals: measuring (``diagnose``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Role
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.reports.culprit import find_culprit
from gradc.runtime.reports.diagnose import Diagnosis, Finding

# What a gradient that is not finite makes of the other measurements.
_FOLLOWS = ("exploding", "vanishing", "inexact", "underflow", "unreached")
_NAMED = 6


def said(found: Diagnosis, function: Function, operands: Mapping[str, Any]) -> Diagnosis:
    """``found`` with the findings that hold: checked in the program's own precision."""
    broken = _broken(function, operands)
    if broken is not None:
        kept = [f for f in found.findings if f.kind not in _FOLLOWS]
        return replace(found, findings=(broken, *kept))
    findings = [f for f in found.findings if f.kind not in ("unreached", "underflow", "symmetry")]
    if any(v.type.dtype is DType.F16 for v in function.block.parameters):
        findings += [f for f in found.findings if f.kind == "underflow"]
    findings += _merged([f for f in found.findings if f.kind == "symmetry"])
    findings += _unreached(found, function, operands)
    return replace(found, findings=tuple(sorted(findings, key=lambda f: -f.severity)))


def _broken(function: Function, operands: Mapping[str, Any]) -> Finding | None:
    """Where the loss or a gradient stops being finite, in the types that are computed in."""
    names = [s.name for s in function.parameters if s.role is Role.PARAM]
    if not names:
        return None
    with np.errstate(all="ignore"):
        origin = find_culprit(value_and_grad(function, names), operands)
    if origin is None:
        return None
    remedy = "guard the op there; `gradc check --hazards` shows how"
    return Finding("not-finite", origin.message, origin.span, 500.0, remedy)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for several of one kind: they have one cause."""
    if len(findings) < 2:
        return list(findings)
    first = findings[0]
    return [replace(first, message=f"{first.message} (and those of {len(findings) - 1} others)")]


def _unreached(found: Diagnosis, function: Function, operands: Mapping[str, Any]) -> list[Finding]:
    """Parameters whose gradient is zero now and a little beside: zero because a factor starts at
    zero (a low-rank update, a residual's gain) passes with the first step.
    """
    zero = [p for p in found.parameters if p.grad_norm == 0]
    if not zero:
        return []
    still = _zero_beside(function, operands, [p.name for p in zero])
    told = [p for p in zero if p.name in still]
    if not told:
        return []
    shown = ", ".join(f"`{p.name}`" for p in told[:_NAMED])
    shown += f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    subject = f"the gradient of {shown} is" if len(told) == 1 else f"the gradients of {shown} are"
    message = f"{subject} exactly zero, here and a step beside: nothing is learned from these data"
    remedy = "check that it reaches the loss, and that the units it feeds are not dead"
    return [Finding("unreached", message, told[0].span, 1.5, remedy)]


def _zero_beside(function: Function, operands: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Which gradients stay zero where all parameters are moved a little."""
    gradient = value_and_grad(flatten(function), list(names))
    rng = np.random.default_rng(0)
    arrays = NumpyArrays(DType.F64)
    given = []
    for slot, value in zip(gradient.parameters, gradient.block.parameters, strict=True):
        array = np.asarray(operands[slot.name])
        if slot.role is Role.PARAM:
            size = max(float(np.abs(array).max(initial=0)), 1.0)
            array = array + 1e-2 * size * rng.normal(size=array.shape)
        given.append(arrays.cast(array, value.type.dtype))
    with np.errstate(all="ignore"):
        results = run(arrays, gradient, given)
    return {
        slot.name
        for slot, array in zip(gradient.results, results, strict=True)
        if slot.role is Role.COTANGENT and not np.asarray(array).any()
    }
