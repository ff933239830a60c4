"""``net.verify()``: every obligation of one compilation, discharged and reported.

The program is lowered and put through the very pipeline that compiles it; what each step made is compared with what it
got. Where the shapes are too large to draw random points cheaply, points are drawn at smaller dimensions
(``Report.probe_dims``), and verdicts say so.

Non-goals: how a verdict is found (``passes.prove_*``), how reports look.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradc._version import __version__
from gradc.ir.core import Function
from gradc.ir.equal import PLACES, fingerprint
from gradc.passes.pipeline import Run, run_pipeline
from gradc.passes.prove import Subject, prove
from gradc.passes.prove_point import seed_of
from gradc.passes.prove_report import Report, certificate
from gradc.passes.prove_shapes import probe_dims
from gradc.runtime.compile import Options, compile_options, pipeline_options
from gradc.runtime.data import write_text

if TYPE_CHECKING:
    from gradc.runtime.model import Model

# What a dimension without a value is, when nobody says.
STAND_IN = 3
TRUSTED = (
    "the meanings of the ops (ir/ops, `evaluate`), in which forward programs are understood",
    "the table of derivatives of scalar functions (ir/dual.py)",
    "NumPy's integer arithmetic and python-flint's balls",
    "LLVM and the hardware below the loop programs",
)


class Verified(Report):
    """A Report that can be written to files."""

    def to_json(self, path: str | Path) -> None:
        """Writes the certificate: everything in the report, and its digest."""
        write_text(Path(path), json.dumps(certificate(self), indent=1, sort_keys=True) + "\n")


def verify_model(
    model: Model,
    *,
    wrt: str | tuple[str, ...] = "params",
    budget: int | str | None = None,
    points: int | None = None,
) -> Verified:
    """Verifies the gradients of ``model`` as ``value_and_grad`` compiles them.

    Raises:
        DiagnosticError: for whatever keeps the model from being compiled.
    """
    start = time.perf_counter()
    options = compile_options(budget=budget)
    names = model.select(wrt) or model.select("inputs")
    dims, chosen = all_dims(model)
    real = _compiled(model, dims, names, options)
    small, _ = probe_dims(dims, lambda d: model.lower(d).function)
    probe = real if small == dims else _compiled(model, small, names, options)
    subject = Subject(names, real, probe, dims, small)
    seed = seed_of(real.source, real.after("differentiate"))
    found = prove(subject, seed, points)
    program = model.program
    return Verified(
        model=model.name,
        file=[source.name for source in program.report.sources][-1],
        source_digest=program.digest,
        program_digest=fingerprint(real.source, PLACES),
        plan_digest=fingerprint(real.plan, PLACES),
        dims=dims,
        chosen=chosen,
        probe_dims=small,
        precision=model.precision,
        options={"wrt": ",".join(names), "budget": str(options.budget)},
        seed=seed,
        versions={
            "gradc": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        verdicts=tuple(found.verdicts),
        accuracy=(),
        notes=tuple(found.notes),
        trusted=TRUSTED,
        seconds={**found.seconds, "total": time.perf_counter() - start},
    )


def all_dims(model: Model) -> tuple[dict[str, int], tuple[str, ...]]:
    """Every dimension of the model, and which of them were chosen here for want of a value."""
    known = {name: n for name, n in model.signature.dims.items() if n is not None} | model.dims
    chosen = tuple(name for name in model.signature.dims if name not in known)
    return {**known, **dict.fromkeys(chosen, STAND_IN)}, chosen


def _compiled(
    model: Model, dims: Mapping[str, int], names: tuple[str, ...], options: Options
) -> Run:
    """The pipeline's records for ``dims``."""
    function = model.lower(dims, training=True).function
    derive: Callable[[Function], Function] = model.gradient_of(names)
    return run_pipeline(function, pipeline_options(derive, options))
