"""examples/functions: every code ends in its own assertion, and its gradient is autograd's and JAX's in f64."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gradc

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "functions"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py"))

pytest.importorskip("scipy")


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"functions_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_twenty() -> None:
    assert len(NAMES) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_code_reaches_its_end(name: str) -> None:
    loaded(name).main()


def leaves(tree: Any) -> list[Any]:
    return [tree[k] for k in sorted(tree)] if isinstance(tree, dict) else [tree]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_others(name: str) -> None:
    """Compared with autograd everywhere, with JAX where the code is small enough to compile quickly."""
    autograd = pytest.importorskip("autograd")
    others = pytest.importorskip("autograd.numpy"), pytest.importorskip("autograd.scipy.special")
    module: Any = loaded(name)
    arguments = module.start()
    value, found = gradc.value_and_grad(module.objective)(*arguments)
    module.np = others[0]
    if hasattr(module, "gammaln"):
        module.gammaln = others[1].gammaln
    expected_value, expected = autograd.value_and_grad(module.objective)(*arguments)
    assert value == pytest.approx(expected_value, rel=1e-12)
    for mine, theirs in zip(leaves(found), leaves(expected), strict=True):
        size = float(np.max(np.abs(theirs)))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * max(size, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_jaxs(name: str) -> None:
    jax = pytest.importorskip("jax")
    module: Any = loaded(name)
    arguments = module.start()
    value, found = gradc.value_and_grad(module.objective)(*arguments)
    module.np = jax.numpy
    if hasattr(module, "gammaln"):
        module.gammaln = jax.scipy.special.gammaln
    with jax.enable_x64(True):
        expected_value, expected = jax.value_and_grad(module.objective)(*arguments)
        assert float(value) == pytest.approx(float(expected_value), rel=1e-12)
        for mine, theirs in zip(leaves(found), leaves(expected), strict=True):
            size = float(np.max(np.abs(np.asarray(theirs))))
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * max(size, 1.0))
