"""Loops and epilogues that would wait for their own results: how wide they are, and that LLVM
leaves their instructions in order.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import available, select
from gradc.codegen.llvm.text import Module
from gradc.codegen.maths.arrays import ArrayFloats
from gradc.codegen.maths.floats import Floats
from gradc.ir.loop.kernel import Buffer, Factor, Gemm, Kernel, Let, Store, Var
from gradc.ir.loop.order import LANE_BYTES
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, at, elementwise

F32 = DType.F32
AVX2 = pytest.mark.skipif("avx2" not in available(), reason="no AVX2 here")


@AVX2
def test_a_long_body_takes_two_vectors_at_a_time_and_stays_in_order() -> None:
    short, long = (
        Compiled([elementwise(verb, 128, [F32], F32)], "avx2").text for verb in ("sqrt", "erf")
    )
    lanes = LANE_BYTES // 4
    assert f"<{lanes} x float>" in short and f"<{2 * lanes} x float>" not in short
    assert f"<{2 * lanes} x float>" in long
    assert "annotation" in long and "annotation" not in short


@AVX2
@pytest.mark.parametrize("verb, lanes", [("neg", 8), ("erf", 16)])
def test_a_long_epilogue_takes_two_registers_at_a_time(verb: str, lanes: int) -> None:
    a, b = (Buffer(name, F32, 32 * 32, "read") for name in "ab")
    out = Buffer("out", F32, 32 * 32, "write")
    i, j = Var("i", DType.I64), Var("j", DType.I64)
    acc, done = Var("acc", F32), Var("done", F32)
    epilogue = (Let(done, verb, (acc,)), Store(out, at((i, 32), (j, 1)), done))
    left, right = Factor(a, (), 32, 1), Factor(b, (), 32, 1)
    product = Gemm((), (), 32, 32, 32, left, right, i, j, acc, epilogue)
    text = Compiled([Kernel("product", (a, b, out), (product,))], "avx2").text
    body = next(f for f in text.split("define ") if ".epilogue" in f.split("(")[0]).split("\n}")[0]
    assert f"<{lanes} x float>" in body and f"<{2 * lanes} x float>" not in body


def test_a_fence_is_no_instruction() -> None:
    sizes = []
    for pace in (0, 1):
        module = Module(select().triple, "", select().attributes)
        fn = module.function("run", "float", [("float", "x")], linkage="")
        value = fn.parameters[0]
        with fn.in_order(pace):
            for _ in range(5):
                value = fn.binary("fmul", value, value)
        fn.ret(value)
        assert module.text().count("call void @llvm.codeview") == 5 * pace
        code = jit.assembly(module.text(), select()).splitlines()
        sizes.append(sum(line.startswith("\t") and line[1] not in ".#" for line in code))
    assert sizes[0] == sizes[1] == 6


@pytest.mark.parametrize("double", [False, True])
def test_a_sum_is_scaled_over_the_whole_range_and_rounded_once(double: bool) -> None:
    k: Floats[np.ndarray] = ArrayFloats(double)
    kind = np.float64 if double else np.float32
    n = np.arange(-2 * k.bias, 2 * k.bias + 1).astype(kind)
    x = np.random.default_rng(0).uniform(-0.3, 0.45, n.shape).astype(kind)
    with np.errstate(all="ignore"):
        found = k.scale_one_and(x, n, (n + k.c(k.magic)).astype(kind))
        rounded = (x + k.c(1.0)).astype(np.longdouble)
        truth = np.ldexp(rounded, n.astype(int)).astype(kind)
    np.testing.assert_array_equal(found, truth)
    assert np.isnan(k.scale_one_and(k.c(np.nan), k.c(np.nan), k.c(np.nan)))
