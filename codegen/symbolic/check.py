"""Our adjoint against SymPy's own derivative, per parameter, in a worker process with a time limit.

``symbolic_check`` prints both programs as IR text, hands them to a worker, and reads its findings back as JSON; a worker
that takes too long is ended. The worker writes the forward program as steps, has SymPy differentiate them, and compares
each entry with what the adjoint computes: as expressions where they are small, else at random rational points to up to
30 digits. Parameters are said to be ``equal``, ``agrees`` (with the number of points and digits), ``differs`` (with the
point), ``undecided`` (why).

Non-goals: programs with more elements than one would write down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gradc.ir.core import Function, Role
from gradc.ir.text import parse_function, print_function

DIGITS = 30
# The program's own constants, such as 2 / sqrt(pi) in float64, are right to 16 digits.
LEAST_DIGITS = 13
POINTS = 3
_SMALL = 40


@dataclass(frozen=True, slots=True)
class Checked:
    """What SymPy says of one parameter's gradient."""

    parameter: str
    outcome: str
    detail: str = ""
    point: Mapping[str, str] = field(default_factory=dict)


def symbolic_check(
    function: Function, gradient: Function, seconds: float = 20.0
) -> dict[str, Checked]:
    """Compares the COTANGENT results of ``gradient`` with SymPy's derivative of ``function``'s loss."""
    names = [s.name for s in gradient.results if s.role is Role.COTANGENT]
    request = json.dumps(
        {"function": print_function(function), "gradient": print_function(gradient)}
    )
    command = [sys.executable, "-m", "gradc.codegen.symbolic.check"]
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        why = f"SymPy took longer than {seconds:g} s"
        return {name: Checked(name, "undecided", why) for name in names}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {name: Checked(name, "undecided", lines[-1][:200]) for name in names}
    rows = json.loads(done.stdout)
    return {row["parameter"]: Checked(**row) for row in rows}


def compare(function: Function, gradient: Function) -> list[Checked]:
    """The comparison itself, in this process."""
    from gradc.codegen.symbolic.program import TooLarge, to_sympy

    names = [s.name for s in gradient.results if s.role is Role.COTANGENT]
    try:
        primal = to_sympy(function)
        ours = to_sympy(gradient)
        theirs = primal.gradient(names)
    except TooLarge:
        return [Checked(n, "undecided", "too many elements to write down") for n in names]
    random = Random(f"{function.name} {len(primal.steps)} {len(ours.steps)}")
    points = [_point(primal.symbols, random) for _ in range(POINTS)]
    values = [(_evaluated(ours.steps, p), _evaluated(theirs.steps, p)) for p in points]
    found = []
    for name in names:
        pairs = list(
            zip(
                ours.results[f"d loss / d {name}"].reshape(-1),
                theirs.results[name].reshape(-1),
                strict=True,
            )
        )
        found.append(_checked(name, pairs, (ours, theirs), points, values))
    return found


def _checked(
    name: str,
    pairs: Sequence[tuple[Any, Any]],
    programs: tuple[Any, Any],
    points: Sequence[Mapping[Any, Any]],
    values: Sequence[tuple[Mapping[Any, Any], Mapping[Any, Any]]],
) -> Checked:
    import sympy as sp

    digits = DIGITS
    for point, (left, right) in zip(points, values, strict=True):
        for position, (a, b) in enumerate(pairs):
            x, y = (_expression(e).xreplace(v) for e, v in ((a, left), (b, right)))
            digits = min(digits, _common_digits(x, y))
            if digits < LEAST_DIGITS:
                shown = {str(s): str(v) for s, v in point.items()}
                detail = f"element {position}: {sp.N(x, 12)}, and SymPy has {sp.N(y, 12)}"
                return Checked(name, "differs", detail, shown)
    if _is_small(programs[0]) and _is_small(programs[1]):
        wholes = ((programs[0].whole(a), programs[1].whole(b)) for a, b in pairs)
        if all(_is_identical(a, b) for a, b in wholes):
            return Checked(name, "equal", f"{len(pairs)} entries as expressions")
    return Checked(name, "agrees", f"{len(pairs)} entries at {POINTS} points to {digits} digits")


def _expression(x: Any) -> Any:
    """An entry as an expression; a plain number is the rational it is."""
    import sympy as sp

    return x if isinstance(x, sp.Basic) else sp.Rational(x)


def _is_small(program: Any) -> bool:
    return len(program.steps) <= _SMALL


def _is_identical(a: Any, b: Any) -> bool:
    import sympy as sp

    difference = _expression(a) - _expression(b)
    if difference == 0:
        return True
    return bool(sp.cancel(sp.together(difference)) == 0)


def _point(symbols: Mapping[str, Any], random: Random) -> dict[Any, Any]:
    """Rational values between -2 and 2, away from 0."""
    import sympy as sp

    return {
        symbol: sp.Rational(random.choice((-1, 1)) * random.randint(64, 511), 256)
        for array in symbols.values()
        for symbol in array.reshape(-1)
    }


def _evaluated(steps: Mapping[Any, Any], point: Mapping[Any, Any]) -> dict[Any, Any]:
    """The value of every step, to twice the digits that are compared."""
    import sympy as sp

    known = {symbol: sp.Float(value, 2 * DIGITS) for symbol, value in point.items()}
    for symbol, step in steps.items():
        value = step.xreplace({s: known[s] for s in step.free_symbols})
        known[symbol] = value.evalf(2 * DIGITS) if value.is_number else value
    return known


def _common_digits(a: Any, b: Any) -> int:
    """How many digits two numbers share, of 1 or of the larger of them."""
    import sympy as sp

    if a == b:
        return DIGITS
    if not (a.is_finite and b.is_finite):
        return DIGITS if str(a) == str(b) else 0
    scale = max(abs(sp.Float(a)), abs(sp.Float(b)), sp.Float(1))
    error = abs(sp.Float(a) - sp.Float(b)) / scale
    return DIGITS if error == 0 else min(DIGITS, int(-sp.log(error, 10)))


def main() -> int:
    """The worker: a request on standard input, findings on standard output."""
    request = json.load(sys.stdin)
    found = compare(parse_function(request["function"]), parse_function(request["gradient"]))
    rows = [
        {"parameter": c.parameter, "outcome": c.outcome, "detail": c.detail, "point": dict(c.point)}
        for c in found
    ]
    json.dump(rows, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
