"""A verdict on several ranks: whether together they compute the gradient of the whole batch.

The program that is cut and put through the pipeline is compared, ranks and messages and all, with
the derivative of the model (``passes.prove.programs.ranks``), at a batch of two samples a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradc.frontend.model.models import ModelIR
from gradc.ir.ops.axes import Place, at_axes
from gradc.ir.tensor.core import Function
from gradc.passes.budget import run_within
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options as PipelineOptions
from gradc.passes.prove.programs.ranks import CutProgram, ranks_verdict
from gradc.passes.prove.report import Verdict
from gradc.passes.training.ranks import Deal
from gradc.passes.training.together import Held
from gradc.runtime.files.batches import batch_dim
from gradc.runtime.model.model import Model
from gradc.runtime.model.shard import Shard
from gradc.runtime.native.compile import Options, pipeline_options

_SAMPLES = 2  # of a part, at least, so that a mean over one is told from a sum
_POINTS = 2


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a program is shared among ranks: ``ranks`` of them with ``accumulate`` parts of a batch
    each, parameters cut along a dimension (``shard``, such as ``H=2``), both on a grid, or not at
    all.
    """

    ranks: int | None = None
    accumulate: int = 1
    shard: str | None = None

    @property
    def asked(self) -> dict[str, str]:
        """What was asked for, as a replay needs it."""
        found = {}
        if self.ranks is not None:
            found = {"ranks": str(self.ranks), "accumulate": str(self.accumulate)}
        return found if self.shard is None else {**found, "shard": self.shard}

    @staticmethod
    def read(asked: Mapping[str, str]) -> Sharing:
        """Reads ``asked`` back."""
        ranks = int(asked["ranks"]) if "ranks" in asked else None
        return Sharing(ranks, int(asked.get("accumulate", "1")), asked.get("shard"))

    def rows(
        self, model: Model, dims: Mapping[str, int], options: Options, seed: int
    ) -> list[Verdict]:
        """A verdict on each."""
        if self.ranks is not None and self.shard is not None:
            return [grid_row(model, dims, self, options, seed)]
        found = []
        if self.ranks is not None:
            found.append(ranks_row(model, dims, self.ranks, self.accumulate, options, seed))
        if self.shard is not None:
            found.append(shard_row(model, dims, self.shard, options, seed))
        return found


def ranks_row(
    model: Model,
    dims: Mapping[str, int],
    ranks: int,
    accumulate: int,
    options: Options,
    seed: int,
) -> Verdict:
    """The verdict for ``ranks`` ranks with ``accumulate`` parts each, at ``dims`` but for the
    batch.

    Raises:
        DiagnosticError: GC0802 if no dimension counts samples, GC0807 if samples are coupled.
    """
    step = model.train_step("sgd(lr=1)", accumulate=accumulate, ranks=ranks)
    name = batch_dim(model.program.signature(model.name))
    whole = model.lower({**dims, name: _SAMPLES * step.deal.count}, training=True)
    axes, cut = step.accumulation(whole)
    asked = pipeline_options(cut.compose, options, gradient=cut.gradient)
    return _verdict(model, whole, at_axes(axes), (cut.part, asked), step.deal, options, seed)


def shard_row(
    model: Model, dims: Mapping[str, int], text: str, options: Options, seed: int
) -> Verdict:
    """The verdict for parameters cut along a dimension among ranks (``--shard-dim H=2``).

    Raises:
        DiagnosticError: GC0564 for the text, GC0824 where the dimension cannot be cut.
    """
    shard = Shard.parsed(model, text)
    size = model.lower(dims).dims.get(shard.dim, 0)
    if size % shard.ranks:  # a smaller size was chosen, to draw points for
        dims = {**dims, shard.dim: shard.ranks * max(2, size // shard.ranks)}
    cut, names = shard.at(dims), list(model.select("params"))

    def gradient(function: Function) -> Function:
        return value_and_grad(function, names)

    asked = pipeline_options(lambda f: cut.share(gradient(f)), options, gradient=gradient)
    made, along = (cut.whole.function, asked), f"`{shard.dim}`"
    return _verdict(model, cut.whole, cut.places, made, shard.deal, options, seed, along)


def grid_row(
    model: Model, dims: Mapping[str, int], sharing: Sharing, options: Options, seed: int
) -> Verdict:
    """The verdict for groups of ranks that share batches, and hold parts of parameters in a group.

    Raises:
        DiagnosticError: as ``ranks_row`` and ``shard_row``; GC0801 for ranks that are no groups.
    """
    assert sharing.shard is not None, "it is a grid"
    shard = Shard.parsed(model, sharing.shard)
    step = model.train_step(
        "sgd(lr=1)",
        accumulate=sharing.accumulate,
        ranks=sharing.ranks,
        shard={shard.dim: shard.ranks},
    )
    if step.deal.count == 1:
        return shard_row(model, dims, sharing.shard, options, seed)
    size = model.lower(dims).dims.get(shard.dim, 0)
    if size % shard.ranks:  # a smaller size was chosen, to draw points for
        dims = {**dims, shard.dim: shard.ranks * max(2, size // shard.ranks)}
    name = batch_dim(model.program.signature(model.name))
    whole = model.lower({**dims, name: _SAMPLES * step.deal.count}, training=True)
    axes, cut = step.accumulation(whole)
    asked = pipeline_options(cut.compose, options, gradient=cut.gradient)
    held = Held(shard.at(whole.dims).places, shard.ranks)
    made, along = (cut.part, asked), f"`{shard.dim}`"
    return _verdict(model, whole, at_axes(axes), made, step.deal, options, seed, along, held)


def _verdict(
    model: Model,
    whole: ModelIR,
    places: Mapping[str, Place],
    made: tuple[Function, PipelineOptions],
    deal: Deal,
    options: Options,
    seed: int,
    along: str = "",
    held: Held | None = None,
) -> Verdict:
    """On what the pipeline, asked for it, makes of a program, against the derivative of
    ``whole``.
    """
    run = run_within(*made, options.budget)
    last = [r.artifact for r in run.records if isinstance(r.artifact, Function)][-1]
    gradient = value_and_grad(whole.function, list(model.select("params")))
    subject = CutProgram(gradient, last, deal, places, dict(whole.dims), along, held)
    return ranks_verdict(subject, seed, _POINTS)
