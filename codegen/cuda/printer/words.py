"""Scalars of loop IR as expressions of kernel texts: literals, verbs, addresses, elements.

What is printed has the bits of ``codegen.llvm.maths.scalars``: bf16 and f16 are computed in f32 and
rounded after every verb that needs it, short powers are products, of equals ``max`` and ``min``
take what that backend takes.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gradc.codegen.cuda.verbs import CONSTANTS, FUNCTIONS, TEXT_VERBS, VALUE_TYPES
from gradc.ir.loop.kernel import Affine, Const, Scalar, Var
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import DType

_NARROW = (DType.BF16, DType.F16)
# Verbs whose result is one of their operands, or needs no more bits than they have.
_EXACT = {"max", "min", "neg", "abs", "sign", "select", "floor", "round", "copy"}
_OPERATORS = {"add": "+", "sub": "-", "mul": "*"}
_ORDER = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {
    "logical_and": "&",
    "bitand": "&",
    "min": "&",
    "mul": "&",
    "logical_or": "|",
    "bitor": "|",
    "max": "|",
    "add": "|",
    "bitxor": "^",
}
_TAKEN = {
    *TEXT_VERBS,
    *CONSTANTS,
    *keyword.kwlist,
    *("range", "t", "b", "element", "left", "right", "results", "row", "column", "x", "y", "acc"),
    *(
        "total",
        "leaf",
        "down",
        "rows",
        "columns",
        "across",
        "line",
        "place",
        "step",
        "piece",
        "k",
        "n",
    ),
    *(
        "now",
        "free",
        "stage",
        "node",
        "nodes",
        "part",
        "run",
        "other",
        "inside",
        "half",
        "slot",
        "turn",
        "one",
        "first",
        "stop",
    ),
    *(
        f"{side}_{of}"
        for side in ("left", "right")
        for of in ("step", "place", "at", "to", "in", "now")
    ),
    *(f"{name}_{kind}" for name in FUNCTIONS for kind in ("f32", "f64")),
}


class Names:
    """Names of a text: each given once, close to what the loop IR says."""

    def __init__(self) -> None:
        self._taken = set(_TAKEN)

    def new(self, wanted: str) -> str:
        """A name of its own that looks like ``wanted``."""
        plain = re.sub(r"\W", "_", wanted)
        if not plain or not (plain[0].isalpha() or plain[0] == "_"):
            plain = f"v{plain}"
        name, number = plain, 1
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._taken.add(name)
        return name

    def copy(self) -> Names:
        """The same names, given."""
        other = Names()
        other._taken = set(self._taken)
        return other


def literal(value: float | bool, dtype: DType) -> str:
    """A constant of an element type, rounded to it."""
    if dtype is DType.BOOL:
        return str(bool(value))
    kind = VALUE_TYPES[dtype]
    if not dtype.is_float:
        return str(int(value)) if dtype is DType.I64 else f"{kind}({int(value)})"
    number = _rounded(float(value), dtype)
    if math.isnan(number):
        return f"{kind}(NAN)"
    if math.isinf(number):
        return f"{kind}({'-' if number < 0 else ''}INF)"
    # All the digits that the program has: what a literal means to a proof, 1/420 or 1/pi, is read
    # from them; types of 16 bits round them in the text, where that gives the same number.
    if (
        dtype in _NARROW
        and number != value
        and _rounded(_rounded(value, DType.F32), dtype) == number
    ):
        return f"{dtype.value}_value({dtype.value}_bits({kind}({float(value)!r})))"
    return f"{kind}({float(value) if dtype is DType.F32 else number!r})"


def _rounded(value: float, dtype: DType) -> float:
    with np.errstate(all="ignore"):
        if dtype is DType.F32:
            return float(np.float32(value))
        if dtype is DType.F16:
            return float(np.float16(value))
        if dtype is DType.BF16:
            return float(round_to_bf16(np.asarray(value, np.float64)))
    return value


def zero(dtype: DType) -> str:
    """What a load that is switched off gives."""
    return literal(0, dtype)


def from_element(text: str, dtype: DType) -> str:
    """An element of memory as a value."""
    if dtype is DType.BOOL:
        return f"{text} != u8(0)"
    if dtype in _NARROW:
        return f"{dtype.value}_value({text})"
    return text


def to_element(text: str, dtype: DType) -> str:
    """A value as it lies in memory."""
    if dtype is DType.BOOL:
        return f"u8({text})"
    if dtype in _NARROW:
        return f"{dtype.value}_bits({text})"
    return text


class Words:
    """Expressions of one text. ``functions`` collects the functions that it calls, by verb and
    type.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.variables: dict[Var, str] = {}
        self.functions: dict[tuple[str, str], None] = {}

    def state(self) -> tuple[Names, dict[Var, str]]:
        """What is named so far."""
        return self.names.copy(), dict(self.variables)

    def reset(self, state: tuple[Names, dict[Var, str]]) -> None:
        """Forgets what was named since."""
        names, variables = state
        self.names, self.variables = names.copy(), dict(variables)

    def define(self, var: Var) -> str:
        """The name of a variable that is defined now."""
        name = self.variables.get(var)
        if name is None:
            name = self.variables[var] = self.names.new(var.name)
        return name

    def scalar(self, x: Scalar) -> str:
        """An operand."""
        return literal(x.value, x.dtype) if isinstance(x, Const) else self.variables[x]

    def affine(self, x: Affine) -> str:
        """An address: terms in order, what is constant last."""
        parts = []
        for var, factor in x.terms:
            name = self.variables[var]
            parts.append(name if factor == 1 else f"{factor} * {name}")
        if x.constant or not parts:
            parts.append(str(x.constant))
        return " + ".join(parts).replace("+ -", "- ")

    # ---- verbs

    def let(self, verb: str, operands: Sequence[Scalar], result: DType) -> str:
        """``verb(operands)`` rounded to ``result``."""
        given = [self.scalar(x) for x in operands]
        types = [x.dtype for x in operands]
        if verb == "copy":
            return given[0]
        if verb == "cast":
            return self.cast(given[0], types[0], result)
        literals = [isinstance(x, Const) for x in operands]
        if verb in ("max", "min") and types[0].is_float and literals == [True, False]:
            given.reverse()
            literals.reverse()
        if verb in ("max", "min") and types[0].is_float and literals == [False, True]:
            # Of equals the variable, which passes on its NaN.
            (const,) = (x for x in operands if isinstance(x, Const))
            if not math.isnan(float(const.value)):
                given.reverse()
        if verb == "pow":
            short = self._power(given[0], operands[1], result)
            if short is not None:
                return self._round(short, result)
        return self.combine(verb, given, types[-1], result)

    def combine(self, verb: str, given: Sequence[str], dtype: DType, result: DType) -> str:
        """A verb on expressions that are names or literals of type ``dtype``."""
        if verb == "select":
            return f"select({', '.join(given)})"
        if verb in _ORDER:
            if dtype is DType.BOOL:
                return f"{verb}({', '.join(given)})"
            return f"{given[0]} {_ORDER[verb]} {given[1]}"
        if dtype is DType.BOOL:
            if verb == "logical_not":
                return f"logical_not({given[0]})"
            return f"{given[0]} {_LOGIC[verb]} {given[1]}"
        if verb in FUNCTIONS:
            kind = VALUE_TYPES[dtype]
            self.functions[verb, kind] = None
            return self._round(f"{verb}_{kind}({', '.join(given)})", result)
        wide = dtype.is_float or dtype is DType.I64
        if verb in _OPERATORS and wide:
            text = f"{given[0]} {_OPERATORS[verb]} {given[1]}"
        else:
            text = f"{verb}({', '.join(given)})"
        return text if verb in _EXACT else self._round(text, result)

    def _round(self, text: str, dtype: DType) -> str:
        return f"{dtype.value}_value({dtype.value}_bits({text}))" if dtype in _NARROW else text

    def _power(self, x: str, power: Scalar, dtype: DType) -> str | None:
        """x to a literal power of which products or one square root are right in every case."""
        if not dtype.is_float or not isinstance(power, Const):
            return None
        one, none, top = (literal(v, _computed(dtype)) for v in (1.0, 0.0, math.inf))
        written: Mapping[float, Callable[[], str]] = {
            1.0: lambda: x,
            2.0: lambda: f"{x} * {x}",
            3.0: lambda: f"{x} * {x} * {x}",
            -1.0: lambda: f"div({one}, {x})",
            0.5: lambda: f"select({x} == {top.replace('(', '(-')}, {top}, sqrt({x} + {none}))",
        }
        make = written.get(_rounded(float(power.value), dtype))
        return None if make is None else make()

    def cast(self, x: str, source: DType, target: DType) -> str:
        """A value as another element type."""
        if source is target:
            return x
        if target is DType.BOOL:
            return f"{x} != {literal(0, _computed(source))}"
        if target in _NARROW:
            if not source.is_float and source is not DType.BOOL:
                x = f"f64({x})"
            elif source is DType.BOOL:
                x = f"f32({x})"
            return self._round(x, target)
        kind = VALUE_TYPES[target]
        return x if kind == VALUE_TYPES[source] else f"{kind}({x})"


def _computed(dtype: DType) -> DType:
    """The type that values of a type are computed in."""
    return DType.F32 if dtype in _NARROW else dtype
