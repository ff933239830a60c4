"""Full Jacobians by the cheaper mode, as a rolled loop over basis seeds.

A Jacobian of a result of n elements with respect to parameters of m elements takes n reverse passes
or m forward passes; ``jacobian_plan`` counts both and chooses the fewer (reverse if equal: it
shares the forward sweep). One pass is emitted directly; several become one ``scan`` over the basis,
whose body holds only the ops that depend on the seed: the forward sweep runs once. Dimensions must
be bound.

Non-goals: sparsity; seeding several basis vectors at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import Selector, chosen_slots, jvp, vjp
from gradc.passes.rewrite import copy_ops, emit_scan, free_values
from gradc.passes.simplify.dce import dce


@dataclass(frozen=True, slots=True)
class JacobianPlan:
    """What a Jacobian costs each way, and which way is taken."""

    mode: Literal["forward", "reverse"]
    forward_passes: int
    reverse_passes: int

    @property
    def passes(self) -> int:
        """Passes of the mode that is taken."""
        return self.forward_passes if self.mode == "forward" else self.reverse_passes

    def __str__(self) -> str:
        is_forward = self.mode == "forward"
        other = self.reverse_passes if is_forward else self.forward_passes
        plural = "" if self.passes == 1 else "es"
        mode = "reverse" if is_forward else "forward"
        return f"{self.passes} {self.mode} pass{plural} ({mode} mode: {other})"


def jacobian_plan(
    function: Function,
    wrt: Sequence[Selector],
    of: Selector,
    mode: Literal["forward", "reverse"] | None = None,
) -> JacobianPlan:
    """Counts the passes of both modes; ``mode`` is taken where given. Raises DerivativeError as
    ``vjp`` does.
    """
    block = function.block
    parameters = chosen_slots(function.parameters, block.parameters, wrt, "parameter")
    (result,) = chosen_slots(function.results, block.outputs, [of], "result")
    forward = sum(_size(block.parameters[i].type) for i in parameters)
    reverse = _size(block.outputs[result].type)
    cheaper: Literal["forward", "reverse"] = "forward" if forward < reverse else "reverse"
    return JacobianPlan(mode or cheaper, forward, reverse)


def jacobian(
    function: Function,
    wrt: Sequence[Selector],
    of: Selector,
    mode: Literal["forward", "reverse"] | None = None,
) -> Function:
    """The results of ``function``, then ``d of / d p`` of shape ``of.shape + p.shape`` for each p
    of ``wrt``: OUTPUTs named ``of/p``.

    ``mode`` overrides the choice of ``jacobian_plan``. Raises DerivativeError as ``vjp`` does.
    """
    plan = jacobian_plan(function, wrt, of, mode)
    (result,) = chosen_slots(function.results, function.block.outputs, [of], "result")
    inputs = chosen_slots(function.parameters, function.block.parameters, wrt, "parameter")
    is_forward = plan.mode == "forward"
    derivative = (jvp if is_forward else vjp)(function, inputs, [result])
    target = function.block.outputs[result].type
    sources = [function.block.parameters[i].type for i in inputs]
    b = Builder()
    b.span = function.results[result].span
    rows = _passes(b, function, derivative, plan.passes, is_forward)
    if is_forward:
        arrays = _columns(b, rows[0], target, sources)
    else:
        arrays = [
            b.one("reshape", row, shape=(*target.shape, *source.shape))
            for row, source in zip(rows, sources, strict=True)
        ]
    return _function(function, derivative, b, arrays, inputs, function.results[result].name)


def _size(type_: TensorType) -> int:
    size = 1
    for extent in type_.static_shape:
        size *= extent
    return size


def _passes(
    b: Builder, function: Function, derivative: Function, passes: int, is_forward: bool
) -> list[Value]:
    """The derivative results of every pass, stacked; seed-independent ops go to ``b`` directly."""
    fixed = len(function.parameters)
    seeds = derivative.block.parameters[fixed:]
    outputs = derivative.block.outputs[len(function.results) :]
    # In forward mode a scan computes values and tangents together; the values are needed outside as
    # well.
    primal = list(function.block.body) if is_forward else []
    b.ops += primal
    known = {v for op in primal for v in op.results}
    dependent = set(seeds)
    varying: list[Op] = []
    for op in derivative.block.body:
        if any(v in dependent for v in op.operands):
            dependent.update(op.results)
            varying.append(op)
        elif op.results[0] not in known:
            b.ops.append(op)
    if passes == 1:
        mapping = dict(zip(seeds, _basis(b, seeds, None), strict=True))
        b.ops += copy_ops(varying, mapping)
        return [b.one("reshape", mapping.get(v, v), shape=(1, *v.type.shape)) for v in outputs]
    return _loop(b, varying, seeds, outputs, passes)


def _loop(
    b: Builder, varying: Sequence[Op], seeds: Sequence[Value], outputs: Sequence[Value], passes: int
) -> list[Value]:
    inner = Builder()
    inner.span = b.span
    index = Value(TensorType((), DType.I32), "pass")
    mapping = dict(zip(seeds, _basis(inner, seeds, index), strict=True))
    read = [v for v in free_values(varying, outputs) if v not in mapping]
    mapping.update((v, Value(v.type, v.hint)) for v in read)
    inner.ops += copy_ops(varying, mapping)
    body = inner.block([mapping[v] for v in outputs])
    region = Block((index, *(mapping[v] for v in read)), body.ops)
    counter = b.one("iota", axis=0, dtype=DType.I32, shape=(passes,))
    return list(
        emit_scan(
            b,
            [counter, *read],
            region,
            {"trips": passes, "carried": 0, "stacked": 1, "reverse": False, "truncate": 0},
        )
    )


def _basis(b: Builder, seeds: Sequence[Value], index: Value | None) -> list[Value]:
    """One basis vector over all seeds together; ``index`` None is the first and only one."""
    vectors: list[Value] = []
    first = 0
    for seed in seeds:
        size, dtype, shape = _size(seed.type), seed.type.dtype, seed.type.shape
        if index is None:
            vectors.append(b.constant(1.0, dtype, shape))
            continue
        place = b.one("iota", axis=0, dtype=DType.I32, shape=(size,))
        wanted = b.one("broadcast", index, shape=(size,), dims=())
        if first:
            wanted = b.one("sub", wanted, b.constant(first, DType.I32, (size,)))
        hit = b.one("cast", b.one("eq", place, wanted), dtype=dtype)
        vectors.append(b.one("reshape", hit, shape=shape))
        first += size
    return vectors


def _columns(
    b: Builder, rows: Value, target: TensorType, sources: Sequence[TensorType]
) -> list[Value]:
    """Forward mode: passes run over the elements of all parameters; cut them up, put ``of`` in
    front.
    """
    arrays: list[Value] = []
    first = 0
    rank = target.rank
    for source in sources:
        size = _size(source)
        mine = b.one(
            "slice",
            rows,
            start=(first, *(0,) * rank),
            limit=(first + size, *target.shape),
            stride=(1,) * (rank + 1),
        )
        wide = b.one("reshape", mine, shape=(*source.shape, *target.shape))
        n = source.rank
        perm = (*range(n, n + rank), *range(n))
        arrays.append(b.one("transpose", wide, perm=perm))
        first += size
    return arrays


def _function(
    function: Function,
    derivative: Function,
    b: Builder,
    arrays: Sequence[Value],
    inputs: Sequence[int],
    of: str,
) -> Function:
    primal = derivative.block.outputs[: len(function.results)]
    block = replace(b.block((*primal, *arrays), "return"), parameters=function.block.parameters)
    slots = [function.parameters[i] for i in inputs]
    results = (*function.results, *(Slot(f"{of}/{s.name}", Role.OUTPUT, s.span) for s in slots))
    return dce(Function(function.name, block, function.parameters, results))
