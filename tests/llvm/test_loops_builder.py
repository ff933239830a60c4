"""The loop builder (hoisting, value numbering, index arithmetic) and the reference executor (order
of folds, checks)."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.execute import ExecutionError, execute_kernel
from gradc.ir.loop.kernel import Affine, Const, For, Kernel, Let, Load, Stmt, Store
from gradc.ir.tensor.core import DType
from gradc.passes.lower.piece import statements

F32, F64 = DType.F32, DType.F64
Array = NDArray[Any]


def _kernel(builder: LoopBuilder) -> Kernel:
    return Kernel("k", tuple(builder.buffers), builder.body())


def _verbs(kernel: Kernel) -> list[str]:
    return [s.verb for s in statements(kernel.body) if isinstance(s, Let)]


def test_invariant_work_leaves_the_loop() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 8, "read"), b.buffer("y", F64, 32, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(8, "serial") as row, b.loop(4, "vector") as column:
        scale = k.exp(b.load(x, row.at))
        value = k.mul(scale, k.number(column.at))
        b.store(y, row.at * 4 + column.at, value)
    kernel = _kernel(b)
    outer = kernel.body[0]
    assert isinstance(outer, For)
    assert [type(s) for s in outer.body] == [Load, Let, For]
    source, target = np.arange(8.0), np.zeros(32)
    execute_kernel(kernel, [source, target])
    np.testing.assert_allclose(target, np.outer(np.exp(source), np.arange(4.0)).ravel())


def test_nothing_leaves_a_parallel_loop() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 1, "read"), b.buffer("y", F64, 6, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(6, "grid") as loop:
        b.store(y, loop.at, k.exp(b.load(x, Affine())))
    kernel = _kernel(b)
    assert [type(s) for s in kernel.body] == [For]


def test_equal_work_is_done_once() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 8, "read"), b.buffer("y", F64, 8, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(8, "vector") as loop:
        first = k.add(b.load(x, loop.at), k.const(1.0))
        second = k.add(k.const(1.0), b.load(x, loop.at))
        assert first is second
        assert k.sub(first, k.const(0.0)) is not k.sub(first, k.const(-0.0))
        b.store(y, loop.at, k.mul(first, second))
    assert _verbs(_kernel(b)).count("add") == 1


def test_reads_of_written_memory_are_not_remembered() -> None:
    b = LoopBuilder()
    y = b.buffer("y", F64, 4, "update")
    k = IndexAlgebra(b, F64)
    before = b.load(y, Affine(1))
    b.store(y, Affine(1), k.add(before, k.const(1.0)))
    after = b.load(y, Affine(1))
    assert after is not before
    b.store(y, Affine(2), after)
    target = np.array([0.0, 5.0, 0.0, 0.0])
    execute_kernel(_kernel(b), [target])
    assert target.tolist() == [0.0, 6.0, 6.0, 0.0]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_flattened_loops_over_dense_memory_need_no_division(
    shape: list[int], data: st.DataObject
) -> None:
    """A flat index taken apart and put together again is the flat index."""
    total = int(np.prod(shape))
    b = LoopBuilder()
    x, y = b.buffer("x", F64, total, "read"), b.buffer("y", F64, total, "write")
    with b.loop(total, "vector") as loop:
        index = b.unflatten(loop.at, shape)
        offset = Affine()
        for position, extent in zip(index, shape, strict=True):
            offset = offset * extent + position
        b.store(y, offset, b.load(x, offset))
    kernel = _kernel(b)
    assert _verbs(kernel) == []
    assert data is not None


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.randoms())
def test_any_rearrangement_is_addressed_right(shape: list[int], pick: Any) -> None:
    """Transposing by index arithmetic agrees with NumPy, whatever divisions that takes."""
    perm = list(range(len(shape)))
    pick.shuffle(perm)
    moved = [shape[axis] for axis in perm]
    total = int(np.prod(shape))
    b = LoopBuilder()
    x, y = b.buffer("x", F64, total, "read"), b.buffer("y", F64, total, "write")
    with b.loop(total, "vector") as loop:
        index = b.unflatten(loop.at, moved)
        source = Affine()
        for axis, extent in enumerate(shape):
            source = source * extent + index[perm.index(axis)]
        b.store(y, loop.at, b.load(x, source))
    values, found = np.arange(float(total)), np.zeros(total)
    execute_kernel(_kernel(b), [values, found])
    np.testing.assert_array_equal(found.reshape(moved), values.reshape(shape).transpose(perm))


def test_guarded_reads_do_not_happen_outside() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 3, "read"), b.buffer("y", F64, 7, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(7, "vector") as loop:
        at = loop.at + -2
        value = k.guarded(k.inside(at, 3), lambda: b.load(x, at), k.const(9.0))
        b.store(y, loop.at, value)
    found = np.zeros(7)
    execute_kernel(_kernel(b), [np.array([1.0, 2.0, 3.0]), found])
    assert found.tolist() == [9.0, 9.0, 1.0, 2.0, 3.0, 9.0, 9.0]


def test_conditions_that_can_be_decided_vanish() -> None:
    b = LoopBuilder()
    k = IndexAlgebra(b, F64)
    with b.loop(5, "vector") as loop:
        assert k.inside(loop.at, 5) == Const(True, DType.BOOL)
        assert k.inside(loop.at + 5, 5) == Const(False, DType.BOOL)
        assert not isinstance(k.inside(loop.at + 1, 5), Const)


def _fold(values: Array, kind: str, combine: str) -> Any:
    b = LoopBuilder()
    dtype = F32 if values.dtype == np.float32 else F64
    x, y = b.buffer("x", dtype, values.size, "read"), b.buffer("y", dtype, 1, "write")
    kinds = {"serial": "serial", "vector": "vector"}
    assert kind in kinds
    with b.loop(values.size, "serial" if kind == "serial" else "vector") as loop:
        total = loop.fold(combine, b.load(x, loop.at))
    b.store(y, Affine(), total)
    found = np.zeros(1, values.dtype)
    execute_kernel(_kernel(b), [values, found])
    return found[0]


def _by_hand(values: Array) -> Any:
    """The order that ``ir/loop/kernel.py`` fixes for vector sums, spelled out one addition at a
    time.
    """
    kind = values.dtype.type
    lanes, ways = 64 // values.dtype.itemsize, 4
    terms: list[list[list[Any]]] = [[[] for _ in range(lanes)] for _ in range(ways)]
    for i, value in enumerate(values):
        terms[(i // lanes) % ways][i % lanes].append(value)
    sums = [[_tree(lane, kind(0)) for lane in way] for way in terms]
    row = [
        (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]) for lane in range(lanes)
    ]
    while len(row) > 1:
        half = len(row) // 2
        row = [row[j] + row[j + half] for j in range(half)]
    return row[0]


def _tree(terms: list[Any], start: Any) -> Any:
    """Sums from the left of 16 terms, of 16 such sums, and so on, spelled out."""
    while len(terms) > 16:
        parts = [terms[n : n + 16] for n in range(0, len(terms), 16)]
        terms = [functools.reduce(operator.add, part, start) for part in parts]
    return functools.reduce(operator.add, terms, start)


@pytest.mark.parametrize(
    ("size", "dtype"),
    list(itertools.product([1, 5, 16, 17, 65, 300, 2100, 5000], [np.float32, np.float64])),
)
def test_vector_sums_have_the_order_that_is_written_down(size: int, dtype: type) -> None:
    values: Array = (np.random.default_rng(size).standard_normal(size) * 1e3).astype(dtype)
    assert _fold(values, "vector", "add") == _by_hand(values)
    assert _fold(values, "serial", "add") == _tree(list(values), values.dtype.type(-0.0))


def test_folds_over_nothing_are_the_identity() -> None:
    empty = np.zeros(0)
    assert [_fold(empty, k, c) for k in ("serial", "vector") for c in ("add", "mul")] == [
        0,
        1,
        0,
        1,
    ]
    assert _fold(empty, "vector", "max") == -np.inf and _fold(empty, "serial", "min") == np.inf


def test_maxima_propagate_nan() -> None:
    values = np.array([1.0, np.nan, 3.0])
    assert np.isnan(_fold(values, "vector", "max")) and np.isnan(_fold(values, "serial", "min"))


def _bad(offset: int, is_store: bool) -> tuple[Kernel, list[Array]]:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 4, "read"), b.buffer("y", F64, 4, "write")
    with b.loop(4, "vector") as loop:
        value = b.load(x, loop.at if is_store else loop.at + offset)
        b.store(y, loop.at + offset if is_store else loop.at, value)
    return _kernel(b), [np.zeros(4), np.zeros(4)]


@pytest.mark.parametrize(("offset", "is_store"), [(1, False), (-1, False), (1, True), (-1, True)])
def test_addresses_outside_are_refused(offset: int, is_store: bool) -> None:
    kernel, buffers = _bad(offset, is_store)
    with pytest.raises(ExecutionError):
        execute_kernel(kernel, buffers)


def test_limits_cut_loops_short() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 10, "read"), b.buffer("y", F64, 10, "write")
    with b.loop(3, "grid") as chunk, b.loop(4, "vector", chunk.at * -4 + 10) as loop:
        at = chunk.at * 4 + loop.at
        b.store(y, at, b.load(x, at))
    values, found = np.arange(10.0), np.zeros(10)
    execute_kernel(_kernel(b), [values, found])
    np.testing.assert_array_equal(found, values)


def test_stores_combine_with_what_is_there() -> None:
    b = LoopBuilder()
    x, y = b.buffer("x", F64, 12, "read"), b.buffer("y", F64, 4, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(4, "vector") as column:
        b.store(y, column.at, k.const(0.0))
    with b.loop(3, "serial") as row, b.loop(4, "vector") as column:
        b.store(y, column.at, b.load(x, row.at * 4 + column.at), "add")
    values, found = np.arange(12.0), np.full(4, np.nan)
    execute_kernel(_kernel(b), [values, found])
    np.testing.assert_array_equal(found, values.reshape(3, 4).sum(0))


def test_bodies_end_only_when_loops_are_closed() -> None:
    b = LoopBuilder()
    with pytest.raises(ValueError, match="still open"), b.loop(2, "serial"):
        b.body()


def test_statements_are_walked_in_order() -> None:
    b = LoopBuilder()
    y = b.buffer("y", F64, 2, "write")
    k = IndexAlgebra(b, F64)
    with b.loop(2, "vector") as loop:
        b.store(y, loop.at, k.const(1.0))
    found: list[type[Stmt]] = [type(s) for s in statements(b.body())]
    assert found == [For, Store]
