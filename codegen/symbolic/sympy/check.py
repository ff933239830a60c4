"""SymPy as a second differentiator: its derivative of a program's loss, as a scalar program to
compare with ours.

``derivative`` writes the forward program as steps over symbols, has SymPy differentiate every step
by its own rules, joins them by the chain rule, and hands out a ``Straight``, which any domain of
numbers can evaluate. Our derivative rules and our adjoint are not asked. Literals are symbols
meanwhile, so that 0.1 means the same to both sides.

Nothing here searches or simplifies: the time is linear in the number of scalar operations, which
``most`` limits, and the clock is looked at on the way (``Late``): that of the processor, so that a
machine that is busy with other things finds no less.

Non-goals: comparing (``passes/prove/programs/independent``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from gradc.codegen.symbolic.sympy.program import (
    Scalars,
    SharedArrays,
    TooLarge,
    Undetermined,
    to_sympy,
)
from gradc.codegen.symbolic.sympy.straight import Unwritable, Writer
from gradc.ir.domains.straight import Straight
from gradc.ir.tensor.core import DType, Function

MOST_STEPS = 20_000
# Literals of so many binary places are the numbers they look like.
_PLACES = 8


class Late(Exception):
    """The time given is over."""


class NoDerivative(Exception):
    """SymPy cannot be asked; the message says why, in words that follow "skipped:"."""


class TooLong(NoDerivative):
    """There are too many scalar operations; a smaller shape may do."""


class _Literals(Scalars):
    """Scalars whose literals are symbols, unless they are short binary fractions."""

    def __init__(self) -> None:
        self.symbols: dict[float, Any] = {}

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        is_finite = isinstance(value, float) and math.isfinite(value)
        if is_finite and not math.ldexp(value, _PLACES).is_integer():
            return self._symbol(value)
        return super().const(value, dtype)

    def _symbol(self, value: float) -> Any:
        found = self.symbols.get(value)
        if found is None:
            name = f"literal{len(self.symbols)}"
            found = sp.Symbol(name, real=True, positive=value > 0, negative=value < 0)
            self.symbols[value] = found
        return found


class _Clocked(SharedArrays):
    """Arrays of symbols that stop when the time is over or the steps are too many."""

    def __init__(self, prefix: str, scalars: Scalars, until: float, most: int) -> None:
        super().__init__(prefix, scalars=scalars)
        self.until = until
        self.most = most

    def share(self, expression: Any) -> Any:
        if len(self.steps) % 64 == 0 and time.thread_time() > self.until:
            raise Late
        if len(self.steps) > self.most:
            raise TooLarge
        if expression is sp.nan:
            raise NoDerivative("a value is not a number, such as what an id out of range takes")
        return super().share(expression)


def derivative(
    function: Function,
    names: Sequence[str],
    integers: Mapping[str, Any],
    seconds: float,
    most: int = MOST_STEPS,
) -> Straight:
    """SymPy's derivative of the loss of ``function`` by the parameters ``names``, as results under
    their names.

    Raises:
        TooLong: if the program has more than ``most`` scalar operations.
        NoDerivative: if it has verbs SymPy has no word for, or values that are no numbers.
        Late: after ``seconds`` of the processor.
    """
    until = time.thread_time() + seconds
    literals = _Literals()
    try:
        primal = to_sympy(function, integers, _Clocked("t", literals, until, most))
        found = primal.gradient(names, _Clocked("d", literals, until, 8 * most))
        writer = Writer([(n, i) for n, a in primal.symbols.items() for i in range(a.size)], [])
        known: dict[Any, tuple[str, int]] = {}
        flat = (symbol for array in primal.symbols.values() for symbol in array.flat)
        known.update((symbol, ("given", place)) for place, symbol in enumerate(flat))
        known.update((symbol, writer.literal(x)) for x, symbol in literals.symbols.items())
        for symbol, step in found.steps.items():
            known[symbol] = writer.expression(step, known)
        results = {
            n: [writer.expression(x, known) for x in a.flat] for n, a in found.results.items()
        }
    except TooLarge:
        raise TooLong(f"more than {most} scalar operations to write down") from None
    except (Undetermined, Unwritable, ValueError, TypeError, AttributeError) as problem:
        raise NoDerivative(f"SymPy has no word for {problem}") from None
    return writer.finished(results)
