"""The syntax tree: what a program says, before names, types and shapes mean anything.

Every node is a frozen dataclass whose first field is its ``span`` (1-based, end exclusive).
Equality ignores spans, so ``parse(print(tree)) == tree`` compares what was said and not where.

Invariants the parser establishes
- Binary operators of one precedence level that associate to the left are one flat
  :class:`Chain`, so the depth of a tree is bounded by the nesting limit, not by the length of a
  sum.
- Parentheses leave no node; the span of a bracketed expression includes its brackets.
- ``pi``, ``inf``, ``training`` and the type names are ordinary names here.
- A :class:`Model` or :class:`Function` body is a block of statements; declarations (``param``,
  ``state``, ``use``, ``dim``) are statements too. The body of a layer or optimiser holds
  declarations only (also under ``if``) besides its one method.

Non-goals: scope, types, shapes, meaning. Walk deep trees with ``frontend.walk``, not by recursion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gradc.ir.tensor.core import Span

BinaryOperator: TypeAlias = Literal[
    "+", "-", "*", "/", "//", "%", "@", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or"
]
UnaryOperator: TypeAlias = Literal["-", "+", "not"]


@dataclass(frozen=True, slots=True)
class Node:
    """Anything with a place in the text."""

    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Expr(Node):
    """An expression. Subclasses: literals, Name, StateRead, Unary, Chain, Call, Index, Attribute,
    ListExpr, TupleExpr."""


@dataclass(frozen=True, slots=True)
class Statement(Node):
    """Anything that stands in a block between braces."""


@dataclass(frozen=True, slots=True)
class Declaration(Node):
    """Anything that stands at the top level of a file."""


# --- expressions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IntLiteral(Expr):
    """``42``; never negative (a sign is a Unary) and within 64 signed bits."""

    value: int


@dataclass(frozen=True, slots=True)
class FloatLiteral(Expr):
    """``1e-5``; finite, never negative."""

    value: float


@dataclass(frozen=True, slots=True)
class BoolLiteral(Expr):
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True, slots=True)
class StringLiteral(Expr):
    """``"bqnd,bknd->bnqk"``, without the quotes; there are no escapes."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Expr):
    """A name, where it is used or where it is bound (targets, parameters, declarations)."""

    text: str


@dataclass(frozen=True, slots=True)
class StateRead(Expr):
    """``state mean`` in an expression: the stored value."""

    name: Name


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """``-x``, ``+x``, ``not x``."""

    operator: UnaryOperator
    operand: Expr


@dataclass(frozen=True, slots=True)
class Link(Node):
    """One operator and its right operand within a Chain; the span covers both."""

    operator: BinaryOperator
    operator_span: Span = field(compare=False, repr=False)
    operand: Expr


@dataclass(frozen=True, slots=True)
class Chain(Expr):
    """``first op a op b ...`` applied from left to right; ``rest`` has at least one link.

    ``a - b + c`` is one Chain with two links. Comparisons do not chain and ``^`` associates to the
    right, so both always have exactly one link: ``a ^ b ^ c`` is Chain(a, [^ Chain(b, [^ c])]).
    All operators of one chain have the same precedence.
    """

    first: Expr
    rest: tuple[Link, ...]

    def prefix_span(self, count: int) -> Span:
        """The span of ``first`` and ``count`` links: the left operand of link ``count``."""
        return join(self.first.span, self.rest[count - 1].span) if count else self.first.span


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """An argument of a call, ``value`` or ``name = value``. Positional ones come first."""

    name: Name | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """``callee(arguments)``; the callee is any postfix expression, ``relu`` or ``blocks[0]``."""

    callee: Expr
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """``start : stop : step`` inside an index; each part may be absent."""

    start: Expr | None
    stop: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True)
class Ellipsis(Node):
    """``...`` inside an index or among the dimensions of a type."""


@dataclass(frozen=True, slots=True)
class NewAxis(Node):
    """``None`` inside an index: a new axis of size one."""


IndexItem: TypeAlias = Expr | Slice | Ellipsis | NewAxis


@dataclass(frozen=True, slots=True)
class Index(Expr):
    """``base[items]``; at least one item, at most one Ellipsis."""

    base: Expr
    items: tuple[IndexItem, ...]


@dataclass(frozen=True, slots=True)
class Attribute(Expr):
    """``base.name``: ``x.T`` transposes; else a part of a layer instance, as in ``emb.w.T``."""

    base: Expr
    name: Name


@dataclass(frozen=True, slots=True)
class ListExpr(Expr):
    """``[B, T, N]``: a shape, or a list of dimensions or axes."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class TupleExpr(Expr):
    """``(1, 2)`` or ``()``, and the right side of ``a, b = b, a``."""

    items: tuple[Expr, ...]


# --- types and parameters ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TypeExpr(Node):
    """``float[..., I]``: an element type and its dimensions; ``()`` for a bare type, a scalar."""

    element: Name
    dims: tuple[Expr | Ellipsis, ...]


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A formal parameter: ``x: float[B]``, ``beta: float = 1.0``, ``momentum = 0.9`` or ``I``."""

    name: Name
    type: TypeExpr | None
    default: Expr | None


# --- statements -------------------------------------------------------------------------------

Block: TypeAlias = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class ParamDeclaration(Statement):
    """``param w: float[I, O] ~ he_normal``; the initialiser is a Name or a Call."""

    name: Name
    type: TypeExpr
    initializer: Expr | None


@dataclass(frozen=True, slots=True)
class StateDeclaration(Statement):
    """``state mean: float[C] ~ zeros``; an optimiser's ``state m ~ zeros`` has no type."""

    name: Name
    type: TypeExpr | None
    initializer: Expr | None


@dataclass(frozen=True, slots=True)
class UseDeclaration(Statement):
    """``use fc1 = dense(D, H)`` or, with a count, ``use blocks = block(D, N) * L``."""

    name: Name
    layer: Call
    count: Expr | None


@dataclass(frozen=True, slots=True)
class DimEntry(Node):
    """One name of a ``dim`` declaration with its default."""

    name: Name
    default: Expr | None


@dataclass(frozen=True, slots=True)
class LocalDim(Statement):
    """``dim inner = 4 * D`` in a body; every entry has a default."""

    entries: tuple[DimEntry, ...]


@dataclass(frozen=True, slots=True)
class Assign(Statement):
    """``a = value`` or ``q, k = value``; the value is a TupleExpr where the text lists several."""

    targets: tuple[Name, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class StateWrite(Statement):
    """``state mean = value``."""

    name: Name
    value: Expr


@dataclass(frozen=True, slots=True)
class Output(Statement):
    """``output logits`` or ``output probs = softmax(logits)``: a named extra result of a model."""

    name: Name
    value: Expr | None


@dataclass(frozen=True, slots=True)
class Return(Statement):
    """``return value`` or ``return a, b``; never empty."""

    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Yield(Statement):
    """``yield h`` or ``yield h, c`` in the body of a scan; never empty."""

    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class If(Statement):
    """``if condition { then } else { otherwise }``; ``else if`` nests an If as only statement."""

    condition: Expr
    then: Block
    otherwise: Block


@dataclass(frozen=True, slots=True)
class For(Statement):
    """``for b in blocks { body }``: walks layer instances at compile time."""

    target: Name
    iterable: Expr
    body: Block


@dataclass(frozen=True, slots=True)
class Checkpoint(Statement):
    """``checkpoint { body }``: names assigned inside are visible after it."""

    body: Block


@dataclass(frozen=True, slots=True)
class ScanInput(Node):
    """``x in xs``: x is one slice of xs along its first axis."""

    target: Name
    source: Expr


@dataclass(frozen=True, slots=True)
class Carry(Node):
    """``h = zeros([B, H])``: the carried name and its value before the first step."""

    name: Name
    initial: Expr


@dataclass(frozen=True, slots=True)
class Scan(Statement):
    """``hs = scan x in xs, ... carry h = ..., ... truncate 64 { body }``.

    ``targets`` receive the stacked yields and may be empty. After it the carried names hold their
    last values. The step number is an input like any other: ``scan x in xs, t in iota(T)``.
    """

    targets: tuple[Name, ...]
    inputs: tuple[ScanInput, ...]
    carries: tuple[Carry, ...]
    truncate: Expr | None
    body: Block


# --- declarations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import(Declaration):
    """``import "other.grad"``; the path is relative to the importing file."""

    path: StringLiteral


@dataclass(frozen=True, slots=True)
class DimDeclaration(Declaration):
    """``dim B, D = 784, H = 128``."""

    entries: tuple[DimEntry, ...]


@dataclass(frozen=True, slots=True)
class Model(Declaration):
    """``model mlp(x: float[B, D]) -> float { body }``."""

    name: Name
    parameters: tuple[Parameter, ...]
    results: tuple[TypeExpr, ...]
    body: Block


@dataclass(frozen=True, slots=True)
class Pullback(Node):
    """``pullback(ct) { ... return x_ct }``: one parameter per result, one return per argument.

    ``pullback(ct) asserted { ... }`` is the user's word that this is what is wanted, derivative or
    not.
    """

    parameters: tuple[Parameter, ...]
    body: Block
    is_asserted: bool = False


@dataclass(frozen=True, slots=True)
class Function(Declaration):
    """``fn swish(x: float[...], beta = 1.0) -> float[...] { body }``; results may be empty."""

    name: Name
    parameters: tuple[Parameter, ...]
    results: tuple[TypeExpr, ...]
    body: Block
    pullback: Pullback | None


@dataclass(frozen=True, slots=True)
class Method(Node):
    """The one method of a declaration: ``apply``, ``update``, ``at`` or ``sample``."""

    name: Name
    parameters: tuple[Parameter, ...]
    results: tuple[TypeExpr, ...]
    body: Block


@dataclass(frozen=True, slots=True)
class Layer(Declaration):
    """``layer dense(I, O) { members apply(x: ...) -> ... { } }``."""

    name: Name
    parameters: tuple[Parameter, ...]
    members: Block
    apply: Method


@dataclass(frozen=True, slots=True)
class Optimizer(Declaration):
    """``optimizer sgd(lr) { members update(p, g, t) { } }``; members are declarations."""

    name: Name
    parameters: tuple[Parameter, ...]
    members: Block
    update: Method


@dataclass(frozen=True, slots=True)
class Schedule(Declaration):
    """``schedule linear(peak, total) { at(t) { } }``."""

    name: Name
    parameters: tuple[Parameter, ...]
    at: Method


@dataclass(frozen=True, slots=True)
class Initializer(Declaration):
    """``initializer he_normal { sample(shape, fan_in) { } }``; parameters may be absent."""

    name: Name
    parameters: tuple[Parameter, ...]
    sample: Method


@dataclass(frozen=True, slots=True)
class Program(Node):
    """One file."""

    declarations: tuple[Declaration, ...]


def join(first: Span, last: Span) -> Span:
    """The span from the start of ``first`` to the end of ``last``."""
    return Span(first.file, first.line, first.column, last.end_line, last.end_column)
