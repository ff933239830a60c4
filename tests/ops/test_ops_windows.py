"""Convolutions that are products over windows: machine code against PyTorch and float64, for any
threads and instruction set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm.isa import available, select
from gradc.ir.domains.interpret import run
from gradc.ir.loop.kernel import Gemm
from gradc.ir.loop.verify import violations_of
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import SumOfProducts, lookup
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Attrs, DType, TensorType
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.passes.place.scratch import place_scratch
from gradc.runtime.native.load import compile_plan, scratch_of
from tests.support.op_cases import ARRAYS, Array, close

THREADS = 2


@dataclass(frozen=True)
class Shape:
    """A convolution: sizes of image and filter, and how windows move."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((1, 1), (1, 1))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def op(self, name: str) -> str:
        """The op of this number of axes: ``name`` is that of two."""
        return name.replace("2", str(len(self.x) - 2))

    @property
    def attributes(self) -> Attrs:
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    @property
    def out(self) -> tuple[int, ...]:
        types = [TensorType(self.x, DType.F32), TensorType(self.w, DType.F32)]
        return lookup(self.op("conv2d")).infer(types, self.attributes)[0].static_shape

    def operands(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        by_name = {"conv2d": (self.x, self.w), "conv2d_input": (self.out, self.w)}
        return by_name.get(name, (self.x, self.out))

    def size(self, name: str) -> Attrs:
        sizes = {"conv2d_input": self.x[2:], "conv2d_filter": self.w[2:]}
        return {"size": sizes[name]} if name in sizes else {}


NAMES = ("conv2d", "conv2d_input", "conv2d_filter")
SHAPES = (
    Shape((2, 24, 9, 7), (33, 24, 3, 3)),  # vectors span images, rows are odd
    Shape((3, 24, 8, 9), (25, 24, 3, 3), stride=(2, 2)),
    Shape((1, 48, 7, 11), (50, 24, 3, 2), (3, 2), ((2, 0), (0, 3)), (1, 2), groups=2),
    Shape((2, 70, 4, 4), (66, 70, 1, 1), padding=((0, 0), (0, 0))),
    Shape((2, 64, 6, 6), (40, 64, 1, 1), (2, 2), ((0, 0), (0, 0))),  # places that nothing meets
    Shape((3, 24, 31), (33, 24, 5), (1,), ((4, 0),), (1,)),
    Shape((2, 24, 40), (33, 24, 3), (2,), ((1, 2),), (3,)),
    Shape((2, 16, 4, 5, 9), (24, 16, 3, 3, 3), (1,) * 3, ((1, 1), (0, 2), (1, 1)), (1,) * 3),
    Shape((1, 32, 5, 6, 7), (34, 16, 2, 3, 2), (2, 1, 3), ((1, 0),) * 3, (1, 2, 1), groups=2),
)


def planned(name: str, shape: Shape, dtype: DType, isa: str) -> Plan:
    """The complete Plan of one op, which is products over windows and nothing else."""
    b = Builder()
    operands = [b.parameter(TensorType(s, dtype)) for s in shape.operands(name)]
    function = close(b, b.apply(shape.op(name), operands, {**shape.attributes, **shape.size(name)}))
    form = lookup(shape.op(name)).loop
    assert isinstance(form, SumOfProducts)
    assert form.of(function.block.body[0]).order == "product"
    target = select(isa).target(THREADS)
    plan = place(to_loops(function, target))
    assert [str(v) for v in violations_of(plan.kernels)] == []
    assert [str(finding) for finding in check_plan(plan)] == []
    assert all(isinstance(s, Gemm) for s in plan.kernels[-1].body)
    return place_scratch(plan, target, scratch_of("cpu", target))


def called(plan: Plan, threads: int, isa: str, given: list[Array]) -> Array:
    """Its result."""
    function = compile_plan(plan, threads=threads, cache=False, isa=isa)
    result = np.full(plan.ports[-1].shape, np.nan, given[0].dtype)
    function.call([*given, result])
    return result


def torch_of(name: str, shape: Shape, given: list[Array]) -> Array:
    """The same by PyTorch, by padding first: it pads both sides alike."""
    torch = pytest.importorskip("torch")
    x = torch.zeros(shape.x, dtype=torch.float64)
    w = torch.zeros(shape.w, dtype=torch.float64)
    first, second = (torch.from_numpy(a.astype(np.float64)) for a in given)
    x, w = (first if name != "conv2d_input" else x), (second if name != "conv2d_filter" else w)
    x.requires_grad_(True)
    w.requires_grad_(True)
    wide = torch.nn.functional.pad(x, [n for pair in shape.padding[::-1] for n in pair])
    y = getattr(torch.nn.functional, shape.op("conv2d"))(
        wide, w, stride=shape.stride, dilation=shape.dilation, groups=shape.groups
    )
    if name == "conv2d":
        return np.asarray(y.detach())
    wanted, ct = (x, first) if name == "conv2d_input" else (w, second)
    return np.asarray(torch.autograd.grad(y, wanted, ct)[0])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, (*s.x, *s.w))))
@pytest.mark.parametrize("name", NAMES)
def test_products_over_windows(name: str, shape: Shape) -> None:
    rng = np.random.default_rng(len(name))
    given = [rng.standard_normal(s).astype(np.float32) for s in shape.operands(name)]
    plan = planned(name, shape, DType.F32, "native")
    found = [called(plan, threads, "native", given) for threads in (1, THREADS)]
    np.testing.assert_array_equal(found[0], found[1])
    truth = torch_of(name, shape, given)
    scale = np.abs(truth).max()
    np.testing.assert_allclose(found[0] / scale, truth / scale, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_instruction_sets_and_half_precision(name: str) -> None:
    shape = SHAPES[1]
    rng = np.random.default_rng(4)
    given = [rng.standard_normal(s).astype(np.float32) for s in shape.operands(name)]
    # Processors without fused multiply-add round each product.
    others = [isa for isa in available() if isa not in ("native", "sse2")]
    found = [called(planned(name, shape, DType.F32, n), 1, n, given) for n in ("native", *others)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    halves = [a.astype(np.float16) for a in given]
    half = called(planned(name, shape, DType.F16, "native"), 1, "native", halves)
    types: list[Any] = [TensorType(a.shape, DType.F64) for a in given]
    b = Builder()
    operands = [b.parameter(t) for t in types]
    function = close(b, b.apply(shape.op(name), operands, {**shape.attributes, **shape.size(name)}))
    (truth,) = run(ARRAYS, function, [a.astype(np.float64) for a in halves])
    np.testing.assert_allclose(half, truth, rtol=1e-3, atol=1e-2)
