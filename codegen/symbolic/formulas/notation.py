"""Formulas as a small tree of notation, written as text, as LaTeX and as MathML.

Nodes know how tightly they bind, so brackets appear where a reader needs them and nowhere else.
MathML is presentation markup that browsers show without any script.

Names: digits at the end of a name are its subscript; a leading ``∂`` marks the cotangent of the
name after it, written ``dz`` in text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

COTANGENT = "∂"
_SUM, _PRODUCT, _MATRIX, _POWER, _ATOM = range(5)
_GREEK = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "mu",
    "sigma",
    "theta",
    "lambda",
    "rho",
    "pi",
)


# zhat is written with a hat.
_HAT = re.compile(r"[A-Za-z]_?hat")
# Names and functions of one; anything else is text of the program, shown as it stands.
_PLAIN = re.compile(r"[∂\w.'#]*(\([∂\w.'#]*(, axis=\d+)?\))?")
_LATEX_SPECIAL = re.compile(r"[\\{}_^#&%$~]")


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the program."""

    text: str


@dataclass(frozen=True, slots=True)
class Num:
    """A number, as its decimal text."""

    text: str


@dataclass(frozen=True, slots=True)
class Sum:
    """Signed summands."""

    items: tuple[tuple[int, Notation], ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A product: of scalars, elementwise, or of matrices."""

    items: tuple[Notation, ...]
    kind: Literal["scalar", "elementwise", "matrix"]


@dataclass(frozen=True, slots=True)
class Quotient:
    """A fraction."""

    above: Notation
    below: Notation


@dataclass(frozen=True, slots=True)
class Power:
    """A power; the exponent is text such as ``2``, ``-1/2`` or ``T`` for a transpose."""

    base: Notation
    exponent: str


@dataclass(frozen=True, slots=True)
class Root:
    """A square root."""

    inner: Notation


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of arguments."""

    function: str
    arguments: tuple[Notation, ...]


@dataclass(frozen=True, slots=True)
class Bracket:
    """Iverson's bracket around a comparison."""

    left: Notation
    relation: str
    right: Notation


@dataclass(frozen=True, slots=True)
class Indexed:
    """An element: a name with indices."""

    base: Notation
    at: tuple[Notation, ...]


@dataclass(frozen=True, slots=True)
class BigSum:
    """The sum of ``body`` over letters."""

    letters: tuple[str, ...]
    body: Notation


@dataclass(frozen=True, slots=True)
class Equation:
    """``left = right``, or ``left += right``."""

    left: Notation
    right: Notation
    adds: bool = False


@dataclass(frozen=True, slots=True)
class Slope:
    """The derivative of one name by another; ``is_curly`` as :func:`cotangent_mark` says."""

    of: str
    by: str
    is_curly: bool = False


@dataclass(frozen=True, slots=True)
class Through:
    """Cotangents brought back through a step as a whole: transposed Jacobian matrices times
    cotangents.

    ``value`` is the name under which the sum is known. Where the user wrote the pullback, it is
    that which is applied.
    """

    parts: tuple[tuple[Slope, str], ...]
    value: str
    by_pullback: bool = False


Notation: TypeAlias = (
    Name
    | Num
    | Sum
    | Product
    | Quotient
    | Power
    | Root
    | Apply
    | Bracket
    | Indexed
    | BigSum
    | Equation
    | Slope
    | Through
)

_RELATIONS = {
    "gt": (">", ">"),
    "ge": (">=", r"\ge"),
    "lt": ("<", "<"),
    "le": ("<=", r"\le"),
    "eq": ("=", "="),
    "ne": ("!=", r"\ne"),
}


def cotangent_mark(names: Collection[str]) -> str:
    """What cotangents start with: shown as ``dx``, or as ``∂x`` where a program has a name like
    ``dx`` beside ``x``.
    """
    taken = set(names)
    return (
        COTANGENT * 2 if any(plain_name(COTANGENT + name) in taken for name in names) else COTANGENT
    )


def _binding(node: Notation) -> int:
    if isinstance(node, Through):
        return _ATOM if node.by_pullback else _MATRIX if len(node.parts) == 1 else _SUM
    if isinstance(node, Product):
        return _MATRIX if node.kind == "matrix" else _PRODUCT
    if isinstance(node, (Sum, BigSum, Equation)):
        return _SUM
    if isinstance(node, Quotient):
        return _PRODUCT
    if isinstance(node, Power):
        return _POWER
    if isinstance(node, Name) and not re.fullmatch(r"[∂\w.'#]+(\(.*\))?", node.text):
        return _SUM
    return _ATOM


# --- text


def to_text(node: Notation) -> str:
    """Plain text: ``*`` elementwise, juxtaposition for matrix products, ``^T`` for transposes."""
    match node:
        case Name(text):
            return plain_name(text)
        case Num(text):
            return text
        case Sum(items):
            return _signed(items, [_text(item, _PRODUCT) for _, item in items])
        case Product(items, kind):
            least = _POWER if kind == "matrix" else _MATRIX
            shown = [
                _text(item, least if n or kind == "matrix" else _PRODUCT)
                for n, item in enumerate(items)
            ]
            return _multiplied(items, shown, " * " if kind == "elementwise" else " ", " ")
        case Quotient(above, below):
            return f"{_text(above, _PRODUCT)} / {_text(below, _POWER)}"
        case Power(base, exponent):
            shown_exponent = exponent if re.fullmatch(r"\w+", exponent) else f"({exponent})"
            return f"{_text(base, _ATOM)}^{shown_exponent}"
        case Root(inner):
            return f"sqrt({to_text(inner)})"
        case Apply(function, arguments):
            return f"{function}({', '.join(map(to_text, arguments))})"
        case Bracket(left, relation, right):
            return f"[{to_text(left)} {_RELATIONS[relation][0]} {to_text(right)}]"
        case Indexed(base, at):
            return f"{to_text(base)}[{', '.join(map(to_text, at))}]"
        case BigSum(letters, body):
            return f"sum_{{{', '.join(letters)}}} {_text(body, _PRODUCT)}"
        case Slope(of, by, is_curly):
            mark = COTANGENT * 2 if is_curly else COTANGENT
            return f"{plain_name(mark + of)}/{plain_name(mark + by)}"
        case Through(parts, _, True):
            return f"pullback({', '.join(plain_name(ct) for _, ct in parts)})"
        case Through(parts):
            return " + ".join(f"({to_text(slope)})^T {plain_name(ct)}" for slope, ct in parts)
        case Equation(left, right, adds):
            return f"{to_text(left)} {'+=' if adds else '='} {to_text(right)}"


def _text(node: Notation, least: int) -> str:
    shown = to_text(node)
    return shown if _binding(node) >= least else f"({shown})"


def plain_name(text: str) -> str:
    """A name as text; the cotangent of ``z`` is ``dz``."""
    if not text.startswith(COTANGENT):
        return text
    inner = text.lstrip(COTANGENT)
    mark = "d" if len(text) == len(inner) + 1 else COTANGENT
    return f"{mark}{inner}" if re.fullmatch(r"[\w.']+", inner) else f"{mark}({inner})"


def _multiplied(items: Sequence[Notation], shown: Sequence[str], sign: str, silent: str) -> str:
    """Factors joined by ``sign``; after a number the sign is left out."""
    parts = [shown[0]]
    for before, text in zip(items, shown[1:], strict=False):
        parts += [silent if isinstance(before, Num) else sign, text]
    return "".join(parts)


def _signed(items: Sequence[tuple[int, Notation]], shown: Sequence[str]) -> str:
    parts = []
    for number, ((sign, _), text) in enumerate(zip(items, shown, strict=True)):
        if number == 0:
            parts.append(text if sign > 0 else f"-{text}")
        else:
            parts.append(f"{'+' if sign > 0 else '-'} {text}")
    return " ".join(parts)


# --- LaTeX


def to_latex(node: Notation) -> str:
    """LaTeX for mathematics mode."""
    match node:
        case Name(text):
            return _latex_name(text)
        case Num(text):
            return text if "e" not in text else _latex_scientific(text)
        case Sum(items):
            return _signed(items, [_latex(item, _PRODUCT) for _, item in items])
        case Product(items, kind):
            least = _POWER if kind == "matrix" else _MATRIX
            shown = [
                _latex(i, least if n or kind == "matrix" else _PRODUCT) for n, i in enumerate(items)
            ]
            sign = r" \odot " if kind == "elementwise" else r"\, "
            return _multiplied(items, shown, sign, r"\, ")
        case Quotient(above, below):
            return rf"\frac{{{to_latex(above)}}}{{{to_latex(below)}}}"
        case Power(base, exponent):
            raised = r"\top" if exponent == "T" else exponent
            return rf"{{{_latex(base, _ATOM)}}}^{{{raised}}}"
        case Root(inner):
            return rf"\sqrt{{{to_latex(inner)}}}"
        case Apply(function, arguments):
            inside = ", ".join(map(to_latex, arguments))
            word = function.replace("_", r"\_")
            return rf"\operatorname{{{word}}}\left({inside}\right)"
        case Bracket(left, relation, right):
            return rf"\left[{to_latex(left)} {_RELATIONS[relation][1]} {to_latex(right)}\right]"
        case Indexed(base, at):
            return rf"{{{to_latex(base)}}}_{{{','.join(map(to_latex, at))}}}"
        case BigSum(letters, body):
            return rf"\sum_{{{','.join(letters)}}} {_latex(body, _PRODUCT)}"
        case Slope(of, by):
            return rf"\frac{{\partial {_latex_name(of)}}}{{\partial {_latex_name(by)}}}"
        case Through(parts, _, True):
            inside = ", ".join(_latex_name(ct) for _, ct in parts)
            return rf"\operatorname{{pullback}}\left({inside}\right)"
        case Through(parts):
            shown = [
                rf"\left({to_latex(slope)}\right)^{{\top}}\, {_latex_name(ct)}"
                for slope, ct in parts
            ]
            return " + ".join(shown)
        case Equation(left, right, adds):
            sign = r"\mathrel{+}=" if adds else "="
            return f"{to_latex(left)} {sign} {to_latex(right)}"


def _latex(node: Notation, least: int) -> str:
    shown = to_latex(node)
    return shown if _binding(node) >= least else rf"\left({shown}\right)"


def _latex_scientific(text: str) -> str:
    digits, _, exponent = text.partition("e")
    head = "" if digits == "1" else rf"{digits}\cdot "
    return f"{head}10^{{{int(exponent)}}}"


def _latex_name(text: str) -> str:
    if text.startswith(COTANGENT * 2):
        return rf"\partial {_latex_name(text[2:])}"
    if text.startswith(COTANGENT):
        return rf"\mathrm{{d}}{_latex_name(text[1:])}"
    if not _PLAIN.fullmatch(text):
        return rf"\texttt{{{_LATEX_SPECIAL.sub(_latex_escaped, text)}}}"
    called = re.fullmatch(r"(\w+)\((.*)\)", text)
    if called:
        return rf"\operatorname{{{called[1]}}}({_latex_name(called[2])})"
    if _HAT.fullmatch(text):
        return rf"\hat{{{text[0]}}}"
    letter, subscript = name_parts(text)
    shown = (
        letter
        if len(letter) == 1
        else f"\\{letter}"
        if letter in _GREEK
        else rf"\mathrm{{{letter}}}"
    ).replace("_", r"\_")
    shown = shown.replace("#", r"\#")
    return shown if not subscript else f"{shown}_{{{subscript}}}"


def _latex_escaped(found: re.Match[str]) -> str:
    words = {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return words.get(found[0], f"\\{found[0]}")


def name_parts(text: str) -> tuple[str, str]:
    """A name and the digits at its end."""
    found = re.fullmatch(r"(.*?[A-Za-z])_?(\d+)('*)", text)
    return (found[1] + found[3], found[2]) if found else (text, "")


# --- MathML


def to_mathml(node: Notation, block: bool = False) -> str:
    """A ``math`` element."""
    display = ' display="block"' if block else ' displaystyle="true"'
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{display}>{_ml(node)}</math>'


def _ml(node: Notation) -> str:
    match node:
        case Name(text):
            return _ml_name(text)
        case Num(text):
            return f"<mn>{escape(text)}</mn>"
        case Sum(items):
            return _ml_row(_ml_sum(items))
        case Product(items, kind):
            least = _POWER if kind == "matrix" else _MATRIX
            shown = [
                _ml_at(i, least if n or kind == "matrix" else _PRODUCT) for n, i in enumerate(items)
            ]
            silent = '<mo>&#x2062;</mo><mspace width="0.17em"/>'
            sign = "<mo>⊙</mo>" if kind == "elementwise" else silent
            return _ml_row(_multiplied(items, shown, sign, silent))
        case Quotient(above, below):
            return f"<mfrac>{_ml_row(_ml(above))}{_ml_row(_ml(below))}</mfrac>"
        case Power(base, exponent):
            raised = "<mi>⊤</mi>" if exponent == "T" else f"<mn>{escape(exponent)}</mn>"
            return f"<msup>{_ml_row(_ml_at(base, _ATOM))}{raised}</msup>"
        case Root(inner):
            return f"<msqrt>{_ml(inner)}</msqrt>"
        case Apply(function, arguments):
            inside = "<mo>,</mo>".join(map(_ml, arguments))
            return _ml_row(f"<mi>{escape(function)}</mi><mo>(</mo>{inside}<mo>)</mo>")
        case Bracket(left, relation, right):
            sign = escape({"ge": "≥", "le": "≤", "ne": "≠"}.get(relation, _RELATIONS[relation][0]))
            return _ml_row(f"<mo>[</mo>{_ml(left)}<mo>{sign}</mo>{_ml(right)}<mo>]</mo>")
        case Indexed(base, at):
            return f"<msub>{_ml_row(_ml(base))}{_ml_row('<mo>,</mo>'.join(map(_ml, at)))}</msub>"
        case BigSum(letters, body):
            under = _ml_row("<mo>,</mo>".join(f"<mi>{escape(x)}</mi>" for x in letters))
            return _ml_row(f"<munder><mo>∑</mo>{under}</munder>{_ml_at(body, _PRODUCT)}")
        case Slope(of, by):
            parts = (_ml_row(f"<mo>∂</mo>{_ml_name(name)}") for name in (of, by))
            return f"<mfrac>{''.join(parts)}</mfrac>"
        case Through(parts, _, True):
            inside = "<mo>,</mo>".join(_ml_name(ct) for _, ct in parts)
            return _ml_row(f"<mi>pullback</mi><mo>(</mo>{inside}<mo>)</mo>")
        case Through(parts):
            return _ml_row("<mo>+</mo>".join(_ml_through(slope, ct) for slope, ct in parts))
        case Equation(left, right, adds):
            return _ml_row(f"{_ml(left)}<mo>{'+=' if adds else '='}</mo>{_ml(right)}")


def _ml_through(slope: Slope, cotangent: str) -> str:
    matrix = _ml_row(f"<mo>(</mo>{_ml(slope)}<mo>)</mo>")
    silent = '<mo>&#x2062;</mo><mspace width="0.17em"/>'
    return f"<msup>{matrix}<mi>⊤</mi></msup>{silent}{_ml_name(cotangent)}"


def _ml_row(inner: str) -> str:
    return f"<mrow>{inner}</mrow>"


def _ml_at(node: Notation, least: int) -> str:
    return _ml(node) if _binding(node) >= least else _ml_row(f"<mo>(</mo>{_ml(node)}<mo>)</mo>")


def _ml_sum(items: Sequence[tuple[int, Notation]]) -> str:
    parts = []
    for number, (sign, item) in enumerate(items):
        mark = "" if number == 0 and sign > 0 else f"<mo>{'+' if sign > 0 else '−'}</mo>"
        parts.append(mark + _ml_at(item, _PRODUCT))
    return "".join(parts)


def _ml_name(text: str) -> str:
    if text.startswith(COTANGENT):
        inner = text.lstrip(COTANGENT)
        mark = "d" if len(text) == len(inner) + 1 else COTANGENT
        return _ml_row(f'<mi mathvariant="normal">{mark}</mi>{_ml_name(inner)}')
    if not _PLAIN.fullmatch(text):
        return f"<mtext>{escape(text)}</mtext>"
    called = re.fullmatch(r"(\w+)\((.*)\)", text)
    if called:
        return _ml_row(f"<mi>{escape(called[1])}</mi><mo>(</mo>{_ml_name(called[2])}<mo>)</mo>")
    if _HAT.fullmatch(text):
        return f"<mover><mi>{text[0]}</mi><mo>^</mo></mover>"
    letter, subscript = name_parts(text)
    shown = f"<mi>{escape(letter)}</mi>"
    return shown if not subscript else f"<msub>{shown}<mn>{subscript}</mn></msub>"
