"""Parse tree to syntax tree: one method per rule or alias of ``grammar.lark``, called from the
leaves up.

Each method receives the children of its rule: tokens, built nodes, and None for an absent optional
part. Structural rules that the grammar leaves open (what may be assigned to, which statements stand
where, one method per layer) are checked in ``frontend.structure`` and here where the text is lost
afterwards.

Invariants: no recursion; every node's span covers all of its text; errors go to the report and a
node is made all the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from lark import Token, Tree

from gradc.frontend.syntax import tree as s
from gradc.frontend.syntax.diagnostics import Report, error
from gradc.frontend.syntax.foreign import STATEMENTS
from gradc.frontend.syntax.lexer import span_of
from gradc.frontend.syntax.source import Source
from gradc.ir.tensor.core import Span

# What a rule hands up: a node, a token, an absent part, or a small structure only its user knows.
Child: TypeAlias = Any
Kind = TypeVar("Kind")

_METHOD_WORDS = {"layer": "apply", "optimizer": "update", "schedule": "at", "initializer": "sample"}
_CONSTANTS = {"True": "true", "False": "false"}


@dataclasses.dataclass(frozen=True, slots=True)
class Broken(s.Statement, s.Declaration):
    """What the parser skipped after an error; never leaves this package."""


@dataclasses.dataclass(frozen=True, slots=True)
class PullbackStatement(s.Statement):
    """A ``pullback`` where the grammar takes it; moved into its Function."""

    pullback: s.Pullback


@dataclasses.dataclass(frozen=True, slots=True)
class MethodMember(s.Statement):
    """A method where the grammar takes it; moved into its declaration."""

    method: s.Method


@dataclasses.dataclass(frozen=True, slots=True)
class Bracketed(s.Node):
    """The parts of a bracketed list with the span of its brackets."""

    items: tuple[Child, ...]


def build(tree: Tree[Token], source: Source, report: Report) -> s.Program:
    """The syntax tree of the parse tree ``tree`` of ``source``; findings go to ``report``."""
    builder = Builder(source, report)
    pending: list[tuple[Tree[Token], bool]] = [(tree, False)]
    results: list[Child] = []
    while pending:
        node, is_ready = pending.pop()
        below = [child for child in node.children if isinstance(child, Tree)]
        if below and not is_ready:
            pending.append((node, True))
            pending.extend((child, False) for child in reversed(below))
            continue
        start = len(results) - len(below)
        built = iter(results[start:])
        children = [next(built) if isinstance(c, Tree) else c for c in node.children]
        del results[start:]
        results.append(builder.make(str(node.data), children))
    builder.finish()
    return cast(s.Program, results[0])


def _of(children: Sequence[Child], kind: type[Kind]) -> tuple[Kind, ...]:
    return tuple(child for child in children if isinstance(child, kind))


def _first(children: Sequence[Child], kind: type[Kind]) -> Kind | None:
    return next((child for child in children if isinstance(child, kind)), None)


class Builder:
    """Makes the nodes of one file."""

    def __init__(self, source: Source, report: Report) -> None:
        self.source = source
        self.report = report
        # `None` may stand in an index only; the places where it does are taken out again.
        self.nones: list[Span] = []
        self.has_misplaced_method = False

    def finish(self) -> None:
        """Report what only the whole tree shows to be wrong."""
        for place in self.nones:
            message = "`None` stands in an index only, where it makes an axis of size one"
            self._error("GC0120", message, place, "leave the argument out")

    def make(self, rule: str, children: list[Child]) -> Child:
        """The node for ``rule`` over ``children``."""
        method: Callable[[Span, list[Child]], Child] = getattr(self, f"_{rule}")
        return method(self._cover(children), children)

    def _span(self, child: Child) -> Span:
        return span_of(child, self.source) if isinstance(child, Token) else cast(Span, child.span)

    def _cover(self, children: Sequence[Child]) -> Span:
        """From the first to the last child that is there."""
        present = [child for child in children if child is not None]
        if not present:
            return self.source.span(1, 1, 1, 1)
        return s.join(self._span(present[0]), self._span(present[-1]))

    def _error(self, code: str, message: str, span: Span, help: str = "") -> None:
        self.report.add(error(code, message, span, help=help))

    def _text(self, token: Token) -> s.Name:
        return s.Name(span_of(token, self.source), token.value)

    # --- files and declarations

    def _program(self, span: Span, children: list[Child]) -> s.Program:
        found = _of(children, s.Declaration)
        return s.Program(span, tuple(d for d in found if not isinstance(d, Broken)))

    def _import(self, span: Span, children: list[Child]) -> s.Import:
        return s.Import(span, self._string(self._span(children[1]), children[1:]))

    def _dim(self, span: Span, children: list[Child]) -> s.DimDeclaration:
        return s.DimDeclaration(span, _of(children, s.DimEntry))

    def _local_dim(self, span: Span, children: list[Child]) -> s.LocalDim:
        return s.LocalDim(span, _of(children, s.DimEntry))

    def _dim_entry(self, span: Span, children: list[Child]) -> s.DimEntry:
        name, _, default = children
        return s.DimEntry(span, self._text(name), default)

    def _model(self, span: Span, children: list[Child]) -> s.Model:
        _, name, formals, results, body = children
        return s.Model(span, self._text(name), formals.items, _items(results), body.items)

    def _function(self, span: Span, children: list[Child]) -> s.Function:
        _, name, formals, results, body = children
        found = _of(body.items, PullbackStatement)
        for extra in found[1:]:
            message = "a function has one pullback"
            self._error("GC0116", message, extra.span, "keep one of them")
        rest = tuple(item for item in body.items if not isinstance(item, PullbackStatement))
        pullback = found[0].pullback if found else None
        return s.Function(span, self._text(name), formals.items, _items(results), rest, pullback)

    def _layer(self, span: Span, children: list[Child]) -> s.Declaration:
        parts = self._with_method(span, children)
        return s.Layer(span, *parts) if parts else Broken(span)

    def _optimizer(self, span: Span, children: list[Child]) -> s.Declaration:
        parts = self._with_method(span, children)
        return s.Optimizer(span, *parts) if parts else Broken(span)

    def _schedule(self, span: Span, children: list[Child]) -> s.Declaration:
        parts = self._without_members(span, children)
        return s.Schedule(span, *parts) if parts else Broken(span)

    def _initializer(self, span: Span, children: list[Child]) -> s.Declaration:
        parts = self._without_members(span, children)
        return s.Initializer(span, *parts) if parts else Broken(span)

    def _without_members(
        self, span: Span, children: list[Child]
    ) -> tuple[s.Name, tuple[s.Parameter, ...], s.Method] | None:
        parts = self._with_method(span, children)
        if parts is None:
            return None
        name, parameters, members, method = parts
        for member in members:
            message = f"{_a(children[0])} holds nothing but `{method.name.text}`"
            self._error("GC0116", message, member.span)
        return name, parameters, method

    def _with_method(
        self, span: Span, children: list[Child]
    ) -> tuple[s.Name, tuple[s.Parameter, ...], s.Block, s.Method] | None:
        """Name, parameters, members and the one method of a declaration; None without a method."""
        word, name, formals, members = children
        expected = _METHOD_WORDS[str(word)]
        found = [m.method for m in _of(members.items, MethodMember)]
        right = [method for method in found if method.name.text == expected]
        for method in found:
            if method.name.text != expected:
                message = f"{_a(word)} has no method `{method.name.text}`, only `{expected}`"
                self._error("GC0117", message, method.name.span, f"call it `{expected}`")
            elif method is not right[0]:
                message = f"{_a(word)} has one `{expected}`"
                self._error("GC0117", message, method.name.span, "keep one of them")
        if not right:
            if not (found or _of(members.items, Broken) or self.has_misplaced_method):
                message = f"{word} `{name}` has no `{expected}`"
                help = f"add {expected}({_USUAL[expected]}) {{ ... }}"
                self._error("GC0117", message, span_of(name, self.source), help)
            return None
        rest = tuple(m for m in members.items if not isinstance(m, MethodMember))
        return self._text(name), _items(formals), rest, right[0]

    def _method(self, span: Span, children: list[Child]) -> MethodMember:
        name, formals, results, body = children
        method = s.Method(span, self._text(name), formals.items, _items(results), body.items)
        return MethodMember(span, method)

    def _members(self, span: Span, children: list[Child]) -> Bracketed:
        return Bracketed(span, _of(children, s.Statement))

    def _block(self, span: Span, children: list[Child]) -> Bracketed:
        statements = _of(children, s.Statement)
        return Bracketed(span, tuple(x for x in statements if not isinstance(x, Broken)))

    def _formals(self, span: Span, children: list[Child]) -> Bracketed:
        return Bracketed(span, _of(children, s.Parameter))

    def _formal(self, span: Span, children: list[Child]) -> s.Parameter:
        name, _, type_, _, default = children
        return s.Parameter(span, self._text(name), type_, default)

    def _one_result(self, span: Span, children: list[Child]) -> Bracketed:
        return Bracketed(span, (children[1],))

    def _many_results(self, span: Span, children: list[Child]) -> Bracketed:
        return Bracketed(span, _of(children, s.TypeExpr))

    def _scalar_type(self, span: Span, children: list[Child]) -> s.TypeExpr:
        return s.TypeExpr(span, self._text(children[0]), ())

    def _array_type(self, span: Span, children: list[Child]) -> s.TypeExpr:
        dims = tuple(c for c in children if isinstance(c, s.Expr | s.Ellipsis))
        return s.TypeExpr(span, self._text(children[0]), dims)

    def _broken(self, span: Span, _children: list[Child]) -> Broken:
        return Broken(span)

    # --- statements

    def _param(self, span: Span, children: list[Child]) -> s.ParamDeclaration:
        _, name, _, type_, _, initializer = children
        return s.ParamDeclaration(span, self._text(name), type_, initializer)

    def _typed_state(self, span: Span, children: list[Child]) -> s.StateDeclaration:
        _, name, _, type_, _, initializer = children
        return s.StateDeclaration(span, self._text(name), type_, initializer)

    def _untyped_state(self, span: Span, children: list[Child]) -> s.StateDeclaration:
        _, name, _, initializer = children
        return s.StateDeclaration(span, self._text(name), None, initializer)

    def _use(self, span: Span, children: list[Child]) -> s.Statement:
        _, name, _, layer, _, count = children
        if not isinstance(layer, s.Call):
            message = "`use` makes an instance of a layer by calling it"
            self._error("GC0124", message, layer.span, "write `use fc = dense(D, H)`")
            return Broken(span)
        return s.UseDeclaration(span, self._text(name), layer, count)

    def _assign(self, span: Span, children: list[Child]) -> s.Statement:
        targets, equal, values = children
        if equal is None:
            message = "this value is not used by anything"
            help = _foreign_statement(targets.items[0])
            help = help or "assign it to a name, `return` it, or remove it"
            self._error("GC0111", message, span, help)
            return Broken(span)
        value = self._right_side(values)
        if len(targets.items) == 1 and isinstance(targets.items[0], s.StateRead):
            return s.StateWrite(span, targets.items[0].name, value)
        return s.Assign(span, self._targets(targets), value)

    def _right_side(self, values: Bracketed) -> s.Expr:
        if len(values.items) == 1:
            return cast(s.Expr, values.items[0])
        return s.TupleExpr(values.span, values.items)

    def _targets(self, targets: Bracketed | None) -> tuple[s.Name, ...]:
        """The names on the left of ``=``; whatever else stands there is reported."""
        if targets is None:
            return ()
        for target in targets.items:
            if not isinstance(target, s.Name):
                self._error("GC0110", *_not_assignable(target))
        return _of(targets.items, s.Name)

    def _exprs(self, span: Span, children: list[Child]) -> Bracketed:
        return Bracketed(span, _of(children, s.Expr))

    def _scan(self, span: Span, children: list[Child]) -> s.Scan:
        targets = self._targets(children[0])
        truncate = children[-2]
        inputs, carries = _of(children, s.ScanInput), _of(children, s.Carry)
        return s.Scan(span, targets, inputs, carries, truncate, children[-1].items)

    def _scan_input(self, span: Span, children: list[Child]) -> s.ScanInput:
        return s.ScanInput(span, self._text(children[0]), children[2])

    def _carry(self, span: Span, children: list[Child]) -> s.Carry:
        return s.Carry(span, self._text(children[0]), children[2])

    def _output(self, span: Span, children: list[Child]) -> s.Output:
        _, name, _, value = children
        return s.Output(span, self._text(name), value)

    def _return(self, span: Span, children: list[Child]) -> s.Return:
        return s.Return(span, children[1].items)

    def _yield(self, span: Span, children: list[Child]) -> s.Yield:
        return s.Yield(span, children[1].items)

    def _if(self, span: Span, children: list[Child]) -> s.If:
        _, condition, then, _, otherwise = children
        return s.If(span, condition, then.items, _else(otherwise))

    def _member_if(self, span: Span, children: list[Child]) -> s.If:
        _, condition, then, _, otherwise = children
        branches = (then.items, _else(otherwise))
        for method in _of([m for branch in branches for m in branch], MethodMember):
            message = f"`{method.method.name.text}` stands outside `if`; put the `if` inside it"
            self._error("GC0117", message, method.span)
            self.has_misplaced_method = True
        then_, else_ = (_kept(branch) for branch in branches)
        return s.If(span, condition, then_, else_)

    def _for(self, span: Span, children: list[Child]) -> s.For:
        _, target, _, iterable, body = children
        return s.For(span, self._text(target), iterable, body.items)

    def _checkpoint(self, span: Span, children: list[Child]) -> s.Checkpoint:
        return s.Checkpoint(span, children[1].items)

    def _pullback(self, span: Span, children: list[Child]) -> PullbackStatement:
        _, formals, word, body = children
        if word is not None and str(word) != "asserted":
            message = f"`{word}` says nothing of a pullback"
            help = "leave it out, or write `asserted` for what is no derivative and is wanted so"
            self._error("GC0116", message, span_of(word, self.source), help)
        made = s.Pullback(span, formals.items, body.items, word is not None)
        return PullbackStatement(span, made)

    # --- expressions

    def _chain(self, span: Span, children: list[Child]) -> s.Chain:
        first, *rest = children
        links: list[s.Link] = []
        for operator, operand in zip(rest[::2], rest[1::2], strict=True):
            place = span_of(operator, self.source)
            links.append(s.Link(s.join(place, operand.span), operator.value, place, operand))
        return s.Chain(span, first, tuple(links))

    def _unary(self, span: Span, children: list[Child]) -> s.Unary:
        operator, operand = children
        return s.Unary(span, operator.value, operand)

    def _call(self, span: Span, children: list[Child]) -> s.Call:
        arguments = _of(children, s.Argument)
        seen: set[str] = set()
        for argument in arguments:
            if argument.name is None and seen:
                message = "an argument without a name stands after one with a name"
                self._error("GC0115", message, argument.span, "put arguments without names first")
            if argument.name is not None:
                if argument.name.text in seen:
                    message = f"`{argument.name.text}` is given twice"
                    self._error("GC0115", message, argument.name.span, "keep one of them")
                seen.add(argument.name.text)
        return s.Call(span, children[0], arguments)

    def _argument(self, span: Span, children: list[Child]) -> s.Argument:
        name, _, value = children
        return s.Argument(span, self._text(name) if name is not None else None, value)

    def _index(self, span: Span, children: list[Child]) -> s.Index:
        base, *rest = children
        items = [self._index_item(c) for c in rest if isinstance(c, s.Node)]
        ellipses = _of(items, s.Ellipsis)
        for extra in ellipses[1:]:
            self._error("GC0119", "an index has at most one `...`", extra.span, "write `:` instead")
        if not items:
            self._error("GC0119", "an index needs at least one item", span, "write `x[:]` for all")
        return s.Index(span, base, tuple(items))

    def _index_item(self, item: Child) -> s.IndexItem:
        if isinstance(item, s.Name) and item.text == "None":
            self.nones = [place for place in self.nones if not _is_within(place, item.span)]
            return s.NewAxis(item.span)
        return cast(s.IndexItem, item)

    def _slice(self, span: Span, children: list[Child]) -> s.Slice:
        start, _, stop, _, step = children
        return s.Slice(span, start, stop, step)

    def _ellipsis(self, span: Span, _children: list[Child]) -> s.Ellipsis:
        return s.Ellipsis(span)

    def _attribute(self, span: Span, children: list[Child]) -> s.Attribute:
        return s.Attribute(span, children[0], self._text(children[2]))

    def _name(self, span: Span, children: list[Child]) -> s.Expr:
        text = children[0].value
        if text in _CONSTANTS:
            message = f"`{text}` is not a constant of this language"
            self._error("GC0120", message, span, f"write `{_CONSTANTS[text]}`")
            return s.BoolLiteral(span, text == "True")
        if text == "None":
            self.nones.append(span)
        return s.Name(span, text)

    def _number(self, span: Span, children: list[Child]) -> s.Expr:
        """A literal; text that ``frontend.lexer`` has refused becomes 0."""
        text = children[0].value.replace("_", "")
        if text.isdecimal() and text.isascii():
            return s.IntLiteral(span, int(text) if len(text) < 400 else 0)
        try:
            return s.FloatLiteral(span, float(text))
        except ValueError:
            return s.IntLiteral(span, 0)

    def _string(self, span: Span, children: list[Child]) -> s.StringLiteral:
        return s.StringLiteral(span, children[0].value[1:-1])

    def _boolean(self, span: Span, children: list[Child]) -> s.BoolLiteral:
        return s.BoolLiteral(span, children[0].value == "true")

    def _state_read(self, span: Span, children: list[Child]) -> s.StateRead:
        return s.StateRead(span, self._text(children[1]))

    def _group(self, span: Span, children: list[Child]) -> s.Expr:
        return dataclasses.replace(cast(s.Expr, children[1]), span=span)

    def _tuple(self, span: Span, children: list[Child]) -> s.TupleExpr:
        return s.TupleExpr(span, _of(children, s.Expr))

    def _list(self, span: Span, children: list[Child]) -> s.ListExpr:
        return s.ListExpr(span, _of(children, s.Expr))


def _is_within(inner: Span, outer: Span) -> bool:
    return (outer.line, outer.column) <= (inner.line, inner.column) and (
        (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
    )


# What the one method of a declaration usually takes, for a help line.
_USUAL = {
    "apply": "x: float[..., I]",
    "update": "p, g, t",
    "at": "t",
    "sample": "shape, fan_in, fan_out",
}


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _items(part: Bracketed | None) -> tuple[Child, ...]:
    return part.items if part is not None else ()


def _else(part: Child) -> s.Block:
    """The statements of an ``else``: a block's, or the one ``if`` after it."""
    if part is None:
        return ()
    return part.items if isinstance(part, Bracketed) else (part,)


def _kept(branch: s.Block) -> s.Block:
    return tuple(m for m in branch if not isinstance(m, MethodMember | Broken))


def _not_assignable(target: s.Expr) -> tuple[str, Span, str]:
    """Message, place and help for something that stands on the left of ``=`` and is not a name."""
    if isinstance(target, s.Index):
        help = "make a new value, for example with `where(mask, new, old)` or `concat`"
        return "an element cannot be assigned to: values are immutable", target.span, help
    if isinstance(target, s.Attribute) and _is_self(target.base):
        help = "name the parts of a layer directly: `param w: ...`, then `w`"
        return "there is no `self`", target.span, help
    if isinstance(target, s.Attribute):
        help = "parameters are declared with `param`, stored values are written `state name = ...`"
        return "an attribute cannot be assigned to", target.span, help
    if isinstance(target, s.TupleExpr):
        return "brackets around names that are assigned", target.span, "write `a, b = ...`"
    if isinstance(target, s.StateRead):
        help = "write one `state name = ...` per line"
        return "a stored value is written on its own", target.span, help
    return "only a name can stand on the left of `=`", target.span, "write `name = value`"


def _is_self(expr: s.Expr) -> bool:
    return isinstance(expr, s.Name) and expr.text in ("self", "this")


def _foreign_statement(node: object) -> str:
    """What to write for a statement of another language, or an empty string."""
    callee = node.callee if isinstance(node, s.Call) else node
    return STATEMENTS.get(callee.text, "") if isinstance(callee, s.Name) else ""
