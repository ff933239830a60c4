"""What guarding a step costs: CPU time with and without, in turns, many steps per call.

``python -m benchmarks.guard``: a row per model and recipe, the median of the pairs' ratios last.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import gradc
from gradc.ir.tensor.dims import substitute

ROOT = Path(__file__).parent.parent
TINY = """
dim B
model m(x: float[B, 2], y: float[B]) -> float {
    use a = dense(2, 16)
    use b = dense(16, 16)
    use c = dense(16, 1)
    return mean((c(tanh(b(tanh(a(x)))))[:, 0] - y)^2)
}
"""
# Program, batch, optimiser, steps per call.
ROWS = (
    (TINY, 16, "sgd(lr=1e-3)", 4000),
    (TINY, 16, "adamw(lr=1e-3)", 4000),
    ("examples/digits/mlp.grad", 64, "adamw(lr=1e-3)", 300),
    ("examples/digits/cnn.grad", 64, "adamw(lr=1e-3)", 6),
    ("benchmarks/models/mlp_wide.grad", 64, "adamw(lr=1e-3)", 2),
    ("benchmarks/models/gpt.grad", 4, "adamw(lr=1e-3)", 1),
)
PAIRS = 21


def queue(net: gradc.Model, batch: int, count: int) -> dict[str, Any]:
    """``count`` batches of random inputs."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    sizes = {"B": batch, **net.dims}
    for name, type_ in net.inputs.items():
        shape = (
            count,
            *type_.with_shape(tuple(substitute(d, sizes) for d in type_.shape)).static_shape,
        )
        drawn = rng.standard_normal(shape) if type_.dtype.is_float else rng.integers(0, 2, shape)
        found[name] = drawn.astype(np.float32 if type_.dtype.is_float else np.int32)
    return found


def compared(program: str, batch: int, optimizer: str, count: int) -> tuple[float, float, float]:
    """Microseconds of CPU time per step without and with the guard, and the median ratio."""
    net = gradc.loads(program) if "\n" in program else gradc.load(ROOT / program)
    inputs = queue(net, batch, count)
    steps = [net.train_step(optimizer, threads=1, guard=guard) for guard in (False, True)]
    states = [step.init(net.init(0)) for step in steps]
    took: list[list[float]] = [[], []]
    for pair in range(PAIRS + 1):
        for n in (0, 1) if pair % 2 else (1, 0):
            start = time.process_time()
            steps[n].many(count, states[n], **inputs)
            took[n].append((time.process_time() - start) / count * 1e6)
    without, guarded = (np.array(t[1:]) for t in took)
    ratio = float(np.median(guarded / without))
    return float(np.median(without)), float(np.median(guarded)), ratio


def main() -> None:
    print(f"{'program':<36} {'optimizer':<16} {'none, us':>10} {'guard, us':>10} {'ratio':>7}")
    for row in ROWS:
        without, guarded, ratio = compared(*row)
        name = "337 parameters" if "\n" in row[0] else row[0]
        print(f"{name:<36} {row[2]:<16} {without:>10.2f} {guarded:>10.2f} {ratio:>7.3f}")


if __name__ == "__main__":
    main()
