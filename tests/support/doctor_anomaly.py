"""PyTorch's anomaly mode on the trainings of ``tests/doctor``: does it raise where one stops being
finite, and at which of our ops?

The program runs op by op on torch tensors (``ad_torch``), so that autograd sees every op; each runs
from a file name of its own, which anomaly mode quotes as the place of the forward call. A training
is ours up to the step that stops; then up to ``AFTER`` steps more without a guard, since anomaly
mode raises at NaN, not at infinity.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Op
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.files.batches import permutation, samples_of
from gradc.runtime.files.ids import check_inputs
from gradc.runtime.model.model import Model
from gradc.runtime.model.state import StoppedStep
from gradc.runtime.native.arrays import finite_or_fail
from tests.support.ad_torch import TorchArrays, to_torch
from tests.support.doctor_cases import Case

AFTER = 5
Row = dict[str, Any]


def _call(work: Callable[[], Any]) -> Any:
    return work()


class Named(TorchArrays):
    """Every op of a program, run from a file that is named after it."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[Callable[[], Any]], Any]] = {}

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        known = dict(zip(block.parameters, operands, strict=True))
        for op in block.body:
            given = [known[v] for v in op.operands]
            found = self._call(op.name)(partial(self._of, op, given))
            known.update(zip(op.results, found, strict=True))
        return tuple(known[v] for v in block.outputs)

    def _of(self, op: Op, given: list[Any]) -> Any:
        return lookup(op.name).evaluate(self, op, given)

    def _call(self, name: str) -> Callable[[Callable[[], Any]], Any]:
        if name not in self.calls:
            code = _call.__code__.replace(co_filename=f"<op {name}>")
            self.calls[name] = FunctionType(code, {})
        return self.calls[name]


def anomaly(case: Case) -> Row:
    """Whether our training stops, and what anomaly mode says there: nothing, or the op it names."""
    found: Row = {"stops": False, "raises": False, "names": ""}
    train, _ = case.arrays(0)
    net = case.model()
    try:
        finite_or_fail(train)
        check_inputs(net, train)
    except DiagnosticError:
        return found  # both refuse such data
    guarded = net.train_step(case.optimizer, **case.recipe)
    bare = net.train_step(case.optimizer, **case.recipe, guard=False)
    samples = samples_of(net.signature, train, "the data")
    state, step, left = guarded.init(net.init(0)), guarded, AFTER
    for epoch in range(case.epochs):
        order = permutation(0, epoch, samples.count)
        for at in range(0, samples.count - case.batch + 1, case.batch):
            inputs = samples.take(order[at : at + case.batch])
            before = {n: np.array(state.arrays[n]) for n in net.param_types()}
            try:
                step(state, **inputs)
                is_stopped = False
            except StoppedStep:
                step, is_stopped = bare, True
            if is_stopped or step is bare:
                found["stops"] = True
                named = said(net, before, inputs)
                if named is not None:
                    return {**found, "raises": True, "names": named}
                left -= 1
                step(state, **inputs)
            if left == 0:
                return found
    return found


def said(net: Model, params: dict[str, Any], inputs: dict[str, Any]) -> str | None:
    """The op whose derivative anomaly mode raises at; None where it does not raise."""
    dims = net.bind({n: a.shape for n, a in inputs.items()})
    function = flatten(net.lower(dims).function)
    narrow = net.init(0)
    given = []
    for slot in function.parameters:
        is_param = slot.name in params
        array = params[slot.name] if is_param else inputs[slot.name]
        if is_param:
            array = np.asarray(array).astype(np.asarray(narrow[slot.name]).dtype)
        given.append(to_torch(np.array(array), needs_grad=is_param))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly():
            loss = Named().run(function.block, given)[0]
            try:
                loss.backward()
                return None
            except RuntimeError as raised:
                if "returned nan" not in str(raised):
                    raise
    places = [re.findall(r"<op (\w+)>", str(w.message)) for w in told]
    return next((p[-1] for p in places if p), "")
