"""Do several ranks together compute the gradient of the whole batch? A cut program, all ranks and
messages of it, against the program that was cut.

The ranks are written as one function (``passes.training.together``), which is compared with that of
one rank without parts: at points of a prime field, and with a bound where both are small. Every
rank's results are compared, since each updates weights of its own. What differs is refuted at real
points or not at all.

Non-goals: 16 bits and rounding; that ranks give the same bits is shown by running them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gradc.ir.ops.axes import Place
from gradc.ir.tensor.core import Function, Role
from gradc.passes.prove.domains.field import PRIME
from gradc.passes.prove.domains.free import bounded_equal
from gradc.passes.prove.domains.point import Point, at_points
from gradc.passes.prove.programs.laws import is_small
from gradc.passes.prove.programs.passes import differing, values_by_result
from gradc.passes.prove.report import Status, Verdict, key
from gradc.passes.prove.rules.refute import Outcome, decide_equal, lacking
from gradc.passes.training.ranks import Deal
from gradc.passes.training.together import Held, as_rank, exchanges

_ASSUMED = ("off kinks", "denominators are not zero")


# Points for small programs: a fault may show only where one rank has the greatest of every row, of
# which there are few.
_SMALL_POINTS = 8


@dataclass(frozen=True)
class CutProgram:
    """``cut`` as each of ``deal.ranks`` ranks runs it, and ``whole``, which they are to compute.

    ``places`` are those of samples, by input, or of what is cut; ``dims`` the dimensions of both.
    """

    whole: Function
    cut: Function
    deal: Deal
    places: Mapping[str, Place]
    dims: Mapping[str, int]
    along: str = ""  # what is cut, if not the batch
    held: Held | None = None  # on a grid, the parameters that ranks of a group hold parts of

    @property
    def ranks(self) -> int:
        """How many run it."""
        return self.deal.ranks * (1 if self.held is None else self.held.parts)


def ranks_verdict(subject: CutProgram, seed: int, points: int) -> Verdict:
    """One verdict for all ranks and results, at ``points`` or more where they are cheap."""
    start = time.perf_counter()
    if is_small(subject.whole):
        points = max(points, _SMALL_POINTS)
    verdict = _verdict(subject, seed, points)
    return replace(verdict, subject=_name(subject), seconds=time.perf_counter() - start)


def _name(subject: CutProgram) -> str:
    deal = subject.deal
    if subject.held is not None:
        return f"{subject.ranks} ranks, {deal.count} parts along {subject.along}"
    if subject.along:
        return f"{deal.ranks} ranks along {subject.along}"
    parts = f"{deal.count} part{'s' if deal.count != 1 else ''}"
    return f"{deal.ranks} rank{'s' if deal.ranks != 1 else ''}, {parts}"


def _verdict(subject: CutProgram, seed: int, points: int) -> Verdict:
    whole, deal = subject.whole, subject.deal
    programs = [
        as_rank(whole, subject.cut, deal, subject.places, rank, subject.held)
        for rank in range(subject.ranks)
    ]
    agreeing: list[tuple[str, Outcome]] = []
    open_: Verdict | None = None
    for rank, one in enumerate(programs):
        known = {key(slot) for slot in one.results}
        lost = [key(s) for s in whole.results if s.name not in _per_sample(subject)]
        lost = [name for name in lost if name not in known]
        if lost:
            return _decided(subject, rank, lacking(whole, lost), lost)
        wrong = _differing(whole, one, seed, points)
        if not wrong:
            continue
        numbers = {key(slot): n for n, slot in enumerate(one.results)}
        pairs = [(n, numbers[k]) for n, s in enumerate(whole.results) if (k := key(s)) in wrong]
        outcome = decide_equal(whole, one, pairs)
        if outcome.status is Status.REFUTED:
            return _decided(subject, rank, outcome, wrong)
        if outcome.status is Status.AGREES:
            agreeing.append((f"rank {rank}: {', '.join(wrong)}", outcome))
        else:  # another rank may have what can be refuted
            open_ = open_ or _decided(subject, rank, outcome, wrong)
    if open_ is not None:
        return open_
    if agreeing:
        told = "; ".join(f"{what} by {outcome.detail}" for what, outcome in agreeing)
        detail = f"where residues differ, {told}; at {_at(subject)}"
        return Verdict("ranks", "", Status.AGREES, "balls at 50 digits", detail, ("off kinks",))
    whole_of = "program" if subject.along else "batch"
    method = f"prime field: all ranks = the whole {whole_of}"
    count = len(exchanges(subject.cut.block))
    sent = f"{count} exchange{'s' if count != 1 else ''}"
    detail = f"{points} points modulo {PRIME} at {_at(subject)}; {sent}"
    if all(is_small(program) for program in (whole, *programs)):
        bounds = [
            bounded_equal(whole, one, seed, [key(slot) for slot in one.results]) for one in programs
        ]
        if all(bound.holds for bound in bounds):
            text = f"{bounds[0]} at {_at(subject)}; {sent}"
            return Verdict("ranks", "", Status.PROVED_BOUND, method, text, _ASSUMED)
    return Verdict("ranks", "", Status.PROBABLE, method, detail, _ASSUMED)


def _per_sample(subject: CutProgram) -> set[str]:
    """Results of which each rank has the rows of its samples only."""
    return {slot.name for slot in subject.whole.results if slot.role is Role.OUTPUT}


def _differing(whole: Function, one: Function, seed: int, points: int) -> list[str]:
    def test(at: Point) -> list[str]:
        known, found = values_by_result(whole, at), values_by_result(one, at)
        return differing({n: x for n, x in known.items() if n in found}, found)

    return list(dict.fromkeys(n for names in at_points(whole, seed, points, test) for n in names))


def _at(subject: CutProgram) -> str:
    return ", ".join(f"{name}={size}" for name, size in subject.dims.items())


def _decided(subject: CutProgram, rank: int, outcome: Outcome, names: list[str]) -> Verdict:
    """What real points say where residues differ, with the line of the first result that does."""
    detail = f"rank {rank} has another {', '.join(names)}; {outcome.detail}; at {_at(subject)}"
    spans = {key(slot): slot.span for slot in subject.whole.results}
    span = next((span for name in names if (span := spans.get(name)) is not None), None)
    witness = {**outcome.witness, "dims": dict(subject.dims)} if outcome.witness else {}
    place = "" if span is None else f"{span.file}:{span.line}:{span.column}"
    return Verdict(
        "ranks", "", outcome.status, "balls at 50 digits", detail, ("off kinks",), outcome.point,
        place, witness=witness,
    )  # fmt: skip
