"""The matrix unit of x86-64 (AMX): eight tiles of 16 rows of 64 bytes, and one instruction that
multiplies a tile of bf16 pairs by another and adds to a tile of f32.

    TDPBF16PS C, A, B:  C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1]

Sums of a row of A have two chains, one of the first halves of pairs and one of the second, which
are added before C (Intel, Architecture Instruction Set Extensions Programming Reference, ch. 3);
denormals count as zero. The unit is asleep until a process asks Linux for it (Documentation/arch/
x86/xstate.rst): Python's by ``is_permitted``, a program in C when an object of ours is loaded
(``asking``).

Non-goals: what is made of it (``codegen.llvm.gemm.matrix``).
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

from gradc.codegen.llvm.cpuinfo import processor

ROWS = 16  # of a tile
ROW_BYTES = 64
PAIRS = 16  # of bf16 in a row
# What LLVM calls the instructions that are used.
FEATURES = ("amx-tile", "amx-bf16")
MULTIPLY = "llvm.x86.tdpbf16ps"
# How large tiles are: the only palette there is, rows of 64 bytes, 16 of them.
_LAYOUT = "<{ [16 x i8], [16 x i16], [16 x i8] }>"
_FIRST = ", ".join(["i8 1"] + ["i8 0"] * 15)
_COLUMNS = ", ".join([f"i16 {ROW_BYTES}"] * 8 + ["i16 0"] * 8)
_HEIGHTS = ", ".join([f"i8 {ROWS}"] * 8 + ["i8 0"] * 8)
SIZES = (
    f"internal constant {_LAYOUT} <{{ [16 x i8] [{_FIRST}], [16 x i16] [{_COLUMNS}], "
    f"[16 x i8] [{_HEIGHTS}] }}>, align 64"
)

_ARCH_PRCTL = 158  # the number of the system call
_REQUEST, _TILE_DATA = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
_FLAGS = ("amx_tile", "amx_bf16")  # as the operating system calls them


@functools.cache
def is_permitted() -> bool:
    """Whether this process may use the unit; asks Linux for it where there is one."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if not set(_FLAGS) <= set(processor().split()):
        return False
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = [ctypes.c_long] * 3
    syscall.restype = ctypes.c_long
    return int(syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA)) == 0


def usable(described: str) -> str:
    """What is described of a processor, without the unit where this process may not use it."""
    if is_permitted():
        return described
    return " ".join(word for word in described.split(" ") if word not in _FLAGS)


def asking(text: str) -> str:
    """What a module must hold beside ``text`` to ask for the unit before anything of it runs; empty
    if ``text`` has no use for it.
    """
    return _ASKING if MULTIPLY in text else ""


_ASKING = f"""
declare i64 @syscall(i64, ...)
@llvm.global_ctors = appending global [1 x {{ i32, ptr, ptr }}]
  [{{ i32, ptr, ptr }} {{ i32 65535, ptr @gradc.ask_for_tiles, ptr null }}]
define internal void @gradc.ask_for_tiles() nounwind {{
  call i64 (i64, ...) @syscall(i64 {_ARCH_PRCTL}, i64 {_REQUEST}, i64 {_TILE_DATA})
  ret void
}}
"""
