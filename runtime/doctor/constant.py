"""The loss that outputs reach which are the same for every sample: what guessing costs.

A prediction is a value that the loss depends on only together with inputs (its targets): cut there,
the rest of the program is a function of the two. The constant that minimises cross-entropy is the
logarithm of the classes' shares, that of squared error the mean, that of binary cross-entropy the
share or its logit (Hastie, Tibshirani and Friedman 2009, section 2.4). Which of them a program has
is not read off its ops: the candidate must be a minimum of the loss over the data, or nothing is
said.

Non-goals: losses of other kinds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.files.batches import Samples
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import Array

# Batches that are looked at; how far the slope may be from zero, as a share of its parts; and how
# many slopes that all go one way say that their sum will not be zero.
_BATCHES, _AROUND, _FLAT, _SURE = 16, 4, 1e-4, 16


@dataclass(frozen=True)
class Tail:
    """The end of a program, from ``guess`` to the loss; ``target`` names the input it meets."""

    function: Function  # parameters: ``guess``, then inputs
    guess: Value
    target: str

    @property
    def inputs(self) -> list[str]:
        return [slot.name for slot in self.function.parameters[1:]]


@dataclass(frozen=True)
class Constant:
    """The least loss of outputs that are the same for every sample, and the input it follows
    from.
    """

    loss: float
    target: str


def best_constant(model: Model, samples: Samples, batch: int) -> Constant | None:
    """What the best constant reaches on ``samples``; None where no candidate is a minimum."""
    size = min(batch, samples.count)
    starts = range(0, samples.count - size + 1, size)
    chosen = starts[:: max(1, -(-len(starts) // _BATCHES))]
    batches = [samples.take(np.arange(at, at + size)) for at in chosen]
    dims = model.bind({name: array.shape for name, array in batches[0].items()})
    for tail in tails(flatten(model.lower(dims, training=True).function)):
        wanted = np.stack([b[tail.target] for b in batches])
        gradient = value_and_grad(tail.function, ["guess"])
        for constant in _candidates(tail, wanted):
            loss = _least(tail, gradient, constant, batches)
            if loss is not None:
                return Constant(loss, tail.target)
    return None


def tails(function: Function) -> Iterator[Tail]:
    """Every cut between predictions and the loss, the last predictions first."""
    pairs = list(zip(function.parameters, function.block.parameters, strict=True))
    inputs = {v: s.name for s, v in pairs if s.role is Role.INPUT}
    trained = {v for s, v in pairs if s.role is Role.PARAM}
    (loss,) = (
        v
        for s, v in zip(function.results, function.block.outputs, strict=True)
        if s.role is Role.LOSS
    )
    for op in reversed(function.block.body):
        for guess in op.results:
            targets = _targets(guess, inputs)
            if not targets or not _needed(function, guess)[1] & trained:
                continue
            ops, needed = _needed(function, loss, guess)
            if guess not in needed or not needed - {guess} <= set(inputs):
                continue
            given = [v for v in function.block.parameters if v in needed]
            cut = _cut(ops, guess, given, inputs, loss)
            met = {inputs[v] for v in given}
            yield from (Tail(cut, guess, target) for target in targets if target in met)


def _targets(guess: Value, inputs: dict[Value, str]) -> list[str]:
    """The inputs that ``guess`` may be meant for: numbers of its shape, or classes along its last
    axis.
    """
    if not guess.type.dtype.is_float or not guess.type.rank:
        return []
    found = []
    for value, name in inputs.items():
        shape = guess.type.shape if value.type.dtype.is_float else guess.type.shape[:-1]
        if value.type.rank and value.type.shape == shape:
            found.append(name)
    return found


def _needed(
    function: Function, end: Value, stop: Value | None = None
) -> tuple[list[Op], set[Value]]:
    """The ops that ``end`` is made by, and what they are given from outside: parameters, and
    ``stop``, which is not looked behind.
    """
    wanted, ops = {end}, []
    for op in reversed(function.block.body):
        if any(v in wanted and v is not stop for v in op.results):
            ops.append(op)
            wanted.update(op.operands)
    made = {v for op in ops for v in op.results} - {stop}
    return ops[::-1], {v for v in wanted if v not in made}


def _cut(
    ops: list[Op], guess: Value, given: list[Value], inputs: dict[Value, str], loss: Value
) -> Function:
    slots = (Slot("guess", Role.PARAM), *(Slot(inputs[v], Role.INPUT) for v in given))
    block = Block((guess, *given), (*ops, Op("return", (loss,), ())))
    return Function("tail", block, slots, (Slot("loss", Role.LOSS),))


def _candidates(tail: Tail, wanted: Array) -> Iterator[Array]:
    """Constants that may be the best: of the shape of one sample's prediction, or of one class
    row.
    """
    if wanted.dtype.kind == "f":
        mean = wanted.astype(np.float64).mean(axis=(0, 1))
        yield mean
        if ((mean > 0) & (mean < 1)).all():
            yield np.log(mean / (1 - mean))
        return
    classes = tail.guess.type.static_shape[-1]
    known = wanted[(wanted >= 0) & (wanted < classes)]
    counts = np.bincount(known.reshape(-1), minlength=classes)
    yield np.log(np.maximum(counts, 1e-9) / max(1, counts.sum()))


def _least(
    tail: Tail, gradient: Function, constant: Array, batches: list[dict[str, Array]]
) -> float | None:
    """The mean loss at ``constant``; None if it is no minimum."""
    ends = [batches[0], batches[len(batches) // 2], batches[-1]]
    if len(batches) > len(ends) and _is_one_sided(_value(tail, gradient, constant, ends)[1]):
        return None
    found, slope = _value(tail, gradient, constant, batches)
    size = np.abs(slope).sum(axis=0)
    total = np.abs(slope.sum(axis=0))
    if not math.isfinite(found) or (total > _FLAT * size + 1e-12).any():
        return None
    step = 0.1 * np.random.default_rng(0).standard_normal(constant.shape)
    step *= max(1e-3, float(np.abs(constant).max(initial=1.0)))
    few = batches[:_AROUND]
    here, *around = [_losses(tail, constant + by * step, few) for by in (0, 1, -1)]
    # Of a few batches the least lies elsewhere, by a slope that both sides share.
    return found if sum(around) > 2 * here else None


def _value(
    tail: Tail, gradient: Function, constant: Array, batches: list[dict[str, Array]]
) -> tuple[float, Array]:
    """The mean loss where every prediction is ``constant``, and its slope in each of them, a row
    per prediction.
    """
    domain = NumpyArrays(DType.F64)
    guess = np.broadcast_to(constant, tail.guess.type.static_shape)
    losses, slopes = [], []
    with np.errstate(all="ignore"):
        for inputs in batches:
            given = [np.array(guess), *(_wide(inputs[n]) for n in tail.inputs)]
            loss, slope = run(domain, gradient, given)
            losses.append(float(loss))
            slopes.append(np.asarray(slope).reshape(-1, *constant.shape))
    return float(np.mean(losses)), np.concatenate(slopes)


def _is_one_sided(slope: Array) -> bool:
    """Whether the loss rises, or falls, with every number of every prediction."""
    all_one = (slope >= 0).all(axis=0) | (slope <= 0).all(axis=0)
    return len(slope) >= _SURE and bool(all_one.all()) and bool((slope != 0).any())


def _losses(tail: Tail, constant: Array, batches: list[dict[str, Array]]) -> float:
    """The mean loss where every prediction is ``constant``."""
    domain = NumpyArrays(DType.F64)
    guess = np.array(np.broadcast_to(constant, tail.guess.type.static_shape))
    with np.errstate(all="ignore"):
        found = [
            float(run(domain, tail.function, [guess, *(_wide(b[n]) for n in tail.inputs)])[0])
            for b in batches
        ]
    return float(np.mean(found))


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def falls_without_end(tail: Tail, samples: Samples) -> bool:
    """Whether the loss falls at least five times as far each time predictions are ten times as
    large: a negative likelihood of probabilities, say, stays above -1.
    """
    size = tail.guess.type.static_shape[0]
    if samples.count < size:
        return False
    rows = samples.take(np.arange(size))
    given = [_wide(rows[n]) for n in tail.inputs]
    rng, domain = np.random.default_rng(0), NumpyArrays(DType.F64)
    drawn = rng.normal(size=(8, *tail.guess.type.static_shape))
    with np.errstate(all="ignore"):
        least = [
            min(float(run(domain, tail.function, [far * guess, *given])[0]) for guess in drawn)
            for far in (1e2, 1e3, 1e4)
        ]
    return all(math.isfinite(n) for n in least) and least[2] < 5 * least[1] < 25 * least[0] < 0


def is_negative_by_targets(tail: Tail, samples: Samples) -> bool:
    """Whether the loss at predictions between 0 and 1 is negative for the targets as they are, and
    never for the same targets held between 0 and 1.
    """
    size = tail.guess.type.static_shape[0]
    rows = samples.take(np.arange(min(size, samples.count)))
    if rows[tail.target].dtype.kind != "f" or samples.count < size:
        return False
    held = {**rows, tail.target: np.clip(rows[tail.target], 0, 1)}
    rng, domain = np.random.default_rng(0), NumpyArrays(DType.F64)
    shape, losses = tail.guess.type.static_shape, [0.0, 0.0]
    with np.errstate(all="ignore"):
        for number in range(32):
            # Probabilities, and logits; one of them may mean nothing here.
            guess = rng.uniform(0.01, 0.99, shape) if number % 2 else 8 * rng.normal(size=shape)
            for side, inputs in enumerate((rows, held)):
                given = [guess, *(_wide(inputs[n]) for n in tail.inputs)]
                loss = float(run(domain, tail.function, given)[0])
                losses[side] = min(losses[side], loss) if math.isfinite(loss) else losses[side]
    return losses[0] < 0 <= losses[1]
