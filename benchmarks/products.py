"""Speed of matrix products of random shapes on one thread, and that of two versions in turns.

    python -m benchmarks.products [--shapes 60] [--seed 0] [--rounds 40]
    python -m benchmarks.products --save FOLDER     # in the one version
    python -m benchmarks.products --against FOLDER  # in the other: new time over old

Factors lie either way, by rows or by columns, some products have a batch, and some epilogues read
what they add. Between calls other memory is written, so that factors come from where a model's come
from. Times are processor time of the thread, the ratio the median over rounds, old and new in
turns; results must be the same bits. The last line is the geometric mean of the ratios and the
largest of them.
"""

import argparse
import ctypes
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gradc.codegen.llvm.gemm import gemm
from gradc.codegen.llvm.host import jit
from gradc.codegen.llvm.isa import host
from gradc.codegen.llvm.nest import nest
from gradc.codegen.llvm.text import Module
from gradc.ir.loop.kernel import Affine, Buffer, Factor, Gemm, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.tensor.core import DType

LARGEST = 1 << 27  # multiply-adds of a product
BETWEEN = 12 << 20  # bytes written between calls
LEAST = 2e-4  # seconds of a round


@dataclass(frozen=True)
class Shape:
    """A product; whether each factor is transposed in memory, and whether its epilogue reads."""

    batch: int
    m: int
    n: int
    k: int
    left: bool
    right: bool
    adds: bool

    def __str__(self) -> str:
        way = f"{'T' if self.left else '.'}{'T' if self.right else '.'}{'+' if self.adds else '.'}"
        return f"{self.batch:3} x {self.m:5} x {self.n:5} x {self.k:5} {way}"


def shapes(count: int, seed: int) -> list[Shape]:
    """Random ones: sides from 1 to 2048, small and odd ones among them."""
    rng, found = random.Random(seed), list[Shape]()
    while len(found) < count:
        batch = rng.choice((1, 1, 1, 8, 32))
        m, n, k = (max(1, round(2 ** rng.uniform(1, 11))) for _ in range(3))
        if rng.random() < 0.5:
            m, n, k = (-(-x // 16) * 16 for x in (m, n, k))
        if batch * m * n * k <= LARGEST:
            found.append(Shape(batch, m, n, k, *(rng.random() < 0.4 for _ in range(3))))
    return found


def kernel(s: Shape) -> Kernel:
    """``c = a @ b``, or with ``d`` added."""
    f32, i64 = DType.F32, DType.I64
    a = Buffer("a", f32, s.batch * s.m * s.k, "read")
    b = Buffer("b", f32, s.batch * s.k * s.n, "read")
    c = Buffer("c", f32, s.batch * s.m * s.n, "write")
    d = Buffer("d", f32, c.size, "read")
    row, column, number = Var("i", i64), Var("j", i64), Var("b", i64)
    acc, more, total = (Var(name, f32) for name in ("acc", "more", "total"))
    place = Affine.of(number) * (s.m * s.n) + Affine.of(row) * s.n + Affine.of(column)
    body: tuple[Stmt, ...] = (Store(c, place, acc),)
    if s.adds:
        body = (Load(more, d, place), Let(total, "add", (acc, more)), Store(c, place, total))
    left = Factor(a, (s.m * s.k,), *((1, s.m) if s.left else (s.k, 1)))
    right = Factor(b, (s.k * s.n,), *((1, s.k) if s.right else (s.n, 1)))
    product = Gemm((s.batch,), (number,), s.m, s.n, s.k, left, right, row, column, acc, body)
    return Kernel("product", (a, b, c, d), (product,))


def compiled(s: Shape) -> tuple[bytes, int, int]:
    """The object code of a product, its scratch in bytes, its units."""
    isa, whole = host(), kernel(s)
    module = Module(isa.triple, "", isa.attributes)
    nest.emit_kernel(module, whole, "run", isa)
    text = module.text().replace("define internal void @run(", "define void @run(")
    (product,) = whole.body
    assert isinstance(product, Gemm)
    return jit.compile_object(text, isa), nest.scratch_bytes(whole, isa), gemm.units(product, isa)


class Runnable:
    """Object code with memory to run on."""

    def __init__(self, code: bytes, scratch: int, units: int, arrays: list[np.ndarray]) -> None:
        self._library = jit.Library(code, ["run"], {})
        kinds = [ctypes.c_void_p] * (len(arrays) + 1) + [ctypes.c_int64] * 2
        function = ctypes.CFUNCTYPE(None, *kinds)(self._library["run"])
        self._room = np.zeros(scratch + 64, np.uint8)
        at = self._room.ctypes.data
        places = [*(array.ctypes.data for array in arrays), at + -at % 64, 0, units]
        self.run: Callable[[], None] = lambda: function(*places)


def timed(runs: list[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of each in every round, in turns."""
    other = np.zeros(BETWEEN, np.uint8)
    repeats = []
    for run in runs:
        started = time.thread_time()
        run()
        repeats.append(max(1, int(LEAST / max(time.thread_time() - started, 1e-7))))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for number in range(len(runs))[:: 1 if turn % 2 else -1]:
            other += 1
            started = time.thread_time()
            for _ in range(max(repeats)):
                runs[number]()
            times[number].append((time.thread_time() - started) / max(repeats))
    return times


def arrays_of(s: Shape) -> list[np.ndarray]:
    """What a product reads and writes."""
    rng = np.random.default_rng(0)
    sizes = [buffer.size for buffer in kernel(s).bound]
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    if given.save:
        given.save.mkdir(parents=True, exist_ok=True)
    ratios = []
    for number, s in enumerate(shapes(given.shapes, given.seed)):
        code, scratch, units = compiled(s)
        if given.save:
            facts = {"shape": asdict(s), "scratch": scratch, "units": units}
            (given.save / f"{number}.json").write_text(json.dumps(facts))
            (given.save / f"{number}.o").write_bytes(code)
            continue
        arrays = arrays_of(s)
        runs = [Runnable(code, scratch, units, arrays)]
        if given.against:
            facts = json.loads((given.against / f"{number}.json").read_text())
            if facts["shape"] != asdict(s):
                raise SystemExit(f"{given.against} is of other shapes: save them again")
            old = (given.against / f"{number}.o").read_bytes()
            runs.append(Runnable(old, facts["scratch"], facts["units"], arrays))
        results = []
        for one in runs:
            arrays[2][:] = np.nan
            one.run()
            results.append(arrays[2].copy())
        times = timed([one.run for one in runs], given.rounds)
        speed = 2e-9 * s.batch * s.m * s.n * s.k / min(times[0])
        line = f"{s}  {min(times[0]) * 1e6:9.1f} us {speed:6.1f} GF/s"
        if given.against:
            ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
            ratios.append(ratio)
            new, old_one = (result.view(np.int32) for result in results)
            same = np.array_equal(new, old_one)
            line += f"  new/old {ratio:.3f}{'' if same else '  OTHER BITS'}"
        print(line, flush=True)
    if ratios:
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
        print(f"geometric mean {mean:.3f}, largest {max(ratios):.3f}")


if __name__ == "__main__":
    main()
