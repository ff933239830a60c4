"""What is certain without a trial: by the program, by the data, by one step.

Non-goals: what only training beside the training shows (``causes``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gradc.frontend.model.suspect import optimizer_suspicion, own_line, suspicions
from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import Contraction, Control, Reduction, all_ops
from gradc.ir.tensor.core import DType, Function, Role, TensorType
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.hazards.analysis import Analysis
from gradc.runtime.doctor.constant import falls_without_end, tails
from gradc.runtime.doctor.data import facts, unreachable
from gradc.runtime.doctor.roles import Roles
from gradc.runtime.doctor.trial import Bench, Track, fresh_slots, updated
from gradc.runtime.files.batches import Samples
from gradc.runtime.model.state import TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.reports.culprit import find_culprit
from gradc.runtime.reports.diagnose import Finding

# Warnings of `check` that say why a training fails, and how sure that is.
_SEVERITY = {"GC0212": 60.0, "GC0210": 20.0, "GC0221": 70.0}


def warnings_of(step: TrainStep, dims: Mapping[str, int]) -> list[Diagnostic]:
    """What `check` warns of, what shows only with ``dims`` bound, and what the optimiser does."""
    model = step.model
    found = list(model.program.check())
    known = {(d.code, d.span) for d in found}
    bound = suspicions(model.lower(dims).function, dims)
    found += [d for d in bound if (d.code, d.span) not in known]
    update = step.optimizer.update(TensorType((2,), DType.F32)).function
    divided = optimizer_suspicion(update)
    if divided is not None and (divided.code, divided.span) not in known:
        found.append(divided)
    return found


def from_program(bench: Bench, roles: Roles) -> Iterator[Finding]:
    """Warnings, a loss without a lower bound, an output that cannot reach, an optimiser that
    climbs.
    """
    dims = bench.model.bind({n: a.shape for n, a in bench.first().items()})
    places: set[tuple[str, str]] = set()
    for warned in warnings_of(bench.step, dims):
        place = (warned.code, "" if warned.span is None else str(warned.span.outermost))
        if place in places:
            continue
        places.add(place)
        if warned.code in ("GC0212", "GC0210") and (roles.features or warned.code == "GC0210"):
            continue  # untidy, and no reason to learn nothing
        if warned.code == "GC0212" and len(bench.model.inputs) < 2:
            continue
        severity = _SEVERITY.get(warned.code, 100.0)
        yield Finding(warned.code, warned.message, warned.span, severity, warned.help)
    function = bench.flat
    analysis = Analysis()
    analysis.run(function.block)
    if is_unbounded(function, bench.samples, analysis):
        message = "the loss is never above zero and has no least value: its sign is wrong"
        remedy = "take the negative of it: what is to grow is not a loss"
        yield Finding("unbounded", message, _loss_line(function), 95.0, remedy)
    if roles.guess is not None and roles.squared is not None:
        told = unreachable(analysis.of(roles.guess), bench.samples, roles.squared)
        if told is not None:
            remedy = "leave the last nonlinearity out, or bring the targets into its range"
            yield Finding("output-range", told, _loss_line(function), 90.0, remedy)
    if _climbs(bench):
        message = f"the optimiser `{bench.step.optimizer.name}` moves up the gradient, not down"
        span = None
        yield Finding("uphill", message, span, 99.0, "subtract the gradient: `p - lr * g`")


def is_unbounded(function: Function, samples: Samples, analysis: Analysis | None = None) -> bool:
    """Whether the loss is at most zero by its intervals, may be anything below, and falls on as
    predictions grow.
    """
    if analysis is None:
        analysis = Analysis()
        analysis.run(function.block)
    ends = zip(function.results, function.block.outputs, strict=True)
    found = [analysis.of(v) for s, v in ends if s.role is Role.LOSS]
    if not any(one.high <= 0 and one.low == -math.inf for one in found):
        return False
    return any(falls_without_end(tail, samples) for tail in tails(function))


def _loss_line(function: Function) -> Any:
    makers = {v: op for op in function.block.body for v in op.results}
    for slot, value in zip(function.results, function.block.outputs, strict=True):
        if slot.role is Role.LOSS and value in makers:
            return own_line(makers[value].span)
    return None


def _climbs(bench: Bench) -> bool:
    """Whether the first update of a parameter at zero goes along its gradient."""
    update = bench.step.optimizer.update(TensorType((8,), DType.F32))
    g = np.random.default_rng(1).normal(size=8).astype(np.float32)
    zero, rate = np.zeros(8, np.float32), bench.step.optimizer.rate or 1.0
    moved = np.asarray(updated(update, zero, g, fresh_slots(update, (8,)), 1, rate)[0])
    return bool(np.isfinite(moved).all()) and float((moved * g).sum()) > 0


def from_data(bench: Bench, roles: Roles) -> Iterator[Finding]:
    """Data from which nothing can be learned."""
    for fact in facts(bench.samples, roles):
        if fact.kind == "constant":
            yield Finding("constant", fact.message, None, 98.0, "look at how the data are made")


def stuck(bench: Bench) -> Iterator[Finding]:
    """A start at which every gradient is zero, on the first batch and on all samples together, and
    one is not where a parameter that starts at zero is drawn.
    """
    if not bench.trained or bench.step.recipe.loss_scale is not None:
        return
    everything = bench.samples.take(np.arange(bench.samples.count))
    if any(_moves(bench, bench.start, inputs) for inputs in (bench.first(), everything)):
        return
    rng = np.random.default_rng(0)
    zero = [n for n, a in bench.start.items() if n in bench.trained and not np.any(a)]
    helping = []
    for name in zero:
        drawn = 0.1 * rng.standard_normal(bench.start[name].shape)
        changed = {**bench.start, name: np.asarray(drawn, bench.start[name].dtype)}
        if _moves(bench, changed, bench.first()):
            helping.append(name)
    if helping:
        message = "every gradient is zero at the start: factors of a product start at zero together"
        remedy = "draw one of them at random: " + ", ".join(f"`{n}`" for n in helping[:4])
        yield Finding("symmetry", message, None, 96.0, remedy)


def _moves(bench: Bench, params: Mapping[str, Any], inputs: dict[str, Any]) -> bool:
    """Whether a gradient is not zero, or the loss no number."""
    loss, _, cts = bench.value(dict(params), inputs)
    return not math.isfinite(loss) or any(bool(np.any(ct)) for ct in cts.values())


def unseen(bench: Bench, roles: Roles) -> Iterator[Finding]:
    """Steps of a sequence that no sample's loss depends on."""
    inputs, function = bench.first(), bench.flat
    for name in roles.features:
        array = inputs[name]
        if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1] < 3:
            continue
        gradient = value_and_grad(function, [name])
        operands = {**bench.start, **inputs}
        given = [
            np.asarray(operands[s.name], np.float64 if v.type.dtype.is_float else None)
            for s, v in zip(gradient.parameters, gradient.block.parameters, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = run(NumpyArrays(DType.F64), gradient, given)
        ct = next(
            np.asarray(a)
            for s, a in zip(gradient.results, found, strict=True)
            if s.role is Role.COTANGENT
        )
        reached = np.abs(ct).max(axis=(0, 2)) > 0
        if reached.any() and float((~reached).mean()) >= 0.5:
            message = (
                f"the loss depends on {int(reached.sum())} of the {len(reached)} steps of `{name}`"
            )
            remedy = "check which state is read: the last of `hs` is hs[-1]"
            yield Finding("unseen", message, None, 80.0, remedy)


# --- numbers that are not finite


def _only_grows(name: str) -> bool:
    """Whether the op ``name`` gives infinity only of numbers that were too large already."""
    found = [definition.loop for definition in all_ops() if definition.name == name]
    loop = found[0] if found else None
    is_loop = isinstance(loop, Control) and loop.is_loop
    return is_loop or isinstance(loop, (Contraction, Reduction)) or name in ("add", "sub", "mul")


def broken(bench: Bench, base: Track) -> Finding | None:
    """Where the first number that is not finite came from, in the precision that ran."""
    if base.broken is None:
        return None
    number, what = base.broken
    if what == "update":
        message = f"the update of step {number} gives numbers that are not finite"
        remedy = "let the optimiser add a small number to what it divides by"
        return Finding("not-finite", message, None, 97.0, remedy)
    if bench.step.recipe.loss_scale not in (None, "dynamic") and what == "gradient":
        _, _, cts = bench.value(base.before, base.inputs, 1.0)
        if all(np.isfinite(a).all() for a in cts.values()):
            scale = float(bench.step.recipe.loss_scale or 1)
            message = f"the gradient overflows with a loss scale of {scale:g}, and not without"
            return Finding("overflow", message, None, 97.0, "--loss-scale dynamic")
    state = TrainState({**base.before}, tuple(base.before))
    gradient = bench.gradient(True).function(bench.made.dims)
    operands = {**state.arrays, **base.inputs, "loss": np.asarray(base.scale, np.float32)}
    with np.errstate(all="ignore"):
        origin = find_culprit(gradient, operands)
    if origin is None:
        return None
    message = f"step {number}: {origin.message}"
    name = origin.label.partition(":")[0]
    has_grown = "infinite" in origin.message and _only_grows(name)
    kind = "overgrown" if has_grown else "not-finite"
    remedy = "guard the op there; `gradc check --hazards` shows how"
    return Finding(kind, message, origin.span, 97.0, remedy)
