"""The functions of kernel texts: what they read like, and that the simulator gives them the bits of
native code.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.codegen.cuda.functions import function_texts
from gradc.codegen.cuda.verbs import FUNCTIONS
from gradc.codegen.llvm.isa import select
from gradc.codegen.maths import elementary
from gradc.ir.tensor.core import DType
from tests.support.cuda_functions import simulated
from tests.support.llvm_kernels import Compiled, elementwise
from tests.support.maths_inputs import arguments, same_bits

EXP = '''\
def exp_f32(x):
    """e^x. The clamp keeps n finite; beyond it the result is 0 or infinity already."""
    v = select(f32(-104.0) > x, f32(-104.0), x)
    v2 = select(f32(89.0) < v, f32(89.0), v)
    shifted = fma(v2, f32(1.442695), f32(1.2582912e+07))
    n = shifted - f32(1.2582912e+07)
    r = fma(n, f32(-1.4286068e-06), fma(n, f32(-0.69314575), v2))
    p = fma(f32(0.0013926182), r, f32(0.008363178))
    p = fma(p, r, f32(0.041666556))
    p = fma(p, r, f32(0.16666576))
    p = fma(p, r, f32(0.5))
    n2 = f32_bits(shifted)
    n3 = shr(n2, u32(1))
    n4 = add(shl(n3, u32(23)), u32(0x3f800000))
    v3 = f32_of(n4)
    n5 = add(shl(sub(n2, n3), u32(23)), u32(0x3f800000))
    return fma(v3, fma(r * r, p, r), v3) * f32_of(n5)
'''


def test_functions_read_like_formulas() -> None:
    (text,) = function_texts([("exp", "f32")])
    assert text.source == EXP
    assert [t.name for t in function_texts([("erf", "f32"), ("exp", "f32")])] == [
        "exp_f32",
        "copysign_f32",
        "erf_f32",
    ]
    longest = max(
        len(line)
        for kind in ("f32", "f64")
        for text in function_texts([(name, kind) for name in FUNCTIONS])
        for line in text.source.splitlines()
    )
    assert longest <= 100


def test_every_verb_without_an_instruction_has_a_function() -> None:
    assert set(FUNCTIONS) == set(elementary.FUNCTIONS)
    with pytest.raises(KeyError, match="sqrt"):
        function_texts([("sqrt", "f32")])


@pytest.mark.skipif(not select().fma, reason="this processor rounds fma twice")
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_simulated_functions_have_the_bits_of_native_code(kind: str) -> None:
    rng, dtype = np.random.default_rng(6), DType.F64 if kind == "f64" else DType.F32
    given = {name: arguments(name, dtype, 150, rng) for name in FUNCTIONS}
    kernels = [elementwise(n, len(x[0]), [dtype] * len(x), dtype) for n, x in given.items()]
    code = Compiled(kernels)
    for number, (name, operands) in enumerate(given.items()):
        native = np.empty_like(operands[0])
        code([*operands, native], number)
        wrong = np.flatnonzero(~same_bits(simulated(name, kind, operands), native))
        assert not len(wrong), f"{name} {[x[wrong[0]] for x in operands]}"
