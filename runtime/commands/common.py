"""What subcommands share: the model, data and parameters that the flags of ``commands.flags`` name.

Non-goals: anything only one subcommand needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.runtime.files.data import fail, load_npz, load_safetensors
from gradc.runtime.files.ids import check_call
from gradc.runtime.files.read import read_program
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import Array, check_names
from gradc.runtime.native.shelf import shelf


def parse_dims(items: list[str]) -> dict[str, int]:
    """``B=32`` and so on. Raises DiagnosticError GC0564 for anything else."""
    dims: dict[str, int] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier() or not value.isdecimal() or len(value) > 18:
            help = "write -D NAME=N with a whole number, such as -D B=32"
            raise fail("GC0564", f"-D {item}: not a dimension and its value", help)
        dims[name] = int(value)
    return dims


def load_model(options: argparse.Namespace) -> Model:
    """The model that the arguments name."""
    no_cache = getattr(options, "no_cache", False)
    program = read_program(options.file, None if no_cache else shelf())
    return Model(program, options.entry, parse_dims(options.dims), options.precision)


def compile_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``Model``'s compiling methods."""
    return {
        "budget": options.budget,
        "threads": options.threads,
        "target": options.target,
        "use_cache": not options.no_cache,
    }


def load_inputs(
    model: Model, path: str, partial: bool = False, some: bool = False, in_place: bool = False
) -> dict[str, Array]:
    """The model's inputs from an .npz file; further arrays in it are left alone with ``partial``,
    and numbers stay in the file until they are used with ``in_place``, where they can.

    Names and shapes are compared before anything is unpacked.

    Raises:
        DiagnosticError: GC0554 for names that are no inputs, GC0553 for missing ones unless
            ``some`` will do, and for shapes that do not fit.
    """

    def choose(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        known = list(model.inputs)
        if not partial and not (some and shapes.keys() <= set(known)):
            check_names("input", shapes, known)
        names = [name for name in known if name in shapes]
        if some or len(names) == len(known):
            model.bind({name: shapes[name] for name in names})
        return names

    found = load_npz(path, choose, in_place)
    return {name: found[name] for name in model.inputs if name in found}


def load_params(
    model: Model, options: argparse.Namespace, dims: Mapping[str, int]
) -> dict[str, Array]:
    """Parameters from ``--params`` (.safetensors, or .npz with names of parameters), or fresh ones
    from ``--seed``.
    """
    if options.params is None:
        return model.init(options.seed, dims)
    if options.params.endswith(".npz"):
        arrays = dict(load_npz(options.params))
    else:
        arrays, _ = load_safetensors(options.params)
    names = [spec.path for spec in model.lower(dims).parameters]
    if not set(names) <= set(arrays):
        check_names("parameter", arrays, names)
    return {name: arrays[name] for name in names}


def load_call(options: argparse.Namespace) -> tuple[Model, dict[str, Array], dict[str, Array]]:
    """The model, its inputs from ``--data``, and its parameters: what a call needs."""
    model = load_model(options)
    # One file may hold both, as a witness does.
    inputs = load_inputs(model, options.data, partial=options.params == options.data)
    check_call(model, inputs)
    return model, inputs, load_params(model, options, model.bind(shapes_of(inputs)))


def chosen_outputs(options: argparse.Namespace) -> list[str] | None:
    """``--outputs`` as ``Model.forward`` takes it."""
    return None if options.outputs is None else [n.strip() for n in options.outputs.split(",")]


def chosen_wrt(options: argparse.Namespace) -> str | tuple[str, ...]:
    """``--wrt`` as ``Model.value_and_grad`` takes it."""
    names: str = options.wrt
    return names if names in ("params", "inputs") else tuple(names.split(","))


def shapes_of(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, for ``Model.bind``."""
    return {name: array.shape for name, array in arrays.items()}


def loss_scale_of(text: str | None) -> float | str | None:
    """``--loss-scale`` as a number where it is one; ``Recipe`` refuses what makes no sense."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def whole_number(text: str, least: int, what: str) -> int:
    """A flag's number. Raises DiagnosticError GC0564."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        message = f"{what} must be a whole number of at least {least}, not {text}"
        raise DiagnosticError([error("GC0564", message, None)])
    return number
