"""What lowering a group gives: kernels, and what each of their buffers stands for.

A group is a closed block: its parameters are the operands, its outputs the results. ``Draft``
collects one kernel; buffers that the finished body does not touch are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gradc.ir.loop.builder import LoopBuilder
from gradc.ir.loop.kernel import (
    Access,
    Buffer,
    Exchange,
    For,
    Gemm,
    Kernel,
    Load,
    Memory,
    Stmt,
    Store,
)
from gradc.ir.loop.registers import in_registers
from gradc.ir.loop.traffic import traffic
from gradc.ir.tensor.core import Block, DType, Span
from gradc.passes.lower.element import Elements


@dataclass(frozen=True, slots=True)
class Ref:
    """An operand, a result or a temporary of the group; ``offset`` counts elements."""

    kind: Literal["operand", "result", "temp"]
    number: int


@dataclass(frozen=True, slots=True)
class Temp:
    """Storage between two kernels of one group."""

    size: int
    dtype: DType


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One kernel; ``refs`` match its bound buffers in order."""

    kernel: Kernel
    refs: tuple[Ref, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A group as kernels in order."""

    pieces: tuple[Piece, ...]
    temps: tuple[Temp, ...] = ()
    # Results that are copies of operands before the first piece runs, as (result, operand).
    begins: tuple[tuple[int, int], ...] = ()


def statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """Every statement below ``body``, in order of execution of the first iteration."""
    stack = [iter(body)]
    while stack:
        statement = next(stack[-1], None)
        if statement is None:
            stack.pop()
            continue
        yield statement
        if isinstance(statement, For):
            stack.append(iter(statement.body))
        elif isinstance(statement, Gemm):
            stack.append(iter(statement.epilogue))


def buffers_used(body: Sequence[Stmt]) -> list[Buffer]:
    """The buffers that ``body`` touches, in order of first use."""
    found: dict[Buffer, None] = {}
    for statement in statements(body):
        if isinstance(statement, (Load, Store)):
            found[statement.buffer] = None
        elif isinstance(statement, Gemm):
            found.update(dict.fromkeys(statement.read))
        elif isinstance(statement, Exchange):
            found[statement.buffer] = None
    return list(found)


class Draft:
    """One kernel in the making, over the operands of ``block``."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.builder = LoopBuilder()
        self.elements = Elements(self.builder, block)
        self._refs: dict[Buffer, Ref] = {}
        self._results: dict[int, Buffer] = {}
        self.operands = tuple(self._operand(n) for n in range(len(block.parameters)))
        for value, buffer in zip(block.parameters, self.operands, strict=True):
            self.elements.bind_buffer(value, buffer)

    def aside(self, used: int = 0) -> Elements:
        """Elements of the same block and buffers for a part of the kernel that is built by
        itself, where ``used`` names are taken."""
        elements = Elements(LoopBuilder(used), self.block)
        for value, buffer in zip(self.block.parameters, self.operands, strict=True):
            elements.bind_buffer(value, buffer)
        return elements

    def _operand(self, number: int) -> Buffer:
        type_ = self.block.parameters[number].type
        size = _size(type_.static_shape)
        return self._declare(f"a{number}", type_.dtype, size, "read", Ref("operand", number))

    def result(self, number: int, access: Access = "write") -> Buffer:
        """The buffer of a result."""
        known = self._results.get(number)
        if known is not None:
            return known
        type_ = self.block.outputs[number].type
        size = _size(type_.static_shape)
        made = self._declare(f"r{number}", type_.dtype, size, access, Ref("result", number))
        self._results[number] = made
        return made

    def temp(self, number: int, temp: Temp, access: Access) -> Buffer:
        """The buffer of a temporary, which this kernel reads or writes."""
        return self._declare(
            f"t{number}", temp.dtype, temp.size, access, Ref("temp", number), "arena"
        )

    def _declare(
        self,
        name: str,
        dtype: DType,
        size: int,
        access: Access,
        ref: Ref,
        memory: Memory = "argument",
    ) -> Buffer:
        buffer = self.builder.buffer(name, dtype, size, access, memory)
        self._refs[buffer] = ref
        return buffer

    def finish(self, name: str, flops: int, spans: tuple[Span, ...] = ()) -> Piece:
        """The kernel over the buffers that are used."""
        body = self.builder.body()
        used = buffers_used(body)
        ordered = [b for b in self.builder.buffers if b in used]
        body, buffers = in_registers(body, ordered)
        kernel = Kernel(name, buffers, body, flops, traffic(body), spans)
        refs = tuple(self._refs[b] for b in kernel.bound)
        return Piece(kernel, refs)


def block_spans(block: Block) -> tuple[Span, ...]:
    """The user's lines of the ops of ``block``, each once."""
    return tuple(dict.fromkeys(op.span for op in block.body if op.span is not None))


def _size(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
