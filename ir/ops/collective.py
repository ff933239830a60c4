"""Exchanges between the ranks of one program, all of which run the same function on data of their
own.

    all_to_all(x [R, ...])     row j of rank i becomes row i of rank j
    all_gather(x [...])        [R, ...]: row i is what rank i has

Ranks of a grid exchange in groups: those that follow each other, or, with ``across``, those that
are as far apart as they can be (on a grid of 3 times 2 ranks: 0 and 1, or 0, 2 and 4).

Both only move numbers: sums over ranks are sums of the program over rows, in the order of the
ranks, and so the same bits on all of them. Their derivatives hold for all ranks together: the loss
is the sum of what the ranks seed. ``passes/ranks/together.py`` writes R ranks as one function.

With one rank ``all_to_all`` is its operand. Evaluating them for more needs the other ranks: kernels
reach them through ``ir.loop.kernel.Exchange``; array domains refuse, but for one that reaches them
(``Arrays.exchange``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.kernel import Affine, ExchangeKind
from gradc.ir.ops.attributes import get_bool, get_int
from gradc.ir.ops.registry import Nest, OpDef, Sample, TypeRuleError, register
from gradc.ir.ops.structural import slice_axis
from gradc.ir.ops.traits import ALL, Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder

_NEEDS = "the other ranks have part of it"


class OtherRanksError(Exception):
    """An exchange between ranks was evaluated where there is only one."""


def _ranks(op: Op) -> int:
    ranks = op.result.type.shape[0]
    assert isinstance(ranks, int), "the number of ranks is known"
    return ranks


# --- all_to_all


def _all_to_all_type(types: Sequence[TensorType], _attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 1:
        raise TypeRuleError(f"all_to_all: takes 1 operand, got {len(types)}")
    (x,) = types
    if x.rank < 1 or not isinstance(x.shape[0], int) or x.shape[0] < 1:
        raise TypeRuleError(f"all_to_all: takes a row per rank, not {x}")
    return (x,)


def _all_to_all(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    if _ranks(op) != 1:
        return (_reached(arrays, op, "deal", operands[0]),)
    return (operands[0],)


def _reached(arrays: Any, op: Op, kind: str, own: Any) -> Any:
    """What the exchange makes of ``own``."""
    if arrays.exchange is None:
        raise OtherRanksError(f"{op.name} between {_ranks(op)} ranks")
    return arrays.exchange(f"{kind}_across" if is_across(op) else kind, _ranks(op), own)


def _same_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    return (None if tangent is None else b.same(op, tangent),)


def _all_to_all_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    """Exchanging rows is its own inverse, and a permutation of all ranks' rows."""
    (ct,) = cts
    return (None if ct is None or not needed[0] else b.same(op, ct),)


# --- all_gather


def _all_gather_type(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 1:
        raise TypeRuleError(f"all_gather: takes 1 operand, got {len(types)}")
    ranks = get_int(attributes, "ranks")
    if ranks < 1:
        raise TypeRuleError(f"all_gather: between {ranks} ranks")
    return (types[0].with_shape((ranks, *types[0].shape)),)


def _all_gather(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    if _ranks(op) != 1:
        return (_reached(arrays, op, "share", operands[0]),)
    return (arrays.reshape(operands[0], op.result.type.static_shape),)


def _all_gather_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    """Every rank reads what this one gave: the sum of what they have for it."""
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    (rows,) = b.apply("all_to_all", (ct,), _grid(op))
    return (b.one("sum", rows, axes=(0,)),)


def _grid(op: Op) -> Attrs:
    return {"across": True} if is_across(op) else {}


# --- all ranks together


def _rows(b: Builder, op: Op, given: Sequence[Value]) -> Sequence[Value]:
    """``all_to_all``: rank j has the j-th rows of all."""
    rows = ([slice_axis(b, x, 0, n, n + 1) for x in given] for n in range(_ranks(op)))
    return [b.one("concat", *found, axis=0) for found in rows]


def _stack(b: Builder, op: Op, given: Sequence[Value]) -> Sequence[Value]:
    """``all_gather``: all ranks have the same."""
    shape = op.result.type.static_shape
    rows = [b.one("reshape", x, shape=(1, *shape[1:])) for x in given]
    return (b.one("concat", *rows, axis=0),) * len(given)


# --- kernels


def is_across(op: Op) -> bool:
    """Whether the ranks that exchange are as far apart as they can be."""
    return "across" in op.attributes and get_bool(op.attributes, "across")


def _nest(near: ExchangeKind, across: ExchangeKind) -> Nest:
    def build(nest: NestContext, op: Op) -> None:
        """Own rows where the exchange finds them, then the exchange."""
        shape = op.operands[0].type.static_shape
        first = [] if near == "deal" else [Affine(0)]
        with nest.loop(math.prod(shape), "vector") as loop:
            index = nest.k.unflatten(loop.at, shape)
            nest.write([*first, *index], nest.read(0, index))
        nest.exchange(across if is_across(op) else near, _ranks(op))

    return Nest(build, lambda op: 0)


def _sample(*shape: int, dtype: DType = DType.F64, **attributes: int) -> Sample:
    return Sample((TensorType(shape, dtype),), attributes, ((-2.0, 2.0),))


register(
    OpDef(
        "all_to_all",
        "row j of rank i becomes row i of rank j",
        _all_to_all_type,
        _all_to_all,
        _same_jvp,
        _all_to_all_vjp,
        _nest("deal", "deal_across"),
        (_sample(1, 3), _sample(1), _sample(1, 0)),
        traits=Traits(linear=ALL, joined=_rows),
        without={"interval": _NEEDS, "element": _NEEDS, "axes": _NEEDS},
    )
)
register(
    OpDef(
        "all_gather",
        "what every rank has, a row per rank",
        _all_gather_type,
        _all_gather,
        _same_jvp,
        _all_gather_vjp,
        _nest("share", "share_across"),
        (_sample(3, ranks=1), _sample(ranks=1), _sample(2, 0, ranks=1)),
        traits=Traits(linear=ALL, joined=_stack),
        without={"interval": _NEEDS, "element": _NEEDS, "axes": _NEEDS},
    )
)
