"""Specialisations are kept by use, up to a stated number; what comes back later is made again, with
the same bits.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.native import recent
from gradc.runtime.native.recent import Recent


def test_the_entry_not_used_for_longest_goes_first() -> None:
    kept: Recent[int, str] = Recent(3)
    for n in range(3):
        kept.put(n, str(n))
    assert kept.get(0) == "0"
    kept.put(3, "3")
    assert [kept.get(n) for n in range(4)] == ["0", None, "2", "3"]
    assert list(kept) == [0, 2, 3]
    kept.put(2, "two")
    assert len(kept) == 3 and kept.get(2) == "two"


def test_threads_may_share_it() -> None:
    kept: Recent[int, int] = Recent(8)

    def work(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, 40, 3000).tolist():
            found = kept.get(n)
            assert found is None or found == 2 * n
            kept.put(n, 2 * n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 8


MODEL = """
model m(x: float[B, 3]) -> float {
    use f = dense(3, 2)
    return mean(f(x)^2)
}
"""


@pytest.mark.parametrize("kind", ["gradient", "step"])
def test_ever_new_batch_sizes_keep_a_bounded_number_of_programs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine code of sizes that did not come for long is given back; when one comes again it
    computes the same.
    """
    monkeypatch.setattr(recent.Recent.__init__, "__defaults__", (4,))
    net = gradc.loads(MODEL, precision="f64")
    params = net.init(0)
    x = np.random.default_rng(1).normal(size=(12, 3))
    compiled: Any = net.value_and_grad() if kind == "gradient" else net.train_step("sgd(lr=0.1)")

    def call(size: int) -> float:
        if kind == "gradient":
            return float(compiled(params, x=x[:size])[0])
        return float(compiled(compiled.init(params), x=x[:size])[0])

    first = [call(size) for size in range(1, 10)]
    entry = weakref.ref(compiled.entry({"x": x[:9]}).native)
    assert entry() is not None
    assert [call(size) for size in range(1, 9)] == first[:8]
    gc.collect()
    assert entry() is None
    assert len(compiled._entries) == 4 and len(net._lowered) <= 4
