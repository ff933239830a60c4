"""Random points of a prime field for the parameters of a program, from a seed that everybody can
compute again.

Floating operands are uniform in the field, booleans are coin tosses, integers lie within every axis
they may index, so that no id falls outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.equal import PLACES, fingerprint
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, walk
from gradc.passes.prove.domains.field import FieldArrays

T = TypeVar("T")
# Ids stay below this even where a table is larger: collisions of ids should happen in small batches
# too.
MOST_IDS = 64


class Drawn(Protocol):
    """A domain in which points can be drawn."""

    def random(self, shape: Sequence[int], rng: np.random.Generator) -> Any:
        """Independent elements."""

    def dtype(self, dtype: DType) -> np.dtype[Any]:
        """The NumPy type of integers."""


class Runnable(Protocol):
    """What computes the results of a program in another way, such as its Plan."""

    @property
    def results(self) -> tuple[Slot, ...]:
        """What is computed, in order."""

    def run(self, domain: NumpyArrays, values: Sequence[Any]) -> Sequence[Any]:
        """The results at ``values`` of the program's parameters; None where there is none."""


def results_of(program: Function | Runnable, domain: Any, values: Sequence[Any]) -> Sequence[Any]:
    """What ``program`` computes over ``domain``."""
    if isinstance(program, Function):
        return run(domain, program, values)
    return program.run(domain, values)


@dataclass(frozen=True)
class Point:
    """A point: the oracles' key and a value per parameter of the program."""

    domain: FieldArrays
    values: tuple[Any, ...]
    rng: np.random.Generator


def seed_of(*items: object) -> int:
    """A seed of 63 bits that depends on what ``items`` mean, not on their places in a text."""
    text = "/".join(fingerprint(item, ignore=PLACES) for item in items)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def draw(function: Function, seed: int, number: int) -> Point:
    """Point ``number`` of the sequence that ``seed`` starts."""
    key = int(np.random.SeedSequence([seed, number]).generate_state(2, np.uint64)[0])
    domain, rng = FieldArrays(key), np.random.default_rng([seed, number])
    limit = index_limit(function)
    types = [v.type for v in function.block.parameters]
    is_counter = [s.role is Role.STATE for s in function.parameters]
    rows = zip(types, is_counter, strict=True)
    is_spread = number % 2 == 0
    values = tuple(element_of(domain, t, rng, 1 << 16 if c else limit, is_spread) for t, c in rows)
    return Point(domain, values, rng)


def element_of(
    domain: Drawn,
    type_: TensorType,
    rng: np.random.Generator,
    limit: int,
    is_spread: bool = False,
) -> Any:
    """A random operand of ``type_``; integers are below ``limit``, and two or more of them are not
    all equal.

    ``is_spread``: integers are as different as they can be, so that each row of a small table is
    met. Otherwise they collide as chance has it. Programs are tried both ways, since integers are
    not random elements of a field.
    """
    shape = type_.static_shape
    if type_.dtype.is_float:
        return domain.random(shape, rng)
    if type_.dtype is DType.BOOL:
        return rng.random(shape) < 0.5
    ids = rng.integers(0, limit, shape)
    if is_spread and limit <= MOST_IDS:
        ids = rng.permutation(np.resize(rng.permutation(limit), ids.size)).reshape(shape)
    if ids.size > 1 and limit > 1 and ids.min() == ids.max():
        ids.reshape(-1)[rng.integers(ids.size)] = (ids.max() + 1) % limit
    return ids.astype(domain.dtype(type_.dtype))


def index_limit(function: Function) -> int:
    """The size of the smallest axis that integers of the program index, or are compared with the
    places of (else 2).
    """
    sizes, counted = [MOST_IDS], [MOST_IDS]
    found = False
    for op in walk(function.block):
        if op.name == "take":
            size = op.operands[0].type.static_shape[int(str(op.attributes["axis"]))]
        elif op.name == "scatter_add":
            size = int(str(op.attributes["size"]))
        elif op.name == "iota" and not op.result.type.dtype.is_float:
            counted.append(max(2, op.result.type.static_shape[int(str(op.attributes["axis"]))]))
            continue
        else:
            continue
        sizes.append(max(1, size))
        found = True
    if found:
        return min(sizes)
    return min(counted) if len(counted) > 1 else 2


def at_points(
    function: Function, seed: int, count: int, test: Callable[[Point], T]
) -> tuple[T, ...]:
    """``test`` at the first ``count`` points of the sequence."""
    return tuple(test(draw(function, seed, number)) for number in range(count))


def same(a: Sequence[Any], b: Sequence[Any]) -> list[bool]:
    """Which of two programs' results are equal, element by element."""
    return [np.array_equal(x, y) for x, y in zip(a, b, strict=True)]
