"""Where a NaN or infinity began: the first op of a program whose results are not finite though its operands are.

The program is run once more by the reference interpreter, in its own element types, and watched. Slow, and worth it: it
runs only when something has gone wrong.

Non-goals: preventing it (``gradc verify`` finds such places before running).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradc.ir.core import Function, Op, Role
from gradc.ir.diagnostics import Diagnostic, error
from gradc.ir.domains import NumpyArrays
from gradc.ir.interpret import run
from gradc.runtime.arrays import Array

# Ops that only hand on what another op made, or mask with infinity on purpose.
_CARRIERS = ("constant", "broadcast", "reshape", "transpose", "slice", "concat", "pad", "select")


class _Watch:
    """The first op that made something not finite out of finite operands."""

    def __init__(self) -> None:
        self.op: Op | None = None
        self.found = ""
        self._bad: set[object] = set()

    def __call__(self, op: Op, results: Sequence[Any]) -> None:
        was_bad = any(value in self._bad for value in op.operands)
        for value, result in zip(op.results, results, strict=True):
            array = np.asarray(result)
            if array.dtype.kind != "f" or np.isfinite(array).all():
                continue
            self._bad.add(value)
            if self.op is None and not was_bad and op.name not in _CARRIERS:
                self.op, self.found = op, _describe(array)


def _describe(array: Array) -> str:
    count = int((~np.isfinite(array)).sum())
    kind = "NaN" if np.isnan(array).any() else "infinite"
    return f"{count} of {array.size} values {kind}"


def find_culprit(function: Function, operands: Mapping[str, Any]) -> Diagnostic | None:
    """A finding at the model's line where the first value that is not finite was made; None if all are finite.

    ``operands`` has an array per parameter of ``function``; SEEDs may be given as numbers.
    """
    watch = _Watch()
    arrays = NumpyArrays()
    given = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        array = np.asarray(operands[slot.name])
        given.append(arrays.settle(arrays.cast(array, value.type.dtype), value.type.dtype))
    run(arrays, function, given, watch)
    if watch.op is None:
        return None
    op = watch.op
    where = f" in layer `{op.scope}`" if op.scope else ""
    sweep = "" if _is_forward(function, op) else " of the gradient"
    message = f"values stop being finite here{where}: `{op.name}`{sweep} gives {watch.found}"
    span = op.span.outermost if op.span is not None else None
    label = f"{op.name}: {op.results[0].type}"
    return error("GC0809", message, span, label=label)


def _is_forward(function: Function, op: Op) -> bool:
    """Whether the loss or another primal result depends on ``op``."""
    live = {
        value
        for slot, value in zip(function.results, function.block.outputs, strict=True)
        if slot.role is not Role.COTANGENT
    }
    for candidate in reversed(function.block.body):
        if any(value in live for value in candidate.results):
            if candidate is op:
                return True
            live.update(candidate.operands)
    return False
