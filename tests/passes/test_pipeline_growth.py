"""Planning takes time in proportion to the program: calls are counted, not seconds, so the answer
is always the same.
"""

from __future__ import annotations

import cProfile
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from benchmarks.compile_time import subject
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.budget import BudgetError, run_within
from gradc.passes.fuse.fuse import fuse
from gradc.passes.pipeline import run_pipeline

# Work may grow with this power of the number of ops.
MOST = 1.1


def calls(run: Callable[[], object]) -> int:
    """How many functions, of Python and of C, ``run`` calls."""
    counter = cProfile.Profile()
    counter.runcall(run)
    return sum(entry.callcount for entry in counter.getstats())


def exponent(kind: str, layers: tuple[int, int], work: Callable[..., object]) -> float:
    """The power of the number of ops with which the calls of ``work`` grow between two depths."""
    # What is remembered from program to program is there before anything is counted.
    work(*subject(kind, 2))
    sizes, counts = [], []
    for count in layers:
        function, options = subject(kind, count)
        sizes.append(len(function.block.body))
        counts.append(calls(partial(work, function, options)))
    assert counts[0] > 10 * sizes[0]
    return math.log(counts[1] / counts[0]) / math.log(sizes[1] / sizes[0])


def test_counting_sees_what_is_quadratic() -> None:
    """Work that looks at every pair of ops has the exponent 2."""

    def pairs(function: Any, _options: Any) -> None:
        found: list[Any] = []
        for op in function.block.body:
            for other in function.block.body:
                found.append((op, other))

    assert 1.8 < exponent("chain", (10, 40), pairs) < 2.1


@pytest.mark.parametrize(
    ("kind", "layers"), [("chain", (20, 80)), ("mlp", (6, 24)), ("gpt", (2, 6))]
)
def test_plans_are_made_in_linear_time(kind: str, layers: tuple[int, int]) -> None:
    """From the program to the Plan, every step together."""
    assert exponent(kind, layers, run_pipeline) < MOST


@pytest.mark.parametrize(("kind", "layers"), [("chain", (15, 45)), ("mlp", (4, 12))])
def test_budgets_are_refused_in_linear_time(kind: str, layers: tuple[int, int]) -> None:
    """The estimate, the plain program and the most frugal policies."""

    def refused(function: Any, options: Any) -> None:
        with pytest.raises(BudgetError):
            run_within(function, options, 1)

    assert exponent(kind, layers, refused) < MOST + 0.2


def test_what_all_read_is_grouped_in_linear_time() -> None:
    """A scalar that every group reads, such as the learning rate of a step, tells none apart."""

    def program(count: int) -> Function:
        b = Builder()
        rate = b.parameter(TensorType((), DType.F32))
        values = [b.parameter(TensorType((16,), DType.F32)) for _ in range(count)]
        outputs = [b.one("mul", v, b.one("broadcast", rate, shape=(16,), dims=())) for v in values]
        slots = [Slot(f"x{n}", Role.INPUT) for n in range(count + 1)]
        results = [Slot(f"y{n}", Role.OUTPUT) for n in range(count)]
        return b.function("all", outputs, slots, results)

    counts = [calls(partial(fuse, program(count))) for count in (50, 400)]
    assert math.log(counts[1] / counts[0]) / math.log(8) < MOST
