"""Drawing what parameters start as.

The draws come from NumPy's Philox, whose key is made of the seed, the parameter's path and the
number of the draw. So a parameter starts the same whatever the other parameters are, in whatever
order they are declared, and in every precision up to rounding.

Imported where parameters are made and nowhere else: checking a program needs no NumPy.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.frontend.model.initial import InitializerIR
from gradc.frontend.model.models import ParameterSpec
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import TensorType


def initialize(parameters: Iterable[ParameterSpec], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """How every parameter and state starts, by path, in the order of declaration."""
    return {
        # Interned: calls find arrays fastest by the very names that programs have.
        sys.intern(spec.path): start_value(spec.path, spec.type, spec.initializer, seed)
        for spec in parameters
    }


def generator(seed: int, path: str, draw: int) -> np.random.Generator:
    """The generator of one draw: Philox keyed by the seed, the parameter's path and the draw's
    number.
    """
    digest = hashlib.blake2b(f"{seed}/{draw}/{path}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def draw(kind: str, sizes: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """One array of f64 draws."""
    if kind == "normal":
        return random.standard_normal(sizes)
    if kind == "uniform":
        return random.random(sizes)
    return _orthogonal(sizes, random)


def _orthogonal(sizes: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Uniform (Haar) over matrices with orthonormal rows or columns, whichever are fewer.

    QR of a Gaussian matrix, with the signs of R's diagonal moved into Q (Mezzadri 2007).
    """
    rows = sizes[0] if sizes else 1
    columns = 1
    for size in sizes[1:]:
        columns *= size
    if rows == 0 or columns == 0:
        return np.zeros(sizes)
    tall = random.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    matrix = q if rows >= columns else q.T
    return np.ascontiguousarray(matrix).reshape(sizes)


def start_value(
    path: str, type_: TensorType, start: InitializerIR | None, seed: int
) -> npt.NDArray[Any]:
    """What a parameter or state of a bound type starts as. ``None`` is the random counter: (seed,
    0).

    The array has the element type of ``type_``; f16 and bf16 come as f32 rounded to them.
    """
    if start is None:
        return np.array([seed & 0xFFFFFFFF, 0], np.uint32)
    draws = [
        draw(kind, value.type.static_shape, generator(seed, path, number))
        for number, (kind, value) in enumerate(
            zip(start.draws, start.function.block.parameters, strict=True)
        )
    ]
    arrays = NumpyArrays()
    (found,) = run(arrays, start.function, draws)
    settled = arrays.settle(arrays.cast(found, type_.dtype), type_.dtype)
    return np.array(np.broadcast_to(settled, type_.static_shape), order="C")
