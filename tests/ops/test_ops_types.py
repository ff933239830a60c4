"""Type rules of all ops: what they give on samples, what they refuse and how they say so, symbolic
dimensions.
"""

from __future__ import annotations

from typing import Any

import pytest

from gradc.ir.domains.interpret import run
from gradc.ir.ops.registry import OpDef, TypeRuleError, lookup
from gradc.ir.tensor.core import DType, TensorType
from gradc.ir.tensor.dims import symbol
from tests.support.op_cases import ARRAYS, CASES, PLAIN_OPS, Case

F = DType.F64
B, D = symbol("B"), symbol("D")


def t(*shape: Any, dtype: DType = F) -> TensorType:
    return TensorType(shape, dtype)


I3 = t(3, dtype=DType.I32)
CONV = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
POOL = {"size": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_result_type_is_that_of_the_value(case: Case) -> None:
    """The type rule and the evaluation agree on shape and element type."""
    function = case.function()
    (value,) = run(ARRAYS, function, case.operands(0))
    expected = function.block.outputs[0].type
    assert value.shape == expected.shape
    assert value.dtype == ARRAYS.dtype(expected.dtype)


@pytest.mark.parametrize("definition", PLAIN_OPS, ids=lambda d: d.name)
def test_wrong_number_of_operands_is_refused(definition: OpDef) -> None:
    sample = definition.samples[0]
    if definition.name == "concat":
        with pytest.raises(TypeRuleError, match="concat: takes at least 1"):
            definition.infer([], sample.attributes)
        return
    for operands in ([*sample.operands, t(2)], sample.operands[:-1] if sample.operands else None):
        if operands is not None:
            with pytest.raises(TypeRuleError, match=rf"^{definition.name}: takes "):
                definition.infer(operands, sample.attributes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_attribute_is_required_and_typed(case: Case) -> None:
    """Leaving an attribute out, or giving it a wrong kind of value, is refused by name."""
    for name in case.sample.attributes:
        broken: dict[str, Any] = {**case.sample.attributes, name: "nonsense"}
        with pytest.raises(TypeRuleError, match=name):
            case.definition.infer(case.sample.operands, broken)
        del broken[name]
        if (case.definition.name, name) in {("take", "fill"), ("cumsum", "reverse")}:
            continue  # these two have defaults
        with pytest.raises(TypeRuleError, match=f"`{name}` is missing"):
            case.definition.infer(case.sample.operands, broken)


# name, operand types, attributes, message
REFUSALS: list[tuple[str, list[TensorType], dict[str, Any], str]] = [
    ("add", [t(8, 16), t(12, 4)], {}, "add: operand types differ, f64[8, 16] and f64[12, 4]"),
    ("add", [t(2), t(2, dtype=DType.F32)], {}, "add: operand types differ, f64[2] and f32[2]"),
    ("mul", [t(B), t(D)], {}, "mul: operand types differ, f64[B] and f64[D]"),
    ("exp", [I3], {}, "exp: takes a floating type, not i32[3]"),
    ("add", [t(dtype=DType.BOOL)] * 2, {}, "add: takes numbers, not bool[] and bool[]"),
    ("mod", [t(2), t(2)], {}, "mod: takes integers, not f64[2] and f64[2]"),
    ("logical_not", [t(2)], {}, "logical_not: takes bool, not f64[2]"),
    ("mulhi", [I3, I3], {}, "mulhi: takes u32, not i32[3] and i32[3]"),
    ("select", [t(2), t(2), t(2)], {}, "select: the condition must be bool, not f64[2]"),
    (
        "select",
        [t(2, dtype=DType.BOOL), t(2), t(3)],
        {},
        "select: operand types differ, bool[2], f64[2] and f64[3]",
    ),
    ("contract", [t(8, 16), t(12, 4)], {"batch": (), "contract": ((1, 0),)}, "contract: inner "),
    ("contract", [t(2), I3], {"batch": (), "contract": ()}, "element types do not multiply"),
    ("contract", [t(2), t(2)], {"batch": ((0, 0),), "contract": ((0, 0),)}, "axes (0, 0)"),
    ("reshape", [t(2, 3)], {"shape": (5,)}, "sizes differ, f64[2, 3] has 6 elements and f64[5] 5"),
    ("reshape", [t(B, 3)], {"shape": (B * 2,)}, "f64[B, 3] has 3*B elements and f64[2*B] 2*B"),
    ("broadcast", [t(2)], {"shape": (3,), "dims": (0,)}, "size 2 does not stretch to 3"),
    ("broadcast", [t(B)], {"shape": (D,), "dims": (0,)}, "size B does not stretch to D"),
    ("broadcast", [t(2, 2)], {"shape": (2, 2), "dims": (1, 0)}, "not in order"),
    ("transpose", [t(2, 3)], {"perm": (0, 0)}, "(0, 0) is not a permutation of the axes of f64[2"),
    ("slice", [t(4)], {"start": (2,), "limit": (5,), "stride": (1,)}, "2:5 is outside"),
    ("slice", [t(4)], {"start": (0,), "limit": (4,), "stride": (0,)}, "stride 0 is not positive"),
    ("pad", [t(4)], {"low": (-1,), "high": (0,), "interior": (0,)}, "negative, for f64[4]"),
    ("concat", [t(2, 3), t(3, 3)], {"axis": 1}, "operands differ off axis 1, f64[2, 3] and f64[3"),
    ("sum", [t(2)], {"axes": (1,)}, "sum: axis 1 is out of range for f64[2]"),
    ("sum", [t(2, 2)], {"axes": (1, 1)}, "sum: axes (1, 1) repeat for f64[2, 2]"),
    ("reduce_max", [t(2, dtype=DType.BOOL)], {"axes": (0,)}, "takes numbers, not bool[2]"),
    ("argmax", [t(2, 0)], {"axis": 1}, "argmax: axis 1 of f64[2, 0] is empty"),
    ("take", [t(4), t(2)], {"axis": 0}, "take: ids must be i32 or i64, not f64[2] (with f64[4])"),
    ("take", [t(4), I3], {"axis": 1}, "take: axis 1 is out of range for f64[4], ids i32[3]"),
    ("scatter_add", [I3, t(2, 2)], {"axis": 0, "size": 4}, "do not match, i32[3] and f64[2, 2]"),
    ("constant", [], {"value": 1.5, "dtype": DType.I32, "shape": ()}, "1.5 is not of type i32"),
    ("constant", [], {"value": True, "dtype": F, "shape": ()}, "True is not a number"),
    ("iota", [], {"axis": 0, "dtype": DType.BOOL, "shape": (2,)}, "cannot count in bool[2]"),
    ("conv2d", [t(1, 3, 4, 4), t(2, 2, 3, 3)], CONV, "channels differ, f64[1, 3, 4, 4] and f64[2"),
    ("conv2d", [t(1, 2, 2, 2), t(2, 2, 3, 3)], CONV, "the filter is larger than the padded input"),
    ("max_pool", [t(1, 1, 1, 4)], POOL, "the window (2, 2) is larger than f64[1, 1, 1, 4]"),
    ("random_bits", [t(2)], {"stream": 0, "shape": ()}, "takes a key u32[2] or u32[3], not"),
]


@pytest.mark.parametrize("name, operands, attributes, message", REFUSALS)
def test_refusals_show_the_types(
    name: str, operands: list[TensorType], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeRuleError) as caught:
        lookup(name).infer(operands, attributes)
    assert message in str(caught.value)


# name, operand types, attributes, result
SYMBOLIC: list[tuple[str, list[TensorType], dict[str, Any], TensorType]] = [
    ("add", [t(B, D)] * 2, {}, t(B, D)),
    ("contract", [t(B, D), t(D, 3)], {"batch": (), "contract": ((1, 0),)}, t(B, 3)),
    ("contract", [t(B, 2, D), t(B, D, D)], {"batch": ((0, 0),), "contract": ((2, 1),)}, t(B, 2, D)),
    ("reshape", [t(B, D * 4)], {"shape": (B * 2, D, 2)}, t(B * 2, D, 2)),
    ("sum", [t(B, D)], {"axes": (0,)}, t(D)),
    ("broadcast", [t(D)], {"shape": (B, D), "dims": (1,)}, t(B, D)),
    ("concat", [t(B, D), t(B, 3)], {"axis": 1}, t(B, D + 3)),
    ("slice", [t(B * 4)], {"start": (B,), "limit": (B * 3,), "stride": (1,)}, t(B * 2)),
    ("slice", [t(B * 4)], {"start": (0,), "limit": (B * 4,), "stride": (2,)}, t(B * 2 + 0)),
    ("pad", [t(B)], {"low": (1,), "high": (D,), "interior": (0,)}, t(B + D + 1)),
    ("take", [t(D, 4), t(B, dtype=DType.I32)], {"axis": 0}, t(B, 4)),
    ("scatter_add", [t(B, dtype=DType.I32), t(B, 4)], {"axis": 0, "size": D}, t(D, 4)),
    ("conv2d", [t(B, 3, 8, 8), t(4, 3, 3, 3)], CONV, t(B, 4, 6, 6)),
    ("conv2d", [t(B, 3, D, D), t(4, 3, 3, 3)], CONV, t(B, 4, D - 2, D - 2)),
    ("max_pool", [t(B, 3, D * 2, 8)], POOL, t(B, 3, D, 4)),
]


@pytest.mark.parametrize("name, operands, attributes, result", SYMBOLIC)
def test_symbolic_dimensions(
    name: str, operands: list[TensorType], attributes: dict[str, Any], result: TensorType
) -> None:
    assert lookup(name).infer(operands, attributes) == (result,)
