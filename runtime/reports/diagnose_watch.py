"""What a diagnosis watches while a program runs: which units of each ReLU were above zero for any
sample.

Non-goals: findings (``diagnose``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run_block
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, DType, Op, Span
from gradc.runtime.native.arrays import Array


@dataclass
class Fired:
    """Which units of one ReLU were above zero for any sample; a step of a loop adds samples."""

    op: Op
    alive: Array
    samples: int

    @property
    def summary(self) -> tuple[Op, float, int]:
        share = 1.0 - float(self.alive.mean()) if self.alive.size else 0.0
        return self.op, share, self.samples


class Watched(NumpyArrays):
    """The reference interpreter's arrays; sees every ReLU of the forward sweep, those inside loops
    too.
    """

    def __init__(self, floats: DType) -> None:
        super().__init__(floats)
        self.fired: dict[tuple[Span | None, str], Fired] = {}

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        return run_block(self, block, operands, self.observe)

    def observe(self, op: Op, results: Sequence[Any]) -> None:
        if not lookup(op.name).traits.rectifies or op.replica or np.ndim(results[0]) < 2:
            return
        # Units are columns, or the channels of images.
        values = np.moveaxis(np.asarray(results[0]), 1 if np.ndim(results[0]) == 4 else -1, -1)
        rows = (values > 0).reshape(-1, values.shape[-1])
        # What the reverse sweep computes again has the span and scope of the original.
        alive = np.asarray(rows.any(axis=0))
        seen = self.fired.setdefault((op.span, op.scope), Fired(op, alive, 0))
        if seen.alive.shape == alive.shape:
            seen.alive = seen.alive | alive
            seen.samples += len(rows)
