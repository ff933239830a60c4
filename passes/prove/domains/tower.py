"""A tower of prime fields as a domain in which exp is homomorphic: exp(a + b) = exp(a) exp(b), and
sqrt(x)^2 = x.

A value is its residues modulo a chain of primes p_0 > p_1 > ... with p_{i+1} | p_i - 1, held as one
element of a structured array, so that reshaping, slicing and gathering work unchanged. Sums,
products and quotients are taken level by level. The laws:

* exp(x) mod p_i is g_i^(x mod p_{i+1}), g_i of order p_{i+1}; at the last level it is an oracle.
  tanh is made of exp;
* log(y) mod p_{i+1} is the discrete logarithm of y mod p_i, so log(a b) = log(a) + log(b) below the
  first level. At the first level log(exp(x)) = x is known for every exp that was computed, and
  log(1/y) = -log(y);
* all p_i are 3 mod 4. sqrt(x) is the root that is a quadratic residue itself; where x is no
  residue, an oracle;
* every decision (order, sign, equality) and every other function looks at the first level only: it
  knows the most laws, and one value is decided one way on all levels.

Why agreement means something: each level is an assignment of the parameters under which every
function of the program is a function of its argument, and under which no laws hold beyond those of
the reals and of the tower; programs that differ over the reals agree only by accident. No bound of
the accident's probability is known, since g^x is not a
polynomial in x: the verdict has its own label (PROBABLE) and is never called a proof. sqrt(x^2) = x
and max(x, 0) = x hold at every second point, so programs that decide anything are compared at
``LEAST_POINTS`` points at least.

Nested exps need levels; ``tower_equal`` raises the tower until results agree. Where an argument of
sqrt or log was no residue, a law is missing: a disagreement there is passed over, never an
agreement invented.

Non-goals: refutation (a disagreement may be a law the tower does not know), rounding, laws of sin
and erf.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import EMPTY, NumpyArrays, Pairs, matrix_form
from gradc.ir.tensor.core import DType, Function, Role, Slot
from gradc.passes.prove.domains.field import PRIME, FieldArrays, root_of, scramble
from gradc.passes.prove.domains.literals import Meaning, meaning
from gradc.passes.prove.domains.point import Runnable, element_of, index_limit, results_of

# Chains p_i = 2 p_{i+1} + 1, all 7 mod 8 (so that 2 has a root), all of 26 to 31 bits. Points take
# turns.
CHAINS = (
    (2128558079, 1064279039, 532139519, 266069759, 133034879, 66517439),
    (2053224959, 1026612479, 513306239, 256653119, 128326559, 64163279),
)
HEIGHTS = (1, 2, 3, 6)
# Programs that decide an order, a sign or a root are wrong at every second point only.
LEAST_POINTS = 24
# How many points may lack a law, per point that counts.
_ATTEMPTS = 4
# After how many points without any agreement a result is given up.
_PATIENCE = 6
_BABY_STEPS = 1 << 19
_CHUNK = 256
_MOST_POWER = 64
# So many powers are quicker by Python's own integers.
_FEW = 64

Residues: TypeAlias = NDArray[np.uint64]
Mask: TypeAlias = NDArray[np.bool_]


def is_tower(x: Any) -> bool:
    """Whether ``x`` holds values of a tower."""
    return np.asarray(x).dtype.names is not None


def residues(x: Any) -> Residues:
    """The residues of ``x`` along a last axis."""
    found: Residues = np.asarray(x)["residues"]
    return found


def powers(
    base: Residues, exponent: Residues | np.uint64, primes: Residues | np.uint64
) -> Residues:
    """``base ** exponent`` modulo ``primes``, elementwise."""
    base, left, primes = np.broadcast_arrays(base, exponent, primes)
    if base.size <= _FEW:
        rows = zip(base.flat, left.flat, primes.flat, strict=True)
        few = [pow(int(b), int(e), int(p)) for b, e, p in rows]
        return np.array(few, np.uint64).reshape(base.shape)
    result = np.ones_like(base)
    one = np.uint64(1)
    while np.any(left):
        result = np.where(left & one, result * base % primes, result)
        base = base * base % primes
        left = left >> one
    return result


def is_residue(x: Residues, primes: Residues | np.uint64) -> Mask:
    """Whether ``x`` is a square modulo ``primes`` (zero is), by Euler's criterion."""
    return powers(x, (primes - np.uint64(1)) >> np.uint64(1), primes) <= 1


def _ladder(base: int, count: int, prime: int) -> Residues:
    """base^0, base^1, ... modulo ``prime``; ``count`` is a power of two."""
    found = np.ones(1, np.uint64)
    while len(found) < count:
        found = np.concatenate([found, found * np.uint64(pow(base, len(found), prime))])
        found %= np.uint64(prime)
    return found


@cache
def _steps(prime: int) -> tuple[Residues, Residues, Residues]:
    """Powers of 4 modulo ``prime``, sorted; their exponents; and what takes all others back to
    them.
    """
    near = _ladder(4, _BABY_STEPS, prime)
    order = np.argsort(near)
    count = 1 << ((prime >> 1) // _BABY_STEPS).bit_length()
    far = _ladder(pow(4, -_BABY_STEPS, prime), count, prime)
    return near[order], order.astype(np.uint64), far


def discrete_log(x: Residues, prime: int) -> Residues:
    """l with 4^l = x modulo ``prime`` = 2 q + 1, for squares x; by baby and giant steps (Shanks
    1971). 0 for 0.
    """
    near, exponents, far = _steps(prime)
    found = []
    for start in range(0, x.size, _CHUNK):
        taken_back = x.reshape(-1)[start : start + _CHUNK, None] * far % np.uint64(prime)
        place = np.minimum(np.searchsorted(near, taken_back), len(near) - 1)
        hit = near[place] == taken_back
        giant = np.argmax(hit, 1)
        rows = np.arange(len(giant))
        least = np.uint64(_BABY_STEPS) * giant.astype(np.uint64) + exponents[place[rows, giant]]
        found.append(np.where(hit.any(1), least, np.uint64(0)))
    return np.concatenate(found).reshape(x.shape) if found else np.zeros(x.shape, np.uint64)


class TowerArrays(FieldArrays):
    """The domain: ``height`` levels of a chain. ``is_lacking`` says whether a law was missing
    somewhere so far, ``has_decided`` whether an order, a sign or a root was chosen."""

    def __init__(self, seed: int, chain: Sequence[int], height: int) -> None:
        super().__init__(seed)
        self.height = height
        self.chain = tuple(chain[:height])
        self.primes: Residues = np.asarray(self.chain, np.uint64)
        self.held = np.dtype([("residues", np.uint64, (height,))])
        self.is_lacking = False
        self.has_decided = False
        # exp is taken to the base 4^e.
        self.bases = tuple(1 + _number(seed, f"base {p}") % (p // 2 - 1) for p in self.chain)
        self._known_exps: list[tuple[Residues, Residues]] = []

    # values

    def value(self, x: Residues) -> Any:
        """Residues along the last axis as values."""
        found = np.empty(x.shape[:-1], self.held)
        found["residues"] = x
        return found

    def storage(self, dtype: DType) -> np.dtype[Any]:
        return self.held if dtype.is_float else self.dtype(dtype)

    def random(self, shape: Sequence[int], rng: np.random.Generator) -> Any:
        """Uniform and independent on every level."""
        drawn = rng.integers(0, self.primes, (*shape, self.height), np.uint64)
        return self.value(drawn)

    def literal(self, value: float, dtype: DType = DType.F64) -> Any:
        """The number that a literal means (``prove_field``), on every level."""
        found = [_literal(float(value), self.key, dtype, p) for p in self.chain]
        return self.value(np.asarray(found, np.uint64))

    def at_levels(self, name: str, x: Any) -> Residues:
        """Residues of the oracle ``name``: a fresh element per level and argument, never zero."""
        first = residues(x)[..., 0]
        rows = [self.oracle(f"{name} {i}", first) for i in range(self.height)]
        return np.uint64(1) + np.stack(rows, -1) % (self.primes - np.uint64(1))

    def first(self, x: Any) -> Residues:
        """The first level as elements of ``prove_field``'s larger prime, -x as minus x and infinity
        as infinity.
        """
        at, prime = residues(x)[..., 0], self.chain[0]
        lifted = np.where(at > prime // 2, np.uint64(PRIME - prime) + at, at)
        top = residues(self.literal(math.inf))[..., 0]
        infinite = self.element(math.inf)
        lifted = np.where(at == top, infinite, lifted)
        found = np.where(at == np.uint64(prime) - top, np.uint64(PRIME) - infinite, lifted)
        return found.astype(np.uint64)

    # arithmetic

    def inverse(self, x: Any) -> Any:
        """1/x; 1/0 is a fixed element."""
        at = residues(x)
        found = powers(at, self.primes - np.uint64(2), self.primes)
        return self.value(np.where(at == 0, np.uint64(0x2F3759DF) % self.primes, found))

    def neg(self, x: Any) -> Any:
        return self.value((self.primes - residues(x)) % self.primes)

    def add(self, a: Any, b: Any) -> Any:
        return self.value((residues(a) + residues(b)) % self.primes)

    def sub(self, a: Any, b: Any) -> Any:
        return self.value((residues(a) + self.primes - residues(b)) % self.primes)

    def mul(self, a: Any, b: Any) -> Any:
        return self.value(residues(a) * residues(b) % self.primes)

    def div(self, a: Any, b: Any) -> Any:
        return self.mul(a, self.inverse(b))

    # functions

    def greater(self, a: Any, b: Any) -> Mask:
        self.has_decided = True
        return super().greater(self.first(a), self.first(b))

    def sign_of(self, x: Any) -> Any:
        """1, 0 or -1 on every level."""
        self.has_decided = True
        signs = super().sign(self.first(x))[..., None]
        minus = self.primes - np.uint64(1)
        return self.value(np.where(signs > 1, minus, signs + np.zeros_like(self.primes)))

    def exp(self, x: Any) -> Any:
        at = residues(x)
        found = np.empty(at.shape, np.uint64)
        for level, (prime, upper) in enumerate(zip(self.chain[1:], self.chain, strict=False)):
            exponent = at[..., level + 1] * np.uint64(self.bases[level] % prime) % np.uint64(prime)
            found[..., level] = powers(np.uint64(4) + 0 * exponent, exponent, np.uint64(upper))
        found[..., -1] = self._last_exp(x)
        self._known_exps.append((found[..., 0].reshape(-1), at[..., 0].reshape(-1)))
        return self.value(found)

    def _last_exp(self, x: Any) -> Residues:
        """exp(0) = 1 and exp(-x) exp(x) = 1."""
        prime = np.uint64(self.chain[-1])
        at = residues(x)[..., 0]
        is_upper = at > self.chain[0] // 2
        size = np.where(is_upper, np.uint64(self.chain[0]) - at, at)
        plus = np.uint64(1) + self.oracle("exp", size) % (prime - np.uint64(1))
        found = np.where(is_upper, powers(plus, prime - np.uint64(2), prime), plus)
        return np.where(at == 0, np.uint64(1), found).astype(np.uint64)

    def log(self, y: Any) -> Any:
        """A fixed unknown number takes the place of log(-1), so that no two signs look alike."""
        at = residues(y)
        found = np.empty(at.shape, np.uint64)
        found[..., 0] = self._first_log(y)
        for level, prime in enumerate(self.chain[1:]):
            upper = np.uint64(self.chain[level])
            is_square = is_residue(at[..., level], upper)
            self.is_lacking |= not bool(is_square.all())
            square = np.where(is_square, at[..., level], upper - at[..., level])
            scale = np.uint64(pow(self.bases[level] % prime, -1, prime))
            logs = discrete_log(square, int(upper)) * scale % np.uint64(prime)
            turn = np.uint64(_number(self.key, f"log(-1) {prime}") % prime)
            found[..., level + 1] = np.where(is_square, logs, (logs + turn) % np.uint64(prime))
        return self.value(found)

    def _first_log(self, y: Any) -> Residues:
        at, inverse = residues(y)[..., 0], residues(self.inverse(y))[..., 0]
        prime = np.uint64(self.chain[0])
        least = np.minimum(at, inverse)
        value = self.oracle("log", least) % prime
        found = np.where(at == least, value, (prime - value) % prime)
        found = np.where(at == 1, np.uint64(0), found)
        for made, of in self._known_exps:
            if made.size:
                order = np.argsort(made, kind="stable")
                place = order[np.minimum(np.searchsorted(made[order], at), made.size - 1)]
                found = np.where(made[place] == at, of[place], found)
        return found.astype(np.uint64)

    def sqrt(self, x: Any) -> Any:
        at = residues(x)
        self.has_decided = True
        is_square = is_residue(at, self.primes)
        self.is_lacking |= not bool(is_square.all())
        roots = powers(at, (self.primes + np.uint64(1)) >> np.uint64(2), self.primes)
        return self.value(np.where(is_square, roots, self.at_levels("sqrt", x)))

    def tanh(self, x: Any) -> Any:
        """(1 - e) / (1 + e) with e = exp(-2x)"""
        e, one = self.exp(self.neg(self.add(x, x))), self.literal(1.0)
        return self.div(self.sub(one, e), self.add(one, e))

    def _folded_levels(self, name: str, x: Any, is_odd: bool) -> Any:
        at = residues(x)[..., 0]
        minus = at > self.chain[0] // 2
        size = np.where(minus[..., None], residues(self.neg(x)), residues(x))
        found = self.at_levels(name, self.value(size))
        if is_odd:
            found = np.where(minus[..., None], self.primes - found, found)
        zero = np.uint64(0 if is_odd else 1)
        return self.value(np.where((at == 0)[..., None], zero, found).astype(np.uint64))

    def sin(self, x: Any) -> Any:
        return self._folded_levels("sin", x, True)

    def cos(self, x: Any) -> Any:
        return self._folded_levels("cos", x, False)

    def pow(self, x: Any, y: Any) -> Any:
        """Small integer exponents are powers, one half is the square root, others exp(y log(x))."""
        x, y = np.broadcast_arrays(x, y)
        exponents = np.unique(residues(y).reshape(-1, self.height), axis=0)
        if len(exponents) == 1:
            last = int(exponents[0][0])
            last = last - self.chain[0] if last > self.chain[0] // 2 else last
            if abs(last) <= _MOST_POWER and all(
                int(e) == last % p for e, p in zip(exponents[0], self.chain, strict=True)
            ):
                base = self.inverse(x) if last < 0 else x
                return self.value(powers(residues(base), np.uint64(abs(last)), self.primes))
            if np.array_equal(exponents[0], residues(self.literal(0.5))):
                return self.sqrt(x)
        return self.exp(self.mul(y, self.log(x)))

    # the domain's verbs

    def verb(self, name: str, *operands: Any) -> Any:
        if not any(is_tower(x) for x in operands):
            return NumpyArrays.verb(self, name, *operands)
        if name in ("select", "stop_gradient"):
            return NumpyArrays.verb(self, name, *operands)
        rule = _VERBS.get(name)
        if rule is not None:
            return rule(self, *(np.asarray(x) for x in operands))
        total = np.zeros((), np.uint64)
        for number, x in enumerate(operands, 1):
            first = residues(x)[..., 0] if is_tower(x) else np.asarray(x).astype(np.uint64)
            total = (scramble(first, number) + total * np.uint64(3)) & np.uint64((1 << 62) - 1)
        return self.value(self.at_levels(name, self.value(_repeated(total, self.height))))

    def cast(self, x: Any, dtype: DType) -> Any:
        array = np.asarray(x)
        if is_tower(array):
            if dtype.is_float:
                return array
            first = residues(array)[..., 0]
            if dtype is DType.BOOL:
                return first != 0
            return (self.oracle("truncate", first) % np.uint64(1 << 16)).astype(self.dtype(dtype))
        if dtype.is_float:
            whole = array.astype(np.int64)[..., None] % self.primes.astype(np.int64)
            return self.value(whole.astype(np.uint64))
        return NumpyArrays.cast(self, x, dtype)

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        if not dtype.is_float:
            return NumpyArrays.full(self, value, shape, dtype)
        return np.full(tuple(shape), self.literal(float(value), dtype), self.held)

    def like(self, value: float, x: Any) -> Any:
        return self.literal(value) if is_tower(x) else NumpyArrays.like(self, value, x)

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if not is_tower(x):
            return NumpyArrays.reduce(self, verb, x, axes, dtype)
        if verb == "add":
            return self.value(np.sum(residues(x), tuple(axes), dtype=np.uint64) % self.primes)
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        count = math.prod(x.shape[axis] for axis in axes)
        rows = x.transpose([*axes, *kept]).reshape(count, *(x.shape[axis] for axis in kept))
        total = rows[0] if len(rows) else self.full(EMPTY[verb], rows.shape[1:], DType.F64)
        for row in rows[1:]:
            total = self.verb(verb, total, row)
        return np.asarray(total)

    def argmax(self, x: Any, axis: int) -> Any:
        if not is_tower(x):
            return NumpyArrays.argmax(self, x, axis)
        self.has_decided = True
        return np.argmax(self.rank(self.first(x)), axis).astype(np.int32)

    def argsort(self, x: Any, axis: int) -> Any:
        if not is_tower(x):
            return NumpyArrays.argsort(self, x, axis)
        self.has_decided = True
        return NumpyArrays.argsort(self, self.rank(self.first(x)), axis)

    def _zeros(self, shape: Sequence[int], like: Any) -> Any:
        return np.zeros(tuple(shape), like.dtype)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        if not is_tower(x):
            return NumpyArrays.cumsum(self, x, axis, reverse)
        return self.value(NumpyArrays.cumsum(self, residues(x), axis, reverse) % self.primes)

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any:
        if not is_tower(a):
            return NumpyArrays.contract(self, a, b, batch, contract, dtype)
        left, right, shape = matrix_form(a, b, batch, contract)
        total = np.zeros((left.shape[0], left.shape[1], right.shape[2], self.height), np.uint64)
        x, y = residues(left), residues(right)
        for i in range(left.shape[2]):
            total += x[:, :, i, None, :] * y[:, None, i, :, :] % self.primes
        return self.value(total % self.primes).reshape(shape)


def _number(seed: int, name: str) -> int:
    data = hashlib.blake2b(f"{seed}/tower/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(data, "little")


def name_of(slot: Slot) -> str:
    """Role and name of a result, as in ``prove_passes.key``."""
    return f"{slot.role.value} {slot.name}"


def _repeated(x: Residues, height: int) -> Residues:
    return np.repeat(np.asarray(x)[..., None], height, -1)


@cache
def _literal(value: float, seed: int, dtype: DType, prime: int) -> int:
    """``prove_field.literal`` modulo ``prime``."""
    if not math.isfinite(value):
        found = 2 + _number(seed, f"{abs(value)} {prime}") % (prime - 3)
        return found if not value < 0 else prime - found
    meant = meaning(value, dtype) or Meaning(Fraction(value))

    def other(name: str) -> int:
        return 2 + _number(seed, f"{name} {prime}") % (prime - 3)

    multiple = meant.multiple
    element = multiple.numerator * pow(multiple.denominator, -1, prime) % prime
    return (
        element
        * root_of(meant.root, prime, other)
        * pow(other("root of pi"), meant.pis, prime)
        % prime
    )


def _select(mask: Any, a: Any, b: Any) -> Any:
    return np.where(mask, a, b)


_VERBS: dict[str, Callable[..., Any]] = {
    "add": TowerArrays.add,
    "sub": TowerArrays.sub,
    "mul": TowerArrays.mul,
    "gate": TowerArrays.mul,
    "fma": lambda d, a, b, c: d.add(d.mul(a, b), c),
    "div": TowerArrays.div,
    "neg": TowerArrays.neg,
    "abs": lambda d, x: d.mul(d.sign_of(x), x),
    "sign": TowerArrays.sign_of,
    "pow": TowerArrays.pow,
    "max": lambda d, a, b: _select(d.greater(a, b), a, b),
    "min": lambda d, a, b: _select(d.greater(b, a), a, b),
    "sqrt": TowerArrays.sqrt,
    "rsqrt": lambda d, x: d.inverse(d.sqrt(x)),
    "exp": TowerArrays.exp,
    "expm1": lambda d, x: d.sub(d.exp(x), d.literal(1.0)),
    "log": TowerArrays.log,
    "log1p": lambda d, x: d.log(d.add(x, d.literal(1.0))),
    "sin": TowerArrays.sin,
    "cos": TowerArrays.cos,
    "tan": lambda d, x: d.div(d.sin(x), d.cos(x)),
    "tanh": TowerArrays.tanh,
    "erf": lambda d, x: d._folded_levels("erf", x, True),
    "eq": lambda d, a, b: residues(a)[..., 0] == residues(b)[..., 0],
    "ne": lambda d, a, b: residues(a)[..., 0] != residues(b)[..., 0],
    "lt": lambda d, a, b: d.greater(b, a),
    "le": lambda d, a, b: ~d.greater(a, b),
    "gt": lambda d, a, b: d.greater(a, b),
    "ge": lambda d, a, b: ~d.greater(b, a),
}


# --- comparing programs


def tower_equal(
    before: Function,
    after: Function | Runnable,
    seed: int,
    points: int,
    names: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The results of ``before`` (by role and name, as ``prove_passes.key`` says) that ``after``
    lacks or computes differently, as far as the tower knows; () if all agree. ``names``: of these
    alone.

    A result agrees if there are a height and a level of it at which it agrees at all points that
    count, and enough of them do. A point with a disagreement does not count if a law was missing
    there. Parameters are matched by place.
    """
    asked = (name_of(slot) for slot in before.results)
    open_ = tuple(name for name in asked if names is None or name in names)
    for height in HEIGHTS:
        if not open_:
            break
        open_ = _differing_at(before, after, open_, seed, points, height)
    return open_


def _differing_at(
    before: Function,
    after: Function | Runnable,
    names: Sequence[str],
    seed: int,
    points: int,
    height: int,
) -> tuple[str, ...]:
    """Those of ``names`` that agree at no level of towers of one height."""
    # How often each level agreed; a level that ever disagreed is gone.
    open_ = {name: dict.fromkeys(range(height), 0) for name in names}
    failed: set[str] = set()
    wanted = points
    for number in range(_ATTEMPTS * max(points, LEAST_POINTS)):
        at = TowerArrays(_key(seed, number, height), CHAINS[number % len(CHAINS)], height)
        values = _values(before, at, seed, number)
        left, right = (
            {name_of(s): x for s, x in zip(f.results, results_of(f, at, values), strict=True)}
            for f in (before, after)
        )
        if at.has_decided:
            wanted = max(points, LEAST_POINTS)
        for name, levels in list(open_.items()):
            for level in list(levels):
                if _agrees(left[name], right.get(name), level):
                    levels[level] += 1
                elif not at.is_lacking:
                    del levels[level]
            is_hopeless = number + 1 >= _PATIENCE and not any(levels.values())
            if not levels or is_hopeless:
                failed.add(name)
                del open_[name]
            elif max(levels.values()) >= wanted:
                del open_[name]
        if not open_:
            break
    return tuple(name for name in names if name in failed or name in open_)


def _key(seed: int, number: int, height: int) -> int:
    sequence = np.random.SeedSequence([seed, number, height])
    return int(sequence.generate_state(2, np.uint64)[0])


def _values(function: Function, at: TowerArrays, seed: int, number: int) -> list[Any]:
    """Random operands, as ``prove_point.draw`` makes them."""
    rng = np.random.default_rng([seed, number])
    limit = index_limit(function)
    return [
        element_of(at, v.type, rng, 1 << 16 if s.role is Role.STATE else limit, number % 2 == 0)
        for v, s in zip(function.block.parameters, function.parameters, strict=True)
    ]


def _agrees(x: Any, y: Any, level: int) -> bool:
    if y is None or np.shape(x) != np.shape(y) or is_tower(x) != is_tower(y):
        return False
    if not is_tower(x):
        return np.array_equal(x, y)
    return np.array_equal(residues(x)[..., level], residues(y)[..., level])
