"""Index arithmetic: quotients and remainders of positions by constants, without a division where it
can be avoided.

Of every i64 variable that follows from loop indices three things are tracked: its range, a number
that divides it, and, in a vector body, whether it is ``start + stride * lane``. So the lanes of a
vector that never straddles a multiple of the divisor have one quotient, a scalar, and their
remainders are again a run: an address made of them stays contiguous. What is left is a shift or a
multiplication where the range allows it.

Non-goals: arithmetic on data (ids read from memory are unknown numbers here).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradc.codegen.llvm.nest.memory import Address, Lanes, Memory, i64
from gradc.codegen.llvm.nest.turned import Border, Turn, turns_once
from gradc.codegen.llvm.text import Function, Value, constant, lanes_of
from gradc.ir.loop.kernel import Affine, Var

_EXACT = 1 << 31  # multiplication by a reciprocal is exact for dividends below


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a variable: its least and greatest value, and a divisor of it (0 for zero
    itself). No vector of it has a multiple of ``fence`` inside, but for its first lane (0: not
    known of any).
    """

    low: int
    high: int
    divisor: int
    fence: int = 0


class Indices:
    """What is known of the index variables of one function."""

    def __init__(self, fn: Function, memory: Memory) -> None:
        self.fn = fn
        self.memory = memory
        self.facts: dict[Var, Facts] = {}

    def enter(self, index: Var, extent: int, step: int = 1, start: int = 0, fence: int = 0) -> None:
        """A loop index runs over [0, extent); its value now is a multiple of ``step`` (or the
        literal ``start``).
        """
        self.facts[index] = Facts(0, max(extent - 1, 0), math.gcd(step, start), fence)

    def of(self, affine: Affine) -> Facts | None:
        """The facts about a sum, None if a term is unknown."""
        low = high = divisor = affine.constant
        for var, factor in affine.terms:
            known = self.facts.get(var)
            if known is None:
                return None
            ends = (known.low * factor, known.high * factor)
            low, high = low + min(ends), high + max(ends)
            divisor = math.gcd(divisor, known.divisor * factor)
        return Facts(low, high, divisor)

    def is_small(self, terms: Iterable[tuple[Var, int]]) -> bool:
        """Whether a sum of variables stays within 31 bits in every step."""
        size = 0
        for var, factor in terms:
            known = self.facts.get(var)
            if known is None:
                return False
            size += max(abs(known.low), abs(known.high)) * abs(factor)
        return size < _EXACT

    def define(self, var: Var, affine: Affine) -> None:
        """``var = affine``."""
        facts = self.of(affine)
        if facts is not None:
            self.facts[var] = facts

    def divide(
        self, var: Var, verb: str, source: Var, place: Address, divisor: int, lanes: Lanes | None
    ) -> Address:
        """``var = source // divisor`` or ``source % divisor``, where ``source`` is ``place`` in the
        current body.
        """
        facts = self.facts.get(source)
        result = self._result_facts(verb, facts, divisor)
        if result is not None:
            self.facts[var] = result
        if lanes is None or place.is_uniform:
            return Address(self._divide(verb, place.start, facts, divisor))
        known = self._pattern(verb, place, facts, divisor)
        if known is not None:
            return known
        whole = self.memory.number(place, lanes)
        offsets = self._divide(verb, whole, facts, divisor)
        return Address(i64(0), (), offsets, turn=self._turn(verb, place, facts, divisor))

    def _turn(self, verb: str, place: Address, facts: Facts | None, divisor: int) -> Turn | None:
        """The lanes' quotients or remainders, where they pass one multiple of the divisor, or have
        done so before.
        """
        fn, before = self.fn, place.turn
        if facts is None:
            return None
        if before is not None:
            if before.pattern:
                return None
            ends = (fn.binary("add", place.start, end) for end in (before.here, before.there))
            here, there = (self._divide(verb, end, facts, divisor) for end in ends)
            return Turn(before.border, here, there, ())
        common = math.gcd(facts.divisor, divisor)
        if place.offsets is not None or not turns_once(facts.low, common, place.pattern, divisor):
            return None
        rest = self._divide("mod", place.start, facts, divisor)
        border = Border(rest, place.pattern, divisor)
        if verb == "mod":
            return Turn(border, rest, fn.binary("add", rest, i64(-divisor)), place.pattern)
        quotient = self._divide("floordiv", place.start, facts, divisor)
        return Turn(border, quotient, fn.binary("add", quotient, i64(1)), ())

    def _pattern(
        self, verb: str, place: Address, facts: Facts | None, divisor: int
    ) -> Address | None:
        """The lanes' quotients or remainders, where they follow from what is known of the first
        one.
        """
        if place.offsets is not None:
            return None
        if not place.start.name.startswith("%"):
            first = int(place.start.name)
            return _place_of([_apply(verb, first + step, divisor) for step in place.pattern])
        if facts is None:
            return None
        if facts.divisor % divisor == 0:
            # The first lane is a multiple: quotients add, remainders are those of the pattern
            # alone.
            start = self._divide(verb, place.start, facts, divisor)
            steps = tuple(_apply(verb, step, divisor) for step in place.pattern)
            return Address(start if verb == "floordiv" else i64(0), steps if any(steps) else ())
        common = math.gcd(facts.divisor, divisor)
        is_fenced = facts.fence > 0 and divisor % facts.fence == 0
        if is_fenced or (min(place.pattern) >= 0 and max(place.pattern) < common):
            # All lanes lie between the same two multiples of the divisor.
            start = self._divide(verb, place.start, facts, divisor)
            return Address(start, place.pattern if verb == "mod" else ())
        return None

    def _result_facts(self, verb: str, facts: Facts | None, divisor: int) -> Facts | None:
        if verb == "floordiv":
            if facts is None:
                return None
            exact = facts.divisor // divisor if facts.divisor % divisor == 0 else 1
            return Facts(facts.low // divisor, facts.high // divisor, exact)
        if facts is None:
            return Facts(0, divisor - 1, 1)
        common = math.gcd(facts.divisor, divisor)
        fence = facts.fence if facts.fence and divisor % facts.fence == 0 else 0
        if facts.low // divisor == facts.high // divisor:
            return Facts(facts.low % divisor, facts.high % divisor, common, fence)
        return Facts(0, divisor - 1, common, fence)

    def _divide(self, verb: str, x: Value, facts: Facts | None, divisor: int) -> Value:
        fn = self.fn
        if not x.name.startswith("%") and not lanes_of(x.type):
            number = int(x.name)
            return i64(number // divisor if verb == "floordiv" else number % divisor)
        if divisor & (divisor - 1) == 0:
            # Right for negative numbers too: shifting rounds down, and masking is the remainder of
            # that.
            if verb == "mod":
                return fn.binary("and", x, constant(x.type, divisor - 1))
            return fn.binary("ashr", x, constant(x.type, divisor.bit_length() - 1))
        quotient = self._quotient(x, facts, divisor)
        if verb == "floordiv":
            return quotient
        return fn.binary("sub", x, fn.binary("mul", quotient, constant(x.type, divisor)))

    def _quotient(self, x: Value, facts: Facts | None, divisor: int) -> Value:
        fn = self.fn
        natural = facts is not None and facts.low >= 0
        if natural and facts is not None and facts.high < _EXACT and lanes_of(x.type):
            # ceil(2^s/d) x / 2^s with s = 31 + ceil(log2 d) is exact below 2^31 (Granlund and
            # Montgomery).
            shift = 31 + (divisor - 1).bit_length()
            reciprocal = constant(x.type, -(-(1 << shift) // divisor))
            narrow = fn.binary("and", x, constant(x.type, 0xFFFFFFFF))
            return fn.binary("lshr", fn.binary("mul", narrow, reciprocal), constant(x.type, shift))
        if natural:
            return fn.binary("udiv", x, constant(x.type, divisor))
        down = fn.binary("sdiv", x, constant(x.type, divisor))
        rest = fn.binary("sub", x, fn.binary("mul", down, constant(x.type, divisor)))
        below = fn.compare("icmp slt", rest, constant(x.type, 0))
        return fn.binary("add", down, fn.convert("sext", below, x.type))


def _apply(verb: str, number: int, divisor: int) -> int:
    return number // divisor if verb == "floordiv" else number % divisor


def _place_of(numbers: list[int]) -> Address:
    """Known numbers, one per lane, as a place."""
    steps = tuple(n - numbers[0] for n in numbers)
    return Address(i64(numbers[0]), steps if any(steps) else ())
