"""What passes ask of an op, as facts that the op states at its definition: ``Traits``.

Every fact has one meaning and one place. What an op does not state holds in the conservative
direction: it computes, is worth keeping, is linear in nothing, and is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from gradc.ir.tensor.core import Attrs, Op, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


class Moves(Enum):
    """How the elements of a result come from elsewhere without being computed.

    SOURCE: from nowhere, there are no operands (constant, iota). PERMUTES: every element of the one
    operand, once (reshape, transpose). REPEATS: every element of it, some several times
    (broadcast). SELECTS: some elements of it (slice). PLACES: elements of one or several operands,
    zeros perhaps between them (pad, concat).
    """

    SOURCE = "source"
    PERMUTES = "permutes"
    REPEATS = "repeats"
    SELECTS = "selects"
    PLACES = "places"


# What computing one element costs beside reading and writing one. FREE: nothing, it is made where
# it is read. CHEAP: no more than reading it back would. PLAIN: all else. A rule that counts
# multiplications is ``Traits.work``.
Cost: TypeAlias = Literal["free", "cheap", "plain"]

# Operands that an op is linear in: all of them together, or those at the positions of any one group
# together while the others are fixed.
Linear: TypeAlias = tuple[tuple[int, ...], ...] | Literal["all"]
ALL: Final = "all"

# What the slope of an elementwise op does to gradients that pass: it ``bends`` them (relu), or is
# zero in the tails (``saturates``: sigmoid).
Slope: TypeAlias = Literal["", "bends", "saturates"]


# from what each rank has, what each rank has then, in plain ops.
Joined: TypeAlias = Callable[["Builder", Op, Sequence[Value]], Sequence[Value]]
Batched: TypeAlias = Callable[["Builder", Op, Sequence[Value], Sequence[bool], int], Value]


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about one op that hold wherever it stands."""

    moves: Moves | None = None
    cost: Cost = "plain"
    linear: Linear = ()
    # The result has the operand's numbers, whatever moves or represents them: views of one operand,
    # casts, stop_gradient. A condition on the operand is one on the result.
    is_same_numbers: bool = False
    # Pages and formulas show what it is applied to in its place.
    is_silent: bool = False
    slope: Slope = ""
    # Its result is zero or positive, and positive exactly where its operand is (relu).
    rectifies: bool = False
    # Its numbers are random: a function of a key and the position alone.
    draws: bool = False
    # Each element of the result is the greatest (or least) of some of the one operand.
    picks: Literal["", "greatest", "least"] = ""
    # What goes into it and comes out of it is worth a name in formulas, as of a layer.
    is_layer: bool = False
    # How formulas spell it, if not by its name.
    word: str = ""
    # Multiplications of one application, where they are not a few per element.
    work: Callable[[Op], int] | None = None
    # The attributes for operands that are stacked along a new first axis of so many positions, and
    # a result stacked in the same way. None: the op cannot be applied to a stack. Elementwise ops
    # keep theirs.
    stacked: Callable[[Attrs, Dim], Attrs] | None = None
    # The op applied where some operands are stacked (which, and of how many positions) and
    # attributes alone do not say how: ir/ops/stacks.py.
    batched: Batched | None = None
    # Where each operand begins in the result, if that is made of their elements and nothing else,
    # each in one place: those of an operand lie there as they lie in it.
    starts: Callable[[Op], Sequence[tuple[int, ...]]] | None = None
    # Exchanges between ranks only: the op as all ranks together see it.
    joined: Joined | None = None


PLAIN: Final = Traits()
