"""Text to tokens: the lexical small print, bracket matching, and which newlines end a statement.

The terminals live in ``grammar.lark``; Lark splits the text with them. Here every token is checked
(characters, numbers, strings, operators of other languages), and the brackets are matched, so that
an unclosed one is reported where it was opened instead of where the parser notices.

Invariants of ``Tokens.parsed``
- Brackets balance: missing ones were reported and supplied, surplus ones reported and dropped.
- NEWLINE stands only between statements or declarations; comments are gone.
- At most ``MAX_TOKENS`` tokens, nested at most ``MAX_NESTING`` deep.

What is repaired here is always reported, so a repaired program is never compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lark import Lark, Token

from gradc.frontend.syntax.diagnostics import Diagnostic, DiagnosticError, Label, Report, error
from gradc.frontend.syntax.limits import (
    MAX_BLOCKS,
    MAX_INTEGER,
    MAX_NAME_LENGTH,
    MAX_NESTING,
    MAX_NUMBER_LENGTH,
    MAX_TOKENS,
)
from gradc.frontend.syntax.source import Source
from gradc.ir.tensor.core import Span

_INTEGER = re.compile(r"[0-9]+(?:_[0-9]+)*\Z")
_REAL = re.compile(r"(?:[0-9]+(?:_[0-9]+)*)?\.?[0-9]*(?:[eE][+-]?[0-9]+)?\Z")
# Marks that change how text around them is shown: a reviewer would not see what the compiler sees.
_INVISIBLE = frozenset(
    chr(code)
    for first, last in ((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F))
    for code in range(first, last + 1)
) | {"\ufeff", "\u061c", "\u00ad"}
# Needed to spell some languages and emoji in comments; harmless there.
_JOINERS = frozenset("\u200c\u200d")
# Operators of other languages: what is meant here, and the token that lets parsing go on.
_FOREIGN = {
    "**": ("^", "CIRCUMFLEX"),
    "&&": ("and", "AND"),
    "&": ("and", "AND"),
    "||": ("or", "OR"),
    "|": ("or", "OR"),
    "!": ("not", "NOT"),
    "<>": ("!=", "COMPARISON"),
    "===": ("==", "COMPARISON"),
    ":=": ("=", "EQUAL"),
}
# Characters that look like operators, what they look like, and the token that lets parsing go on.
_LOOKALIKES = {
    "\u00d7": ("*", "STAR"), "\u00b7": ("*", "STAR"), "\u2212": ("-", "MINUS"),
    "\u2013": ("-", "MINUS"), "\u00f7": ("/", "SLASH"), "\u2264": ("<=", "COMPARISON"),
    "\u2265": (">=", "COMPARISON"), "\u2260": ("!=", "COMPARISON"), "\u2192": ("->", "ARROW"),
    "\u2026": ("...", "ELLIPSIS"), "\u201c": ('"', ""), "\u201d": ('"', ""), "\u2018": ('"', ""),
    "\u2019": ('"', ""), "\u00a0": ("a space", ""),
}  # fmt: skip
_CLOSER = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_OPENER = {closer: opener for opener, closer in _CLOSER.items()}
_TEXT = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}"}
_TOP_LEVEL = frozenset(["LAYER", "MODEL", "FN", "OPTIMIZER", "SCHEDULE", "INITIALIZER", "IMPORT"])
# Words that start a line only where no bracket is open: seen inside ( ) or [ ], one is missing.
_LINE_STARTS = _TOP_LEVEL.union(
    ["PARAM", "USE", "OUTPUT", "RETURN", "YIELD", "FOR", "IF", "CHECKPOINT", "PULLBACK", "DIM"]
)


@dataclass
class Tokens:
    """``raw`` is every token with comments and newlines; ``parsed`` is what the parser sees.

    ``depths[i]`` is the number of braces open before ``parsed[i]``. ``damaged`` are stretches of
    the text, as offsets, in which a bracket was supplied: more complaints there would only confuse.
    """

    raw: list[Token]
    parsed: list[Token] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)


def span_of(token: Token, source: Source) -> Span:
    """Where ``token`` stands in ``source``; a newline's span is the place before it."""
    line, column = token.line or 1, token.column or 1
    if token.type == "NEWLINE" and token.value == "\n":
        return Span(source.name, line, column, line, column)
    return Span(source.name, line, column, token.end_line or line, token.end_column or column)


def lex(lark: Lark, source: Source, report: Report) -> Tokens:
    """All tokens of ``source``, checked and arranged.

    Raises:
        DiagnosticError: GC0006 or GC0007 beyond a limit; everything else goes to ``report``.
    """
    raw: list[Token] = []
    for token in lark.lex(source.text):
        raw.append(token)
        if len(raw) > MAX_TOKENS:
            message = f"the program has more than {MAX_TOKENS} tokens"
            help = "split it over several files and `import` them"
            raise _stop(report, error("GC0006", message, span_of(token, source), help=help))
    tokens = Tokens(raw)
    _Arranger(tokens, source, report).arrange(_Checker(source, report).check(t) for t in raw)
    return tokens


def _stop(report: Report, diagnostic: Diagnostic) -> DiagnosticError:
    report.add(diagnostic)
    return DiagnosticError(report.diagnostics, report.sources)


@dataclass
class _Checker:
    """Reports what is wrong within a token; returns the one to go on with, or None to drop it."""

    source: Source
    report: Report

    def check(self, token: Token) -> Token | None:
        """``token``, repaired if need be. Raises DiagnosticError once too much was wrong."""
        if self.report.is_full:
            raise DiagnosticError(self.report.diagnostics, self.report.sources)
        kind = token.type
        if kind == "NAME":
            self._check_name(token)
        elif kind == "NUMBER":
            self._check_number(token)
        elif kind in ("COMMENT", "STRING"):
            self._check_text(token)
        elif kind == "BAD_STRING":
            return self._repair_string(token)
        elif kind == "BAD_OPERATOR":
            return self._repair_operator(token)
        elif kind == "BAD_CHARACTER":
            return self._repair_character(token)
        return token

    def _error(
        self, token: Token, code: str, message: str, help: str = "", label: str = ""
    ) -> None:
        place = span_of(token, self.source)
        self.report.add(error(code, message, place, help=help, label=label))

    def _check_name(self, token: Token) -> None:
        if not token.isascii():
            message = f"`{token}` is not a name: names are ASCII letters, digits and `_`"
            self._error(token, "GC0004", message, "spell Greek letters out, as in `beta`")
        elif len(token) > MAX_NAME_LENGTH:
            self._error(token, "GC0014", f"a name of more than {MAX_NAME_LENGTH} characters")

    def _check_number(self, token: Token) -> None:
        text = token.value
        is_integer = _INTEGER.match(text) is not None
        if not is_integer and not _REAL.match(text):
            help = "write 12, 0.5, 1e-5 or 1_000"
            if text[:2].lower() in ("0x", "0b", "0o"):
                help = "numbers are decimal"
            self._error(token, "GC0009", f"`{_shorten(text)}` is not a number", help)
        elif len(text) > MAX_NUMBER_LENGTH:
            self._error(token, "GC0008", f"a number of more than {MAX_NUMBER_LENGTH} characters")
        elif is_integer and int(text) > MAX_INTEGER:
            message = f"`{_shorten(text)}` is larger than the largest integer, {MAX_INTEGER}"
            self._error(token, "GC0008", message, "write it as a real number, as in 1e30")
        elif not is_integer:
            self._check_real(token)

    def _check_real(self, token: Token) -> None:
        value = float(token.value)
        digits = re.split("[eE]", token.value)[0]
        if value == float("inf"):
            message = f"`{_shorten(token.value)}` is larger than any 64-bit real number"
            self._error(token, "GC0008", message, "write `inf` if infinity is meant")
        elif value == 0.0 and digits.strip("0._"):
            message = f"`{_shorten(token.value)}` is so small that it would become zero"
            self._error(token, "GC0008", message, "write 0.0 if zero is meant")

    def _check_text(self, token: Token) -> None:
        """Nothing in a comment or string may hide from the reader."""
        if token.isascii() and token.isprintable():
            return
        for offset, character in enumerate(token.value):
            if not character.isprintable() and character != "\t" and character not in _JOINERS:
                line, column = token.line or 1, (token.column or 1) + offset
                place = Span(self.source.name, line, column, line, column + 1)
                self.report.add(_invisible(character, place))
                return

    def _repair_character(self, token: Token) -> Token | None:
        character = token.value
        if character in _INVISIBLE or (not character.isprintable() and character != "\u00a0"):
            self.report.add(_invisible(character, span_of(token, self.source)))
            return None
        meant, kind = _LOOKALIKES.get(character, ("", ""))
        help = f"did you mean `{meant}`?" if kind else f"write {meant}" if meant else ""
        message = f"`{character}` has no meaning in a program"
        if character == "\u00a0":
            message = "a no-break space; only spaces and tabs separate words"
        self._error(token, "GC0004", message, help)
        return token.update(kind, meant) if kind else None

    def _repair_string(self, token: Token) -> Token:
        text = token.value
        quote = text[0]
        if quote == "'":
            inner = text.strip("'")
            self._error(token, "GC0106", "strings stand in double quotes", f'write "{inner}"')
        else:
            message = "this string is not closed on its line"
            self._error(token, "GC0106", message, 'add the closing `"`')
        return token.update("STRING", f'"{text.strip(quote)}"')

    def _repair_operator(self, token: Token) -> Token:
        text = token.value
        if text in _FOREIGN:
            meant, kind = _FOREIGN[text]
            message = f"`{text}` is not an operator of this language"
            self._error(token, "GC0103", message, f"write `{meant}`")
            return token.update(kind, meant)
        operator = "^" if text == "**=" else text[:-1]
        message = f"`{text}` would change a value in place; values are immutable"
        self._error(token, "GC0122", message, f"write `x = x {operator} ...`")
        return token.update("EQUAL", "=")


def _shorten(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:12]}...{text[-6:]}"


def _invisible(character: str, place: Span) -> Diagnostic:
    message = f"an invisible character, U+{ord(character):04X}, which could hide what the text says"
    return error("GC0005", message, place, help="delete it")


@dataclass
class _Arranger:
    """Matches brackets and drops newlines; fills the parsed side of ``tokens``."""

    tokens: Tokens
    source: Source
    report: Report
    open: list[Token] = field(default_factory=list)
    newline: Token | None = None
    braces: int = 0
    # The column of the first token of each line, by line: tells nested from following declarations.
    indents: dict[int, int] = field(default_factory=dict)
    # Braces whose closing one starts a line and is indented otherwise than the line of the opening.
    suspects: list[tuple[Token, Token]] = field(default_factory=list)

    def arrange(self, checked: Iterable[Token | None]) -> None:
        for token in checked:
            if token is None or token.type == "COMMENT":
                continue
            if token.type == "NEWLINE":
                self._see_newline(token)
                continue
            self.indents.setdefault(token.line or 1, token.column or 1)
            self._close_unclosed_before(token)
            if token.type in _CLOSER:
                self._push(token)
            elif token.type in _OPENER:
                self._pop(token)
            else:
                self._emit(token)
        self._close_all()

    def _see_newline(self, token: Token) -> None:
        if self.open and self.open[-1].type != "LBRACE" and token.value == "\n":
            return
        if self.open and self.open[-1].type != "LBRACE":
            self._supply_closers(0, token, inside_braces=True)
        if self.newline is None:
            self.newline = token

    def _emit(self, token: Token) -> None:
        """Append ``token``, after a NEWLINE if one is pending and separates anything."""
        done = self.tokens.parsed
        if self.newline is not None:
            ends = done and done[-1].type != "LBRACE"
            if ends and token.type not in ("RBRACE", "LBRACE", "ELSE"):
                self._append(self.newline)
            self.newline = None
        self._append(token)

    def _append(self, token: Token) -> None:
        self.tokens.parsed.append(token)
        self.tokens.depths.append(self.braces)

    def _push(self, token: Token) -> None:
        self._emit(token)
        self.open.append(token)
        self.braces += token.type == "LBRACE"
        if len(self.open) > MAX_NESTING:
            message = f"brackets nest more than {MAX_NESTING} deep"
            raise _stop(self.report, error("GC0007", message, span_of(token, self.source)))
        if self.braces > MAX_BLOCKS:
            message = f"blocks nest more than {MAX_BLOCKS} deep"
            raise _stop(self.report, error("GC0007", message, span_of(token, self.source)))

    def _pop(self, token: Token) -> None:
        wanted = _OPENER[token.type]
        position = self._innermost(wanted, through_braces=token.type == "RBRACE")
        if position is None:
            message = f"`{token}` closes nothing"
            help = "remove it, or add the bracket it should close"
            place = span_of(token, self.source)
            labels = []
            if self.open:
                opener = self.open[-1]
                labels = [Label(span_of(opener, self.source), f"`{opener}` is still open")]
            self.report.add(error("GC0105", message, place, labels=labels, help=help))
            self.tokens.damaged.append((token.start_pos or 0, token.end_pos or 0))
            return
        self._supply_closers(position + 1, token)
        opener = self.open[-1]
        starts_line = self.indents[token.line or 1] == token.column
        is_elsewhere = self.indents[opener.line or 1] != token.column
        if token.type == "RBRACE" and starts_line and is_elsewhere:
            self.suspects.append((opener, token))
        self._finish(token)

    def _innermost(self, kind: str, through_braces: bool) -> int | None:
        """The position of the innermost open bracket of ``kind`` that a closer may still close."""
        for position in range(len(self.open) - 1, -1, -1):
            if self.open[position].type == kind:
                return position
            if self.open[position].type == "LBRACE" and not through_braces:
                return None
        return None

    def _finish(self, closer: Token) -> None:
        """Emit ``closer`` and forget the bracket it closes."""
        self._emit(closer)
        opener = self.open.pop()
        self.braces -= opener.type == "LBRACE"

    def _supply_closers(self, keep: int, at: Token, inside_braces: bool = False) -> None:
        """Report and close the brackets open beyond ``keep``, but no brace if ``inside_braces``."""
        while len(self.open) > keep:
            opener = self.open[-1]
            if inside_braces and opener.type == "LBRACE":
                return
            self.report.add(self._unclosed(opener, at))
            # An open brace spoils nothing but the place where its block ends.
            first = at if opener.type == "LBRACE" else opener
            self.tokens.damaged.append((first.start_pos or 0, at.end_pos or 0))
            closer = _TEXT[_CLOSER[opener.type]]
            self._finish(Token.new_borrow_pos(_CLOSER[opener.type], closer, _before(at)))

    def _unclosed(self, opener: Token, at: Token) -> Diagnostic:
        """GC0104 for ``opener``, or for a brace inside it whose end is indented like another's."""
        here = span_of(at, self.source)
        closer = _TEXT[_CLOSER[opener.type]]
        label = Label(here, f"`{closer}` is missing before this")
        start = opener.start_pos or 0
        inner = next((pair for pair in self.suspects if (pair[0].start_pos or 0) > start), None)
        if opener.type == "LBRACE" and inner is not None:
            self.suspects.remove(inner)
            opener, end = inner
            label = Label(span_of(end, self.source), "this closes it, but is indented like another")
        message = f"`{opener}` is never closed"
        return error("GC0104", message, span_of(opener, self.source), labels=[label])

    def _close_unclosed_before(self, token: Token) -> None:
        """Close what must have been meant to end before ``token``: it cannot stand inside."""
        if not self.open:
            return
        starts_line = self.indents[token.line or 1] == token.column
        kind = token.type
        if kind in ("LBRACE", "ARROW", "TILDE") or (starts_line and kind in _LINE_STARTS):
            self._supply_closers(0, token, inside_braces=True)
        if starts_line and kind in _TOP_LEVEL and self.open:
            indent = self.indents[self.open[0].line or 1]
            if (token.column or 1) <= indent:
                self.newline = None
                self._supply_closers(0, token)
                self.newline = _before(token).update("NEWLINE", "\n")

    def _close_all(self) -> None:
        end = self.source.end
        size = len(self.source.text)
        last = Token("END", "", size, end.line, end.column, end.end_line, end.end_column, size)
        self._supply_closers(0, last)


def _before(token: Token) -> Token:
    """An empty token at the start of ``token``."""
    start, line, column = token.start_pos or 0, token.line or 1, token.column or 1
    return Token("EMPTY", "", start, line, column, line, column, start)
