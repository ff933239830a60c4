"""The reference interpreter over torch tensors: torch's own differentiation of our programs, to
compare with.

Only meanings are shared with gradc; every derivative here is torch's. ``truncate`` and ``custom``
are not modelled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradc.ir.tensor.core import DType
from gradc.runtime.bench import with_torch

# Small arrays only: torch's threads would wait for each other most of the time.
torch.set_num_threads(1)


class TorchArrays(with_torch.TorchArrays):
    """Torch tensors that must have the types and indices that the program says."""

    def settle(self, x: Any, dtype: DType) -> Any:
        assert x.dtype == with_torch.DTYPES[dtype], f"{x.dtype} instead of {dtype}"
        return x

    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Any:
        assert bool(((ids >= 0) & (ids < table.shape[axis])).all()), "ids are drawn in range"
        return super().take(table, ids, axis, fill)


def to_torch(array: np.ndarray[Any, Any], needs_grad: bool = True) -> Any:
    """A leaf tensor of its own memory."""
    leaf = torch.tensor(array)
    return leaf.requires_grad_() if needs_grad and leaf.is_floating_point() else leaf
