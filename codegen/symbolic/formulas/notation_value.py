"""What a formula says, computed from its notation: so that nothing is printed that was not tried.

``value_of`` reads notation as a person does: ``*`` elementwise, juxtaposition as the matrix
product, arrays of one axis as columns, leading axes of larger arrays together as rows; ``agrees``
asks whether an equation's right side has the value that its left side is known to have. What the
notation leaves open (whether a sum keeps its axis, how long a one-hot row is) may be read either
way.

Non-goals: values to more digits than a comparison needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.symbolic.formulas import notation as n
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType, TensorType

Array = NDArray[Any]
_AXES = 12
_RELATIONS = {
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}
_SOFTMAX = re.compile(r"softmax\((.+?)(?:, axis=(\d+))?\)")
_AXIS = re.compile(r"axis=\(?([\d, ]+)\)?")


class Unreadable(Exception):
    """Notation that says nothing that could be computed."""


# What reading a formula may raise where it says nothing.
UNREADABLE = (Unreadable, ValueError, IndexError, TypeError, ZeroDivisionError)


@dataclass(frozen=True)
class Names:
    """What names stand for: arrays, sizes of dimensions, and how open questions are read."""

    arrays: Mapping[str, Array]
    sizes: Mapping[str, int] = field(default_factory=dict)
    keeps_axes: bool = False
    classes: int = 0


class Lazy(Mapping[str, Array]):
    """Arrays that are made when they are asked for."""

    def __init__(self, sources: Mapping[str, Any], make: Callable[[Any], Array]) -> None:
        self._sources = sources
        self._make = make

    def __getitem__(self, name: str) -> Array:
        return self._make(self._sources[name])

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def agrees(equation: n.Notation, expected: Array, names: Names) -> bool:
    """Whether the right side of ``equation`` is ``expected``, to about nine digits."""
    if not isinstance(equation, n.Equation):
        return False
    expected = np.asarray(expected, np.float64)
    text = n.to_text(equation)
    lengths = expected.shape[::-1] if "onehot(" in text else ()
    readings = [replace(names, classes=c) for c in dict.fromkeys(lengths or (0,))]
    if ", axis=" in text:
        readings += [replace(r, keeps_axes=True) for r in readings]
    for reading in readings:
        try:
            found = value_of(equation, expected.shape, reading)
        except UNREADABLE:
            continue
        if found is not None and is_near(found, expected):
            return True
    return False


def is_near(found: Array, expected: Array) -> bool:
    """Equal up to rounding; an infinite or undefined entry agrees with nothing."""
    largest = float(np.max(np.abs(expected), initial=0.0))
    if not np.isfinite(largest) or not np.all(np.isfinite(found)):
        return False
    gap = float(np.max(np.abs(found - expected), initial=0.0))
    return gap <= 1e-8 * largest + 1e-13


def value_of(equation: n.Equation, shape: Sequence[int], names: Names) -> Array | None:
    """The right side as an array of ``shape``; None where it has another shape. Raises
    Unreadable.
    """
    with np.errstate(all="ignore"):
        if isinstance(equation.left, n.Indexed):
            return _by_index(equation, tuple(shape), names)
        found = _Matrices(names).value(equation.right).array
    return _stretched(found, tuple(shape))


def _stretched(found: Array, shape: tuple[int, ...]) -> Array | None:
    if found.size == int(np.prod(shape)) and [d for d in found.shape if d != 1] == [
        d for d in shape if d != 1
    ]:
        return found.reshape(shape)
    if found.ndim == 2 and found.size == int(np.prod(shape)) and found.shape[-1:] == shape[-1:]:
        return found.reshape(shape)
    try:
        return np.broadcast_to(found, shape)
    except ValueError:
        return None


def _known(text: str, names: Names) -> Array:
    """The array called ``text``, a softmax of one among them."""
    if text in names.arrays:
        return np.asarray(names.arrays[text], np.float64)
    found = _SOFTMAX.fullmatch(text)
    if found is not None and found[1] in names.arrays:
        array = np.asarray(names.arrays[found[1]], np.float64)
        return _softmax(array, int(found[2]) if found[2] else -1)
    if text == "inf":
        return np.array(np.inf)
    if text in names.sizes:
        return np.array(float(names.sizes[text]))
    raise Unreadable(text)


def _softmax(array: Array, axis: int = -1) -> Array:
    if array.ndim == 0:
        return np.ones(())
    grown = np.exp(array - np.max(array, axis=axis, keepdims=True))
    return np.asarray(grown / np.sum(grown, axis=axis, keepdims=True))


def _function(name: str, arguments: Sequence[Array]) -> Array:
    """An elementwise op on arrays that stretch to one shape."""
    try:
        definition = lookup(name)
    except KeyError:
        raise Unreadable(name) from None
    if not definition.is_elementwise:
        raise Unreadable(name)
    arrays = np.broadcast_arrays(*arguments)
    b = Builder()
    type_ = TensorType(arrays[0].shape, DType.F64)
    b.apply(name, [b.parameter(type_) for _ in arrays], {})
    (found,) = definition.evaluate(NumpyArrays(DType.F64), b.ops[-1], arrays)
    return np.asarray(found, np.float64)


def _raised(base: Array, exponent: str) -> Array:
    power = Fraction(exponent)
    return np.asarray(np.power(base, float(power)))


# --- arrays and matrices


@dataclass(frozen=True, slots=True)
class _Operand:
    """An array; of one axis it is a column unless it ``is_row``."""

    array: Array
    is_row: bool = False

    @property
    def matrix(self) -> Array:
        array = self.array
        if array.ndim == 0:
            return array.reshape(1, 1)
        if array.ndim == 1:
            return array.reshape(1, -1) if self.is_row else array.reshape(-1, 1)
        return array.reshape(-1, array.shape[-1])


@dataclass(frozen=True, slots=True)
class _Matrices:
    names: Names

    def value(self, node: n.Notation) -> _Operand:
        match node:
            case n.Name(text):
                return _Operand(_known(text, self.names))
            case n.Num(text):
                return _Operand(np.array(float(text)))
            case n.Sum(items):
                total = self.array(items[0][1]) * items[0][0]
                for sign, item in items[1:]:
                    total = total + sign * self.array(item)
                return _Operand(np.asarray(total))
            case n.Product(items, kind):
                return self._product(items, kind)
            case n.Quotient(above, below):
                return _Operand(np.asarray(self.array(above) / self.array(below)))
            case n.Power(base, "T"):
                inner = self.value(base)
                if inner.array.ndim < 2:
                    return _Operand(inner.array, not inner.is_row)
                return _Operand(inner.matrix.T)
            case n.Power(base, exponent):
                return _Operand(_raised(self.array(base), exponent))
            case n.Root(inner_node):
                return _Operand(np.asarray(np.sqrt(self.array(inner_node))))
            case n.Apply(function, arguments):
                return _Operand(self._applied(function, arguments))
            case n.Bracket(left, relation, right):
                holds = _RELATIONS[relation](self.array(left), self.array(right))
                return _Operand(np.asarray(holds, np.float64))
            case n.Indexed(base, at):
                places = tuple(int(self.array(i)) for i in at)
                return _Operand(np.asarray(np.squeeze(self.array(base))[places]))
            case n.Through(_, value):
                return _Operand(_known(value, self.names))
            case _:
                raise Unreadable(n.to_text(node))

    def array(self, node: n.Notation) -> Array:
        return self.value(node).array

    def _product(self, items: Sequence[n.Notation], kind: str) -> _Operand:
        if kind != "matrix":
            total = self.array(items[0])
            for item in items[1:]:
                total = np.asarray(total * self.array(item))
            return _Operand(total)
        left = self.value(items[0])
        for item in items[1:]:
            right = self.value(item)
            found = left.matrix @ right.matrix
            if left.array.ndim > 2:
                found = found.reshape(*left.array.shape[:-1], found.shape[-1])
            is_row = left.is_row and left.array.ndim == 1
            if right.array.ndim == 1 and not right.is_row:
                found = found[..., 0]
            elif is_row and right.array.ndim > 1:
                left = _Operand(found[0], True)
                continue
            left = _Operand(found)
        return left

    def _applied(self, function: str, arguments: Sequence[n.Notation]) -> Array:
        if function in ("sum", "mean"):
            axes: tuple[int, ...] | None = None
            if len(arguments) == 2 and isinstance(arguments[1], n.Name):
                named = _AXIS.fullmatch(arguments[1].text)
                if named is None:
                    raise Unreadable(arguments[1].text)
                axes = tuple(int(a) for a in named[1].split(","))
            reduce = np.sum if function == "sum" else np.mean
            body = self.array(arguments[0])
            return np.asarray(reduce(body, axis=axes, keepdims=self.names.keeps_axes))
        if function == "onehot" and len(arguments) == 1:
            ids = self.array(arguments[0]).astype(np.int64)
            return np.asarray(np.arange(self.names.classes) == ids[..., None], np.float64)
        if function == "softmax" and len(arguments) == 1:
            return _softmax(self.array(arguments[0]))
        return _function(function, [self.array(a) for a in arguments])


# --- indices


def _by_index(equation: n.Equation, shape: tuple[int, ...], names: Names) -> Array | None:
    assert isinstance(equation.left, n.Indexed)
    wide = [d for d in shape if d != 1]
    letters = [i.text for i in equation.left.at if isinstance(i, n.Name)]
    if len(letters) != len(wide) or len(set(letters)) != len(letters):
        raise Unreadable("the left side has other axes")
    places = {
        letter: (axis, size) for axis, (letter, size) in enumerate(zip(letters, wide, strict=True))
    }
    found = _Elements(names, places).value(equation.right)
    full = np.broadcast_to(found, (*wide, *(1,) * (_AXES - len(wide))))
    return full.reshape(shape)


@dataclass(frozen=True, slots=True)
class _Elements:
    """Values over an axis of their own for each letter, all arrays with the same number of axes."""

    names: Names
    letters: Mapping[str, tuple[int, int]]

    def value(self, node: n.Notation) -> Array:
        match node:
            case n.Name(text):
                if text in self.letters:
                    axis, size = self.letters[text]
                    return _along(np.arange(size, dtype=np.float64), axis)
                return _scalar(_known(text, self.names))
            case n.Num(text):
                return _scalar(np.array(float(text)))
            case n.Sum(items):
                parts = [sign * self.value(item) for sign, item in items]
                return np.asarray(sum(parts[1:], parts[0]))
            case n.Product(items, _):
                total = self.value(items[0])
                for item in items[1:]:
                    total = np.asarray(total * self.value(item))
                return total
            case n.Quotient(above, below):
                return np.asarray(self.value(above) / self.value(below))
            case n.Power(base, exponent):
                return _raised(self.value(base), exponent)
            case n.Root(inner):
                return np.asarray(np.sqrt(self.value(inner)))
            case n.Apply(function, arguments):
                if function in ("sum", "mean", "softmax", "onehot"):
                    raise Unreadable(function)
                return _function(function, [self.value(a) for a in arguments])
            case n.Bracket(left, relation, right):
                holds = _RELATIONS[relation](self.value(left), self.value(right))
                return np.asarray(holds, np.float64)
            case n.Indexed(base, at):
                return self._element(base, at)
            case n.BigSum(letters, body):
                return self._total(letters, body)
            case _:
                raise Unreadable(n.to_text(node))

    def _element(self, base: n.Notation, at: Sequence[n.Notation]) -> Array:
        array = np.squeeze(_base_array(base, self.names))
        if array.ndim != len(at):
            raise Unreadable("an element with another number of indices")
        places = [self.value(i).astype(np.int64) for i in at]
        for place, size in zip(places, array.shape, strict=True):
            if place.size and (place.min() < 0 or place.max() >= size):
                raise Unreadable("an index out of range")
        return np.asarray(array[tuple(np.broadcast_arrays(*places))] if places else array)

    def _total(self, letters: Sequence[str], body: n.Notation) -> Array:
        own = dict(self.letters)
        used = {axis for axis, _ in own.values()}
        free = (axis for axis in count() if axis not in used)
        sizes = {letter: _extent(letter, body, self.names) for letter in letters}
        own.update({letter: (next(free), sizes[letter]) for letter in letters})
        if max(axis for axis, _ in own.values()) >= _AXES:
            raise Unreadable("too many indices")
        found = _Elements(self.names, own).value(body)
        for letter in letters:
            axis, size = own[letter]
            times = size if found.shape[axis] == 1 else 1
            found = np.asarray(np.sum(found, axis=axis, keepdims=True) * times)
        return found


def _along(line: Array, axis: int) -> Array:
    return line.reshape([-1 if a == axis else 1 for a in range(_AXES)])


def _scalar(array: Array) -> Array:
    if array.size != 1:
        raise Unreadable("an array without indices")
    return array.reshape((1,) * _AXES)


def _base_array(base: n.Notation, names: Names) -> Array:
    if isinstance(base, n.Name):
        return _known(base.text, names)
    if isinstance(base, n.Through):
        return _known(base.value, names)
    raise Unreadable(n.to_text(base))


def _extent(letter: str, body: n.Notation, names: Names) -> int:
    """How far a bound letter runs: as far as the axes that it indexes."""
    for base, at in _elements(body, letter):
        shape = [d for d in _base_array(base, names).shape if d != 1]
        for place, index in enumerate(at):
            if index == n.Name(letter) and place < len(shape):
                return int(shape[place])
    raise Unreadable(letter)


def _elements(node: Any, letter: str) -> Iterator[tuple[n.Notation, tuple[n.Notation, ...]]]:
    """Every indexed array in ``node``, inside indices too, where ``letter`` is not bound again."""
    if isinstance(node, n.Indexed):
        yield node.base, node.at
        yield from _elements(node.at, letter)
    elif isinstance(node, n.BigSum):
        if letter not in node.letters:
            yield from _elements(node.body, letter)
    elif isinstance(node, tuple):
        for part in node:
            yield from _elements(part, letter)
    elif hasattr(node, "__dataclass_fields__"):
        for name in node.__dataclass_fields__:
            yield from _elements(getattr(node, name), letter)
