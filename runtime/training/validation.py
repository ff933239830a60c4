"""What a model makes of samples that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradc.runtime.files.batches import Samples
from gradc.runtime.native.arrays import Array


def validated(
    forward: Callable[..., Mapping[str, Array]],
    params: Mapping[str, Array],
    samples: Samples,
    batch: int,
) -> dict[str, float]:
    """The mean loss, and the accuracy where the model outputs ``logits`` for class ids."""
    total, right, rated = 0.0, 0, 0
    for inputs in samples.batches(batch):
        results = forward(params, **inputs)
        count = len(next(iter(inputs[name] for name in samples.batched)))
        total += float(results["loss"]) * count
        labels = _labels(inputs, results.get("logits"))
        if labels is not None:
            right += int((results["logits"].argmax(-1) == labels).sum())
            rated += labels.size
    found = {"loss": total / samples.count}
    if rated:
        found["accuracy"] = right / rated
    return found


def _labels(inputs: Mapping[str, Any], logits: Array | None) -> Array | None:
    """The class ids that ``logits`` are for: the one integer input of the logits' shape without its
    last axis.
    """
    if logits is None or logits.ndim < 1:
        return None
    fitting = [a for a in inputs.values() if a.dtype.kind in "iu" and a.shape == logits.shape[:-1]]
    return fitting[0] if len(fitting) == 1 else None
