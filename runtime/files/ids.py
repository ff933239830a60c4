"""Class and token ids out of range, found where data enter: which array, which row, which value,
which range.

A program reads NaN at an id that names no row (and a one-hot vector of it is all zeros), so such
data train nothing and say nothing. Which inputs hold ids, and of how many rows, is read off the
program (``ir.index_uses``).

Non-goals: ids that a program computes of floating numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.diagnostics.source import Sources
from gradc.ir.domains.index_uses import IndexUses, Use, first_outside
from gradc.ir.tensor.core import Function
from gradc.runtime.native.arrays import Array, as_array

if TYPE_CHECKING:
    from gradc.runtime.files.batches import Samples
    from gradc.runtime.model.model import Model


class IdCheck:
    """Checks the integer inputs of one function."""

    def __init__(self, function: Function, sources: Sources) -> None:
        self._uses = IndexUses(function)
        self._sources = sources

    def __call__(
        self, inputs: Mapping[str, Array], before: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Looks at every id that is made of ``inputs``.

        Args:
            before: how many rows of an array of this name came before these.

        Raises:
            DiagnosticError: GC0579 for the first id out of range of each array.
        """
        # Arrays of other kinds are refused by the call itself.
        names = [n for n in self._uses.inputs if n in inputs and inputs[n].dtype.kind in "iu"]
        given = {name: inputs[name] for name in names}
        found: dict[str, Diagnostic] = {}
        for number, use in enumerate(self._uses.uses(given) if given else ()):
            at = None if use.ids is None else first_outside(use)
            if at is not None:
                name, finding = self._finding(number, use, at, given, before)
                found.setdefault(name, finding)
        if found:
            raise DiagnosticError(list(found.values()), self._sources)

    def _finding(
        self,
        number: int,
        use: Use,
        at: tuple[int, ...],
        given: Mapping[str, Array],
        before: Mapping[str, int],
    ) -> tuple[str, Diagnostic]:
        value = int(np.asarray(use.ids)[at])
        bounds = f"the ids of {use.size} rows are 0 to {use.size - 1}"
        if use.size == 0:
            bounds = "there is nothing here that an id could name"
        name, place = self._origin(number, at, given)
        if name:
            place = [n + (before.get(name, 0) if axis == 0 else 0) for axis, n in enumerate(place)]
            row = f" in row {place[0]}" if place else ""
            where = row + (f", at {place}" if len(place) > 1 else "")
            message = f"`{name}` holds {value}{where}; {bounds}"
        else:
            alone = [one for one in given if self._is_made_of(number, one, given[one])]
            names = ", ".join(f"`{one}`" for one in alone or given)
            message = f"an id computed of {names} is {value}, at {list(at)} of them; {bounds}"
        help = "correct the data, or give the table (or the classes) as many rows as there are ids"
        return name, error("GC0579", message, use.op.span, label="used as an id", help=help)

    def _origin(
        self, number: int, at: tuple[int, ...], given: Mapping[str, Array]
    ) -> tuple[str, list[int]]:
        """Which input the id comes from and where it stands there: numbers of places are sent the
        same way.
        """
        for name, array in given.items():
            places = np.arange(array.size, dtype=np.int64).reshape(array.shape)
            for count, use in enumerate(self._uses.uses({name: places}, only_moves=True)):
                if count == number and use.ids is not None:
                    flat = int(np.asarray(use.ids)[at])
                    return name, [int(i) for i in np.unravel_index(flat, array.shape)]
        return "", []

    def _is_made_of(self, number: int, name: str, array: Array) -> bool:
        """Whether the ids of one use are known where this input alone is."""
        uses = enumerate(self._uses.uses({name: array}))
        return any(count == number and use.ids is not None for count, use in uses)


def check_call(model: Model, inputs: Mapping[str, Array]) -> None:
    """Raises DiagnosticError GC0579 for ids out of range in the inputs of one call."""
    model.id_check({name: array.shape for name, array in inputs.items()})(inputs)


def check_samples(model: Model, samples: Samples, size: int) -> None:
    """The same for a data set that is used in batches of ``size``."""
    start = 0
    for inputs in samples.batches(size):
        shapes = {name: array.shape for name, array in inputs.items()}
        model.id_check(shapes)(inputs, dict.fromkeys(samples.batched, start))
        start += size


def refuse_empty(inputs: Mapping[str, Array]) -> None:
    """Raises DiagnosticError GC0803 for arrays without a row: a mean over nothing is NaN."""
    names = [name for name, array in inputs.items() if array.ndim and not array.shape[0]]
    if names:
        shown = ", ".join(f"`{name}` is {list(inputs[name].shape)}" for name in names)
        message = f"there is nothing to take the gradient of: {shown}"
        help = "give at least one sample"
        raise DiagnosticError([error("GC0803", message, None, help=help)])


def check_inputs(model: Model, inputs: Mapping[str, object]) -> None:
    """What the option ``check_inputs`` asks for: at least one row, and every id in range.

    Raises:
        DiagnosticError: GC0803 and GC0579. Names that do not fit are left to the call.
    """
    if set(inputs) == set(model.inputs):
        arrays = {name: as_array(name, value) for name, value in inputs.items()}
        refuse_empty(arrays)
        check_call(model, arrays)
