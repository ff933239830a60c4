"""Tiles of products as machine code, and their bits over long sums.

    python -m tests.support.cuda_tiles [--isa sm_80,sm_90,sm_100] [--bits] [--halves]

prints for every tile, with sums of one leaf of k and of several, and for tensor cores (``--halves``
for these alone), registers, blocks that fit a multiprocessor, and of the main loop how many
instructions it has and how many of them multiply and add. ``--bits`` runs every tile in the
simulator with leaves and nodes of k against the CPU instead: minutes. The exit status is 1 for a
spill, a stack, an access of less than 16 bytes (tensor cores excepted), other bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from unittest.mock import patch

import gradc
from gradc.codegen.cuda.printer.plans import PROCESSORS, print_plan, target
from gradc.codegen.cuda.printer.tiles import TILES, Tile, fitting
from gradc.codegen.cuda.program import Program, Text
from gradc.codegen.cuda.toolchain import assemble, build, sass
from gradc.ir.tensor.core import DType
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.native.compile import compile_options, pipeline_options
from tests.cuda.test_products import outcome, plan_of

_CHOICE = "gradc.codegen.cuda.printer.kernels.tile_of"
WINDOWS = """
model net(x: float[16, 64, 28, 28]) -> float {
    param w: float[128, 64, 3, 3] ~ normal(0.3)
    param v: float[24, 128, 1, 1] ~ normal(0.3)
    y = relu(conv2d(x, w, stride = 1, padding = 1))
    z = conv2d(y, v, stride = 1)
    return mean(z * z)
}
"""
_STEPS = (256, 4096, 20480)  # of k: a leaf, several, several nodes


def by(tile: Tile, k: int, m: int, n: int, turned: bool = False) -> Program | None:
    """A product by this tile; None where it has no room for its sums."""
    levels = sum(k > steps for steps in (256, 16384))
    fitted = fitting(tile, levels)
    if fitted is None:
        return None
    with patch(_CHOICE, lambda gemm, processors: fitted):
        return print_plan(plan_of(m, n, k, turned, turned), target("sm_90"))


def compiled(isa: str, halves: bool = False) -> int:
    """The table of one architecture, of tensor cores alone with ``halves``; how many rows are not
    as they should be.
    """
    print(f"{isa}: tile, k | threads, registers, blocks | loop: multiply-adds of all | CPU s")
    wrong = 0
    for tile in () if halves else TILES:
        for k in _STEPS:
            program = by(tile, k, 2048, 2048)
            wrong += program is not None and _row(f"{tile}, {k}", program.texts[0], isa)
    for m, turned in product((2048, 512, 2049), ((False, False), (True, False), (False, True))):
        plan = plan_of(m, m, 4096, *turned, DType.BF16)
        says = f"bf16, {m}, {' and '.join('turned' if t else 'plain' for t in turned)}"
        (text,) = print_plan(plan, target(isa)).texts
        wrong += _row(says, text, isa, narrow=True)
    for text in _windows(isa).texts:
        if "on tensor cores" in text.source:
            says = text.source.split(chr(34) * 3)[1].split("\n")[0]
            wrong += _row(f"bf16, windows, {says}", text, isa, narrow=True)
    return wrong


def _windows(isa: str) -> Program:
    """A convolution with its gradients."""
    model = gradc.loads(WINDOWS, precision="bf16")
    options = compile_options(target="cuda", threads=1)
    asked = pipeline_options(model.gradient_of("params"), options, isa=isa)
    plan = run_pipeline(model.lower({}, training=True).function, asked).plan
    return print_plan(plan, target(isa))


def _row(says: str, text: Text, isa: str, narrow: bool = False) -> bool:
    """Prints one; whether it is not as it should be. ``narrow``: short accesses are expected."""
    start = time.process_time()
    capability = build.CAPABILITIES[isa]
    code = assemble.cubin([build.ptx(text, capability)], capability)
    taken = time.process_time() - start
    found, loop = sass.statistics(code)[text.name], sass.main_loops(code)[text.name]
    is_bad = bool(found.stack or found.local or found.f64 or (found.narrow and not narrow))
    fit = found.occupancy(text.threads, PROCESSORS[isa])
    print(
        f"  {says} | {text.threads}, {found.registers}, {fit} | "
        f"{loop.fused + loop.tensor} of {loop.instructions}, {loop.share:.1%} | "
        f"{taken:.1f}{' WRONG' if is_bad else ''}",
        flush=True,
    )
    return is_bad


def bits() -> int:
    """Every tile over leaves and nodes against the CPU."""
    wrong = 0
    for tile in TILES:
        for k, turned in ((40, True), (300, False), (530, True), (16384 + 260, False)):
            m, n = min(tile.rows, 64) + 3, max(min(tile.columns, 64) - 28, 12)
            program = by(tile, k, m, n, turned)
            if program is None:
                continue
            same = outcome(plan_of(m, n, k, turned, turned), program)
            wrong += not same
            print(f"{tile}: {m} x {k} x {n}: {'equal' if same else 'DIFFERS'}", flush=True)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default="sm_90")
    parser.add_argument("--bits", action="store_true")
    parser.add_argument("--halves", action="store_true")
    asked = parser.parse_args(arguments)
    wrong = (
        bits() if asked.bits else sum(compiled(isa, asked.halves) for isa in asked.isa.split(","))
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
