"""A verification report as one page: the verdict first, then every subject with how it was found,
formulas and hazards.

The page needs nothing else: MathML for formulas, inline SVG for the graph, light and dark,
printable, no script. It is made of a ``Report`` alone; with the model at hand it also shows the
gradient as formulas, the graph and the hazards.

Non-goals: finding verdicts (``passes.prove``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from gradc.codegen.symbolic.formulas.notation import to_latex, to_mathml
from gradc.codegen.symbolic.formulas.rules import rule_formulas
from gradc.ir.tensor.core import Function
from gradc.passes.prove.report import Report, RowKind, Status, Verdict, weakest
from gradc.runtime.render.graph import graph_svg
from gradc.runtime.render.page import page, table
from gradc.runtime.reports.formulas import Formula, Formulas, gradient_formulas
from gradc.runtime.reports.hazard_points import Findings, search
from gradc.runtime.reports.hazard_text import Advice, advice, happens_at, limits_of, none_found

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model

_TONE = {
    Status.PROVED_ALL: "good",
    Status.PROVED_SHAPE: "good",
    Status.PROVED_BOUND: "good",
    Status.PROBABLE: "info",
    Status.AGREES: "info",
    Status.ASSERTED: "warn",
    Status.SKIPPED: "info",
    Status.UNDECIDED: "warn",
    Status.REFUTED: "bad",
}
_HEADINGS: tuple[tuple[RowKind, str], ...] = (
    ("sympy", "SymPy's own derivative"),
    ("rule", "Derivative rules"),
    ("pass", "Passes"),
    ("kernel", "Kernels"),
    ("text", "Kernel texts"),
    ("plan", "Plan"),
    ("pullback", "Pullbacks of one's own"),
)
# Refuted subjects in the order in which one looks for a cause, and their names in a sentence.
_CAUSES: tuple[RowKind, ...] = (
    *("pullback", "rule", "pass", "kernel", "plan", "text", "parameter", "sympy"),
)
_NAMES: Mapping[RowKind, str] = {
    "rule": "The rule of",
    "pass": "The pass",
    "parameter": "The gradient of",
    "sympy": "By SymPy's derivative, the gradient of",
    "pullback": "The pullback",
    "kernel": "Kernel",
    "text": "The kernel text",
    "plan": "Of the Plan:",
}
_MOST_OPEN = 24
# More parameters than these are folded by block.
_MOST_FLAT = 12
_MOST_FOLDS = 4
# A dimension that neither the report nor the program gives a value.
_SIZE = 3
_FORMULAS = (
    "Found in the compiled adjoint and simplified there, for all sizes; each was computed at "
    "points and has the "
    "value of the compiled gradient. d<i>x</i> is the derivative of the loss by <i>x</i>; "
    "(∂<i>y</i>/∂<i>x</i>)<sup>⊤</sup> "
    "d<i>y</i> is what comes back through a step that formulas have no words for."
)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the model itself adds to its report."""

    formulas: Formulas | None = None
    findings: Findings | None = None
    advices: tuple[Advice | None, ...] = ()
    function: Function | None = None


def extras_of(model: Model, report: Report) -> Extras:
    """Formulas, hazards and graph of ``model`` at the report's dimensions."""
    dims = {n: report.dims.get(n, size or _SIZE) for n, size in model.signature.dims.items()}
    function = model.lower(dims).function
    wrt = [v.subject for v in report.of("parameter")]
    sources = model.program.report.sources
    findings = search(model, dims)
    advices = tuple(advice(f.hazard, sources) for f in findings.found)
    known = {s.name for s in function.parameters}
    chosen = [name for name in wrt if name in known]
    return Extras(gradient_formulas(model, chosen or None), findings, advices, function)


def report_page(report: Report, model: Model | None = None) -> str:
    """The page as HTML text."""
    extras = extras_of(model, report) if model is not None else Extras()
    body = [
        *_head(report),
        *_refuted(report),
        *_parameters(report, extras.formulas),
        *_formulas(extras.formulas),
        *_hazards(extras),
        *_accuracy(report),
    ]
    for kind, heading in _HEADINGS:
        body += _verdicts(heading, report.of(kind), kind)
    body += _assumptions(report)
    if extras.function is not None:
        svg = graph_svg(extras.function, report.model)
        body += [_details("The program as a graph", f'<div class="graph">{svg}</div>', False)]
    body += _provenance(report)
    return page(f"gradc verify {report.model}", "\n".join(body))


# --- the verdict


def _head(report: Report) -> list[str]:
    worst = weakest([v.status for v in report.verdicts if v.status is not Status.SKIPPED])
    gradients = report.of("parameter")
    proved = sum(v.status.is_proof for v in gradients)
    tone = _TONE[worst]
    if tone == "info" and gradients and proved == len(gradients):
        tone = "good"
    if not report.ok:
        title = "Refuted: the compiled gradient is not the gradient of the program"
    elif gradients and proved == len(gradients):
        title = f"All {proved} gradients are proved" if proved > 1 else "The gradient is proved"
    else:
        title = f"{proved} of {len(gradients)} gradients are proved; nothing is refuted"
    counts = ", ".join(f"{n} {name}" for name, n in report.counts().items())
    return [
        f"<h1>{escape(report.model)}</h1>",
        f'<p class="soft">{escape(report.file)}</p>',
        f'<div class="verdict {tone}">{escape(title)}<p>{escape(counts)}</p></div>',
        _facts(report),
    ]


def _facts(report: Report) -> str:
    sizes = ", ".join(f"{n} = {d}" for n, d in report.dims.items()) or "none free"
    ulps = max((a.of_largest for a in report.accuracy), default=None)
    facts = [
        ("subjects", str(len(report.verdicts))),
        ("precision", report.precision),
        ("dimensions", sizes),
        ("seconds", f"{report.seconds.get('total', 0.0):.2f}"),
    ]
    if ulps is not None:
        facts.insert(2, ("largest error, ulps of the largest entry", f"{ulps:.3g}"))
    cells = (
        f'<div class="fact"><b>{escape(b)}</b><span>{escape(a)}</span></div>' for a, b in facts
    )
    return f'<div class="facts">{"".join(cells)}</div>'


def _refuted(report: Report) -> list[str]:
    """What is wrong, causes before what they spoil: the first one open, with its point; many others
    in one fold.
    """
    wrong = [v for v in report.verdicts if v.status is Status.REFUTED]
    if not wrong:
        return []
    first, *others = sorted(wrong, key=lambda v: _CAUSES.index(v.kind))
    parts = [f"<h2>{escape(_wrong(first))}</h2>", _point(first)]
    folds = [_details(_wrong(v), _point(v), False) for v in others]
    if len(folds) <= _MOST_FOLDS:
        return parts + folds
    return [*parts, _details(f"{len(folds)} more are wrong", "\n".join(folds), False)]


def _wrong(verdict: Verdict) -> str:
    return f"{_NAMES[verdict.kind]} {verdict.subject} is wrong"


def _point(verdict: Verdict) -> str:
    """What the two sides are, and where."""
    rows = [(_code(name), _code(value)) for name, value in verdict.point.items()]
    body = f"<p>{escape(verdict.detail or verdict.method)}</p>"
    if verdict.witness:
        of, found, expected = (str(verdict.witness[n]) for n in ("of", "found", "expected"))
        body += table(
            ("at the point, " + of, "found", "expected"), [("", _code(found), _code(expected))]
        )
        save = "gradc verify FILE --witness point.npz"
        body += f'<p class="soft">{_code(save)} saves the point, for gradc grad or NumPy.</p>'
    return body + (table(("at the point", ""), rows) if rows else "")


def _parameters(report: Report, formulas: Formulas | None) -> list[str]:
    """The gradients, the least certain first; many of them folded by the block of the model that
    they lie in.
    """
    known: Mapping[str, Formula] = {f.of: f for f in formulas.gradients} if formulas else {}
    verdicts = sorted(report.of("parameter"), key=lambda v: -v.status.rank)
    if not verdicts:
        return []
    blocks: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        blocks.setdefault(block_of(verdict.subject), []).append(verdict)
    if len(verdicts) <= _MOST_FLAT or len(blocks) < 2:
        return ["<h2>Gradients</h2>", _gradients(verdicts, known)]
    parts = [
        f"<h2>Gradients</h2><p class='soft'>{len(verdicts)} parameters, least certain first</p>"
    ]
    for name, inside in blocks.items():
        worst = inside[0].status
        title = f"{name} ({len(inside)}, weakest: {worst.value})"
        parts.append(_details(title, _gradients(inside, known), not worst.is_proof))
    return parts


def block_of(name: str) -> str:
    """The block of a model that a parameter lies in: `blocks.3` of `blocks.3.attn.q.w`, `fc1` of
    `fc1.w`.
    """
    first, *rest = name.split(".")
    if not rest:
        return "parameters of the model itself"
    return f"{first}.{rest[0]}" if rest[0].isdigit() else first


def _gradients(verdicts: Sequence[Verdict], known: Mapping[str, Formula]) -> str:
    rows = [
        (
            _code(v.subject),
            _tag(v.status),
            _mathml(known.get(v.subject)) or escape(v.formula),
            _found_by(v),
        )
        for v in verdicts
    ]
    return table(("parameter", "verdict", "gradient", "found by"), rows)


def _mathml(formula: Formula | None) -> str:
    return to_mathml(formula.equation) if formula is not None else ""


# --- formulas


def _formulas(formulas: Formulas | None) -> list[str]:
    if formulas is None:
        return []
    inner = [f for f in formulas.gradients if not f.is_parameter]
    definitions = [(to_mathml(d),) for d in formulas.definitions]
    parts = [
        "<h2>Formulas</h2>",
        f'<p class="soft">{_FORMULAS}</p>',
        table(("the program",), definitions),
    ]
    if inner:
        rows = [(to_mathml(f.equation), _line(f)) for f in inner]
        parts.append(table(("on the way back", "line"), rows))
    if formulas.missing:
        rows = [(_code(name), escape(why)) for name, why in formulas.missing.items()]
        title = f"Without a formula: {len(rows)}"
        parts.append(_details(title, table(("the derivative by", "because"), rows), False))
    parts += _ways(formulas)
    scaled = [(to_mathml(f.scaled),) for f in formulas.gradients if f.scaled is not None]
    if scaled:
        title = (
            f"With the loss as a sum over {formulas.scale} instead of a mean (cotangents on the "
            f"way)"
        )
        parts.append(_details(title, table(("",), scaled), False))
    latex = "\n".join(to_latex(f.equation) for f in formulas.gradients)
    parts.append(_details("LaTeX", f"<pre>{escape(latex)}</pre>", False))
    return parts


def _ways(formulas: Formulas) -> list[str]:
    """Cotangents that come back along several ways, summand by summand."""
    parts = []
    for formula in formulas.gradients:
        if len(formula.ways) > 1:
            rows = [
                (escape(way.label), _right_side(to_mathml(way.equation))) for way in formula.ways
            ]
            title = f"d {formula.of}: {len(rows)} ways back"
            parts.append(_details(title, table(("way", "summand"), rows), len(rows) == 3))
    return parts


def _right_side(markup: str) -> str:
    """An equation whose left side is only a label, without it."""
    head, equals, rest = markup.partition("<mo>=</mo>")
    opening = head[: head.index(">") + 1]
    return f"{opening}<mrow>{rest}" if equals else markup


def _line(formula: Formula) -> str:
    return f'<span class="line">{formula.place.line}</span>' if formula.place is not None else ""


# --- hazards, accuracy, subjects


def _hazards(extras: Extras) -> list[str]:
    findings = extras.findings
    if findings is None:
        return []
    parts = ["<h2>Hazards</h2>"]
    rows = []
    for finding, found in zip(findings.found, extras.advices, strict=True):
        hazard = finding.hazard
        place = str(hazard.place) if hazard.place is not None else ""
        cure = ""
        if found is not None:
            mark = '<span class="tag good">proved equal</span>' if found.is_proved else ""
            cure = f'{_code(found.after)}<br><span class="soft">{escape(found.why)}</span> {mark}'
        tag = f'<span class="tag warn">{escape(hazard.kind)}</span>'
        soft = f"{happens_at(finding)}. {limits_of(hazard)}"
        what = f'{escape(hazard.message)}<br><span class="soft">{escape(soft)}</span>'
        when = "forward" if "loss" in finding.results else "backward"
        rows.append((tag, f"{_code(place)}<br>{what}", when, cure))
    if rows:
        parts.append(table(("", "where", "in", "write instead"), rows))
        parts.append(f'<p class="soft">{escape(findings.searched)}.</p>')
    else:
        parts.append(f"<p>{escape(none_found(findings))}</p>")
    if findings.open:
        shown = [f"{h.kind}: {h.message} ({h.place})" for h in findings.open]
        title = f"Not excluded by intervals, and not met at any point: {len(shown)}"
        parts.append(_details(title, _list(shown), False))
    return parts


def _accuracy(report: Report) -> list[str]:
    if not report.accuracy:
        return []
    rows = [
        (
            _code(a.tensor),
            f"{a.of_largest:.3g}",
            f"{a.elementwise:.3g}",
            f"{a.differences:.2g}",
            f"{a.dot:.2g}",
            escape(a.reference),
        )
        for a in report.accuracy
    ]
    columns = (
        "gradient",
        "ulps of the largest",
        "ulps elementwise",
        "finite differences",
        "dot product",
        "reference",
    )
    return ["<h2>Accuracy of the compiled code</h2>", table(columns, rows, numeric=(1, 2, 3, 4))]


def _verdicts(heading: str, verdicts: Sequence[Verdict], kind: RowKind) -> list[str]:
    if not verdicts:
        return []
    rows = [
        (
            f"{_code(v.subject)}{_place(v.place)}",
            _tag(v.status),
            _rule(v) if kind == "rule" else escape(v.formula),
            _found_by(v),
        )
        for v in verdicts
    ]
    if not any(row[2] for row in rows):
        body = table(("", "verdict", "found by"), [(a, b, d) for a, b, _, d in rows])
    else:
        body = table(("", "verdict", "rule", "found by"), rows)
    worst = weakest([v.status for v in verdicts])
    title = f"{heading} ({len(verdicts)}, weakest: {worst.value})"
    return [_details(title, body, len(verdicts) <= _MOST_OPEN)]


def _rule(verdict: Verdict) -> str:
    if verdict.formula:
        return escape(verdict.formula)
    try:
        found = rule_formulas(verdict.subject.split()[0])
    except KeyError:
        return ""
    return "".join(f'<div class="eq">{to_mathml(equation)}</div>' for equation in found)


def _tag(status: Status) -> str:
    return f'<span class="tag {_TONE[status]}">{escape(status.value)}</span>'


def _found_by(verdict: Verdict) -> str:
    detail = f'<br><span class="soft">{escape(verdict.detail)}</span>' if verdict.detail else ""
    return f'<div class="found">{escape(verdict.method)}{detail}</div>'


def _place(place: str) -> str:
    return f'<br><span class="soft">{escape(place)}</span>' if place else ""


# --- what it rests on


def _assumptions(report: Report) -> list[str]:
    assumed = dict.fromkeys(a for v in report.verdicts for a in v.assumptions)
    parts = []
    for heading, items in (
        ("Assumed", assumed),
        ("Trusted", report.trusted),
        ("Notes", report.notes),
    ):
        if items:
            parts += [f"<h2>{heading}</h2>", _list(items)]
    return parts


def _provenance(report: Report) -> list[str]:
    dims = " ".join(f"-D {name}={size}" for name, size in report.dims.items())
    budget = report.options.get("budget", "None")
    more = f" --budget {budget}" if budget not in ("None", "") else ""
    wrt = report.options.get("wrt", "params")
    command = f"gradc verify {report.file} {dims} --precision {report.precision} --wrt {wrt}{more}"
    digests = [
        ("source", report.source_digest),
        ("program", report.program_digest),
        ("plan", report.plan_digest),
        ("certificate", report.digest),
    ]
    facts = [*report.versions.items(), ("seed", str(report.seed))]
    facts += [(f"seconds, {name}", f"{s:.3f}") for name, s in report.seconds.items()]
    return [
        "<h2>Replay</h2>",
        f"<pre>{escape(' '.join(command.split()))}</pre>",
        table(("digest of", ""), [(escape(a), _code(b)) for a, b in digests]),
        _details(
            "Versions, seed and times",
            table(("", ""), [(escape(a), _code(b)) for a, b in facts]),
            False,
        ),
    ]


def _details(title: str, body: str, is_open: bool) -> str:
    mark = " open" if is_open else ""
    return f"<details{mark}><summary>{escape(title)}</summary>{body}</details>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
