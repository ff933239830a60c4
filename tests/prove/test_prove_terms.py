"""Terms are sound: programs whose results are the same terms compute the same numbers, whatever the
program and fault.

Passes and adjoints of random programs as well: the compiled gradient has the terms of the plain
reverse sweep.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.ir.tensor.violation import VerificationError
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.terms import TermArrays
from gradc.passes.prove.programs.kernels import compare_plan
from gradc.passes.prove.programs.passes import compare_records
from gradc.passes.prove.rules.compose import gradient_terms, result_terms
from tests.support.generate import draw_inputs, random_program
from tests.support.loops_models import channel_model, lstm, mlp, row_model, transformer
from tests.support.mutants import OP_FAULTS, op_mutants

F64 = NumpyArrays(DType.F64)
MODELS = {
    "mlp": mlp(3, [3, 4, 3]),
    "rows": row_model(3, 4),
    "transformer": transformer(1, 2, 3, 4, 2, 5),
    "lstm": lstm(3, 2, 2, 3),
    "channels": channel_model(2, 2, 3, 3),
}


def same_numbers(a: Function, b: Function, seeds: range) -> bool:
    for seed in seeds:
        values = draw_inputs(a, seed)
        with np.errstate(all="ignore"):
            left, right = run(F64, a, values), run(F64, b, values)
        for x, y in zip(left, right, strict=True):
            # Terms are about the reals: what one order of operations overflows says nothing.
            known = np.isfinite(x) & np.isfinite(y)
            scale = max(1.0, float(np.max(np.abs(np.where(known, x, 0)), initial=0)))
            if not np.allclose(
                np.where(known, x, 0), np.where(known, y, 0), rtol=0, atol=1e-9 * scale
            ):
                return False
    return True


@pytest.mark.parametrize("seed", range(12))
def test_equal_terms_are_equal_numbers(seed: int) -> None:
    """Mutants of random programs: views, sums, gathers, images, loops, kinks."""
    program = random_program(seed, regions=seed % 2 == 0, images=seed % 3 == 0, empty=False)
    function = program.function
    arrays = TermArrays()
    expected = result_terms(arrays, function)
    judged = 0
    for kind, fault in OP_FAULTS.items():
        for number, mutant in enumerate(op_mutants(function, fault, seed)):
            if number >= 6:
                break
            try:
                verify_function(mutant)
            except VerificationError:
                continue
            found = result_terms(arrays, mutant)
            judged += 1
            if all(arrays.same(x, found[n]) for n, x in expected.items()):
                assert same_numbers(function, mutant, range(3)), (kind, number)
    assert judged >= 10


@pytest.mark.parametrize("name", MODELS)
def test_compiled_adjoints_are_the_plain_reverse_sweep(name: str) -> None:
    source = MODELS[name]
    names = [s.name for s in source.parameters if s.role is Role.PARAM]
    arrays = TermArrays()
    expected = gradient_terms(arrays, source, names)
    found = result_terms(arrays, value_and_grad(source, names))
    assert all(arrays.same(x, found[f"cotangent {n}"]) for n, x in expected.items())


@pytest.mark.parametrize("name", MODELS)
def test_passes_and_kernels_keep_every_residue(name: str) -> None:
    source = MODELS[name]
    names = [s.name for s in source.parameters if s.role is Role.PARAM]
    made = run_pipeline(source, Options(lambda f: value_and_grad(f, names), verify=0))
    assert not [c for c in compare_records(source, made.records, 3, 1) if c.differing]
    last = [r.artifact for r in made.records if isinstance(r.artifact, Function)][-1]
    found = compare_plan(last, made.plan, 3, 1)
    assert (found.differing, found.fault) == ((), "")


def pair(make: Any, *types: TensorType) -> tuple[Function, Function]:
    """Two programs on the same parameters."""
    made = []
    for side in (0, 1):
        b = Builder()
        operands = [b.parameter(t) for t in types]
        slots = [Slot(f"p{n}", Role.INPUT) for n in range(len(types))]
        y: Value = make(b, side, *operands)
        made.append(b.function("f", [y], slots, [Slot("y", Role.OUTPUT)]))
    return made[0], made[1]


MATRIX = TensorType((2, 3), DType.F64)


def _views(b: Builder, side: int, x: Value, y: Value) -> Value:
    if side:
        return b.one("transpose", b.one("mul", x, b.one("exp", y)), perm=(1, 0))
    turned = [b.one("transpose", v, perm=(1, 0)) for v in (y, x)]
    return b.one("mul", b.one("exp", turned[0]), turned[1])


def _sums(b: Builder, side: int, x: Value, y: Value) -> Value:
    if side:
        return b.one("sub", b.one("add", x, y), y)
    return x


def _quotients(b: Builder, side: int, x: Value, y: Value) -> Value:
    if side:
        return b.one("div", b.one("mul", x, y), b.one("mul", y, y))
    return b.one("div", x, y)


def _rows(b: Builder, side: int, x: Value, y: Value) -> Value:
    flat = b.one("reshape", x, shape=(6,))
    return b.one("reshape", flat if side else b.one("reshape", x, shape=(3, 2)), shape=(2, 3))


def _turned(b: Builder, side: int, x: Value, y: Value) -> Value:
    turned = b.one("transpose", x, perm=(1, 0))
    return b.one("reshape", turned if side else x, shape=(6,))


@pytest.mark.parametrize(
    "make, is_same",
    [(_views, True), (_sums, True), (_quotients, True), (_rows, True), (_turned, False)],
)
def test_laws_of_terms(make: Any, is_same: bool) -> None:
    left, right = pair(make, MATRIX, MATRIX)
    arrays = TermArrays()
    a, b = (result_terms(arrays, f)["output y"] for f in (left, right))
    assert arrays.same(a, b) is is_same
