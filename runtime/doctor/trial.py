"""Training beside a training: the same start, the same batches, one thing changed.

One gradient is compiled, in the precision of the run; the optimiser's update, clipping, schedule
and loss scale are run on its results by the reference interpreter, so that a change of settings,
of starting weights or of the data costs no compilation. What is tried here is therefore really
trained, step by step.

Non-goals: what to change and what it says (``causes``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradc.codegen.backend import Results
from gradc.frontend.model.training import OptimizerIR, UpdateIR, lower_optimizer
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.bf16 import bf16_bits
from gradc.ir.tensor.core import DType, Function, Role, TensorType
from gradc.passes.differentiate.transforms import vjp
from gradc.passes.differentiate.truncate import rewindowed
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.step import GROWTH_INTERVAL, INITIAL_SCALE
from gradc.runtime.doctor.attention import scaled_scores
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.model.recipe import Recipe, decaying
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.native.compile import compile_options

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Change:
    """What is done otherwise than in the training: nothing, unless said.

    ``rate`` multiplies the learning rate; ``fixed_rate`` replaces schedule and rate; ``recipe`` and
    ``optimizer`` replace settings and arguments of the optimiser; ``start`` and ``data`` replace
    arrays; ``training`` False leaves dropout out; ``is_whole`` does without `truncate`; ``scores``
    multiplies those of attention; ``batch`` the samples of a batch.
    ``rates`` gives the rate of each step; ``stops_above`` ends the training where the loss is that
    many times its least.
    """

    rate: float = 1.0
    fixed_rate: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, float] = field(default_factory=dict)
    start: Mapping[str, Array] = field(default_factory=dict)
    data: Samples | None = None
    training: bool = True
    is_whole: bool = False
    scores: float = 1.0
    batch: int = 1
    rates: tuple[float, ...] = ()
    stops_above: float = math.inf


@dataclass
class Track:
    """What happened: a number per step, and the arrays at the end.

    ``broken`` says at which step (from 1) what stopped being finite: ``loss``, ``gradient`` or
    ``update``; ``before`` are the parameters before that step and ``inputs`` its batch.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    overflows: int = 0
    params: Arrays = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    broken: tuple[int, str] | None = None
    before: Arrays = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)
    scale: float = 1.0

    @property
    def end(self) -> float:
        """The mean loss of the last tenth of the steps; infinite if the training broke down."""
        if self.broken is not None or not self.losses:
            return math.inf
        last = self.losses[-max(1, len(self.losses) // 10) :]
        found = float(np.mean(last))
        return found if math.isfinite(found) else math.inf


class Bench:
    """Where a training is repeated with changes."""

    def __init__(self, step: TrainStep, samples: Samples, batch: int, seed: int) -> None:
        self.step, self.model = step, step.model
        self.samples, self.batch, self.seed = samples, min(batch, samples.count), seed
        dims = self.model.bind({n: a.shape for n, a in self.first().items()})
        self.made = self.model.lower(dims)
        self.flat = flatten(self.made.function)
        self.start = dict(self.model.init(seed, dims))
        self.trained = self.model.select("params")
        self._compiled: dict[tuple[bool, bool, float], Compiled] = {}
        self._updates: dict[tuple[Any, ...], UpdateIR] = {}

    def first(self) -> Arrays:
        """The first batch."""
        order = permutation(self.seed, 0, self.samples.count)
        return self.samples.take(order[: self.batch])

    def gradient(self, training: bool, is_whole: bool = False, scores: float = 1.0) -> Compiled:
        """Loss, outputs with new states, gradients; seeded, so that a loss scale can be given."""
        if (training, is_whole, scores) not in self._compiled:
            names = list(self.trained)

            def derive(function: Function) -> Function:
                kept = rewindowed(function, 0) if is_whole else function
                kept = kept if scores == 1 else scaled_scores(flatten(kept), scores)
                return vjp(kept, names, of=["loss"])

            asked = self.step.options
            options = compile_options(threads=asked.threads, target=asked.target)
            self._compiled[training, is_whole, scores] = Compiled(
                self.model,
                f"doctor {names} {is_whole} {scores}",
                derive,
                _everything,
                training,
                options,
                True,
            )
        return self._compiled[training, is_whole, scores]

    def value(
        self,
        params: Arrays,
        inputs: Arrays,
        scale: float = 1.0,
        training: bool = True,
        is_whole: bool = False,
        scores: float = 1.0,
    ) -> tuple[float, Arrays, Arrays]:
        """Loss, outputs and new states, gradients (unscaled, f32) at masters ``params``."""
        given = {n: self._narrow(n, a) for n, a in params.items()}
        seeds = {"loss": np.asarray(scale, np.float32)}
        if self.made.loss.dtype is DType.F64:
            seeds = {"loss": np.asarray(scale, np.float64)}
        with np.errstate(all="ignore"):
            compiled = self.gradient(training, is_whole, scores)
            loss, outputs, cts = compiled(given, seeds, **inputs)
            wide = {n: np.asarray(a, np.result_type(a, np.float32)) for n, a in cts.items()}
            return float(loss), outputs, {n: a / wide_scale(a, scale) for n, a in wide.items()}

    def _narrow(self, name: str, array: Array) -> Array:
        kinds = {s.path: s.type.dtype for s in self.made.parameters}
        if array.dtype.kind != "f":
            return array
        if kinds[name] is DType.F16:
            return array.astype(np.float16)
        return bf16_bits(array) if kinds[name] is DType.BF16 else array

    def agreement(self, params: Arrays, count: int) -> float:
        """The share of a batch's squared gradient at ``params`` that batches agree on, from
        ``count`` of them: 1 without noise, 0 where gradients are nothing but noise.

        Without bias, from E|g|^2 and the products of different gradients (McCandlish et al. 2018,
        "An empirical model of large-batch training", appendix A).
        """
        total: Arrays = {}
        squares = 0.0
        taken = 0
        for inputs in itertools.islice(self._batches(self.samples, self.batch), count):
            _, _, cts = self.value(params, inputs)
            squares += sum(float(np.sum(np.square(a, dtype=np.float64))) for a in cts.values())
            total = {n: a if n not in total else total[n] + a for n, a in cts.items()}
            taken += 1
        if taken < 2 or not math.isfinite(squares) or squares == 0:
            return math.nan
        summed = sum(float(np.sum(np.square(a, dtype=np.float64))) for a in total.values())
        shared = (summed - squares) / (taken - 1)
        return min(1.0, max(0.0, shared / squares))

    # --- running

    def run(self, change: Change, steps: int) -> Track:
        """Trains for ``steps`` steps with ``change``."""
        recipe: Recipe = replace(self.step.recipe, **change.recipe)
        optimizer = self._optimizer(change)
        samples = self.samples if change.data is None else change.data
        state = _State(self, recipe, {**self._masters(), **change.start})
        track = Track(scale=state.scale)
        batches = self._batches(samples, min(self.batch * change.batch, samples.count))
        for number, inputs in zip(range(1, steps + 1), batches, strict=False):
            rate = self._rate(optimizer, change, number)
            if not self._advance(state, track, inputs, optimizer, rate, number, change):
                break
            least = min(track.losses)
            if track.losses[-1] > change.stops_above * abs(least):
                break
        track.params = state.params
        return track

    def _masters(self) -> Arrays:
        return {
            n: np.array(a, np.float32) if n in self.trained and a.dtype.itemsize == 2 else a.copy()
            for n, a in self.start.items()
        }

    def _batches(self, samples: Samples, size: int) -> Iterator[Arrays]:
        epoch = 0
        while True:
            order = permutation(self.seed, epoch, samples.count)
            for at in range(0, samples.count - size + 1, size):
                yield samples.take(order[at : at + size])
            epoch += 1

    def _advance(
        self,
        state: _State,
        track: Track,
        inputs: Arrays,
        optimizer: OptimizerIR,
        rate: float | None,
        number: int,
        change: Change,
    ) -> bool:
        """One step; False if something stopped being finite."""
        loss, outputs, cts = self.value(
            state.params, inputs, state.scale, change.training, change.is_whole, change.scores
        )
        track.losses.append(loss)
        track.rates.append(math.nan if rate is None else rate)
        tops = {n: float(np.abs(a).max(initial=0)) for n, a in cts.items()}
        is_finite = all(map(math.isfinite, tops.values()))
        if not is_finite and state.recipe.loss_scale == "dynamic" and state.scale > 1:
            track.overflows += 1
            state.scale, state.good = state.scale / 2, 0
            track.norms.append(math.nan)
            return True
        if not is_finite or not math.isfinite(loss):
            what = "gradient" if math.isfinite(loss) else "loss"
            track.broken, track.before, track.inputs = (number, what), dict(state.params), inputs
            track.scale = state.scale
            return False
        for name, top in tops.items():
            track.largest[name] = max(track.largest.get(name, 0.0), top)
        track.norms.append(
            math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in cts.values()))
        )
        state.params.update({n: a for n, a in outputs.items() if n in state.params})
        before = dict(state.params)
        state.update(_clipped(cts, state.recipe, track.norms[-1]), optimizer, rate)
        if not all(np.isfinite(state.params[n]).all() for n in cts):
            track.broken, track.before, track.inputs = (number, "update"), before, inputs
            return False
        return True

    def _optimizer(self, change: Change) -> OptimizerIR:
        optimizer = self.step.optimizer
        if not change.optimizer:
            return optimizer
        given = {**optimizer.arguments, **change.optimizer}
        if optimizer.rate is not None:
            given["lr"] = optimizer.rate
        shown = ", ".join(f"{n} = {_literal(v)}" for n, v in given.items())
        return lower_optimizer(f"{optimizer.name}({shown})", self.model.program.names)

    def _rate(self, optimizer: OptimizerIR, change: Change, number: int) -> float | None:
        if change.rates:
            return change.rates[number - 1]
        if change.fixed_rate is not None:
            return change.fixed_rate
        if self.step.schedule is not None:
            found = scheduled(self.step.schedule.function, number)
            return found * change.rate
        return None if optimizer.rate is None else optimizer.rate * change.rate

    def update_of(
        self, optimizer: OptimizerIR, shape: tuple[int, ...], decay_on: str, rank: int
    ) -> UpdateIR:
        """The update of a parameter that had ``rank`` axes; decay falls where the recipe says."""
        chosen = decaying(optimizer, decay_on, rank)
        key = (chosen.name, tuple(chosen.arguments.items()), shape)
        if key not in self._updates:
            self._updates[key] = chosen.update(TensorType(shape, DType.F32))
        return self._updates[key]


class _State:
    """Parameters and slots of one training."""

    def __init__(self, bench: Bench, recipe: Recipe, params: Arrays) -> None:
        self.bench, self.recipe, self.params = bench, recipe, params
        self.slots: dict[str, list[Array]] = {}
        scale = recipe.loss_scale
        self.scale = INITIAL_SCALE if scale == "dynamic" else float(scale or 1.0)
        self.good, self.count = 0, 0

    def update(self, cts: Arrays, optimizer: OptimizerIR, rate: float | None) -> None:
        """One update of every parameter, in f32."""
        self.count += 1
        self.good += 1
        if self.recipe.loss_scale == "dynamic" and self.good >= GROWTH_INTERVAL:
            self.scale, self.good = 2 * self.scale, 0
        for names in self._groups(cts, optimizer):
            self._update_group(names, cts, optimizer, rate)

    def _groups(self, cts: Arrays, optimizer: OptimizerIR) -> list[list[str]]:
        """Parameters that are updated together: the library's updates are elementwise, so what
        decays alike is one long vector; others go one by one.
        """
        if not optimizer.is_library:
            return [[name] for name in cts]
        matrices = [n for n in cts if self.params[n].ndim >= 2]
        vectors = [n for n in cts if self.params[n].ndim < 2]
        return [group for group in (matrices, vectors) if group]

    def _update_group(
        self, names: list[str], cts: Arrays, optimizer: OptimizerIR, rate: float | None
    ) -> None:
        rank = self.params[names[0]].ndim
        p, g = _joined(self.params, names), _joined(cts, names)
        made = self.bench.update_of(optimizer, p.shape, self.recipe.decay_on, rank)
        slots = self.slots.setdefault(names[0], fresh_slots(made, p.shape))
        new, *kept = updated(made, p, g, slots, self.count, rate)
        self.slots[names[0]] = [np.asarray(a) for a in kept]
        at = 0
        for name in names:
            old = self.params[name]
            self.params[name] = (
                np.asarray(new, old.dtype)
                if len(names) == 1
                else np.asarray(new[at : at + old.size], old.dtype).reshape(old.shape)
            )
            at += old.size


def fresh_slots(made: UpdateIR, shape: tuple[int, ...]) -> list[Array]:
    """The slots of a parameter before its first update."""
    return [np.full(shape, slot.start, np.float32) for slot in made.slots]


def updated(
    made: UpdateIR, p: Array, g: Array, slots: Sequence[Array], count: int, rate: float | None
) -> tuple[Any, ...]:
    """The parameter and the slots after update number ``count`` of ``p`` along ``g``, in f32."""
    waiting = iter(slots)
    given: list[Any] = []
    for slot in made.function.parameters:
        number = rate if slot.name == "lr" else count
        choices = {Role.PARAM: p, Role.COTANGENT: g, Role.HYPER: number}
        found = next(waiting) if slot.role is Role.SLOT else choices[slot.role]
        given.append(np.asarray(found, np.float32))
    with np.errstate(all="ignore"):
        return run(NumpyArrays(DType.F32), made.function, given)


def _joined(arrays: Arrays, names: list[str]) -> Array:
    """One array as it is; several as one vector."""
    if len(names) == 1:
        return np.asarray(arrays[names[0]], np.float32)
    return np.concatenate([np.asarray(arrays[n], np.float32).reshape(-1) for n in names])


def _everything(found: Results) -> tuple[Any, Arrays, Arrays]:
    return found[0], found[1], found[2]


def wide_scale(array: Array, scale: float) -> Any:
    """``scale`` in the type of ``array``, so that a division keeps that type."""
    return array.dtype.type(scale)


def _literal(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(float(value))


def scheduled(function: Function, number: int) -> float:
    """The learning rate of step ``number``."""
    found = run(NumpyArrays(DType.F64), function, [np.asarray(float(number))])
    return float(found[0])


def _clipped(cts: Arrays, recipe: Recipe, norm: float) -> Arrays:
    """Clipped by value, then by norm, as ``passes.training.step`` does."""
    if recipe.clip_value is not None:
        limit = recipe.clip_value
        cts = {n: np.clip(a, -limit, limit) for n, a in cts.items()}
        norm = math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in cts.values()))
    if recipe.clip_norm is not None and norm > recipe.clip_norm:
        cts = {n: a * a.dtype.type(recipe.clip_norm / norm) for n, a in cts.items()}
    return cts
