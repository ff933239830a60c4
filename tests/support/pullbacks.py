"""Pullbacks of named layers by hand, right ones and wrong ones, against `gradc verify`. ``python -m
tests.support.pullbacks``.

A right pullback is proved or agrees, a wrong one is refuted; none is asserted. The wrong ones are
what people write: a dropped term, a wrong axis, a wrong scale, a transpose, an eps that is left out
or a factor that is a little off.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gradc.ir.tensor.core import walk
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.pullback import pullback_verdict
from gradc.runtime.api import loads


@dataclass(frozen=True)
class Layer:
    """A function of the language, the cotangents that are right, and those that are wrong."""

    name: str
    arguments: str
    body: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    result: str = "float[...]"


SOFTMAX = "p * (ct - sum(p * ct, axis = -1, keepdims = true))"
LOSS = "p = softmax(z, axis = -1)\n    t = one_hot(y, 4)\n    v = mean(cross_entropy(z, y))"
NORM = (
    "m = mean(x, axis = -1, keepdims = true)\n"
    "    s = rsqrt(mean((x - m)^2, axis = -1, keepdims = true) + 1e-5)"
)
NORM_CT = (
    "s * (ct - mean(ct, axis = -1, keepdims = true) - n * mean(ct * n, axis = -1, keepdims = true))"
)
ROOT = "s = rsqrt(mean(x^2, axis = -1, keepdims = true) + 1e-5)\n    n = x * s"
HEADS = (
    "a = softmax(q @ transpose(k) / sqrt(4.0), axis = -1)\n    o = a @ v",
    "transpose(a) @ ct",
)
SCORE = (
    "a * (ct @ transpose(v) - sum(a * (ct @ transpose(v)), axis = -1, keepdims = true)) / sqrt(4.0)"
)
CELL = "h = tanh(x @ w + g @ u)"
SLOPE = "d = ct * (1 - h^2)"
GATE = "z = sigmoid(x @ w)\n    h = z * g + (1 - z) * x"

LAYERS = (
    Layer(
        "softmax", "x: float[3, 4]", "p = softmax(x, axis = -1)\n    return p",
        (SOFTMAX, "p * ct - p * sum(p * ct, axis = 1, keepdims = true)"),
        ("p * (1 - p) * ct", "p * (ct - sum(p * ct, axis = 0, keepdims = true))",
         "p * (ct - sum(ct, axis = -1, keepdims = true))", ("ct - sum(p * ct, axis = -1, keepdims "
                                                           "= true)"),
         "1.001 * " + SOFTMAX),
    ),
    Layer(
        "log_softmax", "x: float[3, 4]", "v = log_softmax(x, axis = -1)\n    return v",
        ("ct - exp(v) * sum(ct, axis = -1, keepdims = true)",
         "ct - softmax(x, axis = -1) * sum(ct, axis = -1, keepdims = true)"),
        ("ct - exp(v)", "ct - exp(v) * ct", "ct - v * sum(ct, axis = -1, keepdims = true)",
         "ct - exp(v) * sum(ct, axis = 0, keepdims = true)"),
    ),
    Layer(
        "logsumexp", "x: float[3, 4]", "v = logsumexp(x, axis = -1, keepdims = true)\n    return v",
        ("ct * exp(x - v)", "ct * softmax(x, axis = -1)"),
        ("ct * exp(x)", "ct * softmax(x, axis = 0)", "ct * exp(v - x)"),
    ),
    Layer(
        "cross entropy", "z: float[3, 4], y: int[3]", LOSS + "\n    return v",
        ("ct * (p - t) / 3", "(p - t) * (ct / 3)"),
        ("ct * (p - t)", "ct * (t - p) / 3", "ct * (p - t) / 4", "ct * p / 3",
         "ct * (p - 0.999 * t) / 3"),
        "float",
    ),
    Layer(
        "layer norm", "x: float[3, 4]", NORM + "\n    n = (x - m) * s\n    return n",
        (NORM_CT, NORM_CT.replace("axis = -1", "axis = 1")),
        ("s * ct", "s * (ct - mean(ct, axis = -1, keepdims = true))",
         NORM_CT.replace("mean(ct,", "sum(ct,"), NORM_CT.replace("axis = -1", "axis = 0"),
         NORM_CT.replace("n * mean(ct * n", "(x - m) * mean(ct * n")),
    ),
    Layer(
        "rms norm", "x: float[3, 4]", ROOT + "\n    return n",
        ("s * ct - n * s * mean(ct * n, axis = -1, keepdims = true)",
         "s * (ct - n * mean(ct * n, axis = 1, keepdims = true))"),
        ("s * ct", "s * ct - n * mean(ct * n, axis = -1, keepdims = true)",
         "s * ct - n * s * sum(ct * n, axis = -1, keepdims = true)",
         ("ct * s - x * s * sum(ct * x, axis = -1, keepdims = true) / sum(x^2, axis = -1, "
         "keepdims = true)")),
    ),
    Layer(
        "dense", "x: float[3, 4], w: float[4, 2]", "return x @ w",
        ("ct @ transpose(w), transpose(x) @ ct",),
        ("ct @ transpose(w), transpose(x) @ ct * 2", "0 * x, transpose(x) @ ct",
         "ct @ transpose(w), transpose(x) @ ct / 3"),
    ),
    Layer(
        "square dense", "x: float[3, 3], w: float[3, 3]", "return x @ w",
        ("ct @ transpose(w), transpose(x) @ ct",),
        ("ct @ w, transpose(x) @ ct", "ct @ transpose(w), x @ ct", "w @ ct, transpose(x) @ ct"),
    ),
    Layer(
        "attention", "q: float[3, 4], k: float[3, 4], v: float[3, 4]", HEADS[0] + "\n    return o",
        (f"({SCORE}) @ k, transpose({SCORE}) @ q, {HEADS[1]}",),
        (f"({SCORE}) @ k * sqrt(4.0), transpose({SCORE}) @ q, {HEADS[1]}",
         f"({SCORE}) @ k, ({SCORE}) @ q, {HEADS[1]}", (f"({SCORE}) @ k, transpose({SCORE}) @ q, a "
                                                      "@ ct"),
         f"(ct @ transpose(v)) @ k, transpose({SCORE}) @ q, {HEADS[1]}"),
    ),
    Layer(
        "recurrent cell", "x: float[2, 3], g: float[2, 3], w: float[3, 3], u: float[3, 3]",
        CELL + "\n    return h",
        ("d @ transpose(w), d @ transpose(u), transpose(x) @ d, transpose(g) @ d",),
        ("d @ transpose(w), d @ transpose(u), transpose(x) @ d, transpose(x) @ d",
         "d @ transpose(w), d @ transpose(w), transpose(x) @ d, transpose(g) @ d",
         "d @ transpose(w), d @ transpose(u), transpose(x) @ ct, transpose(g) @ d",
         "d @ w, d @ transpose(u), transpose(x) @ d, transpose(g) @ d"),
    ),
    Layer(
        "gated cell", "x: float[2, 3], g: float[2, 3], w: float[3, 3]", GATE + "\n    return h",
        ("ct * (1 - z) + d @ transpose(w), ct * z, transpose(x) @ d",),
        ("d @ transpose(w), ct * z, transpose(x) @ d",
         "ct * (1 - z) + d @ transpose(w), ct, transpose(x) @ d",
         "ct * (1 - z) + d @ transpose(w), ct * z, transpose(x) @ ct",
         "ct * (1 - z) + d @ transpose(w), ct * (1 - z), transpose(x) @ d"),
    ),
    Layer(
        "tanh", "x: float[5]", "h = tanh(x)\n    return h",
        ("ct * (1 - h^2)", "ct * (1 - h) * (1 + h)", "4 * ct / (exp(x) + exp(-x))^2"),
        ("ct * (1 - h)", "ct * (1 - x^2)", "ct * (1 + h^2)"),
    ),
    Layer(
        "sigmoid", "x: float[5]", "h = sigmoid(x)\n    return h",
        ("ct * h * (1 - h)", "ct * (h - h^2)"), ("ct * h", "ct * (1 - h)", "ct * h * (1 - x)"),
    ),
    Layer(
        "silu", "x: float[5]", "h = sigmoid(x)\n    return x * h",
        ("ct * (h + x * h * (1 - h))", "ct * h * (1 + x * (1 - h))"),
        ("ct * h", "ct * (h + x * h)", "ct * h * (1 - x * (1 - h))"),
    ),
    Layer(
        "softplus", "x: float[5]", "return softplus(x)",
        ("ct * sigmoid(x)", "ct / (1 + exp(-x))"), ("ct * sigmoid(-x)", "ct / (1 + exp(x))"),
    ),
    Layer(
        "leaky relu", "x: float[5]", "return where(x > 0, x, 0.1 * x)",
        ("where(x > 0, ct, 0.1 * ct)", "ct * where(x > 0, 1.0, 0.1)"),
        ("where(x > 0, ct, 0 * ct)", "ct", "where(x > 0, 0.1 * ct, ct)", ("where(x > 0, ct, 0.11 "
                                                                         "* ct)")),
    ),
    Layer(
        "relu by a mask", "x: float[5]", "k = where(x > 0, 1.0, 0.0)\n    return x * k",
        ("ct * k", "where(x > 0, ct, 0)"), ("ct", "ct * (1 - k)"),
    ),
    Layer(
        "mean squared error", "x: float[3, 4], t: float[3, 4]", "return mean((x - t)^2)",
        ("2 * ct * (x - t) / 12, 2 * ct * (t - x) / 12",),
        ("ct * (x - t) / 12, ct * (t - x) / 12", "2 * ct * (x - t) / 12, 2 * ct * (x - t) / 12",
         "2 * ct * (x - t) / 3, 2 * ct * (t - x) / 3"),
        "float",
    ),
    Layer(
        "binary cross entropy", "x: float[5], t: float[5]", "return mean(softplus(x) - x * t)",
        ("ct * (sigmoid(x) - t) / 5, -ct * x / 5",),
        ("ct * (sigmoid(x) - t), -ct * x", "ct * (sigmoid(x) - t) / 5, ct * x / 5",
         "ct * (sigmoid(x) + t) / 5, -ct * x / 5"),
        "float",
    ),
    Layer(
        "unit vectors", "x: float[3, 4]",
        "r = rsqrt(sum(x^2, axis = -1, keepdims = true) + 1e-6)\n    n = x * r\n    return n",
        ("r * (ct - n * sum(n * ct, axis = -1, keepdims = true))",),
        ("r * ct", "ct - n * sum(n * ct, axis = -1, keepdims = true)",
         "r * (ct - x * sum(n * ct, axis = -1, keepdims = true))"),
    ),
    Layer(
        "bias and scale", "x: float[3, 4], g: float[4], b: float[4]", "return x * g + b",
        ("ct * g, sum(ct * x, axis = 0), sum(ct, axis = 0)",),
        ("ct * g, mean(ct * x, axis = 0), sum(ct, axis = 0)", ("ct, sum(ct * x, axis = 0), "
                                                              "sum(ct, axis = 0)"),
         "ct * g, sum(ct, axis = 0), sum(ct, axis = 0)"),
    ),
    Layer(
        "gated linear unit", "x: float[3, 4], w: float[3, 4]", "s = sigmoid(w)\n    return x * s",
        ("ct * s, ct * x * s * (1 - s)",), ("ct * s, ct * x * s", "ct, ct * x * s * (1 - s)"),
    ),
    Layer(
        "running sum", "x: float[3, 4]", "return cumsum(x, axis = 1)",
        ("sum(ct, axis = 1, keepdims = true) - cumsum(ct, axis = 1) + ct",),
        ("cumsum(ct, axis = 1)", "sum(ct, axis = 1, keepdims = true) - cumsum(ct, axis = 1)"),
    ),
    Layer(
        "variance", "x: float[5]", "return mean((x - mean(x))^2)",
        ("2 * ct * (x - mean(x)) / 5",), ("2 * ct * x / 5", "2 * ct * (x - mean(x)) / 4"), "float",
    ),
    Layer(
        "gumbel", "x: float[3, 4]", "p = softmax(x / 0.5, axis = -1)\n    return p",
        (f"({SOFTMAX}) / 0.5",), (SOFTMAX, f"({SOFTMAX}) * 0.5"),
    ),
    Layer(
        "huber",
        "x: float[5]",
        "return sum(where(abs(x) < 1, 0.5 * x^2, abs(x) - 0.5))",
        ("ct * clip(x, -1, 1)", "ct * where(abs(x) < 1, x, sign(x))"),
        ("ct * x", "ct * sign(x)"),
        "float",
    ),
    Layer(
        "divergence",
        "p: float[5], q: float[5]",
        "return sum(exp(p) * (p - q))",
        ("ct * exp(p) * (p - q + 1), -ct * exp(p)",),
        ("ct * exp(p) * (p - q), -ct * exp(p)", "ct * exp(p) * (p - q + 1), ct * exp(p)"),
        "float",
    ),
    Layer(
        "rotation", "x: float[5], a: float[5]", "return x * cos(a) - sin(a)",
        ("ct * cos(a), -ct * (x * sin(a) + cos(a))",),
        ("ct * cos(a), ct * (x * sin(a) + cos(a))", "ct * sin(a), -ct * (x * sin(a) + cos(a))"),
    ),
)  # fmt: skip

# Names that several cotangents use.
NAMED = {"recurrent cell": SLOPE, "gated cell": "d = ct * (g - x) * z * (1 - z)"}


def program(layer: Layer, cotangents: str) -> str:
    """A model whose loss goes through ``layer`` with this pullback."""
    named = f"{NAMED[layer.name]}\n        " if layer.name in NAMED else ""
    names = ", ".join(
        part.split(":")[0].strip() for part in layer.arguments.split(", ") if ":" in part
    )
    return (
        f"fn f({layer.arguments}) -> {layer.result} {{\n    {layer.body}\n"
        f"    pullback(ct) {{\n        {named}return {cotangents} }}\n}}\n"
        f"model m({layer.arguments}) -> float {{ return sum(f({names})) }}\n"
    )


def verdict(layer: Layer, cotangents: str) -> Verdict:
    """What is known of one pullback."""
    function = loads(program(layer, cotangents)).lower().function
    return pullback_verdict(next(op for op in walk(function.block) if op.name == "custom"))


def right() -> Iterator[tuple[Layer, str]]:
    """Layers with pullbacks that are their derivatives."""
    return ((layer, one) for layer in LAYERS for one in layer.right)


def wrong() -> Iterator[tuple[Layer, str]]:
    """Layers with pullbacks that are not."""
    return ((layer, one) for layer in LAYERS for one in layer.wrong)


def main() -> int:
    """Prints counts, and every pullback that is judged wrongly; status 1 if there is one."""
    failures = 0
    for what, cases in (("right", right()), ("wrong", wrong())):
        counts: Counter[str] = Counter()
        for layer, cotangents in cases:
            found = verdict(layer, cotangents)
            counts[found.status.value] += 1
            is_confirmed = found.status.is_proof or found.status is Status.AGREES
            expected = is_confirmed if what == "right" else found.status is Status.REFUTED
            if not expected:
                failures += 1
                print(what, layer.name, cotangents, found, found.detail)
        rows = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        print(f"{sum(counts.values())} {what} pullbacks: {rows}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
