"""Masks that follow from positions: what they empty is not computed, and nothing changes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Block, Function
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.recompute import cutting
from gradc.passes.recompute import tile as tiling
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads

ATTEND = """
dim N, Q, K, D
model m(q: float[N, Q, D], k: float[N, K, D], v: float[N, K, D], seen: bool[N, Q, K]) -> float {{
    param slope: float[N] ~ normal
    i = iota(Q)[:, None]
    j = iota(K)[None, :]
    mask = {mask}
    s = einsum("nqd,nkd->nqk", q, k) / sqrt(D) + {bias}
    a = softmax(where(mask, s, -inf), axis = -1)
    o = where(mask, a, 0) @ v
    output o
    return mean(o^3)
}}
"""
NAMES = ("slope", "q", "k", "v")
Condition = Callable[[Any, Any], Any]
# The condition in the language and in NumPy, and how many times the scores that it leaves may be
# computed.
MASKS: dict[str, tuple[str, Condition, float]] = {
    "causal": ("i >= j", lambda i, j: i >= j, 1.3),
    "later keys": ("i + 7 >= j", lambda i, j: i + 7 >= j, 1.3),
    "window": ("(i >= j) and (i - j < 9)", lambda i, j: (i >= j) & (i - j < 9), 2.2),
    "both sides": ("abs(i - j) <= 6", lambda i, j: abs(i - j) <= 6, 2.0),
    "blocks": ("i // 10 == j // 10", lambda i, j: i // 10 == j // 10, 2.5),
    "length": ("j < 21", lambda _i, j: j < 21, 1.3),
    "first keys and window": (
        "(i >= j) and ((i - j < 9) or (j < 4))",
        lambda i, j: (i >= j) & ((i - j < 9) | (j < 4)),
        5.0,
    ),
    "every third": (
        "(i >= j) and ((i - j) % 3 == 0)",
        lambda i, j: (i >= j) & ((i - j) % 3 == 0),
        4,
    ),
    "rows without keys": ("i >= j + 5", lambda i, j: i >= j + 5, 2.0),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "LEAST", 1)
    monkeypatch.setattr(tiling, "TILE", 6000)
    monkeypatch.setattr(cutting, "LEAST_ROWS", 2)
    monkeypatch.setattr(cutting, "ROWS", 2)


def scores(block: Block, width: int) -> int:
    """Elements of products over an axis of ``width``, loops counted in."""
    found = 0
    for op in block.body:
        trips = int(str(op.attributes.get("trips", 1)))
        found += trips * sum(scores(region, width) for region in op.regions)
        if op.name == "contract" and op.operands[0].type.static_shape[-1] == width:
            found += int(np.prod(op.result.type.static_shape))
    return found


def lowered(text: str, inputs: dict[str, Any]) -> tuple[Function, list[Any]]:
    net = loads(text, precision="f64")
    dims = net.bind({name: a.shape for name, a in inputs.items()})
    function = net.lower(dims).function
    values = {**net.init(1, dims), **inputs}
    return simplify(function), [values[slot.name] for slot in function.parameters]


def drawn(heads: int, queries: int, keys: int, width: int) -> dict[str, Any]:
    rng = np.random.default_rng(queries)
    shapes = {"q": queries, "k": keys, "v": keys}
    found: dict[str, Any] = {n: rng.normal(size=(heads, t, width)) for n, t in shapes.items()}
    return {**found, "seen": rng.random((heads, queries, keys)) < 0.7}


def attended(inputs: dict[str, Any], allowed: Any, bias: Any = 0.0) -> Any:
    """The output, written down in NumPy."""
    s = np.einsum("nqd,nkd->nqk", inputs["q"], inputs["k"]) / np.sqrt(inputs["q"].shape[-1]) + bias
    e = np.exp(s - s.max(-1, keepdims=True)) * allowed
    total = e.sum(-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0) @ inputs["v"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("queries", "keys"), [(45, 45), (37, 61)])
def test_what_a_mask_empties_is_not_computed(name: str, queries: int, keys: int) -> None:
    text, condition, slack = MASKS[name]
    inputs = drawn(2, queries, keys, 5)
    plain, operands = lowered(ATTEND.format(mask=text, bias="0"), inputs)
    cut = tiling.tile(plain)
    verify_function(cut)
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    allowed = np.broadcast_to(condition(i, j), (queries, keys))
    computed = scores(cut.block, 5)
    assert computed <= max(slack * 2 * allowed.sum(), 2.6 * keys * queries / 8), computed
    (_, o) = run(NumpyArrays(), cut, operands)
    np.testing.assert_allclose(o, attended(inputs, allowed), rtol=1e-11, atol=1e-13)
    expected, found = (run(NumpyArrays(), value_and_grad(f, NAMES), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("small")
def test_narrow_windows_are_cut_into_more_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "STRIP_ROWS", 2)
    plain, _ = lowered(ATTEND.format(mask=MASKS["window"][0], bias="0"), drawn(2, 128, 128, 5))
    most = 2.5 * 2 * sum(min(row + 1, 9) for row in range(128))
    assert scores(tiling.tile(plain).block, 5) <= most
    monkeypatch.setattr(cutting, "MOST_STRIPS", 8)
    assert scores(tiling.tile(plain).block, 5) > most


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("mask", "bias"),
    [
        ("(i >= j) and seen", "0"),
        ("i >= j", "(-slope[:, None, None] * cast(i - j, float))"),
        ("seen", "(slope[:, None, None] * cast(i * j, float) / 50)"),
    ],
)
def test_masks_of_data_and_biases_ride_along(mask: str, bias: str) -> None:
    inputs = drawn(3, 40, 40, 4)
    plain, operands = lowered(ATTEND.format(mask=mask, bias=bias), inputs)
    cut = tiling.tile(plain)
    verify_function(cut)
    assert cut is not plain
    whole = 3 * 40 * 40
    assert scores(cut.block, 4) <= (whole if mask == "seen" else 0.7 * whole)
    expected, found = (run(NumpyArrays(), value_and_grad(f, NAMES), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("mask", ["j >= 0", "s > -1", "seen", "(i + j) % 2 == 0"])
def test_what_is_read_everywhere_is_computed_everywhere(mask: str) -> None:
    inputs = drawn(2, 24, 24, 5)
    text = ATTEND.format(mask="i >= 0", bias="0").replace("where(mask, s", f"where({mask}, s")
    plain, operands = lowered(text, inputs)
    cut = tiling.tile(plain)
    assert scores(cut.block, 5) == 2 * 24 * 24
    for e, f in zip(
        run(NumpyArrays(), plain, operands), run(NumpyArrays(), cut, operands), strict=True
    ):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


GROUPED = """
dim B, G, R, T, D
model m(q: float[B, G, R, T, D], k: float[B, G, T, D], v: float[B, G, T, D]) -> float {
    param slope: float ~ ones
    s = slope * einsum("bgrqd,bgkd->bgrqk", q, k)
    a = softmax(where(causal_mask(T), s, -inf), axis = -1)
    return mean(einsum("bgrqk,bgkd->bgrqd", a, v)^3)
}
"""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [300, 6000])
def test_heads_of_a_group_share_their_keys(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """With small tiles the groups are a loop around the rows; keys are copied in neither case."""
    monkeypatch.setattr(tiling, "TILE", size)
    rng = np.random.default_rng(3)
    q, k, v = (rng.normal(size=s) for s in ((2, 2, 3, 19, 4), (2, 2, 19, 4), (2, 2, 19, 4)))
    plain, operands = lowered(GROUPED, {"q": q, "k": k, "v": v})
    cut = tiling.tile(plain)
    verify_function(cut)
    assert scores(cut.block, 4) < 0.75 * 2 * 2 * 3 * 19 * 19
    expected, found = (run(NumpyArrays(), value_and_grad(f, NAMES), operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("small")
def test_strips_are_differentiated_forwards_and_twice() -> None:
    inputs = drawn(2, 23, 23, 3)
    plain, operands = lowered(ATTEND.format(mask="i >= j", bias="0"), inputs)
    cut = tiling.tile(plain)
    assert cut is not plain
    names = ("q", "k", "v")
    rng = np.random.default_rng(1)
    tangents = [rng.normal(size=inputs[name].shape) for name in names]
    for twice in (False, True):
        first = [value_and_grad(f, names) if twice else f for f in (plain, cut)]
        pair = (run(NumpyArrays(), jvp(f, names), [*operands, *tangents]) for f in first)
        for e, f in zip(*pair, strict=True):
            np.testing.assert_allclose(f, e, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("small")
def test_what_is_not_read_may_be_anything() -> None:
    """Keys that no query may see are not looked at: what is not finite there stays there."""
    inputs = drawn(1, 32, 32, 4)
    plain, operands = lowered(ATTEND.format(mask="j < 16", bias="0"), inputs)
    inputs["v"][:, 20:] = np.inf
    cut = tiling.tile(plain)
    _, o = run(NumpyArrays(), cut, operands)
    inputs["v"][:, 20:] = 0
    np.testing.assert_allclose(o, attended(inputs, np.arange(32) < 16), rtol=1e-12)


@pytest.mark.usefixtures("small")
def test_compiled_strips_agree_with_torch_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An odd length, a window: loss and gradients, the same bits for 1 and 2 threads."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(cutting, "STRIPS", 3)
    monkeypatch.setattr(tiling, "TILE", 40000)
    net = loads(ATTEND.format(mask="(i >= j) and (i - j < 60)", bias="0").replace("output o", ""))
    inputs = {n: x.astype(np.float32) for n, x in drawn(1, 201, 201, 8).items() if n != "seen"}
    inputs["seen"] = np.zeros((1, 201, 201), bool)
    runs = [net.value_and_grad("inputs", threads=threads) for threads in (1, 2)]
    (loss, grads), other = (f(net.init(0, {"N": 1}), **inputs) for f in runs)
    for name, grad in grads.items():
        np.testing.assert_array_equal(grad, other[1][name])
    i = torch.arange(201)
    allowed = (i[:, None] >= i) & (i[:, None] - i < 60)
    wide = [torch.tensor(inputs[n], dtype=torch.float64, requires_grad=True) for n in "qkv"]
    o = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=allowed)
    expected = (o**3).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, x in zip("qkv", wide, strict=True):
        e = x.grad.numpy()
        np.testing.assert_allclose(grads[name], e, rtol=1e-4, atol=1e-5 * np.abs(e).max())
