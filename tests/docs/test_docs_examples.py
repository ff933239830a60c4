"""The examples in the docstrings of the public names: every function has one, and it is so."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest

import gradc

ROOT = Path(__file__).resolve().parent.parent.parent
FUNCTIONS = [name for name in gradc.__all__ if inspect.isfunction(getattr(gradc, name))]


def test_the_list_has_the_functions() -> None:
    assert {"grad", "load", "scan", "register_tree"} <= set(FUNCTIONS)
    assert len(FUNCTIONS) >= 20


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_is_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    function = getattr(gradc, name)
    names = {"__name__": "example", "gradc": gradc, "np": np, name: function}
    test = doctest.DocTestParser().get_doctest(function.__doc__, names, name, name, 0)
    assert test.examples, f"gradc.{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
