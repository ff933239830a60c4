"""Parts dealt to ranks: the gradient of the whole batch, with the bits of one rank."""

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import Function
from gradc.passes.training.accumulate import accumulate
from gradc.passes.training.ranks import Deal
from gradc.passes.training.together import exchanges, together
from gradc.runtime.api import loads
from tests.support.cut_programs import DROPS, PROGRAMS, Inputs, inputs_of, whole_batch


def dealt(array: Any, axis: int, deal: Deal, rank: int) -> Any:
    """The rows of ``rank``: its parts in order, the first part again where it has one less."""
    parts = np.split(array, deal.count, axis)
    own = parts[rank :: deal.ranks]
    return np.concatenate([*own, *parts[: deal.turns - len(own)]], axis)


def compared(text: str, inputs: Inputs, parts: int, ranks: int, axis: int = 0) -> Function:
    """Checks every result of ``ranks`` ranks against one rank with as many parts, bit by bit."""
    net = loads(text, precision="f32")
    whole, axes = whole_batch(net, inputs, parts, axis)
    names = net.select("params")
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


@pytest.mark.parametrize(
    "parts, ranks", [(2, 2), (3, 3), (4, 2), (4, 3), (5, 2), (7, 3), (6, 6), (2, 4)]
)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_any_number_of_ranks_gives_the_bits_of_one(kind: str, parts: int, ranks: int) -> None:
    text, axis = PROGRAMS[kind]
    compared(text, inputs_of(kind, 2 * parts), parts, ranks, axis)


def test_small_gradients_go_together() -> None:
    """The loss and twelve of 804 bytes in three messages; large ones by themselves."""
    layers = "\n".join(
        f"    use l{n} = dense(201, 201)\n    h = h + tanh(l{n}(h))" for n in range(12)
    )
    head = "dim B\nmodel m(x: float[B, 201]) -> float {\n    h = x\n"
    net = loads(f"{head}{layers}\n    return mean(h^2)\n}}", precision="f32")
    inputs = {"x": np.ones((4, 201), np.float32)}
    whole, axes = whole_batch(net, inputs, 2, 0)
    cut = accumulate(whole.function, axes, net.select("params"), 2, ranks=2)
    sent = [op.operands[0].type.nbytes for op in exchanges(cut.block) if op.name == "all_gather"]
    assert sorted(n for n in sent if n <= 4096) == [1608, 4020, 4024]
    dealt = [op for op in exchanges(cut.block) if op.name == "all_to_all"]
    assert sum(op.result.type.dtype.is_float for op in dealt) == 12


def test_large_gradients_are_summed_in_slices() -> None:
    cut = compared(DROPS, inputs_of("drops", 8), 4, 2)
    kinds = [op.name for op in exchanges(cut.block)]
    assert "all_to_all" in kinds and "all_gather" in kinds
