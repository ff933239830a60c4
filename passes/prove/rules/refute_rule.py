"""What to say of a derivative rule that an opaque prime field does not confirm: ordered fields
first, then balls.

Rules of windows (max pooling) compare results of comparisons, which opaque guards do not know to be
equal to an operand. There one window is decided exactly, in every order of its elements, and the
layout of windows over a prime field with a real order. What still differs is put to balls at 50
digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.ir.domains.dual import DualArrays
from gradc.ir.tensor.core import Block, Function, Op, Role, Slot, TensorType
from gradc.passes.prove.domains.exact import TooLarge
from gradc.passes.prove.domains.field import PRIME
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.refute import FloatArrays, PointArrays, RealPoint, decide
from gradc.passes.prove.rules.rules import (
    POINTS,
    Drawn,
    Instance,
    error_bound,
    holds_exactly,
    holds_in_field,
    instance,
    sides,
)

# Windows of more elements have too many orders.
MOST_ORDERED = 4


def settle_rule(case: Instance) -> Verdict:
    """The verdict on one instance whose rule opaque guards do not prove."""
    ordered = _ordered_verdict(case) if case.name == "max_pool" else None
    return ordered or refute_rule(case)


def _ordered_verdict(case: Instance) -> Verdict | None:
    try:
        if not holds_in_field(case, 2, is_opaque=False):
            return None
        size = case.op.attributes["size"]
        assert isinstance(size, tuple)
        window = (int(str(size[0])), int(str(size[1])))
        bound = math.ceil(error_bound(case))
        if math.prod(window) <= MOST_ORDERED and holds_exactly(_one_window(case, window)):
            detail = f"one window in every order, windows at {case}: error < 2^{bound}"
            return Verdict(
                "rule", case.name, Status.PROVED_BOUND, "exact window, layout over a prime field",
                detail, ("off kinks",),
            )  # fmt: skip
    except TooLarge:
        return None
    detail = f"{POINTS} points modulo {PRIME} with sampled orders"
    return Verdict("rule", case.name, Status.PROBABLE, "prime field", detail, ("off kinks",))


def _one_window(case: Instance, window: tuple[int, int]) -> Instance:
    type_ = case.parameters[0].type.with_shape((1, 1, *window))
    attributes = {"size": window, "stride": window, "padding": ((0, 0), (0, 0))}
    return instance(case.name, [type_], attributes)


class _Eighths(Drawn):
    """Small exact numbers as balls."""

    def __init__(self, balls: PointArrays) -> None:
        self.balls = balls
        self.rng = np.random.default_rng(17)

    def draw(self, type_: TensorType) -> Any:
        return self.balls.point(self.rng.integers(-8, 9, type_.static_shape) / 8.0)


def refute_rule(case: Instance) -> Verdict:
    """Balls: REFUTED with the point if <g, J v> and <pullback(g), v> are disjoint somewhere."""
    block = Block(case.parameters, (case.op, Op("yield", case.op.results, ())))
    slots = tuple(Slot(f"operand {n}", Role.INPUT) for n in range(len(case.parameters)))
    function = Function(case.name, block, slots, ())

    def both(at: RealPoint) -> tuple[Sequence[Any], Sequence[Any]]:
        drawn = _Eighths(at.balls)
        left, right = sides(at.balls, DualArrays(at.balls), case, at.values, drawn)
        return [_sum(at.balls, left)], [_sum(at.balls, right)]

    outcome = decide(function, both, ["<g, J v>"])
    detail = f"{case}: {outcome.detail}"
    witness = {**outcome.witness}
    if witness:
        witness["values"] = {**witness["values"], **_directions(case)}
    return Verdict(
        "rule", case.name, outcome.status, "balls at 50 digits", detail, ("off kinks",),
        outcome.point, witness=witness,
    )  # fmt: skip


def _directions(case: Instance) -> dict[str, Any]:
    """v and g of the identity <g, J v> = <pullback(g), v>, by operand and by result: with the
    operands, all that it takes to compute either side."""
    drawn = _Eighths(FloatArrays())
    rows = [
        *((f"v {n}", x) for n, x in enumerate(drawn.directions(case.parameters))),
        *((f"g {n}", x) for n, x in enumerate(drawn.seeds(case.op.results))),
    ]
    return {name: np.asarray(x).tolist() for name, x in rows if x is not None}


def _sum(balls: PointArrays, arrays: Sequence[Any]) -> Any:
    total = balls.point(np.zeros(())).item()
    for array in arrays:
        for x in np.asarray(array, object).reshape(-1):
            total = total + x
    return np.asarray(total, object)
