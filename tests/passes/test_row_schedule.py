"""Row kernels are decided before they are written; however many chunks a target cuts their rows
into, the bits are the same.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm.bodies import walk
from gradc.ir.loop.kernel import For, Load
from gradc.ir.loop.verify import verify_kernel
from gradc.ir.ops.builder import Builder
from gradc.ir.plan.execute import execute_plan
from gradc.ir.target.target import GENERIC
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.fuse.fuse import fuse
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.group import as_block
from gradc.passes.lower.plan import to_loops
from gradc.passes.lower.row_schedule import schedule_rows
from gradc.passes.lower.space import group_space, layout
from gradc.passes.place.place import place

# Everything is worth a thread, and what costs anything is kept.
EAGER = replace(GENERIC.costs, parallel_us=0.0, keep=1.0)
CHUNKED = replace(GENERIC, costs=EAGER, chunks=3)


def softmax(rows: int, columns: int, total: bool) -> Function:
    """Softmax by rows; with ``total``, also the sum of its squares over everything."""
    b = Builder()
    x = b.parameter(TensorType((rows, columns), DType.F32), "x")

    def spread(v: Any) -> Any:
        return b.one("broadcast", v, shape=(rows, columns), dims=(0,))

    e = b.one("exp", b.one("sub", x, spread(b.one("reduce_max", x, axes=(1,)))))
    y = b.one("div", e, spread(b.one("sum", e, axes=(1,))))
    outputs = [y, b.one("sum", b.one("mul", y, y), axes=(0, 1))] if total else [y]
    slots = [Slot(f"r{n}", Role.OUTPUT) for n in range(len(outputs))]
    return fuse(b.function("softmax", outputs, [Slot("x", Role.INPUT)], slots))


def test_a_schedule_is_complete_and_cannot_be_changed() -> None:
    (group,) = softmax(50, 40, total=False).block.body
    block = as_block(group)
    space = group_space(block)
    assert space is not None
    schedule = schedule_rows(block, layout(block, space), CHUNKED)
    assert (schedule.chunks, schedule.size, schedule.is_ragged) == (3, 17, True)
    assert [len(stage.folds) for stage in schedule.stages] == [1, 1, 0]
    # exp is taken once and kept; the last stage stores.
    assert [len(stage.kept) for stage in schedule.stages] == [0, 1, 0]
    assert [len(stage.stores) for stage in schedule.stages] == [0, 0, 1]
    assert [(room.name, room.temp) for room in schedule.rooms.values()] == [("s0", None)]
    assert (schedule.is_split, schedule.temps) == (False, ())
    with pytest.raises(FrozenInstanceError):
        schedule.chunks = 4  # type: ignore[misc]
    # A row that a thread has no room for lies in the arena, one for each chunk.
    poor = schedule_rows(block, layout(block, space), replace(CHUNKED, row_bytes=100))
    assert [room.temp for room in poor.rooms.values()] == [0]
    assert poor.temps[0].size == 3 * 40


@pytest.mark.parametrize("how, times", [("transpose", 1), ("reshape", 2)])
def test_what_lies_apart_is_read_once(how: str, times: int) -> None:
    """Rows less their mean: the sum read along columns is kept, one read along rows is not."""
    b = Builder()
    x = b.parameter(TensorType((30, 40), DType.F32), "x")
    kind = (40, 30) if how == "transpose" else (3, 10, 40)
    z = b.parameter(TensorType(kind, DType.F32), "z")
    more: Any = {"perm": (1, 0)} if how == "transpose" else {"shape": (30, 40)}
    h = b.one("add", x, b.one(how, z, **more))
    mean = b.one("mul", b.one("sum", h, axes=(1,)), b.constant(1 / 40, DType.F32, (30,)))
    y = b.one("sub", h, b.one("broadcast", mean, shape=(30, 40), dims=(0,)))
    slots = [Slot(name, Role.INPUT) for name in "xz"]
    function = fuse(b.function("centred", [y], slots, [Slot("y", Role.OUTPUT)]))
    plan = place(to_loops(function, GENERIC))
    (kernel,) = plan.kernels
    loads = [s for s in walk(kernel.body) if isinstance(s, Load) and s.buffer.name == "a1"]
    assert len(loads) == times
    given = [
        np.random.default_rng(n).normal(size=v).astype("f4") for n, v in enumerate(((30, 40), kind))
    ]
    found = execute_plan(plan, given, poison=True)[0]
    total = given[0] + (given[1].T if how == "transpose" else given[1].reshape(30, 40))
    np.testing.assert_allclose(found, total - total.mean(1, keepdims=True), atol=2e-6)


@pytest.mark.parametrize("rows, columns, total", [(50, 40, False), (1, 7, False), (50, 700, True)])
def test_chunks_of_rows_have_the_same_bits(rows: int, columns: int, total: bool) -> None:
    function = softmax(rows, columns, total)
    x = np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)
    found, extents = [], []
    for target in (CHUNKED, replace(CHUNKED, chunks=1), replace(CHUNKED, chunks=4096)):
        plan = place(to_loops(function, target))
        for kernel in plan.kernels:
            verify_kernel(kernel)
        assert [str(finding) for finding in check_plan(plan)] == []
        extents.append([s.extent for s in plan.kernels[0].body if isinstance(s, For)])
        found.append(execute_plan(plan, [x], poison=True))
    assert rows == 1 or total or len(set(map(str, extents))) > 1
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
