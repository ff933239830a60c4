"""A run as one page, from its records: what was noticed, losses beside a constant's, updates of
every parameter, gradients beside what clips them, how much of them is signal.

The page needs nothing else: inline SVG, light and dark, printable, no script.

Non-goals: why (``page``, which ``gradc diagnose --run DIR --html FILE`` writes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.runtime.render.page import page, table
from gradc.runtime.render.plot import Panel, Series, plot_svg, spans_decades

# Points of a curve, and curves of a panel; the others stand in the table.
_POINTS, _CURVES = 300, 5

Records = Sequence[Mapping[str, Any]]


def run_page(name: str, records: Records, noticed: Sequence[Diagnostic], clip: float | None) -> str:
    """The page as HTML text. ``clip`` is the limit on the norm of gradients."""
    steps = [r for r in records if "epoch_done" not in r]
    epochs = [r for r in records if "epoch_done" in r]
    panels = [_losses(steps, epochs), *_norms(steps, clip), *_updates(steps), *_signals(steps)]
    panels += _entropies(steps)
    body = [
        f"<h1>{escape(name)}: the run</h1>",
        *_said(noticed),
        _facts(steps, epochs),
        f'<div class="graph">{plot_svg(panels)}</div>',
        *_parameters(steps),
    ]
    return page(f"Run of {name}", "\n".join(body))


def _said(noticed: Sequence[Diagnostic]) -> list[str]:
    if not noticed:
        return ['<div class="verdict good">Nothing was noticed</div>']
    found = []
    for one in noticed:
        where = "" if one.span is None else f"<p><code>{escape(str(one.span.outermost))}</code></p>"
        found.append(f'<div class="verdict bad">{escape(one.message)}{where}</div>')
    return found


def _facts(steps: Records, epochs: Records) -> str:
    facts = [(str(len(steps)), "steps")]
    if steps:
        facts += [(_shown(steps[0].get("loss")), "loss at first")]
        facts += [(_shown(steps[-1].get("loss")), "loss at last")]
    for key, words in (
        ("valid_loss", "validation loss"),
        ("valid_accuracy", "validation accuracy"),
        ("constant", "loss of the best constant"),
        ("clipped", "of the last epoch's steps clipped"),
    ):
        told = [r[key] for r in epochs if key in r]
        if told:
            facts.append((_shown(told[-1]), words))
    skipped = sum(bool(r.get("overflow")) for r in steps)
    if skipped:
        facts.append((str(skipped), "steps skipped for an overflow"))
    cells = "".join(f'<div class="fact"><b>{b}</b><span>{escape(s)}</span></div>' for b, s in facts)
    return f'<div class="facts">{cells}</div>'


def _losses(steps: Records, epochs: Records) -> Panel:
    every = max(1, len(steps) // _POINTS)
    cuts = range(0, len(steps), every)
    xs = [float(steps[at]["step"]) for at in cuts]
    ys = [_mean([_number(r.get("loss")) for r in steps[at : at + every]]) for at in cuts]
    series = [Series("training" + (f", mean of {every}" if every > 1 else ""), xs, ys)]
    valid = [r for r in epochs if "valid_loss" in r]
    if valid:
        at = [float(r["step"]) for r in valid]
        series.append(Series("validation", at, [_number(r["valid_loss"]) for r in valid]))
    told = [r for r in epochs if "constant" in r]
    if told and xs:
        best = _number(told[-1]["constant"])
        series.append(Series("best constant", [xs[0], xs[-1]], [best, best]))
    return Panel("loss", "step", "loss", series, is_log=spans_decades(ys))


def _norms(steps: Records, clip: float | None) -> list[Panel]:
    told = [r for r in steps if "grad_norm" in r]
    if not told:
        return []
    every = max(1, len(told) // _POINTS)
    xs = [float(r["step"]) for r in told[::every]]
    series = [Series("norm of all gradients", xs, [_number(r["grad_norm"]) for r in told[::every]])]
    if clip is not None:
        series.append(Series("clipped to", [xs[0], xs[-1]], [clip, clip]))
    return [Panel("gradients", "step", "norm", series, is_log=True)]


def _updates(steps: Records) -> list[Panel]:
    told = [r for r in steps if isinstance(r.get("updates"), dict)]
    return _by_parameter(told, "updates", "updates, as a share of each parameter's size", "share")


def _signals(steps: Records) -> list[Panel]:
    told = [r for r in steps if isinstance(r.get("signal"), dict)]
    title = "share of a squared gradient that is its mean (below .05: noise, or it has shrunk)"
    return _by_parameter(told, "signal", title, "share")


def _entropies(steps: Records) -> list[Panel]:
    """From the start on, which stands in the first record that has any."""
    told = [r for r in steps if isinstance(r.get("entropy"), dict)]
    starts = [
        {"step": 0, "entropy": r["entropy_at_start"]} for r in told if "entropy_at_start" in r
    ]
    title = "entropy of attention, as a share of the most it can be (0: one key alone)"
    if told and len(told[-1]["entropy"]) == 1:  # one curve has no legend
        title = f"{title}: {next(iter(told[-1]['entropy']))}"
    return _by_parameter([*starts[:1], *told], "entropy", title, "share", is_log=False)


def _by_parameter(
    told: Records, key: str, title: str, label: str, is_log: bool = True
) -> list[Panel]:
    """A curve each for the parameters that lie farthest apart, if there are more than fit."""
    if len(told) < 2:
        return []
    last = told[-1][key]
    names = sorted(last, key=lambda name: _number(last[name]))
    if len(names) > _CURVES:
        names = [names[round(n * (len(names) - 1) / (_CURVES - 1))] for n in range(_CURVES)]
    xs = [float(r["step"]) for r in told]
    series = [Series(name, xs, [_number(r[key].get(name)) for r in told]) for name in names]
    return [Panel(title, "step", label, series, is_log=is_log)]


def _parameters(steps: Records) -> list[str]:
    told = [r for r in steps if isinstance(r.get("updates"), dict)]
    if not told:
        return []
    last = told[-1]
    signals = [r["signal"] for r in told if isinstance(r.get("signal"), dict)]
    signal: Mapping[str, Any] = signals[-1] if signals else {}
    rows = [
        (escape(name), _shown(share), _shown(signal.get(name)))
        for name, share in last["updates"].items()
    ]
    heads = ("parameter", f"update at step {last['step']}, share of its size", "signal")
    return ["<h2>Parameters</h2>", table(heads, rows, (1, 2))]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if math.isfinite(v)]
    return sum(kept) / len(kept) if kept else math.nan


def _shown(value: object) -> str:
    number = _number(value)
    return f"{number:.4g}" if math.isfinite(number) else "-"
