"""Wrong cuts of programs between ranks, and what is said of them.

    python -m tests.support.wrong_cuts 400 [--seed 1] [--kinds "inside blocks"]

Each is a right cut with one fault: a sum over ranks that is missing, doubled or taken twice from
one rank, another rank's slice, a part left out, a total of one part, a factor for the number of
ranks; of parameters cut inside blocks another gate's block, another rank's block, columns in one
piece. Prints how many got which verdict; a fault that is proved or agrees is a fault of ours.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.axes import Place, at_axes
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.collective import is_across
from gradc.ir.ops.structural import row_of, slice_axis
from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.domains.point import index_limit
from gradc.passes.prove.programs.ranks import CutProgram, ranks_verdict
from gradc.passes.prove.report import Status, Verdict, key
from gradc.passes.rewrite import renamed
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.accumulate import accumulate
from gradc.passes.training.ranks import Deal
from gradc.passes.training.together import Held, as_rank, is_exchange
from gradc.runtime.api import loads
from gradc.runtime.model.shard import Shard
from tests.support.cut_programs import PROGRAMS, inputs_of, whole_batch
from tests.support.shard_programs import (
    FUSED,
    GATES,
    GREATEST,
    HEADS,
    PRODUCTS,
    TWICE,
    VOCABULARY,
)

ARRAYS = NumpyArrays()
DEALS = ((2, 2), (3, 3), (4, 2), (3, 2))


@dataclass(frozen=True)
class Fault:
    """What to do to a copy of an op: gives the value that takes the result's place."""

    name: str
    fits: Callable[[Op, frozenset[Value]], bool]
    made: Callable[[Builder, Op, Deal], Value]


def _kept(b: Builder, op: Op, _: Deal) -> Value:
    """The first operand in place of the result."""
    return op.operands[0]


def _own(b: Builder, op: Op, _: Deal) -> Value:
    """Own numbers in every row."""
    dims = tuple(range(1, op.result.type.rank))
    return b.one("broadcast", op.operands[0], shape=op.result.type.static_shape, dims=dims)


def _twice(b: Builder, op: Op, _: Deal) -> Value:
    return b.one("add", b.one("add", *op.operands), op.operands[1])


def _less(b: Builder, op: Op, _: Deal) -> Value:
    return b.one("sub", *op.operands)


def _second(b: Builder, op: Op, _: Deal) -> Value:
    """The latest summand alone."""
    return op.operands[1]


def _other_row(b: Builder, op: Op, _: Deal) -> Value:
    """The row of the next rank."""
    start, limit = (list(_numbers(op.attributes[k])) for k in ("start", "limit"))
    row = (start[0] + 1) % op.operands[0].type.static_shape[0]
    start[0], limit[0] = row, row + 1
    ones = (1,) * len(start)
    return b.one("slice", op.operands[0], start=tuple(start), limit=tuple(limit), stride=ones)


def _scaled(b: Builder, op: Op, deal: Deal) -> Value:
    """The mean over ranks in place of the sum."""
    x = b.one("add", *op.operands)
    return b.one("mul", x, b.constant(1 / deal.ranks, x.type.dtype, x.type.shape))


def _other_group(b: Builder, op: Op, _: Deal) -> Value:
    """An exchange along the other side of the grid."""
    return b.apply(op.name, op.operands, {**op.attributes, "across": not is_across(op)})[0]


def _next(b: Builder, op: Op, _: Deal) -> Value:
    """The numbers of ranks, each one's that of the next."""
    x = b.same(op, *op.operands)
    ranks = x.type.static_shape[0]
    one, count = (b.constant(n, x.type.dtype, x.type.shape) for n in (1, ranks))
    return b.one("mod", b.one("add", x, one), count)


def _other_order(b: Builder, op: Op, _: Deal) -> Value:
    """What ranks have, the last one's first."""
    return b.one("reverse", b.same(op, *op.operands), axes=(0,))


def _again(b: Builder, op: Op, deal: Deal) -> Value:
    """A sum over ranks is added up over the ranks."""
    rows = deal.exchanged(b, "all_gather", b.one("add", *op.operands))
    return b.one("sum", rows, axes=(0,))


def _other_block(b: Builder, op: Op, _: Deal) -> Value:
    """The block of the next gate."""
    (axis,) = _cut_axes(op)
    size, total = (x.type.static_shape[axis] for x in (op.result, op.operands[0]))
    first = _numbers(op.attributes["start"])[axis] + size
    return slice_axis(b, op.operands[0], axis, first % total, first % total + size)


def _others_block(b: Builder, op: Op, deal: Deal) -> Value:
    """The block of the last rank, on every rank."""
    rows = deal.exchanged(b, "all_gather", b.same(op, *op.operands))
    return row_of(b, rows, deal.ranks - 1)


def _cut_axes(op: Op) -> list[int]:
    pairs = zip(op.operands[0].type.static_shape, op.result.type.static_shape, strict=True)
    return [axis for axis, (n, m) in enumerate(pairs) if n != m]


def _is_block(op: Op, reached: frozenset[Value]) -> bool:
    """One of several equal pieces of an axis, at its place."""
    is_own = op.name == "slice" and op.operands[0] not in reached
    if not is_own or not op.result.type.dtype.is_float or len(_cut_axes(op)) != 1:
        return False
    (axis,) = _cut_axes(op)
    size, start = op.result.type.static_shape[axis], _numbers(op.attributes["start"])[axis]
    total, strides = op.operands[0].type.static_shape[axis], _numbers(op.attributes["stride"])
    return size > 0 and total % size == start % size == 0 and strides[axis] == 1


def _is_number(op: Op, _: frozenset[Value]) -> bool:
    return op.name == "all_to_all" and op.result.type.dtype is DType.U32


def _is_greatest(op: Op, reached: frozenset[Value]) -> bool:
    return op.name == "max" and op.operands[1] in reached


def _numbers(attribute: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in attribute)


def _is_of(op: Op, name: str) -> bool:
    """An exchange of what is computed, not of ranks' numbers."""
    return op.name == name and op.result.type.dtype.is_float


def _is_row(op: Op, reached: frozenset[Value]) -> bool:
    is_float = op.results[0].type.dtype.is_float
    is_first = op.name == "slice" and is_float and op.operands[0] in reached
    return is_first and op.result.type.shape[:1] == (1,) != op.operands[0].type.shape[:1]


def _is_sum(op: Op, reached: frozenset[Value]) -> bool:
    is_float = op.name == "add" and op.result.type.dtype.is_float
    return is_float and op.operands[1] in reached


FAULTS = (
    Fault("an exchange is left out", lambda op, _: _is_of(op, "all_to_all"), _kept),
    Fault("own numbers are taken for all", lambda op, _: _is_of(op, "all_gather"), _own),
    Fault("a rank is left out", _is_sum, _kept),
    Fault("a rank is counted twice", _is_sum, _twice),
    Fault("a rank is subtracted", _is_sum, _less),
    Fault("only the last rank counts", _is_sum, _second),
    Fault("another rank's row", _is_row, _other_row),
    Fault("the mean of ranks for the sum", _is_sum, _scaled),
    Fault("another rank's part", _is_number, _next),
    Fault("a rank's greatest is left out", _is_greatest, _kept),
    Fault("ranks in another order", lambda op, _: _is_of(op, "all_gather"), _other_order),
    Fault("a sum is added up again", _is_sum, _again),
    Fault("the other side of the grid", lambda op, _: is_exchange(op), _other_group),
)


# What is cut inside blocks can be wrong in these ways too.
BLOCK_FAULTS = (
    Fault("another gate's block", _is_block, _other_block),
    Fault("another rank's block", _is_block, _others_block),
)
IN_BLOCKS = (*FAULTS, *BLOCK_FAULTS)


def broken(subject: CutProgram, rng: np.random.Generator) -> tuple[str, CutProgram]:
    """A cut with one fault, and the fault's name."""
    blocks = [name for name, place in subject.places.items() if place.outer > 1]
    if blocks and (not IN_BLOCKS or rng.random() < 0.15):
        name = blocks[rng.integers(len(blocks))]
        places = {**subject.places, name: Place(subject.places[name].axis)}
        return "columns in one piece", replace(subject, places=places)
    cut, faults = subject.cut, IN_BLOCKS if blocks else FAULTS
    found = list(_places(cut.block, faults))
    names = sorted({fault.name for fault, _ in found})
    name = names[rng.integers(len(names))]
    of_kind = [(f, op) for f, op in found if f.name == name]
    fault, at = of_kind[rng.integers(len(of_kind))]
    made = replace(cut, block=_rebuilt(cut.block, at, fault, subject.deal))
    return name, replace(subject, cut=made)


def _places(block: Block, faults: Sequence[Fault]) -> Iterator[tuple[Fault, Op]]:
    """Every fault that could be made in a block, and in its loops."""
    reached: set[Value] = set()  # what exchanges give, and rows of it
    for op in block.body:
        for region in op.regions:
            yield from _places(region, faults)
        if op.results:
            yield from ((f, op) for f in faults if f.fits(op, frozenset(reached)))
        follows = op.name in ("slice", "reshape") and op.operands[0] in reached
        if op.results and (is_exchange(op) or follows):
            reached.update(op.results)


def _rebuilt(block: Block, at: Op, fault: Fault, deal: Deal) -> Block:
    b = Builder()
    mapping: dict[Value, Value] = {}
    for op in block.body:
        operands = renamed(op.operands, mapping)
        regions = tuple(_rebuilt(region, at, fault, deal) for region in op.regions)
        op_here = replace(op, operands=operands, regions=regions)
        if op is at:
            mapping[op.result] = fault.made(b, op_here, deal)
        else:
            b.ops.append(op_here)
    end = replace(block.terminator, operands=renamed(block.outputs, mapping))
    return Block(block.parameters, (*b.ops, end))


def right(kind: str, parts: int, ranks: int) -> CutProgram:
    """A right cut of one of the programs."""
    text, axis = PROGRAMS[kind]
    net = loads(text.replace("2000", "1100"), precision="f64")
    inputs = inputs_of(kind, 2 * parts)
    whole, axes = whole_batch(net, inputs, parts, axis)
    names = net.select("params")
    cut = accumulate(whole.function, axes, names, parts, ranks=ranks)
    gradient = value_and_grad(whole.function, names)
    return CutProgram(gradient, cut, Deal(parts, ranks), at_axes(axes), dict(whole.dims))


SHARDS = (
    (VOCABULARY, "V=2"),
    (VOCABULARY, "V=3"),
    (HEADS, "N=2"),
    (PRODUCTS.replace("dropout(h, 0.4)", "h"), "H=3"),
    (GREATEST, "H=2"),
)
BLOCKS = ((GATES, "H=2"), (GATES, "H=3"), (FUSED, "H=2"), (TWICE, "H=2"))
GRIDS = ((VOCABULARY, "V=2"), (GREATEST, "H=2"))


def right_shard(text: str, along: str) -> CutProgram:
    """A right cut of a program along a dimension of its parameters."""
    net = loads(text, precision="f64")
    shard = Shard.parsed(net, along)
    cut = shard.at({})
    gradient = value_and_grad(cut.whole.function, list(net.select("params")))
    dims = dict(cut.whole.dims)
    made = dce(flatten(cut.share(gradient)))
    return CutProgram(gradient, made, shard.deal, cut.places, dims, shard.dim)


def right_grid(text: str, along: str, groups: int) -> CutProgram:
    """A right cut of a program on a grid: along a dimension, and of the batch `B`."""
    net = loads(text.replace("dim B = 2", "dim B").replace("dim B = 3", "dim B"), precision="f64")
    shard = Shard.parsed(net, along)
    shares = {shard.dim: shard.ranks}
    step = net.train_step("sgd(lr=1)", ranks=groups * shard.ranks, shard=shares)
    whole = net.lower({"B": 2 * groups}, training=True)
    axes, cut = step.accumulation(whole)
    made = dce(flatten(cut.compose(cut.part)))
    gradient = value_and_grad(whole.function, list(net.select("params")))
    held = Held(shard.at(whole.dims).places, shard.ranks)
    return CutProgram(gradient, made, step.deal, at_axes(axes), dict(whole.dims), shard.dim, held)


def is_wrong(subject: CutProgram, rng: np.random.Generator) -> bool:
    """Whether some rank computes something else in f64: a fault may change nothing, where every
    rank has the same summand."""
    whole = subject.whole
    values, limit = [], index_limit(subject.whole)
    for value in whole.block.parameters:
        shape = value.type.static_shape
        is_float = value.type.dtype.is_float
        values.append(rng.standard_normal(shape) if is_float else rng.integers(0, limit, shape))
    known = {key(s): x for s, x in zip(whole.results, run(ARRAYS, whole, values), strict=True)}
    for rank in range(subject.ranks):
        one = as_rank(whole, subject.cut, subject.deal, subject.places, rank, subject.held)
        for slot, found in zip(one.results, run(ARRAYS, one, values), strict=True):
            assert np.isfinite(known[key(slot)]).all(), "a point where everything is finite"
            if not np.allclose(found, known[key(slot)], rtol=1e-9, atol=1e-12):
                return True
    return False


def right_cuts() -> dict[str, Callable[[], CutProgram]]:
    """What makes each right cut, by the name of its kind."""
    found: dict[str, Callable[[], CutProgram]] = {
        f"{kind} {deal}": partial(right, kind, *deal) for kind in PROGRAMS for deal in DEALS
    }
    for text, along in SHARDS:
        found[f"along {along} of {text.count('param')}"] = partial(right_shard, text, along)
    for number, (text, along) in enumerate(BLOCKS):
        found[f"inside blocks along {along}, {number}"] = partial(right_shard, text, along)
    for text, along in GRIDS:
        found[f"two groups along {along}"] = partial(right_grid, text, along, 2)
    return found


def tried(count: int, seed: int, kinds: str = "") -> Iterator[tuple[str, str, Verdict]]:
    """Program, fault and verdict of ``count`` wrong cuts of the kinds in whose names ``kinds``
    is.
    """
    rng = np.random.default_rng(seed)
    cuts = [(name, make()) for name, make in right_cuts().items() if kinds in name]
    for number in range(count):
        kind, cut = cuts[number % len(cuts)]
        while True:
            name, subject = broken(cut, rng)
            if is_wrong(subject, rng):
                break
        yield kind, name, ranks_verdict(subject, seed + number, 2)


def main() -> None:
    """Prints counts, and every fault that was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="")
    options = parser.parse_args()
    statuses: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for kind, name, verdict in tried(options.count, options.seed, options.kinds):
        statuses[verdict.status.value] += 1
        faults[name] += 1
        if verdict.status is not Status.REFUTED:
            print(f"{kind}: {name}: {verdict}: {verdict.detail}", flush=True)
        if statuses.total() % 20 == 0:
            print(dict(statuses), flush=True)
    print(dict(faults))
    print(dict(statuses))


if __name__ == "__main__":
    main()
