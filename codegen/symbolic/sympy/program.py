"""Programs as SymPy expressions with sharing, and their derivatives by SymPy itself.

A program becomes a list of steps ``t3 = t1*t2``, one per scalar operation, over symbols named after
parameters and inputs. SymPy differentiates each step by itself, and a walk backwards over the list
joins the pieces by the chain rule: linear in the number of steps, where ``diff`` of one big
expression is not. Nothing of our derivative rules is used, so this is an independent
differentiator.

Expressions are built from IR, never from text. Integers (class ids, the random counter) must be
given as numbers.

Non-goals: big programs: every element of every array is a symbol (``TooLarge`` beyond
``MOST_STEPS``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from gradc.codegen.symbolic.sympy.scalars import SympyScalars
from gradc.ir.domains.arrays import ObjectArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Role

MOST_STEPS = 60_000


class TooLarge(Exception):
    """The program has too many scalar operations to write each of them down."""


class Undetermined(Exception):
    """An integer depends on symbols: the place of a largest element, a number rounded to a whole
    one.
    """


def _function(name: str, value: Any, slopes: Any) -> Any:
    """A function that is evaluated on numbers, opaque on symbols, and has slopes of its own."""

    def evaluate(_cls: Any, *arguments: Any) -> Any:
        return value(*arguments) if all(x.is_number for x in arguments) else None

    def slope(self: Any, argindex: int = 1) -> Any:
        return slopes(*self.args)[argindex - 1]

    return type(name, (sp.Function,), {"eval": classmethod(evaluate), "fdiff": slope})


def _share(first: Any, second: Any) -> Any:
    """1 where ``first`` is greater, half where both are equal, else 0."""
    half = sp.Rational(1, 2)
    return sp.Piecewise((1, first > second), (half, sp.Eq(first, second)), (0, True))


Maximum = _function("Maximum", sp.Max, lambda a, b: (_share(a, b), _share(b, a)))
Minimum = _function("Minimum", sp.Min, lambda a, b: (_share(b, a), _share(a, b)))
# Flat everywhere, and the slope of the magnitude: 0 at 0.
Signum = _function("Signum", sp.sign, lambda x: (sp.Integer(0),))
Magnitude = _function("Magnitude", sp.Abs, lambda x: (Signum(x),))
# The identity with slope 0.
Frozen = _function("stop_gradient", lambda x: x, lambda x: (sp.Integer(0),))


class Scalars(SympyScalars):
    """SymPy's scalars with functions whose derivatives are the ones the ops declare at kinks."""

    def max(self, a: Any, b: Any) -> Any:
        if sp.oo in (a, b):
            return sp.oo
        return a if b == -sp.oo else b if a == -sp.oo else Maximum(a, b)

    def min(self, a: Any, b: Any) -> Any:
        return Minimum(a, b)

    def abs(self, x: Any) -> Any:
        return Magnitude(x)

    def sign(self, x: Any) -> Any:
        return Signum(x)

    def stop_gradient(self, x: Any) -> Any:
        return Frozen(x)

    def mul(self, a: Any, b: Any) -> Any:
        # 0 times an infinity that a mask put there.
        return sp.Integer(0) if a == 0 or b == 0 else a * b

    def gate(self, ct: Any, partial: Any) -> Any:
        return self.mul(ct, partial)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.mul(a, b) + c


def _as_number(x: Any) -> Any:
    is_open = isinstance(x, sp.logic.boolalg.Boolean) and not isinstance(x, sp.Symbol)
    return sp.Piecewise((1, x), (0, True)) if is_open else x


@dataclass
class SharedArrays(ObjectArrays):
    """Arrays of symbols: whatever is computed becomes a step, and equal steps become one."""

    prefix: str = "t"
    steps: dict[Any, Any] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict)
    scalars: Scalars = field(default_factory=Scalars)

    def __post_init__(self) -> None:
        super().__init__(self.scalars)

    def verb(self, name: str, *operands: Any) -> Any:
        found = super().verb(name, *operands)
        if not isinstance(found, np.ndarray) or found.dtype != object:
            return found
        flat = [self.share(x) for x in found.reshape(-1)]
        return self.objects(flat, found.shape)

    def cast(self, x: Any, dtype: DType) -> Any:
        """Conditions that stay open become 1 or 0 by cases."""
        array = np.asarray(x)
        if array.dtype == object and dtype.is_float:
            flat = [self.share(_as_number(e)) for e in array.reshape(-1)]
            return self.objects(flat, array.shape)
        return super().cast(x, dtype)

    def _lifted(self, x: Any) -> Any:
        """With elements that are arrays without axes taken for what they hold."""
        array = super()._lifted(x)
        if array.dtype == object and any(isinstance(e, np.ndarray) for e in array.flat):
            flat = [e.item() if isinstance(e, np.ndarray) else e for e in array.flat]
            return self.objects(flat, array.shape)
        return array

    def argmax(self, x: Any, axis: int) -> Any:
        """Of numbers. Raises Undetermined."""
        if any(not e.is_number for e in np.asarray(x).flat if isinstance(e, sp.Basic)):
            raise Undetermined("the place of the largest of several symbols")
        return super().argmax(x, axis)

    def argsort(self, x: Any, axis: int) -> Any:
        """Of numbers. Raises Undetermined."""
        if any(not e.is_number for e in np.asarray(x).flat if isinstance(e, sp.Basic)):
            raise Undetermined("the order of several symbols")
        return super().argsort(x, axis)

    def share(self, expression: Any) -> Any:
        """The symbol that stands for ``expression``. Raises TooLarge."""
        if not isinstance(expression, sp.Expr) or not expression.args or expression.is_number:
            return expression
        known = self._known.get(expression)
        if known is None:
            if len(self.steps) >= MOST_STEPS:
                raise TooLarge
            known = sp.Symbol(f"{self.prefix}{len(self.steps) + 1}", real=True)
            self._known[expression] = known
            self.steps[known] = expression
        return known


@dataclass
class SymbolicProgram:
    """``steps`` in order, over ``symbols``; ``results`` by name. ``gradient`` differentiates the
    loss.
    """

    name: str
    symbols: Mapping[str, Any]
    steps: Mapping[Any, Any]
    results: Mapping[str, Any]

    @property
    def loss(self) -> Any:
        """The loss as one expression."""
        return self.whole(self.results["loss"].item())

    def whole(self, expression: Any) -> Any:
        """``expression`` with every step put in; it may be large."""
        memo: dict[Any, Any] = {}
        for symbol, step in self.steps.items():
            memo[symbol] = step.xreplace({s: memo[s] for s in step.free_symbols if s in memo})
        return expression.xreplace(memo) if isinstance(expression, sp.Basic) else expression

    def gradient(self, names: Iterable[str], arrays: SharedArrays | None = None) -> SymbolicProgram:
        """The derivative of the loss by each array of ``names``, by SymPy's rules, as further steps
        of ``arrays``.
        """
        shared = SharedArrays(prefix="d") if arrays is None else arrays
        bars: dict[Any, Any] = {}
        loss = self.results["loss"].item()
        if isinstance(loss, sp.Symbol):
            bars[loss] = sp.Integer(1)
        for symbol, step in reversed(list(self.steps.items())):
            bar = bars.get(symbol)
            if bar is None:
                continue
            for variable in sorted(step.free_symbols, key=lambda s: str(s)):
                slope = shared.share(step.diff(variable))
                term = shared.share(bar * slope)
                bars[variable] = shared.share(bars[variable] + term) if variable in bars else term
        zero = sp.Integer(0)
        found = {
            name: ObjectArrays.objects(
                [bars.get(s, zero) for s in self.symbols[name].reshape(-1)],
                self.symbols[name].shape,
            )
            for name in names
        }
        return SymbolicProgram(self.name, self.symbols, {**self.steps, **shared.steps}, found)

    def derivative_text(self, names: Iterable[str]) -> str:
        """The program and the derivative of its loss by ``names``, as lines of text."""
        whole = self.gradient(names)
        results = {**self.results, **{f"d loss / d {n}": a for n, a in whole.results.items()}}
        return SymbolicProgram(self.name, self.symbols, whole.steps, results).text()

    def text(self) -> str:
        """All steps and results as lines of text."""
        lines = [f"# {self.name}"]
        lines += [f"# {n}: {_shape(a.shape)} symbols {_range(a)}" for n, a in self.symbols.items()]
        lines += [f"{symbol} = {step}" for symbol, step in self.steps.items()]
        for name, array in self.results.items():
            for place in np.ndindex(array.shape):
                at = f"[{', '.join(map(str, place))}]" if place else ""
                lines.append(f"{name}{at} = {array[place]}")
        return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _range(array: Any) -> str:
    flat = array.reshape(-1)
    return "" if not flat.size else f"{flat[0]}" if flat.size == 1 else f"{flat[0]} .. {flat[-1]}"


def symbols_of(name: str, shape: tuple[int, ...]) -> Any:
    """Real symbols called after ``name``, every character that is not a letter or digit
    replaced.
    """
    safe = re.sub(r"\W", "_", name)
    places = list(np.ndindex(shape))
    flat = [sp.Symbol("_".join([safe, *map(str, at)]) if at else safe, real=True) for at in places]
    return ObjectArrays.objects(flat, shape)


def to_sympy(
    function: Function,
    integers: Mapping[str, Any] | None = None,
    arrays: SharedArrays | None = None,
) -> SymbolicProgram:
    """``function`` over symbols. Integer parameters not in ``integers`` count 0, 1, 0, 1, ...

    Raises:
        TooLarge: for too many elements or scalar operations.
        Undetermined: where an integer depends on floating parameters.
    """
    arrays = SharedArrays() if arrays is None else arrays
    symbols: dict[str, Any] = {}
    operands: list[Any] = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        shape = value.type.static_shape
        if value.type.dtype.is_float:
            if math.prod(shape) > MOST_STEPS:
                raise TooLarge
            symbols[slot.name] = symbols_of(slot.name, shape)
            operands.append(symbols[slot.name])
        else:
            storage = arrays.storage(value.type.dtype)
            given = (integers or {}).get(slot.name)
            if given is None:
                given = np.arange(math.prod(shape)).reshape(shape) % 2
            operands.append(np.asarray(given).astype(storage))
    found = run(arrays, function, operands)
    results = {}
    for slot, array in zip(function.results, found, strict=True):
        if slot.role in (Role.LOSS, Role.OUTPUT, Role.COTANGENT):
            name = "loss" if slot.role is Role.LOSS else slot.name
            key = f"d loss / d {name}" if slot.role is Role.COTANGENT else name
            results[key] = np.asarray(array)
    return SymbolicProgram(function.name, symbols, arrays.steps, results)
