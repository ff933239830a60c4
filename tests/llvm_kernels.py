"""Single kernels compiled for a named instruction set and called on NumPy arrays, for the tests of the LLVM backend."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.llvm import jit, nest
from gradc.codegen.llvm.isa import select
from gradc.codegen.llvm.text import Module
from gradc.ir.core import DType
from gradc.ir.loops import Affine, Buffer, For, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.loops_verbs import stored_dtype

Array = npt.NDArray[Any]


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

    def __call__(
        self, buffers: Sequence[Array], number: int = 0, begin: int = 0, end: int = 1
    ) -> None:
        """Runs kernel ``number`` on its buffers, iterations [begin, end) of its parallel loop."""
        self._functions[number](*(b.ctypes.data for b in buffers), begin, end)


def _function(address: int, kernel: Kernel) -> Any:
    count = sum(b.access != "scratch" for b in kernel.buffers)
    kinds = [ctypes.c_void_p] * count + [ctypes.c_int64] * 2
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
