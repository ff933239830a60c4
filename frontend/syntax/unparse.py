"""Syntax tree to text: a program that parses to the same tree, with no more brackets than needed.

Used for trees that never were text: generated programs, minimised counterexamples. For text that a
person wrote ``frontend.format`` keeps the comments. ``dump`` shows the tree itself, for ``--emit
ast``.

Invariants: ``parse(unparse(t)) == t`` for every tree that the parser can produce; no recursion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from gradc.frontend.syntax import tree as s
from gradc.frontend.syntax.walk import walk

# Binding strength, as in the grammar: a looser operand of a tighter operator needs brackets.
_LEVELS = {"or": 1, "and": 2, "+": 5, "-": 5, "^": 8}
_NOT, _COMPARISON, _PRODUCT, _SIGN, _POWER, _POSTFIX = 3, 4, 6, 7, 8, 9
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def unparse(program: s.Node) -> str:
    """The text of a tree: a whole program, a declaration, a statement or an expression."""
    texts: dict[int, str] = {}
    for node in reversed(list(walk(program))):
        texts[id(node)] = _Writer(texts).write(node)
    return texts[id(program)]


def _level(expr: s.Node) -> int:
    match expr:
        case s.Chain(rest=rest):
            operator: str = rest[0].operator
            return _COMPARISON if operator in _COMPARISONS else _LEVELS.get(operator, _PRODUCT)
        case s.Unary():
            return _NOT if expr.operator == "not" else _SIGN
        case _:
            return _POSTFIX + 1


class _Writer:
    """Writes one node from the texts of its children."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts

    def write(self, node: s.Node) -> str:
        """The text of ``node``."""
        if isinstance(node, s.Expr):
            return self._expression(node)
        if isinstance(node, s.Statement):
            return self._statement(node)
        if isinstance(node, s.Declaration):
            return self._declaration(node)
        return self._part(node)

    def _of(self, node: s.Node) -> str:
        return self.texts[id(node)]

    def _within(self, node: s.Expr, level: int) -> str:
        """The text of ``node`` as an operand that must bind at least as tightly as ``level``."""
        text = self._of(node)
        return text if _level(node) >= level else f"({text})"

    def _list(self, nodes: Iterable[s.Node]) -> str:
        return ", ".join(self._of(node) for node in nodes)

    def _expression(self, node: s.Expr) -> str:
        match node:
            case s.IntLiteral(value=value):
                return str(value)
            case s.FloatLiteral(value=value):
                return repr(value)
            case s.BoolLiteral(value=value):
                return "true" if value else "false"
            case s.StringLiteral(value=value):
                return f'"{value}"'
            case s.Name(text=text):
                return text
            case s.StateRead(name=name):
                return f"state {self._of(name)}"
            case s.Unary():
                return self._unary(node)
            case s.Chain():
                return self._chain(node)
            case s.ListExpr(items=items):
                return f"[{self._list(items)}]"
            case s.TupleExpr(items=items):
                return f"({self._of(items[0])},)" if len(items) == 1 else f"({self._list(items)})"
            case _:
                return self._postfix(node)

    def _unary(self, node: s.Unary) -> str:
        if node.operator == "not":
            return f"not {self._within(node.operand, _NOT)}"
        return node.operator + self._within(node.operand, _SIGN)

    def _chain(self, node: s.Chain) -> str:
        level = _level(node)
        first = self._within(node.first, _POSTFIX if level == _POWER else level + 1)
        texts = [first]
        for link in node.rest:
            operand = self._within(link.operand, _SIGN if level == _POWER else level + 1)
            texts.append(f"^{operand}" if level == _POWER else f" {link.operator} {operand}")
        return "".join(texts)

    def _postfix(self, node: s.Expr) -> str:
        match node:
            case s.Call(callee=callee, arguments=arguments):
                return f"{self._within(callee, _POSTFIX)}({self._list(arguments)})"
            case s.Index(base=base, items=items):
                return f"{self._within(base, _POSTFIX)}[{self._list(items)}]"
            case s.Attribute(base=base, name=name):
                return f"{self._base(base)}.{self._of(name)}"
            case _:
                raise TypeError(f"not an expression: {type(node).__name__}")

    def _base(self, base: s.Expr) -> str:
        """The left side of a dot; a number there would take the dot for its own."""
        if isinstance(base, s.IntLiteral | s.FloatLiteral):
            return f"({self._of(base)})"
        return self._within(base, _POSTFIX)

    def _part(self, node: s.Node) -> str:
        match node:
            case s.Program(declarations=declarations):
                return "".join(self._of(d) + "\n" for d in declarations)
            case s.Argument(name=name, value=value):
                return f"{self._of(name)} = {self._of(value)}" if name else self._of(value)
            case s.Slice(start=start, stop=stop, step=step):
                first, second = (self._of(part) if part else "" for part in (start, stop))
                return f"{first}:{second}" + (f":{self._of(step)}" if step else "")
            case s.Ellipsis():
                return "..."
            case s.NewAxis():
                return "None"
            case s.TypeExpr(element=element, dims=dims):
                return self._of(element) + (f"[{self._list(dims)}]" if dims else "")
            case s.Parameter(name=name, type=type_, default=default):
                return self._of(name) + self._optional(": ", type_) + self._optional(" = ", default)
            case s.DimEntry(name=name, default=default):
                return self._of(name) + self._optional(" = ", default)
            case s.ScanInput(target=target, source=source):
                return f"{self._of(target)} in {self._of(source)}"
            case s.Carry(name=name, initial=initial):
                return f"{self._of(name)} = {self._of(initial)}"
            case s.Method(name=name, parameters=parameters, results=results, body=body):
                head = f"{self._of(name)}({self._list(parameters)}){self._results(results)}"
                return f"{head} {self._block(body)}"
            case s.Pullback(parameters=parameters, body=body, is_asserted=is_asserted):
                word = " asserted" if is_asserted else ""
                return f"pullback({self._list(parameters)}){word} {self._block(body)}"
            case _:
                return ""  # a Link: its Chain writes it

    def _optional(self, before: str, node: s.Node | None) -> str:
        return before + self._of(node) if node is not None else ""

    def _results(self, results: tuple[s.TypeExpr, ...]) -> str:
        if not results:
            return ""
        return (
            f" -> {self._of(results[0])}" if len(results) == 1 else f" -> ({self._list(results)})"
        )

    def _block(self, *groups: Iterable[s.Node]) -> str:
        lines = [self._of(node) for group in groups for node in group]
        if not lines:
            return "{ }"
        inside = "\n".join(lines).replace("\n", "\n    ")
        return f"{{\n    {inside}\n}}"

    def _statement(self, node: s.Statement) -> str:
        match node:
            case s.ParamDeclaration(name=name, type=type_, initializer=initializer):
                return f"param {self._of(name)}: {self._of(type_)}" + self._optional(
                    " ~ ", initializer
                )
            case s.StateDeclaration(name=name, type=type_, initializer=initializer):
                typed = f"state {self._of(name)}{self._optional(': ', type_)}"
                return typed + self._optional(" ~ ", initializer)
            case s.UseDeclaration(name=name, layer=layer, count=count):
                times = f" * {self._within(count, _PRODUCT)}" if count is not None else ""
                return f"use {self._of(name)} = {self._of(layer)}{times}"
            case s.LocalDim(entries=entries):
                return f"dim {self._list(entries)}"
            case s.Assign(targets=targets, value=value):
                return f"{self._list(targets)} = {self._of(value)}"
            case s.StateWrite(name=name, value=value):
                return f"state {self._of(name)} = {self._of(value)}"
            case s.Output(name=name, value=value):
                return f"output {self._of(name)}{self._optional(' = ', value)}"
            case s.Return(values=values):
                return f"return {self._list(values)}"
            case s.Yield(values=values):
                return f"yield {self._list(values)}"
            case _:
                return self._compound(node)

    def _compound(self, node: s.Statement) -> str:
        match node:
            case s.If(condition=condition, then=then, otherwise=otherwise):
                text = f"if {self._of(condition)} {self._block(then)}"
                return f"{text} else {self._block(otherwise)}" if otherwise else text
            case s.For(target=target, iterable=iterable, body=body):
                return f"for {self._of(target)} in {self._of(iterable)} {self._block(body)}"
            case s.Checkpoint(body=body):
                return f"checkpoint {self._block(body)}"
            case s.Scan():
                return self._scan(node)
            case _:
                raise TypeError(f"not a statement: {type(node).__name__}")

    def _scan(self, node: s.Scan) -> str:
        targets = f"{self._list(node.targets)} = " if node.targets else ""
        carry = f" carry {self._list(node.carries)}" if node.carries else ""
        truncate = self._optional(" truncate ", node.truncate)
        inputs = self._list(node.inputs)
        return f"{targets}scan {inputs}{carry}{truncate} {self._block(node.body)}"

    def _declaration(self, node: s.Declaration) -> str:
        match node:
            case s.Import(path=path):
                return f"import {self._of(path)}"
            case s.DimDeclaration(entries=entries):
                return f"dim {self._list(entries)}"
            case s.Model(name=name, parameters=parameters, results=results, body=body):
                head = f"model {self._of(name)}({self._list(parameters)}){self._results(results)}"
                return f"{head} {self._block(body)}"
            case s.Function(name=name, parameters=parameters, results=results):
                head = f"fn {self._of(name)}({self._list(parameters)}){self._results(results)}"
                pullback = (node.pullback,) if node.pullback is not None else ()
                return f"{head} {self._block(node.body, pullback)}"
            case s.Layer(members=members, apply=method):
                return f"layer {self._signature(node)} {self._block(members, (method,))}"
            case s.Optimizer(members=members, update=method):
                return f"optimizer {self._signature(node)} {self._block(members, (method,))}"
            case s.Schedule(at=method):
                return f"schedule {self._signature(node)} {self._block((method,))}"
            case s.Initializer(sample=method):
                return f"initializer {self._signature(node)} {self._block((method,))}"
            case _:
                raise TypeError(f"not a declaration: {type(node).__name__}")

    def _signature(self, node: s.Layer | s.Optimizer | s.Schedule | s.Initializer) -> str:
        parameters = f"({self._list(node.parameters)})" if node.parameters else ""
        return self._of(node.name) + parameters


def dump(root: s.Node) -> str:
    """The tree as indented text, one node per line with its place; stable, for people and tests."""
    lines: list[str] = []
    pending: list[tuple[s.Node, int, str]] = [(root, 0, "")]
    while pending:
        node, depth, label = pending.pop()
        scalars: list[str] = []
        below: list[tuple[s.Node, int, str]] = []
        for item in fields(node):
            value = getattr(node, item.name)
            if isinstance(value, s.Node):
                below.append((value, depth + 1, f"{item.name}: "))
            elif isinstance(value, tuple):
                below += [(v, depth + 1, f"{item.name}[{i}]: ") for i, v in enumerate(value)]
            elif isinstance(value, bool | int | float | str):
                scalars.append(f" {value!r}")
        place = f"{node.span.line}:{node.span.column}-{node.span.end_line}:{node.span.end_column}"
        kind = type(node).__name__
        lines.append(f"{'  ' * depth}{label}{kind}{''.join(scalars)} @{place}")
        pending.extend(reversed(below))
    return "\n".join(lines) + "\n"
