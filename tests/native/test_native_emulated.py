"""Products of bf16 on instructions that this processor need not have: their code runs with the
instructions as functions (``tests.support.emulated``), and is compiled for a processor that has
them.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradc.codegen.llvm import amx
from gradc.codegen.llvm.gemm.blocking import blocking, oriented
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.host.limits import FMA_STEPS, fma_flops, limits_text
from gradc.codegen.llvm.isa import Isa, host, select
from gradc.ir.tensor.core import DType
from tests.native.test_native_gemm import Array, Case, program, text_of
from tests.support import emulated

KINDS = ["pairs", "matrix"]
LAYOUTS = [(left, right) for left in ("bmk", "bkm", "mbk") for right in ("bkn", "bnk")]


def results(cases: list[Case], isa: Isa, cuts: tuple[float, ...] = (0.4,)) -> list[Array]:
    library = program(cases, isa, emulated.emulated)
    return [c.computed(library[f"product{n}"], isa, cuts) for n, c in enumerate(cases)]


def bf16(m: int, n: int, k: int, left: str = "bmk", right: str = "bkn", **more: object) -> Case:
    return Case(m, n, k, left=left, right=right, dtype=DType.BF16, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_products_against_float64(kind: str) -> None:
    """Odd sizes, one row, one column, k that ends inside of a pair, a step and a leaf."""
    isa = emulated.isa(matrix=kind == "matrix")
    shapes = [(1, 1, 40), (3, 70, 7), (17, 33, 33), (40, 71, 100), (33, 20, 1100)]
    cases = [
        bf16(*shape, *LAYOUTS[n % 6], seed=n, offset=n % 3, epilogue=("", "bias_relu_add")[n % 2])
        for n, shape in enumerate(shapes * 2)
    ]
    cases.append(bf16(19, 40, 65, batch=(3,), left="mbk", right="kbn", out="mbn"))
    for case, found in zip(cases, results(cases, isa), strict=True):
        case.compare(found)
    used = {blocking(oriented(case.product, isa), isa).matrix for case in cases}
    assert used == ({True, False} if kind == "matrix" else {False})


def test_a_step_of_the_unit_is_summed_as_intel_says() -> None:
    """Firsts and seconds of the pairs of a step apart, then together, then with what was there."""
    case = bf16(5, 9, 32)
    (found,) = results([case], emulated.isa(matrix=True))
    a, b = case.a64.astype(np.float32), case.b64.astype(np.float32)
    firsts, seconds = np.zeros((1, 5, 9), np.float32), np.zeros((1, 5, 9), np.float32)
    for k in range(0, 32, 2):
        firsts += a[..., k, None] * b[..., k, :]
        seconds += a[..., k + 1, None] * b[..., k + 1, :]
    assert np.array_equal(found, firsts + seconds)


def test_bits_of_the_unit_depend_on_k_alone() -> None:
    isa = emulated.isa(matrix=True)
    small, large = bf16(3, 20, 700, seed=5), bf16(70, 200, 700, left="bkm", right="bnk", seed=6)
    large.a.reshape(700, 70)[:, 33:36] = small.a.reshape(3, 700).T
    large.b.reshape(200, 700)[50:70] = small.b.reshape(700, 20).T
    library = program([small, large], isa, emulated.emulated)
    one, other = (c.computed(library[f"product{n}"], isa) for n, c in enumerate((small, large)))
    assert np.array_equal(one, other[:, 33:36, 50:70])
    assert np.array_equal(other, large.computed(library["product1"], isa, (0.1, 0.35, 0.8)))


# ---- for a processor that has them ---------------------------------------------------------------

x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 alone")


def sapphire_rapids() -> Isa:
    features = "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512bf16,+amx-tile,+amx-bf16"
    triple = "x86_64-unknown-linux-gnu"
    isa = Isa("native", triple, "sapphirerapids", features, 64, 32, True, True, True, True)
    return replace(isa, pairs=True, matrix=True)


def _multiply(target: int, left: int, right: int) -> bytes:
    """TDPBF16PS as the manual encodes it: VEX.128.F3.0F38.W0 5C 11:rrr:bbb."""
    return bytes([0xC4, 0xE2, (~right & 15) << 3 | 2, 0x5C, 0xC0 | target << 3 | left])


@x86
def test_the_unit_is_encoded_as_the_manual_says() -> None:
    isa = sapphire_rapids()
    text = text_of([bf16(64, 64, 640)], isa)
    code = jit.compile_object(text, isa)
    for row in (0, 1):
        for column in (0, 1):
            assert _multiply(2 * row + column, 4 + row, 6 + column) in code
    assert b"\xc4\xe2\x78\x49" in code, "ldtilecfg m512: VEX.128.NP.0F38.W0 49 !(11):000:bbb"
    assert b"\xc4\xe2\x78\x49\xc0" in code, "tilerelease"
    # All sums and factors of a step are in tiles: four products to four loads.
    loop = re.search(r"tileloadd.*?\n\tj\w+", jit.assembly(text, isa), re.DOTALL)
    assert loop is not None
    assert (loop[0].count("tileloadd"), loop[0].count("tdpbf16ps")) == (4, 4)


@x86
def test_the_peak_of_the_unit_is_measured_with_it() -> None:
    isa = sapphire_rapids()
    loop = re.search(r"tdpbf16ps.*?\n\tj\w+", jit.assembly(limits_text(isa), isa), re.DOTALL)
    assert loop is not None
    each = 2 * 16 * 16 * 32  # a multiplication and an addition for 16 x 16 sums and 32 steps of k
    assert fma_flops("bf16", isa) == FMA_STEPS * loop[0].count("tdpbf16ps") * each


@x86
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_an_object_asks_for_the_unit_when_it_is_loaded(tmp_path: Path) -> None:
    """The unit is asleep until Linux is asked: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)."""
    assert amx.asking(text_of([bf16(8, 8, 8)], select("native"))) == ""
    asks = amx.asking(text_of([bf16(64, 64, 64)], sapphire_rapids()))
    text = f'target triple = "{host().triple}"\n{asks}'
    (tmp_path / "ask.o").write_bytes(jit.compile_object(text, select("native")))
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nstatic long asked[3];\n"
        "long syscall(long a, long b, long c) { asked[0] = a; asked[1] = b; asked[2] = c; "
        "return 0; }\n"
        'int main(void) { printf("%ld %lx %ld", asked[0], asked[1], asked[2]); return 0; }\n'
    )
    subprocess.run(["cc", "main.c", "ask.o", "-o", "main"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert said == "158 1023 18"
