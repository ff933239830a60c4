"""A verdict on several ranks: whether together they compute the gradient of the whole batch.

The program that is cut and put through the pipeline is compared, ranks and messages and all, with
the derivative of the model (``passes.prove.programs.ranks``), at a batch of two samples a part.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradc.ir.tensor.core import Function
from gradc.passes.budget import run_within
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.programs.ranks import CutProgram, ranks_verdict
from gradc.passes.prove.report import Verdict
from gradc.runtime.files.batches import batch_dim
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import Options, pipeline_options

_SAMPLES = 2  # of a part, at least, so that a mean over one is told from a sum
_POINTS = 2


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
    run = run_within(cut.part, asked, options.budget)
    last = [r.artifact for r in run.records if isinstance(r.artifact, Function)][-1]
    gradient = value_and_grad(whole.function, list(model.select("params")))
    subject = CutProgram(gradient, last, step.deal, axes, dict(whole.dims))
    return ranks_verdict(subject, seed, _POINTS)
