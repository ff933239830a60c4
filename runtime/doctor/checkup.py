"""Why a training fails: what is certain, and what training beside it has shown.

    baseline   the training as it is, at most ``BASE`` steps
    certain    findings by the program, the data, one step (``certain``)
    health     how much of the loss is gone, against the same training with targets dealt at random
               (against the first loss where there are none); a healthy training ends here
    trials     for every candidate cause (``causes``) the training with one change, on the same
               batches, ``STEPS`` steps; only what lowers the loss is told, with by how much

A loss whose gradient is not its slope (a game between two networks) is not to be lowered, so
nothing is tried there.

Non-goals: printing (``commands.diagnose``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc.ir.tensor.core import Role
from gradc.runtime.doctor.causes import Candidate, candidates
from gradc.runtime.doctor.certain import broken, from_data, from_program, stuck, unseen
from gradc.runtime.doctor.constant import best_constant
from gradc.runtime.doctor.data import rarest
from gradc.runtime.doctor.evidence import Shares, seen_forward
from gradc.runtime.doctor.roles import Roles, roles_of
from gradc.runtime.doctor.trial import Bench, Change, Track
from gradc.runtime.files.batches import Samples
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import Array
from gradc.runtime.reports.diagnose import Finding, diagnose

BASE, STEPS, DEALT = 300, 100, 20
# Where a cause stands whose remedy helps: what is certain once it is seen before what is likely,
# and the rate, which makes up for much, last.
_RANK = {"symmetry": 60.0, "rate-high": 10.0, "rate-low": 10.0}
# The share of the loss that a healthy training has taken away, and that unrelated targets leave.
HEALTHY, UNRELATED = 0.7, 0.25
# Batches and samples that a loss is rated by; parameters that are moved by themselves.
_FEW, _ENOUGH, _ASKED = 8, 256, 40


@dataclass(frozen=True)
class Trial:
    """One change that was trained beside the training as it is: the losses of both at the end."""

    kind: str
    remedy: str
    before: float
    after: float
    later: float = math.inf  # what the training as it is comes to by itself, given longer
    lowers: float = 0.75

    @property
    def helps(self) -> bool:
        """Whether at most ``lowers`` of the loss is left, or it is lower at all where it was not
        finite; and lower than what the training as it is comes to later.
        """
        if not math.isfinite(self.after):
            return False
        if not math.isfinite(self.before):
            return True
        return self.after < min(self.before - (1 - self.lowers) * abs(self.before), self.later)


@dataclass(frozen=True)
class Checkup:
    """The findings, worst first; the trials behind them; losses of the training as it is."""

    findings: tuple[Finding, ...]
    trials: tuple[Trial, ...]
    losses: tuple[float, ...]
    learned: float
    dealt: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The checkup for a program to read."""
        return {
            "steps": len(self.losses),
            "first_loss": self.losses[0] if self.losses else None,
            "last_loss": self.losses[-1] if self.losses else None,
            "loss_with_targets_dealt_at_random": self.dealt,
            "findings": [
                {
                    "kind": f.kind,
                    "message": f.message,
                    "line": None if f.span is None else str(f.span.outermost),
                    "remedy": f.remedy,
                    "effect": f.effect,
                }
                for f in self.findings
            ],
            "tried": [
                {
                    "for": t.kind,
                    "change": t.remedy,
                    "loss_without": t.before,
                    "loss_with": t.after,
                    "helps": t.helps,
                }
                for t in self.trials
            ],
        }


def checkup(step: TrainStep, samples: Samples, batch: int, total: int, seed: int = 0) -> Checkup:
    """Looks at the training of ``step`` on ``samples``, ``total`` steps from the start of ``seed``.

    Raises:
        DiagnosticError: for arrays that do not fit the program.
    """
    return _Checkup(Bench(step, samples, batch, seed), total).run()


class _Checkup:
    def __init__(self, bench: Bench, total: int) -> None:
        self.bench, self.total = bench, total
        self.roles: Roles = roles_of(bench.flat)
        self.trials: list[Trial] = []

    def run(self) -> Checkup:
        bench = self.bench
        certain = [*from_program(bench, self.roles), *from_data(bench, self.roles), *stuck(bench)]
        base = bench.run(Change(), min(self.total, BASE))
        learned, dealt = self._learned(base)
        found = [*certain]
        origin = broken(bench, base)
        grew = _grew(base, bench.start) or (origin is not None and origin.kind == "overgrown")
        if origin is not None and not certain and not grew:
            found.append(origin)
        if not found and learned < HEALTHY and self._descends():
            found += self._tried(base, dealt)
        if not found and grew:
            found += [replace(origin, kind="not-finite")] if origin is not None else []
        found += self._states(base) if not found and base.broken is None else []
        ranked = tuple(sorted(found, key=lambda f: -f.severity))
        return Checkup(ranked, tuple(self.trials), tuple(base.losses), learned, dealt)

    # --- how well it goes

    def _learned(self, base: Track) -> tuple[float, float | None]:
        """The share of the loss that is gone, and the loss with targets dealt at random."""
        if base.broken is not None or not base.losses:
            return -math.inf, None
        dealt = self._dealt(len(base.losses))
        start, end = base.losses[0] if dealt is None else dealt, base.end
        if self._is_few(base):  # the last losses are chance, and noise has spoilt the others too
            end = self._loss(base, self.bench.samples, True)
            best = best_constant(self.bench.model, self.bench.samples, self.bench.batch)
            start = start if best is None else min(start, best.loss)
        if not math.isfinite(start):
            return -math.inf, dealt
        return (start - end) / max(abs(start), 1e-30), dealt

    def _is_few(self, track: Track) -> bool:
        """Whether the last tenth of the steps has seen few samples."""
        last = track.losses[-max(1, len(track.losses) // 10) :]
        return len(last) * self.bench.batch < _ENOUGH

    def _dealt(self, steps: int) -> float | None:
        """The loss of the same training where each sample has another's target."""
        if not self.roles.targets or not self.roles.features:
            return None
        dealt = replace(self.bench.samples, batched=self._mixed())
        track = self.bench.run(Change(data=dealt), min(steps, STEPS))
        best = min((v for v in track.losses if math.isfinite(v)), default=math.inf)
        return track.end if math.isfinite(track.end) else best

    def _descends(self) -> bool:
        """Whether a short step of each parameter down its gradient does not raise the loss: where
        it does, the gradient is another one on purpose, as in a game between two networks.
        """
        bench, inputs = self.bench, self.bench.first()
        scale = 1.0 if bench.step.recipe.loss_scale is None else 2.0**10
        loss, _, cts = bench.value(bench.start, inputs, scale)
        if not math.isfinite(loss):
            return True
        for name, ct in list(cts.items())[:_ASKED]:
            square = float(np.sum(np.square(ct, dtype=np.float64)))
            if not math.isfinite(square) or square == 0:
                continue
            if all(
                self._rises(name, ct, share * max(abs(loss), 1e-3) / square, square, loss, scale)
                for share in (1e-3, 1e-4, 2e-5)
            ):
                return False
        return True

    def _rises(
        self, name: str, ct: Array, length: float, square: float, loss: float, scale: float
    ) -> bool:
        """Whether the loss rises where it should fall by ``length`` times ``square``."""
        bench = self.bench
        moved = {**bench.start, name: bench.start[name] - np.asarray(length * ct, ct.dtype)}
        return bench.value(moved, bench.first(), scale)[0] - loss > 0.5 * length * square

    # --- trials

    def _tried(self, base: Track, dealt: float | None) -> list[Finding]:
        bench = self.bench
        flow = self._flow()
        shares = Shares.of(seen_forward(bench.flat, {**bench.start, **bench.first()}))
        steps = min(self.total, STEPS)
        short = base if len(base.losses) <= steps else _cut(base, steps)
        found: list[Finding] = []
        rare = self._imbalance(base)
        for candidate in candidates(bench, base, self.roles, shares, flow, self.total):
            if candidate.is_generic and found:
                continue
            finding = self._judge(candidate, short, base, steps)
            if finding is not None:
                found.append(finding)
        if found or rare:
            return found + rare
        found += list(unseen(bench, self.roles))
        found += self._flow_untried(flow) if not found else []
        return found or self._unrelated(base, dealt)

    def _judge(self, candidate: Candidate, base: Track, whole: Track, steps: int) -> Finding | None:
        """The candidate as a finding if one of its changes lowers the loss."""
        best: tuple[Trial, Track] | None = None
        for remedy, change in candidate.tries:
            track = self.bench.run(change, steps)
            before, after = self._rated(candidate, change, base, track)
            later = whole.end if candidate.is_generic else math.inf
            trial = Trial(candidate.kind, remedy, before, after, later, candidate.lowers)
            self.trials.append(trial)
            if trial.helps and (best is None or trial.after < 0.9 * best[0].after):
                best = trial, track
        if best is None:
            return None
        trial = best[0]
        effect = (
            f"tried: {steps} steps on the same batches end at a loss of {trial.after:.4g}, "
            f"without it {_shown(trial.before)}"
        )
        gain = math.log10(max(_size(trial.before) / _size(trial.after), 1.0))
        severity = _RANK.get(candidate.kind, 40.0) + min(gain, 9.0)
        return Finding(
            candidate.kind, candidate.message, candidate.span, severity, trial.remedy, effect
        )

    def _rated(
        self, candidate: Candidate, change: Change, base: Track, track: Track
    ) -> tuple[float, float]:
        """The losses to compare, in the units of the training as it is."""
        is_plain = candidate.unit == 1 and change.data is None and change.scores == 1
        is_end = candidate.measure == "end" and not (self._is_few(base) and is_plain)
        if is_end or track.broken is not None:
            return base.end, track.end * candidate.unit
        data = change.data or self.bench.samples
        training = candidate.measure != "use"
        return self._loss(base, data, training), self._loss(track, data, training)

    def _loss(self, track: Track, data: Samples, training: bool) -> float:
        """The mean loss over some batches of ``data`` at the end of ``track``."""
        if track.broken is not None:
            return math.inf
        size = self.bench.batch
        starts = range(0, min(data.count - size + 1, max(_FEW * size, _ENOUGH)), size)
        found = [
            self.bench.value(track.params, data.take(np.arange(at, at + size)), 1.0, training)[0]
            for at in starts
        ]
        return float(np.mean(found)) if found else math.inf

    def _flow(self) -> tuple[Finding, ...]:
        """What the gradient's flow shows at the start: kinds through time have `-time`."""
        bench = self.bench
        found = diagnose(bench.made.function, {**bench.start, **bench.first()})
        named = []
        for finding in found.findings:
            if finding.kind not in ("vanishing", "exploding", "truncation", "symmetry"):
                continue
            in_time = finding.message.startswith("through time")
            named.append(replace(finding, kind=finding.kind + "-time") if in_time else finding)
        kinds: dict[str, Finding] = {}
        for finding in named:
            kinds.setdefault(finding.kind, finding)
        return tuple(kinds.values())

    def _flow_untried(self, flow: tuple[Finding, ...]) -> list[Finding]:
        """What was measured though nothing that was tried helps."""
        return [replace(f, severity=15.0 + min(f.severity, 10.0), effect="") for f in flow]

    # --- what else

    def _unrelated(self, base: Track, dealt: float | None) -> list[Finding]:
        """Targets that have nothing to do with the features."""
        if dealt is None or base.broken is not None:
            return []
        if self._share(base, dealt) > UNRELATED or not self._memorises():
            return []
        held, mean, spread = self._held()
        if not held > mean - 2 * spread:
            return []
        message = (
            f"trained on two thirds of the samples, the loss on the others is {held:.4g}; with "
            f"their targets dealt at random it is {mean:.4g} +- {spread:.2g}, so the features say "
            "nothing of the targets, while a few samples can be learned by heart"
        )
        remedy = "check that features and targets are in the same order"
        return [Finding("unrelated", message, None, 30.0, remedy)]

    def _held(self) -> tuple[float, float, float]:
        """The loss on a third of the samples after training on the others; its mean and deviation
        with the targets of that third dealt at random, ``DEALT`` times.
        """
        samples = self.bench.samples
        cut = 2 * samples.count // 3
        rows = np.arange(samples.count)
        if min(cut, samples.count - cut) < self.bench.batch:
            return math.nan, math.nan, math.nan
        known = replace(samples, batched=_rows(samples, rows[:cut]), count=cut)
        track = self.bench.run(Change(data=known), min(self.total, STEPS))
        others = replace(samples, batched=_rows(samples, rows[cut:]), count=samples.count - cut)
        dealt = []
        for number in range(DEALT):
            order = np.random.default_rng(number).permutation(others.count)
            mixed = {
                n: a[order] if n in self.roles.targets else a for n, a in others.batched.items()
            }
            dealt.append(self._loss(track, replace(others, batched=mixed), True))
        return self._loss(track, others, True), float(np.mean(dealt)), float(np.std(dealt))

    def _share(self, base: Track, dealt: float) -> float:
        """The share of the loss with targets dealt at random that is gone after as many steps."""
        return (dealt - _cut(base, STEPS).end) / max(abs(dealt), 1e-30)

    def _mixed(self) -> dict[str, Array]:
        """The samples with each one's target that of another."""
        samples = self.bench.samples
        order = np.random.default_rng(0).permutation(samples.count)
        return {n: a[order] if n in self.roles.targets else a for n, a in samples.batched.items()}

    def _memorises(self) -> bool:
        """Whether eight samples alone are learned."""
        rows = np.arange(min(_FEW, self.bench.samples.count))
        few = {n: a[rows] for n, a in self.bench.samples.batched.items()}
        bench = Bench(
            self.bench.step,
            replace(self.bench.samples, batched=few, count=len(rows)),
            len(rows),
            self.bench.seed,
        )
        track = bench.run(Change(), BASE)
        return bool(track.losses) and track.end < 0.3 * track.losses[0]

    def _imbalance(self, base: Track) -> list[Finding]:
        """A rare class that is never predicted."""
        samples, net = self.bench.samples, self.bench.model
        labels = [n for n in self.roles.targets if samples.batched[n].dtype.kind in "iu"]
        if len(labels) != 1 or "logits" not in net.outputs or base.broken is not None:
            return []
        kind, share = rarest(samples.batched[labels[0]])
        if share >= 0.05:
            return []
        guessed = self._guessed(base)
        if guessed is None or bool((guessed == kind).any()):
            return []
        message = (
            f"class {kind} of `{labels[0]}` has {share:.1%} of the samples and is never predicted"
        )
        remedy = "weigh its samples more in the loss, or draw them more often"
        return [Finding("imbalance", message, None, 35.0, remedy)]

    def _guessed(self, base: Track) -> Array | None:
        found = self.bench.model.forward("logits")
        samples, size = self.bench.samples, self.bench.batch
        parts = [
            found(
                base.params,
                **{
                    n: a
                    for n, a in samples.take(np.arange(at, at + size)).items()
                    if n not in self.roles.targets
                },
            )["logits"].argmax(-1)
            for at in range(0, samples.count - size + 1, size)
        ]
        return np.concatenate([p.reshape(-1) for p in parts]) if parts else None

    def _states(self, base: Track) -> list[Finding]:
        """Stored values that are not those of training: the loss in use is another."""
        states = [s for s in self.bench.made.parameters if s.role is Role.STATE and s.path != "rng"]
        if not states:
            return []
        trained = self._loss(base, self.bench.samples, True)
        used = self._loss(base, self.bench.samples, False)
        if not used > 3 * max(trained, 1e-3) or used - trained < 0.1 * abs(base.losses[0]):
            return []
        named = ", ".join(f"`{s.path}`" for s in states[:4])
        message = (
            f"the loss is {trained:.4g} while training and {used:.4g} in use, on the same "
            f"samples: the stored values ({named}) are not those that training sees"
        )
        remedy = "let the running statistics move faster: a smaller momentum, or more steps"
        return [Finding("running", message, states[0].span, 50.0, remedy)]


def _grew(base: Track, start: Mapping[str, Array]) -> bool:
    """Whether the loss or the weights grew before something stopped being finite."""
    if base.broken is None or base.broken[0] == 1:
        return False
    told = [v for v in base.losses if math.isfinite(v)]
    if len(told) > 1 and told[-1] > 3 * max(abs(min(told)), 1e-30):
        return True
    before = max((_top(a) for n, a in start.items()), default=0.0)
    return max((_top(a) for a in base.before.values()), default=0.0) > 100 * max(before, 1e-3)


def _top(array: Array) -> float:
    return float(np.abs(array).max(initial=0)) if array.dtype.kind == "f" else 0.0


def _rows(samples: Samples, rows: Array) -> dict[str, Array]:
    return {name: array[rows] for name, array in samples.batched.items()}


def _cut(base: Track, steps: int) -> Track:
    """The first steps of a track. Its parameters are those of its end."""
    return replace(base, losses=base.losses[:steps], norms=base.norms[:steps])


def _size(loss: float) -> float:
    return min(max(abs(loss), 1e-12), 1e12) if math.isfinite(loss) else 1e12


def _shown(loss: float) -> str:
    return f"{loss:.4g}" if math.isfinite(loss) else "it breaks down"
