"""A compiled training step: forward, backward, clipping, schedule and update in one native call.

    step = net.train_step("adamw(lr=1e-3)", clip_norm=1.0)
    state = step.init(params)
    loss, state = step(state, x=x, y=y)

The state is updated in place: ``step`` returns the object it was given. ``init`` copies, so the
caller's parameters stay as they are. A step whose loss or gradients are not finite changes nothing
and raises ``StoppedStep``, which names the operation and the line it began at.

Weight decay (an optimiser's ``decay``) falls on matrices only by default: parameters of fewer than
two axes, biases and gains, are left out, as is usual for networks with normalisation
(``decay_on="all"`` includes them).

Non-goals: loops over data, files (``runtime.training``).
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gradc.codegen import exchange
from gradc.frontend.model.draws import initialize
from gradc.frontend.model.training import OptimizerIR, ScheduleIR, lower_optimizer, lower_schedule
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error
from gradc.ir.tensor.core import Function, Role, TensorType
from gradc.ir.tensor.dims import substitute
from gradc.passes.differentiate.transforms import value_and_grad, vjp
from gradc.passes.training.accumulate import Accumulation, accumulation
from gradc.passes.training.accumulate_batch import batch_axes
from gradc.passes.training.precision import master_type
from gradc.passes.training.ranks import Deal
from gradc.passes.training.step import (
    GOOD_STEPS,
    GRAD_NORM,
    INITIAL_SCALE,
    SCALE,
    STEP,
    Clip,
    Held,
    Update,
    train_step,
)
from gradc.runtime.files.batches import batch_dim, queued
from gradc.runtime.files.ids import check_inputs
from gradc.runtime.model.call import INPUTS, PARAMS, Entry, by_role, decode, decoded
from gradc.runtime.model.compiled import StepProgram
from gradc.runtime.model.direct import Direct
from gradc.runtime.model.layout import Layout
from gradc.runtime.model.recipe import Recipe, decaying
from gradc.runtime.model.remedies import remedies
from gradc.runtime.model.shard import Shard
from gradc.runtime.model.state import StoppedStep, TrainState
from gradc.runtime.native.arrays import (
    NUMPY_DTYPE,
    Array,
    as_array,
    check_names,
    check_shape,
    convert,
    expect,
    shapes_of,
)
from gradc.runtime.native.compile import Options, compile_cached, quoting
from gradc.runtime.native.recent import Recent
from gradc.runtime.ranks.world import Ranks, world_of
from gradc.runtime.render.notebook import card

if TYPE_CHECKING:
    from gradc.frontend.model.models import ModelIR
    from gradc.runtime.model.compiled import Derive
    from gradc.runtime.model.model import Model
    from gradc.runtime.reports.memory import MemoryPlan
    from gradc.runtime.reports.profile import Profile


# What a step is given beside state and inputs.
_NOTHING: dict[str, Array] = {}


class TrainStep(Direct):
    """A training step that specialises on the shapes of its inputs."""

    if TYPE_CHECKING:

        def __call__(self, state: TrainState, **inputs: Any) -> tuple[Any, TrainState]: ...

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        options: Options,
        world: Ranks | None = None,
        shard: Shard | None = None,
    ) -> None:
        """``world`` has the ranks that share every batch; ``recipe.accumulate`` is the number of
        parts of all of them together. With ``shard`` those that follow each other are a group whose
        ranks hold parts of parameters, and groups share a batch.
        """
        super().__init__()
        self.model = model
        self.world = world
        self.shard = shard
        groups = (1 if world is None else world.size) // (1 if shard is None else shard.ranks)
        self.deal = Deal(recipe.accumulate, groups, across=shard is not None and groups > 1)
        expect("optimizer", recipe.optimizer, str, "a call in text, such as `adam(lr=1e-3)`")
        schedule = "a call in text, such as `cosine(peak=1e-3, total=1000)`, or None"
        expect("schedule", recipe.schedule, (str, type(None)), schedule)
        self.recipe = recipe
        self.options = options
        names = model.program.names
        self.optimizer: OptimizerIR = lower_optimizer(recipe.optimizer, names)
        self.schedule: ScheduleIR | None = (
            None if recipe.schedule is None else lower_schedule(recipe.schedule, names)
        )
        self._entries: Recent[tuple[tuple[int, ...], ...], Entry] = Recent()
        self._inputs = tuple(model.inputs)
        self._lock = threading.Lock()
        # The machine code of the last call: it checks names and shapes itself and most calls are
        # like the last.
        self._last: Callable[..., Any] | None = None
        self._makes_bits = False

    @classmethod
    def of(
        cls, model: Model, recipe: Recipe, options: Options, ranks: object, shard: object = None
    ) -> TrainStep:
        """The step that ``ranks`` share, each with ``recipe.accumulate`` parts of every batch; None
        is one, or as many as ``shard`` needs.

        Raises:
            DiagnosticError: GC0801 if ``ranks`` is neither a communicator nor a number, or is no
                multiple of the parts; GC0564 for what ``shard`` says.
        """
        cut = Shard.of(model, shard)
        if ranks is None and cut is None:
            return cls(model, recipe, options)
        each = 1 if cut is None else cut.ranks
        world = world_of(each if ranks is None else ranks)
        if world.size % each and cut is not None:
            message = f"{world.size} ranks are no groups of {each} that hold `{cut.dim}` in parts"
            help = f"start {each} ranks, or a multiple of {each}"
            raise DiagnosticError([error("GC0801", message, None, help=help)])
        whole = replace(recipe, accumulate=recipe.accumulate * (world.size // each))
        return cls(model, whole, options, world, cut)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the model, the recipe and the options; machine code is made or
        found again.
        """
        if self.world is not None:
            message = "a training step of several ranks stays in its process: it is not copied"
            raise DiagnosticError([error("GC0801", message, None)])
        return TrainStep, (self.model, self.recipe, self.options)

    def like(self, recipe: Recipe) -> TrainStep:
        """The step of the same ranks with another recipe."""
        return TrainStep(self.model, recipe, self.options, self.world, self.shard)

    @functools.cached_property
    def layout(self) -> Layout:
        """Which arrays of the state are cut, and how.

        Raises:
            DiagnosticError: GC0824 where the parameters cannot be cut.
        """
        if self.shard is None:
            return Layout({}, 1, self.world)
        places, types = self.shard.places(), self.model.param_types()
        for name in [n for n in self.model.select("params") if n in places]:
            slots = self.shard.slot_places(self.optimizer, master_type(types[name]), places[name])
            places |= {f"{name}/{slot}": place for slot, place in slots.items()}
        return Layout(places, self.shard.ranks, self.world)

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={getattr(self.recipe, f.name)!r}"
            for f in fields(Recipe)[1:]
            if getattr(self.recipe, f.name) != f.default
        ]
        arguments = ", ".join((repr(self.recipe.optimizer), *changed))
        return f"<{self.model.name}.train_step({arguments})>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [(f.name, str(getattr(self.recipe, f.name))) for f in fields(Recipe)]
        sections = [("recipe", ("", ""), [row for row in rows if row[1] != "None"])]
        return card(f"training step of {self.model.name}", "step(state, **inputs)", sections)

    def init(self, params: Mapping[str, Any]) -> TrainState:
        """A fresh state that starts from a copy of ``params``, of which a rank keeps its parts.

        Raises:
            DiagnosticError: if names, shapes or types are not the model's.
        """
        expect("params", params, Mapping, "a dictionary of arrays by name")
        check_names("parameter", params, list(self.model.param_types()))
        return self._begun(lambda name: params[name])

    def start(self, seed: int) -> TrainState:
        """``init`` from ``model.init(seed)``, one whole parameter in memory at a time."""
        model = self.model
        specs = model.program.parameters(model.name, model.dims, model.precision)
        by_name = {spec.path: spec for spec in specs}
        return self._begun(lambda name: initialize([by_name[name]], seed)[name])

    def _begun(self, given: Callable[[str], Any]) -> TrainState:
        types, own = self.model.param_types(), self.layout.own
        trained = self.model.select("params")
        arrays: dict[str, Array] = {}
        for name, type_ in types.items():
            array = as_array(name, given(name))
            check_shape(name, array, type_.static_shape)
            # Trained parameters are kept as f32 masters where the program computes in 16 bits.
            dtype = master_type(type_).dtype if name in trained else type_.dtype
            kept = own(name, convert(name, array, dtype))
            arrays[sys.intern(name)] = np.array(kept, order="C")
        for name in trained:
            for spec in self.optimizer.update(master_type(types[name])).slots:
                slot = sys.intern(f"{name}/{spec.name}")
                start = np.array(spec.start, NUMPY_DTYPE[spec.type.dtype])
                whole = np.broadcast_to(start, spec.type.static_shape)
                arrays[slot] = np.array(own(slot, whole), order="C")
        arrays[STEP] = np.zeros((), np.int32)
        if self.recipe.loss_scale == "dynamic":
            arrays[SCALE] = np.full((), INITIAL_SCALE, np.float32)
            arrays[GOOD_STEPS] = np.zeros((), np.int32)
        return TrainState(arrays, tuple(types))

    def _called(self, state: TrainState, **inputs: Any) -> tuple[Any, TrainState]:
        """One step on ``inputs``. Returns the loss before the update, and ``state``, updated.

        With ranks, ``inputs`` are the rows of this rank (``rows_of``), and every rank calls.

        Raises:
            StoppedStep: GC0806 where the loss or a gradient is not finite; nothing is updated.
        """
        if self.world is None:
            return self._call(state, inputs)
        exchange.join(self.world)
        found = self._call(state, inputs)
        exchange.check()
        return found

    def rows_of(self, rows: Array) -> Array:
        """Of the rows of a whole batch, those that this rank hands in: its parts' in order.

        Where some ranks have a part more than this one, the first rows come once more at the end;
        they count for nothing. ``rows`` is of any type, its length a multiple of the parts.
        """
        deal, rank = self.deal, 0 if self.world is None else self.world.rank // self.layout.ranks
        if deal.is_alone:
            return rows
        if len(rows) % deal.count:
            message = f"a batch of {len(rows)} samples cannot be cut into {deal.count} equal parts"
            help = (
                "choose a batch size that is a multiple of ranks times --accumulate, or of --parts"
            )
            raise DiagnosticError([error("GC0808", message, None, help=help)])
        parts = np.split(rows, deal.count)
        return np.concatenate([parts[number] for number in deal.parts_of(rank)])

    def _call(self, state: TrainState, inputs: dict[str, Any]) -> tuple[Any, TrainState]:
        """A step that may have to check, convert, explain or compile."""
        if type(state) is not TrainState:
            expect("state", state, TrainState, "what `step.init(params)` gives")
        if self.options.check_inputs:
            check_inputs(self.model, inputs)
        # A step of several ranks that is stopped is not run again by some of them.
        if self._last is not None and self.world is None:
            found = self._last(state.arrays, inputs, _NOTHING)
            if type(found) is tuple:
                state.metrics = decoded(found)[1] if self._makes_bits else found[1]
                return found[0][()], state
        try:
            key = tuple([inputs[name].shape for name in self._inputs])
            entry = self._entries.get(key) or self.entry(inputs)
        except (KeyError, AttributeError):
            entry = self.entry(inputs)
        results = entry.call({PARAMS: state.arrays, INPUTS: inputs})
        metrics = by_role(entry.made, results, (Role.OUTPUT,))
        state.metrics = {name: decode(array) for name, array in metrics.items()}
        self._makes_bits = entry.makes_bits
        self._last = entry.native.fast_named
        is_plain = not (self.options.check_inputs or entry.makes_bits) and entry.has_plain_loss
        if is_plain and self.world is None:
            self._go(entry.direct(self._slow, None, TrainState))
        if entry.is_stopped(results):
            self._stop(state, inputs, float(results[0]))
        return results[0][()], state

    def _stop(self, state: TrainState, inputs: Mapping[str, Any], loss: float) -> NoReturn:
        """Says where the step began to be not finite, by running it once more, watched.

        Raises:
            StoppedStep: always, but for what went wrong between ranks.
        """
        if self.world is not None:
            exchange.check()
        at = f"at step {state.step + 1}"
        what = f"the loss became {loss} {at}"
        if np.isfinite(loss):
            norm = state.metrics.get(GRAD_NORM)
            what = "a gradient is not finite" if norm is None else f"the gradients' norm is {norm}"
            what += f" {at}, where the loss is {loss:.5g}"
        help = "look at the data, lower the learning rate, or clip the gradients (clip_norm)"
        note = "nothing was updated: weights, states and optimiser are those of before this step"
        stopped = error("GC0806", what, None, help=help, notes=(note,))
        # A part of the parameters says nothing.
        origin = None if self.layout.is_cut else self.culprit(state, **inputs)
        raise StoppedStep(stopped, origin, self.model.program.report.sources, loss)

    def many(self, count: int, state: TrainState, **inputs: Any) -> tuple[Array, TrainState]:
        """``count`` steps in one call of machine code: every input has a first axis of so many
        batches, in the order in which they are used.

        Returns the losses before each update, ``[count]``, and ``state``, updated; its ``metrics``
        have the same first axis. The bits are those of ``count`` calls. With ranks each hands in
        its own rows of every batch. ``out``, where no input is called so, is a dictionary of arrays
        of that first axis, for ``loss`` and every metric.

        Raises:
            DiagnosticError: GC0801 if ``count`` is no whole number of at least 1, GC0821 if ranks
                do not agree, and what a step raises; the steps before a StoppedStep are done.
        """
        expect("state", state, TrainState, "what `step.init(params)` gives")
        out = None if "out" in self._inputs else inputs.pop("out", None)
        check_names("input", inputs, self._inputs)
        queue = queued(inputs, count)
        if self.options.check_inputs:
            for n in range(count):
                check_inputs(self.model, {name: array[n] for name, array in queue.items()})
        entry = self.entry({name: array[0] for name, array in queue.items()})
        if self.world is not None:
            self.world.agree_on("how many batches are in a queue", str(count))
            exchange.join(self.world)
        results, ran = entry.call_many({PARAMS: state.arrays, INPUTS: queue}, count, out)
        if self.world is not None:
            exchange.check()
        made = [decode(array) for array in results]
        if out is not None:
            made = [out.get(p.name, a) for p, a in zip(entry.made, made, strict=True)]
        state.metrics = by_role(entry.made, made, (Role.OUTPUT,))
        if entry.is_stopped([array[ran - 1] for array in results]):
            last = ran - 1
            state.metrics = {name: array[last] for name, array in state.metrics.items()}
            self._stop(state, {n: array[last] for n, array in queue.items()}, float(made[0][last]))
        return made[0], state

    def entry(self, inputs: Mapping[str, Any]) -> Entry:
        """The specialisation for arrays like ``inputs``, compiled if it is new."""
        check_names("input", inputs, self._inputs)
        shapes = shapes_of(self.model.inputs, inputs)
        key = tuple(shapes[name] for name in self._inputs)
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                found = self._entries.put(key, self._compile(self._whole(shapes)))
        return found

    def _whole(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The dimensions of the whole batch, of which ``shapes`` are one rank's share."""
        dims = self.model.bind(shapes)
        if self.deal.is_alone:
            return dims
        name = batch_dim(self.model.program.signature(self.model.name))
        share, turns = dims[name], self.deal.turns
        if share % turns:
            message = f"a rank's {name} = {share} samples are not {turns} equal parts"
            raise DiagnosticError([error("GC0808", message, None)])
        return {**dims, name: share // turns * self.deal.count}

    def function(self, dims: Mapping[str, int] | None = None) -> Function:
        """The whole step in tensor IR, before optimisation."""
        program = self.program(dims)
        return program.derive(program.source)

    def plan(self, dims: Mapping[str, int] | None = None) -> MemoryPlan:
        """The Plan of the whole step under its budget: what it does with memory, without running
        it.

        Raises:
            DiagnosticError: GC0541 for a dimension without a value, GC0602 for a budget that cannot
                be kept.
        """
        from gradc.runtime.reports.memory import plan_memory

        sizes = self.model.lower(dims, training=True).dims
        with self._refusing_well(sizes):
            program = self.program(sizes)
            return plan_memory(program.source, program.derive, self.options, program.gradient)

    def profile(self, state: TrainState, **inputs: Any) -> Profile:
        """Where the time of a step goes, launch by launch, against what this machine allows.

        Runs steps on a copy of ``state`` for about a second.

        Raises:
            DiagnosticError: for names and shapes that do not fit.
        """
        return self.profiled(state, inputs)

    def profiled(self, state: TrainState, inputs: Mapping[str, Any], **how: Any) -> Profile:
        """``profile`` with the options of ``reports.profile.profile_program``."""
        from gradc.runtime.reports.profile import profile_program

        expect("state", state, TrainState, "what `step.init(params)` gives")
        check_names("input", inputs, self._inputs)
        dims = self.model.bind(shapes_of(self.model.inputs, inputs))
        holders = {PARAMS: state.arrays, INPUTS: inputs}
        with self._refusing_well(dims):
            made = self.program(dims)
            program = (made.source, made.derive, made.gradient)
            return profile_program(
                self.model.name, "a training step", program, self.options, holders, **how
            )

    @contextmanager
    def _refusing_well(self, dims: Mapping[str, int]) -> Iterator[None]:
        """Lets what is raised inside quote the program, and say what would help a budget."""

        def program(model: Model, sizes: Mapping[str, int]) -> tuple[Function, Derive, Derive]:
            cut = None if self.shard is None else replace(self.shard, model=model)
            made = TrainStep(model, self.recipe, self.options, self.world, cut).program(sizes)
            return made.source, made.derive, made.gradient

        sources = self.model.program.report.sources
        with quoting(sources), remedies(self.model, dims, self.options, program):
            yield

    def program(
        self, dims: Mapping[str, int] | None = None, told: dict[str, str] | None = None
    ) -> StepProgram:
        """What the step is made from: the model, or the program of one part of the batch.

        Raises:
            DiagnosticError: GC0807 if samples are coupled, GC0808 if the batch cannot be cut
                evenly.
        """
        whole = self.model.lower(dims, training=True)
        parts = self.deal.count
        names = list(self.model.select("params"))
        if parts == 1:

            def gradient(function: Function) -> Function:
                return self._gradient(function, names)

            # What recomputing saves of the whole, it saves of each part.
            share = None if self.shard is None else self.shard.at(whole.dims).share
            cut_by = share or (lambda function: function)
            return StepProgram(
                whole.function, lambda f: self._step(cut_by(gradient(f)), told), gradient
            )
        _, cut = self.accumulation(whole)
        return StepProgram(
            cut.part, lambda function: self._step(cut.compose(function)), cut.gradient
        )

    def accumulation(self, whole: ModelIR) -> tuple[dict[str, int], Accumulation]:
        """The axes of samples, by input, and the program of one part of ``whole``'s batch.

        Raises:
            DiagnosticError: as for ``program``.
        """
        parts, names = self.deal.count, list(self.model.select("params"))
        # What the program leaves free, whether or not the user has given it a value since.
        name = batch_dim(self.model.program.signature(self.model.name))
        size = whole.dims[name]
        if size % parts:
            message = f"a batch of {name} = {size} cannot be cut into {parts} equal parts"
            raise DiagnosticError([error("GC0808", message, None)])
        axes = batch_axes(
            self._types(whole.dims), self._types({**whole.dims, name: size // parts}), parts
        )
        is_seeded = self.recipe.loss_scale is not None
        return axes, accumulation(
            whole.function,
            axes,
            names,
            parts,
            is_seeded=is_seeded,
            ranks=self.deal.ranks,
            shares_statistics=self.recipe.shared_statistics,
            share=None if self.shard is None else self.shard.at(whole.dims).share,
            across=self.deal.across,
        )

    def _types(self, dims: Mapping[str, int]) -> dict[str, TensorType]:
        """The inputs' types at these dimensions."""
        return {
            spec.name: spec.type.with_shape(tuple(substitute(d, dims) for d in spec.type.shape))
            for spec in self.model.signature.inputs
        }

    def updates(self, dims: Mapping[str, int] | None = None) -> dict[str, str]:
        """How parameters are updated of which the program reads rows by number: ``rows``, of which
        those that a batch names, or why all of them.
        """
        made = self.program(dims, told := dict[str, str]())
        made.derive(made.source)
        return told

    def _step(self, gradient: Function, told: dict[str, str] | None = None) -> Function:
        """The step around a function that gives the gradients; ``told`` learns of ``updates``."""
        pairs = zip(gradient.parameters, gradient.block.parameters, strict=True)
        types = {slot.name: value.type for slot, value in pairs if slot.role is Role.PARAM}
        updates = {name: self._update(name, master_type(type_)) for name, type_ in types.items()}
        clip = Clip(self.recipe.clip_norm, self.recipe.clip_value)
        schedule = None if self.schedule is None else self.schedule.function
        scale = self.recipe.loss_scale
        factor = scale if scale is None or scale == "dynamic" else float(scale)
        held = None if self.shard is None else Held(self.layout.places, self.shard.deal)
        return train_step(
            gradient,
            updates,
            schedule=schedule,
            clip=clip,
            loss_scale=factor,
            is_guarded=self.recipe.guard,
            held=held,
            told=told,
        )

    def _gradient(self, function: Function, names: list[str]) -> Function:
        """With a loss scale, the gradient takes the seed of its loss."""
        if self.recipe.loss_scale is None:
            return value_and_grad(function, names)
        return vjp(function, names, of=["loss"])

    def culprit(self, state: TrainState, **inputs: Any) -> Diagnostic | None:
        """Where in the program the values of this step stop being finite; None if they do not.

        Runs the step's forward and backward program on ``state`` in the reference interpreter, in
        its own precision: as it is derived, and where that is finite as it is compiled. Ranks that
        hold parts of parameters run theirs; all call, with the whole batch, and get the same.
        """
        from gradc.runtime.reports.culprit import Group, find_culprit_of

        shapes = {name: as_array(name, inputs[name]).shape for name in self._inputs}
        whole = self.model.lower(self.model.bind(shapes), training=True)
        names = list(self.model.select("params"))
        cut, group = None, None
        if self.shard is not None and self.world is not None and self.layout.is_cut:
            cut, group = self.shard.at(whole.dims), Group(self.world, self.shard.ranks)

        def derivative(function: Function) -> Function:
            made = self._gradient(function, names)
            return made if cut is None else cut.share(made)

        scale = state.arrays.get(SCALE, self.recipe.loss_scale)
        given = {**state.arrays, **inputs, "loss": scale}
        return find_culprit_of(whole.function, derivative, given, self.options.fast_math, group)

    def _update(self, name: str, type_: TensorType) -> Update:
        """The update of a parameter of which a rank has ``type_``."""
        optimizer = decaying(self.optimizer, self.recipe.decay_on, type_.rank)
        place = self.layout.places.get(name)
        if place is None or self.shard is None:
            return Update(optimizer.update(type_).function, optimizer.rate)
        return Update(self.shard.update(optimizer, type_, place), optimizer.rate)

    def _compile(self, dims: Mapping[str, int]) -> Entry:
        model = self.model
        parts = (
            model.program.digest,
            model.name,
            repr(sorted(dims.items())),
            model.precision,
            f"step {self.recipe!r} of {self.deal.ranks} ranks"
            + ("" if self.shard is None else f" that hold {self.shard.text}"),
        )
        # A warm start needs no program.
        program = functools.cache(lambda: self.program(dims))
        turn = nullcontext() if self.world is None else self.world.after_first()
        with self._refusing_well(dims), turn:
            made = compile_cached(
                parts,
                lambda: program().source,
                lambda function: program().derive(function),
                self.options,
                lambda function: program().gradient(function),
            )
        if self.world is not None:
            sequence = made.signature.exchanges
            self.world.agree_on("what they exchange in a step", f"{parts} {sequence}")
        return Entry(made)
