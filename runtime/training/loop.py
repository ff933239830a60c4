"""The training loop: epochs of minibatches, validation, metrics, checkpoints, signals, resuming.

A run lives in a folder: ``run.json`` (what was asked for), ``metrics.jsonl`` (one object per step
and per epoch), checkpoints, and at the end ``params.safetensors``. Resuming continues from the
newest intact checkpoint and gives the
same bits as not having stopped: the state holds the step's arrays and the position in the epoch,
the order of samples is a function of seed and epoch, and metrics beyond the checkpoint are cut off
and written again.

Signals: the first SIGINT or SIGTERM finishes the step, saves and stops; SIGUSR1 saves and goes on.

Non-goals: the command line and what it prints (``runtime.commands.train``).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error, warning
from gradc.passes.training.step import SCALE
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.files.data import (
    fail,
    make_folder,
    write_text,
)
from gradc.runtime.files.tensors import ArrayType, save_each
from gradc.runtime.model.call import decode
from gradc.runtime.model.forward import Forward
from gradc.runtime.model.model import Model
from gradc.runtime.model.rank_forward import RankForward
from gradc.runtime.model.recipe import cut_of
from gradc.runtime.model.state import StoppedStep, TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.native.compile import compile_options
from gradc.runtime.ranks.world import MpiRanks
from gradc.runtime.training import checkpoint, metrics
from gradc.runtime.training.pace import Pace
from gradc.runtime.training.progress import (
    Progress,
    Settings,
    compare_arrays,
    difference,
    progress_of,
    spread,
)
from gradc.runtime.training.replay import Replay
from gradc.runtime.training.signals import Interrupted, signals
from gradc.runtime.training.validation import validated
from gradc.runtime.training.watch import CHUNK, Watch, moves, next_recorded

PARAMS_FILE = "params.safetensors"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
_HELP = (
    "lower the learning rate, clip the gradients with --clip-norm, or look at the data; "
    "`gradc diagnose` shows where values grow"
)


class _BrokenError(Exception):
    """Which array is not finite, and where."""


class Run:
    """One training run in one folder."""

    def __init__(
        self,
        step: TrainStep,
        settings: Settings,
        train: Samples,
        valid: Samples | None,
        folder: Path,
        save_every: float = 60.0,
    ) -> None:
        self.step = step
        self.model: Model = step.model
        self.settings = settings
        self.train = train
        self.valid = valid
        self.folder = folder
        self.save_every = save_every
        self.progress = Progress()
        self.notices: list[Diagnostic] = []
        self.told = 0  # of the notices, by whoever shows them
        self.watch: Watch | None = None  # every rank has one, the first is asked
        self.begins_with: Mapping[str, Any] | None = None  # weights, in place of drawn ones
        self.is_kept = True  # whether the folder is still there afterwards
        self.is_enough = False  # set to end after this epoch
        self._unread: list[dict[str, Any]] = []  # records that the watch has not seen
        self._next_recorded = 0
        self.state: TrainState | None = None
        self._last_step: TrainStep | None = None
        # Of several ranks the first one writes, validates and reports.
        self.world = step.world if isinstance(step.world, MpiRanks) else None
        self.is_first = self.world is None or self.world.rank == 0
        self._pace = Pace(self.world)
        self._forward = self._validator()
        self._steps_alone: dict[TrainStep, TrainStep] = {}
        self._has_told_overflow = False
        self._weights = self.model.select("params")
        self._saved_at = time.monotonic()

    # --- starting

    def prepare(self) -> None:
        """Compiles for the sizes of batches that there will be, before anything is written.

        Raises:
            DiagnosticError: for a budget, an accumulation or shapes that cannot be.
        """
        size, count = self.settings.batch, self.train.count
        for rows in dict.fromkeys((min(size, count), count % size)):
            if rows:
                step = self._step_for(rows)
                step.entry(self.train.take(step.rows_of(np.arange(rows))))
        if self.valid is not None and self._is_asked:
            first = next(self.valid.batches(size))
            self._forward.entry(first)

    def _validator(self) -> Forward | RankForward:
        """What validates: the first rank alone, or all of them where parameters are cut."""
        step = self.step
        how: dict[str, Any] = {"threads": step.options.threads, "use_cache": step.options.use_cache}
        if step.shard is None or self.world is None or not step.layout.is_cut:
            return self.model.forward(**how)
        return RankForward(step.shard, self.world, compile_options(**how))

    @property
    def _is_asked(self) -> bool:
        """Whether this rank takes part in what needs all of the parameters."""
        return self.is_first or self.step.layout.is_cut

    def _step_for(self, rows: int) -> TrainStep:
        """The step for a batch of ``rows``: where a last, smaller one cannot be cut as the others,
        it is cut finer.

        The update is that of the whole batch however it is cut.
        """
        parts = self.step.recipe.accumulate
        if rows >= min(self.settings.batch, self.train.count) or rows % parts == 0:
            return self.step
        if self._last_step is None:
            finer = cut_of(self.step.recipe, rows)
            self._last_step = self.step.like(replace(self.step.recipe, accumulate=finer))
        return self._last_step

    def _alone(self, rows: int) -> TrainStep:
        """``_step_for``, for one rank."""
        step = self._step_for(rows)
        if step.world is None:
            return step
        if step not in self._steps_alone:
            self._steps_alone[step] = TrainStep(self.model, step.recipe, step.options)
        return self._steps_alone[step]

    @contextmanager
    def alone(self, makes: bool) -> Iterator[None]:
        """Holds the folder, made first where ``makes`` says so, against other processes that train.

        Raises:
            DiagnosticError: GC0804 if one is at work in it, GC0573 if the folder cannot be made.
        """
        if makes and self.is_first:
            make_folder(self.folder)
        handle = None
        try:
            if self.folder.is_dir() and self.is_first:
                handle = os.open(self.folder, os.O_RDONLY)
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            help = "wait for it, or give another folder"
            raise fail("GC0804", f"a process is training in `{self.folder}`", help) from None
        except PermissionError as problem:
            if problem.filename != self.folder:
                raise
            message = f"cannot look into the folder `{self.folder}`: {problem.strerror}"
            raise fail("GC0570", message) from None
        finally:
            if handle is not None:
                os.close(handle)

    def begin(self) -> None:
        """Fresh parameters in a folder without a run. ``run.json`` comes last: what was killed
        before can begin anew.

        Raises:
            DiagnosticError: GC0804 if the folder holds a run already.
        """
        if self.is_first:
            self._refuse_a_run()
        self._start()

    def _refuse_a_run(self) -> None:
        newest = checkpoint.newest_step(self.folder)
        has_begun = newest is not None and (self.folder / RUN_FILE).exists()
        if newest or has_begun or (self.folder / PARAMS_FILE).exists():
            help = "give another folder, or --resume to continue this run"
            raise fail("GC0804", f"`{self.folder}` already holds a run", help)

    def _start(self) -> None:
        if self.is_first:
            make_folder(self.folder)
            checkpoint.sweep(self.folder)
        start = self.begins_with
        self.state = self.step.start(self.settings.seed) if start is None else self.step.init(start)
        if self.world is not None:  # one rank draws what all have
            self.step.layout.spread_common(self.state.arrays)
        if self.is_first:
            write_text(self.folder / METRICS_FILE, "")
        self.save()
        if self.is_first:
            self._write_settings()

    def resume(self) -> tuple[Diagnostic, ...]:
        """Continues from the newest intact checkpoint; returns warnings about damaged ones.

        Raises:
            DiagnosticError: GC0805 if the folder holds another run, GC0575 if it holds no
                checkpoint.
        """
        fresh = self.step.start(self.settings.seed)
        found, warnings = self._found(fresh) if self.is_first else (None, ())
        if self.world is None:
            has_begun = found is not None
        else:  # one rank reads, so that one version of the run exists
            has_begun = self.world.greatest(found is not None) > 0
        if not has_begun:
            del fresh
            self._start()  # killed before its first checkpoint
            return warnings
        self.state = fresh
        self.step.layout.spread(fresh.arrays, found)
        if self.world is not None:
            self.progress = spread(self.world, self.progress)
        return warnings

    def _found(
        self, fresh: TrainState
    ) -> tuple[Mapping[str, Array] | None, tuple[Diagnostic, ...]]:
        """The whole state in the folder, which stays in its file; None if it was killed before its
        first checkpoint. ``fresh`` is this rank's at the start.
        """
        self._compare_settings()
        if checkpoint.newest_step(self.folder) is None and not self._has_metrics():
            return None, ()
        checkpoint.sweep(self.folder)
        found, warnings = checkpoint.load_newest(self.folder)
        compare_arrays(self.folder, found.arrays, self._types(fresh.arrays))
        self.progress = progress_of(self.folder, found.state)
        warnings += metrics.cut(self.folder / METRICS_FILE, self.progress.step, self.progress.epoch)
        if self.watch is not None:
            self.watch.again(metrics.records(self.folder / METRICS_FILE))
        self._write_settings()
        return found.arrays, warnings

    def _has_metrics(self) -> bool:
        path = self.folder / METRICS_FILE
        return (self.folder / PARAMS_FILE).exists() or (path.exists() and path.stat().st_size > 0)

    def _write_settings(self) -> None:
        text = json.dumps(asdict(self.settings), indent=2) + "\n"
        write_text(self.folder / RUN_FILE, text)

    def _compare_settings(self) -> None:
        path = self.folder / RUN_FILE
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except PermissionError as problem:
            raise fail("GC0570", f"cannot read `{path}`: {problem.strerror}") from None
        except (OSError, ValueError, RecursionError):
            help = (
                "give --out the folder of an earlier `gradc train`, or leave --resume out to begin"
            )
            raise fail("GC0805", f"`{self.folder}` holds no run to resume", help) from None
        if not isinstance(known, dict):
            raise fail("GC0805", f"`{path}` is damaged: it does not say what the run was asked for")
        wanted = asdict(self.settings)
        differing = [k for k in wanted if k != "epochs" and known.get(k) != wanted[k]]
        if differing:
            shown = "; ".join(difference(k, known.get(k), wanted[k]) for k in differing)
            help = "resume with what the run was begun with, or begin another in a new folder"
            raise fail("GC0805", f"this is another run than the one to resume: {shown}", help)

    # --- running

    def run(self, report: Callable[[Progress], None]) -> None:
        """Trains until the last epoch is done. ``report`` is called after each step and each epoch.

        Raises:
            Interrupted: after a signal, everything saved.
            DiagnosticError: GC0806 when the loss, a gradient or the weights stop being finite; the
                state of before that step is saved, or the last good checkpoint stays.
        """
        self._next_recorded = next_recorded(self.progress.step + 1)
        with signals() as pending, self._recording() as write, self._noticing():
            while self.progress.epoch < self.settings.epochs and not self.is_enough:
                self._epoch(pending, write, report)
            self.save()
        self.write_params()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """However the run ends, what its last records tell is among the notices."""
        try:
            yield
        finally:
            self._read()

    def _recording(self) -> AbstractContextManager[Callable[[Mapping[str, Any]], None]]:
        if self.is_first:
            return metrics.appending(self.folder / METRICS_FILE)
        return nullcontext(lambda record: None)

    def _epoch(
        self,
        pending: list[int],
        write: Callable[[Mapping[str, Any]], None],
        report: Callable[[Progress], None],
    ) -> None:
        progress, size = self.progress, self.settings.batch
        order = permutation(self.settings.seed, progress.epoch, self.train.count)
        while progress.position < self.train.count:
            rows = order[progress.position : progress.position + size]
            self._one_step(rows, write)
            report(progress)
            self._between_steps(pending)
        progress.valid = self.validate()
        self._note_validation()
        done: dict[str, Any] = {"step": progress.step, "epoch_done": progress.epoch}
        done |= {f"valid_{k}": v for k, v in (progress.valid or {}).items()}
        self._read()
        if self.watch is not None and self.is_first:
            more, told = self.watch.epoch(done)
            done |= more
            self.notices += told
        write(done)
        progress.epoch += 1
        progress.position = 0
        report(progress)
        self.save()

    def _one_step(self, rows: Array, write: Callable[[Mapping[str, Any]], None]) -> None:
        progress = self.progress
        assert self.state is not None
        step = self._step_for(len(rows))
        # The sizes of cut parameters are added up over ranks.
        weights: dict[str, Array] = {}
        if progress.step + 1 >= self._next_recorded and (self.is_first or step.layout.is_cut):
            weights = {n: self.state.arrays[n].copy() for n in self._weights}
        try:
            with self._pace.step():
                loss, _ = step(self.state, **self.train.take(step.rows_of(rows)))
        except StoppedStep as stop:
            raise self._stopped(stop, rows, write) from None
        progress.step += 1
        progress.position += len(rows)
        progress.loss = float(loss)
        record: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": progress.loss,
        }
        self._note_metrics(record, rows)
        if weights:
            self._note_updates(record, weights, step)
        self._unread.append(record)
        if len(self._unread) >= CHUNK:
            self._read()
        write(record)

    def _read(self) -> None:
        """Has the watch look at the records since it did so last."""
        records, self._unread = self._unread, []
        if self.watch is not None and self.is_first:
            self.notices += self.watch.read(records)

    def _note_metrics(self, record: dict[str, Any], rows: Array) -> None:
        """What the step itself says of gradients and scale. Raises DiagnosticError GC0806."""
        assert self.state is not None
        metrics = self.state.metrics
        if "grad_norm" in metrics:
            record["grad_norm"] = float(metrics["grad_norm"])
        if self.step.recipe.loss_scale == "dynamic":
            record["loss_scale"] = float(self.state.arrays[SCALE])
        if metrics.get("overflow"):
            record["overflow"] = True
            self._note_overflow(rows)
            if float(self.state.arrays[SCALE]) <= 1.0:
                raise self._diverged(f"the loss became {self.progress.loss}")
        elif not math.isfinite(self.progress.loss):
            raise self._diverged(f"the loss became {self.progress.loss}")

    def _note_updates(
        self, record: dict[str, Any], weights: Mapping[str, Array], step: TrainStep
    ) -> None:
        """How far the weights have moved, and what else is looked at with them."""
        assert self.state is not None
        moved = moves(weights, self.state.arrays, step.layout.squares)
        record["updates"] = {name: one.share for name, one in moved.items()}
        self._next_recorded = next_recorded(self.progress.step + 1)
        if self.watch is not None:
            record |= self.watch.fields(self.progress.step, self.state, weights, moved)

    def _stopped(
        self, stop: StoppedStep, rows: Array, write: Callable[[Mapping[str, Any]], None]
    ) -> DiagnosticError:
        """What is said of a step that changed nothing: the state of before it is saved."""
        progress = self.progress
        self.save()
        assert self.state is not None
        origin = stop.origin if self.world is None else self._culprit(self.state, rows)
        self._share_failure()
        if not self.is_first:
            return stop
        write(
            {
                "step": progress.step + 1,
                "epoch": progress.epoch,
                "loss": stop.loss,
                "stopped": True,
            }
        )
        said = stop.diagnostics[0]
        kept = "nothing was updated"
        if self.is_kept:
            kept += f"; step {progress.step} is saved in `{self.folder}`"
        found = [replace(said, help=_HELP, notes=(kept,))]
        found += [] if origin is None else [origin]
        return DiagnosticError(found, self.model.program.report.sources)

    def _culprit(self, state: TrainState, rows: Array) -> Diagnostic | None:
        """Where a step on these samples stops being finite: what the first rank finds alone, or
        ranks that hold parts of parameters together. Every rank calls.
        """
        if not self._is_asked:
            return None
        return self._step_for(len(rows)).culprit(state, **self.train.take(rows))

    def _share_failure(self) -> None:
        """Every rank has come to the same numbers, or been told, and says so too."""
        if self.world is not None:
            self.world.is_shared_failure = True

    def _note_overflow(self, rows: Array) -> None:
        """Says once where a gradient overflowed; the step was skipped and the loss scale halved."""
        if self._has_told_overflow:
            return
        self._has_told_overflow = True
        assert self.state is not None
        arrays, trained = self.state.arrays, self.state.trained
        before = {**arrays, SCALE: arrays[SCALE] * np.float32(2)}
        found = self._culprit(TrainState(before, trained), rows)
        if found is not None:
            message = f"step {self.progress.step} skipped, loss scale halved: {found.message}"
            self.notices.append(warning("GC0809", message, found.span, label=found.label))

    def _note_validation(self) -> None:
        """Says once that the validation loss is not a number that means anything."""
        loss = (self.progress.valid or {}).get("loss", 0.0)
        if math.isfinite(loss) or any(n.code == "GC0811" for n in self.notices):
            return
        message = f"the validation loss is {loss} after epoch {self.progress.epoch + 1}"
        help = "look at the data of --valid; `gradc run` shows the outputs for them"
        self.notices.append(warning("GC0811", message, None, help=help))

    def _sound(self, arrays: Iterable[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
        """``arrays``, looked at as they come.

        Raises:
            _BrokenError: for a parameter or a state of the optimiser that holds NaN or infinity.
        """
        assert self.state is not None
        kept = {*self.model.select("params"), *self.state.slots}
        for name, stored in arrays:
            array = decode(stored)
            is_float = name in kept and array.dtype.kind == "f"
            if is_float and not np.isfinite(array).all():
                wrong = np.argwhere(~np.isfinite(array))
                place = f"{len(wrong)} of its {array.size} values, the first at {wrong[0].tolist()}"
                raise _BrokenError(f"`{name}` is not finite any more ({place})")
            yield name, stored

    def _diverged(self, what: str) -> DiagnosticError:
        """What every rank has come to, or been told, and says too."""
        message = f"{what} at step {self.progress.step}"
        kept = f"the last good checkpoint in `{self.folder}` is untouched"
        notes = (kept,) if self.progress.step and self.is_kept else ()
        found = [error("GC0806", message, None, help=_HELP, notes=notes)]
        if self.progress.step and self._is_asked:
            step_of = self._step_for if self.step.layout.is_cut else self._alone
            replay = Replay(self.settings, self.train, step_of, self._culprit)
            culprit = replay.culprit(*self._saved(), self.progress.step)
            found += [] if culprit is None else [culprit]
        self._share_failure()
        return DiagnosticError(found, self.model.program.report.sources)

    def _between_steps(self, pending: list[int]) -> None:
        signum = pending.pop(0) if pending else 0
        is_due = self.is_first and time.monotonic() - self._saved_at >= self.save_every
        if self.world is not None:
            # A signal may reach some ranks only, or a step earlier; clocks differ.
            signum, due = divmod(self.world.greatest(2 * signum + is_due), 2)
            is_due = bool(due)
        if signum or is_due:
            self.save()
        if not signum:
            return
        if signum != signal.SIGUSR1:
            raise Interrupted(signum)

    def validate(self) -> dict[str, float] | None:
        """Loss, and accuracy where the model outputs ``logits`` for class ids; None without data,
        and where another rank validates. Every rank calls.
        """
        assert self.state is not None
        if self.valid is None or not self._is_asked:
            return None
        forward, params, size = self._forward, self.state.params, self.settings.batch
        if isinstance(forward, RankForward):
            return validated(forward, params, self.valid, size, forward.best_class)
        return validated(forward, params, self.valid, size)

    # --- files

    def _saved(self) -> tuple[TrainState, Progress]:
        """The newest checkpoint, in arrays of its own; ranks that hold parts all call."""
        assert self.state is not None
        arrays = {name: np.empty_like(array) for name, array in self.state.arrays.items()}
        saved = checkpoint.load_newest(self.folder)[0] if self.is_first else None
        at = Progress() if saved is None else progress_of(self.folder, saved.state)
        whole = None if saved is None else saved.arrays
        world = self.world if self.step.layout.is_cut else None
        replace(self.step.layout, world=world).spread(arrays, whole)
        return TrainState(arrays, self.state.trained), at if world is None else spread(world, at)

    def save(self) -> None:
        """A checkpoint of everything, by the first rank, which has one whole array at a time.
        Every rank calls.

        Raises:
            DiagnosticError: GC0806 rather than save what is not finite.
        """
        assert self.state is not None
        self._saved_at = time.monotonic()
        slow = self._pace.slow()
        self.notices += [] if slow is None else [slow]
        arrays = self.step.layout.each(self.state.arrays)
        broken = ""
        if self.is_first:
            state = asdict(self.progress)
            if not math.isfinite(self.progress.loss):
                state["loss"] = 0.0
            types, step = self._types(self.state.arrays), self.progress.step
            try:
                checkpoint.save_each_of(self.folder, step, state, types, self._sound(arrays))
            except _BrokenError as found:
                broken = str(found)
        for _ in arrays:  # what the first rank has not taken is sent all the same
            pass
        is_broken = bool(broken)
        if self.world is not None:
            is_broken = self.world.greatest(is_broken) > 0
        if is_broken:
            raise self._diverged(broken)
        self._saved_at = time.monotonic()

    def _types(self, arrays: Mapping[str, Array]) -> dict[str, ArrayType]:
        """What whole arrays are like."""
        shape = self.step.layout.shape
        return {name: ArrayType(own.dtype, shape(name, own)) for name, own in arrays.items()}

    def write_params(self) -> None:
        """The trained parameters, for ``--params`` and other programs. Every rank calls."""
        assert self.state is not None
        params = self.state.params
        arrays = self.step.layout.each(params)
        metadata = {"model": self.settings.entry, "precision": self.settings.precision}
        if self.is_first:
            save_each(self.folder / PARAMS_FILE, self._types(params), arrays, lambda: metadata)
        for _ in arrays:
            pass
