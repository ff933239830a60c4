"""Gradient accumulation that equals the big batch: one function that cuts its batch and adds up
exact gradients.

    from  a model's function at the whole batch, and which axes of its inputs hold samples
    to    a function like its ``value_and_grad``, whose memory is that of one part

The loss is L = h(S, p) with S the sums over samples (``accumulate_batch``), so

    dL/dp = sum_j dh/dS_j dS_j/dp + dh/dp,    S_j = sum over parts of S_j(part)

and the parts' pullbacks are seeded with dh/dS_j. Where dh/dS_j needs sums that only the whole batch
knows (the number of tokens that count, say), a first loop over the parts computes just those. This
is why ragged token counts are exact, where the mean of means is not (huggingface/transformers
#34191).

Random draws are those of the whole batch: a part draws its own rows of them (``accumulate_draws``).
Literals such as 1/B mean the whole batch too, since the part's program is made from that of the
whole.

The program of one part is a Function of its own (``Accumulation.part``). Passes that come before a
derivative, such as recomputation under a budget, change it there; ``compose`` then takes its
pullback and writes the loops around it.

With several ranks the parts are dealt to them in turn: rank r of R has parts r, R + r, 2 R + r and
so on, and its inputs are those parts' rows. After every turn each rank adds what all ranks found to
the totals, in the order of parts (``ranks``). So the order of every sum is that of one rank, and
the results of R ranks have the bits of one rank with as many parts.

Invariants: loops stay rolled (``scan``), so code size does not depend on ``parts``. Non-goals:
clipping, updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.axes import Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function
from gradc.ir.tensor.core import Block, Function, Op, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import value_and_grad, vjp
from gradc.passes.rewrite import copy_ops, renamed
from gradc.passes.simplify.dce import dce
from gradc.passes.training.accumulate_batch import separate
from gradc.passes.training.accumulate_draws import KEY, keys_of_parts, numbered
from gradc.passes.training.cut import Cut
from gradc.passes.training.ranks import Deal
from gradc.passes.training.turns import Turns

Share: TypeAlias = Callable[[Function], Function]


@dataclass(frozen=True, slots=True)
class _Parts:
    """The program in two functions: ``inner`` per part (parameters to sums and per-sample outputs),
    ``outer`` after.
    """

    inner: Function
    outer: Function
    sums: tuple[str, ...]
    per_sample: tuple[tuple[int, Place], ...]  # (result number of the model, where its samples lie)


def accumulate(
    big: Function,
    axes: Mapping[str, int],
    wrt: Sequence[str],
    parts: int,
    *,
    is_seeded: bool = False,
    ranks: int = 1,
) -> Function:
    """Results and gradients of ``big``, computed in ``parts`` parts by ``ranks`` ranks; ``axes``
    are those of samples, by input.

    Parameters and results are those of ``value_and_grad(big, wrt)``; with ``is_seeded`` a SEED for
    the loss follows the parameters, as in ``vjp``.

    Raises:
        DiagnosticError: GC0807 if samples are coupled, GC0808 if ``parts`` is not positive.
    """
    if parts == 1:
        return vjp(big, wrt, of=["loss"]) if is_seeded else value_and_grad(big, wrt)
    found = accumulation(big, axes, wrt, parts, is_seeded=is_seeded, ranks=ranks)
    return found.compose(found.part)


@dataclass(frozen=True, slots=True)
class Accumulation:
    """A batch cut into parts. ``part`` is the forward program of one, from parameters to its sums
    and outputs.
    """

    part: Function
    _composer: _Composer

    def gradient(self, part: Function) -> Function:
        """The pullback of ``part`` alone, which says what its reverse sweep reads. ``part`` is as
        for ``compose``.
        """
        return self._composer.pullback_of(part)

    def compose(self, part: Function) -> Function:
        """Results and gradients of the whole batch; ``part`` is this one's, or what passes have
        made of it.

        Parameters and results are as ``accumulate`` says.
        """
        return self._composer.compose(part)


def accumulation(
    big: Function,
    axes: Mapping[str, int],
    wrt: Sequence[str],
    parts: int,
    *,
    is_seeded: bool = False,
    ranks: int = 1,
    shares_statistics: bool = False,
    share: Share | None = None,
    across: bool = False,
) -> Accumulation:
    """``big`` cut into ``parts`` parts along ``axes`` of its inputs, before derivatives are taken.
    At least two parts.

    ``share`` is what ranks that hold parts of the parameters run in place of a function of them;
    where there are several such groups, parts are dealt to the groups (``across``).

    With ``shares_statistics`` ranks that have at most a part each add up, on the way, sums over the
    batch that single samples depend on (batch normalisation).

    Raises:
        DiagnosticError: as for ``accumulate``.
    """
    if parts < 1:
        raise DiagnosticError(
            [error("GC0808", f"accumulate must be at least 1, not {parts}", None)]
        )
    big = dce(big)
    deal = Deal(parts, ranks, across)
    shared = deal if shares_statistics and deal.turns == 1 and ranks > 1 else None
    cut = _cut(big, separate(big, axes, parts, shared))
    return Accumulation(cut.inner, _Composer(big, cut, axes, wrt, deal, is_seeded, share))


# --- cutting the program


def _cut(big: Function, samples: Cut) -> _Parts:
    names = tuple(f"sum{i}" for i in range(len(samples.sums)))
    per_sample = tuple(
        (number, samples.places[value])
        for number, value in enumerate(big.block.outputs)
        if value in samples.places
    )
    outputs = [*samples.sums.values()]
    outputs += [samples.parts_of[big.block.outputs[n]] for n, _ in per_sample]
    slots = [Slot(name, Role.OUTPUT) for name in names]
    slots += [big.results[n] for n, _ in per_sample]
    end = Op("return", tuple(outputs), ())
    block = Block(samples.parameters, (*samples.ops, end))
    inner = dce(Function(f"{big.name}_part", block, big.parameters, tuple(slots)))
    rng = _random_state(big)
    if rng is not None:
        inner = numbered(inner, rng)
    return _Parts(inner, _outer(big, samples, names), names, per_sample)


def _random_state(function: Function) -> str | None:
    """The name of the key that ``function`` draws with."""
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        if slot.role is Role.STATE and value.type == KEY:
            return slot.name
    return None


def _closed(
    name: str, like: Function, ops: Iterable[Op], outputs: Sequence[Value], slots: Sequence[Slot]
) -> Function:
    """A function over the parameters of ``like``, with values of its own."""
    parameters = tuple(Value(v.type, v.hint) for v in like.block.parameters)
    mapping = dict(zip(like.block.parameters, parameters, strict=True))
    copies = copy_ops(ops, mapping)
    end = Op("return", renamed(outputs, mapping), ())
    block = Block(parameters, (*copies, end))
    return dce(Function(name, block, like.parameters, tuple(slots)))


def _outer(big: Function, samples: Cut, names: Sequence[str]) -> Function:
    """What comes after the sums, from the whole program, so that sizes and means are the whole
    batch's.
    """
    b = Builder()
    pairs = zip(big.parameters, big.block.parameters, strict=True)
    kept = [(slot, value) for slot, value in pairs if value not in samples.places]
    mapping = {value: b.parameter(value.type, slot.name) for slot, value in kept}
    mapping.update({v: b.parameter(v.type, n) for v, n in zip(samples.sums, names, strict=True)})
    for op in big.block.body:
        if all(v in mapping for v in op.operands) and op.results[0] not in mapping:
            b.ops += copy_ops([op], mapping)
    wanted = [
        (slot, mapping[value])
        for slot, value in zip(big.results, big.block.outputs, strict=True)
        if value in mapping
    ]
    slots = [slot for slot, _ in kept] + [Slot(name, Role.INPUT) for name in names]
    made = b.function(f"{big.name}_sums", [v for _, v in wanted], slots, [s for s, _ in wanted])
    return dce(made)


# --- composing


class _Composer:
    def __init__(
        self,
        big: Function,
        parts: _Parts,
        axes: Mapping[str, int],
        wrt: Sequence[str],
        deal: Deal,
        is_seeded: bool,
        share: Share | None,
    ) -> None:
        self.share: Share = share or _itself
        # As the ranks that cut parameters hold them.
        held = [] if share is None else zip(*_typed(share(_parameters_of(big))), strict=True)
        self.held = {slot.name: value.type for slot, value in held}
        self.big = big
        self.parts = parts
        self.axes = axes
        self.wrt = tuple(wrt)
        self.deal = deal
        self.is_seeded = is_seeded
        self.rng = _random_state(big)
        self._start(parts.inner)

    def _start(self, part: Function) -> None:
        self.inner = part
        self.b = Builder()
        self.values: dict[str, Value] = {}

    def pullback_of(self, part: Function) -> Function:
        """The pullback of ``part`` from cotangents of the sums that the loss depends on."""
        return vjp(part, self.wrt, of=list(self._seed_cts(self._outer_pullback())))

    def compose(self, part: Function) -> Function:
        """The function of the whole batch around ``part``."""
        self._start(part)
        for slot, value in zip(self.big.parameters, self.big.block.parameters, strict=True):
            self.values[slot.name] = self.b.parameter(self._given(slot, value.type), slot.name)
        self.seed = self._declare_seed()
        early = self._early_sums()
        seeds = self._seeds(early)
        sums, cts, outputs = self._main_loop(seeds)
        results, direct = self._after(sums)
        return self._finish(results, direct, cts, outputs)

    def _given(self, slot: Slot, whole: TensorType) -> TensorType:
        """The type of a parameter: of samples, one rank has the rows of its own parts."""
        axis = self.axes.get(slot.name)
        if axis is None:
            return self.held.get(slot.name, whole)
        shape = whole.static_shape
        rows = shape[axis] // self.deal.count * self.deal.turns
        return whole.with_shape((*shape[:axis], rows, *shape[axis + 1 :]))

    def _declare_seed(self) -> Value:
        """The cotangent of the loss: a parameter, or 1."""
        pairs = zip(self.big.results, self.big.block.outputs, strict=True)
        type_ = next(value.type for slot, value in pairs if slot.role is Role.LOSS)
        if self.is_seeded:
            return self.b.parameter(type_, "seed")
        return self.b.constant(1.0, type_.dtype, type_.shape)

    # The seeds: cotangents of the sums, which may need some sums beforehand.

    def _outer_pullback(self) -> Function:
        """(parameters, sums, seed) to (results, cotangents of float sums, cotangents of
        ``wrt``).
        """
        floats = [n for n in self.parts.sums if self._sum_type(n).dtype.is_float]
        return self.share(vjp(self.parts.outer, [*floats, *self.wrt], of=["loss"]))

    def _sum_type(self, name: str) -> TensorType:
        return self.parts.outer.parameter(name).type

    def _seed_cts(self, pullback: Function) -> dict[str, Value]:
        """The pullback's cotangent of each float sum."""
        return {
            slot.name: value
            for slot, value in zip(pullback.results, pullback.block.outputs, strict=True)
            if slot.role is Role.COTANGENT and slot.name in self.parts.sums
        }

    def _early_sums(self) -> dict[str, Value]:
        """The sums that the seeds depend on, from a loop of their own; often none."""
        pullback = self._outer_pullback()
        needed = _dependences(pullback, self._seed_cts(pullback).values(), self.parts.sums)
        if not needed:
            return {}
        kept = [n for n, slot in enumerate(self.inner.results) if slot.name in needed]
        outputs = [self.inner.block.outputs[n] for n in kept]
        slots = [self.inner.results[n] for n in kept]
        body = dce(_closed("early", self.inner, self.inner.block.body, outputs, slots))
        body = self.share(body)
        totals, _, _ = self._loop(body, {}, [s.name for s in slots])
        return totals

    def _seeds(self, early: Mapping[str, Value]) -> dict[str, Value]:
        pullback = self._outer_pullback()
        found = self._call_outer(pullback, early)
        names = [(slot.role, slot.name) for slot in pullback.results]
        return {n: found[names.index((Role.COTANGENT, n))] for n in self._seed_cts(pullback)}

    def _call_outer(self, pullback: Function, sums: Mapping[str, Value]) -> tuple[Value, ...]:
        """Inlines the pullback; sums that are not known are zero, and do not matter to what is
        used.
        """
        operands = []
        for slot, value in zip(pullback.parameters, pullback.block.parameters, strict=True):
            type_ = value.type
            if slot.role is Role.SEED:
                operands.append(self.seed)
            elif slot.name in self.parts.sums:
                known = sums.get(slot.name)
                operands.append(known or self.b.constant(0, type_.dtype, type_.shape))
            else:
                operands.append(self.values[slot.name])
        return inline_function(self.b, pullback, operands)

    # The loop over parts.

    def _main_loop(
        self, seeds: Mapping[str, Value]
    ) -> tuple[dict[str, Value], dict[str, Value], list[Value]]:
        pullback = self.share(vjp(self.inner, self.wrt, of=list(seeds)))
        if self.deal.full == 0:
            # Ranks without a part reach those that have one through what they share.
            active = self.deal.is_dealt(self.b)
            seeds = {name: self._gated(seed, active) for name, seed in seeds.items()}
        return self._loop(pullback, seeds, self.parts.sums)

    def _gated(self, seed: Value, active: Value) -> Value:
        b, type_ = self.b, seed.type
        spread = b.one("broadcast", active, shape=type_.shape, dims=()) if type_.rank else active
        return b.one("select", spread, seed, b.constant(0, type_.dtype, type_.shape))

    def _loop(
        self, body: Function, seeds: Mapping[str, Value], sums: Sequence[str]
    ) -> tuple[dict[str, Value], dict[str, Value], list[Value]]:
        """Runs ``body`` on every part. Returns total sums, total cotangents, stacked per-sample
        outputs.
        """
        results = list(zip(body.results, body.block.outputs, strict=True))
        carried = [
            (slot, value)
            for slot, value in results
            if slot.role is Role.COTANGENT or slot.name in sums
        ]
        stacked = [value for slot, value in results if (slot, value) not in carried]
        given = list(zip(body.parameters, body.block.parameters, strict=True))
        cut = {v: self._cut_input(s.name, v.type) for s, v in given if self._is_cut(s)}
        constants = {v: self._constant(s, seeds) for s, v in given if not self._is_cut(s)}
        run = Turns(self.b, body, self.deal, cut, constants, [v for _, v in carried], stacked)
        totals = dict(zip([slot for slot, _ in carried], run.totals(), strict=True))
        return (
            {s.name: v for s, v in totals.items() if s.role is not Role.COTANGENT},
            {s.name: v for s, v in totals.items() if s.role is Role.COTANGENT},
            run.outputs(),
        )

    def _is_cut(self, slot: Slot) -> bool:
        if slot.name == self.rng:
            return True
        return slot.name in self.axes

    def _cut_input(self, name: str, part: TensorType) -> Value:
        """[B, ...] as [turns, B / parts, ...], the batch axis first; a key for each part."""
        value = self.values[name]
        if name == self.rng:
            return keys_of_parts(self.b, value, self.deal.numbers(self.b))
        axis = self.axes[name]
        shape = part.static_shape
        split = (*shape[:axis], self.deal.turns, *shape[axis:])
        value = self.b.one("reshape", value, shape=split)
        if axis == 0:
            return value
        perm = (axis, *(i for i in range(len(split)) if i != axis))
        return self.b.one("transpose", value, perm=perm)

    def _constant(self, slot: Slot, seeds: Mapping[str, Value]) -> Value:
        return seeds[slot.name] if slot.role is Role.SEED else self.values[slot.name]

    # After the loop.

    def _after(self, sums: Mapping[str, Value]) -> tuple[dict[Slot, Value], dict[str, Value]]:
        """Results that follow from the sums, and the gradients that do not go through them."""
        pullback = self._outer_pullback()
        found = self._call_outer(pullback, sums)
        pairs = list(zip(pullback.results, found, strict=True))
        results = {slot: v for slot, v in pairs if slot.role is not Role.COTANGENT}
        direct = {slot.name: v for slot, v in pairs if slot.role is Role.COTANGENT}
        return results, direct

    def _finish(
        self,
        results: Mapping[Slot, Value],
        direct: Mapping[str, Value],
        cts: Mapping[str, Value],
        outputs: Sequence[Value],
    ) -> Function:
        joined = {
            n: self._joined(stacked, place)
            for (n, place), stacked in zip(self.parts.per_sample, outputs, strict=True)
        }
        values = [
            joined[n] if n in joined else results[slot] for n, slot in enumerate(self.big.results)
        ]
        gradients = [self.b.one("add", cts[n], direct[n]) for n in self.wrt]
        spans = {slot.name: slot.span for slot in self.big.parameters}
        slots = [Slot(n, Role.COTANGENT, spans[n]) for n in self.wrt]
        name = f"{self.big.name}_accumulated"
        seeds = [Slot("loss", Role.SEED)] if self.is_seeded else []
        made = self.b.function(
            name,
            [*values, *gradients],
            [*self.big.parameters, *seeds],
            [*self.big.results, *slots],
        )
        return dce(made)

    def _joined(self, stacked: Value, place: Place) -> Value:
        """[turns, ..., n / turns, ...] as [..., n, ...]: the number of the part comes after
        ``place.outer``.
        """
        axis, outer = place.axis, place.outer
        _, *shape = stacked.type.static_shape
        turns = self.deal.turns
        split = (turns, *shape[:axis], outer, shape[axis] // outer, *shape[axis + 1 :])
        perm = (*range(1, axis + 2), 0, *range(axis + 2, len(split)))
        whole = (*shape[:axis], turns * shape[axis], *shape[axis + 1 :])
        if axis or outer > 1:
            stacked = self.b.one("reshape", stacked, shape=split)
            stacked = self.b.one("transpose", stacked, perm=perm)
        return self.b.one("reshape", stacked, shape=whole)


def _itself(function: Function) -> Function:
    return function


def _parameters_of(function: Function) -> Function:
    """A function with the parameters of ``function`` that gives nothing."""
    return _closed("parameters", function, (), (), ())


def _typed(function: Function) -> tuple[Sequence[Slot], Sequence[Value]]:
    return function.parameters, function.block.parameters


def _dependences(
    function: Function, targets: Iterable[Value], names: Sequence[str]
) -> tuple[str, ...]:
    """The parameters of ``names`` that ``targets`` depend on in any way."""
    live = set(targets)
    for op in reversed(function.block.body):
        if any(v in live for v in op.results):
            live.update(op.operands)
    pairs = zip(function.parameters, function.block.parameters, strict=True)
    return tuple(s.name for s, v in pairs if v in live and s.name in names)
