"""Forward programs, and the part of one that chosen outputs depend on: inputs, parameters and
dimensions alike.

    net.forward()(params, x=x, y=y)                 # everything
    net.forward()(params, x=x)                      # what these inputs determine
    net.forward(outputs=["logits"])(params, x=x)    # needs only what the outputs depend on

Invariants: a part computes the bits that the whole program computes; arrays that a part does not
need may be given, and are not looked at.
Non-goals: parts of anything but the forward program.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from gradc.frontend.model.models import RANDOM_STATE
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, did_you_mean, error
from gradc.ir.loop.equal import fingerprint
from gradc.ir.tensor.core import Block, Function
from gradc.passes.simplify.dce import dce
from gradc.runtime.model.call import Arrays
from gradc.runtime.model.compiled import Compiled, results
from gradc.runtime.native.arrays import as_array, check_names, expect, listed
from gradc.runtime.native.compile import Options

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model
    from gradc.runtime.reports.profile import Profile

# Sizes of a dimension that no array gives: what is computed must be the same for both.
_STAND_IN, _OTHER = 2, 3
_Shapes = Mapping[str, tuple[int, ...]]


def restricted(function: Function, names: Collection[str]) -> Function:
    """``function`` with the results called ``names`` only, and the parameters that they depend
    on.
    """
    pairs = list(zip(function.results, function.block.outputs, strict=True))
    chosen = [(slot, value) for slot, value in pairs if slot.name in names]
    end = replace(function.block.terminator, operands=tuple(value for _, value in chosen))
    block = Block(function.block.parameters, (*function.block.body, end))
    made = dce(replace(function, block=block, results=tuple(slot for slot, _ in chosen)))
    read = {x for op in made.block.ops for x in op.operands}
    kept = [
        (slot, value)
        for slot, value in zip(made.parameters, made.block.parameters, strict=True)
        if value in read
    ]
    parameters = tuple(value for _, value in kept)
    return replace(
        made, parameters=tuple(s for s, _ in kept), block=Block(parameters, made.block.ops)
    )


def _same(function: Function) -> Function:
    return function


@dataclass(frozen=True, slots=True)
class Part:
    """What a call with arrays of certain shapes computes: the program, at ``dims``, of the results
    called ``names``.
    """

    dims: Mapping[str, int]
    names: tuple[str, ...]
    function: Function


class _PartCompiled(Compiled):
    """One part, compiled for its shapes."""

    def __init__(self, model: Model, part: Part, training: bool, options: Options) -> None:
        names = part.names
        finish = partial(results, name=model.result)
        derive = partial(restricted, names=names)
        super().__init__(model, f"forward of {names}", derive, finish, training, options)
        needed = {slot.name for slot in part.function.parameters}
        self._inputs = tuple(name for name in model.inputs if name in needed)
        self.inputs = self._inputs
        self.params = tuple(n for n in (*model.params, RANDOM_STATE) if n in needed)
        self._part = part

    def _bind(self, shapes: _Shapes) -> dict[str, int]:
        return {**self._part.dims}


class Forward(Compiled):
    """``f(params, **inputs) -> {name: result}``: of the outputs asked for, or of all that the
    inputs determine.
    """

    def __init__(
        self, model: Model, outputs: Sequence[str] | None, training: bool, options: Options
    ) -> None:
        finish = partial(results, name=model.result)
        super().__init__(model, "forward", _same, finish, training, options)
        self.outputs = None if outputs is None else _checked(model, outputs)
        self._parts: dict[tuple[object, ...], _PartCompiled] = {}
        self._known = frozenset((*model.params, RANDOM_STATE))

    def _called(self, params: Arrays, *seeds: Arrays, **inputs: Any) -> Any:
        """A call for a part, or one that may have to check, convert, explain or compile."""
        beside = "out" in inputs and "out" not in self._inputs
        if self.outputs is None and len(inputs) - beside >= len(self._inputs):
            return super()._called(params, *seeds, **inputs)
        room = {"out": inputs.pop("out")} if beside else {}
        part, needed, chosen = self._chosen(params, seeds, inputs)
        return part(needed, **chosen, **room)

    def profiled(
        self, params: Arrays, seeds: Sequence[Arrays], inputs: Mapping[str, Any], **how: Any
    ) -> Profile:
        """``profile`` with the options of ``reports.profile.profile_program``."""
        if self.outputs is None and len(inputs) >= len(self._inputs):
            return super().profiled(params, seeds, inputs, **how)
        part, needed, chosen = self._chosen(params, seeds, inputs)
        return part.profiled(needed, (), chosen, **how)

    def _chosen(
        self, params: Arrays, seeds: Sequence[Arrays], inputs: Mapping[str, Any]
    ) -> tuple[_PartCompiled, Arrays, dict[str, Any]]:
        """The part that these arrays are for, and those of them that it takes."""
        if seeds:
            self._refuse_positions(len(seeds))
        expect("params", params, Mapping, "a dictionary of arrays by name")
        key = tuple([(name, getattr(array, "shape", None)) for name, array in inputs.items()])
        part = self._parts.get(key)
        if part is None:
            part = _PartCompiled(
                self.model, self.part(_shapes(inputs)), self._training, self.options
            )
            if all(shape is not None for _, shape in key):
                self._parts[key] = part
        if not params.keys() <= self._known or any(name not in params for name in part.params):
            check_names("parameter", params, part.params, sorted(self._known))
        needed = {name: params[name] for name in part.params}
        return part, needed, {name: inputs[name] for name in part.inputs}

    def part(self, shapes: _Shapes | None = None) -> Part:
        """What inputs of these shapes, or all inputs of the shapes that the program gives them,
        determine.

        Raises:
            DiagnosticError: GC0553 for inputs that are missing, GC0541 for dimensions that are.
        """
        if shapes is not None and not shapes.keys() <= set(self._inputs):
            given = [name for name in self._inputs if name in shapes]
            check_names("input", shapes, given or self._inputs, self._inputs)
        bound = self.model.bind(shapes or {})
        free = [name for name in self.model.signature.dims if name not in bound]
        if not free:
            return self._at(bound, shapes)
        dims = {**bound, **dict.fromkeys(free, _STAND_IN)}
        found = self._at(dims, shapes)
        expected = fingerprint(found.function)
        counting = [n for n in free if self._print_at({**dims, n: _OTHER}, shapes) != expected]
        # Says that these have no value.
        self.model.lower({n: size for n, size in dims.items() if n not in counting}, self._training)
        return found

    def _print_at(self, dims: Mapping[str, int], shapes: _Shapes | None) -> str | None:
        try:
            return fingerprint(self._at(dims, shapes).function)
        except DiagnosticError:
            return None

    def _at(self, dims: Mapping[str, int], shapes: _Shapes | None) -> Part:
        """The part at ``dims``; raises DiagnosticError GC0553 for inputs it needs and has not
        got.
        """
        function = self.model.lower(dims, self._training).function
        missing = [name for name in self._inputs if shapes is not None and name not in shapes]
        if self.outputs is not None:
            names, part = self.outputs, restricted(function, self.outputs)
        else:
            needs = {slot.name: restricted(function, [slot.name]) for slot in function.results}
            names = tuple(n for n, f in needs.items() if not _needed(f, missing))
            part = restricted(function, names)
        lacking = _needed(part, missing) if names else missing
        if lacking:
            raise DiagnosticError([self._missing(name) for name in lacking])
        return Part(dims, names, part)

    def _missing(self, name: str) -> Diagnostic:
        help = "every output depends on it"
        if self.outputs is not None:
            verb = "depends" if len(self.outputs) == 1 else "depend"
            help = f"{', '.join(f'`{n}`' for n in self.outputs)} {verb} on it"
        return error("GC0553", f"input `{name}` is missing", None, help=help)


def _needed(function: Function, missing: Sequence[str]) -> list[str]:
    names = {slot.name for slot in function.parameters}
    return [name for name in missing if name in names]


def _shapes(inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: as_array(name, array).shape for name, array in inputs.items()}


def _checked(model: Model, outputs: Sequence[str]) -> tuple[str, ...]:
    """The names that ``outputs`` stands for. Raises DiagnosticError GC0554 for others."""
    expect("outputs", outputs, (str, Sequence), "a name or a list of names")
    names = (outputs,) if isinstance(outputs, str) else tuple(dict.fromkeys(outputs))
    known = list(model.outputs)
    found = []
    for name in names:
        expect("outputs", name, str, "a list of names")
        if name not in known:
            help = did_you_mean(name, known) or f"the outputs are {listed(known)}"
            found.append(error("GC0554", f"there is no output `{name}`", None, help=help))
    if not names:
        message = "outputs names at least one result of the model"
        found.append(error("GC0554", message, None, help=f"the outputs are {listed(known)}"))
    if found:
        raise DiagnosticError(found)
    return names
