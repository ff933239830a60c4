"""Parts dealt to ranks: the gradient of the whole batch, with the bits of one rank."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import DType, Function, TensorType
from gradc.passes.training.accumulate import accumulate
from gradc.passes.training.accumulate_batch import batch_axes
from gradc.passes.training.ranks import Deal
from gradc.passes.training.together import exchanges, together
from gradc.runtime.api import loads
from tests.passes.test_accumulate import CLASSIFIER, NOT_LINEAR, RECURRENT, TOKENS

Inputs = dict[str, Any]
DROPS = """
dim B, D = 5
model m(x: float[B, D]) -> float {
    use f = dense(D, 2000)
    return mean(dropout(f(x), 0.5)^2) + 0.1 * sum(f.w^2)
}
"""


def dealt(array: Any, axis: int, deal: Deal, rank: int) -> Any:
    """The rows of ``rank``: its parts in order, the first part again where it has one less."""
    parts = np.split(array, deal.count, axis)
    own = parts[rank :: deal.ranks]
    return np.concatenate([*own, *parts[: deal.turns - len(own)]], axis)


def compared(text: str, inputs: Inputs, parts: int, ranks: int, axis: int = 0) -> Function:
    """Checks every result of ``ranks`` ranks against one rank with as many parts, bit by bit."""
    net = loads(text, precision="f32")
    whole = net.lower(net.bind({k: v.shape for k, v in inputs.items()}), training=True)
    smaller = {k: v.take(range(v.shape[axis] // parts), axis) for k, v in inputs.items()}
    whole_types, part_types = (
        {k: TensorType(v.shape, DType.F64) for k, v in arrays.items()}
        for arrays in (inputs, smaller)
    )
    axes, names = batch_axes(whole_types, part_types, parts), net.select("params")
    given = {**net.init(3, whole.dims), **inputs}
    one = accumulate(whole.function, axes, names, parts)
    cut = accumulate(whole.function, axes, names, parts, ranks=ranks)
    verify_function(cut)
    same = [slot.name for slot in cut.parameters if slot.name not in axes]
    all_ = together(cut, ranks, same)
    verify_function(all_)
    assert not exchanges(all_.block)
    expected = run(NumpyArrays(), one, [given[slot.name] for slot in one.parameters])
    deal = Deal(parts, ranks)
    operands = []
    for slot in all_.parameters:
        name, _, rank = slot.name.partition("@")
        array = given[name]
        operands.append(dealt(array, axes[name], deal, int(rank)) if rank else array)
    found = run(NumpyArrays(), all_, operands)
    by_name = {slot.name: v for slot, v in zip(one.results, expected, strict=True)}
    for slot, value in zip(all_.results, found, strict=True):
        name, _, rank = slot.name.partition("@")
        wanted = by_name[name]
        if rank and wanted.shape != value.shape:
            wanted = dealt(wanted, axis, deal, int(rank))
            last = int(rank) >= deal.late > 0
            if last:  # what comes after its own parts has no meaning
                rows = deal.full * (inputs["x"].shape[axis] // parts)
                wanted, value = wanted[:rows], value[:rows]
        np.testing.assert_array_equal(wanted, value, err_msg=slot.name)
    return cut


def inputs_of(kind: str, samples: int) -> Inputs:
    rng = np.random.default_rng(7)
    if kind == "tokens":
        shape = (samples, 3)
        return {
            "x": rng.standard_normal((*shape, 5)).astype(np.float32),
            "y": rng.integers(0, 7, shape),
            "w": rng.random(shape).astype(np.float32).round(),
        }
    if kind == "recurrent":
        return {"x": rng.standard_normal((6, samples, 5)).astype(np.float32)}
    x = rng.standard_normal((samples, 5)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 4, samples)} if kind == "classifier" else {"x": x}


PROGRAMS = {
    "classifier": (CLASSIFIER, 0),
    "tokens": (TOKENS, 0),
    "not linear": (NOT_LINEAR, 0),
    "recurrent": (RECURRENT, 1),
    "drops": (DROPS, 0),
}


@pytest.mark.parametrize(
    "parts, ranks", [(2, 2), (3, 3), (4, 2), (4, 3), (5, 2), (7, 3), (6, 6), (2, 4)]
)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_any_number_of_ranks_gives_the_bits_of_one(kind: str, parts: int, ranks: int) -> None:
    text, axis = PROGRAMS[kind]
    compared(text, inputs_of(kind, 2 * parts), parts, ranks, axis)


def test_large_gradients_are_summed_in_slices() -> None:
    cut = compared(DROPS, inputs_of("drops", 8), 4, 2)
    kinds = [op.name for op in exchanges(cut.block)]
    assert "all_to_all" in kinds and "all_gather" in kinds
