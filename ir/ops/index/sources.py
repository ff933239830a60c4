"""Constants in the index algebra."""

from __future__ import annotations

import math
from fractions import Fraction

from gradc.ir.ops.index.element import Elements
from gradc.ir.ops.index.sums import (
    Entry,
    LinearIndex,
    factor,
    number,
)
from gradc.ir.tensor.core import Op


def splat(_r: Elements, op: Op, _index: LinearIndex) -> Entry:
    value = op.attributes["value"]
    assert isinstance(value, (bool, int, float))
    if not math.isfinite(value):
        return factor(f"number {value}", [], [])
    near = Fraction(value).limit_denominator(1 << 16)
    # A literal is the fraction it was rounded from, as everywhere in proofs.
    return number(near if float(near) == value else Fraction(value))
