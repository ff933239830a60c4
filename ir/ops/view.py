"""The factory of views: linear ops that move elements of one operand without computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gradc.ir.loop.kernel import Affine, Scalar
from gradc.ir.ops.axes import AxisRule
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.interval import handed_on, handed_on_or_zero
from gradc.ir.ops.registry import (
    ByIndex,
    OpDef,
    Read,
    Sample,
    TypeRuleError,
    register,
)
from gradc.ir.ops.traits import ALL, Moves, Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.ops.builder import Builder

Position: TypeAlias = Sequence[Affine]
Element: TypeAlias = Callable[["IndexAlgebra", Op, Position, Read], Scalar]
_ANY = (-2.0, 2.0)


def one_operand(name: str, types: Sequence[TensorType]) -> TensorType:
    """The type of the only operand. Raises TypeRuleError."""
    if len(types) != 1:
        raise TypeRuleError(f"{name}: takes 1 operand, got {len(types)}")
    return types[0]


def check_axes(name: str, axes: Sequence[int], operand: TensorType) -> None:
    """Refuses axes that ``operand`` lacks and axes named twice. Raises TypeRuleError."""
    for axis in axes:
        if not 0 <= axis < operand.rank:
            raise TypeRuleError(f"{name}: axis {axis} is out of range for {operand}")
    if len(set(axes)) != len(axes):
        raise TypeRuleError(f"{name}: axes {tuple(axes)} repeat for {operand}")


def sample(operand: tuple[int, ...], /, *, dtype: DType = DType.F64, **attributes: Any) -> Sample:
    """A sample of one operand."""
    return Sample((TensorType(operand, dtype),), attributes, (_ANY,))


def linear_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The JVP of a linear op of one operand: the op itself."""
    (tangent,) = tangents
    if tangent is None:
        return (None,)
    return (b.same(op, tangent),)


Stacked: TypeAlias = Callable[[Attrs, Dim], Attrs]
Transpose: TypeAlias = Callable[["Builder", Op, Value], Value | None]


def moving(moves: Moves, stacked: Stacked | None, is_silent: bool = False) -> Traits:
    """The traits of a view of one operand."""
    is_whole = moves is not Moves.PLACES
    return Traits(
        moves=moves,
        cost="free" if is_whole else "plain",
        linear=ALL,
        is_same_numbers=is_whole,
        is_silent=is_silent,
        stacked=stacked,
    )


def view(
    name: str,
    doc: str,
    infer: Callable[[TensorType, Attrs], tuple[Dim, ...]],
    evaluate: Callable[[Any, Op, Any], Any],
    transpose: Transpose,
    element: Element,
    samples: tuple[Sample, ...],
    axes: AxisRule,
    traits: Traits,
    rule: ElementRule,
) -> OpDef:
    """Registers a linear view of one operand; ``transpose(b, op, ct)`` is its VJP."""

    def check(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
        operand = one_operand(name, types)
        return (operand.with_shape(infer(operand, attributes)),)

    def vjp(
        b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
    ) -> Sequence[Value | None]:
        (ct,) = cts
        return (transpose(b, op, ct) if ct is not None and needed[0] else None,)

    return register(
        OpDef(
            name,
            doc,
            check,
            lambda arrays, op, operands: (evaluate(arrays, op, operands[0]),),
            linear_jvp,
            vjp,
            ByIndex(element),
            samples,
            traits=traits,
            element=rule,
            interval=handed_on if traits.is_same_numbers else handed_on_or_zero,
            axes=axes,
        )
    )
