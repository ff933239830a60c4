"""Attention with masks at odd sizes, and the GPT of the examples with its tied embedding, against
torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import load, loads
from tests.support.networks_torch import (
    EXACT,
    Arrays,
    Case,
    assert_close,
    check_gradients,
    check_training,
    leaves,
    torch,
)

F = torch.nn.functional
ROOT = Path(__file__).resolve().parent.parent.parent
GPT = ROOT / "examples" / "text" / "gpt.grad"

SCALED = """
dim B, N, Q, K, D, E
model m(q: float[B, N, Q, D], k: float[B, N, K, D], v: float[B, N, K, E], see: int[B, 1, Q, K],
        goal: float[B, N, Q, E]) -> float {
    out = scaled_attention(q, k, v, see > 0)
    output out
    return mean((out - goal)^2)
}
"""
PADDED = """
dim B, T
model m(x: float[B, T, 15], seen: int[B, T], goal: float[B, T, 15]) -> float {
    use a = attention(15, 3, causal = CAUSAL)
    out = a(x, mask = seen[:, None, None, :] > 0)
    output out
    return mean((out - goal)^2)
}
"""


def masks(kind: str, b: int, q: int, k: int) -> Any:
    """True where a query may look."""
    seen = np.ones((b, 1, q, k), bool)
    if kind == "causal":
        seen &= np.tril(np.ones((q, k), bool))
    if kind in ("padding", "blind"):
        seen &= np.arange(k) < np.array([3, k, 1])[:b, None, None, None]
    if kind == "blind":
        seen[0, :, 1] = seen[1] = False
    return seen


def reference(q: Any, k: Any, v: Any, *, seen: Any) -> Any:
    """By the definition; a query that sees nothing gets zeros."""
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    blind = ~seen.any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0) @ v


@pytest.mark.parametrize(
    ("q", "k", "d", "e"), [(1, 1, 1, 1), (7, 7, 5, 3), (5, 9, 3, 7), (17, 13, 9, 11)]
)
@pytest.mark.parametrize("kind", ["all", "causal", "padding", "blind"])
def test_masks(kind: str, q: int, k: int, d: int, e: int) -> None:
    """No mask hides more than it says; what a blind query would have seen gets no gradient from it,
    and no NaN.
    """
    b, n = 3, 2
    shapes = {"q": (b, n, q, d), "k": (b, n, k, d), "v": (b, n, k, e)}
    rng = np.random.default_rng(q)
    inputs: Arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    seen = masks("all" if kind == "blind" and q == 1 else kind, b, q, k)
    goal = rng.normal(size=(b, n, q, e))
    given = leaves(inputs)
    out = reference(**given, seen=torch.tensor(seen))
    ((out - torch.tensor(goal)) ** 2).mean().backward()
    net = loads(SCALED, precision="f64")
    gradient = net.value_and_grad(["q", "k", "v"], aux=True)
    (_, outputs), grads = gradient({}, **inputs, see=seen.astype(np.int32), goal=goal)
    assert_close(outputs["out"], out.detach().numpy(), EXACT, "out")
    for name in shapes:
        assert_close(grads[name], given[name].grad.numpy(), EXACT, name)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_layer_takes_a_padding_mask(is_causal: bool) -> None:
    def twin(p: Any, x: Any) -> Any:
        b, t, d = x["x"].shape
        q, k, v = (x["x"] @ p["a.qkv.w"] + p["a.qkv.b"]).chunk(3, -1)
        heads = [z.reshape(b, t, 3, d // 3).transpose(1, 2) for z in (q, k, v)]
        seen = (x["seen"] > 0)[:, None, None, :].expand(b, 1, t, t)
        if is_causal:
            seen = seen & torch.tril(torch.ones(t, t, dtype=torch.bool))
        mixed = reference(*heads, seen=seen)
        return mixed.transpose(1, 2).reshape(b, t, d) @ p["a.proj.w"] + p["a.proj.b"]

    text = PADDED.replace("CAUSAL", "true" if is_causal else "false")
    shapes, ids = {"x": (3, 7, 15)}, {"seen": (2, (3, 7))}
    case = Case("padded", text, twin, shapes, (3, 7, 15), ids)
    check_gradients(case)
    check_training(case)


def gpt_loss(p: Arrays, tokens: Any, targets: Any, layers: int, heads: int) -> Any:
    """The same network, by torch's own layers."""
    h = p["wte"][tokens] + p["wpe"]
    b, t, d = h.shape
    for i in range(layers):
        name = f"blocks.{i}"
        z = F.layer_norm(h, (d,), p[f"{name}.ln1.gain"], p[f"{name}.ln1.bias"])
        parts = (z @ p[f"{name}.attn.qkv.w"] + p[f"{name}.attn.qkv.b"]).chunk(3, -1)
        q, k, v = (s.reshape(b, t, heads, d // heads).transpose(1, 2) for s in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        h = h + mixed.reshape(b, t, d) @ p[f"{name}.attn.proj.w"] + p[f"{name}.attn.proj.b"]
        z = F.layer_norm(h, (d,), p[f"{name}.ln2.gain"], p[f"{name}.ln2.bias"])
        up = F.gelu(z @ p[f"{name}.up.w"] + p[f"{name}.up.b"])
        h = h + up @ p[f"{name}.down.w"] + p[f"{name}.down.b"]
    logits = F.layer_norm(h, (d,), p["lnf.gain"], p["lnf.bias"]) @ p["wte"].T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_gpt_with_a_tied_embedding(precision: str) -> None:
    """Value and gradient, then ten steps of AdamW; repeated tokens, odd length."""
    dims = {"T": 7, "V": 11, "D": 12, "N": 3, "L": 2}
    net = load(GPT, dims=dims, precision=precision)
    bound = EXACT if precision == "f64" else 5e-5
    params = net.init(2)
    rng = np.random.default_rng(0)
    batches = [
        {name: rng.integers(0, 11, (3, 7)).astype(np.int32) for name in ("tokens", "targets")}
        for _ in range(10)
    ]
    theirs = leaves({name: a.astype(np.float64) for name, a in params.items()})

    def loss_of(batch: Arrays) -> Any:
        ids = {k: torch.tensor(v).long() for k, v in batch.items()}
        return gpt_loss(theirs, ids["tokens"], ids["targets"], dims["L"], dims["N"])

    expected = loss_of(batches[0])
    expected.backward()
    loss, grads = net.value_and_grad(threads=1)(params, **batches[0])
    assert_close(loss, expected.item(), bound)
    for name, leaf in theirs.items():
        assert_close(grads[name], leaf.grad.numpy(), bound, name)
    if precision == "f32":
        return
    matrices = [leaf for leaf in theirs.values() if leaf.ndim > 1]
    rest = [leaf for leaf in theirs.values() if leaf.ndim < 2]
    # A large eps: gradients that are zero but for rounding (biases of keys) stay zero.
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-2, eps=1e-4)
    step = net.train_step("adamw(lr=1e-2, eps=1e-4, decay=0.1)", clip_norm=0.5, threads=1)
    state = step.init(params)
    for batch in batches:
        optimiser.zero_grad()
        loss_of(batch).backward()
        norm = torch.nn.utils.clip_grad_norm_(list(theirs.values()), 0.5)
        # torch divides by norm + 1e-6; ours by the norm itself.
        for leaf in theirs.values():
            leaf.grad.mul_(max(float(norm) + 1e-6, 0.5) / max(float(norm), 0.5))
        optimiser.step()
        _, state = step(state, **batch)
        assert_close(state.metrics["grad_norm"], float(norm), 1e-9)
    for name, leaf in theirs.items():
        assert_close(state.params[name], leaf.detach().numpy(), EXACT, name)
