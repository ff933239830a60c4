"""Random well-formed syntax trees, for round trips and as seeds of the mutation fuzz.

The trees obey the grammar and the structural rules, not names, types or shapes. Spans are all the
same empty place: equality of trees ignores them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from gradc.frontend.syntax import tree as s
from gradc.ir.tensor.core import Span

HERE = Span("tree", 1, 1, 1, 1)
NAMES = (
    "x",
    "y",
    "w",
    "h",
    "batch",
    "q_1",
    "_t",
    "apply",
    "at",
    "update",
    "pi",
    "mean",
    "zeros",
    "T",
)
TYPES = ("float", "int", "f64", "bool", "bf16")
Item = TypeVar("Item")

_SUMS: tuple[s.BinaryOperator, ...] = ("+", "-")
_PRODUCTS: tuple[s.BinaryOperator, ...] = ("*", "/", "//", "%", "@")
_COMPARISONS: tuple[s.BinaryOperator, ...] = ("<", "<=", ">", ">=", "==", "!=")


class TreeMaker:
    """Makes trees from one source of randomness; ``size`` bounds how deep expressions nest."""

    def __init__(self, source: random.Random, size: int = 4) -> None:
        self.random = source
        self.size = size

    def program(self) -> s.Program:
        """A whole file."""
        makers: Sequence[Callable[[], s.Declaration]] = (
            self._dims, self._model, self._layer, self._function, self._optimizer,
            self._schedule, self._initializer, self._import,
        )  # fmt: skip
        count = self.random.randint(0, 4)
        return s.Program(HERE, tuple(self.random.choice(makers)() for _ in range(count)))

    # --- pieces

    def _some(self, make: Callable[[], Item], low: int = 0, high: int = 3) -> tuple[Item, ...]:
        return tuple(make() for _ in range(self.random.randint(low, high)))

    def _maybe(self, make: Callable[[], Item]) -> Item | None:
        return make() if self.random.random() < 0.5 else None

    def _name(self) -> s.Name:
        return s.Name(HERE, self.random.choice(NAMES))

    def expr(self, depth: int | None = None) -> s.Expr:
        """An expression that nests at most ``depth`` operators and calls."""
        left = self.size if depth is None else depth
        if left <= 0 or self.random.random() < 0.25:
            return self._leaf()
        makers: Sequence[Callable[[int], s.Expr]] = (
            self._chain, self._chain, self._chain, self._unary, self._call, self._call,
            self._index, self._attribute, self._list, self._tuple,
        )  # fmt: skip
        return self.random.choice(makers)(left - 1)

    def _leaf(self) -> s.Expr:
        kind = self.random.randrange(7)
        if kind == 0:
            return s.IntLiteral(HERE, self.random.choice((0, 1, 3, 64, 10**9, 2**63 - 1)))
        if kind == 1:
            return s.FloatLiteral(HERE, self.random.choice((0.0, 0.5, 1e-5, 1e300, 2.5e-8, 3.0)))
        if kind == 2:
            return s.BoolLiteral(HERE, self.random.random() < 0.5)
        if kind == 3:
            return s.StringLiteral(
                HERE, self.random.choice(("", "ij,jk->ik", "# not a comment", "ü"))
            )
        if kind == 4:
            return s.StateRead(HERE, self._name())
        return self._name()

    def _chain(self, depth: int) -> s.Expr:
        operators, high = self.random.choice(
            (
                (_SUMS, 4),
                (_PRODUCTS, 3),
                (_COMPARISONS, 1),
                (("^",), 1),
                (("and",), 3),
                (("or",), 3),
            )
        )
        count = self.random.randint(1, high)
        links = [self._link(self.random.choice(operators), depth) for _ in range(count)]
        return s.Chain(HERE, self.expr(depth), tuple(links))

    def _link(self, operator: s.BinaryOperator, depth: int) -> s.Link:
        return s.Link(HERE, operator, HERE, self.expr(depth))

    def _unary(self, depth: int) -> s.Expr:
        operators: tuple[s.UnaryOperator, ...] = ("-", "+", "not")
        return s.Unary(HERE, self.random.choice(operators), self.expr(depth))

    def _call(self, depth: int) -> s.Call:
        positional = [s.Argument(HERE, None, self.expr(depth)) for _ in range(self._few())]
        names = self.random.sample(NAMES, self._few())
        named = [s.Argument(HERE, s.Name(HERE, n), self.expr(depth)) for n in names]
        return s.Call(HERE, self.expr(depth - 2), (*positional, *named))

    def _few(self) -> int:
        return self.random.choice((0, 1, 1, 2))

    def _index(self, depth: int) -> s.Expr:
        items: list[s.IndexItem] = [self._index_item(depth) for _ in range(self._few() + 1)]
        if self.random.random() < 0.3:
            items.insert(self.random.randint(0, len(items)), s.Ellipsis(HERE))
        return s.Index(HERE, self.expr(depth - 1), tuple(items))

    def _index_item(self, depth: int) -> s.IndexItem:
        kind = self.random.randrange(4)
        if kind == 0:
            return s.NewAxis(HERE)
        if kind == 1:
            parts = [self._maybe(lambda: self.expr(depth - 1)) for _ in range(3)]
            return s.Slice(HERE, *parts)
        return self.expr(depth)

    def _attribute(self, depth: int) -> s.Expr:
        return s.Attribute(
            HERE, self.expr(depth), s.Name(HERE, self.random.choice(("T", "w", "b")))
        )

    def _list(self, depth: int) -> s.Expr:
        return s.ListExpr(HERE, self._some(lambda: self.expr(depth)))

    def _tuple(self, depth: int) -> s.Expr:
        return s.TupleExpr(HERE, self._some(lambda: self.expr(depth)))

    def _type(self) -> s.TypeExpr:
        dims: tuple[s.Expr | s.Ellipsis, ...] = self._some(lambda: self.expr(1))
        if self.random.random() < 0.3:
            dims = (s.Ellipsis(HERE), *dims)
        return s.TypeExpr(HERE, s.Name(HERE, self.random.choice(TYPES)), dims)

    def _typed(self) -> s.Parameter:
        return s.Parameter(HERE, self._name(), self._type(), self._maybe(lambda: self.expr(1)))

    def _untyped(self) -> s.Parameter:
        return s.Parameter(HERE, self._name(), None, self._maybe(lambda: self.expr(1)))

    def _dim_entry(self) -> s.DimEntry:
        return s.DimEntry(HERE, self._name(), self.expr(2))

    # --- statements

    def _body(self, depth: int, *, loops: bool = True) -> s.Block:
        makers: list[Callable[[], s.Statement]] = [self._assign, self._assign]
        if depth > 0:
            makers += [lambda: self._if(depth), lambda: self._scan(depth)]
            makers += [lambda: s.Checkpoint(HERE, self._body(depth - 1))]
            if loops:
                makers += [lambda: self._for(depth)]
        return self._some(lambda: self.random.choice(makers)())

    def _function_body(self) -> s.Block:
        return (*self._body(2), s.Return(HERE, self._some(self.expr, 1, 2)))

    def _assign(self) -> s.Statement:
        if self.random.random() < 0.1:
            return s.LocalDim(HERE, self._some(self._dim_entry, 1, 2))
        return s.Assign(HERE, self._some(self._name, 1, 3), self.expr())

    def _if(self, depth: int) -> s.Statement:
        return s.If(HERE, self.expr(2), self._body(depth - 1), self._body(depth - 1))

    def _for(self, depth: int) -> s.Statement:
        return s.For(HERE, self._name(), self.expr(2), self._body(depth - 1))

    def _scan(self, depth: int) -> s.Statement:
        inputs = self._some(lambda: s.ScanInput(HERE, self._name(), self.expr(2)), 1, 2)
        carries = self._some(lambda: s.Carry(HERE, self._name(), self.expr(2)), 0, 2)
        body = (*self._body(depth - 1), s.Yield(HERE, self._some(self.expr, 1, 2)))
        targets = self._some(self._name, 0, 2)
        return s.Scan(HERE, targets, inputs, carries, self._maybe(lambda: self.expr(1)), body)

    def _param(self) -> s.Statement:
        return s.ParamDeclaration(HERE, self._name(), self._type(), self._maybe(self._start))

    def _state(self) -> s.Statement:
        if self.random.random() < 0.5:
            return s.StateDeclaration(HERE, self._name(), None, self._start())
        return s.StateDeclaration(HERE, self._name(), self._type(), self._maybe(self._start))

    def _start(self) -> s.Expr:
        return self._name() if self.random.random() < 0.5 else self._call(1)

    def _use(self) -> s.Statement:
        count = self._maybe(lambda: self.expr(2))
        return s.UseDeclaration(HERE, self._name(), self._call(1), count)

    def _member(self) -> s.Statement:
        return self.random.choice((self._param, self._state, self._use))()

    def _member_if(self) -> s.Statement:
        return s.If(HERE, self.expr(1), self._some(self._member), self._some(self._member, 0, 1))

    # --- declarations

    def _method(self, name: str, typed: bool) -> s.Method:
        make = self._typed if typed else self._untyped
        results = self._some(self._type, 0, 2)
        name_ = s.Name(HERE, name)
        return s.Method(HERE, name_, self._some(make), results, self._function_body())

    def _import(self) -> s.Declaration:
        return s.Import(HERE, s.StringLiteral(HERE, "other.grad"))

    def _dims(self) -> s.Declaration:
        def entry() -> s.DimEntry:
            return s.DimEntry(HERE, self._name(), self._maybe(lambda: self.expr(1)))

        return s.DimDeclaration(HERE, self._some(entry, 1, 3))

    def _model(self) -> s.Declaration:
        body = (*self._some(self._member), *self._function_body())
        extra = (s.Output(HERE, self._name(), self._maybe(self.expr)),)
        results = self._some(self._type, 0, 2)
        return s.Model(HERE, self._name(), self._some(self._typed), results, extra + body)

    def _layer(self) -> s.Declaration:
        members = self._some(self._member) + self._some(self._member_if, 0, 1)
        apply = self._method("apply", typed=True)
        return s.Layer(HERE, self._name(), self._some(self._untyped), members, apply)

    def _function(self) -> s.Declaration:
        pullback = self._maybe(
            lambda: s.Pullback(HERE, self._some(self._untyped, 1, 2), self._function_body())
        )
        results = self._some(self._type, 0, 2)
        body = self._function_body()
        parameters = self._some(self._typed)
        return s.Function(HERE, self._name(), parameters, results, body, pullback)

    def _optimizer(self) -> s.Declaration:
        update = self._method("update", typed=False)
        states = self._some(self._state)
        return s.Optimizer(HERE, self._name(), self._some(self._untyped), states, update)

    def _schedule(self) -> s.Declaration:
        at = self._method("at", typed=False)
        return s.Schedule(HERE, self._name(), self._some(self._untyped), at)

    def _initializer(self) -> s.Declaration:
        sample = self._method("sample", typed=False)
        return s.Initializer(HERE, self._name(), self._some(self._untyped), sample)
