"""Diagnosis of gradient flow: what a model's gradients look like at given parameters and data, and
what is wrong.

``diagnose`` runs value and gradient once in float64 (so that nothing underflows while it is being
measured) with probes at layers and time steps, and derives findings:

| finding | when |
|---|---|
| vanishing | the cotangent shrinks over 1000-fold from the last to the first layer or time step |
| exploding | it grows more than 1000-fold |
| dead | units of a ReLU are zero for every sample |
| symmetry | all units of a layer have the same weights and gradient, so they stay the same |
| underflow | more than 1 % of gradient values would be flushed to zero in f16 |
| unreached | a parameter's gradient is exactly zero everywhere |
| truncation | `truncate` leaves out terms of more than 10 % of a gradient's norm |
| inexact | the compiled gradient is wrong by more than its precision explains (`inexact.py`) |

Each finding names the line, and a remedy that has been tried on the same data, with what it
changed. Findings are ranked by severity. Norms are L2; gains compare neighbours in their order.

Non-goals: watching training over many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gradc.frontend.model.draws import draw, generator
from gradc.frontend.model.models import ParameterSpec
from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType, Function, Op, Role, Span
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.differentiate.truncate import rewindowed
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.probe import Probe, insert_probes
from gradc.runtime.native.arrays import Array
from gradc.runtime.render.plot import Panel, Series, plot_svg
from gradc.runtime.reports.culprit import find_underflow
from gradc.runtime.reports.diagnose_watch import Watched
from gradc.runtime.reports.truncation import Truncation, dropped_terms, windows

FOLD = 1e3
F16_SMALLEST, F16_LARGEST = 2.0**-24, 65504.0
UNDERFLOW_SHARE = 0.01
DROPPED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class LayerOutcome:
    """A layer's outcome: norms of its value's cotangent, and the gain to the place before it."""

    label: str
    op: str
    span: Span | None
    norm: float
    size: int

    @property
    def rms(self) -> float:
        """Root mean square: comparable between places of different size."""
        return self.norm / math.sqrt(self.size) if self.size else 0.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """A trained array: norms of itself and of its gradient, and the f16-underflow share of the
    gradient.
    """

    name: str
    span: Span | None
    norm: float
    grad_norm: float
    underflow: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``severity`` orders findings; ``remedy`` was tried, ``effect`` is
    what it did.
    """

    kind: str
    message: str
    span: Span | None
    severity: float
    remedy: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything measured, and the findings, worst first."""

    loss: float
    places: tuple[LayerOutcome, ...]
    times: dict[str, tuple[float, ...]]
    parameters: tuple[Parameter, ...]
    findings: tuple[Finding, ...]
    truncation: Truncation | None = None

    def __repr__(self) -> str:
        found = len(self.findings)
        return (
            f"<diagnosis of {len(self.places)} layers: {found} finding{'' if found == 1 else 's'}>"
        )

    def to_json(self) -> dict[str, Any]:
        """The diagnosis for a program to read; norms that are not finite are given as text."""
        return {
            "loss": _number(self.loss),
            "layers": [
                {"name": p.label, "line": _line(p.span), "cotangent_norm": _number(p.norm)}
                for p in self.places
            ],
            "time": {name: [_number(n) for n in norms] for name, norms in self.times.items()},
            "truncation": self.truncation and self.truncation.to_json(),
            "parameters": [
                {
                    "name": p.name,
                    "line": _line(p.span),
                    "norm": _number(p.norm),
                    "gradient_norm": _number(p.grad_norm),
                    "f16_underflow_share": p.underflow,
                }
                for p in self.parameters
            ],
            "findings": [
                {
                    "kind": f.kind,
                    "message": f.message,
                    "line": _line(f.span),
                    "remedy": f.remedy,
                    "effect": f.effect,
                }
                for f in self.findings
            ],
        }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _line(span: Span | None) -> str | None:
    return None if span is None else str(span.outermost)


@dataclass
class _Measured:
    """Raw results of one run."""

    loss: float
    cts: dict[str, Array]
    dead: list[tuple[Op, float, int]] = field(default_factory=list)  # op, share, samples


Redraw = Callable[[str], Mapping[str, Array]]


def diagnose(
    function: Function,
    operands: Mapping[str, Any],
    redraw: Redraw | None = None,
) -> Diagnosis:
    """Diagnoses a model's function at ``operands`` (an array per parameter).

    ``redraw(initializer)`` gives other starting parameters, for trying remedies; without it
    remedies are not tried.
    """
    probed, probes = insert_probes(flatten(function))
    measured = _measure(probed, probes, operands)
    places = _places(probes, measured)
    times = {p.label: tuple(_row_norms(measured.cts[p.parameter])) for p in probes if p.is_stacked}
    parameters = _parameters(function, operands, measured)
    findings = [
        *_flow_findings(
            _above_rounding(places, probed, probes, operands), function, operands, redraw
        ),
        *_time_findings(probes, times),
        *_dead_findings(measured),
        *_symmetry_findings(function, operands, measured, redraw),
        *_underflow_findings(parameters, measured, function, operands),
        *_unreached_findings(parameters),
    ]
    truncation = _truncation(function, operands, measured.cts)
    if truncation is not None:
        findings += _truncation_findings(function, operands, measured, truncation)
    ranked = tuple(sorted(findings, key=lambda f: -f.severity))
    return Diagnosis(measured.loss, places, times, parameters, ranked, truncation)


def _above_rounding(
    places: Sequence[LayerOutcome],
    probed: Function,
    probes: Sequence[Probe],
    operands: Mapping[str, Any],
) -> list[LayerOutcome]:
    """The places whose cotangent is more than rounding: one that is 0 by mathematics grows with
    coarser arithmetic.
    """
    told = [p for p in places if p.size and p.norm > 0]
    if not told or _ratio(min(p.norm for p in told), max(p.norm for p in told)) >= 1 / FOLD:
        return list(places)
    coarse = _places(probes, _measure(probed, probes, operands, DType.F32))
    return [p for p, c in zip(places, coarse, strict=True) if not c.norm > FOLD * p.norm > 0]


def _measure(
    probed: Function,
    probes: Sequence[Probe],
    operands: Mapping[str, Any],
    floats: DType = DType.F64,
) -> _Measured:
    names = [s.name for s in probed.parameters if s.role is Role.PARAM]
    inputs = [
        s.name
        for s, v in zip(probed.parameters, probed.block.parameters, strict=True)
        if s.role is Role.INPUT and v.type.dtype.is_float
    ]
    gradient = value_and_grad(probed, names or inputs)
    arrays = Watched(floats)
    given = []
    extra = {p.parameter for p in probes}
    for slot, value in zip(gradient.parameters, gradient.block.parameters, strict=True):
        type_ = value.type
        if slot.name in extra:
            given.append(arrays.full(0.0, type_.static_shape, type_.dtype))
        else:
            given.append(arrays.cast(np.asarray(operands[slot.name]), type_.dtype))
    measured = _Measured(math.nan, {})
    found = run(arrays, gradient, given, arrays.observe)
    measured.dead = [fired.summary for fired in arrays.fired.values()]
    measured.loss = float(found[0])
    for slot, array in zip(gradient.results, found, strict=True):
        if slot.role is Role.COTANGENT:
            measured.cts[slot.name] = np.asarray(array)
    return measured


def _norm(array: Array) -> float:
    """L2 norm without overflow or underflow in between."""
    top = float(np.abs(array).max(initial=0.0))
    if not 0 < top < math.inf:
        return top
    return top * float(np.sqrt(np.square(array / top).sum()))


def _row_norms(array: Array) -> list[float]:
    return [_norm(row) for row in array]


def _places(probes: Sequence[Probe], measured: _Measured) -> tuple[LayerOutcome, ...]:
    return tuple(
        LayerOutcome(
            p.label, p.op, p.span, _norm(measured.cts[p.parameter]), measured.cts[p.parameter].size
        )
        for p in probes
        if not p.is_stacked
    )


def _parameters(
    function: Function, operands: Mapping[str, Any], measured: _Measured
) -> tuple[Parameter, ...]:
    found = []
    for slot in function.parameters:
        if slot.role is not Role.PARAM:
            continue
        gradient = measured.cts[slot.name]
        sizes = np.abs(gradient[gradient != 0])
        # Half of the smallest subnormal rounds to zero.
        flushed = float((sizes <= F16_SMALLEST / 2).mean()) if sizes.size else 0.0
        norm = _norm(np.asarray(operands[slot.name], np.float64))
        found.append(Parameter(slot.name, slot.span, norm, _norm(gradient), flushed))
    return tuple(found)


# --- findings


def _flow_findings(
    places: Sequence[LayerOutcome],
    function: Function,
    operands: Mapping[str, Any],
    redraw: Redraw | None,
) -> list[Finding]:
    """Vanishing or exploding from the last place to the first."""
    told = [p for p in places if p.size]
    # A place that no gradient reaches at all says nothing of gains; `unreached` and `symmetry` do.
    told = [p for p in told if p.norm > 0] or told
    if len(told) < 2:
        return []
    first, last = told[0], told[-1]
    ratio = _ratio(first.norm, last.norm)
    if 1 / FOLD <= ratio <= FOLD:
        return []
    worst = _worst_step(told, ratio < 1)
    steps = len(told) - 1
    each = ratio ** (1 / steps) if 0 < ratio < math.inf else ratio
    kind = "vanishing" if ratio < 1 else "exploding"
    verb = "shrinks" if ratio < 1 else "grows"
    message = (
        f"the gradient {verb} by a factor {ratio:.3g} over {steps} places, from `{last.label}` "
        "back to "
        f"`{first.label}` ({each:.3g} per place; most at `{worst.label}`)"
    )
    severity = abs(math.log10(ratio)) if 0 < ratio < math.inf else 400.0
    remedy, effect = _try_initialisers(function, operands, redraw, ratio)
    if not remedy:
        remedy = _advice(kind, worst)
    return [Finding(kind, message, worst.span, severity, remedy, effect)]


def _ratio(first: float, last: float) -> float:
    if first == last:
        return 1.0
    return math.inf if last == 0 else first / last


def _worst_step(places: Sequence[LayerOutcome], shrinking: bool) -> LayerOutcome:
    """The place across which the gradient changes most."""
    gains = [_ratio(a.norm, b.norm) for a, b in pairwise(places)]
    chosen = min(gains) if shrinking else max(gains)
    return places[gains.index(chosen) + 1]


def _advice(kind: str, worst: LayerOutcome) -> str:
    if kind == "exploding":
        return f"clip the gradient (--clip-norm 1) and scale the weights of `{worst.label}` down"
    if worst.op and lookup(worst.op).traits.slope == "saturates":
        what = f"`{worst.op}` is saturated at `{worst.label}`"
        return f"{what}: normalise its input, or use relu or gelu"
    return f"add a residual connection or a normalisation layer around `{worst.label}`"


def _try_initialisers(
    function: Function, operands: Mapping[str, Any], redraw: Redraw | None, before: float
) -> tuple[str, str]:
    """The initialiser that brings the flow nearest to 1, if it helps at least 100-fold."""
    if redraw is None:
        return "", ""
    probed, probes = insert_probes(flatten(function))
    best, chosen = abs(math.log10(before)) if 0 < before < math.inf else 400.0, ""
    after = before
    for name in ("glorot_normal", "he_normal", "orthogonal"):
        tried = _measure(probed, probes, {**operands, **redraw(name)})
        told = [p for p in _places(probes, tried) if p.norm > 0]
        if len(told) < 2:
            continue
        ratio = _ratio(told[0].norm, told[-1].norm)
        distance = abs(math.log10(ratio)) if 0 < ratio < math.inf else 400.0
        if distance < best - 2:
            best, chosen, after = distance, name, ratio
    if not chosen:
        return "", ""
    return f"initialise the weights with `{chosen}`", f"tried: the factor becomes {after:.3g}"


def _time_findings(
    probes: Sequence[Probe], times: Mapping[str, tuple[float, ...]]
) -> list[Finding]:
    found = []
    for probe in probes:
        norms = times.get(probe.label, ()) if probe.is_stacked else ()
        told = [n for n in norms if n > 0]
        if len(told) < 2:
            continue
        peak = max(range(len(norms)), key=lambda t: norms[t])
        ratio = _ratio(norms[0], norms[peak] if norms[0] < norms[peak] else min(told))
        if 1 / FOLD <= ratio <= FOLD:
            continue
        window = _horizon(norms)
        kind = "vanishing" if ratio < 1 else "exploding"
        message = (
            f"through time, the gradient of `{probe.label}` changes by a factor {ratio:.3g} over "
            f"{len(norms)} steps"
        )
        if kind == "vanishing":
            remedy = (
                f"`truncate {window}` loses less than 0.1 % of the gradient; use lstm or gru to "
                f"reach further"
            )
        else:
            remedy = f"clip the gradient (--clip-norm 1), or truncate the loop: `truncate {window}`"
        severity = abs(math.log10(ratio)) if 0 < ratio < math.inf else 400.0
        found.append(Finding(kind, message, probe.span, severity, remedy))
    return found


def _horizon(norms: Sequence[float]) -> int:
    """How many steps back from the end hold 99.9 % of the squared norm."""
    total = sum(n * n for n in norms)
    kept = 0.0
    for steps, norm in enumerate(reversed(norms), 1):
        kept += norm * norm
        if kept >= 0.999 * total:
            return steps
    return len(norms)


def _dead_findings(measured: _Measured) -> list[Finding]:
    found = []
    for op, share, samples in measured.dead:
        # Healthy networks have a third; with few samples a unit that is merely rare looks dead.
        if share < (0.5 if samples >= 64 else 0.9):
            continue
        where = f" of layer `{op.scope}`" if op.scope else ""
        message = (
            f"{share:.0%} of the ReLU units{where} are zero for all {samples} samples: they learn "
            f"nothing"
        )
        remedy = (
            "lower the learning rate, start biases at a small positive value, or use leaky_relu"
        )
        found.append(Finding("dead", message, op.span, 2 + 10 * share, remedy))
    return found


def _symmetry_findings(
    function: Function,
    operands: Mapping[str, Any],
    measured: _Measured,
    redraw: Redraw | None,
) -> list[Finding]:
    """Layers all of whose units are alike in weights and in gradient."""
    found = []
    for slot in function.parameters:
        if slot.role is not Role.PARAM:
            continue
        weight = np.asarray(operands[slot.name], np.float64)
        gradient = measured.cts[slot.name]
        if weight.ndim != 2 or weight.shape[1] < 2 or weight.shape[0] == 0:
            continue
        alike = bool((weight == weight[:, :1]).all())
        if not alike or not np.allclose(gradient, gradient[:, :1], rtol=1e-9, atol=0):
            continue
        start = "zeros" if not weight.any() else "equal numbers"
        remedy, effect = f"initialise with `glorot_normal` instead of {start}", ""
        if redraw is not None:
            effect = _symmetry_after(function, operands, redraw, slot.name)
        message = (
            f"all {weight.shape[1]} units of `{slot.name}` have the same weights and the same "
            "gradient: they "
            "stay the same for ever"
        )
        found.append(Finding("symmetry", message, slot.span, 50.0, remedy, effect))
    return found


def _symmetry_after(
    function: Function, operands: Mapping[str, Any], redraw: Redraw, name: str
) -> str:
    probed, probes = insert_probes(flatten(function))
    tried = _measure(probed, probes, {**operands, **redraw("glorot_normal")})
    gradient = tried.cts[name]
    is_broken = not np.allclose(gradient, gradient[:, :1], rtol=1e-9, atol=0)
    return "tried: the gradients of the units then differ" if is_broken else ""


def _underflow_findings(
    parameters: Sequence[Parameter],
    measured: _Measured,
    function: Function,
    operands: Mapping[str, Any],
) -> list[Finding]:
    bad = [p for p in parameters if p.underflow > UNDERFLOW_SHARE]
    if not bad:
        return []
    worst = max(bad, key=lambda p: p.underflow)
    gradients = [measured.cts[p.name] for p in parameters]
    scale = _safe_scale(gradients)
    after = max(_flushed(g * scale) for g in gradients)
    message = (
        f"in f16, {worst.underflow:.0%} of the gradient of `{worst.name}` would be flushed to zero"
        + (f" (and parts of {len(bad) - 1} others)" if len(bad) > 1 else "")
    )
    remedy = f"--loss-scale {scale:g}, or --loss-scale dynamic"
    effect = f"tried: with {scale:g}, at most {after:.1%} is flushed"
    span = worst.span
    began = find_underflow(value_and_grad(function, [worst.name]), operands, worst.name)
    if began is not None:
        op, span = began
        message += f"; it begins with `{op.name}`"
    return [Finding("underflow", message, span, 1 + worst.underflow, remedy, effect)]


def _flushed(gradient: Array) -> float:
    sizes = np.abs(gradient[gradient != 0])
    return float((sizes <= F16_SMALLEST / 2).mean()) if sizes.size else 0.0


def _safe_scale(gradients: Sequence[Array]) -> float:
    """The largest power of two that keeps every gradient value 16-fold below f16's largest
    number.
    """
    top = max((float(np.abs(g).max(initial=0.0)) for g in gradients), default=0.0)
    if not 0 < top < math.inf:
        return 1.0
    return 2.0 ** min(24, max(0, math.floor(math.log2(F16_LARGEST / 16 / top))))


def _unreached_findings(parameters: Sequence[Parameter]) -> list[Finding]:
    return [
        Finding(
            "unreached",
            f"the gradient of `{p.name}` is exactly zero: it does not learn from this data",
            p.span,
            1.5,
            "check that it reaches the loss, and that the units it feeds are not dead",
        )
        for p in parameters
        if p.grad_norm == 0
    ]


def _truncation(
    function: Function, operands: Mapping[str, Any], kept: Mapping[str, Array], factor: int = 1
) -> Truncation | None:
    """The ledger with windows ``factor`` times as long, ``kept`` being its gradients; None without
    windows.
    """
    found = windows(rewindowed(function, factor))
    if not found:
        return None
    whole = _measure(*insert_probes(flatten(rewindowed(function, 0))), operands).cts
    names = [s.name for s in function.parameters if s.role is Role.PARAM]
    return Truncation(found, dropped_terms(kept, {name: whole[name] for name in names}))


def _truncation_findings(
    function: Function, operands: Mapping[str, Any], measured: _Measured, ledger: Truncation
) -> list[Finding]:
    """Too much left out: the shortest window, by doubling, that leaves out less."""
    if ledger.share <= DROPPED_SHARE:
        return []
    worst = max(ledger.parameters, key=lambda row: row.share)
    loop = min(ledger.windows, key=lambda w: w.size / w.trips)
    message = (
        f"`truncate {loop.size}` leaves out terms of {worst.share:.0%} of the norm of the "
        "gradient of "
        f"`{worst.name}`"
    )
    factor, share = 1, ledger.share
    while share > DROPPED_SHARE and factor * loop.size < loop.trips:
        factor *= 2
        longer = rewindowed(function, factor)
        cts = _measure(*insert_probes(flatten(longer)), operands).cts
        tried = _truncation(function, operands, cts, factor)
        share = 0.0 if tried is None else tried.share
    remedy = f"a longer window: `truncate {factor * loop.size}`"
    effect = f"tried: at most {share:.1%} is then left out"
    return [Finding("truncation", message, loop.span, 1 + worst.share, remedy, effect)]


def flow_svg(diagnosis: Diagnosis, title: str) -> str:
    """The gradient by depth and by time, as SVG."""
    panels = []
    if len(diagnosis.places) > 1 or not diagnosis.times:
        norms = [p.norm for p in diagnosis.places]
        depth = Series("gradient norm", range(1, len(norms) + 1), norms)
        ends = [p.label for p in (*diagnosis.places[:1], *diagnosis.places[-1:])]
        name = f"{title}: gradient by depth ({' ... '.join(ends)})"
        panels.append(Panel(name, "place, in order of execution", "L2 norm", [depth], is_log=True))
    if diagnosis.times:
        curves = [
            Series(name, range(1, len(norms) + 1), norms) for name, norms in diagnosis.times.items()
        ]
        panels.append(
            Panel(f"{title}: gradient through time", "step", "L2 norm", curves, is_log=True)
        )
    return plot_svg(panels)


def redrawn(specs: Sequence[ParameterSpec], name: str, seed: int) -> dict[str, Array]:
    """Other starts for the matrices among ``specs``: ``glorot_normal``, ``he_normal`` or
    ``orthogonal``.
    """
    found: dict[str, Array] = {}
    for spec in specs:
        if spec.role is not Role.PARAM or spec.type.rank < 2:
            continue
        shape = spec.type.static_shape
        fan_in, fan_out = max(1, spec.fan_in), max(1, spec.fan_out)
        kind = "orthogonal" if name == "orthogonal" else "normal"
        scale = {
            "orthogonal": 1.0,
            "glorot_normal": math.sqrt(2 / (fan_in + fan_out)),
            "he_normal": math.sqrt(2 / fan_in),
        }[name]
        found[spec.path] = scale * draw(kind, shape, generator(seed, spec.path, 0))
    return found
