"""A call allocates nothing, whatever is computed again: examples, traced functions and training
steps, counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.allocations import build, watched
from tests.support.memory_subjects import names

WATCHED = """
import ctypes, gc, json, sys
import numpy as np
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import subject

count = ctypes.CDLL(None).seen_calls
before = count()
probe = bytearray(1 << 20)
found = {"probe": count() - before}
for name in sys.argv[1:]:
    one = subject(name)
    for policy in one.policies(2):
        plan = one.plan(policy)
        native = compile_plan(plan, threads=2)
        # A tuple: from a list the interpreter would make one in each call.
        arrays = tuple([
            np.empty(p.shape, NUMPY_DTYPE[p.dtype]) if p.direction == "out"
            else np.array(one.arrays[p.name], NUMPY_DTYPE[p.dtype], order="C")
            for p in native.signature.ports
        ])
        assert native.fast(*arrays) is None
        gc.disable()
        start = count()
        for _ in range(20):
            native.fast(*arrays)
        found[f"{name}, {policy}"] = count() - start
        gc.enable()
print(json.dumps(found))
"""


def chosen() -> list[str]:
    """What has much to recompute, or loops, states and images; every fifth of the others. Steps
    have their gradients in them.
    """
    special = ("text/", "cnn", "noisy", ".py", "rows_gru", "squashed")
    steps = {name.replace(" step", " gradient") for name in names() if name.endswith(" step")}
    found = [name for name in names() if name not in steps]
    first = [name for name in found if any(part in name for part in special)]
    return first + [name for name in found if name not in first][::5]


@pytest.mark.parametrize("half", [0, 1])
def test_no_call_allocates(half: int, tmp_path: Path) -> None:
    library = build(tmp_path)
    done = watched(library, [sys.executable, "-c", WATCHED, *chosen()[half::2]])
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.pop("probe") > 0, "the counter must see allocations"
    assert len(found) > 8
    assert {name: calls for name, calls in found.items() if calls} == {}
