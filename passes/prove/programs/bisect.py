"""Where a compilation goes wrong: the first step, op and line at which programs differ on given
data.

Every artifact of the pipeline is run on the same numbers in f64; the first whose results differ
from the program before it is the culprit. In it, the first op that computes a value unknown to the
program before, from values that are all known to it, on the way to a wrong result, is where it
happened; its span is the user's line.

Non-goals: rounding (a pass may round a constant to the program's type, which ``TOLERANCE`` allows
for), why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.execute import ExecutionError
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType, Function, Op, Value
from gradc.ir.tensor.text import print_op
from gradc.passes.pipeline import Record
from gradc.passes.prove.report import key
from gradc.passes.simplify.flatten import flatten

# Of the largest entry of a result, by the type that constants are rounded to.
TOLERANCE = {DType.F64: 1e-9, DType.F32: 1e-5, DType.BF16: 0.1, DType.F16: 0.02}
# Plans compute in the program's own types.
PLAN_TOLERANCE = {DType.F64: 1e-9, DType.F32: 1e-3, DType.BF16: 0.2, DType.F16: 0.1}


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first step whose results differ, those results, and the op and place if they could be
    found.
    """

    step: str
    results: tuple[str, ...]
    op: str = ""
    place: str = ""
    message: str = ""


def bisect(source: Function, records: Sequence[Record], values: Sequence[Any]) -> Culprit | None:
    """The first step of a pipeline run that changes what ``source`` computes at ``values``; None if
    none does.

    ``values`` are the parameters in order.
    """
    before, known = source, _results(source, values)
    tolerance = max(
        (TOLERANCE[v.type.dtype] for v in source.block.parameters if v.type.dtype.is_float),
        default=TOLERANCE[DType.F64],
    )
    for record in records:
        artifact = record.artifact
        if isinstance(artifact, Plan):
            culprit = _bisect_plan(record, artifact, before, values)
            if culprit is not None:
                return culprit
            continue
        if not record.is_changed:
            continue
        now = _results(artifact, values)
        wrong = [n for n, x in known.items() if n not in now or not _is_close(x, now[n], tolerance)]
        if wrong:
            op = _first_op(before, artifact, values, wrong)
            return _culprit(record.step, wrong, op)
        before, known = artifact, now
    return None


def _culprit(step: str, wrong: Sequence[str], op: Op | None) -> Culprit:
    if op is None:
        return Culprit(step, tuple(wrong))
    place = "" if op.span is None else str(op.span.outermost)
    return Culprit(step, tuple(wrong), print_op(op).splitlines()[0].strip(), place)


def _results(function: Function, values: Sequence[Any]) -> dict[str, Any]:
    found = run(NumpyArrays(DType.F64), function, [_wide(x) for x in values])
    return {key(slot): np.asarray(x) for slot, x in zip(function.results, found, strict=True)}


def _wide(x: Any) -> Any:
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _is_close(a: Any, b: Any, tolerance: float) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    scale = max(1e-30, float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0)))
    return bool(np.isclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True).all())


# --- which op


def _print(x: Any) -> tuple[Any, ...]:
    """Values that agree to five digits or so have the same print: a sum at random weights."""
    array = np.asarray(x)
    if array.dtype.kind != "f":
        return (array.shape, array.tobytes())
    rng = np.random.default_rng(array.size)
    finite = np.where(np.isfinite(array), array, 0.5)
    total = float((finite * rng.uniform(0.5, 1.5, array.shape)).sum())
    return (array.shape, f"{total:.4e}", int(np.isfinite(array).sum()))


def _first_op(
    before: Function, after: Function, values: Sequence[Any], wrong: Sequence[str]
) -> Op | None:
    # What is in a checkpoint is looked at op by op.
    before, after = flatten(before), flatten(after)
    arrays = NumpyArrays(DType.F64)
    wide = [_wide(x) for x in values]
    seen: dict[tuple[Any, ...], None] = {_print(x): None for x in wide}

    def remember(_op: Op, results: Sequence[Any]) -> None:
        seen.update((_print(x), None) for x in results)

    run(arrays, before, wide, remember)
    is_known: dict[Value, bool] = dict.fromkeys(after.block.parameters, True)
    order: list[Op] = []

    def judge(op: Op, results: Sequence[Any]) -> None:
        order.append(op)
        for value, x in zip(op.results, results, strict=True):
            # Constants and views of known values are as good as known.
            is_known[value] = _print(x) in seen or not op.operands

    run(arrays, after, wide, judge)
    blamed = _blamed(after, wrong, is_known)
    for op in order:
        if any(v in blamed for v in op.results) and all(is_known[v] for v in op.operands):
            return op
    return None


def _blamed(after: Function, wrong: Sequence[str], is_known: Mapping[Value, bool]) -> set[Value]:
    """Unknown values from which a wrong result follows through unknown values only."""
    makers = {v: op for op in after.block.body for v in op.results}
    stack = [
        v for slot, v in zip(after.results, after.block.outputs, strict=True) if key(slot) in wrong
    ]
    blamed: set[Value] = set()
    while stack:
        value = stack.pop()
        if value in blamed or is_known.get(value, True):
            continue
        blamed.add(value)
        stack += makers[value].operands if value in makers else ()
    return blamed


# --- plans


def _bisect_plan(
    record: Record, plan: Plan, before: Function, values: Sequence[Any]
) -> Culprit | None:
    """A complete Plan against the last tensor program; a Plan without places cannot be run."""
    if any(t.space == "arena" and t.offset is None for t in plan.tensors) and plan.steps:
        return None
    names = [s.name for s in before.parameters]
    arguments = {
        name: np.asarray(x, NumpyArrays.dtype(v.type.dtype))
        for name, x, v in zip(names, values, before.block.parameters, strict=True)
    }
    expected = _results(before, values)
    try:
        found = execute_plan(plan, arguments)
    except ExecutionError as fault:
        return Culprit(record.step, (), message=str(fault))
    ports = [p for p in plan.ports if p.direction != "in"]
    wrong = []
    for port, x in zip(ports, found, strict=True):
        name = f"{port.role.value} {port.name}"
        tolerance = PLAN_TOLERANCE.get(port.dtype, 0.0)
        if name in expected and not _is_close(expected[name], np.asarray(_wide(x)), tolerance):
            wrong.append(name)
    return Culprit(record.step, tuple(wrong)) if wrong else None
