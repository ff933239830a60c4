"""examples/functions: codes end in assertions of their own, and their gradients are autograd's and
JAX's in f64.

The quick ones are run here; ``python -m benchmarks.functions`` compares and times all of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import gradc
from benchmarks.functions import FOLDER, PEERS, leaves, loaded

NAMES = sorted(p.stem for p in FOLDER.glob("*.py"))
QUICK = (
    *("gaussian_process", "lennard_jones", "mixture_model", "multidimensional_scaling"),
    *("student_regression", "lbfgs", "beam", "phase_retrieval"),
)

pytest.importorskip("scipy")


def test_there_are_twenty_one_and_each_says_what_it_shows() -> None:
    assert len(NAMES) == 21
    for name in NAMES:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert text.startswith('"""') and "def main()" in text and "assert" in text, name


@pytest.mark.parametrize("name", QUICK)
def test_the_code_reaches_its_end(name: str) -> None:
    loaded(name).main()


# JAX compiles for seconds: the script compares the rest.
PAIRS = [*(("autograd", name) for name in QUICK), ("jax", "student_regression")]


@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_the_gradient_is_that_of_others(peer: str, name: str) -> None:
    other: Any = pytest.importorskip(peer)
    module: Any = loaded(name)
    arguments = module.start()
    value, found = gradc.value_and_grad(module.objective)(*arguments)
    with other.enable_x64(True) if peer == "jax" else nullcontext():
        expected_value, expected = PEERS[peer](loaded(name))(*arguments)
    assert value == pytest.approx(float(expected_value), rel=1e-10)
    for mine, theirs in zip(leaves(found), leaves(expected), strict=True):
        size = max(float(np.max(np.abs(np.asarray(theirs)))), 1.0)
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * size)
