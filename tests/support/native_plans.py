"""Plans written by hand, for tests of native code: two dense layers, elementwise kernels, a rolled
scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.backend import backend
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Factor,
    For,
    Gemm,
    Kernel,
    Let,
    Load,
    LoopKind,
    Scalar,
    Store,
    Var,
)
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Repeat, Step, Tensor
from gradc.ir.tensor.core import DType, Role
from gradc.passes.place.prune import prune
from gradc.passes.place.scratch import place_scratch
from gradc.runtime.native.load import scratch_of

Array = NDArray[Any]
F32, I64 = DType.F32, DType.I64


def ready(plan: Plan, threads: int = 1, isa: str | None = None) -> Plan:
    """``plan`` with scratch for a target, as artifacts and generated code need it."""
    target = backend("cpu").target(threads, isa)
    return place_scratch(plan, target, scratch_of("cpu", target))


def bare(plan: Plan) -> Plan:
    """``plan`` as it was before a target was chosen, so that it can be compiled for any."""

    def without(steps: Sequence[Step]) -> tuple[Step, ...]:
        return tuple(
            replace(s, scratch=None) if isinstance(s, Launch) else replace(s, body=without(s.body))
            for s in steps
        )

    return prune(replace(plan, steps=without(plan.steps), threads=0))


def product(m: int, n: int, k: int, relu: bool, dtype: DType = DType.F32) -> Kernel:
    """``c = left @ right + bias``, cut off at zero if ``relu``."""
    a, b = Buffer("a", dtype, m * k, "read"), Buffer("b", dtype, k * n, "read")
    bias, c = Buffer("bias", dtype, n, "read"), Buffer("c", dtype, m * n, "write")
    summed = F32 if dtype.itemsize == 2 else dtype
    i, j, acc, rounded = Var("i", I64), Var("j", I64), Var("acc", summed), Var("rounded", dtype)
    row, total, cut = Var("row", dtype), Var("total", dtype), Var("cut", dtype)
    epilogue = (
        Load(row, bias, Affine.of(j)),
        *(() if summed is dtype else (Let(rounded, "cast", (acc,)),)),
        Let(total, "add", (acc if summed is dtype else rounded, row)),
        Let(cut, "max", (total, Const(0.0, dtype))),
        Store(c, Affine.of(i) * n + Affine.of(j), cut if relu else total),
    )
    factors = Factor(a, (), k, 1), Factor(b, (), n, 1)
    gemm = Gemm((), (), m, n, k, *factors, i, j, acc, epilogue)
    nbytes = dtype.itemsize * (m * k + k * n + m * n)
    return Kernel("product", (a, b, bias, c), (gemm,), 2 * m * n * k, nbytes)


def mlp(m: int, k: int, h: int, n: int) -> Plan:
    """Two dense layers, the hidden one in the arena."""
    shapes = {"x": (m, k), "w1": (k, h), "b1": (h,), "w2": (h, n), "b2": (n,), "y": (m, n)}
    tensors = [
        Tensor(name, shape, F32, "argument", number)
        for number, (name, shape) in enumerate(shapes.items())
    ]
    ports = tuple(
        Port(t.name, Role.INPUT, t.shape, F32, "out" if t.name == "y" else "in", number)
        for number, t in enumerate(tensors)
    )
    hidden = Tensor("h", (m, h), F32, "arena", offset=0)
    kernels = (product(m, h, k, True), product(m, n, h, False))
    steps = tuple(
        Launch(kernel, tuple(map(Argument, tensors_)))
        for kernel, tensors_ in enumerate([(0, 1, 2, 6), (6, 3, 4, 5)])
    )
    size = -(-hidden.nbytes // 64) * 64
    return Plan("mlp", ports, (*tensors, hidden), kernels, steps, size)


def mlp_arrays(plan: Plan, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(port.shape).astype(np.float32) for port in plan.ports]


def mlp_reference(arrays: list[Array]) -> Array:
    x, w1, b1, w2, b2, _ = (a.astype(np.float64) for a in arrays)
    result: Array = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    return result


def elementwise(name: str, size: int, how: str, kind: LoopKind = "vector") -> Kernel:
    """``c[i] = a[i] how b[i]``."""
    a, b = Buffer("a", F32, size, "read"), Buffer("b", F32, size, "read")
    c = Buffer("c", F32, size, "write")
    i, x, y, z = Var("i", I64), Var("x", F32), Var("y", F32), Var("z", F32)
    body = (
        Load(x, a, Affine.of(i)),
        Load(y, b, Affine.of(i)),
        Let(z, how, (x, y)),
        Store(c, Affine.of(i), z),
    )
    loop = For(i, size, kind, body)
    return Kernel(name, (a, b, c), (loop,), flops=size, bytes=12 * size)


def plus_counter(size: int) -> Kernel:
    """``c[i] = a[i] + counter``."""
    a, c = Buffer("a", F32, size, "read"), Buffer("c", F32, size, "write")
    cell = Buffer("cell", I64, 1, "read")
    i, x, n, nf, z = Var("i", I64), Var("x", F32), Var("n", I64), Var("nf", F32), Var("z", F32)
    operands: tuple[Scalar, ...] = (x, nf)
    body = (
        Load(x, a, Affine.of(i)),
        Load(n, cell, Affine()),
        Let(nf, "cast", (n,)),
        Let(z, "add", operands),
        Store(c, Affine.of(i), z),
    )
    return Kernel("plus_counter", (a, cell, c), (For(i, size, "vector", body),))


def scan(trips: int, size: int) -> Plan:
    """``h[t+1] = h[t] * x[t]; y[t] = h[t+1] + t``: h alternates between two halves of one arena
    tensor.
    """
    tensors = (
        Tensor("h0", (2, size), F32, "argument", 0),
        Tensor("x", (trips, size), F32, "argument", 1),
        Tensor("y", (trips, size), F32, "argument", 2),
        Tensor("cell", (1,), I64, "arena", offset=0),
    )
    ports = (
        Port("h0", Role.STATE, (2, size), F32, "inout", 0),
        Port("x", Role.INPUT, (trips, size), F32, "in", 1),
        Port("y", Role.OUTPUT, (trips, size), F32, "out", 2),
    )
    times = Launch(
        0,
        (
            Argument(0, 0, (0,), (size,)),
            Argument(1, 0, (size,)),
            Argument(0, size, (0,), (-size,)),
        ),
    )
    shown = Launch(1, (Argument(0, size, (0,), (-size,)), Argument(3), Argument(2, 0, (size,))))
    kernels = (elementwise("times", size, "mul"), plus_counter(size))
    return Plan("scan", ports, tensors, kernels, (Repeat(trips, (times, shown), 3),), 64)
