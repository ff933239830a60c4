"""Hazards in the user's terms: the line, what goes wrong, and the rewrite with the user's own
expressions in it.

Non-goals: finding hazards (``passes.hazards``, ``hazard_points``); proving rewrites
(``codegen.symbolic.rewrites``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.ir.diagnostics.source import Sources
from gradc.passes.hazards.hazards import REWRITES, TOO_LARGE, Hazard
from gradc.runtime.reports.hazard_points import LARGEST, Finding, Findings
from gradc.runtime.reports.whiteboard_steps import text_at
from gradc.runtime.reports.whiteboard_text import show_value


@dataclass(frozen=True, slots=True)
class Advice:
    """What to write instead: the user's text, the new text, why it is right, and whether SymPy has
    proved it.
    """

    before: str
    after: str
    why: str
    is_proved: bool


def advice(hazard: Hazard, sources: Sources) -> Advice | None:
    """The rewrite for ``hazard``, if there is one; with the user's own expression where it can be
    read off.
    """
    rewrite = REWRITES.get(hazard.rewrite)
    if rewrite is None:
        return None
    from gradc.codegen.symbolic.sympy.rewrites import is_proved

    before = text_at(sources, hazard.place)
    after = _filled(hazard.rewrite, before) or rewrite.after
    return Advice(before or rewrite.before, after, rewrite.why, is_proved(hazard.rewrite))


def _filled(name: str, text: str) -> str:
    """The rewrite with the user's expressions; empty if ``text`` does not have the shape
    expected.
    """
    called = re.fullmatch(r"(\w+)\((.*)\)", text)
    inner = called[2] if called and _is_balanced(called[2]) else ""
    if name in ("sqrt", "log") and inner and called is not None and called[1] == name:
        rest = {"sqrt": "0", "log": "-69"}[name]
        return f"where({inner} > 0, {text}, {rest})"
    if name == "rsqrt" and inner:
        return f"rsqrt({inner} + 1e-12)"
    if name == "log_softmax" and inner.startswith("softmax("):
        return f"log_{inner}"
    if name == "power":
        parts = _divided(text, "^")
        return f"where({parts[0]} > 0, {text}, 0)" if parts else ""
    if name == "divide":
        parts = _divided(text)
        return f"where({parts[1]} != 0, {text}, 0)" if parts else ""
    if name in ("sigmoid", "softplus", "logsumexp", "softmax"):
        return ""
    return ""


def _divided(text: str, sign: str = "/") -> tuple[str, str] | None:
    """Both sides of the last ``sign`` outside of brackets."""
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += {")": 1, "]": 1, "(": -1, "[": -1}.get(text[position], 0)
        if depth == 0 and text[position] == sign:
            return text[:position].strip(), text[position + 1 :].strip()
    return None


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def limits_of(hazard: Hazard) -> str:
    """Where it happens, and SymPy's limits of the value and the derivative there."""
    from gradc.codegen.symbolic.sympy.limits import edge

    found = edge(hazard.kind)
    return "" if found is None else str(found)


def as_diagnostic(finding: Finding, sources: Sources) -> Diagnostic:
    """The hazard as a warning at its line, with the point that makes it happen."""
    hazard = finding.hazard
    found = advice(hazard, sources)
    notes = [happens_at(finding)]
    notes.append(
        f"affects {', '.join(hazard.affects[:4])}{' ...' if len(hazard.affects) > 4 else ''}"
    )
    if "loss" not in finding.results:
        notes.append("the loss itself stays finite there")
    limits = limits_of(hazard)
    if limits:
        notes.append(limits)
    help = ""
    if found is not None:
        proof = "proved equal" if found.is_proved else "not proved"
        help = f"write `{found.after}`: {found.why} ({proof})"
    return warning(
        "GC0590", f"{hazard.kind}: {hazard.message}", hazard.place, help=help, notes=notes
    )


def happens_at(finding: Finding) -> str:
    """The point and what comes out there."""
    point = ", ".join(f"{name} = {show_value(array)}" for name, array in finding.point.items())
    wrong = [f"{name} is {kind}" for name, kind in finding.results.items()]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"run natively at {point}: {', '.join(wrong[:3])}{more}"


def left_open(findings: Findings) -> str:
    """What intervals could not exclude and no point showed; empty where there is nothing of the
    kind.
    """
    places = [
        f"{h.kind} ({h.place.file}:{h.place.line})" if h.place is not None else h.kind
        for h in findings.open
    ]
    shown = ", ".join(dict.fromkeys(places))
    return f"not excluded, but not met either: {shown}; {findings.searched}" if places else ""


def none_found(findings: Findings) -> str:
    """What the absence of findings says, and what it does not."""
    excluded = (
        "Over the reals, intervals exclude roots, logarithms, powers and divisions that are "
        "infinite or undefined, exponentials that overflow and rows that are masked throughout, "
        "for every finite input and parameter"
        if not any(h.kind != TOO_LARGE[0] for h in findings.open)
        else "Intervals do not exclude all roots, logarithms, powers, divisions, exponentials and "
        "masked rows"
    )
    if findings.largest is not None:
        excluded += (
            f"; and that any number outgrows {findings.precision}, for inputs up to {LARGEST:g} "
            f"and parameters up to {findings.largest:.3g} in magnitude"
        )
    return f"No gradient was found that is infinite or NaN. {excluded}; {findings.searched}."
