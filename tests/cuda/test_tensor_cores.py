"""Products of bf16 and f16 on tensor cores: both layouts of both factors, ragged tiles.
In the simulator sums are one chain in k's order; a processor has its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.simulate.memory import SimulationError
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.cuda.toolchain import assemble, build, sass
from gradc.codegen.maths.arrays import fma
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.bf16 import from_bf16, round_to_bf16
from gradc.ir.tensor.core import DType
from tests.cuda.test_products import drawn, plan_of, printed
from tests.support.cuda_programs import TARGET, arrays_of, unproved

# m, n, k, whether each factor is turned, type.
SHAPES = (
    (130, 136, 104, False, False, DType.BF16),
    (136, 72, 100, True, False, DType.F16),
    (136, 50, 104, True, True, DType.BF16),
)


def expected(plan: Plan, shape: tuple[int, int, int, bool, bool, DType]) -> NDArray[Any]:
    """The product as a chain, rounded; then bias and relu, each rounded."""
    m, n, k, turned_left, turned_right, dtype = shape

    def rounded(x: NDArray[Any]) -> NDArray[Any]:
        if dtype is DType.F16:
            return x.astype(np.float16).astype(np.float32)
        return np.asarray(round_to_bf16(x), np.float32)

    given = {name: rounded(x.astype(np.float32)) for name, x in drawn(plan).items()}
    left = given["a"].reshape(k, m).T if turned_left else given["a"].reshape(m, k)
    right = given["b"].reshape(n, k).T if turned_right else given["b"].reshape(k, n)
    total = np.zeros((m, n), np.float32)
    for step in range(k):
        rows, columns = np.broadcast_arrays(left[:, step, None], right[None, step])
        total = fma(rows, columns, total)
    found: NDArray[Any] = np.maximum(rounded(rounded(total) + given["bias"]), 0).reshape(-1)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_tensor_cores_multiply_every_layout(
    shape: tuple[int, int, int, bool, bool, DType],
) -> None:
    plan = plan_of(*shape)
    program = printed(plan)
    assert "on tensor cores" in program.texts[0].source
    arrays = arrays_of(plan, drawn(plan))
    run_program(program, arrays)
    is_half = shape[-1] is DType.F16
    found = arrays[-1].view(np.float16).astype(np.float32) if is_half else from_bf16(arrays[-1])
    assert np.array_equal(found, expected(plan, shape))
    assert not unproved(plan, program)


def test_small_or_misaligned_products_stay_on_other_cores() -> None:
    for m, n, k, turned in ((40, 128, 64, False), (128, 128, 24, False), (128, 128, 60, False)):
        (text,) = printed(plan_of(m, n, k, turned, turned, DType.BF16)).texts
        assert "tensor" not in text.source


@pytest.mark.parametrize(
    "fault",
    [
        ("wait_copies(1)", "pass", "race"),
        ("barrier()", "pass", "race"),
        ("bitxor(left_step, mod(floordiv(left_place, 2), 4))", "left_step", ""),
        ("turned_matrices(right", "matrices(right", ""),
    ],
)
def test_faults_of_fragments_and_copies_are_found(fault: tuple[str, str, str]) -> None:
    """A barrier, a wait, chunks that are not swapped, a matrix that is not turned."""
    old, new, kind = fault
    plan = plan_of(72, 72, 128, False, False, DType.BF16)
    program = printed(plan)
    (text,) = program.texts
    assert old in text.source
    faulty = replace(program, texts=(replace(text, source=text.source.replace(old, new)),))
    if kind:
        with pytest.raises(SimulationError, match=kind):
            run_program(faulty, arrays_of(plan, drawn(plan)))
    else:
        (said,) = unproved(plan, faulty)
        assert "store(c," in said


def test_the_main_loop_fits_two_blocks() -> None:
    pytest.importorskip("numba_cuda")
    (text,) = print_plan(plan_of(256, 256, 512, False, False, DType.BF16), TARGET).texts
    code = assemble.cubin([build.ptx(text, (9, 0))], (9, 0))
    found, loop = sass.statistics(code)["product"], sass.main_loops(code)["product"]
    assert (found.stack, found.local, found.f64) == (0, 0, 0)
    assert found.registers <= 128 and found.occupancy(text.threads, TARGET.processors) >= 2
    assert loop.tensor == 32 and loop.share >= 0.3
