"""The ladder of verdicts for passes: what one field tells apart is tried where more laws hold, and
only then in balls.
"""

from __future__ import annotations

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.prove.programs.laws import agreement_by_law

SHAPE = (2, 4)
NAMES = ("output z",)


def softmax(is_stable: bool, is_rescaled: bool = True) -> Function:
    """exp(x - max) / sum exp(x - max), or without the maximum."""
    b = Builder()
    x = b.parameter(TensorType(SHAPE, DType.F64), "x")

    def fold(name: str, of: Value) -> Value:
        return b.one("broadcast", b.one(name, of, axes=(1,)), shape=SHAPE, dims=(0,))

    shifted = b.one("sub", x, fold("reduce_max", x))
    top = b.one("exp", shifted if is_stable else x)
    below = fold("sum", top if is_rescaled else b.one("exp", x))
    slots = [Slot("x", Role.PARAM)]
    return b.function("f", [b.one("div", top, below)], slots, [Slot("z", Role.OUTPUT)])


def clipped(is_chained: bool, is_wrong: bool = False) -> Function:
    """x > 1 implies x > 0: the second question need not be asked."""
    b = Builder()
    x = b.parameter(TensorType(SHAPE, DType.F64), "x")
    zero, one = (b.constant(n, DType.F64, SHAPE) for n in (0.0, 1.0))
    above = b.one("gt", x, one)
    if is_chained:
        above = b.one("logical_and", above, b.one("gt", x, zero))
    if is_wrong:
        above = b.one("gt", x, zero)
    found = b.one("select", above, b.one("mul", x, x), x)
    return b.function("f", [found], [Slot("x", Role.PARAM)], [Slot("z", Role.OUTPUT)])


def test_laws_of_exp_are_found_in_the_tower() -> None:
    found = agreement_by_law(softmax(True), softmax(False), 7, NAMES)
    assert found is not None and "tower" in found.method


def test_a_missing_rescale_is_left_to_balls() -> None:
    assert agreement_by_law(softmax(True), softmax(True, is_rescaled=False), 7, NAMES) is None


def test_patterns_that_reals_do_not_make_are_left_out() -> None:
    found = agreement_by_law(clipped(False), clipped(True), 7, NAMES)
    assert found is not None and "guards forced" in found.method


def test_a_pattern_that_reals_do_make_counts() -> None:
    assert agreement_by_law(clipped(True), clipped(False, is_wrong=True), 7, NAMES) is None


def test_places_of_maxima_are_compared_in_the_tower() -> None:
    """An argmax beside a softmax whose two forms only the tower knows to be equal."""

    def with_place(is_stable: bool) -> Function:
        made = softmax(is_stable)
        b = Builder()
        x = b.parameter(TensorType(SHAPE, DType.F64), "x")
        (z,) = inline_function(b, made, [x])
        place = b.one("argmax", z, axis=1)
        slots = [Slot("z", Role.OUTPUT), Slot("place", Role.OUTPUT)]
        return b.function("f", [z, place], [Slot("x", Role.PARAM)], slots)

    names = ("output z", "output place")
    found = agreement_by_law(with_place(True), with_place(False), 7, names)
    assert found is not None and "tower" in found.method
