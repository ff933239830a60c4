"""The op registry: everything gradc knows of an op stands in one ``OpDef``, defined in one file of
``ir/ops``.

An op states its type rule, its meaning (``evaluate``, generic over the array domain), its
derivative rules and its loop form. Elementwise ops state a scalar meaning and partial derivatives
instead; the rest follows (``ir/ops/pointwise.py``). Absence of a derivative rule is a
declaration, never an omission: ``ZERO`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from gradc.ir.loop.kernel import Scalar
from gradc.ir.ops.axes import AxisRule
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.formula import FormulaRule
from gradc.ir.ops.interval import IntervalRule
from gradc.ir.ops.products import Products
from gradc.ir.ops.traits import PLAIN, Moves, Traits
from gradc.ir.tensor.core import Attrs, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.loop.kernel import Affine
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder


class TypeRuleError(Exception):
    """Operand types or attributes that an op does not accept; the message names both operands'
    types.
    """


TypeRule: TypeAlias = Callable[[Sequence[TensorType], Attrs], tuple[TensorType, ...]]
# evaluate(arrays, op, operands) -> results, in the domain of the array algebra `arrays`
# (ir/domains/arrays.py).
Evaluate: TypeAlias = Callable[[Any, Op, Sequence[Any]], tuple[Any, ...]]
# Tangents and cotangents that are identically zero are None and stay None.
JvpRule: TypeAlias = Callable[["Builder", Op, Sequence[Value | None]], Sequence[Value | None]]
# vjp(builder, op, cotangents of results, which operands need one) -> cotangents of operands.
VjpRule: TypeAlias = Callable[
    ["Builder", Op, Sequence[Value | None], Sequence[bool]], Sequence[Value | None]
]


# read(operand number, index) -> that element of that operand, inside a kernel.
Read: TypeAlias = Callable[[int, Sequence["Affine"]], Scalar]


@dataclass(frozen=True, slots=True)
class Partial:
    """The derivative of an elementwise op's result with respect to one operand.

    ``value(k, y, *operands, **attributes)`` computes it from the result ``y`` and the operands, in
    verbs. The kind saves work where the shape of the derivative is known: ``one`` and ``minus_one``
    are constant; ``mask`` is 1 where ``condition(k, y, *operands, **attributes)`` holds and 0
    elsewhere, so it is applied by ``select``; ``gated`` is always applied by ``gate(ct, value)``,
    and ``gates`` by ``gate(value, ct)``.
    """

    value: Callable[..., Any]
    kind: Literal["general", "one", "minus_one", "mask", "gated", "gates"] = "general"
    condition: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Loop form: the result at an index is ``meaning(k, *operands at that index,
    **attributes)``.
    """

    meaning: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ByIndex:
    """Loop form of a view, gather or iota: ``element(k, op, index, read)`` computes the result at
    ``index``.

    ``read(operand number, index)`` gives an operand's element; ``k`` is an ``IndexAlgebra``. Where
    an index may lie outside the operand, the read happens inside ``with k.guard(condition):``,
    which guards every load below it, and the value is selected by the same condition afterwards.
    """

    element: Callable[[IndexAlgebra, Op, Sequence[Affine], Read], Scalar]


@dataclass(frozen=True, slots=True)
class Reduction:
    """Loop form: fold over the axes in attribute ``axes`` with ``combine``."""

    combine: str


@dataclass(frozen=True, slots=True)
class Contraction:
    """Loop form: a (batched) matrix product, described by attributes ``batch`` and ``contract``."""


@dataclass(frozen=True, slots=True)
class Nest:
    """Loop form: the op builds its own kernel body (scatter, cumsum, ...); ``flops``
    counts its floating point operations. Results named by ``begins`` are copies of an operand
    before the kernel runs, as (result, operand): it writes only what changes.
    """

    build: Callable[[NestContext, Op], None]
    flops: Callable[[Op], int]
    begins: Callable[[Op], tuple[tuple[int, int], ...]] = lambda _op: ()


@dataclass(frozen=True, slots=True)
class SumOfProducts:
    """Loop form: a sum of products that no matrix product can read (a convolution), as data
    (``ir.ops.products``); ``flops`` counts its floating point operations.
    """

    of: Callable[[Op], Products]
    flops: Callable[[Op], int]


@dataclass(frozen=True, slots=True)
class Control:
    """Loop form: region ops, which ``to_loops`` handles itself.

    ``is_loop``: its region runs once per trip, on carries, slices and constants (``control.py``).
    ``has_pullback``: its second region is its derivative, which somebody stated. ``recomputes``:
    the reverse sweep runs its region again. ``is_wrapper``: its region runs once and can stand in
    its place. ``is_transparent``: its derivative is that of its region. ``keeps_signature``:
    results that nobody reads stay, because a second region (the pullback) has the same ones, or a
    kernel writes them. ``nest``: a kernel that computes what the region says.
    """

    is_loop: bool = False
    has_pullback: bool = False
    recomputes: bool = False
    is_wrapper: bool = False
    is_transparent: bool = False
    keeps_signature: bool = False
    nest: Nest | None = None


_NO_CONTROL: Final = Control()
_SUM: Final = Reduction("add")
LoopForm: TypeAlias = Pointwise | ByIndex | Reduction | Contraction | SumOfProducts | Nest | Control


@dataclass(frozen=True, slots=True)
class OpDef:
    """One op. ``sample`` gives example operand types, attributes and ranges from which tests are
    generated.
    """

    name: str
    doc: str
    infer: TypeRule
    evaluate: Evaluate
    jvp: JvpRule
    vjp: VjpRule
    loop: LoopForm
    samples: tuple[Sample, ...] = ()
    commutative: bool = False
    # True if the VJP can hand an operand an exact zero where another path was taken (select, max,
    # relu): cotangents below it are applied with `gate`.
    masks: bool = False
    # What passes ask of it (ir/ops/traits.py).
    traits: Traits = PLAIN
    # Elementwise ops only: one partial per operand, None where the derivative is identically zero.
    # `elementwise_vjp(b, op, cts, needed, masked)` in ops/pointwise.py applies them; `vjp` is the
    # same with masked=False, and passes that know a cotangent to be masked call it with True
    # (`gate` instead of `mul`).
    partials: tuple[Partial | None, ...] | None = None
    # How the result's axes depend on the operands' axes (ir/ops/axes.py). Absent means: all
    # positions are mixed.
    axes: AxisRule | None = None
    # Which operands name rows of something, and of how many rows: (operand number, size). An id out
    # of range then reads NaN or writes nothing, so data are checked against it where they enter
    # (``ir.index_uses``).
    indexes: Callable[[Op], tuple[tuple[int, int], ...]] | None = None
    # What the result can be, from what the operands can be (ir/ops/interval.py). Absent means any
    # number, and whatever was wrong with an operand goes on.
    interval: IntervalRule | None = None
    # Elements of the result for every shape (ir/ops/index/element.py). Absent means that the index
    # algebra does not speak of the op; elementwise ops are then opaque functions.
    element: ElementRule | None = None
    # Its elements in formulas that people read (ir/ops/index/formula.py). Absent: a view is read
    # through its axes, a verb by its meaning, and all else is named.
    formula: FormulaRule | None = None
    # Facts that are absent on purpose, each with the reason: {"interval": "of either sign"}.
    without: Mapping[str, str] = field(default_factory=dict)
    # True if derivatives end here by choice (stop_gradient) and not because the op is constant
    # almost everywhere.
    is_barrier: bool = False

    @property
    def is_step(self) -> bool:
        """Whether the op is constant almost everywhere, as floor and comparisons are: it declares
        that it has no derivative, and not by choice."""
        is_constant = self.vjp is zero_vjp and self.jvp is zero_jvp
        return is_constant and not self.is_barrier

    @property
    def is_view(self) -> bool:
        """Whether it moves elements, or makes them from nothing, without computing: it costs
        nothing inside a fusion.
        """
        return self.traits.moves is not None

    @property
    def is_source(self) -> bool:
        """Whether it has no operands and is made where it is read."""
        return self.traits.moves is Moves.SOURCE

    @property
    def is_free(self) -> bool:
        """Whether computing it costs less than reading it back."""
        return self.traits.cost == "free"

    @property
    def multiplies_windows(self) -> bool:
        """Whether it is a product of many elements and no plain product of matrices: a
        convolution.
        """
        return self.traits.work is not None and not isinstance(self.loop, Contraction)

    @property
    def is_elementwise(self) -> bool:
        """Whether the op computes each element of its result from the same element of its
        operands.
        """
        return self.partials is not None


@dataclass(frozen=True, slots=True)
class Sample:
    """One example application for generated tests.

    ``ranges`` has one interval per operand, from which its elements are drawn (kept away from kinks
    and poles).
    """

    operands: tuple[TensorType, ...]
    attributes: Attrs
    ranges: tuple[tuple[float, float], ...]


_REGISTRY: dict[str, OpDef] = {}


def register(definition: OpDef) -> OpDef:
    """Adds ``definition``. Raises ValueError if the name is taken."""
    if definition.name in _REGISTRY:
        raise ValueError(f"op {definition.name!r} is defined twice")
    _REGISTRY[definition.name] = definition
    return definition


def lookup(name: str) -> OpDef:
    """The definition of op ``name``. Raises KeyError."""
    return _REGISTRY[name]


def all_ops() -> tuple[OpDef, ...]:
    """Every registered op, in order of definition."""
    return tuple(_REGISTRY.values())


def own_nest(op: Op) -> Nest | SumOfProducts | None:
    """The kernel that is of ``op`` alone, if it has one."""
    form = lookup(op.name).loop
    if isinstance(form, Control):
        return form.nest
    return form if isinstance(form, (Nest, SumOfProducts)) else None


def has_epilogue(op: Op) -> bool:
    """Whether ``op`` is computed as a matrix product or a sum for each place of planes, whose
    epilogue may hold what follows.
    """
    form = lookup(op.name).loop
    if isinstance(form, SumOfProducts):
        return op.result.type.dtype.is_float and form.of(op).has_epilogue
    return isinstance(form, Contraction) and op.result.type.dtype.is_float


def reads_memory(op: Op) -> bool:
    """Whether ``op`` reads its operands where they lie, so that views must be stored for it."""
    return isinstance(lookup(op.name).loop, SumOfProducts)


def _control(op: Op) -> Control:
    form = lookup(op.name).loop if op.regions else None
    return form if isinstance(form, Control) else _NO_CONTROL


def is_loop(op: Op) -> bool:
    """Whether ``op`` runs its region once per trip."""
    return _control(op).is_loop


def has_pullback(op: Op) -> bool:
    """Whether somebody stated the derivative of ``op``, as its second region."""
    return _control(op).has_pullback


def recomputes(op: Op) -> bool:
    """Whether the reverse sweep runs the region of ``op`` again."""
    return _control(op).recomputes


def is_wrapper(op: Op) -> bool:
    """Whether ``op`` only holds a region that runs once, in whose place it stands."""
    return _control(op).is_wrapper


def is_transparent(op: Op) -> bool:
    """Whether the derivative of ``op`` is that of its region."""
    return _control(op).is_transparent


def is_product(op: Op) -> bool:
    """Whether ``op`` is a (batched) product of matrices."""
    return bool(op.results) and isinstance(lookup(op.name).loop, Contraction)


def is_sum(op: Op) -> bool:
    """Whether ``op`` sums over axes."""
    return bool(op.results) and lookup(op.name).loop == _SUM


def number_of(op: Op) -> float | int | bool | None:
    """The number that every element of ``op`` is, if it says one: a constant."""
    value = op.attributes.get("value") if not op.operands and op.results else None
    return value if isinstance(value, (float, int)) else None


def has_own_numbers(op: Op) -> bool:
    """Whether the numbers of ``op`` are those of its one operand, moved or represented otherwise
    at most.
    """
    return lookup(op.name).traits.is_same_numbers


def zero_jvp(_b: Builder, op: Op, _tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The op is locally constant: every tangent is zero."""
    return (None,) * len(op.results)


def zero_vjp(
    _b: Builder, op: Op, _cts: Sequence[Value | None], _needed: Sequence[bool]
) -> Sequence[Value | None]:
    """The op is locally constant: no operand gets a cotangent."""
    return (None,) * len(op.operands)
