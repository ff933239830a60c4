"""``gradc grad FILE --data IN.npz``: loss and gradients."""

from __future__ import annotations

import argparse

import numpy as np

from gradc.runtime.commands.common import chosen_wrt, compile_arguments, load_call
from gradc.runtime.commands.flags import add_compile, add_data, add_model
from gradc.runtime.console import Console
from gradc.runtime.files.data import save_npz
from gradc.runtime.files.ids import refuse_empty


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_compile(parser)
    parser.add_argument(
        "--wrt", default="params", help="params, inputs, or names separated by commas (params)"
    )
    parser.add_argument("--out", metavar="GRADS.npz", help="write loss and gradients here")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")


def run(options: argparse.Namespace, console: Console) -> int:
    """Compiles value and gradient, calls it once, and prints or writes what it gives."""
    model, inputs, params = load_call(options)
    refuse_empty(inputs)
    gradient = model.value_and_grad(chosen_wrt(options), **compile_arguments(options))
    loss, grads = gradient(params, **inputs)
    if options.out:
        save_npz(options.out, {"loss": np.asarray(loss), **grads})
    if options.json:
        norms = {name: _norm(g) for name, g in grads.items()}
        console.json({"loss": float(loss), "gradients": norms})
        return 0
    console.result(f"loss {float(loss):.8g}")
    rows = [
        (name, str(list(g.shape)), f"{_norm(g):.6g}", f"{np.abs(g).max(initial=0):.6g}")
        for name, g in grads.items()
    ]
    console.table("", ("gradient", "shape", "L2 norm", "largest"), rows)
    return 0


def _norm(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    return float(np.linalg.norm(array.astype(np.float64).ravel()))
