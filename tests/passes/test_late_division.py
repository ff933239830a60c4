"""Weights are divided after the product they go into; what comes out is the same."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Block, Function, Op, walk
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.prove.domains.point import draw, same
from gradc.passes.recompute import cutting
from gradc.passes.recompute import tile as tiling
from gradc.passes.simplify.late_division import divide_late
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads

TEXT = """
dim N, Q, K, D
model m(seen: bool[N, Q, K], q: float[N, Q, D], k: float[N, K, D], v: float[N, K, D]) -> float {{
    s = einsum("nqd,nkd->nqk", q, k) / sqrt(D)
    a = softmax(s, axis = -1)
    o = {attend}
    output o
    return mean(o^3)
}}
"""
MASKED = "where(seen, softmax(where(seen, s, -inf), axis = -1), 0) @ v"
SHAPES = {"N": 2, "Q": 7, "K": 9, "D": 3}
NAMES = ("q", "k", "v")


def program(attend: str, precision: str = "f64", **dims: int) -> tuple[Function, list[Any]]:
    net = loads(TEXT.format(attend=attend), precision=precision)
    size = {**SHAPES, **dims}
    rng = np.random.default_rng(4)
    values: dict[str, Any] = {
        n: rng.normal(size=(size["N"], size[t], size["D"]))
        for n, t in zip("qkv", "QKK", strict=True)
    }
    values["seen"] = rng.random((size["N"], size["Q"], size["K"])) < 0.6
    values["seen"][0, 2] = False
    function = simplify(net.lower(net.bind({n: a.shape for n, a in values.items()})).function)
    return function, [values[slot.name] for slot in function.parameters]


def names(block: Block) -> list[str]:
    return [op.name for op in walk(block)]


@pytest.mark.parametrize(
    "attend",
    [
        MASKED,
        "softmax(s, axis = -1) @ v",
        'einsum("nkd,nqk->nqd", v, softmax(s, axis = -1))',
        "softmax(where(seen or iota(K) < 1, s, -inf), axis = -1) @ v",
    ],
)
def test_the_division_follows_the_product(attend: str) -> None:
    function, operands = program(attend)
    late = divide_late(function)
    verify_function(late)
    order = [name for name in names(late.block) if name in ("contract", "div")]
    assert order[:4] == ["contract", "div", "contract", "div"]  # scaled scores, then the result
    rng = np.random.default_rng(5)
    tangents = [rng.normal(size=x.shape) for x in operands[-3:]]
    for change, inputs in (
        (lambda f: f, operands),
        (lambda f: value_and_grad(f, NAMES), operands),
        (lambda f: jvp(f, NAMES), [*operands, *tangents]),
    ):
        expected, found = (run(NumpyArrays(), change(f), inputs) for f in (function, late))
        for e, f in zip(expected, found, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("attend", [MASKED, "softmax(where(seen, s, -inf), axis = -1) @ v"])
def test_what_is_divided_late_has_the_residues_of_before(attend: str) -> None:
    """Infinity is taken along in the field: exp(-inf - max) = 0."""
    function, _ = program(attend)
    late = divide_late(function)
    assert late is not function
    for number in range(3):
        at = draw(function, 3, number)
        assert all(same(*(run(at.domain, f, at.values) for f in (function, late))))


def test_the_reverse_sweep_sums_no_weights() -> None:
    """The cotangent of the sum of weights comes from the result, not from all weights."""
    function, _ = program("softmax(s, axis = -1) @ v")
    sizes = {}
    for f in (function, divide_late(function)):
        gradient = value_and_grad(f, NAMES)
        sums = [op for op in walk(gradient.block) if op.name == "sum"]
        sizes[f is function] = [op.operands[0].type.shape for op in sums].count((2, 7, 9))
    assert sizes == {True: 2, False: 1}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_stay_what_they_are(number: float) -> None:
    function, operands = program(MASKED)
    q = next(n for n, slot in enumerate(function.parameters) if slot.name == "q")
    operands[q] = operands[q].copy()
    operands[q][1, 3] = number
    with np.errstate(all="ignore"):
        expected, found = (
            run(NumpyArrays(), f, operands) for f in (function, divide_late(function))
        )
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
    assert not np.any(found[1][0, 2])


@pytest.mark.parametrize(
    "attend",
    [
        "(exp(s) / sum(exp(s), axis = -1)[:, :, None]) @ v",  # e may be of any size
        "where(seen, softmax(s, axis = -1), 0) @ v",  # what is masked counts in the sum
        "(softmax(s, axis = -1) * 2) @ v",
        "(softmax(s, axis = 1)) @ v",
        "a @ v + a @ v^2",  # divided once, and not twice
    ],
)
def test_other_quotients_stay(attend: str) -> None:
    function, _ = program(attend)
    assert divide_late(function) is function


def test_sixteen_bits_and_wide_results_stay() -> None:
    for precision, dims in (("f16", {}), ("bf16", {}), ("f64", {"D": 11})):
        function, _ = program("softmax(s, axis = -1) @ v", precision, **dims)
        assert divide_late(function) is function


def test_tiles_are_not_folded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reverse sweep reads the greatest score and the sum of a row, in strips and loops."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 1000)
    monkeypatch.setattr(cutting, "LEAST_ROWS", 2)
    function, operands = program(MASKED, N=1, Q=32, K=32)
    causal, _ = program(MASKED.replace("seen", "(iota(Q)[:, None] >= iota(K))"), N=1, Q=64, K=64)
    for one in (function, causal):
        cut = tiling.tile(one)
        assert cut is not one
        gradient = value_and_grad(cut, NAMES)
        forward = names(cut.block)
        assert names(gradient.block).count("reduce_max") == forward.count("reduce_max")
    expected, found = (
        run(NumpyArrays(), value_and_grad(f, NAMES), operands)
        for f in (function, tiling.tile(function))
    )
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


CAUSAL = "iota(Q)[:, None] >= iota(K)"
BEHIND = "iota(Q)[:, None] - iota(K)"
SHARED = f'where({CAUSAL}, einsum("nqd,kd->nqk", q, k[0]), -inf)'
KINDS = {
    "a window": f"scaled_attention(q, k, v, {CAUSAL} and {BEHIND} < 9)",
    "padding": f"scaled_attention(q, k, v, {CAUSAL} and seen)",
    "linear bias": f"softmax(where({CAUSAL}, s - cast({BEHIND}, float), -inf), axis = -1) @ v",
    "groups of queries": f'einsum("nqk,kd->nqd", softmax({SHARED}, axis = -1), v[0])',
    "other keys": "softmax(s, axis = -1) @ v",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_attention_fold_their_rows_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the mask and the bias: rows are folded by the forward sweep alone."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 6000)
    monkeypatch.setattr(cutting, "LEAST_ROWS", 2)
    keys = 61 if kind == "other keys" else 45
    function, operands = program(KINDS[kind], Q=45, K=keys, D=5)
    cut = divide_late(tiling.tile(function))
    wide = [op for op in walk(cut.block) if op.name in ("reduce_max", "sum") and rows(op) > 5]
    gradient = value_and_grad(cut, NAMES)
    again = [op for op in walk(gradient.block) if op.name in ("reduce_max", "sum") and rows(op) > 5]
    assert len(wide) == len(again) > 1
    expected, found = (
        run(NumpyArrays(), value_and_grad(f, NAMES), operands) for f in (function, cut)
    )
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


def rows(op: Op) -> int:
    """How many terms each result of a fold has."""
    return int(np.prod(op.operands[0].type.static_shape)) // max(
        1, int(np.prod(op.result.type.static_shape))
    )
