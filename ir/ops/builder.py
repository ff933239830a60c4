"""The Builder: the only place where ops come into being, and where mutation is allowed.

Types are inferred by the registry as ops are emitted; a type rule that refuses raises
``TypeRuleError``, which the front end turns into a diagnostic at the current span.
``BuilderAlgebra`` interprets scalar meanings as IR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import gradc.ir.ops  # noqa: F401  (fills the registry)
from gradc.ir.ops.control import region_result_types
from gradc.ir.ops.registry import lookup
from gradc.ir.special.table import TABLE
from gradc.ir.tensor.core import (
    Attr,
    Attrs,
    Block,
    DType,
    Function,
    Op,
    Slot,
    Span,
    TensorType,
    Value,
)
from gradc.ir.tensor.dims import Dim


class Builder:
    """Builds one block. ``span``, ``scope`` and ``replica`` are stamped on every op emitted."""

    def __init__(self) -> None:
        self.parameters: list[Value] = []
        self.ops: list[Op] = []
        self.span: Span | None = None
        self.scope: str = ""
        self.replica: int = 0

    def parameter(self, type_: TensorType, hint: str = "") -> Value:
        """Adds a block parameter."""
        value = Value(type_, hint)
        self.parameters.append(value)
        return value

    def emit(
        self,
        name: str,
        *operands: Value,
        hint: str = "",
        regions: tuple[Block, ...] = (),
        **attributes: Attr,
    ) -> tuple[Value, ...]:
        """Emits one op and returns its results. Raises TypeRuleError, or KeyError for an unknown
        op.
        """
        return self.apply(name, operands, attributes, regions, hint)

    def apply(
        self,
        name: str,
        operands: Sequence[Value],
        attributes: Attrs,
        regions: tuple[Block, ...] = (),
        hint: str = "",
    ) -> tuple[Value, ...]:
        """``emit`` with operands and attributes given as they stand in another op."""
        definition = lookup(name)
        if regions:
            types = region_result_types(name, operands, regions, attributes)
        else:
            types = definition.infer([v.type for v in operands], attributes)
        results = tuple(Value(t, hint) for t in types)
        self.append(name, operands, results, attributes, regions)
        return results

    def same(self, op: Op, *operands: Value) -> Value:
        """Emits ``op`` once more on other operands, with its attributes, and returns the only
        result.
        """
        (value,) = self.apply(op.name, operands, op.attributes)
        return value

    def append(
        self,
        name: str,
        operands: Sequence[Value],
        results: tuple[Value, ...],
        attributes: Attrs,
        regions: tuple[Block, ...] = (),
    ) -> None:
        """Appends an op whose result values are given."""
        self.ops.append(
            Op(
                name,
                tuple(operands),
                results,
                attributes,
                regions,
                self.span,
                self.scope,
                self.replica,
            )
        )

    def one(self, name: str, *operands: Value, hint: str = "", **attributes: Attr) -> Value:
        """Emits an op with exactly one result and returns it."""
        (value,) = self.apply(name, operands, attributes, (), hint)
        return value

    def constant(self, value: float | bool, dtype: DType, shape: tuple[Dim, ...] = ()) -> Value:
        """A tensor all of whose elements are ``value``."""
        return self.one("constant", value=value, dtype=dtype, shape=shape)

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` as ``dtype``: itself if it is that already."""
        return x if x.type.dtype is dtype else self.one("cast", x, dtype=dtype)

    def function_of(self, name: str, *operands: Value, order: int = 0) -> Value:
        """A row of ``ir/special/table.py`` on operands of one floating type; `wide` rows are
        computed in f64.
        """
        outer = operands[0].type.dtype
        if TABLE[name].wide and outer is not DType.F64:
            operands = tuple(self.one("cast", x, dtype=DType.F64) for x in operands)
        made = self.one(f"function{len(operands)}", *operands, function=name, order=order)
        return made if made.type.dtype is outer else self.one("cast", made, dtype=outer)

    def algebra(self, like: TensorType) -> BuilderAlgebra:
        """The scalar algebra that emits ops here; constants get the shape and element type of
        ``like``.
        """
        return BuilderAlgebra(self, like)

    def block(self, outputs: Sequence[Value], terminator: str = "yield") -> Block:
        """Closes the block with a terminator."""
        end = Op(terminator, tuple(outputs), (), {}, (), self.span, self.scope)
        return Block(tuple(self.parameters), (*self.ops, end))

    def function(
        self,
        name: str,
        outputs: Sequence[Value],
        parameters: Sequence[Slot],
        results: Sequence[Slot],
    ) -> Function:
        """Closes the block as a function."""
        return Function(name, self.block(outputs, "return"), tuple(parameters), tuple(results))

    @contextmanager
    def at(
        self, span: Span | None, scope: str | None = None, replica: int | None = None
    ) -> Iterator[None]:
        """Stamps ops emitted inside with ``span`` (and ``scope``, ``replica`` where given)."""
        saved = self.span, self.scope, self.replica
        self.span = span
        self.scope = saved[1] if scope is None else scope
        self.replica = saved[2] if replica is None else replica
        try:
            yield
        finally:
            self.span, self.scope, self.replica = saved


class BuilderAlgebra:
    """The algebra whose values are IR values: a scalar meaning applied to it emits ops.

    ``like`` fixes the shape and, unless a constant says otherwise, the element type of constants.
    """

    def __init__(self, builder: Builder, like: TensorType) -> None:
        self._builder = builder
        self._like = like

    def const(self, value: float | bool, dtype: DType | None = None) -> Value:
        """A constant of the op's shape."""
        return self._builder.constant(value, dtype or self._like.dtype, self._like.shape)

    def cast(self, x: Value, dtype: DType) -> Value:
        return self._builder.cast(x, dtype)

    def function(self, name: str, *operands: Value, order: int = 0) -> Value:
        """A row of ``ir/special/table.py``."""
        return self._builder.function_of(name, *operands, order=order)

    def __getattr__(self, verb: str) -> _Emit:
        return _Emit(self._builder, verb)


class _Emit:
    """A verb waiting for its operands."""

    def __init__(self, builder: Builder, verb: str) -> None:
        self._builder = builder
        self._verb = verb

    def __call__(self, *operands: Value) -> Value:
        return self._builder.one(self._verb, *operands)
