"""The loader of object code: right wherever memory is, within its rights, and clear about what it
refuses.
"""

import ctypes
import gc
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradc.codegen.llvm.host import elf, jit
from gradc.codegen.llvm.isa import host

ROOT = Path(__file__).resolve().parent.parent.parent

# A function that reads constants, a table of addresses, writable data, and calls libc and an
# import.
MODULE = """
@table = internal constant [2 x ptr] [ptr @plus, ptr @minus]
@calls = internal global i64 0
@scale = internal constant <4 x float> <float 1.0, float 2.0, float 3.0, float 4.0>

declare i32 @sched_yield()
declare void @gradc_parallel(ptr)

define internal float @plus(float %a) { %r = fadd float %a, 1.0e+00
  ret float %r }
define internal float @minus(float %a) { %r = fsub float %a, 1.0e+00
  ret float %r }

define float @work(float %x, i64 %which) {
  %n = load i64, ptr @calls
  %m = add i64 %n, 1
  store i64 %m, ptr @calls
  %place = getelementptr [2 x ptr], ptr @table, i64 0, i64 %which
  %f = load ptr, ptr %place
  %y = call float %f(float %x)
  %zero = call i32 @sched_yield()
  %w = sitofp i32 %zero to float
  %z = fadd float %y, %w
  %v = load <4 x float>, ptr @scale
  %last = extractelement <4 x float> %v, i64 3
  %r = fmul float %z, %last
  call void @gradc_parallel(ptr @calls)
  ret float %r
}
define i64 @count() { %n = load i64, ptr @calls
  ret i64 %n }
"""

needs_elf = pytest.mark.skipif(
    "x86_64" not in host().triple or "linux" not in host().triple,
    reason="LLVM's own loader serves this machine",
)


NOTHING = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)  # stands for gradc_parallel
IMPORTS = {"gradc_parallel": ctypes.cast(NOTHING, ctypes.c_void_p).value or 0}


@pytest.fixture(scope="module")
def code() -> bytes:
    return jit.compile_object(MODULE, host())


def functions(library: jit.Library) -> tuple[Callable[..., float], Callable[[], int]]:
    work = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float, ctypes.c_int64)(library["work"])
    return work, ctypes.CFUNCTYPE(ctypes.c_int64)(library["count"])


def test_constants_tables_data_and_calls(code: bytes) -> None:
    library = jit.Library(code, ["work", "count"], IMPORTS)  # as long as it lives, so does its code
    work, count = functions(library)
    assert work(0.5, 0) == 4 * 1.5
    assert work(0.5, 1) == 4 * -0.5
    assert count() == 2


def test_every_load_has_data_of_its_own(code: bytes) -> None:
    first = jit.Library(code, ["work", "count"], IMPORTS)
    second = jit.Library(code, ["work", "count"], IMPORTS)
    functions(first)[0](0.0, 0)
    assert (functions(first)[1](), functions(second)[1]()) == (1, 0)


@needs_elf
def test_no_page_is_writable_and_executable(code: bytes) -> None:
    library = jit.Library(code, ["work", "count"], IMPORTS)
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        (low, high), flags = line.split()[0].split("-"), line.split()[1]
        if int(low, 16) <= library["work"] < int(high, 16):
            rights["code"] = flags[:3]
    assert rights == {"code": "r-x"}


FAR = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
import gradc.codegen.llvm.host.jit as jit
from gradc.codegen.llvm.isa import host
host()
top = libc.mmap(None, 5 << 30, 0, 0x4022, 2**64 - 1, 0) + (5 << 30)
for i in range(1, 201):
    libc.munmap(top - (i << 20), 4096)
letters = "abcdefgh" * (1 << 20)
text = f'''
@big = internal constant [{len(letters)} x i8] c"{letters}"
define i8 @pick(i64 %i) {{
  %p = getelementptr [{len(letters)} x i8], ptr @big, i64 0, i64 %i
  %r = load i8, ptr %p
  ret i8 %r
}}'''
library = jit.Library(jit.compile_object(text, host()), ["pick"], {})
print(ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_int64)(library["pick"])(8_000_002))
"""


def test_code_and_constants_stay_within_reach_of_each_other() -> None:
    """Small free pages 5 GiB above the rest: LLVM's loader puts code there, constants below, and
    aborts.
    """
    done = subprocess.run(
        [sys.executable, "-c", FAR], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(ord("c"))), done.stderr


@needs_elf
def test_memory_is_given_back(code: bytes) -> None:
    def mapped() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    for _ in range(5):
        jit.Library(code, ["work"], IMPORTS)
    gc.collect()
    before = mapped()
    for _ in range(200):
        jit.Library(code, ["work"], IMPORTS)
    gc.collect()
    assert mapped() <= before + 3


def test_a_missing_symbol_is_refused(code: bytes) -> None:
    with pytest.raises(jit.CodegenError, match="walk"):
        jit.Library(code, ["walk"], IMPORTS)
    with pytest.raises(jit.CodegenError, match="gradc_parallel"):
        jit.Library(code, ["work"], {})


@needs_elf
def test_damaged_objects_are_refused_or_load_whole(code: bytes) -> None:
    """Cut short anywhere, or with a byte of a table changed: refused, or loaded without a fault."""
    refused = 0
    for size in range(64, len(code), 97):
        try:
            elf.Image(code[:size], IMPORTS)
        except elf.LoadError:
            refused += 1
    assert refused > len(range(64, len(code), 97)) * 0.9
    rng = np.random.default_rng(5)
    start = struct.unpack_from("<Q", code, 0x28)[0]
    for _ in range(300):
        damaged = bytearray(code)
        damaged[rng.integers(start, len(code))] ^= int(rng.integers(1, 256))
        try:
            elf.Image(bytes(damaged), IMPORTS)
        except elf.LoadError as problem:
            assert str(problem)
