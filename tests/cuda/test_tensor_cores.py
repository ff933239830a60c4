"""Products of bf16 and f16 on tensor cores: both layouts of both factors, ragged tiles, by chunks
and by elements, few rows, windows of images, leaves of k; by warps, and by groups of them.
In the simulator sums are one chain in k's order; a processor has its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.codegen.cuda.printer.plans import print_plan, scratch_of, target
from gradc.codegen.cuda.printer.tensor import LARGE, LARGE_GROUPS, SMALL, SMALL_GROUPS, Block
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.toolchain import assemble, build, sass
from gradc.codegen.maths.arrays import fma
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Processors
from gradc.ir.tensor.bf16 import from_bf16, round_to_bf16
from gradc.ir.tensor.core import DType
from gradc.passes.place.scratch import place_scratch
from tests.cuda.test_products import drawn, outcome, plan_of, printed
from tests.cuda.test_windows import CASES, net
from tests.support.cuda_programs import TARGET, arrays_of, differing, unproved
from tests.support.cuda_programs import plan_of as plan_of_subject

# m, n, k, whether each factor is turned, type.
SHAPES = (
    (130, 136, 104, False, False, DType.BF16),
    (136, 72, 100, True, False, DType.F16),
    # By pieces of four elements, along k.
    (130, 50, 60, False, True, DType.BF16),
    # By elements: nothing that two divides, few rows and columns.
    (9, 70, 61, True, False, DType.F16),
    (67, 13, 45, False, True, DType.BF16),
)
WARPS = target("sm_80")
STORE = "\n        store(left, slot + t, u16(0))"
# Of groups: chunks of every layout, elements with either fast.
OF_GROUPS = (
    (130, 136, 104, False, False, DType.BF16),
    (132, 70, 62, True, True, DType.F16),
    (69, 70, 61, True, False, DType.BF16),
    (67, 73, 45, False, True, DType.F16),
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


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        *((each, SMALL) for each in SHAPES),
        (SHAPES[1], LARGE),
        (SHAPES[3], LARGE),
        ((132, 44, 36, True, False, DType.BF16), LARGE),
        *((each, LARGE_GROUPS) for each in OF_GROUPS),
        *((each, SMALL_GROUPS) for each in OF_GROUPS[1:3]),
    ],
)
def test_tensor_cores_multiply_every_layout(
    shape: tuple[int, int, int, bool, bool, DType], block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradc.codegen.cuda.printer.tensor.block_of", lambda *given: block)
    plan = plan_of(*shape)
    program = printed(plan)
    (text,) = program.texts
    assert "on tensor cores" in text.source and text.threads == block.threads
    arrays = arrays_of(plan, drawn(plan))
    run_program(program, arrays)
    is_half = shape[-1] is DType.F16
    found = arrays[-1].view(np.float16).astype(np.float32) if is_half else from_bf16(arrays[-1])
    assert np.array_equal(found, expected(plan, shape))
    assert not unproved(plan, program)


def test_leaves_of_k_are_summed_apart_by_the_shape_alone() -> None:
    """And added in order: with chains for leaves these are the CPU's sums."""
    bare = plan_of(10, 24, 1030, False, False, DType.F16)
    plan = place_scratch(bare, TARGET, scratch_of(TARGET))
    for machine in (TARGET, target("sm_80", Processors(1, 164 << 10, 65536, 2048))):
        program = print_plan(plan, machine)
        assert ["Sums over 256" in text.source for text in program.texts] == [True, False]
        assert outcome(bare, program) and not unproved(plan, program)


def test_groups_sum_leaves_of_k_apart() -> None:
    """Blocks of the last leaf are done before others: their groups are not there."""
    plan = plan_of(64, 64, 1030, False, False, DType.BF16)
    program = printed(plan)
    assert "by groups" in program.texts[0].source and len(program.texts) == 2
    assert not unproved(place_scratch(plan, TARGET, scratch_of(TARGET)), program)


@pytest.mark.parametrize("case", CASES)
def test_windows_of_images_are_multiplied_by_tensor_cores(
    case: tuple[int, int, int, int, int, str],
) -> None:
    one = net(*case, precision="bf16")
    plan = plan_of_subject(one)
    program = print_plan(plan, TARGET)
    assert sum("on tensor cores" in text.source for text in program.texts) >= 3
    assert not differing(one, program, plan)
    assert not unproved(plan, program)


def test_a_few_rows_stay_on_other_cores() -> None:
    for m, n, k in ((7, 128, 64), (128, 4, 64), (128, 128, 6)):
        (text,) = printed(plan_of(m, n, k, False, False, DType.BF16)).texts
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
    _found(plan, printed(plan, WARPS), old, new, kind)


@pytest.mark.parametrize(
    "fault",
    [
        ("wait_copies(1)", "pass", "race"),
        ("publish()", "pass", "race: .*not published"),
        ("barrier()", "pass", "race"),
        ("acc0 = ready(acc0)", "pass", "race: .*not ready"),
        ("commit_products()", "pass", "race: .*in flight"),
        ("acc0 = wait_products(acc0, 0)", "acc0 = wait_products(acc0, 1)", "race: .*in flight"),
        ("acc0 = wait_products(acc0, 0)", "pass", "race: .*in flight reads"),
        ("commit_products()", f"commit_products(){STORE}", "race: .*in flight reads"),
        ("rows = slot + 32 * y", "rows = slot + 32 * y + 8 * mod(t, 2)", "divergence"),
        ("rows = slot + 32 * y", "rows = slot + 32 * y + 32", "alignment"),
        ("bitxor(left_step, mod(floordiv(left_place, 2), 4))", "left_step", ""),
        ("right, slot + 1024, 1)", "right, slot + 16, 0)", ""),
        ("line = 16 *", "line = 8 *", ""),
    ],
)
def test_faults_of_groups_are_found(fault: tuple[str, str, str]) -> None:
    """Waits, fences and barriers missing or too early, factors that are not where a product reads
    them, sums that are another thread's.
    """
    old, new, kind = fault
    plan = plan_of(72, 72, 128, False, False, DType.BF16)
    _found(plan, printed(plan), old, new, kind)


def _found(plan: Plan, program: Program, old: str, new: str, kind: str) -> None:
    """That a text with ``new`` for ``old`` is refused, or for no ``kind`` not proved."""
    (text,) = program.texts
    assert old in text.source
    faulty = replace(program, texts=(replace(text, source=text.source.replace(old, new)),))
    if kind:
        with pytest.raises(SimulationError, match=kind):
            run_program(faulty, arrays_of(plan, drawn(plan)))
    else:
        (said,) = unproved(plan, faulty)
        assert "store(c," in said


@pytest.mark.parametrize(("isa", "tensor"), [("sm_80", 32), ("sm_90", 4)])
def test_the_main_loop_fits_two_blocks(isa: str, tensor: int) -> None:
    """Of groups it has a product of 64 x 64 for each of sixteen steps of k and 64 columns."""
    pytest.importorskip("numba_cuda")
    small = target(isa, Processors(1, 228 << 10, 65536, 2048))
    (text,) = print_plan(plan_of(256, 256, 992, False, False, DType.BF16), small).texts
    assert text.threads == LARGE.threads == LARGE_GROUPS.threads
    capability = build.CAPABILITIES[isa]
    code = assemble.cubin([build.ptx(text, capability)], capability)
    found, loop = sass.statistics(code)["product"], sass.main_loops(code)["product"]
    assert (found.stack, found.local, found.f64) == (0, 0, 0)
    assert found.registers <= 128 and found.occupancy(text.threads, TARGET.processors) >= 2
    assert loop.tensor == tensor and (isa == "sm_90" or loop.share >= 0.3)
