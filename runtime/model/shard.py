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

from gradc.frontend.model.models import ModelIR
from gradc.frontend.model.training import OptimizerIR
from gradc.ir.diagnostics.diagnostic import DiagnosticError, did_you_mean, error
from gradc.ir.tensor.core import Function, Role, TensorType
from gradc.passes.training.accumulate_batch import Refuse, along_dim, batch_axes
from gradc.passes.training.ranks import Deal
from gradc.passes.training.share import share
from gradc.runtime.model.layout import resized
from gradc.runtime.model.model import Model
from gradc.runtime.native.arrays import listed


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
    """A model at some dimensions: ``axes`` along which its parameters are cut, by name."""

    whole: ModelIR
    axes: Mapping[str, int]
    deal: Deal
    refuse: Refuse

    def share(self, function: Function) -> Function:
        """``function`` of the model's parameters as each rank runs it.

        Raises:
            DiagnosticError: GC0824 where it cannot be cut, with the op.
        """
        whole = self.whole.function.results
        outputs = [slot.name for slot in whole if slot.role is Role.OUTPUT]
        return share(function, self.axes, self.deal, self.refuse, outputs)


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
        return Cut(whole, self.axes(whole.dims), self.deal, self.refuse)

    @property
    def refuse(self) -> Refuse:
        """The refusal to cut along the dimension."""
        return along_dim(self.dim)

    def axes(self, dims: Mapping[str, int] | None = None) -> dict[str, int]:
        """The axes along which parameters and states are cut, by name.

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
        fewer = {**known, self.dim: size // self.ranks}
        whole, part = (
            Model(model.program, model.name, sizes, model.precision).param_types()
            for sizes in (known, fewer)
        )
        axes = batch_axes(whole, part, self.ranks, self.refuse, is_first=True)
        if not axes:
            raise self.refuse("no parameter has it", None)
        return axes

    # --- updates

    def slot_axes(self, optimizer: OptimizerIR, type_: TensorType, axis: int) -> dict[str, int]:
        """The axes of the optimiser's slots for a parameter of ``type_`` that is cut along
        ``axis``; a slot without that index is whole on every rank.
        """
        part = resized(type_, axis, lambda n: n // self.ranks)
        whole, own = ({s.name: s.type for s in optimizer.update(t).slots} for t in (type_, part))
        return batch_axes(whole, own, self.ranks, self.refuse)

    def update(self, optimizer: OptimizerIR, part: TensorType, axis: int) -> Function:
        """The update of a parameter of which a rank has ``part``. What it adds up over the
        parameter is added up over the ranks.

        Raises:
            DiagnosticError: GC0824 where it cannot be cut, with the op.
        """
        type_ = resized(part, axis, lambda n: n * self.ranks)
        axes = {"p": axis, "g": axis, **self.slot_axes(optimizer, type_, axis)}
        return share(optimizer.update(type_).function, axes, self.deal, self.refuse)
