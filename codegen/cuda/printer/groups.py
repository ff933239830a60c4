"""Products of bf16 and f16 by groups of 128 threads (``wgmma`` of sm_90a): a group has 64 rows of
a block's results, all columns, 64 at a time, and reads both factors from slices in shared memory.

Slices are those of ``tensor``: where k is fast lines of 32 steps whose chunks are swapped as in the
processor's lines of 64 bytes, where places are fast lines of 64 of them, 128 bytes. A slice is
published before the barrier after which groups read it, and its products are waited for before the
next barrier, after which another slice comes into its place.

Which products are these is the shape's choice, and every block multiplies 64 x 16 by 16 x 64, so
that bits are the same on all devices that have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.verbs import GROUP
from gradc.ir.loop.kernel import Gemm
from gradc.ir.tensor.core import DType

SIDE = 64  # rows, and columns, of a product
_STEPS = 16
_VERBS = {DType.BF16: "group_bf16", DType.F16: "group_f16"}


class Slice(Protocol):
    """A factor as it lies in shared memory."""

    @property
    def name(self) -> str: ...

    @property
    def along_k(self) -> bool: ...


def fits(gemm: Gemm, depth: int) -> bool:
    """Whether groups do a product of these: by its shape alone."""
    return min(gemm.m, gemm.n) >= SIDE and gemm.k >= depth


def write_places(nest: Nest) -> None:
    """Which rows of the block are this thread's."""
    add = nest.lines.add
    add("# a group's rows of the block, and of those this thread's first")
    add(f"y = {SIDE} * floordiv(t, {GROUP})")
    add("line = 16 * mod(floordiv(t, 32), 4) + mod(floordiv(t, 4), 8)")


def sums(across: int) -> list[str]:
    """The names of sums, one for every 64 columns."""
    return [f"acc{n}" for n in range(across)]


def write_slice(nest: Nest, gemm: Gemm, sides: Sequence[Slice], depth: int, across: int) -> None:
    """The products of the slice that begins at ``slot``, of 32 steps of k."""
    add, verb = nest.lines.add, _VERBS[gemm.left.buffer.dtype]
    left, right = sides
    for acc in sums(across):
        add(f"{acc} = ready({acc})")
    add(f"rows = slot + {depth} * y")
    for begin in range(0, depth, _STEPS):
        for number, acc in enumerate(sums(across)):
            one = _factor(left, "rows", begin, 0)
            other = _factor(right, "slot", begin, SIDE * depth * number)
            add(f"{acc} = {verb}({acc}, {one}, {other})")
    add("commit_products()")
    for acc in sums(across):
        add(f"{acc} = wait_products({acc}, 0)")


def _factor(side: Slice, base: str, begin: int, place: int) -> str:
    """Sixteen steps of k of 64 places, as a product takes them."""
    at = place + (begin if side.along_k else SIDE * begin)
    more = f" + {at}" if at else ""
    return f"{side.name}, {base}{more}, {0 if side.along_k else 1}"
