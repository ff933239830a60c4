"""A training from its data to its page: what ``net.fit`` and ``gradc train`` both do.

    run = planned(step, train, valid, batch=64, epochs=5, seed=0, folder=folder)
    carry_out(run, is_resumed=False, tell=print, reporting=silent)

Before the first step program, optimiser and data are looked at, while it trains the records, and
at the end a page is drawn (``run_page``).

Non-goals: the loop (``runtime.training``); flags and what is printed (``commands.train``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.tensor.dims import symbols
from gradc.runtime.doctor.before import before
from gradc.runtime.doctor.checkup import Checkup, checkup
from gradc.runtime.doctor.run_page import run_page
from gradc.runtime.doctor.watching import Watching
from gradc.runtime.files.batches import Samples, batch_dim, samples_of
from gradc.runtime.files.data import write_text
from gradc.runtime.files.ids import check_samples
from gradc.runtime.model.model import Model
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.state import TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import (
    Array,
    as_array,
    check_names,
    check_seed,
    expect,
    finite_or_fail,
)
from gradc.runtime.native.compile import CompileKeywords, compile_options, quoting, refuse_unknown
from gradc.runtime.render.notebook import card
from gradc.runtime.training import metrics
from gradc.runtime.training.loop import METRICS_FILE, Run
from gradc.runtime.training.progress import Progress, Settings
from gradc.runtime.training.signals import Interrupted

if TYPE_CHECKING:
    from gradc.runtime.training.watch import Watch

PAGE_FILE = "run.html"

Report: TypeAlias = Callable[[Progress], None]
Reporting: TypeAlias = Callable[[Run], AbstractContextManager[Report]]
Tell: TypeAlias = Callable[[Sequence[Diagnostic]], None]
Callback: TypeAlias = Callable[[Progress], object]


def planned(
    step: TrainStep,
    train: Samples,
    valid: Samples | None,
    *,
    batch: int,
    epochs: int,
    seed: int,
    folder: Path,
) -> Run:
    """The run of ``step`` over ``train``; every rank calls, the first has the data looked at.

    Raises:
        DiagnosticError: GC0579 for ids out of range, and what ``finite_or_fail`` says.
    """
    model, is_first = step.model, step.world is None or step.world.rank == 0
    if is_first:
        for samples in (train, valid):
            if samples is not None:
                finite_or_fail({**samples.batched, **samples.shared})
                check_samples(model, samples, batch)
    settings = Settings(
        model.program.digest,
        model.name,
        model.dims,
        model.precision,
        _told(step.recipe),
        batch,
        epochs,
        seed,
        train.count,
        train.digest() if is_first else "",
        None if valid is None else valid.digest() if is_first else "",
    )
    return Run(step, settings, train, valid, folder)


def _told(recipe: Recipe) -> dict[str, Any]:
    """The recipe as `run.json` has it: what came to recipes later is told where it is not as
    before.
    """
    later = {"shared_statistics": False, "guard": True}
    return {k: v for k, v in asdict(recipe).items() if k not in later or v != later[k]}


def with_sizes_of(model: Model, arrays: Mapping[str, Any]) -> Model:
    """``model`` with the dimensions that its parameters need and only the data knows."""
    needed = {name for t in model.params.values() for d in t.shape for name in symbols(d)}
    if not needed:
        return model
    found = model.bind({name: array.shape for name, array in arrays.items()})
    dims = {**model.dims, **{name: size for name, size in found.items() if name in needed}}
    return Model(model.program, model.name, dims, model.precision)


def carry_out(training: Run, is_resumed: bool, tell: Tell, reporting: Reporting) -> None:
    """Trains to the end. ``tell`` is called with findings when they are made, ``reporting`` gives
    what is called after every step and every epoch; the page is drawn however it ends.

    Raises:
        Interrupted: after a signal, everything saved.
        DiagnosticError: what ``Run`` says.
    """
    training.prepare()
    settings = training.settings
    with training.alone(makes=not is_resumed):
        training.watch = watch_of(training)
        if is_resumed:
            tell(training.resume())
        else:
            training.begin()
            if training.is_first:
                with quoting(training.model.program.report.sources):
                    found = before(training.step, training.train, training.valid, settings.batch)
                tell(found)
        stopped: tuple[Diagnostic, ...] = ()
        try:
            with reporting(training) as report:
                training.run(report)
        except DiagnosticError as problem:
            stopped = problem.diagnostics
            raise
        finally:
            tell(news(training))
            _draw(training, stopped)


def watch_of(training: Run) -> Watch:
    """The watch over a run."""
    settings = training.settings
    total = settings.epochs * -(-settings.samples // settings.batch)
    start = training.begins_with
    given = None if start is None else lambda: start
    return Watching(training.step, training.train, settings.batch, total, settings.seed, given)


def news(training: Run) -> list[Diagnostic]:
    """What has been noticed since this was asked last."""
    found = training.notices[training.told :]
    training.told += len(found)
    return found


def _draw(training: Run, stopped: tuple[Diagnostic, ...]) -> None:
    """The page of the run, in its folder; where it cannot be written, what came before says why."""
    if training.is_first:
        found = metrics.records(training.folder / METRICS_FILE)
        said = [*stopped, *training.notices]
        text = run_page(training.settings.entry, found, said, training.step.recipe.clip_norm)
        with suppress(DiagnosticError):
            write_text(training.folder / PAGE_FILE, text)


# --- from Python


@dataclass
class Fitted:
    """What a training came to.

    ``records`` are those of ``metrics.jsonl``, ``findings`` what was found before and while it
    trained, as `gradc train` prints it; ``params`` go into ``net.forward()``.
    """

    step: TrainStep
    state: TrainState
    records: list[dict[str, Any]]
    findings: tuple[Diagnostic, ...]
    params: dict[str, Array]
    folder: Path | None
    page: str
    _samples: Samples = field(repr=False)
    _settings: Settings = field(repr=False)

    @property
    def losses(self) -> list[float]:
        """The loss of every step, before its update."""
        return [r["loss"] for r in self.records if "epoch_done" not in r]

    @property
    def valid(self) -> list[float]:
        """The validation loss after every epoch."""
        return [r["valid_loss"] for r in self.records if "valid_loss" in r]

    def diagnose(self) -> Checkup:
        """Why it went as it did, with remedies that were tried, as `gradc diagnose --run`: trained
        anew from the seed, at most 300 steps.
        """
        settings = self._settings
        total = max(1, settings.epochs * -(-settings.samples // settings.batch))
        return checkup(self.step, self._samples, settings.batch, total, settings.seed)

    def to_html(self, path: str | Path) -> None:
        """Writes the page of the run."""
        write_text(Path(path), self.page)

    def __repr__(self) -> str:
        losses = self.losses
        last = f", last loss {losses[-1]:.5g}" if losses else ""
        return f"<{len(losses)} steps{last}; {len(self.findings)} findings>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [(one.code, one.message) for one in self.findings]
        return card("training", repr(self)[1:-1], [("findings", ("code", "what"), rows)])


class FitKeywords(CompileKeywords, total=False):
    """How ``Model.fit`` trains: what ``train_step`` takes besides ranks, and

    ``optimizer``: a call, such as the default ``adamw(lr=1e-3)``;
    ``epochs`` (5), ``batch`` (64): times through the data, and samples of a step;
    ``seed``: of parameters and of the order of samples;
    ``valid``: arrays to validate on after every epoch;
    ``out``: a folder for metrics, checkpoints, weights and the page; ``resume`` goes on in it;
    ``init_from``: parameters to start from, in place of ``init(seed)``;
    ``callbacks``: called after every epoch with ``epoch``, ``step``, ``loss`` and ``valid``; one
    that returns True ends the training;
    ``early_stopping``: ends after so many epochs without a lower validation loss;
    ``keep``: ``best`` gives the weights of the lowest validation loss, ``last`` the last.
    """

    optimizer: str
    epochs: int
    batch: int
    seed: int
    valid: Mapping[str, Any] | None
    out: str | os.PathLike[str] | None
    resume: bool
    init_from: Mapping[str, Any] | None
    callbacks: Sequence[Callback]
    early_stopping: int | None
    keep: str
    schedule: str | None
    clip_norm: float | None
    clip_value: float | None
    accumulate: int
    decay_on: str
    loss_scale: float | str | None
    guard: bool


@dataclass(frozen=True, kw_only=True)
class _How:
    """What of the keywords is for the run, not for its step."""

    epochs: int = 5
    batch: int = 64
    seed: int = 0
    valid: Mapping[str, Any] | None = None
    out: str | os.PathLike[str] | None = None
    resume: bool = False
    init_from: Mapping[str, Any] | None = None
    callbacks: Sequence[Callback] = ()
    early_stopping: int | None = None
    keep: str = "last"

    def __post_init__(self) -> None:
        """Raises DiagnosticError GC0801 for what cannot be."""
        message = ""
        for name, number, least in (("epochs", self.epochs, 0), ("batch", self.batch, 1)):
            if type(number) is not int or number < least:
                message = f"{name} must be a whole number of at least {least}, not {number!r}"
        patience = self.early_stopping
        if patience is not None and (type(patience) is not int or patience < 1):
            message = f"early_stopping is a number of epochs, at least 1, not {patience!r}"
        if self.keep not in ("last", "best"):
            message = f"keep is `last` or `best`, not {self.keep!r}"
        if self.valid is None and (patience is not None or self.keep == "best"):
            message = "early_stopping and keep='best' go by the validation loss: give valid"
        if self.resume and (self.out is None or self.keep == "best"):
            message = "resume needs the folder `out`, and weights of the last step: keep='last'"
        if message:
            raise DiagnosticError([error("GC0801", message, None)])
        check_seed(self.seed)


def fit(
    model: Model, data: Mapping[str, Any], face: Callable[..., Any], given: FitKeywords
) -> Fitted:
    """``Model.fit``, which is ``face``.

    Raises:
        DiagnosticError: for data that do not fit, and GC0806 for a step that is not finite, with
            the operation and line where that began.
        KeyboardInterrupt: after Ctrl-C; the step is finished and, with ``out``, saved.
    """
    refuse_unknown(face, given, _How, Model.train_step, compile_options)
    own = {f.name for f in fields(_How)}
    how = _How(**{k: v for k, v in given.items() if k in own})  # type: ignore[arg-type]
    recipe: dict[str, Any] = {k: v for k, v in given.items() if k not in own}
    for name in {"ranks", "shard", "shared_statistics"} & set(recipe):
        message = f"`fit` trains in one process; `{name}` is of `train_step` and `gradc train`"
        raise DiagnosticError([error("GC0801", message, None)])
    batch_dim(model.signature)
    arrays = _arrays(model, data, "data")
    model = with_sizes_of(model, arrays)
    step = model.train_step(recipe.pop("optimizer", "adamw(lr=1e-3)"), **recipe)
    train = samples_of(model.signature, arrays, "`data`")
    held = None
    if how.valid is not None:
        held = samples_of(model.signature, _arrays(model, how.valid, "valid"), "`valid`")
    with _folder(how.out) as folder:
        training = planned(
            step, train, held, batch=how.batch, epochs=how.epochs, seed=how.seed, folder=folder
        )
        training.begins_with = None if how.init_from is None else dict(how.init_from)
        training.is_kept = how.out is not None
        return _fitted(training, how)


def _fitted(training: Run, how: _How) -> Fitted:
    found: list[Diagnostic] = []
    ending = _Ending(training, how)
    try:
        carry_out(training, how.resume, found.extend, ending.reporting)
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None
    assert training.state is not None
    params = ending.best or {n: np.array(a) for n, a in training.state.params.items()}
    return Fitted(
        training.step,
        training.state,
        metrics.records(training.folder / METRICS_FILE),
        tuple(found),
        params,
        training.folder if training.is_kept else None,
        (training.folder / PAGE_FILE).read_text(encoding="utf-8"),
        training.train,
        training.settings,
    )


def _arrays(model: Model, data: Mapping[str, Any], name: str) -> dict[str, Array]:
    expect(name, data, Mapping, "a dictionary of arrays by name, or what np.load gives for an .npz")
    names = list(model.inputs)
    check_names("input", {key: None for key in data}, names)
    found = {key: as_array(key, data[key]) for key in names}
    model.bind({key: array.shape for key, array in found.items()})
    return found


@contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of the run; one that is gone afterwards if none is wanted."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="gradc-") as folder:
        yield Path(folder) / "run"


class _Ending:
    """Callbacks after epochs, when to end before the last, and the best weights."""

    def __init__(self, training: Run, how: _How) -> None:
        self.training = training
        self.callbacks, self.patience = how.callbacks, how.early_stopping
        self.keeps_best = how.keep == "best"
        self.best: dict[str, Array] | None = None
        self.least, self.since, self.epoch = float("inf"), 0, 0

    @contextmanager
    def reporting(self, training: Run) -> Iterator[Report]:
        self.epoch = training.progress.epoch
        yield self._report

    def _report(self, progress: Progress) -> None:
        if progress.epoch == self.epoch:
            return
        self.epoch = progress.epoch
        loss = (progress.valid or {}).get("loss")
        if loss is not None:
            self._rate(loss)
        asked = [callback(progress) for callback in self.callbacks]
        if any(one is True for one in asked):
            self.training.is_enough = True

    def _rate(self, loss: float) -> None:
        self.since += 1
        if loss < self.least:
            self.least, self.since = loss, 0
            if self.keeps_best and self.training.state is not None:
                self.best = {n: np.array(a) for n, a in self.training.state.params.items()}
        if self.patience is not None and self.since >= self.patience:
            self.training.is_enough = True
