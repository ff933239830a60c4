"""Products are told what of them counts where positions say it: fewer terms, the same results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradc.ir.ops.needs import NAMES, get_needs
from gradc.ir.ops.verify import verify_function
from gradc.ir.target.target import GENERIC
from gradc.ir.tensor.core import Block, Function, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.lower.cost import flops
from gradc.passes.pipeline import run_pipeline
from gradc.passes.recompute import cutting
from gradc.passes.recompute import tile as tiling
from gradc.passes.recompute.reach import reach
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.late_division import divide_late
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import compile_plan
from tests.support.llvm_kernels import sets

TARGET = replace(GENERIC, leaves_out=True)
NAMED = ("q", "k", "v")
MODEL = """
dim H = 2, Q = {queries}, K = {keys}, D = 33
model m(q: float[H, Q, D], k: float[H, K, D], v: float[H, K, D], seen: bool[Q, K]) -> float {{
    i = iota(Q)[:, None]
    j = iota(K)[None, :]
    s = einsum("hqd,hkd->hqk", q, k) / sqrt(D)
    mask = {mask}
    a = {weights}
    return mean((a @ v)^3){more}
}}
"""
SOFTMAX = "softmax(where(mask, s, -inf), axis = -1)"
MASKS = {
    "causal": "i >= j",
    "strictly": "j < i + 1",
    "later keys": "i + 70 > j",
    "window": "(i >= j) and (i - j < 29)",
    "with data": "(i >= j) and seen",
    "length": "j <= 61",
    "stretched": "3 * i >= 2 * j",
}


def lowered(mask: str, weights: str = SOFTMAX, size: tuple[int, int] = (83, 83),
            more: str = "") -> Function:  # fmt: skip
    text = MODEL.format(mask=mask, weights=weights, queries=size[0], keys=size[1], more=more)
    source = divide_late(simplify(loads(text).lower().function))
    return dce(simplify(value_and_grad(source, NAMED)))


def told(function: Function) -> list[tuple[int, int]]:
    """How many needs of terms and of results each product has."""
    ops = (op for op in walk(function.block) if op.name == "contract")
    return [(len(get_needs(op.attributes, "terms")), len(get_needs(op.attributes, "results")))
            for op in ops]  # fmt: skip


def given(function: Function) -> list[Any]:
    rng = np.random.default_rng(3)
    types = [p.type for p in function.block.parameters]
    return [rng.random(t.static_shape) < 0.8 if str(t.dtype) == "bool"
            else rng.normal(size=t.static_shape).astype(np.float32) for t in types]  # fmt: skip


def results(function: Function, arrays: list[Any], isa: str = "native", **more: Any) -> list[Any]:
    options = pipeline_options(None, Options(threads=1), isa, verify=0, **more)
    plan = run_pipeline(function, options).plan
    native = compile_plan(plan, threads=1, isa=isa, cache=False)
    made = [np.full(v.type.static_shape, np.nan, np.float32) for v in function.block.outputs]
    native.launch([*arrays, *made])
    return made


@pytest.mark.parametrize("name", MASKS)
def test_masked_products_leave_out_terms_and_elements(name: str) -> None:
    plain = lowered(MASKS[name])
    cut = reach(plain, TARGET)
    verify_function(cut)
    count = told(cut)
    if name == "stretched":
        assert count == [(0, 0)] * 6
        return
    each = 2 if name == "window" else 1
    # A length says nothing of the rows that a sum over them runs through.
    terms = [(0, 0)] * 2 + [(1, 0)] * 2 if name == "length" else [(each, 0)] * 4
    assert sorted(count) == sorted([(0, each)] * 2 + terms)
    arrays = given(plain)
    for one, other in zip(*(results(plain, arrays, skip=x) for x in ((), ("reach",))), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_rows_of_a_loop_count_from_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of several tiles: where a tile begins is data of its trip."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 4 * 2 * 130 * 16)
    monkeypatch.setattr(cutting, "STRIPS", 2)
    monkeypatch.setattr(cutting, "MOST_STRIPS", 2)
    monkeypatch.setattr(cutting, "SLACK", 9.0)
    monkeypatch.setattr(cutting, "LEAST_ROWS", 2)
    text = MODEL.format(mask=MASKS["causal"], weights=SOFTMAX, queries=128, keys=130, more="")
    function = value_and_grad(tiling.tile(simplify(loads(text).lower().function)), NAMED)
    seen = {op.name for op in walk(function.block)}
    assert "scan" in seen
    arrays = given(function)
    found = run_pipeline(function, pipeline_options(None, Options(threads=1))).after("reach")
    assert isinstance(found, Function)
    products = [op for op in walk(found.block) if op.name == "contract"]
    assert any(len(op.operands) == 3 for op in products)
    assert all(any(get_needs(op.attributes, name) for name in NAMES) for op in products)
    for one, other in zip(
        *(results(function, arrays, skip=x) for x in ((), ("reach",))), strict=True
    ):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize(
    ("mask", "weights"),
    [
        ("seen", SOFTMAX),
        ("(i >= j) or seen", SOFTMAX),
        ("i >= 0", SOFTMAX),
    ],
    ids=["data", "or", "everywhere"],
)
def test_what_counts_everywhere_is_left_alone(mask: str, weights: str) -> None:
    plain = lowered(mask, weights)
    assert reach(plain, TARGET) is plain


@pytest.mark.parametrize(
    ("mask", "weights"),
    [
        ("i >= j", "softmax(where(mask, s, -100), axis = -1)"),
        (
            "i >= j + 5",
            "exp(where(mask, s, -inf) - max(where(mask, s, -inf), axis = -1)[:, :, None])",
        ),
    ],
    ids=["a number that is not nothing", "rows without keys are no numbers"],
)
def test_weights_that_are_not_always_zero_count(mask: str, weights: str) -> None:
    """Of the reverse sweep alone something is left out: cotangents of scores that a mask hides."""
    plain = lowered(mask, weights)
    assert sorted(told(reach(plain, TARGET)))[3:] == [(0, 1)] + [(1, 0)] * 2


def test_instruction_sets_leave_out_the_same() -> None:
    """An infinite value where a mask is reaches the same results whatever the tile."""
    plain = lowered("i >= j", size=(131, 131))
    arrays = given(plain)
    arrays[2][:, 100] = np.inf
    found = [results(plain, arrays, isa) for isa in sets()]
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
    assert np.isnan(found[0][3]).any() and not np.isnan(found[0][3]).all()


def test_only_where_one_level_of_threads_works_tile_by_tile() -> None:
    plain = lowered("i >= j")
    assert reach(plain, GENERIC) is plain


@pytest.mark.parametrize("name", ["causal", "window", "later keys"])
def test_flops_count_the_terms_that_a_mask_leaves(name: str) -> None:
    """Limits of a profile are made of them. Counted one by one here."""
    i, j = np.ogrid[:83, :83]
    masks = {"causal": i >= j, "window": (i >= j) & (i - j < 29), "later keys": i + 70 > j}
    pairs = int(np.broadcast_to(masks[name], (83, 83)).sum())
    cut = reach(lowered(MASKS[name]), TARGET)
    products = [op for op in walk(cut.block) if op.name == "contract"]
    counted = [flops(Block((), (op, cut.block.terminator))) for op in products]
    assert counted == [2 * 2 * pairs * 33] * 6  # two heads, 33 features
