"""The benchmark models in JAX: the fastest plain form of each, on the same parameters.

A twin is a function (params, inputs) -> loss, compiled with jit together with its gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import (
    ATTENTION_WINDOW,
    GPT_HEADS,
    GPT_LAYERS,
    LLAMA_HEADS,
    LLAMA_LAYERS,
    MIXER_LAYERS,
)

Tensor = Any  # jax.Array, or a tracer of one
Tensors = dict[str, Tensor]
Twin = Callable[[Tensors, Tensors], Tensor]


def dense(p: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.w"] + p[f"{name}.b"]


def layernorm(p: Tensors, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdims=True)
    spread = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(spread + 1e-5) * p[f"{name}.gain"] + p[f"{name}.bias"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()


def mlp_tiny(p: Tensors, d: Tensors) -> Tensor:
    h = jnp.tanh(dense(p, "fc2", jnp.tanh(dense(p, "fc1", d["x"]))))
    return jnp.square(dense(p, "fc3", h) - d["y"]).mean()


def classifier(p: Tensors, d: Tensors) -> Tensor:
    h = jax.nn.relu(dense(p, "fc2", jax.nn.relu(dense(p, "fc1", d["x"]))))
    return cross_entropy(dense(p, "fc3", h), d["y"])


def rows(p: Tensors, d: Tensors) -> Tensor:
    x = p["x"]
    return jnp.square(jnp.tanh(x + jax.nn.gelu(layernorm(p, "ln", x), approximate=False))).mean()


def attention(p: Tensors, name: str, x: Tensor) -> Tensor:
    batch, steps, width = x.shape
    qkv = dense(p, f"{name}.qkv", x).reshape(batch, steps, 3, GPT_HEADS, width // GPT_HEADS)
    q, k, v = (qkv[:, :, i] for i in range(3))
    scores = jnp.einsum("bqnd,bknd->bnqk", q, k) / (width // GPT_HEADS) ** 0.5
    seen = jnp.tril(jnp.ones((steps, steps), bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bnqk,bknd->bqnd", weights, v).reshape(batch, steps, width)
    return dense(p, f"{name}.proj", mixed)


def gpt(p: Tensors, d: Tensors) -> Tensor:
    h = p["wte"][d["tokens"]] + p["wpe"]
    for i in range(GPT_LAYERS):
        b = f"blocks.{i}"
        h = h + attention(p, f"{b}.attn", layernorm(p, f"{b}.ln1", h))
        inner = jax.nn.gelu(dense(p, f"{b}.up", layernorm(p, f"{b}.ln2", h)), approximate=False)
        h = h + dense(p, f"{b}.down", inner)
    return cross_entropy(layernorm(p, "lnf", h) @ p["wte"].T, d["targets"])


def attended(p: Tensors, seen: Tensor) -> Tensor:
    scores = jnp.einsum("nqd,nkd->nqk", p["q"], p["k"]) / p["q"].shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.square(weights @ p["v"]).mean()


def causal(p: Tensors, d: Tensors) -> Tensor:
    steps = p["q"].shape[1]
    return attended(p, jnp.tril(jnp.ones((steps, steps), bool)))


def windowed(p: Tensors, d: Tensors) -> Tensor:
    steps = p["q"].shape[1]
    ones = jnp.ones((steps, steps), bool)
    return attended(p, jnp.tril(ones) & jnp.triu(ones, 1 - ATTENTION_WINDOW))


def lstm(p: Tensors, d: Tensors) -> Tensor:
    inner = d["xs"] @ p["rnn.wx"] + p["rnn.b"]
    start = jnp.zeros((inner.shape[1], p["rnn.wh"].shape[0]), inner.dtype)

    def step(carry: tuple[Tensor, Tensor], x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h, c = carry
        i, f, g, o = jnp.split(x + h @ p["rnn.wh"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    _, hs = jax.lax.scan(step, (start, start), inner)
    return jnp.square(hs - d["ys"]).mean()


def conv(x: Tensor, w: Tensor, b: Tensor, padding: int) -> Tensor:
    both = ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, w, (1, 1), both) + b


def pool(x: Tensor) -> Tensor:
    shape = (1, 1, 2, 2)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, shape, "VALID")


def lenet(p: Tensors, d: Tensors) -> Tensor:
    h = pool(jax.nn.relu(conv(d["x"], p["c1"], p["b1"], 2)))
    h = pool(jax.nn.relu(conv(h, p["c2"], p["b2"], 0)))
    return classifier(p, {"x": h.reshape(h.shape[0], -1), "y": d["y"]})


def convolution(
    x: Tensor, w: Tensor, stride: int = 1, groups: int = 1, dilation: int = 1
) -> Tensor:
    pads = [(n // 2 * dilation,) * 2 for n in w.shape[2:]]
    axes = len(pads)
    return jax.lax.conv_general_dilated(
        x, w, (stride,) * axes, pads, rhs_dilation=(dilation,) * axes, feature_group_count=groups
    )


def batchnorm(p: Tensors, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean((0, 2, 3), keepdims=True)
    spread = jnp.square(centred).mean((0, 2, 3), keepdims=True)
    return centred * jax.lax.rsqrt(spread + 1e-5) * p[f"{name}.gain"] + p[f"{name}.bias"]


def resnet(p: Tensors, d: Tensors) -> Tensor:
    relu = jax.nn.relu

    def block(name: str, x: Tensor, skip: Tensor, stride: int) -> Tensor:
        h = relu(batchnorm(p, f"{name}.n1", convolution(x, p[f"{name}.k1"], stride)))
        return relu(batchnorm(p, f"{name}.n2", convolution(h, p[f"{name}.k2"])) + skip)

    h = relu(batchnorm(p, "n0", convolution(d["x"], p["stem"])))
    h = block("a1", h, h, 1)
    h = block("a2", h, h, 1)
    h = block("b1", h, convolution(h, p["kb"], 2), 2)
    h = block("b2", h, h, 1)
    h = block("c1", h, convolution(h, p["kc"], 2), 2)
    h = block("c2", h, h, 1)
    return cross_entropy(dense(p, "fc", h.mean((2, 3))), d["y"])


def layer(p: Tensors, name: str, x: Tensor, groups: int = 1) -> Tensor:
    return convolution(x, p[f"{name}.w"], groups=groups) + p[f"{name}.b"]


def max_pool(x: Tensor) -> Tensor:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def vgg(p: Tensors, d: Tensors) -> Tensor:
    h = d["x"]
    for name in ("c1", "c2", "c3", "c4", "c5"):
        h = jax.nn.relu(layer(p, name, h))
        h = h if name in ("c1", "c3") else max_pool(h)
    return cross_entropy(dense(p, "fc", h.reshape(h.shape[0], -1)), d["y"])


def residual(p: Tensors, d: Tensors) -> Tensor:
    h = d["x"]
    for b in "ab":
        h = jax.nn.relu(layer(p, f"{b}.c2", jax.nn.relu(layer(p, f"{b}.c1", h))) + h)
    return jnp.square(h - d["y"]).mean()


def mobilenet(p: Tensors, d: Tensors) -> Tensor:
    h = d["x"]
    for b in "ab":
        each = jax.nn.relu6(layer(p, f"{b}.each", jax.nn.relu6(layer(p, f"{b}.up", h)), 192))
        h = h + layer(p, f"{b}.down", each)
    return jnp.square(h - d["y"]).mean()


def unet(p: Tensors, d: Tensors) -> Tensor:
    def pair(name: str, x: Tensor) -> Tensor:
        return jax.nn.relu(layer(p, f"{name}.c2", jax.nn.relu(layer(p, f"{name}.c1", x))))

    def twice(x: Tensor) -> Tensor:
        return x.repeat(2, 2).repeat(2, 3)

    a = pair("d1", d["x"])
    b = pair("d2", max_pool(a))
    h = pair("mid", max_pool(b))
    h = pair("u2", jnp.concatenate([b, twice(h)], 1))
    h = pair("u1", jnp.concatenate([a, twice(h)], 1))
    return jnp.square(layer(p, "out", h) - d["y"]).mean()


def conv1d(p: Tensors, d: Tensors) -> Tensor:
    h = d["x"]
    for n in range(4):
        h = jax.nn.relu(convolution(h, p["k"][n], dilation=1 << n) + p["b"][n])
    return jnp.square(h - d["y"]).mean()


def conv3d(p: Tensors, d: Tensors) -> Tensor:
    def transposed(x: Tensor) -> Tensor:
        pads = [(1, 1)] * 3
        return jax.lax.conv_general_dilated(x, p["up.w"], (2, 2, 2), pads)

    h = d["x"]
    for name, stride in (("c1", 1), ("c2", 2), ("c3", 1)):
        h = jax.nn.relu(convolution(h, p[f"{name}.w"], stride) + p[f"{name}.b"])
    up = jax.linear_transpose(transposed, d["y"])(h)[0] + p["up.b"]
    return jnp.square(up - d["y"]).mean()


def gru(p: Tensors, d: Tensors) -> Tensor:
    inner = d["xs"] @ p["rnn.wx"] + p["rnn.bx"]
    start = jnp.zeros((inner.shape[1], p["rnn.wh"].shape[0]), inner.dtype)

    def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        rx, zx, nx = jnp.split(x, 3, axis=-1)
        rh, zh, nh = jnp.split(h @ p["rnn.wh"] + p["rnn.bh"], 3, axis=-1)
        z = jax.nn.sigmoid(zx + zh)
        h = (1 - z) * jnp.tanh(nx + jax.nn.sigmoid(rx + rh) * nh) + z * h
        return h, h

    _, hs = jax.lax.scan(step, start, inner)
    return jnp.square(hs - d["ys"]).mean()


def word2vec(p: Tensors, d: Tensors) -> Tensor:
    scores = jnp.einsum("bd,bkd->bk", p["inner"][d["centre"]], p["outer"][d["others"]])
    return (jax.nn.softplus(scores) - scores * d["right"]).mean()


def vocabulary(p: Tensors, d: Tensors) -> Tensor:
    return cross_entropy(p["h"] @ p["w"], d["word"])


def rmsnorm(x: Tensor, gain: Tensor) -> Tensor:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * gain


def turned(x: Tensor) -> Tensor:
    steps, width = x.shape[-2:]
    angles = jnp.arange(steps)[:, None] * jnp.exp(
        jnp.arange(width // 2) * (-2 * jnp.log(10000.0) / width)
    )
    a, b = jnp.split(x, 2, axis=-1)
    c, s = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def llama(p: Tensors, d: Tensors) -> Tensor:
    def heads(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], LLAMA_HEADS, -1).transpose(0, 2, 1, 3)

    h = d["x"]
    steps = h.shape[1]
    seen = jnp.tril(jnp.ones((steps, steps), bool))
    for i in range(LLAMA_LAYERS):
        b = f"blocks.{i}"
        x = rmsnorm(h, p[f"{b}.n1.gain"])
        q, k, v = (heads(x @ p[f"{b}.{name}"]) for name in ("wq", "wk", "wv"))
        scores = jnp.einsum("bnqd,bnkd->bnqk", turned(q), turned(k)) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(h.shape)
        h = h + mixed @ p[f"{b}.wo"]
        z = rmsnorm(h, p[f"{b}.n2.gain"])
        h = h + (jax.nn.silu(z @ p[f"{b}.gate"]) * (z @ p[f"{b}.up"])) @ p[f"{b}.down"]
    return jnp.square(rmsnorm(h, p["last.gain"]) - d["y"]).mean()


def mixer(p: Tensors, d: Tensors) -> Tensor:
    def inner(name: str, x: Tensor) -> Tensor:
        return jax.nn.gelu(dense(p, name, x), approximate=False)

    h = dense(p, "stem", d["x"])
    for i in range(MIXER_LAYERS):
        b = f"blocks.{i}"
        z = layernorm(p, f"{b}.n1", h).swapaxes(1, 2)
        h = h + (inner(f"{b}.t1", z) @ p[f"{b}.t2"]).swapaxes(1, 2)
        h = h + dense(p, f"{b}.c2", inner(f"{b}.c1", layernorm(p, f"{b}.n2", h)))
    return cross_entropy(dense(p, "head", layernorm(p, "last", h).mean(1)), d["y"])


TWINS: dict[str, Twin] = {
    "mlp_tiny": mlp_tiny,
    "mlp_small": classifier,
    "mlp_wide": classifier,
    "rows": rows,
    "gpt": gpt,
    "lstm": lstm,
    "lenet": lenet,
    "gru": gru,
    "word2vec": word2vec,
    "vocabulary": vocabulary,
    "llama": llama,
    "mixer": mixer,
    "attention": causal,
    "attention_long": causal,
    "attention_window": windowed,
    "resnet16": resnet,
    "resnet64": resnet,
    "vgg": vgg,
    "residual": residual,
    "mobilenet": mobilenet,
    "unet": unet,
    "conv1d": conv1d,
    "conv3d": conv3d,
}
