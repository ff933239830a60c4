"""Emission that computes what is known while emitting: sizes are static, so most bounds and
conditions are.

Each function is its namesake of ``Function`` for i64 and i1, folded where the operands are
literals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gradc.codegen.llvm.text import CountedLoop, Function, Value

TRUE = Value("i1", "true")
FALSE = Value("i1", "false")


def i64(value: int) -> Value:
    """A literal."""
    return Value("i64", str(value))


def known(value: Value) -> int | None:
    """The number that an i64 is, if it is a literal."""
    return None if value.name.startswith("%") else int(value.name)


def add(f: Function, a: Value, b: Value) -> Value:
    x, y = known(a), known(b)
    if x is not None and y is not None:
        return i64(x + y)
    return b if x == 0 else a if y == 0 else f.binary("add", a, b)


def sub(f: Function, a: Value, b: Value) -> Value:
    x, y = known(a), known(b)
    if x is not None and y is not None:
        return i64(x - y)
    return a if y == 0 else f.binary("sub", a, b)


def mul(f: Function, a: Value, b: Value) -> Value:
    x, y = known(a), known(b)
    if x is not None and y is not None:
        return i64(x * y)
    if 0 in (x, y):
        return i64(0)
    return b if x == 1 else a if y == 1 else f.binary("mul", a, b)


def div(f: Function, a: Value, b: int) -> Value:
    """``a // b`` of numbers that are not negative."""
    x = known(a)
    if x is not None:
        return i64(x // b)
    return a if b == 1 else f.binary("udiv", a, i64(b))


def rem(f: Function, a: Value, b: int) -> Value:
    """``a % b`` of numbers that are not negative."""
    x = known(a)
    if x is not None:
        return i64(x % b)
    return i64(0) if b == 1 else f.binary("urem", a, i64(b))


def less(f: Function, a: Value, b: Value) -> Value:
    """``a < b``."""
    x, y = known(a), known(b)
    if x is not None and y is not None:
        return TRUE if x < y else FALSE
    return f.compare("icmp slt", a, b)


def negation(f: Function, a: Value) -> Value:
    """Not ``a``."""
    if a in (TRUE, FALSE):
        return FALSE if a == TRUE else TRUE
    return f.op(f"xor {a}, true", "i1")


def both(f: Function, a: Value, b: Value) -> Value:
    """``a`` and ``b``."""
    if FALSE in (a, b):
        return FALSE
    return b if a == TRUE else a if b == TRUE else f.binary("and", a, b)


def minimum(f: Function, a: Value, b: Value) -> Value:
    test = less(f, a, b)
    return a if test == TRUE else b if test == FALSE else f.select(test, a, b)


def maximum(f: Function, a: Value, b: Value) -> Value:
    test = less(f, a, b)
    return b if test == TRUE else a if test == FALSE else f.select(test, b, a)


@contextmanager
def counted(
    f: Function, begin: Value, end: Value, step: int, nonempty: bool
) -> Iterator[CountedLoop]:
    """A loop without carried values; no loop if it is known to have one trip."""
    first, last = known(begin), known(end)
    if first is not None and last is not None and 0 < last - first <= step:
        yield CountedLoop(begin, [])
        return
    with f.loop(begin, end, step, nonempty=nonempty) as loop:
        yield loop


@contextmanager
def when(f: Function, condition: Value) -> Iterator[None]:
    """What is run only if ``condition``, which must not be known to be false."""
    if condition == TRUE:
        yield
        return
    with f.branch(condition):
        yield
