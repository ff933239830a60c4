"""What kernels compute with when they are proved: elements of a domain of the interpreter instead
of machine numbers.

``words_of`` gives the ``Scalars`` of a domain, so that the loop nests of a Plan run wherever a
tensor program does: over a prime field, a tower of them, free elements, forced or recorded guards,
balls. An element takes one word of memory, whatever its type; integers and booleans are themselves.

Non-goals: the memory that words lie in (``prove_kernels``), rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays, ObjectArrays
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array, apply_verb, combine, computed_dtype
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.balls import BallArrays, LenientScalars
from gradc.passes.prove.domains.field import FieldArrays
from gradc.passes.prove.domains.free import Free, FreeArrays
from gradc.passes.prove.domains.tower import TowerArrays, residues

_OBJECT = np.dtype(object)
_NEUTRAL = {"add": 0.0, "mul": 1.0, "max": -np.inf, "min": np.inf}


class Words(Scalars, ABC):
    """Elements of ``domain`` in words of ``word``, which is no type of integers that programs
    have.
    """

    def __init__(self, domain: NumpyArrays, word: np.dtype[Any]) -> None:
        self.domain = domain
        self.word = word

    @abstractmethod
    def poison(self, count: int) -> Array:
        """Words that nothing was written to: elements that no result survives."""

    def computed(self, dtype: DType) -> np.dtype[Any]:
        return self.word if dtype.is_float else computed_dtype(dtype)

    def stored(self, dtype: DType) -> np.dtype[Any]:
        return self.word

    def load(self, stored: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return stored
        return stored.view(np.int64).astype(computed_dtype(dtype))

    def store(self, values: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return values
        return np.asarray(values).astype(np.int64).view(self.word)

    def literal(self, value: Any, dtype: DType) -> Array:
        if not dtype.is_float:
            return np.asarray(value, computed_dtype(dtype))
        return np.asarray(self.domain.full(float(value), (), dtype))

    def is_element(self, x: Array) -> bool:
        """Whether ``x`` holds elements and not integers or decided guards."""
        return bool(x.dtype == self.word)

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        if name == "copy":
            return operands[0]
        if name == "cast" and (dtype.is_float or self.is_element(operands[0])):
            return np.asarray(self.domain.cast(operands[0], dtype))
        if any(self.is_element(x) for x in operands):
            return np.asarray(self.domain.verb(name, *operands))
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        if self.is_element(a) or self.is_element(b):
            return np.asarray(self.domain.verb(kind, a, b))
        return combine(kind, a, b)

    def neutral(self, kind: str, dtype: DType) -> Array:
        return (
            self.literal(_NEUTRAL[kind], dtype) if dtype.is_float else super().neutral(kind, dtype)
        )

    def product(self, left: Array, right: Array, dtype: DType) -> Array:
        batch = [(n, n) for n in range(left.ndim - 2)]
        inner = [(left.ndim - 1, right.ndim - 2)]
        return np.asarray(self.domain.contract(left, right, batch, inner, dtype))


class FieldWords(Words):
    """Elements of a prime field."""

    domain: FieldArrays

    def __init__(self, domain: FieldArrays) -> None:
        super().__init__(domain, np.dtype(np.uint64))
        self._rng = np.random.default_rng(domain.key & 0xFFFF)

    def poison(self, count: int) -> Array:
        words: Array = self.domain.random((count,), self._rng)
        return words


class TowerWords(Words):
    """Elements of a tower; integers lie on its first level."""

    domain: TowerArrays

    def __init__(self, domain: TowerArrays) -> None:
        super().__init__(domain, domain.held)
        self._rng = np.random.default_rng(domain.key & 0xFFFF)

    def poison(self, count: int) -> Array:
        words: Array = self.domain.random((count,), self._rng)
        return words

    def load(self, stored: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return stored
        first = np.ascontiguousarray(residues(stored)[..., 0])
        return first.view(np.int64).astype(computed_dtype(dtype))

    def store(self, values: Array, dtype: DType) -> Array:
        if dtype.is_float:
            return values
        words = np.asarray(values).astype(np.int64).view(np.uint64)
        return np.asarray(self.domain.value(np.repeat(words[..., None], self.domain.height, -1)))


class FloatWords(Words):
    """Machine numbers of f64, whatever the program's type."""

    def __init__(self, domain: NumpyArrays) -> None:
        super().__init__(domain, np.dtype(np.float64))
        self._rng = np.random.default_rng(11)

    def poison(self, count: int) -> Array:
        return self._rng.normal(0.0, 10.0, count)


class _ObjectWords(Words):
    """Python objects; a word that nothing was written to is None until it is read."""

    domain: ObjectArrays

    def __init__(self, domain: ObjectArrays) -> None:
        super().__init__(domain, _OBJECT)

    def poison(self, count: int) -> Array:
        return np.full(count, None, object)

    def load(self, stored: Array, dtype: DType) -> Array:
        # A single element taken out of an array of objects comes as itself.
        words = stored if isinstance(stored, np.ndarray) else self.domain.objects([stored], ())
        if any(x is None for x in words.reshape(-1)):
            flat = [self._unwritten(dtype) if x is None else x for x in words.reshape(-1)]
            words = self.domain.objects(flat, words.shape)
        if dtype.is_float or self._is_open(words):
            return words
        return words.astype(computed_dtype(dtype))

    def _is_open(self, words: Array) -> bool:
        """Whether there are guards among ``words`` that no number decides."""
        return False

    @abstractmethod
    def _unwritten(self, dtype: DType) -> Any:
        """What a read finds that nothing was written for. Lanes that are switched off read as
        well.
        """

    def store(self, values: Array, dtype: DType) -> Array:
        return np.asarray(values).astype(_OBJECT)

    def literal(self, value: Any, dtype: DType) -> Array:
        found: Array = self.domain.full(value, (), dtype)
        return found.astype(self.computed(dtype))


class FreeWords(_ObjectWords):
    """Free elements (``prove_free``), and guards that are left open."""

    domain: FreeArrays

    def __init__(self, domain: FreeArrays) -> None:
        super().__init__(domain)
        self._reads = 0

    def _is_open(self, words: Array) -> bool:
        return any(type(x) is Free for x in words.reshape(-1))

    def _unwritten(self, dtype: DType) -> Free | int:
        """A variable of its own, which no result survives. Integers are checked over the small
        field.
        """
        self._reads += 1
        return self.domain.scalars.atom(f"unwritten {self._reads}") if dtype.is_float else 0


class BallWords(_ObjectWords):
    """Balls at real points. Lanes that are switched off compute too, so what is not defined there
    is NaN at first.
    """

    def __init__(self, domain: BallArrays) -> None:
        super().__init__(BallArrays(LenientScalars(domain.scalars)))
        self._rng = np.random.default_rng(13)

    def _unwritten(self, dtype: DType) -> Any:
        number = np.asarray(self._rng.normal(0.0, 10.0))
        return BallArrays().point(number).item() if dtype.is_float else 0


def words_of(domain: NumpyArrays) -> Words:
    """The words of kernels over ``domain``."""
    if isinstance(domain, TowerArrays):
        return TowerWords(domain)
    if isinstance(domain, FieldArrays):
        return FieldWords(domain)
    if isinstance(domain, FreeArrays):
        return FreeWords(domain)
    if isinstance(domain, BallArrays):
        return BallWords(domain)
    return FloatWords(domain)
