"""What kernels state of themselves: flops by closed formulas, bytes by counting addresses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from gradc.ir.loop.kernel import Buffer, For, Gemm, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.loop.traffic import traffic
from gradc.ir.ops.builder import Builder
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType, Role, Slot, TensorType, Value
from gradc.passes.fuse.fuse import fuse
from gradc.passes.lower.plan import to_loops
from gradc.passes.pipeline import run_pipeline
from tests.support.memory_subjects import subject

F32 = DType.F32
Shape = tuple[int, ...]
Attributes = dict[str, Any]


def planned(b: Builder, given: Sequence[Value], result: Value) -> Plan:
    """Kernels of a function of ``given``."""
    slots = [Slot(f"x{n}", Role.INPUT) for n in range(len(given))]
    return to_loops(fuse(b.function("f", [result], slots, [Slot("y", Role.OUTPUT)])))


def plan_of(name: str, shapes: Sequence[Shape], attributes: Attributes, ids: int = 0) -> Plan:
    """One op on arrays of ``shapes``, the last ``ids`` of which are integers."""
    b = Builder()
    kinds = [F32] * (len(shapes) - ids) + [DType.I32] * ids
    given = [b.parameter(TensorType(s, k)) for s, k in zip(shapes, kinds, strict=True)]
    return planned(b, given, b.one(name, *given, **attributes))


def flops(plan: Plan) -> int:
    return sum(kernel.flops for kernel in plan.kernels)


def moved(plan: Plan) -> int:
    return sum(kernel.bytes for kernel in plan.kernels)


CONV: Attributes = {
    "stride": (2, 1),
    "dilation": (1, 2),
    "padding": ((1, 0), (2, 3)),
    "groups": 2,
}


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "expected"),
    [
        ("add", [(5, 7)] * 2, {}, 35),
        ("neg", [(0, 7)], {}, 0),
        ("exp", [(11,)], {}, 11),
        ("gt", [(11,)] * 2, {}, 0),
        ("sum", [(5, 7)], {"axes": (1,)}, 35),
        ("cumsum", [(5, 7)], {"axis": 1, "reverse": False}, 35),
        ("argmax", [(5, 7)], {"axis": 1}, 0),
        ("transpose", [(5, 7)], {"perm": (1, 0)}, 0),
        ("contract", [(3, 5, 7), (3, 7, 4)], {"batch": ((0, 0),), "contract": ((2, 1),)}, 840),
        ("contract", [(5, 1), (1, 4)], {"batch": (), "contract": ((1, 0),)}, 40),
        ("fft", [(2, 3, 8)], {"axis": 2}, 3 * 5 * 8 * 3),
    ],
)
def test_flops_of_one_op(
    name: str, shapes: list[Shape], attributes: Attributes, expected: int
) -> None:
    assert flops(plan_of(name, shapes, attributes)) == expected


def test_flops_of_convolutions() -> None:
    """Two per element of the result, channel of the group and tap; the same for both gradients."""
    x, w = (3, 4, 9, 11), (6, 2, 3, 2)
    height, width = (9 + 1 - 3) // 2 + 1, 11 + 5 - 3 + 1
    expected = 2 * (3 * 6 * height * width) * (2 * 3 * 2)
    y = (3, 6, height, width)
    assert flops(plan_of("conv2d", [x, w], CONV)) == expected
    assert flops(plan_of("conv2d_input", [y, w], {"size": (9, 11), **CONV})) == expected
    assert flops(plan_of("conv2d_filter", [x, y], {"size": (3, 2), **CONV})) == expected


def test_flops_of_a_convolution_are_what_its_loops_do() -> None:
    """Without padding every tap is inside, so the kernel's own multiply-adds can be counted."""
    plain: Attributes = {
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "groups": 1,
    }
    plan = plan_of("conv2d", [(2, 3, 6, 7), (4, 3, 3, 2)], plain)
    (kernel,) = plan.kernels

    def done(body: Sequence[Stmt]) -> int:
        total = 0
        for s in body:
            if isinstance(s, For):
                total += s.extent * (done(s.body) + len(s.folds))
            elif isinstance(s, Let):
                total += {"fma": 2, "mul": 1}.get(s.verb, 0)
        return total

    assert done(kernel.body) == kernel.flops


def test_flops_of_a_layer() -> None:
    """A product with what rides on it, and the whole gradient of a network of two layers."""
    b = Builder()
    x, w, bias = (b.parameter(TensorType(s, F32)) for s in ((8, 5), (5, 3), (3,)))
    y = b.one("contract", x, w, batch=(), contract=((1, 0),))
    y = b.one("add", y, b.one("broadcast", bias, shape=(8, 3), dims=(1,)))
    plan = planned(b, (x, w, bias), b.one("max", y, b.constant(0.0, F32, (8, 3))))
    assert flops(plan) == 2 * 8 * 5 * 3 + 2 * 8 * 3


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "elements"),
    [
        ("add", [(5, 7)] * 2, {}, 3 * 35),
        ("sum", [(5, 7)], {"axes": (1,)}, 35 + 5),
        ("transpose", [(5, 7)], {"perm": (1, 0)}, 2 * 35),
        ("slice", [(90, 7)], {"start": (3, 0), "limit": (9, 7), "stride": (2, 1)}, 2 * 3 * 7),
        ("broadcast", [(7,)], {"shape": (90, 7), "dims": (1,)}, 7 + 630),
        ("contract", [(5, 7), (7, 4)], {"batch": (), "contract": ((1, 0),)}, 35 + 28 + 20),
    ],
)
def test_bytes_of_one_op(
    name: str, shapes: list[Shape], attributes: Attributes, elements: int
) -> None:
    assert moved(plan_of(name, shapes, attributes)) == 4 * elements


def test_bytes_of_a_gather() -> None:
    """As many rows as there are ids, however long the table; at most the table."""
    few = plan_of("take", [(1000, 8), (5,)], {"axis": 0}, ids=1)
    assert moved(few) == 4 * (5 + 2 * 5 * 8)
    many = plan_of("take", [(3, 8), (500,)], {"axis": 0}, ids=1)
    assert moved(many) == 4 * (500 + 3 * 8 + 500 * 8)


# ---- counted address by address


def _addresses(
    body: Sequence[Stmt], at: dict[Var, int]
) -> Iterator[tuple[Buffer, bool, int] | None]:
    """Every element touched, and whether it is stored; None where an address is computed."""
    for s in body:
        if isinstance(s, For):
            for i in range(s.extent):
                yield from _addresses(s.body, {**at, s.index: i})
        elif isinstance(s, Gemm):
            for factor, m, n in ((s.left, s.m, s.k), (s.right, s.k, s.n)):
                strides = (*factor.batch_strides, factor.row, factor.column)
                for index in itertools.product(*map(range, (*s.batch, m, n))):
                    steps = sum(i * step for i, step in zip(index, strides, strict=True))
                    yield factor.buffer, False, factor.offset + steps
            for index in itertools.product(*map(range, (*s.batch, s.m, s.n))):
                names = (*s.batch_index, s.i, s.j)
                yield from _addresses(s.epilogue, {**at, **dict(zip(names, index, strict=True))})
        elif isinstance(s, (Load, Store)) and not s.buffer.is_private:
            if any(var not in at for var, _ in s.offset.terms):
                yield None
                continue
            place = s.offset.constant + sum(at[v] * step for v, step in s.offset.terms)
            if 0 <= place < s.buffer.size:
                yield s.buffer, isinstance(s, Store), place
                if isinstance(s, Store) and s.combine:
                    yield s.buffer, False, place


def exact(kernel: Kernel) -> int | None:
    """Bytes by looking at every address; None if some are computed."""
    seen = set(_addresses(kernel.body, {}))
    if None in seen:
        return None
    stored = [s.buffer for s in _stores(kernel.body) if not s.combine]
    places = [p for p in seen if p is not None and (p[1] or p[0] not in stored)]
    return sum(buffer.dtype.itemsize for buffer, _, _ in places)


def _stores(body: Sequence[Stmt]) -> Iterator[Store]:
    for s in body:
        if isinstance(s, Store):
            yield s
        elif isinstance(s, For):
            yield from _stores(s.body)
        elif isinstance(s, Gemm):
            yield from _stores(s.epilogue)


def test_bytes_are_counted_to_the_element() -> None:
    """Kernels of generated programs and of a convolutional network: never too few, and exact but
    for stretches that overlap in part.
    """
    names = ("examples/digits/mlp.grad mlp gradient", *(f"program {n}" for n in (1, 3, 5, 7)))
    same = total = 0
    for name in names:
        one = subject(name)
        plan = run_pipeline(one.function, one.options).plan
        for kernel in plan.kernels:
            assert kernel.bytes == traffic(kernel.body)
            found = exact(kernel)
            if found is not None:
                assert kernel.bytes >= found, kernel.name
                same, total = same + (kernel.bytes == found), total + 1
    assert total > 40 and same >= math.ceil(0.9 * total), (same, total)
