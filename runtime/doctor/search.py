"""Two more trials: which learning rate suits, and whether one batch can be learned by heart.

The range test is Smith's (2017, arXiv:1506.01186): the rate grows from step to step until the loss
breaks away. What it suggests is then trained beside the rate that is set, from the same start on
the same batches.

Non-goals: why a training fails (``checkup``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc.runtime.doctor.trial import Bench, Change, Track
from gradc.runtime.files.batches import Samples
from gradc.runtime.model.step import TrainStep

LOWEST, HIGHEST, STEPS, TRIED = 1e-6, 10.0, 100, 50
# How far above its least the smoothed loss may be before the test ends.
_AWAY = 4.0


@dataclass(frozen=True)
class Rates:
    """The curve of a range test, and the rates that were trained from the start afterwards.

    ``tried`` holds a rate and the loss it ends at; ``suggested`` is the best of them, None if none
    is better than what is set, whose loss is ``loss``.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    tried: tuple[tuple[float, float], ...]
    suggested: float | None
    current: float | None
    loss: float

    def to_json(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "curve": [{"rate": r, "loss": v} for r, v in zip(self.rates, self.losses, strict=True)],
            "tried": [{"rate": r, "loss": v} for r, v in self.tried],
            "suggested": self.suggested,
            "set": {"rate": self.current, "loss": self.loss},
        }


def find_rate(step: TrainStep, samples: Samples, batch: int, seed: int = 0) -> Rates:
    """The range test, and the trials of what it suggests."""
    bench = Bench(step, samples, batch, seed)
    rates = tuple(float(r) for r in np.geomspace(LOWEST, HIGHEST, STEPS))
    track = bench.run(Change(rates=rates, stops_above=_AWAY), STEPS)
    count = len(track.losses)
    smooth = _smoothed(track.losses)
    current = bench.run(Change(), TRIED)
    chosen = _places(rates[:count], smooth)
    tried = tuple((r, bench.run(Change(fixed_rate=r), TRIED).end) for r in chosen)
    best = min(tried, key=lambda pair: pair[1], default=(0.0, math.inf))
    suggested = best[0] if best[1] < current.end else None
    optimizer = step.optimizer.rate if step.schedule is None else None
    return Rates(rates[:count], tuple(track.losses), tried, suggested, optimizer, current.end)


def _smoothed(losses: list[float]) -> list[float]:
    found: list[float] = []
    for loss in losses:
        found.append(loss if not found else 0.8 * found[-1] + 0.2 * loss)
    return found


def _places(rates: tuple[float, ...], smooth: list[float]) -> list[float]:
    """Where the smoothed loss is least, and parts of that."""
    told = [v for v in smooth if math.isfinite(v)]
    if len(told) < 3:
        return []
    least = int(np.argmin(told))
    return sorted({float(f"{rates[least] / k:.1g}") for k in (1, 3, 10, 30)})


@dataclass(frozen=True)
class Overfit:
    """A training on one batch alone: its losses."""

    samples: int
    losses: tuple[float, ...]
    end: float

    @property
    def is_learned(self) -> bool:
        """Whether nine tenths of the loss are gone."""
        return bool(self.losses) and self.end < 0.1 * self.losses[0]

    def to_json(self) -> dict[str, Any]:
        """For a program to read."""
        first = self.losses[0] if self.losses else None
        return {
            "samples": self.samples,
            "first": first,
            "end": self.end,
            "learned": self.is_learned,
        }


def overfit_batch(step: TrainStep, samples: Samples, batch: int, seed: int = 0) -> Overfit:
    """Trains on the first batch alone, 300 steps: a training that is well can learn it by heart."""
    whole = Bench(step, samples, batch, seed)
    inputs = whole.first()
    few = {n: inputs[n] for n in samples.batched}
    count = len(next(iter(few.values())))
    bench = Bench(step, replace(samples, batched=few, count=count), count, seed)
    track: Track = bench.run(Change(), 300)
    return Overfit(count, tuple(track.losses), track.end)
