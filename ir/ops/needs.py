"""Which terms and which elements of a contraction count, where positions say so (causal masks).

An attribute ``terms`` or ``results`` of a ``contract`` is a tuple of needs, each a tuple of
integers ``(constant, data, side, axis, factor, side, axis, factor, ...)`` for

    constant + data * origin + sum(factor * index along axis of operand side) >= 0

where ``origin`` is the first element of a third operand, an i32 tensor (``data`` is 0 where there
is none). A term that does not meet every need of ``terms`` is left out: its factor is exactly 0. An
element that does not meet every need of ``results`` is 0 instead: nothing looks at it.
``passes/recompute/reach.py`` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attr, Attrs

NAMES = ("terms", "results")
Axis = tuple[int, int]  # side (0 for the left operand, 1 for the right one), axis


@dataclass(frozen=True, slots=True)
class Need:
    """One inequality: ``constant + data * origin + sum(factor * index) >= 0``."""

    constant: int
    data: int
    factors: tuple[tuple[Axis, int], ...]

    def flat(self) -> tuple[Attr, ...]:
        """As an attribute holds it."""
        each = [n for (side, axis), factor in self.factors for n in (side, axis, factor)]
        return (self.constant, self.data, *each)

    def moved(self, place: Callable[[Axis], Axis]) -> Need:
        """The need of operands whose axes lie elsewhere."""
        return Need(self.constant, self.data, tuple((place(a), n) for a, n in self.factors))


def get_needs(attributes: Attrs, name: str) -> tuple[Need, ...]:
    """The needs that attribute ``name`` holds, none where it is absent. Raises TypeRuleError."""
    value = attributes.get(name, ())
    found = []
    for item in value if isinstance(value, tuple) else (value,):
        numbers = item if isinstance(item, tuple) else ()
        whole = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
        if len(whole) != len(numbers) or len(whole) < 2 or (len(whole) - 2) % 3:
            raise TypeRuleError(f"attribute `{name}` must be needs, not {value!r}")
        rest = whole[2:]
        factors = [((rest[n], rest[n + 1]), rest[n + 2]) for n in range(0, len(rest), 3)]
        found.append(Need(whole[0], whole[1], tuple(factors)))
    return tuple(found)


def with_needs(attributes: Attrs, name: str, needs: Sequence[Need]) -> dict[str, Attr]:
    """``attributes`` with these needs."""
    return {**attributes, name: tuple(need.flat() for need in needs)}


def reads_origin(attributes: Attrs) -> bool:
    """Whether a need counts from the third operand."""
    return any(need.data for name in NAMES for need in get_needs(attributes, name))
