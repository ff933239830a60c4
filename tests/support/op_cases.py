"""Every op at every sample of its definition, as functions: what the generated tests of ops walk
over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradc.ir.ops  # noqa: F401  (fills the registry)
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Control, OpDef, Sample, all_ops
from gradc.ir.tensor.core import DType, Function, Op, Role, Slot, TensorType, Value

ARRAYS = NumpyArrays()
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One op definition at one of its samples."""

    definition: OpDef
    sample: Sample
    number: int

    def __str__(self) -> str:
        return f"{self.definition.name}-{self.number}"

    @property
    def active(self) -> list[bool]:
        """Which operands have a derivative."""
        return [t.dtype.is_float for t in self.sample.operands]

    def emit(self, b: Builder) -> Op:
        """The op on fresh parameters of ``b``."""
        operands = [b.parameter(t) for t in self.sample.operands]
        b.apply(self.definition.name, operands, self.sample.attributes)
        return b.ops[-1]

    def function(self) -> Function:
        """The op alone, its result being an output."""
        b = Builder()
        return close(b, self.emit(b).results)

    def operands(self, seed: int) -> list[Array]:
        """Random operands in the ranges the sample gives."""
        rng = np.random.default_rng([seed, self.number])
        rows = zip(self.sample.operands, self.sample.ranges, strict=True)
        return [draw(rng, t, low, high) for t, (low, high) in rows]


def draw(rng: np.random.Generator, type_: TensorType, low: float, high: float) -> Array:
    """An array of ``type_`` with elements between ``low`` and ``high``."""
    shape, storage = type_.static_shape, ARRAYS.dtype(type_.dtype)
    if type_.dtype.is_float:
        return np.asarray(rng.uniform(low, high, shape), storage)
    if type_.dtype is DType.BOOL:
        return np.asarray(rng.random(shape) < 0.5)
    return np.asarray(rng.integers(int(low), int(high), shape), storage)


def close(b: Builder, outputs: Sequence[Value]) -> Function:
    """The block of ``b`` as a function of inputs and outputs."""
    parameters = [Slot(f"p{n}", Role.INPUT) for n in range(len(b.parameters))]
    results = [Slot(f"r{n}", Role.OUTPUT) for n in range(len(outputs))]
    return b.function("case", outputs, parameters, results)


CASES = [
    Case(definition, sample, number)
    for definition in all_ops()
    for number, sample in enumerate(definition.samples)
]
SMOOTH = [case for case in CASES if case.function().block.outputs[0].type.dtype.is_float]
PLAIN_OPS = [d for d in all_ops() if not isinstance(d.loop, Control)]
