"""What is said before a training begins: warnings of the program at these sizes, of the optimiser,
and of the data.

Non-goals: refusing anything; trying anything (``checkup``).
"""

from __future__ import annotations

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.doctor.certain import warnings_of
from gradc.runtime.doctor.data import facts
from gradc.runtime.doctor.roles import roles_of
from gradc.runtime.files.batches import Samples
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array

# Samples of which this share stands in both sets are told of.
_SHARED = 0.01
_HELP = {
    "constant": "look at how the data are made",
    "unscaled": "give every feature mean 0 and deviation 1",
    "target-scale": "scale the targets, and the outputs back",
    "target-outlier": "look at these rows",
    "imbalance": "weigh the samples of rare classes more, or draw them more often",
}


def before(step: TrainStep, train: Samples, valid: Samples | None, batch: int) -> list[Diagnostic]:
    """Warnings about a training that is about to begin."""
    model = step.model
    rows = np.arange(min(batch, train.count))
    dims = model.bind({name: array.shape for name, array in train.take(rows).items()})
    found = warnings_of(step, dims)
    roles = roles_of(flatten(model.lower(dims).function))
    for fact in facts(train, roles):
        found.append(warning("GC0813", fact.message, None, help=_HELP[fact.kind]))
    shared = 0 if valid is None else _in_both(train, valid)
    if valid is not None and shared > max(1.0, _SHARED * valid.count):
        message = f"{shared} of {valid.count} validation samples are training samples as well"
        help = "validate on samples that are not trained on"
        found.append(warning("GC0813", message, None, help=help))
    return found


def _in_both(train: Samples, valid: Samples) -> int:
    """How many samples of ``valid`` stand in ``train``, all arrays equal; ids alone say nothing."""
    if not any(a.dtype.kind == "f" and a.ndim > 1 for a in valid.batched.values()):
        return 0
    known = set(_keys(train))
    return sum(key in known for key in _keys(valid))


def _keys(samples: Samples) -> list[bytes]:
    parts: list[Array] = [
        np.ascontiguousarray(samples.batched[name]).reshape(samples.count, -1)
        for name in sorted(samples.batched)
    ]
    return [b"".join(part[row].tobytes() for part in parts) for row in range(samples.count)]
