"""Small questions about a function's graph: who makes and reads a value, what a value is under its
views, what is a softmax.

Every block is looked at by itself: what comes into a region is nobody's result there.

Non-goals: findings (``suspect``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Op, Value


@dataclass
class Graph:
    """One block: makers, readers, and which values hang on which of its parameters."""

    block: Block
    makers: dict[Value, Op] = field(default_factory=dict)
    readers: dict[Value, list[Op]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op in self.block.body:
            for value in op.results:
                self.makers[value] = op
            for value in op.operands:
                self.readers.setdefault(value, []).append(op)

    def below(self, roots: set[Value]) -> set[Value]:
        """Everything that is computed from ``roots``, with them."""
        found = set(roots)
        for op in self.block.body:
            if any(value in found for value in op.operands):
                found.update(op.results)
        return found

    def bare(self, value: Value) -> Value:
        """``value`` without the views and casts that were put on it."""
        while (op := self.makers.get(value)) is not None and is_form(op):
            value = op.operands[0]
        return value

    def maker(self, value: Value) -> Op | None:
        """The op that made ``value``, under its views."""
        return self.makers.get(self.bare(value))

    def is_constant(self, value: Value) -> bool:
        op = self.maker(value)
        return op is not None and op.name == "constant"

    def softmax_axes(self, op: Op) -> tuple[Value, tuple[int, ...]] | None:
        """What ``op`` normalises and along which axes, if it is the quotient of a softmax."""
        if op.name != "div":
            return None
        top, total = self.maker(op.operands[0]), self.maker(op.operands[1])
        if top is None or total is None or top.name != "exp" or total.name != "sum":
            return None
        if self.bare(total.operands[0]) not in top.results:
            return None
        return self.shifted(top.operands[0]), axes_of(total)

    def log_softmax_of(self, op: Op) -> tuple[Value, tuple[int, ...]] | None:
        """The logits and the axes, if ``op`` takes the logarithm of their sum of exponentials."""
        if op.name != "log":
            return None
        total = self.maker(op.operands[0])
        if total is None or total.name != "sum":
            return None
        top = self.maker(total.operands[0])
        if top is None or top.name != "exp":
            return None
        return self.shifted(top.operands[0]), axes_of(total)

    def shifted(self, value: Value) -> Value:
        """``value`` before its maximum was taken off."""
        op = self.maker(value)
        if op is not None and op.name == "sub":
            off = self.maker(op.operands[1])
            while off is not None and off.name in ("stop_gradient", "select"):
                off = self.maker(off.operands[1 if off.name == "select" else 0])
            if off is not None and off.name == "reduce_max":
                return self.bare(op.operands[0])
        return self.bare(value)


def is_form(op: Op) -> bool:
    """Whether ``op`` only gives numbers another form: a cast, or a view of one operand."""
    return op.name in ("cast", "broadcast") or (lookup(op.name).is_view and len(op.operands) == 1)


def axes_of(op: Op) -> tuple[int, ...]:
    """The axes that a reduction goes over."""
    axes = op.attributes["axes"]
    assert isinstance(axes, tuple)
    return tuple(int(a) for a in axes if isinstance(a, int))


def blocks(block: Block) -> Iterator[Block]:
    """``block`` and the bodies of its regions."""
    yield block
    for op in block.body:
        for region in op.regions:
            yield from blocks(region)
