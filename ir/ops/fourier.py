"""Discrete Fourier transforms over pairs of reals.

``fft(x)`` takes real parts ``x[0]`` and imaginary parts ``x[1]``, and gives those of

    X[k] = sum over j of (x[0, j] + i x[1, j]) exp(-2 pi i j k / n)          along ``axis``.

Its matrix is symmetric, so the transpose of the real map is the transform of the conjugate: with
the two parts exchanged (``reverse`` along axis 0) before and after. So is the inverse, but for the
factor 1/n. One op serves all: no other kernel is needed.

The kernel is Stockham's: one pass over the data per factor of n, in an order that ends sorted, 16
lines at a time. Factors are 8, 4, 2 and primes up to 61; ``fourier`` writes sizes with a larger
prime factor as a convolution with a chirp (Bluestein). Roots of unity come
from angles within an eighth of a turn. Everything is computed in f64, and rounded once to narrower
types. Nothing depends on how lines are shared out, so bits depend on shapes only.

Sources: J. W. Cooley and J. W. Tukey 1965; T. G. Stockham 1966; L. I. Bluestein 1970.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.kernel import Affine
from gradc.ir.ops.attributes import get_int
from gradc.ir.ops.axes import AxisRule, kept
from gradc.ir.ops.registry import Nest, OpDef, Sample, TypeRuleError, register
from gradc.ir.ops.structural import row_of
from gradc.ir.ops.traits import ALL, Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder

Pair = tuple[Any, Any]  # real and imaginary part, in any algebra
MOST_PRIME = 61  # larger prime factors go through a chirp
_WRITTEN_OUT = 13  # sums of so many terms are written out term by term
_SMALL_LANES = 4  # columns from which they are the vector direction of the first pass


def prime_factors(n: int) -> list[int]:
    """The prime factors of ``n``, least first."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found + ([n] if n > 1 else [])


def radices(n: int) -> list[int]:
    """The passes of a transform of length ``n``: 8s, then 4 or 2, then odd primes."""
    primes = prime_factors(n)
    twos = primes.count(2)
    head = [8] * (twos // 3) + ([2 ** (twos % 3)] if twos % 3 else [])
    return head + primes[twos:] or [1]


def good_size(least: int) -> int:
    """The least size of at least ``least`` that has no factors but 2, 3 and 5."""
    best = 1 << (least - 1).bit_length()
    fives = 1
    while fives < best:
        threes = fives
        while threes < best:
            size = threes
            while size < least:
                size *= 2
            best = min(best, size)
            threes *= 3
        fives *= 5
    return best


# --- roots of unity


def root_of_unity(k: Any, position: Any, n: int) -> Pair:
    """cos and sin of ``2 pi position / n`` for whole ``0 <= position < n`` held in f64.

    The angle is taken from the nearest quarter turn, exactly, so both are right to the last bit or
    two; ``k`` is the algebra of f64.
    """
    four = k.mul(position, k.const(4.0))
    quarter: Any = k.const(4.0)
    for turn in (3, 2, 1, 0):
        is_below = k.lt(four, k.const((turn + 0.5) * n))
        quarter = k.select(is_below, k.const(float(turn)), quarter)
    angle = k.mul(k.sub(four, k.mul(quarter, k.const(float(n)))), k.const(math.pi / 2 / n))
    c, s = k.cos(angle), k.sin(angle)
    is_odd = k.logical_or(k.eq(quarter, k.const(1.0)), k.eq(quarter, k.const(3.0)))
    cosine, sine = k.select(is_odd, s, c), k.select(is_odd, c, s)
    middle = k.logical_or(k.eq(quarter, k.const(1.0)), k.eq(quarter, k.const(2.0)))
    last = k.logical_or(k.eq(quarter, k.const(2.0)), k.eq(quarter, k.const(3.0)))
    return k.select(middle, k.neg(cosine), cosine), k.select(last, k.neg(sine), sine)


def _turned(k: Any, x: Pair, cosine: Any, sine: Any) -> Pair:
    """``x exp(-i angle)``."""
    re = k.add(k.mul(x[0], cosine), k.mul(x[1], sine))
    return re, k.sub(k.mul(x[1], cosine), k.mul(x[0], sine))


def _plus(k: Any, x: Pair, y: Pair) -> Pair:
    return k.add(x[0], y[0]), k.add(x[1], y[1])


def _minus(k: Any, x: Pair, y: Pair) -> Pair:
    return k.sub(x[0], y[0]), k.sub(x[1], y[1])


# --- transforms of a few numbers, written out


def short(k: Any, xs: Sequence[Pair]) -> list[Pair]:
    """The transform of up to 13 numbers, or of 8, 4, 2."""
    n = len(xs)
    if n == 1:
        return list(xs)
    if n % 2:
        return _odd(k, xs)
    even, odd = short(k, xs[::2]), short(k, xs[1::2])
    turned = [_eighth(k, x, 8 * j // n) for j, x in enumerate(odd)]
    return [_plus(k, x, y) for x, y in zip(even, turned, strict=True)] + [
        _minus(k, x, y) for x, y in zip(even, turned, strict=True)
    ]


def _eighth(k: Any, x: Pair, count: int) -> Pair:
    """``x`` turned back by ``count`` (0 to 3) eighths of a turn."""
    re, im = x
    half = k.const(math.sqrt(0.5))
    if count == 1:
        return k.mul(k.add(re, im), half), k.mul(k.sub(im, re), half)
    if count == 2:
        return im, k.neg(re)
    if count == 3:
        return k.mul(k.sub(im, re), half), k.neg(k.mul(k.add(re, im), half))
    return x


def _odd(k: Any, xs: Sequence[Pair]) -> list[Pair]:
    """Terms j and n - j share cosine and, but for the sign, sine."""
    n = len(xs)
    pairs = range(1, n // 2 + 1)
    sums = {j: _plus(k, xs[j], xs[n - j]) for j in pairs}
    gaps = {j: _minus(k, xs[j], xs[n - j]) for j in pairs}
    total = xs[0]
    for j in pairs:
        total = _plus(k, total, sums[j])
    found = [total] * n
    for place in pairs:
        even, odd = xs[0], None
        for j in pairs:
            angle = 2 * math.pi * (j * place % n) / n
            cosine, sine = k.const(math.cos(angle)), k.const(math.sin(angle))
            even = _plus(k, even, (k.mul(sums[j][0], cosine), k.mul(sums[j][1], cosine)))
            term = (k.mul(gaps[j][1], sine), k.mul(gaps[j][0], sine))
            odd = term if odd is None else _plus(k, odd, term)
        assert odd is not None, "there is a pair"
        found[place] = k.add(even[0], odd[0]), k.sub(even[1], odd[1])
        found[n - place] = k.sub(even[0], odd[0]), k.add(even[1], odd[1])
    return found


# --- the kernel


class _Lines:
    """The loop nest of one op: ``width`` lines at a time, passes between two rows of scratch."""

    def __init__(self, nest: NestContext, op: Op) -> None:
        self.nest = nest
        self.axis = get_int(op.attributes, "axis")
        shape, dtype = op.result.type.static_shape, op.result.type.dtype
        self.n, self.dtype = shape[self.axis], dtype
        self.others = [size for i, size in enumerate(shape) if i not in (0, self.axis)]
        self.wide = DType.F64
        self.k = nest.algebra(self.wide)
        self.columns = math.prod(self.others)
        is_run = math.prod(shape[self.axis + 1 :]) == 1
        # Lines one by one share a table of roots.
        self.width, self.lines = nest.schedule.lines(self.columns, self.n, is_run)
        self.is_even = self.columns % self.width == 0
        self.block = Affine()
        self.cosines, self.sines = (nest.scratch(self.n, self.wide) for _ in range(2))
        count = 0 if len(radices(self.n)) == 1 else 1 if len(radices(self.n)) == 2 else 2
        size = self.n * self.width
        self.rows = [[nest.scratch(size, self.wide) for _ in range(2)] for _ in range(count)]

    def build(self) -> None:
        """Writes the whole nest."""
        nest, together = self.nest, self.lines * self.width
        with nest.loop(-(-self.columns // together), "grid") as block:
            if max(radices(self.n)) > _WRITTEN_OUT or len(radices(self.n)) > 1:
                self._roots()
            if self.lines == 1:
                self.block = block.at
                self._passes()
                return
            left = block.at * -self.lines + self.columns
            limit = left if self.columns % self.lines else None
            with nest.loop(self.lines, "serial", limit) as line:
                self.block = block.at * self.lines + line.at
                self._passes()

    def _passes(self) -> None:
        factors, done = radices(self.n), 1
        for number, factor in enumerate(factors):
            last = number == len(factors) - 1
            read = self._given if number == 0 else self._reader(number - 1)
            write = self._result if last else self._writer(number)
            self._pass(factor, done, read, write)
            done *= factor

    def _roots(self) -> None:
        with self.nest.loop(self.n, "vector") as j:
            k = self.nest.algebra(DType.F64)
            cosine, sine = root_of_unity(k, k.number(j.at, DType.F64), self.n)
            self.nest.store(self.cosines, j.at, k.cast(cosine, self.wide))
            self.nest.store(self.sines, j.at, k.cast(sine, self.wide))

    def _root(self, position: Affine) -> Pair:
        return self.nest.load(self.cosines, position), self.nest.load(self.sines, position)

    # where numbers come from and go to; ``at`` is row * width + column

    def _index(self, part: int, at: Affine) -> list[Affine]:
        row, column = self.k.divmod(at, self.width)
        index = self.k.unflatten(self.block * self.width + column, self.others)
        index.insert(self.axis - 1, row)
        return [Affine(part), *index]

    def _given(self, at: Affine) -> Pair:
        re, im = (self.nest.read(0, self._index(part, at)) for part in (0, 1))
        return self.k.cast(re, self.wide), self.k.cast(im, self.wide)

    def _result(self, at: Affine, x: Pair) -> None:
        for part in (0, 1):
            self.nest.write(self._index(part, at), self.k.cast(x[part], self.dtype))

    def _reader(self, number: int) -> Callable[[Affine], Pair]:
        re, im = self.rows[number % 2]
        return lambda at: (self.nest.load(re, at), self.nest.load(im, at))

    def _writer(self, number: int) -> Callable[[Affine, Pair], None]:
        def write(at: Affine, x: Pair) -> None:
            for buffer, part in zip(self.rows[number % 2], x, strict=True):
                self.nest.store(buffer, at, part)

        return write

    # one pass

    def _pass(self, factor: int, done: int, read: Any, write: Any) -> None:
        """Row q + done (p + m j) for all j to row q + done (factor p + k) for all k.

        The vector direction is that of neighbours in memory: (q, column), or p while those are few.
        """
        nest, m = self.nest, self.n // done // factor
        is_long = factor > _WRITTEN_OUT

        def body(p: Affine, j: Affine | None, place: Affine) -> None:
            if j is None:
                self._butterfly(factor, done, p, place, read, write)
            else:
                self._long(factor, done, p, j, place, read, write)

        with nest.loop(factor if is_long else 1, "serial") as result:
            j = result.at if is_long else None
            if self.width * done < _SMALL_LANES:
                for place in range(self.width * done):
                    with nest.loop(m, "vector") as p:
                        body(p.at, j, Affine(place))
            elif self.is_even:
                with nest.loop(m, "serial") as p, nest.loop(done * self.width, "vector") as q:
                    body(p.at, j, q.at)
            else:
                left = self.block * -self.width + self.columns
                with (
                    nest.loop(m, "serial") as p,
                    nest.loop(done, "serial") as q,
                    nest.loop(self.width, "vector", left) as column,
                ):
                    body(p.at, j, q.at * self.width + column.at)

    def _butterfly(
        self, factor: int, done: int, p: Affine, place: Affine, read: Any, write: Any
    ) -> None:
        m, row = self.n // done // factor, done * self.width
        xs = [read(place + (p + m * j) * row) for j in range(factor)]
        for j, x in enumerate(short(self.k, xs)):
            if j and m > 1:
                x = _turned(self.k, x, *self._root(p * (j * done)))
            write(place + (p * factor + j) * row, x)

    def _long(
        self, factor: int, done: int, p: Affine, j: Affine, place: Affine, read: Any, write: Any
    ) -> None:
        """Result ``j`` of a sum of ``factor`` terms; what turns the terms is looked up."""
        k, m, row = self.k, self.n // done // factor, done * self.width
        number = self.nest.builder.number
        size = k.const(factor, DType.I64)
        total = read(place + p * row)
        for i in range(1, factor):
            turn = k.affine(k.mod(number(j * i), size))
            x = read(place + (p + m * i) * row)
            total = _plus(k, total, _turned(k, x, *self._root(turn * (self.n // factor))))
        if m > 1:
            turn = k.affine(k.mul(number(p), number(j)))
            total = _turned(k, total, *self._root(turn * done))
        write(place + (p * factor + j) * row, total)


def _nest(nest: NestContext, op: Op) -> None:
    _Lines(nest, op).build()


def _flops(op: Op) -> int:
    """5 n log2 n per line of n elements, as fast transforms are counted wherever they are timed."""
    shape = op.result.type.static_shape
    return round(2.5 * math.prod(shape) * math.log2(shape[get_int(op.attributes, "axis")]))


# --- the op


def _infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 1:
        raise TypeRuleError(f"fft: takes 1 operand, got {len(types)}")
    (x,), axis = types, get_int(attributes, "axis")
    if x.rank < 2 or x.shape[0] != 2 or not x.dtype.is_float:
        raise TypeRuleError(f"fft: takes floating parts [2, ...], real and imaginary, not {x}")
    if not 1 <= axis < x.rank:
        raise TypeRuleError(f"fft: axis {axis} is no axis of {x} behind the first")
    n = x.shape[axis]
    if isinstance(n, int) and (n < 1 or max(radices(n)) > MOST_PRIME):
        raise TypeRuleError(f"fft: {n} elements along axis {axis} of {x}: none, or a large prime")
    return (x,)


def _jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    return (None if tangent is None else b.same(op, tangent),)


def _vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    turned = b.one("reverse", ct, axes=(0,))
    return (b.one("reverse", b.one("fft", turned, axis=get_int(op.attributes, "axis")), axes=(0,)),)


def _sample(*shape: int, axis: int) -> Sample:
    return Sample((TensorType(shape, DType.F64),), {"axis": axis}, ((-2.0, 2.0),))


register(
    OpDef(
        "fft",
        "the discrete Fourier transform along `axis` of x[0] + i x[1], as such a pair",
        _infer,
        lambda arrays, op, operands: (
            arrays.fourier(operands[0], op.attributes["axis"], op.result.type.dtype),
        ),
        _jvp,
        _vjp,
        Nest(_nest, _flops),
        (
            _sample(2, 4, axis=1),
            _sample(2, 3, 2, axis=1),
            _sample(2, 2, 1, axis=2),
            _sample(2, 0, 3, axis=2),
        ),
        traits=Traits(linear=ALL),
        without={
            "interval": "roots of unity have both signs",
            "element": "roots of unity are taken at its sizes",
        },
        axes=AxisRule(
            lambda op: kept(op, [0, get_int(op.attributes, "axis")]),
            "every result is a sum over them",
        ),
    )
)


# --- transforms of any length


def fourier(b: Builder, x: Value, axis: int, inverse: bool = False) -> Value:
    """The transform of pairs [2, ...] along ``axis``, of any length from 1; ``inverse`` without the
    factor 1/n.
    """
    if inverse:
        turned = b.one("reverse", x, axes=(0,))
        return b.one("reverse", fourier(b, turned, axis), axes=(0,))
    if max(radices(x.type.static_shape[axis])) <= MOST_PRIME:
        return b.one("fft", x, axis=axis)
    return b.cast(_by_chirp(b, b.cast(x, DType.F64), axis), x.type.dtype)


def _by_chirp(b: Builder, x: Value, axis: int) -> Value:
    """jk = (j^2 + k^2 - (k - j)^2) / 2: a convolution with exp(i pi j^2 / n), by transforms of a
    size with small factors.
    """
    shape, dtype = x.type.static_shape, x.type.dtype
    n = shape[axis]
    m = good_size(2 * n - 1)
    wide = (*shape[:axis], m, *shape[axis + 1 :])
    chirp = _chirp(b, n, m)

    def spread(parts: tuple[Value, Value], size: int) -> tuple[Value, Value]:
        to = (*shape[1:axis], size, *shape[axis + 1 :])
        cut = [b.one("slice", p, start=(0,), limit=(size,), stride=(1,)) for p in parts]
        found = [b.one("broadcast", p, shape=to, dims=(axis - 1,)) for p in cut]
        return found[0], found[1]

    k = b.algebra(x.type.with_shape(shape[1:]))
    first = joined(b, _turned(k, parts_of(b, x), *spread(chirp, n)))
    gaps = tuple(m - n if i == axis else 0 for i in range(len(shape)))
    none = (0,) * len(shape)
    padded = b.one("pad", first, low=none, high=gaps, interior=none)
    line = b.one("fft", joined(b, _filter(b, chirp, n, m)), axis=1)
    left, right = parts_of(b, b.one("fft", padded, axis=axis)), spread(parts_of(b, line), m)
    product = _turned(k, left, right[0], k.neg(right[1]))
    back = fourier(b, joined(b, product), axis, inverse=True)
    assert back.type.static_shape == wide, "the size is kept"
    limit = tuple(n if i == axis else size for i, size in enumerate(wide))
    cut = b.one("slice", back, start=none, limit=limit, stride=(1,) * len(shape))
    scaled = k.mul(cut, b.constant(1.0 / m, dtype, cut.type.static_shape))
    return joined(b, _turned(k, parts_of(b, scaled), *spread(chirp, n)))


def _chirp(b: Builder, n: int, m: int) -> tuple[Value, Value]:
    """cos and sin of pi d^2 / n for positions j < m, where d = min(j, m - j) counts round the
    circle.
    """
    j = b.one("iota", axis=0, dtype=DType.I64, shape=(m,))
    d = b.one("min", j, b.one("sub", b.constant(m, DType.I64, (m,)), j))
    turns = b.one("mod", b.one("mul", d, d), b.constant(2 * n, DType.I64, (m,)))
    position = b.one("cast", turns, dtype=DType.F64)
    return root_of_unity(b.algebra(position.type), position, 2 * n)


def _filter(b: Builder, chirp: tuple[Value, Value], n: int, m: int) -> tuple[Value, Value]:
    """The chirp where it is met, 0 between."""
    j = b.one("iota", axis=0, dtype=DType.I64, shape=(m,))
    is_low = b.one("lt", j, b.constant(n, DType.I64, (m,)))
    is_high = b.one("gt", j, b.constant(m - n, DType.I64, (m,)))
    is_met = b.one("logical_or", is_low, is_high)
    zero = b.constant(0.0, chirp[0].type.dtype, (m,))
    return b.one("select", is_met, chirp[0], zero), b.one("select", is_met, chirp[1], zero)


def parts_of(b: Builder, x: Value) -> tuple[Value, Value]:
    """Real and imaginary parts of pairs [2, ...]."""
    return row_of(b, x, 0), row_of(b, x, 1)


def joined(b: Builder, parts: Sequence[Value]) -> Value:
    """Pairs [2, ...] of real and imaginary parts."""
    rows = [b.one("reshape", p, shape=(1, *p.type.static_shape)) for p in parts]
    return b.one("concat", *rows, axis=0)
