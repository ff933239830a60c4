"""What would help where a budget cannot be kept: a smaller batch, bf16, one thread, each with its
figure.

``remedies`` goes around whatever may raise ``BudgetError`` and adds to it. Every figure is the peak
of a Plan: the program is planned again as it would be compiled, with the most frugal recomputation.
Programs of more than ``MOST_OPS`` ops get the refusal without figures, since planning them a few
times more takes longer than reading it.

Non-goals: keeping budgets (``passes.budget``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.core import Function
from gradc.runtime.files.batches import batch_dim
from gradc.runtime.native.compile import Options, pipeline_options

if TYPE_CHECKING:
    from gradc.passes.budget import BudgetError
    from gradc.passes.pipeline import Derivative
    from gradc.runtime.model.model import Model

MOST_OPS = 400
# What saves less than the rest of this share is not mentioned.
_WORTH = 0.99

Program: TypeAlias = "tuple[Function, Derivative, Derivative | None]"
# A model and its dimensions to source, derivative and gradient, as `compile_cached` takes them.
Make: TypeAlias = "Callable[[Model, Mapping[str, int]], Program]"


@contextmanager
def remedies(model: Model, dims: Mapping[str, int], options: Options, make: Make) -> Iterator[None]:
    """Adds to a ``BudgetError`` what would help. ``make`` is how the program inside is made."""
    if options.budget is None:
        yield
        return
    try:
        yield
    except DiagnosticError as problem:
        # Loaded only where a budget was asked for and refused.
        from gradc.passes.budget import BudgetError

        if isinstance(problem, BudgetError):
            problem.add(_Search(problem, model, dims, options, make).found())
        raise


class _Search:
    def __init__(
        self,
        problem: BudgetError,
        model: Model,
        dims: Mapping[str, int],
        options: Options,
        make: Make,
    ) -> None:
        self.problem = problem
        self.model = model
        self.dims = dict(dims)
        self.options = options
        self.make = make

    def found(self) -> list[str]:
        """A line for each remedy that saves anything."""
        source, _, _ = self.make(self.model, self.dims)
        if len(source.block.body) > MOST_OPS:
            return ["a smaller batch, precision bf16, or fewer threads need less"]
        return [line for line in (self._batch(), self._bf16(), self._threads()) if line]

    def _smallest(self, model: Model, dims: Mapping[str, int], options: Options) -> int:
        from gradc.passes.budget import smallest_peak

        source, derive, gradient = self.make(model, dims)
        return smallest_peak(source, pipeline_options(derive, options, gradient=gradient))

    def _said(self, what: str, peak: int) -> str:
        from gradc.passes.budget import shown

        if peak > _WORTH * self.problem.smallest:
            return ""
        fits = peak <= self.problem.budget
        return f"{what} fits: {shown(peak)}" if fits else f"{what} needs at least {shown(peak)}"

    def _batch(self) -> str:
        """The largest batch that fits if peaks grow evenly with it, or what a batch of 1 takes."""
        try:
            name = batch_dim(self.model.program.signature(self.model.name))
        except DiagnosticError:
            return ""
        size = self.dims.get(name, 1)
        if size < 2:
            return ""
        one = self._at(name, 1)
        if one is None or one > self.problem.budget:
            return "" if one is None else self._said(f"{name} = 1", one)
        slope = (self.problem.smallest - one) / (size - 1)
        guess = min(size - 1, 1 + int((self.problem.budget - one) / max(slope, 1e-9)))
        peak = self._at(name, guess)
        if peak is None or peak > self.problem.budget:
            guess, peak = 1, one
        return self._said(f"{name} = {guess}", peak)

    def _at(self, name: str, size: int) -> int | None:
        try:
            return self._smallest(self.model, {**self.dims, name: size}, self.options)
        except DiagnosticError:
            return None  # the program needs more samples than that, or parts of them

    def _bf16(self) -> str:
        from gradc.runtime.model.model import Model

        if self.model.precision not in ("f32", "f64"):
            return ""
        try:
            narrow = Model(self.model.program, self.model.name, self.model.dims, "bf16")
            return self._said("precision bf16", self._smallest(narrow, self.dims, self.options))
        except DiagnosticError:
            return ""

    def _threads(self) -> str:
        if self.options.thread_count < 2:
            return ""
        single = replace(self.options, threads=1)
        return self._said("threads = 1", self._smallest(self.model, self.dims, single))
