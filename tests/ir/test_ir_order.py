"""The order of folds as ``ir.loop.order`` states it, spelled out in plain Python, against the
reference executor and machine code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.loop.execute import execute_kernel
from gradc.ir.loop.order import FoldOrder, lane_order
from gradc.ir.tensor.core import DType
from tests.llvm.test_llvm_nest import fold_kernel
from tests.support.llvm_kernels import Compiled


def tree(terms: Sequence[Any], children: int) -> Any:
    """Leaves, then nodes, each from the left and from zero."""
    zero = terms[0] * 0 if len(terms) else np.float32(0)
    while len(terms) > children:
        terms = [tree(terms[n : n + children], children) for n in range(0, len(terms), children)]
    return sum(terms, zero)


def spelled(terms: Sequence[Any], order: FoldOrder) -> Any:
    """What ``FoldOrder`` says."""
    count = order.accumulators
    cells = {n: tree(terms[n::count], order.children) for n in range(count)}
    for step in order.steps:
        cells = {n: x + cells[n | step] for n, x in cells.items() if not n & step}
    (total,) = cells.values()
    return total


@pytest.mark.parametrize("dtype, kind", [(DType.F32, np.float32), (DType.F64, np.float64)])
def test_lanes_are_combined_as_stated(dtype: DType, kind: Any) -> None:
    order = lane_order(dtype.itemsize, is_tree=True)
    assert order.accumulators == 256 // dtype.itemsize
    for size in (1, 17, 63, 640, 1500, 17_000):
        x = np.random.default_rng(size).standard_normal(size).astype(kind)
        kernel = fold_kernel(size, "add", dtype)
        found, machine = np.zeros(1, kind), np.zeros(1, kind)
        execute_kernel(kernel, [x, x.copy(), found])
        Compiled([kernel], "native")([x, x.copy(), machine])
        assert found[0] == machine[0] == spelled(list(x + x), order), size
