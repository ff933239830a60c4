"""Products of bf16 and f16 on tensor cores: a block has 128 x 128 results, each of its eight warps
64 x 32 of them, from slices of 32 steps of k in shared memory, three of which are there or on their
way.

A factor lies in a slice as it lies in memory, in chunks of 16 bytes. Chunks are swapped among
neighbours so that the eight rows of a matrix meet no bank twice: where k is fast chunk c of place p
is at ``c ^ (p / 2 mod 4)``, where places are fast chunk c of step s at ``c ^ (s mod 8)``.

Sums are f32 from the first step of k to the last, in an order that the processor does not tell:
results repeat from run to run, and are not the CPU's bits (docs/cuda-texts.md). Epilogues are as
everywhere, on registers. Non-goals: windows of images, other layouts (``products``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times, unflatten
from gradc.ir.loop.kernel import Buffer, Factor, Gemm
from gradc.ir.tensor.core import DType

SIZE, DEPTH, STAGES, THREADS = 128, 32, 3, 256
TOGETHER = 2  # blocks of a multiprocessor
SLICE = SIZE * DEPTH  # elements of one factor
ROOMS = (("u16", STAGES * SLICE), ("u16", STAGES * SLICE))
_CHUNK = 8  # elements of a copy
_LEAST = 48  # rows and columns under which most of a tile would be empty
_MMA = {DType.BF16: "mma_bf16", DType.F16: "mma_f16"}


def fits(gemm: Gemm, aligned: frozenset[Buffer]) -> bool:
    """Whether tensor cores do this product."""
    types = {factor.buffer.dtype for factor in (gemm.left, gemm.right)}
    if len(types) != 1 or not types <= set(_MMA) or gemm.acc.dtype is not DType.F32:
        return False
    if min(gemm.m, gemm.n) < _LEAST or gemm.k < DEPTH:
        return False
    left, right = gemm.left, gemm.right
    sides = ((left, left.row, left.column, gemm.m), (right, right.column, right.row, gemm.n))
    return all(_is_regular(f, s, k, extent, gemm.k, aligned) for f, s, k, extent in sides)


def _is_regular(
    factor: Factor, stride: int, k_stride: int, extent: int, k: int, aligned: frozenset[Buffer]
) -> bool:
    """Whether chunks of a factor are contiguous and aligned, inside or outside as a whole."""
    if factor.patch is not None or factor.buffer not in aligned or 1 not in (stride, k_stride):
        return False
    other, run = (stride, k) if k_stride == 1 else (k_stride, extent)
    return not any(n % _CHUNK for n in (other, run, factor.offset, *factor.batch_strides))


def blocks(gemm: Gemm) -> int:
    """How many blocks compute ``gemm``."""
    return prod(gemm.batch) * -(-gemm.m // SIZE) * -(-gemm.n // SIZE)


def write_tensor(nest: Nest, gemm: Gemm) -> None:
    """Writes what a block does."""
    add = nest.lines.add
    for name, (dtype, size) in zip(("left", "right"), ROOMS, strict=True):
        add(f"{name} = shared({dtype}, {size})")
    across, down = -(-gemm.n // SIZE), -(-gemm.m // SIZE)
    batch = [nest.words.define(var) for var in gemm.batch_index]
    unflatten(nest, "b", (*gemm.batch, down, across), [*batch, "down", "across"])
    add(f"row = {SIZE} * down")
    add(f"column = {SIZE} * across")
    add("# a warp's part of the tile; which row of which of four matrices a lane says")
    add("y = 64 * floordiv(t, 128)")
    add("x = 32 * mod(floordiv(t, 32), 4)")
    add("line = mod(t, 8)")
    add("one = mod(floordiv(t, 8), 2)")
    add("other = mod(floordiv(t, 16), 2)")
    strides = (gemm.left.row, gemm.left.column), (gemm.right.column, gemm.right.row)
    left = _Side(nest, gemm.left, "left", "row", "y", *strides[0], gemm.m, gemm.k, ("one", "other"))
    right = _Side(
        nest, gemm.right, "right", "column", "x", *strides[1], gemm.n, gemm.k, ("other", "one")
    )
    for side in (left, right):
        side.base(batch)
        side.fragments()
    _sum(nest, gemm, (left, right))
    _results(nest, gemm)


@dataclass
class _Side:
    """One factor. ``halves`` name what chooses the second eight places, and the second eight steps
    of k, of a fragment.
    """

    nest: Nest
    factor: Factor
    name: str
    first: str
    warp: str
    stride: int
    k_stride: int
    extent: int
    k: int
    halves: tuple[str, str]

    @property
    def along_k(self) -> bool:
        return self.k_stride == 1

    @property
    def count(self) -> int:
        """Runs of sixteen places of a warp."""
        return 4 if self.name == "left" else 2

    def base(self, batch: Sequence[str]) -> None:
        """Which chunks this thread copies."""
        add, name = self.nest.lines.add, self.name
        per_line = DEPTH // _CHUNK if self.along_k else SIZE // _CHUNK
        place, step = f"{name}_place", f"{name}_step"
        if self.along_k:
            add(f"{place} = floordiv(t, {per_line})")
            add(f"{step} = mod(t, {per_line})")
            add(f"{name}_to = {DEPTH} * {place} + 8 * bitxor({step}, mod(floordiv({place}, 2), 4))")
            add(f"{step} = 8 * {step}")
        else:
            add(f"{step} = floordiv(t, {per_line})")
            add(f"{place} = mod(t, {per_line})")
            add(f"{name}_to = {SIZE} * {step} + 8 * bitxor({place}, mod({step}, 8))")
            add(f"{place} = 8 * {place}")
        strides = zip(batch, self.factor.batch_strides, strict=True)
        terms = [times(index, stride) for index, stride in strides if stride]
        terms += [str(self.factor.offset)] if self.factor.offset else []
        terms.append(times(f"({self.first} + {place})", self.stride))
        terms.append(times(step, self.k_stride))
        add(f"{name}_at = {' + '.join(terms)}")

    def copy(self, k: str, slot: str) -> None:
        """Two chunks of the slice that begins with step ``k`` set off."""
        name, lines = self.name, self.nest.lines
        places, steps = (64, 0) if self.along_k else (0, 16)
        apart = places * self.stride + steps * self.k_stride
        inside = []
        if self.extent % SIZE:
            more = f" + {times('n', places)}" if places else ""
            inside.append(f"({self.first} + {name}_place{more} < {self.extent})")
        if self.k % DEPTH:
            more = f" + {times('n', steps)}" if steps else ""
            inside.append(f"({k} + {name}_step{more} < {self.k})")
        k_part = times(k if " " not in k else f"({k})", self.k_stride)
        with lines.block("for n in range(2)"):
            lines.add(
                f"copy_async({name}, {SLICE} * {slot} + {name}_to + {SLICE // 2} * n, "
                f"{self.nest.buffers[self.factor.buffer]}, {name}_at + {k_part} + {apart} * n, "
                f"{_CHUNK}, {' & '.join(inside) or 'True'})"
            )

    def fragments(self) -> None:
        """Where the fragments of this lane begin in a slice."""
        add, name, (place, step) = self.nest.lines.add, self.name, self.halves
        if self.along_k:
            add(f"turn = bitxor({step}, mod(floordiv(line, 2), 4))")
            add(f"{name}_line = {DEPTH} * ({self.warp} + line + 8 * {place})")
            for half in (0, 1):
                add(f"{name}_now{half} = {name}_line + 8 * bitxor(turn, {2 * half})")
            return
        add(f"turn = bitxor(floordiv({self.warp}, 8) + {place}, line)")
        add(f"{name}_line = {SIZE} * (line + 8 * {step})")
        for run in range(self.count):
            add(f"{name}_now{run} = {name}_line + 8 * bitxor(turn, {2 * run})")

    def load(self, half: int) -> str:
        """The fragments of sixteen steps of k."""
        found = []
        for run in range(self.count):
            if self.along_k:
                at = f"{self.name}_now{half} + {16 * DEPTH * run}"
            else:
                at = f"{self.name}_now{run} + {16 * SIZE * half}"
            verb = "matrices" if self.along_k else "turned_matrices"
            found.append(f"{verb}({self.name}, slot + {at})")
        return " + ".join(found)


def _sum(nest: Nest, gemm: Gemm, sides: tuple[_Side, _Side]) -> None:
    """Slices in order; the one after the next sets off while one is multiplied."""
    lines, add = nest.lines, nest.lines.add
    verb = _MMA[gemm.left.buffer.dtype]

    def copy(k: str, slot: str, condition: str) -> None:
        with lines.block(f"if {condition}"):
            for side in sides:
                side.copy(k, slot)
        add("commit_copies()")

    with lines.block(f"for stage in range({STAGES - 1})"):
        add(f"k = {DEPTH} * stage")
        copy("k", "stage", f"k < {gemm.k}")
    add("acc = zeros(f32, 64)")
    add("now = 0")
    add(f"free = {STAGES - 1}")
    with lines.block(f"for k in range(0, {gemm.k}, {DEPTH})"):
        add(f"wait_copies({STAGES - 2})")
        add("barrier()")
        ahead = DEPTH * (STAGES - 1)
        copy(f"k + {ahead}", "free", f"k + {ahead} < {gemm.k}")
        add(f"slot = {SLICE} * now")
        for half in (0, 1):
            add(f"rows = {sides[0].load(half)}")
            add(f"columns = {sides[1].load(half)}")
            add(f"acc = {verb}(acc, rows, columns)")
        add("free = now")
        add("now = now + 1")
        with lines.block(f"if now == {STAGES}"):
            add("now = 0")


def _results(nest: Nest, gemm: Gemm) -> None:
    """Epilogues of this thread's elements: of each sum of 16 x 8 two neighbours in two rows."""
    lines, add, words = nest.lines, nest.lines.add, nest.words
    with lines.block("for run in range(16)"):
        add("place = row + y + 16 * floordiv(run, 4) + mod(floordiv(t, 4), 8)")
        add("step = column + x + 8 * mod(run, 4) + 2 * mod(t, 4)")
        for n in range(4):
            state = words.state()
            i, j = words.define(gemm.i), words.define(gemm.j)
            add(f"{i} = place" + (" + 8" if n // 2 else ""))
            add(f"{j} = step" + (" + 1" if n % 2 else ""))
            inside = [f"({i} < {gemm.m})"] if gemm.m % SIZE else []
            inside += [f"({j} < {gemm.n})"] if gemm.n % SIZE else []
            with lines.block(f"if {' & '.join(inside)}") if inside else nullcontext():
                add(f"{words.define(gemm.acc)} = acc[{n}]")
                nest.body(gemm.epilogue)
            words.reset(state)
        add("acc = turned(acc, 4)")
