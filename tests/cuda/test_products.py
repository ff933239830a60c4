"""Products by tiles: every size of tile, ragged edges, both layouts of both factors, several leaves
of k, batches; bits are the CPU's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.codegen.cuda.printer.leaves import split_of
from gradc.codegen.cuda.printer.plans import print_plan, scratch_of
from gradc.codegen.cuda.printer.tiles import TILES, Tile, fitting, levels_of, tile_of
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.cuda.toolchain import assemble, build, sass
from gradc.ir.loop.kernel import Factor, Gemm
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Tensor
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType, Role
from gradc.passes.place.scratch import place_scratch
from gradc.runtime.native.load import compile_plan
from tests.support.cuda_programs import TARGET, arrays_of, same_bits
from tests.support.native_plans import product

# m, n, k, whether each factor is turned.
SHAPES = (
    (33, 40, 9, False, False),
    (20, 36, 520, True, False),
    (64, 32, 24, False, True),
    (17, 31, 264, True, True),
)


def plan_of(
    m: int, n: int, k: int, turned_left: bool, turned_right: bool, dtype: DType = DType.F32
) -> Plan:
    """One product with bias and relu."""
    kernel = product(m, n, k, True, dtype)
    (gemm,) = kernel.body
    assert isinstance(gemm, Gemm)
    left = Factor(gemm.left.buffer, (), 1, m) if turned_left else gemm.left
    right = Factor(gemm.right.buffer, (), 1, k) if turned_right else gemm.right
    kernel = replace(kernel, body=(replace(gemm, left=left, right=right),))
    sizes = {"a": m * k, "b": k * n, "bias": n, "c": m * n}
    tensors = tuple(
        Tensor(name, (size,), dtype, "argument", number)
        for number, (name, size) in enumerate(sizes.items())
    )
    ports = tuple(
        Port(t.name, Role.INPUT, t.shape, dtype, "out" if t.name == "c" else "in", number)
        for number, t in enumerate(tensors)
    )
    launch = Launch(0, tuple(map(Argument, range(4))))
    return Plan("product", ports, tensors, (kernel,), (launch,))


def printed(plan: Plan, machine: Target = TARGET) -> Program:
    """Its texts, with scratch for sums."""
    return print_plan(place_scratch(plan, machine, scratch_of(machine)), machine)


def drawn(plan: Plan) -> dict[str, NDArray[Any]]:
    """Random numbers for every port."""
    rng = np.random.default_rng(1)
    return {p.name: rng.standard_normal(p.shape) for p in plan.ports}


def outcome(plan: Plan, program: Program) -> bool:
    """Whether texts and CPU agree on random numbers."""
    given = drawn(plan)
    mine, theirs = arrays_of(plan, given), arrays_of(plan, given)
    run_program(program, mine)
    compile_plan(plan, threads=1).call(theirs)
    return same_bits(mine[-1], theirs[-1])


def chosen(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on products are by this tile."""

    def choose(gemm: Gemm, processors: int) -> Tile | None:
        return fitting(tile, levels_of(gemm.k))

    monkeypatch.setattr("gradc.codegen.cuda.printer.kernels.tile_of", choose)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_by_tiles_have_the_bits_of_the_cpu(
    shape: tuple[int, int, int, bool, bool],
) -> None:
    plan = plan_of(*shape)
    program = printed(plan)
    assert "by tiles of " in program.texts[0].source
    assert len(program.texts) == 1 + (shape[2] > 256), "leaves of k are for blocks of their own"
    assert outcome(plan, program)


def test_leaves_of_k_are_added_within_a_block_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradc.codegen.cuda.printer.kernels.split_of", lambda *given: None)
    plan = plan_of(*SHAPES[3])
    program = printed(plan)
    assert len(program.texts) == 1 and "each_sum" in program.texts[0].source
    assert outcome(plan, program)


def test_products_are_split_where_tiles_are_few() -> None:
    found = {}
    for m, n, k in (
        (64, 576, 4096),
        (256, 256, 1024),
        (256, 256, 256),
        (64, 64, 1 << 16),
        (256, 512, 1 << 16),
    ):
        (gemm,) = product(m, n, k, False).body
        assert isinstance(gemm, Gemm)
        split = split_of(gemm, 132)
        found[m, n, k] = None if split is None else (str(split.tile), split.span, split.count)
    assert found == {
        (64, 576, 4096): ("64 x 64 x 16", 256, 16),
        (256, 256, 1024): ("32 x 32 x 16", 256, 4),
        (256, 256, 256): None,
        (64, 64, 1 << 16): ("64 x 64 x 16", 256, 256),  # leaves of four nodes
        (256, 512, 1 << 16): ("32 x 32 x 16", 16384, 4),  # nodes are enough
    }


def test_leaves_of_several_nodes_are_added_node_by_node() -> None:
    """66 leaves: a whole node, and one of two leaves."""
    plan = place_scratch(plan_of(17, 16, 65 * 256 + 9, True, False), TARGET, scratch_of(TARGET))
    program = print_plan(plan, TARGET)
    assert len(program.texts) == 3 and outcome(plan, program)


@pytest.mark.parametrize("tile", TILES[:-1], ids=str)
def test_larger_tiles_give_the_same_bits(tile: Tile, monkeypatch: pytest.MonkeyPatch) -> None:
    """More slices than stages, a part of one at the end, a part of a tile at both ends."""
    chosen(tile, monkeypatch)
    turned = tile.own == 4
    plan = plan_of(
        tile.rows + 4, max(tile.columns - 28, 12), tile.depth * tile.stages + 4, turned, turned
    )
    program = print_plan(plan, TARGET)
    assert f"by tiles of {tile}" in program.texts[0].source
    assert outcome(plan, program)


@pytest.mark.parametrize("shape", SHAPES[2:3])
def test_products_in_f64_have_the_bits_of_the_cpu(
    shape: tuple[int, int, int, bool, bool],
) -> None:
    plan = plan_of(*shape, dtype=DType.F64)
    program = print_plan(plan, TARGET)
    assert "by tiles of 32 x 32" in program.texts[0].source
    assert outcome(plan, program)


def test_tiles_are_as_large_as_there_are_enough_of_them() -> None:
    sizes = {}
    shapes = [(4096, 4096, 256), (4096, 4096, 512), (2048, 1088, 512), (1024, 768, 512)]
    shapes += [(256, 1024, 512), (20, 1 << 16, 512), (64, 10, 512), (4096, 4096, 1 << 15)]
    for m, n, k in shapes:
        (gemm,) = product(m, n, k, False).body
        assert isinstance(gemm, Gemm)
        sizes[m, n, k] = str(tile_of(gemm, 132))
    assert list(sizes.values()) == [
        "128 x 128 x 8", "128 x 64 x 8", "128 x 64 x 8", "64 x 64 x 16",
        "32 x 32 x 16", "32 x 32 x 16", "None", "64 x 64 x 8",
    ]  # fmt: skip
    (gemm,) = product(2048, 1088, 512, False).body
    assert isinstance(gemm, Gemm)
    assert str(tile_of(gemm, 300)) == "64 x 64 x 16", "more processors, smaller tiles"


def test_main_loops_are_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spills, with 16-byte accesses; two of the tiles, the others are in docs."""
    pytest.importorskip("numba_cuda")
    for tile, k, least, most in ((TILES[0], 256, 0.87, 128), (TILES[4], 512, 0.70, 80)):
        chosen(tile, monkeypatch)
        (text,) = print_plan(plan_of(512, 512, k, False, False), TARGET).texts
        code = assemble.cubin([build.ptx(text, (9, 0))], (9, 0))
        found, loop = sass.statistics(code)["product"], sass.main_loops(code)["product"]
        assert (found.stack, found.local, found.f64, found.narrow) == (0, 0, 0, 0)
        assert loop.fused == tile.depth * tile.values
        assert loop.share >= least and found.registers <= most
