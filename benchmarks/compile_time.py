"""How long planning takes: from a model's program to its finished Plan, without machine code, as
programs grow.

    python -m benchmarks.compile_time [--sizes 100,300,1000,3000,10000] [--kinds chain,step,mlp,gpt]
    [--steps] [--budgeted OPS] [--json FILE]

Sizes count the ops of the model as lowered, before differentiation; what is planned, forward and
backward, has about two and a half times as many. For each: seconds of the processor for the plan
without a budget, for budgets that are kept (three quarters and half of the way down to the least
memory found) and for one that is refused; with ``--steps`` the parts of the first. The slope is
that of seconds over ops on logarithmic axes: 1 is linear. A step of many small parameters,
``step``, should take at most twice as long as its gradient, ``chain``.
"""

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gradc
from benchmarks.cases import MODELS
from gradc.ir.tensor.core import Function
from gradc.passes.budget import BudgetError, run_within
from gradc.passes.pipeline import STEPS, Options, run_pipeline
from gradc.runtime.native.compile import compile_options, pipeline_options

_T = TypeVar("_T")

CHAIN = """
dim B = 32, D = 16, L = 10
layer block(D) {
    use fc = dense(D, D)
    apply(h: float[B, D]) -> float[B, D] { return tanh(fc(h)) }
}
model chain(x: float[B, D], y: float[B, D]) -> float {
    use blocks = block(D) * L
    h = x
    for b in blocks { h = b(h) }
    return mean((h - y)^2)
}
"""
MLP = """
dim B = 32, D = 64, L = 10
layer block(D) {
    use ln = layernorm(D)
    use up = dense(D, 2*D)
    use down = dense(2*D, D)
    apply(h: float[B, D]) -> float[B, D] { return h + down(gelu(up(ln(h)))) }
}
model mlp(x: float[B, D], y: float[B, D]) -> float {
    use blocks = block(D) * L
    h = x
    for b in blocks { h = b(h) }
    return mean((h - y)^2)
}
"""
KINDS = ("chain", "step", "mlp", "gpt")
SIZES = (100, 300, 1000, 3000, 10_000)
# The largest programs that budgets are kept for here.
BUDGETED = 3000


def subject(kind: str, layers: int) -> tuple[Function, Options]:
    """The program of a model with so many layers, and how its gradients are compiled; of ``step``,
    the chain's training step, two small parameters a layer.
    """
    if kind == "gpt":
        dims = {"B": 4, "T": 256, "V": 512, "D": 256, "N": 8, "L": layers}
        model: Any = gradc.load(MODELS / "gpt.grad", dims=dims)
    else:
        model = gradc.loads(MLP if kind == "mlp" else CHAIN, dims={"L": layers})
    if kind == "step":
        program = model.train_step("adamw(lr=1e-3)").program()
        options = pipeline_options(program.derive, compile_options(), gradient=program.gradient)
        return program.source, options
    function: Function = model.lower().function
    return function, pipeline_options(model.gradient_of("params"), compile_options())


def layers_for(kind: str, size: int) -> int:
    """How many layers have about ``size`` ops."""
    one, two = (len(subject(kind, n)[0].block.body) for n in (1, 2))
    return max(1, round((size - one) / (two - one)) + 1)


def timed(run: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds of the processor, and the outcome."""
    gc.collect()
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def peak_within(function: Function, options: Options, budget: int) -> int:
    """The peak under a budget, or the smallest one found where it is refused."""
    try:
        return run_within(function, options, budget).plan.peak_bytes
    except BudgetError as refusal:
        return refusal.smallest


def measure(kind: str, size: int, budgeted: int = BUDGETED) -> dict[str, Any]:
    """One row: seconds of every way to plan a program of about ``size`` ops; budgets are kept up to
    ``budgeted`` of them.
    """
    function, options = subject(kind, layers_for(kind, size))
    seconds, run = timed(lambda: run_pipeline(function, options))
    row: dict[str, Any] = {"kind": kind, "ops": len(function.block.body), "plan": seconds}
    planned = run.after("dce")
    assert isinstance(planned, Function)
    row["planned"] = len(planned.block.body)
    row["steps"] = {record.step: record.seconds for record in run.records}
    if row["ops"] <= 1.2 * budgeted:
        plain = run.plan.peak_bytes
        row["refused"], least = timed(lambda: peak_within(function, options, 1))
        for name, share in (("kept", 0.75), ("tight", 0.25)):
            budget = round(least + share * (plain - least))
            row[name], _ = timed(partial(peak_within, function, options, budget))
    return row


def slope(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    """The exponent of the growth of ``column`` from the smallest to the largest row that has it."""
    points = [(math.log(r["ops"]), math.log(r[column])) for r in rows if column in r]
    if len(points) < 2:
        return None
    x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    rise: float = sum((a - x) * (b - y) for a, b in points)
    run: float = sum((a - x) ** 2 for a, _ in points)
    return rise / run


COLUMNS = ("plan", "kept", "tight", "refused")


def _print(kind: str, rows: Sequence[dict[str, Any]], with_steps: bool) -> None:
    print(f"{kind:<10} {'planned':>8}" + "".join(f" {name:>9}" for name in COLUMNS))
    for row in rows:
        cells = [f"{row[c]:9.3f}" if c in row else f"{'':9}" for c in COLUMNS]
        print(f"{row['ops']:>10} {row['planned']:>8} " + " ".join(cells))
        if with_steps:
            parts = (f"{step.name} {1e3 * row['steps'][step.name]:.0f}" for step in STEPS)
            print("    ms: " + ", ".join(parts))
    slopes = [slope(rows, name) for name in COLUMNS]
    cells = [f"{'':9}" if s is None else f"{s:9.2f}" for s in slopes]
    print(f"{'slope':>10} {'':>8} " + " ".join(cells))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument(
        "--steps", action="store_true", help="milliseconds per step of the pipeline"
    )
    parser.add_argument(
        "--budgeted", type=int, default=BUDGETED, help="the largest programs to keep budgets for"
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in options.kinds.split(","):
        # What is loaded, and remembered, once is not what is measured.
        measure(kind, 30, options.budgeted)
        sizes = map(int, options.sizes.split(","))
        found[kind] = [measure(kind, size, options.budgeted) for size in sizes]
        _print(kind, found[kind], options.steps)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
