"""What is noticed while a training runs, from what its records say: that the loss is no lower than
a constant's, that it rises, that it is negative, that updates are out of proportion and by what,
that clipping or the loss scale decides, that units die or attention stiffens.

Everything follows from the records of ``metrics.jsonl``, the settings and the data, so that a run
that is resumed says the same. At one step in fifty the weights of before and after are compared; a
look at units and attention is a forward sweep of few samples in the reference interpreter, after
``LOOK`` steps and whenever the steps have doubled, so that looking stays below 2 % of a training.

A message says what was measured; what would help is tried by ``gradc diagnose --run``.

Non-goals: a step that is not finite (``runtime.training``); drawing (``run_page``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.ir.tensor.core import Function, Span
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.step import SCALE
from gradc.runtime.doctor.certain import is_unbounded
from gradc.runtime.doctor.constant import Constant, best_constant, is_negative_by_targets, tails
from gradc.runtime.doctor.evidence import seen_forward
from gradc.runtime.doctor.trial import scheduled
from gradc.runtime.files.batches import Samples, permutation
from gradc.runtime.model.state import TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.training.watch import Moved, square

LOOK, ROWS = 2000, 8
# Moments are recorded up to a step, and then at every so manieth.
OFTEN, SELDOM = 100, 500
# Losses that are averaged, steps before a loss is held against a constant, and how close is no
# better.
FEW, SETTLED, NO_BETTER = 20, 150, 0.98
RISEN = 3.0
# Updates of the matrices as a share of their size: below and above is out of proportion.
FAINT, LOUD = 1e-6, 0.3
CLIPPED, SKIPPED = 0.9, 0.1
_SOME = 256  # numbers of a moment whose middle is told
DIED, DEAD = 0.3, 0.6
_HELP = "`gradc diagnose --run` with the same program and data tries what lowers the loss"


@dataclass
class Watching:
    """The watch over one run of ``total`` steps; ``seed`` draws its start."""

    step: TrainStep
    samples: Samples
    batch: int
    total: int
    seed: int
    said: set[str] = field(default_factory=set)
    constant: Constant | None = None
    _asked: set[str] = field(default_factory=set)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=FEW))
    _mean: float = math.nan
    _least: float = math.inf
    _norms: list[float] = field(default_factory=list)
    _skipped: deque[bool] = field(default_factory=lambda: deque(maxlen=100))
    _odd: str = ""
    _start: Mapping[str, float] | None = None

    # --- what is recorded

    def fields(
        self,
        number: int,
        state: TrainState,
        before: Mapping[str, Array],
        moved: Mapping[str, Moved],
    ) -> dict[str, Any]:
        """What the record of step ``number`` says besides: of the update, if there are the weights
        of ``before``, and of units and attention now and then.
        """
        found: dict[str, Any] = {}
        if before:
            matrices = [one for n, one in moved.items() if before[n].ndim >= 2]
            size = sum(one.size for one in matrices)
            found["update"] = Moved(sum(one.moved for one in matrices), size).share if size else 0.0
            if self.step.recipe.clip_value is not None and self._is_whole:
                found["moved"] = max(_furthest(a, state.arrays[n]) for n, a in before.items())
            if self._is_whole and (number <= OFTEN or number % SELDOM == 0):
                found |= self._moments(state, before)
        if self._is_scaled:
            found["loss_scale"] = float(state.arrays[SCALE])
        if number % LOOK == 0 and is_looked_at(number) and self._is_whole:
            found["seen"] = self._look(state.arrays)
        return found

    @property
    def _is_whole(self) -> bool:
        """Whether this rank holds whole parameters."""
        return self.step.shard is None

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
        roots, signal = [], {}
        for name in names:
            m, v = state.arrays.get(f"{name}/m"), state.arrays.get(f"{name}/v")
            if m is None or v is None or not m.size or min(one, two) <= 0:
                continue
            some = v.reshape(-1)[:: max(1, v.size // _SOME)]
            roots.append(float(np.median(np.sqrt(some / two))))
            total = float(np.sum(v)) / two
            if total > 0:
                signal[name] = min(1.0, square(m.reshape(-1)) / one**2 / total)
        return {"root": float(np.median(roots)), "signal": signal} if roots else {}

    def _look(self, arrays: Mapping[str, Array]) -> dict[str, float]:
        """Shares of units and queries that are lost, by kind and line, on the first samples."""
        return {_place(s.kind, s.span): s.share for s in self._seen(arrays)}

    def _seen(self, arrays: Mapping[str, Array]) -> list[Any]:
        order = permutation(self.seed, 0, self.samples.count)
        inputs = self.samples.take(order[: min(ROWS, self.samples.count)])
        model = self.step.model
        dims = model.bind({name: a.shape for name, a in inputs.items()})
        function = flatten(model.lower(dims, training=False).function)
        names = {s.name for s in function.parameters}
        given = {n: a for n, a in arrays.items() if n in names}
        return seen_forward(function, {**given, **inputs})

    # --- what is noticed

    def after(self, record: Mapping[str, Any]) -> list[Diagnostic]:
        """What the record of a step adds."""
        loss = record.get("loss")
        if not isinstance(loss, (int, float)):
            loss = math.nan
        self._count(float(loss))
        if "grad_norm" in record and isinstance(record["grad_norm"], (int, float)):
            self._norms.append(float(record["grad_norm"]))
        found = [self._negative(record, loss) if loss < 0 else None, self._risen(record)]
        if "update" in record:
            found.append(self._update(record))
        if self._is_scaled:
            self._skipped.append(bool(record.get("overflow")))
            found.append(self._scale(record))
        if "seen" in record:
            found += self._lost(record)
        return [one for one in found if one is not None]

    def _count(self, loss: float) -> None:
        """``_mean`` is that of the last losses, once there are enough; NaN for a while after one
        that is not finite.
        """
        last = self._last
        last.append(loss)
        self._mean = sum(last) / FEW if len(last) == FEW else math.nan

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
        for record in records:
            if "epoch_done" in record:
                self.epoch(record)
            else:
                self.after(record)

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
            f"every sample reach {best:.4g} (`{constant.target}` alone)"
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
        mean, before = self._mean, self._least
        if mean < before:
            self._least = mean
            return None
        if not 0 < before < math.inf or not mean > RISEN * before or "risen" in self.said:
            return None
        constant = self._best()
        if constant is None or not mean > 0.5 * constant.loss > 0:
            return None
        message = (
            f"the loss is {mean:.4g} around step {record['step']}, {mean / before:.1f} times its "
            f"least ({before:.4g}){self._cause()}"
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
        """Units that have died since the start, queries that look at one place only."""
        seen = record.get("seen")
        if not isinstance(seen, Mapping):
            return []
        found = []
        for place, share in seen.items():
            kind, _, line = str(place).partition(" ")
            start = self._begun().get(str(place), 0.0)
            if kind not in _WORDS or share < DEAD or share - start < DIED:
                continue
            message = (
                f"step {record['step']}, {line}: {share:.0%} {_WORDS[kind]}, {start:.0%} at the "
                "start"
            )
            found.append(self._say(f"{kind} {line}", message))
        return found

    def _begun(self) -> Mapping[str, float]:
        if self._start is None:
            self._start = self._look(dict(self.step.model.init(self.seed)))
        return self._start


_WORDS = {
    "dead": "of the units are zero for all samples that were looked at",
    "attention": "of the queries look at one place only",
}


def is_looked_at(number: int) -> bool:
    """Whether units and attention are looked at after step ``number``: 2 000, 4 000, 8 000, ..."""
    times, rest = divmod(number, LOOK)
    return rest == 0 and times > 0 and times & (times - 1) == 0


def _place(kind: str, span: Span | None) -> str:
    where = "" if span is None else f"{span.outermost.file}:{span.outermost.line}"
    return f"{kind} {where}"


def _furthest(old: Array, new: Array) -> float:
    return float(np.abs(new - old).max(initial=0))


def _ends(array: Array) -> tuple[float, float]:
    return float(array.min()), float(array.max())
