"""Random convolutions, forward and all gradients, against PyTorch in float64.

    python -m benchmarks.soak_convolutions [--count 2000] [--seed 0] [--seconds S] [--state FILE]

Each case draws sizes (odd ones, one, blocks of images and parts of them), one to three spatial
axes, the convolution or its transpose, stride, padding, dilation, groups, a bias or a scale, an
activation, a precision and a number of threads. PyTorch gets the parameters and inputs as rounded
to the precision; cotangents are drawn. Needs torch.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

import numpy as np

import gradc
from benchmarks.soak_common import Tally, command, soak

# Of the norm of a gradient: what is left after sums in f32 of factors that are rounded.
CLOSE = {"f64": 1e-11, "f32": 2e-5, "f16": 8e-3, "bf16": 4e-2}
MOST = 6e7  # products of a case
HANG = 60.0

SOURCE = """
model m(
    x: float[{images}, {channels}, {image}],
    c: float[{images}, {filters}, {out}],
) -> float {{
    param k: float[{first}, {inner}, {taps}] ~ he_normal
    param b: float[{filters}, {ones}] ~ normal(1.0)
    z = {word}(x, k, stride = [{stride}], padding = [{padding}], dilation = [{dilation}],
               groups = {groups})
    return sum({activation}(z {joined} b) * c)
}}
"""
_SMALL = {1: (1, 40), 2: (1, 20), 3: (1, 7)}
_WIDE = (1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 25, 32)
_LISTS = ("image", "taps", "stride", "padding", "dilation", "out")


def drawn(rng: random.Random, precision: str) -> dict[str, Any]:
    """The sizes and choices of a convolution that has results and is not too large.

    `relu` in f64 alone: elsewhere rounding turns a few of its masks, and gradients by more than
    sums lose.
    """
    activations = ("tanh", "relu", "") if precision == "f64" else ("tanh", "")
    while True:
        groups, spatial = rng.choice((1, 1, 1, 2, 4)), rng.choice((1, 2, 2, 2, 3))
        is_turned = rng.random() < 0.25
        channels, filters = (groups * rng.randint(1, 12) for _ in range(2))
        least, most = _SMALL[spatial]
        axes = {
            "image": [*(rng.randint(least, most) for _ in range(spatial - 1)), rng.choice(_WIDE)],
            "taps": [rng.randint(1, 5 if spatial < 3 else 3) for _ in range(spatial)],
            "stride": [rng.choice((1, 1, 2, 3)) for _ in range(spatial)],
            "padding": [rng.randint(0, 3) for _ in range(spatial)],
            "dilation": [rng.choice((1, 1, 2)) for _ in range(spatial)],
        }
        out = []
        for n, taps, step, pad, gap in zip(*axes.values(), strict=True):
            reach = gap * (taps - 1) + 1
            turned, plain = (n - 1) * step - 2 * pad + reach, (n + 2 * pad - reach) // step + 1
            out.append(turned if is_turned else plain)
        one: dict[str, Any] = {
            "images": rng.choice((1, 2, 3, 5, 16, 17, 24, 33, 64)),
            "channels": channels,
            "filters": filters,
            "groups": groups,
            "first": channels if is_turned else filters,
            "inner": (filters if is_turned else channels) // groups,
            "ones": ", ".join("1" * spatial),
            "word": f"conv_transpose{spatial}d" if is_turned else f"conv{spatial}d",
            "joined": rng.choice("+*"),
            "activation": rng.choice(activations),
        }
        places = axes["image"] if is_turned else out
        axes["out"] = out
        work = [one["images"], one["first"], one["inner"], *places, *axes["taps"]]
        if min(out) > 0 and np.prod([float(n) for n in work]) < MOST:
            return {**one, **{name: ", ".join(map(str, axes[name])) for name in _LISTS}}


def expected(one: dict[str, Any], precision: str, given: dict[str, Any]) -> dict[str, Any]:
    """PyTorch's gradients in f64, at what ``precision`` makes of the arrays."""
    torch: Any = importlib.import_module("torch")
    types = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
    t: dict[str, Any] = {}
    for name, array in given.items():
        exact = torch.tensor(np.asarray(array, np.float64))
        t[name] = exact.to(types.get(precision, torch.float64)).double().requires_grad_()
    names = ("stride", "padding", "dilation")
    axes = {name: tuple(int(n) for n in one[name].split(", ")) for name in names}
    apply = getattr(torch.nn.functional, one["word"])
    z = apply(t["x"], t["k"], groups=one["groups"], **axes)
    z = z + t["b"] if one["joined"] == "+" else z * t["b"]
    z = {"relu": torch.relu, "tanh": torch.tanh, "": lambda v: v}[one["activation"]](z)
    (z * t["c"]).sum().backward()
    return {name: t[name].grad.numpy() for name in ("k", "b", "x", "c")}


def case(rng: random.Random, tally: Tally) -> str:
    """One convolution; says which gradient is wrong, and by how much."""
    precision, threads = rng.choice(list(CLOSE)), rng.choice((1, 2))
    one = drawn(rng, precision)
    source = SOURCE.format(**one)
    draw = np.random.default_rng(rng.getrandbits(32))
    net = gradc.loads(source, precision=precision)
    inputs = {
        n: draw.standard_normal(t.static_shape).astype(np.float32) for n, t in net.inputs.items()
    }
    params = net.init(rng.getrandbits(16))
    _, found = net.value_and_grad(wrt=["k", "b", "x", "c"], threads=threads)(params, **inputs)
    tally.kinds[precision] += 1
    for name, truth in expected(one, precision, {**params, **inputs}).items():
        # Sums over places may cancel; what they lose they lose of their terms.
        least = np.linalg.norm(inputs["c"]) if name in "kb" else 0.0
        size = float(max(np.linalg.norm(truth), least))
        error = float(np.linalg.norm(np.asarray(found[name], np.float64) - truth))
        if not error <= CLOSE[precision] * size + 1e-12:
            return (
                f"{name} by {error / max(size, 1e-300):.2g}, {precision}, {threads} threads{source}"
            )
    return ""


def convolutions(count: int, seed: int, seconds: float, state: Any) -> Tally:
    """The soak."""
    return soak("convolutions", case, count, seed, seconds, state, HANG)


if __name__ == "__main__":
    sys.exit(command(__doc__, 2000, convolutions))
