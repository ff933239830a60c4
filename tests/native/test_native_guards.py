"""Rows that a condition leaves out are not looked for outside of their array: a masked load that
reads nothing is slow where there is no memory (putting eight arrays together took ten to forty
times as long as copying them).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm.driver import generate
from gradc.codegen.llvm.isa import host
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.api import loads
from gradc.runtime.native.compile import Options, pipeline_options

# More parts than a loop is cut into, and fewer rows than a piece has, so that rows ask.
PARTS, ROWS, WIDTH = 9, 7, 40
NAMES = [f"a{n}" for n in range(PARTS)]
GIVEN = ", ".join(f"{name}: float[2, {ROWS}, {WIDTH}]" for name in NAMES)
PROGRAMS = {
    "together": f"concat([{', '.join(NAMES)}], axis = 1) * 2",
    "apart": " + ".join(
        f"pad({name}, [[0, 0], [{n}, {PARTS - n}], [0, 0]])" for n, name in enumerate(NAMES)
    ),
}


def text(name: str) -> str:
    rows = ROWS * PARTS if name == "together" else ROWS + PARTS
    return f"model m({GIVEN}) -> float[2, {rows}, {WIDTH}] {{ return {PROGRAMS[name]} }}"


def expected(name: str, arrays: dict[str, Any]) -> Any:
    if name == "together":
        return np.concatenate(list(arrays.values()), axis=1) * 2
    moved = [np.pad(a, ((0, 0), (n, PARTS - n), (0, 0))) for n, a in enumerate(arrays.values())]
    return np.sum(moved, axis=0)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_rows_leave_out_is_not_looked_for_outside(name: str, precision: str) -> None:
    net = loads(text(name), precision=precision)
    rng = np.random.default_rng(5)
    # Small whole numbers: sums of them are exact in 16 bits too.
    arrays = {a: rng.integers(-9, 9, (2, ROWS, WIDTH)).astype(np.float32) for a in NAMES}
    (found,) = net.forward(threads=1)({}, **arrays).values()
    np.testing.assert_array_equal(found, expected(name, arrays))
    asked = pipeline_options(None, Options(threads=1), verify=0)
    plan = run_pipeline(net.lower().function, asked).plan
    code = generate(plan, host()).text
    places = re.findall(r"call .*@llvm\.masked\.load.*\(ptr (%\S+), i32 \d+, <\d+ x i1> %", code)
    assert places
    assert all(f"{place} = select i1" in code for place in places)
