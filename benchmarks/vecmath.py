"""Speed of the generated vector mathematics on one thread: elements per nanosecond by function,
type and instruction set.

    python -m benchmarks.vecmath [native avx2 sse2 ...]

Each function runs over 4096 elements that stay in the first-level cache; the best of many runs
counts, in processor time of the thread, so other programs on the machine matter little.
"""

import ctypes
import sys
import time
from collections.abc import Callable

import numpy as np

from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import available, select
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.text import Module
from gradc.codegen.maths.elementary import UNARY
from gradc.ir.loop.kernel import Affine, Buffer, For, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.tensor.core import DType

SIZE, ROUNDS, SECONDS = 4096, 50, 0.1
TYPES = {DType.F32: np.float32, DType.F64: np.float64}


def kernel(verb: str, arity: int, dtype: DType) -> Kernel:
    """``y[i] = verb(x[i], ...)``, ROUNDS times over."""
    inputs = [Buffer(f"x{n}", dtype, SIZE, "read") for n in range(arity)]
    output = Buffer("y", dtype, SIZE, "write")
    index, result = Var("i", DType.I64), Var("r", dtype)
    given = [Var(f"a{n}", dtype) for n in range(arity)]
    loads: list[Stmt] = [Load(v, b, Affine.of(index)) for v, b in zip(given, inputs, strict=True)]
    body = (*loads, Let(result, verb, tuple(given)), Store(output, Affine.of(index), result))
    once = For(index, SIZE, "vector", body)
    return Kernel(verb, (*inputs, output), (For(Var("n", DType.I64), ROUNDS, "serial", (once,)),))


def best(run: Callable[[], None]) -> float:
    """The least processor time of one run, in nanoseconds."""
    least, end = float("inf"), time.monotonic() + SECONDS
    while time.monotonic() < end:
        start = time.thread_time_ns()
        run()
        least = min(least, time.thread_time_ns() - start)
    return least


def elements_per_ns(verb: str, dtype: DType, isa: str) -> float:
    """Speed of one function."""
    arity = 2 if verb in ("mul", "div", "pow") else 1
    target = select(isa)
    module = Module(target.triple, "", target.attributes)
    nest.emit_kernel(module, kernel(verb, arity, dtype), "run", target)
    text = module.text().replace("define internal void @run(", "define void @run(")
    library = jit.Library(jit.compile_object(text, target), ["run"], {})
    kinds = [ctypes.c_void_p] * (arity + 1) + [ctypes.c_int64] * 2
    function = ctypes.CFUNCTYPE(None, *kinds)(library["run"])
    rng = np.random.default_rng(0)
    arrays = [np.abs(rng.normal(size=SIZE)).astype(TYPES[dtype]) for _ in range(arity + 1)]
    pointers = [array.ctypes.data for array in arrays]
    return SIZE * ROUNDS / best(lambda: function(*pointers, 0, 1))


def main() -> None:
    """Prints the table."""
    names = ["mul", "div", "sqrt", *UNARY, "pow"]
    for isa in sys.argv[1:] or [name for name in available() if name != "avx512"]:
        for dtype in TYPES:
            row = "  ".join(f"{n} {elements_per_ns(n, dtype, isa):.2f}" for n in names)
            print(f"{isa} {dtype}: {row}", flush=True)


if __name__ == "__main__":
    main()
