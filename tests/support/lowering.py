"""Programs run by the reference interpreter, for tests of lowering."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.frontend.model.models import ModelIR
from gradc.frontend.program import initialize, loads
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import Role

Arrays = Mapping[str, NDArray[Any]]


def lowered(text: str, training: bool = True, entry: str | None = None, **dims: int) -> ModelIR:
    """The only model of ``text`` (or ``entry``) in f64."""
    return loads(text).lower(entry, dims, "f64", training)


def evaluate(
    model: ModelIR,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Every result of ``model`` by name; a new state is named ``new:`` and its path."""
    known: dict[str, Any] = {**initialize(model, seed), **(params or {}), **inputs}
    operands = []
    for slot, value in zip(model.function.parameters, model.function.block.parameters, strict=True):
        array = np.asarray(known[slot.name])
        dtype = NumpyArrays.dtype(value.type.dtype)
        assert array.shape == value.type.static_shape, slot.name
        operands.append(array.astype(dtype))
    found = run(NumpyArrays(), model.function, operands)
    results: dict[str, NDArray[Any]] = {}
    for slot, value, array in zip(
        model.function.results, model.function.block.outputs, found, strict=True
    ):
        assert array.shape == value.type.static_shape, slot.name
        prefix = "new:" if slot.role is Role.STATE else ""
        results[prefix + slot.name] = np.asarray(array)
    return results


def value_of(expression: str, arguments: str = "", **inputs: Any) -> NDArray[Any]:
    """``expression`` over inputs of the types that ``arguments`` declares, as the interpreter
    computes it.
    """
    text = f"model m({arguments}) -> float {{\n    output it = {expression}\n    return 0.0\n}}\n"
    return evaluate(lowered(text), inputs)["it"]
