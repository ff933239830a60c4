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
    """One model. `parameters` maps a name to (shape, standard deviation).

    `model` names its file where that is not the case's name, `dims` what the file leaves open;
    `state` are arrays that gradc keeps among the parameters and peers do not (shape and value).
    Where `has_kinks`, so many ReLUs see normalised sums that float32 puts some on the other side of
    zero, in every system others: then gradients are compared in float64, of float32 the loss alone.
    """

    name: str
    parameters: dict[str, tuple[Shape, float]]
    draw_inputs: Callable[[np.random.Generator], Arrays]
    offsets: dict[str, float] = field(default_factory=dict)  # gains are near one, not near zero
    model: str = ""
    dims: dict[str, int] = field(default_factory=dict)
    state: dict[str, tuple[Shape, float]] = field(default_factory=dict)
    has_kinks: bool = False

    @property
    def file(self) -> Path:
        return MODELS / f"{self.model or self.name}.grad"

    def kept(self) -> Arrays:
        """The arrays of the state."""
        return {
            name: np.full(shape, value, np.float32) for name, (shape, value) in self.state.items()
        }

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


def conv(name: str, inner: int, outer: int, size: int) -> dict[str, tuple[Shape, float]]:
    """Names and shapes of the standard library's convolution; ``inner`` per group."""
    deviation = (inner * size * size) ** -0.5
    return {
        f"{name}.w": ((outer, inner, size, size), deviation),
        f"{name}.b": ((outer, 1, 1), 0.1),
    }


def images(*shape: int) -> Callable[[np.random.Generator], Arrays]:
    """Draws images and what they should become."""
    return lambda rng: {"x": normal(rng, *shape), "y": normal(rng, *shape)}


def labelled(batch: int) -> Callable[[np.random.Generator], Arrays]:
    """Draws images of 32 x 32 and their classes."""
    return lambda rng: {"x": normal(rng, batch, 3, 32, 32), "y": classes(rng, 10, batch)}


def resnet(width: int, batch: int) -> Case:
    w = width
    kernels = {"stem": (w, 3, 3, 3), "kb": (2 * w, w, 1, 1), "kc": (4 * w, 2 * w, 1, 1)}
    norms = {"n0": w}
    blocks = {"a1": (w, w), "a2": (w, w), "b1": (w, 2 * w), "b2": (2 * w, 2 * w)}
    blocks |= {"c1": (2 * w, 4 * w), "c2": (4 * w, 4 * w)}
    for name, (inner, outer) in blocks.items():
        kernels |= {f"{name}.k1": (outer, inner, 3, 3), f"{name}.k2": (outer, outer, 3, 3)}
        norms |= {f"{name}.n1": outer, f"{name}.n2": outer}
    parameters: dict[str, tuple[Shape, float]] = {
        name: (shape, (shape[1] * shape[2] * shape[3]) ** -0.5) for name, shape in kernels.items()
    }
    for name, count in norms.items():
        parameters |= {f"{name}.{part}": ((count, 1, 1), 0.1) for part in ("gain", "bias")}
    parameters |= dense("fc", 4 * w, 10)
    state: dict[str, tuple[Shape, float]] = {
        f"{name}.{part}": ((count, 1, 1), value)
        for name, count in norms.items()
        for part, value in (("mean", 0.0), ("var", 1.0))
    }
    inputs, dims = labelled(batch), {"W": width, "B": batch}
    name = f"resnet{width}"
    return Case(name, parameters, inputs, gains(parameters), "resnet", dims, state, True)


def vgg() -> Case:
    sizes = (3, 32, 32, 64, 64, 128)
    parameters = dense("fc", 2048, 10)
    for n in range(5):
        parameters |= conv(f"c{n + 1}", sizes[n], sizes[n + 1], 3)
    return Case("vgg", parameters, labelled(16))


def residual() -> Case:
    names = ("a.c1", "a.c2", "b.c1", "b.c2")
    parameters = {k: v for name in names for k, v in conv(name, 64, 64, 3).items()}
    return Case("residual", parameters, images(8, 64, 32, 32))


def mobilenet() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {}
    for b in "ab":
        parameters |= conv(f"{b}.up", 32, 192, 1) | conv(f"{b}.each", 1, 192, 3)
        parameters |= conv(f"{b}.down", 192, 32, 1)
    return Case("mobilenet", parameters, images(8, 32, 28, 28))


def unet() -> Case:
    w = 16
    pairs = {"d1": (1, w), "d2": (w, 2 * w), "mid": (2 * w, 4 * w)}
    pairs |= {"u2": (6 * w, 2 * w), "u1": (3 * w, w)}
    parameters = conv("out", w, 1, 1)
    for name, (inner, outer) in pairs.items():
        parameters |= conv(f"{name}.c1", inner, outer, 3) | conv(f"{name}.c2", outer, outer, 3)
    return Case("unet", parameters, images(4, 1, 64, 64))


def conv1d() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        "k": ((4, 48, 48, 3), 144**-0.5),
        "b": ((4, 48, 1), 0.1),
    }
    return Case("conv1d", parameters, images(8, 48, 1024))


def conv3d() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {}
    for name, first, second, size in (
        ("c1", 16, 3, 3),
        ("c2", 32, 16, 3),
        ("c3", 32, 32, 3),
        ("up", 32, 3, 4),
    ):
        outputs = second if name == "up" else first
        parameters[f"{name}.w"] = ((first, second, size, size, size), (second * size**3) ** -0.5)
        parameters[f"{name}.b"] = ((outputs, 1, 1, 1), 0.1)
    return Case("conv3d", parameters, images(4, 3, 8, 32, 32))


LLAMA_LAYERS, LLAMA_HEADS, MIXER_LAYERS = 4, 4, 4


def llama() -> Case:
    width, inner = 256, 688
    parameters: dict[str, tuple[Shape, float]] = {}
    for i in range(LLAMA_LAYERS):
        b = f"blocks.{i}"
        square = ((width, width), width**-0.5)
        parameters |= {f"{b}.{name}": square for name in ("wq", "wk", "wv", "wo")}
        parameters |= {f"{b}.{name}": ((width, inner), width**-0.5) for name in ("gate", "up")}
        parameters[f"{b}.down"] = ((inner, width), inner**-0.5)
        parameters |= {f"{b}.{name}.gain": ((width,), 0.1) for name in ("n1", "n2")}
    parameters["last.gain"] = ((width,), 0.1)

    def inputs(rng: np.random.Generator) -> Arrays:
        return {name: normal(rng, 2, 256, width) for name in "xy"}

    return Case("llama", parameters, inputs, gains(parameters))


def mixer() -> Case:
    parameters = dense("stem", 48, 128) | layernorm("last", 128) | dense("head", 128, 10)
    for i in range(MIXER_LAYERS):
        b = f"blocks.{i}"
        parameters |= layernorm(f"{b}.n1", 128) | layernorm(f"{b}.n2", 128)
        parameters |= dense(f"{b}.t1", 64, 64) | {f"{b}.t2": ((64, 64), 0.125)}
        parameters |= dense(f"{b}.c1", 128, 512) | dense(f"{b}.c2", 512, 128)

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, 32, 64, 48), "y": classes(rng, 10, 32)}

    return Case("mixer", parameters, inputs, gains(parameters))


def word2vec() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        name: ((20000, 64), 0.3) for name in ("inner", "outer")
    }

    def inputs(rng: np.random.Generator) -> Arrays:
        right = np.zeros((256, 6), np.float32)
        right[:, 0] = 1
        words = {"centre": classes(rng, 20000, 256), "others": classes(rng, 20000, 256, 6)}
        return {**words, "right": right}

    return Case("word2vec", parameters, inputs)


def vocabulary() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        "h": ((256, 128), 1.0),
        "w": ((128, 32000), 128**-0.5),
    }
    return Case("vocabulary", parameters, lambda rng: {"word": classes(rng, 32000, 256)})


def gru() -> Case:
    parameters: dict[str, tuple[Shape, float]] = {
        "rnn.wx": ((64, 384), 64**-0.5),
        "rnn.wh": ((128, 384), 128**-0.5),
        "rnn.bx": ((384,), 0.1),
        "rnn.bh": ((384,), 0.1),
    }
    return Case("gru", parameters, lstm().draw_inputs)


ATTENTION_WINDOW = 256
IMAGES = (resnet(16, 64), resnet(64, 8), vgg(), residual(), mobilenet(), unet(), conv1d(), conv3d())

SMALL = (
    mlp_tiny,
    mlp_small,
    mlp_wide,
    rows,
    gpt,
    lstm,
    lenet,
    gru,
    word2vec,
    vocabulary,
    llama,
    mixer,
)
CASES = {case.name: case for case in (make() for make in SMALL)}
CASES |= {
    name: attention(name, heads, steps)
    for name, heads, steps in (
        ("attention", 4, 1024),
        ("attention_long", 2, 4096),
        ("attention_window", 2, 4096),
    )
}
CASES |= {case.name: case for case in IMAGES}
