"""The forward program of a rank that holds parts of the parameters: what a cut model makes of
samples, without whole parameters anywhere.

    forward = RankForward(shard, world, options)
    forward(parts, x=x, y=y)["loss"]        # every rank calls, with the same samples

The loss is that of the whole model on every rank. ``logits`` may be a rank's own part of the
classes: ``best_class`` finds the greatest of all ranks.

Non-goals: how the program is cut (``passes.training.share``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from gradc.codegen import exchange
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function, Role
from gradc.ir.tensor.dims import substitute
from gradc.passes.training.share import share
from gradc.runtime.model.call import INPUTS, PARAMS, Arrays, Entry, decoded, grouped
from gradc.runtime.model.compiled import Compiled, results
from gradc.runtime.model.shard import Shard
from gradc.runtime.native.arrays import Array
from gradc.runtime.native.compile import Options, plan_of
from gradc.runtime.ranks.world import Ranks

LOGITS = "logits"


class RankForward(Compiled):
    """``f(parts, **inputs) -> {name: result}`` on one of the ranks of ``world``."""

    def __init__(self, shard: Shard, world: Ranks, options: Options) -> None:
        self._shard, self._world = shard, world
        model = shard.model
        finish = partial(results, name=model.result)
        key = f"forward of a rank that holds {shard.text}"
        super().__init__(model, key, self._cut, finish, False, options)

    def _cut(self, whole: Function) -> Function:
        """``whole`` as a rank runs it. Classes may be cut; logits that are cut along something
        else are put together, since labels are those of whole samples.
        """
        shard = self._shard
        outputs = [slot.name for slot in whole.results if slot.role is Role.OUTPUT]
        places = shard.places()
        made = share(whole, places, shard.deal, shard.refuse, outputs)
        first, own = (_shapes(function).get(LOGITS, ()) for function in (whole, made))
        if first[:-1] != own[:-1]:
            outputs.remove(LOGITS)
            made = share(whole, places, shard.deal, shard.refuse, outputs)
        return made

    def _called(self, params: Arrays, *seeds: Arrays, **inputs: Any) -> Any:
        """As of one process; every rank calls."""
        entry = self.entry(inputs)
        exchange.join(self._world)
        found = grouped(entry.made, entry.call({PARAMS: self._drawing(params), INPUTS: inputs}))
        exchange.check()
        return self._finish(decoded(found) if entry.makes_bits else found)

    def _compile(self, dims: Any) -> Entry:
        with self._world.after_first():
            entry = super()._compile(dims)
        exchanges = entry.native.signature.exchanges
        self._world.agree_on("what they exchange in a forward program", f"{dims} {exchanges}")
        return entry

    def plan(self, dims: Mapping[str, int]) -> Plan:
        """What a call does with memory, without running it."""
        return plan_of(self.lowered(dims), self._derive, self.options)

    def best_class(self, logits: Array) -> Array:
        """The class with the greatest of ``logits`` [..., a rank's classes or all], the first of
        several; every rank calls.
        """
        best: Array = logits.argmax(-1)
        types = dict(self.model.signature.outputs)
        classes = substitute(types[LOGITS].shape[-1], self.model.bind({}))
        if logits.shape[-1] == classes:
            return best
        ranks, rank = self._shard.ranks, self._world.rank % self._shard.ranks
        own = np.zeros((ranks, 2, *best.shape))
        own[rank, 0] = np.take_along_axis(logits, best[..., None], -1)[..., 0]
        own[rank, 1] = best + rank * logits.shape[-1]
        found = self._world.total(own, ranks)
        first = found[:, 0].argmax(0)
        chosen: Array = np.take_along_axis(found[:, 1], first[None], 0)[0].astype(best.dtype)
        return chosen


def _shapes(function: Function) -> dict[str, tuple[int, ...]]:
    pairs = zip(function.results, function.block.outputs, strict=True)
    return {slot.name: value.type.static_shape for slot, value in pairs}
