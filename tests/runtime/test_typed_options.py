"""Options are typed: what is written here is checked by mypy, whose run fails for an ignore that it
does not need.
"""

from __future__ import annotations

from typing import assert_type

import pytest

import gradc
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.model.forward import Forward
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import CompileKeywords
from gradc.runtime.tracing.transforms import TransformKeywords

TEXT = "model net(x: float[3]) -> float { return sum(x^2) }"


def test_type_checkers_see_what_is_made() -> None:
    net = gradc.loads(TEXT)
    assert_type(net, gradc.Model)
    assert_type(net.forward("loss", threads=1), Forward)
    assert_type(net.value_and_grad("inputs", budget="1MiB", fast_math=False), Compiled)
    assert_type(net.jvp("inputs", use_cache=False), Compiled)
    trained = gradc.loads("model net() -> float { param w: float[2] ~ ones\n return sum(w^2) }")
    assert_type(trained.train_step("sgd(lr=0.1)", budget=4096, clip_norm=1.0), TrainStep)
    chosen: CompileKeywords = {"threads": 1, "check_inputs": False}
    assert net.hvp("inputs", **chosen).options.threads == 1


def test_unknown_options_are_named_in_the_callers_terms() -> None:
    net = gradc.loads(TEXT)
    with pytest.raises(TypeError, match=r"`forward` has no option `output`; did you mean"):
        net.forward(output=["loss"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"`value_and_grad` has no option `thread`"):
        net.value_and_grad(thread=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"`jacobian` has no option `outputs`"):
        net.jacobian(outputs="loss")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"`train_step` has no option `scheduler`"):
        net.train_step("sgd(lr=0.1)", scheduler="constant(0.1)")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"`verify` has no option `point`"):
        net.verify(point=3)  # type: ignore[call-arg]


def test_options_of_transforms_are_typed() -> None:
    chosen: TransformKeywords = {"threads": 1, "static_argnames": "k"}
    slope = gradc.grad(lambda x, k: k * x, 0, **chosen)
    assert float(slope(1.0, k=3)) == 3.0
    with pytest.raises(TypeError, match="`grad` has no option `argnum`"):
        gradc.grad(abs, argnum=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="`jvp` has no option `has_auxs`"):
        gradc.jvp(abs, has_auxs=True)  # type: ignore[call-arg]
