"""Dimensions from the arrays of a call.

Each dimension of each input is an equation between a polynomial and a size. Equations with one
unknown that is linear in it are solved, as often as that finds something new; the rest is compared.
A default or a value given by the user is never overridden by an array: a different size is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradc.frontend.model.models import InputSpec, Signature
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, Label, did_you_mean, error
from gradc.ir.diagnostics.source import Sources
from gradc.ir.tensor.dims import Dim, divide_exactly, substitute, symbols


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the value of a dimension comes from, as a message says it."""

    text: str
    spec: InputSpec | None = None


def bind_dims(
    signature: Signature,
    shapes: Mapping[str, Sequence[int]],
    dims: Mapping[str, int] | None = None,
    sources: Sources | None = None,
) -> dict[str, int]:
    """Every dimension that the inputs' shapes, ``dims`` and the defaults give.

    Inputs that ``shapes`` lacks are left out; dimensions may then stay unbound, and lowering will
    say so.

    Raises:
        DiagnosticError: GC0542 where arrays contradict each other, a default or ``dims``; GC0545
            for inputs that do not exist and wrong numbers of axes.
    """
    binder = _Binder(signature, dims or {})
    binder.run(shapes)
    if binder.problems:
        raise DiagnosticError(binder.problems, sources)
    return binder.values


class _Binder:
    def __init__(self, signature: Signature, dims: Mapping[str, int]) -> None:
        self.signature = signature
        self.values: dict[str, int] = {}
        self.origins: dict[str, _Source] = {}
        self.problems: list[Diagnostic] = []
        for name, default in signature.dims.items():
            if name in dims:
                self._set(name, dims[name], _Source(f"`{name}` is set to {dims[name]}"))
            elif default is not None:
                self._set(name, default, _Source(f"`{name}` is {default} by default"))

    def _set(self, name: str, value: int, source: _Source) -> None:
        self.values[name] = value
        self.origins[name] = source

    def run(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Binds what can be bound and compares the rest."""
        known = {spec.name: spec for spec in self.signature.inputs}
        for name in shapes:
            if name not in known:
                help = did_you_mean(name, known) or f"the inputs are {', '.join(known)}"
                message = f"the model has no input `{name}`"
                self.problems.append(error("GC0545", message, self.signature.span, help=help))
        equations: list[tuple[InputSpec, int, Dim, int]] = []
        for spec in self.signature.inputs:
            if spec.name not in shapes:
                continue
            shape = tuple(shapes[spec.name])
            if len(shape) != spec.type.rank:
                self._wrong_rank(spec, shape)
                continue
            for axis, (dim, size) in enumerate(zip(spec.type.shape, shape, strict=True)):
                equations.append((spec, axis, dim, size))
        self._solve(equations)

    def _wrong_rank(self, spec: InputSpec, shape: tuple[int, ...]) -> None:
        message = f"input `{spec.name}` is `{spec.type}`, and the array has shape {_shown(shape)}"
        label = f"{spec.type.rank} axes, found {len(shape)}"
        self.problems.append(error("GC0545", message, spec.span, label=label))

    def _solve(self, equations: list[tuple[InputSpec, int, Dim, int]]) -> None:
        pending = equations
        while pending:
            left: list[tuple[InputSpec, int, Dim, int]] = []
            for spec, axis, dim, size in pending:
                rest = _reduced(dim, self.values)
                if isinstance(rest, int):
                    if rest != size:
                        self._conflict(spec, axis, dim, size, rest)
                elif not self._bind(spec, axis, rest, size):
                    left.append((spec, axis, dim, size))
            if len(left) == len(pending):
                return
            pending = left

    def _bind(self, spec: InputSpec, axis: int, dim: Dim, size: int) -> bool:
        """Solves for the only unknown of ``dim``; whether the equation is dealt with."""
        unknown = symbols(dim)
        if len(unknown) != 1:
            return False
        name = unknown[0]
        at = [_reduced(dim, {name: trial}) for trial in (0, 1, 2)]
        values = [value for value in at if isinstance(value, int)]
        if len(values) != 3 or values[2] - values[1] != values[1] - values[0]:
            return False
        slope = values[1] - values[0]
        solved = divide_exactly(size - values[0], slope) if slope else None
        if not isinstance(solved, int) or solved < 0:
            message = f"axis {axis} of input `{spec.name}` has {size} elements"
            label = f"no `{name}` makes `{dim}` equal to {size}"
            self.problems.append(error("GC0542", message, spec.span, label=label))
            return True
        text = f"`{name}` is {solved} by axis {axis} of `{spec.name}`"
        self._set(name, solved, _Source(text, spec))
        return True

    def _conflict(self, spec: InputSpec, axis: int, dim: Dim, size: int, value: int) -> None:
        reasons = [self.origins[name] for name in symbols(dim) if name in self.origins]
        because = "; ".join(reason.text for reason in reasons)
        wanted = str(dim) if isinstance(dim, int) else f"{dim} = {value}"
        message = f"axis {axis} of input `{spec.name}` has {size} elements, and `{wanted}`"
        others = [reason.spec for reason in reasons if reason.spec is not None]
        labels = [
            Label(other.span, f"{because}")
            for other in others
            if other.span not in (None, spec.span)
        ]
        help = "" if labels else because
        self.problems.append(
            error("GC0542", message, spec.span, label=f"`{spec.type}`", labels=labels, help=help)
        )


def _reduced(dim: Dim, values: Mapping[str, int]) -> Dim:
    """``dim`` with known symbols replaced; a division by zero leaves it as it is."""
    try:
        return substitute(dim, dict(values))
    except ZeroDivisionError:
        return dim


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
