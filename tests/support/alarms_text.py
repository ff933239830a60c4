"""Right programs of the kinds that people publish, and of those that raised false alarms once, in
the language. ``python -m tests.support.alarms_text FIRST LAST [--state FILE]``.

A program is the sum of one to three parts: exp of gathered parameters beside inner reductions,
values read whole and in another shape, row sums of different lengths, carries that no trip changes,
masks with -inf whose class labels may meet, derived dimensions; cells of recurrent networks,
attention, norms, experts, contrasts, policies, chains of tags, images, state spaces, filters,
equations, penalties, messages, sorted and cumulated values, own pullbacks, what is computed again;
in f32, f64 and f16. The whole of `gradc verify` is asked, but for SymPy; nothing may be refuted or
undecided.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable

from gradc.passes.prove.report import Verdict
from gradc.runtime.api import loads
from tests.support.counted import alarm_count

# What parts may read. Those that none reads are left out.
INPUTS = {
    "q": "float[B, K]", "x": "float[B, D]", "a": "int[B]", "y": "int[B]", "seen": "bool[B, K]",
    "s": "float[T, B, K]", "im": "float[B, 2, 4, 5]", "z": "float[B, K]", "r": "float[B]",
}  # fmt: skip
PARAMS = {
    "w": "float[4]", "g": "float[K]", "v": "float[B, 5]", "u": "float[D]", "c": "float",
    "wa": "float[K, K]", "wb": "float[K, K]", "wc": "float[K, K]", "table": "float[4, K]",
    "ex": "float[3, K, K]", "gate": "float[K, 3]", "k": "float[4, 2, 2, 3]", "kb": "float[4]",
    "flat": "float[D, K]",
}  # fmt: skip

FUNCTIONS = {
    "looped": """fn looped(q: float[B, K], g: float[K]) -> float[B, K] {
  v = scan a in q carry e = g, h = g { yield a * e + h
    h = tanh(h * a) }
  return v }""",
    "soft": """fn soft(x: float[...]) -> float[...] {
  p = softmax(x, axis = -1)
  return p
  pullback(ct) { return p * (ct - sum(p * ct, axis = -1, keepdims = true)) } }""",
    "length": """fn length(x: float[M, n]) -> float[M] {
  l = sqrt(sum(x^2, axis = -1) + 0.5)
  return l
  pullback(ct) { return x * (ct / l)[:, None] } }""",
    "through": """fn through(x: float[...]) -> float[...] {
  return round(x)
  pullback(ct) asserted { return ct } }""",
    "again": """fn again(q: float[B, K], wa: float[K, K], g: float[K]) -> float[B, K] {
  checkpoint {
    h = tanh(q @ wa + g)
    h = h * sigmoid(h @ wa) }
  return h + q }""",
}


def _gathered(pick: random.Random) -> str:
    by = pick.choice(
        ("exp(w[a])", "w[a]", "exp(w[a]) * w[a]", "tanh(w[a])", "sum(table[a], axis = 1)")
    )
    inner = pick.choice(
        ("sum(q, axis = 1)", "mean(q^2, axis = 1)", "max(q, axis = 1)", "prod(q, axis = 1)")
    )
    return f"{pick.choice(('mean', 'sum'))}({by} * {inner})"


def _whole(pick: random.Random) -> str:
    value = pick.choice(
        ("mean(exp(q * g), axis = 0)", "logsumexp(q * g, axis = 0)", "sum(q * g, axis = 0)")
    )
    other = pick.choice((f"sum(reshape({value}, [K, 1])^2)", f"sum(reshape({value}, [1, K]) * g)"))
    return f"sum({value}) + {other}"


def _rows(pick: random.Random) -> str:
    inner = pick.choice(("", "tanh", "exp"))
    return f"sum({inner}(sum(v, axis = 1)) + sum(q, axis = 1))"


def _carried(pick: random.Random) -> str:
    return pick.choice(
        ("sum(looped(q, g))", "sum(looped(q, g)^2)", "mean(looped(tanh(q), exp(g)))")
    )


def _masked(pick: random.Random) -> str:
    where = pick.choice(("iota(K) == 0", "iota(K) >= K - 1", "not seen", "seen and q < 0"))
    return f"mean(cross_entropy(where({where}, -inf, q * g), y))"


def _derived(pick: random.Random) -> str:
    axis, inner = pick.choice((1, 2)), pick.choice(("tanh", "softmax", "gelu"))
    return f"sum({inner}(sum(reshape(x * u, [B, N, P]), axis = {axis})) * 0.5)"


def _recurrent(pick: random.Random) -> str:
    cell = pick.choice((
        "h = tanh(t @ wa + h @ wb + g)",
        "f = sigmoid(t @ wa + h @ wb)\n    h = f * h + (1 - f) * tanh(t @ wc + g)",
        "f = sigmoid(t @ wa + g)\n    h = f * h + (1 - f) * t",
        "f = sigmoid(h @ wa)\n    h = tanh(t @ wb + (f * h) @ wc)",
    ))  # fmt: skip
    start = pick.choice(("zeros([B, K])", "tanh(q)", "q * g"))
    every = pick.choice(("h", "h * t", "tanh(h @ wa)"))
    last = pick.choice(("mean(hs^2)", "sum(h * q)", "mean(hs) + sum(h^2)"))
    return f"|hs = scan t in s carry h = {start} {{\n    {cell}\n    yield {every} }}\n|{last}"


def _attention(pick: random.Random) -> str:
    score = "(s[0] @ wa) @ (q @ wb).T / sqrt(cast(K, float))"
    mask = pick.choice(("causal_mask(B)", "iota(B)[:, None] >= iota(B)[None, :]", "seen[:, :1]"))
    fill = pick.choice(("-inf", "-1e9"))
    masked = f"where({mask}, {score}, {fill if 'seen' not in mask else '-1e9'})"
    whole = pick.choice((
        f"softmax({masked}, axis = -1) @ (q @ wc)",
        "scaled_attention(q @ wa, q @ wb, q @ wc, mask = causal_mask(B))",
        "einsum('ij,jk->ik', softmax(q @ wa @ q.T, axis = 0), z)".replace("'", '"'),
    ))  # fmt: skip
    return f"mean(({whole} - z)^2)"


def _norms(pick: random.Random) -> str:
    over = pick.choice((0, -1))
    what = pick.choice((
        "(h - mean(h, axis = A, keepdims = true)) / sqrt(var(h, axis = A, keepdims = true) + 1e-3)",
        "h * rsqrt(mean(h^2, axis = A, keepdims = true) + 1e-3)",
        "h / (norm(h, axis = A, keepdims = true) + 1e-3)",
        "h / max(sum(abs(h), axis = A, keepdims = true), 0.01)",
    )).replace("axis = A", f"axis = {over}")  # fmt: skip
    return f"|h = q @ wa\n  h = {what}\n|mean(tanh(h * g) * z)"


def _experts(pick: random.Random) -> str:
    act = pick.choice(("gelu", "silu", "relu", "softplus"))
    p = pick.choice(("softmax(q @ gate, axis = -1)", "sigmoid(q @ gate)"))
    load = pick.choice(("", " + 0.01 * sum(mean(p, axis = 0)^2)"))
    return (
        f'|p = {p}\n|mean(einsum("be,bek->bk", p, {act}(einsum("bd,edk->bek", q, ex))) * z){load}'
    )


def _contrast(pick: random.Random) -> str:
    eps = pick.choice(("1e-3", "0.1"))
    other = pick.choice(("y % B", "(iota(B) + 1) % B"))
    return (
        f"|n = q @ wa\n  n = n / sqrt(sum(n^2, axis = -1, keepdims = true) + {eps})\n"
        "|mean(cross_entropy(where(iota(B)[:, None] == iota(B)[None, :], -1e4, n @ n.T / 0.5), "
        f"{other}))"
    )


def _policy(pick: random.Random) -> str:
    fill = pick.choice(("-1e9", "-30"))
    entropy = "-sum(where(seen, exp(logp) * logp, 0), axis = -1)"
    return (
        f"|logp = log_softmax(where(seen, q @ wa, {fill}), axis = -1)\n  value = q @ g\n"
        f"|mean(-sum(where(y[:, None] == iota(K)[None, :], logp, 0), axis = -1) * "
        f"{pick.choice(('stop_gradient(r - value)', 'clip(r, -1, 1)'))}"
        f" + {pick.choice(('0.5', '1'))} * (value - r)^2 - 0.01 * ({entropy}))"
    )


def _chain(pick: random.Random) -> str:
    inner = pick.choice(
        ("logsumexp(al[:, :, None] + wa, axis = 1)", "max(al[:, :, None] + wa, axis = 1)")
    )
    return (
        f"|scan e in s carry al = q + g {{ al = {inner} + e }}\n"
        "|sum(logsumexp(al, axis = -1)) - sum(one_hot(y, K) * q)"
    )


def _image(pick: random.Random) -> str:
    act = pick.choice(("relu", "gelu", "tanh", "leaky_relu"))
    pad = pick.choice(("0", "1", "(1, 0)"))
    stride = pick.choice(("1", "2", "(1, 2)"))
    h = f"{act}(conv2d(im, k, padding = {pad}, stride = {stride}) + kb[:, None, None])"
    pool = pick.choice((
        "global_avg_pool({})", "global_max_pool({})", "mean({}, axis = (2, 3))",
        "global_avg_pool(max_pool({}, 2, stride = 1))", "sum(avg_pool({}, (1, 2)), axis = (2, 3))",
    ))  # fmt: skip
    return f"mean({pool.format(h)}^2)"


def _space(pick: random.Random) -> str:
    keep = pick.choice(("exp(-exp(g) * dt)", "sigmoid(g) * exp(-dt)"))
    return (
        f"|ys = scan t in s carry h = zeros([B, K]) {{ dt = softplus(t @ wa)\n"
        f"    h = {keep} * h + dt * t\n    yield h * (t @ wb) }}\n|mean((ys - s)^2)"
    )


def _filter(pick: random.Random) -> str:
    return (
        "|ll = scan t in s carry m = q, p = ones([B, K]) { p = p + exp(g)\n    e = t - m\n"
        "    f = p + 1.5\n    m = m + p / f * e\n    p = (1 - p / f) * p\n"
        f"    yield log(f) + e^2 / f }}\n|{pick.choice(('mean', 'sum'))}(m * p) + mean(ll)"
    )


def _equation(pick: random.Random) -> str:
    f = pick.choice(("tanh", "sin"))
    d = "1 - h^2" if f == "tanh" else "cos(q * g)"
    dd = "-2 * h * (1 - h^2)" if f == "tanh" else "-h"
    return f"|h = {f}(q * g)\n|mean((({dd}) * g^2 + h)^2) + sum(({d}) * g)^2"


def _penalty(pick: random.Random) -> str:
    eps = pick.choice(("1e-6", "0.01"))
    return (
        f"|h = tanh(q @ wa + g)\n  slope = ((1 - h^2) * g) @ wa.T\n"
        f"|10 * mean((sqrt(sum(slope^2, axis = -1) + {eps}) - 1)^2) + mean(h @ g)"
    )


def _messages(pick: random.Random) -> str:
    send = pick.choice(
        (
            "tanh(q[y % B] @ wa)",
            "relu(concat([q, q[y % B]], axis = 1) @ concat([wa, wb], axis = 0))",
        )
    )
    return f"mean((one_hot(a % B, B).T @ {send} + q @ wc - z)^2)"


def _ordered(pick: random.Random) -> str:
    return pick.choice((
        "sum(sort(q @ wa, axis = -1) * g)",
        "sum(cumsum(exp(q * g), axis = 0) * z)",
        "sum(cumsum(q * g, axis = -1, reverse = true)^2)",
        "sum(clip(q * g, -0.5, 0.5) * max(z, q)) + sum(min(abs(q), g))",
        "mean(prod(1 + 0.1 * q * g, axis = -1))",
        "sum(where(q > z, q * g, log(1 + exp(z * g))))",
        "sum(pad(q * g, [(1, 0), (0, 2)])[:, 1:]^2) + sum((q * g)[:, ::-1] * z)",
        "sum(concat(split(tanh(x * u), 3, axis = 1), axis = 0)^2)",
    ))  # fmt: skip


def _own(pick: random.Random) -> str:
    return pick.choice((
        "sum(soft(q @ wa) * z)", "mean(length(q @ wa))", "sum(through(q * g) * z) + sum(g^2)",
        "sum(soft(q @ wa)^2) + sum(length(x @ flat))", "mean(again(q, wa, g)^2)",
        "mean(again(again(q, wa, g), wb, g) * z)",
    ))  # fmt: skip


def _losses(pick: random.Random) -> str:
    h = pick.choice(("q @ wa", "x @ flat", "tanh(x @ flat) @ wb"))
    return "|o = " + h + "\n|" + pick.choice((
        "mean(binary_cross_entropy_logits(o, sigmoid(z)))",
        "mean(binary_cross_entropy(sigmoid(o), cast(seen, float)))",
        "mse(o, z)", "mean(cross_entropy(o, y))", "mean(cross_entropy(o, softmax(z, axis = -1)))",
        "mean(where(abs(o - z) < 1, 0.5 * (o - z)^2, abs(o - z) - 0.5))",
        "-0.5 * mean(1 + o - c^2 - exp(o))", "mean(max(0, 1 - o * z))",
        "mean(-((1 - sigmoid(o))^2) * log(sigmoid(o) + 1e-3))",
    ))  # fmt: skip


PARTS: tuple[Callable[[random.Random], str], ...] = (
    _gathered, _whole, _rows, _carried, _masked, _derived, _recurrent, _attention, _norms, _experts,
    _contrast, _policy, _chain, _image, _space, _filter, _equation, _penalty, _messages, _ordered,
    _own, _losses,
)  # fmt: skip


def text_of(seed: int) -> str:
    """Program number ``seed``."""
    pick = random.Random(seed)
    parts = [make(pick) for make in pick.sample(PARTS, pick.choice((1, 2, 2, 3)))]
    lines, terms = [], []
    for number, part in enumerate(parts):
        # `|statements` come before `|value`; their names get the number of the part.
        *before, value = part.split("|")
        own = re.findall(r"(?:^|\n\s*|, |carry )(\w+) = ", "".join(before))
        for name in {n for n in own if n not in ("axis", "keepdims", "mask", "stride", "padding")}:
            before = [re.sub(rf"\b{name}\b", f"{name}{number}", b) for b in before]
            value = re.sub(rf"\b{name}\b", f"{name}{number}", value)
        lines += [b.rstrip() for b in before if b]
        terms.append(value)
    body = "\n".join([*(f"  {line}" for line in lines), f"  return {' + '.join(terms)} }}"])
    used = {n for n in FUNCTIONS if re.search(rf"\b{n}\(", body)}
    words = set(re.findall(r"(?<![\w.\"])[a-z]\w*", body))
    inputs = ", ".join(f"{n}: {t}" for n, t in INPUTS.items() if n in words)
    params = (
        "".join(f"  param {n}: {t} ~ normal(0.5)\n" for n, t in PARAMS.items() if n in words)
        or "  param c: float ~ ones\n"
    )
    if not any(n in words for n in PARAMS):
        body = body[:-2] + " + 0.0 * c }"
    sizes = (
        f"dim B = {pick.choice((1, 2, 3))}, K = {pick.choice((2, 3, 5))}, "
        f"T = {pick.choice((1, 2, 3))}, N = 2, P = 3, D = N * P"
    )
    functions = "".join(FUNCTIONS[n] + "\n" for n in FUNCTIONS if n in used)
    return f"{sizes}\n{functions}model m({inputs}) -> float {{\n{params}{body}\n"


def precision_of(seed: int) -> str:
    """Mostly f32."""
    return {3: "f64", 7: "f16"}.get(seed % 10, "f32")


def verified(seed: int) -> list[Verdict]:
    """All verdicts on program number ``seed``."""
    return list(loads(text_of(seed), precision=precision_of(seed)).verify(sympy=0).verdicts)


if __name__ == "__main__":
    sys.exit(alarm_count(__doc__, verified))
