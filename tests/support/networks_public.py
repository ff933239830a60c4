"""The programs of ``tests/networks`` in torch: the same losses by the same names, and arrays to try
them on.

Each function takes the parameters ``p`` by name and the inputs in the order of its program's model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Draw = Callable[[np.random.Generator], Any]
NETWORKS: dict[str, Network] = {}


@dataclass(frozen=True)
class Network:
    """A loss in torch and how its inputs are drawn, in order."""

    loss: Callable[..., Any]
    inputs: Mapping[str, Draw]


def real(*shape: int) -> Draw:
    return lambda rng: rng.normal(size=shape)


def ids(most: int, *shape: int) -> Draw:
    return lambda rng: rng.integers(0, most, shape).astype(np.int32)


def fixed(value: Any) -> Draw:
    return lambda _rng: np.asarray(value)


def network(**inputs: Draw) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(loss: Callable[..., Any]) -> Callable[..., Any]:
        NETWORKS[loss.__name__] = Network(loss, inputs)
        return loss

    return register


def t() -> Any:
    import torch

    return torch


@network(x=real(4, 2, 3), y=real(2))
def vanilla_rnn(p: Any, x: Any, y: Any) -> Any:
    h = t().zeros(2, 4, dtype=x.dtype)
    for step in x:
        h = t().tanh(step @ p["wx"] + h @ p["wh"] + p["b"])
    return ((h @ p["v"] - y) ** 2).mean()


@network(ids=ids(5, 3, 2), tags=ids(4, 3, 2))
def lstm_tagger(p: Any, ids: Any, tags: Any) -> Any:
    h = c = t().zeros(2, 3, dtype=p["w"].dtype)
    hs = []
    for step in p["emb"][ids]:
        i, f, g, o = (step @ p["w"] + h @ p["u"] + p["b"]).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hs.append(h)
    logits = t().stack(hs) @ p["out"]
    return t().nn.functional.cross_entropy(logits.reshape(-1, 4), tags.reshape(-1))


@network(x=real(3, 2, 2), q=real(2, 3))
def gru_attention(p: Any, x: Any, q: Any) -> Any:
    h, hs = t().zeros(2, 3, dtype=x.dtype), []
    for step in x:
        z = (step @ p["wz"] + h @ p["uz"]).sigmoid()
        r = (step @ p["wr"] + h @ p["ur"]).sigmoid()
        n = (step @ p["wn"] + (r * h) @ p["un"]).tanh()
        h = (1 - z) * n + z * h
        hs.append(h)
    states = t().stack(hs)
    a = ((states @ p["wa"] + q).tanh() @ p["va"]).softmax(0)
    return (((a[:, :, None] * states).sum(0) - q) ** 2).mean()


@network(x=real(2, 1, 8, 8), y=ids(3, 2))
def lenet(p: Any, x: Any, y: Any) -> Any:
    f = t().nn.functional
    h = f.max_pool2d((f.conv2d(x, p["k1"], padding=1) + p["b1"][:, None, None]).tanh(), 2)
    g = f.avg_pool2d(f.conv2d(h, p["k2"], padding=1).relu(), 2)
    return f.cross_entropy(g.reshape(2, 12) @ p["w"], y)


@network(x=real(3, 2, 4, 4), y=real(3, 3))
def resnet_block(p: Any, x: Any, y: Any) -> Any:
    f = t().nn.functional
    n = f.batch_norm(x, None, None, p["g1"], p["b1"], training=True, eps=1e-5).relu()
    h = f.conv2d(f.conv2d(n, p["k1"], stride=2, padding=1).relu(), p["k2"], padding=1)
    out = h + f.conv2d(n, p["ks"], stride=2)
    return ((out.mean((2, 3)) - y) ** 2).mean()


@network(x=real(2, 2, 4, 4))
def depthwise_mobile(p: Any, x: Any) -> Any:
    f = t().nn.functional
    h = f.relu6(f.conv2d(x, p["we"]))
    h = f.relu6(f.conv2d(h, p["wd"], padding=1, groups=4))
    return ((x + f.conv2d(h, p["wp"])) ** 2).mean()


@network(x=real(2, 1, 4, 4), y=real(2, 1, 4, 4))
def unet(p: Any, x: Any, y: Any) -> Any:
    f = t().nn.functional
    a = f.silu(f.conv2d(x, p["k1"], padding=1))
    b = f.silu(f.conv2d(f.avg_pool2d(a, 2), p["k2"], padding=1))
    up = f.interpolate(b, scale_factor=2, mode="nearest")
    logits = f.conv2d(t().cat([a, up], 1), p["k3"], padding=1)
    return f.binary_cross_entropy_with_logits(logits, y.sigmoid())


@network(x=real(2, 1, 1, 6))
def wavenet(p: Any, x: Any) -> Any:
    f = t().nn.functional
    a = f.pad(x, (1, 0))
    h = f.conv2d(a, p["f1"]).tanh() * f.conv2d(a, p["g1"]).sigmoid()
    c = f.pad(h, (2, 0))
    gate = f.conv2d(c, p["g2"], dilation=(1, 2)).sigmoid()
    s = h + f.conv2d(c, p["f2"], dilation=(1, 2)).tanh() * gate
    return ((f.conv2d(s, p["o"])[..., :-1] - x[..., 1:]) ** 2).mean()


@network(x=real(2, 3, 4))
def multi_head_attention(p: Any, x: Any) -> Any:
    q, k, v = ((x @ p[w]).reshape(2, 3, 2, 2).transpose(1, 2) for w in ("wq", "wk", "wv"))
    o = t().nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return ((o.transpose(1, 2).reshape(2, 3, 4) @ p["wo"] - x) ** 2).mean()


@network(x=real(2, 3, 4))
def grouped_query_rotary(p: Any, x: Any) -> Any:
    at = t().arange(3, dtype=x.dtype)[:, None] * t().tensor([1.0, 0.1], dtype=x.dtype)
    c, s = at.cos(), at.sin()

    def turned(z: Any, c: Any, s: Any) -> Any:
        a, b = z.chunk(2, -1)
        return t().cat([a * c - b * s, b * c + a * s], -1)

    q = turned((x @ p["wq"]).reshape(2, 3, 2, 4), c[:, None], s[:, None])
    scores = t().einsum("bqnk,btk->bnqt", q, turned(x @ p["wk"], c, s)) / 2
    later = t().ones(3, 3, dtype=t().bool).triu(1)
    a = scores.masked_fill(later, -float("inf")).softmax(-1)
    return (t().einsum("bnqt,btk->bqnk", a, x @ p["wv"]) ** 2).mean()


@network(x=real(4, 3), y=real(4, 3))
def linear_attention(p: Any, x: Any, y: Any) -> Any:
    f = t().nn.functional
    q, k, v = f.elu(x @ p["wq"]) + 1, f.elu(x @ p["wk"]) + 1, x @ p["wv"]
    kv = (k[:, :, None] * v[:, None, :]).cumsum(0)
    norm = (q * k.cumsum(0)).sum(-1)
    return ((t().einsum("td,tde->te", q, kv) / norm[:, None] - y) ** 2).mean()


@network(x=real(2, 3))
def swiglu_rmsnorm(p: Any, x: Any) -> Any:
    n = x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * p["gain"]
    y = x + (t().nn.functional.silu(n @ p["w1"]) * (n @ p["w3"])) @ p["w2"]
    return (y**2).mean()


@network(x=real(4, 2, 2), y=real(4, 2, 2))
def state_space(p: Any, x: Any, y: Any) -> Any:
    h, ys = t().zeros(2, 2, 3, dtype=x.dtype), []
    for step in x:
        dt = t().nn.functional.softplus(step @ p["wdt"])
        keep = (-p["alog"].exp() * dt[:, :, None]).exp()
        h = keep * h + (dt * step)[:, :, None] * (step @ p["wb"])[:, None, :]
        ys.append((h * (step @ p["wc"])[:, None, :]).sum(-1) + p["skip"] * step)
    return ((t().stack(ys) - y) ** 2).mean()


@network(x=real(3, 2, 3))
def retention(p: Any, x: Any) -> Any:
    s, ys = t().zeros(2, 3, 3, dtype=x.dtype), []
    for step in x:
        s = p["decay"].sigmoid() * s + t().einsum("bd,be->bde", step @ p["wk"], step @ p["wv"])
        ys.append(t().einsum("bd,bde->be", step @ p["wq"], s))
    return (t().stack(ys) ** 2).mean()


@network(x=real(4, 3), y=real(4, 3))
def mixture_of_experts(p: Any, x: Any, y: Any) -> Any:
    gates = (x @ p["gate"]).softmax(-1)
    h = t().nn.functional.gelu(t().einsum("bd,edh->beh", x, p["w1"]))
    o = t().einsum("be,beh,ehd->bd", gates, h, p["w2"])
    return ((o - y) ** 2).mean() + 0.01 * (gates.mean(0) ** 2).sum() * 3


@network(a=real(3, 4), b=real(3, 4))
def simclr(p: Any, a: Any, b: Any) -> Any:
    z = t().cat([a @ p["w"], b @ p["w"]])
    n = z / (z.pow(2).sum(-1, keepdim=True) + 1e-12).sqrt()
    s = (n @ n.T / 0.5).masked_fill(t().eye(6, dtype=t().bool), -float("inf"))
    return t().nn.functional.cross_entropy(s, (t().arange(6) + 3) % 6)


@network(image=real(3, 4), words=real(3, 3))
def clip(p: Any, image: Any, words: Any) -> Any:
    f = t().nn.functional
    i = image @ p["wi"]
    w = words @ p["wt"]
    i = i * (i.pow(2).sum(-1, keepdim=True) + 1e-12).rsqrt()
    w = w * (w.pow(2).sum(-1, keepdim=True) + 1e-12).rsqrt()
    s, own = p["temperature"].exp() * i @ w.T, t().arange(3)
    return (f.cross_entropy(s, own) + f.cross_entropy(s.T, own)) / 2


_ALLOWED = [[True, True, False, True], [True, True, True, True], [False, True, True, False]]


@network(
    s=real(3, 3),
    action=fixed(np.array([0, 2, 1], np.int32)),
    reward=real(3),
    allowed=fixed(_ALLOWED),
)
def policy_gradient(p: Any, s: Any, action: Any, reward: Any, allowed: Any) -> Any:
    logp = t().where(allowed, s @ p["w"], t().tensor(-1e9, dtype=s.dtype)).log_softmax(-1)
    value = s @ p["v"]
    chosen = logp.gather(1, action[:, None])[:, 0]
    entropy = -t().where(allowed, logp.exp() * logp, 0 * logp).sum(-1)
    gain = (reward - value).detach()
    return (-chosen * gain + 0.5 * (value - reward) ** 2 - 0.01 * entropy).mean()


@network(s=real(4, 3), action=real(4, 2), before=real(4), advantage=real(4))
def ppo_clip(p: Any, s: Any, action: Any, before: Any, advantage: Any) -> Any:
    policy = t().distributions.Normal(s @ p["w"], p["logstd"].exp())
    ratio = (policy.log_prob(action).sum(-1) - before).exp()
    return -t().minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


@network(s=real(3, 2), a=ids(3, 3), r=real(3), next=real(3, 3), online=real(3, 3))
def dqn(p: Any, s: Any, a: Any, r: Any, next: Any, online: Any) -> Any:
    q = (s @ p["w1"] + p["b1"]).relu() @ p["w2"]
    picked = q.gather(1, a[:, None])[:, 0]
    target = r + 0.9 * next.gather(1, online.argmax(-1, keepdim=True))[:, 0]
    return t().nn.functional.huber_loss(picked, target)


@network(emit=real(4, 3), tags=ids(3, 4))
def crf(p: Any, emit: Any, tags: Any) -> Any:
    alpha = p["start"] + emit[0]
    for e in emit[1:]:
        alpha = (alpha[:, None] + p["trans"]).logsumexp(0) + e
    gold = p["start"][tags[0]] + emit[t().arange(4), tags].sum()
    return alpha.logsumexp(0) - gold - p["trans"][tags[:-1], tags[1:]].sum()


_SEEN = [[True, True], [True, True], [True, False]]


@network(emit=real(3, 2, 3), seen=fixed(_SEEN), y=ids(3, 3, 2))
def masked_crf(p: Any, emit: Any, seen: Any, y: Any) -> Any:
    at = t().arange(3)
    w = p["trans"].masked_fill(at[:, None] > at[None, :] + 1, -1e4)
    total = 0
    for b, length in enumerate(seen.sum(0).tolist()):
        alpha, tags = emit[0, b], y[:, b]
        for e in emit[1:length, b]:
            alpha = (alpha[:, None] + w).logsumexp(0) + e
        gold = emit[t().arange(length), b, tags[:length]].sum()
        total = total + alpha.logsumexp(0) - gold - w[tags[: length - 1], tags[1:length]].sum()
    return total / 2


@network(x=real(4, 4))
def ctc(p: Any, x: Any) -> Any:
    logp = (x @ p["w"]).log_softmax(-1)[:, None, :]
    lengths = (t().tensor([4]), t().tensor([2]))
    labels = t().tensor([[1, 2]])
    return t().nn.functional.ctc_loss(logp, labels, *lengths, blank=0, reduction="sum")


@network(x=real(3, 2), y=real(3, 2))
def gaussian_process(p: Any, x: Any, y: Any) -> Any:
    gap = x[:, :, None] - x[:, None, :]
    k = p["scale"].exp() * (-0.5 * gap**2 / (2 * p["length"]).exp()).exp()
    k = k + p["noise"].exp() * t().eye(2, dtype=x.dtype)
    solved = t().linalg.solve(k, y[:, :, None])[:, :, 0]
    return (0.5 * (y * solved).sum(-1) + 0.5 * t().logdet(k)).mean()


@network(obs=real(4))
def kalman(p: Any, obs: Any) -> Any:
    eye = t().eye(2, dtype=obs.dtype)
    m, cov, total = t().zeros(2, dtype=obs.dtype), eye, 0
    for z in obs:
        mp = p["f"] @ m
        pp = p["f"] @ cov @ p["f"].T + p["logq"].exp() * eye
        s = p["h"] @ pp @ p["h"] + p["logr"].exp()
        gain = pp @ p["h"] / s
        m = mp + gain * (z - p["h"] @ mp)
        cov = pp - t().outer(gain, pp @ p["h"])
        total = total + 0.5 * ((z - p["h"] @ mp) ** 2 / s + s.log())
    return total


@network(t=real(4))
def physics_pinn(p: Any, at: Any) -> Any:
    def u(z: Any) -> Any:
        return (z[:, None] * p["w"] + p["b"]).tanh() @ p["v"]

    z = at.clone().requires_grad_(True)
    first = t().autograd.grad(u(z).sum(), z, create_graph=True)[0]
    second = t().autograd.grad(first.sum(), z, create_graph=True)[0]
    return ((second + u(z)) ** 2).mean() + (u(0 * at[:1])[0] - 1) ** 2


@network(q0=real(3), p0=real(3), qT=real(3))
def hamiltonian(p: Any, q: Any, momentum: Any, goal: Any) -> Any:
    def force(at: Any) -> Any:
        if not at.requires_grad:
            at = at.clone().requires_grad_(True)
        energy = ((at[:, None] * p["w"] + p["b"]).tanh() @ p["v"]).sum()
        return t().autograd.grad(energy, at, create_graph=True)[0]

    for _ in range(3):
        half = momentum - 0.05 * force(q)
        q = q + 0.1 * half
        momentum = half - 0.05 * force(q)
    return ((q - goal) ** 2).mean()


@network(y0=real(2, 2), y1=real(2, 2))
def neural_ode(p: Any, y: Any, goal: Any) -> Any:
    def f(z: Any) -> Any:
        return (z @ p["w1"]).tanh() @ p["w2"]

    for _ in range(2):
        k1 = f(y)
        k2 = f(y + 0.1 * k1)
        k3 = f(y + 0.1 * k2)
        k4 = f(y + 0.2 * k3)
        y = y + 0.2 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return ((y - goal) ** 2).mean()


@network(real=real(3, 2), fake=real(3, 2), mix=lambda rng: rng.random((3, 1)))
def wgan_gp(p: Any, real: Any, fake: Any, mix: Any) -> Any:
    def critic(z: Any) -> Any:
        return (z @ p["w"] + p["b"]).tanh() @ p["v"]

    at = (mix * real + (1 - mix) * fake).requires_grad_(True)
    slope = t().autograd.grad(critic(at).sum(), at, create_graph=True)[0]
    norm = (slope.pow(2).sum(-1) + 1e-12).sqrt()
    return critic(fake).mean() - critic(real).mean() + 10 * ((norm - 1) ** 2).mean()


@network(x=real(3, 4), noise=real(3, 2))
def vae(p: Any, x: Any, noise: Any) -> Any:
    mu, logvar = x @ p["wm"], x @ p["ws"]
    z = mu + (0.5 * logvar).exp() * noise
    f = t().nn.functional
    rec = f.binary_cross_entropy_with_logits(z @ p["wd"], x.sigmoid(), reduction="none").sum(-1)
    return (rec - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)).mean()


_LINKS = [[False, True, False, False], [True, False, True, True]] + [
    [False, True, False, False]
] * 2


@network(x=real(4, 3), linked=fixed(_LINKS), y=ids(3, 4))
def graph_attention(p: Any, x: Any, linked: Any, y: Any) -> Any:
    f = t().nn.functional
    h = x @ p["w"]
    e = f.leaky_relu((h @ p["left"])[:, None] + (h @ p["right"])[None], 0.2)
    a = e.masked_fill(~(linked | t().eye(4, dtype=t().bool)), -float("inf")).softmax(-1)
    return f.cross_entropy((a @ h).relu() @ p["out"], y)


@network(x=real(4, 3), source=ids(4, 5), target=ids(4, 5), y=real(4))
def graph_messages(p: Any, x: Any, source: Any, target: Any, y: Any) -> Any:
    m = (t().cat([x[source], x[target]], 1) @ p["wm"]).tanh()
    arrived = t().zeros(4, 3, dtype=x.dtype).index_add(0, target, m)
    return (((x @ p["wu"] + arrived).relu() @ p["v"] - y) ** 2).mean()


@network(x=real(2, 3), y=real(2, 3))
def deep_equilibrium(p: Any, x: Any, y: Any) -> Any:
    z = t().zeros(2, 3, dtype=x.dtype)
    for _ in range(8):
        z = (z @ p["w"] + x @ p["u"]).tanh()
    return ((z - y) ** 2).mean()


@network(x=real(2, 3), y=real(2, 3))
def implicit_equilibrium(p: Any, x: Any, y: Any) -> Any:
    z = t().zeros(2, 3, dtype=x.dtype)
    for _ in range(60):
        z = (z @ p["w"] + x @ p["u"]).tanh()
    return ((z - y) ** 2).mean()


@network(centre=ids(6, 3), context=ids(6, 3), negative=ids(6, 3, 2))
def word2vec(p: Any, centre: Any, context: Any, negative: Any) -> Any:
    f = t().nn.functional
    c = p["inner"][centre]
    good = (c * p["outer"][context]).sum(-1)
    bad = (c[:, None] * p["outer"][negative]).sum(-1)
    return (-f.logsigmoid(good) - f.logsigmoid(-bad).sum(-1)).mean()


@network(user=ids(3, 4), item=ids(4, 4), rating=real(4))
def matrix_factorisation(p: Any, user: Any, item: Any, rating: Any) -> Any:
    found = (p["p"][user] * p["q"][item]).sum(-1) + p["bu"][user] + p["bi"][item]
    return ((found - rating) ** 2).mean() + 0.01 * (p["p"].pow(2).sum() + p["q"].pow(2).sum())


@network(x=real(2, 3, 4), y=ids(3, 2))
def mlp_mixer(p: Any, x: Any, y: Any) -> Any:
    f = t().nn.functional
    n1 = f.layer_norm(x, (4,), p["n1.gain"], p["n1.bias"], 1e-5)
    a = x + (f.gelu(n1.transpose(1, 2) @ p["t1"]) @ p["t2"]).transpose(1, 2)
    n2 = f.layer_norm(a, (4,), p["n2.gain"], p["n2.bias"], 1e-5)
    b = a + f.gelu(n2 @ p["c1"]) @ p["c2"]
    return f.cross_entropy(b.mean(1) @ p["out"], y)


@network(x=real(3, 3), y=real(3))
def highway_maxout(p: Any, x: Any, y: Any) -> Any:
    h = (x @ p["w"]).reshape(3, 3, 2).amax(-1)
    gate = (x @ p["wt"] + p["bt"]).sigmoid()
    return (((gate * h + (1 - gate) * x) @ p["v"] - y) ** 2).mean()


@network(a=real(3, 3), p=real(3, 3), n=real(3, 3), y=ids(3, 3))
def focal_triplet(w: Any, a: Any, p: Any, n: Any, y: Any) -> Any:
    f = t().nn.functional
    za, zp, zn = a @ w["w"], p @ w["w"], n @ w["w"]
    near, far = ((za - zp) ** 2).sum(-1), ((za - zn) ** 2).sum(-1)
    ce = f.cross_entropy(za @ w["out"], y, reduction="none")
    return (near - far + 0.2).relu().mean() + ((1 - (-ce).exp()) ** 2 * ce).mean()
