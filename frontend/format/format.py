"""``gradc fmt``: the canonical text of a program, with every comment and the author's blank lines
kept.

    4 spaces per block; at most 100 columns where brackets allow it; one statement per line
    spaces around binary operators and `=`, none around `^` and within `4*D`
    a block stays on one line if it was written so, holds one statement, and fits
    items that do not fit on one line stand on a line each, with a trailing comma
    one blank line at most, and one around every declaration that has a block
    comments at the ends of lines are aligned within a paragraph

Invariants: ``parse(format(p)) == parse(p)``; ``format(format(p)) == format(p)``; comments are kept
as they are and in order.
Non-goals: breaking lines where the language does not allow it (outside brackets)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.frontend.format.tokens import CALLABLE, Block, Line, Piece, Remark, Run, gather, pieces
from gradc.frontend.syntax.diagnostics import Report
from gradc.frontend.syntax.lexer import lex
from gradc.frontend.syntax.parse import grammar, parse
from gradc.frontend.syntax.source import Source, from_text

WIDTH = 100
INDENT = 4
# Beyond this column a comment is not moved to align it with its neighbours.
_MAX_COMMENT_COLUMN = 60
# Where an expression that has no comma may be broken: the loosest operators first.
_BREAKS = (("OR",), ("AND",), ("COMPARISON",), ("PLUS", "MINUS"), ("STAR", "SLASH", "AT"))
_OPERAND_END = frozenset(["NAME", "NUMBER", "STRING", "RPAR", "RSQB", "TRUE", "FALSE"])


def format_text(text: str, name: str = "<string>") -> str:
    """The canonical form of the program ``text``.

    Raises:
        DiagnosticError: if it is not a well-formed program.
    """
    return format_source(from_text(text, name))


def format_source(source: Source) -> str:
    """The canonical form of the program in ``source``; raises as ``format_text``."""
    report = Report()
    parse(source, report)
    tokens = lex(grammar(), source, report)
    rows = _block_rows(gather(pieces(tokens.raw)), 0, is_top=True)
    lines = _align(rows)
    return "".join(line + "\n" for line in lines)


@dataclass
class _Row:
    """One line of output; ``comment`` ends it."""

    text: str
    comment: str = ""


def _align(rows: Sequence[_Row]) -> list[str]:
    """The rows as text, the comments of one paragraph in one column."""
    lines: list[str] = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and _indent_of(rows[stop]) == _indent_of(rows[start]):
            stop += 1
        paragraph = rows[start:stop]
        lengths = [len(row.text) for row in paragraph if row.comment]
        column = max((n for n in lengths if n <= _MAX_COMMENT_COLUMN), default=0)
        for row in paragraph:
            lines.append(f"{row.text:<{column}}  {row.comment}" if row.comment else row.text)
        start = stop
    return lines


def _indent_of(row: _Row) -> int:
    """The columns before the text; -1 for a blank row, which belongs to no paragraph."""
    return len(row.text) - len(row.text.lstrip()) if row.text else -1


# --- blocks and lines


def _block_rows(block: Block, indent: int, is_top: bool = False) -> list[_Row]:
    """The rows of the items of ``block``, blank lines between them."""
    rows: list[_Row] = []
    items = block.items
    rendered = [_item_rows(item, indent) for item in items]
    for position, item in enumerate(items):
        if position and (
            item.has_blank_before or (is_top and _wants_blank(items, rendered, position))
        ):
            rows.append(_Row(""))
        rows += rendered[position]
    return rows


def _wants_blank(
    items: Sequence[Line | Remark], rendered: Sequence[Sequence[_Row]], position: int
) -> bool:
    """Whether a blank line belongs before item ``position`` of a file, even if there was none."""
    before = items[position - 1]
    if isinstance(before, Remark):
        return False
    if len(rendered[position - 1]) > 1:
        return True
    ahead = position
    while ahead < len(items) - 1 and isinstance(items[ahead], Remark):
        ahead += 1
        if items[ahead].has_blank_before:
            return False
    return len(rendered[ahead]) > 1


def _item_rows(item: Line | Remark, indent: int) -> list[_Row]:
    if isinstance(item, Remark):
        return [_Row(" " * indent + item.text)]
    flat = _inline(item)
    if flat is not None and indent + len(flat) <= WIDTH:
        return [_Row(" " * indent + flat, item.comment)]
    rows = _expanded(item, indent)
    rows[-1].comment = item.comment
    return rows


def _inline(line: Line) -> str | None:
    """``line`` with its blocks on one row, or None where that must not be."""
    texts: list[str] = []
    for part in line.parts:
        if isinstance(part, Block):
            inner = _inline_block(part, line)
            if inner is None:
                return None
            texts.append(inner)
        elif any(piece.kind == "COMMENT" for piece in part):
            return None
        else:
            texts.append(_flat(part))
    return " ".join(texts)


def _inline_block(block: Block, line: Line) -> str | None:
    if block.comment or len(block.items) > 1:
        return None
    if not block.items:
        return "{ }"
    item = block.items[0]
    if isinstance(item, Remark) or item.comment or not _is_on_one_line(line):
        return None
    inner = _inline(item)
    return f"{{ {inner} }}" if inner is not None else None


def _is_on_one_line(line: Line) -> bool:
    """Whether all tokens of ``line`` stood on one line of the source."""
    numbers: list[int] = []
    pending: list[Line] = [line]
    while pending:
        for part in pending.pop().parts:
            if isinstance(part, Block):
                pending += [item for item in part.items if isinstance(item, Line)]
            else:
                numbers += [part[0].line, part[-1].line]
    return min(numbers) == max(numbers)


def _expanded(line: Line, indent: int) -> list[_Row]:
    """``line`` with its blocks over several rows."""
    rows: list[_Row] = []
    run: Run = []
    for part in line.parts:
        if not isinstance(part, Block):
            run += part
            continue
        brace = Piece("LBRACE", "{", True, 0)
        closing = Piece("RBRACE", "}", True, 0)
        if not part.items and not part.comment:
            run += [brace, closing]
            continue
        rows += _sequence([*run, brace], indent)
        rows[-1].comment = part.comment
        rows += _block_rows(part, indent + INDENT)
        run = [closing]
    return rows + _sequence(run, indent) if run else rows


# --- expressions


def _flat(run: Sequence[Piece]) -> str:
    """The pieces on one line; trailing commas that mean nothing are left out."""
    texts: list[str] = []
    openers: list[bool] = []
    for position, piece in enumerate(run):
        if piece.kind in ("LPAR", "LSQB"):
            openers.append(_keeps_comma(run, position))
        keeps = openers[-1] if openers else True
        if piece.kind in ("RPAR", "RSQB") and openers:
            openers.pop()
        if piece.kind == "COMMA" and not keeps and run[position + 1].kind in ("RPAR", "RSQB"):
            continue
        texts.append((" " if piece.has_space and texts else "") + piece.text)
    return "".join(texts)


def _keeps_comma(run: Sequence[Piece], opener: int) -> bool:
    """Whether the trailing comma of the bracket at ``opener`` makes it a tuple of one."""
    if run[opener].kind == "LSQB" or _is_call(run, opener):
        return False
    end = _closer(run, opener)
    return len(_commas(run[opener + 1 : end])) == 1


def _is_call(run: Sequence[Piece], opener: int) -> bool:
    """Whether the bracket at ``opener`` follows a value or a declared name directly."""
    return opener > 0 and run[opener - 1].kind in CALLABLE


_OPENERS = ("LPAR", "LSQB")
_CLOSERS = ("RPAR", "RSQB")


def _closer(run: Sequence[Piece], opener: int) -> int:
    """The position of the bracket that closes ``opener``, or the end where none does."""
    depth = 0
    for position in range(opener, len(run)):
        depth += run[position].kind in _OPENERS
        depth -= run[position].kind in _CLOSERS
        if depth == 0:
            return position
    return len(run)


def _commas(run: Sequence[Piece]) -> list[int]:
    """The positions of the commas outside inner brackets."""
    return [p for p, depth in enumerate(_depths(run)) if not depth and run[p].kind == "COMMA"]


def _depths(run: Sequence[Piece]) -> list[int]:
    """How many brackets of ``run`` are open at each piece; brackets themselves count inside."""
    depths: list[int] = []
    depth = 0
    for piece in run:
        depth += piece.kind in _OPENERS
        depths.append(depth)
        depth -= piece.kind in _CLOSERS
    return depths


def _has_comment(run: Sequence[Piece]) -> bool:
    return any(piece.kind == "COMMENT" for piece in run)


def _sequence(run: Sequence[Piece], indent: int) -> list[_Row]:
    """The rows of ``run``: one if it fits, otherwise split at one of its outermost brackets."""
    if not _has_comment(run):
        flat = " " * indent + _flat(run)
        if len(flat) <= WIDTH:
            return [_Row(flat)]
    opener = _bracket_to_split(run)
    if opener is None:
        return [_Row(" " * indent + _flat(run))]
    closer = _closer(run, opener)
    head = _sequence(run[: opener + 1], indent)
    tail = _sequence(run[closer:], indent)
    body = _body(run, opener, closer, indent + INDENT)
    return head + body + tail


def _bracket_to_split(run: Sequence[Piece]) -> int | None:
    """The outermost bracket that holds a comment, or else the longest; None if there is none."""
    best, longest = None, 0
    position = 0
    while position < len(run):
        if run[position].kind not in _OPENERS:
            position += 1
            continue
        closer = _closer(run, position)
        inside = run[position + 1 : closer]
        if closer < len(run) and inside:
            if _has_comment(inside):
                return position
            length = len(_flat(inside))
            if length >= longest:
                best, longest = position, length
        position = closer + 1
    return best


def _body(run: Sequence[Piece], opener: int, closer: int, indent: int) -> list[_Row]:
    """What stands between two brackets, on rows of its own."""
    inside = list(run[opener + 1 : closer])
    last = max((p for p, piece in enumerate(inside) if piece.kind != "COMMENT"), default=-1)
    if last >= 0 and inside[last].kind == "COMMA" and not _keeps_comma(run, opener):
        del inside[last]
    if not _has_comment(inside):
        flat = " " * indent + _flat(inside)
        if len(flat) <= WIDTH:
            return [_Row(flat)]
    commas = _commas(inside)
    takes_comma = bool(commas) or run[opener].kind == "LSQB" or _is_call(run, opener)
    segments = _segments(inside, commas)
    if not commas:
        segments = [part for segment in segments for part in _broken(segment, indent)]
    rows: list[_Row] = []
    for segment in segments:
        rows += _segment_rows(segment, indent)
    ends = [row for row in rows if row.text.strip() and not row.text.lstrip().startswith("#")]
    if takes_comma and ends and not ends[-1].text.endswith(","):
        ends[-1].text += ","
    return rows


def _segment_rows(segment: list[Piece], indent: int) -> list[_Row]:
    """The rows of one item, or of a comment between items."""
    if segment[0].kind == "COMMENT":
        return [_Row(" " * indent + segment[0].text)]
    if segment[-1].kind != "COMMENT":
        return _sequence(segment, indent)
    rows = _sequence(segment[:-1], indent)
    rows[-1].comment = segment[-1].text
    return rows


def _broken(segment: list[Piece], indent: int) -> list[list[Piece]]:
    """``segment`` cut before its loosest binary operators if it is too long for a row."""
    code = [piece for piece in segment if piece.kind != "COMMENT"]
    if not code or indent + len(_flat(code)) <= WIDTH:
        return [segment]
    return _segments(segment, _operators(segment))


def _operators(inside: Sequence[Piece]) -> list[int]:
    """The pieces after which to break: those before the loosest binary operators."""
    depths = _depths(inside)
    for kinds in _BREAKS:
        found = [
            p - 1
            for p in range(1, len(inside))
            if not depths[p] and inside[p].kind in kinds and inside[p - 1].kind in _OPERAND_END
        ]
        if found:
            return found
    return []


def _segments(inside: Sequence[Piece], breaks: Sequence[int]) -> list[list[Piece]]:
    """``inside`` cut after the pieces at ``breaks`` and after its outermost comments."""
    ends = set(breaks)
    depths = _depths(inside)
    segments: list[list[Piece]] = [[]]
    for position, piece in enumerate(inside):
        is_comment = piece.kind == "COMMENT" and not depths[position]
        if is_comment and piece.is_own_line and segments[-1]:
            segments.append([])
        segments[-1].append(piece)
        follows = inside[position + 1] if position + 1 < len(inside) else None
        has_comment = follows is not None and follows.kind == "COMMENT" and not follows.is_own_line
        if is_comment or (position in ends and not has_comment):
            segments.append([])
    return [segment for segment in segments if segment]
