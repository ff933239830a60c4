"""Factors leave sums: the same numbers from fewer operations, at any axes."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import is_sum
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Block, Function, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.prove.domains.point import draw, same
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.factors import take_out
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads

TEXT = """
model m(a: float[3, 4, 5], r: float[3, 1, 5], c: float[4], s: float) -> float {{
    output it = {0}
    return 0.0
}}
"""
SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 4, 5), "r": (3, 1, 5), "c": (4,), "s": ()}
TAKEN = [
    "sum(a * r, axis = 1)",
    "sum(r * a, axis = 1, keepdims = true)",
    "sum(a / r, axis = 1)",
    "sum(-a * s)",
    "sum(-(a * s), axis = [0, 2])",
    "sum((a + a) * reshape(c, [1, 4, 1]), axis = [0, 2])",
    "sum(a * exp(reshape(c, [4, 1])), axis = [0, 2])",
    "sum(a * (r * 2 + s), axis = 1)",
]
KEPT = [
    "sum(a * r, axis = 0)",  # runs over the factor
    "sum(a * reshape(c, [4, 1]))",
    "sum(r / a, axis = 1)",  # not linear
    "sum(a + r, axis = 1)",  # counts the terms
    "sum(a * 1e-30)",  # may keep a sum in range
    "sum(exp(a), axis = 1)",
]


def function(text: str, precision: str = "f64") -> Function:
    net = loads(TEXT.format(text), precision=precision)
    return simplify(net.lower(net.bind(SHAPES)).function)


def inputs(of: Function) -> list[Any]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=SHAPES[slot.name]) for slot in of.parameters]


def terms(block: Block) -> list[str]:
    """What makes the operand of each sum."""
    made = {v: op.name for op in walk(block) for v in op.results}
    return [made.get(op.operands[0], "") for op in walk(block) if is_sum(op)]


@pytest.mark.parametrize("text", TAKEN)
def test_what_repeats_along_a_sum_is_applied_to_it(text: str) -> None:
    before = function(text)
    after = dce(take_out(before))
    verify_function(after)
    assert terms(after.block) == [""], "the sum reads the parameter itself"
    for e, f in zip(*(run(NumpyArrays(), x, inputs(before)) for x in (before, after)), strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-13)
    # As formulas: equal at points of a field, where nothing is rounded.
    at = draw(before, 3, 0)
    assert all(same(*(run(at.domain, f, at.values) for f in (before, after))))


@pytest.mark.parametrize("text", KEPT)
def test_what_the_sum_runs_over_stays(text: str) -> None:
    before = function(text)
    assert take_out(before) is before


def test_sums_of_16_bits_keep_their_factors() -> None:
    before = function("sum(a * r, axis = 1)", "bf16")
    assert take_out(before) is before


def test_sums_in_loops_lose_theirs() -> None:
    net = loads("""
model m(a: float[6, 3], s: float) -> float {
    t = scan x in a carry t = 0.0 { t = t + sum(x * s); yield t }
    return sum(t)
}
""")
    before = simplify(net.lower(net.bind({"a": (6, 3), "s": ()})).function)
    after = dce(take_out(before))
    verify_function(after)
    assert "mul" in terms(before.block) and "mul" not in terms(after.block)


NORM = """
dim B = 3, C = 4, S = 5
model m(x: float[B, C, S, S], y: float[B, C, S, S]) -> float {
    use n = batchnorm2d(C)
    param k: float[C, C, 3, 3] ~ he_normal
    param l: float[C, C, 3, 3] ~ he_normal
    return sum(conv2d(n(conv2d(x, k, padding = 1)), l, padding = 1) * y)
}
"""


def test_a_normalisation_is_two_kernels_that_read_their_input_as_often_as_they_must() -> None:
    """Forward: mean, variance, application; backward: both sums, application."""
    net = loads(NORM)
    model = net.lower(net.bind({})).function
    asked = Options(derivative=lambda f: value_and_grad(f, ("n.gain", "n.bias", "k", "l")))
    done = run_pipeline(model, asked)
    whole = (3, 4, 5, 5)
    groups = [
        op
        for op in done.after("fuse").block.body  # type: ignore[union-attr]
        if op.attributes.get("columns") == (0, 2, 3)
    ]
    assert len(groups) == 2
    backward = groups[1].regions[0]
    sums = [op for op in walk(backward) if is_sum(op)]
    assert len(sums) == 2
    made = {v: op for op in backward.body for v in op.results}
    for op in sums:  # neither waits for the other
        assert not any(is_sum(made[v]) for v in cone(op.operands[0], made))
    assert [v.type.static_shape for v in backward.outputs].count(whole) == 1


def cone(value: Any, made: dict[Any, Any]) -> list[Any]:
    """The values of a block that ``value`` is made from, itself included."""
    if value not in made:
        return []
    return [value, *(v for x in made[value].operands for v in cone(x, made))]
