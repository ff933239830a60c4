"""Composing one training step: gradients, clipping, schedule and update of every parameter as one
Function.

    from  value_and_grad of a model (results LOSS, OUTPUTs, new STATEs, COTANGENTs), an update per
          parameter, and optionally a schedule (step number -> learning rate)
    to    parameters: PARAM, STATE, SLOT ``<parameter>/<slot>``, HYPER ``step`` (i32), INPUTs
          results:    LOSS, OUTPUTs, new PARAM, new STATE, new SLOT, new HYPER, OUTPUT ``grad_norm``
          when clipping by norm, STOP ``stopped`` where the step is guarded

The step number that updates and schedules see counts from 1, as in Adam's bias correction (Kingma
and Ba 2015, algorithm 1). Clipping by norm scales all gradients by min(1, limit / ||g||) with the
L2 norm over all of them (Pascanu et al. 2013); it comes after clipping by value.

Mixed precision (Micikevicius et al. 2018): parameters of 16 bits are trained as f32 masters,
rounded for each step's gradient; gradients are f32 from there on. With a loss scale the reverse
sweep is seeded with it and gradients are divided by it. A dynamic scale is state: a step with a
gradient that is not finite changes nothing but halves the scale (OUTPUT ``overflow`` is then true),
and every ``GROWTH_INTERVAL`` good steps double it.

A guarded step whose loss or gradients are not finite changes nothing either, and says so (STOP).
Every update then waits for every gradient, and is one op where it can be (``outline``). The norm
answers where gradients are clipped by it alone: beyond the root of the largest number it is not
finite, and cannot scale them.

Invariants: results that replace a parameter carry its name and role, so the Plan can update in
place.
Non-goals: differentiation, accumulation over micro-batches (``passes.accumulate``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.training.outline import (
    LOSS_SCALE,
    Limits,
    Outline,
    by_value,
    kept,
    outline,
    unscaled,
    zero,
)
from gradc.passes.training.precision import master_type
from gradc.passes.training.ranks import Deal, folded
from gradc.passes.training.touched import Touched, keeps_zeros, touched

STEP = "step"
RATE = "lr"
GRAD_NORM = "grad_norm"
SCALE, GOOD_STEPS, OVERFLOW = "loss_scale", "good_steps", "overflow"
STOPPED = "stopped"
INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
_LARGEST_SCALE = 2.0**24


@dataclass(frozen=True, slots=True)
class Update:
    """How one parameter is updated.

    ``function`` takes the parameter (PARAM), its gradient (COTANGENT), the step number as a float
    (HYPER ``t``), the learning rate where it has a HYPER ``lr``, and its slots (SLOT); it returns
    the new parameter and slots. ``rate`` is the learning rate where no schedule sets it.
    """

    function: Function
    rate: float | None = None

    @property
    def slots(self) -> tuple[tuple[str, TensorType], ...]:
        """Name and type of each slot, in order."""
        pairs = zip(self.function.parameters, self.function.block.parameters, strict=True)
        return tuple((s.name, v.type) for s, v in pairs if s.role is Role.SLOT)


@dataclass(frozen=True, slots=True)
class Clip:
    """Limits on the gradient; None means no limit."""

    norm: float | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters that ranks hold parts of, ``names``; ``deal`` says how many parts there are."""

    names: Collection[str]
    deal: Deal


def train_step(
    gradient: Function,
    updates: Mapping[str, Update],
    *,
    schedule: Function | None = None,
    clip: Clip | None = None,
    loss_scale: float | str | None = None,
    is_guarded: bool = False,
    held: Held | None = None,
    told: dict[str, str] | None = None,
) -> Function:
    """The step as one Function. ``updates`` names every parameter that ``gradient`` has a COTANGENT
    for.

    With ``loss_scale`` the gradient must take the seed of its loss (a SEED parameter); updates are
    those of the parameters' master types. ``is_guarded`` has a step that is not finite stopped; a
    dynamic scale skips it in any case. Norm and size of gradients are those of the whole parameters
    where ranks hold parts of them (``held``). ``told`` learns of every gradient that is made of
    rows at ids whether only these are visited (``rows``), or why all are (``touched``).

    Raises:
        KeyError: if a COTANGENT has no update.
    """
    clip = clip or Clip()
    composer = _Composer(gradient, updates, schedule, clip, loss_scale, is_guarded, held)
    made = composer.compose()
    if told is not None:
        told.update({**dict.fromkeys(composer.rows, "rows"), **composer.whole})
    return made


# An update as one op, and the scalars that it takes.
_Outlined: TypeAlias = tuple[Outline, tuple[Value, ...]]


class _Composer:
    """Builds the step in the order of its results."""

    def __init__(
        self,
        gradient: Function,
        updates: Mapping[str, Update],
        schedule: Function | None,
        clip: Clip,
        loss_scale: float | str | None,
        is_guarded: bool,
        held: Held | None,
    ) -> None:
        self.held = held
        self.gradient = gradient
        self.updates = updates
        self.schedule = schedule
        self.clip = clip
        self.loss_scale = loss_scale
        self.is_guarded = is_guarded and loss_scale != "dynamic"
        self.b = Builder()
        # By the identity of the update, which is kept with it.
        self._outlines: dict[tuple[int, TensorType], tuple[_Outlined | None, Function]] = {}
        # Gradients that are zero but in few rows, by parameter; why others of rows are whole.
        self.rows: dict[str, Touched] = {}
        self.whole: dict[str, str] = {}
        self.parameters: list[Slot] = []
        self.results: list[Slot] = []
        self.outputs: list[Value] = []

    def compose(self) -> Function:
        model_values = self._declare_model()
        slots = self._declare_slots()
        step = self._parameter(Slot(STEP, Role.HYPER), TensorType((), DType.I32))
        scale, good_steps = self._declare_scale()
        inputs = self._declare_inputs()
        arguments = self._gradient_arguments(model_values, inputs, scale)
        found = inline_function(self.b, self.gradient, arguments)
        made = list(zip(self.gradient.results, found, strict=True))
        raw = {s.name: value for s, value in made if s.role is Role.COTANGENT}
        self._find_rows(raw, scale)
        judged = {n: self.rows[n].sums(self.b) if n in self.rows else v for n, v in raw.items()}
        cts = {name: unscaled(self.b, value, scale) for name, value in judged.items()}
        factor, norm = self._clipped(cts)
        limits = Limits(scale, self.clip.value, factor)
        finite = self._judged(cts, norm, made)
        self._pass_results_on(made, model_values, finite)
        if norm is not None:
            self._result(Slot(GRAD_NORM, Role.OUTPUT), norm)
        next_step = self.b.one("add", step, self.b.constant(1, DType.I32))
        self._update_all(model_values, slots, raw, limits, next_step, finite)
        self._result(Slot(STEP, Role.HYPER), self._kept(finite, next_step, step))
        if finite is not None and scale is not None and good_steps is not None:
            self._update_scale(finite, scale, good_steps)
        elif finite is not None:
            self._result(Slot(STOPPED, Role.STOP), self.b.one("logical_not", finite))
        name = f"{self.gradient.name}_step"
        return self.b.function(name, self.outputs, self.parameters, self.results)

    # Loss scale.

    def _declare_scale(self) -> tuple[Value | None, Value | None]:
        """The scale (state if it is dynamic) and the number of good steps since it last changed."""
        if self.loss_scale is None:
            return None, None
        if self.loss_scale != "dynamic":
            return self.b.constant(float(self.loss_scale), DType.F32), None
        scale = self._parameter(Slot(SCALE, Role.HYPER), TensorType((), DType.F32))
        good = self._parameter(Slot(GOOD_STEPS, Role.HYPER), TensorType((), DType.I32))
        return scale, good

    def _gradient_arguments(
        self, primals: Mapping[str, Value], inputs: Mapping[str, Value], scale: Value | None
    ) -> list[Value]:
        """The gradient's operands: masters rounded to its types, the scale as its seed."""
        arguments = []
        pairs = zip(self.gradient.parameters, self.gradient.block.parameters, strict=True)
        for slot, value in pairs:
            if slot.role is Role.SEED:
                assert scale is not None, "a gradient with a seed needs a loss scale"
                given = scale
            else:
                given = inputs[slot.name] if slot.role is Role.INPUT else primals[slot.name]
            arguments.append(self.b.cast(given, value.type.dtype))
        return arguments

    def _judged(
        self, cts: Mapping[str, Value], norm: Value | None, made: Sequence[tuple[Slot, Value]]
    ) -> Value | None:
        """Whether the step is finite; None where nobody asks."""
        if self.loss_scale == "dynamic":
            return self._finite(cts, ())
        if not self.is_guarded or not cts:
            return None
        loss = [v for s, v in made if s.role is Role.LOSS]
        if norm is not None and self.clip.value is None:
            return self._finite({}, [norm, *loss])
        return self._finite(cts, loss)

    def _finite(self, cts: Mapping[str, Value], others: Sequence[Value]) -> Value:
        """Whether all numbers are finite: the largest size is a number below infinity."""
        b, wide = self.b, _widest([*cts.values(), *others])
        tops: dict[str, Value] = {}
        whole = {f"{n}, of all ranks": value for n, value in enumerate(others)}
        for name, value in (*cts.items(), *whole.items()):
            top = b.one("abs", value)
            if value.type.rank:
                top = b.one("reduce_max", top, axes=tuple(range(value.type.rank)))
            tops[name] = b.cast(top, wide)
        return b.one("lt", self._folded(tops, "max"), b.constant(float("inf"), wide))

    def _folded(self, found: Mapping[str, Value], by: str) -> Value:
        """One number from that of each parameter's gradient, put together by the op ``by``: first
        of what every rank has, then of what the ranks hold parts of.
        """
        held = () if self.held is None else self.held.names
        total: Value | None = None
        for value in (v for n, v in found.items() if n not in held):
            total = value if total is None else self.b.one(by, total, value)
        own: Value | None = None
        for value in (v for n, v in found.items() if n in held):
            own = value if own is None else self.b.one(by, own, value)
        if own is not None:
            assert self.held is not None, "somebody holds parts"
            own = folded(self.b, own, self.held.deal, by)
            total = own if total is None else self.b.one(by, total, own)
        assert total is not None, "there are parameters"
        return total

    def _kept(self, finite: Value | None, new: Value, old: Value) -> Value:
        """``new``, or ``old`` where the step is skipped."""
        return new if finite is None else kept(self.b, finite, new, old)

    def _update_scale(self, finite: Value, scale: Value, good: Value) -> None:
        b = self.b
        counted = b.one("add", good, b.constant(1, DType.I32))
        is_due = b.one("ge", counted, b.constant(GROWTH_INTERVAL, DType.I32))
        doubled = b.one("mul", scale, b.constant(2.0, DType.F32))
        doubled = b.one("min", doubled, b.constant(_LARGEST_SCALE, DType.F32))
        halved = b.one("mul", scale, b.constant(0.5, DType.F32))
        halved = b.one("max", halved, b.constant(1.0, DType.F32))
        grown = b.one("select", is_due, doubled, scale)
        zero = b.constant(0, DType.I32)
        restarted = b.one("select", is_due, zero, counted)
        self._result(Slot(SCALE, Role.HYPER), b.one("select", finite, grown, halved))
        self._result(Slot(GOOD_STEPS, Role.HYPER), b.one("select", finite, restarted, zero))
        self._result(Slot(OVERFLOW, Role.OUTPUT), b.one("logical_not", finite))

    def _parameter(self, slot: Slot, type_: TensorType) -> Value:
        self.parameters.append(slot)
        return self.b.parameter(type_, slot.name)

    def _result(self, slot: Slot, value: Value) -> None:
        self.results.append(slot)
        self.outputs.append(value)

    def _declare_model(self) -> dict[str, Value]:
        """Parameters (as masters) and states."""
        pairs = zip(self.gradient.parameters, self.gradient.block.parameters, strict=True)
        kept = (Role.PARAM, Role.STATE)
        return {
            s.name: self._parameter(s, master_type(v.type) if s.role is Role.PARAM else v.type)
            for s, v in pairs
            if s.role in kept
        }

    def _declare_slots(self) -> dict[str, list[Value]]:
        return {
            name: [
                self._parameter(Slot(f"{name}/{slot}", Role.SLOT), type_)
                for slot, type_ in update.slots
            ]
            for name, update in self.updates.items()
        }

    def _declare_inputs(self) -> dict[str, Value]:
        pairs = zip(self.gradient.parameters, self.gradient.block.parameters, strict=True)
        return {s.name: self._parameter(s, v.type) for s, v in pairs if s.role is Role.INPUT}

    def _pass_results_on(
        self,
        made: Sequence[tuple[Slot, Value]],
        before: Mapping[str, Value],
        finite: Value | None,
    ) -> None:
        """Loss, outputs and new state become results of the step."""
        for slot, value in made:
            if slot.role is Role.STATE:
                self._result(slot, self._kept(finite, value, before[slot.name]))
            elif slot.role is not Role.COTANGENT:
                self._result(slot, value)

    def _clipped(self, cts: Mapping[str, Value]) -> tuple[Value | None, Value | None]:
        """The factor that limits the norm of the gradients, and the norm, where it has a limit."""
        limit = self.clip.value
        if self.clip.norm is None or not cts:
            return None, None
        if limit is not None:
            cts = {name: by_value(self.b, ct, limit) for name, ct in cts.items()}
        return self._by_norm(cts, self.clip.norm)

    def _by_norm(self, cts: Mapping[str, Value], limit: float) -> tuple[Value, Value]:
        """min(1, limit / norm), and the norm."""
        b = self.b
        wide = _widest(cts.values())
        squares: dict[str, Value] = {}
        for name, ct in cts.items():
            raised = ct if ct.type.dtype is wide else b.one("cast", ct, dtype=wide)
            square = b.one("mul", raised, raised)
            whole = tuple(range(ct.type.rank))
            squares[name] = b.one("sum", square, axes=whole) if ct.type.rank else square
        norm = b.one("sqrt", self._folded(squares, "add"), hint=GRAD_NORM)
        bound = b.constant(limit, wide)
        # limit / max(norm, limit) is min(1, limit / norm) without a division by zero.
        return b.one("div", bound, b.one("max", norm, bound)), norm

    def _update_all(
        self,
        primals: Mapping[str, Value],
        slots: Mapping[str, list[Value]],
        cts: Mapping[str, Value],
        limits: Limits,
        step: Value,
        finite: Value | None,
    ) -> None:
        rate = self._rate(step)
        finished: list[tuple[Slot, Value]] = []
        for name, ct in cts.items():
            update, old = self.updates[name], (primals[name], *slots[name])
            guard = finite
            if guard is None and name in self.rows:
                guard = self.b.constant(1, DType.BOOL)
            outlined = None if guard is None else self._outline(update, ct, limits, step, rate)
            if outlined is not None and guard is not None:
                (found, shared), own = outlined, (guard, ct, *old)
                if name in self.rows:
                    new, *new_slots = self.rows[name].apply(self.b, found, own, shared)
                else:
                    new, *new_slots = found.apply(self.b, own, shared)
            else:
                ct = limits.apply(self.b, ct)
                new, *new_slots = self._updated(update, ct, old, step, rate, finite)
            self._result(Slot(name, Role.PARAM), new)
            names = [f"{name}/{slot}" for slot, _ in update.slots]
            finished += [
                (Slot(slot, Role.SLOT), value) for slot, value in zip(names, new_slots, strict=True)
            ]
        for slot, value in finished:
            self._result(slot, value)

    def _updated(
        self,
        update: Update,
        ct: Value,
        old: Sequence[Value],
        step: Value,
        rate: Value | None,
        finite: Value | None,
    ) -> Sequence[Value]:
        """The new parameter and slots in place of ``old``, written out."""
        if finite is not None:
            # Nothing of an update is computed, and kept beside its gradient, before all are known.
            ct = kept(self.b, finite, ct, zero(self.b, ct))
        given = {"p": old[0], "g": ct}
        arguments = self._arguments(update, given, old[1:], step, rate)
        made = inline_function(self.b, update.function, arguments)
        return [self._kept(finite, new, was) for new, was in zip(made, old, strict=True)]

    def _fixed(self, update: Update) -> dict[str, float]:
        """The scalars of ``update`` and of the limits that are known now."""
        fixed = dict[str, float]()
        if self.loss_scale not in (None, "dynamic"):
            fixed[LOSS_SCALE] = float(self.loss_scale or 0)
        names = [slot.name for slot in update.function.parameters if slot.role is Role.HYPER]
        if RATE in names and self.schedule is None:
            assert update.rate is not None, "an optimiser without a learning rate takes none"
            fixed[RATE] = update.rate
        return fixed

    def _find_rows(self, cts: Mapping[str, Value], scale: Value | None) -> None:
        """Which gradients are updates of few rows, and need not be more."""
        makers = {value: op for op in self.b.ops for value in op.results}
        for name, ct in cts.items():
            found = touched(makers.get(ct))
            if isinstance(found, Touched):
                found = self._why_whole(self.updates[name], ct, scale) or found
            if isinstance(found, Touched):
                self.rows[name] = found
            elif found is not None:
                self.whole[name] = found

    def _why_whole(self, update: Update, ct: Value, scale: Value | None) -> str:
        """What keeps a gradient of few rows from staying one; empty if nothing does."""
        if self.clip.norm is not None:
            return "the norm of the gradients adds up all elements"
        limits = Limits(scale, self.clip.value, None)
        made = outline(update.function, ct.type, limits, self._fixed(update))
        if made is None:
            return "its update does not work element by element"
        return "" if keeps_zeros(made) else "its update may change rows without a gradient"

    def _outline(
        self, update: Update, ct: Value, limits: Limits, step: Value, rate: Value | None
    ) -> _Outlined | None:
        """``update`` as one op, and what it takes that all parameters share: made once for each
        update and type of gradient.
        """
        key = (id(update.function), ct.type)
        known = self._outlines.get(key)
        if known is None:
            function, given, fixed = update.function, limits.scalars, self._fixed(update)
            for slot, value in zip(function.parameters, function.block.parameters, strict=True):
                if slot.role is Role.HYPER and slot.name not in fixed:
                    given[slot.name] = self._hyper(slot, value.type, step, rate, update.rate)
            made = outline(function, ct.type, limits, fixed)
            shared = () if made is None else made.compute_shared(self.b, given)
            known = (None if made is None else (made, shared), function)
            self._outlines[key] = known
        return known[0]

    def _arguments(
        self,
        update: Update,
        given: Mapping[str, Value],
        slots: Sequence[Value],
        step: Value,
        rate: Value | None,
    ) -> list[Value]:
        """The operands of one update, in the order it declares them."""
        remaining = iter(slots)
        by_role: dict[Role, Callable[[Slot, TensorType], Value]] = {
            Role.PARAM: lambda _slot, _type: given["p"],
            Role.COTANGENT: lambda _slot, _type: given["g"],
            Role.SLOT: lambda _slot, _type: next(remaining),
            Role.HYPER: lambda slot, type_: self._hyper(slot, type_, step, rate, update.rate),
        }
        function = update.function
        pairs = zip(function.parameters, function.block.parameters, strict=True)
        return [by_role[slot.role](slot, value.type) for slot, value in pairs]

    def _hyper(
        self, slot: Slot, type_: TensorType, step: Value, rate: Value | None, fixed: float | None
    ) -> Value:
        """The step number, or the learning rate of the schedule or, without one, of the
        optimiser.
        """
        if slot.name != RATE:
            return self.b.one("cast", step, dtype=type_.dtype)
        if rate is not None:
            return rate if rate.type == type_ else self.b.one("cast", rate, dtype=type_.dtype)
        assert fixed is not None, "an optimiser without a learning rate takes none"
        return self.b.constant(fixed, type_.dtype)

    def _rate(self, step: Value) -> Value | None:
        if self.schedule is None:
            return None
        (parameter,) = self.schedule.block.parameters
        t = self.b.one("cast", step, dtype=parameter.type.dtype)
        (rate,) = inline_function(self.b, self.schedule, [t])
        return rate


def _widest(values: Iterable[Value]) -> DType:
    """The type in which norms are summed: f64 if any value is, else f32."""
    return DType.F64 if any(v.type.dtype is DType.F64 for v in values) else DType.F32
