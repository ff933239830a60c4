"""Literals of texts: they round to the program's, and mean to a proof what the program's mean."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradc.codegen.cuda.printer.words import literal
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains import field


@pytest.mark.parametrize("value", [0.1, 1 / 420, 2 / 3, 1 / np.pi, 1e-30, 3.0, -0.0])
def test_literals_keep_the_digits_of_the_program(value: float) -> None:
    (digits,) = re.findall(r"f32\((.*)\)", literal(value, DType.F32))
    assert np.float32(float(digits)) == np.float32(value)
    assert field.literal(float(digits), 1, DType.F32) == field.literal(value, 1, DType.F32)


def test_narrow_literals_are_rounded_to_their_type() -> None:
    """By the text, so that a proof reads all digits; what they can hold is printed as it is."""
    assert literal(0.1, DType.F16) == "f16_value(f16_bits(f32(0.1)))"
    assert literal(1 / 3, DType.BF16) == f"bf16_value(bf16_bits(f32({1 / 3})))"
    assert literal(0.333984375, DType.BF16) == "f32(0.333984375)"
    assert literal(np.inf, DType.F32) == "f32(INF)" and literal(np.nan, DType.F64) == "f64(NAN)"
