"""What a kernel text may be, checked on its syntax tree before anything runs or compiles it.

``parse_text`` accepts the language of ``codegen.cuda.verbs`` and nothing else, and holds a text to
one more rule: a variable that is used has been assigned on every way that leads there, so that a
thread never computes with what another branch has left.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from gradc.codegen.cuda.verbs import CONSTANTS, TEXT_VERBS

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitAnd: "logical_and",
    ast.BitOr: "logical_or",
    ast.BitXor: "bitxor",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}


# Python 3.11 counts how deep a tree is once for all threads, and stops where two build trees at the
# same time ("AST constructor recursion depth mismatch").
_PARSER = Lock()


class TextError(ValueError):
    """A text that is none; says the line."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The functions of a text in order; the last one is the kernel."""

    functions: tuple[ast.FunctionDef, ...]

    @property
    def kernel(self) -> ast.FunctionDef:
        return self.functions[-1]


def parse_text(source: str) -> ParsedText:
    """The functions of ``source``. Raises TextError where it is not a text."""
    try:
        with _PARSER:
            module = ast.parse(source)
    except SyntaxError as fault:
        raise TextError(f"line {fault.lineno}: {fault.msg}") from fault
    known: dict[str, int] = {}
    functions = []
    for statement in module.body:
        if not isinstance(statement, ast.FunctionDef):
            raise _fault(statement, "only functions stand at the top")
        functions.append(statement)
        given = statement.args
        if given.defaults or given.vararg or given.kwarg or given.kwonlyargs or given.posonlyargs:
            raise _fault(statement, "parameters are names")
        if statement.name in TEXT_VERBS or statement.decorator_list:
            raise _fault(statement, f"{statement.name} cannot be defined so")
        _Checker(known).function(statement, [a.arg for a in given.args])
        known[statement.name] = len(given.args)
    if not functions:
        raise TextError("a text defines a function")
    return ParsedText(tuple(functions))


def _fault(node: ast.AST, message: str) -> TextError:
    return TextError(f"line {getattr(node, 'lineno', 0)}: {message}")


class _Checker:
    """Checks one function; ``known`` are the functions before it and how much they take."""

    def __init__(self, known: dict[str, int]) -> None:
        self.known = known

    def function(self, tree: ast.FunctionDef, parameters: Sequence[str]) -> None:
        body = list(tree.body)
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body = body[1:]
        last = body[-1] if body else None
        have = set(parameters)
        if isinstance(last, ast.Return):
            self.body(body[:-1], have)
            if last.value is None:
                raise _fault(last, "a return gives a value")
            self.expression(last.value, have)
        else:
            self.body(body, have)

    def body(self, statements: Iterable[ast.stmt], have: set[str]) -> None:
        """Statements in order; adds to ``have`` what is assigned for certain."""
        for statement in statements:
            if isinstance(statement, ast.Assign):
                self.expression(statement.value, have)
                (target,) = statement.targets
                have.update(self._names(target))
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self.expression(statement.value, have)
            elif isinstance(statement, ast.For):
                self._for(statement, have)
            elif isinstance(statement, ast.While):
                self.expression(statement.test, have)
                self.body(statement.body, set(have))
            elif isinstance(statement, ast.If):
                self.expression(statement.test, have)
                one, other = set(have), set(have)
                self.body(statement.body, one)
                self.body(statement.orelse, other)
                have.update(one & other)
            elif not isinstance(statement, ast.Pass):
                raise _fault(statement, f"a text has no {type(statement).__name__}")

    def _for(self, loop: ast.For, have: set[str]) -> None:
        call = loop.iter
        match call:
            case ast.Call(func=ast.Name(id="range"), args=[_] | [_, _] | [_, _, _]):
                pass
            case _:
                raise _fault(loop, "a loop is over a range")
        for argument in call.args:
            self.expression(argument, have)
        self.body(loop.body, {*have, *self._names(loop.target)})

    def _names(self, target: ast.expr) -> list[str]:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        names = []
        for part in parts:
            if not isinstance(part, ast.Name) or part.id in TEXT_VERBS or part.id in self.known:
                raise _fault(target, "what is assigned to is a name of its own")
            names.append(part.id)
        return names

    def expression(self, tree: ast.expr, have: set[str]) -> None:
        """Checks an expression whose variables must be in ``have``."""
        if isinstance(tree, ast.Name):
            if tree.id not in have and tree.id not in CONSTANTS:
                raise _fault(tree, f"{tree.id} has no value here")
        elif isinstance(tree, ast.Constant):
            if type(tree.value) not in (int, float, bool):
                raise _fault(tree, f"no literal {tree.value!r}")
        elif isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
            self.expression(tree.left, have)
            self.expression(tree.right, have)
        elif isinstance(tree, ast.Compare) and len(tree.ops) == 1:
            if type(tree.ops[0]) not in OPERATORS:
                raise _fault(tree, "no such comparison")
            self.expression(tree.left, have)
            self.expression(tree.comparators[0], have)
        elif isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            self._negative(tree.operand)
        elif isinstance(tree, ast.Subscript):
            self.expression(tree.value, have)
            if not isinstance(tree.slice, ast.Constant) or type(tree.slice.value) is not int:
                raise _fault(tree, "a place in a tuple is a literal")
        elif isinstance(tree, ast.Tuple):
            for part in tree.elts:
                self.expression(part, have)
        elif isinstance(tree, ast.Call):
            self._call(tree, have)
        else:
            raise _fault(tree, f"a text has no {type(tree).__name__}")

    def _negative(self, tree: ast.expr) -> None:
        is_number = isinstance(tree, ast.Constant) and type(tree.value) in (int, float)
        if not is_number and not (isinstance(tree, ast.Name) and tree.id == "INF"):
            raise _fault(tree, "a minus stands before literals only")

    def _call(self, call: ast.Call, have: set[str]) -> None:
        if not isinstance(call.func, ast.Name) or call.keywords:
            raise _fault(call, "what is called is a name")
        name, given = call.func.id, list(call.args)
        verb = TEXT_VERBS.get(name)
        count = self.known.get(name) if verb is None else len(verb.takes)
        if count is None or len(given) != count:
            raise _fault(call, f"there is no {name} of {len(given)}")
        if verb is not None and verb.takes and verb.takes[0] == "type":
            kind = given.pop(0)
            types = (v.name for v in TEXT_VERBS.values() if v.kind == "cast")
            if not isinstance(kind, ast.Name) or kind.id not in types:
                raise _fault(call, f"{name} wants a type first")
        for argument in given:
            self.expression(argument, have)
        for takes, operand in zip(verb.takes if verb is not None else (), call.args, strict=False):
            if takes == "n" and (
                not isinstance(operand, ast.Constant) or type(operand.value) is not int
            ):
                raise _fault(call, f"{name} wants a literal")
