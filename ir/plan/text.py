"""The text form of a Plan: ``parse_plan(print_plan(p))`` equals ``p``.

    plan "step" arena 128 threads 2 {
      port in input "x" f32[8] tensor 0
      tensor 0 "x" f32[8] argument 0
      tensor 1 "h" f32[8] arena offset 64 @ "m.grad":3:5-3:9 in "fc"
      tensor 2 "scratch" u32[16] arena offset 0
      kernel "k0" ...
      launch 0 (0, 1) scratch 2
      repeat 10 counter 3 {
        launch 1 (1 + 8 stride (64) parity (0))
      }
    }

Tensors and kernels are written in order and named by their number. ``offset`` is in bytes; what
follows ``+`` in an argument is in elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.loop.kernel import Kernel
from gradc.ir.loop.text import KernelParser, print_kernel
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Repeat, Step, Tensor
from gradc.ir.tensor.core import Role
from gradc.ir.tensor.text_tokens import Cursor, place_text, quote

_ROLES = {role.value: role for role in Role}


# --- writing --------------------------------------------------------------------------------------


def print_plan(plan: Plan) -> str:
    """The text of ``plan``, ending in a newline."""
    threads = f" threads {plan.threads}" if plan.threads else ""
    lines = [f"plan {quote(plan.name)} arena {plan.arena_bytes}{threads} {{"]
    lines += [f"  {_port(port)}" for port in plan.ports]
    lines += [f"  {_tensor(number, tensor)}" for number, tensor in enumerate(plan.tensors)]
    for kernel in plan.kernels:
        lines += [f"  {line}" for line in print_kernel(kernel).splitlines()]
    _steps(plan.steps, "  ", lines)
    return "\n".join([*lines, "}"]) + "\n"


def _type(item: Port | Tensor) -> str:
    return f"{item.dtype}[{', '.join(str(n) for n in item.shape)}]"


def _port(port: Port) -> str:
    head = f"port {port.direction} {port.role.value} {quote(port.name)}"
    return f"{head} {_type(port)} tensor {port.tensor}"


def _tensor(number: int, tensor: Tensor) -> str:
    text = f"tensor {number} {quote(tensor.name)} {_type(tensor)} {tensor.space}"
    if tensor.argument is not None:
        text += f" number {tensor.argument}"
    if tensor.offset is not None:
        text += f" offset {tensor.offset}"
    if tensor.root is not None:
        text += f" root {tensor.root}"
    if tensor.root_offset:
        text += f" at {tensor.root_offset}"
    return text + place_text(tensor.span, tensor.scope)


def _argument(argument: Argument) -> str:
    text = str(argument.tensor)
    if argument.offset:
        text += f" + {argument.offset}"
    for word, numbers in (("stride", argument.strides), ("parity", argument.parity)):
        if numbers:
            text += f" {word} ({', '.join(str(n) for n in numbers)})"
    return text


def _steps(steps: Sequence[Step], indent: str, lines: list[str]) -> None:
    def launch(step: Launch) -> None:
        arguments = ", ".join(_argument(a) for a in step.arguments)
        place = place_text(step.span, step.scope, step.replica)
        scratch = "" if step.scratch is None else f" scratch {step.scratch}"
        lines.append(f"{indent}launch {step.kernel} ({arguments}){scratch}{place}")

    def repeat(step: Repeat) -> None:
        cell = "" if step.counter_cell is None else f" counter {step.counter_cell}"
        lines.append(f"{indent}repeat {step.trips}{cell}{place_text(step.span)} {{")
        _steps(step.body, indent + "  ", lines)
        lines.append(f"{indent}}}")

    for step in steps:
        step.case(launch, repeat)


# --- reading --------------------------------------------------------------------------------------


def parse_plan(text: str) -> Plan:
    """The only Plan of ``text``. Raises TextError."""
    cursor = Cursor(text)
    found = _Parser(cursor).plan()
    if cursor.kind != "end":
        raise cursor.error("text after the plan")
    return found


class _Parser:
    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.ports: list[Port] = []
        self.tensors: list[Tensor] = []
        self.kernels: list[Kernel] = []

    def plan(self) -> Plan:
        cursor = self.cursor
        cursor.expect("plan")
        name = cursor.string()
        cursor.expect("arena")
        arena, threads = cursor.integer(), self.optional("threads") or 0
        cursor.expect("{")
        while cursor.accept("port"):
            self.ports.append(self.port())
        while cursor.accept("tensor"):
            self.tensors.append(self.tensor())
        while cursor.text == "kernel":
            self.kernels.append(KernelParser(cursor).kernel())
        steps = self.steps()
        parts = tuple(self.ports), tuple(self.tensors), tuple(self.kernels)
        return Plan(name, *parts, steps, arena, threads)

    def port(self) -> Port:
        cursor = self.cursor
        direction, role = cursor.take("word"), cursor.take("word")
        name, type_ = cursor.string(), cursor.type()
        cursor.expect("tensor")
        tensor = cursor.integer()
        if role not in _ROLES:
            raise cursor.error(f"`{role}` is not a role")
        match direction:
            case "in" | "out" | "inout":
                shape = type_.static_shape
                return Port(name, _ROLES[role], shape, type_.dtype, direction, tensor)
        raise cursor.error(f"`{direction}` is not a direction")

    def optional(self, word: str) -> int | None:
        return self.cursor.integer() if self.cursor.accept(word) else None

    def tensor(self) -> Tensor:
        cursor = self.cursor
        number = cursor.integer()
        if number != len(self.tensors):
            raise cursor.error(f"tensor {number} is out of order, expected {len(self.tensors)}")
        name, type_, space = cursor.string(), cursor.type(), cursor.take("word")
        argument, offset, root = (self.optional(w) for w in ("number", "offset", "root"))
        root_offset = self.optional("at") or 0
        span, scope, _ = cursor.place()
        match space:
            case "argument" | "arena":
                return Tensor(
                    name,
                    type_.static_shape,
                    type_.dtype,
                    space,
                    argument,
                    offset,
                    root,
                    root_offset,
                    span,
                    scope,
                )
        raise cursor.error(f"`{space}` is not a space")

    def steps(self) -> tuple[Step, ...]:
        """Steps up to the closing brace, which is taken."""
        cursor = self.cursor
        cursor.enter()
        found: list[Step] = []
        while not cursor.accept("}"):
            if cursor.accept("launch"):
                found.append(self.launch())
            else:
                cursor.expect("repeat")
                trips, cell = cursor.integer(), self.optional("counter")
                span, _, _ = cursor.place()
                cursor.expect("{")
                found.append(Repeat(trips, self.steps(), cell, span))
        cursor.leave()
        return tuple(found)

    def launch(self) -> Launch:
        cursor = self.cursor
        kernel = cursor.integer()
        cursor.expect("(")
        arguments = tuple(cursor.separated(self.argument, ")"))
        scratch = self.optional("scratch")
        return Launch(kernel, arguments, *cursor.place(), scratch)

    def argument(self) -> Argument:
        tensor = self.cursor.integer()
        offset = self.optional("+") or 0
        return Argument(tensor, offset, self.numbers("stride"), self.numbers("parity"))

    def numbers(self, word: str) -> tuple[int, ...]:
        if not self.cursor.accept(word):
            return ()
        self.cursor.expect("(")
        return tuple(self.cursor.separated(self.cursor.integer, ")"))
