"""Which inputs of a program hold samples, and the program of a part of them, or why there is none.

An input whose axis is ``parts`` times longer for the whole batch than for a part holds samples
along it. From there the axes that ops state to belong together are followed (``passes.cut``), so no
annotation is needed. A program is separable if samples stay apart until sums over them, and nothing
that belongs to single samples depends on such a sum. Inside loops and checkpoints samples must stay
apart altogether. Then a batch can be cut and the sums added up. What breaks that (batch statistics,
comparisons between samples) is refused with the op, and the reason in words.

Non-goals: composing the accumulated program (``passes.accumulate``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.axes import at_axes
from gradc.ir.tensor.core import Function, Op, Role, TensorType
from gradc.passes.training.cut import Cut, Mixed, cut
from gradc.passes.training.ranks import Deal

Refuse: TypeAlias = Callable[[str, Op | None], DiagnosticError]


def along_batch(message: str, op: Op | None) -> DiagnosticError:
    """The refusal to cut a batch into parts."""
    help = (
        "the gradient of a batch cut into parts would differ from that of the whole batch; train "
        "on one rank, without `accumulate`, or on ranks that share the statistics of a batch "
        "(--shared-statistics, with one part for each), or use a layer that treats samples one by "
        "one (layernorm instead of batchnorm)"
    )
    span = op.span if op is not None else None
    text = f"this program cannot be accumulated over parts of a batch: {message}"
    return DiagnosticError([error("GC0807", text, span, help=help)])


def along_dim(dim: str) -> Refuse:
    """The refusal to cut a program along a dimension of its parameters."""

    def refuse(message: str, op: Op | None) -> DiagnosticError:
        for word, other in (("the whole batch", "the whole"), ("sample", "part")):
            message = message.replace(word, other)
        help = "what is multiplied or added up along a dimension can be cut; name another dimension"
        span = op.span if op is not None else None
        text = f"this program cannot be cut along `{dim}`: {message}"
        return DiagnosticError([error("GC0824", text, span, help=help)])

    return refuse


def batch_axes(
    whole: Mapping[str, TensorType],
    part: Mapping[str, TensorType],
    parts: int,
    refuse: Refuse = along_batch,
) -> dict[str, int]:
    """The axis of samples of each input that has one, from the inputs' types for the whole batch
    and for a part.

    Raises:
        DiagnosticError: GC0807 for an input that is not cut along one axis.
    """
    found: dict[str, int] = {}
    for name, type_ in whole.items():
        pairs = list(zip(type_.static_shape, part[name].static_shape, strict=True))
        differing = [axis for axis, (n, m) in enumerate(pairs) if n != m]
        if len(differing) > 1:
            raise refuse(f"`{name}` compares every sample with every other", None)
        if differing:
            axis = differing[0]
            n, m = pairs[axis]
            if n != parts * m:
                raise refuse(f"`{name}` has a size that is not a multiple of the parts", None)
            found[name] = axis
    return found


def separate(
    function: Function,
    axes: Mapping[str, int],
    parts: int,
    shared: Deal | None = None,
) -> Cut:
    """The program of one part of the batch; ranks that have a part each share sums over the batch
    on the way with ``shared``.

    Raises:
        DiagnosticError: GC0807, at the op where samples meet.
    """
    try:
        found = cut(function, at_axes(axes), parts, shared)
    except Mixed as problem:
        raise along_batch(problem.message, problem.op) from None
    for slot, value in zip(function.results, function.block.outputs, strict=True):
        if value in found.local:
            raise along_batch(f"`{slot.name}` is known inside the parts only", None)
        if slot.role is Role.STATE and value in found.places:
            raise along_batch(f"the new `{slot.name}` belongs to single samples", None)
    return found
