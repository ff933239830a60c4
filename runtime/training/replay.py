"""Which step of a run broke its weights: the steps since the last checkpoint, trained again.

A step whose loss or gradients are not finite is stopped before it changes anything; what is left is
an update that is not finite though its gradients are, and steps that are not guarded.

Non-goals: naming the operation (``reports.culprit``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.model.state import StoppedStep, TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.training.progress import Progress, Settings
from gradc.runtime.training.watch import are_finite, broken_update


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that can be trained again. ``step_of`` is the step for so many rows, of one rank alone,
    with the same parts and so the same bits; ranks that hold parts of parameters train again
    together. ``origin`` is what begins to be not finite in a step on given rows.
    """

    settings: Settings
    train: Samples
    step_of: Callable[[int], TrainStep]
    origin: Callable[[TrainState, Array], Diagnostic | None]

    def culprit(self, state: TrainState, at: Progress, last: int) -> Diagnostic | None:
        """What went wrong up to step ``last``, from ``state`` on, which stands ``at``: the first
        update that is not finite, or the operation that made its gradient so, or that of the last
        step.
        """
        while True:
            order = permutation(self.settings.seed, at.epoch, self.train.count)
            rows = order[at.position : at.position + self.settings.batch]
            if not len(rows):
                at.epoch, at.position = at.epoch + 1, 0
                continue
            at.step, at.position = at.step + 1, at.position + len(rows)
            before = TrainState({n: a.copy() for n, a in state.arrays.items()}, state.trained)
            step = self.step_of(len(rows))
            try:
                step(state, **self.train.take(step.rows_of(rows)))
            except StoppedStep:
                return _at(at.step, last, self.origin(before, rows))
            is_whole = _are_finite(step, state)
            if not is_whole or at.step >= last:
                found = self.origin(before, rows)
                if found is None and not is_whole:
                    return broken_update(at.step)
                return _at(at.step, last, found)


def _are_finite(step: TrainStep, state: TrainState) -> bool:
    """Whether all parameters are, whichever rank holds them; ranks that hold parts all call."""
    own = are_finite(state.params)
    if step.world is None or not step.layout.is_cut:
        return own
    return not step.world.total(np.array([not own], float), step.layout.ranks).any()


def _at(number: int, last: int, found: Diagnostic | None) -> Diagnostic | None:
    """``found``, with the number of its step where that is not the one which is spoken of."""
    if found is None or number >= last:
        return found
    return replace(found, message=f"step {number}: {found.message}")
