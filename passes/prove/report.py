"""What a verification found, as data: verdicts with their methods, assumptions and refuting points;
accuracy; times.

A verdict is about one subject: the gradient of a parameter, the derivative rule of an op, a pass,
the kernels, a text that a kernel's code is made of, the Plan, a pullback the user wrote; or what
SymPy makes of a parameter (``sympy``).
The ladder, from the strongest: proved for all shapes; proved for this shape; proved up to a stated
probability of error; probable, by a named method whose error has no known bound; agreeing to stated
digits at stated points; asserted by the user and not checkable; skipped, as too large; undecided;
refuted, with the point. An identity is one
of the reals off kinks: rounding is measured (``Accuracy``), never proved.

Invariants: a report says nothing that is not in its fields, so text, pages and certificates are
made of it alone; ``digest`` covers what is claimed, not what was timed, so the same program
verified again has the same digest.
Non-goals: how verdicts are found (the other ``prove_`` modules), how they look.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from gradc.ir.tensor.core import Slot

SCHEMA = "gradc-certificate-1"


class Status(Enum):
    """The ladder of verdicts; the value is what is printed."""

    PROVED_ALL = "PROVED (all shapes)"
    PROVED_SHAPE = "PROVED (this shape)"
    PROVED_BOUND = "PROVED (error bound)"
    PROBABLE = "PROBABLE"
    AGREES = "AGREES"
    ASSERTED = "ASSERTED"
    SKIPPED = "SKIPPED"
    UNDECIDED = "UNDECIDED"
    REFUTED = "REFUTED"

    @property
    def rank(self) -> int:
        """0 for the strongest."""
        return list(Status).index(self)

    @property
    def is_proof(self) -> bool:
        return self in (Status.PROVED_ALL, Status.PROVED_SHAPE, Status.PROVED_BOUND)


def weakest(statuses: Sequence[Status]) -> Status:
    """What a conclusion from premises of these statuses deserves; no premises prove everything."""
    return max(statuses, key=lambda s: s.rank, default=Status.PROVED_ALL)


RowKind: TypeAlias = Literal[
    "parameter", "sympy", "rule", "pass", "kernel", "text", "plan", "pullback", "ranks"
]
KINDS: tuple[RowKind, ...] = (
    *("parameter", "sympy", "rule", "pass", "kernel", "text", "plan", "pullback", "ranks"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one subject.

    ``method`` says how it was found and ``detail`` with what figures (error bound, digits, points);
    ``point`` is the refuting point, name to value; ``place`` is FILE:LINE:COLUMN; ``formula`` is
    left to whoever writes formulas. ``witness`` is the refuting point in full: what is wrong there
    (``of``), what was ``found`` and ``expected``, the ``dims``, and the ``values`` of all operands
    as nested lists. Nothing is refuted without one.
    """

    kind: RowKind
    subject: str
    status: Status
    method: str
    detail: str = ""
    assumptions: tuple[str, ...] = ()
    point: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    formula: str = ""
    seconds: float = 0.0
    witness: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}: {self.status.value} by {self.method}"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The error of one compiled gradient against a reference of more digits.

    ``of_largest`` is in ulps of the tensor's largest entry, ``elementwise`` in ulps of each entry's
    own; ``differences`` is the relative error of central differences against the same reference,
    ``dot`` that of <gradient, v> against them along one direction. ``explained`` are the ulps of
    the largest entry that the program's precision explains (``runtime.accuracy``).
    """

    tensor: str
    of_largest: float
    elementwise: float
    differences: float
    dot: float
    reference: str
    explained: float = math.inf

    @property
    def is_explained(self) -> bool:
        """Whether the error is one of rounding."""
        return self.of_largest <= self.explained


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one verification found."""

    model: str
    file: str
    source_digest: str
    program_digest: str
    plan_digest: str
    dims: Mapping[str, int]
    chosen: tuple[str, ...]  # dimensions of `dims` that nobody gave a value
    probe_dims: Mapping[str, int]  # the dimensions at which random points were drawn
    precision: str
    options: Mapping[str, str]
    seed: int
    versions: Mapping[str, str]
    verdicts: tuple[Verdict, ...]
    accuracy: tuple[Accuracy, ...] = ()
    notes: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is refuted."""
        return all(v.status is not Status.REFUTED for v in self.verdicts)

    def of(self, kind: RowKind) -> tuple[Verdict, ...]:
        """The verdicts of one kind."""
        return tuple(v for v in self.verdicts if v.kind == kind)

    def counts(self) -> dict[str, int]:
        """How many verdicts have each status, strongest first; absent ones are left out."""
        found = {s.value: sum(v.status is s for v in self.verdicts) for s in Status}
        return {name: n for name, n in found.items() if n}

    @property
    def digest(self) -> str:
        """A digest of what is claimed: all but times, versions of tools and measured errors."""
        data = as_json(self)
        for name in ("seconds", "versions", "accuracy"):
            data.pop(name)
        for verdict in data["verdicts"]:
            verdict.pop("seconds")
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values, without its digest."""
    fields = {f.name: getattr(report, f.name) for f in dataclasses.fields(Report)}
    fields["verdicts"] = [dataclasses.asdict(v) for v in report.verdicts]
    fields["accuracy"] = [dataclasses.asdict(a) for a in report.accuracy]
    data = {"schema": SCHEMA, **_plain(fields), "ok": report.ok}
    return dict(sorted(data.items()))


def certificate(report: Report) -> dict[str, Any]:
    """The report as JSON values, with its digest."""
    return {**as_json(report), "digest": report.digest}


def from_json(data: Mapping[str, Any]) -> Report:
    """The report that ``as_json`` wrote. Raises KeyError, TypeError or ValueError for anything
    else.
    """
    if data.get("schema") != SCHEMA:
        raise ValueError(f"the schema is {data.get('schema')!r}, not {SCHEMA!r}")
    names = [f.name for f in dataclasses.fields(Report)]
    known = {name: data[name] for name in names}
    known["verdicts"] = tuple(_verdict(v) for v in data["verdicts"])
    known["accuracy"] = tuple(Accuracy(**{**a, **_numbers(a)}) for a in data["accuracy"])
    for name in ("chosen", "notes", "trusted"):
        known[name] = tuple(known[name])
    return Report(**known)


def _verdict(data: Mapping[str, Any]) -> Verdict:
    changed = {"status": Status(data["status"]), "assumptions": tuple(data["assumptions"])}
    return Verdict(**{**data, **changed})


_FIGURES = ("of_largest", "elementwise", "differences", "dot")


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(data[name]) for name in _FIGURES}


def _plain(item: Any) -> Any:
    """``item`` in JSON's types; a float that is not finite becomes its name."""
    if isinstance(item, Enum):
        return item.value
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_plain(value) for value in item]
    if isinstance(item, float):
        return float(f"{item:.6g}") if math.isfinite(item) else str(item)
    return item


def key(slot: Slot) -> str:
    """Role and name, which identify a result across passes."""
    return f"{slot.role.value} {slot.name}"
