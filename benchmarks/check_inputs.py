"""What `check_inputs=True` costs: the same call with and without it, and the check alone.

python -m benchmarks.check_inputs
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import gradc
from gradc.runtime.files.ids import check_inputs

MODEL = """
dim B, T = 64, V = 1000, D = 32

model language(tokens: int[B, T]) -> float {
    use table = embedding(V, D)
    use out = dense(D, V)
    return mean(cross_entropy(out(table(tokens[:, 0:T - 1])), tokens[:, 1:T]))
}
"""


def microseconds(call: Callable[[], object], count: int) -> float:
    """The median of ``count`` calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    """Prints one line."""
    net = gradc.loads(MODEL)
    params = net.init(0)
    tokens = np.random.default_rng(0).integers(0, 1000, (16, 64)).astype(np.int32)
    plain, checked = net.value_and_grad(), net.value_and_grad(check_inputs=True)
    calls: tuple[Callable[[], object], ...] = (
        lambda: plain(params, tokens=tokens),
        lambda: checked(params, tokens=tokens),
        lambda: check_inputs(net, {"tokens": tokens}),
    )
    for call in calls:
        call()
    without, together, alone = (microseconds(call, 100) for call in calls)
    print(f"call {without:.0f} us, with check_inputs {together:.0f} us; the check {alone:.0f} us")


if __name__ == "__main__":
    main()
