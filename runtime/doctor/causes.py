"""What may be why a training fails, each with the change that would show it.

A candidate has evidence: a number that was measured at the start or while training. Whether it is
the cause is said by ``checkup``, which trains with the change beside the training as it is.

Non-goals: what is certain without a trial (``certain``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType, Function, Span
from gradc.passes.training.step import RATE
from gradc.runtime.doctor.attention import scaled_scores
from gradc.runtime.doctor.data import Fact, facts, normalised, outlying, standardised
from gradc.runtime.doctor.evidence import Shares, seen_forward
from gradc.runtime.doctor.roles import Roles
from gradc.runtime.doctor.trial import Bench, Change, Track, scheduled
from gradc.runtime.files.batches import Samples
from gradc.runtime.native.arrays import Array
from gradc.runtime.reports.diagnose import Finding, redrawn
from gradc.runtime.reports.truncation import windows

# The share of units or values that is lost before it is told; healthy nets have a third.
DEAD, SATURATED, LOOKING = 0.6, 0.5, 0.5
CLIPPED, MOMENTUM = 0.9, 0.99
# Entropy of attention, as a share of the most that it can be, that is as good as all of it, and
# that is not; the share of a squared gradient that batches agree on, of so many, that is little.
EVEN, TOLD, AGREED, ASKED = 0.995, 0.9, 0.1, 32


@dataclass(frozen=True)
class Candidate:
    """A cause that is possible, its remedy in words, and the changes that try it.

    ``unit`` is what a loss of the changed training is worth in losses of the training as it is;
    ``measure`` says how both are rated: by ``end`` (mean loss of the last tenth of the steps),
    ``clean`` (loss on the data of the change), ``same`` (on the data as they are) or ``use`` (as in
    use, without dropout).
    """

    kind: str
    message: str
    span: Span | None
    tries: tuple[tuple[str, Change], ...]
    unit: float = 1.0
    measure: str = "end"
    is_generic: bool = False
    lowers: float = 0.75  # of the loss, at most, is left where a change helps


def candidates(
    bench: Bench, base: Track, roles: Roles, shares: Shares, flow: tuple[Finding, ...], total: int
) -> Iterator[Candidate]:
    """Every cause for which there is evidence, and last the learning rate."""
    yield from _of_data(bench, roles)
    yield from _of_settings(bench, base, total)
    yield from _of_precision(bench, base)
    yield from _of_flow(bench, shares, flow)
    yield from _of_attention(bench, base, shares)
    yield from _of_noise(bench, base)
    yield from _of_rate(bench)


# --- data


def _of_data(bench: Bench, roles: Roles) -> Iterator[Candidate]:
    for fact in facts(bench.samples, roles):
        if fact.kind == "unscaled":
            change = Change(data=_with(bench.samples, fact.name, normalised))
            remedy = f"normalise `{fact.name}`: mean 0 and deviation 1 per feature"
            yield Candidate("unscaled", fact.message, None, ((remedy, change),))
        elif fact.kind == "target-scale":
            yield _scaled_target(bench, fact)
        elif fact.kind == "target-outlier":
            kept = ~outlying(bench.samples.batched[fact.name])
            arrays = {n: a[kept] for n, a in bench.samples.batched.items()}
            change = Change(data=replace(bench.samples, batched=arrays, count=int(kept.sum())))
            tries = (("leave these rows out, or use a loss that grows less fast", change),)
            yield Candidate("target-outlier", fact.message, None, tries, measure="clean")


def _with(samples: Samples, name: str, changed: Any) -> Samples:
    return replace(samples, batched={**samples.batched, name: changed(samples.batched[name])})


def _scaled_target(bench: Bench, fact: Fact) -> Candidate:
    array, spread = standardised(bench.samples.batched[fact.name])
    change = Change(data=_with(bench.samples, fact.name, lambda _old: array))
    remedy = f"train on `{fact.name}` with mean 0 and deviation 1, and scale the outputs back"
    return Candidate("target-scale", fact.message, None, ((remedy, change),), spread * spread)


# --- settings


def _of_settings(bench: Bench, base: Track, total: int) -> Iterator[Candidate]:
    recipe, arguments = bench.step.recipe, bench.step.optimizer.arguments
    norms = [n for n in base.norms if math.isfinite(n)]
    if recipe.clip_norm is not None and norms:
        limit = recipe.clip_norm
        share = float(np.mean([n > limit for n in norms]))
        if share > CLIPPED:
            middle = float(np.median(norms))
            message = (
                f"{share:.0%} of the steps are clipped to a norm of {limit:g}; the gradients have "
                f"{middle:.3g}, so the rate is {middle / limit:.3g} times smaller than it says"
            )
            wider = float(f"{middle:.1g}")
            change = Change(recipe={"clip_norm": wider})
            yield Candidate("clip", message, None, ((f"--clip-norm {wider:g}", change),))
    if recipe.clip_value is not None:
        tops = [v for v in base.largest.values() if v > 0]
        limit, middle = recipe.clip_value, float(np.median(tops)) if tops else 0.0
        if middle > 100 * limit:
            message = f"gradients of up to {middle:.3g} are clipped to values of {limit:g}"
            wider = float(f"{middle:.1g}")
            change = Change(recipe={"clip_value": wider})
            yield Candidate("clip", message, None, ((f"--clip-value {wider:g}", change),))
    if float(arguments.get("decay", 0)) > 0:
        decay = float(arguments["decay"])
        message = (
            f"the decay of {decay:g} pulls the weights to zero faster than the loss moves them"
        )
        tries = tuple(
            (f"decay = {value:g}", Change(optimizer={"decay": value}))
            for value in (decay / 1e2, decay / 1e4)
        )
        yield Candidate("decay", message, None, tries)
    yield from _of_moments(base, arguments)
    yield from _of_schedule(bench, total)


def _of_moments(base: Track, arguments: Mapping[str, float | bool]) -> Iterator[Candidate]:
    eps, tops = float(arguments.get("eps", 0)), [v for v in base.largest.values() if v > 0]
    if eps > 0 and tops and eps > float(np.median(tops)):
        message = (
            f"eps = {eps:g} is larger than the gradients ({float(np.median(tops)):.3g} at most in "
            "the middle parameter), so the update is scaled down by it"
        )
        yield Candidate("eps", message, None, (("eps = 1e-8", Change(optimizer={"eps": 1e-8})),))
    momentum = float(arguments.get("momentum", 0))
    if momentum >= MOMENTUM:
        message = f"a momentum of {momentum:g} adds up {1 / (1 - momentum):.0f} gradients"
        tries = (
            ("momentum = 0.9", Change(optimizer={"momentum": 0.9})),
            ("momentum = 0.9 and a tenth of the rate", Change(0.1, optimizer={"momentum": 0.9})),
        )
        yield Candidate("momentum", message, None, tries)


def _of_schedule(bench: Bench, total: int) -> Iterator[Candidate]:
    schedule = bench.step.schedule
    if schedule is None:
        return
    rates = [scheduled(schedule.function, n) for n in range(1, total + 1)]
    named = _peak(schedule.text)
    peak = max([*rates, named])
    low = float(np.mean([r < 0.05 * peak for r in rates]))
    if peak <= 0 or low < 0.5:
        return
    message = (
        f"the schedule gives less than a twentieth of its peak ({peak:g}) in {low:.0%} of the "
        f"{total} steps"
    )
    tries = ((f"a rate of {peak:g} throughout", Change(fixed_rate=peak)),)
    yield Candidate("schedule", message, None, tries)


def _peak(text: str) -> float:
    """The number that the text of a schedule gives for `peak`; 0 without one."""
    _, found, rest = text.replace(" ", "").partition("peak=")
    try:
        return float(rest.split(",")[0].rstrip(")")) if found else 0.0
    except ValueError:
        return 0.0


# --- precision


def _of_precision(bench: Bench, base: Track) -> Iterator[Candidate]:
    kinds = {s.type.dtype for s in bench.made.parameters}
    if DType.F16 not in kinds or bench.step.recipe.loss_scale == "dynamic":
        return
    inputs = bench.first()
    with np.errstate(all="ignore"):
        _, _, plain = bench.value(bench.start, inputs, base.scale)
        _, _, scaled = bench.value(bench.start, inputs, base.scale * 2.0**14)
    lost = sum(int(((plain[n] == 0) & (scaled[n] != 0)).sum()) for n in plain)
    told = sum(int((scaled[n] != 0).sum()) for n in plain)
    if not told or lost / told < 0.2:
        return
    message = f"{lost / told:.0%} of the gradient's numbers are lost in f16: they round to zero"
    tries = (("--loss-scale dynamic", Change(recipe={"loss_scale": "dynamic"})),)
    yield Candidate("underflow", message, None, tries)


# --- flow


def _of_flow(bench: Bench, shares: Shares, flow: tuple[Finding, ...]) -> Iterator[Candidate]:
    starts = tuple(
        (f"initialise the weights with `{name}`", Change(start=_drawn(bench, name)))
        for name in ("glorot_normal", "he_normal", "orthogonal")
    )
    told = {"dead": DEAD, "saturated": SATURATED, "attention": LOOKING}
    words = {
        "dead": "of the units are zero for every sample, so they learn nothing",
        "saturated": "of the values are at the bounds of `{op}`, where its slope is zero",
        "attention": "of the queries look at one place only: their scores are too far apart",
    }
    for kind, least in told.items():
        if shares.share(kind) < least:
            continue
        worst = shares.worst[kind]
        message = f"{worst.share:.0%} {words[kind].format(op=worst.op.name)}"
        tries = starts
        if kind == "dead":
            tries = (("start the biases at 0", Change(start=_zeroed(bench))), *starts)
        elif kind == "attention":
            if worst.entropy is not None:
                message += f" (entropy {worst.entropy:.2g} of what it can be)"
            tries = (*starts, *_scored(0.1, 0.01))
        yield Candidate(kind, message, worst.span, tries)
    for finding in flow:
        if finding.kind == "truncation":
            continue
        gates = _gates(bench) if finding.kind.endswith("-time") else {}
        more = (("start the forget gates at 3", Change(start=gates)),) if gates else ()
        yield Candidate(finding.kind, finding.message, finding.span, (*more, *starts))
    found = windows(bench.made.function)
    if found:
        loop = min(found, key=lambda w: w.size / w.trips)
        message = f"`truncate {loop.size}` keeps {loop.size} of {loop.trips} steps of the loop"
        tries = (("a longer window (tried with the whole loop)", Change(is_whole=True)),)
        yield Candidate("truncation", message, loop.span, tries)
    if _draws(bench.made.function):
        message = "the dropout takes away more than the network can do without"
        tries = (("a smaller dropout rate (tried without any)", Change(training=False)),)
        yield Candidate("dropout", message, None, tries, measure="use")


def _scored(*factors: float) -> Iterator[tuple[str, Change]]:
    for factor in factors:
        yield f"multiply the scores of attention by {factor:g}", Change(scores=factor)


def _of_attention(bench: Bench, base: Track, shares: Shares) -> Iterator[Candidate]:
    """Attention that tells no keys apart, before training and after."""
    begun = shares.evenest
    if begun is None or begun.entropy is None or begun.entropy < EVEN or base.broken is not None:
        return
    now = Shares.of(seen_forward(bench.flat, {**base.params, **bench.first()})).evenest
    if now is None or now.entropy is None or now.entropy < EVEN:
        return
    message = (
        f"attention looks everywhere alike: its entropy is {begun.entropy:.4f} of the most it can "
        f"be, and {now.entropy:.4f} after {len(base.losses)} steps, so the scores are too close"
    )
    yield Candidate("attention", message, begun.span, tuple(_scored(*_telling(bench))))


def _telling(bench: Bench) -> Iterator[float]:
    """By what the scores are multiplied so that the first attention tells keys apart at the start,
    and ten times that.
    """
    for factor in (10.0**n for n in range(1, 8)):
        scaled = scaled_scores(bench.flat, factor)
        seen = seen_forward(scaled, {**bench.start, **bench.first()})
        if min((one.entropy for one in seen if one.entropy is not None), default=1.0) < TOLD:
            yield factor
            yield 10 * factor
            return


def _of_noise(bench: Bench, base: Track) -> Iterator[Candidate]:
    """Batches whose gradients have little in common."""
    larger = [n for n in (8, 32) if bench.batch * n <= bench.samples.count]
    if not larger or bench.step.recipe.loss_scale is not None:
        return
    params = bench.start if base.broken is not None else base.params
    agreed = bench.agreement(params, ASKED)
    if not agreed < AGREED:
        return
    when = "at the start" if base.broken is not None else f"after {len(base.losses)} steps"
    message = (
        f"batches of {bench.batch} agree on {agreed:.1%} of a squared gradient {when}; the rest is "
        "noise, too much for the rate"
    )
    tries = tuple(
        (
            f"--batch {bench.batch * n} (with --accumulate {n} in the same memory)",
            Change(batch=n),
        )
        for n in larger
    )
    yield Candidate("noise", message, None, tries, measure="same", lowers=0.5)


def _drawn(bench: Bench, name: str) -> dict[str, Array]:
    found = redrawn(bench.made.parameters, name, bench.seed)
    return {n: np.asarray(a, np.float32) for n, a in found.items()}


def _zeroed(bench: Bench) -> dict[str, Array]:
    """Vectors that start below zero, at zero."""
    return {
        n: np.zeros_like(a, np.float32)
        for n, a in bench.start.items()
        if n in bench.trained and a.ndim == 1 and bool((a < 0).all())
    }


def _gates(bench: Bench) -> dict[str, Array]:
    """The biases of the library's LSTMs with the part of the forget gate at 3."""
    found = {}
    for spec in bench.made.parameters:
        square = bench.start.get(f"{spec.path[:-1]}wh")
        is_lstm = spec.path.endswith(".b") and square is not None and square.ndim == 2
        if is_lstm and square is not None and square.shape[1] == 4 * square.shape[0]:
            size, bias = square.shape[0], np.array(bench.start[spec.path], np.float32)
            bias[size : 2 * size] = 3.0
            found[spec.path] = bias
    return found


def _draws(function: Function) -> bool:
    return any(slot.name == "rng" for slot in function.parameters)


# --- rate


def _of_rate(bench: Bench) -> Iterator[Candidate]:
    optimizer = bench.step.optimizer
    if optimizer.rate is None and bench.step.schedule is None:
        return
    name = RATE if bench.step.schedule is None else "the peak of the schedule"
    rate = optimizer.rate if bench.step.schedule is None else None
    for kind, words, factors in (
        ("rate-high", "too high", (0.1, 0.01)),
        ("rate-low", "too low", (10.0, 100.0, 1000.0, 1e4)),
    ):
        tries = tuple((_rated(name, rate, factor), Change(rate=factor)) for factor in factors)
        message = f"the learning rate is {words}" + (f" ({rate:g})" if rate is not None else "")
        yield Candidate(kind, message, None, tries, is_generic=True)


def _rated(name: str, rate: float | None, factor: float) -> str:
    return f"{name} times {factor:g}" if rate is None else f"{name} = {rate * factor:g}"
