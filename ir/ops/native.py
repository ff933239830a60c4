"""``native``: a region that says what is computed, and a kernel of its own that computes it.

The region is the meaning: interpreters, derivatives and proofs run it. Where loops are made, the
kernel that attribute ``by`` names takes its place (``KERNELS``). So an algorithm that no rolled
program states well (pivoting in place, iterations that end when they have converged) is stated
once more for machines, and tests hold the two together.

A kernel may differ from its region by rounding. Non-goals: derivatives of kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gradc.ir.ops.attributes import get_str
from gradc.ir.ops.control import region_jvp, region_vjp
from gradc.ir.ops.registry import Control, Nest, OpDef, TypeRuleError, register
from gradc.ir.tensor.core import Attrs, Op, TensorType

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext

# What attribute ``by`` may say.
KERNELS: dict[str, Nest] = {}
Build: TypeAlias = Callable[["NestContext", Op], None]


def kernel(
    name: str,
    flops: Callable[[Op], int],
    begins: Callable[[Op], tuple[tuple[int, int], ...]] = lambda _op: (),
) -> Callable[[Build], Build]:
    """Decorator: the kernel that ``by = name`` means, its floating point operations, and which
    results begin as operands (``Nest``).
    """

    def add(build: Build) -> Build:
        KERNELS[name] = Nest(build, flops, begins)
        return build

    return add


def _of(op: Op) -> Nest:
    return KERNELS[get_str(op.attributes, "by")]


def _infer(_types: Sequence[TensorType], _attributes: Attrs) -> tuple[TensorType, ...]:
    raise TypeRuleError("native: has the types of its region, and none was given")


def _run(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arrays.run(op.regions[0], operands))


register(
    OpDef(
        "native",
        "runs its region, by a kernel that is written out (`by`) where there are kernels",
        _infer,
        _run,
        region_jvp,
        region_vjp,
        Control(
            is_transparent=True,
            keeps_signature=True,
            nest=Nest(
                lambda nest, op: _of(op).build(nest, op),
                lambda op: _of(op).flops(op),
                lambda op: _of(op).begins(op),
            ),
        ),
    )
)
