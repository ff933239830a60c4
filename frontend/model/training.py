"""Optimisers and schedules as tensor-IR Functions.

``adamw(lr = 1e-3)`` is read with the language's own parser and matched with the declaration of that
name, the program's own first. The first argument called ``lr`` stays a run-time scalar, so that a
schedule can set it at each step; the others are constants of the Function.

Results: an ``OptimizerIR`` makes one Function per parameter type: p (PARAM), g (COTANGENT), t and
lr (HYPER), slots (SLOT) to p and slots. A ``ScheduleIR`` holds one Function from t (HYPER) to the
rate (OUTPUT). ``t`` counts steps from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradc.frontend.elaborate import library
from gradc.frontend.elaborate.calls import run_body
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.elaborate import Elaborator, deepen_stack
from gradc.frontend.elaborate.names import Names
from gradc.frontend.elaborate.shapes import element_type, stretch, tensor
from gradc.frontend.elaborate.signatures import dimension, formals_of, match, unknown_type
from gradc.frontend.elaborate.values import (
    Argument,
    Binding,
    Frame,
    Item,
    Poison,
    describe,
    is_number,
)
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.parse import parse_expression
from gradc.ir.diagnostics.diagnostic import DiagnosticError, Report, did_you_mean, error
from gradc.ir.tensor.core import DType, Function, Role, Slot, Span, TensorType, Value
from gradc.ir.tensor.dims import Dim, symbol

RATE = "lr"


@dataclass(frozen=True, slots=True, eq=False)
class SlotSpec:
    """State that an optimiser keeps for one parameter; it starts as a splat of ``start``."""

    name: str
    type: TensorType
    start: float


@dataclass(frozen=True, slots=True, eq=False)
class UpdateIR:
    """The update of one parameter: (p, g, t, lr, slots...) to (p, slots...); ``lr`` only if the
    optimiser has it.
    """

    function: Function
    slots: tuple[SlotSpec, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerIR:
    """An optimiser with its arguments. ``rate`` is the value of ``lr``, None if it has no such
    argument.
    """

    name: str
    text: str
    rate: float | None
    arguments: Mapping[str, float | bool]
    declaration: tree.Optimizer
    is_library: bool
    names: Names
    _made: dict[TensorType, UpdateIR] = field(default_factory=dict, init=False, repr=False)

    def update(self, type_: TensorType) -> UpdateIR:
        """The update of a parameter of this type (its gradient has the same one): the same object
        for all parameters of a type, as a program has thousands of few types.

        Raises:
            DiagnosticError: where the update does not fit a parameter of this type.
        """
        made = self._made.get(type_)
        if made is None:
            report = Report(self.names.report.sources)
            made = _update(self, type_, report)
            report.raise_errors()
            assert made is not None
            self._made[type_] = made
        return made


@dataclass(frozen=True, slots=True, eq=False)
class ScheduleIR:
    """A schedule with its arguments: a Function from the step's number to the learning rate."""

    name: str
    text: str
    function: Function


def lower_optimizer(
    text: str, names: Names | None = None, origin: str = "<optimizer>"
) -> OptimizerIR:
    """The optimiser that ``text`` names or calls, with its arguments checked.

    Raises:
        DiagnosticError: for text that is not a call, unknown names, arguments that do not fit, and
            updates that are wrong for every parameter.
    """
    report = Report()
    names = _with_report(names, report)
    call = _call(text, origin, report)
    name = _callee(call)
    found = names.optimizer(name)
    if found is None:
        known = [*names.optimizers, *library.names("optimizer")]
        raise _unknown("optimizer", name, known, call, report)
    declaration, is_library = found
    ctx = _context(names, report, DType.F64)
    arguments = _arguments(ctx, call, declaration.parameters, declaration.name, is_library)
    report.raise_errors()
    assert arguments is not None
    rate = arguments.get(RATE)
    optimizer = OptimizerIR(
        name,
        text,
        None if rate is None else float(rate),
        {key: value for key, value in arguments.items() if key != RATE},
        declaration,
        is_library,
        names,
    )
    optimizer.update(TensorType((3,), DType.F32))
    return optimizer


def lower_schedule(
    text: str, names: Names | None = None, origin: str = "<schedule>", dtype: DType = DType.F64
) -> ScheduleIR:
    """The schedule that ``text`` calls, as a Function from t to the rate, both scalars of
    ``dtype``.

    Raises:
        DiagnosticError: for text that is not a call, unknown names, and arguments that do not fit.
    """
    report = Report()
    names = _with_report(names, report)
    call = _call(text, origin, report)
    name = _callee(call)
    found = names.schedule(name)
    if found is None:
        known = [*names.schedules, *library.names("schedule")]
        raise _unknown("schedule", name, known, call, report)
    declaration, is_library = found
    ctx = _context(names, report, dtype)
    arguments = _arguments(ctx, call, declaration.parameters, declaration.name, is_library)
    report.raise_errors()
    assert arguments is not None
    function = _schedule(ctx, declaration, is_library, arguments)
    report.raise_errors()
    assert function is not None
    return ScheduleIR(name, text, function)


def _with_report(names: Names | None, report: Report) -> Names:
    """The same names, reporting elsewhere; the texts of the program stay quotable."""
    if names is None:
        return Names(report)
    report.sources.by_name.update(names.report.sources.by_name)
    return names.reporting_to(report)


def _context(names: Names, report: Report, floating: DType) -> Context:
    deepen_stack()
    return Context(Elaborator(), names, report, {}, {}, floating, True)


def _call(text: str, origin: str, report: Report) -> tree.Call:
    node = parse_expression(text, origin, report)
    if isinstance(node, tree.Name):
        return tree.Call(node.span, node, ())
    if isinstance(node, tree.Call) and isinstance(node.callee, tree.Name):
        return node
    message = f"a name with arguments is expected, such as `adamw(lr=1e-3)`, not `{text.strip()}`"
    raise DiagnosticError([error("GC0217", message, node.span)], report.sources)


def _callee(call: tree.Call) -> str:
    assert isinstance(call.callee, tree.Name)
    return call.callee.text


def _unknown(
    kind: str, name: str, known: list[str], call: tree.Call, report: Report
) -> DiagnosticError:
    help = did_you_mean(name, known) or f"there are {', '.join(known)}"
    found = error("GC0201", f"there is no {kind} `{name}`", call.callee.span, help=help)
    return DiagnosticError([found], report.sources)


def _arguments(
    ctx: Context,
    call: tree.Call,
    parameters: tuple[tree.Parameter, ...],
    declared: tree.Name,
    is_library: bool,
) -> dict[str, float | bool] | None:
    """All arguments as numbers, defaults among them; None after reporting."""
    with ctx.entered(Frame("call", declared.text, True)):
        given = match(ctx, call, declared.text, formals_of(parameters), declared.span)
        if given is None:
            return None
        values: dict[str, float | bool] = {}
        for parameter in parameters:
            name = parameter.name.text
            argument = given.get(name)
            if argument is None:
                assert parameter.default is not None
                argument = Argument(ctx.evaluate(parameter.default), parameter.default, False)
            item = argument.item
            if isinstance(item, (bool, int, float)):
                if not _fits(ctx, declared.text, parameter, item, argument, is_library):
                    continue
                values[name] = item
                ctx.bind(name, item, parameter.name.span)
            elif not isinstance(item, Poison):
                message = f"`{declared.text}` takes numbers, and `{name}` is {describe(item)}"
                ctx.error("GC0308", message, argument.node)
    return values


def _fits(
    ctx: Context,
    callee: str,
    parameter: tree.Parameter,
    item: float | bool,
    argument: Argument,
    is_library: bool,
) -> bool:
    """Reports a truth value for a number and the other way round.

    A default says which is meant; without one the library's arguments are numbers, and a program
    may take either.
    """
    if parameter.default is None:
        if not is_library and parameter.name.text != RATE:
            return True
        wants_truth = False
    else:
        wants_truth = isinstance(ctx.evaluate(parameter.default), bool)
    if isinstance(item, bool) == wants_truth:
        return True
    wanted = "`true` or `false`" if wants_truth else "a number"
    message = f"`{parameter.name.text}` of `{callee}` is {wanted}, not {describe(item)}"
    ctx.error("GC0308", message, argument.node)
    return False


# --- optimisers


def check_update(ctx: Context, declaration: tree.Optimizer) -> None:
    """Checks an optimiser on its own, for a vector; arguments without a default count as 0.5."""
    arguments = _sampled(ctx, declaration.parameters)
    has_rate = RATE in arguments
    numbers = {name: value for name, value in arguments.items() if name != RATE}
    type_ = TensorType((symbol("n"),), ctx.floating)
    _elaborate_update(ctx, declaration, False, numbers, has_rate, type_)


def check_schedule(ctx: Context, declaration: tree.Schedule) -> None:
    """Checks a schedule on its own; arguments without a default count as 0.5."""
    _schedule(ctx, declaration, False, _sampled(ctx, declaration.parameters))


def _sampled(ctx: Context, parameters: tuple[tree.Parameter, ...]) -> dict[str, float | bool]:
    values: dict[str, float | bool] = {}
    with ctx.entered(Frame("call", "call", False)):
        for parameter in parameters:
            item: Item = 0.5
            if parameter.default is not None:
                item = ctx.evaluate(parameter.default)
            number = item if isinstance(item, (bool, int, float)) else 0.5
            values[parameter.name.text] = number
            ctx.bind(parameter.name.text, number, parameter.name.span)
    return values


def _update(optimizer: OptimizerIR, type_: TensorType, report: Report) -> UpdateIR | None:
    ctx = _context(optimizer.names.reporting_to(report), report, type_.dtype)
    return _elaborate_update(
        ctx,
        optimizer.declaration,
        optimizer.is_library,
        optimizer.arguments,
        optimizer.rate is not None,
        type_,
    )


def _elaborate_update(
    ctx: Context,
    declaration: tree.Optimizer,
    is_library: bool,
    numbers: Mapping[str, float | bool],
    has_rate: bool,
    type_: TensorType,
) -> UpdateIR | None:
    frame = Frame(
        "update",
        declaration.name.text,
        is_library,
        floating=type_.dtype,
        body=declaration.update.body,
        declaration=declaration,
    )
    builder = ctx.region.builder
    scalar = TensorType((), type_.dtype)
    with ctx.entered(frame):
        for key, number in numbers.items():
            ctx.bind(key, number, None)
        slots = _slots(ctx, declaration, type_)
        rate = Value(scalar, RATE) if has_rate else None
        if rate is not None:
            ctx.bind(RATE, rate, None)
        p, g, t = Value(type_, "p"), Value(type_, "g"), Value(scalar, "t")
        if not _bind_method(ctx, declaration.update, (p, g, t), "p, g, t"):
            return None
        state = [Value(spec.type, spec.name) for spec in slots]
        for spec, value in zip(slots, state, strict=True):
            ctx.bind(spec.name, value, None)
            frame.states[spec.name] = spec.name
        item = run_body(ctx, frame, "optimizer", declaration.name, declaration.update.results)
        span = frame.result_span or declaration.name.span
        results = [_like(ctx, item, type_, span, "the new parameter")]
        for spec in slots:
            found = frame.names[spec.name]
            results.append(
                _like(ctx, found.item, spec.type, found.span or span, f"state `{spec.name}`")
            )
    outputs = [value for value in results if value is not None]
    if len(outputs) != len(results):
        return None
    hyper = [t] if rate is None else [t, rate]
    builder.parameters[:] = [p, g, *hyper, *state]
    names = [spec.name for spec in slots]
    parameters = [
        Slot("p", Role.PARAM),
        Slot("g", Role.COTANGENT),
        *(Slot(value.hint, Role.HYPER) for value in hyper),
        *(Slot(name, Role.SLOT) for name in names),
    ]
    kept = [Slot("p", Role.PARAM), *(Slot(name, Role.SLOT) for name in names)]
    builder.span = declaration.span
    function = builder.function(declaration.name.text, outputs, parameters, kept)
    return UpdateIR(function, tuple(slots))


def _bind_method(ctx: Context, method: tree.Method, items: tuple[Item, ...], shown: str) -> bool:
    """Binds the parameters that the compiler hands to a method, by position."""
    parameters = method.parameters
    if len(parameters) != len(items):
        message = f"`{method.name.text}` takes ({shown}), and {len(parameters)} are declared"
        ctx.error("GC0203", message, method.name, help=f"write `{method.name.text}({shown})`")
        return False
    for parameter, item in zip(parameters, items, strict=True):
        ctx.frame.names[parameter.name.text] = Binding(item, parameter.name.span)
    return True


def _slots(ctx: Context, declaration: tree.Optimizer, type_: TensorType) -> list[SlotSpec]:
    """The states that the members declare for this parameter, under the conditions that hold."""
    members = [m for m in declaration.members if not isinstance(m, tree.StateDeclaration)]
    found: list[SlotSpec] = []
    for member in declaration.members:
        if isinstance(member, tree.StateDeclaration):
            spec = _slot(ctx, member, type_)
            if spec is not None:
                found.append(spec)
        elif isinstance(member, tree.If):
            condition = ctx.evaluate(member.condition)
            branch = member.then if condition is True else member.otherwise
            for inner in branch:
                if isinstance(inner, tree.StateDeclaration):
                    spec = _slot(ctx, inner, type_)
                    if spec is not None:
                        found.append(spec)
    ctx.execute(tuple(m for m in members if isinstance(m, tree.LocalDim)))
    return found


def _slot(ctx: Context, member: tree.StateDeclaration, type_: TensorType) -> SlotSpec | None:
    slot_type = type_
    if member.type is not None:
        dtype = element_type(ctx, member.type.element.text)
        if dtype is None:
            unknown_type(ctx, member.type)
            return None
        sizes: list[Dim] = []
        for dim in member.type.dims:
            size = None if isinstance(dim, tree.Ellipsis) else dimension(ctx, dim)
            if size is None:
                return None
            sizes.append(size)
        slot_type = TensorType(tuple(sizes), dtype)
    start = _start(ctx, member)
    return None if start is None else SlotSpec(member.name.text, slot_type, start)


def _start(ctx: Context, member: tree.StateDeclaration) -> float | None:
    """Where a slot starts: zeros, ones, or constant(x)."""
    node = member.initializer
    name = node.text if isinstance(node, tree.Name) else ""
    if node is None or name == "zeros":
        return 0.0
    if name == "ones":
        return 1.0
    if (
        isinstance(node, tree.Call)
        and isinstance(node.callee, tree.Name)
        and node.callee.text == "constant"
        and len(node.arguments) == 1
    ):
        item = ctx.evaluate(node.arguments[0].value)
        if isinstance(item, (int, float)):
            return float(item)
    message = "the state of an optimizer starts as `zeros`, `ones` or `constant(...)`"
    ctx.error("GC0208", message, node)
    return None


def _like(ctx: Context, item: Item, type_: TensorType, span: Span, what: str) -> Value | None:
    """``item`` as a value of ``type_``; scalars stretch."""
    at = tree.Node(span)
    if isinstance(item, Poison):
        return None
    value = tensor(ctx, item, at, type_.dtype if is_number(item) else None)
    if isinstance(value, Value) and value.type.dtype is type_.dtype:
        if value.type.shape == type_.shape:
            return value
        if not value.type.shape:
            made = stretch(ctx, value, type_.shape, at)
            return made if isinstance(made, Value) else None
    if isinstance(value, Value):
        ctx.error("GC0305", f"{what} must be `{type_}`, and `{value.type}` is computed", span)
    return None


# --- schedules


def _schedule(
    ctx: Context,
    declaration: tree.Schedule,
    is_library: bool,
    arguments: Mapping[str, float | bool],
) -> Function | None:
    frame = Frame(
        "at",
        declaration.name.text,
        is_library,
        floating=ctx.floating,
        body=declaration.at.body,
        declaration=declaration,
    )
    scalar = TensorType((), ctx.floating)
    step = Value(scalar, "t")
    with ctx.entered(frame):
        for key, value in arguments.items():
            ctx.bind(key, value, None)
        if not _bind_method(ctx, declaration.at, (step,), "t"):
            return None
        item = run_body(ctx, frame, "schedule", declaration.name, declaration.at.results)
        span = frame.result_span or declaration.name.span
        rate = _like(ctx, item, scalar, span, "a learning rate")
    if rate is None:
        return None
    builder = ctx.region.builder
    builder.parameters[:] = [step]
    builder.span = declaration.span
    return builder.function(
        declaration.name.text, [rate], [Slot("t", Role.HYPER)], [Slot(RATE, Role.OUTPUT)]
    )
