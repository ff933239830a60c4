"""Which dimensions of the library's layers and of the examples can be cut among two ranks.

    python -m tests.support.cut_table            # the table of docs/scale.md

A row is a program and one of its dimensions: what is cut, where in their axes parameters have it,
and how many exchanges one gradient takes (those of a loop counted once), or why it is refused.
Every cut is tried: at random numbers all ranks must have the gradient of one, in f64.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.axes import Place
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.programs.ranks import CutProgram
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.together import exchanges
from gradc.runtime.api import loads
from gradc.runtime.model.shard import Shard
from tests.support.wrong_cuts import is_wrong

EXAMPLES = Path(__file__).parents[2] / "examples"

# A layer's inputs, the layer and its dimensions.
LAYERS = (
    ("x: float[B, I]", "dense(I, O)", "I = 4, O = 6"),
    ("x: int[B]", "embedding(V, D)", "V = 6, D = 4"),
    ("x: float[B, I, 4, 4]", "conv(I, O, 3)", "I = 4, O = 6"),
    ("x: float[B, C, 4, 4]", "conv(C, C, 3, groups = C)", "C = 4"),
    ("x: float[B, C, 4, 4]", "conv(C, C, 3, groups = G)", "C = 16, G = 4"),
    ("x: float[B, I, 4]", "conv1d(I, O, 3)", "I = 4, O = 6"),
    ("x: float[B, I, 3, 3, 3]", "conv3d(I, O, 3)", "I = 4, O = 6"),
    ("x: float[B, I, 4, 4]", "conv_transpose(I, O, 3, stride = 2)", "I = 4, O = 6"),
    ("x: float[B, I, 4]", "conv_transpose1d(I, O, 3)", "I = 4, O = 6"),
    ("x: float[B, I, 2, 2, 2]", "conv_transpose3d(I, O, 3)", "I = 4, O = 6"),
    ("x: float[B, D]", "layernorm(D)", "D = 6"),
    ("x: float[B, D]", "rmsnorm(D)", "D = 6"),
    ("x: float[B, C]", "batchnorm(C)", "C = 6"),
    ("x: float[B, C, 4, 4]", "batchnorm2d(C)", "C = 6"),
    ("x: float[3, B, I]", "rnn(I, H)", "I = 4, H = 6"),
    ("x: float[3, B, I]", "lstm(I, H)", "I = 4, H = 6"),
    ("x: float[3, B, I]", "gru(I, H)", "I = 4, H = 6"),
    ("x: float[B, 3, D]", "attention(D, N)", "D = 12, N = 2"),
)
# An example and the sizes at which its dimensions are cut.
PROGRAMS: tuple[tuple[str, dict[str, int]], ...] = (
    ("digits/mlp.grad", {"D": 6, "H": 4, "C": 4}),
    ("digits/autoencoder.grad", {"D": 6, "H": 4, "Z": 2}),
    ("digits/cnn.grad", {"C1": 2, "C2": 4, "H": 4}),
    ("digits/rows_gru.grad", {"H": 4}),
    ("text/lstm.grad", {"T": 4, "V": 6, "E": 4, "H": 4}),
    ("text/gpt.grad", {"T": 4, "V": 6, "D": 8, "N": 2, "L": 1}),
)


def texts() -> Iterator[tuple[str, str, dict[str, int]]]:
    """The name and the text of each program, and its dimensions."""
    for given, call, dims in LAYERS:
        body = f"    use f = {call}\n    return mean(f(x)^2)\n"
        text = f"dim B = 2, {dims}\nmodel m({given}) -> float {{\n{body}}}\n"
        pairs = (pair.split(" = ") for pair in dims.split(", "))
        yield f"`{call}`", text, {name: int(size) for name, size in pairs}
    for name, sizes in PROGRAMS:
        yield f"`examples/{name}`", (EXAMPLES / name).read_text(), sizes


def rows() -> Iterator[tuple[str, str, str]]:
    """Program, dimension, and what is said of it."""
    for name, text, sizes in texts():
        for dim in (dim for dim, size in sizes.items() if size > 1):
            yield name, dim, _answer(text, dim, sizes)


def _answer(text: str, dim: str, sizes: Mapping[str, int]) -> str:
    net = loads(text, dims={"B": 2, **sizes}, precision="f64")
    try:
        shard = Shard.parsed(net, f"{dim}=2")
        cut = shard.at({})
        gradient = value_and_grad(cut.whole.function, list(net.select("params")))
        made = dce(flatten(cut.share(gradient)))
    except DiagnosticError as problem:
        return f"refused: {problem.diagnostics[0].message.partition(': ')[2]}"
    dims = dict(cut.whole.dims)
    subject = CutProgram(gradient, made, shard.deal, cut.places, dims, dim)
    if is_wrong(subject, np.random.default_rng(0)):
        return "WRONG"
    held = sorted({f"`{_short(name)}`{_where(place)}" for name, place in cut.places.items()})
    count = len(exchanges(made.block))
    return f"{', '.join(held)}; {count} exchange{'s' if count != 1 else ''}"


def _short(name: str) -> str:
    return name.removeprefix("f.").removeprefix("blocks.0.")


def _where(place: Place) -> str:
    return f" {place.axis + 1}" + (f" in {place.outer} blocks" if place.outer > 1 else "")


def main() -> int:
    """Prints the table; fails if a cut is wrong."""
    is_right = True
    print("| program | cut | parameters that ranks have parts of, and which axis |\n|---|---|---|")
    for name, dim, answer in rows():
        print(f"| {name} | {dim} | {answer} |", flush=True)
        is_right = is_right and answer != "WRONG"
    return not is_right


if __name__ == "__main__":
    sys.exit(main())
