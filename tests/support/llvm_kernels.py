"""Single kernels compiled for a named instruction set and called on NumPy arrays, for the tests of
the LLVM backend.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import Isa, available, select
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.text import Module
from gradc.ir.loop.execute import execute_kernel
from gradc.ir.loop.kernel import Affine, Buffer, For, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.loop.verbs import from_memory, stored_dtype
from gradc.ir.tensor.core import DType

Array = npt.NDArray[Any]


def sets() -> tuple[str, ...]:
    """The instruction sets of ``available`` that code is made differently for: one that has all
    facts of the host is covered by ``native``.
    """

    def facts(isa: Isa) -> Isa:
        return replace(isa, name="", cpu="", features="")

    native = facts(select("native"))
    return tuple(n for n in available() if n == "native" or facts(select(n)) != native)


class Compiled:
    """A kernel as machine code."""

    def __init__(self, kernels: Sequence[Kernel], isa: str = "native") -> None:
        target = select(isa)
        module = Module(target.triple, "", target.attributes)
        names = [f"kernel{n}" for n in range(len(kernels))]
        for kernel, name in zip(kernels, names, strict=True):
            nest.emit_kernel(module, kernel, name, target)
        text = module.text()
        for name in names:
            text = text.replace(f"define internal void @{name}(", f"define void @{name}(")
        self.text = text
        self._library = jit.Library(jit.compile_object(text, target), names, {})
        self._functions = [
            _function(self._library[name], kernel)
            for kernel, name in zip(kernels, names, strict=True)
        ]
        self._scratch = [Room(nest.scratch_bytes(kernel, target)) for kernel in kernels]

    def __call__(
        self, buffers: Sequence[Array], number: int = 0, begin: int = 0, end: int = 1
    ) -> None:
        """Runs kernel ``number`` on its buffers, iterations [begin, end) of its grid loop."""
        room = self._scratch[number]
        room.poison()
        self._functions[number](*(b.ctypes.data for b in buffers), room.address, begin, end)
        assert room.is_intact(), "scratch is overrun"


class Room:
    """Scratch of a kernel: aligned, NaN before every call, with fences around it."""

    def __init__(self, size: int) -> None:
        self._bytes = np.zeros(size + 4 * 64, np.uint8)
        self._start = 64 + -self._bytes.ctypes.data % 64
        self._end = self._start + size
        self.address = int(self._bytes.ctypes.data) + self._start

    def poison(self) -> None:
        self._bytes[:] = 0xA5
        self._bytes[self._start : self._end] = 0xFF

    def is_intact(self) -> bool:
        outside = self._bytes[: self._start], self._bytes[self._end :]
        return all(bool((side == 0xA5).all()) for side in outside)


def _function(address: int, kernel: Kernel) -> Any:
    count = len(kernel.bound)
    kinds = [ctypes.c_void_p] * (count + 1) + [ctypes.c_int64] * 2
    return ctypes.CFUNCTYPE(None, *kinds)(address)


def elementwise(
    verb: str, size: int, operands: Sequence[DType], result: DType, vector: bool = True
) -> Kernel:
    """``y[i] = verb(x0[i], x1[i], ...)`` for ``size`` elements."""
    inputs = [Buffer(f"x{n}", dtype, size, "read") for n, dtype in enumerate(operands)]
    output = Buffer("y", result, size, "write")
    index, out = Var("i", DType.I64), Var("r", result)
    loaded = [Var(f"a{n}", dtype) for n, dtype in enumerate(operands)]
    body: tuple[Stmt, ...] = (
        *(Load(v, b, Affine.of(index)) for v, b in zip(loaded, inputs, strict=True)),
        Let(out, verb, tuple(loaded)),
        Store(output, Affine.of(index), out),
    )
    loop = For(index, size, "vector" if vector else "serial", body)
    return Kernel(verb, (*inputs, output), (loop,))


def empty(dtype: DType, size: int) -> Array:
    """An array for a buffer of ``size`` elements, full of ones in every bit."""
    array = np.empty(size, stored_dtype(dtype))
    array.view(np.uint8)[...] = 1 if dtype is DType.BOOL else 0xFF
    return array


def at(*terms: tuple[Var, int] | int) -> Affine:
    """The sum of ``(var, factor)`` pairs and constants."""
    total = Affine()
    for term in terms:
        total = total + (term if isinstance(term, int) else Affine.of(term[0]) * term[1])
    return total


def random_array(dtype: DType, size: int, rng: np.random.Generator) -> Array:
    if dtype is DType.BOOL:
        return rng.integers(0, 2, size).astype(bool)
    if not dtype.is_float:
        return rng.integers(0, 100, size).astype(
            {DType.I32: np.int32, DType.I64: np.int64, DType.U32: np.uint32}[dtype]
        )
    values = rng.standard_normal(size)
    values[rng.random(size) < 0.05] = -0.0
    if dtype is DType.BF16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(
        {DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}[dtype]
    )


_FENCE = 512


def _fenced(array: Array) -> tuple[Array, Array]:
    """A copy of ``array`` between two fences: the bytes of all, and the copy."""
    whole = np.full(array.nbytes + 2 * _FENCE, 0xA5, np.uint8)
    view = whole[_FENCE : _FENCE + array.nbytes].view(array.dtype)
    view[...] = array
    return whole, view


def _is_intact(whole: Array) -> bool:
    return bool((whole[:_FENCE] == 0xA5).all() and (whole[-_FENCE:] == 0xA5).all())


def check(
    kernels: Sequence[Kernel],
    isa: str,
    seed: int = 0,
    given: dict[str, Array] | None = None,
    code: Compiled | None = None,
) -> None:
    """Runs kernels both ways on the same random buffers and compares every buffer."""
    code = code or Compiled(kernels, isa)
    rng = np.random.default_rng(seed)
    for number, kernel in enumerate(kernels):
        start = []
        for buffer in kernel.buffers:
            if buffer.is_private:
                continue
            fixed = (given or {}).get(buffer.name)
            if fixed is not None:
                start.append(fixed)
            elif buffer.access == "write":
                start.append(empty(buffer.dtype, buffer.size))
            else:
                start.append(random_array(buffer.dtype, buffer.size, rng))
        fenced = [_fenced(a) for a in start]
        ours, truth = [view for _, view in fenced], [a.copy() for a in start]
        only = kernel.body[0]
        if isinstance(only, For) and only.kind == "grid":
            middle = only.extent // 3  # the range may be cut anywhere
            code(ours, number, 0, middle)
            code(ours, number, middle, only.extent)
        else:
            code(ours, number)
        with np.errstate(all="ignore"):
            execute_kernel(kernel, truth)
        assert all(_is_intact(whole) for whole, _ in fenced), f"{kernel.name} {isa} writes outside"
        shown = kernel.bound
        for buffer, x, y in zip(shown, ours, truth, strict=True):
            a, b = from_memory(x, buffer.dtype), from_memory(y, buffer.dtype)
            np.testing.assert_array_equal(a, b, err_msg=f"{kernel.name} {buffer.name} {isa}")
