"""Every public name of NumPy and SciPy has a state, the page shows it, and refusals say what it
says.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradc
from gradc.runtime.tracing.states import PAGE, all_states, render

pytest.importorskip("scipy")


def test_no_public_name_is_missing() -> None:
    states = all_states()
    assert {s.name for s in states["numpy"]} == set(np.__all__)
    assert {s.name for s in states["numpy.linalg"]} == set(np.linalg.__all__)
    assert {s.name for s in states["numpy.fft"]} == set(np.fft.__all__)
    methods = {n for n in dir(np.ndarray) if not n.startswith("_")}
    assert {s.name for s in states["numpy.ndarray"]} == methods
    for name in ("scipy.special", "scipy.linalg"):
        module = pytest.importorskip(name)
        assert {s.name for s in states[module.__name__]} == set(module.__all__)


def test_what_is_refused_says_what_to_write() -> None:
    for module, states in all_states().items():
        for s in states:
            assert s.state in ("traced", "flat", "plain", "refused")
            assert bool(s.note) == (s.state == "refused"), (module, s.name)


def test_the_page_is_made_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: np.unique(x), r"numpy\.unique cannot be traced.*plain arrays"),
        (lambda x: np.linalg.eigvals(x), r"numpy\.linalg\.eigvals cannot.*eigh"),
        (lambda x: np.nonzero(x), r"numpy\.nonzero cannot be traced.*numpy\.where"),
    ],
)
def test_a_refusal_says_what_the_table_says(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        gradc.grad(lambda x: call(x))(np.eye(3))


def test_a_function_of_scipy_is_named_as_it_was_called() -> None:
    special = pytest.importorskip("scipy.special")
    with pytest.raises(gradc.DiagnosticError, match=r"(?s)scipy\.special\.jv cannot be traced"):
        gradc.grad(lambda x: special.jv(2.5, x))(1.0)
