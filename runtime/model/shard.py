"""A model cut along one of its dimensions among ranks: parameters that have it are cut, and what is
added up along it is added up over all ranks (tensor parallel).

    shard = Shard.parsed(net, "H=2")
    cut = shard.at({})       # ``cut.share(gradient)`` is what each rank runs

Hidden dimensions of two products that follow each other, and heads of attention, are cut in this
way: one sum over ranks forward and one back for each pair (Shoeybi et al. 2019, section 3).

Non-goals: how a function is cut (``passes.training.share``), moving arrays
(``runtime.model.layout``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gradc.frontend.model.models import ModelIR
from gradc.frontend.model.training import OptimizerIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.ir.ops.axes import Place
from gradc.ir.tensor.core import Function, Role, TensorType
from gradc.passes.training.accumulate_batch import Refuse, along_dim, batch_axes
from gradc.passes.training.pieces import part_type
from gradc.passes.training.ranks import Deal
from gradc.passes.training.share import share
from gradc.passes.training.uses import best, reached
from gradc.runtime.model.layout import resized
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import listed

# What a dimension counts as that only the arrays of a call bind, where the size does not matter: a
# size with many divisors.
_SAMPLE: Final = 60


def parts_of(text: str) -> tuple[str, int]:
    """A dimension and a number of ranks from ``H=2``. Raises DiagnosticError GC0564 for anything
    else.
    """
    name, equals, count = text.partition("=")
    if equals and name.isidentifier() and count.isdecimal() and 0 < int(count) < 1 << 20:
        return name, int(count)
    help = "write NAME=RANKS, such as --shard-dim H=2"
    message = f"--shard-dim {text}: not a dimension and a number of ranks"
    raise DiagnosticError([error("GC0564", message, None, help=help)])


@dataclass(frozen=True, slots=True)
class Cut:
    """A model at some dimensions: ``places`` at which its parameters are cut, by name."""

    whole: ModelIR
    places: Mapping[str, Place]
    deal: Deal
    refuse: Refuse

    def share(self, function: Function) -> Function:
        """``function`` of the model's parameters as each rank runs it.

        Raises:
            DiagnosticError: GC0824 where it cannot be cut, with the op.
        """
        whole = self.whole.function.results
        outputs = [slot.name for slot in whole if slot.role is Role.OUTPUT]
        return share(function, self.places, self.deal, self.refuse, outputs)


@dataclass(frozen=True)
class Shard:
    """``model`` cut along dimension ``dim`` among ``ranks`` ranks."""

    model: Model
    dim: str
    ranks: int

    @staticmethod
    def parsed(model: Model, text: str) -> Shard:
        """``H=2``. Raises DiagnosticError GC0564 for anything else, or no dimension."""
        name, count = parts_of(text)
        known = list(model.signature.dims)
        if name not in known:
            help = did_you_mean(name, known) or f"there are {listed(known)}"
            message = f"there is no dimension `{name}`"
            raise DiagnosticError([error("GC0564", message, None, help=help)])
        return Shard(model, name, count)

    @property
    def text(self) -> str:
        """``H=2``."""
        return f"{self.dim}={self.ranks}"

    @staticmethod
    def of(model: Model, shard: object) -> Shard | None:
        """What ``shard=`` of ``train_step`` means: ``{"H": 2}``, or None.

        Raises:
            DiagnosticError: GC0564 for anything else, or no dimension.
        """
        if shard is None:
            return None
        if isinstance(shard, Mapping) and len(shard) == 1:
            ((name, count),) = shard.items()
            return Shard.parsed(model, f"{name}={count}")
        help = "write {dimension: ranks}, such as shard={'H': 2}"
        message = f"shard is a dimension and a number of ranks, not {shard!r}"
        raise DiagnosticError([error("GC0564", message, None, help=help)])

    @property
    def deal(self) -> Deal:
        """A part for each rank."""
        return Deal(self.ranks, self.ranks)

    def at(self, dims: Mapping[str, int]) -> Cut:
        """The whole model at ``dims``, and which of its parameters are cut.

        Raises:
            DiagnosticError: GC0824 where the dimension cannot be cut.
        """
        whole = self.model.lower(dims, training=True)
        return Cut(whole, self.places(whole.dims), self.deal, self.refuse)

    @property
    def refuse(self) -> Refuse:
        """The refusal to cut along the dimension."""
        return along_dim(self.dim)

    def places(self, dims: Mapping[str, int] | None = None) -> dict[str, Place]:
        """Where parameters and states are cut, by name: of several axes along the one that has the
        dimension most often, inside blocks where the program takes it apart so.

        Raises:
            DiagnosticError: GC0824 where the dimension cannot be cut.
        """
        model = self.model
        known = model.program.sizes(model.name, {**model.dims, **(dims or {})})
        size = known.get(self.dim)
        if size is None:
            raise self.refuse("only the arrays of a call say how large it is", None)
        if size % self.ranks:
            raise self.refuse(f"{size} is no multiple of {self.ranks} ranks", None)
        # The same whatever the batch: what a call binds has a size of its own here.
        sample = {**known, **{n: _SAMPLE for n, size in model.signature.dims.items() if not size}}
        possible = self._possible(known, size) or self._reached(sample, size)
        if not possible:
            raise self.refuse("no parameter has it", None)
        if all(len(places) == 1 for places in possible.values()):
            return {name: place for name, (place,) in possible.items()}
        return best(model.lower(sample, training=True).function, possible, self.ranks)

    def _reached(self, known: Mapping[str, int], size: int) -> dict[str, list[Place]]:
        """Where parameters have a dimension that only values of the program name."""
        if self.ranks == 1:
            return {}
        whole, fewer = (
            self.model.lower({**known, self.dim: n}, training=True).function
            for n in (size, size // self.ranks)
        )
        return reached(whole, fewer, self.ranks)

    def _possible(self, known: Mapping[str, int], size: int) -> dict[str, list[Place]]:
        """Where each parameter that has the dimension, of ``size``, may have it, what is cheapest
        to cut first.
        """
        fewer = {**known, self.dim: size // self.ranks}
        model = self.model
        whole, part = (
            Model(model.program, model.name, sizes, model.precision).param_types()
            for sizes in (known, fewer)
        )
        if whole.keys() != part.keys():
            raise self.refuse("it counts layers, not positions", None)
        found: dict[str, list[Place]] = {}
        for name, type_ in whole.items():
            pairs = list(zip(type_.static_shape, part[name].static_shape, strict=True))
            axes = [axis for axis, (n, m) in enumerate(pairs) if n != m]
            even = [axis for axis in axes if pairs[axis][0] == self.ranks * pairs[axis][1]]
            if axes and not even:
                raise self.refuse(f"`{name}` has a size that is not a multiple of the parts", None)
            times = {axis: max(1, pairs[axis][0] // size) for axis in even}
            for axis in sorted(even, key=lambda a: -times[a]):
                blocks = (n for n in range(1, times[axis] + 1) if times[axis] % n == 0)
                places = [Place(axis, n) for n in blocks if pairs[axis][1] % n == 0]
                found.setdefault(name, []).extend(places)
        return found

    # --- updates

    def slot_places(
        self, optimizer: OptimizerIR, type_: TensorType, place: Place
    ) -> dict[str, Place]:
        """The places of the optimiser's slots for a parameter of ``type_`` that is cut at
        ``place``; a slot without that index is whole on every rank.
        """
        part = part_type(type_, place, self.ranks)
        whole, own = ({s.name: s.type for s in optimizer.update(t).slots} for t in (type_, part))
        axes = batch_axes(whole, own, self.ranks, self.refuse)
        return {name: Place(axis, place.outer) for name, axis in axes.items()}

    def update(self, optimizer: OptimizerIR, part: TensorType, place: Place) -> Function:
        """The update of a parameter of which a rank has ``part``. What it adds up over the
        parameter is added up over the ranks.

        Raises:
            DiagnosticError: GC0824 where it cannot be cut, with the op.
        """
        type_ = resized(part, place.axis, lambda n: n * self.ranks)
        places = {"p": place, "g": place, **self.slot_places(optimizer, type_, place)}
        return share(optimizer.update(type_).function, places, self.deal, self.refuse)
