"""Room for a gradient that a caller gives: ``gradc.grad(f)(w, x, out=array)``.

``out`` has the structure of the gradient, with an array for each of its leaves. What is asked of
them, and what is copied, is as in calls of models (``runtime.model.into``).

Non-goals: transforms without a gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.model.into import crossings, is_plain, misfits
from gradc.runtime.native.arrays import Array
from gradc.runtime.tracing.pairs import as_complex
from gradc.runtime.tracing.trees import Structure, flatten, paths


class GradientRoom:
    """The arrays of ``out`` for the results of a program from number ``first`` on."""

    def __init__(self, out: object, structure: Structure, first: int) -> None:
        """Raises TypeError if ``out`` has another structure than the gradient."""
        self._arrays: list[Any] = []
        if flatten(out, self._arrays) != structure:
            raise TypeError("`out` must have the structure of the gradient, with arrays for leaves")
        self._names = paths(structure, "gradient")
        self._first = first

    def taken(
        self, results: Sequence[Array], complexes: Collection[int], given: Sequence[Any]
    ) -> list[Array]:
        """``results`` with those of ``out`` in their places, where the program can write there.

        Raises:
            DiagnosticError: GC0551 to GC0557, with every array that does not fit.
        """
        found = []
        parts = results[self._first :]
        for number, (made, array) in enumerate(zip(parts, self._arrays, strict=True), self._first):
            last = as_complex(made) if number in complexes else made
            found += misfits(self._names[number - self._first], array, last.shape, last.dtype)
        if not found:
            outs = list(zip(self._names, self._arrays, strict=True))
            found = crossings(outs, [("an argument", array) for array in given])
        if found:
            raise DiagnosticError(found)
        return [
            *results[: self._first],
            *(
                array if is_plain(array) and number not in complexes else made
                for number, (made, array) in enumerate(
                    zip(parts, self._arrays, strict=True), self._first
                )
            ),
        ]

    def filled(self, results: Sequence[Any]) -> list[Any]:
        """``results``, with the arrays of ``out`` in place of the gradient."""
        for array, made in zip(self._arrays, results[self._first :], strict=True):
            if made is not array:
                array[...] = made
        return [*results[: self._first], *self._arrays]
