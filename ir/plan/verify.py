"""Checks that a Plan is complete and that every address stays inside its storage: what a backend
asks before it makes code. (``passes.inspect.check`` replays a Plan byte by byte.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradc.ir.plan.flights import misused_flights

if TYPE_CHECKING:
    from gradc.ir.plan.plan import Launch, Plan


class PlanError(ValueError):
    """The Plan is not complete or contradicts itself: a bug of the pass that made it."""


def verify_plan(plan: Plan, alignment: int) -> None:
    """Raises PlanError, naming the tensor or the launch, unless ``plan`` is complete: what
    ``Plan.verify`` asks.
    """
    for number in sorted(plan.touched):
        _check_tensor(plan, number, alignment)
    for number, port in enumerate(plan.ports):
        if plan.tensors[port.tensor].argument != number:
            raise PlanError(f"port {port.name} is not entry argument {number}")
    for launch, trips in plan.walk():
        if any(count < 0 for count in trips):
            raise PlanError("a Repeat has negative trips")
        _check_launch(plan, launch, trips)
    for problem in misused_flights(plan):
        raise PlanError(problem)


def _check_tensor(plan: Plan, number: int, alignment: int) -> None:
    tensor = plan.tensors[number]
    seen: set[int] = set()
    for above in plan.chain(number):
        if above in seen:
            raise PlanError(f"tensor {tensor.name} is a view of itself")
        seen.add(above)
    root_number, offset = plan.place(number)
    root = plan.tensors[root_number]
    if root.space == "argument":
        if root.argument is None or not 0 <= root.argument < len(plan.ports):
            raise PlanError(f"tensor {tensor.name} names no entry argument")
        limit = root.nbytes
    else:
        if root.offset is None:
            raise PlanError(f"tensor {tensor.name} has no place in the arena")
        if root.offset % alignment:
            raise PlanError(f"tensor {root.name} is not aligned")
        offset += root.offset
        limit = plan.arena_bytes
    if tensor.nbytes and not 0 <= offset <= limit - tensor.nbytes:
        raise PlanError(f"tensor {tensor.name} leaves its storage")


def _check_launch(plan: Plan, launch: Launch, trips: tuple[int, ...]) -> None:
    kernel = plan.kernels[launch.kernel]
    buffers = kernel.bound
    if len(buffers) != len(launch.arguments):
        raise PlanError(f"launch of {kernel.name} has {len(launch.arguments)} arguments")
    if 0 in trips:
        return
    for buffer, argument in zip(buffers, launch.arguments, strict=True):
        tensor = plan.tensors[argument.tensor]
        if buffer.dtype != tensor.dtype:
            raise PlanError(f"{kernel.name}: {buffer.name} is {buffer.dtype}, {tensor.name} is not")
        root = plan.tensors[plan.place(argument.tensor)[0]]
        if buffer.memory == "arena" and root.space != "arena":
            raise PlanError(f"{kernel.name}: {buffer.name} is room in the arena, {tensor.name} not")
        low, high = argument.reach(trips)
        if buffer.size and not (low >= 0 and high + buffer.size <= tensor.size):
            raise PlanError(f"{kernel.name}: {buffer.name} leaves tensor {tensor.name}")
