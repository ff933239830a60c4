"""Long-rowed matrices between products lie turned round: other layouts, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Function, walk
from gradc.passes.fuse.turn import turn
from gradc.passes.pipeline import run_pipeline
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import compile_plan

ROWS, COLUMNS = 40, 1027
LONG, TURNED = (ROWS, COLUMNS), (COLUMNS, ROWS)
HEAD = f"dim R = {ROWS}, C = {COLUMNS}, D = 9, E = 5, H = 2\n"
POSITIONS = "iota(R)[:, None] * 26 >= iota(C)[None, :]"
# What is between scores `s` and what is computed of them; `b` is a number a row, `c` a column.
BETWEEN = {
    "a factor": "s * 2",
    "a number a row": "exp(s - b[:, None])",
    "a number a column": "tanh(s) * c[None, :]",
    "positions": f"where({POSITIONS}, exp(s * 0.1 - b[:, None]), 0.0)",
    "a second product": "s * (v @ transpose(u))",
}
PLAIN = "q: float[R, D], k: float[C, D], v: float[R, E], u: float[C, E], b: float[R], c: float[C]"


def program(between: str, result: str = "sum(transpose(p) @ v, axis = 0) + sum(p @ u, axis = 0)",
            parameters: str = PLAIN, shape: str = "E") -> str:  # fmt: skip
    body = f"    s = q @ transpose(k)\n    p = {between}\n    return {result}\n"
    return f"{HEAD}model m({parameters}) -> float[{shape}] {{\n{body}}}\n"


HEADS = program(
    "exp(s - b[:, :, None])",
    'einsum("hrc,hre->hce", p, v)',
    "q: float[H, R, D], k: float[H, C, D], v: float[H, R, E], b: float[H, R]",
    "H, C, E",
).replace("q @ transpose(k)", 'einsum("hrd,hcd->hrc", q, k)')


def lowered(text: str) -> Function:
    return dce(simplify(loads(text).lower().function))


def shapes(function: Function) -> set[tuple[int, ...]]:
    """The last two axes of all values that an op makes of others."""
    return {v.type.static_shape[-2:] for op in walk(function.block) if op.operands
            for v in op.results}  # fmt: skip


def given(function: Function) -> list[Any]:
    rng = np.random.default_rng(3)
    shapes = [p.type.static_shape for p in function.block.parameters]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def results(function: Function, arrays: list[Any], **more: Any) -> list[Any]:
    asked = pipeline_options(None, Options(threads=1), verify=0, **more)
    native = compile_plan(run_pipeline(function, asked).plan, threads=1, cache=False)
    made = [np.empty(v.type.static_shape, np.float32) for v in function.block.outputs]
    native.launch([*arrays, *made])
    return made


@pytest.mark.parametrize("text", [*map(program, BETWEEN.values()), HEADS], ids=[*BETWEEN, "heads"])
def test_everything_between_products_is_turned_and_keeps_its_bits(text: str) -> None:
    plain = lowered(text)
    turned = turn(plain)
    verify_function(turned)
    assert LONG in shapes(plain) and TURNED not in shapes(plain)
    assert TURNED in shapes(turned) and LONG not in shapes(turned)
    arrays = given(plain)
    for one, other in zip(*(results(plain, arrays, skip=x) for x in ((), ("turn",))), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


KEPT = {
    "rows that are folded": program("s - max(s, axis = 1)[:, None]"),
    "a result": program("s * 2", "p + (p @ (transpose(p) @ v)) @ transpose(u)", shape="R, C"),
    "a parameter beside it": program("s * m", parameters=PLAIN + ", m: float[R, C]"),
    "only read along its rows": program("s * 2", "p @ u", shape="R, E"),
    "short rows": program("s * 2").replace(f"C = {COLUMNS}", "C = 512"),
    "few rows": program("s * 2").replace(f"R = {ROWS}", "R = 8"),
}


@pytest.mark.parametrize("text", KEPT.values(), ids=list(KEPT))
def test_what_something_else_reads_stays(text: str) -> None:
    plain = lowered(text)
    assert turn(plain) is plain
