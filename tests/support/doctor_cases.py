"""The trainings of ``tests/doctor``: read from their tables, run, and scored on data not seen.

A score is the skill over guessing: 1 is perfect, 0 as good as a constant; minus infinity where a
number is not finite or the training is refused. Classes are rated by the mean over classes of what
is right, numbers by the explained share of the variance, all else by the share of the loss at the
start that is gone.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.api import loads
from gradc.runtime.files.batches import permutation, samples_of
from gradc.runtime.files.ids import check_inputs
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import finite_or_fail
from tests.support.doctor_data import Arrays, drawn

FOLDER = Path(__file__).resolve().parent.parent / "doctor"


@dataclass(frozen=True)
class Case:
    """One training: a program, data and settings."""

    name: str
    program: str
    data: str = "clusters()"
    optimizer: str = "adamw(lr=3e-3)"
    schedule: str | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    loss_scale: float | str | None = None
    precision: str = "f32"
    batch: int = 32
    epochs: int = 15
    samples: int = 512
    rated: int = 0  # samples of a call when it is rated; all at once if 0
    dims: dict[str, int] = field(default_factory=dict)
    edit: tuple[str, ...] = ()
    kind: str = ""
    cause: tuple[str, ...] = ()
    reaches: float = 0.3
    source: str = ""
    well: dict[str, Any] = field(default_factory=dict)

    @property
    def repaired(self) -> Case:
        """The training with what repairs it."""
        edit = () if "program" in self.well else self.edit
        return replace(self, name=f"{self.name}, repaired", edit=edit, **self.well)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that a training step takes."""
        names = ("schedule", "clip_norm", "clip_value", "loss_scale")
        return {name: getattr(self, name) for name in names}

    def text(self) -> str:
        """The program's text, edited."""
        path = FOLDER / "programs" / f"{self.program}.grad"
        found = path.read_text(encoding="utf-8")
        for old, new in zip(self.edit[::2], self.edit[1::2], strict=True):
            assert old in found, f"{self.name}: `{old}` does not stand in {path.name}"
            found = found.replace(old, new)
        return found

    def model(self) -> Model:
        return loads(self.text(), dims=self.dims, precision=self.precision)

    def arrays(self, seed: int) -> tuple[Arrays, Arrays]:
        """What is trained on, and what is not."""
        found = drawn(self.data, seed, 2 * self.samples)
        train = {name: array[: self.samples] for name, array in found.items()}
        return train, {name: array[self.samples :] for name, array in found.items()}


def cases(table: str) -> dict[str, Case]:
    """The trainings of ``sick.toml``, ``sick_more.toml`` or ``healthy.toml`` by name."""
    rows = tomllib.loads((FOLDER / f"{table}.toml").read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        row["source"] = row.pop("from")
        for key in ("edit", "cause"):
            row[key] = tuple(row.get(key, ()))
        found[name] = Case(name, **row)
    return found


@dataclass(frozen=True)
class Trained:
    """The outcome of a training: losses of its steps, the skill it reached."""

    losses: tuple[float, ...]
    score: float


def trained(case: Case, seed: int) -> Trained:
    """Trains ``case`` as `gradc train` would, and scores it."""
    train, held = case.arrays(seed)
    net = case.model()
    try:
        finite_or_fail(train)
        check_inputs(net, train)
        step = net.train_step(case.optimizer, **case.recipe)
        return _run(case, net, step, train, held, seed)
    except DiagnosticError:
        return Trained((), -math.inf)


def _run(case: Case, net: Model, step: Any, train: Arrays, held: Arrays, seed: int) -> Trained:
    samples = samples_of(net.signature, train, "the data")
    state = step.init(net.init(seed))
    start = _loss(net, state.params, held, case.batch)
    losses = []
    for epoch in range(case.epochs):
        order = permutation(seed, epoch, samples.count)
        for at in range(0, samples.count - case.batch + 1, case.batch):
            loss, state = step(state, **samples.take(order[at : at + case.batch]))
            losses.append(float(loss))
    weights = state.params.values()
    if not all(np.isfinite(a).all() for a in weights if a.dtype.kind == "f"):
        return Trained(tuple(losses), -math.inf)
    return Trained(tuple(losses), _score(case, net, state.params, held, start))


def _loss(net: Model, params: Any, held: Arrays, batch: int) -> float:
    return float(net.forward()(params, **_first(held, max(batch, 2)))["loss"])


def _first(arrays: Arrays, count: int) -> Arrays:
    return {name: a[:count] for name, a in arrays.items()}


def _score(case: Case, net: Model, params: Any, held: Arrays, start: float) -> float:
    count = len(next(iter(held.values())))
    size = case.rated or count
    held = _first(held, min(count, 128)) if case.rated else held
    cuts = range(0, len(next(iter(held.values()))), size)
    parts = [net.forward()(params, **{n: a[i : i + size] for n, a in held.items()}) for i in cuts]
    found = {n: np.concatenate([p[n] for p in parts]) for n in parts[0] if n != "loss"}
    if "logits" in found and "y" in held:
        return _skill(found["logits"], held["y"])
    if "pred" in found:
        wanted, guessed = held["y"].reshape(-1), found["pred"].reshape(-1)
        error = float(np.mean((guessed.astype(float) - wanted) ** 2) / wanted.var())
        return 1 - error if math.isfinite(error) else -math.inf
    loss = _loss(net, params, held, case.batch)
    return (start - loss) / abs(start) if math.isfinite(loss) else -math.inf


def _skill(logits: Any, wanted: Any) -> float:
    if not np.isfinite(logits).all():
        return -math.inf
    guessed, kinds = logits.argmax(-1).reshape(-1), np.unique(wanted)
    flat = wanted.reshape(-1)
    right = float(np.mean([(guessed[flat == k] == k).mean() for k in kinds]))
    return (right - 1 / len(kinds)) / (1 - 1 / len(kinds))
