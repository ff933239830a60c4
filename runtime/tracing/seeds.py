"""Tangents and cotangents that calls bring: their structure, shapes and types.

Non-goals: what is done with them (``derive``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.tensor.core import Value
from gradc.runtime.native.arrays import Array, convert
from gradc.runtime.tracing.derive import Transform, Wanted
from gradc.runtime.tracing.pairs import array_of, is_pair
from gradc.runtime.tracing.record import Recorded, numpy_of
from gradc.runtime.tracing.trace import Trace
from gradc.runtime.tracing.trees import flatten, paths


def refusal(code: str, message: str, help: str = "") -> DiagnosticError:
    """A DiagnosticError without a place in a recorded function."""
    return DiagnosticError([error(code, message, None, help=help)])


def _chosen_seeds(recorded: Recorded, wanted: Wanted, kind: Transform, seeds: Any) -> list[Any]:
    """The leaves of ``seeds`` that the derived program takes. Raises DiagnosticError GC0566."""
    leaves: list[Any] = []
    given = flatten(seeds, leaves)
    expected = wanted.structure if kind.seeds == "tangents" else recorded.out
    if paths(given, "") != paths(expected, ""):
        whose = "arguments" if kind.seeds == "tangents" else "result"
        raise refusal("GC0566", f"{kind.seeds} must have the structure of the {whose}")
    return leaves if kind.seeds == "tangents" else [leaves[n] for n in recorded.floating]


def seed_types(recorded: Recorded, wanted: Wanted, kind: Transform) -> list[tuple[str, Any]]:
    if kind.seeds == "tangents":
        return [(recorded.arguments[n].name, recorded.arguments[n].type) for n in wanted.numbers]
    return [(recorded.function.results[n].name, recorded.types[n]) for n in recorded.floating]


def seed_arrays(recorded: Recorded, wanted: Wanted, kind: Transform, seeds: Any) -> list[Array]:
    """The caller's tangents or cotangents, as the program takes them. Raises DiagnosticError."""
    found = []
    chosen = _chosen_seeds(recorded, wanted, kind, seeds)
    for (name, type_), seed in zip(seed_types(recorded, wanted, kind), chosen, strict=True):
        array = array_of(name, seed)
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
        dtype: object = type_.dtype
        if is_pair(dtype):
            array = array.astype(numpy_of(type_.dtype))
        elif array.dtype.kind == "c":
            message = f"`{name}` is real, and its {(kind.seeds or '').rstrip('s')} complex"
            raise refusal("GC0566", message, "numpy.real(x) is its real part")
        else:
            array = convert(name, array, type_.dtype)
        _check_seed(kind, name, array.shape, type_.static_shape)
        found.append(array)
    return found


def _check_seed(
    kind: Transform, name: str, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    if given != expected:
        what = (kind.seeds or "").rstrip("s")
        message = f"the {what} of `{name}` has shape {list(given)}, and `{name}` {list(expected)}"
        raise refusal("GC0566", message)


def seed_values(
    outer: Trace, recorded: Recorded, wanted: Wanted, kind: Transform, seeds: Any
) -> list[Value]:
    found = []
    chosen = _chosen_seeds(recorded, wanted, kind, seeds)
    for (name, type_), seed in zip(seed_types(recorded, wanted, kind), chosen, strict=True):
        value = outer.cast(outer.lift(seed), type_.dtype)
        _check_seed(kind, name, value.type.static_shape, type_.static_shape)
        found.append(value)
    return found
