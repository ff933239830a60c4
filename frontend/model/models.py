"""From a program to a model in tensor IR: checking with symbols, lowering with integers.

``check`` elaborates every declaration with dimensions as symbols and reports what it finds.
``lower`` checks, binds the dimensions and elaborates one model again, which gives a ``ModelIR``.

Invariants of a ModelIR: parameters of the function are PARAMs and STATEs in the order of
declaration, then the random counter ``rng`` (u32[2]: seed, step) if the model draws, then the
INPUTs; results are LOSS (what the model returns), OUTPUTs in the order of the text, then the STATEs
that were written. No symbol is left in any type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradc.frontend.elaborate.calls import check_results
from gradc.frontend.elaborate.context import Context, Declared
from gradc.frontend.elaborate.elaborate import Elaborator, deepen_stack
from gradc.frontend.elaborate.names import Names
from gradc.frontend.elaborate.shapes import element_type, tensor
from gradc.frontend.elaborate.signatures import exact_shape, names_in, unknown_type
from gradc.frontend.elaborate.values import POISON, Binding, Frame, Named, Poison, as_dim, describe
from gradc.frontend.model.initial import InitializerIR, elaborate_initializer, fans
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label, Report
from gradc.ir.tensor.core import DType, Function, Role, Slot, Span, TensorType, Value, walk
from gradc.ir.tensor.dims import Dim, DimensionTooLarge, symbol

PRECISIONS = {"f64": DType.F64, "f32": DType.F32, "bf16": DType.BF16, "f16": DType.F16}
RANDOM_STATE = "rng"
# Addresses of one array stay within 48 bits.
MAX_BYTES = 1 << 47
MAX_TOTAL = 1 << 56


@dataclass(frozen=True, slots=True, eq=False)
class ParameterSpec:
    """A parameter or state: path, type, role, where it is declared and how it starts (None: the
    random counter).
    """

    path: str
    type: TensorType
    role: Role
    span: Span | None
    initializer: InitializerIR | None
    fan_in: int = 1
    fan_out: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class InputSpec:
    """An array of the call; the type may hold symbols in a Signature, never in a ModelIR."""

    name: str
    type: TensorType
    span: Span | None
    role: Role = Role.INPUT


@dataclass(frozen=True, slots=True, eq=False)
class ModelIR:
    """A model with every dimension bound; ``names`` are what the program calls its values."""

    name: str
    function: Function
    parameters: tuple[ParameterSpec, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[tuple[str, TensorType], ...]
    loss: TensorType
    dims: Mapping[str, int]
    precision: DType
    training: bool
    names: Mapping[Value, Named] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a call of a model looks like before its dimensions are bound.

    ``dims`` are all dimensions the model uses, with their defaults (None: bound by arrays or by the
    user); ``outputs`` are the loss and the named outputs.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    parameters: tuple[InputSpec, ...]
    dims: Mapping[str, int | None]
    span: Span
    outputs: tuple[tuple[str, TensorType], ...] = ()


@dataclass
class Elaborated:
    """One model elaborated: the context it left and what was made."""

    ctx: Context
    model: tree.Model
    inputs: list[InputSpec] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    loss: Value | None = None
    implicit: dict[str, None] = field(default_factory=dict)


def elaborate_model(
    names: Names,
    report: Report,
    model: tree.Model,
    dims: Mapping[str, Dim],
    sample: Mapping[str, Dim],
    floating: DType,
    training: bool,
) -> Elaborated:
    """Elaborates ``model``; problems go to ``report``."""
    deepen_stack()
    ctx = Context(Elaborator(), names, report, dict(dims), dict(sample), floating, training)
    made = Elaborated(ctx, model)
    frame = Frame(
        "model", model.name.text, False, floating=floating, body=model.body, declaration=model
    )
    with ctx.entered(frame):
        _bind_inputs(made)
        ctx.execute(model.body)
        made.loss = _loss(made, frame)
    return made


def _bind_inputs(made: Elaborated) -> None:
    ctx = made.ctx
    for parameter in made.model.parameters:
        name, type_ = parameter.name, parameter.type
        assert type_ is not None
        if name.text in ctx.paths:
            labels = [Label(ctx.paths[name.text], "first declared here")]
            ctx.error("GC0202", f"there are two inputs `{name.text}`", name, labels=labels)
            continue
        ctx.paths[name.text] = name.span
        for dim in type_.dims:
            for unbound in names_in(dim):
                _bind_implicit(made, unbound, dim.span)
        shape = exact_shape(ctx, type_)
        dtype = element_type(ctx, type_.element.text)
        if dtype is None:
            unknown_type(ctx, type_)
        if shape is None or dtype is None:
            ctx.bind(name.text, POISON, name.span)
            continue
        value = Value(TensorType(shape, dtype), name.text)
        made.inputs.append(InputSpec(name.text, value.type, parameter.span))
        made.values.append(value)
        ctx.bind(name.text, value, parameter.span)


def _bind_implicit(made: Elaborated, name: str, span: Span) -> None:
    """A dimension that only the model's signature names is bound by the arrays of the call."""
    ctx = made.ctx
    if name in ctx.names.dims or name in ctx.frame.names:
        return
    made.implicit[name] = None
    ctx.frame.names[name] = Binding(ctx.dims.get(name, symbol(name)), span)


def _loss(made: Elaborated, frame: Frame) -> Value | None:
    ctx, model = made.ctx, made.model
    if frame.result is None:
        if not frame.is_spoilt:
            help = "end it with `return mean(...)`"
            message = f"model `{model.name.text}` does not return its loss"
            ctx.error("GC0204", message, model.name, help=help)
        return None
    if isinstance(frame.result, tuple):
        assert frame.result_span is not None
        help = "write `output name` for the others"
        ctx.error("GC0305", "a model returns one value", frame.result_span, help=help)
        return None
    item = check_results(ctx, frame, model.results)
    if isinstance(item, Poison):
        return None
    span = frame.result_span or model.name.span
    dtype = ctx.frame.floating if not isinstance(item, bool) else None
    value = tensor(ctx, item, tree.Node(span), dtype)
    if isinstance(value, Poison):
        return None
    if not value.type.dtype.is_float:
        message = f"a model returns a floating-point loss, not `{value.type}`"
        help = "integers have no derivative; convert with `cast(x, float)`"
        ctx.error("GC0313", message, span, help=help)
        return None
    return value


def assemble(made: Elaborated, name: str) -> Function:
    """Closes the function of an elaborated model without errors."""
    ctx = made.ctx
    assert made.loss is not None
    builder = ctx.region.builder
    slots: list[Slot] = []
    for declared in ctx.declared.values():
        builder.parameters.append(declared.value)
        slots.append(Slot(declared.path, declared.role, declared.span))
    if ctx.random_key is not None:
        builder.parameters.append(ctx.random_key)
        slots.append(Slot(RANDOM_STATE, Role.STATE))
    for spec, value in zip(made.inputs, made.values, strict=True):
        builder.parameters.append(value)
        slots.append(Slot(spec.name, Role.INPUT, spec.span))
    outputs = [made.loss]
    results = [Slot(result_name(made), Role.LOSS, made.model.name.span)]
    for output, (value, span) in ctx.outputs.items():
        outputs.append(value)
        results.append(Slot(output, Role.OUTPUT, span))
    for path, span in ctx.written.items():
        outputs.append(ctx.state_values[path])
        results.append(Slot(path, Role.STATE, span))
    if ctx.random_key is not None:
        outputs.append(_next_key(made))
        results.append(Slot(RANDOM_STATE, Role.STATE))
    builder.span = made.model.span
    builder.scope = ""
    return builder.function(name, outputs, slots, results)


def result_name(made: Elaborated) -> str:
    """What the value that a model returns is called: `loss` if it is one number, else by its name
    in the program, or `result` if it has none of its own."""
    assert made.loss is not None
    if made.loss.type.rank == 0:
        return "loss"
    end = made.model.body[-1] if made.model.body else None
    value = end.values[0] if isinstance(end, tree.Return) else None
    taken = {*made.ctx.outputs, *made.ctx.declared, *(spec.name for spec in made.inputs)}
    if isinstance(value, tree.Name) and value.text not in taken:
        return value.text
    return "result" if "result" not in taken else "loss"


def check_sizes(made: Elaborated, function: Function) -> None:
    """Reports arrays that no machine can hold, alone or together, where they come from; symbols may
    be anything.
    """
    rows = [
        (value, slot.span)
        for slot, value in zip(function.parameters, function.block.parameters, strict=True)
    ]
    rows += [(value, op.span) for op in walk(function.block) for value in op.results]
    total = 0
    for value, span in rows:
        known = math.prod(d for d in value.type.shape if isinstance(d, int))
        is_whole = all(isinstance(d, int) for d in value.type.shape)
        nbytes = known * value.type.dtype.itemsize
        if not is_whole and nbytes < 2**63:
            continue
        total += nbytes
        if nbytes >= MAX_BYTES or total >= MAX_TOTAL:
            takes = "takes" if is_whole else "takes, for each size of its other dimensions,"
            what = (
                f"`{value.type}` {takes}" if nbytes >= MAX_BYTES else "the arrays up to here take"
            )
            message = f"{what} {max(nbytes, total)} bytes"
            place = span or made.model.span
            made.ctx.error("GC0404", message, place, help="choose smaller dimensions")
            return


def _next_key(made: Elaborated) -> Value:
    """The random counter of the next step: (seed, step + 1)."""
    builder = made.ctx.region.builder
    key = made.ctx.random_key
    assert key is not None
    builder.span, builder.scope = made.model.span, ""
    step = builder.one("iota", axis=0, dtype=DType.U32, shape=(2,))
    return builder.one("add", key, step)


def specifications(made: Elaborated) -> tuple[ParameterSpec, ...]:
    """Parameters and states in order, with their starts; problems with initialisers are
    reported.
    """
    cache: dict[tuple[object, ...], InitializerIR | None] = {}
    result: list[ParameterSpec] = []
    for declared in made.ctx.declared.values():
        try:
            start = _start(made, declared, cache)
            sizes = fans(declared.value.type.shape)
        except DimensionTooLarge:
            made.ctx.dimension_too_large(declared.statement)
            continue
        fan_in, fan_out = (size if isinstance(size, int) else 1 for size in sizes)
        result.append(
            ParameterSpec(
                declared.path,
                declared.value.type,
                declared.role,
                declared.span,
                start,
                fan_in,
                fan_out,
            )
        )
    key = made.ctx.random_key
    if key is not None:
        result.append(ParameterSpec(RANDOM_STATE, key.type, Role.STATE, None, None))
    return tuple(result)


def _start(
    made: Elaborated, declared: Declared, cache: dict[tuple[object, ...], InitializerIR | None]
) -> InitializerIR | None:
    """The initialiser, made once for declarations that cannot differ in it."""
    node = declared.initializer
    if not isinstance(node, tree.Name):
        with_frame = (id(node), declared.path)
        return cache.setdefault(with_frame, elaborate_initializer(made.ctx, declared))
    key = (node.text, declared.frame.is_library, declared.value.type)
    if key not in cache:
        cache[key] = elaborate_initializer(made.ctx, declared)
    return cache[key]


# --- dimensions


def default_dims(names: Names, report: Report, overrides: Mapping[str, int]) -> dict[str, int]:
    """The dimensions that have a value: overridden ones, then defaults, in the order of the
    text.
    """
    ctx = Context(Elaborator(), names, report, {}, {}, DType.F32, True)
    frame = Frame("dims", "dims", False)
    found: dict[str, int] = {}
    with ctx.entered(frame):
        for name in names.dims:
            ctx.dims[name] = symbol(name)
        for name, entry in names.dims.items():
            if name in overrides:
                ctx.dims[name] = found[name] = overrides[name]
            elif entry.default is not None:
                value = _default(ctx, entry)
                if isinstance(value, int):
                    ctx.dims[name] = found[name] = value
    return found


def _default(ctx: Context, entry: tree.DimEntry) -> Dim | None:
    assert entry.default is not None
    item = ctx.evaluate(entry.default)
    dim = as_dim(item)
    if dim is None:
        if not isinstance(item, Poison):
            message = f"a dimension is an integer, and `{entry.name.text}` is {describe(item)}"
            help = "use `//` to divide" if isinstance(item, float) else ""
            ctx.error("GC0402", message, entry.default, help=help)
        return None
    if isinstance(dim, int) and dim < 0:
        message = f"a dimension cannot be negative, and `{entry.name.text}` is {dim}"
        ctx.error("GC0405", message, entry.default)
        return None
    return dim


def derived_dims(names: Names) -> tuple[str, ...]:
    """The dimensions that others define, such as ``D = N * P``."""
    return tuple(
        name
        for name, entry in names.dims.items()
        if entry.default is not None and names_in(entry.default)
    )


def symbolic_dims(
    names: Names, report: Report, overrides: Mapping[str, int]
) -> tuple[dict[str, Dim], dict[str, Dim]]:
    """Every dimension as a symbol (computed ones as polynomials), and the values that are known."""
    known = default_dims(names, report, overrides)
    ctx = Context(Elaborator(), names, report, {}, dict(known), DType.F32, True)
    with ctx.entered(Frame("dims", "dims", False)):
        for name in names.dims:
            ctx.dims[name] = symbol(name)
        for name, entry in names.dims.items():
            if name not in overrides and entry.default is not None and names_in(entry.default):
                dim = as_dim(ctx.evaluate(entry.default))
                if dim is not None:
                    ctx.dims[name] = dim
    return ctx.dims, dict(known)
