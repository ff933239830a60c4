"""The benchmark models in PyTorch: the fastest plain form of each, on the same parameters.

A twin is a function (params, inputs) -> loss. `TRANSPOSED` names parameters that PyTorch keeps the
other way round; they are handed over transposed once, outside the timing.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as fn

from benchmarks.cases import (
    ATTENTION_WINDOW,
    GPT_HEADS,
    GPT_LAYERS,
    LLAMA_HEADS,
    LLAMA_LAYERS,
    MIXER_LAYERS,
)

Tensors = dict[str, torch.Tensor]
Twin = Callable[[Tensors, Tensors], torch.Tensor]


def dense(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return fn.linear(x, p[f"{name}.w"], p[f"{name}.b"])


def layernorm(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return fn.layer_norm(x, x.shape[-1:], p[f"{name}.gain"], p[f"{name}.bias"], 1e-5)


def mlp_tiny(p: Tensors, d: Tensors) -> torch.Tensor:
    h = torch.tanh(dense(p, "fc2", torch.tanh(dense(p, "fc1", d["x"]))))
    return fn.mse_loss(dense(p, "fc3", h), d["y"])


def classifier(p: Tensors, d: Tensors) -> torch.Tensor:
    h = torch.relu(dense(p, "fc2", torch.relu(dense(p, "fc1", d["x"]))))
    return fn.cross_entropy(dense(p, "fc3", h), d["y"])


def rows(p: Tensors, d: Tensors) -> torch.Tensor:
    x = p["x"]
    return torch.tanh(x + fn.gelu(layernorm(p, "ln", x))).square().mean()


def attention(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    batch, steps, width = x.shape
    qkv = dense(p, f"{name}.qkv", x).view(batch, steps, 3, GPT_HEADS, width // GPT_HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = fn.scaled_dot_product_attention(q, k, v, is_causal=True)
    return dense(p, f"{name}.proj", mixed.transpose(1, 2).reshape(batch, steps, width))


def gpt(p: Tensors, d: Tensors) -> torch.Tensor:
    h = fn.embedding(d["tokens"], p["wte"]) + p["wpe"]
    for i in range(GPT_LAYERS):
        b = f"blocks.{i}"
        h = h + attention(p, f"{b}.attn", layernorm(p, f"{b}.ln1", h))
        h = h + dense(p, f"{b}.down", fn.gelu(dense(p, f"{b}.up", layernorm(p, f"{b}.ln2", h))))
    logits = fn.linear(layernorm(p, "lnf", h), p["wte"])
    return fn.cross_entropy(logits.flatten(0, 1), d["targets"].flatten())


def causal(p: Tensors, d: Tensors) -> torch.Tensor:
    q, k, v = (p[name][None] for name in "qkv")
    return fn.scaled_dot_product_attention(q, k, v, is_causal=True).square().mean()


def windowed(p: Tensors, d: Tensors) -> torch.Tensor:
    q, k, v = (p[name][None] for name in "qkv")
    ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
    seen = ones.tril() & ones.triu(1 - ATTENTION_WINDOW)
    return fn.scaled_dot_product_attention(q, k, v, attn_mask=seen).square().mean()


def lstm(p: Tensors, d: Tensors) -> torch.Tensor:
    start = d["xs"].new_zeros(1, d["xs"].shape[1], p["rnn.wh"].shape[1])
    weights = [p["rnn.wx"], p["rnn.wh"], p["rnn.b"], torch.zeros_like(p["rnn.b"])]
    out = torch.lstm(d["xs"], (start, start), weights, True, 1, 0.0, True, False, False)
    return fn.mse_loss(out[0], d["ys"])


def lenet(p: Tensors, d: Tensors) -> torch.Tensor:
    h = fn.conv2d(d["x"], p["c1"], p["b1"].flatten(), padding=2)
    h = fn.max_pool2d(torch.relu(h), 2)
    h = fn.max_pool2d(torch.relu(fn.conv2d(h, p["c2"], p["b2"].flatten())), 2)
    return classifier(p, {"x": h.flatten(1), "y": d["y"]})


def batchnorm(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    gain, bias = p[f"{name}.gain"].flatten(), p[f"{name}.bias"].flatten()
    return fn.batch_norm(x, None, None, gain, bias, training=True)


def resnet(p: Tensors, d: Tensors) -> torch.Tensor:
    def block(name: str, x: torch.Tensor, skip: torch.Tensor, stride: int) -> torch.Tensor:
        h = fn.conv2d(x, p[f"{name}.k1"], stride=stride, padding=1)
        h = fn.conv2d(torch.relu(batchnorm(p, f"{name}.n1", h)), p[f"{name}.k2"], padding=1)
        return torch.relu(batchnorm(p, f"{name}.n2", h) + skip)

    h = torch.relu(batchnorm(p, "n0", fn.conv2d(d["x"], p["stem"], padding=1)))
    h = block("a1", h, h, 1)
    h = block("a2", h, h, 1)
    h = block("b1", h, fn.conv2d(h, p["kb"], stride=2), 2)
    h = block("b2", h, h, 1)
    h = block("c1", h, fn.conv2d(h, p["kc"], stride=2), 2)
    h = block("c2", h, h, 1)
    return fn.cross_entropy(dense(p, "fc", h.mean((2, 3))), d["y"])


def conv(p: Tensors, name: str, x: torch.Tensor, groups: int = 1) -> torch.Tensor:
    w, b = p[f"{name}.w"], p[f"{name}.b"].flatten()
    return fn.conv2d(x, w, b, padding=w.shape[-1] // 2, groups=groups)


def vgg(p: Tensors, d: Tensors) -> torch.Tensor:
    h = d["x"]
    for name in ("c1", "c2", "c3", "c4", "c5"):
        h = torch.relu(conv(p, name, h))
        h = h if name in ("c1", "c3") else fn.max_pool2d(h, 2)
    return fn.cross_entropy(dense(p, "fc", h.flatten(1)), d["y"])


def residual(p: Tensors, d: Tensors) -> torch.Tensor:
    h = d["x"]
    for b in "ab":
        h = torch.relu(conv(p, f"{b}.c2", torch.relu(conv(p, f"{b}.c1", h))) + h)
    return fn.mse_loss(h, d["y"])


def mobilenet(p: Tensors, d: Tensors) -> torch.Tensor:
    h = d["x"]
    for b in "ab":
        each = fn.relu6(conv(p, f"{b}.each", fn.relu6(conv(p, f"{b}.up", h)), 192))
        h = h + conv(p, f"{b}.down", each)
    return fn.mse_loss(h, d["y"])


def unet(p: Tensors, d: Tensors) -> torch.Tensor:
    def pair(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(conv(p, f"{name}.c2", torch.relu(conv(p, f"{name}.c1", x))))

    a = pair("d1", d["x"])
    b = pair("d2", fn.max_pool2d(a, 2))
    h = pair("mid", fn.max_pool2d(b, 2))
    h = pair("u2", torch.cat([b, fn.interpolate(h, scale_factor=2)], 1))
    h = pair("u1", torch.cat([a, fn.interpolate(h, scale_factor=2)], 1))
    return fn.mse_loss(conv(p, "out", h), d["y"])


def conv1d(p: Tensors, d: Tensors) -> torch.Tensor:
    h = d["x"]
    for n in range(4):
        step = 1 << n
        h = fn.conv1d(h, p["k"][n], p["b"][n].flatten(), padding=step, dilation=step)
        h = torch.relu(h)
    return fn.mse_loss(h, d["y"])


def conv3d(p: Tensors, d: Tensors) -> torch.Tensor:
    h = d["x"]
    for name, stride in (("c1", 1), ("c2", 2), ("c3", 1)):
        bias = p[f"{name}.b"].flatten()
        h = torch.relu(fn.conv3d(h, p[f"{name}.w"], bias, stride, padding=1))
    h = fn.conv_transpose3d(h, p["up.w"], p["up.b"].flatten(), 2, 1)
    return fn.mse_loss(h, d["y"])


def gru(p: Tensors, d: Tensors) -> torch.Tensor:
    start = d["xs"].new_zeros(1, d["xs"].shape[1], p["rnn.wh"].shape[1])
    weights = [p[f"rnn.{name}"] for name in ("wx", "wh", "bx", "bh")]
    out = torch.gru(d["xs"], start, weights, True, 1, 0.0, True, False, False)
    return fn.mse_loss(out[0], d["ys"])


def word2vec(p: Tensors, d: Tensors) -> torch.Tensor:
    centre = fn.embedding(d["centre"], p["inner"])
    others = fn.embedding(d["others"], p["outer"])
    scores = (others @ centre[:, :, None])[:, :, 0]
    return fn.binary_cross_entropy_with_logits(scores, d["right"])


def vocabulary(p: Tensors, d: Tensors) -> torch.Tensor:
    return fn.cross_entropy(p["h"] @ p["w"], d["word"])


def turned(x: torch.Tensor) -> torch.Tensor:
    steps, width = x.shape[-2:]
    places = torch.arange(width // 2, dtype=x.dtype)
    times = torch.arange(steps, dtype=x.dtype)
    angles = times[:, None] * torch.exp(places * (-2 * math.log(10000) / width))
    a, b = x.chunk(2, -1)
    c, s = angles.cos(), angles.sin()
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def llama(p: Tensors, d: Tensors) -> torch.Tensor:
    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], LLAMA_HEADS, -1).transpose(1, 2)

    h = d["x"]
    for i in range(LLAMA_LAYERS):
        b = f"blocks.{i}"
        x = fn.rms_norm(h, h.shape[-1:], p[f"{b}.n1.gain"], 1e-6)
        q, k, v = (heads(x @ p[f"{b}.{name}"]) for name in ("wq", "wk", "wv"))
        mixed = fn.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        h = h + mixed.transpose(1, 2).flatten(2) @ p[f"{b}.wo"]
        z = fn.rms_norm(h, h.shape[-1:], p[f"{b}.n2.gain"], 1e-6)
        h = h + (fn.silu(z @ p[f"{b}.gate"]) * (z @ p[f"{b}.up"])) @ p[f"{b}.down"]
    return fn.mse_loss(fn.rms_norm(h, h.shape[-1:], p["last.gain"], 1e-6), d["y"])


def mixer(p: Tensors, d: Tensors) -> torch.Tensor:
    h = dense(p, "stem", d["x"])
    for i in range(MIXER_LAYERS):
        b = f"blocks.{i}"
        z = layernorm(p, f"{b}.n1", h).transpose(1, 2)
        h = h + (fn.gelu(dense(p, f"{b}.t1", z)) @ p[f"{b}.t2"]).transpose(1, 2)
        h = h + dense(p, f"{b}.c2", fn.gelu(dense(p, f"{b}.c1", layernorm(p, f"{b}.n2", h))))
    return fn.cross_entropy(dense(p, "head", layernorm(p, "last", h).mean(1)), d["y"])


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


def is_transposed(name: str, rank: int = 2) -> bool:
    """Whether PyTorch's layers keep this parameter as (out, in)."""
    return rank == 2 and name.endswith((".w", ".wx", ".wh"))
