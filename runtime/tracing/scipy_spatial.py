"""Rules for distances between points in scipy.spatial.distance.

The slope of a distance that is 0 is 0, as that of ``numpy.linalg.norm``.

Non-goals: metrics with parameters, and of truth values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.runtime.tracing.foreign import scipy
from gradc.runtime.tracing.scipy_special import floats
from gradc.runtime.tracing.trace import Trace, refuse

_METRICS = {
    "euclidean": lambda gap: np.linalg.norm(gap, axis=-1),
    "sqeuclidean": lambda gap: np.sum(gap * gap, axis=-1),
    "cityblock": lambda gap: np.sum(np.abs(gap), axis=-1),
    "chebyshev": lambda gap: np.max(np.abs(gap), axis=-1),
}


def _between(t: Trace, first: Any, second: Any, metric: Any, name: str) -> Any:
    x, y = floats(t, first), floats(t, second)
    if metric not in _METRICS:
        help = f"those that are: {', '.join(_METRICS)}"
        message = f"scipy.spatial.distance.{name} with metric={metric!r} cannot be traced"
        raise refuse("GC0560", message, help)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise refuse("GC0558", f"{name} takes two rows of points, not {x.shape} and {y.shape}")
    return _METRICS[metric](x[:, None, :] - y[None, :, :]).astype(np.float64)


@scipy("spatial.distance.cdist")
def _cdist(t: Trace, XA: Any, XB: Any, metric: Any = "euclidean") -> Any:
    return _between(t, XA, XB, metric, "cdist")


@scipy("spatial.distance.pdist")
def _pdist(t: Trace, X: Any, metric: Any = "euclidean") -> Any:
    table = _between(t, X, X, metric, "pdist")
    return table[np.triu_indices(table.shape[0], 1)]
