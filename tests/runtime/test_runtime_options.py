"""What a call of the Python interface is asked with, and does not have: answered in the caller's
own terms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from tests.support.api_models import MLP, batch


@pytest.fixture(scope="module")
def net() -> gradc.Model:
    return gradc.loads(MLP, precision="f64")


# Type checkers refuse these as well (`tests/runtime/test_typed_options.py`), so they are hidden
# from them here.
UNKNOWN: dict[str, Callable[[Any], object]] = {
    "`value_and_grad` has no option `budgett`; did you mean `budget`?": lambda n: n.value_and_grad(
        budgett=3
    ),
    "`forward` has no option `treads`; did you mean `threads`?": lambda n: n.forward(treads=3),
    "`vjp` has no option `treads`; did you mean `threads`?": lambda n: n.vjp(treads=3),
    "`jvp` has no option `treads`; did you mean `threads`?": lambda n: n.jvp(treads=3),
    "`hvp` has no option `xyz`; its options are wrt, training": lambda n: n.hvp(xyz=3),
    "`jacobian` has no option `off`; did you mean `of`?": lambda n: n.jacobian(off=3),
    "`verify` has no option `pionts`; did you mean `points`?": lambda n: n.verify(pionts=3),
    "`train_step` has no option `clipnorm`; did you mean `clip_norm`?": lambda n: n.train_step(
        "sgd(lr=0.1)", clipnorm=3
    ),
    "`grad` has no option `argnum`; did you mean `argnums`?": lambda n: gradc.grad(  # type: ignore[call-arg]
        np.sum, argnum=3
    ),
    "`hessian` has no option `bugdet`; did you mean `budget`?": lambda n: gradc.hessian(  # type: ignore[call-arg]
        np.sum, bugdet=3
    ),
    "`argnums` must be a whole number": lambda n: gradc.grad(np.sum, argnums=_anything("a")),
    "`schedule` must be a call in text": lambda n: n.train_step(
        "sgd(lr=0.1)", schedule=_anything(3)
    ),
    "`seed` must be a whole number, not 'a'": lambda n: n.init(_anything("a")),
    "`seed` must be a whole number, not 1.5": lambda n: n.init(_anything(1.5)),
    "`seed` must be a whole number, not True": lambda n: n.init(True),
    "`use_cache` must be True or False": lambda n: n.forward(use_cache="no"),
}


def _anything(value: object) -> Any:
    return value


@pytest.mark.parametrize("said", UNKNOWN)
def test_options_that_a_call_does_not_have_are_answered_in_its_terms(
    net: gradc.Model, said: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        UNKNOWN[said](net)


def test_parameters_called_by_numbers(net: gradc.Model) -> None:
    params: dict[Any, Any] = net.init(3)
    data: Any = batch(0, 8)
    numbered: dict[Any, Any] = dict(enumerate(params.values()))
    step = net.train_step("sgd(lr=0.1)")
    for call in (
        lambda given: net.value_and_grad()(given, **data),
        lambda given: step.init(given),
        lambda given: net.diagnose(given, **data),
        lambda given: net.explain(given, **data),
    ):
        for given in (numbered, {**params, **numbered}):
            with pytest.raises(gradc.DiagnosticError, match="there is no parameter `3`"):
                call(given)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_call_in_text_that_is_empty_is_said_to_be(text: str) -> None:
    net = gradc.loads("model f(x: float[2], w: float[2]) -> float { return sum(x * w) }")
    with pytest.raises(gradc.DiagnosticError, match=r"GC0101.*`optimizer` is empty"):
        net.train_step(text)
