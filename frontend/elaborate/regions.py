"""Blocks under construction. A region sees only its own block parameters, so values from outside
are captured.

``Region.bring`` maps a value of any enclosing region to one of this region, adding a block
parameter at every border it crosses; ``captures`` lists what the op that owns the region must then
pass in.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, TensorType, Value


class Region:
    """One block being built. ``parent`` is None for the body of a function."""

    def __init__(self, parent: Region | None) -> None:
        self.parent = parent
        self.builder = Builder()
        self._owned: set[Value] = set()
        self.captured: dict[Value, Value] = {}

    def parameter(self, type_: TensorType, hint: str = "") -> Value:
        """Adds a block parameter."""
        value = Value(type_, hint)
        self._owned.add(value)
        self.builder.parameters.append(value)
        return value

    def own(self, values: Sequence[Value]) -> None:
        """Marks op results as values of this region."""
        if self.parent is not None:
            self._owned.update(values)

    def bring(self, value: Value) -> Value:
        """``value`` as it is called inside this region."""
        if self.parent is None or value in self._owned:
            return value
        inner = self.captured.get(value)
        if inner is None:
            self.parent.bring(value)
            inner = Value(value.type, value.hint)
            self.captured[value] = inner
            self._owned.add(inner)
        return inner

    def captures(self) -> tuple[Value, ...]:
        """The captured values, as the parent calls them, in the order of capture."""
        assert self.parent is not None
        return tuple(self.parent.bring(value) for value in self.captured)

    def close(self, outputs: Sequence[Value]) -> Block:
        """The finished block; captured values follow the parameters that were added by hand."""
        inner = [self.bring(value) for value in outputs]
        self.builder.parameters.extend(self.captured.values())
        return self.builder.block(inner)


def prune(block: Block) -> Block:
    """``block`` without ops whose results nothing needs."""
    needed: set[Value] = set(block.outputs)
    kept = [block.terminator]
    for op in reversed(block.body):
        if any(result in needed for result in op.results):
            needed.update(op.operands)
            kept.append(op)
    return Block(block.parameters, tuple(reversed(kept)))
