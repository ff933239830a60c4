"""What ``gradc explain FILE`` does: the whiteboard of a model at given arrays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from gradc.runtime.commands.common import load_inputs, load_model, load_params, shapes_of
from gradc.runtime.console import Console
from gradc.runtime.files.data import fail, write_text
from gradc.runtime.files.ids import check_call
from gradc.runtime.native.arrays import check_names
from gradc.runtime.render.graph import drawn
from gradc.runtime.reports.whiteboard_html import whiteboard_page
from gradc.runtime.reports.whiteboard_text import to_graph, to_json, to_lines


def explain_model(options: argparse.Namespace, console: Console) -> int:
    """Prints the whiteboard that ``options`` ask for, and writes its pages."""
    model = load_model(options)
    if options.data is None and model.inputs:
        raise fail("GC0564", "give --data IN.npz with the arrays of the model's inputs")
    inputs = load_inputs(model, options.data) if options.data is not None else {}
    check_call(model, inputs)
    params = load_params(model, options, model.bind(shapes_of(inputs)))
    board = model.explain(
        params, _wrt(options.wrt), _ones(options.tangent, {**params, **inputs}), **inputs
    )
    if options.html is not None:
        write_text(Path(options.html), whiteboard_page(board))
        console.message(f"wrote {options.html}")
    if options.svg is not None:
        write_text(Path(options.svg), drawn(to_graph(board), board.model))
        console.message(f"wrote {options.svg}")
    if options.json:
        console.json(to_json(board))
    else:
        console.result("\n".join(to_lines(board)))
    return 0


def _wrt(text: str | None) -> Any:
    if text is None or text in ("params", "inputs"):
        return text
    return text.split(",")


def _ones(text: str | None, arrays: dict[str, Any]) -> dict[str, Any] | None:
    """A direction with 1 in every element of the arrays named."""
    if text is None:
        return None
    names = text.split(",")
    check_names("name", {n: None for n in names if n not in arrays}, [])
    return {name: np.ones(np.shape(arrays[name])) for name in names}
