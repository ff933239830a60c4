"""What ops cost, read off their meanings: verbs per element, by class. Used by fusion and by the
choice of loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gradc.ir.ops.registry import Contraction, Pointwise, Reduction, lookup
from gradc.ir.tensor.core import Attr, Block, DType, Op

TRANSCENDENTAL = frozenset(
    ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf", "pow")
)
SLOW = frozenset(("div", "sqrt", "rsqrt", "floordiv", "mod"))

# Nanoseconds per element of one thread: rough, but in the right order; only thresholds depend on
# them.
_NS_PLAIN, _NS_SLOW, _NS_TRANSCENDENTAL, _NS_ELEMENT = 0.03, 0.15, 0.4, 0.3
# Starting and joining a parallel loop pays off above this much work.
PARALLEL_NS = 50_000.0


@dataclass(frozen=True, slots=True)
class VerbCount:
    """Verbs per element of one op."""

    plain: int = 0
    slow: int = 0
    transcendental: int = 0

    @property
    def ns(self) -> float:
        return (
            self.plain * _NS_PLAIN + self.slow * _NS_SLOW + self.transcendental * _NS_TRANSCENDENTAL
        )


class _Recorder:
    """An algebra that only counts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def const(self, value: float | bool, dtype: DType | None = None) -> int:
        return 0

    def cast(self, x: int, dtype: DType) -> int:
        self.names.append("cast")
        return 0

    def __getattr__(self, verb: str) -> Callable[..., int]:
        def record(*operands: int) -> int:
            self.names.append(verb)
            return 0

        return record


@lru_cache(maxsize=4096)
def _count(
    meaning: Callable[..., Any], arity: int, attributes: tuple[tuple[str, Attr], ...]
) -> VerbCount:
    recorder = _Recorder()
    meaning(recorder, *([0] * arity), **dict(attributes))
    transcendental = sum(name in TRANSCENDENTAL for name in recorder.names)
    slow = sum(name in SLOW for name in recorder.names)
    return VerbCount(len(recorder.names) - transcendental - slow, slow, transcendental)


def verbs(op: Op) -> VerbCount:
    """Verbs per element of an elementwise op; one for a reduction; none for views."""
    form = lookup(op.name).loop
    if isinstance(form, Pointwise):
        return _count(form.meaning, len(op.operands), tuple(op.attributes.items()))
    return VerbCount(plain=1) if isinstance(form, Reduction) else VerbCount()


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    total = 1
    for extent in shape:
        total *= extent
    return total


def element_ns(block: Block) -> float:
    """Time per element of the whole of ``block``, were all its ops computed at every element."""
    return _NS_ELEMENT + sum(verbs(op).ns for op in block.body)


def flops(block: Block) -> int:
    """Floating point operations of ``block``, every verb counted as one."""
    total = 0
    for op in block.body:
        form = lookup(op.name).loop
        count = verbs(op)
        per = count.plain + count.slow + count.transcendental
        if isinstance(form, Contraction):
            total += 2 * size_of(op.result.type.static_shape) * contracted_extent(op)
        elif isinstance(form, Reduction):
            total += size_of(op.operands[0].type.static_shape)
        elif per:
            total += per * size_of(op.result.type.static_shape)
    return total


def contracted_extent(op: Op) -> int:
    """The length of the sums of a contraction."""
    pairs = op.attributes["contract"]
    assert isinstance(pairs, tuple)
    total = 1
    for pair in pairs:
        assert isinstance(pair, tuple) and isinstance(pair[0], int)
        total *= op.operands[0].type.static_shape[pair[0]]
    return total
