"""The state of one elaboration: dimensions, the region being built, the frame being read, what was
declared.

Invariants: every op is emitted by ``op``, which stamps it with the place in the text (through all
callers) and the layer instance, and turns a refusal of a type rule into a diagnostic. Diagnostics
about one place are reported once, however often a layer is instantiated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from gradc.frontend.elaborate.names import Names
from gradc.frontend.elaborate.regions import Region
from gradc.frontend.elaborate.values import POISON, Binding, Frame, Item, Named, Poison
from gradc.frontend.elaborate.words_of_types import in_users_words
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Diagnostic, Label, Report, error, warning
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attr, Block, DType, Role, Span, TensorType, Value
from gradc.ir.tensor.dims import (
    Dim,
    DimensionTooLarge,
    DimExpr,
    Quotient,
    substitute,
    symbol,
    symbols,
)

# What the names of the library's files start with.
LIBRARY = "stdlib/"
# What a dimension without a default counts as where checking needs a number; it has many divisors.
SAMPLE_SIZE = 12
# Calls of functions and layers within each other, and levels of expressions through all of them.
MAX_INLINING = 64
MAX_DEPTH = 800
MAX_OPS = 50_000
MAX_RANK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """A parameter or state that a declaration has made."""

    path: str
    role: Role
    value: Value
    statement: tree.ParamDeclaration | tree.StateDeclaration
    span: Span
    initializer: tree.Expr | None
    frame: Frame


@dataclass(slots=True, eq=False)
class ScanScope:
    """A scan whose body is being built. Each trip has a random key of its own, made where one is
    drawn from.
    """

    region: Region
    trips: Dim
    keys: list[Value] = field(default_factory=list)
    key: Value | None = None


class Interpreter(Protocol):
    """What gives expressions and statements their meaning (``frontend.elaborate``)."""

    def evaluate(self, ctx: Context, node: tree.Expr) -> Item: ...
    def execute(self, ctx: Context, block: tree.Block) -> None: ...


@dataclass
class Context:
    """One elaboration of one model, function or other declaration."""

    interpreter: Interpreter
    names: Names
    report: Report
    dims: dict[str, Dim]
    sample: dict[str, Dim]
    floating: DType
    training: bool
    region: Region = field(default_factory=lambda: Region(None))
    frames: list[Frame] = field(default_factory=list)
    declared: dict[str, Declared] = field(default_factory=dict)
    paths: dict[str, Span] = field(default_factory=dict)
    state_values: dict[str, Value] = field(default_factory=dict)
    written: dict[str, Span] = field(default_factory=dict)
    outputs: dict[str, tuple[Value, Span]] = field(default_factory=dict)
    # What the program calls its values, for explanations.
    given: dict[Value, Named] = field(default_factory=dict)
    seen: set[tuple[object, ...]] = field(default_factory=set)
    used_dims: dict[str, None] = field(default_factory=dict)
    # Dimensions without a value that were read as numbers: what depends on them is a sample.
    guessed: dict[str, None] = field(default_factory=dict)
    depth: int = 0
    emitted: int = 0
    inlined: int = 0
    reads_training: bool = False
    # While something is only tried, what goes wrong is not reported.
    is_muted: bool = False
    random_key: Value | None = None
    streams: int = 0
    scans: list[ScanScope] = field(default_factory=list)
    # Draws of the initialiser being elaborated: (kind, value) in the order of the text.
    draws: list[tuple[str, Value]] | None = None

    def sibling(self, floating: DType) -> Context:
        """A fresh elaboration of the same program that reports to the same place."""
        return Context(
            self.interpreter,
            self.names,
            self.report,
            self.dims,
            self.sample,
            floating,
            self.training,
            seen=self.seen,
            guessed=self.guessed,
        )

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def evaluate(self, node: tree.Expr) -> Item:
        """What ``node`` stands for, in the current frame."""
        if self.depth >= MAX_DEPTH:
            message = "functions and expressions are nested too deeply here"
            return self.error("GC0404", message, node, help="name intermediate results")
        self.depth += 1
        try:
            return self.interpreter.evaluate(self, node)
        except DimensionTooLarge:
            return self.dimension_too_large(node)
        finally:
            self.depth -= 1

    def dimension_too_large(self, node: tree.Node) -> Poison:
        """Reports arithmetic of dimensions that gets out of hand."""
        message = (
            "arithmetic of dimensions gets out of hand here: too many terms, or numbers beyond 64 "
            "bits"
        )
        return self.error("GC0404", message, node, help="declare it with `dim` without a default")

    def execute(self, block: tree.Block) -> None:
        """Runs statements in the current frame, until one returns."""
        self.interpreter.execute(self, block)

    # --- places and diagnostics

    def span(self, node: tree.Node | Span) -> Span:
        """The place of ``node`` with the places it was inlined at."""
        span = node if isinstance(node, Span) else node.span
        caller = self.frames[-1].caller if self.frames else None
        if caller is None or span.caller is not None:
            return span
        return Span(span.file, span.line, span.column, span.end_line, span.end_column, caller)

    def text_of(self, span: Span) -> str:
        """The text at ``span``, which lies on one line; what follows on other lines is left out."""
        source = self.report.sources.get(span.file)
        if source is None:
            return "..."
        line = source.line(span.line)
        end = span.end_column - 1 if span.end_line == span.line else len(line)
        return line[span.column - 1 : end]

    def error(
        self,
        code: str,
        message: str,
        node: tree.Node | Span,
        *,
        label: str = "",
        labels: Sequence[Label] = (),
        help: str = "",
        notes: Sequence[str] = (),
    ) -> Poison:
        """Reports an error at ``node`` and returns the value that stands for what it spoilt.

        What goes wrong inside the library is reported where the program calls it.
        """
        span = self.span(node)
        if self.frames and self.frame.is_library and span.file.startswith(LIBRARY):
            outside = _outside(span)
            if outside is not None:
                notes = [*notes, f"inside `{self.frame.name}` of the standard library"]
                span, labels = outside, [label for label in labels if _is_own(label.span)]
        self._add(
            error(code, message, span, label=label, labels=labels, help=help, notes=notes), span
        )
        return POISON

    def warn(self, code: str, message: str, span: Span, *, label: str = "", help: str = "") -> None:
        """Reports a warning."""
        self._add(warning(code, message, span, label=label, help=help), span)

    def _add(self, diagnostic: Diagnostic, span: Span) -> None:
        if self.is_muted:
            return
        key = (diagnostic.code, span.file, span.line, span.column)
        if key not in self.seen:
            self.seen.add(key)
            source = self.report.sources.get(span.file)
            text = source.text if source is not None else ""
            self.report.add(in_users_words(diagnostic, self.floating, text))

    # --- ops

    def emit(
        self, node: tree.Node, name: str, *operands: Value, **attributes: Attr
    ) -> tuple[Value, ...] | Poison:
        """Emits an op at ``node``; a refusal of its type rule is reported there."""
        builder = self.stamp(node)
        inner = [self.region.bring(value) for value in operands]
        try:
            results = builder.apply(name, inner, attributes)
        except TypeRuleError as refusal:
            return self.error("GC0312", str(refusal), node)
        self.emitted += 1
        self.region.own(results)
        if any(result.type.rank > MAX_RANK for result in results):
            return self.error("GC0404", f"arrays have at most {MAX_RANK} axes", node)
        return results

    def op(
        self, node: tree.Node, name: str, *operands: Value, **attributes: Attr
    ) -> Value | Poison:
        """Emits an op with one result."""
        results = self.emit(node, name, *operands, **attributes)
        return results if isinstance(results, Poison) else results[0]

    def append(
        self,
        node: tree.Node,
        name: str,
        operands: Sequence[Value],
        types: Sequence[TensorType],
        attributes: dict[str, Attr],
        regions: tuple[Block, ...] = (),
    ) -> tuple[Value, ...]:
        """Emits an op whose result types are known to the caller."""
        builder = self.stamp(node)
        inner = [self.region.bring(value) for value in operands]
        results = tuple(Value(type_) for type_ in types)
        builder.append(name, inner, results, attributes, regions)
        self.emitted += 1
        self.region.own(results)
        return results

    def too_large(self, node: tree.Node) -> bool:
        """Whether unrolling has made more ops or parameters than anyone can mean; reports it."""
        if self.emitted + len(self.declared) + self.inlined <= MAX_OPS:
            return False
        message = f"this program unrolls to more than {MAX_OPS} operations and calls"
        self.error("GC0404", message, node, help="roll loops over time with `scan`")
        return True

    def stamp(self, node: tree.Node) -> Builder:
        """The current builder, set to the place of ``node``."""
        builder = self.region.builder
        builder.span = self.span(node)
        builder.scope = self.frame.scope
        return builder

    def constant(
        self,
        node: tree.Node,
        value: float | bool | DimExpr,
        dtype: DType,
        shape: tuple[Dim, ...] = (),
    ) -> Value:
        """A splat of a compile-time number."""
        known = self.number(value)
        builder = self.stamp(node)
        if dtype is DType.BOOL:
            known = bool(known)
        result = builder.constant(float(known) if dtype.is_float else known, dtype, shape)
        self.emitted += 1
        self.region.own((result,))
        return result

    @contextmanager
    def inside(self, region: Region) -> Iterator[Region]:
        """Builds ``region`` while open."""
        saved = self.region
        self.region = region
        try:
            yield region
        finally:
            self.region = saved

    @contextmanager
    def entered(self, frame: Frame) -> Iterator[Frame]:
        """Reads ``frame`` while open."""
        self.frames.append(frame)
        try:
            yield frame
        finally:
            self.frames.pop()

    # --- dimensions

    def number(self, value: float | DimExpr) -> float | int:
        """The compile-time number that ``value`` is; symbols count as their sample."""
        if isinstance(value, DimExpr):
            bound = self.sampled(value)
            return bound if bound is not None else 0
        return value

    def sampled(self, dim: Dim) -> int | None:
        """``dim`` with every symbol at its default (or sample), or None where that divides by
        zero.
        """
        if isinstance(dim, int):
            return dim
        self.guessed.update((name, None) for name in symbols(dim) if name not in self.sample)
        return self._sampled(dim)

    def _sampled(self, dim: Dim) -> int | None:
        if isinstance(dim, int):
            return dim
        values = {name: self.sample.get(name, SAMPLE_SIZE) for name in symbols(dim)}
        try:
            bound = substitute(dim, values)
        except ZeroDivisionError:
            return None
        return bound if isinstance(bound, int) else None

    def defaulted(self, dim: Dim) -> int | None:
        """``dim`` with every symbol at its default, or None if one has none."""
        if all(name in self.sample for name in symbols(dim)):
            return self.sampled(dim)
        return None

    def same(self, a: Dim, b: Dim) -> bool:
        """Whether two dimensions are equal, as far as can be known now.

        A division that may be inexact is taken to be exact here: binding the dimensions checks
        again.
        """
        if a == b:
            return True
        if not (has_quotient(a) or has_quotient(b)):
            return False
        difference = _exact(a - b)
        if not has_quotient(difference):
            return difference == 0
        known = self._sampled(a)
        return known is not None and known == self._sampled(b)

    def same_shape(self, a: Sequence[Dim], b: Sequence[Dim]) -> bool:
        """Whether two shapes are equal, as far as can be known now."""
        return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def bind(self, name: str, item: Item, span: Span | None) -> None:
        """Gives ``name`` a meaning in the current frame."""
        self.frame.names[name] = Binding(item, span)
        if isinstance(item, Value):
            self.call_it(item, name, span)

    def call_it(self, value: Value, name: str, span: Span | None) -> None:
        """Remembers that the program calls ``value`` so, unless an outer frame (or an earlier line)
        named it.
        """
        known = self.given.get(value)
        depth = len(self.frames)
        if known is None or depth < known.depth:
            frame = self.frame
            self.given[value] = Named(name, span, frame.scope, depth, frame.is_library)


def _is_own(span: Span) -> bool:
    return not span.file.startswith(LIBRARY)


def _outside(span: Span) -> Span | None:
    """The innermost place of the program itself that led to ``span`` in the library."""
    place: Span | None = span
    while place is not None and not _is_own(place):
        place = place.caller
    return place


def _exact(dim: Dim) -> Dim:
    """``dim`` where every ``S // n`` of a symbol S divides exactly: S is written ``n * (S //
    n)``.
    """
    whole: dict[str, Dim] = {}
    for monomial, _ in () if isinstance(dim, int) else dim.terms:
        for atom in monomial:
            if not isinstance(atom, Quotient):
                continue
            name = str(atom.numerator)
            factor = atom.denominator * symbol(str(atom))
            if atom.numerator != symbol(name) or whole.get(name, factor) != factor:
                return dim
            whole[name] = factor
    return substitute(dim, whole)


def has_quotient(dim: Dim) -> bool:
    """Whether ``dim`` holds a division that is not known to be exact."""
    if isinstance(dim, int):
        return False
    return any(isinstance(atom, Quotient) for monomial, _ in dim.terms for atom in monomial)
