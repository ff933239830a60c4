"""What a run was asked for and where it stands, and whether another one is the same.

Non-goals: files (``checkpoint``), training (``loop``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from gradc.runtime.files.data import fail
from gradc.runtime.files.tensors import ArrayType
from gradc.runtime.native.arrays import Array
from gradc.runtime.ranks.world import MpiRanks


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was asked for; a resumed run must agree in all but ``epochs``."""

    program: str
    entry: str
    dims: dict[str, int]
    precision: str
    recipe: dict[str, Any]
    batch: int
    epochs: int
    seed: int
    samples: int
    data: str  # digest of what is trained on
    valid: str | None  # digest of what is validated on


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``position`` counts samples done in ``epoch``."""

    epoch: int = 0
    position: int = 0
    step: int = 0
    loss: float = math.nan
    valid: dict[str, float] | None = None


def spread(world: MpiRanks, progress: Progress) -> Progress:
    """Where rank 0 stands; every rank calls."""
    return Progress(**json.loads(world.spread_text(json.dumps(asdict(progress)))))


def progress_of(folder: Path, state: Mapping[str, object]) -> Progress:
    """Where a checkpoint stands. Raises DiagnosticError GC0805 if its state is not that of a
    run.
    """
    wanted: dict[str, Any] = {"epoch": int, "position": int, "step": int, "loss": (int, float)}
    fits = isinstance(state, dict) and set(state) == {*wanted, "valid"}
    if fits and all(isinstance(state[key], kinds) for key, kinds in wanted.items()):
        valid = state["valid"]
        if valid is None or isinstance(valid, dict):
            return Progress(**cast("dict[str, Any]", state))
    raise fail("GC0805", f"the checkpoint in `{folder}` holds another state than that of a run")


def difference(key: str, known: object, wanted: object) -> str:
    if key not in ("data", "valid"):
        return f"{key} was {known!r}, now {wanted!r}"
    what = "the data" if key == "data" else "the validation data"
    if known is None or wanted is None:
        return f"{what} were {'not ' if known is None else ''}part of it"
    return f"{what} hold other numbers than then"


def compare_arrays(
    folder: Path, found: Mapping[str, Array], wanted: Mapping[str, ArrayType]
) -> None:
    """Raises DiagnosticError GC0805 unless a checkpoint holds arrays of the names, shapes and types
    of the step.
    """
    if set(found) != set(wanted):
        names = ", ".join(f"`{name}`" for name in sorted(set(found) ^ set(wanted))[:4])
        message = f"`{folder}` holds other parameters than the program: {names}"
        raise fail("GC0805", message)
    for name, type_ in wanted.items():
        kept = found[name]
        if (kept.shape, kept.dtype) != (type_.shape, type_.dtype):
            message = (
                f"`{folder}` holds `{name}` as {kept.dtype.name}{list(kept.shape)}; "
                f"the program trains {type_.dtype.name}{list(type_.shape)}"
            )
            raise fail("GC0805", message)
