"""``gradc bench``: a model's step timed, side by side with PyTorch and JAX running the same
operations.

The peers get the program's tensor IR, operation by operation, before anything of gradc touches it,
and differentiate it themselves. Nothing is timed before losses and gradients agree. Hand-written
twins of chosen networks, which show the peers at their best, are in ``benchmarks/``.

Non-goals: more than one machine; accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.tensor.core import DType, Function, Role
from gradc.runtime.bench.timing import ratio, take_turns
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import NUMPY_DTYPE, Array

TOLERANCE = 1e-3  # of the largest entry: a wrong gradient, not a differently rounded one
Result = tuple[float, dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One step, timed; and its result as NumPy arrays, for the comparison."""

    name: str
    step: Callable[[], object]
    result: Callable[[], Result]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per step (median, fastest and slowest round), and how many times gradc's."""

    contender: str
    milliseconds: float
    best: float
    worst: float
    times_gradc: float
    error: float


def random_inputs(model: Model, dims: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Arrays for a call: normal numbers, and integers 0 or 1, which every class and vocabulary
    has.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for spec in model.lower(dims).inputs:
        shape, dtype = spec.type.static_shape, NUMPY_DTYPE[spec.type.dtype]
        if spec.type.dtype.is_float:
            # bf16, which NumPy lacks, comes as float32.
            kind = np.dtype(np.float32) if spec.type.dtype is DType.BF16 else dtype
            found[spec.name] = rng.normal(size=shape).astype(kind)
        else:
            found[spec.name] = rng.integers(0, 2, shape).astype(dtype)
    return found


def compare(
    model: Model,
    params: Mapping[str, Array],
    inputs: Mapping[str, Array],
    peers: tuple[str, ...],
    seconds: float,
    **options: Any,
) -> list[Timing]:
    """gradc first, then each peer.

    Raises:
        DiagnosticError: GC0568 for a peer that is unknown, not installed or cannot run the model;
            GC0569 where results disagree.
    """
    contenders = [_gradc(model, params, inputs, options)]
    shapes = {name: array.shape for name, array in inputs.items()}
    function = model.lower(model.bind(shapes)).function
    contenders += [_peer(name, function, {**params, **inputs}, options) for name in peers]
    expected = contenders[0].result()
    errors = [0.0, *(_disagreement(c.result(), expected) for c in contenders[1:])]
    for contender, worst in zip(contenders, errors, strict=True):
        if not worst <= TOLERANCE:
            message = f"{contender.name} and gradc disagree by {worst:.1e} of the largest entry"
            raise DiagnosticError([error("GC0569", message, None)])
    timings = take_turns([c.step for c in contenders], seconds)
    return [
        Timing(c.name, 1e3 * t.median, 1e3 * t.best, 1e3 * t.worst, ratio(t, timings[0]), e)
        for c, t, e in zip(contenders, timings, errors, strict=True)
    ]


def _gradc(
    model: Model, params: Mapping[str, Array], inputs: Mapping[str, Array], options: dict[str, Any]
) -> Contender:
    compiled = model.value_and_grad("params", **options)

    def result() -> Result:
        loss, gradients = compiled(params, **inputs)
        return float(loss), gradients

    return Contender("gradc", lambda: compiled(params, **inputs), result)


def _peer(
    name: str, function: Function, arrays: Mapping[str, Array], options: dict[str, Any]
) -> Contender:
    makers = {"torch": _torch, "jax": _jax}
    if name not in makers:
        raise _refused(name, f"there is no peer `{name}`; there are torch and jax")
    operations = {op.name for op in function.block.body}
    if "random_bits" in operations:
        raise _refused(name, "the model draws random numbers, which peers draw differently")
    try:
        return makers[name](function, arrays, options.get("threads"))
    except ImportError as missing:
        raise _refused(name, f"{name} is not installed ({missing})") from None


def _refused(name: str, message: str) -> DiagnosticError:
    return DiagnosticError([error("GC0568", message, None, help=f"leave out --against {name}")])


def _disagreement(found: Result, expected: Result) -> float:
    """The largest error of loss and gradients, each relative to the largest entry expected."""
    worst = abs(found[0] - expected[0]) / max(abs(expected[0]), 1e-30)
    for name, wanted in expected[1].items():
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-30)
        off = np.abs(np.asarray(found[1][name], np.float64) - wanted)
        worst = max(worst, float(off.max(initial=0)) / scale)
    return worst


def _split(function: Function) -> tuple[list[str], list[str]]:
    """Names of all parameters of the function in order, and of those to differentiate by."""
    names = [slot.name for slot in function.parameters]
    return names, [slot.name for slot in function.parameters if slot.role is Role.PARAM]


def _torch(function: Function, arrays: Mapping[str, Array], threads: int | None) -> Contender:
    import torch

    from gradc.runtime.bench.with_torch import TorchArrays

    if threads is not None:
        torch.set_num_threads(threads)
    names, wrt = _split(function)
    values = {name: torch.tensor(array) for name, array in arrays.items() if name in names}
    for name in wrt:
        values[name].requires_grad_()
    domain = TorchArrays()

    def step() -> Any:
        for name in wrt:
            values[name].grad = None
        loss = domain.run(function.block, [values[name] for name in names])[0]
        loss.backward()
        return loss

    def result() -> Result:
        loss = float(step().detach())
        found = {name: values[name].grad for name in wrt}
        return loss, {
            n: np.zeros(arrays[n].shape) if g is None else g.numpy() for n, g in found.items()
        }

    return Contender("torch", step, result)


def _jax(function: Function, arrays: Mapping[str, Array], threads: int | None) -> Contender:
    import jax

    from gradc.runtime.bench.with_jax import JaxArrays

    if any(t.type.dtype in (DType.F64, DType.I64) for t in function.block.parameters):
        jax.config.update("jax_enable_x64", True)
    names, wrt = _split(function)
    domain = JaxArrays()

    def loss_of(chosen: dict[str, Any], rest: dict[str, Any]) -> Any:
        values = {**chosen, **rest}
        return domain.run(function.block, [values[name] for name in names])[0]

    compiled = jax.jit(jax.value_and_grad(loss_of))
    chosen = {name: jax.device_put(arrays[name]) for name in wrt}
    rest = {name: jax.device_put(arrays[name]) for name in names if name not in wrt}

    def result() -> Result:
        loss, gradients = compiled(chosen, rest)
        return float(loss), {name: np.asarray(g) for name, g in gradients.items()}

    return Contender("jax", lambda: jax.block_until_ready(compiled(chosen, rest)), result)
