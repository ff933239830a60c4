"""No false alarms: right compilations of random programs are never refuted, and faults in them still are not proved."""

from __future__ import annotations

import pytest

from gradc.ir.builder import Builder
from gradc.ir.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove import Subject, prove
from gradc.passes.prove_point import seed_of
from gradc.passes.prove_refute import decide_equal
from gradc.passes.prove_report import Status
from tests.generate import random_program


def sides(factor: float, dtype: DType) -> tuple[Function, Function]:
    """x * 0.3 and x times ``factor`` times 0.3, as programs."""
    made = []
    for value in (0.3, 0.3 * factor):
        b = Builder()
        x = b.parameter(TensorType((2,), dtype), "x")
        y = b.one("mul", x, b.constant(value, dtype, (2,)))
        slots = [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)]
        made.append(b.function("f", [y], *slots))
    return made[0], made[1]


# Constants folded in f64, scalars, argmax over one axis, scatters: each was a false alarm or a crash once.
# 11, 18, 39, 49, 57: computed numbers that tie at every point, where balls decide nothing.
@pytest.mark.parametrize("seed", [4, 11, 16, 18, 34, 37, 39, 40, 45, 49, 53, 57])
def test_right_compilations_are_not_refuted(seed: int) -> None:
    program = random_program(seed, regions=seed % 2 == 0, images=seed % 3 == 0, empty=False)
    function = program.function
    rows = zip(function.parameters, function.block.parameters, strict=True)
    names = tuple(s.name for s, v in rows if v.type.dtype.is_float)
    made = run_pipeline(function, Options(lambda f: value_and_grad(f, names), verify=0))
    found = prove(Subject(names, made, made, {}, {}), seed_of(function), 2)
    assert {v.subject for v in found.verdicts if v.kind == "parameter"} == set(names)
    bad = (Status.REFUTED, Status.UNDECIDED)
    assert not [str(v) for v in found.verdicts if v.status in bad]


@pytest.mark.parametrize(
    "dtype, factor, is_refuted",
    [
        (DType.F64, 1 + 2.0**-50, False),
        (DType.F64, 1 + 2.0**-12, True),
        (DType.F32, 1 + 2.0**-22, False),
        (DType.F32, 1 + 2.0**-12, True),
    ],
)
def test_rounded_constants_refute_nothing_and_faults_do(
    dtype: DType, factor: float, is_refuted: bool
) -> None:
    left, right = sides(factor, dtype)
    outcome = decide_equal(left, right, [(0, 0)])
    assert (outcome.status is Status.REFUTED) == is_refuted
    if is_refuted:
        assert outcome.point["x"].startswith("[")
