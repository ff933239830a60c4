"""Rules of form that the grammar leaves open: which statement may stand where, and complete
signatures.

Kept out of the grammar because here the message can say what is wrong and where it would belong.

Invariants: reads the tree only; walks it without recursion; reports and never raises.
Non-goals: names, types, shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.frontend.syntax import tree as s
from gradc.frontend.syntax.build import PullbackStatement
from gradc.frontend.syntax.diagnostics import Report, error

# Where a block is. ``declares`` names what it belongs to in messages.
_PLACES = {
    s.ParamDeclaration: ("param", ("model", "layer"), "a model or directly inside a layer"),
    s.UseDeclaration: ("use", ("model", "layer"), "a model or directly inside a layer"),
    s.StateDeclaration: (
        "state",
        ("model", "layer", "optimizer"),
        "a model, or directly inside a layer or an optimizer",
    ),
    s.Output: ("output", ("model",), "a model"),
    s.Yield: ("yield", ("scan",), "a `scan`"),
    s.StateWrite: ("state", ("model", "apply", "scan", "update"), "a model, `apply` or `update`"),
    s.Return: (
        "return",
        ("model", "apply", "fn", "update", "at", "sample", "pullback"),
        "the body of a model, a function or a method",
    ),
}


@dataclass(frozen=True, slots=True)
class _Frame:
    """A block to check: its statements, the kind of place it is in, and what is around that."""

    block: s.Block
    place: str
    outer: str


def check_structure(program: s.Program, report: Report) -> None:
    """Report every statement that stands where it means nothing, and every incomplete signature."""
    for declaration in program.declarations:
        _check_signatures(declaration, report)
        pending = list(reversed(_frames(declaration)))
        while pending:
            frame = pending.pop()
            for statement in frame.block:
                _check_place(statement, frame, report)
                pending.extend(_inner(statement, frame))


def _frames(declaration: s.Declaration) -> list[_Frame]:
    """The outermost blocks of a declaration."""
    match declaration:
        case s.Model(body=body):
            return [_Frame(body, "model", "model")]
        case s.Function(body=body, pullback=pullback):
            frames = [_Frame(body, "fn", "fn")]
            if pullback is not None:
                frames.append(_Frame(pullback.body, "pullback", "pullback"))
            return frames
        case s.Layer(members=members, apply=method):
            return [_Frame(members, "layer", "layer"), _Frame(method.body, "apply", "apply")]
        case s.Optimizer(members=members, update=method):
            frames = [_Frame(members, "optimizer", "optimizer")]
            return [*frames, _Frame(method.body, "update", "update")]
        case s.Schedule(at=method):
            return [_Frame(method.body, "at", "at")]
        case s.Initializer(sample=method):
            return [_Frame(method.body, "sample", "sample")]
        case _:
            return []


def _inner(statement: s.Statement, frame: _Frame) -> list[_Frame]:
    """The blocks within a statement. Declarations keep their place under `if`, and nowhere else."""
    match statement:
        case s.If(then=then, otherwise=otherwise):
            return [_Frame(b, frame.place, frame.outer) for b in (then, otherwise)]
        case s.Scan(body=body):
            return [_Frame(body, "scan", frame.outer)]
        case s.For(body=body):
            return [_Frame(body, "for", frame.outer)]
        case s.Checkpoint(body=body):
            return [_Frame(body, "checkpoint", frame.outer)]
        case _:
            return []


def _check_place(statement: s.Statement, frame: _Frame, report: Report) -> None:
    if isinstance(statement, PullbackStatement):
        message = "`pullback` stands directly inside a `fn`, after what it is the derivative of"
        report.add(error("GC0116", message, statement.span))
        return
    if isinstance(statement, s.LocalDim):
        for entry in statement.entries:
            if entry.default is None:
                message = f"`dim {entry.name.text}` inside a body has no value"
                help = f"write `dim {entry.name.text} = ...`, or declare it at the top of the file"
                report.add(error("GC0121", message, entry.span, help=help))
        return
    rule = _PLACES.get(type(statement))
    if rule is None:
        return
    word, places, description = rule
    is_write = isinstance(statement, s.StateWrite)
    place = frame.outer if is_write and frame.place in ("for", "checkpoint") else frame.place
    if place not in places:
        where = _DESCRIPTIONS[frame.place]
        message = f"`{word}` stands in {description}, not in {where}"
        report.add(error("GC0116", message, statement.span))


_DESCRIPTIONS = {
    "model": "the body of a model",
    "fn": "the body of a function",
    "pullback": "a pullback",
    "layer": "a layer",
    "optimizer": "an optimizer",
    "apply": "`apply`",
    "update": "`update`",
    "at": "`at`",
    "sample": "`sample`",
    "scan": "a `scan`",
    "for": "a `for`",
    "checkpoint": "a `checkpoint`",
}


def _check_signatures(declaration: s.Declaration, report: Report) -> None:
    """Arguments that hold arrays have types; methods that the compiler calls have none to give."""
    match declaration:
        case s.Model(parameters=parameters):
            _require_types(parameters, report)
        case s.Layer(apply=method):
            # An option such as `axis = -1` is known when the layer is applied, as with functions.
            _require_types(tuple(p for p in method.parameters if p.default is None), report)
        case _:
            return


def _require_types(parameters: tuple[s.Parameter, ...], report: Report) -> None:
    for parameter in parameters:
        if parameter.type is None:
            name = parameter.name.text
            if name in ("self", "this"):
                message = f"there is no `{name}`: a layer's parts are called by their own names"
                report.add(error("GC0112", message, parameter.span, help="leave it out"))
                continue
            message = f"argument `{name}` has no type"
            help = f"write `{name}: float[B, D]`, or `{name}: float` for a scalar"
            report.add(error("GC0118", message, parameter.span, help=help))
