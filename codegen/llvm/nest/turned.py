"""Places that turn over once among the lanes of a vector: those of a row that is repeated, or that
ends between two lanes.

Where ``x = first + steps[lane]`` is divided and the first is no multiple of the divisor, the lanes
have one quotient up to some lane and the next one from there on. So an address made of quotients
and remainders is two runs, told apart by a comparison: two loads, each of its own lanes only, take
the place of a gather.

Invariant: a turn says in another way what the vector of offsets beside it says; whatever knows
nothing of turns uses that. Non-goals: more than one turn in a vector; stores.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.codegen.llvm.text import Function, Value, bits_suffix, constant, literal_vector, vector

Steps = tuple[int, ...]
_MOST = 1 << 30  # lanes are told apart in 32 bits


@dataclass(frozen=True, slots=True)
class Border:
    """Lanes whose ``first + steps[lane]`` is ``limit`` or more lie beyond the turn."""

    first: Value  # i64, from 0 to below ``limit``
    steps: Steps
    limit: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Lane l is ``here + pattern[l]``, beyond the border ``there + pattern[l]``; an empty pattern
    is all zeros.
    """

    border: Border
    here: Value
    there: Value
    pattern: Steps


def turns_once(low: int, common: int, steps: Steps, divisor: int) -> bool:
    """Whether ``x + steps``, where x is ``low`` or more and a multiple of ``common``, a divisor of
    ``divisor``, passes one multiple of ``divisor`` at most.
    """
    return low >= 0 and min(steps) >= 0 and max(steps) - common < divisor < _MOST


def load_turned(fn: Function, base: Value, element: str, turn: Turn, align: int) -> Value | None:
    """The lanes of ``turn``, counted from ``base``; None where they are no short run of elements,
    of which each lies on one side.
    """
    pattern = turn.pattern or (0,) * len(turn.border.steps)
    low = min(pattern)
    size = max(2, 1 << (max(pattern) - low).bit_length())
    sides: dict[int, int] = {}  # of each element of the run, its step
    for at, step in zip(pattern, turn.border.steps, strict=True):
        if sides.setdefault(at - low, step) != step:
            return None
    if size > len(pattern):
        return None
    # What no lane reads lies on neither side. (Masks are compared, not joined: see ``splat``.)
    limit = turn.border.limit
    before = [sides.get(n, limit) for n in range(size)]
    beyond = [sides.get(n, -limit) for n in range(size)]
    type_, at32 = vector(element, size), vector("i32", size)
    first = fn.splat(fn.convert("trunc", turn.border.first, "i32"), size)
    name = f"llvm.masked.load.{bits_suffix(type_)}.p0"
    found = constant(type_, 0.0)
    for place, steps, test in ((turn.here, before, "slt"), (turn.there, beyond, "sge")):
        numbers = fn.binary("add", first, literal_vector("i32", steps))
        mask = fn.compare(f"icmp {test}", numbers, constant(at32, limit))
        fn.module.declare(name, type_, ["ptr", "i32", mask.type, type_])
        index = fn.binary("add", place, Value("i64", str(low))) if low else place
        pointer = fn.address(base, element, index)
        found = fn.effect(f"call {type_} @{name}({pointer}, i32 {align}, {mask}, {found})", type_)
    return fn.shuffle(found, None, [at - low for at in pattern])
