"""A broken invariant of a function, a kernel or a Plan, and the error that lists several."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.tensor.core import Span

MAX_VIOLATIONS = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: its number, what is wrong, the op printed, and its place in the user's
    text.
    """

    number: str
    message: str
    op: str = ""
    span: Span | None = None

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span is not None else ""
        shown = f"\n    {self.op}" if self.op else ""
        return f"{place}{self.number}: {self.message}{shown}"


class VerificationError(Exception):
    """A function, kernel or plan breaks invariants; always a defect of the compiler."""

    def __init__(self, name: str, violations: Sequence[Violation]) -> None:
        self.name = name
        self.violations = tuple(violations)
        shown = [str(v) for v in self.violations[:MAX_VIOLATIONS]]
        if len(self.violations) > MAX_VIOLATIONS:
            shown.append(f"... and {len(self.violations) - MAX_VIOLATIONS} more")
        super().__init__(f"{name} is not valid\n" + "\n".join(shown))
