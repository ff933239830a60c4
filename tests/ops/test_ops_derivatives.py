"""Derivative rules of all ops, generated from the registry: four independent opinions on every
sample.

The JVP rule against central differences and against dual numbers (a table of slopes of their own);
the VJP rule against the JVP rule by random inner products; second derivatives by differentiating
the derivative programs again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.pointwise import elementwise_vjp
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import hvp, value_and_grad
from tests.support.op_cases import ARRAYS, SMOOTH, Array, Case, close

STEP = 1e-6


def jvp_function(case: Case) -> tuple[Function, bool]:
    """Parameters, then tangents of the active ones, to the tangent; whether that is identically
    zero.
    """
    b = Builder()
    op = case.emit(b)
    tangents = [
        b.parameter(x.type) if active else None
        for x, active in zip(op.operands, case.active, strict=True)
    ]
    (found,) = case.definition.jvp(b, op, tangents)
    if found is None:
        return close(b, []), True
    assert found.type == op.result.type
    return close(b, [found]), False


def vjp_function(case: Case) -> tuple[Function, list[bool]]:
    """Parameters and a cotangent to the cotangents of operands; which operands have one."""
    b = Builder()
    op = case.emit(b)
    ct = b.parameter(op.result.type)
    found = case.definition.vjp(b, op, [ct], case.active)
    assert len(found) == len(op.operands)
    for operand, value in zip(op.operands, found, strict=True):
        assert value is None or value.type == operand.type
    return close(b, [v for v in found if v is not None]), [v is not None for v in found]


def tangents_for(case: Case, operands: list[Array], seed: int) -> list[Array]:
    rng = np.random.default_rng([seed, 7])
    rows = zip(operands, case.active, strict=True)
    return [rng.standard_normal(x.shape) for x, active in rows if active]


def moved(case: Case, operands: list[Array], tangents: list[Array], step: float) -> list[Array]:
    rest = iter(tangents)
    rows = zip(operands, case.active, strict=True)
    return [x + step * next(rest) if active else x for x, active in rows]


def apply_jvp(case: Case, operands: list[Array], tangents: list[Array]) -> Array:
    function, is_zero = jvp_function(case)
    if is_zero:
        return np.zeros(case.function().block.outputs[0].type.static_shape)
    return np.asarray(run(ARRAYS, function, [*operands, *tangents])[0])


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_jvp_against_central_differences(case: Case) -> None:
    if case.definition.name == "stop_gradient":
        return  # its derivative is a declaration, checked below
    operands = case.operands(1)
    tangents = tangents_for(case, operands, 1)
    function = case.function()
    (up,) = run(ARRAYS, function, moved(case, operands, tangents, STEP))
    (down,) = run(ARRAYS, function, moved(case, operands, tangents, -STEP))
    found = apply_jvp(case, operands, tangents)
    np.testing.assert_allclose(found, (up - down) / (2 * STEP), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_jvp_against_dual_numbers(case: Case) -> None:
    operands = case.operands(2)
    tangents = tangents_for(case, operands, 2)
    rest = iter(tangents)
    rows = zip(operands, case.active, strict=True)
    duals = [Dual(x, next(rest)) if active else Dual(x) for x, active in rows]
    (dual,) = run(DualArrays(ARRAYS), case.function(), duals)
    expected = np.zeros(dual.shape) if dual.tangent is None else dual.tangent
    found = apply_jvp(case, operands, tangents)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_vjp_is_the_transpose_of_jvp(case: Case) -> None:
    """<ct, J v> = <J^T ct, v> for random ct and v."""
    operands = case.operands(3)
    tangents = tangents_for(case, operands, 3)
    forward = apply_jvp(case, operands, tangents)
    ct = np.random.default_rng(4).standard_normal(forward.shape)
    function, present = vjp_function(case)
    pulled = iter(run(ARRAYS, function, [*operands, ct]))
    directions = iter(tangents)
    total = 0.0
    for active, has_ct in zip(case.active, present, strict=True):
        direction = next(directions) if active else None
        if has_ct:
            assert direction is not None, "an operand without derivative got a cotangent"
            total += float(np.sum(next(pulled) * direction))
    assert total == pytest.approx(float(np.sum(ct * forward)), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_only_needed_cotangents_are_computed(case: Case) -> None:
    b = Builder()
    op = case.emit(b)
    before = len(b.ops)
    found = case.definition.vjp(b, op, [b.parameter(op.result.type)], [False] * len(op.operands))
    assert all(value is None for value in found)
    assert all(value is None for value in case.definition.vjp(b, op, [None], case.active))
    assert len(b.ops) == before, "ops were emitted for nothing"


def loss_of(case: Case) -> tuple[Function, list[str]]:
    """sum(weights * op(x)**2 + weights * op(x)): a scalar whose gradient depends on x even for
    linear ops.
    """
    b = Builder()
    op = case.emit(b)
    y = op.result
    angle = b.one("add", y, b.constant(0.3, y.type.dtype, y.type.shape))
    weights = np.random.default_rng(5).uniform(0.5, 1.5)
    scaled = b.one("mul", angle, b.constant(float(weights), y.type.dtype, y.type.shape))
    squared = b.one("mul", scaled, angle)
    loss = b.one("sum", squared, axes=tuple(range(y.type.rank)))
    slots = [Slot(f"p{n}", Role.INPUT) for n in range(len(b.parameters))]
    wrt = [f"p{n}" for n, active in enumerate(case.active) if active]
    return b.function("loss", [loss], slots, [Slot("loss", Role.LOSS)]), wrt


@pytest.mark.parametrize("case", [c for c in SMOOTH if any(c.active)], ids=str)
def test_second_order(case: Case) -> None:
    """The Hessian-vector product against central differences of the gradient."""
    function, wrt = loss_of(case)
    operands = case.operands(6)
    tangents = tangents_for(case, operands, 6)
    if case.definition.name == "stop_gradient":
        return
    gradient, product = value_and_grad(function, wrt), hvp(function, wrt)
    second = [slot.role is Role.TANGENT for slot in product.results]
    assert sum(second) == len(wrt)
    values = run(ARRAYS, product, [*operands, *tangents])
    found = [np.asarray(v) for v, is_second in zip(values, second, strict=True) if is_second]
    ups, downs = (
        run(ARRAYS, gradient, moved(case, operands, tangents, step))[1:] for step in (STEP, -STEP)
    )
    for ours, up, down in zip(found, ups, downs, strict=True):
        np.testing.assert_allclose(ours, (up - down) / (2 * STEP), rtol=2e-6, atol=2e-6)


# --- kinks, zeros and other places where rules go wrong -------------------------------------------


def pulled_back(
    name: str, operands: list[Any], ct: Any, masked: bool = False, **attributes: Any
) -> Any:
    """The cotangents of one op at given operands."""
    b = Builder()
    arrays = [np.asarray(x) for x in operands]
    kinds = {"f": DType.F64, "b": DType.BOOL, "i": DType.I64}
    values = [b.parameter(TensorType(x.shape, kinds[x.dtype.kind])) for x in arrays]
    b.apply(name, values, attributes)
    op = b.ops[-1]
    seed = b.parameter(op.result.type)
    needed = [v.type.dtype.is_float for v in values]
    definition = lookup(name)
    if masked:
        found = elementwise_vjp(b, op, [seed], needed, masked=True)
    else:
        found = definition.vjp(b, op, [seed], needed)
    function = close(b, [v for v in found if v is not None])
    return [x.tolist() for x in run(ARRAYS, function, [*arrays, np.asarray(ct, float)])]


def test_ties_share_with_total_weight_one() -> None:
    assert pulled_back("max", [[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], [6.0, 6.0, 6.0]) == [
        [3.0, 0.0, 6.0],
        [3.0, 6.0, 0.0],
    ]
    assert pulled_back("min", [[1.0, 2.0], [1.0, 3.0]], [4.0, 4.0]) == [[2.0, 4.0], [2.0, 0.0]]
    assert pulled_back("reduce_max", [[[5.0, 1.0, 5.0, 5.0]]], [6.0], axes=(1,)) == [
        [[2.0, 0.0, 2.0, 2.0]]
    ]
    pool: dict[str, Any] = {"size": (2, 2), "stride": (1, 1), "padding": ((0, 0), (0, 0))}
    image = [[[[7.0, 7.0, 0.0], [7.0, 7.0, 0.0]]]]
    assert pulled_back("max_pool", [image], [[[[4.0, 2.0]]]], **pool) == [
        [[[[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]]]
    ]


def test_kinks() -> None:
    assert pulled_back("relu", [[-1.0, 0.0, 2.0]], [5.0, 5.0, 5.0]) == [[0.0, 0.0, 5.0]]
    assert pulled_back("abs", [[-1.0, 0.0, 2.0]], [5.0, 5.0, 5.0]) == [[-5.0, 0.0, 5.0]]
    assert pulled_back("leaky_relu", [[-1.0, 0.0, 2.0]], [5.0, 5.0, 5.0], slope=0.1) == [
        [0.5, 0.5, 5.0]
    ]


def test_prod_with_zeros() -> None:
    """No zero, one zero, two zeros: never a division, never NaN."""
    x = [[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 3.0, 0.0]]
    assert pulled_back("prod", [x], [1.0, 10.0, 1.0], axes=(1,)) == [
        [[12.0, 8.0, 6.0], [0.0, 80.0, 0.0], [0.0, 0.0, 0.0]]
    ]


def test_pow_at_its_edges() -> None:
    """0**0 and a negative base with an integer exponent have finite derivatives in the base."""
    base, exponent = [0.0, -2.0, -2.0, 0.0, 0.0], [0.0, 3.0, 2.0, 1.0, 2.0]
    in_base, in_exponent = pulled_back("pow", [base, exponent], [1.0] * 5)
    assert in_base == [0.0, 12.0, -4.0, 1.0, 0.0]
    assert in_exponent[0] == 0.0 and in_exponent[3:] == [0.0, 0.0]
    assert np.isnan(in_exponent[1:3]).all(), "the base is negative: no real derivative"


def test_masked_cotangents_stay_silent() -> None:
    """A marked cotangent that is exactly 0 times an infinite or NaN derivative is exactly 0."""
    x, ct = [0.0, 4.0, -1.0], [0.0, 3.0, 0.0]
    assert pulled_back("sqrt", [x], ct, masked=True) == [[0.0, 0.75, 0.0]]
    assert pulled_back("log", [x], ct, masked=True) == [[0.0, 0.75, 0.0]]
    (plain,) = pulled_back("sqrt", [x], ct)
    assert np.isnan(plain[0]), "unmasked, 0 times infinity is NaN as in IEEE"
    # gate itself stays silent in both of its operands
    infinite = [np.inf, 2.0]
    assert pulled_back("gate", [[0.0, 3.0], infinite], [0.0, 1.0]) == [[0.0, 2.0], [0.0, 3.0]]


def test_out_of_range_ids_get_and_give_nothing() -> None:
    table, ids = [1.0, 2.0, 3.0], np.asarray([2, -1, 3, 2])
    (found,) = pulled_back("take", [table, ids], [1.0, 10.0, 100.0, 1000.0], axis=0)
    assert found == [0.0, 0.0, 1001.0]
    (found,) = pulled_back("scatter_add", [ids, [1.0] * 4], [5.0, 6.0, 7.0], axis=0, size=3)
    assert found == [7.0, 0.0, 0.0, 7.0]


def test_broadcast_over_nothing_is_summed() -> None:
    """A size of 1 stretched to 0 gets the empty sum."""
    (found,) = pulled_back("broadcast", [[3.0]], np.zeros((2, 0)), shape=(2, 0), dims=(1,))
    assert found == [0.0]
