"""Diagnostics: what is wrong, where, and what to do about it, in the user's own terms.

A :class:`Diagnostic` is data. Phases gather them in a :class:`Report` and raise one
:class:`DiagnosticError` with everything found; ``ir.render`` turns them into text or JSON.

Codes are ``GC`` and four digits; the hundreds say the phase:
    00 files, encoding, limits    01 syntax              02 names and declarations
    03 types and shapes           04 compile-time values 05 calls: data, dims, flags
    06 memory and plans           07 verification        08 training and distribution
Each code has a title and a long explanation in a table (``frontend.codes``); a test demands one for
every code used and a golden rendering for every code listed.

Non-goals: rendering, wording rules of single checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gradc.ir.diagnostics.source import Sources
from gradc.ir.tensor.core import Span

Severity: TypeAlias = Literal["error", "warning"]

# How many diagnostics one run reports; the renderer says how many more there were.
MAX_DIAGNOSTICS = 20


@dataclass(frozen=True, slots=True)
class Label:
    """A secondary place with a remark: ``W is declared float[3, 4] here``."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    ``message`` says in one line what was found and expected; ``label`` is written under the primary
    carets; ``labels`` are other places; ``help`` is a concrete fix; ``notes`` are facts. ``span``
    is None only for findings that have no place in a text, such as a file that cannot be read.
    """

    code: str
    severity: Severity
    message: str
    span: Span | None
    label: str = ""
    labels: tuple[Label, ...] = ()
    help: str = ""
    notes: tuple[str, ...] = ()


def error(
    code: str,
    message: str,
    span: Span | None,
    *,
    label: str = "",
    labels: Sequence[Label] = (),
    help: str = "",
    notes: Sequence[str] = (),
) -> Diagnostic:
    """A Diagnostic of severity error."""
    return Diagnostic(code, "error", message, span, label, tuple(labels), help, tuple(notes))


def warning(
    code: str,
    message: str,
    span: Span | None,
    *,
    label: str = "",
    labels: Sequence[Label] = (),
    help: str = "",
    notes: Sequence[str] = (),
) -> Diagnostic:
    """A Diagnostic of severity warning."""
    return Diagnostic(code, "warning", message, span, label, tuple(labels), help, tuple(notes))


class DiagnosticError(Exception):
    """At least one error was found. ``sources`` holds the texts that its spans point into."""

    def __init__(self, diagnostics: Iterable[Diagnostic], sources: Sources | None = None) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        self.sources = sources if sources is not None else Sources()
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        """The diagnostics rendered as plain text, so that an uncaught one is still readable."""
        from gradc.ir.diagnostics.render import render_all

        return "\n" + render_all(self.diagnostics, self.sources)


@dataclass
class Report:
    """Diagnostics gathered by the phases of one run, in the order found, without repeats."""

    sources: Sources = field(default_factory=Sources)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    error_count: int = 0
    _seen: set[tuple[str, Span]] = field(default_factory=set)

    def add(self, diagnostic: Diagnostic) -> None:
        """Remember a finding; one with the same code at the same place is kept once."""
        if diagnostic.span is not None:
            same = (diagnostic.code, diagnostic.span)
            if same in self._seen:
                return
            self._seen.add(same)
        self.error_count += diagnostic.severity == "error"
        self.diagnostics.append(diagnostic)

    def clear(self) -> None:
        """Forget every finding."""
        self.diagnostics.clear()
        self._seen.clear()
        self.error_count = 0

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return self.error_count > 0

    @property
    def is_full(self) -> bool:
        """Whether so many errors were found that looking for more helps nobody."""
        return self.error_count >= MAX_DIAGNOSTICS

    def raise_errors(self) -> None:
        """Raise everything found if any of it is an error.

        Raises:
            DiagnosticError: with the diagnostics in the order of the text.
        """
        if self.has_errors:
            raise DiagnosticError(in_text_order(self.diagnostics), self.sources)


def in_text_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by place within each file; files and places-less findings keep their first order."""
    found = list(diagnostics)
    order: dict[str, int] = {}
    for diagnostic in found:
        order.setdefault(diagnostic.span.file if diagnostic.span else "", len(order))
    return tuple(sorted(found, key=lambda d: _place(d, order)))


def _place(diagnostic: Diagnostic, order: dict[str, int]) -> tuple[int, int, int]:
    span = diagnostic.span
    if span is None:
        return (order[""], 0, 0)
    return (order[span.file], span.line, span.column)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``did you mean `softmax`?`` for the closest of ``known``, or an empty string."""
    best = closest(name, known, cutoff)
    return f"did you mean `{best}`?" if best else ""


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The name of ``known`` most like ``name``, or an empty string; the first of equals."""
    import difflib  # 6 ms, needed only once something is wrong

    candidates = list(dict.fromkeys(known))
    folded = {candidate.lower(): candidate for candidate in reversed(candidates)}
    if name.lower() in folded:
        return folded[name.lower()]
    found = difflib.get_close_matches(name, candidates, n=4, cutoff=cutoff)
    if not found:
        return ""
    # Of equally close ones difflib puts the last of the alphabet first.
    ratios = {one: difflib.SequenceMatcher(a=one, b=name).ratio() for one in found}
    return min(found, key=lambda one: (-ratios[one], candidates.index(one)))
