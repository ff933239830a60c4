"""The finding ``inexact``: gradients whose error in machine code is more than their precision
explains, at the user's own parameters and data.

Measured as ``verify --numbers`` measures (``reports.accuracy``). The remedy is the next wider
precision that was tried and whose gradients are explained; where none is, the fault is gradc's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradc.ir.tensor.core import Function, Role
from gradc.runtime.reports.accuracy import Unexplained, unexplained
from gradc.runtime.reports.diagnose import Diagnosis, Finding
from gradc.runtime.reports.diagnose_said import said

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

_WIDER = {"f16": ("bf16", "f32"), "bf16": ("f32",), "f32": ("f64",)}


def with_inexact(
    diagnosis: Diagnosis,
    model: Model,
    function: Function,
    operands: Mapping[str, Any],
    target: str = "cpu",
) -> Diagnosis:
    """``diagnosis`` with what is inexact among its findings, worst first; and only what holds."""
    slots = function.parameters
    pairs = zip(slots, function.block.parameters, strict=True)
    names = [s.name for s in slots if s.role is Role.PARAM] or [
        s.name for s, v in pairs if s.role is Role.INPUT and v.type.dtype.is_float
    ]
    wrong = unexplained(model, names, operands, target) if names else ()
    if not wrong:
        return said(diagnosis, function, operands)
    spans = {slot.name: slot.span for slot in slots}
    remedy, effect = _remedy(model, wrong, operands, target)
    findings = [
        Finding("inexact", _said(one, model.precision), spans[one.name], 4.0, remedy, effect)
        for one in wrong
    ]
    ranked = sorted([*diagnosis.findings, *findings], key=lambda f: -f.severity)
    return said(replace(diagnosis, findings=tuple(ranked)), function, operands)


def _said(one: Unexplained, precision: str) -> str:
    return (
        f"the compiled gradient of `{one.name}` is wrong by {one.error:.2g} of its largest entry; "
        f"rounding in {precision} explains {one.explained:.2g}"
    )


def _remedy(
    model: Model, wrong: tuple[Unexplained, ...], operands: Mapping[str, Any], target: str
) -> tuple[str, str]:
    names = [one.name for one in wrong]
    for precision in _WIDER.get(model.precision, ()):
        tried = type(model)(model.program, model.name, model.dims, precision)
        if not unexplained(tried, names, operands, target):
            count = "it is" if len(names) == 1 else f"all {len(names)} are"
            effect = f"in {precision} {count} as exact as its rounding allows"
            return f"compute in {precision}: `--precision {precision}`", effect
    return "", ""
