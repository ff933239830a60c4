"""The first half of ``gradc fmt``: tokens to statements and blocks, with comments and blank lines
kept.

A ``Piece`` is a token as text with the canonical space before it. A ``Line`` is one statement: runs
of pieces with the blocks between them. Comments belong to the line they end, or stand between
lines.

Invariants: every token and every comment of the input is in exactly one place of the result; the
tokens come from a program that parses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lark import Token

_BINARY = frozenset(
    [
        "PLUS",
        "MINUS",
        "STAR",
        "SLASH",
        "FLOOR_DIVIDE",
        "PERCENT",
        "AT",
        "COMPARISON",
        "AND",
        "OR",
        "EQUAL",
        "TILDE",
        "ARROW",
        "IN",
    ]
)
_OPERAND_END = frozenset(["NAME", "NUMBER", "STRING", "RPAR", "RSQB", "TRUE", "FALSE", "ELLIPSIS"])
# What a bracket after it calls or indexes.
CALLABLE = frozenset(["NAME", "RPAR", "RSQB", "PULLBACK", "STRING", "NUMBER", "TRUE", "FALSE"])
_NO_SPACE_BEFORE = frozenset(["RPAR", "RSQB", "COMMA", "COLON", "DOT", "CIRCUMFLEX"])
_NO_SPACE_AFTER = frozenset(["LPAR", "LSQB", "DOT", "CIRCUMFLEX"])


@dataclass(frozen=True, slots=True)
class Piece:
    """One token. ``is_own_line`` is true of a comment with nothing before it on its line."""

    kind: str
    text: str
    has_space: bool
    line: int
    is_own_line: bool = False


@dataclass
class Block:
    """The lines between braces; ``comment`` stood behind the opening brace."""

    items: list[Line | Remark] = field(default_factory=list)
    comment: str = ""


Run: TypeAlias = list[Piece]


@dataclass
class Line:
    """One statement or declaration: runs of pieces and the blocks between them, alternating."""

    parts: list[Run | Block] = field(default_factory=list)
    comment: str = ""
    has_blank_before: bool = False
    is_finished: bool = False

    @property
    def run(self) -> Run:
        """The run to append to."""
        if not self.parts or isinstance(self.parts[-1], Block):
            self.parts.append([])
        last = self.parts[-1]
        assert isinstance(last, list)
        return last


@dataclass
class Remark:
    """A comment on a line of its own."""

    text: str
    has_blank_before: bool = False


def pieces(tokens: Sequence[Token]) -> list[Piece]:
    """The tokens with their canonical spacing, newlines between brackets dropped, others kept."""
    result: list[Piece] = []
    brackets: list[str] = []
    starts_line = True
    words = [token for token in tokens if token.type not in ("NEWLINE", "COMMENT")]
    seen = 0
    for token in tokens:
        kind, line = token.type, token.line or 1
        if kind == "NEWLINE":
            starts_line = starts_line or token.value == "\n"
            if not brackets or brackets[-1] == "LBRACE":
                result.append(Piece(kind, token.value, False, line))
            continue
        if kind == "COMMENT":
            text = token.value.rstrip()
            result.append(Piece(kind, text, True, line, starts_line))
            continue
        has_space = _has_space(words, seen, brackets)
        if has_space and brackets and brackets[-1] != "LBRACE":
            has_space = not _is_tight_product(words, seen)
        result.append(Piece(kind, token.value, has_space, line))
        seen += 1
        if kind in ("LPAR", "LSQB", "LBRACE"):
            brackets.append(kind)
        elif kind in ("RPAR", "RSQB", "RBRACE"):
            brackets.pop()
        starts_line = False
    return result


def _has_space(words: Sequence[Token], position: int, brackets: Sequence[str]) -> bool:
    """Whether the token at ``position`` is set off from the one before it."""
    if position == 0:
        return False
    left, kind = words[position - 1].type, words[position].type
    if left in _NO_SPACE_AFTER or kind in _NO_SPACE_BEFORE:
        return left == "COMMA" and kind == "COLON"
    if left == "COLON" and brackets and brackets[-1] == "LSQB":
        return False
    if left in ("MINUS", "PLUS"):
        # A sign is a prefix unless an operand stands before it.
        return position >= 2 and words[position - 2].type in _OPERAND_END
    if kind in ("LPAR", "LSQB"):
        return left not in CALLABLE
    return True


def _is_tight_product(words: Sequence[Token], position: int) -> bool:
    """Whether a space here would stand inside ``4*D``: a number times a name, all of an item."""
    star = position if words[position].type == "STAR" else position - 1
    if star < 2 or star + 2 >= len(words):
        return False
    before, number, operator, name, after = words[star - 2 : star + 3]
    is_product = operator.type == "STAR" and number.type == "NUMBER" and name.type == "NAME"
    is_item = before.type in ("LPAR", "LSQB", "COMMA") and after.type in ("RPAR", "RSQB", "COMMA")
    return is_product and is_item and number.isdecimal()


@dataclass
class _Gatherer:
    """Sorts pieces into lines and blocks. ``lines`` holds the line being filled per open block."""

    blocks: list[Block] = field(default_factory=lambda: [Block()])
    lines: list[Line | None] = field(default_factory=lambda: [None])
    newlines: int = 2
    brackets: int = 0
    # Comments between a line and an `else` or `{` on the next: moved into the block that follows.
    displaced: list[Line | Remark] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        line = self.lines[-1]
        if piece.kind == "NEWLINE":
            self.newlines += piece.text == "\n"
            if line is not None:
                line.is_finished = True
            return
        if piece.kind == "COMMENT":
            self._comment(piece, line)
        elif piece.kind == "RBRACE":
            self.blocks.pop()
            self.lines.pop()
        else:
            self._token(piece, line)
        self.newlines = 0

    def _comment(self, piece: Piece, line: Line | None) -> None:
        block = self.blocks[-1]
        if self.brackets and line is not None:
            line.run.append(piece)
        elif piece.is_own_line or (line is None and len(self.blocks) == 1):
            block.items.append(Remark(piece.text, self.newlines > 1))
        elif line is None:
            block.comment = piece.text
        else:
            line.comment = piece.text

    def _token(self, piece: Piece, line: Line | None) -> None:
        if line is not None and line.is_finished and piece.kind in ("ELSE", "LBRACE"):
            self._resume(line)
        elif line is None or line.is_finished:
            line = Line(has_blank_before=self.newlines > 1)
            self.lines[-1] = line
            self.blocks[-1].items.append(line)
        if piece.kind == "LBRACE":
            inner = Block(self.displaced)
            self.displaced = []
            line.parts.append(inner)
            self.blocks.append(inner)
            self.lines.append(None)
            return
        self.brackets += piece.kind in ("LPAR", "LSQB")
        self.brackets -= piece.kind in ("RPAR", "RSQB")
        line.run.append(piece)

    def _resume(self, line: Line) -> None:
        """Go on with ``line`` after a newline that ended nothing."""
        items = self.blocks[-1].items
        position = next(i for i, item in enumerate(items) if item is line)
        if line.comment:
            self.displaced.append(Remark(line.comment))
        self.displaced += items[position + 1 :]
        del items[position + 1 :]
        line.comment = ""
        line.is_finished = False


def gather(found: Sequence[Piece]) -> Block:
    """The whole program as one block without braces."""
    gatherer = _Gatherer()
    for piece in found:
        gatherer.add(piece)
    return gatherer.blocks[0]
