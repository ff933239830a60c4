"""The instructions of kernel texts, compiled for this CPU, against NumPy's meaning of verbs: at
numbers and at the edges of every type.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ll
import numpy as np
import pytest

from gradc.codegen.cuda.toolchain.instructions import (
    LLVM_TYPES,
    SCALARS,
    bf16_bits,
    bf16_value,
    cast,
    f16_bits,
    f16_value,
)
from gradc.codegen.cuda.verbs import TEXT_VERBS
from gradc.ir.loop.verbs import apply_verb, convert
from gradc.ir.tensor.bf16 import bf16_bits as expected_bf16
from gradc.ir.tensor.core import DType

NUMPY = {
    "f32": np.float32, "f64": np.float64, "i32": np.int32, "u32": np.uint32, "i64": np.int64,
    "u16": np.uint16, "bool": np.bool_,
}  # fmt: skip
DTYPES = {
    "f32": DType.F32, "f64": DType.F64, "i32": DType.I32, "u32": DType.U32, "i64": DType.I64,
    "bool": DType.BOOL,
}  # fmt: skip
_KINDS = ("f32", "f64", "i32", "u32", "i64", "bool")


def run(
    emit: Callable[..., Any], operands: list[np.ndarray[Any, Any]], kinds: list[str], result: str
) -> np.ndarray[Any, Any]:
    """``emit(builder, *values)`` for each row of ``operands``, as this processor computes it."""
    module = ll.Module("tried")
    module.triple = llvm.get_process_triple()
    pointer, i64 = ll.IntType(8).as_pointer(), ll.IntType(64)
    function = ll.Function(module, ll.FunctionType(ll.VoidType(), [pointer] * 4 + [i64]), "tried")
    head, body, done = (function.append_basic_block(n) for n in ("head", "body", "done"))
    b = ll.IRBuilder(head)
    b.branch(body)
    b.position_at_end(body)
    number = b.phi(i64)
    number.add_incoming(ll.Constant(i64, 0), head)
    values = [_element(b, p, k, number) for p, k in zip(function.args, kinds, strict=False)]
    found = emit(b, *values)
    if result == "bool":
        found = b.zext(found, ll.IntType(8))
    place = b.bitcast(function.args[3], found.type.as_pointer())
    b.store(found, b.gep(place, [number]))
    following = b.add(number, ll.Constant(i64, 1))
    number.add_incoming(following, body)
    b.cbranch(b.icmp_unsigned("<", following, function.args[4]), body, done)
    b.position_at_end(done)
    b.ret_void()
    return _called(module, operands, np.empty(len(operands[0]), NUMPY[result]))


def _element(b: ll.IRBuilder, pointer: Any, kind: str, number: Any) -> Any:
    stored = ll.IntType(8) if kind == "bool" else LLVM_TYPES[kind]
    value = b.load(b.gep(b.bitcast(pointer, stored.as_pointer()), [number]))
    return b.trunc(value, ll.IntType(1)) if kind == "bool" else value


def _called(module: ll.Module, operands: list[Any], out: Any) -> np.ndarray[Any, Any]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=0
    )
    with llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine) as engine:
        engine.finalize_object()
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
        arrays = [np.ascontiguousarray(a) for a in operands]
        places = [a.ctypes.data for a in arrays] + [None] * (3 - len(arrays))
        kind(engine.get_function_address("tried"))(*places, out.ctypes.data, len(out))
    return np.asarray(out)


def values(kind: str, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Numbers of a type: its edges, then random ones of all magnitudes."""
    rng = np.random.default_rng(seed)
    if kind == "bool":
        return rng.integers(0, 2, count).astype(np.bool_)
    if kind not in ("f32", "f64"):
        limits = np.iinfo(NUMPY[kind])
        edges = [0, 1, limits.min, limits.max, limits.max - 1, 5, limits.min // 2, 7, 31, 32]
        drawn = rng.integers(limits.min, limits.max, count, NUMPY[kind], endpoint=True)
        small: np.ndarray[Any, Any] = rng.integers(max(limits.min, -9), 9, count).astype(
            NUMPY[kind]
        )
        both = np.where(rng.random(count) < 0.5, drawn, small)
        both[: len(edges)] = rng.permutation(np.array(edges, NUMPY[kind]))
        return both.astype(NUMPY[kind])
    tiny = float(np.finfo(NUMPY[kind]).smallest_subnormal)
    floats: list[float] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        np.inf,
        -np.inf,
        np.nan,
        tiny,
        -tiny,
    ]
    floats += [2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 3e9, 1e30, 65504.0, 65520.0]
    numbers = rng.normal(size=count) * 10.0 ** rng.uniform(-12, 12, count)
    numbers[: len(floats)] = rng.permutation(floats)
    return numbers.astype(NUMPY[kind])


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """The same bits; NaN is NaN."""
    if found.dtype.kind == "f":
        both = np.isnan(found) & np.isnan(expected)
        word = f"i{found.itemsize}"
        return bool(np.all(both | (found.view(word) == expected.view(word))))
    return bool(np.array_equal(found, expected))


_OF_FLOATS = ("sqrt", "rsqrt", "div")
_OF_INTEGERS = ("shl", "shr", "bitand", "bitor", "bitxor")
_OF_BOOLS = ("logical_and", "logical_or", "logical_not")
_ALSO_OF_BOOLS = ("bitand", "bitor", "bitxor", "add", "mul", "max", "min", "eq", "ne", "select")


def verbs_of(kind: str) -> list[str]:
    """The scalar verbs that a type has."""
    if kind == "bool":
        return [*_OF_BOOLS, *_ALSO_OF_BOOLS]
    without = {*_OF_BOOLS, *(_OF_INTEGERS if kind in ("f32", "f64") else _OF_FLOATS)}
    if kind != "u32":
        without.add("mulhi")
    return [name for name in SCALARS if name not in without]


def expected_of(name: str, operands: list[Any], dtype: DType) -> Any:
    """What a verb gives, in NumPy."""
    if name == "round" and not dtype.is_float:
        return operands[0]  # NumPy would go by way of a float
    if name == "fma" and dtype is DType.F32:  # exact products; sums in more digits than f64 has
        x, y, z = (a.astype(np.longdouble) for a in operands)
        return (x * y + z).astype(np.float32)
    if name == "fma" and dtype is DType.F64:
        return np.array([_fused(*map(float, row)) for row in zip(*operands, strict=True)])
    return apply_verb(name, operands, dtype)


def _fused(x: float, y: float, z: float) -> float:
    """x * y + z, rounded once."""
    if not all(map(math.isfinite, (x, y, z))) or not (x and y):
        return float(np.multiply(x, y) + z)
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    return float(exact) if exact else x * y + z


@pytest.mark.parametrize("kind", _KINDS)
def test_scalar_verbs_are_those_of_numpy(kind: str) -> None:
    for name in verbs_of(kind):
        kinds = ["bool", kind, kind] if name == "select" else [kind] * len(TEXT_VERBS[name].takes)
        operands = [values(k, 2048, 7 + n) for n, k in enumerate(kinds)]
        result = "bool" if TEXT_VERBS[name].gives == "bool" else kind
        emit = SCALARS[name]
        found = run(lambda b, *v, e=emit: e(b, kind, *v), operands, kinds, result)
        with np.errstate(all="ignore"):
            expected = expected_of(name, operands, DTYPES[result])
        assert same(found, np.asarray(expected)), name


def test_every_scalar_verb_has_instructions() -> None:
    """And every verb of the vocabulary that is no memory, thread or tuple."""
    named = {v.name for v in TEXT_VERBS.values() if v.kind == "scalar"}
    assert named == set(SCALARS) == {name for kind in _KINDS for name in verbs_of(kind)}


@pytest.mark.parametrize("source", _KINDS)
def test_casts_saturate_and_round_as_numpy_says(source: str) -> None:
    x = values(source, 4096, 3)
    for target in ("f32", "f64", "i32", "u32", "i64"):
        found = run(lambda b, v, t=target: cast(b, source, t, v), [x], [source], target)
        with np.errstate(all="ignore"):
            expected = convert(x, DTYPES[target])
        assert same(found, np.asarray(expected)), target


@pytest.mark.parametrize("source", ["f32", "f64"])
def test_sixteen_bits_are_rounded_once(source: str) -> None:
    x = values(source, 4096, 5)
    bits = run(bf16_bits, [x], [source], "u16")
    numbers = ~np.isnan(x)
    assert np.array_equal(bits[numbers], expected_bf16(x)[numbers])
    assert np.isnan(run(bf16_value, [bits], ["u16"], "f32")[~numbers]).all()
    halves = run(f16_bits, [x], [source], "u16")
    with np.errstate(all="ignore"):
        expected = x.astype(np.float16)
    assert np.array_equal(halves[numbers], expected.view(np.uint16)[numbers])
    assert same(run(f16_value, [halves], ["u16"], "f32"), expected.astype(np.float32))
