"""A finished gradient among ranks that hold parts of parameters: all ranks together give that of
one."""

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.axes import Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import value_and_grad, vjp
from gradc.passes.prove.report import key
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.pieces import joined, numbered
from gradc.passes.training.ranks import Deal, folded, scattered
from gradc.passes.training.together import as_rank, exchanges, together
from gradc.runtime.api import loads
from gradc.runtime.model.shard import Shard
from tests.support.op_cases import close
from tests.support.shard_programs import (
    FUSED,
    GATES,
    GROUPS,
    HEADS,
    LIBRARY_HEADS,
    NORMALISED,
    PRODUCTS,
    RECURRENT,
    TWICE,
    VOCABULARY,
)


def shared(text: str, along: str, ids: int = 4) -> Function:
    """Checks every result of every rank against the whole gradient; gives what a rank runs."""
    net = loads(text, precision="f64")
    shard = Shard.parsed(net, along)
    cut = shard.at({})
    whole = value_and_grad(cut.whole.function, list(net.select("params")))
    one = cut.share(whole)
    verify_function(one)
    rng = np.random.default_rng(2)
    given = net.init(0, cut.whole.dims)
    values = []
    for slot, value in zip(whole.parameters, whole.block.parameters, strict=True):
        shape, is_float = value.type.static_shape, value.type.dtype.is_float
        drawn = (
            rng.standard_normal(shape)
            if is_float
            else rng.integers(-1 if ids > 4 else 0, ids, shape)
        )
        values.append(given[slot.name] if slot.name in given and not is_float else drawn)
    arrays = NumpyArrays()
    known = {key(s): x for s, x in zip(whole.results, run(arrays, whole, values), strict=True)}
    for rank in range(shard.ranks):
        joined = as_rank(whole, one, shard.deal, cut.places, rank)
        names = [key(slot) for slot in joined.results]
        assert {key(s) for s in whole.results if s.name in given or s.name == "loss"} <= set(names)
        for name, found in zip(names, run(arrays, joined, values), strict=True):
            np.testing.assert_allclose(found, known[name], rtol=1e-11, atol=1e-12, err_msg=name)
    return one


@pytest.mark.parametrize(
    "text, along, messages",
    [
        (PRODUCTS, "H=2", 3),  # a rank's number, to draw with, the product, and the penalty
        (PRODUCTS, "H=3", 3),
        (HEADS, "N=2", 2),  # forward and back
        (RECURRENT, "E=3", 2),  # a rank's number, and the product, in every trip
        (NORMALISED, "D=2", None),
        (TWICE, "H=2", None),
        (GATES, "H=2", None),
        (GATES, "H=3", None),
        (FUSED, "H=2", None),
        (LIBRARY_HEADS, "N=2", 1),  # forward; nothing goes back to x
        (GROUPS, "C=2", 2),
        (VOCABULARY, "V=3", 7),  # a number; rows, greatest, sum, target's logit and weight; back
    ],
)
def test_all_ranks_together_give_the_gradient_of_one(
    text: str, along: str, messages: int | None
) -> None:
    one = shared(text, along)
    assert messages in (None, len(exchanges(flatten(one).block)))


def test_ids_that_no_rank_has_are_those_that_one_rank_lacks() -> None:
    """What is looked up is NaN, what is put there is lost."""
    text = "return sum(e[tokens] * e[targets])"
    head = VOCABULARY[: VOCABULARY.index("    use ln")]
    shared(f"{head}    {text} + sum(weight[tokens])\n}}\n", "V=3", ids=9)


def test_a_sum_of_sums_is_exchanged_once() -> None:
    """Three cotangents of one input go back as one."""
    one = shared(HEADS, "N=2")
    sizes = [op.operands[0].type.static_shape for op in exchanges(flatten(one).block)]
    assert sizes == [(2, 3, 4), (2, 3, 4)]


def added_up(ranks: int, type_: TensorType, place: Place, is_apart: bool) -> Function:
    """What a rank has at ``place`` of the sum of what all have, put together before or not."""
    b, deal = Builder(), Deal(ranks, ranks)
    own = b.parameter(type_)
    if is_apart:
        found = scattered(b, own, deal, place)
    else:
        found = numbered(b, folded(b, own, deal, "add"), place, ranks, deal.rank(b))
    return b.function("f", [found], [Slot("x", Role.PARAM)], [Slot("y", Role.OUTPUT)])


def sent(one: Function) -> int:
    """Bytes that a rank sends of floats, by what exchanges are handed."""
    return sum(
        (op.result.type.static_shape[0] - 1)
        * op.operands[0].type.nbytes
        // (op.operands[0].type.static_shape[0] if op.name == "all_to_all" else 1)
        for op in exchanges(one.block)
        if op.operands[0].type.dtype.is_float
    )


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
@pytest.mark.parametrize(
    "ranks, shape, place",
    [(3, (24, 60), Place(1, 2)), (2, (24, 60), Place(0)), (4, (8,), Place(0))],
)
def test_a_sum_that_is_needed_in_parts_has_the_bits_of_the_whole(
    ranks: int, shape: tuple[int, ...], place: Place, dtype: DType
) -> None:
    """And each rank sends half of what the whole takes; a small one takes no more."""
    apart, whole = (
        added_up(ranks, TensorType(shape, dtype), place, is_apart) for is_apart in (True, False)
    )
    rng = np.random.default_rng(3)
    given = [NumpyArrays().cast(rng.standard_normal(shape) * 9, dtype) for _ in range(ranks)]
    found, known = (run(NumpyArrays(), together(f, ranks, ()), given) for f in (apart, whole))
    for x, y in zip(found, known, strict=True):
        np.testing.assert_array_equal(x, y)
    if len(shape) > 1 and dtype is DType.F32:
        assert 2 * sent(apart) == sent(whole)
    else:
        assert sent(apart) <= sent(whole)


def test_the_cotangent_of_a_sum_in_parts_is_put_together() -> None:
    """Of all ranks' cotangents, each of its part: the derivative of one is the other."""
    place = Place(1, 2)
    one = vjp(added_up(3, TensorType((2, 12), DType.F64), place, True), ["x"], of=["y"])
    cts = list(np.random.default_rng(4).standard_normal((3, 2, 4)))
    all_ = together(one, 3, ())
    zeros = [np.zeros((2, 12))] * 3
    values = run(NumpyArrays(), all_, [*zeros, *cts])
    b = Builder()
    rows = [b.parameter(TensorType((2, 4), DType.F64)) for _ in cts]
    (whole,) = run(NumpyArrays(), close(b, [joined(b, rows, place)]), cts)
    found = [x for slot, x in zip(all_.results, values, strict=True) if slot.role is Role.COTANGENT]
    assert found and all(np.array_equal(x, whole) for x in found)


def test_places_of_parameters_are_those_of_their_uses() -> None:
    """Gates lie beside each other; of a fused matrix only the program says how heads lie in it."""
    found = Shard.parsed(loads(GATES), "H=2").places()
    assert found["rnn.wx"] == found["rnn.wh"] == Place(1, 4)
    assert found["after.bx"] == Place(0, 3) and found["after.wx"] == found["after.wh"] == Place(
        1, 3
    )
    assert found["head.w"] == Place(0)
    fused = Shard.parsed(loads(FUSED), "H=2").places()
    assert fused["qkv"] == Place(1, 3) and fused["b"] == Place(0, 3) and fused["o"] == Place(0)
    heads = Shard.parsed(loads(LIBRARY_HEADS), "N=2").places()
    assert heads == {
        "attend.qkv.w": Place(1, 3),
        "attend.qkv.b": Place(0, 3),
        "attend.proj.w": Place(0),
    }
    assert fused["up"] == Place(1, 4) and fused["last"] == Place(0)


@pytest.mark.parametrize(
    "line",
    ["sum(cumsum(w, axis = 0) * w)", "sum(sort(w))", "sum(concat([w, w], axis = 0)[1:7])"],
)
def test_what_compares_parts_is_refused_with_its_line(line: str) -> None:
    head = "dim D = 6\nmodel m(x: float[D]) -> float {\n param w: float[D] ~ ones\n return "
    text = f"{head}{line}\n}}"
    net = loads(text)
    cut = Shard.parsed(net, "D=2").at({})
    with pytest.raises(DiagnosticError) as caught:
        cut.share(value_and_grad(cut.whole.function, ["w"]))
    (found,) = caught.value.diagnostics
    assert found.code == "GC0824" and found.span is not None and found.span.line == 4
