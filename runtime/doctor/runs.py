"""What a folder of `gradc train` says of a run: its settings, and the losses it wrote.

Nothing in such a folder is believed: what is missing or of another type is refused.

Non-goals: resuming (``runtime.training.loop``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradc.runtime.files.data import fail
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.training import metrics
from gradc.runtime.training.loop import METRICS_FILE, RUN_FILE
from gradc.runtime.training.progress import Settings

_KINDS: dict[str, Any] = {
    "program": str,
    "entry": str,
    "dims": dict,
    "precision": str,
    "recipe": dict,
    "batch": int,
    "epochs": int,
    "seed": int,
    "samples": int,
    "data": str,
    "valid": (str, type(None)),
}


@dataclass(frozen=True)
class PastRun:
    """A run: what it was asked for, its recipe, and its losses by step."""

    settings: Settings
    recipe: Recipe
    losses: tuple[tuple[int, float], ...]
    valid: tuple[tuple[int, float], ...]


def read_run(folder: Path) -> PastRun:
    """The run in ``folder``.

    Raises:
        DiagnosticError: GC0805 if it holds none, or one whose settings are no settings.
    """
    path = folder / RUN_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        help = "give --run the folder of an earlier `gradc train`"
        raise fail("GC0805", f"`{folder}` holds no run", help) from None
    fits = isinstance(known, dict) and all(
        isinstance(known.get(key), kinds) and not isinstance(known.get(key), bool)
        for key, kinds in _KINDS.items()
    )
    if not fits or not all(type(n) is int for n in known["dims"].values()):
        raise fail("GC0805", f"`{path}` is damaged: it does not say what the run was asked for")
    names = {f.name for f in fields(Recipe)}
    if not isinstance(known["recipe"].get("optimizer"), str) or not set(known["recipe"]) <= names:
        raise fail("GC0805", f"`{path}` is damaged: it names no optimiser")
    settings = Settings(**{key: known[key] for key in _KINDS})
    rows = metrics.records(folder / METRICS_FILE)
    losses = tuple((r["step"], r["loss"]) for r in rows if _is_number(r.get("loss")))
    valid = tuple((r["step"], r["valid_loss"]) for r in rows if _is_number(r.get("valid_loss")))
    return PastRun(settings, Recipe(**known["recipe"]), losses, valid)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
