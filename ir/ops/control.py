"""Region ops: scan, checkpoint, custom, fusion. Their regions are closed blocks that end in
``yield``.

Types follow from the regions (``region_result_types``), derivatives from ``passes``, which
differentiates the regions themselves; loop forms from the pass that makes loops. Evaluation is
here: it runs the regions in the domain at hand.

``scan(carries..., stacked..., constants...)`` calls its region ``trips`` times with (carries,
slices, constants); the first ``carried`` yields are the next carries, the rest are stacked.
``reverse`` walks from the last slice to the first, storing each stacked yield at its slice.
``truncate = k`` says how far back the reverse sweep of a derivative goes; it does not change the
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.ops.attributes import get_bool, get_dim, get_int
from gradc.ir.ops.registry import Control, OpDef, TypeRuleError, register
from gradc.ir.tensor.core import Attrs, Block, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


def region_result_types(
    name: str, operands: Sequence[Value], regions: Sequence[Block], attributes: Attrs
) -> tuple[TensorType, ...]:
    """Result types of a region op. Raises TypeRuleError if operands and region parameters do not
    fit.
    """
    types = [v.type for v in operands]
    outputs = [v.type for v in regions[0].outputs]
    if name == "scan":
        return _scan_types(types, regions[0], attributes)
    _check_parameters(name, types, regions[0])
    if name == "custom":
        if len(regions) != 2:
            raise TypeRuleError(f"custom: takes 2 regions, got {len(regions)}")
        _check_parameters(name, [*types, *outputs, *outputs], regions[1])
        found = [v.type for v in regions[1].outputs]
        if found != types:
            raise TypeRuleError(f"custom: the pullback gives {_shown(found)} for {_shown(types)}")
    elif len(regions) != 1:
        raise TypeRuleError(f"{name}: takes 1 region, got {len(regions)}")
    return tuple(outputs)


def _shown(types: Sequence[TensorType]) -> str:
    return "(" + ", ".join(str(t) for t in types) + ")"


def _check_parameters(name: str, types: Sequence[TensorType], region: Block) -> None:
    expected = [v.type for v in region.parameters]
    if list(types) != expected:
        raise TypeRuleError(f"{name}: the region takes {_shown(expected)}, not {_shown(types)}")


def scan_counts(attributes: Attrs) -> tuple[int, int]:
    """The numbers of carried and of stacked operands. Raises TypeRuleError."""
    carried, stacked = get_int(attributes, "carried"), get_int(attributes, "stacked")
    if carried < 0 or stacked < 0 or get_int(attributes, "truncate") < 0:
        raise TypeRuleError("scan: carried, stacked and truncate must not be negative")
    get_bool(attributes, "reverse")
    return carried, stacked


def _scan_types(
    types: Sequence[TensorType], region: Block, attributes: Attrs
) -> tuple[TensorType, ...]:
    carried, stacked = scan_counts(attributes)
    trips = get_dim(attributes, "trips")
    slices = []
    for type_ in types[carried : carried + stacked]:
        if not type_.shape or type_.shape[0] != trips:
            raise TypeRuleError(f"scan: {type_} does not have {trips} slices")
        slices.append(type_.with_shape(type_.shape[1:]))
    carries = list(types[:carried])
    _check_parameters("scan", [*carries, *slices, *types[carried + stacked :]], region)
    outputs = [v.type for v in region.outputs]
    if outputs[:carried] != carries:
        raise TypeRuleError(
            f"scan: carries are {_shown(carries)} but the body yields {_shown(outputs[:carried])}"
        )
    return (*carries, *(t.with_shape((trips, *t.shape)) for t in outputs[carried:]))


def _needs_region(_types: Sequence[TensorType], _attributes: Attrs) -> tuple[TensorType, ...]:
    raise TypeRuleError("an op with regions has the types of its regions, and none was given")


def region_jvp(_b: Builder, op: Op, _tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """Region ops are differentiated by ``passes``, which never calls this. Raises ValueError."""
    raise ValueError(f"{op.name} is differentiated through its regions")


def region_vjp(
    _b: Builder, op: Op, _cts: Sequence[Value | None], _needed: Sequence[bool]
) -> Sequence[Value | None]:
    """Region ops are differentiated by ``passes``, which never calls this. Raises ValueError."""
    raise ValueError(f"{op.name} is differentiated through its regions")


def _run_region(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arrays.run(op.regions[0], operands))


def _run_scan(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    carried, stacked = scan_counts(op.attributes)
    trips = op.attributes["trips"]
    assert isinstance(trips, int), "dimensions are bound before a program runs"
    carries = list(operands[:carried])
    sequences = operands[carried : carried + stacked]
    constants = operands[carried + stacked :]
    rows: list[list[Any]] = []
    order = range(trips - 1, -1, -1) if op.attributes["reverse"] else range(trips)
    for trip in order:
        slices = [arrays.row(sequence, trip) for sequence in sequences]
        outputs = arrays.run(op.regions[0], [*carries, *slices, *constants])
        carries = list(outputs[:carried])
        rows.append(list(outputs[carried:]))
    if op.attributes["reverse"]:
        rows.reverse()
    collected = [
        arrays.stack([row[n] for row in rows], result.type.static_shape, result.type.dtype)
        for n, result in enumerate(op.results[carried:])
    ]
    return (*carries, *collected)


for _name, _doc, _form in (
    (
        "checkpoint",
        "runs its region; the reverse sweep recomputes what is inside",
        Control(recomputes=True, is_wrapper=True, is_transparent=True),
    ),
    (
        "custom",
        "runs its first region; the second is its pullback (operands, results, cotangents)",
        Control(has_pullback=True, is_wrapper=True, keeps_signature=True),
    ),
    (
        "fusion",
        "runs its region; a group of ops that becomes one kernel",
        Control(is_transparent=True),
    ),
):
    register(OpDef(_name, _doc, _needs_region, _run_region, region_jvp, region_vjp, _form))

register(
    OpDef(
        "scan",
        "a rolled loop: carries, stacked inputs and outputs, constants",
        _needs_region,
        _run_scan,
        region_jvp,
        region_vjp,
        Control(is_loop=True),
    )
)
