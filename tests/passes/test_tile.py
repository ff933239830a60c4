"""Attention without its score matrix: the same numbers, one tile of scores at a time."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.recompute import tile as tiling
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads

HEADS = """
dim B, T, N = 2, H = 4
model m(q: float[B, T, N, H], k: float[B, T, N, H], v: float[B, T, N, H]) -> float {
    param scale: float ~ ones
    s = einsum("bqnd,bknd->bnqk", q * scale, k) / sqrt(H)
    a = softmax(where(causal_mask(T), s, -inf), axis = -1)
    o = einsum("bnqk,bknd->bqnd", a, v)
    return mean(o^3)
}
"""
ONE_HEAD = """
dim T, H = 4
model m(q: float[T, H], k: float[T, H], v: float[T, H]) -> float {
    param scale: float ~ ones
    return mean((softmax(scale * q @ k.T, axis = -1) @ v)^3)
}
"""
BLOCK = """
dim B, T, D = 8, N = 2
layer attend(D, N) {
    use qkv = dense(D, 3*D)
    apply(x: float[B, T, D]) -> float[B, T, D] {
        q, k, v = split(qkv(x), 3, axis = -1)
        q = reshape(q, [B, T, N, D // N])
        k = reshape(k, [B, T, N, D // N])
        v = reshape(v, [B, T, N, D // N])
        s = einsum("bqnd,bknd->bnqk", q, k) * 0.5
        return reshape(einsum("bnqk,bknd->bqnd", softmax(s, axis = -1), v), [B, T, D])
    }
}
model m(x: float[B, T, D]) -> float {
    use a = attend(D, N)
    h = x
    checkpoint { h = h + a(h) }
    return mean(h^2)
}
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large enough to be cut, and tiles are small."""
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 40)


def lowered(text: str, **inputs: Any) -> tuple[Function, list[Any], tuple[str, ...]]:
    net = loads(text, precision="f64")
    dims = net.bind({name: a.shape for name, a in inputs.items()})
    model = net.lower(dims)
    values = {**net.init(1, dims), **inputs}
    operands = [values[slot.name] for slot in model.function.parameters]
    return simplify(model.function), operands, (*net.select("params"), *inputs)


def arrays(*shape: int, count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for _ in range(count)]


def tiles(function: Function) -> int:
    """Pieces of a score matrix that are written out: checkpoints with a product of their own."""
    stack, found = [function.block], 0
    while stack:
        block = stack.pop()
        for op in block.body:
            inside = [o for region in op.regions for o in region.body]
            is_innermost = op.name == "checkpoint" and not any(o.regions for o in inside)
            found += is_innermost and any(o.name == "contract" for o in inside)
            stack += op.regions
    return found


def largest(function: Function) -> int:
    """Elements of the largest value, regions included."""
    stack, most = [function.block], 0
    while stack:
        block = stack.pop()
        for op in block.body:
            sizes = [int(np.prod(v.type.static_shape, dtype=int)) for v in op.results]
            most = max([most, *sizes])
            stack += op.regions
    return most


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("length", [6, 13, 30])
@pytest.mark.parametrize("text", [HEADS, ONE_HEAD])
def test_tiles_give_the_same_gradients(text: str, length: int) -> None:
    shape = (3, length, 2, 4) if text is HEADS else (length, 4)
    q, k, v = arrays(*shape, count=3)
    plain, operands, names = lowered(text, q=q, k=k, v=v)
    cut = tiling.tile(plain)
    verify_function(cut)
    assert tiles(cut) >= (length // 6 if text is HEADS else 1)
    expected, found = (run(NumpyArrays(), value_and_grad(f, names), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("small")
def test_no_whole_score_matrix_is_left_in_either_sweep() -> None:
    q, k, v = arrays(3, 30, 2, 4, count=3)
    plain, _, names = lowered(HEADS, q=q, k=k, v=v)
    scores = 3 * 2 * 30 * 30
    assert largest(value_and_grad(plain, names)) >= scores
    assert largest(value_and_grad(tiling.tile(plain), names)) <= scores / 4


@pytest.mark.usefixtures("small")
def test_it_works_inside_checkpoints() -> None:
    (x,) = arrays(2, 12, 8, count=1)
    plain, operands, names = lowered(BLOCK, x=x)
    cut = tiling.tile(plain)
    assert tiles(cut) == 1
    expected, found = (run(NumpyArrays(), value_and_grad(f, names), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "body",
    [
        "a = softmax(q @ k.T, axis = -1)\n    output a\n    return mean((a @ v)^2)",
        "s = q @ k.T\n    return mean((softmax(s, axis = -1) @ v)^2) + mean(s)",
        "return mean((softmax(q @ k.T, axis = 0) @ v)^2)",
        "return mean((gelu(q @ k.T) @ v)^2)",
        "return mean((cumsum(softmax(q @ k.T, axis = -1), axis = 0) @ v)^2)",
    ],
)
def test_programs_that_need_the_matrix_or_mix_rows_are_left_alone(body: str) -> None:
    text = (
        "dim T, H = 4\nmodel m(q: float[T, H], k: float[T, H], v: float[T, H]) -> float {\n    "
        f"{body}\n}}"
    )
    q, k, v = arrays(12, 4, count=3)
    plain, operands, names = lowered(text, q=q, k=k, v=v)
    cut = tiling.tile(plain)
    expected, found = (run(NumpyArrays(), value_and_grad(f, names), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_array_equal(f, e)
    assert tiles(cut) == 0


def test_small_matrices_stay_whole() -> None:
    q, k, v = arrays(12, 4, count=3)
    plain, _, _ = lowered(ONE_HEAD, q=q, k=k, v=v)
    assert tiling.tile(plain) is plain


@pytest.mark.parametrize("length", [1451, 2048])
def test_the_plan_of_long_attention_has_no_score_matrix(length: int) -> None:
    """The arena is far smaller than the matrix alone."""
    plan = loads(HEADS).plan(wrt=("scale", "q"), dims={"B": 1, "T": length})
    assert plan.plan.arena_bytes < 0.3 * (2 * length * length * 4)
