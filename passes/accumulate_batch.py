"""Which values of a program belong to single samples, and where samples are summed.

The same program lowered at two batch sizes (``big = parts * micro``) has the same ops; where the types of two
corresponding values differ, the differing axis is the batch. So no annotation is needed: an axis that is ``parts`` times
longer holds samples, and a value without such an axis that depends on one is a reduction over samples.

A program is separable if every reduction over samples is a sum and nothing that belongs to single samples depends on
one. Inside loops and checkpoints samples must stay apart altogether. Then a batch can be cut and the sums added up. What breaks that (batch statistics, comparisons between samples) is
refused with the op, and the reason in words.

Non-goals: composing the accumulated program (``passes.accumulate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.core import Block, Function, Op, Role, Value
from gradc.ir.diagnostics import DiagnosticError, error

# Ops that mix the elements of an axis without changing its length, by the attribute that names the axis.
_MIXING = {"cumsum": "axis", "reverse": "axes"}


@dataclass(frozen=True, slots=True)
class Samples:
    """The analysis of a separable program, in values of the micro-batch program.

    ``axis[v]`` is the batch axis of v; ``sums`` are the values that sum over samples, in order; ``inner`` are the ops
    that make them, ``outer`` the positions of the ops that come after (see ``split``).
    """

    axis: dict[Value, int]
    sums: tuple[Value, ...]
    sum_positions: tuple[int, ...]
    reduced: frozenset[Value]


class _Analysis:
    """One walk over both programs side by side."""

    def __init__(self, big: Function, micro: Function, parts: int) -> None:
        self.big = big
        self.micro = micro
        self.parts = parts
        self.axis: dict[Value, int] = {}
        self.reduced: set[Value] = set()
        self.sums: list[Value] = []
        self.sum_positions: list[int] = []

    def run(self) -> Samples:
        blocks = self.big.block, self.micro.block
        pairs = zip(*(b.parameters for b in blocks), self.micro.parameters, strict=True)
        for large, small, slot in pairs:
            self._type_pair(large, small, None)
            if small in self.axis and slot.role is not Role.INPUT:
                message = f"`{slot.name}` has a size that depends on the batch"
                raise _refused(message, None)
        for position, (large, small) in enumerate(zip(*(b.body for b in blocks), strict=True)):
            self._op(position, large, small)
        return Samples(
            self.axis, tuple(self.sums), tuple(self.sum_positions), frozenset(self.reduced)
        )

    def _type_pair(self, large: Value, small: Value, op: Op | None) -> None:
        """Notes the batch axis of a value, the one axis that is ``parts`` times longer."""
        sizes = list(zip(large.type.static_shape, small.type.static_shape, strict=True))
        differing = [i for i, (n, m) in enumerate(sizes) if n != m]
        if not differing:
            return
        n, m = sizes[differing[0]]
        if len(differing) > 1:
            raise _refused("every sample is compared with every other here", op)
        if n != self.parts * m:
            raise _refused("samples are shifted against each other or joined with others here", op)
        self.axis[small] = differing[0]

    def _op(self, position: int, large: Op, small: Op) -> None:
        for big_value, value in zip(large.results, small.results, strict=True):
            self._type_pair(big_value, value, small)
        batched = [v for v in small.operands if v in self.axis]
        touched = [v for v in small.operands if v in self.reduced]
        is_per_sample = any(v in self.axis for v in small.results)
        if is_per_sample:
            self._check_per_sample(small, touched)
            self._regions(large, small)
            return
        if batched:
            if touched or not self._is_sum(small):
                what = f"`{small.name}` combines samples in a way that is not a sum"
                raise _refused(what, small)
            self.sums.extend(small.results)
            self.sum_positions.append(position)
        if batched or touched:
            self.reduced.update(small.results)
        self._regions(large, small)

    def _regions(self, large: Op, small: Op) -> None:
        """What is inside a loop or a checkpoint: samples may be neither walked over nor summed there."""
        if large.attributes.get("trips") != small.attributes.get("trips"):
            raise _refused("the loop runs over the samples", small)
        for big_region, region in zip(large.regions, small.regions, strict=True):
            if [op.name for op in big_region.body] != [op.name for op in region.body]:
                raise _refused("its structure depends on the batch size", small)
            for big_value, value in zip(big_region.parameters, region.parameters, strict=True):
                self._type_pair(big_value, value, small)
            for big_op, op in zip(big_region.body, region.body, strict=True):
                self._inner(big_op, op)

    def _inner(self, large: Op, small: Op) -> None:
        for big_value, value in zip(large.results, small.results, strict=True):
            self._type_pair(big_value, value, small)
        if any(v in self.axis for v in small.results):
            self._check_per_sample(small, ())
        elif any(v in self.axis for v in small.operands):
            what = f"`{small.name}` combines samples inside a loop or a checkpoint"
            raise _refused(what, small)
        self._regions(large, small)

    def _check_per_sample(self, op: Op, touched: Sequence[Value]) -> None:
        if touched:
            message = "single samples depend on a statistic of the whole batch here"
            raise _refused(message, op)
        if op.name == "iota" and op.attributes["axis"] == self.axis[op.results[0]]:
            raise _refused("the position of a sample in the batch is used here", op)
        named = op.attributes.get(_MIXING.get(op.name, ""))
        axes = named if isinstance(named, tuple) else (named,)
        if op.name in _MIXING and self.axis.get(op.operands[0]) in axes:
            raise _refused("samples are put in another order or added up one by one here", op)
        table_axis = self.axis.get(op.operands[0]) if op.name == "take" else None
        if table_axis is not None and op.attributes["axis"] == table_axis:
            raise _refused("samples are looked up by number here", op)

    def _is_sum(self, op: Op) -> bool:
        """Whether a result without batch axis is the sum over samples of something per sample."""
        if op.name == "sum":
            return True
        if op.name == "contract":
            return all(v in self.axis for v in op.operands)
        return False


def _refused(message: str, op: Op | None) -> DiagnosticError:
    help = (
        "the gradient of a batch cut into parts would differ from that of the whole batch; train without "
        "`accumulate`, or use a layer that treats samples one by one (layernorm instead of batchnorm)"
    )
    span = op.span if op is not None else None
    text = f"this program cannot be accumulated over parts of a batch: {message}"
    return DiagnosticError([error("GC0807", text, span, help=help)])


def separate(big: Function, micro: Function, parts: int) -> Samples:
    """The analysis of ``micro`` against ``big``, the same program at ``parts`` times the batch.

    Raises:
        DiagnosticError: GC0807, at the op that couples samples.
    """
    if [op.name for op in big.block.body] != [op.name for op in micro.block.body]:
        message = "its structure depends on the batch size"
        raise _refused(message, None)
    return _Analysis(big, micro, parts).run()


def as_part_of(large: Op, small: Op) -> Op:
    """``small`` as what ``large`` does on a part of its samples, in its regions too.

    A literal such as 1/B means the whole batch, and random draws are those of the whole.
    """
    attributes = small.attributes
    if small.name == "constant":
        attributes = {**attributes, "value": large.attributes["value"]}
    if small.name == "random_bits" and large.attributes["shape"] != small.attributes["shape"]:
        sizes = zip(large.result.type.shape, small.result.type.shape, strict=True)
        axis = next(i for i, (n, m) in enumerate(sizes) if n != m)
        attributes = {**attributes, "whole": large.attributes["shape"], "axis": axis}
    regions = tuple(
        Block(region.parameters, tuple(map(as_part_of, big_region.ops, region.ops)))
        for big_region, region in zip(large.regions, small.regions, strict=True)
    )
    return replace(small, attributes=attributes, regions=regions)
