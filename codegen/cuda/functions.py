"""The vector mathematics (``codegen.maths``) as functions of kernel texts: ``exp_f32(x)`` ...

The generic functions run over terms, which are then written as statements in the order in which
they were made, so a text has the operations of every other backend in their order, and its bits.
Names are those that the functions note; a term that is used once stands where it is used.

Non-goals: texts of kernels (``printer``).
"""

from __future__ import annotations

import functools
import inspect
import keyword
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.codegen.cuda.verbs import CONSTANTS, FUNCTIONS, TEXT_VERBS
from gradc.codegen.maths import elementary
from gradc.codegen.maths.floats import Floats, Opcode, Order, Predicate

# How strongly Python binds what a term is written as; calls, names and literals most.
_COMPARED, _OR, _AND, _SUM, _PRODUCT, _CALL = 1, 2, 3, 4, 5, 9
_WIDTH = 36  # of what is written inside of another expression, at most
_LINE = 88  # of what is returned
_DENSE = 1 << 12  # literals from here on are hexadecimal: they are patterns of bits


@dataclass(eq=False, slots=True)
class Term:
    """A value of a function: ``form`` has a place for each operand."""

    kind: str  # f32, f64, u32, i64 or bool
    form: str
    operands: tuple[Term, ...] = ()
    binds: int = _CALL
    name: str = ""  # as it is to be called
    before: Term | None = None  # whose name it takes over
    condition: Term | None = None  # under which ``form`` replaces the value of ``before``
    literal: float | int | None = None


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A function of a text; ``calls`` are the functions that must stand before it."""

    name: str
    source: str
    calls: tuple[str, ...]


@dataclass(slots=True)
class _Record:
    """What a function is made of, in order."""

    terms: list[Term] = field(default_factory=list)
    known: dict[tuple[Any, ...], Term] = field(default_factory=dict)
    calls: dict[str, tuple[Callable[..., Any], bool]] = field(default_factory=dict)

    def make(self, kind: str, form: str, *operands: Term, binds: int = _CALL) -> Term:
        """The term, made before or now."""
        key = (kind, form, *(id(o) for o in operands))
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = Term(kind, form, operands, binds)
            self.terms.append(found)
        return found


class TextFloats(Floats[Term]):
    """Terms of f64 if ``double``, else of f32; bits are i64 or u32."""

    def __init__(self, record: _Record, double: bool) -> None:
        super().__init__(double)
        self.record = record
        self.kind = "f64" if double else "f32"
        self.bits_kind = "i64" if double else "u32"

    def _call(self, verb: str, *operands: Term, kind: str = "") -> Term:
        places = ", ".join(["{}"] * len(operands))
        return self.record.make(kind or self.kind, f"{verb}({places})", *operands)

    def _infix(self, sign: str, a: Term, b: Term, binds: int, kind: str = "") -> Term:
        return self.record.make(kind or self.kind, f"{{}} {sign} {{}}", a, b, binds=binds)

    # ---- arithmetic

    def c(self, value: float) -> Term:
        made = self.record.make(self.kind, _literal(value, self.kind))
        made.literal = value
        return made

    def add(self, a: Term, b: Term) -> Term:
        return self._infix("+", a, b, _SUM)

    def sub(self, a: Term, b: Term) -> Term:
        return self._infix("-", a, b, _SUM)

    def mul(self, a: Term, b: Term) -> Term:
        return self._infix("*", a, b, _PRODUCT)

    def div(self, a: Term, b: Term) -> Term:
        return self._call("div", a, b)

    def neg(self, a: Term) -> Term:
        return self._call("neg", a)

    def abs(self, a: Term) -> Term:
        return self._call("abs", a)

    def sqrt(self, a: Term) -> Term:
        return self._call("sqrt", a)

    def copysign(self, size: Term, sign: Term) -> Term:
        return self.call(copysign, size, sign)

    def fma(self, a: Term, b: Term, c: Term) -> Term:
        return self._call("fma", a, b, c)

    def rint(self, x: Term) -> Term:
        return self._call("round", x)

    def floor(self, x: Term) -> Term:
        return self._call("floor", x)

    def polynomial(self, x: Term, coefficients: Sequence[float]) -> Term:
        """A statement for each step, all to one name."""
        total = self.c(coefficients[-1])
        for n, coefficient in enumerate(reversed(coefficients[:-1])):
            step = self.fma(total, x, self.c(coefficient))
            step.before, step.name = total if n else None, "p"
            total = step
        return total

    def polynomials(self, *pairs: tuple[Term, Sequence[float]]) -> list[Term]:
        """One after the other, to be read; a compiler for the device puts them in its order."""
        return [self.polynomial(x, coefficients) for x, coefficients in pairs]

    # ---- conditions

    def compare(self, predicate: Predicate, a: Term, b: Term) -> Term:
        if predicate in ("uno", "ord"):
            sign, join = ("!=", self.either) if predicate == "uno" else ("==", self.both)
            one, other = (self._infix(sign, v, v, _COMPARED, "bool") for v in (a, b))
            return one if a is b else join(one, other)
        if predicate == "ult":
            return self._call(
                "logical_not", self._infix(">=", a, b, _COMPARED, "bool"), kind="bool"
            )
        if predicate == "one":
            return self.either(self.compare("olt", a, b), self.compare("ogt", a, b))
        sign = {"olt": "<", "ogt": ">", "oeq": "==", "une": "!="}[predicate]
        return self._infix(sign, a, b, _COMPARED, "bool")

    def both(self, a: Term, b: Term) -> Term:
        return self._infix("&", a, b, _AND, "bool")

    def either(self, a: Term, b: Term) -> Term:
        return self._infix("|", a, b, _OR, "bool")

    def select(self, condition: Term, a: Term, b: Term) -> Term:
        return self._call("select", condition, a, b, kind=a.kind)

    # ---- bits

    def to_bits(self, x: Term) -> Term:
        if x.literal is not None:
            kind: Any = np.float64 if self.double else np.float32
            bits: Any = np.uint64 if self.double else np.uint32
            return self.i(int(np.asarray(x.literal, kind).view(bits)))
        return self._call(f"{self.kind}_bits", x, kind=self.bits_kind)

    def from_bits(self, x: Term) -> Term:
        return self._call(f"{self.kind}_of", x)

    def i(self, value: int) -> Term:
        value &= (1 << (64 if self.double else 32)) - 1
        if self.double and value >> 63:
            value -= 1 << 64
        digits = str(value) if -_DENSE < value < _DENSE else f"{value:#x}"
        return self.record.make(
            self.bits_kind, digits if self.double else f"{self.bits_kind}({digits})"
        )

    def integer(self, opcode: Opcode, a: Term, b: Term | int) -> Term:
        other = self.i(b) if isinstance(b, int) else b
        if opcode in _SIGNS and self.double:
            sign, binds = _SIGNS[opcode]
            return self._infix(sign, a, other, binds, self.bits_kind)
        if opcode == "lshr" and self.double:
            if not isinstance(b, int):
                raise ValueError("i64 has no shift without sign by a variable")
            moved = self._call("shr", a, other, kind=self.bits_kind)
            return self.integer("and", moved, (1 << (64 - b)) - 1)
        return self._call(_WORDS[opcode], a, other, kind=self.bits_kind)

    def compare_bits(self, predicate: Order, a: Term, b: Term) -> Term:
        if self.double:
            raise ValueError("i64 has no order without sign")
        sign = {"uge": ">=", "ugt": ">", "ult": "<"}[predicate]
        return self._infix(sign, a, b, _COMPARED, "bool")

    def has_bit(self, bits: Term, number: int) -> Term:
        masked = self.integer("and", bits, 1 << number)
        return self._infix("!=", masked, self.i(0), _COMPARED, "bool")

    def wide(self) -> TextFloats:
        return TextFloats(self.record, True)

    def to_wide(self, x: Term) -> Term:
        return self._call("f64", x, kind="f64")

    def from_wide(self, x: Term) -> Term:
        return self._call(self.kind, x)

    def low_bits(self, bits: Term) -> Term:
        return bits if self.double else self._call("u32", bits, kind="u32")

    # ---- functions

    def call(self, function: Callable[..., Term], *operands: Term) -> Term:
        """A function of its own."""
        name = f"{function.__name__}_{self.kind}"
        self.record.calls[name] = (function, self.double)
        return self._call(name, *operands)

    def rarely(
        self, condition: Term, function: Callable[[Floats[Term], Term], Term], x: Term, usual: Term
    ) -> Term:
        name = f"{function.__name__}_{self.kind}"
        self.record.calls[name] = (function, self.double)
        usual.name = usual.name or "y"
        made = Term(self.kind, f"{name}({{}})", (x,), before=usual, condition=condition)
        self.record.terms.append(made)
        return made

    def note(self, **values: Term) -> None:
        for name, term in values.items():
            term.name = term.name or name


_SIGNS: Mapping[Opcode, tuple[str, int]] = {
    "add": ("+", _SUM),
    "sub": ("-", _SUM),
    "mul": ("*", _PRODUCT),
}
_WORDS: Mapping[Opcode, str] = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "and": "bitand",
    "or": "bitor",
    "xor": "bitxor",
    "shl": "shl",
    "lshr": "shr",
}


def copysign(k: Floats[Any], size: Any, sign: Any) -> Any:
    """The size of the first with the sign of the second."""
    top = 1 << (63 if k.double else 31)
    plain = k.integer("and", k.to_bits(size), top - 1)
    return k.from_bits(k.integer("or", plain, k.integer("and", k.to_bits(sign), top)))


def _literal(value: float, kind: str) -> str:
    """A float, exact when rounded to its type."""
    if math.isnan(value):
        return f"{kind}(NAN)"
    if math.isinf(value):
        return f"{kind}({'-' if value < 0 else ''}INF)"
    if kind == "f64":
        return f"f64({value!r})"
    short = str(np.float32(value))
    exact = np.float32(float(short)) == np.float32(value)
    return f"f32({short if exact else repr(float(np.float32(value)))})"


# ---- writing -------------------------------------------------------------------------------------


class _Writer:
    """Statements of a function."""

    def __init__(self, parameters: Sequence[Term]) -> None:
        names = [p.name for p in parameters]
        self.taken = {*TEXT_VERBS, *CONSTANTS, *keyword.kwlist, *names}
        self.lines: list[str] = []
        self.uses: dict[int, int] = {}
        # What stands for a term, and how it binds.
        self.written = {id(p): (p.name, _CALL) for p in parameters}

    def write(self, terms: Sequence[Term], result: Term) -> str:
        """Writes what ``result`` needs; returns its expression."""
        needed = self._count(result)
        for term in terms:
            if id(term) in needed:
                self._term(term, _LINE if term is result else _WIDTH)
        return self.written[id(result)][0]

    def _count(self, result: Term) -> set[int]:
        seen: set[int] = set()
        ahead = [result]
        while ahead:
            term = ahead.pop()
            if id(term) in seen:
                continue
            seen.add(id(term))
            parts = [*term.operands]
            parts += [v for v in (term.condition, term.before) if v is not None]
            for part in parts:
                self.uses[id(part)] = self.uses.get(id(part), 0) + 1
            ahead += parts
        return seen

    def _term(self, term: Term, width: int) -> None:
        """A statement, or within ``width`` what stands in another one."""
        if id(term) in self.written:
            return
        operands = []
        for n, part in enumerate(term.operands):
            text, binds = self.written[id(part)]
            # On the right of a minus, and of what binds alike, order would change.
            weak = binds < term.binds or (n > 0 and binds == term.binds)
            is_inside_call = term.binds == _CALL
            operands.append(f"({text})" if weak and not is_inside_call else text)
        text = term.form.format(*operands)
        if not term.operands and not term.name:
            self.written[id(term)] = (text, _CALL)
            return
        is_short = len(text) <= width and self.uses.get(id(term), 0) <= 1
        if is_short and not term.name and term.before is None:
            self.written[id(term)] = (text, term.binds)
            return
        if term.before is not None:
            name = self.written[id(term.before)][0]
        else:
            name = self._name(term.name or _HINTS[term.kind])
        if term.condition is None:
            self.lines.append(f"{name} = {text}")
        else:
            self.lines.append(f"if {self.written[id(term.condition)][0]}:")
            self.lines.append(f"    {name} = {text}")
        self.written[id(term)] = (name, _CALL)

    def _name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken:
            number += 1
            name = f"{wanted}{number}"
        self.taken.add(name)
        return name


_HINTS = {"f32": "v", "f64": "v", "u32": "n", "i64": "n", "bool": "c"}


@functools.cache
def _function_text(function: Callable[..., Any], double: bool) -> tuple[FunctionText, _Record]:
    record = _Record()
    k = TextFloats(record, double)
    _, *names = inspect.signature(function).parameters
    operands = [Term(k.kind, name, name=name) for name in names]
    result = function(k, *operands)
    writer = _Writer(operands)
    value = writer.write(record.terms, result)
    says = (inspect.getdoc(function) or function.__name__).split("\n\n")[0].replace("\n", " ")
    own = f"{function.__name__}_{k.kind}"
    lines = [f'"""{says}"""', *writer.lines, f"return {value}"]
    source = f"def {own}({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)
    return FunctionText(own, source, tuple(record.calls)), record


def function_texts(wanted: Iterable[tuple[str, str]]) -> tuple[FunctionText, ...]:
    """The functions of (verb, ``f32`` or ``f64``) and all that they call, called ones first.

    Raises KeyError for a verb that is none of ``FUNCTIONS``.
    """
    found: dict[str, FunctionText] = {}

    def add(function: Callable[..., Any], double: bool) -> None:
        text, record = _function_text(function, double)
        if text.name in found:
            return
        for other in record.calls.values():
            add(*other)
        found[text.name] = text

    for verb, kind in wanted:
        if verb not in FUNCTIONS:
            raise KeyError(verb)
        add(elementary.FUNCTIONS[verb], kind == "f64")
    return tuple(found.values())
