"""What is noticed while a training runs, from what its records say: that the loss is no lower than
a constant's, that it rises, that it is negative, that updates are out of proportion and by what,
that clipping or the loss scale decides, that units die or attention collapses.

Everything follows from the records of ``metrics.jsonl``, the settings and the data, so that a run
that is resumed says the same. Records are kept as they come and looked at together, after an epoch
and after ``training.watch.CHUNK`` steps: what a step costs is to remember it. At the steps that
``training.watch.is_recorded`` chooses the weights of before and after are compared; a look at units
and attention is a forward sweep of few samples in the reference interpreter, after so many steps
and whenever the steps have doubled, so that looking stays below 2 % of a training.

A message says what was measured; what would help is tried by ``gradc diagnose --run``.

Non-goals: a step that is not finite (``runtime.training``); drawing (``run_page``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.ir.tensor.core import Function, Span
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.doctor.attention import attentions
from gradc.runtime.doctor.certain import is_unbounded
from gradc.runtime.doctor.constant import Constant, best_constant, is_negative_by_targets, tails
from gradc.runtime.doctor.evidence import Seen, seen_forward
from gradc.runtime.doctor.trial import scheduled
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.model.state import TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.training.watch import Moved, square

# The first look at units, the first where there is attention, and the samples of a look.
LOOK, ATTENTION_LOOK, ROWS = 2000, 250, 8
# Moments are recorded up to a step, and then at every so manieth.
OFTEN, SELDOM = 100, 500
# Losses that are averaged, steps before a loss is held against a constant, and how close is no
# better; what is no longer well on its way.
FEW, SETTLED, NO_BETTER, POOR = 20, 150, 0.98, 0.5
RISEN = 3.0
# Updates of the matrices as a share of their size: below and above is out of proportion.
FAINT, LOUD = 1e-6, 0.3
CLIPPED, SKIPPED = 0.9, 0.1
_SOME = 256  # numbers of a moment whose middle is told
DIED, DEAD, UNIFORM = 0.3, 0.6, 0.995
_HELP = "`gradc diagnose --run` with the same program and data tries what lowers the loss"

Start = Callable[[], Mapping[str, Array]]


@dataclass
class Watching:
    """The watch over one run of ``total`` steps; ``seed`` draws the order of samples, and ``start``
    what the run began with, by default from the same seed.
    """

    step: TrainStep
    samples: Samples
    batch: int
    total: int
    seed: int
    start: Start | None = None
    said: set[str] = field(default_factory=set)
    constant: Constant | None = None
    _asked: set[str] = field(default_factory=set)
    _last: list[float] = field(default_factory=list)
    _mean: float = math.nan
    _least: float = math.inf
    _norms: list[float] = field(default_factory=list)
    _skipped: deque[bool] = field(default_factory=lambda: deque(maxlen=100))
    _odd: str = ""
    _begun: Look | None = None
    _attends: bool | None = None
    _uniform: str = ""

    # --- what is recorded

    def fields(
        self,
        number: int,
        state: TrainState,
        before: Mapping[str, Array],
        moved: Mapping[str, Moved],
    ) -> dict[str, Any]:
        """What the record of step ``number`` says besides: of the update, of the moments, and of
        units and attention now and then. Of ranks that hold parts of parameters all call.
        """
        matrices = [one for n, one in moved.items() if before[n].ndim >= 2]
        size = sum(one.size for one in matrices)
        share = Moved(sum(one.moved for one in matrices), size).share if size else 0.0
        found: dict[str, Any] = {"update": share}
        if self.step.recipe.clip_value is not None:
            found["moved"] = max(_furthest(a, state.arrays[n]) for n, a in before.items())
        if number <= OFTEN or number % SELDOM == 0:
            found |= self._moments(state, before)
        if self._is_looked_at(number):
            found |= self._looked(state)
        return found

    @property
    def _is_scaled(self) -> bool:
        return self.step.recipe.loss_scale == "dynamic"

    def _rate(self, number: int) -> float | None:
        if self.step.schedule is not None:
            return scheduled(self.step.schedule.function, number)
        return self.step.optimizer.rate

    def _moments(self, state: TrainState, names: Iterable[str]) -> dict[str, Any]:
        """Of Adam's moments: the middle root of the second, where eps could matter, and for each
        parameter the share of the squared gradient that is its mean. That is 1 where all batches
        agree, and about .05 (for beta1 = .9) where gradients are noise.
        """
        told = self.step.optimizer.arguments
        if not {"beta1", "beta2", "eps"} <= set(told) or state.step < 1:
            return {}
        one, two = (1 - float(told[b]) ** state.step for b in ("beta1", "beta2"))
        if min(one, two) <= 0:
            return {}
        middles, means, squares = [], {}, {}
        for name in names:
            m, v = state.arrays.get(f"{name}/m"), state.arrays.get(f"{name}/v")
            if m is None or v is None or not m.size:
                continue
            flat = v.reshape(-1)
            some = np.sort(flat[:: max(1, v.size // _SOME)])
            middles.append(math.sqrt(max(float(some[len(some) // 2]), 0.0) / two))
            means[name], squares[name] = square(m.reshape(-1)), float(flat.sum())
        means, squares = self.step.layout.squares(means), self.step.layout.squares(squares)
        signal = {
            name: min(1.0, means[name] / one**2 / (total / two))
            for name, total in squares.items()
            if total > 0
        }
        return {"root": sorted(middles)[len(middles) // 2], "signal": signal} if middles else {}

    # --- looks

    def _is_looked_at(self, number: int) -> bool:
        """Whether units and attention are looked at after this step."""
        if not is_doubled(number, ATTENTION_LOOK):
            return False
        if self._attends is None:
            self._attends = bool(attentions(self._function()))
        return self._attends or is_doubled(number, LOOK)

    def _looked(self, state: TrainState) -> dict[str, Any]:
        """What is recorded of a look; parts of parameters are put together on the first rank."""
        names = {n: state.arrays[n] for n in state.trained}
        arrays = self.step.layout.whole(names)
        if arrays is None or not self._is_first:
            return {}
        now = self._look(arrays)
        found: dict[str, Any] = {"seen": now.shares}
        if now.entropies:
            found["entropy"] = now.entropies
        if self._begun is None:
            self._begun = self._look(self._start())
            found["seen_at_start"] = self._begun.shares
            if self._begun.entropies:
                found["entropy_at_start"] = self._begun.entropies
        return found

    @property
    def _is_first(self) -> bool:
        return self.step.world is None or self.step.world.rank == 0

    def _start(self) -> Mapping[str, Array]:
        return self.step.model.init(self.seed) if self.start is None else self.start()

    def _look(self, arrays: Mapping[str, Array]) -> Look:
        """Shares of units and queries that are lost, and entropies, by line, on the first
        samples.
        """
        inputs = self._few()
        function = self._small(inputs)
        names = {s.name for s in function.parameters}
        given = {n: a for n, a in arrays.items() if n in names}
        return Look.of(seen_forward(function, {**given, **inputs}))

    def _few(self) -> dict[str, Array]:
        order = permutation(self.seed, 0, self.samples.count)
        return self.samples.take(order[: min(ROWS, self.samples.count)])

    def _small(self, inputs: Mapping[str, Array]) -> Function:
        """The program as in use, at the size of a look."""
        model = self.step.model
        dims = model.bind({name: a.shape for name, a in inputs.items()})
        return flatten(model.lower(dims, training=False).function)

    # --- what is noticed

    def read(self, records: Sequence[Mapping[str, Any]]) -> list[Diagnostic]:
        """What the records of further steps tell."""
        if not records:
            return []
        losses = np.array([r["loss"] for r in records], np.float64)
        if self.step.recipe.clip_norm is not None:
            self._norms += [r["grad_norm"] for r in records if _is_number(r.get("grad_norm"))]
        means = self._means(losses)
        least = np.fmin.accumulate([self._least, *means])
        with np.errstate(invalid="ignore"):
            is_odd = (losses < 0) | (means > RISEN * least[:-1])
        chosen = {at for at, r in enumerate(records) if "update" in r}
        chosen |= set(range(len(records)) if self._is_scaled else np.flatnonzero(is_odd).tolist())
        found: list[Diagnostic | None] = []
        for at in sorted(chosen):
            self._mean, self._least = float(means[at]), float(least[at])
            found += self._after(records[at], float(losses[at]))
        self._mean, self._least = float(means[-1]), float(least[-1])
        return [one for one in found if one is not None]

    def _means(self, losses: Array) -> Array:
        """With each loss the mean of the last ``FEW``, once there are so many; NaN for a while
        after one that is not finite.
        """
        known = np.array([*self._last, *losses], np.float64)
        self._last = known[-FEW + 1 :].tolist()
        with np.errstate(invalid="ignore", over="ignore"):
            full: Array = np.convolve(known, np.ones(FEW), "valid") / FEW
        none = np.full(len(losses), math.nan)
        return np.concatenate([none, full if len(known) >= FEW else none])[-len(losses) :]

    def _after(self, record: Mapping[str, Any], loss: float) -> list[Diagnostic | None]:
        """What the record of a step adds."""
        found = [self._negative(record, loss) if loss < 0 else None, self._risen(record)]
        if "update" in record:
            found.append(self._update(record))
        if self._is_scaled:
            self._skipped.append(bool(record.get("overflow")))
            found.append(self._scale(record))
        if "seen" in record:
            found += self._lost(record)
        return found

    def epoch(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[Diagnostic]]:
        """What is added to the record of an epoch, and what it tells."""
        more: dict[str, Any] = {}
        found: list[Diagnostic | None] = []
        limit, norms = self.step.recipe.clip_norm, self._norms
        if limit is not None and norms:
            share = float(np.mean([n > limit for n in norms]))
            more["clipped"] = share
            found.append(self._clipped(share, float(np.median(norms)), limit, len(norms)))
        self._norms = []
        constant = self._best() if record["step"] >= SETTLED else None
        if constant is not None:
            more["constant"] = constant.loss
            found.append(self._no_better(record["step"], constant))
        return more, [one for one in found if one is not None]

    def again(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the records of a run that goes on; what they told has been said."""
        steps: list[Mapping[str, Any]] = []
        for record in records:
            if "epoch_done" in record:
                self.read(steps)
                steps = []
                self.epoch(record)
            else:  # what is not finite stands there as null
                steps.append({**record, "loss": _number(record.get("loss"))})
        self.read(steps)

    def _say(self, kind: str, message: str, span: Span | None = None) -> Diagnostic | None:
        if kind in self.said:
            return None
        self.said.add(kind)
        return warning("GC0814", message, span, help=_HELP)

    def _no_better(self, number: int, constant: Constant) -> Diagnostic | None:
        mean, best = self._mean, constant.loss
        if not mean > NO_BETTER * best or best <= 0:
            return None
        message = (
            f"after {number} steps the loss is {mean:.4g}, where outputs that are the same for "
            f"every sample reach {best:.4g} (`{constant.target}` alone){self._uniform}"
        )
        return self._say("constant", message)

    def _negative(self, record: Mapping[str, Any], loss: float) -> Diagnostic | None:
        """A loss below zero that has no least value, or that targets beyond 0 and 1 let below."""
        if "negative" in self._asked:
            return None
        self._asked.add("negative")
        function = self._function()
        shown = f"the loss is {loss:.4g} at step {record['step']}"
        if is_unbounded(function, self.samples):
            message = f"{shown}: it is never above zero and has no least value"
            return self._say("negative", message)
        for tail in tails(function):
            if is_negative_by_targets(tail, self.samples):
                low, high = _ends(self.samples.batched[tail.target])
                message = (
                    f"{shown}: it is never negative for targets between 0 and 1, and "
                    f"`{tail.target}` has {low:g} to {high:g}"
                )
                return self._say("negative", message)
        return None

    def _function(self) -> Function:
        """The program at the size of a batch."""
        rows = np.arange(min(self.batch, self.samples.count))
        model = self.step.model
        dims = model.bind({n: a.shape for n, a in self.samples.take(rows).items()})
        return flatten(model.lower(dims, training=True).function)

    def _best(self) -> Constant | None:
        """What the best constant reaches, found when it is first asked for."""
        if "constant" not in self._asked:
            self._asked.add("constant")
            self.constant = best_constant(self.step.model, self.samples, self.batch)
        return self.constant

    def _risen(self, record: Mapping[str, Any]) -> Diagnostic | None:
        """A loss three times its least, and half of the way back to a constant's; one that may
        pass zero has no such multiples.
        """
        mean, least = self._mean, self._least
        if not 0 < least < math.inf or not mean > RISEN * least or "risen" in self.said:
            return None
        constant = self._best()
        if constant is None or not mean > POOR * constant.loss > 0:
            return None
        message = (
            f"the loss is {mean:.4g} around step {record['step']}, {mean / least:.1f} times its "
            f"least ({least:.4g}){self._cause()}"
        )
        return self._say("risen", message)

    def _cause(self) -> str:
        return f"; {self._odd}" if self._odd else ""

    def _update(self, record: Mapping[str, Any]) -> Diagnostic | None:
        """Updates out of proportion at two recorded steps in a row, and what explains them."""
        if "update" not in record or not isinstance(record["update"], (int, float)):
            return None
        size, number = float(record["update"]), int(record["step"])
        was, self._odd = self._odd, ""
        why = ""
        if size > LOUD and number > 1:
            why = self._loud(size, self._rate(number))
        elif 0 < size < FAINT and number < 0.8 * self.total:
            why = self._faint(size, self._rate(number), record)
        if why:
            self._odd = f"an update moves the matrices by {size:.2g} of their size: {why}"
        if not was or not self._odd:
            return None
        return self._say("update", f"step {number}: {self._odd}")

    def _loud(self, size: float, rate: float | None) -> str:
        momentum = float(self.step.optimizer.arguments.get("momentum", 0))
        if momentum >= 0.99:
            return f"a momentum of {momentum:g} adds up {1 / (1 - momentum):.0f} gradients"
        return self._by_rate(size, rate, "high")

    def _faint(self, size: float, rate: float | None, record: Mapping[str, Any]) -> str:
        recipe, root, norm = self.step.recipe, record.get("root"), record.get("grad_norm")
        number = int(record["step"])
        eps = float(self.step.optimizer.arguments.get("eps", 0))
        peak = max((self._rate(n) or 0.0 for n in range(1, number + 1, 10)), default=0.0)
        if rate is not None and rate < 0.05 * peak:
            return f"the schedule gives a rate of {rate:.2g} now, of {peak:.2g} at its peak"
        if root is not None and root < eps:
            return f"eps = {eps:g} outweighs the gradients (root mean square {root:.2g})"
        if self._divides():
            return self._by_rate(size, rate, "low")
        limit, values = recipe.clip_norm, recipe.clip_value
        if limit is not None and norm is not None and norm > 10 * limit:
            return f"gradients of norm {norm:.3g} are clipped to {limit:g}"
        if values is not None and record.get("moved", 0.0) > 0.9 * (rate or math.inf) * values:
            return f"gradients are clipped to values of {values:g}"
        return self._by_rate(size, rate, "low")

    def _by_rate(self, size: float, rate: float | None, word: str) -> str:
        """The rate alone, where the optimiser divides by the gradients' size; else what it
        multiplies.
        """
        if rate is None or not rate:
            return "by the optimiser's own doing"
        if self._divides():
            return f"the rate is {word} ({rate:.2g})"
        return f"a rate of {rate:.2g} on gradients of {size / rate:.2g} of that size"

    def _divides(self) -> bool:
        """Whether the optimiser keeps a second moment."""
        first = next(iter(self.step.model.param_types().values()), None)
        slots = () if first is None else self.step.optimizer.update(first).slots
        return any(slot.name == "v" for slot in slots) and "eps" in self.step.optimizer.arguments

    def _clipped(self, share: float, middle: float, limit: float, count: int) -> Diagnostic | None:
        """Clipping that sets the rate: an optimiser that divides by its moments takes no notice."""
        if count < FEW or share < CLIPPED or middle < 10 * limit or self._divides():
            return None
        message = (
            f"{share:.0%} of the steps of an epoch are clipped to a norm of {limit:g}; the "
            f"gradients have {middle:.3g}, so the rate is {middle / limit:.3g} times smaller than "
            "it says"
        )
        return self._say("clip", message)

    def _scale(self, record: Mapping[str, Any]) -> Diagnostic | None:
        share = float(np.mean(self._skipped))
        if record["step"] <= 100 or share < SKIPPED:
            return None
        scale = record.get("loss_scale")
        message = (
            f"{share:.0%} of the last {len(self._skipped)} steps up to {record['step']} were "
            f"skipped because a gradient overflows; the loss scale is {scale:g}"
        )
        return self._say("scale", message)

    def _lost(self, record: Mapping[str, Any]) -> list[Diagnostic | None]:
        """Units that have died since the start; attention that has collapsed to one key or is as
        uniform as ever, in a training that does badly.
        """
        now = Look.read(record)
        begun = Look.read(record, "_at_start")
        if begun is not None:
            self._begun = begun
        if now is None or self._begun is None:
            return []
        found = []
        for place, share in now.shares.items():
            kind, _, line = place.partition(" ")
            start = self._begun.shares.get(place, 0.0)
            if kind not in _WORDS or share < DEAD or share - start < DIED:
                continue
            if kind == "attention" and not self._does_badly():
                continue  # one key may be all that is asked for
            message = f"step {record['step']}, {line}: {share:.0%} {_WORDS[kind]}"
            entropy = now.entropies.get(line)
            if kind == "attention" and entropy is not None:
                message += f" (entropy {entropy:.2g} of what it can be)"
            found.append(self._say(f"{kind} {line}", f"{message}, {start:.0%} at the start"))
        even = [n for n, h in now.entropies.items() if min(h, self._begun.of_line(n)) > UNIFORM]
        self._uniform = (
            f"; attention looks everywhere alike, as at the start ({even[0]})" if even else ""
        )
        return found

    def _does_badly(self) -> bool:
        """Whether the loss is high beside a constant's; if that is unknown, beside its least."""
        constant = self._best()
        if constant is None or constant.loss <= 0:
            return self._least > 0 and self._mean > 1.5 * self._least
        return self._mean > POOR * constant.loss


_WORDS = {
    "dead": "of the units are zero for all samples that were looked at",
    "attention": "of the queries look at one place only",
}


@dataclass(frozen=True)
class Look:
    """Shares of units and queries that are lost, by kind and line, and entropies by line."""

    shares: Mapping[str, float]
    entropies: Mapping[str, float]

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Look:
        """Of several ops in one line the worst counts, of entropies the least."""
        shares: dict[str, float] = {}
        entropies: dict[str, float] = {}
        for one in seen:
            line = _line(one.span)
            place = f"{one.kind} {line}"
            shares[place] = max(one.share, shares.get(place, 0.0))
            if one.entropy is not None:
                entropies[line] = min(one.entropy, entropies.get(line, math.inf))
        return cls(shares, entropies)

    @classmethod
    def read(cls, record: Mapping[str, Any], suffix: str = "") -> Look | None:
        """What a record says of a look; None if it says nothing."""
        shares, entropies = (_numbers(record.get(k + suffix)) for k in ("seen", "entropy"))
        return None if f"seen{suffix}" not in record else cls(shares, entropies)

    def of_line(self, line: str) -> float:
        return self.entropies.get(line, 0.0)


def is_doubled(number: int, first: int) -> bool:
    """Whether ``number`` is ``first``, or that doubled, and so on."""
    times, rest = divmod(number, first)
    return rest == 0 and times > 0 and times & (times - 1) == 0


def _line(span: Span | None) -> str:
    return "" if span is None else f"{span.outermost.file}:{span.outermost.line}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _numbers(value: object) -> dict[str, float]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {str(k): float(v) for k, v in pairs if _is_number(v)}


def _furthest(old: Array, new: Array) -> float:
    return float(np.abs(new - old).max(initial=0))


def _ends(array: Array) -> tuple[float, float]:
    return float(array.min()), float(array.max())
