"""Arrays that a recorded function reads: the same numbers are one operand of the program."""

from __future__ import annotations

import contextvars
import functools
import os
import sys
import types
from argparse import Namespace
from array import array
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.tracing.captures import Captures
from gradc.runtime.tracing.record import record_arrays
from tests.support.interpreted import evaluated

M = np.arange(6.0).reshape(2, 3)
TWIN = M.copy()


def captured(function: Any) -> list[Any]:
    return list(record_arrays(function, {"x": np.ones(3)}, is_loss=True).captured.values())


def test_a_part_taken_again_is_the_same() -> None:
    def loss(x: Any) -> Any:
        for _ in range(5):
            x = M.T @ (M @ x) + M[0] * M[1]
        return np.sum(x)

    assert len(captured(loss)) == 3  # M, M.T, and the product
    value = evaluated(loss, [np.ones(3)], is_loss=True)[0]
    assert value == loss(np.ones(3))


def test_arrays_of_the_functions_own_that_are_equal_are_one() -> None:
    def loss(x: Any) -> Any:
        for n in range(4):
            x = np.eye(3) @ x + np.arange(3) * x + np.eye(3, k=n % 2) @ x
        return np.sum(x)

    assert len(captured(loss)) == 3
    assert evaluated(loss, [np.ones(3)], is_loss=True)[0] == loss(np.ones(3))


def test_arrays_that_somebody_has_stay_apart() -> None:
    kept: list[Any] = []

    def loss(x: Any) -> Any:
        kept.append(np.ones(3))
        kept.append(np.ones(3))
        return np.sum(M * x + TWIN * x) + np.sum(kept[-1] * kept[-2] * x)

    found = captured(loss)
    assert any(item is M for item in found)
    assert any(item is TWIN for item in found)


class Slotted:
    __slots__ = ("k",)
    k: float


class Counted(list[float]):
    k = 1.0


class Indexed:
    def __init__(self) -> None:
        self.held = [2.0]

    def __getitem__(self, n: int) -> float:
        return self.held[n]

    def __len__(self) -> int:
        return int(self.held[0])

    def __mul__(self, other: Any) -> Any:
        return self.held[0] * other


def slotted() -> Slotted:
    made = Slotted()
    made.k = 2.0
    return made


RATE = 2.0

# What holds a number, how a function reads it, and how somebody changes it.
RATE_NOW = contextvars.ContextVar("rate", default=2.0)
KEPT = [2.0]
MODULE: Any = types.ModuleType("a_module_of_rates")
MODULE.rate = 2.0


@functools.cache
def cached() -> float:
    return KEPT[-1]


def imported(_holder: Any) -> float:
    import a_module_of_rates  # type: ignore[import-not-found]

    return float(a_module_of_rates.rate)


HOLDERS: dict[str, tuple[Any, Any, Any]] = {
    "a deque": (deque([2.0]), lambda h: h[0], lambda h: h.append(3.0)),
    "a counter": (Counter(a=2), lambda h: h["a"], lambda h: h.update(a=1)),
    "a defaultdict": (defaultdict(float, a=2.0), lambda h: h["a"], lambda h: h.update(a=3.0)),
    "an ordered dict": (OrderedDict(a=2.0), lambda h: h["a"], lambda h: h.update(a=3.0)),
    "a chain of dicts": (ChainMap({"a": 2.0}), lambda h: h["a"], lambda h: h.update(a=3.0)),
    "a user dict": (UserDict(a=2.0), lambda h: h["a"], lambda h: h.update(a=3.0)),
    "a list of a class": (Counted([2.0]), lambda h: h[0], lambda h: h.append(3.0)),
    "its attribute": (Counted([2.0]), lambda h: h.k, lambda h: setattr(h, "k", 3.0)),
    "an array of numbers": (array("d", [2.0]), lambda h: h[0], lambda h: h.append(3.0)),
    "a namespace": (SimpleNamespace(k=2.0), lambda h: h.k, lambda h: setattr(h, "k", 3.0)),
    "parsed arguments": (Namespace(k=2.0), lambda h: h.k, lambda h: setattr(h, "k", 3.0)),
    "slots": (slotted(), lambda h: h.k, lambda h: setattr(h, "k", 3.0)),
    "an index of one's own": (Indexed(), lambda h: h[0], lambda h: h.held.append(3.0)),
    "a length of one's own": (Indexed(), lambda h: len(h), lambda h: h.held.append(3.0)),
    "an operator of one's own": (Indexed(), lambda h: h * 2, lambda h: h.held.append(3.0)),
    "bytes that change": (bytearray(b"a"), lambda h: h[0], lambda h: h.append(1)),
    "a variable of the context": (RATE_NOW, lambda h: h.get(), lambda h: h.set(3.0)),
    "a function that is cached": (cached, lambda h: h(), lambda h: KEPT.append(3.0)),
    "a module imported inside": (MODULE, imported, lambda h: setattr(h, "rate", 3.0)),
    "the environment": (
        os.environ,
        lambda h: float(os.environ.get("GRADC_A_RATE", "2")),
        lambda h: h.update(GRADC_A_RATE="3"),
    ),
    "a name in a text": (
        SimpleNamespace(k=2.0),
        lambda h: getattr(h, "k"),  # noqa: B009
        lambda h: setattr(h, "k", 3.0),
    ),
    "globals": (
        None,
        lambda h: globals()["RATE"],
        lambda h: globals().update(RATE=globals()["RATE"] + 1),
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_is_read_is_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a_module_of_rates", MODULE)
    monkeypatch.delenv("GRADC_A_RATE", raising=False)
    holder, read, change = HOLDERS[name]

    def loss(x: Any) -> Any:
        return read(holder) * np.sum(x)

    captures = Captures(loss)
    assert captures.changed() is None
    change(holder)
    assert not captures.are_current()
    assert captures.changed() is not None


def test_iterators_are_warned_about() -> None:
    rates = iter([2.0, 3.0])
    with pytest.warns(gradc.TraceWarning, match="`rates`.*is an iterator"):
        assert gradc.grad(lambda x: next(rates) * x)(1.0) == 2.0


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [np.matrix, np.ma.masked_array])
def test_arrays_with_arithmetic_of_their_own_are_refused(kind: Any) -> None:
    own = kind(np.eye(2))
    with pytest.raises(gradc.DiagnosticError, match=r"GC0551(.|\n)*numpy\.asarray"):
        gradc.grad(lambda x: np.sum(x * x))(own)
    with pytest.raises(gradc.DiagnosticError, match=r"GC0551(.|\n)*numpy\.asarray"):
        gradc.grad(lambda x: np.sum(x * own))(np.eye(2))


class Model:
    def __init__(self, k: float) -> None:
        self.k = k

    @gradc.grad
    def slope(self, x: Any) -> Any:
        return self.k * np.sum(x * x)


def test_a_method_keeps_its_object() -> None:
    x = np.array([1.0, 2.0])
    assert Model(3.0).slope(x).tolist() == [6.0, 12.0]
    bound = Model(5.0).slope
    assert bound(x).tolist() == [10.0, 20.0]
    model = Model(2.0)
    assert model.slope is model.slope


def test_a_truth_has_no_derivative() -> None:
    with pytest.raises(gradc.DiagnosticError, match="a truth has no derivative"):
        gradc.grad(lambda on: 1.0 * on)(True)
