"""What to say about a token that does not fit: the common slips by name, the rest by what was
expected.

``explain`` tries the rules of ``_RULES`` in order; each looks at the offending token, its
neighbours, what the parser would have taken and the open brackets, and returns a diagnostic or
None.

Invariants: pure; every rule terminates on any tokens; the primary span is never outside the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lark import Token

from gradc.frontend.syntax.diagnostics import Diagnostic, error
from gradc.frontend.syntax.foreign import ARGUMENTS
from gradc.ir.diagnostics.render import escape
from gradc.ir.tensor.core import Span

KEYWORDS = [
    "import",
    "dim",
    "model",
    "layer",
    "fn",
    "optimizer",
    "schedule",
    "initializer",
    "param",
    "state",
    "use",
    "output",
    "return",
    "yield",
    "if",
    "else",
    "for",
    "in",
    "scan",
    "carry",
    "truncate",
    "checkpoint",
    "pullback",
    "and",
    "or",
    "not",
    "true",
    "false",
]
_KEYWORD_KINDS = frozenset(word.upper() for word in KEYWORDS)
_OPERANDS = frozenset(["NAME", "NUMBER", "STRING", "RPAR", "RSQB", "TRUE", "FALSE"])
_STARTS_OPERAND = frozenset(["NAME", "NUMBER", "STRING", "TRUE", "FALSE"])
_CLOSERS = frozenset(["NEWLINE", "RBRACE", "RPAR", "RSQB", "COMMA", "$END", "LBRACE"])
_BINARY = frozenset(
    [
        "PLUS",
        "MINUS",
        "STAR",
        "SLASH",
        "FLOOR_DIVIDE",
        "PERCENT",
        "AT",
        "CIRCUMFLEX",
        "COMPARISON",
        "AND",
        "OR",
        "EQUAL",
    ]
)
_DECLARATIONS = frozenset(
    ["IMPORT", "DIM", "MODEL", "LAYER", "FN", "OPTIMIZER", "SCHEDULE", "INITIALIZER"]
)

_NEW_LINE = "start a new line, or separate with `;`"
# First words of a line that come from other languages, and what to write here.
_HABITS = {
    "def": "functions are declared with `fn name(x: float[...]) -> float[...] { ... }`",
    "func": "functions are declared with `fn`",
    "function": "functions are declared with `fn`",
    "class": "a network is a `model`, a reusable part of one a `layer`",
    "struct": "a network is a `model`, a reusable part of one a `layer`",
    "while": "loops are `scan` (over time) and `for` (over layer instances)",
    "elif": "write `else if`",
    "elseif": "write `else if`",
    "lambda": "functions are declared with `fn`",
    "from": 'write `import "other.grad"`; nothing of Python can be imported',
    "let": "assign without a keyword: `name = value`",
    "var": "assign without a keyword: `name = value`",
    "const": "assign without a keyword: `name = value`, or `dim` for a dimension",
    "try": "there are no exceptions; what can fail is checked before the program runs",
    "with": "there are no context managers",
    "assert": "shapes and types are checked before the program runs",
    "del": "values are freed by the compiler",
    "pass": "leave the braces empty",
    "break": "a `scan` always runs over its whole input",
    "continue": "a `scan` always runs over its whole input",
    "global": "values are passed as arguments",
    "print": "name an extra result with `output`",
    "async": "there is nothing asynchronous here",
    "optimiser": "it is spelled `optimizer`",
    "initialiser": "it is spelled `initializer`",
}

# How a terminal is called in messages; a terminal that is missing here is shown as it is written.
_NAMES = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "NEWLINE": "the end of the line",
    "$END": "the end of the file",
    "COMPARISON": "a comparison",
}
_SYMBOLS = {
    "LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}",
    "COMMA": ",", "COLON": ":", "EQUAL": "=", "TILDE": "~", "ARROW": "->", "ELLIPSIS": "...",
    "DOT": ".", "PLUS": "+", "MINUS": "-", "STAR": "*", "SLASH": "/", "FLOOR_DIVIDE": "//",
    "PERCENT": "%", "AT": "@", "CIRCUMFLEX": "^",
}  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What is known where the parser stopped. ``missing`` is text that would repair it."""

    tokens: Sequence[Token]
    position: int
    token: Token
    expected: frozenset[str]
    open_brackets: tuple[str, ...]
    missing: str
    span_of: Callable[[Token], Span]

    @property
    def previous(self) -> Token | None:
        """The token before the offending one."""
        return self.tokens[self.position - 1] if self.position > 0 else None

    @property
    def next(self) -> Token | None:
        """The token after the offending one."""
        after = self.position + 1
        return self.tokens[after] if after < len(self.tokens) else None

    @property
    def statement(self) -> Sequence[Token]:
        """The tokens of the statement up to, without, the offending one."""
        start = self.position
        while start > 0 and self.tokens[start - 1].type not in ("NEWLINE", "LBRACE", "RBRACE"):
            start -= 1
        return self.tokens[start : self.position]

    @property
    def span(self) -> Span:
        """The place of the offending token."""
        return self.span_of(self.token)

    @property
    def is_in_brackets(self) -> bool:
        """Whether a ( or [ is open, so that lines do not end statements."""
        return bool(self.open_brackets) and self.open_brackets[-1] != "LBRACE"


def explain(context: Context) -> Diagnostic:
    """The diagnostic for the token at which the parser stopped."""
    for rule in _RULES:
        found = rule(context)
        if found is not None:
            return found
    return _unexpected(context)


def shown(token: Token) -> str:
    """How ``token`` is called in a message."""
    if token.type in ("NEWLINE", "$END"):
        return ";" if token.value == ";" else _NAMES[token.type]
    text = escape(token.value)
    return f"`{text if len(text) <= 40 else text[:37] + '...'}`"


def _habit(context: Context) -> Diagnostic | None:
    """The first word of the statement belongs to another language."""
    words = [*context.statement[:1], context.token]
    first = words[0]
    if first.type == "NAME" and first.value in _HABITS:
        after = context.tokens[context.position] if first is not context.token else context.next
        if first is context.token and after is not None and after.type in ("EQUAL", "LPAR"):
            return None
        message = f"`{first}` is not a word of this language"
        return error("GC0112", message, context.span_of(first), help=_HABITS[first.value])
    if first.type == "IMPORT" and first is not context.token:
        message = "`import` takes a file of this project in quotes"
        help = 'write `import "other.grad"`; nothing of Python can be imported'
        return error("GC0112", message, context.span, help=help)
    return None


def _inner_habit(context: Context) -> Diagnostic | None:
    """`then`, annotations, comprehensions, `lambda`, conditional expressions, a nested `scan`."""
    token, previous = context.token, context.previous
    if token.value in ("then", "do") and "LBRACE" in context.expected:
        message = f"there is no `{token}`"
        return error("GC0112", message, context.span, help="leave it out")
    if token.type == "COLON" and [t.type for t in context.statement] == ["NAME"]:
        message = "a name in a body has no declared type"
        help = f"write `{context.statement[0]} = ...`; types and shapes are worked out and checked"
        return error("GC0112", message, context.span, help=help)
    if token.type == "FOR" and context.is_in_brackets:
        message = "there are no comprehensions"
        help = "use array operations, or `scan` over the first axis"
        return error("GC0112", message, context.span, help=help)
    if previous is not None and previous.type == "NAME" and previous.value == "lambda":
        message = "there are no anonymous functions"
        return error("GC0112", message, context.span_of(previous), help=_HABITS["lambda"])
    if token.type == "IF" and previous is not None and previous.type in _OPERANDS:
        message = "`if` stands on its own, not inside an expression"
        help = "write `where(condition, a, b)` to choose between values"
        return error("GC0112", message, context.span, help=help)
    if token.type == "SCAN" and (context.next is None or context.next.type != "EQUAL"):
        message = "`scan` stands alone on the right of `=`"
        help = "write `hs = scan x in xs carry ... { ... }` on its own line"
        return error("GC0101", message, context.span, help=help)
    return None


def _reserved(context: Context) -> Diagnostic | None:
    """A keyword where only a name can stand."""
    token = context.token
    if token.type not in _KEYWORD_KINDS or "NAME" not in context.expected:
        return None
    follows = context.next.type if context.next is not None else "$END"
    wants_name = len(context.expected) <= 2 or follows in ("EQUAL", "COLON")
    is_statement = token.type in context.expected or token.type in _DECLARATIONS
    if not wants_name and (is_statement or follows not in _CLOSERS | _BINARY | {"LPAR", "DOT"}):
        return None
    message = f"`{token}` is a reserved word and cannot be a name"
    if token in ARGUMENTS and follows == "EQUAL":
        help = f"the argument is called so: `{ARGUMENTS[token]} = ...`"
        return error("GC0102", message, context.span, help=help)
    return error("GC0102", message, context.span, help=f"for example `{token}_`")


def _else(context: Context) -> Diagnostic | None:
    """`else` on its own; one on the line after a block has been joined to it."""
    if context.token.type != "ELSE":
        return None
    return error("GC0101", "`else` without an `if` before it", context.span)


def _equality(context: Context) -> Diagnostic | None:
    """`=` in a condition."""
    first = next(iter(context.statement), None)
    is_condition = first is not None and first.type in ("IF", "ELSE")
    if context.token.type != "EQUAL" or not is_condition:
        return None
    message = "`=` gives a name a value; a condition compares"
    return error("GC0109", message, context.span, help="write `==`")


def _assignment(context: Context) -> Diagnostic | None:
    """A second `=`, or `=` inside a value."""
    if context.token.type != "EQUAL" or context.is_in_brackets:
        return None
    if any(token.type == "EQUAL" for token in context.statement):
        message = "one `=` per statement"
        return error("GC0109", message, context.span, help="write `==` to compare")
    return None


def _initializer(context: Context) -> Diagnostic | None:
    """`param w: float[3] = zeros`."""
    if context.token.type != "EQUAL" or "TILDE" not in context.expected:
        return None
    message = "an initializer stands after `~`"
    return error("GC0109", message, context.span, help="write `~` instead of `=`")


def _comparison(context: Context) -> Diagnostic | None:
    """`a < b < c`."""
    if context.token.type != "COMPARISON" or "AND" not in context.expected:
        return None
    message = "comparisons do not chain"
    return error("GC0114", message, context.span, help="write `a < b and b < c`")


def _braces(context: Context) -> Diagnostic | None:
    """A block that does not start with `{`."""
    if "LBRACE" not in context.expected or context.is_in_brackets:
        return None
    token = context.token
    if token.type == "COLON" and "COLON" not in context.expected:
        message = "a block stands in braces"
        return error("GC0113", message, context.span, help="write `{ ... }` instead of `:`")
    if token.type in ("NEWLINE", "$END", "RBRACE"):
        first = next(iter(context.statement), None)
        message = f"the block of this `{first}` is missing" if first else "a block is missing"
        place = context.span_of(first) if first is not None else context.span
        return error("GC0113", message, place, help="add `{ ... }`")
    return None


def _missing(context: Context) -> Diagnostic | None:
    """A token without which the text does not fit, and with which it does."""
    if not context.missing:
        return None
    message = f"`{context.missing}` is missing before {shown(context.token)}"
    return error("GC0108", message, context.span, help=_missing_help(context))


def _missing_help(context: Context) -> str:
    first = next(iter(context.statement), None)
    if context.missing == ":" and context.previous is not None:
        return f"write `{context.previous}: {context.token}`"
    if context.missing == "," and first is not None and context.is_in_brackets:
        return "separate items with commas"
    return ""


def _ended_early(context: Context) -> Diagnostic | None:
    """A line, block or bracket that ends where a value should follow."""
    token, previous = context.token, context.previous
    if "NUMBER" not in context.expected or previous is None:
        return None
    if token.type in _BINARY and context.statement:
        message = f"a value is missing before {shown(token)}"
        return error("GC0107", message, context.span)
    if token.type not in _CLOSERS:
        return None
    if previous.type in _CLOSERS - {"COMMA"} and not context.statement:
        return None
    message = f"a value is missing after {shown(previous)}"
    help = ""
    if token.type == "NEWLINE" and context.next is not None and previous.type in _BINARY:
        help = "a newline ends a statement; put a long expression in brackets ( )"
    return error("GC0107", message, context.span, help=help)


def _type(context: Context) -> Diagnostic | None:
    """`->` or `x:` with no type behind it."""
    previous = context.previous
    if previous is None or previous.type not in ("ARROW", "COLON") or context.token.type == "NAME":
        return None
    if "NUMBER" in context.expected or "NAME" not in context.expected:
        return None
    message = f"a type is missing after {shown(previous)}"
    return error("GC0107", message, context.span, help="for example `float` or `float[B, D]`")


def _two_values(context: Context) -> Diagnostic | None:
    """Two values side by side."""
    token, previous = context.token, context.previous
    if previous is None or previous.type not in _OPERANDS or token.type not in _STARTS_OPERAND:
        return None
    if "PLUS" not in context.expected:
        return None
    follows = context.next.type if context.next is not None else ""
    if token.type == "NAME" and follows == "EQUAL" and not context.is_in_brackets:
        message = f"{shown(token)} starts a new statement on the same line"
        return error("GC0108", message, context.span, help=_NEW_LINE)
    message = f"an operator is missing between {shown(previous)} and {shown(token)}"
    help = "write `*` to multiply" if "STAR" in context.expected else ""
    return error("GC0108", message, context.span, help=help)


def _one_per_line(context: Context) -> Diagnostic | None:
    """A statement that follows another on the same line."""
    can_end = "NEWLINE" in context.expected or "RBRACE" in context.expected
    if not can_end or context.token.type not in _KEYWORD_KINDS or context.is_in_brackets:
        return None
    if not context.statement:
        return None
    message = f"{shown(context.token)} starts a new statement on the same line"
    return error("GC0108", message, context.span, help=_NEW_LINE)


def _declared_inside(context: Context) -> Diagnostic | None:
    """A declaration of the top level inside a block."""
    token = context.token
    if token.type not in _DECLARATIONS - {"DIM"} or "LBRACE" not in context.open_brackets:
        return None
    if "RETURN" not in context.expected and "PARAM" not in context.expected:
        return None
    message = f"`{token}` stands at the top level of a file, not inside another declaration"
    return error("GC0123", message, context.span)


def _outside(context: Context) -> Diagnostic | None:
    """A statement at the top level, or directly in a layer."""
    expected = context.expected
    statement = context.statement
    if "MODEL" in expected and not context.open_brackets and not statement:
        what = shown(context.token)
        message = f"{what} cannot stand at the top level of a file"
        help = "a file holds " + ", ".join(f"`{k.lower()}`" for k in _ordered(_DECLARATIONS))
        if context.token.type == "NAME" and context.token.value in _HABITS:
            return None
        return error("GC0101", message, context.span, help=help)
    is_member = "PARAM" in expected and "RETURN" not in expected
    if is_member and context.open_brackets == ("LBRACE",):
        message = f"{shown(context.token)} cannot stand directly inside this declaration"
        help = "statements belong into its method: `apply`, `update`, `at` or `sample`"
        return error("GC0116", message, context.span, help=help)
    return None


def _member_statement(context: Context) -> Diagnostic | None:
    """`y = x` directly inside a layer: the parser expects the `(` of a method."""
    first = next(iter(context.statement), None)
    if context.expected != {"LPAR"} or first is None or first.type != "NAME":
        return None
    if context.previous is not first:
        return None
    message = f"`{first}` is neither a declaration nor a method"
    help = "statements belong into `apply`, `update`, `at` or `sample`; declarations start with "
    help += "`param`, `state`, `use` or `dim`"
    return error("GC0116", message, context.span_of(first), help=help)


def _unexpected(context: Context) -> Diagnostic:
    """The general case."""
    message = f"unexpected {shown(context.token)}"
    expected = describe(context.expected)
    label = f"expected {expected}" if expected else ""
    return error("GC0101", message, context.span, label=label)


def _ordered(kinds: frozenset[str]) -> list[str]:
    return sorted(kinds)


def describe(kinds: frozenset[str]) -> str:
    """The expected terminals in words, the most telling first, at most five."""
    known = kinds - {"ERROR", "COMMENT", "BAD_CHARACTER", "BAD_STRING", "BAD_OPERATOR"}
    words: list[str] = []
    if "NUMBER" in known:
        words.append("a value")
        known -= _STARTS_OPERAND | {"LPAR", "LSQB", "MINUS", "PLUS", "NOT", "STATE"}
    if "STAR" in known and "PLUS" in known:
        words.append("an operator")
        known -= _BINARY - {"EQUAL"} | {"DOT", "LPAR", "LSQB", "IN"}
    words += [_NAMES.get(kind) or f"`{_SYMBOLS.get(kind, kind.lower())}`" for kind in sorted(known)]
    if len(words) > 5:
        words = [*words[:5], "..."]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_RULES: tuple[Callable[[Context], Diagnostic | None], ...] = (
    _habit,
    _inner_habit,
    _else,
    _equality,
    _initializer,
    _assignment,
    _reserved,
    _declared_inside,
    _comparison,
    _missing,
    _braces,
    _type,
    _ended_early,
    _member_statement,
    _two_values,
    _one_per_line,
    _outside,
)
