"""The systems that are compared, each as two closures: one training step's loss and gradients,
timed, and the same as NumPy arrays under gradc's names, for the check that all compute the same
thing.

A peer that is not installed raises ImportError when it is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gradc
from benchmarks.cases import Arrays, Case

Result = tuple[float, dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Contender:
    """`step` runs forward and backward once and returns when both are done; `least` says how many
    seconds the machine needs for it, where that is known.
    """

    name: str
    step: Callable[[], object]
    result: Callable[[], Result]
    least: Callable[[], float] | None = None


def as_result(loss: object, gradients: dict[str, object]) -> Result:
    return (
        float(np.asarray(loss)),
        {name: np.asarray(value, dtype=np.float64) for name, value in gradients.items()},
    )


def make_gradc(case: Case, threads: int, *, exact: bool = False) -> Contender:
    """gradc's compiled value and gradients of all parameters; in float64 if ``exact``."""
    net = gradc.load(case.file, dims=case.dims, precision="f64" if exact else "f32")
    compiled = net.value_and_grad(wrt="params", threads=threads)

    def given(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        wide = {n for n, a in arrays.items() if exact and a.dtype.kind == "f"}
        return {n: a.astype(np.float64) if n in wide else a for n, a in arrays.items()}

    params, inputs = given(case.params() | case.kept()), given(case.inputs())

    def step() -> object:
        return compiled(params, **inputs)

    def result() -> Result:
        loss, gradients = compiled(params, **inputs)
        return as_result(loss, gradients)

    return Contender("gradc", step, result, lambda: compiled.least_seconds(**inputs))


def make_torch(
    case: Case, threads: int, *, compiled: bool = False, exact: bool = False
) -> Contender:
    """PyTorch: eager, compiled by torch.compile, or eager in float64 (`exact`) as the reference."""
    import torch

    from benchmarks.twins_torch import TWINS, is_transposed

    torch.set_num_threads(threads)
    twin = torch.compile(TWINS[case.name]) if compiled else TWINS[case.name]

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        made = torch.from_numpy(np.ascontiguousarray(array))
        if made.is_floating_point():
            return made.double() if exact else made
        return made.long()

    params = {
        name: tensor(array.T if is_transposed(name, array.ndim) else array).requires_grad_()
        for name, array in case.params().items()
    }
    inputs = {name: tensor(array) for name, array in case.inputs().items()}

    def step() -> torch.Tensor:
        for value in params.values():
            value.grad = None
        loss = twin(params, inputs)
        loss.backward()
        return loss

    def result() -> Result:
        loss = step().detach()
        found = {name: value.grad for name, value in params.items()}
        turned = {
            n: g.T if g is not None and is_transposed(n, g.ndim) else g for n, g in found.items()
        }
        return as_result(loss, dict(turned))

    name = "torch f64" if exact else "torch.compile" if compiled else "torch"
    return Contender(name, step, result)


def make_jax(case: Case, threads: int) -> Contender:
    """JAX: one jit of value_and_grad. XLA takes its threads from the cores that the process may
    use.
    """
    import jax

    from benchmarks.twins_jax import TWINS

    function = jax.jit(jax.value_and_grad(TWINS[case.name]))

    def placed(arrays: Arrays) -> dict[str, jax.Array]:
        return {name: jax.device_put(array) for name, array in arrays.items()}

    params, inputs = placed(case.params()), placed(case.inputs())

    def step() -> object:
        return jax.block_until_ready(function(params, inputs))

    def result() -> Result:
        loss, gradients = function(params, inputs)
        return as_result(loss, gradients)

    return Contender("jax", step, result)


MAKERS: dict[str, Callable[[Case, int], Contender]] = {
    "gradc": make_gradc,
    "torch": make_torch,
    "torch.compile": lambda case, threads: make_torch(case, threads, compiled=True),
    "jax": make_jax,
}


def disagreement(found: Result, expected: Result) -> float:
    """The largest error of loss and gradients, each relative to the largest entry expected.

    Raises ValueError if the names or shapes differ.
    """
    loss, gradients = found
    if gradients.keys() != expected[1].keys():
        odd = sorted(gradients.keys() ^ expected[1].keys())
        raise ValueError(f"parameters that only one side has: {', '.join(odd)}")
    worst = abs(loss - expected[0]) / abs(expected[0])
    for name, wanted in expected[1].items():
        if gradients[name].shape != wanted.shape:
            raise ValueError(f"{name}: shape {gradients[name].shape} and {wanted.shape}")
        worst = max(worst, float(np.abs(gradients[name] - wanted).max() / np.abs(wanted).max()))
    return worst
