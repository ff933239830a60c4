"""Nothing is missing: every verb is an op and has a row in every interpreter; every op says all
that an op must say.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from gradc.codegen.symbolic.sympy.scalars import SympyScalars
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.ops.builder import Builder, BuilderAlgebra
from gradc.ir.ops.registry import Control, OpDef, all_ops, lookup, register, zero_jvp, zero_vjp
from gradc.ir.tensor.algebra import VERBS, Algebra
from gradc.ir.tensor.core import DType, TensorType

INTEGER_VERBS = ("floordiv", "mod", "bitand", "bitor", "bitxor", "shl", "shr", "mulhi")
LOGICAL = ("logical_and", "logical_or", "logical_not")


def operand_dtype(verb: str) -> DType:
    """An element type the verb takes."""
    if verb in LOGICAL:
        return DType.BOOL
    return DType.U32 if verb in INTEGER_VERBS else DType.F64


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_an_op_of_the_same_arity(verb: str) -> None:
    definition = lookup(verb)
    assert definition.is_elementwise and definition.partials is not None
    assert len(definition.partials) == VERBS[verb].arity


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_in_the_protocol(verb: str) -> None:
    parameters = inspect.signature(getattr(Algebra, verb)).parameters
    assert len(parameters) == VERBS[verb].arity + 1  # and self


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_a_row_in_every_interpreter(verb: str) -> None:
    dtype, arity = operand_dtype(verb), VERBS[verb].arity
    arrays = NumpyArrays()
    values = [np.asarray([1, 1], NumpyArrays.dtype(dtype))] * arity
    if verb == "select":
        values[0] = np.asarray([True, False])
    expected = np.bool_ if VERBS[verb].result == "bool" else values[-1].dtype
    assert np.asarray(getattr(arrays.at(dtype), verb)(*values)).dtype == expected
    dual = getattr(DualArrays(arrays).at(dtype), verb)(*(Dual(v) for v in values))
    assert dual.tangent is None and np.asarray(dual.primal).dtype == expected

    b = Builder()
    types = [TensorType((2,), dtype)] * arity
    if verb == "select":
        types[0] = TensorType((2,), DType.BOOL)
    k = BuilderAlgebra(b, types[-1])
    emitted = getattr(k, verb)(*(b.parameter(t) for t in types))
    assert b.ops[-1].name == verb and emitted.type.dtype is (
        DType.BOOL if VERBS[verb].result == "bool" else dtype
    )

    loops = LoopBuilder()
    index = IndexAlgebra(loops, dtype)
    scalar = getattr(index, verb)(*(loops.var(t.dtype) for t in types))
    assert scalar.dtype is emitted.type.dtype
    if verb not in INTEGER_VERBS:
        assert callable(getattr(SympyScalars, verb))


@pytest.mark.parametrize("definition", all_ops(), ids=lambda d: d.name)
def test_definition_is_complete(definition: OpDef) -> None:
    assert definition.doc and definition.doc[0] not in " ." and not definition.doc.endswith(".")
    if isinstance(definition.loop, Control):
        return
    assert definition.samples, "no samples, so nothing is tested"
    shapes = [t.shape for s in definition.samples for t in s.operands]
    assert not shapes or any(len(set(shape)) > 1 or len(shape) < 2 for shape in shapes)
    for sample in definition.samples:
        assert len(sample.ranges) == len(sample.operands)
        (result,) = definition.infer(sample.operands, sample.attributes)
        is_constant = definition.jvp is zero_jvp
        assert is_constant == (definition.vjp is zero_vjp), "one rule says zero, the other not"
        # Something without a floating result has no derivative. Exceptions decide by type (cast).
        if not result.dtype.is_float and definition.name != "cast":
            assert is_constant or any(t.dtype.is_float for t in sample.operands)


@pytest.mark.parametrize("definition", all_ops(), ids=lambda d: d.name)
def test_commutative_ops_commute(definition: OpDef) -> None:
    if not definition.commutative:
        return
    (sample, *_), rng = definition.samples, np.random.default_rng(1)
    storage = NumpyArrays.dtype(sample.operands[0].dtype)
    low, high = sample.ranges[0]
    a, b = (
        np.asarray(rng.uniform(low, high, sample.operands[0].static_shape)).astype(storage)
        for _ in range(2)
    )
    k = NumpyArrays().at(sample.operands[0].dtype)
    verb = getattr(k, definition.name)
    np.testing.assert_array_equal(verb(a, b), verb(b, a))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'add' is defined twice"):
        register(lookup("add"))
