"""AdamW alone, without a network: `python -m benchmarks.adamw [PARAMETERS ...]`, 10^7 by default.

One update of one large parameter, compiled from the standard library's `adamw`, and PyTorch's fused
one, called in turns on one thread. An update reads parameter, gradient and both moments and writes
three of them in their place: 28 bytes a parameter in f32, none of them twice. Prints the smallest
and the median milliseconds of CPU time, and the bytes a second; beside them those of a sum of two
arrays into the first, which computes next to nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

import gradc
from gradc.frontend.model.training import lower_optimizer
from gradc.ir.tensor.core import DType, TensorType
from gradc.runtime.native.compile import compile_function, compile_options

BYTES = 28
ROUNDS = 15
MODEL = "model m(x: float[1]) -> float { return sum(x) }"
Update = Callable[[], object]
Arrays = dict[str, np.ndarray]


def arrays(count: int) -> Arrays:
    """Parameter, gradient and moments of a training that goes on."""
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal(count, np.float32) for name in ("p", "g", "m", "v")}
    made["v"] **= 2
    return made


def of_gradc(given: Arrays) -> Update:
    """The update as the compiler writes it."""
    optimizer = lower_optimizer("adamw(lr=1e-3)", gradc.loads(MODEL).program.names)
    function = optimizer.update(TensorType(given["p"].shape, DType.F32)).function
    native = compile_function(function, None, compile_options(threads=1))
    scalars = {"t": np.array(9, np.float32), "lr": np.array(1e-3, np.float32)}
    ports = [(given | scalars)[port.name] for port in native.signature.ports]
    return lambda: native.call(ports)


def of_torch(given: Arrays) -> Update:
    """PyTorch's, fused, of the same arrays."""
    import torch

    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.from_numpy(given["p"]))
    parameter.grad = torch.from_numpy(given["g"])
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.01, fused=True)
    optimizer.state[parameter] = {
        "step": torch.tensor(8.0),
        "exp_avg": torch.from_numpy(given["m"]),
        "exp_avg_sq": torch.from_numpy(given["v"]),
    }
    step: Update = optimizer.step
    return step


def timed(updates: dict[str, Update]) -> dict[str, list[float]]:
    """Milliseconds of CPU time of every round, the updates in turns."""
    took: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(ROUNDS + 1):
        for name, update in updates.items():
            start = time.process_time()
            update()
            took[name].append((time.process_time() - start) * 1e3)
    return {name: times[1:] for name, times in took.items()}


def main(sizes: list[int]) -> None:
    for count in sizes:
        states = {name: arrays(count) for name in ("gradc", "torch fused")}
        makers = {"gradc": of_gradc, "torch fused": of_torch}
        updates = {name: make(states[name]) for name, make in makers.items()}
        for update in updates.values():
            update()
        one, other = (state["p"] for state in states.values())
        print(f"{count} parameters; largest difference {np.abs(one - other).max():.2g}")
        spare = arrays(count)
        updates["a += b"] = partial(np.add, spare["p"], spare["g"], out=spare["p"])
        for name, times in timed(updates).items():
            rate = (12 if name == "a += b" else BYTES) * count / min(times) / 1e6
            print(
                f"  {name:<12} {min(times):9.2f} ms, median {median(times):9.2f}, {rate:6.2f} GB/s"
            )


if __name__ == "__main__":
    main([int(float(text)) for text in sys.argv[1:]] or [10**7])
