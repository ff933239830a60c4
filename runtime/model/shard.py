"""A model cut along one of its dimensions among ranks: parameters that have it are cut, and what is
added up along it is added up over all ranks (tensor parallel).

    shard = Shard.parsed(net, "H=2")
    whole, axes, cut = shard.cut({})       # ``cut.compose(cut.part)`` is what each rank runs

Hidden dimensions of two products that follow each other, and heads of attention, are cut in this
way: one sum over ranks forward and one back for each pair (Shoeybi et al. 2019, section 3).

Non-goals: training with it; dimensions that are compared or normalised along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradc.frontend.model.models import ModelIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.ir.tensor.core import Function, TensorType
from gradc.passes.training.accumulate import Accumulation, accumulation
from gradc.passes.training.accumulate_batch import along_dim, batch_axes
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import listed


@dataclass(frozen=True)
class Shard:
    """``model`` cut along dimension ``dim`` among ``ranks`` ranks."""

    model: Model
    dim: str
    ranks: int

    @staticmethod
    def parsed(model: Model, text: str) -> Shard:
        """``H=2``. Raises DiagnosticError GC0564 for anything else, or no dimension."""
        name, equals, count = text.partition("=")
        if not (equals and name.isidentifier() and count.isdecimal() and 0 < int(count) < 1 << 20):
            help = "write NAME=RANKS, such as --shard-dim H=2"
            message = f"--shard-dim {text}: not a dimension and a number of ranks"
            raise DiagnosticError([error("GC0564", message, None, help=help)])
        known = list(model.signature.dims)
        if name not in known:
            help = did_you_mean(name, known) or f"there are {listed(known)}"
            message = f"there is no dimension `{name}`"
            raise DiagnosticError([error("GC0564", message, None, help=help)])
        return Shard(model, name, int(count))

    def cut(self, dims: Mapping[str, int]) -> tuple[ModelIR, dict[str, int], Accumulation]:
        """The whole model at ``dims``, the axes that are cut, by parameter and input, and the
        program of one rank.

        Raises:
            DiagnosticError: GC0824 where the dimension cannot be cut, with the op.
        """
        model, refuse = self.model, along_dim(self.dim)
        whole = model.lower(dims, training=True)
        size = whole.dims[self.dim]
        if size % self.ranks:
            raise refuse(f"{size} is no multiple of {self.ranks} ranks", None)
        fewer = Model(
            model.program,
            model.name,
            {**whole.dims, self.dim: size // self.ranks},
            model.precision,
        )
        part = fewer.lower({}, training=True).function
        axes = batch_axes(_types(whole.function), _types(part), self.ranks, refuse)
        if not axes:
            raise refuse("no parameter or input has it", None)
        names = list(model.select("params"))
        made = accumulation(
            whole.function,
            axes,
            names,
            self.ranks,
            ranks=self.ranks,
            shares_statistics=True,
            refuse=refuse,
        )
        return whole, axes, made


def _types(function: Function) -> dict[str, TensorType]:
    pairs = zip(function.parameters, function.block.parameters, strict=True)
    return {slot.name: value.type for slot, value in pairs}
