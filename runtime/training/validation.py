"""What a model makes of samples that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradc.runtime.files.batches import Samples
from gradc.runtime.native.arrays import Array


def _greatest(logits: Array) -> Array:
    found: Array = logits.argmax(-1)
    return found


def validated(
    forward: Callable[..., Mapping[str, Array]],
    params: Mapping[str, Array],
    samples: Samples,
    batch: int,
    best_class: Callable[[Array], Array] = _greatest,
) -> dict[str, float]:
    """The mean loss, and the accuracy where the model outputs ``logits`` for class ids;
    ``best_class`` is how the class is found that they speak for.
    """
    total, right, rated = 0.0, 0, 0
    for inputs in samples.batches(batch):
        results = forward(params, **inputs)
        count = len(next(iter(inputs[name] for name in samples.batched)))
        total += float(results["loss"]) * count
        labels = _labels(inputs, results.get("logits"))
        if labels is not None:
            right += int((best_class(results["logits"]) == labels).sum())
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
