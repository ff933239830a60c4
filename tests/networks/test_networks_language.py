"""Programs as the language's own pages write them, compiled: loops in loops, recomputation,
pullbacks, own optimisers.
"""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.runtime.api import loads
from tests.support.networks_torch import EXACT, assert_close, leaves, torch

GPT = """
dim B, T, V = 13, D = 12, N = 3, L = 2

layer mixing(D, N) {
    use qkv = dense(D, 3*D)
    use proj = dense(D, D)
    apply(x: float[B, T, D]) -> float[B, T, D] {
        q, k, v = split(qkv(x), 3, axis = -1)
        q = reshape(q, [B, T, N, D // N])
        k = reshape(k, [B, T, N, D // N])
        v = reshape(v, [B, T, N, D // N])
        s = einsum("bqnd,bknd->bnqk", q, k) / sqrt(D // N)
        a = softmax(where(causal_mask(T), s, -inf), axis = -1)
        return proj(reshape(einsum("bnqk,bknd->bqnd", a, v), [B, T, D]))
    }
}

layer block(D, N) {
    use ln1 = layernorm(D)
    use attn = mixing(D, N)
    use ln2 = layernorm(D)
    use up = dense(D, 4*D)
    use down = dense(4*D, D)
    apply(h: float[B, T, D]) -> float[B, T, D] {
        h = h + attn(ln1(h))
        return h + down(dropout(gelu(up(ln2(h))), 0.1))
    }
}

model gpt(tokens: int[B, T], targets: int[B, T]) -> float {
    param wte: float[V, D] ~ normal(0.02)
    param wpe: float[T, D] ~ normal(0.02)
    use blocks = block(D, N) * L
    use lnf = layernorm(D)
    h = wte[tokens] + wpe
    for b in blocks { OPEN h = b(h) CLOSE }
    return mean(cross_entropy(lnf(h) @ wte.T, targets))
}
"""


@pytest.mark.parametrize("marks", [("", ""), ("checkpoint {", "}")])
def test_a_transformer_with_dropout_and_recomputation(marks: tuple[str, str]) -> None:
    """Machine code against the reference interpreter on the derived program, the same draws in
    both.
    """
    text = GPT.replace("OPEN", marks[0]).replace("CLOSE", marks[1])
    net = loads(text, dims={"T": 7}, precision="f64")
    params = net.init(0)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 13, (3, 7)).astype(np.int32) for name in ("tokens", "targets")}
    names = net.select("params")
    derived = value_and_grad(net.lower({"B": 3}).function, names)
    given = [{**params, **batch}[slot.name] for slot in derived.parameters]
    expected = run(NumpyArrays(), derived, given)
    by_name = {slot.name: a for slot, a in zip(derived.results, expected, strict=True)}
    loss, grads = net.value_and_grad()(params, **batch)
    assert_close(loss, expected[0], EXACT)
    for name in names:
        assert_close(grads[name], by_name[name], EXACT, name)


NESTED = """
dim T, S, B, D = 4
model m(x: float[T, S, B, D], h0: float[B, D]) -> float {
    param w: float[D, D] ~ orthogonal
    param u: float[D, D] ~ orthogonal
    ys = scan rows in x carry h = h0 {
        zs = scan row in rows carry g = h * 0.5 {
            g = tanh(g @ w + row)
            yield g * row
        }
        h = tanh(h @ u + g) + sum(zs, axis = 0)
        yield h, g
    }
    return 0.0
}
"""
NESTED_MODEL = NESTED.replace("ys = scan", "ys, gs = scan").replace(
    "return 0.0", "return mean(ys^2) + mean(gs * h)"
)


@pytest.mark.parametrize(("t", "s"), [(3, 5), (1, 1), (4, 0), (0, 3), (2, 1)])
def test_loops_in_loops_of_any_length(t: int, s: int) -> None:
    """Against torch, unrolled; a loop of no steps hands its carries through and stacks nothing."""
    text = NESTED_MODEL
    if t == 0:
        text = text.replace("mean(ys^2) + mean(gs * h)", "sum(ys^2) + sum(gs * h) + sum(h^2)")
    net = loads(text, precision="f64")
    rng = np.random.default_rng(t * 10 + s)
    x, h0 = rng.normal(size=(t, s, 2, 4)), rng.normal(size=(2, 4))
    params = net.init(0)
    given = leaves({**params, "x": x, "h0": h0})
    h, ys, gs = given["h0"], [], []
    for rows in given["x"]:
        g, zs = h * 0.5, torch.zeros(2, 4).double()
        for row in rows:
            g = torch.tanh(g @ given["w"] + row)
            zs = zs + g * row
        h = torch.tanh(h @ given["u"] + g) + zs
        ys.append(h)
        gs.append(g)
    if t:
        loss = (torch.stack(ys) ** 2).mean() + (torch.stack(gs) * h).mean()
    else:
        loss = (h**2).sum()
    loss.backward()
    found, grads = net.value_and_grad(["w", "u", "x", "h0"])(params, x=x, h0=h0)
    assert_close(found, loss.item(), EXACT)
    for name, grad in grads.items():
        leaf = given[name]
        expected = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        assert_close(grad, expected, EXACT, name)


OWN = """
fn swish(x: float[...], beta: float = 1.0) -> float[...] { return x * sigmoid(beta * x) }

fn round_through(x: float[...]) -> float[...] {
    return round(x)
    pullback(ct) { return ct }
}

optimizer mine(lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0.01) {
    state m ~ zeros
    state v ~ zeros
    update(p, g, t) {
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        return p - lr * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay * p)
    }
}

schedule ramped(peak, warmup, total, floor = 0) {
    at(t) {
        ramp = peak * t / warmup
        turn = (t - warmup) / (total - warmup)
        return where(t < warmup, ramp, floor + 0.5 * (peak - floor) * (1 + cos(pi * turn)))
    }
}

dim B, D = 5
model m(x: float[B, D]) -> float {
    param w: float[D] ~ normal(1.0)
    return mean(round_through(3.0 * swish(x * w, 1.5))^2)
}
"""


def test_functions_pullbacks_optimisers_and_schedules_of_ones_own() -> None:
    """The straight-through gradient by hand; the step equals that of the library's words."""
    net = loads(OWN, precision="f64")
    params = net.init(0)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 5))
    z = x * params["w"]
    s = 1 / (1 + np.exp(-1.5 * z))
    y = np.round(3 * z * s)
    slope = 3 * (s + 1.5 * z * s * (1 - s))
    loss, grads = net.value_and_grad()(params, x=x)
    assert_close(loss, (y**2).mean(), EXACT)
    assert_close(grads["w"], (2 * y / y.size * slope * x).sum(0), EXACT)
    found: list[Any] = []
    for optimiser, schedule in (("mine(lr=9)", "ramped"), ("adamw(lr=9)", "warmup_cosine")):
        step = net.train_step(
            optimiser, schedule=f"{schedule}(peak=0.1, warmup=3, total=9)", decay_on="all"
        )
        state = step.init(params)
        for _ in range(8):
            _, state = step(state, x=x)
        found.append(state.params["w"])
    assert_close(found[0], found[1], EXACT)
    assert np.abs(found[0] - params["w"]).max() > 1e-2


LONG = """
dim K
model m(x: float[2, K], w: float[K, 3], y: float[K]) -> float {
    p = x @ w
    s = sum(y)
    a = mean(y, axis = 0)
    n = sum(x * x, axis = 1)
    output p
    output s
    output a
    output n
    return mean(p)
}
"""


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_products_and_sums_are_accumulated_in_f32(precision: str) -> None:
    """4096 ones: bf16 on its own would stop at 256, f16 at 2048."""
    net = loads(LONG, precision=precision)
    ones = np.ones(4096, np.float32)
    found = net.forward()(
        {}, x=np.ones((2, 4096), np.float32), w=np.ones((4096, 3), np.float32), y=ones
    )
    wide = {name: np.asarray(a, np.float32) for name, a in found.items()}
    assert (wide["p"] == 4096).all() and wide["s"] == 4096
    assert wide["a"] == 1 and (wide["n"] == 4096).all()
