"""Text to syntax tree: drives Lark's LALR parser token by token, and goes on after errors.

Recovery has two steps. A token that is plainly missing (``,`` ``:`` ``=`` ...) is supplied when the
next tokens then fit. Otherwise the rest of the innermost statement or declaration that the parser
can abandon is skipped, as the ``error`` token of yacc does it: states are popped until one takes
ERROR.

Invariants: a Program is returned only if nothing was reported as an error; no recursion anywhere,
so the input decides neither the depth of the stack nor an exception other than DiagnosticError."""

from __future__ import annotations

from functools import cache
from typing import Final

from lark import Lark, Token, Tree, UnexpectedToken

from gradc.frontend.syntax import tables
from gradc.frontend.syntax import tree as syntax
from gradc.frontend.syntax.build import build
from gradc.frontend.syntax.diagnostics import Diagnostic, DiagnosticError, Report, error
from gradc.frontend.syntax.errors import Context, explain
from gradc.frontend.syntax.lexer import Tokens, lex, span_of
from gradc.frontend.syntax.limits import MAX_TREE_DEPTH
from gradc.frontend.syntax.source import Source, from_text
from gradc.frontend.syntax.structure import check_structure
from gradc.frontend.syntax.walk import children

# Tokens whose absence is guessed, and how many must fit after one to believe the guess.
_GUESSES: Final = (("COLON", ":"), ("COMMA", ","), ("EQUAL", "="), ("ARROW", "->"), ("IN", "in"))
_LOOKAHEAD: Final = 4
_MAX_SYNTAX_ERRORS: Final = 20


@cache
def grammar() -> Lark:
    """The parser, once per process; its lexer too, which Lark would make anew for each text."""
    made = tables.parser()
    made.lexer = made.parser.lexer
    return made


def parse(source: Source, report: Report) -> syntax.Program:
    """The syntax tree of ``source``.

    Raises:
        DiagnosticError: with everything in ``report`` if that holds an error by now.
    """
    report.sources.add(source)
    try:
        tokens = lex(grammar(), source, report)
        tree = _Driver(tokens, source, report).run()
        program = build(tree, source, report)
        _check_depth(program, report)
        # Where brackets were supplied, what stands where is a guess.
        if not tokens.damaged:
            check_structure(program, report)
    except DiagnosticError as problem:
        for diagnostic in problem.diagnostics:
            report.add(diagnostic)
    report.raise_errors()
    return program


def parse_text(text: str, name: str = "<string>") -> syntax.Program:
    """The syntax tree of ``text``.

    Raises:
        DiagnosticError: if it is not a well-formed program.
    """
    return parse(from_text(text, name), Report())


def parse_expression(text: str, name: str, report: Report) -> syntax.Expr:
    """The expression that ``text`` is, such as ``adamw(lr=1e-3)`` of a command line.

    It is read as the default of a dimension, whose first words are supplied in front of the text.

    Raises:
        DiagnosticError: if it is not one well-formed expression.
    """
    source = from_text(text.strip(), name)
    report.sources.add(source)
    try:
        return _expression(source, name, report)
    except DiagnosticError as found:
        told = _more_than_one(source, found)
        if told is None:
            raise
        raise DiagnosticError([told], report.sources) from None


def _more_than_one(source: Source, found: DiagnosticError) -> Diagnostic | None:
    """The diagnostic for text that goes on after a whole expression; None if it does not."""
    span = found.diagnostics[0].span
    if span is None or span.line != 1:
        return None
    head = source.text.partition("\n")[0][: span.column - 1].rstrip(" ,;")
    # A call that ends before what follows it, wherever the parser noticed.
    whole = head[: head.rfind(")") + 1]
    if not whole or whole == source.text:
        return None
    try:
        _expression(from_text(whole, source.name), source.name, Report())
    except DiagnosticError:
        return None
    rest = source.text[len(whole) :].strip()
    if not (rest[0] in ",;" or rest[0].isidentifier()):
        return None  # an operator or a bracket, which has a message of its own
    message = f"one expression is expected here; `{whole}` is followed by `{rest}`"
    return error("GC0101", message, span)


def _expression(source: Source, name: str, report: Report) -> syntax.Expr:
    if not source.text:
        message = f"`{name.strip('<>')}` is empty; an expression is expected"
        raise DiagnosticError([error("GC0101", message, None)], report.sources)
    tokens = lex(grammar(), source, report)
    words = (("DIM", "dim"), ("NAME", "value"), ("EQUAL", "="))
    front = [Token(kind, word, 0, 1, 1, 1, 1, 0) for kind, word in words]
    tokens.parsed[:0] = front
    tokens.depths[:0] = [0] * len(front)
    tree = _Driver(tokens, source, report).run()
    program = build(tree, source, report)
    _check_depth(program, report)
    report.raise_errors()
    (first, *others) = program.declarations
    if isinstance(first, syntax.DimDeclaration) and not others and len(first.entries) == 1:
        expression = first.entries[0].default
        if expression is not None:
            return expression
    message = f"one expression is expected here, not `{source.text}`"
    raise DiagnosticError([error("GC0101", message, program.span)], report.sources)


def _check_depth(program: syntax.Program, report: Report) -> None:
    """Chains of unary operators, powers and postfixes nest without brackets; bound them as well.

    Raises:
        DiagnosticError: GC0007.
    """
    level: list[syntax.Node] = [program]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in children(node)]
        if not level:
            return
    message = "expressions nest too deeply here"
    help = "give parts of it names"
    raise DiagnosticError([error("GC0007", message, level[0].span, help=help)], report.sources)


class _Driver:
    """One parse of one file."""

    def __init__(self, tokens: Tokens, source: Source, report: Report) -> None:
        self.tokens = tokens
        self.source = source
        self.report = report
        self.parser = grammar().parse_interactive()
        self.errors = 0

    def run(self) -> Tree[Token]:
        """The parse tree, with ``broken`` nodes where text was skipped."""
        parsed = self.tokens.parsed
        position = 0
        while position < len(parsed):
            try:
                self.parser.feed_token(parsed[position])
                position += 1
            except UnexpectedToken as problem:
                position = self._recover(position, problem)
        try:
            tree: Tree[Token] = self.parser.feed_token(self._end())
        except UnexpectedToken as problem:
            self._recover(position, problem)
            tree = self.parser.feed_token(self._end())
        return tree

    def _end(self) -> Token:
        end, size = self.source.end, len(self.source.text)
        return Token("$END", "", size, end.line, end.column, end.line, end.column, size)

    def _recover(self, position: int, problem: UnexpectedToken) -> int:
        """Report ``problem`` at token ``position`` and return the token to go on with."""
        guess = self._missing_token(position, problem)
        token = self.tokens.parsed[position] if position < len(self.tokens.parsed) else self._end()
        if not self._is_damaged(token):
            self._explain(position, token, problem, guess)
        if guess is not None:
            self.parser.feed_token(guess)
            return position
        return self._skip(position, is_indented=token.type == "COLON")

    def _is_damaged(self, token: Token) -> bool:
        """Whether a bracket was supplied around or on the line of ``token``."""
        start = token.start_pos or 0
        text = self.source.text
        return any(
            a <= start <= b or (b < start and "\n" not in text[b:start])
            for a, b in self.tokens.damaged
        )

    def _explain(
        self, position: int, token: Token, problem: UnexpectedToken, guess: Token | None
    ) -> None:
        self.errors += 1
        if self.errors > _MAX_SYNTAX_ERRORS:
            raise DiagnosticError(self.report.diagnostics, self.report.sources)
        parsed = self.tokens.parsed
        context = Context(
            tokens=parsed,
            position=position,
            token=token,
            expected=frozenset(problem.expected),
            open_brackets=self._open_brackets(),
            missing=guess.value if guess is not None else "",
            span_of=lambda t: span_of(t, self.source),
        )
        self.report.add(explain(context))

    def _missing_token(self, position: int, problem: UnexpectedToken) -> Token | None:
        """A token that, supplied before ``position``, lets the parser go on for a while."""
        following = self.tokens.parsed[position : position + _LOOKAHEAD]
        for kind, text in _GUESSES:
            if kind not in problem.expected or not following:
                continue
            before = self.tokens.parsed[position - 1].type if position else ""
            if not self._is_plausible(kind, before, following[0].type):
                continue
            at = following[0]
            start, line, column = at.start_pos or 0, at.line or 1, at.column or 1
            guess = Token(kind, text, start, line, column, line, column, start)
            if self._fits([guess, *following]):
                return guess
        return None

    def _is_plausible(self, kind: str, before: str, after: str) -> bool:
        """Whether ``kind`` may be guessed between tokens of the kinds ``before`` and ``after``."""
        if kind == "COMMA":
            return self._is_list()
        if kind == "COLON":
            return before == after == "NAME" and self._open_brackets()[-1:] != ("LSQB",)
        if kind == "EQUAL":
            return "OUTPUT" not in [getattr(v, "type", "") for v in self._values()[-2:]]
        return True

    def _values(self) -> list[object]:
        """What the parser holds, the latest last."""
        return list(self.parser.parser_state.value_stack)

    def _open_brackets(self) -> tuple[str, ...]:
        """The kinds of the brackets around the place where the parser is, the innermost last."""
        kinds: list[str] = []
        for value in self._values():
            kind = value.type if isinstance(value, Token) else ""
            if kind in ("LPAR", "LSQB", "LBRACE"):
                kinds.append(kind)
            elif kind in ("RPAR", "RSQB", "RBRACE"):
                kinds.pop()
        return tuple(kinds)

    def _is_list(self) -> bool:
        """Whether the parser is inside brackets, or in a list of dimensions."""
        if self._open_brackets()[-1:] not in ((), ("LBRACE",)):
            return True
        for value in reversed(self._values()):
            if isinstance(value, Token) and value.type in ("LBRACE", "NEWLINE"):
                return False
            if isinstance(value, Token) and value.type == "DIM":
                return True
        return False

    def _fits(self, tokens: list[Token]) -> bool:
        state = self.parser.parser_state.copy(deepcopy_values=False)
        for token in tokens:
            try:
                state.feed_token(token)
            except UnexpectedToken:
                return False
        return True

    def _indent_at(self, position: int) -> int:
        """The column of the first token on the line of the token at ``position``."""
        parsed = self.tokens.parsed
        line = parsed[position].line
        while position > 0 and parsed[position - 1].line == line:
            position -= 1
            if parsed[position].type == "NEWLINE":
                return parsed[position + 1].column or 1
        return parsed[position].column or 1

    def _is_further(self, position: int, indent: int | None) -> bool:
        """Whether the line after the NEWLINE at ``position`` is indented beyond ``indent``."""
        parsed = self.tokens.parsed
        if indent is None or parsed[position].type != "NEWLINE" or position + 1 >= len(parsed):
            return False
        return (parsed[position + 1].column or 1) > indent

    def _skip(self, position: int, is_indented: bool = False) -> int:
        """Abandon the innermost statement or declaration; return the token after it.

        ``is_indented``: after a colon, lines that are indented further belong to what is abandoned.
        """
        state = self.parser.parser_state
        states = state.parse_conf.states
        # A brace that was just closed is still on the stack; its block must not be reopened.
        closed = 0
        while closed or "ERROR" not in states[state.position]:
            state.state_stack.pop()
            kind = getattr(state.value_stack.pop(), "type", "")
            closed += (kind == "RBRACE") - (kind == "LBRACE")
        depth = sum(isinstance(v, Token) and v.type == "LBRACE" for v in state.value_stack)
        parsed, depths = self.tokens.parsed, self.tokens.depths
        start = position
        indent = self._indent_at(position) if is_indented else None
        while position < len(parsed):
            is_end = parsed[position].type in ("NEWLINE", "RBRACE")
            if is_end and depths[position] <= depth and not self._is_further(position, indent):
                break
            position += 1
        last = parsed[min(start, len(parsed) - 1)] if parsed else self._end()
        self.parser.feed_token(Token.new_borrow_pos("ERROR", "", last))
        return position
