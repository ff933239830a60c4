"""What a training step reads and writes, and how it says that it was stopped.

Non-goals: the step (``runtime.model.step``), files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError
from gradc.ir.diagnostics.source import Sources
from gradc.passes.training.step import GOOD_STEPS, SCALE, STEP
from gradc.runtime.model.call import decode
from gradc.runtime.native.arrays import Array
from gradc.runtime.render.notebook import card


@dataclass
class TrainState:
    """Everything a step reads and writes: parameters, model state, optimiser slots, the number of
    steps done.
    """

    arrays: dict[str, Array]
    trained: tuple[str, ...]
    metrics: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        steps = f"{self.step} step{'' if self.step == 1 else 's'}"
        return (
            f"<training state after {steps}: {len(self.trained)} parameters, {len(self.slots)} "
            f"slots>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [(n, str(a.dtype), str(list(a.shape))) for n, a in self.arrays.items()]
        return card(
            "training state", repr(self)[1:-1], [("arrays", ("name", "type", "shape"), rows)]
        )

    @property
    def params(self) -> dict[str, Array]:
        """Parameters and states of the model by path; the arrays themselves, but for states in
        bf16, which NumPy lacks.
        """
        return {name: decode(self.arrays[name]) for name in self.trained}

    @property
    def slots(self) -> dict[str, Array]:
        """Optimiser state, ``fc1.w/m`` and so on."""
        skip = {*self.trained, STEP, SCALE, GOOD_STEPS}
        return {name: a for name, a in self.arrays.items() if name not in skip}

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.arrays[STEP])


class StoppedStep(DiagnosticError):
    """A step whose ``loss`` or gradients are not finite: the state is that of before it.

    ``origin`` says where in the program the numbers began to be so, if running it again shows it.
    """

    def __init__(
        self, said: Diagnostic, origin: Diagnostic | None, sources: Sources, loss: float
    ) -> None:
        super().__init__([said] if origin is None else [said, origin], sources)
        self.origin = origin
        self.loss = loss
