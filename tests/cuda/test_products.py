"""Products by tiles: every size of tile, ragged edges, both layouts of both factors, several leaves
of k, batches; bits are the CPU's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.printer.tiles import TILES, Tile, tile_of
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.simulate.run import run_program
from gradc.ir.loop.kernel import Factor, Gemm
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Tensor
from gradc.ir.tensor.core import DType, Role
from gradc.runtime.native.load import compile_plan
from tests.support.cuda_programs import ISA, arrays_of, same_bits
from tests.support.native_plans import product

# m, n, k, whether each factor is turned.
SHAPES = (
    (33, 40, 9, False, False),
    (20, 36, 520, True, False),
    (64, 32, 24, False, True),
    (17, 31, 264, True, True),
)


def plan_of(m: int, n: int, k: int, turned_left: bool, turned_right: bool) -> Plan:
    """One product with bias and relu."""
    kernel = product(m, n, k, True)
    (gemm,) = kernel.body
    assert isinstance(gemm, Gemm)
    left = Factor(gemm.left.buffer, (), 1, m) if turned_left else gemm.left
    right = Factor(gemm.right.buffer, (), 1, k) if turned_right else gemm.right
    kernel = replace(kernel, body=(replace(gemm, left=left, right=right),))
    sizes = {"a": m * k, "b": k * n, "bias": n, "c": m * n}
    f32 = DType.F32
    tensors = tuple(
        Tensor(name, (size,), f32, "argument", number)
        for number, (name, size) in enumerate(sizes.items())
    )
    ports = tuple(
        Port(t.name, Role.INPUT, t.shape, f32, "out" if t.name == "c" else "in", number)
        for number, t in enumerate(tensors)
    )
    launch = Launch(0, tuple(map(Argument, range(4))))
    return Plan("product", ports, tensors, (kernel,), (launch,))


def outcome(plan: Plan, program: Program) -> bool:
    """Whether texts and CPU agree on random numbers."""
    rng = np.random.default_rng(1)
    given = {p.name: rng.standard_normal(p.shape) for p in plan.ports}
    mine, theirs = arrays_of(plan, given), arrays_of(plan, given)
    run_program(program, mine)
    compile_plan(plan, threads=1).call(theirs)
    return same_bits(mine[-1], theirs[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_products_by_tiles_have_the_bits_of_the_cpu(
    shape: tuple[int, int, int, bool, bool],
) -> None:
    plan = plan_of(*shape)
    program = print_plan(plan, ISA)
    assert "by tiles of 32 x 32" in program.texts[0].source
    assert outcome(plan, program)


@pytest.mark.parametrize("tile", TILES[:2], ids=lambda tile: f"{tile.size}")
def test_larger_tiles_give_the_same_bits(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradc.codegen.cuda.printer.kernels.tile_of", lambda gemm: tile)
    plan = plan_of(tile.size + 4, 36, 12, False, False)
    program = print_plan(plan, ISA)
    assert f"by tiles of {tile.size} x {tile.size}" in program.texts[0].source
    assert outcome(plan, program)


def test_tiles_are_as_large_as_there_are_enough_of_them() -> None:
    sizes = {}
    for m, n in ((4096, 4096), (1024, 768), (256, 1024), (20, 1 << 16), (64, 10)):
        (gemm,) = product(m, n, 512, False).body
        assert isinstance(gemm, Gemm)
        tile = tile_of(gemm)
        sizes[m, n] = 0 if tile is None else tile.size
    expected = {(4096, 4096): 128, (1024, 768): 64, (256, 1024): 32, (20, 1 << 16): 32, (64, 10): 0}
    assert sizes == expected
