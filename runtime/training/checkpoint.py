"""Checkpoints of a training run: one self-checking file each, written so that a kill at any moment
loses nothing.

A checkpoint is a ``.safetensors`` file ``step-000000000042.safetensors`` whose metadata holds the
run's state as JSON and a BLAKE2 digest of everything. It is written beside its final name, synced
and renamed, and counts as saved only after that. The newest two are kept; a damaged newest one
falls back to the one before, and says so.

Non-goals: what the state means (``runtime.training``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, warning
from gradc.runtime.files.data import Array, fail, map_safetensors
from gradc.runtime.files.tensors import ArrayType, save_each, types_of

FORMAT = 1
KEPT = 2
_NAME = re.compile(r"step-(\d{12})\.safetensors")
_STALE = re.compile(
    r"\.(step-\d{12}\.safetensors|params\.safetensors|run\.json|metrics\.jsonl)\..*\.tmp"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Arrays by name and the run's state, a JSON object. Arrays that were loaded lie in their file,
    read where they are looked at.
    """

    step: int
    arrays: dict[str, Array]
    state: dict[str, object]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint and drops all but the newest two. Durable when it returns.

    Raises:
        DiagnosticError: GC0573 if it cannot be written; earlier checkpoints are then untouched.
    """
    arrays = checkpoint.arrays
    each = ((name, arrays[name]) for name in sorted(arrays))
    return save_each_of(folder, checkpoint.step, checkpoint.state, types_of(arrays), each)


def save_each_of(
    folder: Path,
    step: int,
    state: Mapping[str, object],
    types: Mapping[str, ArrayType],
    arrays: Iterable[tuple[str, Array]],
) -> Path:
    """``save`` of arrays that come one by one, in order of their names.

    Raises:
        DiagnosticError: as ``save``; and what ``arrays`` raises, nothing being written.
    """
    text = json.dumps(state, sort_keys=True)
    metadata = {"format": str(FORMAT), "step": str(step), "state": text}
    digest = _Digest()
    path = folder / f"step-{step:012d}.safetensors"
    save_each(
        path,
        types,
        digest.following(arrays),
        lambda: {**metadata, "digest": digest.with_metadata(metadata)},
    )
    try:
        for old in _newest_first(folder)[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as problem:
        reason = problem.strerror or problem
        raise fail("GC0573", f"cannot remove old checkpoints of `{folder}`: {reason}") from None
    return path


def sweep(folder: Path) -> None:
    """Removes temporary files that a killed writer left behind."""
    try:
        for path in folder.iterdir():
            if _STALE.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as problem:
        reason = problem.strerror or problem
        raise fail("GC0573", f"cannot tidy the folder `{folder}`: {reason}") from None


def load_newest(folder: Path) -> tuple[Checkpoint, tuple[Diagnostic, ...]]:
    """The newest intact checkpoint, and a warning for each damaged newer one that was passed over.

    Raises:
        DiagnosticError: GC0575 if the folder holds no intact checkpoint.
    """
    passed_over: list[Diagnostic] = []
    for path in _newest_first(folder):
        try:
            return load(path), tuple(passed_over)
        except DiagnosticError as problem:
            reason = problem.diagnostics[0].message
            message = f"{reason}; falling back to the checkpoint before it"
            passed_over.append(warning("GC0576", message, None))
    found = f"{len(passed_over)} damaged ones" if passed_over else "none"
    help = "give --resume the --out folder of an earlier `gradc train`"
    raise fail("GC0575", f"no intact checkpoint in `{folder}` (found {found})", help)


def load(path: Path) -> Checkpoint:
    """One checkpoint. Raises DiagnosticError GC0574 if it is damaged or of an unknown format."""
    arrays, metadata = map_safetensors(path)
    digest = metadata.pop("digest", "")
    if metadata.get("format") != str(FORMAT) or digest != _digest(arrays, metadata):
        raise fail("GC0574", f"`{path}` is not an intact checkpoint: its digest does not match")
    try:
        state = json.loads(metadata["state"])
        return Checkpoint(int(metadata["step"]), arrays, state)
    except (KeyError, ValueError, RecursionError):
        raise fail("GC0574", f"`{path}` is not a checkpoint: it has no state of a run") from None


def _newest_first(folder: Path) -> list[Path]:
    try:
        return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        reason = problem.strerror or problem
        raise fail("GC0570", f"cannot look into the folder `{folder}`: {reason}") from None


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, intact or not; None if there is none."""
    names = _newest_first(folder)
    match = _NAME.fullmatch(names[0].name) if names else None
    return int(match[1]) if match else None


class _Digest:
    """BLAKE2 of names, types, shapes, bytes and metadata, independent of their order in the
    file: arrays are added in order of their names.
    """

    def __init__(self) -> None:
        self._found = hashlib.blake2b(digest_size=32)

    def add(self, name: str, array: Array) -> None:
        self._found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        self._found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def following(self, arrays: Iterable[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
        """``arrays``, added as they are taken."""
        for name, array in arrays:
            self.add(name, array)
            yield name, array

    def with_metadata(self, metadata: Mapping[str, str]) -> str:
        """The digest of what was added, and of ``metadata``."""
        found = self._found.copy()
        for key in sorted(metadata):
            found.update(f"{key}\0{metadata[key]}\0".encode())
        return found.hexdigest()


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    found = _Digest()
    for name in sorted(arrays):
        found.add(name, arrays[name])
    return found.with_metadata(metadata)
