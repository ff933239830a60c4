"""The parts that the text forms of functions, kernels and plans share: tokens, names, types,
dimensions, attributes, spans.

Writing and reading stand side by side. Floats are written with ``repr`` and so read back exactly;
strings as JSON. ``#`` starts a comment. Reading is linear in the text; nesting is limited by
``MAX_DEPTH``, so hostile text gets a message and not a stack overflow.

Raises ``TextError`` with line and column for whatever does not parse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TypeVar

from gradc.ir.tensor.core import Attr, Attrs, DType, Span, TensorType
from gradc.ir.tensor.dims import Dim, DimExpr, floordiv, symbol

MAX_DEPTH = 150
_T = TypeVar("_T")

_TOKEN = re.compile(
    r"""[ \t\r]+ | \#[^\n]* | (?P<newline>\n)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<value>%[A-Za-z0-9_.$]+)
    | (?P<number>-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf\b|nan\b))
    | (?P<word>[A-Za-z_][A-Za-z0-9_.$]*)
    | (?P<sign>->|//|[(){}\[\],:=@+*<&-])""",
    re.VERBOSE,
)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.$]")


class TextError(Exception):
    """Text that is not IR; the message starts with line and column."""

    def __init__(self, line: int, column: int, message: str) -> None:
        self.line = line
        self.column = column
        super().__init__(f"{line}:{column}: {message}")


class Names:
    """Unique printable names for values or variables: the hint where it is free, else the hint and
    a number.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def name(self, item: object, hint: str) -> str:
        """The name of ``item``, always the same; ``hint`` matters the first time only."""
        found = self._names.get(id(item))
        if found is None:
            found = self._unique(_UNSAFE.sub("_", hint))
            self._names[id(item)] = found
            self._taken.add(found)
        return found

    def forget(self, item: object) -> None:
        """Has ``item`` get another name when it is named next."""
        self._names.pop(id(item), None)

    def _unique(self, hint: str) -> str:
        # Purely numeric names are kept for values without a hint.
        if hint.isdigit():
            hint = f"_{hint}"
        if hint and hint not in self._taken:
            return hint
        number = self._next.get(hint, 0)
        while (candidate := f"{hint}_{number}" if hint else str(number)) in self._taken:
            number += 1
        self._next[hint] = number + 1
        return candidate


# --- writing --------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """``text`` as a string literal."""
    return json.dumps(text)


def number_text(value: float | bool) -> str:
    """A literal that reads back as the same number of the same type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def attr_text(value: Attr) -> str:
    """An attribute value."""
    if isinstance(value, (bool, int, float)):
        return number_text(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, DType):
        return str(value)
    if isinstance(value, DimExpr):
        return f"dim({value})"
    items = [attr_text(item) for item in value]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def attrs_text(attributes: Attrs) -> str:
    """``{name = value, ...}`` in order of names, or nothing."""
    if not attributes:
        return ""
    rows = [f"{name} = {attr_text(attributes[name])}" for name in sorted(attributes)]
    return f" {{{', '.join(rows)}}}"


def span_text(span: Span) -> str:
    """A span and, after ``<``, where it was inlined."""
    links = []
    at: Span | None = span
    while at is not None:
        place = f"{at.line}:{at.column}-{at.end_line}:{at.end_column}"
        links.append(f"{quote(at.file)}:{place}")
        at = at.caller
    return " < ".join(links)


def place_text(span: Span | None, scope: str = "", replica: int = 0) -> str:
    """Everything about where an op comes from, each part with a leading space."""
    text = f" @ {span_text(span)}" if span is not None else ""
    if scope:
        text += f" in {quote(scope)}"
    return f"{text} replica {replica}" if replica else text


# --- reading --------------------------------------------------------------------------------------


class Cursor:
    """The tokens of a text and a position among them."""

    def __init__(self, text: str) -> None:
        self._kinds: list[str] = []
        self._texts: list[str] = []
        self._places: list[tuple[int, int]] = []
        self._at = 0
        self._depth = 0
        self._scan(text)

    def _scan(self, text: str) -> None:
        position, line, start = 0, 1, 0
        match = _TOKEN.match
        while position < len(text):
            found = match(text, position)
            if found is None:
                raise TextError(line, position - start + 1, f"unexpected {text[position]!r}")
            kind = found.lastgroup
            if kind == "newline":
                line, start = line + 1, found.end()
            elif kind is not None:
                self._kinds.append(kind)
                self._texts.append(found.group())
                self._places.append((line, position - start + 1))
            position = found.end()
        self._kinds.append("end")
        self._texts.append("")
        self._places.append((line, position - start + 1))

    @property
    def text(self) -> str:
        """The next token; empty at the end."""
        return self._texts[self._at]

    @property
    def kind(self) -> str:
        """Kind of the next token: string, value, number, word, sign, end."""
        return self._kinds[self._at]

    def error(self, message: str) -> TextError:
        """An error at the next token."""
        return TextError(*self._places[self._at], message)

    def next(self) -> str:
        """Takes the next token."""
        taken = self._texts[self._at]
        if self._kinds[self._at] != "end":
            self._at += 1
        return taken

    def accept(self, text: str) -> bool:
        """Takes the next token if it is ``text`` (no string literal)."""
        if self._texts[self._at] != text:
            return False
        self._at += 1
        return True

    def expect(self, text: str) -> None:
        """Takes the next token, which must be ``text``."""
        if not self.accept(text):
            raise self.error(f"expected `{text}`, found `{self.text or 'end of text'}`")

    def take(self, kind: str) -> str:
        """Takes the next token, which must be of ``kind``."""
        if self.kind != kind:
            raise self.error(f"expected a {kind}, found `{self.text or 'end of text'}`")
        return self.next()

    def enter(self) -> None:
        """Counts one level of nesting. Raises TextError beyond MAX_DEPTH."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} levels deep")

    def leave(self) -> None:
        """Ends one level of nesting."""
        self._depth -= 1

    def separated(self, item: Callable[[], _T], close: str) -> list[_T]:
        """Items between commas up to ``close``, which is taken; a comma before it is allowed."""
        found: list[_T] = []
        while not self.accept(close):
            found.append(item())
            if not self.accept(","):
                self.expect(close)
                break
        return found

    # ---- literals

    def string(self) -> str:
        """A string literal."""
        token = self.take("string")
        try:
            found = json.loads(token)
        except ValueError as error:
            raise self.error(f"bad string {token}") from error
        assert isinstance(found, str)
        return found

    def integer(self) -> int:
        """An integer."""
        value = self.number()
        if isinstance(value, float):
            raise self.error(f"expected an integer, found {value!r}")
        return value

    def number(self) -> int | float:
        """A number; one without point, exponent, ``inf`` and ``nan`` is an integer."""
        token = self.take("number")
        if token.lstrip("-").isdigit():
            if len(token) > 40:
                raise self.error("a number of more than 40 digits")
            return int(token)
        value = float(token)
        if math.isinf(value) and not token.endswith("inf"):
            raise self.error(f"{token} is too large")
        return value

    def dtype(self) -> DType:
        """An element type."""
        word = self.take("word")
        if word not in _DTYPES:
            raise self.error(f"`{word}` is not an element type")
        return _DTYPES[word]

    def type(self) -> TensorType:
        """A tensor type."""
        dtype = self.dtype()
        self.expect("[")
        return TensorType(tuple(self.separated(self.dim, "]")), dtype)

    # ---- dimensions

    def dim(self) -> Dim:
        """A dimension: sums of products of integers, symbols and quotients."""
        self.enter()
        total: Dim = 0
        negative = self.accept("-")
        while True:
            product = self._dim_product()
            total = total - product if negative else total + product
            if self.accept("+") or (self.kind == "number" and self.text.startswith("-")):
                negative = False
            elif self.accept("-"):
                negative = True
            else:
                self.leave()
                return total

    def _dim_product(self) -> Dim:
        product = self._dim_factor()
        while True:
            if self.accept("*"):
                product = product * self._dim_factor()
            elif self.accept("//"):
                divisor = self._dim_factor()
                if divisor == 0:
                    raise self.error("a dimension divided by zero")
                product = floordiv(product, divisor)
            else:
                return product

    def _dim_factor(self) -> Dim:
        if self.accept("("):
            found = self.dim()
            self.expect(")")
            return found
        return symbol(self.next()) if self.kind == "word" else self.integer()

    # ---- attributes and places

    def attr(self) -> Attr:
        """An attribute value."""
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            return self.number()
        if self.accept("("):
            self.enter()
            items = tuple(self.separated(self.attr, ")"))
            self.leave()
            return items
        word = self.take("word")
        if word in ("true", "false"):
            return word == "true"
        if word in _DTYPES:
            return _DTYPES[word]
        if word == "dim":
            self.expect("(")
            found = self.dim()
            self.expect(")")
            return found
        raise self.error(f"`{word}` is not an attribute value")

    def attrs(self) -> dict[str, Attr]:
        """``{name = value, ...}``, if it is there."""
        found: dict[str, Attr] = {}
        if not self.accept("{"):
            return found

        def row() -> None:
            name = self.take("word")
            if name in found:
                raise self.error(f"attribute `{name}` is given twice")
            self.expect("=")
            found[name] = self.attr()

        self.separated(row, "}")
        return found

    def span(self) -> Span:
        """A span with the places where it was inlined."""
        links = [self._span_link()]
        while self.accept("<"):
            links.append(self._span_link())
        caller: Span | None = None
        for file, line, column, end_line, end_column in reversed(links):
            caller = Span(file, line, column, end_line, end_column, caller)
        assert caller is not None
        return caller

    def _span_link(self) -> tuple[str, int, int, int, int]:
        file = self.string()
        self.expect(":")
        line = self.integer()
        self.expect(":")
        column = self.integer()
        # The tokens of "3-4" are 3 and -4.
        end_line = -self.integer()
        self.expect(":")
        return file, line, column, end_line, self.integer()

    def place(self) -> tuple[Span | None, str, int]:
        """Span, scope and replica number, each if it is there."""
        span = self.span() if self.accept("@") else None
        scope = self.string() if self.accept("in") else ""
        return span, scope, self.integer() if self.accept("replica") else 0


_DTYPES = {str(dtype): dtype for dtype in DType}
