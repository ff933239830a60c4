"""The benchmark models: for each its program, the parameters by name, and data of the right shapes.

All contenders get the same numbers. Parameters are normal with standard deviation 1/sqrt(fan-in),
biases and gains included, so that no gradient is zero by accident. Names are those that gradc
gives.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.int32]
Arrays = dict[str, Array]
Shape = tuple[int, ...]

MODELS = Path(__file__).resolve().parent / "models"


@dataclass(frozen=True)
class Case:
    """One model. `parameters` maps a name to (shape, standard deviation)."""

    name: str
    parameters: dict[str, tuple[Shape, float]]
    draw_inputs: Callable[[np.random.Generator], Arrays]
    offsets: dict[str, float] = field(default_factory=dict)  # gains are near one, not near zero

    @property
    def file(self) -> Path:
        return MODELS / f"{self.name}.grad"

    def params(self, seed: int = 0) -> Arrays:
        """The parameters, float32, in the order of declaration."""
        rng = np.random.default_rng(seed)
        return {
            name: np.asarray(
                rng.normal(self.offsets.get(name, 0.0), deviation, shape), dtype=np.float32
            )
            for name, (shape, deviation) in self.parameters.items()
        }

    def inputs(self, seed: int = 1) -> Arrays:
        """The arrays of one call."""
        return self.draw_inputs(np.random.default_rng(seed))


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def classes(rng: np.random.Generator, count: int, *shape: int) -> NDArray[np.int32]:
    return rng.integers(0, count, shape).astype(np.int32)


def dense(name: str, inner: int, outer: int) -> dict[str, tuple[Shape, float]]:
    """Names and shapes of the standard library's dense layer."""
    return {f"{name}.w": ((inner, outer), inner**-0.5), f"{name}.b": ((outer,), 0.1)}


def layernorm(name: str, width: int) -> dict[str, tuple[Shape, float]]:
    """Names and shapes of the standard library's layer normalisation."""
    return {f"{name}.gain": ((width,), 0.1), f"{name}.bias": ((width,), 0.1)}


def gains(parameters: dict[str, tuple[Shape, float]]) -> dict[str, float]:
    return {name: 1.0 for name in parameters if name.endswith(".gain")}


def mlp_tiny() -> Case:
    return Case(
        "mlp_tiny",
        dense("fc1", 2, 16) | dense("fc2", 16, 16) | dense("fc3", 16, 1),
        lambda rng: {"x": normal(rng, 8, 2), "y": normal(rng, 8, 1)},
    )


def mlp_small() -> Case:
    return Case(
        "mlp_small",
        dense("fc1", 64, 128) | dense("fc2", 128, 64) | dense("fc3", 64, 10),
        lambda rng: {"x": normal(rng, 32, 64), "y": classes(rng, 10, 32)},
    )


def mlp_wide() -> Case:
    return Case(
        "mlp_wide",
        dense("fc1", 784, 512) | dense("fc2", 512, 256) | dense("fc3", 256, 10),
        lambda rng: {"x": normal(rng, 256, 784), "y": classes(rng, 10, 256)},
    )


def rows() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {"x": ((8192, 512), 1.0)}
    parameters |= layernorm("ln", 512)
    return Case("rows", parameters, lambda rng: {}, gains(parameters))


GPT_LAYERS, GPT_WIDTH, GPT_HEADS, GPT_WORDS, GPT_STEPS = 4, 256, 8, 512, 128


def gpt() -> Case:
    width = GPT_WIDTH
    parameters: dict[str, tuple[Shape, float]] = {
        "wte": ((GPT_WORDS, width), 0.1),
        "wpe": ((GPT_STEPS, width), 0.1),
    }
    for i in range(GPT_LAYERS):
        block = f"blocks.{i}"
        parameters |= layernorm(f"{block}.ln1", width)
        parameters |= dense(f"{block}.attn.qkv", width, 3 * width)
        parameters |= dense(f"{block}.attn.proj", width, width)
        parameters |= layernorm(f"{block}.ln2", width)
        parameters |= dense(f"{block}.up", width, 4 * width)
        parameters |= dense(f"{block}.down", 4 * width, width)
    parameters |= layernorm("lnf", width)

    def inputs(rng: np.random.Generator) -> Arrays:
        return {name: classes(rng, GPT_WORDS, 4, GPT_STEPS) for name in ("tokens", "targets")}

    return Case("gpt", parameters, inputs, gains(parameters))


def lstm() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        "rnn.wx": ((64, 512), 64**-0.5),
        "rnn.wh": ((128, 512), 128**-0.5),
        "rnn.b": ((512,), 0.1),
    }
    return Case(
        "lstm",
        parameters,
        lambda rng: {"xs": normal(rng, 64, 32, 64), "ys": normal(rng, 64, 32, 128)},
    )


def lenet() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        "c1": ((6, 1, 5, 5), 0.2),
        "b1": ((6, 1, 1), 0.1),
        "c2": ((16, 6, 5, 5), 150**-0.5),
        "b2": ((16, 1, 1), 0.1),
    }
    parameters |= dense("fc1", 400, 120) | dense("fc2", 120, 84) | dense("fc3", 84, 10)
    return Case(
        "lenet",
        parameters,
        lambda rng: {"x": normal(rng, 64, 1, 28, 28), "y": classes(rng, 10, 64)},
    )


def attention(name: str, heads: int, steps: int) -> Case:
    return Case(name, {part: ((heads, steps, 64), 1.0) for part in "qkv"}, lambda rng: {})


ATTENTION_WINDOW = 256

CASES = {make().name: make() for make in (mlp_tiny, mlp_small, mlp_wide, rows, gpt, lstm, lenet)}
CASES |= {
    name: attention(name, heads, steps)
    for name, heads, steps in (
        ("attention", 4, 1024),
        ("attention_long", 2, 4096),
        ("attention_window", 2, 4096),
    )
}
