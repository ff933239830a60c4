"""A compiled program that Python calls with dictionaries of arrays, and what such a call gives
back.

The first call with arrays of new shapes binds the dimensions, compiles (or loads from the cache)
and remembers; later calls go straight to machine code, which checks names and shapes itself.

Invariants: safe to call from several threads; arrays handed in are not changed.
Non-goals: what is derived from a model (``runtime.model``).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from gradc.codegen.backend import GROUP, Results
from gradc.frontend.model.models import RANDOM_STATE
from gradc.ir.tensor.core import Function, Role
from gradc.runtime.files.ids import check_inputs
from gradc.runtime.model.call import INPUTS, PARAMS, SEEDS, Arrays, Entry, decoded, grouped
from gradc.runtime.model.direct import Direct
from gradc.runtime.model.remedies import remedies
from gradc.runtime.native.arrays import Array, check_names, expect, shapes_of
from gradc.runtime.native.compile import Options, compile_cached, plan_of, quoting
from gradc.runtime.native.recent import Recent
from gradc.runtime.render.notebook import card

if TYPE_CHECKING:
    from gradc.runtime.model.model import Model
    from gradc.runtime.reports.estimate import Estimate
    from gradc.runtime.reports.profile import Profile

Derive = Callable[[Function], Function]


@dataclass(frozen=True, slots=True)
class StepProgram:
    """How a step is compiled: passes may change ``source``, ``derive`` makes the step of it.

    ``gradient`` is the derivative of ``source`` alone, which says what recomputing would save.
    """

    source: Function
    derive: Derive
    gradient: Derive


def pure(derive: Derive) -> Derive:
    """``derive`` with new states handed out as outputs, so that the caller's arrays are not written
    to.
    """

    def changed(function: Function) -> Function:
        made = derive(function)
        slots = tuple(
            replace(slot, role=Role.OUTPUT) if slot.role is Role.STATE else slot
            for slot in made.results
        )
        return replace(made, results=slots)

    return changed


_Asked = ParamSpec("_Asked")
_Found = TypeVar("_Found", bound="Compiled")


def remembered(
    method: Callable[Concatenate[Model, _Asked], _Found],
) -> Callable[Concatenate[Model, _Asked], _Found]:
    """``method`` of a model, whose results know how they were asked for, so that they can be copied
    and pickled.
    """

    @functools.wraps(method)
    def asked(model: Model, /, *args: _Asked.args, **kwargs: _Asked.kwargs) -> _Found:
        found = method(model, *args, **kwargs)
        found.made_by = (method.__name__, args, kwargs)
        return found

    return asked


def _made_again(
    model: Model, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Compiled:
    made: Compiled = getattr(model, method)(*args, **kwargs)
    return made


class Compiled(Direct):
    """A compiled program that specialises on the shapes of its inputs. Safe to call from several
    threads.
    """

    if TYPE_CHECKING:

        def __call__(self, params: Arrays, *seeds: Arrays, **inputs: Any) -> Any: ...

    def __init__(
        self,
        model: Model,
        key: str,
        derive: Derive,
        finish: Callable[[Results], Any],
        training: bool,
        options: Options,
        takes_seeds: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self._key = key
        self._derive = pure(derive)
        self._finish = finish
        self._training = training
        self._takes_seeds = takes_seeds
        # The part of what a call gives that `out` has room for; 0 where there is none.
        self._group = _GROUPS.get(getattr(finish, "func", finish), 0)
        self._inputs = tuple(model.inputs)
        self._entries: Recent[tuple[tuple[int, ...], ...], Entry] = Recent()
        self._lock = threading.Lock()
        # The machine code of the last call: it checks names and shapes itself and most calls are
        # like the last.
        self._last: Callable[..., Any] | None = None
        self._makes_bits = False
        self._takes_out = False
        # The call of a method of the model that made this, if one did: a copy is made by the same
        # call.
        self.made_by: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the model and how this was asked of it; machine code is made or
        found again.
        """
        if self.made_by is None:
            raise TypeError("only what a method of a model has compiled can be copied")
        return _made_again, (self.model, *self.made_by)

    def __repr__(self) -> str:
        seeds = "seeds, " if self._takes_seeds else ""
        names = ", ".join(f"{name}=..." for name in self._inputs)
        return f"<{self._asked()}: f(params, {seeds}{names})>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [tuple("×".join(map(str, shape)) or "()" for shape in key) for key in self._entries]
        sections = [("compiled for", self._inputs, rows)]
        return card(self._asked(), repr(self).partition(": ")[2].removesuffix(">"), sections)

    def _asked(self) -> str:
        if self.made_by is None:
            return f"{self._key} of {self.model.name}"
        method, args, kwargs = self.made_by
        given = [repr(item) for item in args] + [f"{n}={item!r}" for n, item in kwargs.items()]
        return f"{self.model.name}.{method}({', '.join(given)})"

    def _called(self, params: Arrays, *seeds: Arrays, **inputs: Any) -> Any:
        """A call that may have to check, convert, explain or compile."""
        if len(seeds) != self._takes_seeds:
            self._refuse_positions(len(seeds))
        params = self._drawing(params)
        out = None if "out" in self._inputs else inputs.pop("out", None)
        if self.options.check_inputs:
            check_inputs(self.model, inputs)
        if self._last is not None and (out is None or self._takes_out):
            room = () if out is None else (out,)
            found = self._last(params, inputs, seeds[0] if seeds else _NOTHING, *room)
            if type(found) is tuple:
                return self._finish(decoded(found) if self._makes_bits else found)
        holders: dict[str, Arrays] = {PARAMS: params, INPUTS: inputs}
        if self._takes_seeds:
            (holders[SEEDS],) = seeds
        try:
            key = tuple([inputs[name].shape for name in self._inputs])
            entry = self._entries.get(key) or self.entry(inputs)
        except (KeyError, AttributeError):
            entry = self.entry(inputs)
        if out is None:
            found = grouped(entry.made, entry.call(holders))
        else:
            found = self._filled(entry, holders, out)
        self._makes_bits = entry.makes_bits
        self._takes_out = self._group == entry.last_group and not entry.makes_bits
        self._last = entry.native.fast_named
        is_usual = self._takes_out or not (self._group or entry.makes_bits)
        is_plain = is_usual and not self.options.check_inputs
        finish = None if self._finish is loss_grads and entry.has_plain_loss else self._finish
        seeded = self._takes_seeds
        self._go(entry.direct(self._slow, finish, None, seeded) if is_plain else None)
        return self._finish(decoded(found) if entry.makes_bits else found)

    def _filled(self, entry: Entry, holders: Mapping[str, Arrays], out: Any) -> Results:
        """What a call gives whose last results lie in ``out``."""
        if not self._group:
            raise TypeError(f"{self._asked()} has no `out`")
        made = entry.call_into(holders, out, self._group)
        loss, outputs, cts, dots = grouped(entry.made, made)
        groups = [outputs, cts, dots]
        groups[self._group - 1] = out
        return loss, groups[0], groups[1], groups[2]

    def _refuse_positions(self, given: int) -> None:
        """Raises TypeError: some of what belongs to names came without one, or seeds did not
        come.
        """
        names = ", ".join(f"{name}=..." for name in self._inputs)
        form = f"f(params, {'seeds, ' if self._takes_seeds else ''}{names})"
        message = f"a call is {form}; {given + 1} arrays or dictionaries came without a name"
        raise TypeError(message)

    def entry(self, inputs: Mapping[str, Any]) -> Entry:
        """The specialisation for arrays like ``inputs``, compiled if it is new."""
        shapes = self._shapes(inputs)
        key = tuple(shapes[name] for name in self._inputs)
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                found = self._entries.put(key, self._compile(self._bind(shapes)))
        return found

    def _shapes(self, inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        check_names("input", inputs, self._inputs)
        types = self.model.inputs
        return shapes_of({name: types[name] for name in self._inputs}, inputs)

    def profile(self, params: Arrays, *seeds: Arrays, **inputs: Any) -> Profile:
        """Where the time of a call goes, launch by launch, against what this machine allows.

        Runs calls on these arrays for about a second.

        Raises:
            DiagnosticError: for names and shapes that do not fit.
        """
        return self.profiled(params, seeds, inputs)

    def profiled(
        self, params: Arrays, seeds: Sequence[Arrays], inputs: Mapping[str, Any], **how: Any
    ) -> Profile:
        """``profile`` with the options of ``reports.profile.profile_program``."""
        from gradc.runtime.reports.profile import profile_program

        if len(seeds) != self._takes_seeds:
            self._refuse_positions(len(seeds))
        expect("params", params, Mapping, "a dictionary of arrays by name")
        dims = self._bind(self._shapes(inputs))
        holders: dict[str, Arrays] = {PARAMS: self._drawing(params), INPUTS: inputs}
        if self._takes_seeds:
            (holders[SEEDS],) = seeds
        what = _WHAT.get(self._key.split()[0], self._key)
        with self._refusing_well(dims):
            program = (self.lowered(dims), self._derive, None)
            return profile_program(self.model.name, what, program, self.options, holders, **how)

    def estimated(self, inputs: Mapping[str, Any]) -> Estimate:
        """What machine code and data sheets say of a call, for a target that code is estimated of;
        nothing is run.
        """
        from gradc.runtime.reports.estimate import estimate_program

        dims = self._bind(self._shapes(inputs))
        what = _WHAT.get(self._key.split()[0], self._key)
        with self._refusing_well(dims):
            program = (self.lowered(dims), self._derive, None)
            return estimate_program(self.model.name, what, program, self.options)

    def least_seconds(self, **inputs: Any) -> float:
        """What a call takes at least on this machine, by the flops and bytes of its launches (see
        ``profile``); nothing is run.
        """
        from gradc.runtime.reports.profile import least_seconds

        dims = self._bind(self._shapes(inputs))
        with self._refusing_well(dims):
            plan = plan_of(self.lowered(dims), self._derive, self.options)
        return least_seconds(plan, self.options.thread_count)

    def _drawing(self, params: Arrays) -> Arrays:
        """``params`` without the counter of random numbers, unless this draws some: only training
        does, and the counter lies among the parameters all the same.
        """
        if self._training or RANDOM_STATE not in params:
            return params
        return {name: array for name, array in params.items() if name != RANDOM_STATE}

    @contextmanager
    def _refusing_well(self, dims: Mapping[str, int]) -> Iterator[None]:
        """Lets what is raised inside quote the program, and say what would help a budget."""
        model = self.model
        with (
            quoting(model.program.report.sources),
            remedies(model, dims, self.options, self._program),
        ):
            yield

    def _bind(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        return self.model.bind(shapes)

    def function(self, dims: Mapping[str, int] | None = None) -> Function:
        """The tensor IR that is compiled, before optimisation."""
        return self._derive(self.lowered(dims))

    def lowered(self, dims: Mapping[str, int] | None = None) -> Function:
        """The model itself in tensor IR, before anything is derived from it."""
        return self.model.lower(dims, self._training).function

    def _program(
        self, model: Model, dims: Mapping[str, int]
    ) -> tuple[Function, Derive, Derive | None]:
        return model.lower(dims, self._training).function, self._derive, None

    def _compile(self, dims: Mapping[str, int]) -> Entry:
        model = self.model
        parts = (
            model.program.digest,
            model.name,
            repr(sorted(dims.items())),
            model.precision,
            f"training={self._training}",
            self._key,
        )
        with self._refusing_well(dims):
            made = compile_cached(parts, lambda: self.lowered(dims), self._derive, self.options)
        return Entry(made)


# --- what a call returns


_NOTHING: dict[str, Array] = {}
# What a profile says it is of.
_WHAT = {"value_and_grad": "loss and gradients", "forward": "outputs"}


def _loss(found: Results) -> Any:
    """The loss, as a scalar where it is one."""
    return None if found[0] is None else found[0][()]


def results(found: Results, name: str) -> dict[str, Any]:
    """All results by name; ``name`` is that of what the model returns, which may not be among
    them.
    """
    return found[1] if found[0] is None else {name: _loss(found), **found[1]}


def loss_grads(found: Results) -> tuple[Any, dict[str, Array]]:
    loss = found[0]
    return (None if loss is None else loss[()]), found[2]


def loss_outputs_grads(
    found: Results,
) -> tuple[tuple[Any, dict[str, Array]], dict[str, Array]]:
    return (_loss(found), found[1]), found[2]


def results_cts(found: Results, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    return results(found, name), found[2]


def results_dots(found: Results, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    return results(found, name), found[3]


def loss_grads_dots(found: Results) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    return _loss(found), found[2], found[3]


# The last dictionary in what each of them gives.
_GROUPS = {
    results: GROUP[Role.OUTPUT],
    loss_grads: GROUP[Role.COTANGENT],
    loss_outputs_grads: GROUP[Role.COTANGENT],
    results_cts: GROUP[Role.COTANGENT],
    results_dots: GROUP[Role.TANGENT],
    loss_grads_dots: GROUP[Role.TANGENT],
}
