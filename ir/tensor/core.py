"""The tensor IR: types, values, ops, blocks, functions. All immutable; passes build new ones.

A block is a tuple of ops that ends in a terminator (``return`` in a function, ``yield`` in a
region). Regions serve structured control (``scan``, ``checkpoint``, ``custom``) and ``fusion``
groups; there is no branch graph and there are no use lists. A region sees only its own block
parameters: what it needs from outside is passed as an operand, so every region is a closed
function.

Identity: values and ops compare by identity. ``Op.replica`` is part of what an op is: ops with
different replica numbers are never merged by CSE, which is how a recomputed op stays recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from gradc.ir.tensor.dims import Dim, DimExpr, product


class DType(Enum):
    """Element types. ``u32`` and ``i64`` occur in programs only through random bits and indices."""

    F64 = "f64"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    U32 = "u32"
    BOOL = "bool"

    # Members are unique objects; the hash of their names, which Enum takes, costs a call.
    __hash__ = object.__hash__

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEMSIZE[self]

    @property
    def accumulator(self) -> DType:
        """The type in which sums and products of many elements are accumulated."""
        return DType.F32 if self in (DType.BF16, DType.F16) else self

    def __str__(self) -> str:
        return str(self.value)


_FLOATS = (DType.F64, DType.F32, DType.BF16, DType.F16)
_ITEMSIZE = {
    DType.F64: 8,
    DType.F32: 4,
    DType.BF16: 2,
    DType.F16: 2,
    DType.I64: 8,
    DType.I32: 4,
    DType.U32: 4,
    DType.BOOL: 1,
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type; ``shape == ()`` is a scalar. Prints as ``f32[8, 16]``."""

    shape: tuple[Dim, ...]
    dtype: DType

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape, all dimensions bound. Raises ValueError if a symbol is left."""
        for dim in self.shape:
            if not isinstance(dim, int):
                raise ValueError(f"{self} has unbound dimensions")  # noqa: TRY004 (a symbol)
        return self.shape  # type: ignore[return-value]

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array. Raises ValueError if a symbol is left."""
        total = self.dtype.itemsize
        for dim in self.static_shape:
            total *= dim
        return total

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text, lines and columns from 1, end exclusive; ``caller`` is where it was
    inlined.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    caller: Span | None = None

    @property
    def outermost(self) -> Span:
        """The span in the user's own model, through every inlined layer and function."""
        span = self
        while span.caller is not None:
            span = span.caller
        return span

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


Attr: TypeAlias = bool | int | float | str | DType | DimExpr | tuple["Attr", ...]
Attrs: TypeAlias = Mapping[str, Attr]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The result of one op or a parameter of one block. ``hint`` is a name for printing only."""

    type: TensorType
    hint: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation. ``name`` keys the registry; ``scope`` is the layer instance, such as
    ``blocks.3.attn``.
    """

    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attributes: Attrs = field(default_factory=dict)
    regions: tuple[Block, ...] = ()
    span: Span | None = None
    scope: str = ""
    replica: int = 0

    @property
    def result(self) -> Value:
        """The only result. Raises ValueError if there is not exactly one."""
        (value,) = self.results
        return value

    def on(self, operands: tuple[Value, ...], regions: tuple[Block, ...] | None = None) -> Op:
        """The same op on other operands, and with other regions where given."""
        return Op(
            self.name,
            operands,
            self.results,
            self.attributes,
            self.regions if regions is None else regions,
            self.span,
            self.scope,
            self.replica,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Parameters and ops in execution order; the last op is the terminator."""

    parameters: tuple[Value, ...]
    ops: tuple[Op, ...]

    @property
    def terminator(self) -> Op:
        return self.ops[-1]

    @property
    def body(self) -> tuple[Op, ...]:
        """The ops without the terminator."""
        return self.ops[:-1]

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What the terminator hands out."""
        return self.ops[-1].operands


class Role(Enum):
    """What a parameter or a result of a function is for. Roles are fields, never parts of names."""

    PARAM = "param"  # trained, e.g. fc1.w
    STATE = "state"  # stored, not differentiated, e.g. bn.mean; as a result: the new state
    INPUT = "input"  # an array of the call
    SEED = "seed"  # a cotangent or tangent handed in
    HYPER = "hyper"  # a scalar of the optimiser: learning rate, step number
    SLOT = "slot"  # optimiser state of a parameter, e.g. adam m of fc1.w
    OUTPUT = "output"  # a result named by `output`
    LOSS = "loss"  # what the model returns
    COTANGENT = "cotangent"  # gradient with respect to the parameter of the same name
    TANGENT = "tangent"  # directional derivative of the result of the same name
    STOP = "stop"  # a bool: whether a training step was refused, so that nothing has changed


@dataclass(frozen=True, slots=True)
class Slot:
    """Name and role of one function parameter or result; ``span`` is where the user declared it."""

    name: str
    role: Role
    span: Span | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A closed program: ``parameters[i]`` describes ``block.parameters[i]``, ``results[i]`` the
    i-th output.
    """

    name: str
    block: Block
    parameters: tuple[Slot, ...]
    results: tuple[Slot, ...]

    def parameter(self, name: str) -> Value:
        """The value of the parameter called ``name``. Raises KeyError."""
        for slot, value in zip(self.parameters, self.block.parameters, strict=True):
            if slot.name == name:
                return value
        raise KeyError(name)


def walk(block: Block) -> Iterator[Op]:
    """Every op of ``block`` and of the regions below it, outer before inner, without recursion."""
    stack = [iter(block.ops)]
    while stack:
        op = next(stack[-1], None)
        if op is None:
            stack.pop()
            continue
        yield op
        stack.extend(iter(region.ops) for region in reversed(op.regions))
